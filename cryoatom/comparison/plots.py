"""The plots of a comparison: error by system, along the true motion, and against the time of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from cryoatom.comparison.judge import rmsd_by_frame
from cryoatom.comparison.table import Outcome, group_by_system
from cryoatom.files.replacing import replacing
from cryoatom.plotting import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    STYLE,
    VERMILION,
    figure,
    legend_above,
    line,
    save_png,
    whole_numbers,
)

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#56B4E9", "#CC79A7", "#000000")  # Okabe and Ito
_STROKES = ("-", "--", ":")  # for each round of the colours
_MARKERS = ("o", "s", "^")


def plot_errors(outcomes: Sequence[Outcome]) -> Figure | None:
    """Draw each job's RMSD as a dot and each system's mean as a bar; None where there is no truth."""
    found = _main_error(outcomes)
    if found is None:
        return None
    name, label = found
    values = _by_system(outcomes, name)
    with rc_context(STYLE):
        drawn, axes = figure(height=1.4 + 0.42 * len(values))
        looks = _looks(outcomes)
        for place, (system, errors) in enumerate(values.items()):
            shift = 0.12 * (np.arange(len(errors)) - (len(errors) - 1) / 2)  # equal ones lie side by side
            axes.plot(errors, place + shift, "o", color=looks[system]["color"], markersize=5, alpha=0.8)
            axes.plot([np.mean(errors)] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1.5)
        static = next((v for each in outcomes if (v := each.figure(f"{name}_static")) is not None), None)
        if static is not None:
            text = f"best static structure, {static:.2f} Å"
            axes.axvline(static, color=GREY, linestyle="--", label=text)
            legend_above(axes)
        axes.set_yticks(range(len(values)), list(values))
        axes.set(xlabel=label, xlim=(0, max(_room(values), 1.05 * (static or 0))), ylim=(len(values) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GREY, alpha=0.25)
    return drawn


def plot_frames(outcomes: Sequence[Outcome]) -> Figure | None:
    """Draw the mean RMSD of each true frame, one line a system; None without labels."""
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
        for system, errors in curves.items():
            index = np.flatnonzero(np.isfinite(errors))
            style = {key: value for key, value in looks[system].items() if key != "marker"}
            line(axes, index, errors[index], label=system, **style)
        axes.set(xlabel="true frame", ylabel="mean RMSD (Å)", ylim=(0, None))
        whole_numbers(axes.xaxis)
        axes.margins(x=0.01)
        legend_above(axes, columns=4)
    return drawn


def plot_costs(outcomes: Sequence[Outcome]) -> Figure | None:
    """Draw each job's RMSD against its time of training; None where there is no truth."""
    found = _main_error(outcomes)
    if found is None:
        return None
    name, label = found
    with rc_context(STYLE):
        drawn, axes = figure(width=9)
        values = _by_system(outcomes, name)
        for system, errors in values.items():
            seconds, look = _by_system(outcomes, "training_seconds")[system], _looks(outcomes)[system]
            axes.plot(seconds, errors, look["marker"], color=look["color"], label=system, alpha=0.8)
        axes.set(xlabel="training (s)", ylabel=label, xscale="log", ylim=(0, _room(values)))
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=GREY, alpha=0.25)
        legend_above(axes, columns=4)
    return drawn


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
    """Return where an axis from 0 ends, so that no dot is cut."""
    return 1.05 * max(max(errors) for errors in values.values())


def _by_system(outcomes: Sequence[Outcome], name: str) -> dict[str, list[float]]:
    """Return a figure's values of each system that has any."""
    groups = group_by_system(outcomes)
    values = {system: [v for each in jobs if (v := each.figure(name)) is not None] for system, jobs in groups.items()}
    return {system: found for system, found in values.items() if found}


def _looks(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return how each system is drawn, the same in all plots."""
    looks = {}
    for place, system in enumerate(group_by_system(outcomes)):
        turn, colour = divmod(place, len(_COLOURS))
        turn %= len(_STROKES)
        looks[system] = {"color": _COLOURS[colour], "linestyle": _STROKES[turn], "marker": _MARKERS[turn]}
    return looks
