"""Conformations that stand for all."""

from __future__ import annotations

import numpy as np

from cryoatom.particles.rows import spread_rows


def drawn_sample(conformations: np.ndarray, rows: np.ndarray | None, most: int, *, seed: int = 0) -> np.ndarray:
    """Read at most `most` of the (images, residues, 3) conformations, or of the given rows of them, as float64."""
    rows = np.arange(len(conformations)) if rows is None else np.sort(np.asarray(rows, dtype=np.int64))
    if not len(rows):
        raise ValueError("no images are chosen: expected at least one")
    return np.array(conformations[spread_rows(rows, most, seed=seed)], dtype=np.float64)
