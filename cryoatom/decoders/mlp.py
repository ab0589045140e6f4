"""The multilayer-perceptron decoder of the papers: GNN paper (supplement, section 3), Prins et al., Cryofold."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.decoders.decoder import Decoder
from cryoatom.perceptron import hidden_layers, keep_variance
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig


class MLPDecoder(Decoder):
    """Map latents to displacements: Linear, `layers` hidden layers of `width`, Linear to points x 3.

    The papers' networks are 8 layers of 32, ReLU (GNN paper: `layers` 8, and by default); 7 linear maps in all, 350
    wide, SiLU (Prins et al., appendix E: `layers` 5); 3 layers of 256 with skips (Cryofold, section 5).

    Parameters
    ----------
    points, latent
        Points to displace; numbers of a latent.
    width, layers
        Of the hidden layers.
    activation
        'relu' or 'silu'.
    residual
        A hidden layer adds to what it is given.
    """

    def __init__(
        self,
        points: int,
        latent: int,
        width: int = 32,
        layers: int = 8,
        *,
        activation: str = "relu",
        residual: bool = False,
    ):
        super().__init__()
        self.hidden = hidden_layers(latent, width, layers, activation=activation, residual=residual)
        self.readout = nn.Linear(width, 3 * points)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch residues 3"]:
        """Return displacements in Å."""
        with self.hidden_precision(latents):
            features = self.hidden(latents)
        return self.readout(features.to(latents)).unflatten(1, (-1, 3))


def build_mlp(settings: TrainConfig, scaffold: Scaffold) -> MLPDecoder:
    """Return the GNN paper's network, by default that for ADK: 8 hidden layers of 32, 30k weights for 214 residues.

    Free latents move apart until such a deep network tells them apart. An encoder's may not: the ReLU network can end
    with one conformation for all. So with an encoder the network starts with latents that reach its last layer.
    """
    decoder = MLPDecoder(
        len(scaffold),
        settings.zdim,
        settings.dec_dim or 32,
        settings.dec_layers or 8,
        activation=settings.activation,
        residual=settings.residual,
    )
    if settings.encoder != "none" and not settings.residual:
        keep_variance(decoder.hidden)
    return decoder
