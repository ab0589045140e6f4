"""The trust page's plots."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from cryoatom.analysis.controls import KINDS, OWN, Controls
from cryoatom.analysis.convergence import Drift
from cryoatom.analysis.half_agreement import HalfSets
from cryoatom.analysis.report_data import Plot
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
from cryoatom.structure.alpha_geometry import Geometry
from cryoatom.structure.template import Template

_BINS = 60
_SECTION = "Trust"


def trust_plots(
    template: Template,
    *,
    geometry: Geometry | None = None,
    template_geometry: Geometry | None = None,
    controls: Controls | None = None,
    drift: Drift | None = None,
    half_sets: HalfSets | None = None,
) -> tuple[Plot, ...]:
    """Return the plots of what was measured."""
    plots = []
    if controls is not None:
        caption = (
            "What images gain over an empty image if they show their own conformation, and what they gain if they are "
            "taken to show something else. Bars are means, lines two standard errors. Another image's conformation may "
            "also have lost as much, by its own fit to noise, as the dashed line takes off."
        )
        plots.append(Plot(_SECTION, "Controls", caption, plot_controls(controls), "controls.png"))
    if drift is not None and len(drift.epochs) > 1:
        caption = (
            f"How far the conformations of {drift.images} images moved from epoch to epoch, and how far they still "
            f"were from {_end(drift)}; below, the held-out likelihood."
        )
        plots.append(Plot(_SECTION, "Convergence", caption, plot_drift(drift), "drift.png"))
    if half_sets is not None:
        caption = (
            "Two decoders, trained on the odd and on the even images, asked about the same images. They share "
            "template, regularisers and the noise of the image: the true error is larger."
        )
        plots.append(Plot(_SECTION, "Half sets", caption, plot_half_sets(half_sets), "half_sets.png"))
        caption = "Where in the molecule the two halves differ: an estimate of the error of one of them, from below."
        drawn = plot_half_set_residues(half_sets, template)
        plots.append(Plot(_SECTION, "Half sets: by residue", caption, drawn, "half_set_residues.png"))
    if geometry is not None:
        caption = "Is each conformation one that a chain of C-alphas can have? Dashed: the template."
        drawn = plot_geometry(geometry, template_geometry)
        plots.append(Plot(_SECTION, "Stereochemistry", caption, drawn, "geometry.png"))
    return tuple(plots)


def plot_controls(controls: Controls) -> Figure:
    """Draw the mean gain of each kind as a bar; points are the held-out images."""
    place = np.arange(len(KINDS))[::-1]
    means, errors = np.array([controls.mean(kind) for kind in KINDS]).T
    with rc_context(STYLE):
        drawn, axes = figure(width=8.5, height=4.2)
        colours = [BLUE if kind == OWN else GREY for kind in KINDS]
        axes.barh(place, means, xerr=2 * errors, color=colours, height=0.7)
        if controls.held_out:
            held, held_errors = np.array([controls.mean(kind, held_out=True) for kind in KINDS]).T
            label = "images held out from the decoder"
            axes.errorbar(held, place, xerr=2 * held_errors, fmt="o", color=VERMILION, markersize=5, label=label)
        own = controls.mean(OWN)[0]
        label = f"own conformation, less {controls.optimism:.1f} nats that a latent fitted to noise may gain"
        axes.axvline(own - controls.optimism, color=BLUE, linestyle="--", linewidth=1, label=label)
        axes.set_yticks(place, KINDS)
        axes.tick_params(axis="y", length=0)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel="gain over an empty image (nats an image)")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.3)
    return drawn


def _end(drift: Drift) -> str:
    return "the final conformations" if drift.has_end else f"those of epoch {drift.epochs[-1]}, the last one so far"


def plot_drift(drift: Drift) -> Figure:
    """Draw how far conformations moved, and the likelihood, epoch by epoch."""
    has_nll = bool(np.isfinite(drift.held_out_nll).any())
    with rc_context(STYLE):
        drawn = Figure(figsize=(7, 6 if has_nll else 4), layout="constrained")
        if has_nll:
            upper, lower = drawn.subplots(2, sharex=True)
            line(lower, drift.epochs, -drift.nll, color=GREY, label="images that train (while they do)")
            line(lower, drift.epochs, -drift.held_out_nll, color=VERMILION, label="held-out images")
            lower.set(ylabel="gain over an empty\nimage (nats an image)")
            legend_above(lower)
        else:
            upper = lower = drawn.subplots()
        line(upper, drift.epochs, drift.to_end, color=BLUE, label=f"to {_end(drift)}")
        line(upper, drift.epochs, drift.from_previous, color=ORANGE, label="to the saved epoch before")
        upper.set(ylabel="RMSD of the same image's\nconformations (Å)", ylim=(0, None))
        legend_above(upper)
        lower.set(xlabel="epoch")
        whole_numbers(lower.xaxis)
    return drawn


def plot_half_sets(half_sets: HalfSets) -> Figure:
    """Draw the RMSDs of images as a histogram, and those along the path."""
    unseen = half_sets.mean_of(0)
    with rc_context(STYLE):
        drawn = Figure(figsize=(10, 4.6), layout="constrained")
        left, right = drawn.subplots(1, 2)
        top = 1.1 * float(np.quantile(half_sets.rmsd, 0.995)) + 1e-6
        values = np.minimum(half_sets.rmsd, top)  # the last bin holds what lies beyond
        left.hist(values, bins=np.linspace(0, top, _BINS + 1).tolist(), color=BLUE, alpha=0.75)
        left.axvline(half_sets.mean, color=BLUE, linewidth=2, label=f"all images: mean {half_sets.mean:.2f} Å")
        if unseen is not None:
            label = f"images that neither half was trained on: mean {unseen:.2f} Å"
            left.axvline(unseen, color=VERMILION, linestyle="--", label=label)
        left.set(xlabel="RMSD between the halves, same image (Å; last bar: or more)", ylabel="images", xlim=(0, None))
        whole_numbers(left.yaxis)
        legend_above(left, columns=1)
        order, label = np.argsort(half_sets.bins), f"{len(half_sets.bins)} groups of images: mean conformations"
        line(right, half_sets.bins[order], half_sets.bin_rmsd[order], color=GREEN, label=label)
        right.axhline(half_sets.mean, color=GREY, linestyle="--", label="single images: mean")
        right.set(xlabel="place along the largest motion (r.m.s. Å)", ylabel="RMSD between the halves (Å)")
        right.set(ylim=(0, None))
        legend_above(right, columns=1)
    return drawn


def plot_half_set_residues(half_sets: HalfSets, template: Template) -> Figure:
    """Draw the halves' difference, over √2, residue by residue."""
    with rc_context(STYLE):
        drawn, axes = figure(width=9, height=4)
        place = residue_axis(axes, template.chain_ids, template.residue_numbers)
        line(axes, place, half_sets.residues, color=BLUE)
        axes.set(ylabel="difference of the halves / √2,\nr.m.s. over images (Å)", ylim=(0, None))
    return drawn


