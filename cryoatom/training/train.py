"""`cryoatom train`: from a particle file and a structure to one conformation per image."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import torch

from cryoatom.config import TrainConfig
from cryoatom.decoders import DECODERS
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.matched import WIDTH_PER_PIXEL, CropGrid, MatchedSet, build_matched_set, choose_grid
from cryoatom.particles.stack import ImageStack
from cryoatom.particles.table import read_particles
from cryoatom.records import Particles
from cryoatom.run_folder import RunFolder
from cryoatom.structure.graph import ProteinGraph, build_graph, read_graph, write_graph
from cryoatom.structure.template import Template, read_template, write_template
from cryoatom.threads import available_cores
from cryoatom.training.fit import fit
from cryoatom.training.latents import LatentTable
from cryoatom.training.model import ConformationModel
from cryoatom.training.objective import Objective, Weights
from cryoatom.training.outputs import chosen_rows, write_outputs
from cryoatom.training.regularizers import Rigidity
from cryoatom.training.stage import Stage, silent
from cryoatom.training.trainer import Schedule, Trainer
from cryoatom.workers import Workers

_logger = logging.getLogger(__name__)
_LATENT_SPREAD = 0.1


@dataclass(frozen=True)
class Inputs:
    """What a run starts from."""

    particles: Particles
    template: Template
    graph: ProteinGraph


def read_inputs(config: TrainConfig) -> Inputs:
    """Read and check everything before any time is spent.

    Raises
    ------
    FileNotFoundError, ValueError
        With the file, what was expected and what was found.
    """
    template, report = read_template(config.template)
    for kind, names in report.dropped.items():
        _logger.info("%s: left out %d x %s", config.template, sum(names.values()), kind)
    graph = build_graph(template) if config.graph is None else read_graph(config.graph)
    if graph.residues != len(template):
        raise ValueError(
            f"the graph {config.graph} has {graph.residues} residues, the template {config.template} has "
            f"{len(template)}: make it from this template with `cryoatom graph`"
        )
    particles = read_particles(config.particles, datadir=config.datadir, ind=config.ind)
    if particles.poses is None:
        raise ValueError(f"{config.particles} has no orientations (rlnAngleRot, rlnAngleTilt, rlnAnglePsi)")
    chosen_rows(config.pdb, len(particles))
    return Inputs(particles, template, graph)


def prepare_images(
    config: TrainConfig, inputs: Inputs, folder: RunFolder, workers: Workers, stage: Stage
) -> MatchedSet:
    """Compute the matched crops of all images, or reopen them."""
    particles = inputs.particles
    assert particles.poses is not None
    stack = ImageStack(particles)
    sign = -1.0 if config.uninvert_data else 1.0
    radius = config.background_radius or 0.4 * particles.box * particles.pixel_size
    key = {
        "stacks": [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in particles.stacks],
        "images": [particles.stack_of_image.tolist(), particles.slice_of_image.tolist()],
        "sign": sign,
        "background_radius": radius,
    }
    with stage(len(particles), "Preparing images") as advance:
        return build_matched_set(
            config.cache or folder.matched,
            key,
            lambda rows: sign * stack.read_normalized(rows, radius),
            particles.optics,
            particles.poses.shifts,
            crop_grid(config, inputs),
            workers=workers,
            progress=lambda done, total: advance(done, ""),
        )


def crop_grid(config: TrainConfig, inputs: Inputs) -> CropGrid:
    """Return the grid that holds the template, room to move, and the tails of its beads."""
    reach = float(np.linalg.norm(inputs.template.positions, axis=1).max())
    diameter = config.diameter or 2 * (reach + config.margin)
    return choose_grid(inputs.particles.box, inputs.particles.pixel_size, diameter, config.crop_pixel)


def build_model(config: TrainConfig, template: Template, graph: ProteinGraph, pixel_size: float) -> ConformationModel:
    """Assemble decoder, beads and template for crops of `pixel_size` Å; equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        decoder = DECODERS[config.decoder](graph, config.zdim)
    layout = bead_layout(template, config.beads)
    beads = BeadModel(layout, template, minimum_width=WIDTH_PER_PIXEL * pixel_size)
    beads.requires_grad_(config.fit_beads)
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
    assert inputs.particles.poses is not None
    generator = torch.Generator().manual_seed(config.seed)
    schedule = Schedule(
        config.num_epochs, config.warmup, config.decay, lr=config.lr, bead_lr=config.bead_lr, z_lr=config.z_lr
    )
    return Trainer(
        build_model(config, inputs.template, inputs.graph, data.grid.coarse_pixel),
        build_objective(config, inputs.template, data.grid.coarse_pixel),
        LatentTable(len(data), config.zdim, _LATENT_SPREAD, generator),
        data,
        inputs.particles.poses.rotations,
        schedule=schedule,
        batch_size=config.batch_size,
        weight_decay=config.wd,
        seed=config.seed,
        device=choose_device(config.device),
        workers=workers,
        chunk=config.chunk,
    )


def run_identity(inputs: Inputs, data: MatchedSet) -> str:
    """Return the digest of what a checkpoint belongs to: images, crops, poses and template."""
    assert inputs.particles.poses is not None
    digest = hashlib.sha256(data.identity.encode())
    for array in (inputs.particles.poses.rotations, inputs.template.positions, inputs.graph.edges):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; 'auto' takes a GPU if there is one.

    Raises
    ------
    ValueError
        If torch does not know the device or cannot reach it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None


def train(config: TrainConfig, *, command: list[str] | None = None, stage: Stage = silent) -> RunFolder:
    """Fit one conformation per image and write the run folder.

    Parameters
    ----------
    config
        Settings.
    command
        The command line, for config.yaml.
    stage
        Opens progress reports.

    Raises
    ------
    FileNotFoundError, ValueError
        For bad input, before any time is spent.
    OSError
        When the disk is full; the last checkpoint survives.
    """
    folder = RunFolder(config.outdir)
    inputs = read_inputs(config)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.save_text(folder.config, config.to_yaml(command or []))
    write_template(folder.template, inputs.template)
    write_graph(folder.graph, inputs.graph)
    with Workers(available_cores(config.threads)) as workers:
        data = prepare_images(config, inputs, folder, workers, stage)
        trainer = build_trainer(config, inputs, data, workers)
        fit(config, trainer, folder, run_identity(inputs, data), stage)
        with stage(len(data), "Writing conformations") as advance:
            write_outputs(config, folder, inputs.particles, inputs.template, trainer, lambda done: advance(done, ""))
    return folder
