"""The plots of latents, motions and paths."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, LogNorm
from matplotlib.figure import Figure

from cryoatom.ensemble.along_path import free_energy
from cryoatom.ensemble.motions import Components, Motions
from cryoatom.plotting import BLUE, GREY, ORANGE, STYLE, VERMILION, figure, legend_above, whole_numbers

_MANY_POINTS = 20_000
_HEXAGONS = 70
_SHARES = 10
_BINS = 60
_CLUSTER_COLOURS = "viridis"  # clusters with close numbers are near each other


def plot_latents(components: Components, labels: np.ndarray | None = None) -> Figure:
    """Draw latents along their first two principal components, with the clusters' numbers at their centres.

    Parameters
    ----------
    components : Components
    labels : (images,) int, optional
        Clusters, from 1.
    """
    shares = [f" ({share:.0%} of the variance)" for share in components.shares[:2]]
    with rc_context(STYLE):
        drawn, axes = figure(6.4, 5.4)
        if components.coordinates.shape[1] == 1:
            _draw_histogram(axes, components.coordinates[:, 0], "latent")
            return drawn
        _draw_places(axes, _pair(components.coordinates), labels)
        axes.set(xlabel=f"latent PC 1{_item(shares, 0)}", ylabel=f"latent PC 2{_item(shares, 1)}")
    return drawn


def plot_umap(embedding: np.ndarray, labels: np.ndarray | None = None) -> Figure:
    """Draw a UMAP plane, (images, 2), with the clusters' numbers."""
    with rc_context(STYLE):
        drawn, axes = figure(6.4, 5.4)
        _draw_places(axes, embedding, labels)
        axes.set(xlabel="UMAP 1 (no unit)", ylabel="UMAP 2 (no unit)", xticks=[], yticks=[])
    return drawn


def plot_motions(motions: Motions) -> Figure:
    """Draw where images lie along the two largest motions, and how much of the variance the first ten explain."""
    with rc_context(STYLE):
        drawn = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=[1.2, 1])
        label = "motion {}, r.m.s. over C-alphas (Å)"
        if motions.amplitudes.shape[1] < 2:
            _draw_histogram(left, _pair(motions.amplitudes)[:, 0], label.format(1))
        else:
            _draw_density(drawn, left, motions.amplitudes[:, :2])
            left.set(xlabel=label.format(1), ylabel=label.format(2))
        shares = motions.shares[:_SHARES]
        numbers = np.arange(1, len(shares) + 1)
        right.set(xlim=(0.4, max(len(shares), 2) + 0.6))
        right.bar(numbers, 100 * shares, color=BLUE, label="each")
        right.plot(
            numbers, 100 * shares.cumsum(), color=VERMILION, marker="o", markersize=4, label="it and those before"
        )
        right.set(xlabel="motion", ylabel="share of the variance (%)", ylim=(0, 104))
        whole_numbers(right.xaxis)
        legend_above(right)
    return drawn


def plot_path(
    position: np.ndarray, distance: np.ndarray, edges: np.ndarray, density: np.ndarray, *, unit: str = "latent units"
) -> Figure:
    """Draw how densely images lie along a path, -ln of it, and how far they are from the path.

    Parameters
    ----------
    position, distance : (images,)
        From :func:`~cryoatom.ensemble.along_path.position_on_path`.
    edges, density : (bins + 1,), (bins,)
        From :func:`~cryoatom.ensemble.along_path.density_on_path`.
    unit : str
        Of the distance: Å where the path leads through amplitudes of motions.
    """
    with rc_context(STYLE):
        drawn = Figure(figsize=(7.5, 8.2), layout="constrained")
        top, middle, bottom = drawn.subplots(3, 1, sharex=True)
        top.stairs(density, edges, fill=True, color=BLUE)
        top.set(ylabel="density of images\n(even spread: 1)", ylim=(0, None))
        top.axhline(1, color=GREY, linestyle="--", linewidth=1)
        energy = free_energy(density)
        middle.stairs(np.where(np.isfinite(energy), energy, np.nan), edges, color=VERMILION, baseline=None, linewidth=2)
        middle.set(ylabel="-ln(density), lowest at 0\n(kT, if in equilibrium)", ylim=(0, None))
        _draw_distances(bottom, position, distance, edges)
        bottom.set(xlabel="position on the path (0: start, 1: end)", xlim=(0, 1))
        bottom.set(ylabel=f"distance of images from\nthe path ({unit})", ylim=(0, None))
    return drawn


def _draw_distances(axes: Axes, position: np.ndarray, distance: np.ndarray, edges: np.ndarray) -> None:
    bins = np.clip(np.searchsorted(edges, position, side="right") - 1, 0, len(edges) - 2)
    bands = np.full((3, len(edges) - 1), np.nan)
    for number in np.unique(bins):
        bands[:, number] = np.quantile(distance[bins == number], (0.05, 0.5, 0.95))
    low, median, high = bands
    axes.stairs(high, edges, baseline=low, fill=True, color=ORANGE, alpha=0.4, label="5% to 95% of the images")
    axes.stairs(median, edges, baseline=None, color=ORANGE, linewidth=2, label="median")
    legend_above(axes)


def _draw_places(axes: Axes, places: np.ndarray, labels: np.ndarray | None) -> None:
    """Draw points in the colours of their clusters, or their density where there are too many to see."""
    if len(places) > _MANY_POINTS or labels is None:
        _draw_density(axes.figure.get_figure(root=True), axes, places)
    else:
        highest = int(labels.max())
        size = float(np.clip(20_000 / len(places), 2, 30))
        norm = BoundaryNorm(np.arange(0.5, highest + 1), 256) if highest > 1 else None
        axes.scatter(*places.T, c=labels, s=size, cmap=_CLUSTER_COLOURS, norm=norm, linewidths=0, rasterized=True)
    if labels is not None:
        colours = colormaps[_CLUSTER_COLOURS](np.linspace(0, 1, int(labels.max())))
        for label in np.unique(labels):
            x, y = np.median(places[labels == label], axis=0)
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colours[label - 1], "linewidth": 1.5}
            axes.text(x, y, str(label), ha="center", va="center", fontsize=8, bbox=box)


def _draw_density(drawn: Figure | None, axes: Axes, places: np.ndarray) -> None:
    drawing = axes.hexbin(*places.T, gridsize=_HEXAGONS, cmap="Blues", norm=LogNorm(), mincnt=1, linewidths=0.1)
    drawing.set_rasterized(True)
    assert drawn is not None
    drawn.colorbar(drawing, ax=axes, label="images in a hexagon", format="%d")


def _draw_histogram(axes: Axes, values: np.ndarray, label: str) -> None:
    axes.hist(values, bins=_BINS, color=BLUE)
    axes.set(xlabel=label, ylabel="images")
    whole_numbers(axes.yaxis)


def _pair(values: np.ndarray) -> np.ndarray:
    """Return the first two columns, zeros where there are fewer."""
    return np.pad(values[:, :2], [(0, 0), (0, max(0, 2 - values.shape[1]))])


def _item(texts: list[str], index: int) -> str:
    return texts[index] if index < len(texts) else ""
