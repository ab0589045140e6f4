"""The graph convolution of the paper (equation 2), after Kipf and Welling (2017)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryoatom.decoders.layers.layer import FeatureLayer
from cryoatom.sparse import SparseMatrix
from cryoatom.structure.scaffold import Scaffold

LAYERS = 16


def normalized_adjacency(edges: Int[Tensor, "edges 2"], points: int) -> SparseMatrix:
    """Return Â_ij = (d_i d_j)^-1/2 over edges and self-loops, d_i = |N(i) ∪ {i}| (paper eq. 2)."""
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    both = torch.cat([edges, edges.flip(1)]).T.contiguous()
    (target, source), weight = (np.asarray(part) for part in gcn_norm(both, None, points, add_self_loops=True))
    return SparseMatrix(target, source, weight, (points, points))


class GCNLayer(FeatureLayer):
    """Graph convolution with a skip connection: X + ReLU(Â X W + b)."""

    def __init__(self, adjacency: SparseMatrix, channels: int):
        super().__init__()
        self.adjacency = adjacency
        self.linear = nn.Linear(channels, channels)

    def convolve(self, features: Float[Tensor, "points batch channels"]) -> Float[Tensor, "points batch channels"]:
        """Apply paper eq. 2 to the whole batch as one sparse product."""
        mixed = self.adjacency(features.flatten(1)).view(features.shape)
        return self.linear(mixed)


def build_gcn(scaffold: Scaffold, channels: int, count: int | None) -> list[GCNLayer]:
    """Return the paper's layers, by default 16 as for ADK."""
    adjacency = normalized_adjacency(torch.from_numpy(scaffold.graph.edges), len(scaffold))
    return [GCNLayer(adjacency, channels) for _ in range(count or LAYERS)]
