"""The graph isomorphism layer with kinds of edges: Xu et al. (2019), edges after Hu et al. (2020)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.decoders.layers.layer import FeatureLayer, Links, kind_vectors
from cryoatom.structure.scaffold import Scaffold

LAYERS = 8


class GINLayer(FeatureLayer):
    """GINE with a skip connection: x_i + ReLU(f(x_i + Σ_j ReLU(x_j + e_ij))), f a perceptron.

    e_ij is learned for each kind of edge. The sum over neighbours grows from layer to layer, so f normalises its hidden
    layer.
    """

    def __init__(self, links: Links, channels: int):
        from torch_geometric.nn import GINEConv

        super().__init__()
        self.links = links
        inner = nn.Sequential(
            nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        self.convolution = GINEConv(inner, edge_dim=max(links.kind_count, 1), node_dim=0)

    def convolve(self, features: Float[Tensor, "points batch channels"]) -> Float[Tensor, "points batch channels"]:
        """Return f(x_i + Σ_j ReLU(x_j + e_ij))."""
        kinds = kind_vectors(self.links.kinds, max(self.links.kind_count, 1)).to(features.dtype)
        return self.convolution(features, self.links.index, kinds[:, None])


def build_gin(scaffold: Scaffold, channels: int, count: int | None) -> list[GINLayer]:
    """Return the layers, by default 8: each has twice the weights of a graph convolution."""
    links = Links(scaffold)
    return [GINLayer(links, channels) for _ in range(count or LAYERS)]
