"""`cryoatom volume`."""

from __future__ import annotations

import click

from cryoatom.analysis.volume_config import VolumeConfig
from cryoatom.cli.options import SectionedCommand, settings_options


@click.command(cls=SectionedCommand)
@settings_options(VolumeConfig)
def volume(config: VolumeConfig) -> None:
    """Write density maps of images of a run, those that meet criteria as of `cryoatom select`.

    density.mrc is the mean of their conformations, each drawn with the beads that the training fitted. With
    --backproject, map.mrc is what the images themselves say in the run's poses, half1.mrc and half2.mrc what every
    other image says, and fsc.csv and fsc.png how well these agree. rows.txt has the images, as rows of the particle
    file. Images that the training could not use are left out; --fits 0.05 leaves out all that are junk.

    \b
    Examples:
        cryoatom volume run --cluster 3 -o cluster3
        cryoatom volume run --motion 1:-3:-2 -o closed --backproject --resolution 6
        cryoatom volume run --ind rows.txt -o state --backproject --pixel 1 --box 256 --origin zero
    """
    from rich.console import Console

    from cryoatom.analysis.run import load
    from cryoatom.analysis.select import choose_images
    from cryoatom.analysis.volume_files import write_volumes
    from cryoatom.cli.progress import progress
    from cryoatom.threads import available_cores
    from cryoatom.workers import Workers

    run = load(config.run, config.epoch, config.particles)
    chosen = choose_images(run, config)
    with Workers(available_cores(config.threads)) as workers:
        written = write_volumes(run, chosen.images, config, workers=workers, stage=progress)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    dead = len(chosen.images) - len(written.images)
    left_out = f" ({dead:,} dead ones left out)" if dead else ""
    files = ", ".join(str(path) for path in written.files)
    console.print(f"{len(written.images):,} of {len(run):,} images{left_out}: {files}")
    if written.correlations is not None:
        console.print(
            f"Half maps agree to {written.correlations.finest:.2f} Å (FSC 0.143, without a mask but for the cube); "
            "they share the poses of the run, so this is no independent figure"
        )
