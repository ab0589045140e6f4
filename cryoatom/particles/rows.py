"""A few rows of many particles that stand for all of them."""

from __future__ import annotations

import numpy as np


def spaced_rows(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` rows, int64, evenly spaced: all different, first and last among them."""
    chosen = min(count, most)
    return np.arange(chosen, dtype=np.int64) * (count - 1) // max(chosen - 1, 1)


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
