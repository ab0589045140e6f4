"""The parts of a fit, assembled by the settings."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch

from cryoatom.decoders import build_decoder
from cryoatom.encoders import build_encoder
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.matched import WIDTH_PER_PIXEL, MatchedSet
from cryoatom.imaging.output_norm import OutputNorm
from cryoatom.particles.rows import spaced_rows
from cryoatom.structure.graph import ProteinGraph
from cryoatom.structure.scaffold import (
    Scaffold,
    alpha_scaffold,
    side_chain_reach,
    side_chain_residues,
    side_chain_scaffold,
    starting_alphas,
)
from cryoatom.structure.template import Template
from cryoatom.train_config import TrainConfig
from cryoatom.training.clash import Clash
from cryoatom.training.encoding import EncodedLatents, EncoderPlan
from cryoatom.training.expected import ExpectedLoss, expected_plan
from cryoatom.training.feed import ImageFeed
from cryoatom.training.geometry_loss import GeometryDegradation
from cryoatom.training.image_fits import ImageFits
from cryoatom.training.inputs import Inputs, choose_device, known_shifts
from cryoatom.training.latents import LATENT_SPREAD, LatentTable, own_latents, scattered_latents
from cryoatom.training.model import ConformationModel
from cryoatom.training.objective import Objective, Restraint, Weights
from cryoatom.training.pose_table import PoseTable
from cryoatom.training.regularizers import Rigidity
from cryoatom.training.restraints import SideChainTether
from cryoatom.training.trainer import Plan, Schedule, Trainer
from cryoatom.workers import Workers

ALPHA_DISTANCE = 3.8  # Å, of C-alphas with a trans peptide bond between them
_SEARCHED_POSE_RATE_DEG = 0.6
_RESIDUES_AT_ONCE = 65_536  # of all images in a chunk
_SPREAD_SAMPLE = 256  # images that tell the encoder's unit of brightness
_logger = logging.getLogger(__name__)


def one_conformation(config: TrainConfig) -> TrainConfig:
    """Return the settings; with --homogeneous those of one conformation for all images, whatever else they say."""
    if not config.homogeneous:
        return config
    return config.model_copy(update={"decoder": "constant", "encoder": "none", "variational": False, "restarts": 1})


def build_scaffold(config: TrainConfig, template: Template, graph: ProteinGraph) -> Scaffold:
    """Return the points that the decoder moves."""
    make = side_chain_scaffold if config.beads == "cryofold" else alpha_scaffold
    return make(template, graph, start=config.start, seed=config.seed)


def build_model(
    config: TrainConfig, template: Template, graph: ProteinGraph, pixel_size: float, *, start_seed: int | None = None
) -> ConformationModel:
    """Assemble decoder, beads and template for crops of `pixel_size` Å; equal seeds give equal weights.

    `start_seed` is that of the starting weights alone, where it is not --seed.
    """
    scaffold = build_scaffold(config, template, graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed if start_seed is None else start_seed)
        decoder = build_decoder(one_conformation(config), scaffold)
        output_norm = OutputNorm() if config.output_norm == "mlp" else None
    layout = bead_layout(template, config.beads)
    beads = BeadModel(layout, template, WIDTH_PER_PIXEL * pixel_size, output_norm)
    beads.requires_grad_(config.fit_beads)
    scale = beads.log_scale if output_norm is None else output_norm
    beads.log_scale.requires_grad_(False)
    scale.requires_grad_(True)
    start = torch.from_numpy(scaffold.positions)
    return ConformationModel(torch.from_numpy(template.positions), decoder, beads, start)


def build_objective(config: TrainConfig, template: Template, pixel_size: float) -> Objective:
    """Assemble the objective around the template."""
    positions = torch.from_numpy(template.positions)
    rigidity = config.r2 if config.regularizer == "rigidity" else 0.0
    objective = Objective(
        Weights(r0=config.r0, r1=config.r1, r2=rigidity, prior=config.z_prior),
        Rigidity(positions, torch.from_numpy(template.chain_position), config.omega, config.r2_tolerance),
        positions,
        torch.from_numpy(template.bonded),
        likelihood=config.likelihood,
        pixel_size=pixel_size,
        others=build_restraints(config, template),
    )
    if config.start != "template":
        forget_template(objective, config, template)
    if config.bond_length is not None:
        objective.bond_lengths.fill_(config.bond_length)
    return objective


def build_restraints(config: TrainConfig, template: Template) -> dict[str, Restraint]:
    """Return the terms of the objective beside the GNN paper's, by name."""
    restraints: dict[str, Restraint] = {}
    if config.regularizer == "geometry" and config.geometry:
        positions = torch.from_numpy(template.positions)
        restraints["geometry"] = GeometryDegradation(
            positions, config.geometry, config.geometry_pairs, config.geometry_count
        )
    if config.beads == "cryofold" and config.r1:
        residue = torch.from_numpy(side_chain_residues(template))
        reach = side_chain_reach(template)
        restraints["side_chains"] = SideChainTether(residue, len(template), reach=reach, weight=config.r1)
    if config.clash:
        restraints["clash"] = Clash(torch.from_numpy(template.chain_position), config.clash)
    return restraints


