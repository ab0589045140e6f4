"""The paper's ADK experiment, with known and unknown poses: accuracy and training time of each system and seed.

    python benchmarks/adk.py OUT --images-per-frame 100 --seeds 3
    python benchmarks/adk.py OUT --images-per-frame 1000 --seeds 3 --epochs 12 --systems gnn-r2
    python benchmarks/adk.py OUT --images-per-frame 100 --seeds 3 --systems gnn-esl
    python benchmarks/adk.py OUT --images-per-frame 100 --seeds 1 --systems gnn-esl --max-shift 5

Simulates the closed-to-open trajectory of MDAnalysisTests (adk.psf, adk_dims2.dcd: 102 frames) once, superposes the
crystal template adk_closed.pdb on the mean frame, then trains and evaluates each system through the command line. A
finished run is not repeated. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

SYSTEMS = {
    "gnn-r2": [],
    "gnn-no-r2": ["--r2", "0"],
    "mlp-r2": ["--decoder", "mlp"],
    "mlp-no-r2": ["--decoder", "mlp", "--r2", "0"],
    "gin-r2": ["--gnn-layer", "gin"],
    "gin-no-r2": ["--gnn-layer", "gin", "--r2", "0"],
    "gnn-noisy": ["--z-components", "0"],
    "mlp-noisy": ["--decoder", "mlp", "--z-components", "0"],
    "gnn-ca": ["--beads", "ca"],
    "gnn-two": ["--beads", "two"],
    "gnn-profiled": ["--likelihood", "profiled"],
    "gnn-esl": ["--poses", "esl"],
    "gnn-esl-no-r2": ["--poses", "esl", "--r2", "0"],
    "mlp-esl": ["--poses", "esl", "--decoder", "mlp"],
    "mlp-esl-no-r2": ["--poses", "esl", "--decoder", "mlp", "--r2", "0"],
}
CORE = "1-29,60-121,160-214"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images-per-frame", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS)[:4], choices=SYSTEMS)
    parser.add_argument("--no-solvent", action="store_true")
    parser.add_argument("--max-shift", type=float, default=0.0, help="of the simulated images, Å")
    arguments = parser.parse_args()
    data = prepare(arguments)
    print("| system | seed | mean RMSD (Å) | median | bias | scatter | EMD-RMSD | median pose error (°) | within 15° "
          "| median shift error (Å) | training (s) |")  # fmt: skip
    print("|---" * 11 + "|")
    for system in arguments.systems:
        rows = [run(arguments, data, system, seed) for seed in range(arguments.seeds)]
        for seed, row in enumerate(rows):
            print(f"| {system} | {seed} | " + " | ".join(f"{value:.3f}" for value in row[:-1]) + f" | {row[-1]:.0f} |")
        means = [statistics.mean(column) for column in zip(*rows, strict=True)]
        spread = statistics.stdev([row[0] for row in rows]) if len(rows) > 1 else float("nan")
        first, *rest, seconds = means
        middle = " | ".join(f"{value:.3f}" for value in rest)
        print(f"| **{system}** | mean | **{first:.3f} ± {spread:.3f}** | {middle} | {seconds:.0f} |", flush=True)


def prepare(arguments: argparse.Namespace) -> Path:
    """Simulate the data and make the template, unless they are there."""
    files = data_folder()
    data = arguments.out / f"data-{arguments.images_per_frame}{'-vacuum' if arguments.no_solvent else ''}"
    data = data.with_name(data.name + f"-shift{arguments.max_shift:g}") if arguments.max_shift else data
    if not (data / "particles.star").exists():
        cryoatom("simulate", files / "adk_dims2.dcd", "--top", files / "adk.psf", "-o", data, "--superpose", CORE,
                 "--images-per-frame", arguments.images_per_frame, "--threads", arguments.threads, "--float16",
                 "--max-shift", arguments.max_shift,
                 "--no-solvent" if arguments.no_solvent else "--solvent", "--overwrite")  # fmt: skip
    if not (data / "template.cif").exists():
        cryoatom("template", files / "adk_closed.pdb", "-o", data / "template.cif",
                 "--onto", data / "truth/consensus.cif")  # fmt: skip
    return data


def run(arguments: argparse.Namespace, data: Path, system: str, seed: int) -> list[float]:
    """Train and evaluate one system; return the row of the table."""
    outdir = data.with_name(f"{data.name}-{system}-{arguments.epochs}-seed{seed}")
    summary = outdir / "eval" / "summary.json"
    if not summary.exists():
        cryoatom("train", data / "particles.star", "--template", data / "template.cif", "-o", outdir,
                 "--cache", arguments.out / "matched", "--overwrite", "-n", arguments.epochs, "--seed", seed,
                 "--threads", arguments.threads, "--patience", 0, "--no-dcd", "--no-analysis",
                 "--no-uncertainty", *SYSTEMS[system])  # fmt: skip
        truth = data / "truth"
        cryoatom("eval", outdir, "--gt", truth / "trajectory.dcd", "--gt-top", truth / "trajectory.cif",
                 "--labels", truth / "frames.txt", "--gt-poses", data / "particles.star")  # fmt: skip
    found = json.loads(summary.read_text())
    names = ("rmsd_mean", "rmsd_median", "bias_mean", "scatter_mean", "emd_rmsd", "pose_error_deg_median",
             "pose_share_within_15_deg", "shift_error_median")  # fmt: skip
    return [*(found[name] for name in names), training_seconds(outdir)]


def training_seconds(outdir: Path) -> float:
    """Return the time of all epochs of a run."""
    with (outdir / "metrics.csv").open() as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def cryoatom(*words: object) -> None:
    """Run a command of cryoatom, saying which."""
    command = ["cryoatom", *(str(word) for word in words)]
    print("$", *command, file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


def data_folder() -> Path:
    """Return the folder of MDAnalysisTests' data, without importing MDAnalysis."""
    found = importlib.util.find_spec("MDAnalysisTests")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("this benchmark needs the package MDAnalysisTests: pip install MDAnalysisTests")
    return Path(found.submodule_search_locations[0]) / "data"


if __name__ == "__main__":
    main()
