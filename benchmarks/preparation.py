"""How long reading particles into matched crops takes, and how large they are; the same of a million images.

    OMP_NUM_THREADS=1 python benchmarks/preparation.py /tmp/adk102k/particles.star /tmp/adk102k/t.cif \\
        --counts 10000 30000 100000 [--threads 1 2] [--repeats 2] [--folder ON_THE_DISK_OF_CACHES]

The first so many images of a dataset are prepared as `cryoatom train` does it: reading the star file, measuring the
noise, computing and writing crops. Each preparation is a process of its own, in turns over counts and threads; before
it the stacks are dropped from the system's page cache (`--warm` leaves them there). A line through seconds against
images is extrapolated, with the standard error of that prediction. What limits: where the cores are busy for all of
the time, computing; where they wait, reading or writing, or other programs. How fast the same bytes can be read at all,
by one thread that does nothing else, is measured beside it. Sizes are in units of 1e6 and 1e9 bytes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from memory import Peaks

from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import read_inputs
from cryoatom.training.stage import silent
from cryoatom.workers import Workers

MILLION = 1_000_000
_BLOCK = 1 << 24  # bytes read at once


@dataclass(frozen=True)
class Job:
    """The first images of a dataset, prepared by some threads, read from the disk or from the system's memory."""

    particles: Path
    template: Path
    images: int
    threads: int
    is_warm: bool
    folder: Path | None


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds, bytes of the images and of the set, private memory in MB, seconds of reading alone."""

    seconds: float
    cpu: float
    image_bytes: int
    cache_bytes: int
    megabytes: float
    reading: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("particles", type=Path)
    parser.add_argument("template", type=Path)
    parser.add_argument("--counts", nargs="+", type=int, default=[1000, 3000, 10_000])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="leave images in the system's page cache")
    parser.add_argument("--folder", type=Path, help="where caches are written [default: the system's temporary folder]")
    given = parser.parse_args()
    jobs = [
        Job(given.particles, given.template, images, threads, given.warm, given.folder)
        for images in given.counts
        for threads in given.threads
    ]
    costs: dict[Job, list[Cost]] = {job: [] for job in jobs}
    context = multiprocessing.get_context("spawn")
    for _ in range(given.repeats):
        for job in jobs:
            with context.Pool(1) as pool:
                costs[job].append(pool.apply(prepare, (job,)))
    report(costs)
    for threads in given.threads:
        extrapolate({job: found for job, found in costs.items() if job.threads == threads}, threads)


def prepare(job: Job) -> Cost:
    """Read the bytes of a job's images and nothing else, then prepare them; in a process of its own."""
    with tempfile.TemporaryDirectory(dir=job.folder) as name:
        folder = Path(name)
        np.save(folder / "rows.npy", np.arange(job.images))
        config = TrainConfig(
            particles=job.particles,
            template=job.template,
            outdir=folder,
            ind=folder / "rows.npy",
            threads=job.threads,
            device="cpu",
        )
        particles = read_inputs(config).particles
        image_bytes = job.images * particles.box**2 * 4
        per_stack = -(-image_bytes // len(particles.stacks))
        forget(particles.stacks, job.is_warm)
        reading = -time.perf_counter()
        for stack in particles.stacks:
            read_bytes(stack, per_stack)
        reading += time.perf_counter()
        forget(particles.stacks, job.is_warm)
        seconds, cpu = -time.perf_counter(), -cpu_seconds()
        with Peaks() as peaks, Workers(job.threads) as workers:
            inputs = read_inputs(config)
            prepare_images(config, inputs, RunFolder(folder), workers, silent)
        seconds, cpu = seconds + time.perf_counter(), cpu + cpu_seconds()
        cache_bytes = sum(file.stat().st_size for file in RunFolder(folder).matched.rglob("*") if file.is_file())
    return Cost(seconds, cpu, image_bytes, cache_bytes, peaks.values["RssAnon"], reading)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def forget(stacks: tuple[Path, ...], is_warm: bool) -> None:
    """Drop files from the system's page cache, unless they are to stay there."""
    for stack in () if is_warm else stacks:
        with stack.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes(path: Path, count: int) -> None:
    with path.open("rb", buffering=0) as file:
        while count > 0 and (block := file.read(min(_BLOCK, count))):
            count -= len(block)


def report(costs: dict[Job, list[Cost]]) -> None:
    titles = ["images", "threads", "wall (s)", "CPU (s)", "cores busy", "images a second", "MB/s of images",
              "reading alone, MB/s", "cache (MB)", "private memory (MB)"]  # fmt: skip
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for job, found in costs.items():
        wall, cpu = (statistics.median(getattr(cost, name) for cost in found) for name in ("seconds", "cpu"))
        size, alone = found[0].image_bytes, statistics.median(cost.reading for cost in found)
        cells = [f"{job.images:,}", job.threads, f"{wall:.2f}", f"{cpu:.2f}", f"{cpu / wall:.2f}",
                 f"{job.images / wall:.0f}", f"{size / wall / 1e6:.0f}", f"{size / alone / 1e6:.0f}",
                 f"{found[0].cache_bytes / 1e6:.1f}", f"{max(cost.megabytes for cost in found):.0f}"]  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def extrapolate(costs: dict[Job, list[Cost]], threads: int) -> None:
    """Print what a million images would take, by lines through seconds and bytes against images."""
    pairs = [(job.images, cost) for job, found in costs.items() for cost in found]
    images = np.array([count for count, _ in pairs], dtype=float)
    if len(pairs) < 3 or len(np.unique(images)) < 2:
        return
    wall, wall_error = predicted(images, np.array([cost.seconds for _, cost in pairs]))
    cpu, cpu_error = predicted(images, np.array([cost.cpu for _, cost in pairs]))
    size, _ = predicted(images, np.array([cost.cache_bytes for _, cost in pairs], dtype=float))
    alone, _ = predicted(images, np.array([cost.reading for _, cost in pairs]))
    limit = "reading" if alone > cpu / threads else "computing"
    print(
        f"\n1,000,000 images, {threads} thread(s), from {images.max():,.0f}: {wall / 3600:.2f} ± "
        f"{wall_error / 3600:.2f} h ({cpu / 3600:.2f} ± {cpu_error / 3600:.2f} h of CPU), "
        f"{size / 1e9:.1f} GB of cache; reading alone {alone / 3600:.2f} h: {limit} limits",
        flush=True,
    )


def predicted(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the value at a million of the line through points, and its standard error."""
    slope, offset = np.polyfit(x, y, 1)
    residuals = y - slope * x - offset
    design = np.stack([x, np.ones_like(x)], axis=1)
    covariance = np.linalg.inv(design.T @ design) * (residuals @ residuals) / (len(x) - 2)
    at = np.array([MILLION, 1.0])
    return float(slope * MILLION + offset), float(np.sqrt(at @ covariance @ at))


if __name__ == "__main__":
    main()
