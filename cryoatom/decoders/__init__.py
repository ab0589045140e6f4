"""Decoders map `(batch, latent)` to displacements `(batch, points, 3)`: one file each, and one line in catalog.py."""

from cryoatom.catalog import DECODERS, load
from cryoatom.decoders.decoder import Decoder
from cryoatom.structure.scaffold import Scaffold
from cryoatom.train_config import TrainConfig


def build_decoder(settings: TrainConfig, scaffold: Scaffold) -> Decoder:
    """Return the decoder that the settings name, with fresh weights."""
    decoder = load(DECODERS, settings.decoder)(settings, scaffold)
    decoder.is_half = settings.amp
    return decoder
