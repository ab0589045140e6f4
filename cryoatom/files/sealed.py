"""Folders of arrays that appear whole or not at all, go on after a kill, and whose damage is noticed later."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoatom.files.growing import ROWS
from cryoatom.files.lock import waiting_for
from cryoatom.files.replacing import DISK_FULL, are_files_written, remove_leftovers

SEAL = "sealed.json"
BEGUN = "begun"  # ends the name of a folder that is being prepared
_BLOCK = 1 << 20  # bytes of a checked block
_BLOCKS = 64  # of a file, evenly spaced, its first and its last among them: smaller files are checked whole


@contextmanager
def preparing(folder: Path) -> Iterator[Path]:
    """Keep other processes from preparing `folder`, and wait for one that does; yield where to, for :func:`sealing`.

    There, what a process that was killed or stopped has begun of the same is still to be found; bad input and a full
    disk leave nothing.
    Where the file system has no locks, each process has a place of its own, and leaves nothing either.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    if not are_files_written():
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with waiting_for(folder.with_name(f".{folder.name}.lock"), f"prepares {folder}") as is_exclusive:
        begun = folder.with_name(f".{folder.name}.{BEGUN if is_exclusive else f'{platform.node()}.{os.getpid()}'}")
        is_kept = is_exclusive
        try:
            yield begun
        except (ValueError, OSError) as error:
            is_kept = is_exclusive and isinstance(error, OSError) and error.errno not in DISK_FULL
            raise
        finally:
            if not is_kept:
                shutil.rmtree(begun, ignore_errors=True)


@contextmanager
def sealing(begun: Path, folder: Path, content: dict[str, object]) -> Iterator[None]:
    """Make `begun`, if it is not there, and of it `folder` when all is written: with `content`, sizes and checksums.

    Another run that was first with the same folder wins.

    Raises
    ------
    OSError
        The disk is full or the folder cannot be written; nothing is left under the final name.
    """
    if not are_files_written():
        yield
        return
    begun.mkdir(exist_ok=True)
    remove_leftovers(begun)
    (begun / SEAL).unlink(missing_ok=True)
    yield
    (begun / ROWS).unlink(missing_ok=True)
    files = {path.name: _fingerprint(path) for path in sorted(begun.iterdir())}
    (begun / SEAL).write_text(json.dumps({**content, "files": files}), encoding="utf-8")
    try:
        os.replace(begun, folder)
    except OSError:  # there is one, of another run or without its seal
        if not (folder / SEAL).exists():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(begun, folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def break_seal(folder: Path) -> None:
    """Let the folder be replaced."""
    (folder / SEAL).unlink(missing_ok=True)


def find_damage(folder: Path, content: dict[str, object]) -> str | None:
    """Return what is wrong with a sealed folder, or None.

    Sizes are compared, small files whole and of large ones 64 blocks of 1 MiB; a reader that must not trust the rest
    has to check what it reads.

    Raises
    ------
    FileNotFoundError
        If there is no sealed folder.
    """
    text = (folder / SEAL).read_bytes()
    try:
        seal = json.loads(text)
        files = {str(name): (int(size), [int(crc) for crc in crcs]) for name, (size, crcs) in seal["files"].items()}
        found = {name: seal[name] for name in content}
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{SEAL} is not readable"
    if found != content:
        return f"{SEAL} is of something else"
    for name, (size, crcs) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were written"
        if _fingerprint(path) != [size, crcs]:
            return f"{name} has other bytes than were written"
    return None


def _fingerprint(path: Path) -> list[int | list[int]]:
    """Return a file's size and the CRC-32 of some of its blocks."""
    size = path.stat().st_size
    count = max(1, -(-size // _BLOCK))
    if count <= _BLOCKS:
        starts = [_BLOCK * block for block in range(count)]
    else:
        starts = [block * (size - _BLOCK) // (_BLOCKS - 1) for block in range(_BLOCKS)]
    checksums: list[int] = []
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            checksums.append(zlib.crc32(file.read(_BLOCK)))
    return [size, checksums]
