"""Collective variables: distances, angles and dihedrals between the centres of groups of residues."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cryoatom.structure.template import Template, select_residues

KINDS = {"distance": 2, "angle": 3, "dihedral": 4}
_FORM = "[NAME=]KIND:SELECTION/SELECTION..., for example lid=angle:179-185/115-125/125-153"
_NAME = re.compile(r"[\w.+-]+")
_LONGEST = 40  # characters of a name, and of a part of a file name
_TAKEN = "image"  # a column of collective.csv
_RESIDUES_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class CollectiveVariable:
    """One number that tells of a conformation.

    Parameters
    ----------
    name : str
    kind : str
        'distance', 'angle' (the vertex in the middle) or 'dihedral'.
    selections : tuple of (n,) int64
        Indices of the residues of each group.
    text : str
        As the user gave it.
    """

    name: str
    kind: str
    selections: tuple[np.ndarray, ...]
    text: str

    @property
    def unit(self) -> str:
        """'Å' or '°'."""
        return "Å" if self.kind == "distance" else "°"

    @property
    def file_stem(self) -> str:
        """The name with '_' for what a file name should not have; a long one is cut, and ends with its digest."""
        stem = re.sub(r"[^\w.+-]+", "_", self.name)
        if len(stem) <= _LONGEST:
            return stem
        return f"{stem[:_LONGEST]}_{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


def parse_variable(text: str, template: Template) -> CollectiveVariable:
    """Read a collective variable.

    Parameters
    ----------
    text : str
        NAME=KIND:SELECTION/SELECTION[/SELECTION[/SELECTION]]; KIND is distance (two selections), angle (three, the
        vertex in the middle) or dihedral (four). Selections are as in
        :func:`~cryoatom.structure.template.select_residues`: 'A:10-20,35'. Without NAME= the text without blanks is
        the name.
    template : Template

    Raises
    ------
    ValueError
        When the text cannot be read, or a selection selects nothing.
    """
    name, equals, rest = text.strip().rpartition("=")
    kind, colon, groups = rest.partition(":")
    name, kind = name.strip(), kind.strip().lower()
    if not colon or (equals and not _NAME.fullmatch(name)):
        raise ValueError(f"cannot read the collective variable {text!r}; expected {_FORM}; names have no spaces or /")
    if len(name) > _LONGEST:
        raise ValueError(f"{text!r}: a name has at most {_LONGEST} characters, this one has {len(name)}")
    if name.lower() == _TAKEN:
        raise ValueError(f"{text!r}: {name!r} is the column of image numbers; give the variable another name")
    if kind not in KINDS:
        raise ValueError(f"{text!r}: no collective variable is called {kind!r}; there are {', '.join(KINDS)}")
    parts = groups.split("/")
    if len(parts) != KINDS[kind]:
        raise ValueError(f"{text!r}: {kind} takes {KINDS[kind]} selections separated by /, found {len(parts)}")
    selections = []
    for part in parts:
        if not part.strip():
            raise ValueError(f"{text!r}: a selection is empty; expected {_FORM}")
        try:
            selections.append(np.flatnonzero(select_residues(part, template)))
        except ValueError as error:
            raise ValueError(f"collective variable {text!r}: {error}") from None
    for i, j in combinations(range(len(parts)), 2):
        if np.array_equal(selections[i], selections[j]):
            raise ValueError(f"{text!r}: {parts[i].strip()!r} and {parts[j].strip()!r} are the same residues")
    return CollectiveVariable(name or re.sub(r"\s+", "", text), kind, tuple(selections), text)


def parse_variables(texts: Iterable[str], template: Template) -> tuple[CollectiveVariable, ...]:
    """Read several collective variables.

    Raises
    ------
    ValueError
        As :func:`parse_variable`, or when two have the same name.
    """
    variables = tuple(parse_variable(text, template) for text in texts)
    for names in (Counter(v.name for v in variables), Counter(v.file_stem.lower() for v in variables)):
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"two collective variables are called {twice[0]!r}: give them names, NAME=KIND:...")
    return variables


def evaluate(variable: CollectiveVariable, conformations: np.ndarray) -> np.ndarray:
    """Return the variable of each conformation, from the centroids of C-alphas.

    Parameters
    ----------
    variable : CollectiveVariable
    conformations : (images, residues, 3)
        Å; may be mapped into memory, and is read in blocks.

    Returns
    -------
    (images,) float64
        Å; or degrees, 0 to 180 of an angle, -180 to 180 of a dihedral, with the sign of IUPAC (clockwise from the
        first to the last group, seen from the second to the third, is positive).
    """
    values = np.empty(len(conformations))
    at_once = max(1, _RESIDUES_AT_ONCE // conformations.shape[1])
    measure = _MEASURES[variable.kind]
    for start in range(0, len(values), at_once):
        block = np.asarray(conformations[start : start + at_once])
        centres = [block[:, chosen].mean(axis=1, dtype=np.float64) for chosen in variable.selections]
        values[start : start + at_once] = measure(*centres)
    return values


def circular_mean(degrees: np.ndarray) -> float:
    """Return the direction, -180 to 180, of the mean of unit vectors."""
    radians = np.deg2rad(degrees)
    return float(np.rad2deg(np.arctan2(np.sin(radians).mean(), np.cos(radians).mean())))


def unwrapped_about(degrees: np.ndarray | float, middle: float) -> np.ndarray:
    """Return the same directions, from `middle` - 180 to `middle` + 180."""
    return np.asarray(middle + (np.asarray(degrees, dtype=np.float64) - middle + 180) % 360 - 180)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(b - a, axis=1)


def _angle(a: np.ndarray, vertex: np.ndarray, b: np.ndarray) -> np.ndarray:
    first, second = a - vertex, b - vertex
    sine = np.linalg.norm(np.cross(first, second), axis=1)
    return np.rad2deg(np.arctan2(sine, (first * second).sum(axis=1)))


def _dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    before, axis, after = b - a, c - b, d - c
    one, other = np.cross(before, axis), np.cross(axis, after)
    sine = np.linalg.norm(axis, axis=1) * (before * other).sum(axis=1)
    return np.rad2deg(np.arctan2(sine, (one * other).sum(axis=1)))


_MEASURES = {"distance": _distance, "angle": _angle, "dihedral": _dihedral}
