"""The trust page's checks: each with its figure, what to compare it with, a verdict, and what it means."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from cryoatom.analysis.controls import (
    FEWEST_HELD_OUT,
    KINDS,
    MEAN,
    MIRRORED,
    OTHER_POSE,
    OWN,
    SHUFFLED,
    TEMPLATE,
    TURNED,
    Controls,
)
from cryoatom.analysis.convergence import Drift
from cryoatom.analysis.half_agreement import HalfSets
from cryoatom.analysis.report_data import Check
from cryoatom.files.csv_table import write_csv
from cryoatom.files.replacing import replacing
from cryoatom.structure.alpha_geometry import ANGLES_DEG, BOND_TOLERANCE, CLASH, Geometry

_CLEAR = 5.0  # standard errors
_CRYSTALS = {"clashes": 0.013, "bond_outliers": 0.026, "angle_outliers": 0.045}  # alpha_geometry: 65 crystal structures
_GOOD, _BAD = 0.25, 2.5  # clashes per 100 residues, and % of bonds or angles: molecular dynamics of ADK has up to 0.5
_AT_REST, _MOVING = 0.3, 1.0  # Å over the last quarter of the epochs: a third of a good run's error, or all of it
_HALVES_AGREE, _HALVES_DIFFER = 0.25, 0.5  # of the spread of the conformations
_SAME_MOTION, _OTHER_MOTION = 0.95, 0.8  # rank correlation
HETEROGENEITY = "Heterogeneity"
_FEWEST_EPOCHS = 5
_STILL_RISING = 0.02  # part of all that was gained, in the last epoch
_JUNK, _MUCH_JUNK = 0.05, 0.3  # share of images


def trust_checks(
    *,
    geometry: Geometry | None = None,
    template_geometry: Geometry | None = None,
    controls: Controls | None = None,
    drift: Drift | None = None,
    half_sets: HalfSets | None = None,
    images: Mapping[str, np.ndarray] | None = None,
) -> tuple[Check, ...]:
    """Return one line for each thing that was measured; what was not is left out.

    Parameters
    ----------
    geometry, template_geometry
        Of the conformations, and of the template beside them.
    controls, drift, half_sets
    images
        The columns of images.csv.
    """
    return (
        *(() if controls is None else _of_controls(controls)),
        *(() if half_sets is None else _of_half_sets(half_sets)),
        *(() if drift is None or len(drift.epochs) == 0 else _of_drift(drift)),
        *(() if geometry is None else _of_geometry(geometry, template_geometry)),
        *(() if images is None else _of_images(images)),
    )


def write_trust(
    folder: Path,
    checks: tuple[Check, ...],
    *,
    geometry: Geometry | None = None,
    controls: Controls | None = None,
    drift: Drift | None = None,
    half_sets: HalfSets | None = None,
) -> list[Path]:
    """Write trust.json, and geometry.csv, controls.csv, drift.csv and half_sets.csv of what was measured.

    Returns
    -------
    list of Path
        What was written.
    """
    tables: dict[str, Mapping[str, np.ndarray | None]] = {}
    if geometry is not None:
        tables["geometry.csv"] = {"image": geometry.rows, **{k: v for k, v in vars(geometry).items() if k != "rows"}}
    if controls is not None:
        tables["controls.csv"] = _control_table(controls)
    if drift is not None and len(drift.epochs):
        columns = {k: v for k, v in vars(drift).items() if k not in ("epochs", "images", "has_end")}
        tables["drift.csv"] = {"epoch": drift.epochs, **columns}
    if half_sets is not None:
        tables["half_sets.csv"] = {"image": half_sets.rows, "rmsd": half_sets.rmsd, "seen_by": half_sets.seen_by}
    with replacing(folder / "trust.json") as temporary:
        temporary.write_text(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False) + "\n")
    for name, columns in tables.items():
        write_csv(folder / name, columns)
    return [folder / "trust.json", *(folder / name for name in tables)]


def _control_table(controls: Controls) -> dict[str, np.ndarray | None]:
    """Return the mean gains, one row a kind; of held-out images where there are some."""
    mean, error = np.array([controls.mean(kind) for kind in KINDS]).T
    table = {"kind": np.array(KINDS), "gain_nats": mean, "standard_error": error}
    if not controls.held_out:
        return {**table, "held_out_gain_nats": None, "held_out_standard_error": None}
    mean, error = np.array([controls.mean(kind, held_out=True) for kind in KINDS]).T
    return {**table, "held_out_gain_nats": mean, "held_out_standard_error": error}


def _of_controls(controls: Controls) -> Iterator[Check]:
    held_out = bool(controls.held_out)
    which = "held-out images" if held_out else "images"
    noise, difference = controls.optimism, 2 * controls.optimism  # its latent may gain so much; two of them may differ
    value, error = controls.difference(OWN, MEAN, held_out=held_out)
    yield Check(
        HETEROGENEITY,
        f"{_nats(value, error, 'better')} than the mean conformation",
        f"up to {noise:.1f} nats by fitting a latent to noise",
        _clear(value, error, noise),
        f"How much better the {which} are explained by their own conformations than by one for all. Only what is above "
        "the reference is evidence that they differ; "
        + (
            "the decoder was not trained on them."
            if held_out
            else "there are no figures of held-out images, as they are fewer than "
            f"{FEWEST_HELD_OUT} (--held-out): the decoder was trained on these, and may have learned their noise."
        ),
    )
    value, error = controls.difference(OWN, SHUFFLED, held_out=held_out)
    yield Check(
        "Another image's conformation",
        _nats(value, error, "worse"),
        f"up to {difference:.1f} nats by fitting latents to noise",
        _clear(value, error, difference),
        "Each image is given the conformation of another one, in its own pose. Above the reference the conformation "
        "belongs to the image, and not to its noise alone.",
    )
    value, error = controls.difference(OWN, TEMPLATE, held_out=held_out)
    yield Check(
        "Static template",
        _nats(value, error, "worse"),
        f"up to {noise:.1f} nats by fitting a latent to noise",
        _clear(value, error, noise),
        "What the images gain by leaving the model that was given. If nothing, they show the template and no more.",
    )
    yield _of_wrong_templates(controls)
    value, error = controls.difference(OWN, OTHER_POSE)
    yield Check(
        "Another image's pose",
        _nats(value, error, "worse"),
        "0 if poses were random",
        _clear(value, error),
        "Each image keeps its conformation and takes the pose of another one: the poses belong to the images.",
    )


def _of_wrong_templates(controls: Controls) -> Check:
    kind = max((MIRRORED, TURNED), key=lambda each: controls.mean(each)[0])
    value, error = controls.difference(TEMPLATE, kind)
    return Check(
        "Wrong template",
        f"{_nats(value, error, 'worse')} ({'mirrored' if kind == MIRRORED else 'turned'})",
        "0 if any blob of this size would do",
        _clear(value, error),
        "The template against wrong ones of equal mass and size, turned at random about its centre and mirrored in "
        "place; the better one counts. In mirrored poses its mirror image would fit as well: images tell no hand.",
    )


def _of_half_sets(half_sets: HalfSets) -> Iterator[Check]:
    shared = ", poses" if half_sets.shares_poses else ""
    blind = (
        f"What both share is not seen: the template, the regularisers{shared} and the noise of the image itself. The "
        "error is at least so large, not at most"
    )
    unseen = half_sets.mean_of(0)
    beside = "" if unseen is None else f" ({unseen:.2f} Å for images that neither was trained on)"
    reference, scale = f"{half_sets.spread:.2f} Å, the spread of the conformations", max(half_sets.spread, 1e-9)
    yield Check(
        "Half sets: same image",
        f"{half_sets.mean:.2f} Å{beside}",
        reference,
        _low(half_sets.mean / scale, _HALVES_AGREE, _HALVES_DIFFER),
        "RMSD between the conformations that two decoders, trained on the odd and on the even images, give to the same "
        f"image; over √2, how far one is off by the images that it happened to learn from. {blind}.",
    )
    yield Check(
        "Half sets: same path",
        f"{half_sets.along_path:.2f} Å",
        reference,
        _low(half_sets.along_path / scale, _HALVES_AGREE, _HALVES_DIFFER),
        f"The same of the mean conformations of {len(half_sets.bins)} groups of images along the largest motion: "
        "without what is peculiar to single images.",
    )
    correlation = half_sets.motion_correlation
    if correlation is not None:
        yield Check(
            "Half sets: order of images",
            f"{correlation:.3f}",
            "1 if alike, 0 by chance",
            "good" if correlation >= _SAME_MOTION else "look" if correlation >= _OTHER_MOTION else "bad",
            "Rank correlation of the images' places along the largest motion that each half finds by itself.",
        )


def _of_drift(drift: Drift) -> Iterator[Check]:
    index = int(np.searchsorted(drift.epochs, 0.75 * drift.epochs[-1]))
    index = min(index, max(len(drift.epochs) - 2, 0))
    since, moved = int(drift.epochs[index]), float(drift.to_end[index])
    last = float(drift.per_epoch[-1])
    pace = "" if math.isnan(last) else f"{last:.2f} Å in the last"
    yield Check(
        "Drift of the structures",
        f"{moved:.2f} Å since epoch {since}",
        pace,
        _low(moved, _AT_REST, _MOVING) if len(drift.epochs) >= _FEWEST_EPOCHS and drift.has_end else "",
        ("" if drift.has_end else f"The training has not ended: this is up to epoch {drift.epochs[-1]}. ")
        + ("" if len(drift.epochs) >= _FEWEST_EPOCHS else "There are too few epochs to judge by. ")
        + "How far the conformations of the same images still moved in the last quarter of the training. If far, train "
        "longer (--num-epochs). At the very end they move little because the learning rates fall.",
    )
    nll = drift.held_out_nll[np.isfinite(drift.held_out_nll)]
    if len(nll) > 1:
        yield _of_held_out(nll)


def _of_held_out(nll: np.ndarray) -> Check:
    """Judge the likelihood of held-out images: it should rise to its best, and have come to rest there."""
    best = float(nll.min())
    loss, part = float(nll[-1]) - best, float(nll.max()) - best
    still = float(nll[-2] - nll[-1])  # gained in the last epoch
    verdict = "good" if loss <= 0.01 * part else "look" if loss <= 0.1 * part else "bad"
    if verdict == "good" and still > _STILL_RISING * part:
        verdict = "look"
    return Check(
        "Held-out likelihood",
        f"{-nll[-1]:.1f} nats an image",
        f"{-best:.1f} at its best, {-nll[0]:.1f} at first, {still:+.1f} in the last epoch",
        verdict,
        "Gain over no particle of images that the decoder was not trained on. If it falls again while that of the "
        "others rises, the decoder has learned their noise: stop earlier. If it is still rising, train longer.",
    )


def _of_geometry(geometry: Geometry, template: Geometry | None) -> Iterator[Check]:
    found, start = geometry.means(), None if template is None else template.means()
    low, high = ANGLES_DEG
    kinds = {
        "clashes": ("Clashes", " per 100 residues", f"C-alphas nearer than {CLASH} Å that are no neighbours"),
        "bond_outliers": ("Bonds", "%", f"C-alpha bonds more than {BOND_TOLERANCE} Å from a trans or cis peptide's"),
        "angle_outliers": ("Angles", "%", f"Angles of three C-alphas outside {low:.0f} to {high:.0f}°"),
    }
    for name, (title, unit, what) in kinds.items():
        own = 0.0 if start is None else start[name]
        template_note = "" if start is None else f"template {own:.2f}, "
        yield Check(
            title,
            f"{found[name]:.2f}{unit}",
            f"{template_note}crystal structures {_CRYSTALS[name]:.2f}",
            _low(found[name], max(_GOOD, 1.5 * own), max(_BAD, 3 * own)),
            f"{what}, mean of {len(geometry.rows):,} conformations. Many say that the motion is not one that a chain "
            "can make, or that images are fitted by bending it.",
        )
    yield Check(
        "Bond lengths",
        f"{found['bond_rms']:.3f} Å",
        "0.06 Å in molecular dynamics",
        _low(found["bond_rms"], 0.1, 0.3),
        "Root mean square change of C-alpha bonds from the template's.",
    )


def _of_images(images: Mapping[str, np.ndarray]) -> Iterator[Check]:
    if "is_junk" not in images or len(images["is_junk"]) == 0:
        return
    is_dead = images.get("is_dead", np.zeros(len(images["is_junk"]))) == 1
    share, dead = float(((images["is_junk"] == 1) & ~is_dead).mean()), int(is_dead.sum())
    yield Check(
        "Images that do not fit",
        f"{100 * share:.1f}%" + (f", and {dead:,} that could not be used" if dead else ""),
        "0 to 5% of a cleaned set",
        _low(share, _JUNK, _MUCH_JUNK),
        "Junk, or wrongly posed: the model explains them no better than images seen in another one's pose, so their "
        "conformations are hardly theirs. They are left out of all other figures here (images.csv has which; good.npy "
        "has the rows of the others).",
    )


def _nats(value: float, error: float, expected: Literal["better", "worse"]) -> str:
    """Say a difference that is positive where it has the sign that is expected."""
    other = "worse" if expected == "better" else "better"
    return f"{abs(value):.1f} ± {error:.1f} nats an image {expected if value >= 0 else other}"


def _clear(value: float, error: float, most: float = 0.0) -> str:
    """Judge a difference, by its standard error, that ought to lie above what chance makes at most, and above 0."""
    return "good" if value > most + _CLEAR * error else "look" if value > 0 else "bad"


def _low(value: float, good: float, bad: float) -> str:
    """Judge a figure that ought to be small."""
    return "good" if value <= good else "look" if value <= bad else "bad"
