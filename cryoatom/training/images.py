"""The images of a run in matched form: computed once and kept, or opened again."""

from __future__ import annotations

import hashlib
import logging

import numpy as np

from cryoatom.files.sealed import SEAL
from cryoatom.imaging.matched import MatchedSet, MatchedSource, build_matched_set, matched_folder, matched_identity
from cryoatom.particles.noise import NOISE_VERSION, NoisePower, estimate_noise_power
from cryoatom.particles.noise_report import report_noise
from cryoatom.particles.stack import DeadImage, NormalizedImages, default_radius
from cryoatom.records import Particles
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.inputs import Inputs, crop_grid, known_shifts
from cryoatom.training.stage import Stage
from cryoatom.workers import Workers

_MOST_DEAD = 0.05  # of all images
_logger = logging.getLogger(__name__)


def prepare_images(
    config: TrainConfig,
    inputs: Inputs,
    folder: RunFolder,
    workers: Workers,
    stage: Stage,
    *,
    dead_limit: float = _MOST_DEAD,
) -> MatchedSet:
    """Measure the noise and compute the matched crops of all images, or open what an earlier run made of the same.

    Parameters
    ----------
    config, inputs, folder
        Of the run.
    workers
        Threads that transform images.
    stage
        Opens progress reports.
    dead_limit
        Share of the images that may be unusable.

    Raises
    ------
    ValueError
        If more of the images cannot be used; otherwise they are named in a warning, and `is_dead` marks them.
    """
    particles = inputs.particles
    images = _normalized(config, particles, dead_limit)
    source = MatchedSource(
        images,
        particles.optics,
        known_shifts(config, particles),
        None if config.noise == "white" else lambda: _measure_noise(images, particles, workers),
        image_key(config, particles),
    )
    with stage(len(particles), "Preparing images") as advance:
        data = build_matched_set(
            config.cache or folder.matched,
            source,
            crop_grid(config, inputs),
            workers=workers,
            progress=lambda done, total: advance(done, ""),
        )
    if config.noise != "white":
        noise = NoisePower(data.noise_power, data.noise_group, particles.box)
        report_noise(noise, particles.optics_group, particles.pixel_size)
    if data.is_dead.any():
        _warn_of_dead_images(data, particles, images)
    if data.is_dead.sum() > max(1, dead_limit * len(data)):  # several processes, or lives of one, have each seen fewer
        raise ValueError(f"{data.is_dead.sum()} of {len(data)} images cannot be used: see the warning before")
    return data


def measure_noise(config: TrainConfig, particles: Particles, workers: Workers, *, dead_limit: float) -> NoisePower:
    """Measure the power of the images' noise as :func:`prepare_images` does."""
    return _measure_noise(_normalized(config, particles, dead_limit), particles, workers)


def are_prepared(config: TrainConfig, inputs: Inputs) -> bool:
    """Return whether the images are in matched form already, in --cache or in the run folder."""
    particles = inputs.particles
    shifts, grid = known_shifts(config, particles), crop_grid(config, inputs)
    identity = matched_identity(image_key(config, particles), particles.optics, shifts, grid)
    folder = config.cache or RunFolder(config.outdir).matched
    return (matched_folder(folder, identity) / SEAL).exists()


def image_key(config: TrainConfig, particles: Particles) -> dict[str, object]:
    """Return what determines normalised images and the power of their noise.

    The power itself is no part of it: another machine may round it in another way.
    """
    radius = config.background_radius or default_radius(particles)
    noise = [] if config.noise == "white" else [NOISE_VERSION, _digest(particles.optics_group)]
    return {
        "stacks": [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in particles.stacks],
        "images": _digest(particles.stack_of_image, particles.slice_of_image),
        "sign": -1.0 if config.uninvert_data else 1.0,
        "background_radius": radius,
        "noise": [config.noise, *noise],
    }


def _normalized(config: TrainConfig, particles: Particles, dead_limit: float) -> NormalizedImages:
    radius, are_bright = config.background_radius, config.uninvert_data
    return NormalizedImages(particles, radius=radius, are_bright=are_bright, limit=dead_limit)


def _measure_noise(images: NormalizedImages, particles: Particles, workers: Workers) -> NoisePower:
    groups, box, pixel_size = particles.optics_group, particles.box, particles.pixel_size
    return estimate_noise_power(images, groups, box, pixel_size, images.radius, workers=workers)


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.asarray(array, np.int64).tobytes())
    return digest.hexdigest()


def _warn_of_dead_images(data: MatchedSet, particles: Particles, images: NormalizedImages) -> None:
    rows, dead = np.flatnonzero(data.is_dead), images.dead
    first = rows[:32]
    images(first)  # a set that was there already does not tell why
    for row in first.tolist():
        if row not in dead:
            name = str(particles.image_names[row])
            dead.add(DeadImage(row, name, "has pixels thousands of times as large as the noise"))
    _logger.warning(
        "%d of %d images cannot be used and take no part: %s", len(rows), len(data), dead.describe(len(rows))
    )
