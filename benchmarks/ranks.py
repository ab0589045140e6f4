"""Training with two ranks against one, one thread each.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/ranks.py [--images 1024] [--repeats 9]

Adenylate kinase, default settings, statistics in memory. In turns: rank 0 trains an epoch alone while the others wait;
all train it together; each trains the whole of it for itself. The last is what the machine has to give: cores share
memory, caches and clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from scene import Scene, make_optics, make_scene, make_trainer
from scene import statistics as matched_statistics

from cryoatom.distributed import Ranks, joined
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    scene = make_scene(make_optics(np.full(arguments.images, 2e4)))
    with joined() as ranks:
        if ranks.size == 1:
            raise SystemExit("start it with torchrun --nproc-per-node 2")
        compare(scene, ranks, arguments)


def compare(scene: Scene, ranks: Ranks, arguments: argparse.Namespace) -> None:
    with Workers(1) as own, Workers(1, ranks) as shared:
        data, rotations = matched_statistics(scene), scene.rotations.numpy()
        options = {"batch_size": arguments.batch_size}
        alone = make_trainer(scene.template, data, rotations, own, **options)
        together = make_trainer(scene.template, data, rotations, shared, **options)
        rows = np.arange(arguments.images)
        ways = {
            "one alone": lambda epoch: train(alone, epoch, rows) if ranks.is_first else None,
            "together": lambda epoch: train(together, epoch, rows),
            "each for itself": lambda epoch: train(alone, epoch, rows),
        }
        seconds = {name: [] for name in ways}
        for epoch in range(arguments.repeats + 1):
            for name, way in ways.items():
                taken = timed(ranks, lambda way=way, epoch=epoch: way(epoch))
                if epoch:  # the first warms caches
                    seconds[name].append(taken)
    if ranks.is_first:
        report(ranks.size, arguments.images, seconds)


def train(trainer: Trainer, epoch: int, rows: np.ndarray) -> None:
    trainer.train_epoch(epoch % trainer.schedule.epochs, rows)


def timed(ranks: Ranks, function: Callable[[], object]) -> float:
    """Return the seconds until all ranks have done their part."""
    ranks.wait()
    started = time.perf_counter()
    function()
    ranks.wait()
    return time.perf_counter() - started


def report(size: int, images: int, seconds: dict[str, list[float]]) -> None:
    print(f"{images} images, {size} ranks, medians of {len(seconds['together'])} epochs in turns")
    for name, values in seconds.items():
        made = images * (size if name == "each for itself" else 1)
        print(f"  {name:<16} {made / statistics.median(values):7.0f} images a second")
    first = seconds["one alone"]
    for name, factor in (("together", 1), ("each for itself", size)):
        ratios = sorted(factor * a / b for a, b in zip(first, seconds[name], strict=True))
        median = statistics.median(ratios)
        print(f"  {name} : one alone = {median:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
