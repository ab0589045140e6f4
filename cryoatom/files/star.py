"""RELION particle files: STAR of RELION 3.0 (one table) and of 3.1, 4 and 5 (an optics table beside the particles)."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from cryoatom.files.locate import locate_stacks, stack_name
from cryoatom.files.mrc import open_stack
from cryoatom.files.replacing import replacing
from cryoatom.files.star_table import ParticleTable, read_particle_table, to_numbers
from cryoatom.geometry import euler_from_rotations, rotations_from_euler
from cryoatom.records import Optics, Particles, Poses

logger = logging.getLogger(__name__)

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_REFUSED = {
    "rlnCtfDataAreCtfPremultiplied": "the images are multiplied by their CTF",
    "rlnCtfDataArePhaseFlipped": "the images are phase-flipped",
}
_IDENTITY = {"rlnMagMat00": 1.0, "rlnMagMat11": 1.0, "rlnCtfScalefactor": 1.0}  # what else is neutral at 0
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")  # Zernike coefficients are lists: [0.1,-2e-3]
_SHOWN = 10  # values in an error message
_NOT_MODELLED = (
    *("rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike", "rlnCtfBfactor", "rlnCtfScalefactor"),
    *("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"),
)


def read_star_particles(
    path: str | os.PathLike, datadir: str | os.PathLike | None = None, rows: np.ndarray | None = None
) -> Particles:
    """Read a RELION particle file, of version 3.0 to 5.

    Parameters
    ----------
    path : path
    datadir : path, optional
        Where the image stacks are, see :func:`cryoatom.files.locate.locate_stacks`.
    rows : (m,) int array, optional
        Zero-based rows to read, in this order; the others may miss their stacks.

    Returns
    -------
    Particles
        `poses` is None where orientations are absent. Origins become shifts of the opposite sign.

    Raises
    ------
    FileNotFoundError
        Naming the file, or all its stacks, that do not exist.
    ValueError
        If the file cannot be read, lacks a column, has a value that is no number, mixes box or pixel sizes, or has
        particles that cryoatom does not model (tilt series, subtomograms, CTF-premultiplied images).
    """
    path = Path(path)
    table = read_particle_table(path, rows)
    _refuse_other_data(table)
    _warn_of_ignored_optics(table)
    names, stack_of_image, slice_of_image = _image_places(table)
    pixel_size = _common_value(table, _pixel_sizes(table), "pixel sizes", "Å")
    optics, poses = _optics(table), _poses(table, pixel_size)
    stacks = locate_stacks(names, path, None if datadir is None else Path(datadir))
    if "rlnImageSize" in table:
        box = round(_common_value(table, table.numbers("rlnImageSize"), "box sizes", "pixels"))
    else:
        box = open_stack(stacks[0]).box
    return Particles(
        source=path,
        image_names=table.particles["rlnImageName"].astype(str),
        stacks=stacks,
        stack_of_image=stack_of_image,
        slice_of_image=slice_of_image,
        box=box,
        pixel_size=pixel_size,
        optics=optics,
        optics_group=table.optics_row,
        poses=poses,
    )


def _refuse_other_data(table: ParticleTable) -> None:
    """Raise ValueError for data that the single-particle image model is not true of."""
    for column in [*table.optics, *table.particles]:
        if column.startswith("rlnTomo"):
            raise ValueError(f"{table.source} is of a tilt series ({column}): cryoatom reads single particles only")
    if "rlnGroupName" in table and "rlnCtfBfactor" in table:  # Warp and M: the B-factor grows along a series
        groups = table.values("rlnGroupName").astype(str)
        if len(set(zip(groups, table.numbers("rlnCtfBfactor"), strict=True))) > len(set(groups)):
            raise ValueError(
                f"{table.source} is of a tilt series (rlnCtfBfactor varies within a rlnGroupName): cryoatom reads "
                "single particles only"
            )
    if "rlnImageDimensionality" in table and (table.numbers("rlnImageDimensionality") != 2).any():
        raise ValueError(
            f"{table.source} has images of other than two dimensions: cryoatom reads single particles only"
        )
    for column, problem in _REFUSED.items():
        if column in table and table.numbers(column).any():
            raise ValueError(
                f"{table.source}: {problem} ({column} is 1), and cryoatom models raw images: extract them without"
            )


def _warn_of_ignored_optics(table: ParticleTable) -> None:
    """Log which aberrations the file has that the image model lacks, with their largest value."""
    for column in _NOT_MODELLED:
        if column not in table:
            continue
        values = dict.fromkeys(table.values(column).tolist())
        numbers = [float(word) for value in values for word in _NUMBER.findall(str(value))]
        departure = [number - _IDENTITY.get(column, 0.0) for number in numbers]
        if np.any(np.abs(departure) > 1e-6):
            largest = numbers[int(np.argmax(np.abs(departure)))]
            logger.warning("%s: %s is up to %g; cryoatom does not model it", table.source, column, largest)


def _image_places(table: ParticleTable) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return stack names, and the stack and zero-based slice of each image, from names like ``000001@a.mrcs``."""
    names = table.particles["rlnImageName"].astype(str).tolist()
    parts = [name.partition("@") for name in names]
    numbers = to_numbers(np.array([first if at else "1" for first, at, _ in parts]))
    wrong = np.flatnonzero(~((numbers >= 1) & (numbers == np.floor(numbers))))
    if len(wrong):
        raise ValueError(f"{table.source}: expected image names like 000001@stack.mrcs, found {names[wrong[0]]!r}")
    stack_names = [last if at else first for first, at, last in parts]
    numbered = {name: number for number, name in enumerate(dict.fromkeys(stack_names))}
    alone = Counter(first for first, at, _ in parts if not at)
    for name, count in alone.items():
        if count > 1:
            raise ValueError(f"{table.source}: {name!r} names {count} images: expected 000001@{name} and so on")
    stack_of_image = np.array([numbered[name] for name in stack_names])
    return list(numbered), stack_of_image, numbers.astype(np.int64) - 1


