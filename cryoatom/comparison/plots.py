"""The plots of a comparison: error by system, along the true motion, and against the time of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from cryoatom.comparison.judge import rmsd_by_frame
from cryoatom.comparison.table import BASELINES, Outcome, baseline, group_by_system
from cryoatom.files.replacing import replacing
from cryoatom.plotting import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    STYLE,
    VERMILION,
    figure,
    save_png,
    whole_numbers,
)

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#56B4E9", "#CC79A7", "#000000")  # Okabe and Ito
# Their numbers have no common factor with that of the colours: two systems share one of the three, seldom two.
_STROKES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (1, 1.2)), (0, (9, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
_MARKS = 12  # on a curve
_WIDE_RANGE = 10.0  # of times, from which on their axis is logarithmic
_LEGEND_COLUMNS = 4


def plot_errors(outcomes: Sequence[Outcome]) -> Figure | None:
    """Draw each job's RMSD as a dot and the mean over seeds as a bar; None where there is no truth."""
    found = _main_error(outcomes)
    if found is None:
        return None
    name, label = found
    values, baselines = _by_system(outcomes, name), _baselines(outcomes, name)
    with rc_context(STYLE):
        drawn, axes = figure(height=1.4 + 0.42 * len(values) + 0.3 * len(baselines))
        looks = _looks(outcomes)
        for place, (system, errors) in enumerate(values.items()):
            shift = 0.12 * (np.arange(len(errors)) - (len(errors) - 1) / 2)  # equal ones lie side by side
            axes.plot(errors, place + shift, "o", color=looks[system]["color"], markersize=5, alpha=0.8)
            if len(errors) > 1:
                mean = np.full(2, np.mean(errors))
                axes.plot(mean, [place - 0.3, place + 0.3], color="black", linewidth=1.5, label="mean over seeds")
        axes.set_yticks(range(len(values)), list(values))
        axes.set(xlabel=label, xlim=(0, _room(values)), ylim=(len(values) - 0.5, -0.5))
        _draw_baselines(axes, baselines)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GREY, alpha=0.25)
        if any(len(errors) > 1 for errors in values.values()):
            _legend(axes)
    return drawn


def _baselines(outcomes: Sequence[Outcome], name: str) -> dict[str, float]:
    """Return the errors of what needs no training, by what it is."""
    known = {text: baseline(outcomes, name, suffix) for text, suffix in BASELINES}
    return {text: value for text, value in known.items() if value is not None}


