"""How much each image weighs: the probability that it shows the particle in its pose."""

from __future__ import annotations

import logging

import numpy as np

from cryoatom.particles.rows import spaced_rows
from cryoatom.train_config import TrainConfig
from cryoatom.training.image_fits import ImageFits
from cryoatom.training.mixture import Mixture, fit_mixture
from cryoatom.training.search_plan import RANDOM_STREAM, search_plan
from cryoatom.training.trainer import Trainer

CONTROLS = 1000  # images that are seen in each other's poses
_logger = logging.getLogger(__name__)


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
        fits = np.ones(len(rows)) if mixture is None else mixture.probability(*trainer.fits.of(rows))
        trainer.fits.weigh(rows, fits)
        if mixture is None:
            _logger.info("images that fit cannot be told from others: all weigh alike")
        else:
            _logger.info("%.1f%% of the images do not fit and weigh less", 100 * float((fits < 0.5).mean()))
    if config.scale == "group":
        trainer.fits.scale_groups(rows)


def image_mixture(trainer: Trainer, rows: np.ndarray, epoch: int) -> Mixture | None:
    """Tell the images that fit from the others; None where they cannot be told apart."""
    cross, power = trainer.fits.of(rows)
    if not np.isfinite(cross).all():
        return None
    generator = np.random.default_rng([trainer.seed, RANDOM_STREAM + 3, epoch])
    some = rows[spaced_rows(len(rows), CONTROLS)]
    return fit_mixture(cross, power, trainer.compare(some, generator.permutation(some)))
