"""The template in the frame of the poses: fitted to a map, or to particles whose poses are known."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cryoatom.files.mrc import read_map
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.grid import CropGrid, choose_grid
from cryoatom.particles.noise import estimate_noise_power
from cryoatom.particles.stack import DeadImages, ImageStack
from cryoatom.particles.table import read_particles
from cryoatom.poses.docking import MARGIN, Docking, dock
from cryoatom.poses.placement import RigidBeads
from cryoatom.poses.volume import Volume, backproject, map_volume
from cryoatom.records import Particles
from cryoatom.structure.hand import hand_of
from cryoatom.structure.template import Template
from cryoatom.workers import Workers

MAP_SUFFIXES = (".mrc", ".map", ".ccp4")
_PIXEL_SIZE, _LARGEST_SIDE = 2.5, 128  # Å of a voxel, or more where a volume would have more of them along a side
_IMAGES = 1000
_CLEAR_SHARE, _CLEAR_NOISE = 0.03, 3.0  # by which a score must win, of itself and in noise deviations
_FAINTEST = 8.0  # noise deviations; among all placements noise alone reaches 6
_FROM_HEADER = 0.01  # voxels
_logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TemplateFit:
    """A template where it fits best, and how well others fit.

    Parameters
    ----------
    template
        In the frame of the poses.
    rotation, translation
        The motion x -> Q x + T from the file's frame, Å.
    docking
        Scores: noise deviations (at most: coarse features count less) for particles, correlations for maps.
    unit
        Of the scores.
    """

    template: Template
    rotation: np.ndarray
    translation: np.ndarray
    docking: Docking
    unit: Literal["noise deviations", "correlation"]

    @property
    def hand(self) -> Literal["right", "mirrored", "undecided"]:
        """Whether the template fits better than its mirror image."""
        if self.is_clear(self.docking.best.score, self.docking.mirrored):
            return "right"
        return "mirrored" if self.is_clear(self.docking.mirrored, self.docking.best.score) else "undecided"

    def is_clear(self, better: float, worse: float) -> bool:
        """Whether a score is higher than another one beyond noise, and beyond what models leave open."""
        noise = _CLEAR_NOISE if self.unit == "noise deviations" else 0.0
        return better - worse > max(noise, _CLEAR_SHARE * abs(better))

    def describe(self) -> str:
        """Say what was found, in lines."""
        angle = np.rad2deg(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1, 1)))
        found, digits = self.docking, 1 if self.unit == "noise deviations" else 3
        scores = f"{found.best.score:.{digits}f} ({self.unit}), next placement {found.rival:.{digits}f}"
        others = f"mirror image {found.mirrored:.{digits}f}, inverted contrast {found.inverted:.{digits}f}"
        shift = ", ".join(f"{value:.1f}" for value in self.translation)
        return f"turned by {angle:.1f}°, then moved by ({shift}) Å\nscore {scores},\n{others}\nhand {self.hand}"


def fit_template(
    template: Template,
    path: str | os.PathLike,
    *,
    datadir: str | os.PathLike | None = None,
    uninvert: bool = False,
    force: bool = False,
    workers: Workers,
    progress: Progress = lambda done, total: None,
) -> TemplateFit:
    """Bring a template into the frame of a map, or of the poses of particles.

    Parameters
    ----------
    template
    path
        A map (.mrc, .map, .ccp4), or particles with poses; of many particles 1000 are used.
    datadir
        Where image stacks are.
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
        For files that cannot be used; without `force` also for data of the wrong hand or contrast, with the cure.
    """
    path, beads = Path(path), rigid_beads(template)
    is_map = path.suffix.lower() in MAP_SUFFIXES
    with torch.no_grad():
        if is_map:
            volume = _volume_of_map(path, beads)
        else:
            volume = _volume_of_particles(path, datadir, uninvert, beads, workers, _part(progress, 0, 0.3))
        docking = dock(volume, beads, workers=workers, progress=_part(progress, 0.0 if is_map else 0.3, 1))
    rotation = docking.best.rotation.double()
    translation = (docking.best.translation.double() - rotation @ beads.origin.double()).numpy()
    moved = template.with_positions(template.atoms.positions @ rotation.numpy().T + translation)
    unit = "correlation" if is_map else "noise deviations"
    fit = TemplateFit(moved, rotation.numpy(), translation, docking, unit)
    _judge(fit, path, force=force)
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
    diameter = 2 * (beads.reach + MARGIN)
    return choose_grid(box, pixel_size, diameter, max(_PIXEL_SIZE, min(diameter, length) / _LARGEST_SIDE))


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
    path: Path,
    datadir: str | os.PathLike | None,
    uninvert: bool,
    beads: RigidBeads,
    workers: Workers,
    progress: Progress,
) -> Volume:
    particles = _some(read_particles(path, datadir=datadir))
    if particles.poses is None:
        raise ValueError(f"{path} has no orientations: fit the template to the map of a refinement, or take its file")
    stack, dead = ImageStack(particles), DeadImages(len(particles))
    radius = 0.4 * particles.box * particles.pixel_size
    sign = -1.0 if uninvert else 1.0

    def read(rows: np.ndarray) -> torch.Tensor:
        return sign * stack.read_normalized(rows, radius, dead)

    groups, box, pixel_size = particles.optics_group, particles.box, particles.pixel_size
    volume = backproject(
        read,
        particles.optics,
        particles.poses,
        _grid(path, box, pixel_size, beads),
        noise=estimate_noise_power(read, groups, box, pixel_size, radius, workers=workers),
        workers=workers,
        progress=progress,
    )
    if len(dead):
        _logger.warning("%s: left out %d images: %s", path, len(dead), dead.describe())
    return volume


def _some(particles: Particles) -> Particles:
    """Return at most 1000 particles, evenly spaced in the file."""
    count = min(_IMAGES, len(particles))
    return particles[np.arange(count) * len(particles) // count]


def _judge(fit: TemplateFit, path: Path, *, force: bool) -> None:
    """Raise ValueError where the data contradict the template, and warn where they leave it open."""
    best, scores = fit.docking.best.score, fit.describe().split("\n", 1)[1].replace("\n", " ")
    problem = _problem(fit, path)
    if problem is not None and not force:
        raise ValueError(f"{problem} ({scores}); --force goes on all the same")
    if problem is not None:
        _logger.warning("%s (%s)", problem, scores)
        return
    if fit.hand == "undecided":
        _logger.warning("%s: the mirror image of the template fits as well: the hand is not told (%s)", path, scores)
    if not fit.is_clear(best, fit.docking.rival):
        _logger.warning(
            "%s: another placement fits as well: right for a symmetric molecule; otherwise look at the fit in a viewer "
            "(%s)", path, scores,
        )  # fmt: skip


def _problem(fit: TemplateFit, path: Path) -> str | None:
    """Return what is wrong with the data, and the cure."""
    best, is_map = fit.docking.best.score, fit.unit == "correlation"
    if fit.docking.inverted > best:
        cure = (
            "multiply the map by -1 (relion_image_handler --multiply_constant -1)"
            if is_map
            else "give --uninvert-data, or leave it out if it was given"
        )
        return f"{path}: the template fits the inverted contrast better: {cure}"
    if not is_map and max(best, fit.docking.mirrored) < _FAINTEST:
        return f"{path}: the template is not found in the images: are they, and their poses, of this molecule?"
    if fit.hand != "mirrored":
        return None
    if hand_of(fit.template).hand == "mirrored":
        return f"{path}: the mirror image of the template fits better, and the template is mirrored: mend its file"
    if is_map:
        return (
            f"{path}: the mirror image of the template fits better: the map has the wrong hand, and so have "
            "the poses of its refinement: flip it (relion_image_handler --invert_hand, or cryoSPARC's Volume Tools) "
            "and refine again"
        )
    return (
        f"{path}: the mirror image of the template fits better: the poses have the wrong hand: change the sign of "
        "rlnAngleTilt of all particles, or flip the map (relion_image_handler --invert_hand, cryoSPARC's Volume Tools) "
        "and refine again"
    )
