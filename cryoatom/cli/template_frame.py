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
    template: Template,
    path: Path,
    *,
    force: bool,
    uninvert_data: bool,
    amp_contrast: float | None,
    **files: Path | None,
) -> tuple[Template, str]:
    """Fit a template to a map or to particles, and show the progress; `files` are datadir, ind, poses and ctf."""
    from cryoatom.cli.progress import progress
    from cryoatom.particles.table import read_particles
    from cryoatom.poses.frame import MAP_SUFFIXES, fit_to_map, fit_to_particles
    from cryoatom.threads import available_cores
    from cryoatom.workers import Workers

    with (
        progress(1000, f"Fitting to {path.name}", unit="parts") as advance,
        Workers(available_cores()) as workers,
    ):
        how = {"force": force, "workers": workers, "progress": lambda done, total: advance(done * 1000 // total)}
        if path.suffix.lower() in MAP_SUFFIXES:
            if uninvert_data or amp_contrast is not None or any(files.values()):
                raise ValueError(f"{path} is a map: --datadir, --ind, --poses, --ctf, ... go with particles")
            found = fit_to_map(template, path, **how)
        else:
            particles = read_particles(path, amplitude_contrast=amp_contrast, **files)
            found = fit_to_particles(template, particles, uninvert=uninvert_data, **how)
    return found.template, f"fitted to {path.name}: {found.describe()}"
