"""How `cryoatom compare` shows its jobs and its table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from cryoatom.compare_config import CompareConfig
from cryoatom.comparison.plan import plan_jobs
from cryoatom.comparison.run import Comparison, look_up
from cryoatom.comparison.table import Table as ComparisonTable

_GAP = 3  # around a column
_NOT_OF_ALL = {"--jobs", "--job", "--array", "--table-only"}


def print_jobs(console: Console, config: CompareConfig, common: Mapping[str, Any], command: Sequence[str]) -> None:
    """Print the list of jobs with their states, and the line that hands them to SLURM."""
    jobs = plan_jobs(config, common)
    table = Table(Column("job", justify="right"), "system", Column("seed", justify="right"), "state")
    outcomes = [look_up(config, job) for job in jobs]
    for outcome in outcomes:
        job = outcome.job
        table.add_row(str(job.number), job.system.name, str(job.seed), outcome.describe())
    console.print(table)
    if any(outcome.hints for outcome in outcomes):
        console.print(
            f"What has run does not fit to this call. The command that ran it is in {config.outdir / 'compare.yaml'}: "
            "give its options, those after -- too, or --overwrite to train anew where settings or files differ.\n"
        )
    console.print("On a cluster, all at once, and afterwards the same command as now without --jobs for the table:\n")
    words = shlex.join(["cryoatom", "compare", "--array", *arguments(command)])
    console.print(
        f"sbatch --array=1-{len(jobs)} --cpus-per-task={config.threads or 8} --mem=16G --wrap {shlex.quote(words)}"
    )


def arguments(command: Sequence[str]) -> list[str]:
    """Return what was typed after `compare`, without what only lists or chooses one job."""
    words = list(command)
    words = words[words.index("compare") + 1 :] if "compare" in words else words[1:]
    number = [place + 1 for place, word in enumerate(words) if word == "--job"]
    return [word for place, word in enumerate(words) if place not in number and not _chooses(word)]


def _chooses(word: str) -> bool:
    return word in _NOT_OF_ALL or word.startswith("--job=")


def print_comparison(console: Console, found: Comparison) -> None:
    """Print the table, the jobs that it lacks, and the files; of a single job only what came of it."""
    if found.table is None:
        for outcome in found.outcomes:
            console.print(f"job {outcome.job.number} ({outcome.job.name}) {outcome.describe()}")
            console.print(
                f"{outcome.job.config.outdir}: its run; the table: the same command without --job and --array"
            )
        return
    left_out = _print_table(console, found.table)
    for note in found.table.notes:
        console.print(f"Missing: {note}")
    for remark in found.table.remarks:
        console.print(f"Note: {remark}")
    if left_out:
        console.print(f"Not shown, for want of room: {', '.join(left_out)}")
    console.print(f"{found.files[0].parent}: {', '.join(path.name for path in found.files)}")


def _print_table(console: Console, table: ComparisonTable) -> list[str]:
    """Print as many columns as a terminal has room for, a file all; return the headings of the others."""
    widths = [_width(cells) for cells in zip(table.headings, *table.rows, strict=True)]
    shown = len(widths)
    while console.is_terminal and sum(widths[:shown]) > console.width:
        shown -= 1
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(table.headings[:shown]):
        drawn.add_column(heading, justify="right" if index else "left", width=widths[index] - _GAP, vertical="bottom")
    for row in table.rows:
        drawn.add_row(*row[:shown])
    wide = console if console.is_terminal else Console(width=sum(widths), highlight=False)
    wide.print(drawn)
    return table.headings[shown:]


def _width(cells: Sequence[str]) -> int:
    """Return the room that a column needs: its heading may break between words, its cells may not."""
    heading, *rest = cells
    return _GAP + max(len(text) for text in [*heading.split(), *rest])
