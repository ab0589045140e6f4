"""The coarse grid that crops of a dataset are sampled on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CropGrid:
    """The coarse grid of a dataset.

    Parameters
    ----------
    box, pixel_size
        Of the images; Å.
    coarse_box
        Pixels of the whole box after Fourier cropping.
    side
        Pixels of the crop.
    """

    box: int
    pixel_size: float
    coarse_box: int
    side: int

    @property
    def coarse_pixel(self) -> float:
        """Return the pixel size of the crop, Å."""
        return self.box * self.pixel_size / self.coarse_box


def choose_grid(box: int, pixel_size: float, diameter: float, coarse_pixel: float) -> CropGrid:
    """Return the grid of a particle of `diameter` Å (margins for motion included).

    The crop side is even and a product of small primes, since its double is transformed at each step. A crop never
    exceeds the box, nor is an image that is already coarse refined.
    """
    coarse_box = min(box, 2 * round(box * pixel_size / coarse_pixel / 2))
    wanted = int(np.ceil(diameter / (box * pixel_size / coarse_box)))
    side = next(s for s in range(wanted + wanted % 2, 4 * wanted + 8, 2) if _is_smooth(s))
    return CropGrid(box, pixel_size, coarse_box, min(side, coarse_box))


def _is_smooth(number: int) -> bool:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1