def plot_geometry(geometry: Geometry, template: Geometry | None) -> Figure:
    """Draw histograms of clashes, bonds and angles over conformations, the template marked."""
    panels = {
        "clashes": "clashes per 100 residues",
        "bond_outliers": "bonds of unlikely length (%)",
        "angle_outliers": "unlikely angles (%)",
        "bond_rms": "change of bonds, r.m.s. (Å)",
    }
    with rc_context(STYLE):
        drawn = Figure(figsize=(9, 6), layout="constrained")
        for axes, (name, label) in zip(drawn.subplots(2, 2).ravel(), panels.items(), strict=True):
            values = getattr(geometry, name)
            own = None if template is None else float(getattr(template, name)[0])
            highest = max(float(values.max()), own or 0.0, 1e-3)
            found = np.unique(values)
            if len(found) <= _BINS:  # counts of a few kinds: a bar each
                counts = [100 * float((values == each).mean()) for each in found]
                step = float(np.diff(found).min()) if len(found) > 1 else highest
                axes.bar(found, counts, width=0.6 * step, color=BLUE)
                axes.set_xlim(-0.5 * step, None)
                axes.xaxis.set_major_formatter(lambda value, place: "" if value < 0 else f"{value:g}")
            else:
                weights = np.full(len(values), 100 / len(values))
                axes.hist(values, bins=np.linspace(0, highest, _BINS + 1).tolist(), weights=weights, color=BLUE)
            mean = float(values.mean())
            axes.axvline(mean, color=ORANGE, linewidth=1.8, label=f"mean {mean:.3g}")
            if own is not None:
                axes.axvline(own, color=VERMILION, linestyle="--", label=f"template {own:.3g}")
            axes.set(xlabel=label, ylabel="conformations (%)")
            axes.legend(loc="upper right")
    return drawn
