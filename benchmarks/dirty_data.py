"""ADK data with junk and wrong poses, or with coloured noise: what they cost, with and without the mends.

    python benchmarks/dirty_data.py OUT --images-per-frame 100

Adds to a simulated data set (benchmarks/adk.py) junk and images in random poses, each a tenth of the whole: junk is
noise, ice, carbon, two particles in one image, and particles at the edge. A second set has coloured noise added, of
power 6 exp(-(k Å / 0.04)²) of the simulated white one. Trains each as it is and with --no-robust or --noise white, and
prints markdown tables: mean RMSD of the good images, and how well images.csv tells junk (area under the ROC curve).
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from adk import CORE, cryoatom, data_folder, prepare
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from cryoatom.files.mrc import StackWriter
from cryoatom.files.star import write_star_particles
from cryoatom.fourier import frequencies
from cryoatom.geometry import random_rotations
from cryoatom.particles.stack import ImageStack
from cryoatom.particles.table import read_particles
from cryoatom.records import Optics, Particles, Poses

KINDS = {"noise": 0.4, "ice": 0.15, "carbon": 0.15, "double": 0.15, "edge": 0.15}
RADIUS = 100.0  # Å, of the background


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images-per-frame", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-shift", type=float, default=0.0)
    parser.add_argument("--no-solvent", action="store_true")
    parser.add_argument("--sets", nargs="+", default=["clean", "junk", "coloured"])
    arguments = parser.parse_args()
    data = prepare(arguments)
    makers = {"clean": lambda: data, "junk": lambda: junk(arguments, data), "coloured": lambda: coloured(data)}
    options_of = {"clean": [[]], "junk": [[], ["--no-robust"]], "coloured": [[], ["--noise", "white"]]}
    print("| data | options | mean RMSD of good images (Å) | good images called junk | area under curve: all | junk "
          "| random poses |\n" + "|---" * 7 + "|")  # fmt: skip
    for name in arguments.sets:
        folder = makers[name]()
        for options in options_of[name]:
            row = run(arguments, folder, data, options)
            print(f"| {name} | {' '.join(options)} | " + " | ".join(f"{value:.4g}" for value in row) + " |", flush=True)


def run(arguments: argparse.Namespace, folder: Path, data: Path, options: list[str]) -> list[float]:
    """Train and evaluate unless it has been done; return the figures of a row."""
    out = folder / "-".join(["run", str(arguments.epochs), *(option.strip("-") for option in options)])
    if not (out / "eval/rmsd.csv").exists():
        cryoatom("train", folder / "particles.star", "--template", data / "template.cif", "-o", out, "--cache",
                 arguments.out / "cache", "-n", arguments.epochs, "--threads", arguments.threads, "--no-dcd",
                 "--overwrite", *options)  # fmt: skip
        truth = data / "truth"
        labels = folder / "frames.txt" if (folder / "frames.txt").exists() else truth / "frames.txt"
        cryoatom(
            "eval", out, "--gt", truth / "trajectory.dcd", "--gt-top", truth / "trajectory.cif", "--labels", labels
        )
    rmsd = column(out / "eval/rmsd.csv", "rmsd")
    kinds = np.loadtxt(folder / "kinds.txt", dtype=str) if (folder / "kinds.txt").exists() else None
    if kinds is None:
        return [float(rmsd.mean()), float(column(out / "images.csv", "is_junk").mean())]
    fits, good = column(out / "images.csv", "fits"), kinds == "good"
    bad = [~good, ~good & (kinds != "pose"), kinds == "pose"]
    lost = float(column(out / "images.csv", "is_junk")[good].mean())
    return [float(rmsd[good].mean()), lost, *(area_under_curve(fits[good], fits[which]) for which in bad)]


def column(path: Path, name: str) -> np.ndarray:
    with path.open() as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    """Return how often a good image has the higher value."""
    return float(mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))


def junk(arguments: argparse.Namespace, data: Path) -> Path:
    """Write the data set with junk and wrong poses, unless it is there; kinds.txt says what each image is."""
    folder = data.with_name(data.name + "-junk")
    if (folder / "kinds.txt").exists():
        return folder
    clean, files = read_particles(data / "particles.star"), data_folder()
    count, generator = len(clean) // 8, np.random.default_rng(1)
    cryoatom("simulate", files / "adk_dims2.dcd", "--top", files / "adk.psf", "-o", folder / "more",
             "--superpose", CORE, "--images-per-frame", -(-3 * count // 102), "--seed", 1, "--float16",
             "--threads", arguments.threads, "--overwrite")  # fmt: skip
    more = read_particles(folder / "more/particles.star")
    frames = np.loadtxt(folder / "more/truth/frames.txt", dtype=np.int64)
    order = generator.permutation(len(more))
    strangers, parts = order[:count], order[count : 3 * count].reshape(2, count)
    kinds = generator.choice(list(KINDS), count, p=list(KINDS.values()))
    stack = ImageStack(more)
    with StackWriter(folder / "junk.mrcs", clean.box, clean.pixel_size, count, mode=12) as write:
        for kind, pair in zip(kinds, parts.T, strict=True):
            write.write(draw_junk(kind, stack.read_normalized(pair, RADIUS).numpy(), generator)[None])
    whole = joined([clean, more[strangers], replace(more[parts[0]], stacks=((folder / "junk.mrcs").resolve(),),
                    stack_of_image=np.zeros(count, np.int64), slice_of_image=np.arange(count))])  # fmt: skip
    assert whole.poses is not None
    rotations = whole.poses.rotations.copy()
    rotations[len(clean) :] = random_rotations(2 * count, generator)
    shuffled = generator.permutation(len(whole))
    whole = replace(whole, poses=Poses(rotations, whole.poses.shifts))[shuffled]
    write_star_particles(folder / "particles.star", replace(whole, source=folder / "particles.star"))
    labels = [np.loadtxt(data / "truth/frames.txt", dtype=np.int64), frames[strangers], np.zeros(count, np.int64)]
    np.savetxt(folder / "frames.txt", np.concatenate(labels)[shuffled], fmt="%d")
    names = np.concatenate([np.full(len(clean), "good"), np.full(count, "pose"), kinds])
    np.savetxt(folder / "kinds.txt", names[shuffled], fmt="%s")
    return folder


def joined(parts: list[Particles]) -> Particles:
    """Return particles one after the other."""
    starts = np.cumsum([0, *(len(part.stacks) for part in parts[:-1])])
    poses = [part.poses for part in parts if part.poses is not None]
    stacks = tuple(stack for part in parts for stack in part.stacks)
    of_image = np.concatenate([part.stack_of_image + start for part, start in zip(parts, starts, strict=True)])
    slices = np.concatenate([part.slice_of_image for part in parts])
    return replace(
        parts[0],
        image_names=np.array([f"{k + 1:06d}@{stacks[i]}" for i, k in zip(of_image, slices, strict=True)]),
        stacks=stacks,
        stack_of_image=of_image,
        slice_of_image=slices,
        optics=Optics(*np.concatenate([part.optics.as_array() for part in parts]).T),
        optics_group=np.zeros(len(slices), np.int64),
        poses=Poses(np.concatenate([p.rotations for p in poses]), np.concatenate([p.shifts for p in poses])),
    )


def draw_junk(kind: str, pair: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return an image of junk; `pair` are two images of particles, of unit noise."""
    box = pair.shape[-1]
    y, x = np.mgrid[:box, :box] - box / 2
    if kind == "double":
        return (pair[0] + np.roll(pair[1], tuple(generator.integers(-30, 31, 2)), (0, 1))) / 2**0.5
    if kind == "edge":
        away = generator.choice([-1, 1], 2) * generator.integers(box // 6, box // 3, 2)
        return np.roll(pair[0], tuple(away), (0, 1))
    noise = generator.normal(size=(box, box)).astype(np.float32)
    if kind == "ice":
        center, radius = generator.uniform(-box / 4, box / 4, 2), generator.uniform(10, 30)
        return noise - 4 * np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * radius**2)).astype(np.float32)
    if kind == "carbon":
        angle, texture = generator.uniform(0, 2 * np.pi), gaussian_filter(generator.normal(size=(box, box)), 4)
        beyond = np.cos(angle) * x + np.sin(angle) * y - generator.uniform(-box / 4, box / 4)
        return (noise - (1.5 + texture / texture.std()) / (1 + np.exp(-beyond / 3))).astype(np.float32)
    return noise


