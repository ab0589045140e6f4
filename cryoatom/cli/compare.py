"""`cryoatom compare`."""

from __future__ import annotations

import functools
import sys
from typing import Any

import click
from click.core import ParameterSource

from cryoatom.cli.options import SectionedCommand, settings_options
from cryoatom.cli.train import train
from cryoatom.compare_config import CompareConfig
from cryoatom.train_config import TrainConfig


def _list_systems(context: click.Context, parameter: click.Parameter, is_given: bool) -> None:
    from cryoatom.comparison.systems import SYSTEMS

    if is_given:
        width = max(map(len, SYSTEMS))
        click.echo("\n".join(f"{name:{width}}  {system.text}" for name, system in SYSTEMS.items()))
        context.exit()


@click.command(cls=SectionedCommand)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_systems, help="List the systems."
)
@click.option("--jobs", is_flag=True, help="List the jobs, and how SLURM runs them; run nothing.")
@settings_options(CompareConfig, example="an earlier comparison's compare.yaml; it lacks the options after --")
@click.argument("train_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF TRAIN]")
@click.pass_context
def compare(context: click.Context, config: CompareConfig, jobs: bool, train_options: tuple[str, ...]) -> None:
    """Train several systems on the same images and put them into one table.

    Each job, a system with a seed, is trained in a process of its own, for the same number of epochs, and compared
    with the truth. Writes table.md, table.csv, plots, and a run folder for each job. The same command again goes on
    where it was cut off; what is done is not repeated. Options of `cryoatom train` for all systems follow after --.

    \b
    Examples:
        cryoatom compare particles.star --template t.cif --gt traj.dcd --gt-top traj.psf --labels frames.txt -o out
        cryoatom compare particles.star --template t.cif -o out --systems gnn,mlp --seeds 1 -n 5
        cryoatom compare particles.star --template t.cif -o out --systems-file mine.yaml -- --ind rows.txt --zdim 4
        cryoatom compare particles.star --template t.cif -o out --jobs
    """
    from rich.console import Console

    from cryoatom.cli.compare_table import print_comparison, print_jobs
    from cryoatom.cli.log import add_run_log
    from cryoatom.cli.progress import progress
    from cryoatom.comparison.run import compare as run_comparison
    from cryoatom.threads import available_cores

    common, console = _train_settings(train_options), Console(soft_wrap=True, highlight=False, markup=False)
    if jobs:
        print_jobs(console, config, common, sys.argv)
        return
    import torch

    torch.set_num_threads(available_cores(config.threads))
    add_run_log(config.outdir / "run.log")
    found = run_comparison(config, common, command=sys.argv, stage=functools.partial(progress, unit="jobs"))
    print_comparison(console, found)
    if found.failures:
        context.exit(1)


def _train_settings(words: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that options of `cryoatom train` stand for."""
    given = click.Command("compare ... --", params=train.params).make_context("cryoatom compare ... --", list(words))
    unsuited = [name for name in ("config", "dry_run") if given.params[name]]
    if unsuited:
        raise click.UsageError(f"--{unsuited[0].replace('_', '-')} cannot stand after --: give single options of train")
    source = ParameterSource.COMMANDLINE
    return {name: given.params[name] for name in TrainConfig.model_fields if given.get_parameter_source(name) == source}
