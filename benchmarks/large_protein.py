"""The paper's NSP13 rows on a protein of that size: GNN and MLP, with and without R2, known poses.

    python benchmarks/large_protein.py OUT --images-per-frame 50 --seeds 3
    python benchmarks/large_protein.py OUT --images-per-frame 50 --images 4000 --seeds 1 --epochs 10

Makes the data with benchmarks/make_flexible.py, trains and evaluates each system through the command line, and prints a
markdown table. Sizes are the paper's for NSP13: GNN of 16 layers, 32 channels (it has 16 channels and node embeddings
of 32, here both have one width); MLP of 8 layers of 64. A finished run is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from adk import cryoatom, training_seconds
from make_flexible import TEMPERATURE, prepare

GNN = ["--decoder", "gnn", "--dec-layers", "16", "--dec-dim", "32"]
MLP = ["--decoder", "mlp", "--dec-layers", "8", "--dec-dim", "64"]
SYSTEMS = {
    "gnn-r2": GNN,
    "gnn-no-r2": [*GNN, "--r2", "0"],
    "mlp-r2": MLP,
    "mlp-no-r2": [*MLP, "--r2", "0"],
    "gnn16-r2": [*GNN[:-1], "16"],
    "gnn16-no-r2": [*GNN[:-1], "16", "--r2", "0"],
}
FIGURES = ("rmsd_mean", "rmsd_median", "bias_mean", "scatter_mean", "emd_rmsd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images-per-frame", type=int, default=50)
    parser.add_argument("--images", type=int, help="train on the first so many; they show all frames alike")
    parser.add_argument("--structure", type=Path, help="as for make_flexible.py")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="as for make_flexible.py")
    parser.add_argument("--seed", type=int, default=1, help="of the trajectory")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS)[:4], choices=SYSTEMS)
    parser.add_argument("--options", default="", help="more options of every run, in one string")
    arguments = parser.parse_args()
    data = prepare(arguments)
    print("| system | seed | mean RMSD (Å) | median | bias | scatter | EMD-RMSD | training (s) |\n" + "|---" * 8 + "|")
    for system in arguments.systems:
        rows = [run(arguments, data, system, seed) for seed in range(arguments.seeds)]
        for seed, row in enumerate(rows):
            print(f"| {system} | {seed} | " + " | ".join(f"{value:.3f}" for value in row[:-1]) + f" | {row[-1]:.0f} |")
        means = [statistics.mean(column) for column in zip(*rows, strict=True)]
        spread = statistics.stdev([row[0] for row in rows]) if len(rows) > 1 else float("nan")
        first, *rest, seconds = means
        middle = " | ".join(f"{value:.3f}" for value in rest)
        print(f"| **{system}** | mean | **{first:.3f} ± {spread:.3f}** | {middle} | {seconds:.0f} |", flush=True)


def run(arguments: argparse.Namespace, data: Path, system: str, seed: int) -> list[float]:
    """Train and evaluate one system; return the row of the table."""
    some = [] if arguments.images is None else [str(arguments.images)]
    more = arguments.options.split()
    outdir = arguments.out / "-".join(["run", system, str(arguments.epochs), *some, *more, f"seed{seed}"])
    summary, truth = outdir / "eval" / "summary.json", data / "truth"
    labels, rows = truth / "frames.txt", []
    if arguments.images is not None:
        chosen, labels = (
            arguments.out / f"first-{arguments.images}.txt",
            arguments.out / f"frames-{arguments.images}.txt",
        )
        np.savetxt(chosen, np.arange(arguments.images), fmt="%d")
        np.savetxt(labels, np.loadtxt(truth / "frames.txt", dtype=np.int64)[: arguments.images], fmt="%d")
        rows = ["--ind", chosen]
    if not summary.exists():
        cryoatom("train", data / "particles.star", "--template", data / "template.cif", "-o", outdir, "--cache",
                 arguments.out / "matched", "--overwrite", "-n", arguments.epochs, "--seed", seed, "--threads",
                 arguments.threads, "--patience", 0, "--no-dcd", "--no-analysis", "--no-uncertainty", *rows,
                 *SYSTEMS[system], *more)  # fmt: skip
        cryoatom("eval", outdir, "--gt", truth / "trajectory.dcd", "--gt-top", truth / "trajectory.cif",
                 "--labels", labels)  # fmt: skip
    found = json.loads(summary.read_text())
    seconds = training_seconds(outdir)
    return [*(found[name] for name in FIGURES), seconds]


if __name__ == "__main__":
    main()
