"""A convolutional network that reads latents off images (Prins et al., appendix A)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.perceptron import ACTIVATIONS
from cryoatom.precision import HalfInside
from cryoatom.train_config import TrainConfig

_CHANNELS = 16  # of the first block; each further block has twice as many


class CNNEncoder(HalfInside):
    """Blocks of convolution, batch normalisation and 2 x 2 max pooling; Linear(pixels -> width); Linear to outputs.

    Prins et al. have five poolings behind seven convolutions of 64 to 256 channels (those of CryoFIRE;
    their published code), 0.2 s an image to train on a core. Here the first convolution, 5 x 5, takes every other pixel
    and channels are 16, 32, 64, 128: about 1 ms an image for a crop of 72 pixels, and 0.4 million weights.

    Any side will do: an odd pixel at an edge is pooled with what is there, and blocks end where one pixel is left.

    Parameters
    ----------
    side, outputs
        Pixels of a crop's side; numbers of a latent.
    width
        Of the layer between the blocks and the latents.
    blocks
        How many at most.
    activation
        'relu' or 'silu'.
    """

    def __init__(self, side: int, outputs: int, width: int, blocks: int, activation: str):
        super().__init__()
        act = ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        channels = 1
        for index in range(blocks):
            if index and side == 1:
                break
            kernel, stride, wider = (3, 1, 2 * channels) if index else (5, 2, _CHANNELS)
            layers += [
                nn.Conv2d(channels, wider, kernel, stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(wider),
                act(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
            side, channels = -(-side // (2 * stride)), wider
        layers += [nn.Flatten(), nn.Linear(channels * side**2, width), act(), nn.Linear(width, outputs)]
        self.network = nn.Sequential(*layers)

    def forward(self, crops: Float[Tensor, "batch side side"]) -> Float[Tensor, "batch outputs"]:
        """Return the latents of images."""
        with self.hidden_precision(crops):
            features = self.network[:-1](crops[:, None])
        return self.network[-1](features.to(crops))


def build_cnn(settings: TrainConfig, side: int, outputs: int) -> CNNEncoder:
    """Return four blocks and a layer of 256, unless the settings have other sizes."""
    return CNNEncoder(side, outputs, settings.enc_dim or 256, settings.enc_layers or 4, settings.activation)
