"""Gaussian beads to a projection image (paper eq. 1), separably: as defined, and only where a bead is not zero."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.fourier import pixel_coordinates

# exp(-40) is 4e-18, nothing beside a peak of 1; smaller values only send exp and the products into slow denormals.
_SMALLEST_EXPONENT = -40.0
_REACH = 4.5  # standard deviations of a bead that a strip holds
_GROUP = 48  # beads that share a strip
_BLOCKS = range(48, 23, -1)  # pixels that share an origin, the first that divides an axis


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
        weighted = torch.mul(values, grads[0])  # in this order: the product is laid out like `values`, for one plain mm
        return (weighted.flatten(0, -2) @ basis.T).unflatten(0, values.shape[:-1]), None


def render_dense(
    centers: Float[Tensor, "batch beads 2"],
    amplitudes: Float[Tensor, " beads"],
    variances: Float[Tensor, " beads"],
    side: int,
    pixel_size: float,
) -> Float[Tensor, "batch side side"]:
    """Sample v(q) = Σ_b a_b / (2π σ_b²) exp(-|q - p_b|² / 2σ_b²) at the pixel centres (paper eq. 1).

    Every bead is evaluated at every pixel, as the product of its two axes: v = Gyᵀ Gx.

    Parameters
    ----------
    centers
        Projected bead centres (x, y), Å from the centre pixel.
    amplitudes
        a_b, the integral of each bead.
    variances
        σ_b² in Å².
    side, pixel_size
        Of the image; the centre pixel is side // 2.
    """
    pixels = pixel_coordinates(side, pixel_size, device=centers.device, dtype=centers.dtype)
    precision = 1 / variances
    peak = amplitudes * precision / (2 * torch.pi)
    gaussian_x = _axis_gaussians(centers[..., 0], precision, pixels)
    gaussian_y = _axis_gaussians(centers[..., 1], precision, pixels) * peak[:, None]
    return torch.bmm(gaussian_y.mT, gaussian_x)


def render(
    centers: Float[Tensor, "batch beads 2"],
    amplitudes: Float[Tensor, " beads"],
    variances: Float[Tensor, " beads"],
    side: int,
    pixel_size: float,
) -> Float[Tensor, "batch side side"]:
    """Do the same as :func:`render_dense`, with each bead on the strip of rows within 4.5 σ of it.

    Beads are sorted by y and taken in groups; a group is evaluated on one strip of rows, and the strips are added up.
    The rest of a Gaussian, below 4e-5 of its peak, is left out.
    """
    with torch.no_grad():
        order, is_bead, first_row, rows = _strips(centers[..., 1], variances, side, pixel_size)
    batch, groups = first_row.shape
    grouped = torch.gather(centers, 1, order[..., None].expand(-1, -1, 2)).view(batch, groups, _GROUP, 2)
    shape = grouped.shape[:-1]
    precision = 1 / variances
    peak = (amplitudes * precision / (2 * torch.pi))[order] * is_bead
    precision = precision[order].view(shape)
    pixels = pixel_coordinates(side, pixel_size, device=centers.device, dtype=centers.dtype)
    strip = pixels[:rows] - pixels[0]
    gaussian_x = _axis_gaussians(grouped[..., 0], precision, pixels)
    gaussian_y = _axis_gaussians(grouped[..., 1] - pixels[first_row][..., None], precision, strip)
    strips = torch.bmm((gaussian_y * peak.view(*shape, 1)).flatten(0, 1).mT, gaussian_x.flatten(0, 1))
    image_row = torch.arange(batch, device=centers.device)[:, None] * side + first_row
    target = (image_row[..., None] + torch.arange(rows, device=centers.device)).flatten()
    image = centers.new_zeros(batch * side, side).index_add(0, target, strips.flatten(0, 1))
    return image.view(batch, side, side)


def _axis_gaussians(
    centers: Float[Tensor, "*beads"], precision: Float[Tensor, "*#beads"], pixels: Float[Tensor, " width"]
) -> Float[Tensor, "*beads width"]:
    """Return exp(-(q - p)² / 2σ²) along one axis: the exponent is a quadratic in q, one product with [q², q, 1].

    The three terms cancel but for rounding, which grows with q²: each block of pixels has an origin of its own.
    """
    width = len(pixels)
    block = next((size for size in _BLOCKS if width % size == 0), width)
    q = pixels[:block] - pixels[block // 2]
    centers, precision = centers[..., None] - pixels[block // 2 :: block], precision[..., None]
    linear = centers * precision
    coefficients = torch.stack([(-0.5 * precision).expand_as(linear), linear, -0.5 * centers * linear], dim=-1)
    return _Gaussians.apply(coefficients, torch.stack([q * q, q, torch.ones_like(q)])).flatten(-2)


def _strips(
    y: Float[Tensor, "batch beads"], variances: Float[Tensor, " beads"], side: int, pixel_size: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Group beads along y: their order (padded to whole groups), which are real, first rows, rows of a strip."""
    beads = y.shape[1]
    order = y.argsort(dim=1)
    order = torch.cat([order, order[:, -1:].expand(-1, -beads % _GROUP)], dim=1)
    is_bead = torch.arange(order.shape[1], device=y.device) < beads
    grouped = y.gather(1, order).unflatten(1, (-1, _GROUP))
    reach = _REACH * float(variances.nan_to_num().max()) ** 0.5
    extent = float((grouped[..., -1] - grouped[..., 0]).nan_to_num().max())  # NaN passes on to the image
    rows = min(side, int((extent + 2 * reach) / pixel_size) + 2)
    first = torch.floor((grouped[..., 0] - reach) / pixel_size).long() + side // 2
    return order, is_bead, first.clamp(0, side - rows), rows
