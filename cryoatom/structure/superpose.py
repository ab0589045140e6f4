"""Least-squares superposition (Kabsch), batched over any leading dimensions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

PROCRUSTES_TOLERANCE = 1e-6
PROCRUSTES_STEPS = 200


def kabsch(
    mobile: Float[Tensor, "... points 3"], target: Float[Tensor, "... points 3"]
) -> tuple[Float[Tensor, "... 3 3"], Float[Tensor, "... 3"]]:
    """Find the rigid motion that takes `mobile` onto `target` with the least mean square deviation.

    target ≈ mobile @ rotation.mT + translation. Kabsch, Acta Cryst. A32 (1976) 922. The computation runs in float64;
    the results carry no gradient, since at the optimum the deviation does not depend on the motion to first order.

    Parameters
    ----------
    mobile, target : (..., points, 3)
        Å; leading dimensions broadcast.

    Returns
    -------
    rotation : (..., 3, 3)
        Proper, det +1, also for collinear or identical points, where the best rotation is not unique.
    translation : (..., 3)
    """
    source, goal = torch.broadcast_tensors(mobile.detach().double(), target.detach().double())
    source_center, goal_center = source.mean(dim=-2), goal.mean(dim=-2)
    covariance = (goal - goal_center[..., None, :]).mT @ (source - source_center[..., None, :])
    left, _, right = torch.linalg.svd(covariance)
    signs = torch.ones_like(goal_center)
    signs[..., 2] = torch.linalg.det(left) * torch.linalg.det(right)
    rotation = (left * signs[..., None, :].round()) @ right
    translation = goal_center - (rotation @ source_center[..., None])[..., 0]
    return rotation.to(mobile.dtype), translation.to(mobile.dtype)


def transform(
    positions: Float[Tensor, "... points 3"],
    rotation: Float[Tensor, "... 3 3"],
    translation: Float[Tensor, "... 3"],
) -> Float[Tensor, "... points 3"]:
    """Apply rigid motions, rotation first."""
    return positions @ rotation.mT + translation[..., None, :]


def superpose(
    mobile: Float[Tensor, "... points 3"], target: Float[Tensor, "... points 3"]
) -> Float[Tensor, "... points 3"]:
    """Move `mobile` onto `target` by the best rigid motion."""
    return transform(mobile, *kabsch(mobile, target))


def rmsd(
    mobile: Float[Tensor, "... points 3"], target: Float[Tensor, "... points 3"], *, align: bool = True
) -> Float[Tensor, " *batch"]:
    """Return the root mean square deviation in Å, by default the minimum over rigid motions."""
    moved = superpose(mobile, target) if align else mobile
    return (moved - target).square().sum(dim=-1).mean(dim=-1).sqrt()


def procrustes_mean(
    structures: Float[Tensor, "frames residues 3"], weights: Float[Tensor, " frames"]
) -> Float[Tensor, "residues 3"]:
    """Return the static structure of least weighted mean square RMSD (generalized Procrustes analysis).

    Parameters
    ----------
    structures : (frames, residues, 3)
        Å.
    weights : (frames,)
        Non-negative; need not add up to 1.

    Returns
    -------
    (residues, 3) float64
        Superposed on the structure of the largest weight.
    """
    shares = (weights / weights.sum()).double()[:, None, None]
    structures = structures.double()
    mean = structures[int(weights.argmax())]
    for _ in range(PROCRUSTES_STEPS):
        previous, mean = mean, (shares * superpose(structures, mean)).sum(dim=0)
        if (mean - previous).square().sum(dim=1).mean().sqrt() < PROCRUSTES_TOLERANCE:
            break
    return mean
