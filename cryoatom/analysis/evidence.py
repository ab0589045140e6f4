"""How far a run can be trusted: everything that is measured for that, gathered."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.controls import Controls, measure_controls
from cryoatom.analysis.convergence import Drift, measure_drift
from cryoatom.analysis.half_agreement import HalfSets, compare_half_sets
from cryoatom.analysis.half_sets import explain_missing_half_sets, train_half_sets
from cryoatom.analysis.landscape import Landscape
from cryoatom.analysis.pictures import draw_pictures
from cryoatom.analysis.report_data import Picture
from cryoatom.analysis.run import Run
from cryoatom.ensemble.stereochemistry import geometry_of, measure_geometry
from cryoatom.particles.rows import spaced_rows
from cryoatom.structure.alpha_geometry import Geometry
from cryoatom.threads import available_cores
from cryoatom.training.fit import training_rows
from cryoatom.training.stage import Stage
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evidence:
    """What speaks for or against a run; None for what was not measured.

    Parameters
    ----------
    geometry, template_geometry
        Stereochemistry of the conformations, and of the template beside them.
    drift, controls, half_sets
    pictures
        Images beside their models.
    notes
        What could not be measured, and why.
    """

    geometry: Geometry
    template_geometry: Geometry
    drift: Drift
    controls: Controls | None
    half_sets: HalfSets | None
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]


def gather_evidence(run: Run, landscape: Landscape, config: AnalyzeConfig, stage: Stage) -> Evidence:
    """Measure what can be measured.

    Without the images, which may have moved since the training, there are neither controls nor pictures.

    Raises
    ------
    FileNotFoundError, ValueError
        If half sets are asked for and cannot be trained.
    """
    template = run.template
    if config.half_sets:
        train_half_sets(run, stage=stage, threads=config.threads, datadir=config.datadir)
    controls, pictures, notes = _compare_images(run, landscape, config, stage)
    no_halves = explain_missing_half_sets(run)
    if no_halves is not None:
        notes += (no_halves,)
    return Evidence(
        geometry=measure_geometry(run.conformations, template.positions, template.chain_position, rows=landscape.rows),
        template_geometry=geometry_of(template.positions, template.chain_position),
        drift=measure_drift(run),
        controls=controls,
        half_sets=compare_half_sets(run) if no_halves is None else None,
        pictures=pictures,
        notes=notes,
    )


def _compare_images(
    run: Run, landscape: Landscape, config: AnalyzeConfig, stage: Stage
) -> tuple[Controls | None, tuple[Picture, ...], tuple[str, ...]]:
    """Return controls, pictures and what stands in their way."""
    if not config.controls and not config.pictures:
        return None, (), ()
    with Workers(available_cores(config.threads)) as workers:
        try:
            trainer = run.open_trainer(workers, datadir=config.datadir, stage=stage)
        except (OSError, ValueError) as error:  # they may have moved, or the run folder may be read-only
            _logger.warning("no controls and no pictures, as the images cannot be read again: %s", error)
            return None, (), (f"The images could not be read again, so they were compared with nothing: {error}",)
        if trainer.objective.without_poses is not None:
            note = "With `--pose-loss expected` images have no poses of their own: no controls, pictures, uncertainty."
            return None, (), (note,)
        return _measure(trainer, run, landscape, config), _draw(trainer, run, landscape, config), ()


def _measure(trainer: Trainer, run: Run, landscape: Landscape, config: AnalyzeConfig) -> Controls | None:
    if not config.controls:
        return None
    alive = landscape.rows[~trainer.data.is_dead[landscape.rows]]
    if len(alive) < 2:
        return None
    unseen = np.setdiff1d(alive, training_rows(run.config, len(run))[0])
    return measure_controls(trainer, alive, config.seed, held_out=unseen)


def _draw(trainer: Trainer, run: Run, landscape: Landscape, config: AnalyzeConfig) -> tuple[Picture, ...]:
    if not config.pictures:
        return ()
    rows, notes = chosen_images(run, landscape, config.pictures)
    return draw_pictures(trainer, rows, notes)


def chosen_images(run: Run, landscape: Landscape, count: int) -> tuple[np.ndarray, list[str]]:
    """Choose images worth a look: centres of clusters, the best, the worst, the least certain, the junk.

    An even sample fills up what is left. Of an epoch it alone stands beside the centres: images.csv is of the end.

    Returns
    -------
    (m,) int64 array and list of str
        `count` images, or all that there are, each once, and why.
    """
    told = run.own_images
    extra = _told_images(told, landscape, max(1, count // 8)) if told else _sampled_images(landscape, count // 2)
    filling = _sampled_images(landscape, 2 * count)
    centers = landscape.clusters.center_rows.tolist()
    wanted = [(image, f"centre of cluster {label}") for label, image in enumerate(centers, start=1)]
    chosen: dict[int, str] = {}
    for image, note in wanted[: max(count - len(extra), count // 2)] + extra + wanted + filling:
        chosen.setdefault(image, note)
    return np.array(list(chosen)[:count], dtype=np.int64), list(chosen.values())[:count]


def _told_images(images: dict[str, np.ndarray], landscape: Landscape, each: int) -> list[tuple[int, str]]:
    """Return the extremes of images.csv."""
    rows = landscape.rows
    junk = np.setdiff1d(np.flatnonzero(images["is_dead"] == 0), rows)
    ranked = {
        "explained best": rows[np.argsort(-images["gain_nats"][rows], kind="stable")],
        "explained worst": rows[np.argsort(images["gain_nats"][rows], kind="stable")],
        "least certain": rows[np.argsort(-images["sd"][rows], kind="stable")] if "sd" in images else rows[:0],
        "does not fit: junk?": junk[np.argsort(images["fits"][junk], kind="stable")],
    }
    return [(image, note) for note, order in ranked.items() for image in order[:each].tolist()]


def _sampled_images(landscape: Landscape, count: int) -> list[tuple[int, str]]:
    rows = landscape.rows[spaced_rows(len(landscape.rows), count)]
    return [(image, "of an even sample") for image in rows.tolist()]
