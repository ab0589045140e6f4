"""RELION particle files: STAR of RELION 3.0 (one table) and of 3.1, 4 and 5 (an optics table beside the particles)."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import starfile

from cryoatom.files.locate import locate_stacks, stack_name
from cryoatom.files.mrc import open_stack
from cryoatom.files.optics import make_optics
from cryoatom.files.pose_conventions import convert_poses
from cryoatom.files.replacing import replacing
from cryoatom.files.rows import check_rows
from cryoatom.files.sources import OpticsGroups, Places, assemble, common_value
from cryoatom.files.star_table import ParticleTable, read_particle_table, to_numbers
from cryoatom.geometry import euler_from_rotations
from cryoatom.records import Optics, Particles, Poses

logger = logging.getLogger(__name__)

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_REFUSED = {
    "rlnCtfDataAreCtfPremultiplied": "the images are multiplied by their CTF",
    "rlnCtfDataArePhaseFlipped": "the images are phase-flipped",
}
_IDENTITY = {"rlnMagMat00": 1.0, "rlnMagMat11": 1.0, "rlnCtfScalefactor": 1.0}  # what else is neutral at 0
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")  # Zernike coefficients are lists: [0.1,-2e-3]
_CTF_COLUMNS = {
    "voltage_kv": "rlnVoltage",
    "cs_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle": "rlnDefocusAngle",
    "phase_shift": "rlnPhaseShift",
}
_MAY_MISS = ("amplitude_contrast", "phase_shift")
_NOT_MODELLED = (
    *("rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike", "rlnCtfBfactor", "rlnCtfScalefactor"),
    *("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"),
)


@dataclass(frozen=True)
class StarParticles:
    """The particles of a STAR file; each part is read, and checked, when it is asked for."""

    table: ParticleTable

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: np.ndarray) -> Self:
        return replace(self, table=self.table[rows])

    @property
    def source(self) -> Path:
        """The file."""
        return self.table.source

    @property
    def names(self) -> np.ndarray:
        """Image names as they stand in the file."""
        return self._names

    @cached_property
    def _names(self) -> np.ndarray:
        return self.table.particles["rlnImageName"].astype(str)

    @property
    def uids(self) -> None:
        """RELION has no numbers of particles."""
        return None

    def places(self, datadir: Path | None) -> Places:
        """Find the images."""
        _refuse_other_data(self.table)
        names, stack_of_image, slice_of_image = _image_places(self.names.tolist(), self.source)
        stacks = locate_stacks(names, self.source, datadir)
        if "rlnImageSize" in self.table:
            box = round(_common(self.table, self.table.numbers("rlnImageSize"), "box sizes", "pixels"))
        else:
            box = open_stack(stacks[0]).box
        return Places(stacks, stack_of_image, slice_of_image, box)

    def pixel_size(self, box: int) -> float | None:
        """Return the Å per pixel; `box` says nothing."""
        sizes = _pixel_sizes(self.table)
        return None if sizes is None else _common(self.table, sizes, "pixel sizes", "Å")

    def optics(self, amplitude_contrast: float | None = None) -> Optics:
        """Return the CTF parameters; a missing phase shift is 0."""
        _warn_of_ignored_optics(self.table)
        return _optics(self.table, amplitude_contrast)

    def groups(self) -> OpticsGroups | None:
        """Return the optics groups, with their names where the file has these."""
        table = self.table
        if not table.optics and "rlnOpticsGroup" not in table:
            return None
        names = table.optics.get("rlnOpticsGroupName")
        return OpticsGroups(table.optics_row, None if names is None else tuple(names.astype(str).tolist()))

    def poses(self, pixel_size: float, box: int) -> Poses | None:
        """Return the poses. Origins become shifts of the opposite sign; absent ones are 0."""
        return _poses(self.table, pixel_size)


def open_star(path: Path, datadir: Path | None = None) -> StarParticles:
    """Read the tables of a STAR file; `datadir` is not needed for that."""
    return StarParticles(read_particle_table(path))


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
    star = open_star(Path(path))
    if rows is not None:
        check_rows(rows, len(star), star.source)
        star = star[rows]
    return assemble(star, star, star, datadir=datadir)


def _refuse_other_data(table: ParticleTable) -> None:
    """Raise ValueError for data that the single-particle image model is not true of."""
    for column in [*table.optics, *table.particles]:
        if column.startswith("rlnTomo"):
            raise ValueError(f"{table.source} is of a tilt series ({column}): cryoatom reads single particles only")
    series = ("rlnCtfBfactor", "rlnCtfScalefactor")  # Warp and M: both change along a series, which is a group
    if "rlnGroupName" in table and all(column in table for column in series):
        groups = table.values("rlnGroupName").astype(str)
        if all(len(set(zip(groups, table.numbers(column), strict=True))) > len(set(groups)) for column in series):
            raise ValueError(
                f"{table.source} is of a tilt series ({' and '.join(series)} vary within a rlnGroupName): cryoatom "
                "reads single particles only"
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


def _image_places(names: list[str], source: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return stack names, and the stack and zero-based slice of each image, from names like ``000001@a.mrcs``."""
    parts = [name.partition("@") for name in names]
    numbers = to_numbers(np.array([first if at else "1" for first, at, _ in parts]))
    wrong = np.flatnonzero(~((numbers >= 1) & (numbers == np.floor(numbers))))
    if len(wrong):
        raise ValueError(f"{source}: expected image names like 000001@stack.mrcs, found {names[wrong[0]]!r}")
    stack_names = [last if at else first for first, at, last in parts]
    numbered = {name: number for number, name in enumerate(dict.fromkeys(stack_names))}
    alone = Counter(first for first, at, _ in parts if not at)
    for name, count in alone.items():
        if count > 1:
            raise ValueError(f"{source}: {name!r} names {count} images: expected 000001@{name} and so on")
    stack_of_image = np.array([numbered[name] for name in stack_names])
    return list(numbered), stack_of_image, numbers.astype(np.int64) - 1


