"""Realistic images from an all-atom trajectory: a particle stack, its STAR file, and the truth behind it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.files.mrc import StackWriter
from cryoatom.files.star import write_star_particles
from cryoatom.files.structure import write_atoms
from cryoatom.files.trajectory import DcdWriter
from cryoatom.geometry import random_rotations
from cryoatom.records import Optics, Particles, Poses
from cryoatom.scattering import (
    SOLVENT_POTENTIAL,
    Projector,
    build_microscope,
    build_projector,
    count_electrons,
    delocalisation,
    normalize_background,
)
from cryoatom.simulate_config import SimulateConfig
from cryoatom.structure.specimen import Specimen
from cryoatom.threads import available_cores
from cryoatom.workers import Workers

STAR, STACK = "particles.star", "particles.mrcs"
TAIL = 8.0  # Å around the outermost atom: its Gaussians end after 5 Å, the rest is for the ringing of the band limit
_WAVES_AT_ONCE = 4_000_000  # cosines and sines held per worker: images are rendered a few at a time


@dataclass(frozen=True)
class Exposures:
    """What is imaged and how, for every image: `frames` and `optics_group` are (images,) int64."""

    frames: np.ndarray
    poses: Poses
    optics: Optics
    optics_group: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)


def simulate(specimen: Specimen, config: SimulateConfig, on_images: Callable[[int], None] | None = None) -> Particles:
    """Simulate a data set of a specimen and write it to ``config.outdir``.

    The folder receives particles.star, particles.mrcs and truth/ (frames.txt, trajectory.dcd and .cif,
    consensus.cif). The random numbers of an image depend on the seed and its index alone: the files are the same
    whatever the number of threads.

    Parameters
    ----------
    specimen : Specimen
        From :func:`~cryoatom.structure.specimen.read_specimen`.
    config : SimulateConfig
    on_images : callable, optional
        Called with the number of images written so far.

    Returns
    -------
    Particles
        As written to particles.star, with the true poses.

    Raises
    ------
    ValueError
        If the folder has a data set that may not be overwritten, the molecule does not fit the box, or the disk has
        too little room.
    """
    exposures = draw_exposures(config, len(specimen.positions))
    render, at_once = _renderer(specimen, config, exposures)
    check_outdir(config, len(exposures))
    config.outdir.mkdir(parents=True, exist_ok=True)
    particles = _particles(config, exposures)
    particles.source.unlink(missing_ok=True)  # never beside images that it does not describe
    batches = [np.arange(start, min(start + at_once, len(exposures))) for start in range(0, len(exposures), at_once)]
    mode = 12 if config.float16 else 2
    with (
        Workers(available_cores(config.threads)) as workers,
        StackWriter(particles.stacks[0], config.box, config.pixel_size, len(exposures), mode) as stack,
    ):
        for index, images in zip(batches, workers.stream(render, batches), strict=True):
            stack.write(images)
            if on_images is not None:
                on_images(int(index[-1]) + 1)
    _write_truth(config.outdir / "truth", specimen, exposures.frames)
    write_star_particles(particles.source, particles)
    return particles


def check_outdir(config: SimulateConfig, images: int) -> None:
    """Raise ValueError where the folder already holds a data set, or its disk has no room for the images."""
    existing = [path for name in (STAR, STACK) if (path := config.outdir / name).exists()]
    if existing and not config.overwrite:
        raise ValueError(f"{existing[0]} exists: choose another folder, or replace the data set with --overwrite")
    needed = images * config.box**2 * (2 if config.float16 else 4)
    folders = (config.outdir.absolute(), *config.outdir.absolute().parents)
    free = shutil.disk_usage(next(folder for folder in folders if folder.is_dir())).free
    if needed > free:
        raise ValueError(
            f"{images:,} images need {needed / 1e9:.1f} GB and {config.outdir} has {free / 1e9:.1f} GB free: "
            "use --float16, fewer --images-per-frame or a smaller --box"
        )


def draw_exposures(config: SimulateConfig, frames: int) -> Exposures:
    """Draw Haar rotations, shifts and optics; image i shows frame i modulo `frames`, so any first part is balanced."""
    draw = np.random.default_rng([config.seed, 0])
    count = frames * config.images_per_frame
    rotations = random_rotations(count, draw)
    shifts = draw.uniform(-1, 1, (count, 2)) * config.max_shift
    defocus = config.defocus + draw.uniform(-1, 1, count) * config.defocus_spread
    astigmatism = draw.uniform(0, 1, count) * config.astigmatism
    angle = draw.uniform(0, np.pi, count) * (astigmatism > 0)
    group = draw.integers(len(config.voltage), size=count)
    optics = Optics(
        voltage_kv=np.asarray(config.voltage, dtype=np.float64)[group],
        cs_mm=np.full(count, config.cs),
        amplitude_contrast=np.full(count, config.amplitude_contrast),
        defocus_u=defocus + 0.5 * astigmatism,
        defocus_v=defocus - 0.5 * astigmatism,
        defocus_angle=angle,
        phase_shift=np.zeros(count),
    )
    return Exposures(np.arange(count) % frames, Poses(rotations, shifts), optics, group)


def expected_images(
    specimen: Specimen, config: SimulateConfig, exposures: Exposures
) -> Callable[[np.ndarray], Float[Tensor, "batch box box"]]:
    """Return the function from image numbers (batch,) to expected intensities, in units of the incident beam.

    Raises
    ------
    ValueError
        If the molecule, with its shifts, does not fit the box.
    """
    projector = _projector_for(specimen, config)
    poses, optics = exposures.poses, exposures.optics
    microscope = build_microscope(
        config.box,
        config.pixel_size,
        least=projector.side,
        spread=delocalisation(optics, config.pixel_size),
        dqe_nyquist=config.dqe_nyquist,
    )
    positions = torch.from_numpy(specimen.positions)

    def expected(index: np.ndarray) -> Float[Tensor, "batch box box"]:
        to_image = torch.from_numpy(poses.rotations[index, :2]).float()
        shifts = torch.from_numpy(poses.shifts[index, None]).float()
        xy = positions[exposures.frames[index]] @ to_image.mT + shifts
        return microscope.intensity(projector.project(xy), optics[index])

    return expected


def _projector_for(specimen: Specimen, config: SimulateConfig) -> Projector:
    """Build the projector whose compact grid holds every frame in every orientation, at every shift."""
    reach = float(np.sqrt((specimen.positions.astype(np.float64) ** 2).sum(axis=-1).max())) + config.max_shift
    if 2 * reach > config.box * config.pixel_size:
        least = np.ceil(2 * reach / config.pixel_size)
        raise ValueError(
            f"the molecule reaches {reach:.0f} Å from its centre (shifts included) and does not fit a box of "
            f"{config.box} pixels of {config.pixel_size} Å: --box must be at least {least:.0f}"
        )
    return build_projector(
        specimen.atoms.elements,
        extent=2 * (reach + TAIL),
        pixel_size=config.pixel_size,
        solvent_potential=SOLVENT_POTENTIAL if config.solvent else 0.0,
        b_factor=config.b_factor,
    )


def _renderer(
    specimen: Specimen, config: SimulateConfig, exposures: Exposures
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return the function from image numbers to images as they are written, and how many to ask of it at once."""
    expected = expected_images(specimen, config, exposures)
    electrons = config.dose * config.pixel_size**2

    def render(index: np.ndarray) -> np.ndarray:
        intensity = expected(index).numpy()
        if not config.noise:
            return intensity - 1
        generators = [np.random.Generator(np.random.SFC64([config.seed, 1, int(i)])) for i in index]
        return normalize_background(count_electrons(intensity, electrons, generators))

    waves = len(specimen.atoms) * config.box  # an upper limit to the cosines and sines of one image
    return render, int(np.clip(_WAVES_AT_ONCE // waves, 1, 16))


def _particles(config: SimulateConfig, exposures: Exposures) -> Particles:
    count = len(exposures)
    stack = config.outdir / STACK
    return Particles(
        source=config.outdir / STAR,
        image_names=np.array([f"{i + 1:06d}@{stack.name}" for i in range(count)]),
        stacks=(stack,),
        stack_of_image=np.zeros(count, dtype=np.int64),
        slice_of_image=np.arange(count),
        box=config.box,
        pixel_size=config.pixel_size,
        optics=exposures.optics,
        optics_group=exposures.optics_group,
        poses=exposures.poses,
    )


def _write_truth(folder: Path, specimen: Specimen, frame_of_image: np.ndarray) -> None:
    """Write what only a simulation knows; every file is in the frame of reference of the poses."""
    folder.mkdir(exist_ok=True)
    np.savetxt(folder / "frames.txt", frame_of_image, fmt="%d")
    is_alpha = specimen.is_alpha
    write_atoms(folder / "trajectory.cif", specimen.atoms[is_alpha])
    with DcdWriter(folder / "trajectory.dcd", int(is_alpha.sum())) as trajectory:
        trajectory.write(specimen.positions[:, is_alpha])
    heavy = ~np.isin(specimen.atoms.elements, ["H", "D"])
    mean = specimen.positions.mean(axis=0, dtype=np.float64)
    write_atoms(folder / "consensus.cif", replace(specimen.atoms, positions=mean)[heavy])
