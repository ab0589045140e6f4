"""Which rows of a particle file are used: `--ind`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cryoatom.files.npy import read_npy
from cryoatom.files.pickles import read_numpy_pickle

_DIGITS = 18  # that an int64 holds for sure
_SHOWN = 40  # characters of a wrong value in an error message


def read_rows(path: str | os.PathLike) -> np.ndarray:
    """Read zero-based rows from an .npy or .pkl file of integers, or a .txt file of numbers between blanks.

    Returns
    -------
    (m,) int64 array

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of rows {path}")
    try:
        if path.suffix == ".npy":
            rows = read_npy(path)
        elif path.suffix == ".txt":
            rows = np.array([_to_row(word) for word in path.read_text().split()], dtype=np.int64)
        elif path.suffix == ".pkl":
            rows = np.asarray(read_numpy_pickle(path))
        else:
            raise ValueError(f"expected a .npy, .txt or .pkl file, found {path.suffix or 'no suffix'!r}")
        if rows.dtype == bool:
            raise ValueError(
                f"expected row numbers, found a mask of {rows.size} booleans: numpy.flatnonzero makes them"
            )
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError(f"expected a list of integers, found {rows.dtype} of shape {rows.shape}")
    except ValueError as error:
        reason = str(error).removeprefix(f"cannot read {path}: ")
        raise ValueError(f"cannot read rows from {path}: {reason}") from None
    return rows.astype(np.int64)


def _to_row(word: str) -> int:
    if not word.removeprefix("-").isdecimal():
        raise ValueError(f"expected row numbers between blanks, found {word[:_SHOWN]!r}")
    if len(word) > _DIGITS:
        raise ValueError(f"expected row numbers, found one of {len(word)} digits")
    return int(word)


def check_rows(rows: np.ndarray, count: int, source: Path) -> None:
    """Check that `rows` are distinct zero-based rows of the `count` particles of `source`.

    Raises
    ------
    ValueError
        Otherwise, or where none is left.
    """
    if len(rows) == 0:
        raise ValueError(f"no rows of {source} are selected")
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside):
        raise ValueError(
            f"row {outside[0]} is selected"
            + (f", and {len(outside) - 1} more," if len(outside) > 1 else "")
            + f" that is not in {source}, which has rows 0 to {count - 1}"
        )
    unique, counts = np.unique(rows, return_counts=True)
    if len(unique) < len(rows):
        raise ValueError(f"row {unique[np.argmax(counts > 1)]} of {source} is selected more than once")
