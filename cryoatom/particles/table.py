"""Particle files of any supported program, checked as a whole before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cryoatom.files.mrc import open_stack
from cryoatom.files.rows import read_rows
from cryoatom.files.star import read_star_particles
from cryoatom.records import Particles

READERS: dict[str, Callable[..., Particles]] = {".star": read_star_particles}

_SHOWN = 10  # problems in an error message


def read_particles(
    path: str | os.PathLike,
    *,
    datadir: str | os.PathLike | None = None,
    ind: str | os.PathLike | np.ndarray | None = None,
) -> Particles:
    """Read a particle file and check it, and the headers of its stacks.

    Parameters
    ----------
    path : path
        RELION .star.
    datadir : path, optional
        Where the image stacks are, see :func:`cryoatom.files.locate.locate_stacks`.
    ind : path or (m,) int array, optional
        Zero-based rows to read, in this order; or an .npy or .txt file of them.

    Raises
    ------
    FileNotFoundError, ValueError
        With all that is missing or wrong, see :func:`check_particles`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no particle file {path}")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"cannot read particles from {path}: expected a file of type {', '.join(READERS)}")
    rows = read_rows(ind) if isinstance(ind, str | os.PathLike) else ind
    particles = READERS[suffix](path, datadir, rows)
    check_particles(particles)
    return particles


def check_particles(particles: Particles) -> None:
    """Check that every image can be read and every pose can be true.

    Raises
    ------
    ValueError
        For stacks that are truncated, too short or of another box (all of them are named), and for shifts of half
        the box or more.
    """
    problems = _stack_problems(particles)
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(f"{particles.source} cannot be used: {'; '.join(problems[:_SHOWN])}{more}")
    if particles.poses is not None:
        _check_shifts(particles, particles.poses.shifts)


def _stack_problems(particles: Particles) -> list[str]:
    last_slice = np.full(len(particles.stacks), -1)
    np.maximum.at(last_slice, particles.stack_of_image, particles.slice_of_image)
    problems = []
    for path, last in zip(particles.stacks, last_slice, strict=True):
        if last < 0:
            continue
        try:
            stack = open_stack(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if stack.box != particles.box:
            problems.append(f"{path} has a box of {stack.box} pixels, expected {particles.box}")
        if last >= stack.count:
            problems.append(f"{path} has {stack.count} images, and image {last + 1} is asked for")
    return problems


def _check_shifts(particles: Particles, shifts: np.ndarray) -> None:
    limit = particles.box * particles.pixel_size / 2
    outside = np.flatnonzero((np.abs(shifts) >= limit).any(axis=1))
    if len(outside):
        first = outside[0]
        raise ValueError(
            f"{particles.source}: {len(outside)} particles lie outside their images: {particles.image_names[first]} is "
            f"shifted by {shifts[first].round(3).tolist()} Å, half the box is {limit:g} Å; "
            "were origins in pixels written as Å, or the images cropped?"
        )
