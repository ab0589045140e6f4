"""Do rotations belong to their images? Two halves of the images, each back-projected, agree only if they do.

This needs no template, so that it tells a template out of its frame from poses that are not the images' own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.poses.volume import padded_spectra
from cryoatom.training.sample import Sample

_FINEST = 12.0  # Å: what a few hundred images can show
_DAMPING = 1e-2  # of the largest weight: voxels that hardly any image has seen count little
_PERMUTATIONS = 8
_LEAST, _SPREAD = 5.0, 0.01  # deviations of the agreement by chance, and how small these are at least


@dataclass(frozen=True)
class HalvesAgreement:
    """The correlation of two half maps, and with permuted rotations its mean and standard deviation."""

    own: float
    by_chance: float
    spread: float

    @property
    def excess(self) -> float:
        """Return how much higher it is than by chance."""
        return self.own - self.by_chance

    @property
    def is_clear(self) -> bool:
        """Whether that is more than chance."""
        return self.excess > _LEAST * max(self.spread, _SPREAD)


def measure_halves(sample: Sample, rotations: Float[Tensor, "images 3 3"], shift_sign: int) -> HalvesAgreement:
    """Compare the agreement of half maps with that in permuted rotations."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(sample), generator=generator) for _ in range(_PERMUTATIONS)]
    by_chance = torch.tensor([halves_agreement(sample, rotations[order], shift_sign) for order in orders])
    own = halves_agreement(sample, rotations, shift_sign)
    return HalvesAgreement(own, float(by_chance.mean()), float(by_chance.std()))


def halves_agreement(sample: Sample, rotations: Float[Tensor, "images 3 3"], shift_sign: int = 1) -> float:
    """Return the correlation of two half maps, without what images show in any pose.

    By the projection theorem an image's spectrum lies in the map's on the plane R^T (kx, ky, 0). A half's map is N / W
    with N = Σ ŵ and W = Σ |C|² over its images, nearest voxel. Images in random poses make a map as well, a radial
    one. So what is compared is N - f W, with f(|k|) the radial map of all images, over |k| < 1/12 Å, in units of its
    noise √W.

    Parameters
    ----------
    sample
        The images; odd ones are one half, even ones the other.
    rotations
        R of each.
    shift_sign
        Whether crops moved back by t (1) or by -t (-1) are compared.
    """
    values, weights, voxel, radius = _insertions(sample, rotations, shift_sign)
    numerators, denominators = (
        torch.stack([_add_up(voxel[half::2], part[half::2], len(radius)) for half in (0, 1)])
        for part in (values, weights)
    )
    shells = int(radius.max()) + 1
    total = _add_up(radius, denominators.sum(dim=0), shells).clamp_min(1e-6 * float(denominators.max()))
    radial = _add_up(radius, numerators.sum(dim=0), shells) / total
    noise = (denominators + _DAMPING * denominators.max()).sqrt()
    first, second = (numerators - radial[radius] * denominators) / noise
    norm = (first.abs().square().sum() * second.abs().square().sum()).sqrt()
    return float((first * second.conj()).real.sum() / norm)


def _insertions(sample: Sample, rotations: Tensor, shift_sign: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ŵ, |C|² and the voxel of each frequency of each image, and the radius of every voxel, rounded."""
    side = 2 * sample.grid.side
    reach = min(int(side * sample.grid.coarse_pixel / _FINEST), side // 2 - 1)
    axis = torch.arange(-reach, reach + 1)
    ky, kx = torch.meshgrid(axis, axis[reach:], indexing="ij")
    is_used = (kx**2 + ky**2 <= reach**2) & ((kx > 0) | (ky > 0))  # the rest are conjugates
    kx, ky = kx[is_used], ky[is_used]
    points = torch.einsum("ncj,cp->npj", rotations[:, :2], torch.stack([kx, ky]).float())
    is_below = points[..., 2] < 0
    spectra = padded_spectra(sample.crops[0 if shift_sign > 0 else 1], side)[:, ky % side, kx]
    values = torch.where(is_below, spectra.conj(), spectra)
    weights = sample.kernels[:, ky % side, kx].clamp_min(0).expand(len(sample), -1)
    place = torch.where(is_below[..., None], -points, points).round().long() + reach
    width = len(axis)
    voxel = (place[..., 0] * width + place[..., 1]) * width + place[..., 2]
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(dim=0).float().sqrt()
    return values, weights, voxel, radius.round().long().flatten()


def _add_up(index: Tensor, values: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add_(0, index.flatten(), values.flatten())
