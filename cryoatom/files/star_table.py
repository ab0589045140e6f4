"""The tables of a RELION particle file as columns: particles, each with its optics group's values."""

from __future__ import annotations

import linecache
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import starfile

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class ParticleTable:
    """Columns of a particle file; one that the particles lack is that of their optics group.

    Parameters
    ----------
    source : Path
    particles, optics : dict of array
        Columns as they stand in the file. `optics` has one row per group, and no column where the file has no such
        table.
    optics_row : (n,) int64
        Row of `optics` of each particle.
    """

    source: Path
    particles: Columns
    optics: Columns
    optics_row: np.ndarray

    def __len__(self) -> int:
        return len(self.optics_row)

    def __contains__(self, column: str) -> bool:
        return column in self.particles or column in self.optics

    def __getitem__(self, rows: np.ndarray) -> Self:
        particles = {column: values[rows] for column, values in self.particles.items()}
        return replace(self, particles=particles, optics_row=self.optics_row[rows])

    def values(self, column: str) -> np.ndarray:
        """Return a column as it stands in the file, one value per particle."""
        if column in self.particles:
            return self.particles[column]
        if column in self.optics:
            return self.optics[column][self.optics_row]
        where = "its particle table or its optics table" if self.optics else "its table"
        raise ValueError(f"{self.source} has no column {column} in {where}, which cryoatom cannot do without")

    def numbers(self, column: str) -> np.ndarray:
        """Return a column as finite float64 numbers."""
        values = self.values(column)
        numbers = to_numbers(values)
        wrong = np.flatnonzero(~np.isfinite(numbers))
        if len(wrong):
            name, more = self.particles["rlnImageName"][wrong[0]], f" and {len(wrong) - 1} more of this kind"
            raise ValueError(
                f"{self.source}: expected finite numbers in column {column}, found {values[wrong[0]]!s} for image "
                f"{name}{more if len(wrong) > 1 else ''}"
            )
        return numbers

    def group_names(self) -> np.ndarray:
        """Return the name of each particle's optics group."""
        if "rlnOpticsGroupName" in self.optics:
            return self.optics["rlnOpticsGroupName"].astype(str)[self.optics_row]
        return np.array([f"optics group {row + 1}" for row in range(self.optics_row.max() + 1)])[self.optics_row]


def to_numbers(values: np.ndarray) -> np.ndarray:
    """Return values as float64, NaN for what is no number."""
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        return np.array([_to_number(value) for value in values])


def _to_number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return np.nan


def read_particle_table(path: Path) -> ParticleTable:
    """Read the particles of a STAR file, with the optics groups they belong to.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no STAR file, has no particles, or its optics groups do not match.
    """
    blocks = _read_blocks(path)
    with_images = [name for name, block in blocks.items() if "rlnImageName" in block]
    name = "particles" if "particles" in with_images else with_images[0] if len(with_images) == 1 else None
    if not blocks:
        raise ValueError(
            f"{path} is not a STAR file: it has no data_ block" + ("" if path.stat().st_size else " (it is empty)")
        )
    if name is None:
        found = ", ".join(f"data_{name}" for name in blocks) or "none"
        problem = "more than one has" if with_images else "none has"
        raise ValueError(f"{path}: expected a table of particles with a column rlnImageName, {problem}; found {found}")
    particles = blocks[name]
    count = len(particles["rlnImageName"])
    if count == 0:
        raise ValueError(f"{path}: its table data_{name} has no particles")
    optics = blocks.get("optics")
    if optics:
        return ParticleTable(path, particles, optics, _optics_rows(particles, optics, path))
    groups = particles.get("rlnOpticsGroup", np.zeros(count))
    return ParticleTable(path, particles, {}, np.unique(groups, return_inverse=True)[1].astype(np.int64))


def _read_blocks(path: Path) -> dict[str, Columns]:
    if not path.is_file():
        raise FileNotFoundError(f"no particle file {path}")
    linecache.checkcache(str(path))  # starfile reads through linecache and leaves its cache filled after an error
    try:
        blocks = starfile.read(path, always_dict=True)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is not a STAR file that can be read: {' '.join(str(error).split())}") from None
    return {str(name): _columns(block, f"{path}: its table data_{name}") for name, block in blocks.items()}


def _columns(block: Any, table: str) -> Columns:
    if isinstance(block, dict):  # a block without loop_ is a table of one row
        return {str(name): np.array([value]) for name, value in block.items()}
    twice = block.columns[block.columns.duplicated()]
    if len(twice):
        raise ValueError(f"{table} has the column {twice[0]} more than once")
    return {str(name): np.asarray(block[name]) for name in block.columns}


def _optics_rows(particles: Columns, optics: Columns, path: Path) -> np.ndarray:
    """Return the row of the optics table of each particle."""
    if len(next(iter(optics.values()))) == 1 and not ("rlnOpticsGroup" in optics and "rlnOpticsGroup" in particles):
        return np.zeros(len(particles["rlnImageName"]), np.int64)
    for name, table in [("optics", optics), ("particle", particles)]:
        if "rlnOpticsGroup" not in table:
            raise ValueError(f"{path} has several optics groups and no column rlnOpticsGroup in its {name} table")
    known = optics["rlnOpticsGroup"].tolist()
    row_of_group = {group: row for row, group in enumerate(known)}
    if len(row_of_group) < len(known):
        raise ValueError(f"{path}: its optics table has a group twice: {', '.join(map(str, known))}")
    groups, inverse = np.unique(particles["rlnOpticsGroup"], return_inverse=True)
    unknown = [group for group in groups.tolist() if group not in row_of_group]
    if unknown:
        raise ValueError(f"{path} has particles of optics group {unknown[0]}, which its optics table lacks")
    return np.array([row_of_group[group] for group in groups.tolist()])[inverse.reshape(-1)]
