"""Motions that a latent scales: what principal components are to volumes (3D variability), for coordinates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.decoders.decoder import Decoder
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig


class LinearDecoder(Decoder):
    """A constant displacement, and one motion for each number of the latent; all are learned."""

    def __init__(self, points: int, latent: int):
        super().__init__()
        self.motions = nn.Parameter(torch.zeros(latent, points, 3))
        self.constant = nn.Parameter(torch.zeros(points, 3))

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch points 3"]:
        """Return displacements in Å."""
        return self.constant + (latents @ self.motions.flatten(1)).unflatten(1, self.constant.shape)


def build_linear(settings: TrainConfig, scaffold: Scaffold) -> LinearDecoder:
    """Return as many motions as latents have numbers."""
    return LinearDecoder(len(scaffold), settings.zdim)
