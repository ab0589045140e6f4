"""`cryoatom train`: from a particle file and a structure to one conformation per image."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch

from cryoatom.config import TrainConfig
from cryoatom.decoders import DECODERS
from cryoatom.files.rows import read_rows
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.matched import WIDTH_PER_PIXEL, MatchedSet
from cryoatom.run_folder import RunFolder
from cryoatom.structure.graph import ProteinGraph, write_graph
from cryoatom.structure.template import Template, write_template
from cryoatom.threads import available_cores
from cryoatom.training.checkpoint import Identity, find_checkpoint
from cryoatom.training.checks import check_inputs
from cryoatom.training.disk import check_space
from cryoatom.training.expected import ExpectedLoss, expected_plan
from cryoatom.training.finite import NotFiniteError
from cryoatom.training.fit import fit
from cryoatom.training.image_fits import ImageFits
from cryoatom.training.image_report import fitting_probability, report_images
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import Inputs, choose_device, known_shifts, read_inputs, run_identity
from cryoatom.training.latents import LATENT_SPREAD, own_latents, scattered_latents
from cryoatom.training.model import ConformationModel
from cryoatom.training.objective import Objective, Weights
from cryoatom.training.outputs import write_outputs
from cryoatom.training.pose_report import check_hand, report_poses
from cryoatom.training.pose_table import PoseTable
from cryoatom.training.regularizers import Rigidity
from cryoatom.training.stage import Stage, silent
from cryoatom.training.trainer import Plan, Schedule, Trainer
from cryoatom.training.uncertainty import (
    ImageUncertainty,
    are_poses_uncertain,
    is_uncertainty_measured,
    measure_uncertainty,
)
from cryoatom.workers import Workers

_logger = logging.getLogger(__name__)
_SEARCHED_POSE_RATE_DEG = 0.6


def build_model(config: TrainConfig, template: Template, graph: ProteinGraph, pixel_size: float) -> ConformationModel:
    """Assemble decoder, beads and template for crops of `pixel_size` Å; equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        decoder = DECODERS[config.decoder](graph, config.zdim)
    layout = bead_layout(template, config.beads)
    beads = BeadModel(layout, template, minimum_width=WIDTH_PER_PIXEL * pixel_size)
    beads.requires_grad_(config.fit_beads)
    beads.log_scale.requires_grad_(True)
    return ConformationModel(torch.from_numpy(template.positions), decoder, beads)


def build_objective(config: TrainConfig, template: Template, pixel_size: float) -> Objective:
    """Assemble the objective around the template."""
    positions = torch.from_numpy(template.positions)
    return Objective(
        Weights(r0=config.r0, r1=config.r1, r2=config.r2, prior=config.z_prior),
        Rigidity(positions, torch.from_numpy(template.chain_position), config.omega, config.r2_tolerance),
        positions,
        torch.from_numpy(template.bonded),
        likelihood=config.likelihood,
        pixel_size=pixel_size,
    )


def build_trainer(config: TrainConfig, inputs: Inputs, data: MatchedSet, workers: Workers) -> Trainer:
    """Assemble the state of a fit at its start."""
    generator = torch.Generator().manual_seed(config.seed)
    schedule = Schedule(
        config.num_epochs,
        config.warmup,
        config.decay,
        lr=config.lr,
        bead_lr=config.bead_lr,
        z_lr=config.z_lr,
        pose_lr=pose_rate(config),
    )
    plan = Plan(schedule, config.batch_size, config.wd, config.seed, config.chunk)
    objective, poses = build_objective(config, inputs.template, data.grid.coarse_pixel), starting_poses(config, inputs)
    measures = expected_plan(config)
    if measures is not None:
        objective.without_poses = ExpectedLoss(measures, poses, data.grid.coarse_pixel, is_attached=config.esl_attached)
    return Trainer(
        build_model(config, inputs.template, inputs.graph, data.grid.coarse_pixel),
        objective,
        own_latents(scattered_latents(len(data), config.zdim, LATENT_SPREAD, generator)),
        data,
        poses,
        plan,
        fits=ImageFits(inputs.particles.optics_group),
        device=choose_device(config.device),
        workers=workers,
    )


