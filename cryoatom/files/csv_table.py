"""Tables as comma-separated values."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryoatom.files.replacing import replacing


def write_csv(path: Path, columns: Mapping[str, np.ndarray | None]) -> None:
    """Write one column per array; a column that is None, and NaN, stays empty.

    Parameters
    ----------
    path : Path
    columns : mapping of name to (rows,) array
        Floats get four decimals.
    """
    count = max(len(column) for column in columns.values() if column is not None)
    cells = [[""] * count if column is None else _cells(column) for column in columns.values()]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*cells, strict=True))


def _cells(column: np.ndarray) -> list[str]:
    if column.dtype.kind == "f":
        return ["" if np.isnan(value) else f"{value:.4f}" for value in column.tolist()]
    return [str(value) for value in column.tolist()]
