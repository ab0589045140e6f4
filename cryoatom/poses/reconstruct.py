"""Maps from particles whose poses are known: two half maps, how well they agree, and the map of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.imaging.grid import CropGrid
from cryoatom.particles.noise import NoisePower
from cryoatom.poses.volume import Volume, backproject, frequency_radius, keep_center
from cryoatom.records import Optics, Poses
from cryoatom.workers import Workers

THRESHOLD = 0.143  # of the FSC of half maps (Rosenthal and Henderson 2003)
_LEAST_WEIGHT = 0.05  # of a frequency, relative to its shell's mean: views that are missing are not blown up
_STEPS = 8  # of conjugate gradients
_SOFT = 0.15  # of a mask's radius that its edge is wide
_FLOOR = 1e-4  # of an FSC: noise of hardly any signal still has finite weight


@dataclass(frozen=True)
class Reconstruction:
    """Maps of a set of images; voxel side // 2 is the origin.

    Parameters
    ----------
    map
        Of all images, each shell weighted by what the half maps say of its signal.
    halves
        Of every other image.
    pixel_size
        Å.
    """

    map: Float[Tensor, "side side side"]
    halves: tuple[Float[Tensor, "side side side"], Float[Tensor, "side side side"]]
    pixel_size: float


def backproject_halves(
    read_images: Callable[[np.ndarray], Float[Tensor, "batch box box"]],
    optics: Optics,
    poses: Poses,
    grid: CropGrid,
    *,
    noise: NoisePower,
    workers: Workers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Volume, Volume]:
    """Add up the likelihoods of the images in even and in odd places, see :func:`cryoatom.poses.volume.backproject`.

    Raises
    ------
    ValueError
        For fewer than two images.
    """
    total = len(optics)
    if total < 2:
        raise ValueError("half maps need two images at least, found one: choose more")
    halves, done = [], 0
    for start in (0, 1):
        rows = np.arange(start, total, 2)
        half = backproject(
            lambda own, rows=rows: read_images(rows[own]),
            optics[rows],
            poses[rows],
            grid,
            noise=replace(noise, group_of_image=noise.group_of_image[rows]),
            workers=workers,
            progress=lambda count, _, done=done: progress(done + count, total),
        )
        halves.append(half)
        done += len(rows)
    return halves[0], halves[1]


def reconstruct(halves: tuple[Volume, Volume]) -> Reconstruction:
    """Find the densities that half sets, and all images together, make likely.

    Half maps are of least squares, V̂ = Ŵ / K̂, with a floor under K̂ of 5% of its shell's mean. The map of all adds
    1/τ² of each shell to K̂, with the signal-to-noise ratio τ² K̂ = 2 FSC / (1 - FSC) of the half maps (Scheres 2012).
    """
    first, second = (solve(half) for half in halves)
    both = Volume(halves[0].signal + halves[1].signal, halves[0].weight + halves[1].weight, halves[0].pixel_size)
    _, correlation = fsc(first, second, both.pixel_size)
    correlation = np.clip(correlation, _FLOOR, 1 - _FLOOR)
    ratio = torch.from_numpy(2 * correlation / (1 - correlation)).float()
    return Reconstruction(solve(both, ratio), (first, second), both.pixel_size)


def solve(volume: Volume, ratio: Float[Tensor, " shells"] | None = None) -> Float[Tensor, "side side side"]:
    """Return the density V that maximises ⟨W, V⟩ - ½ ⟨V, (K + λ) * V⟩, zero outside the volume's cube.

    That it is zero there matters: matched images spread a particle's signal over hundreds of Å, and the plain quotient
    Ŵ / K̂ would take what the cube cuts off for zero. Conjugate gradients begin with that quotient, and a few steps do.

    Parameters
    ----------
    volume
        W and K.
    ratio
        Signal-to-noise ratio of each shell, 1 / (side · pixel size) apart; λ̂ is K̂'s mean there divided by it. Without
        it, λ̂ is 5% of that mean.

    Returns
    -------
    Tensor
        [z, y, x]; the origin is voxel side // 2.
    """
    side, twice, weight = len(volume.signal), len(volume.weight), volume.weight.clamp_min(0)
    radius = frequency_radius(twice, twice * volume.pixel_size, weight.device) * (side * volume.pixel_size)
    beyond = side // 2 + 1  # what lies in the corners is a shell of its own
    shell = radius.round().long().clamp_max(beyond)
    mean = _shell_means(weight, shell, beyond + 1)
    share = torch.full_like(mean, _LEAST_WEIGHT) if ratio is None else 1 / torch.cat([ratio, ratio[-1:]])
    total = weight + (share * mean)[shell] + 1e-6 * mean.max()
    return torch.roll(_solve(volume.signal, total, shell < beyond), (side // 2,) * 3, (0, 1, 2))


def _solve(signal: Tensor, total: Tensor, is_inside: Tensor) -> Tensor:
    """Solve P F⁻¹ K̂ F P V = P W by conjugate gradients, preconditioned by 1/K̂; P cuts to the cube."""
    side, twice = len(signal), len(total)
    index = torch.cat([torch.arange((side + 1) // 2), torch.arange(twice - side // 2, twice)])

    def filtered(values: Tensor, transfer: Tensor) -> Tensor:
        padded = values.new_zeros(twice, twice, twice)
        padded[index[:, None, None], index[:, None], index] = values
        half = transfer[..., : twice // 2 + 1]
        return keep_center(torch.fft.irfftn(torch.fft.rfftn(padded) * half, s=(twice,) * 3), side)

    wanted = filtered(signal, is_inside.float())
    inverse = is_inside / total
    solution = filtered(wanted, inverse)
    residual = wanted - filtered(solution, total)
    scaled = filtered(residual, inverse)
    direction, power = scaled, (residual * scaled).sum()
    for _ in range(_STEPS):
        image = filtered(direction, total)
        step = power / (direction * image).sum()
        solution, residual = solution + step * direction, residual - step * image
        scaled = filtered(residual, inverse)
        power, before = (residual * scaled).sum(), power
        direction = scaled + (power / before) * direction
    return solution


def _shell_means(values: Tensor, shell: Tensor, count: int) -> Tensor:
    sums = torch.bincount(shell.flatten(), values.flatten(), count)
    return sums / torch.bincount(shell.flatten(), minlength=count)


def fsc(
    first: Float[Tensor, "side side side"], second: Float[Tensor, "side side side"], pixel_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Fourier shell correlation of two maps: frequencies in 1/Å, from 0 to Nyquist, and the correlations.

    FSC(q) = Re Σ F G* / sqrt(Σ|F|² Σ|G|²) over a shell one voxel of Fourier space wide; 0 where a map has nothing.
    """
    side = len(first)
    shell = frequency_radius(side, 1.0, first.device).round().long()
    shells, inside = side // 2 + 1, shell <= side // 2
    left, right = torch.fft.fftn(first.double())[inside], torch.fft.fftn(second.double())[inside]
    cross, own, other = (
        torch.bincount(shell[inside], values, shells)
        for values in ((left * right.conj()).real, left.abs().square(), right.abs().square())
    )
    scale = (own * other).sqrt()
    correlation = torch.where(scale > 0, cross / scale.clamp_min(torch.finfo(scale.dtype).tiny), 0.0)
    return np.arange(shells) / (side * pixel_size), correlation.cpu().numpy()


