"""Tables 1 and 2 of Prins et al. on ADK: doses of 1000, 100 and 50 e/Å², with and without the geometry loss.

    python benchmarks/prins.py OUT --images-per-frame 40 --seeds 3
    python benchmarks/prins.py OUT --images-per-frame 40 --seeds 1 --doses 100 --losses geometry

Their system: a convolutional encoder, 8 latents, a perceptron of 7 linear maps 350 wide with SiLU, one Gaussian a
residue, bonds of 3.8 Å, the output norm. Their images: 102 frames of the closed-to-open trajectory of MDAnalysisTests
(adk.psf, adk_dims2.dcd), 2 µm under focus, pixels of 1 Å; here from `cryoatom simulate`, theirs from Parakeet, 600 a
frame. Their base conformation is the first of the trajectory, and so it is here. Their weights, for a mean over 80 x 80
pixels, are 160 nats for the geometry loss and 16 nats/Å² for bonds. Here the loss of the open conformation is 0.22: at
100 nats it costs 22.

Latents are those that the encoder reads, refined by --z-passes. A finished run is not repeated. Prints a markdown
table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from adk import CORE, cryoatom, data_folder, training_seconds

SYSTEM = (
    *("--encoder", "cnn", "--decoder", "mlp", "--dec-layers", 5, "--dec-dim", 350, "--activation", "silu"),
    *("--beads", "ca", "--zdim", 8, "--bond-length", 3.8, "--output-norm", "mlp", "--regularizer", "geometry"),
)
LOSSES = ("geometry", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images-per-frame", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--geometry", type=float, default=100.0, help="weight of the geometry loss, nats")
    parser.add_argument("--crop-pixel", type=float, default=2.0, help="Å")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--z-passes", type=int, default=2)
    parser.add_argument("--doses", nargs="+", type=int, default=[1000, 100, 50])
    parser.add_argument("--losses", nargs="+", default=LOSSES, choices=LOSSES)
    arguments = parser.parse_args()
    print("EMD-RMSD of the paper with the geometry loss: 1.9 to 2.8 Å over doses and proteins", file=sys.stderr)
    print("| dose (e/Å²) | geometry loss | seeds | EMD-RMSD (Å) | mean RMSD | median | bias | training (s) |")
    print("|---" * 8 + "|")
    for dose in arguments.doses:
        data = prepare(arguments, dose)
        for loss in arguments.losses:
            rows = [run(arguments, data, loss, seed) for seed in range(arguments.seeds)]
            emd, *rest, seconds = (statistics.mean(column) for column in zip(*rows, strict=True))
            spread = f" ± {statistics.stdev([row[0] for row in rows]):.2f}" if len(rows) > 1 else ""
            middle = " | ".join(f"{value:.2f}" for value in rest)
            kind = "yes" if loss == "geometry" else "no"
            print(f"| {dose} | {kind} | {len(rows)} | {emd:.2f}{spread} | {middle} | {seconds:.0f} |", flush=True)


def prepare(arguments: argparse.Namespace, dose: int) -> Path:
    """Simulate the images and make the template, unless they are there."""
    files = data_folder()
    data = arguments.out / f"data-{arguments.images_per_frame}-dose{dose}"
    if not (data / "particles.star").exists():
        cryoatom("simulate", files / "adk_dims2.dcd", "--top", files / "adk.psf", "-o", data, "--superpose", CORE,
                 "--images-per-frame", arguments.images_per_frame, "--dose", dose, "--threads", arguments.threads,
                 "--float16", "--overwrite")  # fmt: skip
    if not (data / "template.cif").exists():
        write_first_frame(data / "first.pdb")
        cryoatom("template", data / "first.pdb", "-o", data / "template.cif", "--onto", data / "truth/consensus.cif")
    return data


def write_first_frame(path: Path) -> None:
    """Write the trajectory's first conformation, all atoms."""
    import warnings

    import MDAnalysis

    files = data_folder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = MDAnalysis.Universe(files / "adk.psf", files / "adk_dims2.dcd")
        universe.trajectory[0]
        universe.select_atoms("all").write(path)


def run(arguments: argparse.Namespace, data: Path, loss: str, seed: int) -> list[float]:
    """Train and evaluate one system; return the row of the table."""
    weight = arguments.geometry if loss == "geometry" else 0
    options = {"-n": arguments.epochs, "--lr": arguments.lr, "-b": arguments.batch_size, "--geometry": weight,
               "--z-passes": arguments.z_passes, "--crop-pixel": arguments.crop_pixel, "--seed": seed}  # fmt: skip
    name = "".join(f"-{option.strip('-')}{value:g}" for option, value in options.items())
    outdir = data.with_name(data.name + name)
    summary = outdir / "eval" / "summary.json"
    if not summary.exists():
        cryoatom("train", data / "particles.star", "--template", data / "template.cif", "-o", outdir,
                 "--cache", arguments.out / "matched", "--overwrite", "--threads", arguments.threads, "--patience", 0,
                 "--no-dcd", "--no-analysis", "--no-uncertainty", *SYSTEM,
                 *(word for pair in options.items() for word in pair))  # fmt: skip
        truth = data / "truth"
        cryoatom("eval", outdir, "--gt", truth / "trajectory.dcd", "--gt-top", truth / "trajectory.cif",
                 "--labels", truth / "frames.txt", "--gt-poses", data / "particles.star")  # fmt: skip
    found = json.loads(summary.read_text())
    seconds = training_seconds(outdir)
    return [*(found[name] for name in ("emd_rmsd", "rmsd_mean", "rmsd_median", "bias_mean")), seconds]


if __name__ == "__main__":
    main()
