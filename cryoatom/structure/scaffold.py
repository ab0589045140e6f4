"""The points that a decoder moves: C-alphas, and side chains that move freely where the bead model has such."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import gemmi
import numpy as np

from cryoatom.structure.graph import SIDE_CHAIN, ProteinGraph
from cryoatom.structure.template import Template

Start = Literal["template", "random"] | float
"""Where C-alphas start: at the template, so many Å from it along each axis at most, or anywhere."""

BACKBONE_ATOMS = ("N", "CA", "C", "O", "OXT")
_STREAM = 17  # of random numbers that place the start
_LONGEST = 5.0  # Å from a C-alpha to the centre of mass of its side chain: a stretched arginine (4.9 in ADK)


@dataclass(frozen=True)
class Scaffold:
    """What a decoder starts from.

    Parameters
    ----------
    template
        The structure.
    graph
        Over the points: the protein's, and an edge between each side chain and its C-alpha.
    positions : (points, 3) float64
        Where points start, Å; the C-alphas first.
    residue : (points,) int64
        The residue of each point.
    """

    template: Template
    graph: ProteinGraph
    positions: np.ndarray
    residue: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)


def alpha_scaffold(template: Template, graph: ProteinGraph, *, start: Start = "template", seed: int = 0) -> Scaffold:
    """Return that of the C-alphas."""
    return Scaffold(template, graph, starting_alphas(template, start, seed), np.arange(len(template)))


def side_chain_scaffold(
    template: Template, graph: ProteinGraph, *, start: Start = "template", seed: int = 0
) -> Scaffold:
    """Return that of the C-alphas and one point for each side chain (Cryofold, section 4.1).

    Side chains start at their centres of mass in the template. Where C-alphas start elsewhere, and for residues of
    which the template has no side chain, they start at the C-alpha (section 5.1).
    """
    alphas, residue = starting_alphas(template, start, seed), side_chain_residues(template)
    sides = side_chain_centers(template) if start == "template" else alphas[residue]
    points = len(template) + len(residue)
    edges = np.concatenate([graph.edges, np.stack([residue, np.arange(len(template), points)], axis=1)])
    kinds = np.concatenate([graph.kinds, np.full(len(residue), SIDE_CHAIN, np.int8)])
    energies = np.concatenate([graph.energies, np.full(len(residue), np.nan)])
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    joined = replace(graph, edges=edges[order], kinds=kinds[order], energies=energies[order], residues=points)
    everything = np.concatenate([np.arange(len(template)), residue])
    return Scaffold(template, joined, np.concatenate([alphas, sides]), everything)


def starting_alphas(template: Template, start: Start, seed: int) -> np.ndarray:
    """Return where C-alphas start, (residues, 3), Å.

    Parameters
    ----------
    template
        The structure.
    start
        'template'; up to so many Å from it, uniformly along each axis; or 'random', uniformly in a cube about its
        centre, as wide as it is at its widest (Cryofold, section 5.1).
    seed
        Of the random numbers.
    """
    positions, generator = template.positions, np.random.default_rng([seed, _STREAM])
    if start == "template":
        return positions
    if start == "random":
        width = np.ptp(positions, axis=0).max()
        return positions.mean(axis=0) + generator.uniform(-0.5, 0.5, positions.shape) * width
    return positions + generator.uniform(-1.0, 1.0, positions.shape) * float(start)


def side_chain_residues(template: Template) -> np.ndarray:
    """Return (side chains,) int64: the residues that have one, all but glycine."""
    return np.flatnonzero(template.residue_names != "GLY")


def side_chain_centers(template: Template) -> np.ndarray:
    """Return (side chains, 3), Å: their centres of mass, or the C-alpha where the template has no atom of one."""
    center, is_known = _centers(template)
    residue = side_chain_residues(template)
    return np.where(is_known[residue, None], center[residue], template.positions[residue])


def side_chain_reach(template: Template) -> float:
    """Return the largest distance of a C-alpha from the centre of mass of its side chain, Å.

    A template without side chains has none: then that of a stretched arginine.
    """
    center, is_known = _centers(template)
    if not is_known.any():
        return _LONGEST
    return float(np.linalg.norm((center - template.positions)[is_known], axis=1).max())


def _centers(template: Template) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre of mass of each residue's side chain, and whether the template has atoms of it."""
    is_side = ~np.isin(template.atoms.names, BACKBONE_ATOMS)
    elements, residue = template.atoms.elements[is_side], template.atom_residue[is_side]
    kinds, kind = np.unique(elements, return_inverse=True)
    weight = np.array([gemmi.Element(name).weight for name in kinds.tolist()], dtype=np.float64)[kind]
    weight = np.where(weight > 0, weight, gemmi.Element("C").weight)
    count = len(template)
    total = np.bincount(residue, weight, minlength=count)
    moment = [np.bincount(residue, weight * x, minlength=count) for x in template.atoms.positions[is_side].T]
    is_known = (total > 0) & (template.residue_names != "GLY")
    return np.stack(moment, axis=1) / np.maximum(total, 1e-9)[:, None], is_known
