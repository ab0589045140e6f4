"""The table of a comparison: one row a system in table.md, one row a job in table.csv."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from cryoatom.comparison.plan import Job
from cryoatom.comparison.records import Record
from cryoatom.files.csv_table import write_csv
from cryoatom.files.replacing import replacing


@dataclass(frozen=True)
class Outcome:
    """A job and what is known of it; hints tell how it differs from what is asked for now."""

    job: Job
    state: Literal["done", "failed", "unfinished", "to do", "running"]
    record: Record | None
    hints: tuple[str, ...] = ()

    def figure(self, name: str) -> float | None:
        """Return a figure of a job that is done, else None."""
        return self.record.figure(name) if self.record is not None and self.state == "done" else None

    def describe(self) -> str:
        """Say in a few words what came of it."""
        if self.state != "done" or self.record is None:
            reason = f": {self.record.error}" if self.record is not None and self.state == "failed" else ""
            return ", ".join([f"{self.state}{reason}", *self.hints])
        shown = {"rmsd": "RMSD {:.2f} Å", "emd_rmsd": "EMD-RMSD {:.2f} Å", "held_out_nll": "held-out -log p {:.2f}"}
        known = [text.format(value) for name, text in shown.items() if (value := self.figure(name)) is not None]
        return ", ".join([*known[:1], f"trained in {self.figure('training_seconds'):.0f} s", *self.hints])


@dataclass(frozen=True)
class Column:
    """A figure, how it is headed, and with how many decimals it is shown."""

    figure: str
    heading: str
    decimals: int
    has_spread: bool = False

    def cell(self, values: Sequence[float | None]) -> str:
        """Return the mean, and where asked for ± the standard deviation over seeds."""
        known = np.array([value for value in values if value is not None])
        if len(known) == 0:
            return ""
        text = f"{known.mean():,.{self.decimals}f}"
        if self.has_spread and len(known) > 1:
            text += f" ± {known.std(ddof=1):.{self.decimals}f}"
        return text


COLUMNS = (
    Column("rmsd", "RMSD (Å)", 2, has_spread=True),
    Column("bias", "bias (Å)", 2),
    Column("scatter", "scatter (Å)", 2),
    Column("emd_rmsd", "EMD-RMSD (Å)", 2, has_spread=True),
    Column("pose_error_deg", "pose error (°)", 2),
    Column("clashes", "clashes per 100 residues", 2),
    Column("bond_deviation", "bond deviation (Å)", 3),
    Column("held_out_nll", "held-out -log p", 2),
    Column("training_seconds", "training (s)", 0),
    Column("peak_memory_gb", "memory (GB)", 2),
    Column("weights", "weights", 0),
)
BASELINES = (("best static structure", "static"), ("template", "template"))
"""What needs no training -> the end of the names of its figures."""
_LEGEND = """\
Means over seeds, ± their standard deviation. RMSD: of C-alphas to the true conformation of each image, after the best
rigid motion; bias: of the mean over the images of a true frame; scatter: of single images about that mean; EMD-RMSD:
earth mover's distance between the two distributions. Clashes: pairs of C-alphas nearer than 3.6 Å. Bond deviation: root
mean square difference of Cα-Cα bonds from the template's. Held-out -log p: nats per image, of images that did not train
the decoder, up to a constant of each image: means compare over the same seeds, which choose the images, and not with
another likelihood (correlation loss). A system with a latent for each image has fitted it to the held-out image too,
which flatters it by up to about half a nat for each number of the latent; an encoder only reads that image. Training:
time of all epochs. Memory: the peak of the process. Weights: numbers learned, without latents."""


@dataclass(frozen=True)
class Table:
    """Cells of the table, as text.

    Parameters
    ----------
    headings : list of str
    rows : list of list of str
        The first two cells are names, the others numbers.
    notes : list of str
        Jobs that are missing, and why.
    remarks : list of str
        What is in the figures all the same, and how it differs from what is asked for.
    """

    headings: list[str]
    rows: list[list[str]]
    notes: list[str]
    remarks: list[str] = field(default_factory=list)


def make_table(outcomes: Sequence[Outcome]) -> Table:
    """Return one row a system, in the order of the jobs; columns that no system has are left out."""
    by_system = group_by_system(outcomes)
    columns = [column for column in COLUMNS if any(each.figure(column.figure) is not None for each in outcomes)]
    rows = []
    for name, jobs in by_system.items():
        done = sum(each.state == "done" for each in jobs)
        seeds = f"{done}" if done == len(jobs) else f"{done} of {len(jobs)}"
        rows.append([name, seeds, *(column.cell([each.figure(column.figure) for each in jobs]) for column in columns)])
    for text, suffix in BASELINES:
        cells = [column.cell([baseline(outcomes, column.figure, suffix)]) for column in columns]
        if any(cells):
            rows.append([text, "", *cells])
    missing = [f"{each.job.name}: {each.describe()}" for each in outcomes if each.state != "done"]
    remarks = [f"{each.job.name}: {hint}" for each in outcomes if each.state == "done" for hint in each.hints]
    return Table(["system", "seeds", *(column.heading for column in columns)], rows, missing, remarks)


def baseline(outcomes: Sequence[Outcome], figure: str, suffix: str) -> float | None:
    """Return a figure of what needs no training, from the first job that has it: all jobs have the same."""
    return next((value for each in outcomes if (value := each.figure(f"{figure}_{suffix}")) is not None), None)


def group_by_system(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes of each system."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.job.system.name, []).append(outcome)
    return groups


def markdown(table: Table) -> str:
    """Return the table as aligned Markdown, with what its columns mean and which jobs are missing."""
    lines = [table.headings, *table.rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.headings))]
    ruler = [f":{'-' * (width - 1)}" if index == 0 else f"{'-' * (width - 1)}:" for index, width in enumerate(widths)]

    def row(cells: Sequence[str]) -> str:
        first, *others = cells
        aligned = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        return f"| {' | '.join(aligned)} |"

    text = "\n".join([row(table.headings), row(ruler), *(row(cells) for cells in table.rows)])
    parts = [text, _LEGEND]
    for heading, notes in (("Not in these figures", table.notes), ("In these figures all the same", table.remarks)):
        if notes:
            parts.append(f"{heading}:\n\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def write_table(outdir: Path, table: Table, outcomes: Sequence[Outcome]) -> list[Path]:
    """Write table.md and table.csv, and return them."""
    with replacing(outdir / "table.md") as temporary:
        temporary.write_text(markdown(table), encoding="utf-8")
    names = dict.fromkeys(name for each in outcomes if each.record for name in _figures(each.record))
    columns: dict[str, np.ndarray | None] = {
        "job": np.array([each.job.number for each in outcomes]),
        "system": np.array([each.job.system.name for each in outcomes]),
        "seed": np.array([each.job.seed for each in outcomes]),
        "state": np.array([each.state for each in outcomes]),
        "error": np.array([(each.record and each.record.error) or "" for each in outcomes]),
        "note": np.array(["; ".join(each.hints) for each in outcomes]),
        "run": np.array([os.path.relpath(each.job.config.outdir, outdir) for each in outcomes]),
    }
    for name in names:
        values = [each.figure(name) for each in outcomes]
        columns[name] = _csv_column(values)
    write_csv(outdir / "table.csv", columns)
    return [outdir / "table.md", outdir / "table.csv"]


def _csv_column(values: list[float | None]) -> np.ndarray:
    if all(isinstance(value, int | None) for value in values):
        return np.array(["" if value is None else str(value) for value in values])
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _figures(record: Record) -> list[str]:
    return [*(record.figures or {}), *(record.training or {})]
