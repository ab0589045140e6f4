"""What every decoder is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.precision import HalfInside


class Decoder(HalfInside, ABC):
    """Maps latents to displacements of points from where they start; untrained ones displace nothing.

    Where some of its own parameters are random variables (cryoSPHERE's segments), it draws them once a step and tells
    their divergence from their prior (`is_random`); others have none.
    """

    is_random: ClassVar[bool] = False

    @abstractmethod
    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch points 3"]:
        """Return displacements in Å."""

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw random parameters for the next step; None: take their means from now on."""

    def divergence(self) -> Float[Tensor, ""] | None:
        """Return the Kullback-Leibler divergence of random parameters from their prior, nats of the whole dataset."""
        return None
