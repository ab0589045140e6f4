"""`cryoatom train`: from a particle file and a structure to one conformation per image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatom.distributed import Ranks, joined
from cryoatom.files.replacing import are_files_written, writing_files
from cryoatom.files.rows import read_rows
from cryoatom.imaging.matched import MatchedSet
from cryoatom.run_folder import RunFolder
from cryoatom.structure.graph import write_graph
from cryoatom.structure.template import write_template
from cryoatom.threads import available_cores
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_trainer, chunk_size, one_conformation
from cryoatom.training.checkpoint import Identity, find_checkpoint, save_checkpoint
from cryoatom.training.checks import check_inputs
from cryoatom.training.denoise import are_latents_denoised, denoise_latents
from cryoatom.training.disk import check_space
from cryoatom.training.finite import NotFiniteError
from cryoatom.training.fit import fit
from cryoatom.training.image_report import fitting_probability, report_images
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import Inputs, read_inputs, run_identity
from cryoatom.training.latent_mixture import Denoised
from cryoatom.training.outputs import write_outputs
from cryoatom.training.pose_report import check_hand, report_poses
from cryoatom.training.restarts import choose_start
from cryoatom.training.segments import write_segments
from cryoatom.training.stage import Stage, silent
from cryoatom.training.trainer import Trainer
from cryoatom.training.uncertainty import (
    ImageUncertainty,
    are_poses_uncertain,
    is_uncertainty_measured,
    measure_uncertainty,
)
from cryoatom.workers import Workers

_logger = logging.getLogger(__name__)


def train(
    config: TrainConfig, *, command: list[str] | None = None, stage: Stage = silent, is_checked: bool = False
) -> RunFolder:
    """Fit one conformation per image and write the run folder.

    Parameters
    ----------
    config
        Settings.
    command
        The command line, for config.yaml.
    stage
        Opens progress reports.
    is_checked
        Whether template, poses and images are known to belong together, from an earlier run of the same.

    Raises
    ------
    FileNotFoundError, ValueError
        For bad input, before any time is spent; also where the folder holds a run, without --load or --overwrite.
    OSError
        When the disk is full; the last checkpoint survives.
    """
    folder = RunFolder(config.outdir)
    with joined() as ranks, writing_files(ranks.is_first):
        inputs = ranks.after_first(lambda: read_inputs(config))
        identity = run_identity(config, inputs)
        checkpoint = ranks.of_first(lambda: check_run(config, inputs, folder, identity, is_checked=is_checked))
        with folder.writing():
            if config.load is None and ranks.is_first:
                folder.start_anew(overwrite=config.overwrite)
            folder.save_text(folder.config, config.to_yaml(command or []))
            run = Run(config, inputs, folder, identity, checkpoint)
            try:
                fit_and_write(run, ranks, stage)
            except NotFiniteError as error:
                raise error.naming(inputs.particles.image_names) from error
    _logger.info("finished")
    return folder


def check_run(
    config: TrainConfig, inputs: Inputs, folder: RunFolder, identity: Identity, *, is_checked: bool
) -> Path | None:
    """Find out what would keep a run from its end, before time is spent; return the checkpoint to go on from."""
    folder.check_vacant(overwrite=config.overwrite or config.load is not None)
    checkpoint = find_checkpoint(config.load, folder, identity)
    if checkpoint is None:
        if not is_checked:
            check_inputs(config, inputs)
        check_space(config, inputs)
    return checkpoint


@dataclass(frozen=True)
class Run:
    """What was read and checked: settings, their inputs, where to write, what checkpoints belong to, where to go on."""

    config: TrainConfig
    inputs: Inputs
    folder: RunFolder
    identity: Identity
    checkpoint: Path | None


def fit_and_write(run: Run, ranks: Ranks, stage: Stage) -> None:
    """Fit what was read and checked, and write the outputs; ranks share the work, and the first one writes."""
    config, inputs, folder = one_conformation(run.config), run.inputs, run.folder
    write_template(folder.template, inputs.template)
    write_graph(folder.graph, inputs.graph)
    rows = np.arange(len(inputs.particles)) if config.ind is None else read_rows(config.ind)
    folder.save_array(folder.rows, rows)
    cores, chunk = available_cores(config.threads), chunk_size(config, len(inputs.template))
    if cores * chunk > config.batch_size:
        _logger.info(
            "%d threads share batches of %d: more than %d have no work while training; a larger --batch-size "
            "or a smaller --chunk would",
            cores,
            config.batch_size,
            -(-config.batch_size // chunk),
        )
    shared = f" in each of {ranks.size} processes" if ranks.size > 1 else ""
    _logger.info("%d images, %d residues, %d threads%s", len(inputs.particles), len(inputs.template), cores, shared)
    if config.poses == "esl":
        check_hand(inputs.template)
    if run.checkpoint is not None:
        _logger.info("going on from %s", run.checkpoint)
    with Workers(cores, ranks) as workers:
        data = prepare_images(config, inputs, folder, workers, stage)
        trainer = start_fit(run, data, workers, stage)
        fitted = fit(config, trainer, folder, run.identity, run.checkpoint, stage)
        fits = fitting_probability(config, trainer)
        known = denoise(config, trainer, fits, stage)
        save_checkpoint(folder.weights(), trainer, fitted.history, run.identity)
        folder.forget_stop()
        if fitted.orientation is not None:
            with stage(len(data), "Searching poses a last time") as advance:
                report_poses(fitted.orientation, trainer.poses, folder, config.num_epochs)
                advance(len(data), "")
        uncertainty = _uncertainty(config, folder, trainer, fits, known, stage)
        if not ranks.is_first:
            return
        report_images(config, folder, inputs.particles, trainer, fits, uncertainty)
        with stage(len(data), "Writing conformations") as advance:
            write_outputs(config, folder, inputs.particles, inputs.template, trainer, lambda done: advance(done, ""))
        if config.decoder == "rigid" and not config.homogeneous:
            write_segments(folder, inputs.template, trainer.model.decoder)


def start_fit(run: Run, data: MatchedSet, workers: Workers, stage: Stage) -> Trainer:
    """Return the fit at its start; what goes on from a checkpoint has chosen its starting weights before."""
    config = one_conformation(run.config)
    trainer = build_trainer(config, run.inputs, data, workers)
    if run.checkpoint is not None:
        if config.restarts > 1:
            _logger.info("--restarts %d is left out: the run has begun", config.restarts)
        return trainer

    def build(seed: int) -> Trainer:
        return build_trainer(config, run.inputs, data, workers, start_seed=seed, feed=trainer.feed)

    return choose_start(config, trainer, build, stage)


def denoise(config: TrainConfig, trainer: Trainer, fits: np.ndarray, stage: Stage) -> Denoised | None:
    """Bring latents to their posterior means by the final decoder, where the settings ask for it."""
    if not are_latents_denoised(config):
        return None
    alive = np.flatnonzero(~trainer.data.is_dead)
    with stage(len(alive), "Denoising latents") as advance:
        known = denoise_latents(
            trainer, alive, fits, components=config.z_components, marginal_poses=are_poses_uncertain(config)
        )
        trainer.note_fits(alive)
        advance(len(alive), "")
    return known


def _uncertainty(
    config: TrainConfig, folder: RunFolder, trainer: Trainer, fits: np.ndarray, known: Denoised | None, stage: Stage
) -> ImageUncertainty | None:
    """Measure how well conformations are known, unless poses are expectations: then images have none of their own."""
    for stale in (folder.uncertainty, folder.latent_covariance):
        if are_files_written():
            stale.unlink(missing_ok=True)
    if not is_uncertainty_measured(config):
        return None
    with stage(len(trainer.data), "Measuring uncertainty") as advance:
        return measure_uncertainty(
            trainer,
            folder,
            fits,
            marginal_poses=are_poses_uncertain(config),
            known=known,
            progress=lambda done: advance(done, ""),
        )
