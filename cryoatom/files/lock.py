"""One writer to a folder at a time: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

_logger = logging.getLogger(__name__)
_PAUSE = 1.0  # seconds between two looks at a lock
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # the file system has none, or its lock service is down


class HeldError(ValueError):
    """Another process holds a lock.

    Parameters
    ----------
    text
        Which one.
    is_soft
        Whether nobody can tell if that process still runs.
    """

    def __init__(self, text: str, *, is_soft: bool):
        super().__init__(text)
        self.is_soft = is_soft


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path`; it is gone afterwards.

    The kernel releases the lock when the process dies, so a file that a killed process left is no obstacle. Where the
    file system has no locks, the file itself is the lock (filelock's soft lock), and on a machine other than this one
    nobody can tell whether its process still runs.

    Parameters
    ----------
    path : Path
        In the folder that is written; holds the process and the host.

    Yields
    ------
    bool
        Whether others are kept out; not where the file system has no locks at all.

    Raises
    ------
    HeldError
        If another process, or another run of this one, holds it; says which.
    OSError
        If the file cannot be written.
    """
    lock = FileLock(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock warns of a soft lock; the error says what that means
            lock.acquire(timeout=0)
    except Timeout:
        is_soft = isinstance(lock, SoftFileLock)
        raise HeldError(_held_text(path, is_soft=is_soft), is_soft=is_soft) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(path)) from error
        _logger.warning("%s cannot be locked (%s): see that no other run writes there", path.parent, error.strerror)
        yield False
        return
    try:
        if not isinstance(lock, SoftFileLock):  # that one has written the same
            with suppress(OSError):  # a full disk: the lock holds, it only cannot say whose it is
                path.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
        yield True
    finally:
        if not isinstance(lock, SoftFileLock):
            path.unlink(missing_ok=True)  # while it is held: who opened it meanwhile finds that it has no name
        lock.release()


@contextmanager
def waiting_for(path: Path, what: str) -> Iterator[bool]:
    """Hold the lock file `path` as :func:`locked` does; wait for another process that has it, and say what it does."""
    with ExitStack() as held:
        is_told = False
        while True:
            try:
                is_exclusive = held.enter_context(locked(path))
                break
            except HeldError as error:
                if error.is_soft:
                    raise
                if not is_told:
                    _logger.warning("another run %s: waiting for it (%s)", what, error)
                is_told = True
                time.sleep(_PAUSE)
        yield is_exclusive


def _held_text(path: Path, *, is_soft: bool) -> str:
    try:
        process, host = path.read_text(encoding="utf-8", errors="replace").splitlines()[:2]
        holder = f"process {process} on host {host}"
    except (OSError, ValueError):
        holder = "another process"
    text = f"{path.parent} is being written by {holder}: wait for it, or choose another --outdir"
    if is_soft:
        text += f" (this file system has no locks: if that process is gone, delete {path})"
    return text
