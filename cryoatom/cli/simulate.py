"""`cryoatom simulate`: a trajectory to a data set of images with a known truth."""

from __future__ import annotations

from pathlib import Path

import click

from cryoatom.cli.options import settings_options
from cryoatom.simulate_config import SimulateConfig


@click.command()
@click.argument("traj", nargs=-1, required=True, type=click.Path(path_type=Path))
@settings_options(SimulateConfig)
def simulate(config: SimulateConfig, traj: tuple[Path, ...]) -> None:
    """Simulate images of every frame of an all-atom trajectory.

    TRAJ is a DCD, XTC or npy (with --top), or structures of the same atoms. Writes DIR/particles.star and
    particles.mrcs (RELION 3.1, raw contrast: protein is dark) and DIR/truth: the frame of every image, the C-alphas
    of every frame and the mean structure, all in the frame of reference of the poses.

    \b
    cryoatom simulate adk_dims2.dcd --top adk.psf -o data --superpose 1-29,60-121,160-214
    cryoatom simulate models.pdb -o data --box 128 --pixel-size 2 --max-shift 5
    """
    from rich.console import Console

    from cryoatom.cli.progress import progress
    from cryoatom.simulate import check_outdir
    from cryoatom.simulate import simulate as simulate_images
    from cryoatom.structure.specimen import read_specimen

    specimen = read_specimen(traj, config.top, superpose=config.superpose, is_centered=config.center)
    count = len(specimen.positions) * config.images_per_frame
    check_outdir(config, count)
    with progress(count, "Simulating") as advance:
        simulate_images(specimen, config, lambda done: advance(done, ""))
    Console().print(
        f"{config.outdir / 'particles.star'}: {count:,} images of {len(specimen.positions):,} frames "
        f"({len(specimen.atoms):,} atoms), the truth beside it in {config.outdir / 'truth'}",
        soft_wrap=True,
        highlight=False,
    )
