"""What each image is worth: how well it fits, whether it may be junk, and the rows that a next run should keep."""

from __future__ import annotations

import csv
import logging

import numpy as np

from cryoatom.files.replacing import replacing
from cryoatom.files.rows import read_rows
from cryoatom.records import Particles
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.robust import image_mixture
from cryoatom.training.trainer import Trainer
from cryoatom.training.uncertainty import ImageUncertainty

_JUNK = 0.05  # an image is called junk where it fits with less probability: in doubt it stays
_OUTLIER = 8.0  # deviations of an image's power from that of the others
_MANY = 0.05  # share of images that is worth a warning
_logger = logging.getLogger(__name__)


def report_images(
    config: TrainConfig,
    folder: RunFolder,
    particles: Particles,
    trainer: Trainer,
    fits: np.ndarray,
    uncertainty: ImageUncertainty | None = None,
) -> None:
    """Write images.csv and good.npy, and say in a few lines what is wrong with how many images.

    `fits` is :func:`fitting_probability`.

    The columns of images.csv: image (from 0), name, uid (of cryoSPARC, where there is one), gain_nats (how much better
    the model explains the image than nothing does), scale (of the image relative to the model), fits (probability that
    it shows the particle in its pose), is_junk (less than 5%), power_excess (of the image's power, in deviations of
    the others'), is_outlier (more than 8 of them), is_dead (could not be used). With the uncertainty also sd (of the
    conformation, r.m.s. over residues, Å), information_nats (that the image has of it), is_uninformative (it narrows
    the conformation down by less than a tenth), and for estimated poses pose_sd_deg and shift_sd (Å). good.npy has the
    rows, in the particle file, of images that are neither junk nor dead: for `--ind`.
    """
    everything = np.arange(len(particles))
    is_dead, excess = trainer.data.is_dead, trainer.data.power_excess
    cross, power = trainer.fits.of(everything)
    is_junk, is_outlier = fits < _JUNK, np.abs(excess) > _OUTLIER
    with np.errstate(divide="ignore", invalid="ignore"):
        gain, scale = cross - 0.5 * power, cross / power
    columns = {
        "image": everything,
        "name": particles.image_names,
        **({} if particles.uids is None else {"uid": particles.uids}),
        "gain_nats": [f"{value:.2f}" for value in gain],
        "scale": [f"{value:.3f}" for value in scale],
        "fits": [f"{value:.4f}" for value in fits],
        "is_junk": is_junk.astype(int),
        "power_excess": [f"{value:.1f}" for value in excess],
        "is_outlier": is_outlier.astype(int),
        "is_dead": is_dead.astype(int),
        **({} if uncertainty is None else _uncertainty_columns(uncertainty)),
    }
    with replacing(folder.image_report) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    rows = everything if config.ind is None else read_rows(config.ind)
    folder.save_array(folder.good_rows, rows[~is_junk])
    _say(is_junk & ~is_dead, "do not fit: junk, or wrongly posed", folder)
    if uncertainty is not None:
        _say(uncertainty.is_uninformative & ~is_junk, "carry next to no information on their conformation", folder)
    _say(is_outlier & ~is_dead, "are outliers in power: ice, carbon, hot pixels", folder)


def fitting_probability(config: TrainConfig, trainer: Trainer) -> np.ndarray:
    """Return the probability that each image shows the particle in its pose: 1 where none is told, 0 of dead ones."""
    alive = np.flatnonzero(~trainer.data.is_dead)
    probability = np.zeros(len(trainer.data))
    mixture = image_mixture(trainer, alive, config.num_epochs)
    probability[alive] = 1.0 if mixture is None else mixture.probability(*trainer.fits.of(alive))
    return probability


def _uncertainty_columns(uncertainty: ImageUncertainty) -> dict[str, list[str] | np.ndarray]:
    columns: dict[str, list[str] | np.ndarray] = {
        "sd": [f"{value:.3f}" for value in uncertainty.sd],
        "information_nats": [f"{value:.2f}" for value in uncertainty.information],
        "is_uninformative": uncertainty.is_uninformative.astype(int),
    }
    if uncertainty.angle_deg is not None and uncertainty.shift is not None:
        columns["pose_sd_deg"] = [f"{value:.2f}" for value in uncertainty.angle_deg]
        columns["shift_sd"] = [f"{value:.3f}" for value in uncertainty.shift]
    return columns


def _say(which: np.ndarray, what: str, folder: RunFolder) -> None:
    level = logging.WARNING if which.mean() > _MANY else logging.INFO
    if which.any():
        share, report = 100 * which.mean(), folder.image_report
        _logger.log(level, "%d of %d images (%.1f%%) %s (%s)", which.sum(), len(which), share, what, report)
