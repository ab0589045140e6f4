"""From C-alpha conformations to projected Gaussian beads (design D1.6).

The bead models share one form: a bead is a fixed linear combination of points and of the local frame vectors of its
residue. `ca` is the papers' single bead, `two` the generic backbone and side-chain beads, `atoms` carries the
template's own atoms rigidly in each residue's local frame. Points are the C-alphas; `cryofold` has free side chains
after them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import gemmi
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.imaging.output_norm import OutputNorm
from cryoatom.imaging.project import render
from cryoatom.imaging.residues import residue_electrons, residue_types, residue_widths
from cryoatom.sparse import SparseMatrix
from cryoatom.structure.scaffold import BACKBONE_ATOMS
from cryoatom.structure.template import Template

logger = logging.getLogger(__name__)

BACKBONE_ELECTRONS = 29.0  # N CA C O and their two hydrogens
_ATOM_WIDTH = 1.0  # Å, of one atom's projection
_SPLIT_SIDE_CHAIN = 4  # heavy atoms; a longer side chain becomes a near and a far bead
_FLOOR_SLOPE = 0.02  # below the least variance: next to nothing, but a gradient that finds the way back
_KINDS = 3  # backbone, near (or whole) side chain, far side chain


@dataclass(frozen=True)
class BeadLayout:
    """Where beads sit relative to residues.

    Parameters
    ----------
    residue : (beads,) int64
        The residue a bead belongs to.
    kind : (beads,) int64
        0 backbone, 1 near or whole side chain, 2 far side chain.
    anchors : (beads, 2) int64
        A bead starts from the mean of these two points (twice the same: from that point); C-alphas come first.
    offsets : (beads, 3) float64
        Then moves by these lengths along the local frame of its residue, Å.
    electrons : (beads,) float64
        Mass.
    variances : (beads,) float64
        Part of the squared width that does not change in training, Å².
    group : (beads,) int64, optional
        Beads of one group have what is learned of mass and width in common [default: those of one residue type and
        kind].
    width : float
        Where the learned part of their width starts, Å.
    """

    residue: np.ndarray
    kind: np.ndarray
    anchors: np.ndarray
    offsets: np.ndarray
    electrons: np.ndarray
    variances: np.ndarray
    group: np.ndarray | None = None
    width: float = _ATOM_WIDTH

    def __len__(self) -> int:
        return len(self.residue)


def frame_triples(chain_position: np.ndarray) -> np.ndarray:
    """Return for each residue the three residues (before, at, after) that define its local frame.

    A residue at a chain end or break borrows the triple of its neighbour inside the same piece; in a piece of fewer
    than three residues the triple reaches across the break.

    Parameters
    ----------
    chain_position : (residues,) int array
        Consecutive bonded residues differ by 1 (see Template).
    """
    n = len(chain_position)
    if n < 3:
        raise ValueError(f"local frames need at least 3 residues, the template has {n}")
    bonded = np.diff(chain_position) == 1
    before = np.concatenate([[False], bonded])
    after = np.concatenate([bonded, [False]])
    middle = np.arange(n)
    middle = np.where(~before & after, middle + 1, np.where(before & ~after, middle - 1, middle))
    middle = np.clip(middle, 1, n - 2)
    return np.stack([middle - 1, middle, middle + 1], axis=1)


def local_frames(positions: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """Return the frame vectors e1, e2, e3 as rows of (residues, 3, 3).

    e1 lies along x_{i+1} - x_{i-1}, e2 along the part of 2 x_i - x_{i-1} - x_{i+1} orthogonal to it, e3 = e1 × e2.
    """
    before, middle, after = (positions[triples[:, k]] for k in range(3))
    e1 = after - before
    e1 = e1 / np.linalg.norm(e1, axis=1, keepdims=True)
    out = 2 * middle - before - after
    out = out - (out * e1).sum(axis=1, keepdims=True) * e1
    e2 = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
    return np.stack([e1, e2, np.cross(e1, e2)], axis=1)


def ca_layout(template: Template) -> BeadLayout:
    """Return one bead per residue at the C-alpha, the setting of the GNN paper and of Prins et al."""
    residue = np.arange(len(template))
    return BeadLayout(
        residue=residue,
        kind=np.zeros_like(residue),
        anchors=np.stack([residue, residue], axis=1),
        offsets=np.zeros((len(residue), 3)),
        electrons=residue_electrons(template.residue_names),
        variances=residue_widths(template.residue_names) ** 2 - _ATOM_WIDTH**2,
    )


def two_bead_layout(template: Template) -> BeadLayout:
    """Return a backbone bead at the peptide midpoint and a side-chain bead along e2 of each residue but glycine.

    A side chain of N electrons lies 0.75 Å · N^(1/3) from the C-alpha: 1.6 Å for alanine, 3.1 Å for tryptophan.
    """
    n = len(template)
    residue = np.arange(n)
    following = np.where(np.append(template.bonded, False), residue + 1, residue)
    side_electrons = residue_electrons(template.residue_names) - BACKBONE_ELECTRONS
    has_side = template.residue_names != "GLY"
    distance = 0.75 * np.cbrt(np.maximum(side_electrons, 1.0))
    offsets = np.zeros((n, 3))
    offsets[:, 1] = distance
    backbone_electrons = np.where(has_side, BACKBONE_ELECTRONS, BACKBONE_ELECTRONS + side_electrons)
    side_variance = np.maximum(residue_widths(template.residue_names) ** 2 / 2 - _ATOM_WIDTH**2, 0.1)
    return BeadLayout(
        residue=np.concatenate([residue, residue[has_side]]),
        kind=np.concatenate([np.zeros(n, dtype=np.int64), np.ones(int(has_side.sum()), dtype=np.int64)]),
        anchors=np.concatenate(
            [np.stack([residue, following], axis=1), np.stack([residue, residue], axis=1)[has_side]]
        ),
        offsets=np.concatenate([np.zeros((n, 3)), offsets[has_side]]),
        electrons=np.concatenate([backbone_electrons, side_electrons[has_side]]),
        variances=np.concatenate([np.full(n, 0.65), side_variance[has_side]]),
    )


def _group_atoms(template: Template) -> np.ndarray:
    """Return the bead kind of each template atom: backbone, near side chain, far side chain."""
    kind = np.where(np.isin(template.atoms.names, BACKBONE_ATOMS), 0, 1)
    side_atoms = np.bincount(template.atom_residue[kind == 1], minlength=len(template))
    distance = np.linalg.norm(template.atoms.positions - template.positions[template.atom_residue], axis=1)
    for residue in np.flatnonzero(side_atoms > _SPLIT_SIDE_CHAIN):
        members = np.flatnonzero((template.atom_residue == residue) & (kind == 1))
        far = members[np.argsort(distance[members], kind="stable")[(len(members) + 1) // 2 :]]
        kind[far] = 2
    return kind


def atom_layout(template: Template) -> BeadLayout:
    """Return at most three beads per residue that carry the template's own atoms, rigid in the local frame.

    A bead sits at its atoms' electron-weighted centre and has their spread Rg²/3 as fixed variance. A residue of which
    there is only the C-alpha has the bead of :func:`ca_layout`, which weighs the whole residue.
    """
    kind = _group_atoms(template)
    label = template.atom_residue * _KINDS + kind
    used, bead = np.unique(label, return_inverse=True)
    residue, bead_kind = used // _KINDS, used % _KINDS
    weight = _atomic_numbers(template.atoms.elements)
    electrons = np.bincount(bead, weight)
    xyz = template.atoms.positions
    center = np.stack([np.bincount(bead, weight * xyz[:, k]) for k in range(3)], axis=1) / electrons[:, None]
    spread = np.bincount(bead, weight * ((xyz - center[bead]) ** 2).sum(axis=1)) / electrons
    frames = local_frames(template.positions, frame_triples(template.chain_position))
    offsets = np.einsum("bkc,bc->bk", frames[residue], center - template.positions[residue])
    is_alone = (np.bincount(template.atom_residue) == 1)[residue]
    whole = ca_layout(template)
    electrons = np.where(is_alone, whole.electrons[residue], electrons)
    variances = np.where(is_alone, whole.variances[residue], spread / 3)
    return BeadLayout(residue, bead_kind, whole.anchors[residue], offsets, electrons, variances)


def _atomic_numbers(elements: np.ndarray) -> np.ndarray:
    """Return (atoms,) atomic numbers; what is no element counts as carbon, and is logged."""
    kinds, kind_of_atom = np.unique(elements, return_inverse=True)
    numbers = np.array([gemmi.Element(kind).atomic_number for kind in kinds.tolist()], dtype=np.float64)
    unknown = [kind or "(none)" for kind in kinds[numbers == 0].tolist()]
    if unknown:
        logger.warning("the template has atoms of unknown elements, taken as carbon: %s", ", ".join(unknown))
    return np.where(numbers == 0, 6.0, numbers)[kind_of_atom]


def bead_layout(template: Template, beads: str) -> BeadLayout:
    """Return the layout named `beads`; 'atoms' of a template of C-alphas alone becomes 'two'."""
    if beads == "cryofold":
        from cryoatom.imaging.cryofold_beads import cryofold_layout  # which needs this module

        return cryofold_layout(template)
    if beads == "ca":
        return ca_layout(template)
    if beads == "atoms" and not template.is_alpha_only:
        return atom_layout(template)
    if beads == "atoms":
        logger.warning("the template has C-alphas only: two generic beads a residue take the place of its atoms")
    return two_bead_layout(template)


class BeadModel(nn.Module):
    """Turn points into projected beads, and hold what is learned about beads.

    Learned: one amplitude factor and one squared width per group of beads, as a rule per residue type and bead kind,
    and the overall scale from electrons to image units.

    Parameters
    ----------
    layout
        Where beads sit.
    template
        The structure the layout was made from.
    minimum_width
        Å; narrower beads would alias on the crop's grid.
    output_norm
        Divides the scale from electrons to image units, which then stays as training has found it at its start.
    """

    electrons: Tensor
    fixed_variances: Tensor
    group: Tensor

    def __init__(
        self, layout: BeadLayout, template: Template, minimum_width: float, output_norm: OutputNorm | None = None
    ):
        super().__init__()
        self.output_norm = output_norm
        self.minimum_variance = minimum_width**2
        self.extra_variance = 0.0
        self.register_buffer("electrons", torch.from_numpy(layout.electrons).float(), persistent=False)
        self.register_buffer("fixed_variances", torch.from_numpy(layout.variances).float(), persistent=False)
        group, groups = layout.group, 20 * _KINDS
        if group is None:
            group = residue_types(template.residue_names)[layout.residue] * _KINDS + layout.kind
        else:
            groups = int(group.max()) + 1
        self.register_buffer("group", torch.from_numpy(group), persistent=False)
        self.log_amplitude = nn.Parameter(torch.zeros(groups))
        self.log_variance = nn.Parameter(torch.full((groups,), 2 * float(np.log(layout.width))))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.residues, self.has_frames = len(template), bool(layout.offsets.any())
        points = max(len(template), int(layout.anchors.max()) + 1)
        if self.has_frames:
            self._register_frames(template)
        self._register_beads(layout, points)

    def _register_frames(self, template: Template) -> None:
        """Write frames as a sparse matrix: differences of C-alphas."""
        residues = len(template)
        before, middle, after = frame_triples(template.chain_position).T
        row, one = np.arange(residues), np.ones(residues)
        self.difference = SparseMatrix(
            np.concatenate([row, row, residues + row, residues + row, residues + row]),
            np.concatenate([after, before, middle, before, after]),
            np.concatenate([one, -one, 2 * one, -one, -one]),
            (2 * residues, residues),
        )

    def _register_beads(self, layout: BeadLayout, points: int) -> None:
        """Write beads as a sparse matrix: combinations of points with frames."""
        bead, half = np.arange(len(layout)), np.full(len(layout), 0.5)
        columns, values = [*layout.anchors.T], [half, half]
        if self.has_frames:
            columns += [points + k * self.residues + layout.residue for k in range(3)]
            values += [*layout.offsets.T]
        self.combination = SparseMatrix(
            np.concatenate([bead] * len(columns)),
            np.concatenate(columns),
            np.concatenate(values),
            (len(layout), points + (3 * self.residues if self.has_frames else 0)),
        )

    def amplitudes(self) -> Float[Tensor, " beads"]:
        """Return bead masses in image units."""
        masses = self.electrons * torch.exp(self.log_amplitude[self.group] + self.log_scale)
        return masses if self.output_norm is None else masses / self.output_norm()

    def variances(self) -> Float[Tensor, " beads"]:
        """Return squared bead widths in Å²."""
        learned = torch.exp(self.log_variance)[self.group]
        above = self.fixed_variances + learned - self.minimum_variance
        return self.minimum_variance + nn.functional.leaky_relu(above, _FLOOR_SLOPE) + self.extra_variance

    def widen(self, extra_variance: float) -> None:
        """Make all beads wider by this, Å², from now on; nothing that is learned or saved changes."""
        self.extra_variance = extra_variance

    def project(
        self, points: Float[Tensor, "batch points 3"], rotations: Float[Tensor, "batch 3 3"]
    ) -> Float[Tensor, "batch beads 2"]:
        """Return bead centres (R b)_xy in Å, without shifts."""
        return self._assemble(torch.bmm(rotations, points.mT).permute(2, 1, 0).contiguous(), 2)

    def render(
        self,
        points: Float[Tensor, "batch points 3"],
        rotations: Float[Tensor, "batch 3 3"],
        side: int,
        pixel_size: float,
        *,
        shifts: Float[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch side side"]:
        """Return v, the projection of posed points (paper eq. 1) in image units; shifts in Å."""
        centers = self.project(points, rotations)
        if shifts is not None:
            centers = centers + shifts[:, None]
        return render(centers, self.amplitudes(), self.variances(), side, pixel_size)

    def place(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch beads 3"]:
        """Return bead centres b in Å, before any rotation: (R b)_xy are those of :meth:`project`."""
        return self._assemble(points.permute(1, 2, 0).contiguous(), 3)

    def _assemble(self, x: Float[Tensor, "points 3 batch"], axes: int) -> Float[Tensor, "batch beads axes"]:
        """Return the first coordinates, two or all three, of bead centres."""
        stacked = torch.cat([x[:, :axes], *self._frames(x[: self.residues], axes)]) if self.has_frames else x[:, :axes]
        beads = self.combination(stacked.flatten(1))
        return beads.view(-1, axes, x.shape[2]).permute(2, 0, 1)

    def _frames(self, x: Float[Tensor, "residues 3 batch"], axes: int) -> list[Float[Tensor, "residues axes batch"]]:
        """Return the first coordinates of the residues' frame vectors."""
        residues, _, batch = x.shape
        arms = self.difference(x.flatten(1)).view(2, residues, 3, batch)
        e1 = _normalize(arms[0])
        e2 = _normalize(arms[1] - (arms[1] * e1).sum(dim=1, keepdim=True) * e1)
        cyclic = ((1, 2), (2, 0), (0, 1))[:axes]
        e3 = torch.stack([e1[:, i] * e2[:, j] - e1[:, j] * e2[:, i] for i, j in cyclic], dim=1)
        return [e1[:, :axes], e2[:, :axes], e3]


def _normalize(vectors: Float[Tensor, "residues 3 batch"]) -> Float[Tensor, "residues 3 batch"]:
    return vectors * torch.rsqrt((vectors * vectors).sum(dim=1, keepdim=True) + 1e-8)