def forget_template(objective: Objective, config: TrainConfig, template: Template) -> None:
    """Take out what an objective knows of the template's coordinates, for a start elsewhere.

    R0 keeps the centre of the start, bonds are as long as in any protein, and there is no R2.
    """
    start = torch.from_numpy(starting_alphas(template, config.start, config.seed))
    objective.template_center.copy_(start.mean(dim=0))
    objective.bond_lengths.fill_(ALPHA_DISTANCE)
    if config.r2:
        _logger.info("--start %s: R2 is left out, it would tell the template's distances", config.start)
    objective.weights = replace(objective.weights, r2=0.0)


def build_trainer(
    config: TrainConfig,
    inputs: Inputs,
    data: MatchedSet,
    workers: Workers,
    *,
    start_seed: int | None = None,
    feed: ImageFeed | None = None,
) -> Trainer:
    """Assemble the state of a fit at its start.

    Parameters
    ----------
    start_seed
        Of the starting weights and first latents alone; by default --seed, as for all that is random.
    feed
        Of an earlier trainer of the same images, to read them from.
    """
    if workers.ranks.size > 1 and expected_plan(config) is not None:
        raise ValueError("--pose-loss expected notes poses as it goes, in one process: run it without torchrun")
    config = one_conformation(config)
    schedule = Schedule(
        config.num_epochs,
        config.warmup,
        config.decay,
        lr=config.lr,
        bead_lr=config.bead_lr,
        z_lr=config.z_lr,
        pose_lr=pose_rate(config),
        blur=config.blur,
    )
    plan = Plan(schedule, config.batch_size, config.wd, config.seed, chunk_size(config, len(inputs.template)))
    objective, poses = build_objective(config, inputs.template, data.grid.coarse_pixel), starting_poses(config, inputs)
    measures = expected_plan(config)
    if measures is not None:
        objective.without_poses = ExpectedLoss(measures, poses, data.grid.coarse_pixel, is_attached=config.esl_attached)
    device = choose_device(config.device)
    feed = ImageFeed(data, device) if feed is None else feed
    return Trainer(
        build_model(config, inputs.template, inputs.graph, data.grid.coarse_pixel, start_seed=start_seed),
        objective,
        build_latents(config, feed, workers, config.seed if start_seed is None else start_seed),
        feed,
        poses,
        plan,
        fits=ImageFits(inputs.particles.optics_group),
        device=device,
        workers=workers,
    )


def chunk_size(config: TrainConfig, residues: int) -> int:
    """Return how many images a CPU thread works on at once: 32, or what takes half a gigabyte (8 kB a residue)."""
    return config.chunk or min(32, max(1, _RESIDUES_AT_ONCE // residues))


def build_latents(
    config: TrainConfig, feed: ImageFeed, workers: Workers, start_seed: int
) -> LatentTable | EncodedLatents:
    """Return latents of their own for all images, or those that an encoder with weights of `start_seed` reads off."""
    generator = torch.Generator().manual_seed(start_seed)
    data = feed.data
    table = own_latents(scattered_latents(len(data), config.zdim, LATENT_SPREAD, generator))
    if config.encoder == "none":
        return table
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(start_seed)
        network = build_encoder(config, data.grid.side)
    spread = float(data.read(spaced_rows(len(data), _SPREAD_SAMPLE))[0].std())
    return EncodedLatents(
        network,
        table,
        lambda rows: feed.read(rows)[0] / spread,
        EncoderPlan(
            pace=config.lr / config.z_lr,
            divergence=config.kl if config.variational else None,
            weight_decay=config.wd,
            seed=config.seed,
        ),
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
