"""A subset of a RELION particle file, made from its text: what is kept stays as it was, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cryoatom.files.replacing import replacing
from cryoatom.files.rows import check_rows
from cryoatom.geometry import euler_from_rotations
from cryoatom.records import Poses

Kind = Literal["block", "column", "value", "row", "other"]

_WORD = re.compile(rb"'[^']*'|\"[^\"]*\"|\S+")
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_IMAGE_NAME = "rlnImageName"


@dataclass(frozen=True)
class StarLayout:
    """How the table of particles lies in a STAR file.

    Parameters
    ----------
    block : int
        Which data_ block of the file it is, from 0.
    columns : tuple of str
    has_optics : bool
        The file has a data_optics block, as RELION 3.1 and later write it.
    """

    block: int
    columns: tuple[str, ...]
    has_optics: bool


def write_star_rows(
    source: Path,
    rows: np.ndarray,
    target: Path,
    *,
    names: list[str] | None = None,
    changes: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write some particles of a STAR file: all other lines stay, in their order, and so do the rows that are kept.

    Optics groups that no particle is left of stay, too: RELION accepts them. The file is read as a stream.

    Parameters
    ----------
    source : Path
        RELION 3.0 (one table) to 5 (optics and particles).
    rows : (m,) int array
        Zero-based, distinct; the particles are written in the order of the file, whatever the order here.
    target : Path
        Another file. Image names are kept as they are: RELION looks them up from its project folder.
    names : list of m str, optional
        Image names that the rows must have.
    changes : mapping of str to (m,) float array, optional
        Columns with new values; one that the table lacks becomes its last. Kept rows then differ from the original
        in these alone.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For a file without one table of particles, rows that it lacks, or rows with other names.
    """
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the particle file itself: give the subset another name")
    layout, order = read_star_layout(source), np.argsort(rows, kind="stable")
    expected = None if names is None else [names[place] for place in order.tolist()]
    values = {name: _shown(column[order]) for name, column in (changes or {}).items()}
    subset = _Subset(source, layout, rows[order], expected, values)
    with replacing(target) as temporary, source.open("rb") as old, temporary.open("wb") as new:
        new.writelines(subset.lines(old))
        check_rows(rows, subset.count, source)


def read_star_layout(source: Path) -> StarLayout:
    """Find the table of particles: the one that has image names; data_particles where there are several.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If there is no such table.
    """
    if not source.is_file():
        raise FileNotFoundError(f"no particle file {source}")
    names, columns = [], []
    with source.open("rb") as file:
        for kind, line in _parts(file):
            if kind == "block":
                names.append(line.strip()[5:].decode("utf-8", "replace"))
                columns.append([])
            elif kind in ("column", "value"):
                columns[-1].append(line.split()[0][1:].decode("utf-8", "replace"))
    found = [block for block, own in enumerate(columns) if _IMAGE_NAME in own]
    preferred = [block for block in found if names[block] == "particles"] or found
    if len(preferred) != 1:
        raise ValueError(f"{source}: expected one table of particles with a column rlnImageName, found {len(found)}")
    return StarLayout(preferred[0], tuple(columns[preferred[0]]), "optics" in names)


def star_pose_changes(layout: StarLayout, poses: Poses, pixel_size: float) -> dict[str, np.ndarray]:
    """Return the columns that hold poses in a file of this layout, for `changes` of :func:`write_star_rows`.

    Origins are the opposite of shifts, in Å or, where the file has rlnOriginX or is of RELION 3.0, in pixels. Priors
    of angles that the file has, which RELION's local searches start from, become the angles, too.
    """
    angles = dict(zip(_ANGLES, euler_from_rotations(poses.rotations).T, strict=True))
    changes = angles | {f"{name}Prior": v for name, v in angles.items() if f"{name}Prior" in layout.columns}
    has_pixels = "rlnOriginX" in layout.columns or "rlnOriginY" in layout.columns
    has_angstroms = "rlnOriginXAngst" in layout.columns or "rlnOriginYAngst" in layout.columns
    x, y = -poses.shifts.T
    if has_pixels or not (has_angstroms or layout.has_optics):
        changes |= {"rlnOriginX": x / pixel_size, "rlnOriginY": y / pixel_size}
    if has_angstroms or (layout.has_optics and not has_pixels):
        changes |= {"rlnOriginXAngst": x, "rlnOriginYAngst": y}
    return changes


