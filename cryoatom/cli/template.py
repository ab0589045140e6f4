"""`cryoatom template`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from cryoatom.structure.template import Template, TemplateReport

MAX_NAMES = 8
FILE = click.Path(path_type=Path)


@click.command()
@click.argument("structure", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The template to write, .cif.")
@click.option("--chain", "chains", multiple=True, help="Keep this chain; may be given several times.")
@click.option("--residues", help="Keep these residues: 1-214, or 1-29,60-121, or A:1-29,B:5-80.")
@click.option("--onto", type=FILE, help="Superpose onto this structure, which lies in the frame of the poses.")
@click.option("--center/--no-center", default=True, help="Move the C-alpha centroid to the origin (not with --onto).")
def template(
    structure: Path, output: Path, chains: tuple[str, ...], residues: str | None, onto: Path | None, center: bool
) -> None:
    """Turn a structure into a template: protein residues, canonical names, one conformer, chain breaks found.

    STRUCTURE is mmCIF (AlphaFold 3) or PDB, .gz too. What is dropped is listed.

    \b
    Examples:
        cryoatom template af3.cif -o template.cif
        cryoatom template complex.pdb -o template.cif --chain A --chain B
        cryoatom template af3.cif -o template.cif --residues 1-214 --onto consensus.pdb
    """  # noqa: D301
    from rich.console import Console

    from cryoatom.structure import template as library
    from cryoatom.structure.hand import hand_of

    result, report = library.read_template(structure, chains=list(chains) or None, residues=residues)
    frame = "as in the file"
    if onto is not None:
        target = library.read_template(onto)[0]
        result = library.superpose_template(result, target)
        count, deviation = library.matched_deviation(result, target)
        frame = f"{count} residues on {onto.name}, RMSD {deviation:.2f} Å"
    elif center:
        result = library.center_template(result)
        frame = "centred"
    library.write_template(output, result)
    Console().print(summary(f"{structure.name} -> {output}", result, report, frame, str(hand_of(result))))


def summary(title: str, result: Template, report: TemplateReport, frame: str, hand: str) -> Table:
    """Return what was kept, renamed and dropped as a table."""
    from rich.table import Table

    table = Table("template", title)
    atoms = "C-alphas only" if result.is_alpha_only else f"{len(result.atoms)} heavy atoms"
    table.add_row("residues", f"{len(result)} ({atoms})")
    table.add_row("chains", ", ".join(f"{chain} ({n})" for chain, n in Counter(result.chain_ids.tolist()).items()))
    table.add_row("hand", hand)
    table.add_row("mean B factor or pLDDT", f"{result.confidence.mean():.1f}")
    table.add_row("frame", frame)
    table.add_row("chain breaks", "\n".join(report.breaks) or "none")
    table.add_row("renamed", _names(report.renamed) or "none")
    for kind, names in report.dropped.items():
        table.add_row(f"dropped: {kind}", f"{sum(names.values())}: {_names(names)}")
    if report.notes:
        table.add_row("notes", "\n".join(report.notes))
    return table


def _names(names: Counter[str]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in names.most_common(MAX_NAMES)) + ", ..." * (len(names) > MAX_NAMES)
