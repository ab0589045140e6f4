"""How far a run can be trusted: everything that is measured for that, gathered."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.controls import Controls, measure_controls
from cryoatom.analysis.convergence import Drift, measure_drift
from cryoatom.analysis.half_sets import HalfSets, compare_half_sets, train_half_sets
from cryoatom.analysis.landscape import Landscape
from cryoatom.analysis.pictures import draw_pictures
from cryoatom.analysis.report_data import Picture
from cryoatom.analysis.run import Run
from cryoatom.ensemble.stereochemistry import geometry_of, measure_geometry
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
    has_halves = all((half / run.folder.conformations.name).is_file() for half in run.folder.halves)
    controls, pictures, notes = _compare_images(run, landscape, config, stage)
    if not has_halves:
        notes += (
            "No half sets: `cryoatom analyze RUN --half-sets` trains two more decoders, on the odd and on the even "
            "images, and tells how far they agree.",
        )
    return Evidence(
        geometry=measure_geometry(run.conformations, template.positions, template.chain_position),
        template_geometry=geometry_of(template.positions, template.chain_position),
        drift=measure_drift(run.folder),
        controls=controls,
        half_sets=compare_half_sets(run) if has_halves else None,
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
            opened = run.trainer(workers, datadir=config.datadir, stage=stage)
            trainer = opened.__enter__()
        except (FileNotFoundError, ValueError) as error:
            _logger.warning("no controls and no pictures, as the images cannot be read again: %s", error)
            return None, (), (f"The images could not be read again, so they were compared with nothing: {error}",)
        return _measure(trainer, run, landscape, config), _draw(trainer, run, landscape, config), ()


def _measure(trainer: Trainer, run: Run, landscape: Landscape, config: AnalyzeConfig) -> Controls | None:
    if not config.controls or trainer.objective.without_poses is not None or len(landscape.rows) < 2:
        return None
    held_out = training_rows(run.config, len(run))[1]
    return measure_controls(trainer, landscape.rows, config.seed, held_out=held_out)


def _draw(trainer: Trainer, run: Run, landscape: Landscape, config: AnalyzeConfig) -> tuple[Picture, ...]:
    if not config.pictures or trainer.objective.without_poses is not None:
        return ()
    rows, notes = chosen_images(run, landscape, config.pictures)
    return draw_pictures(trainer, rows, notes)


def chosen_images(run: Run, landscape: Landscape, count: int) -> tuple[np.ndarray, list[str]]:
    """Choose images worth a look: centres of clusters, the best, the worst, the least certain, the junk.

    Returns
    -------
    (m,) int64 array and list of str
        At most `count` rows, each once, and why.
    """
    images, rows = run.images, landscape.rows
    each = max(1, count // 8)
    gain, fits = images["gain_nats"], images["fits"]
    by_gain = rows[np.argsort(gain[rows], kind="stable")]
    wanted = [(row, f"centre of cluster {label}") for label, row in enumerate(landscape.clusters.center_rows, start=1)]
    extra = [(row, "explained best") for row in by_gain[::-1][:each]]
    extra += [(row, "explained worst") for row in by_gain[:each]]
    if "sd" in images:
        extra += [(row, "least certain") for row in rows[np.argsort(-images["sd"][rows], kind="stable")][:each]]
    junk = np.setdiff1d(np.flatnonzero(images["is_dead"] == 0), rows)
    extra += [(row, "does not fit: junk?") for row in junk[np.argsort(fits[junk], kind="stable")][:each]]
    kept = wanted[: max(count - len(extra), count // 2)] + extra
    chosen: dict[int, str] = {}
    for row, note in kept:
        chosen.setdefault(int(row), note)
    return np.array(list(chosen)[:count], dtype=np.int64), list(chosen.values())[:count]
