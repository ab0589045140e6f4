"""Ellipsoidal support lifting: the best rotation of an image becomes a small measure on the rotations of a grid.

The weights of an image with costs F_g, g = 1..n, solve min <F, b> + s/2 |b|² over b >= 0, sum b = 1, and s follows from
the order statistics of the costs, so adding a constant to the costs or scaling them changes nothing: no noise level
enters. Diepeveen, Lellmann, Öktem, Schönlieb, SIAM J. Imaging Sci. 16 (2023), arXiv 2209.03045; as a training loss:
arXiv 2602.21915.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryoatom.rotations import (
    exp_rotation,
    log_rotation,
    quaternions_from_rotations,
    rotation_angle,
    rotations_from_quaternions,
)

Order = Literal["next", "last"]

# On 14761 rotations the support of a quadratic cost reaches 16° from its heaviest rotation (20° at most, 28° if the
# cost is six times stiffer about one axis), so weight outside the ball is a second mode or a stray rotation. A two-fold
# symmetry puts 0.50 ± 0.04 outside; one stray rotation has 0.19 on average at rank 2 and less at each later rank.
_MULTIMODAL_WEIGHT = 0.2
_MEAN_ITERATIONS = 50


class Support(NamedTuple):
    """Where the weights of an image are.

    Parameters
    ----------
    indices : (*batch, kept)
        Places in the costs, from the cheapest on.
    weights : (*batch, kept)
        Non-negative, non-increasing, summing to one; all other places have weight zero.
    """

    indices: Int[Tensor, "*batch kept"]
    weights: Float[Tensor, "*batch kept"]


def esl_weights(
    costs: Float[Tensor, "*batch costs"],
    grid_size: int | None = None,
    *,
    support: int = 15,
    eta: float = 2 / 3,
    order: Order = "next",
) -> Support:
    """Spread each image over its cheapest rotations.

    Differentiable in the costs; :func:`expected_cost` decides whether that gradient is used. Costs that all equal the
    smallest share the weight evenly, as far as they are among those returned.

    Parameters
    ----------
    costs : (*batch, costs)
        Finite costs of the whole grid, or a shortlist of at least :func:`shortlist_size` that has the smallest ones.
        A constant per image may be left out, which helps float32.
    grid_size
        Number of rotations of the whole grid; by default the number of costs.
    support
        J0, the number of rotations aimed at; about two thirds of them get a weight at eta = 2/3.
    eta
        In [1/4, 2/3]: how fast the measure shrinks as the grid gets finer. At 2/3 the grid's size does not matter.
    order
        As in :func:`temperature`.

    Returns
    -------
    Support
        Of length :func:`shortlist_size`; the indices point into `costs`.

    Raises
    ------
    ValueError
        If a setting is out of its range, or there are fewer costs than needed or more than rotations.
    """
    count = costs.shape[-1] if grid_size is None else grid_size
    kept = shortlist_size(count, support=support, eta=eta)
    if not kept <= costs.shape[-1] <= count:
        raise ValueError(f"expected between {kept} and {count} costs for a grid of {count}, found {costs.shape[-1]}")
    lowest, indices = torch.topk(costs, kept, dim=-1, largest=False, sorted=True)
    lowest = lowest - lowest[..., :1]  # exact for costs close together, so that later sums cancel nothing
    strength = temperature(lowest, count, support=support, eta=eta, order=order)
    return Support(indices, water_fill(lowest, strength))


def shortlist_size(grid_size: int, *, support: int = 15, eta: float = 2 / 3) -> int:
    """Return J + 1, the number of smallest costs that determine the weights.

    J = min(floor(J0 n^((2 - 3 eta)/5)), n - 1).

    Raises
    ------
    ValueError
        If `grid_size` < 2, `support` < 1, or `eta` is outside [1/4, 2/3].
    """
    return min(int(_aimed_support(grid_size, support, eta)), grid_size - 1) + 1


def temperature(
    lowest: Float[Tensor, "*batch kept"],
    grid_size: int,
    *,
    support: int = 15,
    eta: float = 2 / 3,
    order: Order = "next",
) -> Float[Tensor, "*batch"]:
    """Return s = lambda / n^eta = ½ J0 n^((2 - 3 eta)/5) (F_ref - mean of F_(1..J)) >= 0 of each image.

    Parameters
    ----------
    lowest : (*batch, kept)
        The :func:`shortlist_size` smallest costs, sorted.
    grid_size, support, eta
        As in :func:`esl_weights`.
    order
        The reference cost. ``next``: F_(J+1), Diepeveen et al., at most J weights are positive; ``last``: F_(J), the
        code of arXiv 2602.21915, at most J - 1 (for J >= 2). At eta = 2/3, ``last`` is ``next`` with J0 - 1.
    """
    reference = lowest[..., -1 if order == "next" else -2]
    gap = reference - lowest[..., :-1].mean(dim=-1)
    # among ties the gap is rounding noise, and a negative one would choose the worst rotations
    return 0.5 * _aimed_support(grid_size, support, eta) * gap.clamp_min(0)


def water_fill(lowest: Float[Tensor, "*batch kept"], strength: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch kept"]:
    """Minimise <F, b> + s/2 |b|² over the probability vectors b.

    b = max(0, tau - F) / s where tau, the water level, makes b sum to one; for s = 0, the limit of equal weights for
    all smallest costs.

    Parameters
    ----------
    lowest : (*batch, kept)
        Sorted costs whose first is zero.
    strength : (*batch,)
        s >= 0.
    """
    is_unique = (strength > 0)[..., None]
    strength = torch.where(is_unique, strength[..., None], 1.0)
    ranks = torch.arange(1, lowest.shape[-1] + 1, dtype=lowest.dtype, device=lowest.device)
    total = lowest.cumsum(dim=-1)
    used = (ranks * lowest - total < strength).sum(dim=-1, keepdim=True).clamp_min(1)
    level = (strength + total.gather(-1, used - 1)) / used
    tied = (lowest == 0).to(lowest.dtype)
    # relu, whose gradient at zero is zero, for a cost exactly at the water level
    return torch.where(is_unique, torch.relu(level - lowest) / strength, tied / tied.sum(dim=-1, keepdim=True))


def expected_cost(
    weights: Float[Tensor, "*batch kept"], costs: Float[Tensor, "*batch kept"], *, attached: bool = False
) -> Float[Tensor, "*batch"]:
    """Return sum_g b_g F_g, the cost expected under the measure of each image.

    Parameters
    ----------
    weights : (*batch, kept)
        From :func:`esl_weights`.
    costs : (*batch, kept)
        At the same rotations: ``costs.gather(-1, indices)``.
    attached
        If false, the gradient in the costs is the weights: that of the minimum that defines them, at a fixed
        temperature. If true, the weights pass on their own gradient as in the code of arXiv 2602.21915, which pushes
        some rotations of the support to higher costs.
    """
    return ((weights if attached else weights.detach()) * costs).sum(dim=-1)


@torch.no_grad()
def barycenter(
    rotations: Float[Tensor, "*batch kept 3 3"],
    weights: Float[Tensor, "*batch kept"],
    *,
    mode_radius: float = math.radians(40),
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
    """Average the rotations of a measure near its heaviest rotation.

    The Karcher mean: R <- R exp(sum_g b_g log(Rᵀ R_g)), from the heaviest rotation, until the step vanishes. Rotations
    further than `mode_radius` from the heaviest are left out, since between equivalent rotations of a symmetric
    molecule a mean says nothing. No gradient.

    Parameters
    ----------
    rotations : (*batch, kept, 3, 3)
    weights : (*batch, kept)
        Non-negative, not all zero.
    mode_radius
        Radians; pi leaves nothing out. The mean is unique if what is left lies in a ball of radius below 90°.

    Returns
    -------
    mean : (*batch, 3, 3)
    spread : (*batch,)
        Radians: the root of the weighted mean squared angle to the mean, over the whole measure, so that it is large
        if rotations were left out.
    is_multimodal : (*batch,)
        Whether more than a fifth of the weight was left out.
    """
    weights = weights / weights.sum(dim=-1, keepdim=True)
    heaviest = weights.argmax(dim=-1)[..., None, None, None].expand(*weights.shape[:-1], 1, 3, 3)
    center = rotations.gather(-3, heaviest)
    is_inside = rotation_angle(center, rotations) <= mode_radius
    inside = torch.where(is_inside, weights, 0.0)
    mass = inside.sum(dim=-1)
    mean = _karcher_mean(rotations, inside / mass[..., None], center)
    spread = (weights * rotation_angle(mean, rotations).square()).sum(dim=-1).sqrt()
    return mean[..., 0, :, :], spread, 1 - mass > _MULTIMODAL_WEIGHT


def _karcher_mean(
    rotations: Float[Tensor, "*batch kept 3 3"],
    weights: Float[Tensor, "*batch kept"],
    start: Float[Tensor, "*batch 1 3 3"],
) -> Float[Tensor, "*batch 1 3 3"]:
    """Iterate all means at once; an absolute tolerance also stops where the first step is zero."""
    mean = start
    tolerance = 16 * torch.finfo(rotations.dtype).eps
    for _ in range(_MEAN_ITERATIONS):
        step = (weights[..., None] * log_rotation(mean.mT @ rotations)).sum(dim=-2, keepdim=True)
        mean = rotations_from_quaternions(quaternions_from_rotations(mean @ exp_rotation(step)))
        if (torch.linalg.vector_norm(step, dim=-1) <= tolerance).all():
            break
    return mean


def _aimed_support(grid_size: int, support: int, eta: float) -> float:
    """Return J0 n^((2 - 3 eta)/5) after checking the settings."""
    if grid_size < 2:
        raise ValueError(f"a grid needs at least 2 rotations, found {grid_size}")
    if support < 1:
        raise ValueError(f"support must be at least 1, found {support}")
    if not 1 / 4 <= eta <= 2 / 3:
        raise ValueError(f"eta must lie in [1/4, 2/3], found {eta}; write two thirds as 2/3")
    return support * grid_size ** ((2 - 3 * eta) / 5)
