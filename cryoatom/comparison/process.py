"""A training in a process of its own, so that its time and memory are its own and its failure is no one else's."""

from __future__ import annotations

import csv
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from cryoatom.comparison.plan import Job
from cryoatom.files.replacing import replacing
from cryoatom.run_folder import RunFolder
from cryoatom.training.checkpoint import read_checkpoint

_POLL = 0.2  # s
_NOTE = 5.0  # s
_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss
_GB = 1e9


class JobError(Exception):
    """A training has failed; the first line of why."""


def train_apart(job: Job, *, is_resumed: bool) -> dict[str, float | None]:
    """Train a job and return what it cost, as :class:`~cryoatom.comparison.records.Record` names it.

    Parameters
    ----------
    job : Job
        Its settings file is there.
    is_resumed : bool
        Go on from the last checkpoint in its folder.

    Raises
    ------
    JobError
        If the training fails, or is stopped by someone else.

    Notes
    -----
    Ctrl-C and what a terminal or batch system sends reach this process, which tells the training to stop, once. Only if
    this process is killed (SIGKILL) does the training go on without it; its lock then says so.
    """
    words = [sys.executable, "-m", "cryoatom", "train", "--config", str(job.settings_file)]
    earlier = _seconds_so_far(job.clock_file) if is_resumed else 0.0
    if earlier is None:
        job.clock_file.unlink(missing_ok=True)
    started = time.monotonic()
    with job.console_file.open("w", encoding="utf-8") as console:
        process = subprocess.Popen(
            [*words, *(["--load", "latest"] if is_resumed else [])],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            peak = _watch(process, job.clock_file, None if earlier is None else started - earlier)
        except BaseException:  # Ctrl-C, or the batch system ends this process: the training ends in order, too
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        raise JobError(_reason(process.returncode, job.console_file))
    return {
        "training_seconds": _training_seconds(job.folder),
        "wall_seconds": None if earlier is None else earlier + time.monotonic() - started,
        "peak_memory_gb": peak / _GB,
        "weights": count_weights(job.folder),
    }


def _seconds_so_far(clock_file: Path) -> float | None:
    """Return what earlier tries of a training took; None where nothing tells."""
    try:
        return float(clock_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _watch(process: subprocess.Popen, clock_file: Path, begin: float | None) -> float:
    """Wait for a process and return the most memory it had, bytes; note the time since `begin` every few seconds.

    What the kernel reports at its end (ru_maxrss) is at least what this process had when it started the other one;
    hence the process's own high-water mark is read while it runs, where the system has /proc.
    """
    peak, noted = 0, -math.inf
    while process.poll() is None:
        peak = max(peak, _high_water_mark(process.pid))
        if begin is not None and time.monotonic() > noted + _NOTE:  # survives even a kill of this process
            noted = time.monotonic()
            with replacing(clock_file) as temporary:
                temporary.write_text(f"{noted - begin:.1f}\n", encoding="utf-8")
        time.sleep(_POLL)
    return peak or _UNIT * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _high_water_mark(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # no /proc, or the process has just ended
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _reason(code: int, console: Path) -> str:
    """Return the first line of the error that a training ended with."""
    if code == os.EX_TEMPFAIL:  # as a training says that a batch system has stopped it
        return "the training was stopped; the same command again goes on with it"
    lines = [line.strip() for line in console.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    if errors:
        return errors[0]
    if code < 0:
        name = signal.Signals(-code).name
        return f"the training was killed by {name}" + (": out of memory?" if name == "SIGKILL" else "")
    return f"the training ended with code {code}: see {console}"


def _training_seconds(folder: RunFolder) -> float:
    with folder.metrics.open(newline="", encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def count_weights(folder: RunFolder) -> int:
    """Return how many numbers decoder, bead model and encoder learn; latents are not among them.

    The optimisers of the last epoch's checkpoint know: fixed buffers are no part of them, and the final checkpoint has
    no encoder any more.
    """
    path = folder.latest_checkpoint() or folder.weights()
    state = read_checkpoint(path)
    optimizers = [state["optimizer"], state["latents"].get("network_optimizer", {"state": {}})]
    return sum(moments["exp_avg"].numel() for each in optimizers for moments in each["state"].values())
