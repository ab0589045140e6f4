"""What goes wrong around a run: killed, stopped, a full disk, damaged checkpoints, a network that fails, NaN."""

import errno
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from children import default_signals
from fits import results, settings, trainer_of

from cryoatom.cli import main
from cryoatom.files import lock as lock_module
from cryoatom.files import patience
from cryoatom.files.lock import locked
from cryoatom.files.mrc import StackWriter, open_stack
from cryoatom.files.replacing import replacing
from cryoatom.files.star import read_star_particles, write_star_particles
from cryoatom.files.trajectory import DcdWriter
from cryoatom.run_folder import RunFolder
from cryoatom.training.checkpoint import find_checkpoint, save_checkpoint
from cryoatom.training.finite import NotFiniteError
from cryoatom.training.images import prepare_images
from cryoatom.training.train import train

PDB = "pdb/000002.pdb"
COUNT = 41


@pytest.fixture(scope="module")
def run(folder):
    return train(settings(folder, pdb=2))


# --- one run in a folder --------------------------------------------------------------------------------------------


def test_a_second_run_is_told_who_writes(folder, run, tmp_path):
    here = RunFolder(tmp_path / "run")
    with here.writing(), pytest.raises(ValueError) as caught:
        train(settings(folder, here.path))
    text = str(caught.value)
    assert f"run is being written by process {os.getpid()} on host {os.uname().nodename}: wait for it" in text
    assert "--outdir" in text and "no locks" not in text
    assert list(here.path.iterdir()) == []  # the refused run left nothing, the other one no lock


def test_a_lock_ends_with_its_process(tmp_path):
    code = "import sys, time\nfrom pathlib import Path\nfrom cryoatom.files.lock import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match=f"written by process {holder.pid} on host"), locked(tmp_path / ".lock"):
        pass
    holder.kill()
    holder.communicate()
    assert (tmp_path / ".lock").exists()  # stale, and no obstacle
    with locked(tmp_path / ".lock"):
        assert (tmp_path / ".lock").read_text().splitlines()[0] == str(os.getpid())
    assert not (tmp_path / ".lock").exists()


def test_a_file_system_without_flock_has_a_soft_lock(tmp_path, monkeypatch):
    def absent(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", absent)
    with locked(tmp_path / ".lock"):
        with pytest.raises(ValueError, match=rf"process {os.getpid()} on .*no locks: if that process is gone, delete"):
            with locked(tmp_path / ".lock"):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_service_that_is_down_is_a_warning(tmp_path, monkeypatch, caplog):
    def down(self: object, **_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_module.FileLock, "acquire", down)
    with locked(tmp_path / ".lock"):
        pass
    assert "cannot be locked (No locks available): see that no other run" in caplog.text


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.pdb.mkdir(parents=True)
    for name in (".weights.3.pt.123.tmp", ".z.npy.9.tmp", "pdb/.000001.pdb.77.tmp"):
        (run.path / name).touch()
    kept = {"a.tmp", ".notes.tmp", "weights.3.pt", ".lock.old"}
    for name in kept:
        (run.path / name).touch()
    with run.writing():
        assert {p.name for p in run.path.iterdir()} == kept | {"pdb", ".lock"} and not list(run.pdb.iterdir())


# --- killed ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As far from an Exception as a kill that Python sees can be."""


@contextmanager
def kill_at(monkeypatch, name: str, time: int):
    """Die when a file of that name is renamed for the n-th time, cleaning up nothing."""
    seen, rename = [], os.replace

    def dies(source, target):
        if Path(target).name == name:
            seen.append(target)
            if len(seen) == time:
                monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
                raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(Killed):
        yield
    monkeypatch.undo()


MORE_POINTS = [
    *(("template.cif", 1), ("metrics.csv", 2), ("z.2.npy", 1), ("weights.pt", 1)),
    *(("conformations.dcd", 1), ("000002.pdb", 1)),
]


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("weights.2.pt", 1),  # the row of metrics is there, the checkpoint is not
        ("conformations.npy", 1),
        *(pytest.param(*point, marks=pytest.mark.slow) for point in MORE_POINTS),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(folder, run, tmp_path, monkeypatch, name, time):
    with kill_at(monkeypatch, name, time):
        train(settings(folder, tmp_path / "run", pdb=2))
    assert list((tmp_path / "run").rglob("*.tmp"))
    again = train(settings(folder, tmp_path / "run", pdb=2, load="latest"))
    assert results(again, PDB) == results(run, PDB)
    assert not list(again.path.rglob(".*"))


RUN = """
import sys
from pathlib import Path
from fits import settings
from cryoatom.training.train import train
folder, outdir = map(Path, sys.argv[1:])
print("ready", flush=True)
train(settings(folder, outdir, cache=outdir / "cache", pdb=2, load="latest"))
"""


@pytest.mark.slow
def test_kill_9_at_any_moment(folder, run, tmp_path):
    command = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    generator, ends = random.Random(0), []
    for _ in range(20):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(generator.uniform(0.0, 0.8))
        process.kill()
        process.communicate()
        ends.append(process.returncode)
    assert -signal.SIGKILL in ends
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    again = RunFolder(tmp_path / "run")
    assert results(again, PDB) == results(run, PDB)
    assert not list(again.path.glob(".*"))


# --- stopped by a signal --------------------------------------------------------------------------------------------

WAIT = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import click
from cryoatom.cli import main
from cryoatom.cli.log import add_run_log
from cryoatom.files.lock import locked
from cryoatom.files.replacing import replacing

@click.command()
@click.argument("folder", type=Path)
def train(folder):
    add_run_log(folder / "run.log")
    with locked(folder / ".lock"), replacing(folder / "a.npy") as temporary, ThreadPoolExecutor(2) as pool:
        temporary.touch()
        pool.submit(time.sleep, 0.3)
        try:
            print("ready", flush=True)
            pool.submit(time.sleep, 0.1).result()
            time.sleep(60)
        finally:
            print("ending", flush=True)
            time.sleep(float(sys.argv[-1]))

@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=Path)
@click.argument("pause")
def command(folder, pause):
    train.callback(folder)

