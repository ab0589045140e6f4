"""Radial functions of the frequency: between the half plane of an rfft2 and rings of |k|."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from cryoatom.fourier import frequencies


def ring_coordinate(box: int) -> Float[Tensor, "box half"]:
    """Return |k| in units of 1 / box."""
    kx, ky = frequencies(box, 1 / box)
    return (kx.square() + ky.square()).sqrt()


def ring_of_pixel(box: int) -> Integer[Tensor, "box half"]:
    """Return which ring each frequency lies in: rings are one unit of |k| wide, about whole numbers."""
    return ring_coordinate(box).round().long()


def half_plane_weights(box: int) -> Float[Tensor, " half"]:
    """Return how many frequencies of the whole plane each column of the half plane stands for."""
    weights = torch.full((box // 2 + 1,), 2.0, dtype=torch.float64)
    weights[0] = 1
    if box % 2 == 0:
        weights[-1] = 1
    return weights


def ring_sums(power: Float[Tensor, "batch box half"], ring: Tensor, box: int) -> Float[Tensor, "batch rings"]:
    """Return the sums over the rings of the whole plane, float64; `ring` is :func:`ring_of_pixel`."""
    weighted = (power * half_plane_weights(box).to(power)).flatten(1).double()
    return weighted.new_zeros(len(power), int(ring.max()) + 1).index_add_(1, ring.flatten(), weighted)


def on_plane(spectra: Float[Tensor, "groups rings"], box: int, *, fill_gaps: bool) -> Float[Tensor, "groups box half"]:
    """Return ring values on the half plane, interpolated; 0 beside a ring of no power unless gaps are to be filled."""
    place = ring_coordinate(box).clamp(max=spectra.shape[1] - 1)
    lower = place.floor().long()
    upper = (lower + 1).clamp(max=spectra.shape[1] - 1)
    mix = place - lower
    below, above = spectra[:, lower], spectra[:, upper]
    power = (1 - mix) * below + mix * above
    return power if fill_gaps else torch.where((below > 0) & ((above > 0) | (mix == 0)), power, 0.0)