def _draw_baselines(axes: Axes, baselines: dict[str, float]) -> None:
    """Draw a line each, named in a row of its own above the dots; one beyond the axis is text at its edge.

    The axis grows to hold a line, up to half as far again as the dots need.
    """
    dots = axes.get_xlim()[1]
    fitting = [value for value in baselines.values() if 1.05 * value < 1.5 * dots]
    limit = max([dots, *(1.05 * value for value in fitting)])
    bottom, top = axes.get_ylim()
    for row, (text, value) in enumerate(baselines.items()):
        height = top - 0.7 * (row + 0.5)
        if value > limit:
            axes.text(limit, height, f"{text} {value:.2f} Å \N{RIGHTWARDS ARROW}", ha="right", va="center", fontsize=10)
            continue
        axes.plot([value] * 2, [bottom, height - 0.3], color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        is_left = value < 0.5 * limit
        side = "left" if is_left else "right"
        axes.text(value, height, f" {text} {value:.2f} Å ", ha=side, va="center", fontsize=10)
    axes.set(xlim=(0, limit), ylim=(bottom, top - 0.7 * len(baselines)))


def plot_frames(outcomes: Sequence[Outcome]) -> Figure | None:
    """Draw the mean RMSD of each true frame, one line a system; None without labels.

    Curves that lie on each other show in turn: each has dashes of its own, and its marks at frames of its own.
    """
    curves = {}
    for system, jobs in group_by_system(outcomes).items():
        found = [rmsd_by_frame(each.job.folder) for each in jobs if each.figure("rmsd") is not None]
        frames = [each for each in found if each is not None]
        if frames and len({len(each) for each in frames}) == 1:
            curves[system] = np.mean(frames, axis=0)
    if not curves:
        return None
    with rc_context(STYLE):
        drawn, axes = figure(width=9, height=4.6 + 0.15 * len(curves))
        looks = _looks(outcomes)
        for place, (system, errors) in enumerate(curves.items()):
            index = np.flatnonzero(np.isfinite(errors))
            step = max(1, len(index) // _MARKS)
            style = looks[system] | {"markevery": (place * step // len(curves), step), "markersize": 6}
            axes.plot(index, errors[index], label=system, linewidth=1.5, **style)
        axes.set(xlabel="true frame", ylabel="mean RMSD (Å)", ylim=(0, None))
        whole_numbers(axes.xaxis)
        axes.margins(x=0.01)
        _legend(axes)
    return drawn


def plot_costs(outcomes: Sequence[Outcome]) -> Figure | None:
    """Draw each job's RMSD against its time of training; None where there is no truth."""
    found = _main_error(outcomes)
    if found is None:
        return None
    name, label = found
    values, seconds = _by_system(outcomes, name), _by_system(outcomes, "training_seconds")
    with rc_context(STYLE):
        drawn, axes = figure(width=9)
        looks = _looks(outcomes)
        for system, errors in values.items():
            look = looks[system]
            axes.plot(
                seconds[system], errors, look["marker"], color=look["color"], label=system, markersize=8, alpha=0.8
            )
        axes.set(ylabel=label, ylim=(0, _room(values)))
        _time_axis(axes, np.concatenate([seconds[system] for system in values]))
        axes.grid(color=GREY, alpha=0.25)
        _legend(axes)
    return drawn


def _time_axis(axes: Axes, seconds: np.ndarray) -> None:
    """Let times start at 0, or where they are of several sizes stand on a logarithmic axis."""
    if seconds.max() < _WIDE_RANGE * seconds.min():
        axes.set(xlabel="training (s)", xlim=(0, 1.1 * seconds.max()))
        return
    axes.set(xlabel="training (s), logarithmic", xscale="log", xlim=(seconds.min() / 1.3, 1.3 * seconds.max()))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


PLOTS: dict[str, Callable[[Sequence[Outcome]], Figure | None]] = {
    "rmsd.png": plot_errors,
    "frames.png": plot_frames,
    "time.png": plot_costs,
}


def write_plots(outdir: Path, outcomes: Sequence[Outcome]) -> list[Path]:
    """Write the plots that can be made, remove older ones that cannot, and return them."""
    written = []
    for name, plot in PLOTS.items():
        drawn = plot(outcomes)
        if drawn is None:
            (outdir / name).unlink(missing_ok=True)
            continue
        with replacing(outdir / name) as temporary:
            save_png(drawn, temporary)
        written.append(outdir / name)
    return written


def _main_error(outcomes: Sequence[Outcome]) -> tuple[str, str] | None:
    """Return (figure, label of its axis) of the error that is known: that of images, or of the distribution."""
    for name, label in (("rmsd", "mean RMSD (Å)"), ("emd_rmsd", "EMD-RMSD (Å)")):
        if any(each.figure(name) is not None for each in outcomes):
            return name, label
    return None


def _room(values: dict[str, list[float]]) -> float:
    """Return where an axis from 0 ends, so that no dot is near its end."""
    return 1.1 * max(max(errors) for errors in values.values())


def _by_system(outcomes: Sequence[Outcome], name: str) -> dict[str, list[float]]:
    """Return a figure's values of each system that has any."""
    groups = group_by_system(outcomes)
    values = {system: [v for each in jobs if (v := each.figure(name)) is not None] for system, jobs in groups.items()}
    return {system: found for system, found in values.items() if found}


def _looks(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return how each system is drawn, the same in all plots."""
    return {
        system: {
            "color": _COLOURS[place % len(_COLOURS)],
            "linestyle": _STROKES[place % len(_STROKES)],
            "marker": _MARKERS[place % len(_MARKERS)],
        }
        for place, system in enumerate(group_by_system(outcomes))
    }


def _legend(axes: Axes) -> None:
    """Put the legend over the axes, to be read line by line: matplotlib fills column by column."""
    handles, labels = axes.get_legend_handles_labels()
    entries = list(dict(zip(labels, handles, strict=True)).items())
    by_column = [entry for column in range(_LEGEND_COLUMNS) for entry in entries[column::_LEGEND_COLUMNS]]
    axes.legend(
        [handle for _, handle in by_column],
        [label for label, _ in by_column],
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=_LEGEND_COLUMNS,
        borderaxespad=0.3,
        handlelength=3.5,
    )
