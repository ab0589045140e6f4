"""Gaussian beads to a projection image (paper eq. 1), separably: as defined, and only where a bead is not zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.fourier import pixel_coordinates

# exp(-40) is 4e-18, nothing beside a peak of 1; smaller values only send exp and the products into slow denormals.
_SMALLEST_EXPONENT = -40.0
_REACH = 4.5  # standard deviations of a bead that a tile holds
_GROUP = 48  # beads that share a tile
_SQUARE = 0.8  # groups side by side, of the root of all groups: tiles at the rim of a molecule are higher
_WORTHWHILE = 2 / 3  # pixels of tiles, of those of strips
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
    """Do the same as :func:`render_dense`, with each bead on a tile that reaches 4.5 σ about it.

    Beads are taken in groups of neighbours; a group is evaluated on one tile, and the tiles are added up. The tiles of
    a small molecule are strips of whole rows. The rest of a Gaussian, below 4e-5 of its peak, is left out.
    """
    with torch.no_grad():
        kinds = _tiles(centers, variances, side, pixel_size)
    points, precision = centers.flatten(0, 1), 1 / variances
    peak = amplitudes * precision / (2 * torch.pi)
    pixels = pixel_coordinates(side, pixel_size, device=centers.device, dtype=centers.dtype)
    image = centers.new_zeros(len(centers) * side * side)
    for tiles in kinds:
        shape, flat = tiles.bead.shape, tiles.bead.flatten()
        x, y = points.index_select(0, flat).view(*shape, 2).unbind(-1)
        of_bead = flat % len(variances)
        width, height = precision.index_select(0, of_bead).view(shape), peak.index_select(0, of_bead).view(shape)
        x = x - (pixels[tiles.column] - pixels[0])[:, None]
        y = y - pixels[tiles.row][:, None]
        gaussian_x = _axis_gaussians(x, width, pixels[: tiles.columns])
        gaussian_y = _axis_gaussians(y, width, pixels[: tiles.rows] - pixels[0]) * (height * tiles.is_bead)[..., None]
        values = torch.bmm(gaussian_y.mT, gaussian_x)
        run = (side,) if tiles.columns == side else ()  # what is added at once: a row, or a pixel
        image = image.view(-1, *run).index_add(0, tiles.places(side), values.view(-1, *run)).view(-1)
    return image.view(-1, side, side)


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


@dataclass(frozen=True)
class _Tiles:
    """Groups of beads on tiles of one size.

    Parameters
    ----------
    bead : (groups, 48) int64
        Which bead, counted through all images.
    is_bead : (groups, 48) bool
        False for what only fills a group up.
    image, row, column : (groups,) int64
        Where a tile starts.
    rows, columns : int
        Pixels of a tile.
    """

    bead: Tensor
    is_bead: Tensor
    image: Tensor
    row: Tensor
    column: Tensor
    rows: int
    columns: int

    def places(self, side: int) -> Tensor:
        """Return where the pixels of tiles lie in all images; of tiles as wide as the image, where their rows lie."""
        step = side if self.columns == side else 1
        first = (self.image * side + self.row) * side + self.column
        row, column = (torch.arange(count, device=first.device) for count in (self.rows, self.columns))
        return (first[:, None, None] + row[:, None] * side + column[::step]).flatten() // step


def _tiles(centers: Tensor, variances: Tensor, side: int, pixel_size: float) -> list[_Tiles]:
    """Group beads; a tile is as large as the largest group needs, or, where that is large, as most groups need."""
    reach = _REACH * float(variances.nan_to_num().max()) ** 0.5
    per_slab = _groups_per_slab(centers.shape[1], side, 2 * reach / pixel_size + 2)
    bead, is_bead = _groups(centers, per_slab)
    image = torch.arange(len(centers), device=centers.device).repeat_interleave(len(bead) // len(centers))
    grouped = centers.flatten(0, 1).index_select(0, bead.flatten()).view(*bead.shape, 2)
    low = grouped.amin(dim=1)
    extent = (grouped.amax(dim=1) - low).nan_to_num().double()  # NaN passes on to the image
    size = (((extent + 2 * reach) / pixel_size).clamp(max=side).long() + 2).clamp(max=side)
    first = torch.floor((low - reach) / pixel_size).long() + side // 2
    if per_slab == 1:
        size[:, 0] = side
        kinds = [slice(None)]
    else:
        kinds = _kinds(size)
    found = []
    for kind in kinds:
        columns, rows = size[kind].amax(dim=0).tolist()
        column, row = first[kind, 0].clamp(0, side - columns), first[kind, 1].clamp(0, side - rows)
        found.append(_Tiles(bead[kind], is_bead[kind], image[kind], row, column, rows, columns))
    return found


def _groups_per_slab(beads: int, side: int, blur: float) -> int:
    """Return how many groups stand side by side in x: √groups or so makes tiles square, 1 makes strips.

    As beads fill the image; `blur` is the extent of a bead, pixels. Tiles have more to index than strips: they must be
    smaller by a third to be faster (measured).
    """
    groups = -(-beads // _GROUP)
    per_slab = max(1, round(_SQUARE * groups**0.5))
    strip = (side / groups + blur) * side
    tile = (side * per_slab / groups + blur) * (side / per_slab + blur)
    return per_slab if tile < _WORTHWHILE * strip else 1


def _groups(centers: Tensor, per_slab: int) -> tuple[Tensor, Tensor]:
    """Sort beads by y into slabs, within slabs by x; return beads of groups, through all images, and which are real."""
    batch, beads, _ = centers.shape
    order = centers[..., 1].argsort(dim=1)
    order = torch.cat([order, order[:, -1:].expand(-1, -beads % (per_slab * _GROUP))], dim=1)
    is_bead = (torch.arange(order.shape[1], device=order.device) < beads).expand(batch, -1)
    if per_slab > 1:
        slabs = (batch, -1, per_slab * _GROUP)
        inner = centers[..., 0].gather(1, order).view(slabs).argsort(dim=2)
        order, is_bead = order.view(slabs).gather(2, inner), is_bead.reshape(slabs).gather(2, inner)
    counted = order.reshape(batch, -1, _GROUP) + beads * torch.arange(batch, device=order.device)[:, None, None]
    return counted.flatten(0, 1), is_bead.reshape(-1, _GROUP)


def _kinds(size: Tensor) -> list[Tensor]:
    """Part groups with small tiles from those with large ones, so that both have the fewest pixels in all."""
    order = size.prod(dim=1).argsort(stable=True)
    area = size[order].cummax(dim=0).values.prod(dim=1)  # of a tile for all groups so far
    count = torch.arange(1, len(order) + 1, device=size.device)
    small = int((count * area + (len(order) - count) * area[-1]).argmin()) + 1
    parts = (order[:small], order[small:])
    return [part.sort().values for part in parts if len(part)]
