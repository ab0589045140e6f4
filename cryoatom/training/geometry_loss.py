"""The geometry degradation loss (Prins et al., eq. 1), in the place of R2."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cryoatom.particles.rows import spaced_rows
from cryoatom.sparse import SparseMatrix

_MEETING = 1e-4  # Å²: residues that meet have no logarithm
_AT_ONCE = {"cpu": 2**16, "cuda": 2**25}  # entries of squares of distances: on a CPU what its caches hold


def _squared_distances(x: Tensor) -> Tensor:
    """Return those of all residues of some conformations (batch, 3, residues), symmetric; from a residue to itself 1.

    By differences: a scalar product would lose the short distances of a large protein to rounding.
    """
    squared = (x[:, 0, :, None] - x[:, 0, None]).square_()
    for axis in (1, 2):
        squared += (x[:, axis, :, None] - x[:, axis, None]).square_()
    squared.clamp_min_(_MEETING).diagonal(dim1=1, dim2=2).fill_(1.0)
    return squared


class _AllPairs(torch.autograd.Function):
    """Mean over all pairs of log²(|r|² / |r⁰|²); value and gradient in one pass, a few images at a time."""

    @staticmethod
    def forward(ctx: Any, conformations: Tensor, start: Tensor) -> Tensor:
        x = conformations.transpose(1, 2).contiguous()
        count = x.shape[2]
        at_once = max(1, _AT_ONCE.get(x.device.type, 2**16) // count**2)
        value, gradient = x.new_empty(len(x)), torch.empty_like(x)
        for rows in range(0, len(x), at_once):
            some = x[rows : rows + at_once]
            squared = _squared_distances(some)
            change = squared.log().sub_(start)
            value[rows : rows + at_once] = change.square().sum(dim=(1, 2)) / (count * (count - 1))
            pull = change.div_(squared)  # symmetric: each pair is there twice, from both its ends
            total = some * pull.sum(dim=2)[:, None] - some @ pull
            gradient[rows : rows + at_once] = total * (8 / (count * (count - 1)))
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (grads[0][:, None, None] * gradient).transpose(1, 2), None


class DensePairs(nn.Module):
    """The loss over all pairs of some residues.

    Parameters
    ----------
    template_positions
        Å.
    residues
        The residues whose pairs count.
    """

    start: Tensor
    residues: Tensor

    def __init__(self, template_positions: Float[Tensor, "all 3"], residues: np.ndarray):
        super().__init__()
        self._counts_all = len(residues) == len(template_positions)
        positions = template_positions.double()
        self.register_buffer("residues", torch.from_numpy(residues), persistent=False)
        self.register_buffer("center", positions.mean(dim=0).float(), persistent=False)
        squared = _squared_distances(positions[self.residues].T[None])[0]
        self.register_buffer("start", squared.log().float(), persistent=False)

    def forward(self, conformations: Float[Tensor, "batch all 3"]) -> Float[Tensor, " batch"]:
        """Return the loss of each conformation, dimensionless."""
        some = conformations if self._counts_all else conformations[:, self.residues]
        return _AllPairs.apply(some - self.center, self.start)  # type: ignore[return-value]


class SparsePairs(nn.Module):
    """The loss over some pairs, each once.

    Parameters
    ----------
    template_positions
        Å.
    pairs : (pairs, 2) int64
    """

    start: Tensor

    def __init__(self, template_positions: Float[Tensor, "residues 3"], pairs: np.ndarray):
        super().__init__()
        row, one = np.arange(len(pairs)), np.ones(len(pairs))
        self.difference = SparseMatrix(
            np.concatenate([row, row]),
            np.concatenate([pairs[:, 1], pairs[:, 0]]),
            np.concatenate([one, -one]),
            (len(pairs), len(template_positions)),
        )
        positions = template_positions.double()
        squared = (positions[pairs[:, 1]] - positions[pairs[:, 0]]).square().sum(dim=1).clamp_min(_MEETING)
        self.register_buffer("start", squared.log().float(), persistent=False)

    def forward(self, conformations: Float[Tensor, "batch residues 3"]) -> Float[Tensor, " batch"]:
        """Return the loss of each conformation, dimensionless."""
        x = conformations.permute(1, 2, 0)
        squared = self.difference(x.flatten(1)).view(-1, *x.shape[1:]).square().sum(dim=1).clamp_min(_MEETING)
        return (squared.log() - self.start[:, None]).square().mean(dim=0)


def nearest_pairs(positions: np.ndarray, count: int) -> np.ndarray:
    """Return (pairs, 2) residues, the lower first: each residue with its `count` nearest ones, no pair twice."""
    count = min(count, len(positions) - 1)
    _, found = KDTree(positions).query(positions, k=count + 1)
    first, second = np.repeat(np.arange(len(positions)), count + 1), found.ravel()
    pairs = np.sort(np.stack([first, second], axis=1)[first != second], axis=1)
    return np.unique(pairs, axis=0)


class GeometryDegradation(nn.Module):
    """The loss in nats: weight · mean over pairs of log²( |r|² / |r⁰|² ) of a conformation's C-alphas.

    It stands for the energy of a deformation in relative terms: pairs far apart may move more, and pairs that part cost
    less and less for each further Å. Pairs that meet cost as much as 0.01 Å apart. Eq. 1 has the factor N(N-1)/2 before
    its sum over pairs; here, as in the authors' published code, it divides: a weight then means the same for proteins
    of all sizes.

    Parameters
    ----------
    template_positions
        Of the C-alphas, the first of all points; Å.
    weight
        Nats.
    pairs
        'all'; 'nearest' = each residue and its nearest ones in the template; 'subset' = all pairs of some residues that
        are spread evenly over the chain (their footnote 4).
    count
        How many nearest ones, or residues of the subset; at most as many as there are.
    """

    def __init__(
        self,
        template_positions: Float[Tensor, "residues 3"],
        weight: float,
        pairs: Literal["all", "nearest", "subset"],
        count: int,
    ):
        super().__init__()
        self.weight, self.residues = weight, len(template_positions)
        if pairs == "nearest":
            near = nearest_pairs(template_positions.numpy(), count)
            self.loss: nn.Module = SparsePairs(template_positions, near)
        else:
            chosen = spaced_rows(self.residues, max(2, count) if pairs == "subset" else self.residues)
            self.loss = DensePairs(template_positions, chosen)

    def forward(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, " batch"]:
        """Return the penalty of each image, nats."""
        return self.weight * self.loss(points[:, : self.residues])
