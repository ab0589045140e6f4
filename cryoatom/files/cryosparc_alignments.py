"""Which of a .cs file's alignments are the poses: one refinement's, or each particle's most probable class."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

_REFINED = "alignments3D"
_FLAT = "alignments2D"


@dataclass(frozen=True)
class Alignments:
    """Rotation vectors (n, 3), shifts (n, 2) in pixels, and the Å of these (n,), None where the file does not say."""

    vectors: np.ndarray
    shifts: np.ndarray
    pixel_sizes: np.ndarray | None


def best_alignments(source: Path, records: np.ndarray) -> Alignments | None:
    """Return one alignment for each particle; None where there is none in three dimensions.

    ``alignments3D`` goes first: it is the latest refinement. Else the classes of an ab-initio or heterogeneous job,
    ``alignments_class_0``, ``alignments_class3D_1`` and so on, or all of them in one field with an axis of classes.

    Raises
    ------
    ValueError
        Where there are classes and a ``class_posterior`` lacks, or a pose has no shift.
    """
    fields = records.dtype.names or ()
    every = [name.removesuffix("/pose") for name in fields if name.startswith("alignments") and name.endswith("/pose")]
    solid = [name for name in every if not name.startswith(_FLAT)]
    if not solid:
        if every:
            logger.warning("%s has alignments in two dimensions only: read without orientations", source)
        return None
    chosen = [_REFINED] if _REFINED in solid else solid
    tables = [_read(source, records, name) for name in chosen]
    classes = [table.shape[1] for table in tables]
    table = np.concatenate(tables, axis=1)
    labels = [
        f"{name}[{k}]" if count > 1 else name for name, count in zip(chosen, classes, strict=True) for k in range(count)
    ]
    if len(labels) == 1:
        best = np.zeros(len(records), np.int64)
    else:
        posteriors = np.concatenate(
            [_posteriors(source, records, *part) for part in zip(chosen, classes, strict=True)], axis=1
        )
        best = np.nan_to_num(posteriors, nan=-1.0).argmax(axis=1)
        counts = np.bincount(best, minlength=len(labels))
        shown = ", ".join(f"{n} from {label}" for n, label in zip(counts, labels, strict=True) if n)
        logger.info("%s: poses of each particle's most probable class: %s", source, shown)
    rows = table[np.arange(len(records)), best]
    return Alignments(rows[:, :3], rows[:, 3:5], None if np.isnan(rows[:, 5]).all() else rows[:, 5])


def _read(source: Path, records: np.ndarray, name: str) -> np.ndarray:
    """Return (n, classes, 6): rotation vector, shift, and pixel size, NaN where the file does not say."""
    fields = records.dtype.names or ()
    if f"{name}/shift" not in fields:
        raise ValueError(f"{source} has {name}/pose and no {name}/shift: give the job's other file with --poses")
    vectors = records[f"{name}/pose"].astype(np.float64)
    vectors = vectors if vectors.ndim == 3 else vectors[:, None]
    shifts = records[f"{name}/shift"].astype(np.float64).reshape(len(records), -1, 2)
    if vectors.shape[1:] != (shifts.shape[1], 3):
        raise ValueError(
            f"{source}: expected {name}/pose as rotation vectors with a shift each, found shapes "
            f"{records[f'{name}/pose'].shape} and {records[f'{name}/shift'].shape}"
        )
    sizes = np.full((*vectors.shape[:2], 1), np.nan)
    if f"{name}/psize_A" in fields:
        sizes[...] = records[f"{name}/psize_A"].astype(np.float64).reshape(len(records), -1, 1)
    return np.concatenate([vectors, shifts, sizes], axis=2)


def _posteriors(source: Path, records: np.ndarray, name: str, classes: int) -> np.ndarray:
    field = f"{name}/class_posterior"
    if field not in (records.dtype.names or ()):
        raise ValueError(f"{source} has poses of several classes, and no {field} to choose by: use one class's file")
    values = records[field].astype(np.float64).reshape(len(records), -1)
    if values.shape[1] != classes:
        raise ValueError(f"{source}: expected {field} for {classes} classes, found {values.shape[1]}")
    return values
