"""The power of the noise at each frequency, measured around the particles, for each optics group.

Film, ice and detector do not make white noise: its power S(|k|) rises at low frequency and falls towards Nyquist. The
likelihood weighs frequencies by 1/S (design D1.1, equation M), in units where white noise of unit variance has S = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from cryoatom.particles.background import BackgroundMask
from cryoatom.particles.rings import on_plane, ring_of_pixel
from cryoatom.particles.rows import spaced_rows
from cryoatom.workers import Workers

NOISE_VERSION = 2  # of the estimate: it goes up with every change of S, which images in matched form depend on
MOST_IMAGES = 8000  # that are read, however many images and groups there are
_IMAGES = 1000  # of a group, at most
_FEWEST_OWN = 100  # a group of fewer shares the power of others
_MOST_GROUPS = (MOST_IMAGES - _IMAGES) // _FEWEST_OWN  # beside them, the power of all images may be asked for
_FEWEST_USABLE = 30
_AT_ONCE = 32  # images transformed together


@dataclass(frozen=True)
class NoisePower:
    """Radial noise power of a dataset's images.

    Parameters
    ----------
    spectra : (groups, rings) float64
        S at |k| = ring / (box · pixel size), to the corners of the Fourier plane. 0 where images have no power, for
        instance beyond the band that they were cropped or filtered to: such frequencies have no weight. Elsewhere at
        least a tenth of the median, so that no frequency can outweigh all others.
    group_of_image : (n,) int64
        Row of `spectra` of each image.
    box : int
        Of the images, pixels.
    """

    spectra: np.ndarray
    group_of_image: np.ndarray
    box: int

    def precision(self) -> Float[Tensor, "groups box half"]:
        """Return 1/S on the half plane, float64, S interpolated in |k|; 0 where there is no power."""
        planes = torch.empty(len(self.spectra), self.box, self.box // 2 + 1, dtype=torch.float64)
        for plane, spectrum in zip(planes, torch.from_numpy(self.spectra), strict=True):
            power = on_plane(spectrum[None], self.box, fill_gaps=False)[0]
            plane.copy_(torch.where(power > 0, 1 / power, 0.0))
        return planes


def white_noise(count: int, box: int) -> NoisePower:
    """Return the power of white noise of unit variance, for `count` images."""
    return NoisePower(np.ones((1, ring_of_pixel(box).max() + 1)), np.zeros(count, np.int64), box)


def noise_groups(optics_group: Integer[np.ndarray, " images"]) -> Integer[np.ndarray, " images"]:
    """Return which images share a noise power: those of an optics group, and those of all small ones together.

    The 69 largest optics groups of at least 100 images have one of their own; where each micrograph is an optics
    group there may be thousands of them. Numbers go up from 0 in the order of the optics groups, the shared one last.
    """
    labels, index, counts = np.unique(optics_group, return_inverse=True, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[: _MOST_GROUPS - 1]
    own = np.sort(largest[counts[largest] >= _FEWEST_OWN])
    group_of_label = np.full(len(labels), len(own))
    group_of_label[own] = np.arange(len(own))
    return group_of_label[index.reshape(-1)]


def estimate_noise_power(
    read_normalized: Callable[[np.ndarray], Float[Tensor, "batch box box"]],
    optics_group: Integer[np.ndarray, " images"],
    box: int,
    pixel_size: float,
    radius: float,
    *,
    workers: Workers | None = None,
) -> NoisePower:
    """Measure S outside `radius` Å in up to 1,000 images of each noise group, and up to 8,000 in all.

    :class:`cryoatom.particles.background.BackgroundMask` says how. Rings of few pixels are averaged with their
    neighbours, and the power at k = 0, which images lost with their mean, is that of the next ring. Rings of an image
    that are far off the group's are not counted. Small optics groups together, where they have fewer than 100 images,
    and groups of fewer than 30 usable images have the power of all images.

    Parameters
    ----------
    read_normalized
        Returns the images of some rows with a background, outside `radius` Å, of mean 0 and standard deviation 1;
        images that cannot be used are all zero, and not counted.
    optics_group
        Of each image; :func:`noise_groups` makes noise groups of them.
    box, pixel_size
        Of the images; Å.
    radius
        Å.
    workers
        Threads that transform images; without them the caller's.

    Raises
    ------
    ValueError
        If no image can be used, or the background has hardly a pixel.
    """
    mask, group_of_image = BackgroundMask(box, pixel_size, radius), noise_groups(optics_group)
    count = int(group_of_image.max()) + 1
    share = int(np.clip((MOST_IMAGES - _IMAGES) // count, _FEWEST_OWN, _IMAGES))

    def measure(rows: np.ndarray, most: int) -> np.ndarray:
        some = rows[spaced_rows(len(rows), most)]
        return _masked_rings(read_normalized, some, mask, workers or Workers(1))

    spectra, lacking = np.zeros((count, len(mask.pixels))), []
    for group in range(count):
        rows = np.flatnonzero(group_of_image == group)
        has_own = _FEWEST_OWN <= len(rows) < len(group_of_image)
        powers = measure(rows, share) if has_own else rows[:0]
        if len(powers) >= _FEWEST_USABLE:
            spectra[group] = mask.solve(powers)
        else:
            lacking.append(group)
    if lacking:
        powers = measure(np.arange(len(group_of_image)), _IMAGES)
        if len(powers) == 0:
            raise ValueError(
                "none of the images that were to tell the noise can be used: they are constant or not finite"
            )
        spectra[lacking] = mask.solve(powers)
    return NoisePower(spectra, group_of_image, box)


def _masked_rings(
    read_normalized: Callable[[np.ndarray], Tensor], rows: np.ndarray, mask: BackgroundMask, workers: Workers
) -> np.ndarray:
    """Return the ring means of the masked power of those images that can be used."""

    def compute(start: int) -> np.ndarray:
        images = read_normalized(rows[start : start + _AT_ONCE])
        return mask.rings(images)[images.flatten(1).any(dim=1).numpy()]

    return np.concatenate(workers.map(compute, range(0, len(rows), _AT_ONCE)))