def _pixel_sizes(table: ParticleTable) -> np.ndarray:
    if "rlnImagePixelSize" in table:
        return table.numbers("rlnImagePixelSize")
    if "rlnDetectorPixelSize" in table and "rlnMagnification" in table:
        return 1e4 * table.numbers("rlnDetectorPixelSize") / table.numbers("rlnMagnification")
    raise ValueError(
        f"{table.source} has no pixel size: expected the column rlnImagePixelSize (RELION 3.1 and later), or "
        "rlnDetectorPixelSize and rlnMagnification (3.0)"
    )


def _common_value(table: ParticleTable, values: np.ndarray, what: str, unit: str) -> float:
    """Return the one positive value of all particles, or raise ValueError with the groups that have each."""
    if not (values > 0).all():
        raise ValueError(f"{table.source}: expected positive {what}, found {values.min():g} {unit}")
    if np.allclose(values, values[0], rtol=1e-4, atol=0):
        return float(np.median(values))
    groups = table.group_names()
    found = [f"{value:g} {unit} ({', '.join(np.unique(groups[values == value]))})" for value in np.unique(values)]
    raise ValueError(
        f"{table.source} mixes {what}: {'; '.join(found[:_SHOWN])}; bring the images to one, or use one group by --ind"
    )


def _optics(table: ParticleTable) -> Optics:
    phase_shift = "rlnPhaseShift"
    optics = Optics(
        voltage_kv=table.numbers("rlnVoltage"),
        cs_mm=table.numbers("rlnSphericalAberration"),
        amplitude_contrast=table.numbers("rlnAmplitudeContrast"),
        defocus_u=table.numbers("rlnDefocusU"),
        defocus_v=table.numbers("rlnDefocusV"),
        defocus_angle=np.deg2rad(table.numbers("rlnDefocusAngle")),
        phase_shift=np.deg2rad(table.numbers(phase_shift)) if phase_shift in table else np.zeros(len(table)),
    )
    for column, values, low, high in [
        ("rlnVoltage", optics.voltage_kv, 10, 3000),
        ("rlnSphericalAberration", optics.cs_mm, 0, 100),
        ("rlnAmplitudeContrast", optics.amplitude_contrast, 0, 1),
    ]:
        outside = values[(values < low) | (values > high)]
        if len(outside):
            raise ValueError(f"{table.source}: expected {column} between {low} and {high}, found {outside[0]:g}")
    return optics


def _poses(table: ParticleTable, pixel_size: float) -> Poses | None:
    absent = [column for column in _ANGLES if column not in table]
    if len(absent) == len(_ANGLES):
        return None
    if absent:
        logger.warning("%s has no column %s: read without orientations", table.source, " or ".join(absent))
        return None
    rot, tilt, psi = (table.numbers(column) for column in _ANGLES)
    if len(rot) > 1 and not rot.any() and not tilt.any():
        logger.warning("%s: all orientations have rot = tilt = 0, as after a 2D classification", table.source)
    return Poses(rotations_from_euler(rot, tilt, psi), -_origins(table, pixel_size))


