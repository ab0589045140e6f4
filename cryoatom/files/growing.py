"""Arrays of a folder that grow together, over several lives of a process."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from cryoatom.files.replacing import are_files_written, replacing

ROWS = "rows.txt"
_NOTED = 2048  # rows after which it is noted that they are on the disk

Shapes = Mapping[str, tuple[tuple[int, ...], DTypeLike]]
"""Shape and type of each whole array, by file name; all have equally many rows."""


def rows_there(folder: Path, shapes: Shapes) -> int:
    """Return how many rows of the arrays in a folder are known to be on the disk."""
    try:
        rows = int((folder / ROWS).read_text())
        are_there = all((folder / name).stat().st_size >= _end(*kind, rows) for name, kind in shapes.items())
    except (FileNotFoundError, ValueError):
        return 0
    return rows if are_there else 0


class GrowingArrays:
    """Appends to the arrays of a folder and notes from time to time how far it is."""

    def __init__(self, folder: Path, arrays: list[_Array], done: int):
        self._folder, self._arrays, self._done, self._noted = folder, arrays, done, done

    def write(self, rows: Sequence[np.ndarray]) -> None:
        """Append as many rows to each array, in the order of their shapes."""
        if not self._arrays:
            return
        for array, part in zip(self._arrays, rows, strict=True):
            array.write(part)
        self._done += len(rows[0])
        if self._done - self._noted >= _NOTED:
            self.note()

    def note(self) -> None:
        """Wait until what was written is on the disk, and note how much it is."""
        for array in self._arrays:
            array.flush()
        with replacing(self._folder / ROWS) as temporary:
            temporary.write_text(str(self._done))
        self._noted = self._done


@contextmanager
def growing(folder: Path, shapes: Shapes, done: int) -> Iterator[GrowingArrays]:
    """Open the arrays of a folder to append to their first `done` rows; nothing is written where no files are.

    Raises
    ------
    OSError
        When the disk is full.
    """
    shapes = shapes if are_files_written() else {}
    with ExitStack() as opened:
        arrays = [opened.enter_context(_Array(folder / name, *kind, done)) for name, kind in shapes.items()]
        written = GrowingArrays(folder, arrays, done)
        yield written
        if arrays:
            written.note()


class _Array:
    """An .npy file that is written in place; its header tells the shape of the whole from the start."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike, done: int):
        self._dtype = np.dtype(dtype)
        self._file = path.open("r+b" if done else "wb")
        self._file.write(_header(shape, dtype))
        self._file.seek(_end(shape, dtype, done))
        self._file.truncate()

    def __enter__(self) -> _Array:
        return self

    def __exit__(self, *ending: object) -> None:
        self._file.close()

    def write(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def _header(shape: tuple[int, ...], dtype: DTypeLike) -> bytes:
    header = io.BytesIO()
    description = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def _end(shape: tuple[int, ...], dtype: DTypeLike, rows: int) -> int:
    """Return where some rows end in the file, bytes."""
    return len(_header(shape, dtype)) + rows * math.prod(shape[1:]) * np.dtype(dtype).itemsize
