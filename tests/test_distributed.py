"""Processes that make a run together: the same numbers as one, one of them writes, and they end together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fits import results, settings

from cryoatom.distributed import Launch, Ranks, find_launch, joined
from cryoatom.files.growing import growing
from cryoatom.files.npy import npy_writer
from cryoatom.files.replacing import are_files_written, replacing, writing_files
from cryoatom.files.sealed import SEAL, preparing, sealing
from cryoatom.run_folder import RunFolder
from cryoatom.threads import available_cores
from cryoatom.train_config import TrainConfig
from cryoatom.training.train import train

PDB = "pdb/000002.pdb"
HERE = Path(__file__).parent


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def started(size: int, code: str, *words: object) -> list[subprocess.Popen[bytes]]:
    """Start a program in each of some ranks, as torchrun does."""
    common = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": free_port(), "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    return [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]


def ended(processes: list[subprocess.Popen[bytes]]) -> list[str]:
    """Return what each has printed; all must have ended well."""
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), [error.decode() for _, error in said]
    return [output.decode() for output, _ in said]


EXCHANGE = """
import os
import numpy as np
import torch
from cryoatom.distributed import joined
from cryoatom.interruption import ask_to_stop, deferring
from cryoatom.workers import Workers

def work(item):
    done.append(item)
    return {"twice": torch.full((2,), item).half(), "parts": (np.arange(item), [str(item)]), "none": None}

with joined() as ranks, Workers(1 + ranks.rank, ranks) as workers:  # machines may have other cores
    done = []
    values = workers.map(work, range(50))
    assert [v["twice"][0].item() for v in values] == list(range(50)) and values[3]["twice"].dtype == torch.float16
    assert [len(v["parts"][0]) for v in values] == list(range(50)) and values[7]["parts"][1] == ["7"]
    assert sorted(done) == list(range(ranks.rank, 50, ranks.size))
    assert workers.map(work, []) == [] and list(workers.stream(lambda x: -x, range(1))) == [0]
    assert ranks.of_first(lambda: ranks.rank) == 0
    assert ranks.after_first(lambda: ranks.rank) == ranks.rank
    assert ranks.gathered(ranks.rank) == list(range(ranks.size)) and not ranks.is_stop_asked
    try:
        with deferring():
            if ranks.rank == ranks.size - 1:
                ask_to_stop(15)
            assert not ranks.is_stop_asked  # nobody has heard of it yet
            ranks.wait()
            assert ranks.is_stop_asked
    except KeyboardInterrupt:
        assert ranks.rank == ranks.size - 1
    print(ranks.is_first, ranks.size, flush=True)
os._exit(0)  # as `cryoatom` ends then
"""


def test_values_are_gathered_in_the_order_of_the_items():
    assert ended(started(3, EXCHANGE)) == ["True 3\n", "False 3\n", "False 3\n"]


LOST = """
import os
from cryoatom.distributed import joined
from cryoatom.interruption import PeerLostError
try:
    with joined() as ranks:
        ranks.wait()
        if ranks.rank == 1:
            os._exit(0)
        ranks.wait()
except PeerLostError as error:
    print(error, flush=True)
    os._exit(0)
