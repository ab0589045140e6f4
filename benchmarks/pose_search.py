"""Poses of simulated images whose true conformations are given: the search alone, and after refinement.

    python benchmarks/pose_search.py SIMULATED/particles.star --template template.cif --truth SIMULATED/truth

Every image is searched on the papers' grid (14761 rotations) with its own true conformation. Errors: of the cheapest
rotation of the grid, of the barycentre of the ESL measure (the search alone), and after gradient steps on the full
likelihood with the conformation fixed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoatom.poses.esl import barycenter, esl_weights
from cryoatom.poses.lowpass import LowPass
from cryoatom.poses.sampling import exact_costs, prepare_grid
from cryoatom.poses.search import JointSearch
from cryoatom.results.ground_truth import read_ground_truth, read_labels
from cryoatom.rotations import rotation_angle, rotation_grid
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_trainer
from cryoatom.training.fit import start_scale
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import read_inputs
from cryoatom.training.pose_table import PoseTable
from cryoatom.training.stage import silent
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

_STEPS, _RATE_DEG = 30, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("particles", type=Path)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--every", type=int, default=5, help="use every so many-th image")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Workers(arguments.threads) as workers:
        config = TrainConfig(particles=arguments.particles, template=arguments.template, outdir=Path(scratch))
        inputs = read_inputs(config)
        data = prepare_images(config, inputs, RunFolder(Path(scratch)), workers, silent)
        trainer = build_trainer(config, inputs, data, workers)
        start_scale(trainer, np.arange(len(data)))
        truth = read_ground_truth(
            arguments.truth / "trajectory.dcd", arguments.truth / "trajectory.cif", inputs.template
        )
        labels = read_labels(arguments.truth / "frames.txt", len(data), len(truth))
        rows = np.arange(0, len(data), arguments.every)
        true = trainer.poses.rotations[rows].clone()
        started = time.monotonic()
        cheapest, mean, rescored = search(trainer, rows, labels, torch.from_numpy(truth.positions), workers)
        searched = time.monotonic()
        trainer.poses = PoseTable(trainer.poses.rotations, trainer.poses.shifts, 0.0, trainer.poses.crop_shifts)
        trainer.poses.rotations[rows] = mean
        refine(trainer, rows, torch.from_numpy(truth.positions)[labels])
        refined = time.monotonic()
    print(f"{len(rows)} images; search {searched - started:.0f} s (views of every frame included), ", end="")
    print(f"refinement {refined - searched:.0f} s")
    print("| | median (°) | mean (°) | within 15° |\n|---|---|---|---|")
    for name, found in (
        ("cheapest", cheapest),
        ("barycentre", mean),
        ("barycentre, 16 cheapest at full resolution", rescored),
        ("refined", trainer.poses.rotations[rows]),
    ):
        error = torch.rad2deg(rotation_angle(found, true))
        print(f"| {name} | {error.median():.2f} | {error.mean():.2f} | {(error < 15).float().mean():.4f} |")


def search(
    trainer: Trainer, rows: np.ndarray, labels: np.ndarray, truth: Tensor, workers: Workers
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cheapest rotation of each image, the barycentre, and that after scoring at full resolution."""
    coarse, fine = (prepare_grid(rotation_grid(count), 300) for count in (1845, 14761))
    lowpass = LowPass(trainer.data.grid.side, trainer.data.grid.coarse_pixel, 8.0)
    cheapest, mean, rescored = (torch.empty(len(rows), 3, 3) for _ in range(3))
    for frame in np.unique(labels[rows]):
        place = np.flatnonzero(labels[rows] == frame)
        beads = trainer.model.beads
        engine = JointSearch(beads, truth[frame : frame + 1].float(), coarse, fine, lowpass, workers=workers)
        crops, kernels = trainer.data.read(rows[place])
        found = engine.best(crops, kernels, torch.zeros(len(place), 1, 2), trainer.objective.nll, 16)
        index, weights = esl_weights(found.costs, len(fine))
        candidates = fine.rotations[found.rotations.gather(1, index)]
        cheapest[place], mean[place] = candidates[:, 0], barycenter(candidates, weights)[0]
        x = truth[frame : frame + 1].float().expand(len(place), -1, -1)
        costs = exact_costs(beads, x, candidates, crops, kernels, pixel_size=trainer.data.grid.coarse_pixel)
        index, weights = esl_weights(costs, len(fine))
        picked = candidates.gather(1, index[..., None, None].expand(-1, -1, 3, 3))
        rescored[place] = barycenter(picked, weights)[0]
    return cheapest, mean, rescored


def refine(trainer: Trainer, rows: np.ndarray, conformations: Tensor) -> None:
    """Move poses along the gradient of the likelihood of the given conformations, at a falling rate."""
    parts = [rows[start : start + 32] for start in range(0, len(rows), 32)]

    def move(part: np.ndarray) -> None:
        for step in range(_STEPS):
            tangents = torch.zeros(len(part), 5, requires_grad=True)
            x = conformations[part].float()
            loss = trainer.objective.image_terms(trainer.model, x, trainer.batch(part, tangents))["nll"]
            (gradient,) = torch.autograd.grad(loss.sum(), tangents)
            rate = float(np.deg2rad(_RATE_DEG)) * (1 - step / _STEPS)
            trainer.poses.step(torch.from_numpy(part), gradient, rate)

    trainer.workers.map(move, parts)


if __name__ == "__main__":
    main()
