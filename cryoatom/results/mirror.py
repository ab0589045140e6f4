"""Whether a reconstruction is the truth or its mirror image, which no image tells."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.results.evaluation import HandErrors
from cryoatom.results.metrics import rmsd_matrix
from cryoatom.results.poses import PosePairs, pose_errors
from cryoatom.results.predictions import Predictions
from cryoatom.structure.hand import Hand, helix_hand
from cryoatom.structure.superpose import rmsd

HAND_IMAGES = 1000


def compare_hands(
    predictions: Predictions,
    frames: Float[Tensor, "frames residues 3"],
    labels: np.ndarray | None,
    poses: PosePairs | None,
    *,
    seed: int = 0,
) -> HandErrors:
    """Superpose predictions on the truth and on its mirror image, by proper rotations.

    Parameters
    ----------
    predictions : Predictions
    frames : (frames, residues, 3) float64
        True conformations, Å.
    labels : (images,) int64 or None
        The true frame of each image; without them the nearest one is taken.
    poses : PosePairs or None
    seed : int
        For the choice of at most 1000 images.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(predictions))[:HAND_IMAGES])
    right, mirrored = _mean_rmsd(predictions, frames, labels, rows), _mean_rmsd(predictions, -frames, labels, rows)
    angle = None
    if poses is not None and labels is not None:
        angle = float(np.median(pose_errors(predictions, -frames, labels, poses.mirrored(), rows)[0]))
    return HandErrors(
        images=len(rows),
        rmsd=right,
        rmsd_mirrored=mirrored,
        pose_error_deg_mirrored=angle,
        helices=_helices(predictions, rows),
    )


def _mean_rmsd(
    predictions: Predictions, frames: Float[Tensor, "frames residues 3"], labels: np.ndarray | None, rows: np.ndarray
) -> float:
    rmsds = [
        rmsd_matrix(block, frames).amin(dim=1)
        if labels is None
        else rmsd(block, frames[torch.from_numpy(labels[some])])
        for some, block in predictions.chunks_of(rows)
    ]
    return float(torch.cat(rmsds).mean())


def _helices(predictions: Predictions, rows: np.ndarray) -> Hand:
    """Count the turns of helix of all predictions together, where the template's residues are bonded."""
    bonded = predictions.template.bonded
    hands = [helix_hand(block.numpy(), bonded) for _, block in predictions.chunks_of(rows)]
    return Hand(sum(hand.right for hand in hands), sum(hand.wrong for hand in hands), "helices")
