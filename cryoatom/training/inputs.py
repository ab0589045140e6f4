"""What a run starts from: read and checked before any time is spent."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoatom.decoders.segmentation import parse_segments
from cryoatom.distributed import find_launch
from cryoatom.imaging.beads import bead_layout
from cryoatom.imaging.grid import CropGrid, choose_grid
from cryoatom.particles.table import read_particles
from cryoatom.records import Particles
from cryoatom.structure.graph import ProteinGraph, build_graph, read_graph
from cryoatom.structure.template import Template, center_template, read_template
from cryoatom.train_config import TrainConfig
from cryoatom.training.expected import expected_plan
from cryoatom.training.outputs import chosen_rows
from cryoatom.training.search_plan import search_plan

_OFF_CENTER = 3.0  # Å from the origin, about which a template is turned to find poses
MODEL_SETTINGS = (
    *("decoder", "gnn_layer", "dec_layers", "dec_dim", "activation", "residual", "segments", "tau", "homogeneous"),
    *("encoder", "enc_layers", "enc_dim", "variational", "beads", "start", "output_norm", "zdim", "likelihood", "amp"),
)
_logger = logging.getLogger(__name__)


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
    for note in report.notes:
        _logger.warning("%s: %s", config.template, note)
    check_segments(config, template)
    graph = build_graph(template) if config.graph is None else read_graph(config.graph)
    if graph.residues != len(template):
        raise ValueError(
            f"the graph {config.graph} has {graph.residues} residues, the template {config.template} has "
            f"{len(template)}: make it from this template with `cryoatom graph`"
        )
    pose_file = config.poses if isinstance(config.poses, Path) else None
    particles = read_particles(
        config.particles,
        datadir=config.datadir,
        ind=config.ind,
        poses=pose_file,
        ctf=config.ctf,
        amplitude_contrast=config.amp_contrast,
    )
    if particles.poses is None and config.poses != "esl":
        raise ValueError(
            f"{pose_file or config.particles} has no orientations (rlnAngleRot, rlnAngleTilt, rlnAnglePsi; "
            "alignments3D/pose): give a file that has them with --poses FILE, or estimate them with --poses esl"
        )
    if search_plan(config) is not None and config.search_epochs >= config.num_epochs:
        raise ValueError(
            f"--num-epochs {config.num_epochs} leaves no epoch after --search-epochs {config.search_epochs}: "
            "conformations of their own come after the searches"
        )
    chosen_rows(config.pdb, len(particles))
    choose_device(config.device)
    if config.poses == "esl":
        template = _centered(template, str(config.template))
    inputs = Inputs(particles, template, graph)
    _check_reach(inputs, str(config.template))
    return inputs


def check_segments(config: TrainConfig, template: Template) -> None:
    """Raise ValueError where --segments cannot be read, or does not fit to the template."""
    if config.decoder == "rigid":
        parse_segments(config.segments, template)


def _centered(template: Template, source: str) -> Template:
    """Move a template to the origin if it lies off it: with unknown poses its frame is free."""
    away = np.linalg.norm(template.positions.mean(axis=0))
    if away <= _OFF_CENTER:
        return template
    _logger.info("%s: moved by %.1f Å to the origin, about which it is turned to find poses", source, away)
    return center_template(template)


def _check_reach(inputs: Inputs, source: str) -> None:
    """Raise ValueError where the template does not lie in the box."""
    positions, particles = inputs.template.positions, inputs.particles
    reach, half = np.linalg.norm(positions, axis=1).max(), 0.5 * particles.box * particles.pixel_size
    if reach > half:
        away = np.linalg.norm(positions.mean(axis=0))
        raise ValueError(
            f"the template {source} reaches {reach:.0f} Å from the origin (its centre is {away:.0f} Å away from it), "
            f"the images end at {half:.0f} Å: bring it into the frame of the poses, whose origin is the box centre, "
            "with `cryoatom template --onto MODEL`, or centre it with `cryoatom template`"
        )


def known_shifts(config: TrainConfig, particles: Particles) -> np.ndarray:
    """Return the t of the particles, Å, by which crops are moved back: none where poses are to be found."""
    if config.poses == "esl":
        return np.zeros((len(particles), 2))
    assert particles.poses is not None
    return particles.poses.shifts


def crop_grid(config: TrainConfig, inputs: Inputs) -> CropGrid:
    """Return the grid that holds the template, room to move, and the tails of its beads."""
    return template_grid(config, inputs.template, inputs.particles.box, inputs.particles.pixel_size)


def template_grid(config: TrainConfig, template: Template, box: int, pixel_size: float) -> CropGrid:
    """Return the same from what it depends on: the template, the box in pixels and their size in Å."""
    reach = float(np.linalg.norm(template.positions, axis=1).max())
    wander = 0.0 if search_plan(config) is None else config.max_shift
    diameter = config.diameter or 2 * (reach + config.margin + wander)
    return choose_grid(box, pixel_size, diameter, config.crop_pixel)


def run_identity(config: TrainConfig, inputs: Inputs) -> dict[str, str]:
    """Return what a checkpoint belongs to, as digests by name; where the stacks lie does not matter.

    A run goes on from a checkpoint only if all of it is equal.
    """
    particles, template = inputs.particles, inputs.template
    layout = bead_layout(template, config.beads)
    names = [stack.name for stack in particles.stacks]
    places = zip(particles.slice_of_image, particles.stack_of_image, strict=True)
    images = "\n".join(f"{index}@{names[stack]}" for index, stack in places)
    crops = str([crop_grid(config, inputs), config.uninvert_data, config.background_radius, config.noise])
    return {
        "images": _digest(images.encode(), crops.encode()),
        "CTF parameters": _digest(particles.optics.as_array()),
        "poses": _poses_identity(config, particles),
        "template": _digest(template.positions, template.chain_position, layout.offsets, layout.electrons),
        "graph": _digest(inputs.graph.edges),
        **{f"--{name.replace('_', '-')}": str(getattr(config, name)) for name in MODEL_SETTINGS},
        "format": "5",
        "--seed, --held-out, --train-on": f"{config.seed} {config.held_out} {config.train_on}",
    }


def _poses_identity(config: TrainConfig, particles: Particles) -> str:
    if config.poses == "esl":
        return f"{config.pose_loss} {config.esl_attached} {search_plan(config) or expected_plan(config)}"
    assert particles.poses is not None
    return _digest(particles.poses.rotations, particles.poses.shifts)


def _digest(*parts: np.ndarray | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; 'auto' takes a GPU if there is one, each process of a run another one.

    Raises
    ------
    ValueError
        If torch does not know the device or cannot reach it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    launch = find_launch()
    if launch.size > 1 and name.startswith("cuda:"):
        raise ValueError(f"--device {name} is one GPU for {launch.size} processes: give cuda, each takes its own")
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{launch.local_rank % torch.cuda.device_count()}"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
