"""Encoders map crops `(batch, side, side)` to latents; a new one is one file and one line in catalog.py.

They see w, the matched crop, not the image as it was taken: the image's likelihood depends on it through w alone, for
whatever conformation and pose, so that no other function of the image tells more. Its CTF has been applied once more
(phases are right, and frequencies without signal weigh nothing), its noise weighed, its shift taken away, and it has
the particle's size. It comes divided by its spread over the data set, the scale that networks start from.
"""

from cryoatom.catalog import ENCODERS, load
from cryoatom.precision import HalfInside
from cryoatom.train_config import TrainConfig


def build_encoder(settings: TrainConfig, side: int) -> HalfInside:
    """Return the network that the settings name: crops of unit variance to latents, twice as long where variational."""
    outputs = settings.zdim * (2 if settings.variational else 1)
    encoder = load(ENCODERS, settings.encoder)(settings, side, outputs)
    encoder.is_half = settings.amp
    return encoder
