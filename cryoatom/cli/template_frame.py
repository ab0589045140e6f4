"""The frame that `cryoatom template` puts a template in, with what the table says of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryoatom.structure.template import matched_deviation, read_template, superpose_template

if TYPE_CHECKING:
    from cryoatom.structure.template import Template


def superposed(template: Template, onto: Path) -> tuple[Template, str]:
    """Superpose a template onto a structure."""
    target = read_template(onto)[0]
    moved = superpose_template(template, target)
    count, deviation = matched_deviation(moved, target)
    return moved, f"{count} residues on {onto.name}, RMSD {deviation:.2f} Å"


def fitted(
    template: Template, path: Path, *, datadir: Path | None, uninvert: bool, force: bool
) -> tuple[Template, str]:
    """Fit a template to a map or to particles, and show the progress."""
    from cryoatom.cli.progress import progress
    from cryoatom.poses.frame import fit_template
    from cryoatom.threads import available_cores
    from cryoatom.workers import Workers

    with (
        progress(1000, f"Fitting to {path.name}", unit="parts") as advance,
        Workers(available_cores()) as workers,
    ):
        found = fit_template(
            template,
            path,
            datadir=datadir,
            uninvert=uninvert,
            force=force,
            workers=workers,
            progress=lambda done, total: advance(done * 1000 // total),
        )
    return found.template, f"fitted to {path.name}: {found.describe()}"
