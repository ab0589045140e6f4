"""Particle files of any supported program, checked as a whole before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from cryoatom.files.cryodrgn import open_cryodrgn_optics, open_cryodrgn_poses
from cryoatom.files.cryosparc import open_cryosparc
from cryoatom.files.mrc import open_stack
from cryoatom.files.rows import check_rows, read_rows
from cryoatom.files.sources import ImageSource, OpticsSource, PoseSource, Rows, assemble
from cryoatom.files.stack_list import open_stack_file, open_stack_list
from cryoatom.files.star import open_star
from cryoatom.particles.joins import find_rows
from cryoatom.records import Particles

Source = TypeVar("Source", bound=Rows)
Openers = Mapping[str, Callable[[Path, Path | None], Source]]

IMAGE_READERS: dict[str, Callable[[Path, Path | None], ImageSource]] = {
    ".star": open_star,
    ".cs": open_cryosparc,
    ".txt": open_stack_list,
    ".mrcs": open_stack_file,
    ".mrc": open_stack_file,
}
POSE_READERS: dict[str, Callable[[Path, Path | None], PoseSource]] = {
    ".star": open_star,
    ".cs": open_cryosparc,
    ".pkl": open_cryodrgn_poses,
}
CTF_READERS: dict[str, Callable[[Path, Path | None], OpticsSource]] = {
    ".star": open_star,
    ".cs": open_cryosparc,
    ".pkl": open_cryodrgn_optics,
}

_SHOWN = 10  # problems in an error message


def read_particles(
    path: str | os.PathLike,
    *,
    datadir: str | os.PathLike | None = None,
    ind: str | os.PathLike | np.ndarray | None = None,
    poses: str | os.PathLike | None = None,
    ctf: str | os.PathLike | None = None,
    amplitude_contrast: float | None = None,
) -> Particles:
    """Read a particle file and check it, and the headers of its stacks.

    Parameters
    ----------
    path : path
        RELION .star, cryoSPARC .cs, a stack (.mrcs, .mrc), or a .txt list of stacks.
    datadir : path, optional
        Where the image stacks are, see :func:`cryoatom.files.locate.locate_stacks`.
    ind : path or (m,) int array, optional
        Zero-based rows to read, in this order; or an .npy, .txt or .pkl file of them.
    poses, ctf : path, optional
        Take the poses, or the CTF parameters, from this file: .star, .cs, or cryoDRGN's .pkl. Particles are found in
        it by :func:`cryoatom.particles.joins.find_rows`.
    amplitude_contrast : float, optional
        Goes before that of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        With all that is missing or wrong, see :func:`check_particles`.
    """
    path, folder = Path(path), None if datadir is None else Path(datadir)
    images = _opener(path, IMAGE_READERS, "particles", "particle file")(path, folder)
    total, rows = len(images), read_rows(ind) if isinstance(ind, str | os.PathLike) else ind
    if rows is not None:
        check_rows(rows, total, path)
        images = images[rows]
    particles = assemble(
        images,
        images if ctf is None else _joined(Path(ctf), CTF_READERS, "CTF parameters", images, rows, total),
        images if poses is None else _joined(Path(poses), POSE_READERS, "poses", images, rows, total),
        datadir=folder,
        amplitude_contrast=amplitude_contrast,
    )
    check_particles(particles, pose_file=path if poses is None else Path(poses))
    return particles


def _opener(path: Path, readers: Openers[Source], what: str, kind: str) -> Callable[[Path, Path | None], Source]:
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} {path}")
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"cannot read {what} from {path}: expected a file of type {', '.join(readers)}")
    return readers[suffix]


def _joined(
    path: Path, readers: Openers[Source], what: str, images: ImageSource, rows: np.ndarray | None, total: int
) -> Source:
    """Return the rows of another file that are the particles."""
    other = _opener(path, readers, what, f"file of {what}")(path, None)
    return other[find_rows(images, other, rows, total)]


def check_particles(particles: Particles, pose_file: Path | None = None) -> None:
    """Check that every image can be read and every pose, from `pose_file`, can be true.

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
        _check_shifts(particles, particles.poses.shifts, pose_file or particles.source)


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


def _check_shifts(particles: Particles, shifts: np.ndarray, source: Path) -> None:
    limit = particles.box * particles.pixel_size / 2
    outside = np.flatnonzero((np.abs(shifts) >= limit).any(axis=1))
    if len(outside):
        first = outside[0]
        raise ValueError(
            f"{source}: {len(outside)} particles lie outside their images: {particles.image_names[first]} is "
            f"shifted by {shifts[first].round(3).tolist()} Å, half the box is {limit:g} Å; "
            "is their unit wrong (.star: Å or pixels by the column, .cs: pixels, cryoDRGN: fractions of the box), or "
            "were the images cropped?"
        )
