"""The plots of an evaluation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

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
from cryoatom.results.evaluation import WITHIN_DEG, EvaluationResult

BINS = 80
PAIRING_BINS = 150
LEAST_ANGLE_DEG = 0.1


def plot_histogram(result: EvaluationResult) -> Figure:
    """Draw how RMSDs are distributed over images, before (template) and after (prediction), as the paper's Fig. 3.

    Without labels, those of the optimal pairing stand in, or where that was skipped those to the nearest frame.
    """
    images, frames = result.images, result.frames
    if images.rmsd is not None:
        after, label = images.rmsd, "RMSD to the true frame of the image (Å)"
    elif images.rmsd_paired is not None:
        after, label = images.rmsd_paired, "RMSD to the frame paired with the image (Å)"
    else:
        after, label = images.rmsd_nearest, "RMSD to the frame nearest to the image (Å)"
    before = np.repeat(frames.rmsd_template, frames.images)
    static = float(np.repeat(frames.rmsd_static, frames.images).mean())
    with rc_context(STYLE):
        drawn, axes = figure()
        bins = np.linspace(0, 1.02 * max(before.max(), after.max()), BINS + 1).tolist()
        for values, colour, name in ((before, GREY, "template"), (after, BLUE, "prediction")):
            axes.hist(values, bins=bins, color=colour, alpha=0.75, label=f"{name}, mean {values.mean():.2f} Å")
            axes.axvline(float(values.mean()), color=colour, linewidth=2)
        axes.axvline(static, color=VERMILION, linestyle="--", label=f"best static structure, mean {static:.2f} Å")
        axes.set(xlabel=label, ylabel="images", xlim=(0, None))
        whole_numbers(axes.yaxis)
        legend_above(axes)
    return drawn


def plot_residues(result: EvaluationResult) -> Figure:
    """Draw the deviation of each residue: template, best static structure, prediction and its bias."""
    residues = result.residues
    with rc_context(STYLE):
        drawn, axes = figure(width=9)
        place = residue_axis(axes, residues.chain, residues.number)
        line(axes, place, residues.template, label="template", color=GREY)
        line(axes, place, residues.static, label="best static structure", color=ORANGE, linestyle="--")
        if residues.deviation is not None and residues.bias is not None:
            line(axes, place, residues.deviation, label="prediction", color=BLUE, linewidth=2)
            line(axes, place, residues.bias, label="bias of the prediction", color=VERMILION)
        axes.set(ylabel="C-alpha deviation, r.m.s. (Å)", ylim=(0, None))
        legend_above(axes, columns=4)
    return drawn


def plot_frames(result: EvaluationResult) -> Figure | None:
    """Draw mean RMSD, bias and scatter along the trajectory; None without labels."""
    frames = result.frames
    if frames.rmsd is None or frames.bias is None or frames.scatter is None:
        return None
    index = np.flatnonzero(frames.images)
    with rc_context(STYLE):
        drawn = Figure(figsize=(7, 6), layout="constrained")
        upper, lower = drawn.subplots(2, sharex=True)
        line(upper, index, frames.rmsd_template[index], label="template", color=GREY)
        line(upper, index, frames.rmsd_static[index], label="best static structure", color=ORANGE, linestyle="--")
        line(upper, index, frames.rmsd[index], label="prediction", color=BLUE, linewidth=2)
        upper.set(ylabel="mean RMSD (Å)", ylim=(0, None))
        line(lower, index, frames.bias[index], label="bias", color=VERMILION, linewidth=2)
        line(lower, index, frames.scatter[index], label="scatter", color=GREEN, linewidth=2)
        lower.set(xlabel="true frame", ylabel="bias and scatter (Å)", ylim=(0, None))
        whole_numbers(lower.xaxis)
        for axes in (upper, lower):
            axes.margins(x=0.01)
            legend_above(axes, columns=3)
    return drawn


def plot_pairing(result: EvaluationResult) -> Figure | None:
    """Draw the pairing of EMD-RMSD: paired against true frames, and RMSDs by paired frame; None where skipped."""
    images = result.images
    if images.paired_frame is None or images.rmsd_paired is None:
        return None
    with rc_context(STYLE):
        if images.frame is None:
            drawn, right = figure()
        else:
            drawn = Figure(figsize=(11, 4.6), layout="constrained")
            left, right = drawn.subplots(1, 2)
            _draw_pairs(drawn, left, images.frame, images.paired_frame, len(result.frames.images))
        _draw_paired_rmsds(right, images.paired_frame, images.rmsd_paired, result.emd_rmsd)
    return drawn


def plot_poses(result: EvaluationResult) -> Figure | None:
    """Draw how pose errors are distributed over images, on a logarithmic axis; None without true poses."""
    angles = result.images.pose_error_deg
    if angles is None:
        return None
    angles = np.maximum(angles, LEAST_ANGLE_DEG)  # smaller ones stand in the first bin
    median, share = float(np.median(angles)), float((angles <= WITHIN_DEG).mean())
    with rc_context(STYLE):
        drawn, axes = figure()
        axes.hist(angles, bins=np.geomspace(LEAST_ANGLE_DEG, 180.0, BINS + 1).tolist(), color=BLUE, alpha=0.75)
        axes.axvline(median, color=BLUE, linewidth=2, label=f"median {median:.2g}°")
        within = f"{100 * share:.1f}% of the images within {WITHIN_DEG:g}°"
        axes.axvline(WITHIN_DEG, color=VERMILION, linestyle="--", label=within)
        axes.set(xlabel="pose error (°)", ylabel="images", xscale="log", xlim=(LEAST_ANGLE_DEG, 180))
        axes.xaxis.set_major_formatter("{x:g}")
        whole_numbers(axes.yaxis)
        legend_above(axes)
    return drawn


PLOTS: dict[str, Callable[[EvaluationResult], Figure | None]] = {
    "histogram.png": plot_histogram,
    "residues.png": plot_residues,
    "frames.png": plot_frames,
    "emd_pairing.png": plot_pairing,
    "poses.png": plot_poses,
}


def _draw_pairs(drawn: Figure, axes: Axes, true: np.ndarray, paired: np.ndarray, frames: int) -> None:
    step = -(-frames // PAIRING_BINS)  # whole frames in each bin, or some bins would look fuller than others
    edges = np.arange(0, frames + step, step) - 0.5
    counts = np.histogram2d(paired, true, bins=[edges, edges])[0]
    norm = LogNorm(1, max(2, counts.max()))
    mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(counts, 0), norm=norm, cmap="viridis")
    bar = drawn.colorbar(mesh, ax=axes, label="images", ticks=LogLocator(subs=(1, 2, 5)), format="{x:g}")
    bar.minorticks_off()
    axes.plot([0, frames - 1], [0, frames - 1], color=VERMILION, linestyle="--", label="paired with the true frame")
    axes.set(xlabel="true frame", ylabel="paired frame", aspect="equal")
    whole_numbers(axes.xaxis, axes.yaxis)
    legend_above(axes)


def _draw_paired_rmsds(axes: Axes, paired: np.ndarray, rmsds: np.ndarray, mean: float) -> None:
    order = np.argsort(paired, kind="stable")
    frames, starts = np.unique(paired[order], return_index=True)
    groups = np.split(rmsds[order], starts[1:])
    low, middle, high = np.array([np.quantile(group, (0.05, 0.5, 0.95)) for group in groups]).T
    axes.fill_between(frames, low, high, color=BLUE, alpha=0.3, linewidth=0, label="5% to 95% of the images")
    axes.plot(frames, middle, color=BLUE, linewidth=2, label="median")
    axes.axhline(mean, color=VERMILION, linestyle="--", label=f"EMD-RMSD {mean:.2f} Å")
    axes.set(xlabel="paired frame", ylabel="RMSD of the pairs (Å)", ylim=(0, None))
    axes.margins(x=0.01)
    whole_numbers(axes.xaxis)
    legend_above(axes)