main.train = command
main.COMMANDS["train"] = "cryoatom.cli.main:train"
main.main()
"""


def waiting(folder: Path, pause: float = 0.0, *before: str) -> subprocess.Popen[bytes]:
    command = [*before, sys.executable, "-c", WAIT, "train", str(folder), str(pause)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, preexec_fn=default_signals, **pipes)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 75, "stopped by SIGTERM; go on with --load latest"),
        (signal.SIGUSR1, 75, "stopped by SIGUSR1; go on with --load latest"),
        (signal.SIGHUP, 129, "stopped by SIGHUP; go on with --load latest"),
        (signal.SIGINT, 130, "interrupted; go on with --load latest"),
    ],
)
def test_a_signal_ends_a_run_in_order(tmp_path, number, code, line):
    process = waiting(tmp_path)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == code
    assert stderr.decode() == f"Error: {line}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]
    assert (tmp_path / "run.log").read_text().splitlines()[-1].endswith(f"ERROR cryoatom: {line}")


def test_a_second_signal_kills_at_once(tmp_path):
    process = waiting(tmp_path, 60)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None and process.stdout.readline() == b"ending\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_an_ignored_signal_stays_ignored(tmp_path):
    process = waiting(tmp_path, 0, "nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 75


# --- a full disk ----------------------------------------------------------------------------------------------------


@contextmanager
def no_room(size: int):
    """Let no file grow beyond some bytes: as a full disk, but for the number of the error."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["z.1.npy", "metrics.csv", "config.yaml", "c.dcd", "p.star", "p.mrcs", "weights.1.pt"])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(folder, tmp_path, name):
    here = RunFolder(tmp_path)

    def write() -> None:
        big = np.zeros((40, 30, 30), np.float32)
        if name == "z.1.npy":
            here.save_array(here.latents(1), big)
        elif name == "metrics.csv":
            here.save_metrics([{"epoch": float(k)} for k in range(5000)])
        elif name == "config.yaml":
            here.save_text(here.config, "x" * 10_000)
        elif name == "c.dcd":
            with DcdWriter(tmp_path / name, 900) as writer:
                writer.write(big[:30].reshape(10, 900, 3))
        elif name == "p.star":
            write_star_particles(tmp_path / name, read_star_particles(folder / "particles.star"))
        elif name == "p.mrcs":
            with StackWriter(tmp_path / name, 30, 1.0) as stack:
                stack.write(big)
        else:
            save_checkpoint(here.weights(1), trainer, [], {})

    (tmp_path / name).write_text("old")
    with trainer_of(settings(folder)) as trainer, no_room(3000), pytest.raises(OSError) as caught:
        write()
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize(
    "name",
    [
        *("metrics.csv", "conformations.npy"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("z.2.npy", "weights.pt", "conformations.dcd")),
    ],
)
def test_a_run_goes_on_when_there_is_room_again(folder, run, tmp_path, monkeypatch, name):
    flush, count = os.fsync, []

    def full(descriptor: int) -> None:  # as a network file system tells of a full quota
        if f".{name}." in os.readlink(f"/proc/self/fd/{descriptor}"):
            count.append(name)
            if name != "metrics.csv" or len(count) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        train(settings(folder, tmp_path / "run", pdb=2))
    assert caught.value.filename == str(tmp_path / "run" / name)
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*"))
    assert results(train(settings(folder, tmp_path / "run", pdb=2, load="latest")), PDB) == results(run, PDB)