def _pixel_sizes(table: ParticleTable) -> np.ndarray | None:
    if "rlnImagePixelSize" in table:
        return table.numbers("rlnImagePixelSize")
    if "rlnDetectorPixelSize" in table and "rlnMagnification" in table:
        return 1e4 * table.numbers("rlnDetectorPixelSize") / table.numbers("rlnMagnification")
    return None


def _common(table: ParticleTable, values: np.ndarray, what: str, unit: str) -> float:
    return common_value(table.source, values, what, unit, table.group_names())


def _optics(table: ParticleTable, amplitude_contrast: float | None) -> Optics:
    values = {field: table.numbers(column) for field, column in _CTF_COLUMNS.items() if field not in _MAY_MISS}
    if _CTF_COLUMNS["phase_shift"] in table:
        values["phase_shift"] = table.numbers(_CTF_COLUMNS["phase_shift"])
    if _CTF_COLUMNS["amplitude_contrast"] in table:
        values["amplitude_contrast"] = to_numbers(table.values(_CTF_COLUMNS["amplitude_contrast"]))
    for field in {"defocus_angle", "phase_shift"} & set(values):
        values[field] = np.deg2rad(values[field])
    return make_optics(table.source, values, _CTF_COLUMNS, amplitude_contrast)


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
    names = table.particles["rlnImageName"]
    angles = np.stack([rot, tilt, psi], axis=1)
    return convert_poses(table.source, "relion", angles, _origins(table, pixel_size), 1.0, names)


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
    to from where the file is written are named relative to its folder. Optics groups are numbered from 1 and keep their
    names; a group whose voltage, aberration or amplitude contrast vary becomes several.
    """
    optics = particles.optics
    per_group = np.stack([particles.optics_group, optics.voltage_kv, optics.cs_mm, optics.amplitude_contrast], axis=1)
    groups, group_of_particle = np.unique(per_group, axis=0, return_inverse=True)
    numbers = np.arange(1, len(groups) + 1)
    optics_table = pd.DataFrame(
        {
            "rlnOpticsGroupName": _group_names(particles, groups[:, 0].astype(np.int64)),
            "rlnOpticsGroup": numbers,
            "rlnVoltage": _nine_digits(groups[:, 1]),
            "rlnSphericalAberration": _nine_digits(groups[:, 2]),
            "rlnAmplitudeContrast": _nine_digits(groups[:, 3]),
            "rlnImagePixelSize": _nine_digits(np.full(len(groups), particles.pixel_size)),
            "rlnImageSize": particles.box,
            "rlnImageDimensionality": 2,
        }
    )
    columns = {
        "rlnImageName": _image_names(Path(path), particles),
        "rlnDefocusU": _nine_digits(optics.defocus_u),
        "rlnDefocusV": _nine_digits(optics.defocus_v),
        "rlnDefocusAngle": _nine_digits(np.rad2deg(optics.defocus_angle)),
        "rlnPhaseShift": _nine_digits(np.rad2deg(optics.phase_shift)),
        **_pose_columns(particles.poses),
        "rlnOpticsGroup": numbers[group_of_particle.reshape(-1)],
    }
    text = starfile.to_string({"optics": optics_table, "particles": pd.DataFrame(columns)}, float_format="%.12g")
    text = text.split("\n", 1)[1].replace("\ndata_", "\n# version 30001\n\ndata_")  # no date: same data, same bytes
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _group_names(particles: Particles, groups: np.ndarray) -> list[str]:
    """Return a name of its own for each group that is written; `groups` are the numbers of those they come from."""
    if particles.optics_group_names is None:
        return [f"opticsGroup{number}" for number in range(1, len(groups) + 1)]
    names, seen = [], Counter()
    for group in groups.tolist():
        name = particles.optics_group_names[group]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


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
    origins = _nine_digits(-poses.shifts)
    return angles | {"rlnOriginXAngst": origins[:, 0], "rlnOriginYAngst": origins[:, 1]}


def _nine_digits(values: np.ndarray) -> np.ndarray:
    """Return values of nine significant digits: they tell all single-precision numbers apart, see `assemble`."""
    magnitude = np.floor(np.log10(np.abs(np.where(values == 0, 1.0, values))))
    factor = 10.0 ** (8 - magnitude)
    return np.round(values * factor) / factor + 0.0