"""


def test_a_rank_hears_that_another_has_ended():
    first, second = started(2, LOST)
    assert ended([first, second])[0] == "another process of this run has ended\n"


def train_together(size: int, config: TrainConfig, *words: str) -> list[subprocess.Popen[bytes]]:
    """Start `cryoatom train` in each of some ranks."""
    config.outdir.parent.mkdir(exist_ok=True)
    file = config.outdir.with_suffix(".yaml")
    file.write_text(config.to_yaml([]), encoding="utf-8")
    return started(size, "from cryoatom.cli.main import main; main()", "train", "--config", file, *words)


ESL = {"poses": "esl", "rotations": 1500, "classes": 3, "search_epochs": 2, "num_epochs": 4}


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (2, {}),
        pytest.param(3, ESL, marks=pytest.mark.slow),
        pytest.param(2, {"encoder": "cnn", "variational": True, "decoder": "rigid"}, marks=pytest.mark.slow),
    ],
)
def test_some_ranks_make_the_same_run_as_one(folder, tmp_path, size, changes):
    alone = train(settings(folder, tmp_path / "alone", pdb=2, **changes))
    own = {"cache": tmp_path / "cache", "pdb": 2, "analysis": False} | changes
    ended(train_together(size, settings(folder, tmp_path / "together", **own)))
    together = RunFolder(tmp_path / "together")
    assert results(together, PDB) == results(alone, PDB)
    assert [path.name for path in together.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_ranks_go_on_where_one_process_stopped(folder, tmp_path):
    whole = train(settings(folder, tmp_path / "whole", pdb=2))
    begun = RunFolder(tmp_path / "begun")
    begun.path.mkdir()
    begun.weights(1).write_bytes(whole.weights(1).read_bytes())
    ended(train_together(2, settings(folder, begun.path, pdb=2, analysis=False), "--load", "latest"))
    assert results(begun, PDB) == results(whole, PDB)


def test_bad_input_is_said_once(folder, tmp_path):
    processes = train_together(2, settings(folder, tmp_path / "run", template=Path("/absent.cif")))
    said = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert said[0].count("/absent.cif") == 1
    assert not any(line.startswith("Error: ") for line in said[1].splitlines())  # torch's own warnings may be there
    assert [process.returncode for process in processes] == [1, 1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_expected_loss_is_refused(folder, tmp_path):
    processes = train_together(2, settings(folder, tmp_path / "run", poses="esl", pose_loss="expected"))
    said = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert all("--pose-loss expected" in each and "without torchrun" in each for each in said)


# --- who writes -----------------------------------------------------------------------------------------------------


def test_files_of_processes_that_do_not_write_are_dropped(tmp_path):
    with writing_files(False):
        assert not are_files_written()
        with replacing(tmp_path / "absent" / "a.txt") as temporary:
            temporary.write_text("a")
        with npy_writer(tmp_path / "a.npy", (3, 2)) as write:
            write([])
        with preparing(tmp_path / "set") as begun, sealing(begun, tmp_path / "set", {}):
            (begun / "a").write_text("a")
        with growing(tmp_path, {"g.npy": ((3, 2), np.float32)}, 0) as arrays:
            arrays.write((np.zeros((3, 2)),))
            arrays.note()
        with RunFolder(tmp_path / "run").writing():
            pass
        RunFolder(tmp_path).stopped.write_text("kept")
        RunFolder(tmp_path).forget_stop()
    assert [path.name for path in tmp_path.iterdir()] == ["weights.stopped.pt"] and are_files_written()
    with writing_files(True), replacing(tmp_path / "b.txt") as temporary:
        temporary.write_text("b")
    with preparing(tmp_path / "set") as begun, sealing(begun, tmp_path / "set", {}):
        pass
    assert (tmp_path / "b.txt").read_text() == "b" and (tmp_path / "set" / SEAL).exists()


# --- what torchrun says ---------------------------------------------------------------------------------------------


def test_a_process_hears_from_torchrun_or_srun_what_it_is():
    assert find_launch({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == Launch()  # the script of a job, without srun
    assert find_launch({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) == Launch()
    torchrun = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert find_launch(torchrun) == Launch(2, 4, 1)
    srun = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "100007"}
    srun |= {"SLURM_STEP_NODELIST": "gpu[007-009,12],big", "SLURM_STEP_ID": "2"}
    assert find_launch(srun) == Launch(3, 4, 1, "gpu007", 20_000 + (700_049 + 2) % 12_000)
    for nodes, first in (("a1", "a1"), ("a1,a2", "a1"), ("n[3]", "n3"), ("n[3,7-8]", "n3")):
        assert find_launch(srun | {"SLURM_STEP_NODELIST": nodes}).host == first
    assert find_launch(srun | torchrun).rank == 2  # torchrun in a task of SLURM


def test_a_process_alone_is_a_group_of_its_own():
    with joined(Launch()) as ranks:
        assert (ranks.rank, ranks.size, ranks.is_first) == (0, 1, True)
    lone = Ranks()
    assert lone.gathered("a") == ["a"] and lone.of_first(lambda: 1) == 1 and lone.after_first(lambda: 2) == 2


def test_ranks_of_a_machine_share_its_cores():
    whole = available_cores(environment={})
    assert available_cores(environment={"LOCAL_WORLD_SIZE": "2"}) == max(1, whole // 2)
    assert available_cores(environment={"LOCAL_WORLD_SIZE": "1000"}) == 1
    assert available_cores(3, environment={"LOCAL_WORLD_SIZE": "2"}) == 3
    assert available_cores(environment={"SLURM_STEP_NUM_TASKS": "2"}) == 1
    assert available_cores(environment={"SLURM_STEP_NUM_TASKS": "1"}) == whole
