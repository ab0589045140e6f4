"""Costs of a grid of rotations: sampled (poses/sampling.py) against rendered, on images of a simulated dataset.

    OMP_NUM_THREADS=1 python benchmarks/search.py --particles sim/particles.star --template template.cif

Time is that of an image against all rotations, in one thread, the ways in turns; the ways that render do so for some
of the rotations. Agreement is with crops that are rendered densely for every rotation. The sampled way's second term
comes from a table of the template: making it is timed on its own, once a cluster of images. The joint search
(poses/search.py, at 8 Å, a coarse grid first) shares the views of a conformation among all images.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scene import interleave, make_optics
from scipy.stats import spearmanr
from torch import Tensor

from cryoatom.fourier import centered_irfft2, centered_rfft2
from cryoatom.imaging.beads import BeadModel
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.direct import direct_nll
from cryoatom.imaging.kernels import kernel_spectra
from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll
from cryoatom.imaging.matched import MatchedSet
from cryoatom.imaging.project import render, render_dense
from cryoatom.particles.stack import ImageStack
from cryoatom.poses.lowpass import LowPass
from cryoatom.poses.sampling import GridScorer, exact_costs, prepare_grid
from cryoatom.poses.search import JointSearch
from cryoatom.rotations import rotation_grid
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_trainer
from cryoatom.training.fit import start_scale
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import Inputs, read_inputs
from cryoatom.training.stage import silent
from cryoatom.workers import Workers

ROTATIONS = 14761
MANY = 64  # images that the joint search compares at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directions", type=int, default=800)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Workers(1) as workers:
        inputs, data, beads = read(arguments, Path(folder), workers)
        with torch.no_grad():
            compare(arguments, inputs, data, beads)


def read(arguments: argparse.Namespace, folder: Path, workers: Workers) -> tuple[Inputs, MatchedSet, BeadModel]:
    """Return images spread over the dataset, in matched form, and beads on the images' scale."""
    with open(arguments.particles) as file:
        total = sum(".mrcs" in line for line in file)
    rows = np.linspace(0, total - 1, arguments.images).astype(int)
    np.save(folder / "rows.npy", rows)
    config = TrainConfig(particles=arguments.particles, template=arguments.template, outdir=folder,
                         ind=folder / "rows.npy", device="cpu")  # fmt: skip
    inputs = read_inputs(config)
    data = prepare_images(config, inputs, RunFolder(folder), workers, silent)
    trainer = build_trainer(config, inputs, data, workers)
    start_scale(trainer, np.arange(len(data)))
    return inputs, data, trainer.model.beads


def compare(arguments: argparse.Namespace, inputs: Inputs, data: MatchedSet, beads: BeadModel) -> None:
    turns = rotation_grid(ROTATIONS).float()
    x = torch.from_numpy(inputs.template.positions).float()[None]
    size = (data.grid.side, data.grid.coarse_pixel)
    made = interleave({"grid": lambda: prepare_grid(turns, arguments.directions)}, 1)["grid"][0]
    grid = prepare_grid(turns, arguments.directions)
    build = interleave({"": lambda: GridScorer(beads, grid, *size, representatives=x)}, 3)[""]
    print(f"grid prepared once in {made:.2f} s, table of a cluster in {statistics.median(build):.2f} s")
    scorer = GridScorer(beads, grid, *size, representatives=x)
    crops, kernels = data.read(np.arange(len(data)))
    compare_times(arguments, inputs, scorer, beads, x, turns, crops, kernels, size)
    compare_costs(scorer, beads, x, turns, crops, kernels, size)
    compare_astigmatism(data, beads, x, turns, crops, scorer, size)


