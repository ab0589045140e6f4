"""A few hundred images on a coarse grid, and how well the template explains them in given poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.imaging.beads import BeadModel, ca_layout
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.grid import CropGrid, choose_grid
from cryoatom.imaging.kernels import kernel_spectra
from cryoatom.imaging.likelihood import quadratic_form
from cryoatom.imaging.matched import WIDTH_PER_PIXEL, matched_crops
from cryoatom.particles.noise import NoisePower, estimate_noise_power, white_noise
from cryoatom.particles.rows import spaced_rows
from cryoatom.particles.stack import NormalizedImages
from cryoatom.poses.volume import Volume, backproject
from cryoatom.records import Particles, Poses
from cryoatom.structure.template import Template
from cryoatom.train_config import TrainConfig
from cryoatom.training.inputs import Inputs
from cryoatom.workers import Workers

IMAGES = 500
_PIXEL = 3.0  # Å, at least: frames, hands and signs show at low resolution
_PIXELS_ACROSS = 56  # of a large particle
_AROUND = 25.0  # Å that a template may lie away from the particle
_TRUSTED, _TRUSTED_DOCKING = 20.0, 10.0  # Å: coarser features count less, which other conformations and parts share
_AT_ONCE = 32


@dataclass(frozen=True)
class SampleSource:
    """Where a sample is read from.

    Parameters
    ----------
    particles
        Those of the sample.
    images
        Of them, normalised.
    noise
        S, larger by 1 + (20 Å · |k|)^-2: the envelope that solvent, masks, missing parts and other conformations shape
        lies in few low frequencies of overwhelming signal.
    grid
        Of the crops.
    are_bright
        Particles are brighter than the background in the files.
    """

    particles: Particles
    images: NormalizedImages
    noise: NoisePower
    grid: CropGrid
    are_bright: bool

    @property
    def poses(self) -> Poses:
        """Return those of the particles."""
        assert self.particles.poses is not None
        return self.particles.poses


@dataclass(frozen=True)
class Sample:
    """Images of known pose in matched form (see :mod:`cryoatom.imaging.matched`).

    Parameters
    ----------
    crops
        Moved back by the shifts t as they are given [0], and by -t [1].
    kernels
        Spectra of κ; one where all images share it.
    rotations
        As they are given.
    grid
        Of the crops.
    """

    crops: Float[Tensor, "2 images side side"]
    kernels: Float[Tensor, "#images twice half"]
    rotations: Float[Tensor, "images 3 3"]
    grid: CropGrid

    def __len__(self) -> int:
        return len(self.rotations)


def coarse_grid(config: TrainConfig, inputs: Inputs) -> CropGrid:
    """Return a grid of at least 3 Å pixels that holds the template where it is, and where it is centred."""
    positions, particles = inputs.template.positions, inputs.particles
    from_origin = float(np.linalg.norm(positions, axis=1).max())
    from_center = float(np.linalg.norm(positions - positions.mean(axis=0), axis=1).max())
    wanted = config.diameter or 2 * max(from_origin + config.margin, from_center + _AROUND)
    diameter = min(wanted, particles.box * particles.pixel_size)
    pixel_size = max(config.crop_pixel, _PIXEL, diameter / _PIXELS_ACROSS)
    return choose_grid(particles.box, particles.pixel_size, diameter, pixel_size)


def open_sample(config: TrainConfig, inputs: Inputs, workers: Workers, most: int = IMAGES) -> SampleSource:
    """Choose evenly spaced images and measure their noise as for training; any number of them may be dead."""
    particles = inputs.particles[spaced_rows(len(inputs.particles), most)]
    box, pixel_size, groups = particles.box, particles.pixel_size, particles.optics_group
    images = NormalizedImages(particles, radius=config.background_radius, are_bright=config.uninvert_data, limit=1.0)
    noise = white_noise(len(particles), box)
    if config.noise == "radial":
        noise = estimate_noise_power(images, groups, box, pixel_size, images.radius, workers=workers)
    noise, grid = distrust_coarse(noise, pixel_size), coarse_grid(config, inputs)
    return SampleSource(particles, images, noise, grid, config.uninvert_data)


def distrust_coarse(noise: NoisePower, pixel_size: float) -> NoisePower:
    """Return a noise power that is higher at coarse features, and leaves no weight to the mean."""
    ring = np.arange(noise.spectra.shape[1])
    factor = np.zeros(len(ring))
    factor[1:] = 1 + (noise.box * pixel_size / (ring[1:] * _TRUSTED)) ** 2
    return replace(noise, spectra=noise.spectra * factor)


def read_sample(source: SampleSource, workers: Workers) -> Sample:
    """Read the images, weighted by their noise; dead ones are left out."""
    particles, grid = source.particles, source.grid
    shifts = torch.from_numpy(source.poses.shifts).float()
    parameters = particles.optics.as_array()
    common = ctf(particles.optics[:1], grid.box, grid.pixel_size).float()
    precision, group = source.noise.precision().float(), torch.from_numpy(source.noise.group_of_image)
    is_common = bool((parameters == parameters[:1]).all()) and len(precision) == 1

    def compute(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        images, of_rows = source.images(rows), torch.from_numpy(rows)
        transfer = common if is_common else ctf(particles.optics[rows], grid.box, grid.pixel_size).float()
        own = precision if is_common else precision[group[of_rows]]
        each, moved = (transfer * own).expand(len(rows), -1, -1), shifts[of_rows]
        crops = torch.stack([matched_crops(images, each, t, grid) for t in (moved, -moved)])
        return crops, kernel_spectra(transfer * own.sqrt(), grid)

    chunks = [np.arange(start, min(start + _AT_ONCE, len(particles))) for start in range(0, len(particles), _AT_ONCE)]
    parts = workers.map(compute, chunks)
    crops, kernels = torch.cat([part[0] for part in parts], dim=1), torch.cat([part[1] for part in parts])
    is_alive = crops[0].flatten(1).any(dim=1)
    rotations = torch.from_numpy(source.poses.rotations).float()
    kernels = kernels[:1] if is_common else kernels[is_alive]
    return Sample(crops[:, is_alive], kernels, rotations[is_alive], grid)


def sample_volume(source: SampleSource, rotations: str, workers: Workers) -> Volume:
    """Return the likelihood of densities by the images in their poses, the rotations 'given' or 'transposed'."""
    poses = source.poses
    if rotations == "transposed":
        poses = replace(poses, rotations=np.ascontiguousarray(np.swapaxes(poses.rotations, 1, 2)))
    optics, noise = source.particles.optics, source.noise
    volume = backproject(source.images, optics, poses, source.grid, noise=noise, workers=workers)
    return volume.sharpened(_TRUSTED_DOCKING)


class Match:
    """Compares the template with a sample, its beads one a residue and as wide as the coarse pixels ask for."""

    def __init__(self, sample: Sample, template: Template, workers: Workers):
        self._sample, self._workers = sample, workers
        self._positions = torch.from_numpy(template.positions).float()
        width = WIDTH_PER_PIXEL * sample.grid.coarse_pixel
        self._beads = BeadModel(ca_layout(template), template, width).requires_grad_(False)

    def __call__(
        self, rotations: Float[Tensor, "images 3 3"]
    ) -> tuple[Float[Tensor, "2 images"], Float[Tensor, " images"]]:
        """Return ⟨w, v⟩ for both signs of the shifts, and ⟨v, κ * v⟩, of the template's views."""
        sample = self._sample

        def compute(part: slice) -> Tensor:
            views, crops = self._views(rotations[part]), sample.crops[:, part]
            return torch.cat([(views * crops).sum(dim=(-2, -1)), quadratic_form(views, self._kernels(part))[None]])

        found = self._over_images(compute)
        return found[:2], found[2]

    def distance(
        self, rotations: Float[Tensor, "images 3 3"], others: Float[Tensor, "images 3 3"]
    ) -> Float[Tensor, " images"]:
        """Return ⟨u, κ * u⟩ of the difference u between the template's views in two poses."""

        def compute(part: slice) -> Tensor:
            views = (self._views(some[part]) for some in (rotations, others))
            return quadratic_form(next(views) - next(views), self._kernels(part))

        return self._over_images(compute)

    def _views(self, rotations: Tensor) -> Tensor:
        grid = self._sample.grid
        positions = self._positions.expand(len(rotations), -1, -1)
        return self._beads.render(positions, rotations, grid.side, grid.coarse_pixel)

    def _kernels(self, part: slice) -> Tensor:
        return self._sample.kernels if len(self._sample.kernels) == 1 else self._sample.kernels[part]

    def _over_images(self, compute: Callable[[slice], Tensor]) -> Tensor:
        parts = [slice(start, start + _AT_ONCE) for start in range(0, len(self._sample), _AT_ONCE)]
        return torch.cat(self._workers.map(compute, parts), dim=-1).double()


def gains(cross: Float[Tensor, " images"], power: Float[Tensor, " images"]) -> Float[Tensor, " images"]:
    """Return what each image gains by the template over none, nats, at the one scale s >= 0 that is best for all.

    s ⟨w, v⟩ - ½ s² ⟨v, κ * v⟩ with s = Σ⟨w, v⟩ / Σ⟨v, κ * v⟩.
    """
    scale = (cross.sum() / power.sum()).clamp_min(0)
    return scale * cross - 0.5 * scale**2 * power


def deviations(values: Float[Tensor, " images"]) -> float:
    """Return by how many of its standard deviations a mean lies above zero."""
    spread = float(values.std()) / len(values) ** 0.5
    return float(values.mean()) / max(spread, 1e-9)