def test_the_command_line_says_how_to_go_on(capsys, monkeypatch):
    import click
    from click.testing import CliRunner

    @click.command()
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "run/z.npy")

    monkeypatch.setattr(main, "full", full, raising=False)
    monkeypatch.setitem(main.COMMANDS, "train", "cryoatom.cli.main:full")
    result = CliRunner().invoke(main.cli, ["train"])
    line = "Error: No space left on device: run/z.npy; make room and go on with --load latest\n"
    assert (result.exit_code, result.stderr) == (1, line)


# --- damaged checkpoints --------------------------------------------------------------------------------------------


def damage(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    return {
        "empty": b"",
        "zeros": bytes(len(content)),
        "zeros at the end": content[:middle] + bytes(len(content) - middle),
        "a page of zeros": content[: middle - 512] + bytes(1024) + content[middle + 512 :],
        "truncated": content[:middle],
        "garbage": np.random.default_rng(0).bytes(len(content)),
        "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }[how]


@pytest.mark.parametrize(
    "how", ["empty", "zeros", "zeros at the end", "a page of zeros", "truncated", "garbage", "one bit"]
)
def test_a_damaged_latest_checkpoint_is_passed_over_and_a_named_one_is_an_error(run, tmp_path, caplog, how):
    here, identity = RunFolder(tmp_path), torch.load(run.weights(1))["identity"]
    here.weights(1).write_bytes(run.weights(1).read_bytes())
    for epoch in (2, 10):
        here.weights(epoch).write_bytes(damage(run.weights(2).read_bytes(), how))
    with caplog.at_level(logging.WARNING):
        assert find_checkpoint("latest", here, identity) == here.weights(1)
    assert all(f"weights.{epoch}.pt" in caplog.text for epoch in (1, 2, 10))
    assert "is not a cryoatom checkpoint, or damaged: " in caplog.text and "going on from" in caplog.text
    with pytest.raises(ValueError, match=r"weights\.10\.pt is not a cryoatom checkpoint, or damaged: ") as caught:
        find_checkpoint(here.weights(10), here, identity)
    assert "\n" not in str(caught.value)
    here.weights(1).unlink()
    with pytest.raises(ValueError, match=r"weights\.10\.pt is not a cryoatom"):  # never silently from the start
        find_checkpoint("latest", here, identity)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(folder, run, tmp_path):
    (tmp_path / "run").mkdir()
    here = RunFolder(tmp_path / "run")
    here.weights(1).write_bytes(run.weights(1).read_bytes())
    here.weights(2).write_bytes(bytes(5000))
    assert results(train(settings(folder, here.path, pdb=2, load="latest")), PDB) == results(run, PDB)


# --- numbers that are none ------------------------------------------------------------------------------------------


def test_a_run_names_the_image_as_the_particle_file_does(folder, tmp_path, monkeypatch):
    with trainer_of(settings(folder)) as trainer:
        crops = np.array(trainer.data.crops)
    crops[29, 3, 3] = np.nan
    poisoned = lambda *given: replace(prepare_images(*given), crops=crops)  # noqa: E731
    monkeypatch.setattr("cryoatom.training.train.prepare_images", poisoned)
    monkeypatch.setattr("cryoatom.training.fit.start_scale", lambda *_: None)
    with pytest.raises(NotFiniteError) as caught:
        train(settings(folder, tmp_path, held_out=0.0))
    text = "the objective of image 000030@particles.mrcs (row 29, from 0) is not finite in epoch 1 (term nll"
    assert str(caught.value).startswith(text)
    assert "--load latest" in str(caught.value) and "lower --lr" in str(caught.value) and "--ind" in str(caught.value)


def test_weights_and_their_gradients_are_named(folder):
    with trainer_of(settings(folder)) as trainer:
        names = [name for name, _ in trainer.model.named_parameters()]
        before = [p.detach().clone() for p in trainer.parameters]
        compute = trainer._gradients

        def poisoned(rows, parameters, kind, place):
            terms, gradients = compute(rows, parameters)
            gradients[kind].view(-1)[place] = np.inf
            return terms, gradients

        for kind, place, what, rate in (
            (2, 0, f"the weights {names[0]}", "lr"),
            (2, -1, f"the weights {names[-1]}", "bead-lr"),
            (0, -1, r"the latent of the image of row \d+ \(from 0\)", "lr"),
        ):
            text = f"the gradient of {what} is not finite in epoch 3: .*lower --{rate}"
            trainer._gradients = lambda rows, parameters, at=(kind, place): poisoned(rows, parameters, *at)
            with pytest.raises(NotFiniteError, match=text):
                trainer.train_epoch(2, np.arange(COUNT))
        assert all(torch.equal(p, old) for p, old in zip(trainer.parameters, before, strict=True))
        trainer._gradients = compute
        with torch.no_grad():
            trainer.model.beads.log_scale.fill_(np.nan)
        with pytest.raises(
            NotFiniteError, match=r"the weights beads\.log_scale are not finite in epoch 1: .*--bead-lr"
        ):
            trainer.train_epoch(0, np.arange(COUNT))


# --- reading over a network -----------------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path):
    images = np.random.default_rng(0).normal(size=(12, 8, 8)).astype(np.float32)
    with StackWriter(tmp_path / "a.mrcs", 8, 1.0) as writer:
        writer.write(images)
    return open_stack(tmp_path / "a.mrcs"), images


@pytest.fixture
def pauses(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(patience, "_pause", waited.append)
    return waited


def failing(monkeypatch, function: str, times: int, number: int):
    """Let a function of `os` fail for the first times."""
    original, calls = getattr(os, function), []

    def fails(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) <= times:
            raise OSError(number, os.strerror(number))
        return original(*arguments, **keywords)

    monkeypatch.setattr(os, function, fails)
    return calls


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN])
@pytest.mark.parametrize(("function", "times"), [("preadv", 1), ("preadv", 3), ("open", 2)])
def test_a_read_error_that_passes_is_waited_for(stack, pauses, monkeypatch, caplog, function, times, number):
    stack, images = stack
    failing(monkeypatch, function, times, number)
    np.testing.assert_array_equal(stack.read(np.array([4, 5, 2])), images[[4, 5, 2]])
    assert pauses == list(patience.PAUSES[:times])
    assert f"a.mrcs: {os.strerror(number)}; reading image 3 again in 1 s" in caplog.text


def test_a_read_error_that_stays_is_one_clear_stop(stack, pauses, monkeypatch):
    failing(monkeypatch, "preadv", 100, errno.EIO)
    with pytest.raises(OSError, match="Input/output error, 4 times; images 6 to 7 cannot be read") as caught:
        stack[0].read(np.array([6, 5]))
    assert caught.value.filename == str(stack[0].path) and caught.value.errno == errno.EIO
    assert pauses == list(patience.PAUSES)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT])
