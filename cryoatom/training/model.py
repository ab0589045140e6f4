"""What is learned and shared by all images: the decoder around the template, and the beads."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.decoders.decoder import Decoder
from cryoatom.imaging.beads import BeadModel


class ConformationModel(nn.Module):
    """x = x0 + Δ(z), and its projection.

    Parameters
    ----------
    template_positions
        x0 of the C-alphas, Å.
    decoder
        Maps (batch, latent) to displacements of points (batch, points, 3).
    beads
        Maps points to projected Gaussians.
    start
        x0 of all points, C-alphas first, Å; None: C-alphas are all there are, and start at the template.
    """

    template_positions: Tensor
    start: Tensor

    def __init__(
        self,
        template_positions: Float[Tensor, "residues 3"],
        decoder: Decoder,
        beads: BeadModel,
        start: Float[Tensor, "points 3"] | None = None,
    ):
        super().__init__()
        self.register_buffer("start", (template_positions if start is None else start).float(), persistent=False)
        self.register_buffer("template_positions", template_positions.float(), persistent=False)
        self.decoder = decoder
        self.beads = beads

    def place(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch points 3"]:
        """Return where all points are for latents: C-alphas, then side chains that move freely; Å, template frame."""
        return self.start + self.decoder(latents)

    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch residues 3"]:
        """Return the conformations of latents: the C-alphas of :meth:`place`."""
        return self.place(latents)[:, : len(self.template_positions)]

    def render(
        self,
        points: Float[Tensor, "batch points 3"],
        rotations: Float[Tensor, "batch 3 3"],
        shifts: Float[Tensor, "batch 2"],
        side: int,
        pixel_size: float,
    ) -> Float[Tensor, "batch side side"]:
        """Return v, the projection of posed points (paper eq. 1) in image units."""
        return self.beads.render(points, rotations, side, pixel_size, shifts=shifts)
