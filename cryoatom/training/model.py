"""What is learned and shared by all images: the decoder around the template, and the beads."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.imaging.beads import BeadModel


class ConformationModel(nn.Module):
    """x = x0 + Δ(z), and its projection.

    Parameters
    ----------
    template_positions
        x0, Å.
    decoder
        Maps (batch, latent) to displacements (batch, residues, 3).
    beads
        Maps conformations to projected Gaussians.
    """

    template_positions: Tensor

    def __init__(self, template_positions: Float[Tensor, "residues 3"], decoder: nn.Module, beads: BeadModel):
        super().__init__()
        self.register_buffer("template_positions", template_positions.float(), persistent=False)
        self.decoder = decoder
        self.beads = beads

    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch residues 3"]:
        """Return the conformations of latents, Å, template frame."""
        return self.template_positions + self.decoder(latents)

    def render(
        self,
        conformations: Float[Tensor, "batch residues 3"],
        rotations: Float[Tensor, "batch 3 3"],
        shifts: Float[Tensor, "batch 2"],
        side: int,
        pixel_size: float,
    ) -> Float[Tensor, "batch side side"]:
        """Return v, the projection of posed conformations (paper eq. 1) in image units."""
        return self.beads.render(conformations, rotations, side, pixel_size, shifts=shifts)
