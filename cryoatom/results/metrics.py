"""Distances between many structures: RMSD matrices, earth mover's distance, the best static structure, ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from cryoatom.results.transport import optimal_pairing

PAIRS_AT_ONCE = 2**18
NEWTON_STEPS = 8
CONVERGED_STEP = 1e-11
CLEAR_SLOPE = 1e-4


@dataclass(frozen=True)
class Pairing:
    """The optimal pairing of images with frames.

    Parameters
    ----------
    frames : (images,) int64
        The frame that each image is paired with.
    rmsds : (images,) float64
        Å.
    """

    frames: np.ndarray
    rmsds: np.ndarray

    @property
    def emd_rmsd(self) -> float:
        """The earth mover's distance, Å."""
        return float(self.rmsds.mean())


def rmsd_matrix(
    first: Float[Tensor, "images residues 3"], second: Float[Tensor, "frames residues 3"]
) -> Float[Tensor, "images frames"]:
    """Return the RMSD of every pair of structures, the minimum over rigid motions.

    RMSD² = (|a|² + |b|² - 2λ) / residues for centred a and b, with λ the largest root of the characteristic polynomial
    of Horn's key matrix (Theobald, Acta Cryst. A61 (2005) 478), here by Newton's method in float64.

    Parameters
    ----------
    first, second : (images, residues, 3), (frames, residues, 3)
        Å.

    Returns
    -------
    (images, frames) float64
        Å; identical structures give about 1e-6 Å, as the square root of a rounding error.
    """
    a, b = _centred_axes(first), _centred_axes(second)
    norms_a, norms_b = a.square().sum(dim=(0, 2)), b.square().sum(dim=(0, 2))
    result = a.new_empty(a.shape[1], b.shape[1])
    rows = max(1, PAIRS_AT_ONCE // max(1, b.shape[1]))
    for block in (slice(start, start + rows) for start in range(0, len(result), rows)):
        scale = (norms_a[block, None] + norms_b) / 2
        covariance = torch.stack([torch.stack([a[i, block] @ b[j].mT for j in range(3)]) for i in range(3)])
        covariance /= scale.clamp_min(torch.finfo(scale.dtype).tiny)
        squared = 2 * scale * (1 - _largest_root(covariance)) / a.shape[2]
        result[block] = squared.clamp_min(0).sqrt()
    return result


def emd_rmsd(matrix: np.ndarray, counts: np.ndarray) -> Pairing:
    """Pair images with frames for the least mean RMSD: the earth mover's distance of Prins et al., appendix G.

    Parameters
    ----------
    matrix : (images, frames) float64
        RMSDs, Å.
    counts : (frames,) int64
        How often each frame occurs; adds up to the number of images.
    """
    frames = optimal_pairing(matrix, counts)
    return Pairing(frames, matrix[np.arange(len(matrix)), frames])


def principal_axis(values: Float[Tensor, "images features"]) -> tuple[Float[Tensor, " features"], Tensor]:
    """Return the mean and the unit vector of the largest variance."""
    mean = values.mean(dim=0)
    return mean, torch.linalg.svd(values - mean, full_matrices=False)[2][0]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Spearman's rank correlation, None where one of the two is constant."""
    ranks = np.stack([rankdata(first), rankdata(second)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1))
    return float(ranks[0] @ ranks[1] / norms.prod()) if norms.all() else None


def _centred_axes(structures: Float[Tensor, "n residues 3"]) -> Float[Tensor, "3 n residues"]:
    structures = structures.double()
    return (structures - structures.mean(dim=1, keepdim=True)).permute(2, 0, 1).contiguous()


def _largest_root(covariance: Float[Tensor, "3 3 *pairs"]) -> Float[Tensor, "*pairs"]:
    """Return σ1 + σ2 ± σ3, the sign that of the determinant, for covariances scaled so that it is at most 1.

    With S the covariance and e its matrix of cofactors, the polynomial is
    x⁴ - 2|S|² x² - 8 det(S) x + |S|⁴ - 4|e|². Where two roots (nearly) coincide, as for collinear points, Newton's
    method loses digits: those pairs go through singular values.
    """
    cofactors = torch.stack([torch.linalg.cross(covariance[i - 2], covariance[i - 1], dim=0) for i in range(3)])
    determinant = (covariance[0] * cofactors[0]).sum(dim=0)
    square = covariance.square().sum(dim=(0, 1))
    constant = square.square() - 4 * cofactors.square().sum(dim=(0, 1))
    root = (3 * square).sqrt().clamp_max(1)
    step = slope = root
    for _ in range(NEWTON_STEPS):
        slope = 4 * (root * (root.square() - square) - 2 * determinant)
        step = (((root.square() - 2 * square) * root - 8 * determinant) * root + constant) / slope
        root = root - step
    is_unclear = ~((step.abs() < CONVERGED_STEP) & (slope > CLEAR_SLOPE))
    if is_unclear.any():
        values = torch.linalg.svdvals(covariance[..., is_unclear].permute(2, 0, 1))
        signs = torch.where(determinant[is_unclear] < 0, -1.0, 1.0)
        root[is_unclear] = values[:, 0] + values[:, 1] + signs * values[:, 2]
    return root
