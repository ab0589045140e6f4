"""Is a chain of C-alphas one that a protein can have? Clashes, bonds and angles, with limits set by crystal structures.

The limits were chosen on 65 crystal structures (15,627 residues), and what lies beyond them there is given below.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

CLASH = 3.6
"""Å. Nearer C-alphas clash: 0.01 pairs per 100 residues of crystal structures. Below 4 Å, the limit of cryoSTAR and
cryoSPHERE, lie 0.45: real structures would be blamed."""
APART = 3
"""Residues along a chain from which on two C-alphas are no neighbours: those of angles and turns are nearer."""
TRANS, CIS = 3.80, 2.95
"""Å. Lengths of virtual bonds, of trans and cis peptides."""
BOND_TOLERANCE = 0.2
"""Å. Farther from both lengths, or from the template's, a bond is an outlier: 0.03% in crystal structures."""
ANGLES_DEG = 75.0, 155.0
"""Virtual angles Cα-Cα-Cα outside are outliers: 0.05% in crystal structures. Such angles and bonds are the measure of
models of C-alphas alone (Kleywegt, J. Mol. Biol. 273 (1997) 371)."""
_RESIDUES_AT_ONCE = 2**18


@dataclass(frozen=True)
class Geometry:
    """One array entry per conformation.

    Parameters
    ----------
    rows : (n,) int64
        Which conformations these are.
    clashes : (n,) float64
        Pairs of C-alphas nearer than 3.6 Å, per 100 residues.
    bond_outliers : (n,) float64
        Share of bonds whose length is none of a peptide, %.
    bond_changes : (n,) float64
        Share of bonds whose length is not the template's, %.
    bond_rms : (n,) float64
        Root mean square difference of bond lengths from the template's, Å.
    angle_outliers : (n,) float64
        Share of angles that no crystal structure has, %.
    """

    rows: np.ndarray
    clashes: np.ndarray
    bond_outliers: np.ndarray
    bond_changes: np.ndarray
    bond_rms: np.ndarray
    angle_outliers: np.ndarray

    def means(self) -> dict[str, float]:
        """Return the mean of each figure."""
        return {name: float(values.mean()) for name, values in vars(self).items() if name != "rows"}


def chain_geometry(
    conformations: Float[np.ndarray, "n residues 3"],
    template_positions: Float[np.ndarray, "residues 3"],
    chain_position: Int[np.ndarray, " residues"],
    *,
    rows: Int[np.ndarray, " rows"] | None = None,
) -> Geometry:
    """Measure conformations, a block at a time.

    Parameters
    ----------
    conformations : (n, residues, 3)
        C-alphas, Å; may be mapped into memory.
    template_positions : (residues, 3)
        Those of the template.
    chain_position : (residues,)
        As in :class:`~cryoatom.structure.template.Template`: what is bonded differs by 1. Figures of what a chain does
        not have, as angles of two residues, are 0.
    rows : (rows,), optional
        Measure these alone.
    """
    rows = np.arange(len(conformations)) if rows is None else rows
    at_once = max(1, _RESIDUES_AT_ONCE // conformations.shape[1])
    parts = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    blocks = [_measure(conformations[part], part, template_positions, chain_position) for part in parts]
    return Geometry(*(np.concatenate([getattr(block, f.name) for block in blocks]) for f in fields(Geometry)))


def _measure(
    conformations: Float[np.ndarray, "n residues 3"],
    rows: np.ndarray,
    template_positions: Float[np.ndarray, "residues 3"],
    chain_position: Int[np.ndarray, " residues"],
) -> Geometry:
    conformations = np.asarray(conformations, dtype=np.float64)
    is_bonded = np.diff(chain_position) == 1
    lengths = _lengths(conformations)[:, is_bonded]
    changes = lengths - _lengths(np.asarray(template_positions, dtype=np.float64)[None])[:, is_bonded]
    strangeness = np.minimum(np.abs(lengths - TRANS), np.abs(lengths - CIS))
    angles = _angles(conformations)[:, is_bonded[1:] & is_bonded[:-1]]
    clashes = [count_clashes(positions, chain_position) for positions in conformations]
    return Geometry(
        rows=rows,
        clashes=100 * np.array(clashes, dtype=np.float64) / len(chain_position),
        bond_outliers=_share(strangeness > BOND_TOLERANCE),
        bond_changes=_share(np.abs(changes) > BOND_TOLERANCE),
        bond_rms=np.sqrt((changes**2).sum(axis=1) / max(changes.shape[1], 1)),
        angle_outliers=_share((angles < ANGLES_DEG[0]) | (angles > ANGLES_DEG[1])),
    )


def count_clashes(positions: Float[np.ndarray, "residues 3"], chain_position: Int[np.ndarray, " residues"]) -> int:
    """Return how many pairs of C-alphas, at least 3 apart along a chain or of two chains, are nearer than 3.6 Å."""
    pairs = KDTree(positions).query_pairs(CLASH, output_type="ndarray").reshape(-1, 2)
    return int((np.abs(np.diff(chain_position[pairs], axis=1)) >= APART).sum())


def _lengths(conformations: Float[np.ndarray, "n residues 3"]) -> Float[np.ndarray, "n bonds"]:
    return np.linalg.norm(np.diff(conformations, axis=1), axis=-1)


def _angles(conformations: Float[np.ndarray, "n residues 3"]) -> Float[np.ndarray, "n angles"]:
    """Return the angle at each residue but the first and the last, degrees; 180 where two C-alphas coincide."""
    bonds = np.diff(conformations, axis=1)
    norms = np.linalg.norm(bonds, axis=-1)
    product = (bonds[:, 1:] * bonds[:, :-1]).sum(axis=-1)
    cosine = product / np.maximum(norms[:, 1:] * norms[:, :-1], 1e-12)
    return np.where(norms[:, 1:] * norms[:, :-1] > 0, np.degrees(np.arccos(np.clip(-cosine, -1, 1))), 180.0)


def _share(is_outlier: Bool[np.ndarray, "n items"]) -> Float[np.ndarray, " n"]:
    return 100 * is_outlier.sum(axis=1) / max(is_outlier.shape[1], 1)
