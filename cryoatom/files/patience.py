"""Read pieces of large files that may lie on a network: its errors pass, and are waited for.

Not by a memory map: there a read error is a signal (SIGBUS), which kills the process without a message.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

PAUSES = (1.0, 5.0, 20.0)  # seconds before a read is tried again
Stamp = tuple[int, int]
Result = TypeVar("Result")
_logger = logging.getLogger(__name__)
_pause: Callable[[float], None] = time.sleep
_PASSING = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENOTCONN),
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EREMOTEIO, errno.ESHUTDOWN, errno.EPIPE),
}


def file_stamp(path: Path) -> Stamp:
    """Return the size, bytes, and the time of the last change, ns, of a regular file.

    Raises
    ------
    FileNotFoundError
        If there is no file, or it is a folder, a device or a pipe (to open one would wait for ever).
    OSError
        If it cannot be reached, after some patience.
    """
    found = retried(lambda: os.stat(path), path, "it")
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(f"{path} is no regular file, but {_kind(found.st_mode)}")
    return found.st_size, found.st_mtime_ns


def retried(read: Callable[[], Result], path: Path, what: str) -> Result:
    """Return what `read` returns, called again after growing pauses while it raises an error that may pass.

    Raises
    ------
    OSError
        The error that does not pass, with the file, and with `what` could not be read of it.
    """
    for attempt, pause in enumerate((*PAUSES, None), start=1):
        try:
            return read()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            reason = error.strerror or str(error)
            if pause is None:
                text = f"{reason}, {attempt} times; {what} cannot be read: look at the disk or the network of the file"
                raise OSError(error.errno, text, str(path)) from error
            _logger.warning("%s: %s; reading %s again in %g s", path, reason, what, pause)
            _pause(pause)
    raise AssertionError("the last attempt returns or raises")


class PatientFile:
    """A file open for reading at given places; a context manager.

    Parameters
    ----------
    path : Path
    stamp : (size, time)
        Of :func:`file_stamp` when the file was first looked at.
    """

    def __init__(self, path: Path, stamp: Stamp) -> None:
        self._path, self._stamp = path, stamp
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def read_into(self, array: np.ndarray, offset: int, what: str) -> None:
        """Fill a contiguous array with the bytes from `offset` on.

        Parameters
        ----------
        what : str
            Names the piece in a warning or an error.

        Raises
        ------
        ValueError
            If the file is no longer the one that was first looked at.
        OSError
            If it cannot be read, after some patience.
        """
        view = array.reshape(-1).view(np.uint8).data
        retried(lambda: self._read_into(view, offset), self._path, what)

    def _read_into(self, view: memoryview, offset: int) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                self._check_unchanged()
            done = 0
            while done < len(view):
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
                if count == 0:
                    self._check_unchanged()
                    raise OSError(errno.EIO, "the file ends too early")
                done += count
        except OSError:
            self._close()  # a stale handle never recovers: the file is opened again
            raise

    def _check_unchanged(self) -> None:
        assert self._descriptor is not None
        found = os.fstat(self._descriptor)
        if (found.st_size, found.st_mtime_ns) != self._stamp:
            raise ValueError(
                f"{self._path} has changed since it was first read ({self._stamp[0]} bytes then, {found.st_size} "
                "now): let what writes it end, and start again"
            )

    def _close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):  # of a lost connection; nothing was written
                os.close(self._descriptor)
            self._descriptor = None


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for is_it, name in kinds.items() if is_it(mode)), "a device")
