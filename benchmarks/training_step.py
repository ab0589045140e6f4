"""A whole training step against the likelihood alone, and images per second by threads.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py [--images 512]

Adenylate kinase, default settings (graph network, template-atom beads, R0, R1, R2, beads fitted), statistics in
memory. The step is everything: reading the statistics, decoding, likelihood, regularisers, gradients, both Adams. The
likelihood is value and gradient (of C-alphas and beads) of the same chunk, its statistics read beforehand.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from scene import CROP_PIXEL, Scene, interleave, make_optics, make_scene, make_trainer
from scene import statistics as matched_statistics

from cryoatom.workers import Workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--crop-pixel", type=float, default=CROP_PIXEL)
    arguments = parser.parse_args()
    count = arguments.images
    for title, optics in (
        ("one defocus for all", make_optics(np.full(count, 2e4))),
        ("a kernel for each image", make_optics(np.linspace(5e3, 3e4, count), 500.0, 0.7)),
    ):
        print(f"{title}:")
        scene = make_scene(optics, crop_pixel=arguments.crop_pixel)
        compare_with_likelihood(scene, arguments)
    compare_threads(scene, arguments)


def compare_with_likelihood(scene: Scene, arguments: argparse.Namespace) -> None:
    count = arguments.images
    with Workers(1) as workers:
        trainer = make_trainer(scene.template, matched_statistics(scene), scene.rotations.numpy(), workers)
        chunks = [np.arange(i, i + trainer.chunk) for i in range(0, count - trainer.chunk + 1, trainer.chunk)]
        batches = [trainer.batch(chunk) for chunk in chunks]
        model, objective = trainer.model, trainer.objective
        beads = list(model.beads.parameters())

        def likelihood() -> None:
            for batch in batches:
                x = model.template_positions.repeat(len(batch.crops), 1, 1).requires_grad_()
                torch.autograd.grad(objective.image_terms(model, x, batch)["nll"].sum(), [x, *beads])

        epochs = iter(range(1, 10_000))

        def step() -> None:
            trainer.train_epoch(next(epochs) % trainer.schedule.epochs, np.arange(len(batches) * trainer.chunk))

        seconds = interleave({"likelihood": likelihood, "step": step}, arguments.repeats)
    images = len(batches) * trainer.chunk
    for name, values in seconds.items():
        print(f"  {name:<12} {1e3 * statistics.median(values) / images:7.3f} ms an image")
    ratio = statistics.median(s / n for n, s in zip(*seconds.values(), strict=True))
    print(f"  ratio        {ratio:7.2f}   (batches of {trainer.batch_size}, chunks of {trainer.chunk}, one thread)")


def compare_threads(scene: Scene, arguments: argparse.Namespace) -> None:
    print("images per second, by epochs in turns:")
    data, count = matched_statistics(scene), arguments.images

    def epochs_with(workers: int, intra_op: int) -> object:
        with Workers(workers) as pool:
            trainer = make_trainer(scene.template, data, scene.rotations.numpy(), pool)
            if intra_op > 1:  # torch splits each operation instead; the batch stays whole
                trainer.chunk = trainer.batch_size
                torch.set_num_threads(intra_op)
            trainer.train_epoch(1, np.arange(count))
        return None

    ways = {"1 thread": (1, 1), "2 workers": (2, 1), "2 torch threads": (1, 2)}
    seconds = interleave({name: lambda way=way: epochs_with(*way) for name, way in ways.items()}, 3)
    for name, values in seconds.items():
        print(f"  {name:<16} {count / statistics.median(values):7.0f}", flush=True)


if __name__ == "__main__":
    main()
