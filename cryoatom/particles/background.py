"""The noise's power S(|k|) from images masked to their background.

Images times a soft mask of the background have the power S convolved with that of the mask, less what the removal of
the background's mean takes. Both are computed exactly for a given S, and S is what agrees with the measured power.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.fourier import centered_irfft2, centered_rfft2
from cryoatom.particles.rings import on_plane, ring_of_pixel, ring_sums
from cryoatom.particles.stack import background_ring

_EDGE, _EDGE_PIXELS = 0.04, 4.0  # of the box, and more: the mask's edge. A sharp one leaks power to empty frequencies
_CORRECTIONS = 2  # steps that undo the mask's smear: more gain nothing
_FEWEST_PIXELS = 2000  # that a ring's power is averaged over, all images counted: then known to 3%
_OUTLYING = 8 * 1.4826  # MADs from the median: an image whose ring is not counted (hot pixels, carbon)
_NO_POWER = 0.02  # of the typical ring: beyond a band limit
_LEAST_POWER = 0.1  # of the typical ring: no frequency weighs more than 10 times as much as is typical
_LEAK = 2  # rings beside those without power, which the mask fills or empties


class BackgroundMask:
    """A soft mask of the background, and what it makes of noise of a given power.

    Parameters
    ----------
    box, pixel_size
        Of the images; Å.
    radius
        Å from the centre, outside which there is background.

    Raises
    ------
    ValueError
        If the background has hardly a pixel.
    """

    def __init__(self, box: int, pixel_size: float, radius: float) -> None:
        self.box = box
        ring = background_ring(box, radius, pixel_size)
        self.mask = _soft_mask(box, radius / pixel_size)
        self.ring = ring_of_pixel(box)
        self.pixels = ring_sums(torch.ones(1, *self.ring.shape, dtype=torch.float64), self.ring, box)[0]
        self._mask = self.mask.double()
        self._mean = ring.double() / ring.sum()  # weights of the mean that normalisation removed
        self._mask_spectrum, self._mean_spectrum = centered_rfft2(self._mask), centered_rfft2(self._mean)
        self._lags = centered_irfft2(self._mask_spectrum.abs().square().to(torch.complex128), box)
        self._white = self.expected(np.ones(len(self.pixels)))

    def rings(self, images: Float[Tensor, "batch box box"]) -> Float[np.ndarray, "batch rings"]:
        """Return the mean power of masked images in each ring, 1 for white noise."""
        spectrum = centered_rfft2(images * self.mask)
        power = spectrum.real.square() + spectrum.imag.square()
        return (ring_sums(power, self.ring, self.box) / self.pixels).numpy() / self._white

    def expected(self, spectrum: Float[np.ndarray, " rings"]) -> np.ndarray:
        """Return the ring means of E|F[m (y - <y>)]|² of periodic noise y of power S, <y> its background's mean.

        With c = F⁻¹[S], the mask m, its autocorrelation A and the weights b of the mean:
        F[c A] - 2 Re conj(m̂) F[m (c * b)] + |m̂|² <b, c * b>.
        """
        power = on_plane(torch.from_numpy(spectrum)[None], self.box, fill_gaps=True)[0]
        covariance = centered_irfft2(power.to(torch.complex128), self.box)
        with_mean = centered_irfft2(self._mean_spectrum * power, self.box)
        smeared = centered_rfft2(covariance * self._lags).real
        removed = 2 * (self._mask_spectrum.conj() * centered_rfft2(self._mask * with_mean)).real
        added = self._mask_spectrum.abs().square() * (self._mean * with_mean).sum()
        rings = (ring_sums((smeared - removed + added)[None], self.ring, self.box)[0] / self.pixels).numpy()
        rings[0] = rings[1]  # the mean is gone: nothing is known of it
        return rings

    def solve(self, powers: Float[np.ndarray, "images rings"]) -> np.ndarray:
        """Return the S whose expected masked power is the measured one: S <- S · measured / expected(S)."""
        measured = self._smooth(_mean_without_outliers(powers), len(powers))
        measured[0] = measured[1]
        spectrum = np.ones_like(measured)
        for _ in range(_CORRECTIONS):
            expected = self.expected(spectrum) / self._white
            spectrum = spectrum * measured / np.maximum(expected, 1e-30)
        return _bounded(spectrum)

    def _smooth(self, power: np.ndarray, images: int) -> np.ndarray:
        """Average rings with as many neighbours on both sides as are needed."""
        counts = self.pixels.numpy() * images
        counts[0] = 0
        count_below, power_below = (np.concatenate([[0], np.cumsum(each)]) for each in (counts, counts * power))
        smooth, last = power.copy(), len(power) - 1
        for ring in range(1, len(power)):
            reach = 0
            while True:
                low, high = max(1, ring - reach), min(last, ring + reach) + 1
                count = count_below[high] - count_below[low]
                if count >= _FEWEST_PIXELS or (low == 1 and high == last + 1):
                    break
                reach += 1
            smooth[ring] = (power_below[high] - power_below[low]) / count
        return smooth


def _soft_mask(box: int, radius: float) -> Tensor:
    """Return 0 up to `radius` pixels, 1 from there over a raised cosine, float32."""
    axis = torch.arange(box) - box // 2
    distance = (axis[:, None] ** 2 + axis**2).double().sqrt()
    return (0.5 - 0.5 * torch.cos(torch.pi * ((distance - radius) / (_EDGE * box + _EDGE_PIXELS)).clamp(0, 1))).float()


def _mean_without_outliers(powers: np.ndarray) -> np.ndarray:
    median = np.median(powers, axis=0)
    deviation = np.median(np.abs(powers - median), axis=0)
    is_counted = np.abs(powers - median) <= _OUTLYING * deviation
    return np.where(is_counted, powers, 0.0).sum(axis=0) / is_counted.sum(axis=0)


def _bounded(spectrum: np.ndarray) -> np.ndarray:
    """Set to 0 the rings where images have hardly any power, and those beside them; other low ones to a least power.

    There images were filtered, and what they have of the particle is as weak as the noise: the model, which does not
    know of the filter, must not be held to it.
    """
    is_empty = spectrum < _NO_POWER * np.median(spectrum[spectrum > 1e-4])  # the mean over frequencies is about 1
    is_near_empty = np.convolve(is_empty, np.ones(2 * _LEAK + 1), mode="same") > 0
    least = _LEAST_POWER * np.median(spectrum[~is_near_empty])
    return np.where(is_near_empty, 0.0, np.maximum(spectrum, least))
