"""The `cryoatom` program: lazily loaded commands, `--version`, and one clear line for every error."""

from __future__ import annotations

import logging
import platform
from importlib import import_module

import click

from cryoatom import __version__
from cryoatom.cli.follower import leave_group
from cryoatom.cli.log import console_log, error_line
from cryoatom.cli.signals import exit_code, stopping
from cryoatom.files.replacing import DISK_FULL
from cryoatom.interruption import PeerLostError, Stopped

COMMANDS = {
    "template": "cryoatom.cli.template:template",
    "graph": "cryoatom.cli.graph:graph",
    "train": "cryoatom.cli.train:train",
    "eval": "cryoatom.cli.eval:eval_command",
    "analyze": "cryoatom.cli.analyze:analyze",
    "select": "cryoatom.cli.select:select",
    "volume": "cryoatom.cli.volume:volume",
    "compare": "cryoatom.cli.compare:compare",
    "simulate": "cryoatom.cli.simulate:simulate",
    "demo": "cryoatom.cli.demo:demo",
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_GO_ON = "; go on with --load latest"
_logger = logging.getLogger("cryoatom")


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for, and reports errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None where there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name].split(":")
        return getattr(import_module(module), function)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest the ones that are spelt alike."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error becomes one line on stderr and exit code 1 (its traceback goes to run.log)."""
        with console_log(verbose=ctx.params["verbose"], debug=ctx.params["debug"]):
            try:
                with stopping():
                    return super().invoke(ctx)
            except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise
            except PeerLostError as error:
                _logger.warning("%s%s", error, _GO_ON)  # on the console of the first process alone
                ctx.exit(1)
            except Stopped as stop:
                _logger.error("%s%s", stop, _GO_ON if ctx.invoked_subcommand == "train" else "")
                ctx.exit(exit_code(stop, is_resumable=ctx.invoked_subcommand in ("train", "compare")))
            except Exception as error:
                _logger.error(error_line(error) + _way_out(error, ctx), exc_info=error)
                ctx.exit(1)


def _way_out(error: Exception, ctx: click.Context) -> str:
    is_full = isinstance(error, OSError) and error.errno in DISK_FULL
    return f"; make room and{_GO_ON[1:]}" if is_full and ctx.invoked_subcommand == "train" else ""


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, help="Print the version (with -v also torch, CUDA and threads).")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option("--debug", is_flag=True, help="Print the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, version: bool, verbose: bool, debug: bool) -> None:
    """Find one atomic backbone conformation for every cryo-EM particle image.

    \b
    cryoatom template af3.cif -o template.cif
    cryoatom train particles.star --template template.cif -o run
    cryoatom eval run --gt trajectory.dcd --gt-top topology.psf

    Start with `cryoatom demo`, which runs all of it on a small real protein.
    """
    if version:
        click.echo(f"cryoatom {__version__}")
        if verbose:
            click.echo(_environment())
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _environment() -> str:
    import torch

    from cryoatom.threads import available_cores

    cuda = "none"
    if torch.cuda.is_available():
        devices = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        cuda = f"{torch.version.cuda} ({devices})"
    lines = [
        f"python {platform.python_version()} on {platform.platform()}",
        f"torch {torch.__version__}",
        f"CUDA {cuda}",
        f"cores {available_cores()} available to this process; torch starts with {torch.get_num_threads()} threads",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the program."""
    try:
        cli(prog_name="cryoatom")
    except SystemExit as ending:
        leave_group(ending.code)
        raise


if __name__ == "__main__":
    main()
