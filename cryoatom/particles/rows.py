"""A few rows of many particles that stand for all of them."""

from __future__ import annotations

import numpy as np


def spaced_rows(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` rows, int64, evenly spaced: all different, first and last among them."""
    chosen = min(count, most)
    return np.arange(chosen, dtype=np.int64) * (count - 1) // max(chosen - 1, 1)
