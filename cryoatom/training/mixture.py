"""Images that fit and images that do not, told apart by how strongly each shows its model.

Of an image that shows its model v the likelihood knows ⟨w, v⟩ = a ⟨v, κ*v⟩ + noise of variance ⟨v, κ*v⟩, with a about
1. In a wrong pose a is smaller and scatters widely: how widely is measured, on images that are given each other's
poses. Where there is no particle a is about 0. The shares of the three kinds, and a of those that fit, are estimated by
expectation maximisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_expit, logsumexp
from scipy.stats import norm

_FEWEST = 50  # images that a mixture can be fitted to
_STEPS = 200
_LEAST_SHARE = 0.2  # of images that fit: with fewer, something else is wrong
_MOST_LOST = 0.02  # share of the images that fit which may look as if they did not
_MAD = 1.4826  # standard deviations of a normal variable in a median absolute deviation


@dataclass(frozen=True)
class Kind:
    """Images of one kind: ⟨w, v⟩ is normal about `mean` ⟨v, κ*v⟩, with variance ⟨v, κ*v⟩ + `spread`² ⟨v, κ*v⟩²."""

    mean: float
    spread: float

    def deviation(self, power: np.ndarray) -> np.ndarray:
        """Return the standard deviation of ⟨w, v⟩ at given ⟨v, κ*v⟩."""
        return np.sqrt(power + (self.spread * power) ** 2)

    def log_density(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """Return log p(⟨w, v⟩ | ⟨v, κ*v⟩)."""
        return norm.logpdf(cross, self.mean * power, self.deviation(power))

    @classmethod
    def typical(cls, cross: np.ndarray, power: np.ndarray) -> Kind:
        """Return the kind of most of some images, by medians: a part of them may be junk."""
        ratio = cross / power
        mean = float(np.median(ratio))
        square = (_MAD * float(np.median(np.abs(ratio - mean)))) ** 2 - float(np.median(1 / power))
        return cls(mean, math.sqrt(max(square, 0.0)))

    @classmethod
    def upper(cls, cross: np.ndarray, power: np.ndarray, weights: np.ndarray) -> Kind:
        """Return the kind of weighted images, its spread by those above the mean: junk lies below."""
        mean = float((weights * cross).sum() / (weights * power).sum())
        above = weights * (cross > mean * power)
        square = float((above * ((cross - mean * power) ** 2 - power)).sum() / max((above * power**2).sum(), 1e-300))
        return cls(mean, math.sqrt(max(square, 0.0)))


_NOTHING = Kind(0.0, 0.1)  # no particle; latents find a little in noise


@dataclass(frozen=True)
class Mixture:
    """Kinds of images, those that fit first, and their shares."""

    kinds: tuple[Kind, ...]
    shares: np.ndarray

    @property
    def fitting(self) -> Kind:
        """The images that fit."""
        return self.kinds[0]

    @property
    def share(self) -> float:
        """How many of all images fit."""
        return float(self.shares[0])

    def log_odds(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """Return the logarithm of p(image fits) / p(it does not)."""
        joint = self._joint(cross, power)
        return joint[0] - logsumexp(joint[1:], axis=0)

    def probability(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """Return the probability that each image fits."""
        return np.exp(log_expit(self.log_odds(cross, power)))

    def lost(self, power: np.ndarray) -> float:
        """Return the share of images that fit, of given powers, which would be taken for others."""
        quantiles = np.random.default_rng(0).permutation(norm.ppf((np.arange(len(power)) + 0.5) / len(power)))
        drawn = self.fitting.mean * power + self.fitting.deviation(power) * quantiles
        return float((self.log_odds(drawn, power) < 0).mean())

    def improved(self, cross: np.ndarray, power: np.ndarray) -> Mixture:
        """Return the mixture after a step of expectation maximisation."""
        joint = self._joint(cross, power)
        weights = np.exp(joint - logsumexp(joint, axis=0))
        shares = (weights.sum(axis=1) + 1) / (len(cross) + len(weights))
        return Mixture((Kind.upper(cross, power, weights[0]), *self.kinds[1:]), shares)

    def _joint(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        densities = np.stack([kind.log_density(cross, power) for kind in self.kinds])
        return densities + np.log(self.shares)[:, None]


def fit_mixture(cross: np.ndarray, power: np.ndarray, control: tuple[np.ndarray, np.ndarray]) -> Mixture | None:
    """Tell images that fit from those that do not; None where there are too few, or the kinds cannot be told apart.

    They cannot where more than 2% of the images that fit would be taken for others: a small or round particle looks
    much the same in every pose, and a decoder that has not yet learned a motion fits rare conformations badly.

    Parameters
    ----------
    cross, power : (images,) float64
        ⟨w, v⟩ and ⟨v, κ*v⟩ of images in their own poses.
    control : pair of (controls,) float64
        The same of images in each other's poses.
    """
    if len(cross) < _FEWEST or len(control[0]) < _FEWEST:
        return None
    stranger = Kind.typical(*control)
    ratio = cross / power
    better = (ratio >= np.median(ratio)).astype(np.float64)  # most images fit, or there is nothing to find
    mixture = Mixture((Kind.upper(cross, power, better), stranger, _NOTHING), np.array([0.9, 0.05, 0.05]))
    for _ in range(_STEPS):
        mixture = mixture.improved(cross, power)
    is_told = mixture.fitting.mean > stranger.mean and mixture.share > _LEAST_SHARE
    return mixture if is_told and mixture.lost(power) <= _MOST_LOST else None
