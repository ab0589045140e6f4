"""Arrays as .npy: large ones written piece by piece, and those of strangers read with care.

Not by a memory map: a full disk kills a process that writes to a map (SIGBUS), and raises OSError here.
"""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from cryoatom.files.replacing import are_files_written, replacing

NPY_DAMAGE = (  # what numpy raises for bytes that are no array
    *(ValueError, EOFError, SyntaxError, tokenize.TokenError, TypeError, OverflowError, RecursionError, MemoryError),
    *(LookupError, AttributeError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile),
)


def read_npy(path: Path, longest_header: int = 10_000) -> np.ndarray:
    """Read an array of numbers, texts or records, and never a pickle.

    Parameters
    ----------
    longest_header : int
        Bytes; long ones take long to parse.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no .npy file, is cut short, or promises more than it holds (before memory is taken); in one line,
        without the file's name.
    """
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else _read_array_header_2_0
            shape, _, dtype = read_header(file, max_header_size=longest_header)
            expected, found = math.prod(shape) * max(dtype.itemsize, 1), os.fstat(file.fileno()).st_size - file.tell()
            if expected > found or min(shape, default=0) < 0:
                raise ValueError(f"its header promises {dtype} of shape {shape}, found {found} bytes; copy it again")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False, max_header_size=longest_header)
        except NPY_DAMAGE as error:
            raise ValueError(one_line(error)) from None


def one_line(error: BaseException) -> str:
    """Return an error's text in one line, not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__


_read_array_header_2_0 = np.lib.format.read_array_header_2_0  # version 3 differs in the encoding of names alone


@contextmanager
def npy_writer(
    path: str | os.PathLike, shape: tuple[int, ...], dtype: DTypeLike = np.float32
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends rows to an array of `shape`; the file appears when all are written.

    Raises
    ------
    OSError
        When the disk is full.
    ValueError
        If other rows than those of `shape` were written.
    """
    written = 0
    if not are_files_written():
        yield lambda rows: None
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

        def write(rows: np.ndarray) -> None:
            nonlocal written
            if rows.shape[1:] != shape[1:]:
                raise ValueError(f"{path}: expected rows of shape {shape[1:]}, were given {rows.shape[1:]}")
            file.write(np.ascontiguousarray(rows, dtype=dtype).data)
            written += len(rows)

        yield write
        if written != shape[0]:
            raise ValueError(f"{path}: expected {shape[0]} rows, were given {written}")


def save_npy(path: Path, array: np.ndarray) -> None:
    """Write a whole array; errors as :func:`npy_writer`."""
    with npy_writer(path, array.shape, array.dtype) as write:
        write(array)
