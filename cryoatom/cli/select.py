"""`cryoatom select`."""

from __future__ import annotations

import click

from cryoatom.analysis.select_config import SelectConfig
from cryoatom.cli.options import SectionedCommand, settings_options


@click.command(cls=SectionedCommand)
@settings_options(SelectConfig)
def select(config: SelectConfig) -> None:
    """Write the images of a run that meet criteria as a particle file, or as rows of it.

    A .star or .cs file is made from the particle file of the training: the rows that are kept, all columns, optics
    groups and comments stay as they were. Names of stacks in it are kept, too: use it in the same RELION or
    cryoSPARC project. Bounds are LOW:HIGH, both included; either may be empty. Clusters, PCs, motions and
    collective variables are those of `cryoatom analyze`. Lists of rows count the rows of the particle file from 0:
    what the report's page saves goes to --ind, here and in `cryoatom train`.

    \b
    Examples:
        cryoatom select run --cluster 3,4 -o open.star
        cryoatom select run --pc 1:-0.5:2 --fits 0.5 -o rows.txt
        cryoatom select run --motion 1::-2 --uncertainty 0.5 --random 5000 -o closed.star
        cryoatom select run --cv lid:100:120 -o lid.cs --also P1/J7/J7_passthrough_particles.cs
        cryoatom select run --ind rows_1200.txt -o lasso.star
        cryoatom select run --fits 0.05 --with-poses -o posed.star
    """
    from rich.console import Console
    from rich.table import Column, Table

    from cryoatom.analysis.run import load
    from cryoatom.analysis.select import choose_images
    from cryoatom.analysis.subset import write_subset

    run = load(config.run, config.epoch, config.particles)
    chosen = choose_images(run, config)
    written = write_subset(run, chosen.images, config)
    console, total = Console(soft_wrap=True, highlight=False, markup=False, emoji=False), len(run)
    numbers = [Column(heading, justify="right") for heading in ("images", "left")]
    table = Table("criterion", *numbers, title=f"{total:,} images", title_justify="left")
    for label, meeting, left in chosen.steps:
        table.add_row(label, f"{meeting:,}", f"{left:,}")
    if chosen.steps:
        console.print(table)
    console.print(f"{len(chosen.images):,} of {total:,} images: {', '.join(str(path) for path in written)}")
