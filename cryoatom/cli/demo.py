"""`cryoatom demo`."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from importlib import resources
from pathlib import Path
from typing import cast

import click

STEPS = (
    ("Images of a protein on its way from closed to open, every one in an orientation of its own:",
     "simulate {d}/input/path.xtc --top {d}/input/path.pdb.gz -o {d}/data --superpose 1-29,60-121,160-214 "
     "--images-per-frame {per_frame} --box 128 --pixel-size 2 --defocus-spread 5000"),
    ("One structure of it, the closed one, brought into the frame of the poses:",
     "template {d}/input/1ake.cif.gz -o {d}/template.cif --chain A --fit {d}/data/particles.star"),
    ("Its peptide and hydrogen bonds (train would make this graph too):",
     "graph {d}/template.cif -o {d}/graph.npz"),
    ("One conformation for every image:",
     "train {d}/data/particles.star --template {d}/template.cif --graph {d}/graph.npz -o {d}/run -n {epochs} "
     "--no-analysis"),
    ("Half of the images each, twice: how far do two decoders agree?",
     "analyze {d}/run --half-sets --cv lid=angle:179-185/115-125/125-153"),
    ("How far is each from the truth, which the training never saw?",
     "eval {d}/run --gt {d}/data/truth/trajectory.dcd --labels {d}/data/truth/frames.txt"),
)  # fmt: skip


@click.command()
@click.option("-o", "--outdir", type=click.Path(path_type=Path), default="cryoatom_demo", show_default=True)
@click.option("--images-per-frame", "per_frame", default=100, show_default=True, help="25 frames have so many each.")
@click.option("-n", "--num-epochs", "epochs", default=20, show_default=True, help="Passes over the images.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo in the folder.")
@click.pass_context
def demo(context: click.Context, outdir: Path, per_frame: int, epochs: int, overwrite: bool) -> None:
    """Run every command on a small real protein, in minutes.

    The truth is a path of adenylate kinase between crystal structures: closed (1AKE, the template) and open (4AKE).

    \b
        cryoatom demo
        cryoatom demo -o /tmp/demo --images-per-frame 20 --num-epochs 5
    """
    from rich.console import Console

    console, started = Console(soft_wrap=True, highlight=False), time.monotonic()
    if (outdir / "input").exists():
        if not overwrite:
            raise FileExistsError(f"{outdir} holds an earlier demo: give --overwrite, or another folder with -o")
        for part in ("input", "data", "run"):
            shutil.rmtree(outdir / part, ignore_errors=True)
    with resources.as_file(resources.files("cryoatom") / "demo_data") as data:
        shutil.copytree(data, outdir / "input")
    for number, (text, line) in enumerate(STEPS, start=1):
        words = shlex.split(line.format(d=shlex.quote(str(outdir)), per_frame=per_frame, epochs=epochs))
        console.print(f"\n{number}. {text}", style="bold", markup=False)
        console.print(f"$ cryoatom {shlex.join(words)}", style="green", markup=False)
        _run(context, words)
    console.print(_summary(outdir, time.monotonic() - started), markup=False)


def _run(context: click.Context, words: list[str]) -> None:
    _, command, arguments = cast(click.Group, context.find_root().command).resolve_command(context, words)
    cast(click.Command, command).main(arguments, prog_name=f"cryoatom {words[0]}", standalone_mode=False)


def _summary(outdir: Path, seconds: float) -> str:
    figures = json.loads((outdir / "run" / "eval" / "summary.json").read_text())
    return (
        f"\nDone in {seconds:.0f} s. Mean C-alpha RMSD to the truth over {figures['n_images']} images:\n"
        f"  before, the template           {figures['rmsd_template_mean']:.2f} Å\n"
        f"  the best single structure      {figures['rmsd_static_mean']:.2f} Å\n"
        f"  after, one for each image      {figures['rmsd_mean']:.2f} Å\n"
        f"Open {outdir}/run/analyze/report.html in a browser. Plots against the truth are in {outdir}/run/eval.\n"
        f"In ChimeraX: open {outdir}/run/analyze/motion1/open.cxc"
    )
