"""Which images stand for all."""

from __future__ import annotations

import numpy as np


def spread_rows(rows: np.ndarray, most: int, *, seed: int = 0) -> np.ndarray:
    """Return one row of each of `most` equal stretches, at random: no period in the order of a file biases the choice.

    Parameters
    ----------
    rows : (n,) int
        To choose from; returned as they are where there are no more than `most`.
    most : int
    seed : int
    """
    if len(rows) <= most:
        return rows
    edges = np.linspace(0, len(rows), most + 1)
    places = edges[:-1] + np.random.default_rng(seed).random(most) * np.diff(edges)
    return rows[places.astype(np.int64)]


def drawn_sample(conformations: np.ndarray, rows: np.ndarray | None, most: int, *, seed: int = 0) -> np.ndarray:
    """Read at most `most` of the (images, residues, 3) conformations, or of the given rows of them, as float64."""
    rows = np.arange(len(conformations)) if rows is None else np.sort(np.asarray(rows, dtype=np.int64))
    if not len(rows):
        raise ValueError("no images are chosen: expected at least one")
    return np.array(conformations[spread_rows(rows, most, seed=seed)], dtype=np.float64)
