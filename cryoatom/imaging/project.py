"""Gaussian beads to a projection image (paper eq. 1), separably."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.fourier import pixel_coordinates

# exp(-40) is 4e-18, nothing beside a peak of 1; smaller values only send exp and the products into slow denormals.
_SMALLEST_EXPONENT = -40.0


class _Gaussians(torch.autograd.Function):
    """exp(coefficients @ basis), with the exponent kept off the denormal range."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, basis: Tensor) -> Tensor:
        values = (coefficients @ basis).clamp_min_(_SMALLEST_EXPONENT).exp_()
        ctx.save_for_backward(values, basis)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        values, basis = ctx.saved_tensors
        return (grads[0] * values) @ basis.T, None


def render(
    centers: Float[Tensor, "batch beads 2"],
    amplitudes: Float[Tensor, " beads"],
    variances: Float[Tensor, " beads"],
    side: int,
    pixel_size: float,
) -> Float[Tensor, "batch side side"]:
    """Sample v(q) = Σ_b a_b / (2π σ_b²) exp(-|q - p_b|² / 2σ_b²) at the pixel centres (paper eq. 1).

    The exponent is a quadratic in the pixel coordinate, so both axes are one matrix product with [q², q, 1]; the image
    is the product of the two axes, v = Gyᵀ Gx.

    Parameters
    ----------
    centers
        Projected bead centres (x, y), Å from the centre pixel.
    amplitudes
        a_b > 0, the integral of each bead.
    variances
        σ_b² in Å².
    side, pixel_size
        Of the image; the centre pixel is side // 2.
    """
    q = pixel_coordinates(side, pixel_size, device=centers.device, dtype=centers.dtype)
    basis = torch.stack([q * q, q, torch.ones_like(q)])
    precision = 1 / variances
    linear = centers * precision[:, None]
    constant = -0.5 * centers * linear
    quadratic = (-0.5 * precision)[None, :].expand(centers.shape[:2])
    peak = amplitudes * precision / (2 * torch.pi)
    gaussian_x = _Gaussians.apply(torch.stack([quadratic, linear[..., 0], constant[..., 0]], dim=-1), basis)
    gaussian_y = _Gaussians.apply(torch.stack([quadratic, linear[..., 1], constant[..., 1]], dim=-1), basis)
    return torch.bmm((gaussian_y * peak[:, None]).mT, gaussian_x)
