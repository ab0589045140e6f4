"""The graph-network decoder of the paper (section 3.3), with the layers that `--gnn-layer` names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.catalog import GNN_LAYERS, load
from cryoatom.decoders.decoder import Decoder
from cryoatom.decoders.layers.layer import GraphLayer, NodeState
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig


class NodeEmbedding(nn.Module):
    """Linear(latent -> points x channels)."""

    def __init__(self, points: int, latent: int, channels: int):
        super().__init__()
        bound = latent**-0.5
        self.weight = nn.Parameter(torch.empty(points, latent, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(points, 1, channels).uniform_(-bound, bound))

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "points batch channels"]:
        """Return the first features of all points."""
        return torch.baddbmm(self.bias, latents.expand(len(self.weight), -1, -1), self.weight)


class GNNDecoder(Decoder):
    """Map latents to displacements of points through a graph network.

    Linear(latent -> points x channels), graph layers, Linear(channels -> 3). The last layer starts at zero, so an
    untrained decoder returns no displacement. Layers that move points themselves need none.
    """

    def __init__(self, embedding: NodeEmbedding, layers: Sequence[GraphLayer]):
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList(layers)
        self.readout = None
        if not any(layer.moves_points for layer in layers):
            self.readout = nn.Linear(embedding.weight.shape[-1], 3)
            nn.init.zeros_(self.readout.weight)
            nn.init.zeros_(self.readout.bias)

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch points 3"]:
        """Return displacements in Å."""
        features = self.embedding(latents)
        state = NodeState(features, features.new_zeros(()).expand(*features.shape[:2], 3))
        if self.readout is None:
            return self._through_layers(state).moves.transpose(0, 1)
        with self.hidden_precision(latents):
            state = self._through_layers(state)
        return self.readout(state.features).transpose(0, 1)

    def _through_layers(self, state: NodeState) -> NodeState:
        for layer in self.layers:
            state = layer(state)
        return state


def build_gnn(settings: TrainConfig, scaffold: Scaffold) -> GNNDecoder:
    """Return the paper's network, by default that for ADK: 16 layers of 16 channels, 35k weights for 214 residues."""
    channels = settings.dec_dim or 16
    embedding = NodeEmbedding(len(scaffold), settings.zdim, channels)
    return GNNDecoder(embedding, load(GNN_LAYERS, settings.gnn_layer)(scaffold, channels, settings.dec_layers))
