"""Two domains and a hinge: does `--decoder rigid` (cryoSPHERE) find where the chain bends, and how open each image is?

    python benchmarks/segments.py OUT --seeds 3

The heavy chain of an HLA molecule (3PWP, chain A, from MDAnalysisTests: 275 residues, all atoms): its immunoglobulin
domain (α3, from residue 182) is turned rigidly by 0 to 40° in 51 steps, about an axis through the C-alpha of residue
181 that opens the angle between both domains; then `cryoatom simulate`, so that images know nothing of segments or
beads. The template is the closed structure, superposed on the mean frame. The dose is chosen for the signal-to-noise
ratio asked for: variance of the signal over all pixels of the box, divided by that of the noise.

Of each run: the segment border where neighbouring segments turn most against each other (r.m.s. over images of the
angle), and how many residues it lies from 181; the correlation over images of predicted and true distance between the
domains' centres, over those that trained and over a tenth that did not (an encoder that has learned its images by
heart shows there; without an encoder, latents of held-out images are fitted too, the network is not); the r.m.s. error
over all. Runs that are there are not repeated. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from adk import cryoatom, data_folder, training_seconds

from cryoatom.files.mrc import open_stack
from cryoatom.files.structure import write_atoms
from cryoatom.rotations import exp_rotation, rotation_angle
from cryoatom.structure.superpose import kabsch
from cryoatom.structure.template import Template, read_template
from cryoatom.training.fit import split_rows

HINGE = 181
STEPS, LARGEST_DEG = 51, 40.0
BOX = 192
PILOT_DOSE, PILOT_IMAGES = 100.0, 4
SYSTEMS = {
    "autodecoder": [],
    "VAE": ["--encoder", "mlp", "--variational", "--lr", "3e-3"],
}
COMMON = ["--decoder", "rigid", "--likelihood", "profiled", "--crop-pixel", "2", "--patience", "0"]
HELD_OUT = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images-per-frame", type=int, default=60)
    parser.add_argument("--snr", type=float, default=0.01)
    parser.add_argument("--segments", default="4")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--options", default="", help="further options of `cryoatom train`, as one word")
    arguments = parser.parse_args()
    data = prepare(arguments)
    snr = json.loads((data / "snr.json").read_text())["snr"]
    images = STEPS * arguments.images_per_frame
    print(f"SNR {snr:.4f}, {images} images of {BOX} x {BOX} pixels of 1 Å, --segments {arguments.segments}\n")
    print("| system | seed | segments left | border after residue | hinge error (residues) | correlation of distances "
          "| of held-out images | r.m.s. error (Å) | template's (Å) | training (s) |")  # fmt: skip
    print("|---" * 10 + "|")
    for system in arguments.systems:
        rows = [run(arguments, data, system, seed) for seed in range(arguments.seeds)]
        for seed, row in enumerate(rows):
            print(f"| {system} | {seed} | {row['segments']} | {row['border']} | {row['hinge_error']} | "
                  f"{row['correlation']:.3f} | {row['held_out']:.3f} | {row['error']:.2f} | "
                  f"{row['template_error']:.2f} | {row['seconds']:.0f} |")  # fmt: skip
        mean = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
        print(f"| **{system}** | mean | {mean['segments']:.1f} | | **{mean['hinge_error']:.1f}** | "
              f"**{mean['correlation']:.3f}** | {mean['held_out']:.3f} | {mean['error']:.2f} | "
              f"{mean['template_error']:.2f} | {mean['seconds']:.0f} |", flush=True)  # fmt: skip


def prepare(arguments: argparse.Namespace) -> Path:
    """Make the trajectory, images of the ratio that is asked for, and the template, unless they are there."""
    data = arguments.out / f"data-{arguments.images_per_frame}-snr{arguments.snr:g}"
    if (data / "snr.json").exists():
        return data
    arguments.out.mkdir(parents=True, exist_ok=True)
    closed = closed_structure()
    frames = opened(closed)
    top, trajectory = arguments.out / "closed.cif", arguments.out / "opening.npy"
    write_atoms(top, closed.atoms)
    np.save(trajectory, frames.astype(np.float32))
    common = [trajectory, "--top", top, "--box", BOX, "--threads", arguments.threads, "--overwrite"]
    pilot = [*common, "--images-per-frame", PILOT_IMAGES, "--dose", PILOT_DOSE]
    noisy, clean = arguments.out / "pilot", arguments.out / "pilot-clean"
    cryoatom("simulate", *pilot, "-o", noisy)
    cryoatom("simulate", *pilot, "-o", clean, "--no-noise")
    found = signal_to_noise(noisy, clean)
    dose = PILOT_DOSE * arguments.snr / found  # noise of counting: the ratio is proportional to the dose
    cryoatom("simulate", *common, "-o", data, "--images-per-frame", arguments.images_per_frame, "--dose", dose,
             "--float16")  # fmt: skip
    cryoatom("template", top, "-o", data / "template.cif", "--onto", data / "truth/consensus.cif")
    check = arguments.out / "check"
    cryoatom("simulate", *common, "--images-per-frame", PILOT_IMAGES, "--dose", dose, "-o", check)
    figures = {"snr": signal_to_noise(check, clean), "dose": dose, "snr_at_100": found}
    (data / "snr.json").write_text(json.dumps(figures))
    return data


def closed_structure() -> Template:
    return read_template(data_folder() / "mmcif/3PWP.cif.gz", chains=["A"])[0]


def opened(closed: Template) -> np.ndarray:
    """Return (frames, atoms, 3): the residues after the hinge turned, about the axis that opens the angle at it."""
    hinge = closed.positions[closed.residue_numbers == HINGE][0]
    is_second = closed.residue_numbers > HINGE
    first, second = (closed.positions[mask].mean(axis=0) - hinge for mask in (~is_second, is_second))
    axis = np.cross(first, second)
    turns = np.deg2rad(np.linspace(0, LARGEST_DEG, STEPS))[:, None] * axis / np.linalg.norm(axis)
    frames = np.repeat(closed.atoms.positions[None], STEPS, axis=0)
    moves = is_second[closed.atom_residue]
    frames[:, moves] = hinge + (frames[:, moves] - hinge) @ exp_rotation(torch.from_numpy(turns)).mT.numpy()
    return frames


def signal_to_noise(noisy: Path, clean: Path) -> float:
    """Return var(signal) / var(noise) over all pixels; images without noise tell the signal up to its scale."""
    images, signal = (
        open_stack(folder / "particles.mrcs").read(np.arange(STEPS * PILOT_IMAGES)).astype(float)
        for folder in (noisy, clean)
    )
    signal -= signal.mean(axis=(1, 2), keepdims=True)
    scale = (images * signal).sum() / (signal**2).sum()
    return float((scale * signal).var() / (images - scale * signal).var())


def run(arguments: argparse.Namespace, data: Path, system: str, seed: int) -> dict[str, float]:
    """Train one system; return its row of the table."""
    words = arguments.options.split()
    tag = "".join(words).replace("--", "-").replace("/", "_")
    outdir = data.with_name(f"{data.name}-{system}-{arguments.segments}-{arguments.epochs}{tag}-seed{seed}")
    if not (outdir / "segments.csv").exists():
        cryoatom("train", data / "particles.star", "--template", data / "template.cif", "-o", outdir, "--overwrite",
                 "--cache", arguments.out / "matched", "-n", arguments.epochs, "--seed", seed, "--threads",
                 arguments.threads, "--segments", arguments.segments, "--no-dcd", "--no-analysis", "--no-uncertainty",
                 *COMMON, "--held-out", HELD_OUT, *SYSTEMS[system], *words)  # fmt: skip
    return measured(outdir, data, seed)


def measured(outdir: Path, data: Path, seed: int) -> dict[str, float]:
    """Return hinge error, correlation and error of distances of a run."""
    template, _ = read_template(data / "template.cif")
    conformations = np.load(outdir / "conformations.npy").astype(float)
    with (outdir / "segments.csv").open() as file:
        labels = np.array([int(row["segment"]) for row in csv.DictReader(file)])
    border = hinge(conformations, template, labels)
    frames = np.loadtxt(data / "truth/frames.txt", dtype=int)
    closed = closed_structure()
    true = distances(opened(closed)[:, closed.atoms.names == "CA"], closed)[frames]
    found = distances(conformations, template)
    static = distances(template.positions[None], template)
    trained, held_out = split_rows(len(found), HELD_OUT, seed)
    seconds = training_seconds(outdir)
    return {
        "segments": int(labels.max()),
        "border": border,
        "hinge_error": abs(border - HINGE),
        "correlation": float(np.corrcoef(found[trained], true[trained])[0, 1]),
        "held_out": float(np.corrcoef(found[held_out], true[held_out])[0, 1]),
        "error": float(np.sqrt(np.square(found - true).mean())),
        "template_error": float(np.sqrt(np.square(static - true).mean())),
        "seconds": seconds,
    }


def hinge(conformations: np.ndarray, template: Template, labels: np.ndarray) -> int:
    """Return the last residue before the border where two segments turn most against each other; 0 without borders."""
    borders = np.flatnonzero(np.diff(labels)) + 1
    parts = np.split(np.arange(len(labels)), borders)
    start = torch.from_numpy(template.positions)
    turns = [kabsch(start[part].expand(len(conformations), -1, -1), torch.from_numpy(conformations[:, part]))[0]
             for part in parts]  # fmt: skip
    angles = [rotation_angle(one, other).square().mean() for one, other in zip(turns, turns[1:], strict=False)]
    return int(template.residue_numbers[borders[int(np.argmax(angles))] - 1]) if angles else 0


def distances(conformations: np.ndarray, template: Template) -> np.ndarray:
    is_second = template.residue_numbers > HINGE
    centers = conformations[:, ~is_second].mean(axis=1) - conformations[:, is_second].mean(axis=1)
    return np.linalg.norm(centers, axis=1)


if __name__ == "__main__":
    main()
