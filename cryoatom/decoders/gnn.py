"""The graph-convolution decoder of the paper (section 3.3, equation 2)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryoatom.decoders.decoder import Decoder
from cryoatom.sparse import SparseMatrix
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig


def normalized_adjacency(edges: Int[Tensor, "edges 2"], residues: int) -> SparseMatrix:
    """Return Â_ij = (d_i d_j)^-1/2 over edges and self-loops, d_i = |N(i) ∪ {i}| (paper eq. 2)."""
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    both = torch.cat([edges, edges.flip(1)]).T.contiguous()
    (target, source), weight = (np.asarray(part) for part in gcn_norm(both, None, residues, add_self_loops=True))
    return SparseMatrix(target, source, weight, (residues, residues))


class GCNLayer(nn.Module):
    """Graph convolution with a skip connection: X + ReLU(Â X W + b)."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, adjacency: SparseMatrix, features: Float[Tensor, "residues batch channels"]) -> Tensor:
        """Apply paper eq. 2 to the whole batch as one sparse product."""
        mixed = adjacency(features.flatten(1)).view(features.shape)
        return features + torch.relu(self.linear(mixed))


class GNNDecoder(Decoder):
    """Map latents to residue displacements through a graph network.

    Linear(latent -> residues x channels), `layers` graph convolutions, Linear(channels -> 3). The last layer starts
    at zero, so an untrained decoder returns no displacement.
    """

    def __init__(self, edges: Tensor, residues: int, latent: int, channels: int = 16, layers: int = 16):
        super().__init__()
        self.adjacency = normalized_adjacency(edges, residues)
        bound = latent**-0.5
        self.embed_weight = nn.Parameter(torch.empty(residues, latent, channels).uniform_(-bound, bound))
        self.embed_bias = nn.Parameter(torch.empty(residues, 1, channels).uniform_(-bound, bound))
        self.layers = nn.ModuleList([GCNLayer(channels) for _ in range(layers)])
        self.readout = nn.Linear(channels, 3)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch residues 3"]:
        """Return displacements in Å."""
        features = torch.baddbmm(self.embed_bias, latents.expand(len(self.embed_weight), -1, -1), self.embed_weight)
        for layer in self.layers:
            features = layer(self.adjacency, features)
        return self.readout(features).transpose(0, 1)


def build_gnn(settings: TrainConfig, scaffold: Scaffold) -> GNNDecoder:
    """Return the paper's network, by default that for ADK: 16 layers of 16 channels, 35k weights for 214 residues."""
    edges = torch.from_numpy(scaffold.graph.edges)
    return GNNDecoder(edges, len(scaffold), settings.zdim, settings.dec_dim or 16, settings.dec_layers or 16)