def _origins(table: ParticleTable, pixel_size: float) -> np.ndarray:
    """Return (n, 2) origins in Å: what moves the image's particle to the centre. Zeros where the file has none."""
    angstroms = _pair(table, "rlnOriginXAngst", "rlnOriginYAngst")
    pixels = _pair(table, "rlnOriginX", "rlnOriginY")
    if pixels is None:
        return np.zeros((len(table), 2)) if angstroms is None else angstroms
    if angstroms is None:
        return pixels * pixel_size
    differing = np.flatnonzero((np.abs(pixels * pixel_size - angstroms) > 0.01).any(axis=1))
    if len(differing):
        row = differing[0]
        raise ValueError(
            f"{table.source} has two origins that disagree, for {len(differing)} particles: the first, "
            f"{table.particles['rlnImageName'][row]}, has rlnOriginXAngst, YAngst of {angstroms[row].tolist()} Å "
            f"and rlnOriginX, Y of {pixels[row].tolist()} pixels of {pixel_size:g} Å; remove the wrong columns"
        )
    return angstroms


def _pair(table: ParticleTable, x: str, y: str) -> np.ndarray | None:
    return np.stack([table.numbers(x), table.numbers(y)], axis=1) if x in table or y in table else None


def write_star_particles(path: str | os.PathLike, particles: Particles) -> None:
    """Write particles as RELION 3.1 and later reads them: optics groups, origins in Å.

    Image names are those of `particles`, which RELION resolves from its project folder; stacks that these do not lead
    to from where the file is written are named relative to its folder. Optics groups are numbered from 1; a group
    whose voltage, aberration or amplitude contrast vary becomes several.
    """
    optics = particles.optics
    per_group = np.stack([particles.optics_group, optics.voltage_kv, optics.cs_mm, optics.amplitude_contrast], axis=1)
    groups, group_of_particle = np.unique(per_group, axis=0, return_inverse=True)
    numbers = np.arange(1, len(groups) + 1)
    optics_table = pd.DataFrame(
        {
            "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers],
            "rlnOpticsGroup": numbers,
            "rlnVoltage": groups[:, 1],
            "rlnSphericalAberration": groups[:, 2],
            "rlnAmplitudeContrast": groups[:, 3],
            "rlnImagePixelSize": particles.pixel_size,
            "rlnImageSize": particles.box,
            "rlnImageDimensionality": 2,
        }
    )
    columns = {
        "rlnImageName": _image_names(Path(path), particles),
        "rlnDefocusU": optics.defocus_u,
        "rlnDefocusV": optics.defocus_v,
        "rlnDefocusAngle": np.rad2deg(optics.defocus_angle),
        "rlnPhaseShift": np.rad2deg(optics.phase_shift),
        **_pose_columns(particles.poses),
        "rlnOpticsGroup": numbers[group_of_particle.reshape(-1)],
    }
    text = starfile.to_string({"optics": optics_table, "particles": pd.DataFrame(columns)})
    text = text.split("\n", 1)[1].replace("\ndata_", "\n# version 30001\n\ndata_")  # no date: same data, same bytes
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _image_names(path: Path, particles: Particles) -> np.ndarray:
    """Return names that lead from `path` to the images."""
    names, of_image = particles.image_names.tolist(), particles.stack_of_image.tolist()
    used, first = np.unique(particles.stack_of_image, return_index=True)
    own = {stack: names[row].rpartition("@")[2] for stack, row in zip(used.tolist(), first.tolist(), strict=True)}
    new = {stack: stack_name(particles.stacks[stack], name, path) for stack, name in own.items()}
    places = zip(names, of_image, particles.slice_of_image.tolist(), strict=True)
    return np.array([n if new[i] == own[i] else f"{place + 1:06d}@{new[i]}" for n, i, place in places])


def _pose_columns(poses: Poses | None) -> dict[str, np.ndarray]:
    if poses is None:
        return {}
    angles = dict(zip(_ANGLES, euler_from_rotations(poses.rotations).T, strict=True))
    return angles | {"rlnOriginXAngst": -poses.shifts[:, 0], "rlnOriginYAngst": -poses.shifts[:, 1]}
