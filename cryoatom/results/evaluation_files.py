"""The files of an evaluation: tables, a summary and plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

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
    _write_csv(outdir / "rmsd.csv", {"image": np.arange(len(result.images.nearest_frame)), **images})
    _write_csv(outdir / "per_frame.csv", {"frame": np.arange(len(result.frames.images)), **frames})
    _write_csv(outdir / "per_residue.csv", vars(result.residues))
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


def _write_csv(path: Path, columns: Mapping[str, np.ndarray | None]) -> None:
    """Write one column per array; a column that is None, and NaN, stays empty."""
    count = max(len(column) for column in columns.values() if column is not None)
    cells = [[""] * count if column is None else _cells(column) for column in columns.values()]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*cells, strict=True))


def _cells(column: np.ndarray) -> list[str]:
    if column.dtype.kind == "f":
        return ["" if np.isnan(value) else f"{value:.4f}" for value in column.tolist()]
    return [str(value) for value in column.tolist()]