def pose_rate(config: TrainConfig) -> float:
    """Return the learning rate of poses, radians."""
    if expected_plan(config) is not None:
        return 0.0
    default = _SEARCHED_POSE_RATE_DEG if config.poses == "esl" else 0.0
    rate = default if config.pose_lr is None else config.pose_lr
    return math.radians(rate)


def starting_poses(config: TrainConfig, inputs: Inputs) -> PoseTable:
    """Return the known poses, or where they are to be found no rotation and no shift."""
    count, positions = len(inputs.particles), inputs.template.positions
    reach = float(np.linalg.norm(positions - positions.mean(axis=0), axis=1).mean())
    moved_back = known_shifts(config, inputs.particles)
    if config.poses == "esl":
        rotations = torch.eye(3).repeat(count, 1, 1)
        return PoseTable(rotations, torch.zeros(count, 2), reach if config.max_shift else 0.0, moved_back)
    assert inputs.particles.poses is not None
    rotations = torch.from_numpy(inputs.particles.poses.rotations)
    return PoseTable(rotations, torch.zeros(count, 2), reach, moved_back)


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
    inputs = read_inputs(config)
    folder.check_vacant(overwrite=config.overwrite or config.load is not None)
    identity = run_identity(config, inputs)
    checkpoint = find_checkpoint(config.load, folder, identity)
    if checkpoint is None:
        if not is_checked:
            check_inputs(config, inputs)
        check_space(config, inputs)
    with folder.writing():
        if config.load is None:
            folder.start_anew(overwrite=config.overwrite)
        folder.save_text(folder.config, config.to_yaml(command or []))
        try:
            fit_and_write(config, inputs, folder, identity, checkpoint, stage)
        except NotFiniteError as error:
            raise error.naming(inputs.particles.image_names) from error
    _logger.info("finished")
    return folder


def fit_and_write(
    config: TrainConfig, inputs: Inputs, folder: RunFolder, identity: Identity, checkpoint: Path | None, stage: Stage
) -> None:
    """Fit what was read and checked, and write the outputs."""
    write_template(folder.template, inputs.template)
    write_graph(folder.graph, inputs.graph)
    rows = np.arange(len(inputs.particles)) if config.ind is None else read_rows(config.ind)
    folder.save_array(folder.rows, rows)
    cores = available_cores(config.threads)
    if cores * config.chunk > config.batch_size:
        _logger.info(
            "%d threads share batches of %d: more than %d have no work while training; a larger --batch-size "
            "or a smaller --chunk would",
            cores,
            config.batch_size,
            -(-config.batch_size // config.chunk),
        )
    _logger.info("%d images, %d residues, %d threads", len(inputs.particles), len(inputs.template), cores)
    if config.poses == "esl":
        check_hand(inputs.template)
    if checkpoint is not None:
        _logger.info("going on from %s", checkpoint)
    with Workers(cores) as workers:
        data = prepare_images(config, inputs, folder, workers, stage)
        trainer = build_trainer(config, inputs, data, workers)
        orientation = fit(config, trainer, folder, identity, checkpoint, stage)
        if orientation is not None:
            with stage(len(data), "Searching poses a last time") as advance:
                report_poses(orientation, trainer.poses, folder, config.num_epochs)
                advance(len(data), "")
        fits = fitting_probability(config, trainer)
        uncertainty = _uncertainty(config, folder, trainer, fits, stage)
        report_images(config, folder, inputs.particles, trainer, fits, uncertainty)
        with stage(len(data), "Writing conformations") as advance:
            write_outputs(config, folder, inputs.particles, inputs.template, trainer, lambda done: advance(done, ""))


def _uncertainty(
    config: TrainConfig, folder: RunFolder, trainer: Trainer, fits: np.ndarray, stage: Stage
) -> ImageUncertainty | None:
    """Measure how well conformations are known, unless poses are expectations: then images have none of their own."""
    for stale in (folder.uncertainty, folder.latent_covariance):
        stale.unlink(missing_ok=True)
    if not is_uncertainty_measured(config):
        return None
    with stage(len(trainer.data), "Measuring uncertainty") as advance:
        return measure_uncertainty(
            trainer, folder, fits, marginal_poses=are_poses_uncertain(config), progress=lambda done: advance(done, "")
        )
