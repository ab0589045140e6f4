"""The power of the noise at each frequency, measured around the particles, for each optics group.

Film, ice and detector do not make white noise: its power S(|k|) rises at low frequency and falls towards Nyquist. The
likelihood weighs frequencies by 1/S (design D1.1, equation M), in units where white noise of unit variance has S = 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from cryoatom.fourier import centered_irfft2, centered_rfft2
from cryoatom.particles.rings import on_plane, ring_of_pixel, ring_sums
from cryoatom.particles.stack import background_ring
from cryoatom.workers import Workers

_EDGE, _EDGE_PIXELS = 0.04, 4.0  # of the box, and more: the mask's edge. A sharp one leaks power to empty frequencies
_CORRECTIONS = 2  # steps that undo the mask's smear: more gain nothing
_IMAGES = 1000  # of a group, at most
_ALL_IMAGES = 8000  # of all groups together, about
_FEWEST_SAMPLED = 100  # of a group that has them, however many groups there are
_FEWEST_IMAGES = 30  # a group of fewer takes the noise of all
_FEWEST_PIXELS = 2000  # that a ring's power is averaged over, all images counted: then known to 3%
_OUTLYING = 8 * 1.4826  # MADs from the median: an image whose ring is not counted (hot pixels, carbon)
_NO_POWER = 0.02  # of the typical ring: beyond a band limit
_LEAST_POWER = 0.1  # of the typical ring: no frequency weighs more than 10 times as much as is typical
_LEAK = 2  # rings beside those without power, which the mask fills or empties
_DIGITS = 4  # of S that are kept: rounding of sums then changes no cache
_AT_ONCE = 32  # images transformed together
_logger = logging.getLogger(__name__)


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
        power = on_plane(torch.from_numpy(self.spectra), self.box, fill_gaps=False)
        return torch.where(power > 0, 1 / power, 0.0)


def white_noise(count: int, box: int) -> NoisePower:
    """Return the power of white noise of unit variance, for `count` images."""
    return NoisePower(np.ones((1, ring_of_pixel(box).max() + 1)), np.zeros(count, np.int64), box)


def estimate_noise_power(
    read_normalized: Callable[[np.ndarray], Float[Tensor, "batch box box"]],
    group_of_image: Integer[np.ndarray, " images"],
    box: int,
    pixel_size: float,
    radius: float,
    *,
    workers: Workers | None = None,
) -> NoisePower:
    """Measure S outside `radius` Å in up to 1,000 images of each group, fewer where there are many groups.

    Images times a soft mask of the background have the power S convolved with that of the mask, less what the removal
    of the background's mean takes. Both are computed exactly for a given S, and S is what agrees with the measured
    power, by iteration. Rings of few pixels are averaged with their neighbours, and the power at k = 0, which images
    lost with their mean, is that of the next ring. Rings of an image that are far off the group's are not counted. A
    group of fewer than 30 images has the noise of all images.

    Parameters
    ----------
    read_normalized
        Returns the images of some rows with a background, outside `radius` Å, of mean 0 and standard deviation 1;
        images that cannot be used are all zero, and not counted.
    group_of_image
        Optics group of each image.
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
    mask = _BackgroundMask(box, pixel_size, radius)
    labels = np.unique(group_of_image)
    share = int(np.clip(_ALL_IMAGES // len(labels), _FEWEST_SAMPLED, _IMAGES))
    measured = []
    for label in labels:
        rows = _evenly(np.flatnonzero(group_of_image == label), share)
        measured.append(_masked_rings(read_normalized, rows, mask, workers or Workers(1)))
    total = sum(len(powers) for powers in measured)
    if total == 0:
        raise ValueError("none of the images that were to tell the noise can be used: they are constant or not finite")
    own = [i for i, powers in enumerate(measured) if len(powers) >= _FEWEST_IMAGES or len(labels) == 1]
    spectra = [mask.solve(measured[i]) for i in own]
    row_of_label = np.full(len(labels), len(own))
    row_of_label[own] = np.arange(len(own))
    for row, spectrum in zip(own, spectra, strict=True):
        _log(f"optics group {labels[row] + 1}", len(measured[row]), spectrum, box * pixel_size)
    if len(own) < len(labels):
        spectra.append(mask.solve(np.concatenate(measured)))
        what = f"{len(labels) - len(own)} optics groups of fewer than {_FEWEST_IMAGES} images take that of all images"
        _log(what, total, spectra[-1], box * pixel_size)
    group = row_of_label[np.searchsorted(labels, group_of_image)]
    return NoisePower(np.stack(spectra), group, box)


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


class _BackgroundMask:
    """A soft mask of the background, and what it makes of noise of a given power."""

    def __init__(self, box: int, pixel_size: float, radius: float):
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
        return _rounded(_bounded(spectrum))

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


def _masked_rings(
    read_normalized: Callable[[np.ndarray], Tensor], rows: np.ndarray, mask: _BackgroundMask, workers: Workers
) -> np.ndarray:
    """Return the ring means of the masked power of those images that can be used."""

    def compute(start: int) -> np.ndarray:
        images = read_normalized(rows[start : start + _AT_ONCE])
        return mask.rings(images)[images.flatten(1).any(dim=1).numpy()]

    return np.concatenate(workers.map(compute, range(0, len(rows), _AT_ONCE)))


def _evenly(rows: np.ndarray, count: int) -> np.ndarray:
    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


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


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.array([float(f"{value:.{_DIGITS - 1}e}") for value in values])


def _log(what: str, images: int, spectrum: np.ndarray, side: float) -> None:
    """Say what S is at low, middle and high frequency; `side` is that of the box in Å."""
    nyquist = int((len(spectrum) - 1) / np.sqrt(2))
    shown = [(ring, spectrum[ring]) for ring in (3, nyquist // 2, nyquist)]
    values = ", ".join(f"{power:.3g} at {side / ring:.3g} Å" for ring, power in shown)
    living = spectrum[1 : nyquist + 1]
    living = living[living > 0]
    _logger.info(
        "noise of %s: power %s (of %d images); largest / smallest %.3g",
        what,
        values,
        images,
        living.max() / living.min(),
    )
    if len(living) < nyquist:
        _logger.warning(
            "noise of %s: images have no power at %d of %d frequencies below Nyquist (the highest with any: %.3g Å): "
            "were they filtered? These frequencies are left out",
            what,
            nyquist - len(living),
            nyquist,
            side / np.flatnonzero(spectrum).max(),
        )
