"""`cryoatom graph`."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("template", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The graph to write, .npz.")
def graph(template: Path, output: Path) -> None:
    """Build the residue graph of a template: peptide bonds and backbone hydrogen bonds.

    Hydrogen bonds are those of DSSP (Kabsch and Sander, E < -0.5 kcal/mol). No peptide edge crosses a chain break.

    \b
    Examples:
        cryoatom graph template.cif -o graph.npz
    """  # noqa: D301
    from rich.console import Console
    from rich.table import Table

    from cryoatom.structure.graph import HYDROGEN, PEPTIDE, build_graph, write_graph
    from cryoatom.structure.template import read_template

    source, _ = read_template(template)
    result = build_graph(source)
    write_graph(output, result)
    hydrogen = (result.kinds == HYDROGEN).sum()
    table = Table("graph", f"{template.name} -> {output}")
    table.add_row("residues", str(result.residues))
    table.add_row("peptide edges", str((result.kinds == PEPTIDE).sum()))
    table.add_row("hydrogen-bond edges", f"{hydrogen}{' (C-alphas only)' if source.is_alpha_only else ''}")
    table.add_row("mean degree", f"{result.degrees.mean():.2f}")
    table.add_row("residues without an edge", str((result.degrees == 0).sum()))
    Console().print(table)