def resolution(frequency: np.ndarray, correlation: np.ndarray) -> float:
    """Return the resolution in Å where an FSC first falls below 0.143, interpolated; Nyquist if it never does."""
    below = np.flatnonzero(correlation[1:] < THRESHOLD) + 1
    if len(below) == 0:
        return float(1 / frequency[-1])
    last = below[0]
    before = max(last - 1, 1)
    fall = correlation[before] - correlation[last]
    share = (correlation[before] - THRESHOLD) / fall if fall > 0 and last > before else 0.0
    return float(1 / (frequency[before] + share * (frequency[last] - frequency[before])))


def soft_sphere(side: int, radius: float) -> Float[Tensor, "side side side"]:
    """Return a mask about voxel side // 2: 1 within `radius` voxels, less 15%, and 0 outside; a cosine between."""
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    distance = (axis.square()[:, None, None] + axis.square()[:, None] + axis.square()).sqrt()
    share = ((distance - (1 - _SOFT) * radius) / (_SOFT * radius)).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * share)


def low_pass(
    values: Float[Tensor, "side side side"], pixel_size: float, finest: float
) -> Float[Tensor, "side side side"]:
    """Remove detail finer than `finest` Å, with a cosine edge of four Fourier voxels about 1 / finest."""
    length = len(values) * pixel_size
    radius = frequency_radius(len(values), length, values.device) * length
    share = ((radius - length / finest) / 4 + 0.5).clamp(0, 1)
    return torch.fft.ifftn(torch.fft.fftn(values) * (0.5 + 0.5 * torch.cos(torch.pi * share))).real
