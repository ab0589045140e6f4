"""Modes of an elastic network as a decoder: the linear baseline, physics in place of learning."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryoatom.decoders.decoder import Decoder
from cryoatom.structure.elastic import elastic_modes
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig


class ANMDecoder(Decoder):
    """Σ_k a_k z_k M_k: only the amplitude a_k of each mode is learned, from zero.

    Parameters
    ----------
    modes
        M, for each latent one motion of the residues, Å.
    residue
        The residue of each point; points move with theirs.
    """

    modes: Tensor

    def __init__(self, modes: Float[Tensor, "latent residues 3"], residue: Int[Tensor, " points"]):
        super().__init__()
        self.amplitudes = nn.Parameter(torch.zeros(len(modes)))
        self.register_buffer("modes", modes[:, residue].flatten(1).float(), persistent=False)

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch points 3"]:
        """Return displacements in Å."""
        return ((self.amplitudes * latents) @ self.modes).unflatten(1, (-1, 3))


def build_anm(settings: TrainConfig, scaffold: Scaffold) -> ANMDecoder:
    """Return the softest modes of the template, as many as latents, each of 1 Å r.m.s."""
    modes, _ = elastic_modes(scaffold.template.positions, settings.zdim)
    scaled = torch.from_numpy(modes) * len(scaffold.template) ** 0.5
    return ANMDecoder(scaled, torch.from_numpy(scaffold.residue))
