"""Small molecules made in code, and where MDAnalysisTests keeps its real ones."""

from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cryoatom.records import Atoms

HELIX = {  # cylindrical coordinates (radius Å, angle degrees, height Å) of an alpha helix (Arnott & Dover 1967)
    "N": (1.55, -27.9, -0.89),
    "CA": (2.29, 0.0, 0.0),
    "C": (1.65, 26.0, 1.19),
    "O": (1.98, 23.4, 2.39),
    "CB": (3.30, -19.1, -1.19),
}


def data_folder() -> Path:
    """Return MDAnalysisTests' data folder without importing MDAnalysis."""
    spec = find_spec("MDAnalysisTests")
    assert spec is not None and spec.submodule_search_locations, "the tests need the package MDAnalysisTests"
    return Path(spec.submodule_search_locations[0]) / "data"


def make_atoms(names: Sequence[str], **columns: object) -> Atoms:
    """Make atoms of one alanine of chain A at the origin, other columns as given (broadcast)."""
    count = len(names)
    default = {
        "elements": [name[0] for name in names],
        "residue_names": "ALA",
        "chain_ids": "A",
        "residue_numbers": 1,
        "insertion_codes": "",
        "altlocs": "",
        "positions": np.zeros((count, 3)),
        "b_factors": 50.0,
        "occupancies": 1.0,
    }
    values = {**default, "names": list(names), **columns}
    shapes = {"positions": (count, 3)}
    return Atoms(
        **{f.name: np.broadcast_to(values[f.name], shapes.get(f.name, (count,))).copy() for f in fields(Atoms)}
    )


def helix(residues: int, *, names: Sequence[str] = ("N", "CA", "C", "O", "CB"), **columns: object) -> Atoms:
    """Make an alpha helix of `residues` alanines numbered from 1, 1.5 Å and 100° a residue."""
    cylinder = np.array([HELIX[name] for name in names] * residues)
    step = np.repeat(np.arange(residues), len(names))
    angle, height = np.deg2rad(cylinder[:, 1] + 100 * step), cylinder[:, 2] + 1.5 * step
    positions = np.stack([cylinder[:, 0] * np.cos(angle), cylinder[:, 0] * np.sin(angle), height], axis=1)
    return make_atoms(list(names) * residues, positions=positions, residue_numbers=step + 1, **columns)


def join(*parts: Atoms) -> Atoms:
    """Put atoms one after the other."""
    return Atoms(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Atoms)})


def three_helices(**columns: object) -> Atoms:
    """Make helices of 20, 14 and 9 residues along z, x and y from a corner: no rotation brings them near themselves."""
    parts = [helix(count, **columns) for count in (20, 14, 9)]
    places = [parts[0].positions, parts[1].positions[:, [2, 0, 1]] + [4, 6, -6], parts[2].positions[:, [1, 2, 0]]]
    places[2] = places[2] + [-6, 6, 8]
    starts = (0, 40, 80)
    return join(
        *(
            replace(part, positions=place, residue_numbers=part.residue_numbers + start)
            for part, place, start in zip(parts, places, starts, strict=True)
        )
    )
