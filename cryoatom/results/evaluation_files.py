"""The files of an evaluation: tables, a summary and plots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cryoatom.files.csv_table import write_csv
from cryoatom.files.replacing import replacing
from cryoatom.results.evaluation import EvaluationResult
from cryoatom.results.plots import PLOTS


def write_evaluation(outdir: Path, result: EvaluationResult) -> list[Path]:
    """Write rmsd.csv, per_frame.csv, per_residue.csv, summary.json and the plots.

    Plots of an earlier evaluation that this one lacks are removed. Images, frames and rows count from 0.

    Returns
    -------
    list of Path
        The files written.
    """
    outdir.mkdir(parents=True, exist_ok=True)
    images, frames = vars(result.images), vars(result.frames)
    order = ("frame", "rmsd", "rmsd_unaligned", "rmsd_template")  # then the rest
    images = {name: images[name] for name in (*order, *(name for name in images if name not in order))}
    write_csv(outdir / "rmsd.csv", {"image": np.arange(len(result.images.nearest_frame)), **images})
    write_csv(outdir / "per_frame.csv", {"frame": np.arange(len(result.frames.images)), **frames})
    write_csv(outdir / "per_residue.csv", vars(result.residues))
    with replacing(outdir / "summary.json") as temporary:
        temporary.write_text(json.dumps(result.summary(), indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    written = [outdir / name for name in ("summary.json", "rmsd.csv", "per_frame.csv", "per_residue.csv")]
    for name, plot in PLOTS.items():
        figure = plot(result)
        if figure is None:
            (outdir / name).unlink(missing_ok=True)
            continue
        with replacing(outdir / name) as temporary:
            figure.savefig(temporary, format="png", dpi=160)
        written.append(outdir / name)
    return written
