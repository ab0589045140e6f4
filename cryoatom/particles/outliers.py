"""Images whose power stands out from that of their like."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer

_FEWEST_IMAGES = 30  # a group of fewer is compared with all


def power_excess(
    image_power: Float[np.ndarray, " images"],
    group_of_image: Integer[np.ndarray, " images"],
    is_dead: Bool[np.ndarray, " images"],
) -> Float[np.ndarray, " images"]:
    """Return by how many standard deviations the whitened power of each image lies above that of its noise group.

    Images of the same kind scatter by about 1. Hot pixels, carbon edges and crystals of ice lie far above: more than
    6, say. Expectation and deviation are the group's median and 1.4826 times its median absolute deviation, of all
    images for groups of fewer than 30; those of dead images are 0.

    Parameters
    ----------
    image_power
        ½ Σ |ŷ|²/S, in units where white noise gives half the number of pixels.
    group_of_image
        Row of the noise power of each image.
    is_dead
        Images that cannot be used.
    """
    excess = np.zeros(len(image_power))
    living = np.flatnonzero(~is_dead)
    for label in np.unique(group_of_image[living]):
        rows = living[group_of_image[living] == label]
        reference = image_power[rows if len(rows) >= _FEWEST_IMAGES else living]
        median = np.median(reference)
        deviation = 1.4826 * np.median(np.abs(reference - median))
        excess[rows] = (image_power[rows] - median) / max(deviation, 1e-6 * median)
    return excess
