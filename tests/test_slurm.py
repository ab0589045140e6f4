"""The batch scripts of docs/slurm, in a real SLURM on this machine: submitted, stopped, queued again, finished."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slurm
from fits import results, settings

from cryoatom.files.structure import write_atoms
from cryoatom.files.trajectory import DcdWriter
from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import read_template
from cryoatom.training.train import train

SCRIPTS = Path(__file__).parents[1] / "docs" / "slurm"
EPOCHS = 25

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(slurm.why_not()), reason=slurm.why_not() or "there is one")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as found:
        found.environment["PATH"] = f"{Path(sys.executable).parent}:{found.environment['PATH']}"
        found.environment["OMP_NUM_THREADS"] = "1"
        yield found


@pytest.fixture
def submit(cluster, folder, tmp_path):
    """Submit a script with the data set, a run in the test's folder, and the settings of the tests' fits."""

    def submit(script: str, *resources: str, output: str = "out.txt", options: tuple[str, ...] = ()) -> int:
        options += ("--num-epochs", str(EPOCHS), "-b", "16", "--chunk", "5", "--warmup", "1", "--no-analysis")
        options += ("--held-out", "0.1", "--z-passes", "1", "--patience", "0", "--cache", str(tmp_path / "cache"))
        data = (folder / "particles.star", folder / "template.cif", tmp_path / "run")
        return cluster.submit(*resources, "--output", tmp_path / output, SCRIPTS / script, *data, *options)

    return submit


@pytest.fixture(scope="module")
def whole(folder):
    return train(settings(folder, num_epochs=EPOCHS, patience=0))


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"no {path}: {[each.name for each in path.parent.parent.rglob('*.txt')]}")


@pytest.mark.parametrize("resources", [("--cpus-per-task=2",), ("--ntasks=2",)])
def test_a_run_that_is_signalled_is_queued_again_and_ends_as_if_it_had_not_been(
    cluster, submit, whole, tmp_path, resources
):
    job, run = submit("train.sh", *resources), RunFolder(tmp_path / "run")
    wait_for(run.weights(3))
    cluster.run("scancel", "--signal=USR1", job)
    assert cluster.wait(job) == "COMPLETED", (tmp_path / "out.txt").read_text()
    said = (tmp_path / "out.txt").read_text()
    assert cluster.field(job, "Restarts") == "1" and "stopped by SIGUSR1; go on with --load latest" in said
    assert "going on from" in run.log.read_text()
    assert results(run) == results(whole)


def test_a_run_that_is_preempted_makes_room_and_goes_on(cluster, submit, whole, tmp_path):
    job, run = submit("train.sh", "--ntasks=2"), RunFolder(tmp_path / "run")
    wait_for(run.weights(3))
    urgent = cluster.submit("--partition=high", "--exclusive", f"--output={tmp_path / 'urgent.txt'}", "--wrap", "true")
    assert cluster.wait(urgent) == "COMPLETED"
    assert cluster.wait(job) == "COMPLETED", (tmp_path / "out.txt").read_text()
    assert cluster.field(job, "Restarts") != "0" and "stopped by SIGTERM" in (tmp_path / "out.txt").read_text()
    assert results(run) == results(whole)


def test_seeds_are_an_array(cluster, submit, folder, tmp_path):
    job = submit("seeds.sh", "--array=0-1", output="out-%a.txt", options=("--seed", "7"))  # the later --seed holds
    for task in (0, 1):
        assert cluster.wait(f"{job}_{task}") == "COMPLETED", (tmp_path / f"out-{task}.txt").read_text()
    assert all(RunFolder(tmp_path / f"run-{task}").conformations.exists() for task in (0, 1))


def test_analysis_and_comparison_wait_for_the_training(cluster, folder, tmp_path, monkeypatch):
    truth, template = np.load(folder / "truth.npy"), read_template(folder / "template.cif")[0]
    alphas = template.atoms[template.atoms.names == "CA"]
    write_atoms(tmp_path / "truth.cif", alphas)
    with DcdWriter(tmp_path / "truth.dcd", len(alphas)) as trajectory:
        trajectory.write(truth)
    np.savetxt(tmp_path / "labels.txt", np.arange(len(truth)), fmt="%d")
    monkeypatch.setitem(cluster.environment, "RESOURCES", f"--cpus-per-task=1 --output={tmp_path}/train.txt")
    monkeypatch.chdir(tmp_path)
    said = cluster.run(
        *(SCRIPTS / "pipeline.sh", folder / "particles.star", folder / "template.cif", tmp_path / "run"),
        *("--gt", tmp_path / "truth.dcd", "--gt-top", tmp_path / "truth.cif", "--labels", tmp_path / "labels.txt"),
    )
    analysis, comparison = (int(line) for line in said.splitlines())
    for job in (analysis, comparison):
        assert cluster.wait(job) == "COMPLETED", "".join(each.read_text() for each in tmp_path.glob("*.[ot]*t"))
    run = RunFolder(tmp_path / "run")
    assert run.analysis().report.exists() and (run.evaluation / "summary.json").exists()
    assert os.stat(run.evaluation).st_mtime > os.stat(run.conformations).st_mtime
