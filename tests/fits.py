"""A small data set drawn from the direct model, as files, and the settings of fits to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from molecules import helix
from particle_data import write_stack

from cryoatom.files.star import write_star_particles
from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.direct import simulate_images
from cryoatom.records import Optics, Particles, Poses
from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import Template, center_template, template_from_atoms, write_template
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_trainer
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import read_inputs
from cryoatom.training.stage import silent
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

BOX, PIXEL_SIZE, RESIDUES = 40, 2.0, 16
SCALE = 2.0  # image units per electron: so few images can tell conformations apart


@cache
def small_template() -> Template:
    return center_template(template_from_atoms(helix(RESIDUES), "helix")[0])


def bent(amounts: np.ndarray) -> np.ndarray:
    """The template's C-alphas, its two halves bent apart by some Å, (n, residues, 3)."""
    start = small_template().positions
    push = (start[:, 2] / 12) ** 2
    return start + amounts[:, None, None] * push[:, None] * np.array([1.0, 0.3, 0.0])


def draw_images(
    truth: np.ndarray,
    poses: Poses,
    optics: Optics,
    seed: int,
    *,
    template: Template | None = None,
    scale: float = SCALE,
) -> np.ndarray:
    template = small_template() if template is None else template
    beads = BeadModel(bead_layout(template, "atoms"), template, PIXEL_SIZE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        centers = beads.project(torch.from_numpy(truth).float(), torch.from_numpy(poses.rotations).float())
        centers = centers + torch.from_numpy(poses.shifts)[:, None].float()
        clean = simulate_images(centers, scale * beads.amplitudes(), beads.variances(), optics, BOX, PIXEL_SIZE)
    return (clean + torch.randn(clean.shape, generator=generator)).numpy()


def write_dataset(folder: Path, count: int = 41, seed: int = 0, *, has_poses: bool = True) -> Particles:
    """Write particles.star, particles.mrcs and template.cif, and truth.npy with each image's C-alphas."""
    generator = np.random.default_rng(seed)
    truth = bent(generator.uniform(-6, 6, count))
    poses = Poses(random_rotations(count, generator), generator.uniform(-4, 4, (count, 2)))
    return write_images(folder, small_template(), truth, poses, generator, seed, has_poses=has_poses)


def write_images(
    folder: Path,
    template: Template,
    truth: np.ndarray,
    poses: Poses,
    generator: np.random.Generator,
    seed: int,
    *,
    has_poses: bool = True,
    scale: float = SCALE,
) -> Particles:
    """Write images of given conformations in given poses, as :func:`write_dataset`."""
    count = len(truth)
    defocus = generator.uniform(8e3, 2e4, count)
    constants = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0}
    optics = Optics(
        defocus_u=defocus + 100,
        defocus_v=defocus - 100,
        defocus_angle=generator.uniform(0, np.pi, count),
        **{name: np.full(count, value) for name, value in constants.items()},
    )
    images = draw_images(truth, poses, optics, seed, template=template, scale=scale)
    write_stack(folder / "particles.mrcs", images, PIXEL_SIZE)
    write_template(folder / "template.cif", template)
    np.save(folder / "truth.npy", truth)
    particles = Particles(
        source=folder / "particles.star",
        image_names=np.array([f"{i + 1:06d}@particles.mrcs" for i in range(count)]),
        stacks=(folder / "particles.mrcs",),
        stack_of_image=np.zeros(count, dtype=np.int64),
        slice_of_image=np.arange(count),
        box=BOX,
        pixel_size=PIXEL_SIZE,
        optics=optics,
        optics_group=np.zeros(count, dtype=np.int64),
        poses=poses,
    )
    write_star_particles(particles.source, particles if has_poses else replace(particles, poses=None))
    return particles


def settings(folder: Path, outdir: Path | None = None, **changes: object) -> TrainConfig:
    """Settings of a fit to the data set in `folder`, quick enough for a test."""
    given = {"particles": folder / "particles.star", "template": folder / "template.cif"}
    given |= {"outdir": outdir or folder / "run", "cache": folder / "cache", "num_epochs": 3, "batch_size": 16}
    given |= {"chunk": 5, "threads": 1, "warmup": 1, "held_out": 0.1, "z_passes": 1, "device": "cpu"}
    return TrainConfig.model_validate(given | changes)


@contextmanager
def trainer_of(config: TrainConfig) -> Iterator[Trainer]:
    """Yield the state of a fit at its start, as `train` assembles it."""
    inputs = read_inputs(config)
    data = prepare_images(config, inputs, RunFolder(config.outdir), Workers(1), silent)
    with Workers(config.threads or 1) as workers:
        yield build_trainer(config, inputs, data, workers)


def results(run: RunFolder, *more: str) -> dict[str, bytes]:
    """Return what a run has written for each image, and more files by name."""
    names = ("conformations.npy", "conformations.dcd", "z.npy", "uncertainty.npy", "images.csv", *more)
    return {name: (run.path / name).read_bytes() for name in names}
