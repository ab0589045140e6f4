"""What a training step costs an image as a complex grows: up to 14,000 residues in 66 chains, box 400.

    OMP_NUM_THREADS=1 python benchmarks/large_complex.py [--copies 1 4 16 66] [--images 4]

The complex is copies of adenylate kinase on a compact lattice; images are noise, which is as much
work as any other. A step is the value and the gradient of the objective with the default settings and clashes. Beads
are drawn on tiles (as `cryoatom train` does), on strips of whole rows, and densely, in turns, in one thread; peak
memory is what a step adds to the process. Every size has a process of its own. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from scene import CROP_PIXEL, DEFAULTS, adk, interleave, make_optics, make_trainer, packed

from cryoatom.geometry import random_rotations
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.grid import choose_grid
from cryoatom.imaging.kernels import kernel_spectra, kernel_table
from cryoatom.imaging.matched import MatchedSet
from cryoatom.imaging.project import render_dense
from cryoatom.particles.noise import white_noise
from cryoatom.structure.template import Template
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

BOX, PIXEL_SIZE = 400, 1.3
_MOST_IMAGES = 32  # at once, of one copy: what a call costs however small the molecule is shared by them
WAYS = {
    "tiles": (),
    "strips": ("cryoatom.imaging.project._groups_per_slab", lambda *_: 1),
    "dense": ("cryoatom.imaging.beads.render", render_dense),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4, 16, 66])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    print("| residues | beads | side |" + "".join(f" {way}: ms | MB |" for way in WAYS) + "\n" + "|---" * 9 + "|")
    for copies in arguments.copies:
        with context.Pool(1) as pool:
            size, costs = pool.apply(
                measure, (copies, max(arguments.images, _MOST_IMAGES // copies), arguments.repeats)
            )
        rows.append([size[0], *costs])
        print("| " + " | ".join([*map(str, size), *(f"{cost:.1f}" for cost in costs)]) + " |", flush=True)
    logs = np.log(np.array(rows))
    if len(logs) > 1:
        exponents = [f"{np.polyfit(logs[:, 0], column, 1)[0]:.2f}" for column in logs.T[1:]]
        print("| **exponent** | | | " + " | ".join(exponents) + " |")


def measure(copies: int, images: int, repeats: int) -> tuple[list[int], list[float]]:
    """Return residues, beads and side, then ms and MB an image of every way."""
    torch.set_num_threads(1)
    template = packed(copies * len(adk()))
    with Workers(1) as workers:
        trainer = noise_trainer(template, images, workers)
        steps = {name: step_of(trainer, way, images) for name, way in WAYS.items()}
        steps["tiles"]()  # what is only made once
        memory = [peak(step) / images for step in steps.values()]
        seconds = interleave(steps, repeats)
    size = [len(template), len(trainer.model.beads.electrons), trainer.data.grid.side]
    milliseconds = [1e3 * min(each) / images for each in seconds.values()]
    return size, [cost for both in zip(milliseconds, memory, strict=True) for cost in both]


def step_of(trainer: Trainer, way: tuple, images: int) -> Callable[[], object]:
    def step() -> None:
        with ExitStack() as stack:
            if way:
                stack.enter_context(patch(*way))
            rows = np.arange(images)
            latents = trainer.latents.read(torch.from_numpy(rows)).requires_grad_()
            trainer.objective(trainer.model, latents, trainer.batch(rows))["loss"].sum().backward()
        trainer.model.zero_grad()

    return step


def peak(step: Callable[[], object]) -> float:
    """Return what a step adds to this process's memory at most, MB."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the step before has left
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def noise_trainer(template: Template, images: int, workers: Workers) -> Trainer:
    reach = float(np.linalg.norm(template.positions, axis=1).max())
    grid = choose_grid(BOX, PIXEL_SIZE, 2 * (reach + DEFAULTS["margin"].default), CROP_PIXEL)
    generator, optics = np.random.default_rng(0), make_optics(np.linspace(1e4, 2e4, images))
    table, noise = kernel_table(optics), white_noise(images, BOX)
    data = MatchedSet(
        crops=generator.normal(size=(images, grid.side, grid.side)).astype(np.float16),
        kernels=kernel_spectra(ctf(table.nodes, BOX, PIXEL_SIZE), grid).half().numpy(),
        kernel_index=table.index, kernel_mix=table.mix, image_power=np.ones(images), power_excess=np.zeros(images),
        is_dead=np.zeros(images, dtype=bool), noise_power=noise.spectra, noise_group=noise.group_of_image, grid=grid,
        identity="benchmark",
    )  # fmt: skip
    rotations = random_rotations(images, generator)
    return make_trainer(template, data, rotations, workers, batch_size=images, chunk=images, clash=1.0)


if __name__ == "__main__":
    main()
