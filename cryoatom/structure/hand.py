"""The hand of a structure: whether it is a protein or the mirror image of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cryoatom.structure.polymer import backbone_positions
from cryoatom.structure.template import Template

FEWEST = 6
CLEAR_SHARE = 0.8
FLAT_VOLUME = 1.0
BOND = (3.4, 4.2)
SECOND_NEIGHBOUR = (4.9, 6.1)
THIRD_NEIGHBOUR = (4.3, 6.1)
DIHEDRAL_DEG = (25.0, 75.0)


@dataclass(frozen=True)
class Hand:
    """What the stereochemistry of a structure says about its hand.

    Parameters
    ----------
    right, wrong : int
        How many residues or turns of helix are as in proteins, and how many as in their mirror images.
    evidence : str
        What was counted.
    """

    right: int
    wrong: int
    evidence: Literal["C-alpha chirality", "helices"]

    @property
    def hand(self) -> Literal["right", "mirrored", "unknown"]:
        """The verdict of at least 80% of at least 6; else unknown."""
        total = self.right + self.wrong
        if total < FEWEST or max(self.right, self.wrong) < CLEAR_SHARE * total:
            return "unknown"
        return "right" if self.right > self.wrong else "mirrored"

    @property
    def counts(self) -> str:
        """What was counted, in words."""
        return f"{self.evidence}: {self.right} right, {self.wrong} mirrored"

    def __str__(self) -> str:
        return f"{self.hand} ({self.counts})"


def hand_of(template: Template) -> Hand:
    """Tell a protein from its mirror image.

    Images cannot: the mirror image of a molecule in the mirrored pose, x -> -x and R -> diag(-1, -1, 1) R, has the
    same projection along z, so while scattering is weak (a flat Ewald sphere) both explain all images equally well.
    Stereochemistry can: amino acids are L, and alpha helices right-handed.

    Parameters
    ----------
    template : Template
        With side chains and backbones their chirality decides, with C-alphas alone the helices do.
    """
    chirality = _amino_acids(template)
    return chirality if chirality.right + chirality.wrong >= FEWEST else helix_hand(template.positions, template.bonded)


def helix_hand(positions: np.ndarray, bonded: np.ndarray) -> Hand:
    """Tell the hand of alpha helices from C-alphas alone.

    Four C-alphas in a row are a turn of helix where their distances are those of one (3.8, 5.5 and 5.0 Å to the first,
    second and third neighbour) and the size of their dihedral angle is about 50°, all of which the mirror image
    shares; it is positive in right-handed helices (Levitt, J. Mol. Biol. 104 (1976) 59). Single turns are also found
    in loops, so that only those next to another one of the same sign count.

    Parameters
    ----------
    positions : (..., residues, 3) float
        C-alphas of one or several conformations, Å; the turns of all are counted together.
    bonded : (residues - 1,) bool
        Whether residue i is bonded to residue i + 1.
    """
    if len(bonded) < 3:
        return Hand(0, 0, "helices")
    steps = np.diff(positions.astype(np.float64), axis=-2)
    first, second, third = steps[..., :-2, :], steps[..., 1:-1, :], steps[..., 2:, :]
    is_turn = bonded[:-2] & bonded[1:-1] & bonded[2:]
    for vectors, bounds in (
        *((step, BOND) for step in (first, second, third)),
        *((pair, SECOND_NEIGHBOUR) for pair in (first + second, second + third)),
        (first + second + third, THIRD_NEIGHBOUR),
    ):
        is_turn = is_turn & _within(np.linalg.norm(vectors, axis=-1), bounds)
    normals = np.cross(first, second), np.cross(second, third)
    sine = np.linalg.norm(second, axis=-1) * (first * normals[1]).sum(axis=-1)
    angle = np.rad2deg(np.arctan2(sine, (normals[0] * normals[1]).sum(axis=-1)))
    sign = np.where(is_turn & _within(np.abs(angle), DIHEDRAL_DEG), np.sign(angle), 0)
    pairs = sign[..., 1:] + sign[..., :-1]
    return Hand(int((pairs == 2).sum()), int((pairs == -2).sum()), "helices")


def _amino_acids(template: Template) -> Hand:
    """Count L and D amino acids by the sign of (N - CA) · (C - CA) × (CB - CA), about 2.6 Å³ in L.

    Glycine has no CB; volumes below 1 Å³ are too flat to tell.
    """
    atoms, residue, alpha = template.atoms, template.atom_residue, template.positions
    nitrogen, carbon, beta = (
        backbone_positions(atoms, residue, len(template), name) - alpha for name in ("N", "C", "CB")
    )
    volume = (nitrogen * np.cross(carbon, beta)).sum(axis=1)  # NaN where an atom is missing
    return Hand(int((volume > FLAT_VOLUME).sum()), int((volume < -FLAT_VOLUME).sum()), "C-alpha chirality")


def _within(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (values > bounds[0]) & (values < bounds[1])
