"""Plots of fluctuations, rigid domains and collective variables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from cryoatom.ensemble.collective import circular_mean, unwrapped_about
from cryoatom.ensemble.domains import Domains
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
    residue_axis,
    whole_numbers,
)
from cryoatom.structure.template import Template

PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", VERMILION, "#F0E442", "#000000")
BINS = 60
BAND = 0.06  # height of the domains' band, of the axes'
_LONGEST_NAME = 60  # characters that there is room for below a plot


def plot_fluctuation(
    template: Template,
    fluctuation: np.ndarray,
    *,
    domains: Domains,
    uncertainty: np.ndarray | None = None,
) -> Figure:
    """Draw how far each residue moves, with the domains as a band below and their hinges.

    Parameters
    ----------
    template : Template
    fluctuation : (residues,) float
        Root mean square fluctuation, Å.
    domains : Domains
    uncertainty : (residues,) float, optional
        Standard deviation of a residue's position in one image, Å.
    """
    with rc_context(STYLE):
        drawn, axes = figure(width=9)
        place = residue_axis(axes, template.chain_ids, template.residue_numbers)
        top = 1.08 * max(float(fluctuation.max()), 0.0 if uncertainty is None else float(np.nanmax(uncertainty)), 1e-3)
        line(axes, place, fluctuation, color="black", linewidth=1.8, label="fluctuation over images", zorder=3)
        if uncertainty is not None:
            line(axes, place, uncertainty, color=VERMILION, linestyle="--", label="uncertainty in one image", zorder=3)
        axes.set(ylabel="r.m.s. deviation of a C-alpha (Å)", ylim=(0, top))  # from which the ticks are
        handles = axes.get_legend_handles_labels()[0]
        axes.set_ylim(-BAND * top, top)
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
        _draw_band(axes, place, domains, template)
        handles += _named_colours(len(domains))
        handles += [Patch(color=GREY, alpha=0.3, label="hinges")] if domains.hinges else []
        columns = len(handles) if len(handles) < 6 else 4
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.3)
    return drawn


def plot_domains(
    matrix: np.ndarray, labels: np.ndarray, *, residues: np.ndarray | None = None, template: Template | None = None
) -> Figure:
    """Draw how much the distance of every pair of residues fluctuates, with the borders of the domains.

    Parameters
    ----------
    matrix : (n, n) float
        Standard deviation of distances, Å.
    labels : (residues,) int
        Domains, from 1.
    residues : (n,) int, optional
        Indices of the matrix's residues; all by default.
    template : Template, optional
        Names the residues on the axes, when it has one chain without gaps in its numbers; else they are counted
        from 0.
    """
    residues = np.arange(len(labels)) if residues is None else residues
    first, xlabel = 0, "residue, counted from 0"
    if template is not None and (np.diff(template.residue_numbers) == 1).all():
        first, xlabel = int(template.residue_numbers[0]), "residue"
    with rc_context(STYLE):
        drawn, axes = figure(width=7.4, height=6)
        last = len(labels) - 1
        extent = (first - 0.5, first + last + 0.5, first + last + 0.5, first - 0.5)
        top = max(float(np.quantile(matrix, 0.995)), 1e-3)
        shown = axes.imshow(matrix, cmap="magma_r", vmin=0, vmax=top, extent=extent, interpolation="nearest")
        drawn.colorbar(shown, ax=axes, extend="max", label="standard deviation of the distance (Å)", shrink=0.85)
        for border in np.flatnonzero(np.diff(labels)) + first + 0.5:
            axes.axhline(border, color=BLUE, linewidth=0.8)
            axes.axvline(border, color=BLUE, linewidth=0.8)
        for start, stop, label in _segments(labels):
            band = {"facecolor": _colour(label), "linewidth": 0, "clip_on": False}
            axes.add_patch(
                Rectangle(
                    (first + start - 0.5, 1.005), stop - start, 0.03, transform=axes.get_xaxis_transform(), **band
                )
            )
        names = _named_colours(int(labels.max()))
        axes.legend(handles=names, loc="lower left", bbox_to_anchor=(0, 1.04), ncols=5, borderaxespad=0.0)
        axes.set(xlabel=xlabel, ylabel=xlabel)
        whole_numbers(axes.xaxis, axes.yaxis)
    return drawn


def plot_collective(name: str, unit: str, values: np.ndarray, reference: Mapping[str, float]) -> Figure:
    """Draw how a collective variable is distributed over images, with values to compare.

    Parameters
    ----------
    name : str
    unit : str
        'Å' or '°'; degrees below zero are those of a dihedral, drawn around the circle from where there are fewest.
    values : (images,) float
    reference : mapping of str to float
        Values of the template, the ends, ...; drawn as lines.
    """
    values, lines = np.asarray(values, dtype=np.float64), dict(reference)
    is_circular = unit == "°" and min([float(values.min()), *lines.values()]) < 0
    if is_circular:  # the window is opened where there is least, opposite to the mean
        middle = circular_mean(values)
        values = unwrapped_about(values, middle)
        lines = {label: float(unwrapped_about(value, middle)) for label, value in lines.items()}
    low, high = float(values.min()), float(values.max())
    room = 1e-3 * max(abs(low), abs(high), 1.0) if high == low else 0.0
    with rc_context(STYLE):
        drawn, axes = figure()
        axes.hist(values, bins=np.linspace(low - room, high + room, BINS + 1).tolist(), color=BLUE, alpha=0.75)
        styles = ("--", "-", ":", "-.")
        for number, (label, value) in enumerate(lines.items()):
            colour = (VERMILION, GREY, GREEN, ORANGE, "#CC79A7")[number % 5]
            text = f"{label} {_shown(value, is_circular):.1f} {unit}".replace(" °", "°")
            axes.axvline(value, color=colour, linestyle=styles[number % 4], linewidth=2, label=text)
        axes.set(xlabel=f"{_shortened(name)} ({unit})", ylabel="images")
        if is_circular:
            axes.xaxis.set_major_formatter(lambda tick, _: f"{_shown(tick, True):.0f}")
        whole_numbers(axes.yaxis)
        if lines:
            legend_above(axes)
    return drawn


def _draw_band(axes: Axes, place: np.ndarray, domains: Domains, template: Template) -> None:
    """Draw the domains as a coloured band below zero, and the hinges as grey columns."""
    share, bottom = BAND / (1 + BAND), axes.get_ylim()[0]
    for start, stop, label in _segments(domains.labels, template.chain_ids):
        edges = (float(place[start]) - 0.5, float(place[stop - 1]) + 0.5)
        axes.axvspan(*edges, ymin=0, ymax=share, color=_colour(label), linewidth=0)
    for hinge in domains.hinges:
        edges = (float(place[hinge.residues[0]]) - 0.5, float(place[hinge.residues[-1]]) + 0.5)
        axes.axvspan(*edges, ymin=share, color=GREY, alpha=0.3, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.spines["bottom"].set_position(("data", bottom))


def _segments(labels: np.ndarray, chains: np.ndarray | None = None) -> list[tuple[int, int, int]]:
    """Return the first residue, the one after the last, and the label of each run of equal labels (in one chain)."""
    changes = np.diff(labels) != 0
    if chains is not None:
        changes |= chains[1:] != chains[:-1]
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(labels)]
    return [(start, stop, int(labels[start])) for start, stop in zip(edges[:-1], edges[1:], strict=True)]


def _named_colours(domains: int) -> list[Patch]:
    return [Patch(color=_colour(domain), label=f"domain {domain}") for domain in range(1, domains + 1)]


def _colour(domain: int) -> str:
    return PALETTE[(domain - 1) % len(PALETTE)]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _shown(value: float, is_circular: bool) -> float:
    """Return a value as the axis names it: of a dihedral, within -180 to 180."""
    return float(unwrapped_about(value, 0.0)) if is_circular else value
