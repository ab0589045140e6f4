"""How far predictions are from the frames that they should be, split into bias and scatter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.results.predictions import Predictions
from cryoatom.structure.superpose import rmsd, superpose


@dataclass(frozen=True)
class Deviations:
    """Deviations of predictions from their true frames, Å; root mean squares where not said otherwise.

    Parameters
    ----------
    rmsd, rmsd_unaligned : (images,) float64
    frame_rmsd, frame_bias, frame_scatter : (frames,) float64
        Mean RMSD, bias and scatter of each frame's predictions; NaN for frames without images.
    residue_deviation, residue_bias, residue_scatter : (residues,) float64
    """

    rmsd: np.ndarray
    rmsd_unaligned: np.ndarray
    frame_rmsd: np.ndarray
    frame_bias: np.ndarray
    frame_scatter: np.ndarray
    residue_deviation: np.ndarray
    residue_bias: np.ndarray
    residue_scatter: np.ndarray


def measure_deviations(
    predictions: Predictions, frames: Float[Tensor, "frames residues 3"], labels: np.ndarray
) -> Deviations:
    """Superpose every prediction on its true frame and collect the deviations.

    Bias is the deviation of the mean of a frame's superposed predictions, scatter that of the predictions from their
    mean, so that bias² + scatter² = deviation², for every frame and for every residue.

    Parameters
    ----------
    predictions : Predictions
    frames : (frames, residues, 3) float64
        Å.
    labels : (images,) int64
        The true frame of each image.
    """
    index = torch.from_numpy(labels)
    aligned, unaligned = torch.empty(len(labels)).double(), torch.empty(len(labels)).double()
    total, squares = torch.zeros_like(frames), torch.zeros_like(frames[..., 0])
    for rows, block in predictions.chunks():
        target = frames[index[rows]]
        difference = superpose(block, target) - target
        square = difference.square().sum(dim=-1)
        aligned[rows] = square.mean(dim=-1).sqrt()
        unaligned[rows] = rmsd(block, target, align=False)
        total.index_add_(0, index[rows], difference)
        squares.index_add_(0, index[rows], square)
    counts = torch.bincount(index, minlength=len(frames)).double()
    weights = counts / counts.sum()
    bias = (total / counts.clamp_min(1)[:, None, None]).square().sum(dim=-1)
    deviation = squares / counts.clamp_min(1)[:, None]
    scatter = (deviation - bias).clamp_min(0)
    rmsds = torch.zeros_like(counts).index_add_(0, index, aligned) / counts
    is_empty = counts == 0
    return Deviations(
        rmsd=aligned.numpy(),
        rmsd_unaligned=unaligned.numpy(),
        frame_rmsd=rmsds.numpy(),
        frame_bias=_root(bias.mean(dim=1)).masked_fill(is_empty, torch.nan).numpy(),
        frame_scatter=_root(scatter.mean(dim=1)).masked_fill(is_empty, torch.nan).numpy(),
        residue_deviation=_root(weights @ deviation).numpy(),
        residue_bias=_root(weights @ bias).numpy(),
        residue_scatter=_root(weights @ scatter).numpy(),
    )


def static_deviations(
    structure: Float[Tensor, "residues 3"],
    frames: Float[Tensor, "frames residues 3"],
    weights: Float[Tensor, " frames"],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the RMSD of one structure to each frame, and its root mean square deviation for each residue, Å."""
    square = (superpose(structure, frames) - frames).square().sum(dim=-1)
    return square.mean(dim=1).sqrt().numpy(), _root((weights / weights.sum()) @ square).numpy()


def _root(square: Tensor) -> Tensor:
    return square.clamp_min(0).sqrt()
