"""One conformation for all images: the homogeneous reconstruction of Cryofold (section 4.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.decoders.decoder import Decoder
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig


class ConstantDecoder(Decoder):
    """The same displacements whatever the latent is: the coordinates themselves are fitted."""

    def __init__(self, points: int):
        super().__init__()
        self.displacements = nn.Parameter(torch.zeros(points, 3))

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch points 3"]:
        """Return displacements in Å."""
        return self.displacements.expand(len(latents), -1, -1) + 0 * latents.sum(dim=1)[:, None, None]


def build_constant(settings: TrainConfig, scaffold: Scaffold) -> ConstantDecoder:
    """Return free coordinates for each point."""
    return ConstantDecoder(len(scaffold))
