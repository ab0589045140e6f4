"""A perceptron that reads latents off images (cryoSPHERE; Cryofold, section 5: three layers of 256, with skips)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.perceptron import hidden_layers
from cryoatom.precision import HalfInside
from cryoatom.train_config import TrainConfig


class MLPEncoder(HalfInside):
    """Linear(side² -> width), `layers` residual layers of `width`, Linear to outputs.

    Parameters
    ----------
    side, outputs
        Pixels of a crop's side; numbers of a latent.
    width, layers
        Of the hidden layers.
    activation
        'relu' or 'silu'.
    """

    def __init__(self, side: int, outputs: int, width: int, layers: int, activation: str):
        super().__init__()
        hidden = hidden_layers(side**2, width, layers, activation=activation, residual=True)
        self.network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, outputs))

    def forward(self, crops: Float[Tensor, "batch side side"]) -> Float[Tensor, "batch outputs"]:
        """Return the latents of images."""
        with self.hidden_precision(crops):
            features = self.network[:-1](crops)
        return self.network[-1](features.to(crops))


def build_mlp(settings: TrainConfig, side: int, outputs: int) -> MLPEncoder:
    """Return Cryofold's encoder, unless the settings have other sizes."""
    return MLPEncoder(side, outputs, settings.enc_dim or 256, settings.enc_layers or 3, settings.activation)
