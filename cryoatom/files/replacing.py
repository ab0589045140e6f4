"""Files appear whole or not at all: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # numbers of an OSError
_turned_off: list[bool] = []
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp")  # .name.number.tmp: processes on other machines may have the same


@contextmanager
def writing_files(is_on: bool) -> Iterator[None]:
    """Let this process write, or not: of those that make a run together one does, and what others write is dropped."""
    _turned_off.append(not is_on)
    try:
        yield
    finally:
        _turned_off.pop()


def are_files_written() -> bool:
    """Return whether this process writes files, see :func:`writing_files`."""
    return not any(_turned_off)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` on success, delete it on failure.

    Raises
    ------
    FileNotFoundError
        When the folder does not exist.
    """
    path = Path(path)
    if not are_files_written():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    temporary = path.with_name(f".{path.name}.{os.getpid()}{secrets.randbelow(10**6):06d}.tmp")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # name what the user asked for
            raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` of processes that were killed; none may be writing there."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Wait until the content is on the disk.

    A rename may reach the disk before the content does: after a power cut the file is empty or full of zeros, under
    its final name. On network file systems a full quota shows up only here. It costs 0.4 ms for 2 kB and nothing
    measurable beside the writing of 100 MB (ext4).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # what cannot be flushed needs none: pipes, some FUSE
            raise
    finally:
        os.close(descriptor)
