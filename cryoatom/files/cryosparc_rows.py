"""Subsets of cryoSPARC particle files: all fields and types stay as they were."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoatom.files.cryosparc import CryosparcParticles
from cryoatom.files.replacing import replacing
from cryoatom.geometry import vectors_from_rotations
from cryoatom.records import Poses

_POSE, _SHIFT, _UNIT = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"


def save_cs(parts: Mapping[Path, CryosparcParticles]) -> None:
    """Write particles as .cs files, all of the files or none, each in the version of the array format it came in.

    Paths in them are kept as they are: cryoSPARC looks them up from its project folder.

    Parameters
    ----------
    parts : mapping of Path to CryosparcParticles
        Of each file to write, its particles.

    Raises
    ------
    ValueError
        If a file to write is one that particles came from.
    """
    for target in parts:
        if target.exists() and any(target.samefile(particles.source) for particles in parts.values()):
            raise ValueError(f"{target} is a particle file of the job itself: give the subset another name")
    with ExitStack() as renamed_together:
        for target, particles in parts.items():
            with particles.source.open("rb") as file:
                version = np.lib.format.read_magic(file)
            with renamed_together.enter_context(replacing(target)).open("wb") as file:
                np.lib.format.write_array(file, particles.records, version=version, allow_pickle=False)


def with_uids(particles: CryosparcParticles, uids: np.ndarray) -> CryosparcParticles:
    """Return the particles that have these uids, in their order: those of a job's passthrough file.

    Parameters
    ----------
    particles : CryosparcParticles
    uids : (m,) uint64 array

    Raises
    ------
    ValueError
        If they do not have each uid once.
    """
    source, known = particles.source, particles.uids
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
    return particles[order[first]]


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
