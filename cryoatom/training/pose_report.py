"""What is uncertain about estimated poses: written image by image, and said in a few lines."""

from __future__ import annotations

import csv
import logging

import numpy as np
import torch

from cryoatom.files.replacing import replacing
from cryoatom.rotations import rotation_angle
from cryoatom.run_folder import RunFolder
from cryoatom.structure.hand import hand_of
from cryoatom.structure.template import Template
from cryoatom.training.orientation import Orientation
from cryoatom.training.pose_table import PoseTable

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
            hand.counts,
        )


def report_poses(orientation: Orientation, poses: PoseTable, folder: RunFolder, epoch: int) -> None:
    """Search all images once more, write poses.csv and say what is uncertain.

    Its columns: image (from 0), difference_deg of that search and the final pose, spread_deg of the ESL measure,
    has_rival (a pose more than 40° away explains the image nearly as well, by 3 nats), gain_nats of the best pose over
    no particle, is_empty (gains no more than the negatives of images do).
    """
    found, negatives = orientation.assess(epoch)
    gain = -found.costs.double().numpy()
    is_empty = gain < np.quantile(-negatives.double().numpy(), _EMPTY_QUANTILE)
    has_rival = found.has_rival.numpy() & ~is_empty
    spread = torch.rad2deg(found.spread).numpy()
    difference = torch.rad2deg(rotation_angle(found.rotations.float(), poses.rotations)).numpy()
    with replacing(folder.pose_report) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "difference_deg", "spread_deg", "has_rival", "gain_nats", "is_empty"])
        for image in range(len(gain)):
            figures = f"{difference[image]:.2f}", f"{spread[image]:.2f}", int(has_rival[image]), f"{gain[image]:.2f}"
            writer.writerow([image, *figures, int(is_empty[image])])
    _say(is_empty, "gain no more from the model than their negatives do: they may hold no particle", folder)
    _say(has_rival, "fit a second pose, far from the first, nearly as well", folder)


def _say(which: np.ndarray, what: str, folder: RunFolder) -> None:
    share = float(which.mean())
    level = logging.WARNING if share > _MANY else logging.INFO
    _logger.log(
        level, "%d of %d images (%.1f%%) %s (%s)", which.sum(), len(which), 100 * share, what, folder.pose_report
    )
