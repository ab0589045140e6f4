"""How all plots look. Colours are those of Okabe and Ito, told apart by all common kinds of colour vision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 10,
}
_FEW_POINTS = 30
_DPI = 160


def figure(width: float = 7.0, height: float = 4.6) -> tuple[Figure, Axes]:
    """Return a figure of one plot; call it under ``rc_context(STYLE)``."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots()


def save_png(drawn: Figure, path: Path) -> None:
    """Write a figure; the caller names a temporary file."""
    drawn.savefig(path, format="png", dpi=_DPI)


def residue_axis(axes: Axes, chain: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Label the horizontal axis and return the place of each residue: its number, or its index with several chains."""
    starts = np.flatnonzero(np.concatenate([[True], chain[1:] != chain[:-1]]))
    if len(starts) == 1 and (np.diff(number) > 0).all():
        axes.set(xlabel="residue", xlim=(number[0], number[-1]))
        return number
    stops = np.concatenate([starts[1:], [len(number)]])
    axes.set(xlabel="residues by chain", xlim=(0, len(number) - 1))
    axes.set_xticks((starts + stops - 1) / 2, [f"{chain[start]}" for start in starts])
    axes.tick_params(axis="x", length=0)
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=GREY, linewidth=0.8)
    return np.arange(len(number))


def line(axes: Axes, place: np.ndarray, values: np.ndarray, **style: Any) -> None:
    """Draw a line, with markers where there are few points."""
    marker = "o" if len(place) <= _FEW_POINTS else ""
    axes.plot(place, values, marker=marker, markersize=4, **{"linewidth": 1.5, **style})


def whole_numbers(*axes: Axis) -> None:
    """Put ticks at whole numbers alone."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True))


def legend_above(axes: Axes, *, columns: int = 2) -> None:
    """Put the legend over the axes, where it covers no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.3)
