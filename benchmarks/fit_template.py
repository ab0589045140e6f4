"""`cryoatom template --fit` on ADK: how near to the true frame, how long, and whether a wrong hand is noticed.

    OMP_NUM_THREADS=1 python benchmarks/fit_template.py DATA [--starts 5] [--threads 1] [--images 1000]

DATA is the data set that benchmarks/adk.py simulates (all atoms, closed to open). The closed crystal structure is
turned at random and moved by up to 15 Å, then fitted to 1,000 particles with their poses, and to a map at 6 Å: the
mean of all frames from all atoms in water, with noise. Images mix all conformations, so that a closed template has no
one true place: distances (angle; centre of mass) are given to the superposition of its rigid core on the mean
structure, and to that of all residues. Then the same with data of the wrong hand.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import torch
from adk import data_folder

from cryoatom.files.star import write_star_particles
from cryoatom.geometry import random_rotations
from cryoatom.particles.table import read_particles
from cryoatom.poses.frame import fit_to_map, fit_to_particles
from cryoatom.poses.verdict import TemplateFit
from cryoatom.records import Poses
from cryoatom.scattering import SOLVENT_POTENTIAL, VOLTS_PER_FACTOR, displaced_factor, electron_factor
from cryoatom.structure.specimen import read_specimen
from cryoatom.structure.superpose import kabsch
from cryoatom.structure.template import Template, read_template
from cryoatom.workers import Workers

CORE = "1-29,60-121,160-214"
BOX, PIXEL_SIZE, RESOLUTION, NOISE = 128, 1.0, 6.0, 0.3
MIRROR = np.diag([1.0, 1.0, -1.0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    closed = read_template(data_folder() / "adk_closed.pdb")[0]
    consensus = read_template(arguments.data / "truth" / "consensus.cif")[0]
    core = np.r_[0:29, 59:121, 159:214]
    frames = {"core": superposed(closed, consensus, core), "all": superposed(closed, consensus, np.arange(214))}
    print(f"core and all superposed differ by {distance(frames['core'], frames['all'])}")
    with tempfile.TemporaryDirectory() as folder, Workers(arguments.threads) as workers:
        for title, right, wrong in (
            ("particles", *write_particles(arguments.data, Path(folder), arguments.images)),
            ("map", *write_maps(Path(folder))),
        ):
            draw = np.random.default_rng(0)
            for start in range(arguments.starts):
                report(f"{title} {start}", scattered(closed, draw), right, frames, workers)
            for start in range(2):
                report(f"{title} of the wrong hand {start}", scattered(closed, draw), wrong, frames, workers)


def report(title: str, start: Template, data: Path, frames: dict[str, Template], workers: Workers) -> TemplateFit:
    began = time.perf_counter()
    if data.suffix == ".mrc":
        fit = fit_to_map(start, data, force=True, workers=workers)
    else:
        fit = fit_to_particles(start, read_particles(data), force=True, workers=workers)
    seconds = time.perf_counter() - began
    places = ", ".join(f"{distance(fit.template, frame)} from {name}" for name, frame in frames.items())
    scores = fit.describe().split("\n", 1)[1].replace("\n", " ")
    print(f"{title}: {places}; {seconds:.0f} s; {scores}; spread {fit.docking.spread:.3g}", flush=True)
    return fit


def distance(first: Template, second: Template) -> str:
    rotation, _ = kabsch(torch.from_numpy(first.positions), torch.from_numpy(second.positions))
    angle = np.rad2deg(np.arccos(np.clip((float(rotation.trace()) - 1) / 2, -1, 1)))
    shift = np.linalg.norm((first.positions - second.positions).mean(axis=0))
    return f"{angle:.2f}° {shift:.2f} Å"


def superposed(template: Template, onto: Template, residues: np.ndarray) -> Template:
    rotation, translation = kabsch(
        torch.from_numpy(template.positions[residues]), torch.from_numpy(onto.positions[residues])
    )
    return template.with_positions(template.atoms.positions @ rotation.numpy().T + translation.numpy())


def scattered(template: Template, draw: np.random.Generator) -> Template:
    """Turn a template at random and put its centre up to 15 Å off the origin."""
    direction = draw.standard_normal(3)
    shift = direction / np.linalg.norm(direction) * draw.uniform(0, 15)
    centered = template.atoms.positions - template.positions.mean(axis=0)
    return template.with_positions(centered @ random_rotations(1, draw)[0].T + shift)


def write_particles(data: Path, folder: Path, images: int) -> tuple[Path, Path]:
    """Write some particles, and the same with the poses of the mirrored consensus, R' = D R M."""
    particles = read_particles(data / "particles.star")
    particles = particles[np.arange(images) * len(particles) // images]
    assert particles.poses is not None
    mirrored = Poses(MIRROR @ particles.poses.rotations @ MIRROR, particles.poses.shifts)
    paths = folder / "right.star", folder / "wrong.star"
    for path, poses in zip(paths, (particles.poses, mirrored), strict=True):
        write_star_particles(path, replace(particles, poses=poses))
    return paths


def write_maps(folder: Path) -> tuple[Path, Path]:
    """Write the mean map of all frames, and its mirror image."""
    specimen = read_specimen((data_folder() / "adk_dims2.dcd",), data_folder() / "adk.psf", superpose=CORE)
    spectrum = np.zeros((BOX, BOX, BOX // 2 + 1), complex)
    k = [np.fft.fftfreq(BOX, PIXEL_SIZE), np.fft.fftfreq(BOX, PIXEL_SIZE), np.fft.rfftfreq(BOX, PIXEL_SIZE)]
    k2 = torch.from_numpy(sum(axis**2 for axis in np.meshgrid(*k, indexing="ij", sparse=True)))
    for element in np.unique(specimen.atoms.elements).tolist():
        counts = splat(specimen.positions[:, specimen.atoms.elements == element].reshape(-1, 3))
        factor = VOLTS_PER_FACTOR * electron_factor(element, k2) - SOLVENT_POTENTIAL * displaced_factor(element, k2)
        spectrum += np.fft.rfftn(counts / len(specimen.positions)) * factor.numpy()
    spectrum *= 1 / (1 + (k2.numpy() * RESOLUTION**2) ** 8)  # a Butterworth low-pass
    noise = np.fft.rfftn(np.random.default_rng(1).standard_normal((BOX,) * 3)) / (1 + (k2.numpy() * RESOLUTION**2) ** 8)
    values, noise = np.fft.irfftn(spectrum), np.fft.irfftn(noise)
    inside = values > 0.2 * values.max()
    values = values + noise * (NOISE * values[inside].std() / noise.std())
    paths = folder / "right.mrc", folder / "wrong.mrc"
    for path, content in zip(paths, (values, np.roll(values[::-1], 1, axis=0)), strict=True):  # about voxel BOX // 2
        with mrcfile.new(path) as file:
            file.set_data(content.astype(np.float32))
            file.voxel_size = PIXEL_SIZE
    return paths


def splat(positions: np.ndarray) -> np.ndarray:
    """Count atoms on the voxels around them, with trilinear weights: [z, y, x], the origin at voxel BOX // 2."""
    places = positions.astype(np.float64) / PIXEL_SIZE + BOX // 2
    floor = np.floor(places).astype(np.int64)
    upper = places - floor
    counts = np.zeros(BOX**3)
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, upper, 1 - upper).prod(axis=1)
        x, y, z = (floor + corner).T
        counts += np.bincount((z * BOX + y) * BOX + x, weight, BOX**3)
    return counts.reshape(BOX, BOX, BOX)


if __name__ == "__main__":
    main()
