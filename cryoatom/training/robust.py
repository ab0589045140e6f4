"""How much each image weighs: the probability that it shows the particle in its pose.

Of an image that fits its model v the likelihood knows ⟨w, v⟩ = a ⟨v, κ*v⟩ + noise of variance ⟨v, κ*v⟩, with a about 1.
In a wrong pose, or where there is no particle, a is smaller and scatters widely. How much is measured, on images that
are given each other's poses; how many images are of that kind, and how well the others fit, is estimated (EM).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from cryoatom.config import TrainConfig
from cryoatom.training.image_fits import ImageFits
from cryoatom.training.search_plan import RANDOM_STREAM, search_plan
from cryoatom.training.trainer import Trainer

CONTROLS = 1000  # images that are seen in each other's poses
_FEWEST = 50  # images that a mixture can be fitted to
_STEPS = 100
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """Images of one kind: ⟨w, v⟩ is normal about `mean` ⟨v, κ*v⟩, with variance ⟨v, κ*v⟩ + `spread`² ⟨v, κ*v⟩²."""

    mean: float
    spread: float

    def log_density(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """Return log p(⟨w, v⟩ | ⟨v, κ*v⟩)."""
        variance = power + (self.spread * power) ** 2
        return -0.5 * ((cross - self.mean * power) ** 2 / variance + np.log(2 * math.pi * variance))

    @classmethod
    def of(cls, cross: np.ndarray, power: np.ndarray, weights: np.ndarray) -> Kind:
        """Return the kind of weighted images, by their moments: the noise's own variance is known."""
        mean = float((weights * cross).sum() / (weights * power).sum())
        square = float((weights * ((cross - mean * power) ** 2 - power)).sum() / (weights * power**2).sum())
        return cls(mean, math.sqrt(max(square, 0.0)))


@dataclass(frozen=True)
class Mixture:
    """Images that fit, a share of all, and those that do not."""

    fitting: Kind
    other: Kind
    share: float

    def log_odds(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """Return the logarithm of p(image fits) / p(it does not)."""
        odds = math.log(self.share) - math.log1p(-self.share)
        return odds + self.fitting.log_density(cross, power) - self.other.log_density(cross, power)

    def probability(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """Return the probability that each image fits."""
        return 1 / (1 + np.exp(-np.clip(self.log_odds(cross, power), -500, 500)))


def fit_mixture(cross: np.ndarray, power: np.ndarray, control: tuple[np.ndarray, np.ndarray]) -> Mixture | None:
    """Tell images that fit from those that do not; None where there are too few, or both look the same.

    Parameters
    ----------
    cross, power : (images,) array
        ⟨w, v⟩ and ⟨v, κ*v⟩ of images in their own poses.
    control : pair of (controls,) array
        The same of images in each other's poses.
    """
    if len(cross) < _FEWEST or len(control[0]) < _FEWEST:
        return None
    other = Kind.of(*control, np.ones(len(control[0])))
    ratio = cross / power
    better = ratio >= np.median(ratio)  # most images fit, or there is nothing to find
    mixture = Mixture(Kind.of(cross[better], power[better], np.ones(int(better.sum()))), other, 0.9)
    for _ in range(_STEPS):
        weights = mixture.probability(cross, power)
        if weights.sum() < 1:
            return None
        share = (weights.sum() + 1) / (len(weights) + 2)
        mixture = Mixture(Kind.of(cross, power, weights), other, float(share))
    return mixture if mixture.fitting.mean > other.mean else None


def first_weighed(config: TrainConfig) -> int:
    """Return the epoch (from 0) before which images are first weighed: the decoder has learned the main motion.

    Until then an image of a rare conformation looks like one that does not fit.
    """
    plan = search_plan(config)
    return max(1, config.warmup, 0 if plan is None else plan.epochs + 1)


def keep_what_is_asked_for(config: TrainConfig, fits: ImageFits) -> None:
    """Let weights and scales of a checkpoint go where the options of this run have none."""
    if not config.robust:
        fits.weights.fill_(1.0)
    if config.scale != "group":
        fits.gains.fill_(1.0)


def weigh_images(config: TrainConfig, trainer: Trainer, rows: np.ndarray, epoch: int) -> None:
    """Set the weights of images and the scales of their groups by how well they fitted in the last epoch."""
    if config.robust:
        mixture = image_mixture(trainer, rows, epoch)
        if mixture is not None:
            probability = mixture.probability(*trainer.fits.of(rows))
            trainer.fits.weigh(rows, probability)
            _logger.info("%.1f%% of the images do not fit and weigh less", 100 * float((probability < 0.5).mean()))
    if config.scale == "group":
        trainer.fits.scale_groups(rows)


def image_mixture(trainer: Trainer, rows: np.ndarray, epoch: int) -> Mixture | None:
    """Tell the images that fit from the others; None where they cannot be told apart."""
    cross, power = trainer.fits.of(rows)
    if not np.isfinite(cross).all():
        return None
    generator = np.random.default_rng([trainer.seed, RANDOM_STREAM + 3, epoch])
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), CONTROLS)).astype(np.int64)]
    return fit_mixture(cross, power, trainer.compare(some, generator.permutation(some)))
