"""A few hundred images on a coarse grid, and how well the template explains them in given poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.config import TrainConfig
from cryoatom.imaging.beads import BeadModel, ca_layout
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.likelihood import quadratic_form
from cryoatom.imaging.matched import WIDTH_PER_PIXEL, CropGrid, choose_grid, kernel_spectra, matched_crops
from cryoatom.particles.noise import estimate_noise_power, white_noise
from cryoatom.particles.stack import DeadImages, ImageStack
from cryoatom.structure.template import Template
from cryoatom.training.inputs import Inputs
from cryoatom.workers import Workers

IMAGES = 500
_PIXEL = 3.0  # Å, at least: frames, hands and signs show at low resolution
_PIXELS_ACROSS = 40  # of a large particle
_AT_ONCE = 32


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


def spaced_rows(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` rows, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def coarse_grid(config: TrainConfig, inputs: Inputs) -> CropGrid:
    """Return a grid of at least 3 Å pixels that holds the template."""
    reach = float(np.linalg.norm(inputs.template.positions, axis=1).max())
    diameter = config.diameter or 2 * (reach + config.margin)
    pixel_size = max(config.crop_pixel, _PIXEL, diameter / _PIXELS_ACROSS)
    return choose_grid(inputs.particles.box, inputs.particles.pixel_size, diameter, pixel_size)


def read_sample(config: TrainConfig, inputs: Inputs, workers: Workers, most: int = IMAGES) -> Sample:
    """Read evenly spaced images, normalised and weighted by their noise as for training; dead ones are left out."""
    particles = inputs.particles[spaced_rows(len(inputs.particles), most)]
    assert particles.poses is not None
    stack, dead, grid = ImageStack(particles), DeadImages(len(particles)), coarse_grid(config, inputs)
    sign = -1.0 if config.uninvert_data else 1.0
    radius = config.background_radius or 0.4 * particles.box * particles.pixel_size
    shifts = torch.from_numpy(particles.poses.shifts).float()
    parameters = particles.optics.as_array()
    common = ctf(particles.optics[:1], grid.box, grid.pixel_size).float()
    is_common = bool((parameters == parameters[:1]).all())

    def read(rows: np.ndarray) -> Tensor:
        return sign * stack.read_normalized(rows, radius, dead)

    noise = white_noise(len(particles), particles.box)
    if config.noise == "radial":
        groups = particles.optics_group
        noise = estimate_noise_power(read, groups, particles.box, particles.pixel_size, radius, workers=workers)
    precision, group = noise.precision().float(), torch.from_numpy(noise.group_of_image)
    is_common = is_common and len(precision) == 1

    def compute(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        images, of_rows = read(rows), torch.from_numpy(rows)
        transfer = common if is_common else ctf(particles.optics[rows], grid.box, grid.pixel_size).float()
        own = precision if is_common else precision[group[of_rows]]
        each, moved = (transfer * own).expand(len(rows), -1, -1), shifts[of_rows]
        crops = torch.stack([matched_crops(images, each, t, grid) for t in (moved, -moved)])
        return crops, kernel_spectra(transfer * own.sqrt(), grid)

    chunks = [np.arange(start, min(start + _AT_ONCE, len(particles))) for start in range(0, len(particles), _AT_ONCE)]
    parts = workers.map(compute, chunks)
    crops, kernels = torch.cat([part[0] for part in parts], dim=1), torch.cat([part[1] for part in parts])
    is_alive = crops[0].flatten(1).any(dim=1)
    rotations = torch.from_numpy(particles.poses.rotations).float()
    kernels = kernels[:1] if is_common else kernels[is_alive]
    return Sample(crops[:, is_alive], kernels, rotations[is_alive], grid)


class Match:
    """Compares the template with a sample, its beads one a residue and as wide as the coarse pixels ask for."""

    def __init__(self, sample: Sample, template: Template, workers: Workers):
        self._sample, self._workers = sample, workers
        self._positions = torch.from_numpy(template.positions).float()
        width = WIDTH_PER_PIXEL * sample.grid.coarse_pixel
        self._beads = BeadModel(ca_layout(template), template, width).requires_grad_(False)

    def __call__(
        self, rotations: Float[Tensor, "images 3 3"], move: Float[Tensor, " 3"] | None = None
    ) -> tuple[Float[Tensor, "2 images"], Float[Tensor, " images"]]:
        """Return ⟨w, v⟩ for both signs of the shifts, and ⟨v, κ * v⟩, of the template moved by some Å and rotated."""
        sample = self._sample
        positions = self._positions if move is None else self._positions + move

        def compute(part: slice) -> Tensor:
            views, crops = self._views(positions, rotations[part]), sample.crops[:, part]
            return torch.cat([(views * crops).sum(dim=(-2, -1)), quadratic_form(views, self._kernels(part))[None]])

        found = self._over_images(compute)
        return found[:2], found[2]

    def distance(
        self, rotations: Float[Tensor, "images 3 3"], others: Float[Tensor, "images 3 3"]
    ) -> Float[Tensor, " images"]:
        """Return ⟨u, κ * u⟩ of the difference u between the template's views in two poses."""

        def compute(part: slice) -> Tensor:
            views = (self._views(self._positions, some[part]) for some in (rotations, others))
            return quadratic_form(next(views) - next(views), self._kernels(part))

        return self._over_images(compute)

    def _views(self, positions: Tensor, rotations: Tensor) -> Tensor:
        grid = self._sample.grid
        return self._beads.render(positions.expand(len(rotations), -1, -1), rotations, grid.side, grid.coarse_pixel)

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
