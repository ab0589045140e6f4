"""How many cores this process may use: the user, SLURM, the affinity mask and control groups all have a say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath


def available_cores(
    threads: int | None = None, *, environment: Mapping[str, str] | None = None, root: Path = Path("/")
) -> int:
    """Return the number of threads to compute with, at least 1.

    Parameters
    ----------
    threads : int or None
        The user's wish; it overrides everything else.
    environment : mapping, optional
        In place of ``os.environ``: ``SLURM_CPUS_PER_TASK`` is read.
    root : Path
        Where ``proc`` and ``sys`` are, for the control groups' CPU quota (versions 1 and 2).

    Returns
    -------
    int
        `threads`, or else the smallest of the affinity mask, SLURM's grant and the quota rounded down, divided among
        the processes of a run on this machine (torchrun's ``LOCAL_WORLD_SIZE``).

    Raises
    ------
    ValueError
        If `threads` is less than 1.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"the number of threads must be at least 1, found {threads}")
        return threads
    environment = os.environ if environment is None else environment
    limits = [float(_affinity()), *_slurm_limit(environment), *_quotas(root)]
    processes = environment.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(min(limits)) // max(1, int(processes) if processes.isdigit() else 1))


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _slurm_limit(environment: Mapping[str, str]) -> Iterator[float]:
    is_one_of_many = environment.get("SLURM_STEP_NUM_TASKS", "1") != "1"  # which have a core each unless told otherwise
    granted = environment.get("SLURM_CPUS_PER_TASK", "1" if is_one_of_many else "")
    if granted.isdigit():
        yield float(granted)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota, in cores, of every control group that this process is in, outer ones included."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers == "":
            for folder in _with_parents(root / "sys/fs/cgroup", path):
                yield from _quota_v2(folder)
        elif "cpu" in controllers.split(","):
            for mount in {controllers, "cpu"}:
                for folder in _with_parents(root / "sys/fs/cgroup" / mount, path):
                    yield from _quota_v1(folder)


def _with_parents(mount: Path, path: str) -> list[Path]:
    inside = PurePosixPath(path.lstrip("/"))
    return [mount / inside, *(mount / parent for parent in inside.parents)]


def _quota_v2(folder: Path) -> Iterator[float]:
    words = _words(folder / "cpu.max")  # "max 100000" or "150000 100000", microseconds
    if len(words) == 2 and words[0] != "max":
        yield float(words[0]) / float(words[1])


def _quota_v1(folder: Path) -> Iterator[float]:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    if quota and period and float(quota[0]) > 0:  # -1: no limit
        yield float(quota[0]) / float(period[0])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
