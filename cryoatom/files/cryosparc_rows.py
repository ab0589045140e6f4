"""Subsets of cryoSPARC particle files: all fields and types stay as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoatom.files.cryosparc import CryosparcParticles, open_cryosparc
from cryoatom.files.replacing import replacing
from cryoatom.files.rows import check_rows
from cryoatom.geometry import vectors_from_rotations
from cryoatom.records import Poses

_POSE, _SHIFT, _UNIT = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"


def write_cs_rows(source: Path, rows: np.ndarray, target: Path) -> None:
    """Write some particles of a .cs file, in the order of `rows`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, or lacks a row.
    """
    particles = open_cryosparc(source)
    check_rows(rows, len(particles), source)
    save_cs(particles[rows], target)


def save_cs(particles: CryosparcParticles, target: Path) -> None:
    """Write particles as a .cs file, in the version of the array format that they came in.

    Paths in it are kept as they are: cryoSPARC looks them up from its project folder.

    Raises
    ------
    ValueError
        If `target` is the file that they came from.
    """
    source = particles.source
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the particle file itself: give the subset another name")
    with source.open("rb") as file:
        version = np.lib.format.read_magic(file)
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, particles.records, version=version, allow_pickle=False)


def write_cs_uids(source: Path, uids: np.ndarray, target: Path) -> None:
    """Write the particles of a .cs file that have these uids, in their order: of a job's passthrough file.

    Parameters
    ----------
    source : Path
    uids : (m,) uint64 array
    target : Path

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, or does not have each uid once.
    """
    particles = open_cryosparc(source)
    known = particles.uids
    if known is None:
        raise ValueError(f"{source} has no uid: its particles cannot be told")
    order = np.argsort(known, kind="stable")
    ordered = known[order]
    first, last = np.searchsorted(ordered, uids, "left"), np.searchsorted(ordered, uids, "right")
    wrong = np.flatnonzero(last - first != 1)
    if len(wrong):
        times = int((last - first)[wrong[0]])
        raise ValueError(
            f"{source} has the uid {uids[wrong[0]]} {times} times, expected once, and so for {len(wrong)} of "
            f"{len(uids)} particles: is it of the same job?"
        )
    save_cs(particles[order[first]], target)


def with_poses(particles: CryosparcParticles, poses: Poses) -> CryosparcParticles:
    """Put poses into alignments3D: rotation vectors, and how far images are moved, in pixels of the alignment.

    Raises
    ------
    ValueError
        If the file has no such fields.
    """
    missing = [field for field in (_POSE, _SHIFT, _UNIT) if field not in particles]
    if missing:
        raise ValueError(
            f"{particles.source} has no {', '.join(missing)} to put poses into: give the file of a refinement to "
            "train, or import the run's poses.star in cryoSPARC (Import Particle Stack)"
        )
    records = particles.records.copy()
    unit = records[_UNIT].astype(np.float64).reshape(len(records), 1)
    if not (unit > 0).all():
        raise ValueError(f"{particles.source}: expected positive {_UNIT}, found {unit.min():g}")
    records[_POSE] = vectors_from_rotations(poses.rotations).reshape(records[_POSE].shape)
    records[_SHIFT] = (-poses.shifts / unit).reshape(records[_SHIFT].shape)
    return replace(particles, records=records)
