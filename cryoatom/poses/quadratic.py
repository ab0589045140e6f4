"""The second term of the pose cost, ½ ⟨v, κ * v⟩, from a table over viewing directions (design D1.4).

For a radial κ the term is the same for all in-plane rotations of v, and for a view and its opposite: it is a smooth
function on half a sphere. A table holds the power of v on rings of its spectrum, seen from some hundreds of directions;
the sum over rings of power times κ is the term, for any κ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

_RINGS_PER_STEP = 4  # rings in one step of the padded spectrum: κ may turn by π from one step to the next
_NEIGHBOURS = 12  # directions that a value is mixed from, twice the coefficients of the quadratic fitted to them


@dataclass(frozen=True)
class DirectionTable:
    """Viewing directions, and how the value of each rotation is mixed from theirs.

    Parameters
    ----------
    directions
        Unit vectors on half a sphere.
    neighbours, weights
        The value of a rotation is Σ_k weights[k] · values[neighbours[k]].
    """

    directions: Float[Tensor, "directions 3"]
    neighbours: Int[Tensor, "rotations near"]
    weights: Float[Tensor, "rotations near"]

    def to(self, device: torch.device) -> DirectionTable:
        """Return the table on another device."""
        return DirectionTable(self.directions.to(device), self.neighbours.to(device), self.weights.to(device))

    def rotations(self) -> Float[Tensor, "directions 3 3"]:
        """Return one rotation for each direction; which in-plane angle it has does not matter."""
        return _rotations_along(self.directions)

    def interpolate(self, values: Float[Tensor, "directions batch"]) -> Float[Tensor, "batch rotations"]:
        """Return the values of all rotations."""
        mixed = values.new_zeros(len(self.neighbours), values.shape[1])
        for neighbour, weight in zip(self.neighbours.T, self.weights.T, strict=True):
            mixed.addcmul_(values[neighbour], weight[:, None])
        return mixed.T


def choose_directions(rotations: Float[Tensor, "rotations 3 3"], count: int) -> DirectionTable:
    """Spread `count` directions over half a sphere and fit the weights of the views of `rotations`.

    A rotation looks along its third row. The value there is that of the quadratic fitted to the nearest directions
    (d and -d count as one), nearer ones weighing more: moving least squares.
    """
    directions = half_sphere(count)
    views = rotations[:, 2].float().contiguous()
    both = torch.cat([directions, -directions])
    distance, index = (torch.from_numpy(found) for found in KDTree(both.numpy()).query(views.numpy(), _NEIGHBOURS))
    reach = 1.1 * distance[:, -1:]
    nearness = (1 - (distance / reach) ** 2).square()
    axes = _rotations_along(views)[:, :2].double()
    x, y = (torch.einsum("rij,rkj->irk", axes, both[index].double()) / reach).unbind()
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)
    weighted = terms * nearness[..., None]
    constant = torch.eye(6, dtype=torch.float64)[:, :1].expand(len(views), -1, -1)
    weights = (weighted @ torch.linalg.solve(weighted.mT @ terms, constant))[..., 0]
    return DirectionTable(directions, index % count, weights.float())


def half_sphere(count: int) -> Float[Tensor, "count 3"]:
    """Return the upper half of a Fibonacci lattice: directions no two of which are opposite."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z, angle = 1 - index / count, math.pi * (1 + math.sqrt(5)) * index
    radius = torch.sqrt(1 - z * z)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), z], dim=1).float()


def _rotations_along(directions: Float[Tensor, "count 3"]) -> Float[Tensor, "count 3 3"]:
    """Return rotations whose third rows are `directions`."""
    farthest = torch.eye(3).to(directions)[directions.abs().argmin(dim=1)]
    first = torch.nn.functional.normalize(torch.linalg.cross(farthest, directions), dim=1)
    return torch.stack([first, torch.linalg.cross(directions, first), directions], dim=1)


@cache
def _rings(side: int) -> tuple[Tensor, Tensor, int]:
    """Return the ring of each frequency of a half plane, its weight in a sum over the whole, the number of rings."""
    ky, kx = torch.fft.fftfreq(2 * side) * 2 * side, torch.arange(side + 1)
    ring = (_RINGS_PER_STEP * torch.hypot(ky[:, None], kx)).round().long().flatten()
    twice = torch.full((2 * side, side + 1), 2.0)  # the half plane stands for both halves, but for its two edges
    twice[:, [0, -1]] = 1.0
    return ring, twice.flatten(), int(ring.max()) + 1


def _rings_on(device: torch.device, side: int) -> tuple[Tensor, Tensor, int]:
    ring, twice, count = _rings(side)
    return ring.to(device), twice.to(device), count


def ring_frequencies(side: int, pixel_size: float) -> Float[Tensor, " rings"]:
    """Return the frequencies of the rings of :func:`radial_power`, 1/Å."""
    return torch.arange(_rings(side)[2]) / (_RINGS_PER_STEP * 2 * side * pixel_size)


def radial_power(projections: Float[Tensor, "batch side side"]) -> Float[Tensor, "batch rings"]:
    """Return the power of zero-padded images on rings of their spectra; it adds up to Σ v²."""
    side = projections.shape[-1]
    ring, twice, count = _rings_on(projections.device, side)
    spectrum = torch.view_as_real(torch.fft.rfft2(projections, s=(2 * side, 2 * side)))
    power = spectrum.square().sum(dim=-1).flatten(1) * twice / (2 * side) ** 2
    return power.new_zeros(len(power), count).index_add_(1, ring, power)


def radial_mean(kernels: Float[Tensor, "batch twice half"]) -> Float[Tensor, "batch rings"]:
    """Return the means of κ's spectra on the rings of :func:`radial_power`."""
    ring, twice, count = _rings_on(kernels.device, kernels.shape[-1] - 1)
    total = kernels.new_zeros(len(kernels), count).index_add_(1, ring, kernels.flatten(1) * twice)
    return total / twice.new_zeros(count).index_add_(0, ring, twice).clamp_min(1.0)
