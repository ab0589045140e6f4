"""The E(3)-equivariant layer of Satorras et al. (2021): turn the template, and its displacements turn with it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor, nn

from cryoatom.decoders.layers.layer import GraphLayer, NodeState
from cryoatom.sparse import SparseMatrix
from cryoatom.structure.scaffold import Scaffold

LAYERS = 3
NEAREST = 8  # bonds alone leave most points with few directions to move along, and a lone residue with none
REACH = 10.0  # Å: bound of a pair's step


class Pairs(nn.Module):
    """Ordered pairs of points: bonds, and each point's nearest others; the second of a pair speaks to the first.

    Parameters
    ----------
    scaffold
        Points where they start, and their graph.
    nearest
        How many points count as near.
    """

    kinds: Tensor
    start: Tensor

    def __init__(self, scaffold: Scaffold, nearest: int):
        super().__init__()
        points = len(scaffold)
        first, second, kinds = ordered_pairs(scaffold, nearest)
        pair, one = np.arange(len(first)), np.ones(len(first))
        count = np.bincount(first, minlength=points)
        self.to_pairs = SparseMatrix(
            np.tile(pair, 2), np.concatenate([first, points + second]), np.tile(one, 2), (len(pair), 2 * points)
        )
        self.differences = SparseMatrix(
            np.tile(pair, 2), np.concatenate([first, second]), np.concatenate([one, -one]), (len(pair), points)
        )
        self.mean = SparseMatrix(first, pair, 1.0 / count[first], (points, len(pair)))
        self.sum = SparseMatrix(first, pair, count[first] ** -0.5, (points, len(pair)))
        offsets = scaffold.positions[first] - scaffold.positions[second]
        self.register_buffer("start", torch.from_numpy(offsets).float(), persistent=False)
        self.register_buffer("kinds", torch.from_numpy(kinds), persistent=False)

    @property
    def kind_count(self) -> int:
        """How many kinds of pairs there are."""
        return int(self.kinds.max()) + 1

    def join(self, firsts: Tensor, seconds: Tensor) -> Float[Tensor, "pairs batch width"]:
        """Return for each pair the sum of what its first and its second point give, (points, batch, width) each."""
        both = torch.cat([firsts, seconds]).flatten(1)
        return self.to_pairs(both).unflatten(1, firsts.shape[1:])

    def offsets(self, moves: Float[Tensor, "points batch 3"]) -> Float[Tensor, "pairs batch 3"]:
        """Return x_i - x_j, Å."""
        return self.start[:, None] + self.differences(moves.flatten(1)).unflatten(1, moves.shape[1:])

    def average(self, messages: Float[Tensor, "pairs batch width"]) -> Float[Tensor, "points batch width"]:
        """Return the mean over the pairs that speak to each point."""
        return self.mean(messages.flatten(1)).unflatten(1, messages.shape[1:])

    def add(self, steps: Float[Tensor, "pairs batch 3"]) -> Float[Tensor, "points batch 3"]:
        """Return the sum over the n pairs that speak to each point, by n^½: steps point all ways and mostly cancel."""
        return self.sum(steps.flatten(1)).unflatten(1, steps.shape[1:])


class EGNNLayer(GraphLayer):
    """Messages from invariant features and distances; points move along the lines that join them.

    m_ij = f(h_i, h_j, |x_i - x_j|², kind), x_i += n^-½ Σ_j u_ij g(m_ij), h_i += k(h_i, mean_j m_ij) over n neighbours
    (Satorras et al. eq. 3-6, with 1/n for x; u_ij = (x_i - x_j) / (1 + |x_i - x_j|²)^½ in place of the difference, and
    g bounded, so that points do not fly away). The last layer, after which nobody reads features, leaves k out.
    """

    moves_points: ClassVar[bool] = True

    def __init__(self, pairs: Pairs, channels: int, *, is_last: bool):
        super().__init__()
        self.pairs = pairs
        self.of_first = nn.Linear(channels, channels)
        self.of_second = nn.Linear(channels, channels, bias=False)
        self.of_distance = nn.Parameter(torch.empty(channels).uniform_(-1, 1) * channels**-0.5)
        self.of_kind = nn.Parameter(torch.empty(pairs.kind_count, 1, channels).uniform_(-1, 1) * channels**-0.5)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())
        self.step = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.step.weight)
        self.update = None
        if not is_last:
            self.update = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, state: NodeState) -> NodeState:
        """Return the state after the layer."""
        h, pairs = state.features, self.pairs
        offsets = pairs.offsets(state.moves)
        squared = offsets.square().sum(dim=-1, keepdim=True)
        joined = pairs.join(self.of_first(h), self.of_second(h))
        messages = self.message(joined + squared.log1p() * self.of_distance + self.of_kind[pairs.kinds])
        steps = REACH * torch.tanh(self.step(messages) / REACH)
        moves = state.moves + pairs.add(offsets * (1 + squared).rsqrt() * steps)
        if self.update is not None:
            h = h + self.update(torch.cat([h, pairs.average(messages)], dim=-1))
        return NodeState(h, moves)


def ordered_pairs(scaffold: Scaffold, nearest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first and second point of each pair, and its kind: that of the bond, counted from 1, or 0 for near."""
    points, edges = len(scaffold), scaffold.graph.edges
    count = min(nearest + 1, points)  # each point finds itself too
    _, near = KDTree(scaffold.positions).query(scaffold.positions, count)
    first, second = np.repeat(np.arange(points), count), np.ravel(near)
    close = (first * points + second)[first != second]
    bonds = np.concatenate([edges[:, 0] * points + edges[:, 1], edges[:, 1] * points + edges[:, 0]])
    codes = np.union1d(close, bonds)
    kinds = np.zeros(len(codes), dtype=np.int64)
    kinds[np.searchsorted(codes, bonds)] = 1 + np.tile(scaffold.graph.kinds, 2)
    _, kinds = np.unique(kinds, return_inverse=True)
    return codes // points, codes % points, kinds


def build_egnn(scaffold: Scaffold, channels: int, count: int | None) -> list[EGNNLayer]:
    """Return the layers, by default 3: each has seven times the weights of a graph convolution."""
    pairs, count = Pairs(scaffold, NEAREST), count or LAYERS
    return [EGNNLayer(pairs, channels, is_last=i == count - 1) for i in range(count)]