def compare_times(arguments, inputs, scorer, beads, x, turns, crops, kernels, size) -> None:
    """Time an image with all rotations; ways that render are timed on some and scaled up."""
    count, cluster = len(crops), torch.zeros(len(crops), dtype=torch.long)
    some = {name: turns[:: ROTATIONS // number] for name, number in (("crop", 512), ("direct", 64))}
    bead = (beads.amplitudes(), beads.variances())
    direct = direct_way(inputs, x, beads, bead)
    coarse, lowpass = prepare_grid(rotation_grid(ROTATIONS // 8), 300), LowPass(*size, 8.0)
    with Workers(1) as workers:
        joint = JointSearch(beads, x, coarse, prepare_grid(turns, 300), lowpass, workers=workers)
    many, still = crops.repeat(MANY // count, 1, 1), torch.zeros(MANY // count * count, 1, 2)
    ways = {
        "joint search": lambda: joint.best(many, kernels[:1], still, gaussian_nll, 16),
        "sampled": lambda: scorer.costs(crops, kernels, x.expand(count, -1, -1), cluster),
        "crops rendered": lambda: [
            crop_costs(render, beads, x, part, crops[:1], kernels[:1], size) for part in some["crop"].split(32)
        ],
        "256 x 256 direct": lambda: [direct(part) for part in some["direct"].split(4)],
    }
    share = {"joint search": len(many), "sampled": count, "crops rendered": len(some["crop"]) / ROTATIONS,
             "256 x 256 direct": len(some["direct"]) / ROTATIONS}  # fmt: skip
    seconds = {name: np.array(values) / share[name] for name, values in interleave(ways, arguments.repeats).items()}
    print(f"an image, {ROTATIONS} rotations, one thread, median of {arguments.repeats}:")
    for name, values in seconds.items():
        ratio = values / seconds["sampled"]
        print(f"  {name:<18} {1000 * np.median(values):10.2f} ms   {np.median(ratio):9.3f} times the sampled"
              f" ({ratio.min():.1f} to {ratio.max():.1f})", flush=True)  # fmt: skip


def direct_way(inputs: Inputs, x: Tensor, beads: BeadModel, bead: tuple[Tensor, Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the costs of rotations for the first image, as the paper has them."""
    particles = inputs.particles
    box, pixel_size = particles.box, particles.pixel_size
    image = ImageStack(particles).read_normalized(np.zeros(1, np.int64), 0.4 * box * pixel_size)
    transfer = ctf(particles.optics[[0]], box, pixel_size).float()

    def costs(turns: Tensor) -> Tensor:
        centers = beads.project(x.expand(len(turns), -1, -1), turns)
        v = render_dense(centers, *bead, box, pixel_size)
        prediction = centered_irfft2(centered_rfft2(v) * transfer, box)
        return direct_nll(image.expand(len(turns), -1, -1), prediction)

    return costs


def crop_costs(renderer, beads, x, turns, crops, kernels, size) -> Tensor:
    """Return (crops, rotations) costs of rendered crops: one rendering for all images, which share a conformation."""
    centers = beads.project(x.expand(len(turns), -1, -1), turns)
    v = renderer(centers, beads.amplitudes(), beads.variances(), *size)
    every = [gaussian_nll(*cross_and_power(v, crop.expand_as(v), kernel[None])) for crop, kernel in
             zip(crops, kernels.expand(len(crops), -1, -1), strict=True)]  # fmt: skip
    return torch.stack(every)


def compare_costs(scorer, beads, x, turns, crops, kernels, size) -> None:
    count = len(crops)
    conformations = x.expand(count, -1, -1)
    found = scorer.costs(crops, kernels, conformations, torch.zeros(count, dtype=torch.long))
    expected = torch.cat(
        [crop_costs(render_dense, beads, x, part, crops, kernels, size) for part in turns.split(32)], dim=1
    )
    best = expected.gather(1, found.argmin(dim=1, keepdim=True))[:, 0]
    loss = (best - expected.min(dim=1).values) / expected.min(dim=1).values.abs()
    listed = found.topk(15, largest=False).indices
    again = exact_costs(beads, conformations, turns[listed], crops, kernels, pixel_size=size[1])
    refined = expected.gather(1, listed.gather(1, again.argmin(dim=1, keepdim=True)))[:, 0]
    correlation = [float(spearmanr(f, e)[0]) for f, e in zip(found, expected, strict=True)]
    error = (found - expected).std(dim=1).square().mean().sqrt()
    agree, again_agree = int((loss == 0).sum()), int((refined == expected.min(dim=1).values).sum())
    print(f"against crops rendered densely, {count} images: rank correlation at least {min(correlation):.5f}, "
          f"error {float(error):.2f} nats rms of {float(expected.std(dim=1).mean()):.1f} over rotations")  # fmt: skip
    print(f"  best pose agrees in {agree} of {count}, its cost is higher by {float(loss.max()):.0e} of itself at most; "
          f"after scoring the best 15 again it agrees in {again_agree}")  # fmt: skip


def compare_astigmatism(data, beads, x, turns, crops, scorer, size) -> None:
    """Print what astigmatism, which the second term does not see, does to the costs of one image."""
    some = turns[::7]
    grid = prepare_grid(some, len(scorer.grid.table.directions))
    again = GridScorer(beads, grid, *size, representatives=x)
    print("  astigmatism Å   defocus µm   error of ½<v, κ*v>, nats rms   rank correlation")
    for astigmatism in (0.0, 200.0, 500.0, 1000.0):
        for defocus in (1e4, 2e4):
            transfer = ctf(make_optics(np.array([defocus]), astigmatism, 0.4), data.grid.box, data.grid.pixel_size)
            kernel = kernel_spectra(transfer, data.grid).float()
            found = again.costs(crops[:1], kernel, x, torch.zeros(1, dtype=torch.long))[0]
            parts = [crop_costs(render_dense, beads, x, part, crops[:1], kernel, size)[0] for part in some.split(32)]
            nothing = again.costs(0 * crops[:1], kernel, x, torch.zeros(1, dtype=torch.long))[0]
            power = [
                crop_costs(render_dense, beads, x, part, 0 * crops[:1], kernel, size)[0] for part in some.split(32)
            ]
            print(f"  {astigmatism:10.0f} {defocus / 1e4:12.1f} {float((nothing - torch.cat(power)).std()):22.2f}"
                  f" {float(spearmanr(found, torch.cat(parts))[0]):24.5f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
