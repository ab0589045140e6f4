"""What is uncertain about estimated poses: written image by image, and said in a few lines."""

from __future__ import annotations

import csv
import logging

import numpy as np
import torch

from cryoatom.files.replacing import replacing
from cryoatom.run_folder import RunFolder
from cryoatom.structure.hand import hand_of
from cryoatom.structure.template import Template
from cryoatom.training.orientation import Orientation

_EMPTY_QUANTILE = 0.99  # of what negatives gain: an image that gains less shows nothing
_MANY = 0.05  # share of images that is worth a warning
_logger = logging.getLogger(__name__)


def check_hand(template: Template) -> None:
    """Warn of a mirrored template: seen in mirrored poses it explains every image as well as the right one."""
    hand = hand_of(template)
    if hand.hand == "mirrored":
        _logger.warning(
            "wrong hand: the template is the mirror image of a protein (%s). Images cannot tell the hand, so every "
            "conformation will be mirrored too; start from a template of the right hand",
            hand,
        )


def report_poses(orientation: Orientation, folder: RunFolder, epoch: int) -> None:
    """Search all images once more, write poses.csv and say what is uncertain.

    Its columns: image (from 1), spread_deg of the ESL measure, is_bimodal, gain_nats of the best pose over no
    particle, is_empty (gains no more than negatives of images do).
    """
    found, negatives = orientation.assess(epoch)
    gain = -found.costs.double().numpy()
    is_empty = gain < np.quantile(-negatives.double().numpy(), _EMPTY_QUANTILE)
    is_bimodal = found.is_multimodal.numpy() & ~is_empty
    spread = torch.rad2deg(found.spread).numpy()
    with replacing(folder.pose_report) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "spread_deg", "is_bimodal", "gain_nats", "is_empty"])
        for row in zip(range(1, len(gain) + 1), spread, is_bimodal, gain, is_empty, strict=True):
            image, degrees, bimodal, nats, empty = row
            writer.writerow([image, f"{degrees:.2f}", int(bimodal), f"{nats:.2f}", int(empty)])
    _say(is_empty, "gain no more from the model than their negatives do: they may hold no particle", folder)
    _say(is_bimodal, "fit two poses far apart nearly equally well", folder)


def _say(which: np.ndarray, what: str, folder: RunFolder) -> None:
    share = float(which.mean())
    level = logging.WARNING if share > _MANY else logging.INFO
    _logger.log(
        level, "%d of %d images (%.1f%%) %s (%s)", which.sum(), len(which), 100 * share, what, folder.pose_report
    )
