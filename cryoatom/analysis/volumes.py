"""Density maps of images of a run: the mean of their beads, and what the images themselves say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cryoatom.analysis.run import Run
from cryoatom.files.density import write_map
from cryoatom.fourier import pixel_coordinates
from cryoatom.imaging.beads import BeadModel
from cryoatom.imaging.grid import CropGrid, choose_grid
from cryoatom.imaging.project import render_dense
from cryoatom.particles.noise import white_noise
from cryoatom.particles.rows import spaced_rows
from cryoatom.particles.stack import NormalizedImages
from cryoatom.poses.reconstruct import Reconstruction, backproject_halves, reconstruct
from cryoatom.training.images import measure_noise
from cryoatom.workers import Workers

_REACH = 4.0  # standard deviations of a bead that sections hold
_BEADS_AT_ONCE = 20_000


def bead_density(
    beads: BeadModel, conformations: Float32[np.ndarray, "n points 3"], side: int, pixel_size: float
) -> Float[Tensor, "side side side"]:
    """Return the mean density of conformations, ρ(x) = Σ_b a_b (2π σ_b²)^(-3/2) exp(-|x - b|² / 2σ_b²).

    Its sum along z times the pixel size is the projection that :meth:`BeadModel.render` draws for R = 1. A bead is
    drawn on the sections within 4 σ of it.

    Parameters
    ----------
    beads
        The run's.
    conformations
        Points: C-alphas, then side chains that move freely, where the beads have such; Å, template frame.
    side, pixel_size
        Of the map; its origin is voxel side // 2.

    Returns
    -------
    Tensor
        [z, y, x], image units / Å.
    """
    density, heights = torch.zeros(side, side, side), pixel_coordinates(side, pixel_size)
    with torch.no_grad():
        amplitudes, variances = beads.amplitudes() / len(conformations), beads.variances()
        at_once = max(1, _BEADS_AT_ONCE // len(amplitudes))
        for start in range(0, len(conformations), at_once):
            part = torch.from_numpy(np.array(conformations[start : start + at_once]))
            centers = beads.place(part).flatten(0, 1)
            _add_beads(density, heights, centers, amplitudes.repeat(len(part)), variances.repeat(len(part)))
    return density


def _add_beads(
    density: Float[Tensor, "side side side"],
    heights: Float[Tensor, " side"],
    centers: Float[Tensor, "beads 3"],
    amplitudes: Float[Tensor, " beads"],
    variances: Float[Tensor, " beads"],
) -> None:
    order = centers[:, 2].argsort()
    centers, amplitudes, variances = centers[order], amplitudes[order], variances[order]
    reach, z = _REACH * float(variances.max()) ** 0.5, centers[:, 2].contiguous()
    first, last = (torch.searchsorted(z, heights + side).tolist() for side in (-reach, reach))
    peak = amplitudes / (2 * torch.pi * variances).sqrt()
    pixel_size = float(heights[1] - heights[0])
    for section, height, low, high in zip(density, heights, first, last, strict=True):
        if high > low:
            variance = variances[low:high]
            share = torch.exp(-0.5 * (height - z[low:high]).square() / variance)
            flat = render_dense(centers[None, low:high, :2], peak[low:high] * share, variance, len(density), pixel_size)
            section += flat[0]


def mean_density(
    run: Run, images: np.ndarray, side: int, pixel_size: float, *, most: int = 200
) -> Float[Tensor, "side side side"]:
    """Return the mean density of the conformations of some images: of `most` of them, evenly spaced."""
    some = images[spaced_rows(len(images), most)]
    return bead_density(run.model.beads, run.place(run.latents[some]), side, pixel_size)


def write_densities(run: Run, conformations: np.ndarray, folder: Path) -> list[Path]:
    """Write the density of each conformation, vol_001.mrc and so on, on the grid of the run's crops.

    Parameters
    ----------
    run
        Its beads are drawn.
    conformations
        (n, points, 3), Å, template frame; points as :func:`bead_density` wants them.
    folder
        It must exist.
    """
    written = []
    for number, conformation in enumerate(conformations, 1):
        density = bead_density(
            run.model.beads, conformation[None].astype(np.float32), run.grid.side, run.grid.coarse_pixel
        )
        written.append(folder / f"vol_{number:03d}.mrc")
        write_map(written[-1], density.numpy(), run.grid.coarse_pixel, is_centered=True)
    return written


def map_grid(run: Run, pixel_size: float | None = None) -> CropGrid:
    """Return the grid of a run's crops, or one of as many Å with other voxels.

    Raises
    ------
    ValueError
        For voxels finer than the images' pixels.
    """
    if pixel_size is None:
        return run.grid
    if pixel_size < 0.999 * run.pixel_size:
        raise ValueError(f"--pixel {pixel_size:g} is finer than the images' pixels of {run.pixel_size:g} Å")
    return choose_grid(run.box, run.pixel_size, run.grid.side * run.grid.coarse_pixel, pixel_size)


def in_box(values: Float[Tensor, "side side side"], box: int) -> Float[Tensor, "box box box"]:
    """Cut a map, or surround it with zeros: its origin, voxel side // 2, becomes voxel box // 2."""
    start = box // 2 - len(values) // 2
    after = box - len(values) - start
    return torch.nn.functional.pad(values, (start, after) * 3)


def reconstruct_images(
    run: Run,
    images: np.ndarray,
    grid: CropGrid,
    *,
    datadir: Path | None = None,
    workers: Workers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Reconstruction:
    """Reconstruct images of a run in their final poses, normalised and weighted by their noise as in the training.

    The noise is measured on images of the whole run, whatever the choice: it is that of their optics groups.

    Raises
    ------
    FileNotFoundError, ValueError
        If the particle file or its stacks are no longer where they were; `datadir` may say where.
    """
    config, particles = run.config, run.inputs(datadir).particles
    read = NormalizedImages(particles, radius=config.background_radius, are_bright=config.uninvert_data, limit=1.0)
    noise = white_noise(len(particles), particles.box)
    if config.noise != "white":
        noise = measure_noise(config, particles, workers, dead_limit=1.0)
    with torch.no_grad():
        halves = backproject_halves(
            lambda places: read(images[places]),
            particles.optics[images],
            run.poses[images],
            grid,
            noise=replace(noise, group_of_image=noise.group_of_image[images]),
            workers=workers,
            progress=progress,
        )
        return reconstruct(halves)
