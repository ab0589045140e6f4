"""The template in the frame of the poses: fitted to a map, or to particles whose poses are known."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cryoatom.files.mrc import read_map
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.grid import CropGrid, choose_grid
from cryoatom.particles.noise import estimate_noise_power
from cryoatom.particles.stack import NormalizedImages
from cryoatom.poses.docking import Docking, dock
from cryoatom.poses.placement import RigidBeads
from cryoatom.poses.verdict import TemplateFit, Unit, judge
from cryoatom.poses.volume import Volume, backproject, map_volume
from cryoatom.records import Particles
from cryoatom.structure.template import Template
from cryoatom.workers import Workers

MAP_SUFFIXES = (".mrc", ".map", ".ccp4")
_PIXEL_SIZE, _LARGEST_SIDE = 2.5, 128  # Å of a voxel, or more where a volume would have more of them along a side
_IMAGES = 1000
_MOST_DEAD = 0.5  # of a sample: a run of bad images may fill it
_FROM_HEADER = 0.01  # voxels
_logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def fit_to_map(
    template: Template,
    path: str | os.PathLike,
    *,
    force: bool = False,
    workers: Workers,
    progress: Progress = lambda done, total: None,
) -> TemplateFit:
    """Bring a template into the frame of a map.

    Parameters
    ----------
    template
        It may be anywhere in the map, and a part of what is there.
    path
        A map: .mrc, .map, .ccp4.
    force
        Warn where the hand or the contrast are found to be wrong.
    workers
        Threads that share the work.
    progress
        Called with the work done and all of it.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that cannot be used; without `force` also for a map of the wrong hand or contrast, with the cure.
    """
    path, beads = Path(path), rigid_beads(template)
    with torch.no_grad():
        docking = dock(_volume_of_map(path, beads), beads, workers=workers, progress=progress)
    return _placed(template, beads, docking, "correlation", path, force=force)


def fit_to_particles(
    template: Template,
    particles: Particles,
    *,
    uninvert: bool = False,
    force: bool = False,
    workers: Workers,
    progress: Progress = lambda done, total: None,
) -> TemplateFit:
    """Bring a template into the frame of the poses of particles.

    Parameters
    ----------
    template
        It may be anywhere in the box, and a part of what is there.
    particles
        With poses; of many 1000 are used.
    uninvert
        Particles are bright in the images.
    force
        Warn where the hand or the contrast are found to be wrong, or the template is not found.
    workers
        Threads that share the work.
    progress
        Called with the work done and all of it.

    Raises
    ------
    FileNotFoundError, ValueError
        For images that cannot be used; without `force` also for wrong hand or contrast, with the cure.
    """
    beads = rigid_beads(template)
    with torch.no_grad():
        volume = _volume_of_particles(_some(particles), uninvert, beads, workers, _part(progress, 0, 0.3))
        docking = dock(volume, beads, workers=workers, progress=_part(progress, 0.3, 1))
    return _placed(template, beads, docking, "noise deviations", particles.source, force=force)


def _placed(
    template: Template, beads: RigidBeads, docking: Docking, unit: Unit, path: Path, *, force: bool
) -> TemplateFit:
    """Move a template to its best placement, and judge that."""
    rotation = docking.best.rotation.double()
    translation = (docking.best.translation.double() - rotation @ beads.origin.double()).numpy()
    moved = template.moved(rotation.numpy(), translation)
    fit = TemplateFit(moved, rotation.numpy(), translation, docking, unit)
    judge(fit, str(path), force=force)
    return fit


def rigid_beads(template: Template) -> RigidBeads:
    """Return the template-atom beads of a template."""
    beads = BeadModel(bead_layout(template, "atoms"), template, minimum_width=0.0)
    with torch.no_grad():
        centers = beads.place(torch.from_numpy(template.positions)[None].float())[0]
        return RigidBeads(centers, beads.amplitudes(), beads.variances())


def _part(progress: Progress, first: float, last: float) -> Progress:
    """Return the progress of a part of the work, as a share of it all."""
    return lambda done, total: progress(round(1000 * (first + (last - first) * done / total)), 1000)


def _grid(path: Path, box: int, pixel_size: float, beads: RigidBeads) -> CropGrid:
    length = box * pixel_size
    if 2 * beads.reach > length:
        raise ValueError(
            f"the template is {2 * beads.reach:.0f} Å across, the box of {path} {length:.0f} Å "
            f"({box} pixels of {pixel_size:g} Å): is this its file? Keep a part of it with --chain or --residues"
        )
    return choose_grid(box, pixel_size, length, max(_PIXEL_SIZE, length / _LARGEST_SIDE))


def _volume_of_map(path: Path, beads: RigidBeads) -> Volume:
    found = read_map(path)
    box, pixel_size = len(found.values), found.pixel_size
    if np.abs(found.header_center).max() > _FROM_HEADER * pixel_size:
        away = ", ".join(f"{value:.1f}" for value in found.header_center)
        _logger.warning(
            "%s: its header puts the centre of the box at (%s) Å; the frame of poses has its origin there, and so has "
            "the fitted template: this is right for the whole map of a refinement, not for one that was cut",
            path, away,
        )  # fmt: skip
    return map_volume(found.values, pixel_size, _grid(path, box, pixel_size, beads))


def _volume_of_particles(
    particles: Particles, uninvert: bool, beads: RigidBeads, workers: Workers, progress: Progress
) -> Volume:
    if particles.poses is None:
        raise ValueError(
            f"{particles.source} has no orientations: give a file that has them with --poses FILE, or fit the template "
            "to the map of a refinement"
        )
    read = NormalizedImages(particles, are_bright=uninvert, limit=_MOST_DEAD)
    groups, box, pixel_size = particles.optics_group, particles.box, particles.pixel_size
    volume = backproject(
        read,
        particles.optics,
        particles.poses,
        _grid(particles.source, box, pixel_size, beads),
        noise=estimate_noise_power(read, groups, box, pixel_size, read.radius, workers=workers),
        workers=workers,
        progress=progress,
    )
    if len(read.dead):
        _logger.warning("%s: left out %d images: %s", particles.source, len(read.dead), read.dead.describe())
    return volume


def _some(particles: Particles) -> Particles:
    """Return at most 1000 particles, evenly spaced in the file."""
    count = min(_IMAGES, len(particles))
    return particles[np.arange(count) * len(particles) // count]
