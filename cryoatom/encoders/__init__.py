"""Encoders map crops `(batch, side, side)` to latents; a new one is one file and one line in catalog.py."""

from torch import nn

from cryoatom.catalog import ENCODERS, load
from cryoatom.train_config import TrainConfig


def build_encoder(settings: TrainConfig, side: int) -> nn.Module:
    """Return the network that the settings name: crops of unit variance to latents, twice as long where variational."""
    outputs = settings.zdim * (2 if settings.variational else 1)
    return load(ENCODERS, settings.encoder)(settings, side, outputs)
