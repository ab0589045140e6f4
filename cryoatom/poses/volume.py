"""What is known of a specimen in three dimensions: of a map, or of particles whose poses are known.

Grids here have their origin at index 0 and wrap, as torch.fft lays them out, in space as in frequency: nothing shifts.
Axes are [z, y, x].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.grid import CropGrid
from cryoatom.imaging.kernels import kernel_spectra
from cryoatom.imaging.matched import matched_crops
from cryoatom.particles.noise import NoisePower, white_noise
from cryoatom.records import Optics, Poses
from cryoatom.workers import Workers

OVERSAMPLING = 1.25  # of a low-passed volume
_AT_ONCE = 16  # images inserted together


@dataclass(frozen=True)
class Volume:
    """A log-likelihood of densities V, quadratic as that of images is: ⟨W, V⟩ - ½ ⟨V, K * V⟩.

    Parameters
    ----------
    signal
        W, such that ⟨W, V⟩ = ∫ W(x) V(x) d³x.
    weight
        K̂ at frequencies 1 / (twice · pixel_size) apart, such that ⟨V, K * V⟩ = ∫ K̂(q) |V̂(q)|² d³q.
    pixel_size
        Å.
    """

    signal: Float[Tensor, "side side side"]
    weight: Float[Tensor, "twice twice twice"]
    pixel_size: float

    @property
    def length(self) -> float:
        """The side of the volume in Å."""
        return len(self.signal) * self.pixel_size

    @property
    def resolution(self) -> float:
        """The finest detail that the grid holds in every direction, Å."""
        return 2 * self.pixel_size / (1 - 2 / len(self.signal))

    def inverted(self) -> Volume:
        """Return the likelihood of data of the opposite contrast."""
        return Volume(-self.signal, self.weight, self.pixel_size)

    def sharpened(self, length: float) -> Volume:
        """Return a likelihood that trusts coarse features less: each frequency's terms times q² / (q² + length⁻²).

        The envelope that solvent, masks and moving domains shape lies in few low frequencies of overwhelming signal.
        Under noise alone the deviation of ⟨W, V⟩ / sqrt ⟨V, K * V⟩ was 1 and is now less.
        """

        def trust(side: int, box: float) -> Tensor:
            square = frequency_radius(side, box, self.signal.device).square()
            return square / (square + length**-2)

        side = len(self.signal)
        spectrum = torch.fft.fftn(self.signal) * trust(side, self.length)
        weight = self.weight * trust(2 * side, 2 * self.length)
        return Volume(torch.fft.ifftn(spectrum).real, weight, self.pixel_size)

    def low_passed(self, resolution: float, oversampling: float = OVERSAMPLING) -> Volume:
        """Return the part of the likelihood that concerns frequencies below 1 / resolution, on a coarser grid."""
        side = even_side(2 * oversampling * self.length / resolution, at_most=len(self.signal))
        spectrum = keep_center(torch.fft.fftn(self.signal), side)
        spectrum = spectrum * (frequency_radius(side, self.length, spectrum.device) <= 1 / resolution)
        weight = keep_center(self.weight, 2 * side)
        weight = weight * (frequency_radius(2 * side, 2 * self.length, weight.device) <= 1 / resolution)
        scale = (side / len(self.signal)) ** 3
        return Volume(torch.fft.ifftn(spectrum).real * scale, weight, self.length / side)


def even_side(least: float, *, at_most: int) -> int:
    """Return the smallest even side >= `least` that transforms quickly, but no more than `at_most`."""
    half = scipy.fft.next_fast_len(max(math.ceil(least / 2), 2), real=True)
    return min(2 * int(half or 2), at_most)


def signed_index(side: int, device: torch.device | str = "cpu") -> Int[Tensor, " side"]:
    """Return 0, 1, ..., -2, -1: what each index of a wrapping axis stands for."""
    index = torch.arange(side, device=device)
    return torch.where(index < (side + 1) // 2, index, index - side)


def keep_center(volume: Tensor, side: int) -> Tensor:
    """Cut a wrapping volume down to `side` entries about its origin."""
    index = signed_index(side, volume.device) % len(volume)
    return volume[index][:, index][:, :, index]


def frequency_radius(side: int, length: float, device: torch.device | str = "cpu") -> Float[Tensor, "side side side"]:
    """Return |q| in 1/Å on the grid of a Fourier transform over `length` Å."""
    square = (signed_index(side, device).float() / length).square()
    return (square[:, None, None] + square[:, None] + square).sqrt()


def corners(places: Float[Tensor, "*batch 3"], side: int) -> tuple[Int[Tensor, "*batch 8"], Float[Tensor, "*batch 8"]]:
    """Return the flat indices and trilinear weights of the grid points around places (x, y, z), in grid units."""
    floor = places.floor()
    upper = places - floor
    index = torch.stack([floor.long(), floor.long() + 1], dim=-1) % side
    share = torch.stack([1 - upper, upper], dim=-1)
    x, y, z = index.unbind(-2)
    flat = (z[..., :, None, None] * side + y[..., None, :, None]) * side + x[..., None, None, :]
    wx, wy, wz = share.unbind(-2)
    weight = wz[..., :, None, None] * wy[..., None, :, None] * wx[..., None, None, :]
    return flat.flatten(-3), weight.flatten(-3)


def map_volume(values: Float[np.ndarray, "box box box"], pixel_size: float, grid: CropGrid) -> Volume:
    """Turn a map into a likelihood whose score ⟨W, V⟩ / sqrt ⟨V, K * V⟩ is the correlation with V.

    Parameters
    ----------
    values
        The map, [z, y, x]; the origin is voxel box // 2.
    pixel_size
        Å.
    grid
        What is cut from it: a cube of `grid.side` voxels of `grid.coarse_pixel`.
    """
    box = len(values)
    wrapped = torch.from_numpy(np.roll(values, -(box // 2), axis=(0, 1, 2)).astype(np.float32))
    spectrum = keep_center(torch.fft.fftn(wrapped), grid.coarse_box)
    coarse = keep_center(torch.fft.ifftn(spectrum).real, grid.side)
    coarse = coarse - coarse.mean()
    pixel = grid.coarse_pixel
    signal = coarse / (coarse.norm() * pixel**3)
    return Volume(signal, torch.full((2 * grid.side,) * 3, pixel**-3), pixel)


def backproject(
    read_images: Callable[[np.ndarray], Float[Tensor, "batch box box"]],
    optics: Optics,
    poses: Poses,
    grid: CropGrid,
    *,
    noise: NoisePower | None = None,
    workers: Workers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Volume:
    """Add up the likelihoods of particles with known poses.

    By the projection theorem ŵ of an image is Ŵ on a plane through the origin, and κ̂ so is K̂: planes are inserted with
    trilinear weights on a grid twice as large as the crop, and the weights' envelope is divided out in space.

    Parameters
    ----------
    read_images
        Returns images of some rows with unit noise, particles dark; one of zeros is left out.
    optics, poses
        Of the particles that are read.
    grid
        The crop that holds them, see :func:`cryoatom.imaging.matched.choose_grid`.
    noise
        S of these particles; white where absent.
    """
    total, twice = len(optics), 2 * grid.side
    noise = noise or white_noise(total, grid.box)
    precision, group = noise.precision().float(), torch.from_numpy(noise.group_of_image)
    rotations = torch.from_numpy(poses.rotations).float()

    def transform(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        images = read_images(rows)
        transfer = ctf(optics[rows], grid.box, grid.pixel_size).float() * images.any(-1).any(-1)[:, None, None]
        shifts = torch.from_numpy(poses.shifts[rows]).float()
        own = precision[group[torch.from_numpy(rows)]]
        crops = matched_crops(images, transfer * own, shifts, grid)
        return padded_spectra(crops, twice), kernel_spectra(transfer * own.sqrt(), grid)

    batches = [np.arange(start, min(start + _AT_ONCE, total)) for start in range(0, total, _AT_ONCE)]
    inserted = torch.zeros(twice**3, 3)
    for rows, (spectra, kernels) in zip(batches, workers.stream(transform, batches), strict=True):
        _insert(inserted, spectra, kernels, rotations[rows])
        progress(int(rows[-1]) + 1, total)
    return _from_planes(inserted, twice, grid.coarse_pixel)


def padded_spectra(crops: Float[Tensor, "batch side side"], twice: int) -> Complex[Tensor, "batch twice half"]:
    """Return the spectra of crops, centred, in twice as large a box of zeros; the origin of phases is the centre."""
    side = crops.shape[-1]
    padded = torch.fft.rfft2(crops, s=(twice, twice))
    row = torch.polar(torch.ones(twice), signed_index(twice) * (2 * torch.pi * (side // 2) / twice))
    return padded * row[:, None] * row[: twice // 2 + 1]


def _insert(
    inserted: Float[Tensor, "cells 3"],
    spectra: Complex[Tensor, "batch twice half"],
    kernels: Float[Tensor, "batch twice half"],
    rotations: Float[Tensor, "batch 3 3"],
) -> None:
    """Add planes to the grid: real and imaginary part of ŵ, and κ̂; the half plane stands for both halves."""
    twice = spectra.shape[1]
    ky, kx = torch.meshgrid(signed_index(twice), torch.arange(twice // 2 + 1), indexing="ij")
    inside = ky.square() + kx.square() < (twice // 2 - 1) ** 2
    kx, ky = kx[inside].float(), ky[inside].float()
    both = torch.where(kx == 0, 1.0, 2.0)
    index, weight = corners(kx[:, None] * rotations[:, None, 0] + ky[:, None] * rotations[:, None, 1], twice)
    spectra, kernels = spectra[:, inside] * both, kernels[:, inside] * both
    values = torch.stack([spectra.real, spectra.imag, kernels], dim=-1)
    inserted.index_add_(0, index.flatten(), (values[:, :, None] * weight[..., None]).flatten(0, 2))


def _from_planes(inserted: Float[Tensor, "cells 3"], twice: int, pixel_size: float) -> Volume:
    """Turn inserted planes into W in space, without the envelope of the trilinear weights, and K̂."""
    grid = inserted.view(twice, twice, twice, 3)
    spectrum = torch.complex(grid[..., 0], grid[..., 1])
    envelope = torch.sinc(signed_index(twice // 2) / twice).square()
    signal = keep_center(torch.fft.ifftn(spectrum).real, twice // 2)
    signal = signal / (envelope[:, None, None] * envelope[:, None] * envelope)
    opposite = -torch.arange(twice) % twice
    power = grid[..., 2]
    weight = 0.5 * (power + power[opposite][:, opposite][:, :, opposite])
    return Volume(signal * (twice / pixel_size**2), weight * (twice / pixel_size), pixel_size)
