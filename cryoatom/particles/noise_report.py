"""What is said of the noise's power in the log."""

from __future__ import annotations

import logging

import numpy as np
from jaxtyping import Integer

from cryoatom.particles.noise import NoisePower

_NAMED = 6  # groups that have a line of their own
_logger = logging.getLogger(__name__)


def report_noise(noise: NoisePower, optics_group: Integer[np.ndarray, " images"], pixel_size: float) -> None:
    """Log S at low, middle and high frequency, of the groups with the most images; warn of filtered images.

    Parameters
    ----------
    noise
        Of the images of a dataset.
    optics_group
        Of each image.
    pixel_size
        Å.
    """
    counts = np.bincount(noise.group_of_image, minlength=len(noise.spectra))
    largest = np.argsort(-counts, kind="stable")
    side = noise.box * pixel_size
    for group in np.sort(largest[:_NAMED]):
        name = _name(optics_group[noise.group_of_image == group])
        _logger.info("noise of %s: %s", name, _describe(noise.spectra[group], side))
    if len(counts) > _NAMED:
        _logger.info("and %d more optics groups have a noise power of their own", len(counts) - _NAMED)
    filtered = [group for group in largest if len(_living(noise.spectra[group])) < _nyquist(noise.spectra[group])]
    if filtered:
        first = noise.spectra[filtered[0]]
        _logger.warning(
            "noise of %s%s: images have no power at %d of %d frequencies below Nyquist (the highest with any: %.3g Å): "
            "were they filtered? These frequencies are left out",
            _name(optics_group[noise.group_of_image == filtered[0]]),
            f" and {len(filtered) - 1} more" if len(filtered) > 1 else "",
            _nyquist(first) - len(_living(first)),
            _nyquist(first),
            side / np.flatnonzero(first).max(),
        )


def _name(labels: np.ndarray) -> str:
    count = len(np.unique(labels))
    return f"optics group {labels[0] + 1}" if count == 1 else f"{count} small optics groups together"


def _describe(spectrum: np.ndarray, side: float) -> str:
    """Say what S is; `side` is that of the box in Å."""
    nyquist, living = _nyquist(spectrum), _living(spectrum)
    shown = [(ring, spectrum[ring]) for ring in (3, nyquist // 2, nyquist)]
    values = ", ".join(f"{power:.3g} at {side / ring:.3g} Å" for ring, power in shown)
    return f"power {values}; largest / smallest {living.max() / living.min():.3g}"


def _nyquist(spectrum: np.ndarray) -> int:
    return int((len(spectrum) - 1) / np.sqrt(2))


def _living(spectrum: np.ndarray) -> np.ndarray:
    """Return the powers up to Nyquist that are not zero."""
    below = spectrum[1 : _nyquist(spectrum) + 1]
    return below[below > 0]
