"""The simulator's molecule: every atom of every frame of a trajectory, in one frame of reference."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryoatom.files.trajectory import read_trajectory
from cryoatom.records import Atoms
from cryoatom.structure.residues import WATERS
from cryoatom.structure.superpose import kabsch, transform
from cryoatom.structure.template import select_residues

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Specimen:
    """A molecule in many conformations, in the frame of reference of the poses.

    Parameters
    ----------
    atoms : Atoms
        All that scatter, hydrogens included; their own positions are the first frame's.
    positions : (frames, atoms, 3) float32
        Å.
    """

    atoms: Atoms
    positions: np.ndarray

    @property
    def is_alpha(self) -> np.ndarray:
        """Which atoms are C-alphas, (atoms,) bool."""
        return (self.atoms.names == "CA") & (self.atoms.elements == "C")


def read_specimen(
    paths: Sequence[Path], topology: Path | None = None, *, superpose: str = "all", is_centered: bool = True
) -> Specimen:
    """Read a trajectory, or structures of the same atoms, and bring the frames into one frame of reference.

    Parameters
    ----------
    paths : sequence of Path
        Trajectories and structures; their frames follow each other. Water is left out.
    topology : Path, optional
        Names the atoms of formats that do not (DCD, XTC, npy).
    superpose : str
        Residues whose C-alphas are superposed on those of the first frame (``1-29,60-121``), ``all`` or ``none``.
    is_centered : bool
        Centre each frame on its own C-alphas; otherwise all frames move together.

    Raises
    ------
    FileNotFoundError, ValueError
        For files that cannot be read, do not name their atoms, have different atoms, or no C-alphas.
    """
    trajectories = [read_trajectory(path, topology) for path in paths]
    atoms = trajectories[0].atoms
    if atoms is None:
        raise ValueError(f"{paths[0]} does not name its atoms: give a topology with --top (PSF, PDB or mmCIF)")
    for path, other in zip(paths, trajectories, strict=True):
        names = atoms.names if other.atoms is None else other.atoms.names
        if other.positions.shape[1] != len(atoms) or not np.array_equal(names, atoms.names):
            raise ValueError(
                f"{path} ({other.positions.shape[1]} atoms) does not have the atoms of {paths[0]} ({len(atoms)}) in "
                "their order: simulate them one by one"
            )
    kept = ~np.isin(atoms.residue_names, list(WATERS))
    if not kept.all():
        _logger.warning("%s: %d water atoms are left out", paths[0], np.count_nonzero(~kept))
    positions = np.concatenate([trajectory.positions[:, kept] for trajectory in trajectories])
    return align_specimen(Specimen(atoms[kept], positions), superpose=superpose, is_centered=is_centered)


def align_specimen(specimen: Specimen, *, superpose: str = "all", is_centered: bool = True) -> Specimen:
    """Superpose the frames on the first one, then centre them; the arguments are those of :func:`read_specimen`."""
    alphas = np.flatnonzero(specimen.is_alpha)
    if len(alphas) == 0:
        raise ValueError("the trajectory has no C-alpha atoms: is it a protein, and is --top its topology?")
    positions = torch.from_numpy(specimen.positions)
    if superpose != "none":
        selected = alphas if superpose == "all" else alphas[select_residues(superpose, specimen.atoms[alphas])]
        if len(selected) < 3:
            raise ValueError(f"--superpose {superpose!r} selects {len(selected)} C-alphas; at least 3 are needed")
        positions = transform(positions, *kabsch(positions[:, selected], positions[:1, selected]))
    centers = positions[:, alphas].mean(dim=1, keepdim=True)
    positions = positions - (centers if is_centered else centers.mean(dim=0, keepdim=True))
    atoms = replace(specimen.atoms, positions=positions[0].numpy().astype(np.float64))
    return Specimen(atoms, positions.numpy())