def _shown(values: np.ndarray) -> list[bytes]:
    return [f"{value + 0.0:.12g}".encode() for value in values.tolist()]


def _words(line: bytes) -> list[bytes]:
    return [word.group() for word in _WORD.finditer(line)]


def _parts(lines: Iterable[bytes]) -> Iterator[tuple[Kind, bytes]]:
    """Tell what each line is, as the package starfile takes it: rows go on until the next block."""
    state: Literal["outside", "values", "header", "rows"] = "outside"
    for line in lines:
        text = line.strip()
        if text.startswith(b"data_"):
            state = "values"
            yield "block", line
        elif not text or text.startswith(b"#") or state == "outside":
            yield "other", line
        elif state == "values":
            state = "header" if text.startswith(b"loop_") else state
            yield "value" if text.startswith(b"_") else "other", line
        elif state == "header" and text.startswith(b"_"):
            yield "column", line
        else:
            state = "rows"
            yield "row", line


class _Subset:
    """The lines of a subset; `count` is the number of particles that the file was found to have."""

    def __init__(
        self,
        source: Path,
        layout: StarLayout,
        rows: np.ndarray,
        names: list[str] | None,
        values: dict[str, list[bytes]],
    ):
        self._source, self._layout, self._rows, self._names = source, layout, rows.tolist(), names
        self._values = {name: column for name, column in values.items() if name in layout.columns}
        self._added = {name: column for name, column in values.items() if name not in layout.columns}
        self.count = 0

    def lines(self, file: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what is kept."""
        block, headed, kept, wanted = -1, 0, 0, iter([*self._rows, -1])
        following = next(wanted)
        for kind, line in _parts(file):
            block += kind == "block"
            if block != self._layout.block or kind in ("block", "other"):
                yield line
            elif kind == "row":
                if self.count == following:
                    yield self._row(line, kept)
                    kept, following = kept + 1, next(wanted)
                self.count += 1
            else:
                headed += 1
                self.count = int(kind == "value")
                yield self._single(line) if kind == "value" else line
                if headed == len(self._layout.columns):
                    yield from self._added_headers(line, kind)

    def _row(self, line: bytes, place: int) -> bytes:
        if self._names is not None:
            at = self._layout.columns.index(_IMAGE_NAME)
            words = _words(line) if b"'" in line or b'"' in line else line.split(None, at + 1)
            self._check_name(b"" if len(words) <= at else words[at], place)
        return self._changed(line, place) if self._values or self._added else line

    def _changed(self, line: bytes, place: int) -> bytes:
        spans = [word.span() for word in _WORD.finditer(line.partition(b" #")[0])]
        if len(spans) != len(self._layout.columns):
            raise ValueError(
                f"{self._source}: expected {len(self._layout.columns)} values in the row of each particle, found "
                f"{len(spans)} in {line[:80]!r}"
            )
        added = [column[place] for column in self._added.values()]
        gap, end = b"\t" if b"\t" in line else b" ", spans[-1][1]
        line = gap.join([line[:end], *added]) + line[end:]
        for at in sorted((self._layout.columns.index(name) for name in self._values), reverse=True):
            first, last = spans[at]
            line = line[:first] + self._values[self._layout.columns[at]][place] + line[last:]
        return line

    def _check_name(self, word: bytes, place: int) -> None:
        name = word.strip(b"'\"").decode("utf-8", "replace")
        if self._names is not None and name != self._names[place]:
            raise ValueError(
                f"{self._source} has changed: expected the image {self._names[place]} in row {self._rows[place]} "
                f"(from 0), found {name}; use the file that the run was trained on"
            )

    def _single(self, line: bytes) -> bytes:
        """Return a line of a table without loop_, which holds the one particle there is."""
        name, value = _words(line)[:2]
        column = name[1:].decode("utf-8", "replace")
        if column == _IMAGE_NAME:
            self._check_name(value, 0)
        if column not in self._values:
            return line
        return line[: line.rindex(value)] + self._values[column][0] + line[line.rindex(value) + len(value) :]

    def _added_headers(self, line: bytes, kind: Kind) -> Iterator[bytes]:
        end = line[len(line.rstrip()) :].lstrip(b" \t") or b"\n"
        for number, (name, column) in enumerate(self._added.items(), len(self._layout.columns) + 1):
            yield b"_" + name.encode() + (b" %b" % column[0] if kind == "value" else b" #%d" % number) + end
