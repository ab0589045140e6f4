"""The report page of an analysis: what it shows, put together."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import torch

from cryoatom import __version__
from cryoatom.analysis.evidence import Evidence
from cryoatom.analysis.landscape import Landscape, Traversal
from cryoatom.analysis.mechanics import Mechanics, hinge_residues
from cryoatom.analysis.report_data import Check, Plot, ReportData
from cryoatom.analysis.run import Run
from cryoatom.analysis.trust import HETEROGENEITY
from cryoatom.ensemble.motions import Motions
from cryoatom.structure.superpose import kabsch, transform
from cryoatom.structure.template import Template

_MANY = 0.05  # share of images that is worth a note
_SHOWN_MOTIONS = 3
_NO_DIFFERENCE = (
    "These images do not tell conformations apart: do not interpret the motions, clusters and paths on this page."
)


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
    images = run.own_images
    return ReportData(
        title=run.folder.path.resolve().name + ("" if run.epoch is None else f", epoch {run.epoch}"),
        facts=_facts(run, landscape, command),
        notes=(*_bad(checks), *_image_notes(run, images), *evidence.notes),
        template=run.template,
        rows=run.rows,
        maps=_maps(landscape),
        colours=_colours(images, landscape, mechanics),
        motions=on_template(landscape.motions, run.template),
        series={traversal.title: traversal.positions for traversal in series.values()},
        series_notes={traversal.title: traversal.notes for traversal in series.values()},
        residue_colours=_residue_colours(mechanics),
        pictures=evidence.pictures,
        plots=tuple(plots),
        checks=checks,
        image_names=run.image_names,
    )


def on_template(motions: Motions, template: Template) -> Motions:
    """Return the motions in the frame of the template: the mean superposed on it, and the axes turned alike."""
    mean = torch.from_numpy(motions.mean)
    rotation, translation = kabsch(mean, torch.from_numpy(template.positions))
    return replace(motions, mean=transform(mean, rotation, translation).numpy(), axes=motions.axes @ rotation.numpy().T)


def _facts(run: Run, landscape: Landscape, command: str) -> dict[str, str]:
    config = run.config
    left_out = len(run) - len(landscape.rows)
    when = "" if run.epoch is None else " in the end"
    return {
        "images": f"{len(run):,}" + (f" ({left_out:,} left out{when}: junk, or unusable)" if left_out else ""),
        "residues": f"{len(run.template):,}",
        "epochs": str(run.epoch or len(run.history)),
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
    """Return what is bad, first that nothing which follows means anything."""
    found = [check for check in checks if check.verdict == "bad"]
    first = (_NO_DIFFERENCE,) if any(check.name == HETEROGENEITY for check in found) else ()
    return (*first, *(f"{check.name}: {check.value}. {check.meaning}" for check in found))


def _image_notes(run: Run, images: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Say how many images are junk, or tell nothing."""
    if not images:
        return ()
    is_junk, notes, of_all = images["is_junk"] == 1, [], f"of {len(run):,} images"
    junk = int((is_junk & (images["is_dead"] == 0)).sum())
    if junk > _MANY * len(run):
        notes.append(
            f"{junk:,} {of_all} do not fit: junk, or wrongly posed. `cryoatom train --ind {run.folder.good_rows}` "
            "leaves them out."
        )
    silent = int(((images["is_uninformative"] == 1) & ~is_junk).sum()) if "is_uninformative" in images else 0
    if silent > _MANY * len(run):
        notes.append(
            f"{silent:,} {of_all} carry next to no information on their conformation (they narrow it down by less "
            "than a tenth), though they fit: theirs are hardly better than guesses."
        )
    return tuple(notes)


def _maps(landscape: Landscape) -> dict[str, np.ndarray]:
    maps = {}
    if landscape.motions.amplitudes.shape[1] > 1:
        maps["motions|motion 1 (Å)|motion 2 (Å)"] = landscape.motions.amplitudes[:, :2]
    if landscape.components.coordinates.shape[1] > 1:
        maps["latents|latent PC 1|latent PC 2"] = landscape.components.coordinates[:, :2]
    if landscape.embedding is not None:
        maps["UMAP of latents|UMAP 1|UMAP 2"] = landscape.embedding
    if not maps:  # one latent dimension, one motion
        first = landscape.components.coordinates[:, 0]
        maps["latent|latent|"] = np.stack([first, np.zeros_like(first)], axis=1)
    return maps


def _colours(images: dict[str, np.ndarray], landscape: Landscape, mechanics: Mechanics) -> dict[str, np.ndarray]:
    """Return what points may be coloured by: what most will look for first."""
    motions = landscape.motions
    colours: dict[str, np.ndarray] = {"cluster": landscape.clusters.labels}
    for variable, values in mechanics.variables:
        colours[f"{variable.name} ({variable.unit})"] = values
    for index in range(min(_SHOWN_MOTIONS, motions.amplitudes.shape[1])):
        colours[f"motion {index + 1} (Å)"] = motions.amplitudes[:, index]
    if landscape.path is not None:
        colours["place on the path"] = landscape.path.position
    columns = {
        "uncertainty (Å)": "sd",
        "information (nats)": "information_nats",
        "gain over no particle (nats)": "gain_nats",
        "probability to fit": "fits",
    }
    return colours | {name: images[column] for name, column in columns.items() if column in images}


def _residue_colours(mechanics: Mechanics) -> dict[str, np.ndarray]:
    colours: dict[str, np.ndarray] = {"fluctuation (Å)": mechanics.fluctuation}
    if mechanics.uncertainty is not None:
        colours["uncertainty (Å)"] = mechanics.uncertainty
    colours["rigid domain"] = mechanics.domains.labels
    colours["hinge"] = hinge_residues(mechanics.domains).astype(np.int64)
    return colours
