"""Cryofold's beads (section 4.1): a backbone and a free side chain of each residue, of one width and one amplitude."""

from __future__ import annotations

import numpy as np

from cryoatom.imaging.beads import BACKBONE_ELECTRONS, BeadLayout
from cryoatom.imaging.residues import residue_electrons
from cryoatom.structure.scaffold import side_chain_residues
from cryoatom.structure.template import Template

_STARTING_WIDTH = 3.71  # Å, the paper's (section 5)


def cryofold_layout(template: Template) -> BeadLayout:
    """Return a backbone bead at each C-alpha, and a side-chain bead at each point that follows the C-alphas.

    The amplitude of a bead is a0 Z with one a0 for all, and all have the same width σ; both are fitted. Z counts the
    electrons of N, CA, C, O and their hydrogens, or of the side chain; glycine is one bead.
    """
    count, has_side = len(template), side_chain_residues(template)
    backbone = residue_electrons(template.residue_names)
    side = backbone[has_side] - BACKBONE_ELECTRONS
    backbone[has_side] = BACKBONE_ELECTRONS
    beads = count + len(has_side)
    point = np.arange(beads)
    return BeadLayout(
        residue=np.concatenate([np.arange(count), has_side]),
        kind=np.repeat([0, 1], [count, len(has_side)]),
        anchors=np.stack([point, point], axis=1),
        offsets=np.zeros((beads, 3)),
        electrons=np.concatenate([backbone, side]),
        variances=np.zeros(beads),
        group=np.zeros(beads, dtype=np.int64),
        width=_STARTING_WIDTH,
    )
