"""The points that a decoder moves: C-alphas, and side chains that move freely where the bead model has such."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoatom.structure.graph import ProteinGraph
from cryoatom.structure.template import Template


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


def alpha_scaffold(template: Template, graph: ProteinGraph) -> Scaffold:
    """Return that of the C-alphas."""
    return Scaffold(template, graph, template.positions, np.arange(len(template)))
