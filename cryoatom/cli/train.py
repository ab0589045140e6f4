"""`cryoatom train`."""

from __future__ import annotations

import sys

import click

from cryoatom.cli.analyze import analyze_finished
from cryoatom.cli.follower import follow, is_follower
from cryoatom.cli.log import add_run_log
from cryoatom.cli.options import SectionedCommand, settings_options
from cryoatom.train_config import TrainConfig


@click.command(cls=SectionedCommand)
@click.option("--dry-run", is_flag=True, help="Check the input and estimate time, memory and disk; write nothing.")
@settings_options(TrainConfig)
def train(config: TrainConfig, dry_run: bool) -> None:
    """Fit one conformation to every particle image.

    PARTICLES is a RELION .star or cryoSPARC .cs file; the CTF and, with --poses known, the poses are read from it, or
    from other files (--ctf, --poses). Then the template must lie in the frame of the poses (`cryoatom template --fit`).
    With --poses esl they are estimated, and the template's frame is theirs.

    \b
    Examples:
        cryoatom train particles.star --template template.cif -o run
        cryoatom train particles.star --template template.cif -o run --dry-run
        cryoatom train particles.star --template template.cif --poses esl -o run
        cryoatom train particles.mrcs --poses pose.pkl --ctf ctf.pkl --template template.cif -o run
        cryoatom train particles.star --template template.cif -o run --load latest
        cryoatom train --config run/config.yaml -o again --seed 1
    """
    from rich.console import Console

    if is_follower():
        if not dry_run:
            follow(config)
        return
    if dry_run:
        _rehearse(config)
        return
    from cryoatom.cli.progress import progress
    from cryoatom.run_folder import RunFolder
    from cryoatom.training.train import train as fit

    add_run_log(RunFolder(config.outdir).log)
    folder = fit(config, command=sys.argv, stage=progress)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    result = f"{folder.conformations}: one conformation per image"
    if config.homogeneous:
        result = f"{folder.homogeneous}: the one conformation of all images"
    console.print(f"{result}; every epoch's figures in {folder.metrics}")
    if config.dcd and not config.homogeneous:
        console.print(f"{folder.trajectory} with {folder.topology} for ChimeraX, VMD or PyMOL")
    console.print(f"{folder.image_report}: which images fit; {folder.good_rows}: their rows, for --ind")
    if config.analysis and not config.homogeneous:
        analyze_finished(config, console)


def _rehearse(config: TrainConfig) -> None:
    """Show what a run would find and cost."""
    import logging

    from rich.console import Console
    from rich.table import Table

    from cryoatom.training.estimate import rehearse

    package = logging.getLogger("cryoatom")
    for handler in package.handlers:
        handler.setLevel(logging.INFO)  # the checks' lines are what was asked for
    table = Table("cost", "estimate", title="Nothing was written")
    for name, value in rehearse(config).rows():
        table.add_row(name, value)
    Console().print(table)
