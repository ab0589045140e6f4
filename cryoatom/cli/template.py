"""`cryoatom template`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("structure", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The template to write, .cif.")
@click.option("--chain", "chains", multiple=True, help="Keep this chain; may be given several times.")
@click.option("--residues", help="Keep these residues: 1-214, or 1-29,60-121, or A:1-29,B:5-80.")
@click.option("--onto", type=FILE, help="Superpose onto this structure, which lies in the frame of the poses.")
@click.option("--fit", type=FILE, help="Fit into this map (.mrc, .map, .ccp4), or to these particles and their poses.")
@click.option("--datadir", type=FILE, help="For --fit: folder of the image stacks.")
@click.option("--ind", type=FILE, help="For --fit: use only these particles, .npy, .txt or .pkl of zero-based rows.")
@click.option("--poses", type=FILE, help="For --fit: poses from this file, .star, .cs or cryoDRGN's .pkl.")
@click.option("--ctf", type=FILE, help="For --fit: CTF parameters from this file, .star, .cs or cryoDRGN's .pkl.")
@click.option(
    "--amp-contrast", type=click.FloatRange(0, 1), help="For --fit: amplitude contrast, where no file has it."
)
@click.option("--uninvert-data", is_flag=True, help="For --fit: particles are bright in the images.")
@click.option("--force", is_flag=True, help="For --fit: go on where hand or contrast of the data are found wrong.")
@click.option(
    "--center/--no-center", default=True, help="Move the C-alpha centroid to the origin, without --onto, --fit."
)
def template(
    structure: Path,
    output: Path,
    chains: tuple[str, ...],
    residues: str | None,
    onto: Path | None,
    fit: Path | None,
    center: bool,
    **data: Any,
) -> None:
    """Turn a structure into a template: protein residues, canonical names, one conformer, chain breaks found.

    STRUCTURE is mmCIF (AlphaFold 3) or PDB, .gz too. What is dropped is listed. With known poses the template must
    lie in their frame: --fit finds it there, and checks hand and contrast of the data.

    \b
    Examples:
        cryoatom template af3.cif -o template.cif
        cryoatom template complex.pdb -o template.cif --chain A --chain B
        cryoatom template af3.cif -o template.cif --residues 1-214 --onto consensus.pdb
        cryoatom template af3.cif -o template.cif --fit consensus.mrc
        cryoatom template af3.cif -o template.cif --fit particles.star --datadir Extract/job010
        cryoatom template af3.cif -o template.cif --fit particles.mrcs --poses pose.pkl --ctf ctf.pkl
    """  # noqa: D301
    from rich.console import Console

    from cryoatom.cli.template_frame import fitted, superposed
    from cryoatom.cli.template_table import template_table
    from cryoatom.structure.template import center_template, read_template, write_template

    if fit is not None and (onto is not None or not center):
        raise click.UsageError("--fit finds where the template lies: give it without --onto and --no-center")
    result, report = read_template(structure, chains=list(chains) or None, residues=residues)
    frame = "as in the file"
    if fit is not None:
        result, frame = fitted(result, fit, **data)
    elif onto is not None:
        result, frame = superposed(result, onto)
    elif center:
        result, frame = center_template(result), "centred"
    write_template(output, result)
    Console().print(template_table(f"{structure.name} -> {output}", result, report, frame))
