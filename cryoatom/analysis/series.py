"""The files of a series of conformations: for viewers, for molecular dynamics tools, and for scripts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoatom.files.chimerax import series_script
from cryoatom.files.replacing import replacing
from cryoatom.files.structure import write_atoms, write_models
from cryoatom.files.trajectory import DcdWriter
from cryoatom.records import Atoms
from cryoatom.structure.template import Template
from cryoatom.training.outputs import alpha_atoms

_LEAST_RANGE = 0.1  # of the colours
_B_LABEL = "largest displacement from the first frame (Å)"
_logger = logging.getLogger(__name__)


def write_series(
    folder: Path,
    template: Template,
    positions: np.ndarray,
    *,
    name: str,
    latents: np.ndarray,
) -> list[Path]:
    """Write a series of conformations in all formats, with a ChimeraX script.

    NAME.cif and NAME.pdb hold all frames as models, NAME.dcd with topology.cif as a trajectory, struct_001.pdb, ...
    one each (as cryoDRGN's vol_001.mrc), z_values.txt the latents; open.cxc shows them. The B column is that of
    :func:`displacements`. Where the PDB format has no room, the .cif files alone are written (struct_001.cif, ...), and
    a message says so.

    Parameters
    ----------
    folder : Path
        Made if need be; files of an earlier series in it are replaced, single ones that are left over removed.
    template : Template
        Who the residues are.
    positions : (frames, residues, 3)
        C-alphas, Å.
    name : str
        Of the files.
    latents : (frames, latent)
        What they were decoded from.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    OSError
        When the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    calphas = replace(alpha_atoms(template), b_factors=displacements(positions))
    frames = np.asarray(positions, dtype=np.float64)
    written = _write_models(folder, name, calphas, frames)
    shown = written[-1]
    written += _write_trajectory(folder, name, calphas, frames)
    written += _write_single(folder, calphas, frames, shown.suffix)
    written.append(_save(folder / "z_values.txt", lambda path: np.savetxt(path, latents)))
    highest = max(float(calphas.b_factors.max()), _LEAST_RANGE)
    script = series_script(shown.name, len(frames), label=_B_LABEL, highest=highest)
    written.append(_save(folder / "open.cxc", lambda path: path.write_text(script, encoding="utf-8")))
    return written


def displacements(positions: np.ndarray) -> np.ndarray:
    """Return how far each residue gets from its place in the first frame, as the frames stand.

    Parameters
    ----------
    positions : (frames, residues, 3)
        Å.

    Returns
    -------
    (residues,) float64
        Å.
    """
    moves = np.asarray(positions, dtype=np.float64) - np.asarray(positions[0], dtype=np.float64)
    return np.linalg.norm(moves, axis=-1).max(axis=0)


def _write_models(folder: Path, name: str, calphas: Atoms, frames: np.ndarray) -> list[Path]:
    """Write the files of several models; the last one is what a viewer shall open."""
    written = [folder / f"{name}.cif"]
    write_models(written[0], calphas, frames)
    pdb = folder / f"{name}.pdb"
    try:
        write_models(pdb, calphas, frames)
    except ValueError as error:  # the format has no room
        _logger.warning("%s: only .cif files are written", error)
        pdb.unlink(missing_ok=True)
        return written
    return [*written, pdb]


def _write_trajectory(folder: Path, name: str, calphas: Atoms, frames: np.ndarray) -> list[Path]:
    topology, trajectory = folder / "topology.cif", folder / f"{name}.dcd"
    write_atoms(topology, replace(calphas, positions=frames[0]))
    with DcdWriter(trajectory, len(calphas)) as writer:
        writer.write(frames)
    return [trajectory, topology]


def _write_single(folder: Path, calphas: Atoms, frames: np.ndarray, suffix: str) -> list[Path]:
    """Write struct_001.pdb, ... and remove those of a longer series that was here before."""
    written = [folder / f"struct_{number:03d}{suffix}" for number in range(1, len(frames) + 1)]
    for path, frame in zip(written, frames, strict=True):
        write_atoms(path, replace(calphas, positions=frame))
    for old in {*folder.glob("struct_[0-9]*.pdb"), *folder.glob("struct_[0-9]*.cif")} - set(written):
        old.unlink()
    return written


def _save(path: Path, write: Callable[[Path], object]) -> Path:
    with replacing(path) as temporary:
        write(temporary)
    return path