def test_other_errors_are_not_waited_for(stack, pauses, monkeypatch, number):
    failing(monkeypatch, "open", 100, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        stack[0].read(np.array([6]))
    assert pauses == []


def test_a_short_read_is_read_on_or_again_and_never_taken_for_zeros(stack, pauses, monkeypatch):
    stack, images = stack
    read, calls = os.preadv, []

    def short(descriptor, buffers, offset):
        calls.append(offset)
        return 0 if len(calls) == 3 else read(descriptor, [buffers[0][:100]], offset)

    monkeypatch.setattr(os, "preadv", short)
    np.testing.assert_array_equal(stack.read(np.arange(12)), images)
    assert pauses == [1.0]


def test_headers_are_waited_for_too(stack, pauses, monkeypatch):
    failing(monkeypatch, "stat", 1, errno.ESTALE)
    failing(monkeypatch, "preadv", 1, errno.EIO)
    assert len(open_stack(stack[0].path)) == 12
    assert pauses == [1.0, 1.0]


@pytest.mark.parametrize("change", ["shrunk", "grown", "rewritten"])
def test_a_file_that_changed_is_an_error(stack, pauses, change):
    path = stack[0].path
    content = path.read_bytes()
    path.write_bytes({"shrunk": content[:-4], "grown": content + b"x", "rewritten": content}[change])
    os.utime(path, ns=(0, 0))
    with pytest.raises(ValueError, match=r"a\.mrcs has changed since it was first read"):
        stack[0].read(np.array([0]))
    assert pauses == []


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, kind):
    os.mkfifo(tmp_path / "a.mrcs") if kind == "pipe" else (tmp_path / "a.mrcs").mkdir()
    with pytest.raises(FileNotFoundError, match=f"a.mrcs is no regular file, but a {kind}"):
        open_stack(tmp_path / "a.mrcs")


def test_a_temporary_that_cannot_be_flushed_is_no_obstacle(tmp_path, monkeypatch):
    failing(monkeypatch, "fsync", 1, errno.EINVAL)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("there")
    assert (tmp_path / "a").read_text() == "there"
