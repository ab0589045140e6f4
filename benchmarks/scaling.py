"""What a training step costs, against images, residues and box: measured exponents.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--axes images residues box] [--repeats 3]

One thread, default settings, C-alphas of adenylate kinase 1 Å off, white noise, one defocus. Statistics are
memory-mapped from a file that repeats those of a few drawn images. Each point has a process of its own, which holds one
fit; the points of an axis train in turns. Seconds are those of CPU time, the least of the repeats; memory is private
memory at its highest while training. More residues than ADK's are copies of it, each a chain, packed round the origin
as its bounding box allows; fewer are its first ones. Boxes have pixels of 1 Å; one that cuts the particle's crop is
shown and not fitted. An exponent is the slope of log cost against log size.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
from memory import Peaks
from scene import PIXEL_SIZE, adk, make_optics, make_scene, make_trainer, packed, repeat_statistics
from scene import statistics as matched_statistics

from cryoatom.imaging.matched import open_matched_set
from cryoatom.structure.template import Template
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

DRAWN = 32  # different images; the file repeats them
ASKED = {"images": 1, "residues": 1, "box": 0}


@dataclass(frozen=True)
class Point:
    """A dataset: how many images of how many residues in which box, pixels."""

    images: int
    residues: int
    box: int


@dataclass(frozen=True)
class Cost:
    """CPU seconds of an epoch, private memory in MB, and the side of the crops with that of the particle's own."""

    seconds: float
    megabytes: float
    side: int
    wanted: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(ASKED), choices=list(ASKED))
    parser.add_argument("--images", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--residues", nargs="+", type=int, default=[100, 300, 1000, 3000, 10_000])
    parser.add_argument("--boxes", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--some", type=int, default=128, help="images of the points where their number stays")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where statistics are written for the time [default: a temporary one]"
    )
    arguments = parser.parse_args()
    usual = Point(arguments.some, len(adk()), 256)
    sizes = {"images": arguments.images, "residues": arguments.residues, "box": arguments.boxes}
    for axis in arguments.axes:
        if axis == "residues":
            usual = replace(usual, box=holding_box(packed(max(arguments.residues))))
        points = [replace(usual, **{axis: size}) for size in sizes[axis]]
        report(axis, points, measure(points, arguments.repeats, arguments.folder))
        usual = replace(usual, box=256)


def measure(points: list[Point], repeats: int, folder: Path | None) -> list[Cost]:
    """Train all points in turns."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools: list[Pool] = []
        for point in points:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            pools.append(stack.enter_context(context.Pool(1, start, (place, point))))
            pools[-1].apply(os.getpid)  # it has started: none does while others train
        costs = [[pool.apply(train) for pool in pools] for _ in range(repeats)]
    best = [min(each, key=lambda cost: cost.seconds) for each in zip(*costs, strict=True)]
    return [replace(b, megabytes=max(c[i].megabytes for c in costs)) for i, b in enumerate(best)]


def report(axis: str, points: list[Point], costs: list[Cost]) -> None:
    fixed = ", ".join(f"{value:,} {name}" for name, value in vars(points[0]).items() if name != axis)
    print(f"\nCost against {axis} ({fixed.replace('box', 'pixels a side')})\n")
    head = f"| {axis} | crop (pixels) | CPU an epoch (s) | CPU an image (ms) | private memory (MB) |"
    print(head + "\n" + "|---" * 5 + "|")
    fitted: list[tuple[float, float, float]] = []
    for point, cost in zip(points, costs, strict=True):
        size, is_cut = getattr(point, axis), cost.side < cost.wanted
        crop = f"{cost.side}" + (f", smaller than the particle's {cost.wanted}" if is_cut else "")
        image = 1e3 * cost.seconds / point.images
        print(f"| {size:,} | {crop} | {cost.seconds:.2f} | {image:.3f} | {cost.megabytes:.0f} |")
        if not is_cut:
            fitted.append((size, cost.seconds, cost.megabytes))
    if len(fitted) > 1:
        n, t, memory = np.log(np.array(fitted)).T
        of_time, of_memory = (f"{slope(n, y):.2f}, of the last two {slope(n[-2:], y[-2:]):.2f}" for y in (t, memory))
        print(f"\nexponent of time: {of_time}; asked: near {ASKED[axis]}; of memory: {of_memory}", flush=True)


def slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0])


_fit: Trainer  # of a process that trains one point
_cost: Cost
_epochs = itertools.count()


def start(folder: Path, point: Point) -> None:
    """Write the statistics of a point, build its fit and warm up on one batch."""
    global _fit, _cost
    template = packed(point.residues)
    scene = make_scene(make_optics(np.full(min(DRAWN, point.images), 2e4)), template=template, box=point.box)
    unbounded = make_scene(make_optics(np.full(1, 2e4)), template=template, box=holding_box(template)).grid.side
    repeat_statistics(folder, matched_statistics(scene), point.images)
    data = open_matched_set(folder, scene.grid, "benchmark")
    rotations = np.resize(scene.rotations.numpy(), (point.images, 3, 3))
    _fit = make_trainer(template, data, rotations, Workers(1).__enter__())
    _fit.train_epoch(0, np.arange(min(_fit.batch_size, point.images)))
    _cost = Cost(0.0, 0.0, scene.grid.side, unbounded)


def train() -> Cost:
    """Train an epoch."""
    epoch = next(_epochs) % _fit.schedule.epochs
    with Peaks() as peaks:
        started = time.thread_time()
        _fit.train_epoch(epoch, np.arange(len(_fit.data)))
        seconds = time.thread_time() - started
    return replace(_cost, seconds=seconds, megabytes=peaks.values["RssAnon"])


def holding_box(template: Template) -> int:
    """Return a box, pixels of 1 Å, that holds a template with room to spare."""
    reach = np.linalg.norm(template.positions, axis=1).max()
    return 64 * int(np.ceil(2 * (reach + 20) / PIXEL_SIZE / 64))


if __name__ == "__main__":
    main()
