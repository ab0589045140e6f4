"""The layer of Hamilton et al., Inductive representation learning on large graphs (2017): a mean of neighbours."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from cryoatom.decoders.layers.layer import FeatureLayer, Links
from cryoatom.structure.scaffold import Scaffold

LAYERS = 8


class SAGELayer(FeatureLayer):
    """GraphSAGE with a skip connection: X + ReLU(X W + M X W' + b), M the mean over a point's neighbours."""

    def __init__(self, links: Links, channels: int):
        from torch_geometric.nn import SAGEConv

        super().__init__()
        self.links = links
        self.convolution = SAGEConv(channels, channels, node_dim=0)

    def convolve(self, features: Float[Tensor, "points batch channels"]) -> Float[Tensor, "points batch channels"]:
        """Return X W + M X W' + b."""
        return self.convolution(features, self.links.index)


def build_sage(scaffold: Scaffold, channels: int, count: int | None) -> list[SAGELayer]:
    """Return the layers, by default 8: each has twice the weights of a graph convolution."""
    links = Links(scaffold)
    return [SAGELayer(links, channels) for _ in range(count or LAYERS)]
