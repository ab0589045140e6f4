"""`cryoatom train`."""

from __future__ import annotations

import sys

import click

from cryoatom.cli.log import add_run_log
from cryoatom.cli.options import settings_options
from cryoatom.config import TrainConfig


@click.command()
@settings_options(TrainConfig)
def train(config: TrainConfig) -> None:
    """Fit one conformation to every particle image.

    PARTICLES is a RELION .star file; the CTF and, with --poses known, the poses are read from it. Then the template
    must lie in the frame of the poses. With --poses esl they are estimated, and the template's frame is theirs.

    \b
    Examples:
        cryoatom train particles.star --template template.cif -o run
        cryoatom train particles.star --template template.cif --poses esl -o run
        cryoatom train particles.star --template template.cif -o run --load latest
        cryoatom train --config run/config.yaml -o again --seed 1
    """
    from rich.console import Console

    from cryoatom.cli.progress import progress
    from cryoatom.run_folder import RunFolder
    from cryoatom.training.train import train as fit

    add_run_log(RunFolder(config.outdir).log)
    folder = fit(config, command=sys.argv, stage=progress)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{folder.conformations}: one conformation per image; every epoch's figures in {folder.metrics}")
    if config.dcd:
        console.print(f"{folder.trajectory} with {folder.topology} for ChimeraX, VMD or PyMOL")
