"""The parts of a fit, assembled by the settings."""

from __future__ import annotations

import math

import numpy as np
import torch

from cryoatom.decoders import build_decoder
from cryoatom.encoders import build_encoder
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.matched import WIDTH_PER_PIXEL, MatchedSet
from cryoatom.particles.rows import spaced_rows
from cryoatom.structure.graph import ProteinGraph
from cryoatom.structure.scaffold import Scaffold, alpha_scaffold
from cryoatom.structure.template import Template
from cryoatom.train_config import TrainConfig
from cryoatom.training.encoding import EncodedLatents
from cryoatom.training.expected import ExpectedLoss, expected_plan
from cryoatom.training.image_fits import ImageFits
from cryoatom.training.inputs import Inputs, choose_device, known_shifts
from cryoatom.training.latents import LATENT_SPREAD, LatentTable, own_latents, scattered_latents
from cryoatom.training.model import ConformationModel
from cryoatom.training.objective import Objective, Weights
from cryoatom.training.pose_table import PoseTable
from cryoatom.training.regularizers import Rigidity
from cryoatom.training.trainer import Plan, Schedule, Trainer
from cryoatom.workers import Workers

_SEARCHED_POSE_RATE_DEG = 0.6
_SPREAD_SAMPLE = 256  # images that tell the encoder's unit of brightness


def build_scaffold(config: TrainConfig, template: Template, graph: ProteinGraph) -> Scaffold:
    """Return the points that the decoder moves."""
    return alpha_scaffold(template, graph)


def build_model(config: TrainConfig, template: Template, graph: ProteinGraph, pixel_size: float) -> ConformationModel:
    """Assemble decoder, beads and template for crops of `pixel_size` Å; equal seeds give equal weights."""
    scaffold = build_scaffold(config, template, graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        decoder = build_decoder(config, scaffold)
    layout = bead_layout(template, config.beads)
    beads = BeadModel(layout, template, minimum_width=WIDTH_PER_PIXEL * pixel_size)
    beads.requires_grad_(config.fit_beads)
    beads.log_scale.requires_grad_(True)
    start = torch.from_numpy(scaffold.positions)
    return ConformationModel(torch.from_numpy(template.positions), decoder, beads, start)


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
    schedule = Schedule(
        config.num_epochs,
        config.warmup,
        config.decay,
        lr=config.lr,
        bead_lr=config.bead_lr,
        z_lr=config.z_lr if config.encoder == "none" else config.lr,
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
        build_latents(config, data),
        data,
        poses,
        plan,
        fits=ImageFits(inputs.particles.optics_group),
        device=choose_device(config.device),
        workers=workers,
    )


def build_latents(config: TrainConfig, data: MatchedSet) -> LatentTable | EncodedLatents:
    """Return latents of their own for all images, or those that an encoder reads off them."""
    generator = torch.Generator().manual_seed(config.seed)
    table = own_latents(scattered_latents(len(data), config.zdim, LATENT_SPREAD, generator))
    if config.encoder == "none":
        return table
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_encoder(config, data.grid.side)
    spread = float(data.read(spaced_rows(len(data), _SPREAD_SAMPLE))[0].std())
    return EncodedLatents(
        network,
        table,
        lambda rows: data.read(rows)[0] / spread,
        divergence=config.kl if config.variational else None,
        weight_decay=config.wd,
        seed=config.seed,
        device=choose_device(config.device),
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
