"""The report page of an analysis: what it shows, put together."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from cryoatom import __version__
from cryoatom.analysis.evidence import Evidence
from cryoatom.analysis.landscape import Landscape, Traversal
from cryoatom.analysis.mechanics import Mechanics, hinge_residues
from cryoatom.analysis.report_data import Check, LowRank, Plot, ReportData
from cryoatom.analysis.run import Run

_MANY = 0.05  # share of images that is worth a note
_SHOWN_MOTIONS = 3


def report_data(
    run: Run,
    landscape: Landscape,
    mechanics: Mechanics,
    evidence: Evidence,
    *,
    series: dict[str, Traversal],
    checks: tuple[Check, ...],
    plots: list[Plot],
    command: str,
) -> ReportData:
    """Put everything together that the report page shows."""
    motions = landscape.motions
    return ReportData(
        title=run.folder.path.resolve().name,
        facts=_facts(run, landscape, command),
        notes=(*_bad(checks), *_image_notes(run), *evidence.notes),
        template=run.template,
        maps=_maps(landscape),
        colours=_colours(run, landscape, mechanics),
        low_rank=LowRank(motions.mean, motions.axes, motions.amplitudes, motions.error),
        series={traversal.title: traversal.positions for traversal in series.values()},
        series_notes={traversal.title: traversal.notes for traversal in series.values()},
        residue_colours=_residue_colours(mechanics),
        pictures=evidence.pictures,
        plots=tuple(plots),
        checks=checks,
        image_names=run.image_names,
    )


def _facts(run: Run, landscape: Landscape, command: str) -> dict[str, str]:
    config = run.config
    left_out = len(run) - len(landscape.rows)
    return {
        "images": f"{len(run):,}" + (f", of which {left_out:,} do not fit" if left_out else ""),
        "residues": f"{len(run.template):,}",
        "epochs": str(run.epoch or config.num_epochs),
        "time": datetime.now().isoformat(sep=" ", timespec="minutes"),
        "run": str(run.folder.path.resolve()),
        "particles": str(config.particles),
        "template": str(config.template),
        "decoder": f"{config.decoder}, {config.zdim} latent dimensions",
        "beads": config.beads,
        "poses": str(config.poses),
        "box": f"{run.box} pixels of {run.pixel_size:.4g} Å",
        "command": command,
        "trained by": " ".join(run.command),
        "cryoatom": __version__,
    }


def _bad(checks: tuple[Check, ...]) -> tuple[str, ...]:
    return tuple(f"{check.name}: {check.value}. {check.meaning}" for check in checks if check.verdict == "bad")


def _image_notes(run: Run) -> tuple[str, ...]:
    """Say how many images are junk, or tell nothing."""
    images, count = run.images, len(run)
    junk = int(((images["is_junk"] == 1) & (images["is_dead"] == 0)).sum())
    notes = []
    if junk > _MANY * count:
        notes.append(
            f"{junk:,} of {count:,} images do not fit: junk, or wrongly posed. `cryoatom train --ind` with "
            f"{run.folder.good_rows.name} leaves them out."
        )
    silent = int((images["is_uninformative"] == 1).sum()) if "is_uninformative" in images else 0
    if silent > _MANY * count:
        notes.append(
            f"{silent:,} of {count:,} images carry next to no information on their conformation: theirs are guesses."
        )
    return tuple(notes)


def _maps(landscape: Landscape) -> dict[str, np.ndarray]:
    maps = {}
    if landscape.motions.amplitudes.shape[1] > 1:
        maps["motions 1 and 2|motion 1 (Å)|motion 2 (Å)"] = landscape.motions.amplitudes[:, :2]
    if landscape.components.coordinates.shape[1] > 1:
        maps["latents|latent PC 1|latent PC 2"] = landscape.components.coordinates[:, :2]
    if landscape.embedding is not None:
        maps["UMAP of latents|UMAP 1|UMAP 2"] = landscape.embedding
    if not maps:  # one latent dimension, one motion
        first = landscape.components.coordinates[:, 0]
        maps["latent|latent|"] = np.stack([first, np.zeros_like(first)], axis=1)
    return maps


def _colours(run: Run, landscape: Landscape, mechanics: Mechanics) -> dict[str, np.ndarray]:
    """Return what points may be coloured by: what most will look for first."""
    images, motions = run.images, landscape.motions
    colours: dict[str, np.ndarray] = {"cluster": landscape.clusters.labels}
    for variable, values in mechanics.variables:
        colours[f"{variable.name} ({variable.unit})"] = values
    for index in range(min(_SHOWN_MOTIONS, motions.amplitudes.shape[1])):
        colours[f"motion {index + 1} (Å)"] = motions.amplitudes[:, index]
    if landscape.path is not None:
        colours["place on the path"] = landscape.path.position
    if run.epoch is None and "sd" in images:
        colours["uncertainty (Å)"] = images["sd"]
        colours["information (nats)"] = images["information_nats"]
    colours["gain over no particle (nats)"] = images["gain_nats"]
    colours["probability to fit"] = images["fits"]
    return colours


def _residue_colours(mechanics: Mechanics) -> dict[str, np.ndarray]:
    colours: dict[str, np.ndarray] = {"fluctuation (Å)": mechanics.fluctuation}
    if mechanics.uncertainty is not None:
        colours["uncertainty (Å)"] = mechanics.uncertainty
    if mechanics.domains is not None:
        colours["rigid domain"] = mechanics.domains.labels
        colours["hinge"] = hinge_residues(mechanics.domains).astype(np.int64)
    return colours
