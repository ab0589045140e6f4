"""Is the memory of training flat in the number of images?

    OMP_NUM_THREADS=1 python benchmarks/memory.py [--images 1500]

Runs one epoch over N and over 10 N images (adenylate kinase, default settings), each in a process of its own, the
statistics memory-mapped from a file of so many images. Private memory is what the process needs; pages of the mapped
file also count as resident while the system has room for them, and are given back when it has not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
from pathlib import Path

import numpy as np
from scene import BOX, make_optics, make_scene, make_trainer, repeat_statistics
from scene import statistics as matched_statistics

from cryoatom.imaging.matched import open_matched_set
from cryoatom.workers import Workers

DRAWN = 64  # different images; the file repeats them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("  images   file (MB)   private peak (MB)   mapped peak (MB)   resident peak (MB)")
    peaks = []
    for count in (arguments.images, 10 * arguments.images):
        with tempfile.TemporaryDirectory() as folder, context.Pool(1) as pool:
            size, private, mapped, resident = pool.apply(train_once, (Path(folder), count))
        peaks.append(private)
        print(f"{count:8} {size:11.1f} {private:19.1f} {mapped:18.1f} {resident:20.1f}", flush=True)
    per_image = (peaks[1] - peaks[0]) * 1e6 / (9 * arguments.images)
    print(f"private memory grows by {per_image:.0f} bytes an image; the image itself has {BOX * BOX * 4:,}")


def train_once(folder: Path, count: int) -> tuple[float, float, float, float]:
    template, rotations, grid = write_statistics(folder, count)
    data = open_matched_set(folder, grid, "benchmark")
    with Workers(1) as workers:
        trainer = make_trainer(template, data, np.resize(rotations, (count, 3, 3)), workers)
        with Peaks() as peaks:
            trainer.train_epoch(1, np.arange(count))
    size = (folder / "crops.npy").stat().st_size / 1e6
    return size, peaks.values["RssAnon"], peaks.values["RssFile"], peaks.values["VmRSS"]


def write_statistics(folder: Path, count: int):
    scene = make_scene(make_optics(np.full(DRAWN, 2e4)))
    drawn = matched_statistics(scene)
    repeat_statistics(folder, drawn, count)
    return scene.template, scene.rotations.numpy(), scene.grid


class Peaks:
    """Watch this process's memory while a block runs; `values` are MB."""

    def __enter__(self):
        self.values, self._done = {"RssAnon": 0.0, "RssFile": 0.0, "VmRSS": 0.0}, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.values:
                    self.values[name] = max(self.values[name], int(value.split()[0]) * 1024 / 1e6)


if __name__ == "__main__":
    main()
