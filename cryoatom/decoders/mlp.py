"""The multilayer-perceptron decoder that the paper compares with (supplement, section 3)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.decoders.decoder import Decoder
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig


class MLPDecoder(Decoder):
    """Map latents to residue displacements: Linear, `layers` hidden layers of `width`, Linear to residues x 3; ReLU."""

    def __init__(self, residues: int, latent: int, width: int = 32, layers: int = 8):
        super().__init__()
        blocks: list[nn.Module] = [nn.Linear(latent, width), nn.ReLU()]
        for _ in range(layers):
            blocks += [nn.Linear(width, width), nn.ReLU()]
        self.hidden = nn.Sequential(*blocks)
        self.readout = nn.Linear(width, 3 * residues)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch residues 3"]:
        """Return displacements in Å."""
        return self.readout(self.hidden(latents)).unflatten(1, (-1, 3))


def build_mlp(settings: TrainConfig, scaffold: Scaffold) -> MLPDecoder:
    """Return the paper's network, by default that for ADK: 8 hidden layers of 32, 30k weights for 214 residues."""
    return MLPDecoder(len(scaffold), settings.zdim, settings.dec_dim or 32, settings.dec_layers or 8)