def coloured(data: Path) -> Path:
    """Write the data set with coloured noise added, unless it is there."""
    folder = data.with_name(data.name + "-coloured")
    if (folder / "particles.star").exists():
        return folder
    folder.mkdir(exist_ok=True)
    particles, generator = read_particles(data / "particles.star"), torch.Generator().manual_seed(5)
    stack, (kx, ky) = ImageStack(particles), frequencies(particles.box, particles.pixel_size)
    colour = (6 * torch.exp(-(kx**2 + ky**2) / 0.04**2)).sqrt()
    with StackWriter(folder / "particles.mrcs", particles.box, particles.pixel_size, len(particles), mode=12) as write:
        for rows in np.array_split(np.arange(len(particles)), -(-len(particles) // 50)):
            images = stack.read_normalized(rows, RADIUS)
            noise = torch.randn(images.shape, generator=generator)
            added = torch.fft.irfft2(torch.fft.rfft2(noise) * colour, s=images.shape[-2:])
            write.write((images + added).float().numpy())
    source, name = folder / "particles.star", (folder / "particles.mrcs").resolve()
    names = np.array([f"{k + 1:06d}@particles.mrcs" for k in particles.slice_of_image])
    write_star_particles(source, replace(particles, source=source, stacks=(name,), image_names=names))
    return folder


if __name__ == "__main__":
    main()
