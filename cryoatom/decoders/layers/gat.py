"""The graph attention layer of Veličković et al. (2018)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from cryoatom.decoders.layers.layer import FeatureLayer, Links
from cryoatom.structure.scaffold import Scaffold

LAYERS = 12
HEADS = 4


class GATLayer(FeatureLayer):
    """Graph attention with a skip connection: X + ReLU(Σ_j α_ij x_j W + b), j the neighbours and the point itself.

    torch-geometric's layer takes one graph. Its parts take a further axis, here that of images: so the layer is
    theirs, and edges need not be repeated for each image.
    """

    def __init__(self, links: Links, channels: int, heads: int):
        from torch_geometric.nn import GATConv

        super().__init__()
        self.links = links
        self.convolution = GATConv(channels, channels // heads, heads=heads, add_self_loops=False)

    def convolve(self, features: Float[Tensor, "points batch channels"]) -> Float[Tensor, "points batch channels"]:
        """Return Σ_j α_ij x_j W + b."""
        layer, index = self.convolution, self.links.index
        assert layer.lin is not None
        x = layer.lin(features).unflatten(-1, (layer.heads, layer.out_channels))
        scores = (x * layer.att_src).sum(dim=-1), (x * layer.att_dst).sum(dim=-1)
        attention = layer.edge_updater(index, alpha=scores, edge_attr=None)
        return layer.propagate(index, x=(x, x), alpha=attention).flatten(2) + layer.bias


def build_gat(scaffold: Scaffold, channels: int, count: int | None) -> list[GATLayer]:
    """Return the layers, by default 12 of 4 heads.

    Raises
    ------
    ValueError
        When the heads do not share the channels evenly.
    """
    if channels % HEADS:
        raise ValueError(f"--gnn-layer gat has {HEADS} heads: --dec-dim must be a multiple of that, not {channels}")
    links = Links(scaffold, with_loops=True)
    return [GATLayer(links, channels, HEADS) for _ in range(count or LAYERS)]
