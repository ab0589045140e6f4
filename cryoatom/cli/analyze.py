"""`cryoatom analyze`."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import click

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.cli.options import SectionedCommand, settings_options
from cryoatom.train_config import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console


@click.command(cls=SectionedCommand)
@settings_options(AnalyzeConfig)
def analyze(config: AnalyzeConfig) -> None:
    """See what a run shows, and how far it can be trusted.

    Finds the principal motions, clusters, a path through the images, rigid domains and their hinges; follows each as
    a series of structures with a ChimeraX script; compares the images with controls; and writes report.html, one file
    that opens in any browser without a network. `cryoatom train` does this at its end.

    \b
    Examples:
        cryoatom analyze run
        cryoatom analyze run 12
        cryoatom analyze run --half-sets
        cryoatom analyze run --path k3,k17 --cv lid=angle:179-185/115-125/125-153
    """
    from rich.console import Console

    from cryoatom.analysis.analyze import analyze as analyse
    from cryoatom.cli.log import add_run_log
    from cryoatom.cli.progress import progress_of_steps
    from cryoatom.run_folder import RunFolder

    add_run_log(RunFolder(config.run).log)
    folder = analyse(config, command=sys.argv, stage=progress_of_steps)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(folder.summary.read_text(encoding="utf-8"), end="")
    console.print(f"{folder.report}: open it in a browser")
    console.print(f"{folder.path}: series of structures; each folder has an open.cxc for ChimeraX")


def analyze_finished(config: TrainConfig, console: Console) -> None:
    """Analyse a run that has just ended; if that fails the run itself is whole, and only a warning is due."""
    from cryoatom.analysis.analyze import analyze as analyse
    from cryoatom.cli.progress import progress_of_steps

    try:
        folder = analyse(AnalyzeConfig(run=config.outdir, threads=config.threads), stage=progress_of_steps)
    except (ValueError, OSError, RuntimeError) as error:
        logging.getLogger("cryoatom").warning("the run is whole, but its analysis failed: %s", error, exc_info=True)
    else:
        console.print(folder.summary.read_text(encoding="utf-8"), end="")
        console.print(f"{folder.report}: open it in a browser; `cryoatom analyze --help` tells what more there is")
