"""A job belongs to one process at a time: others see that it runs, and leave it alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryoatom.comparison.plan import Job
from cryoatom.files.lock import locked


class ClaimedError(Exception):
    """Another process runs the job; says which."""


@contextmanager
def claiming(job: Job) -> Iterator[None]:
    """Keep other comparisons from a job, whose folder is there.

    Raises
    ------
    ClaimedError
        If one has it, or a training that outlived its comparison.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(job.lock_file))
            with locked(job.folder.lock):
                pass
        except ValueError as error:
            raise ClaimedError(str(error)) from None
        yield


def is_running(job: Job) -> bool:
    """Return whether some process works on a job."""
    return any(_is_held(path) for path in (job.lock_file, job.folder.lock))


def _is_held(path: Path) -> bool:
    if not path.exists():  # to try a lock means to hold it for a moment, and to make its file
        return False
    try:
        with locked(path):
            return False
    except ValueError:
        return True


def clear(job: Job) -> None:
    """Remove the run of a job that is claimed, in an order that a kill cannot spoil.

    While anything is left of the run, so are its settings, and figures go first: nothing passes for the run of others.

    Raises
    ------
    ValueError
        If a training writes there.
    """
    with locked(job.folder.lock):
        job.record_file.unlink(missing_ok=True)
        kept = (job.lock_file, job.folder.lock, job.settings_file)
        for path in job.folder.path.iterdir():
            if path not in kept:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        job.settings_file.unlink(missing_ok=True)
