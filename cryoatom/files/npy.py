"""Large .npy arrays, written piece by piece.

Not by a memory map: a full disk kills a process that writes to a map (SIGBUS), and raises OSError here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import DTypeLike

from cryoatom.files.replacing import replacing


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
