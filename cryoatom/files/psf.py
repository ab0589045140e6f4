"""PSF topologies (CHARMM, NAMD, XPLOR, EXT): who the atoms of a trajectory are."""

from __future__ import annotations

import re
from pathlib import Path

import gemmi
import numpy as np

from cryoatom.files.pdb import guess_elements, read_bytes
from cryoatom.records import Atoms

RESIDUE_NUMBER = re.compile(r"(-?\d+)(\D?)")
WEIGHTS = {gemmi.Element(z).name: gemmi.Element(z).weight for z in range(1, 93)}
WEIGHT_TOLERANCE = 0.3


def read_psf(path: Path) -> Atoms:
    """Read the atoms of a PSF file; the segment is the chain, positions are zero.

    Columns are split at white space, as NAMD writes them; CHARMM's fixed columns are wide enough for that to hold.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing, is no PSF, or lists fewer atoms than it announces.
    """
    lines = read_bytes(path).decode("latin-1").splitlines()
    start = next((i for i, line in enumerate(lines) if "!NATOM" in line), None)
    if start is None or not lines[0].startswith("PSF"):
        raise ValueError(f"{path} is not a PSF file: expected PSF in its first line and an !NATOM section")
    announced = lines[start].split()[0]
    count = int(announced) if announced.isdecimal() else 0
    if count == 0:
        raise ValueError(f"{path}: expected a number of atoms before !NATOM, found {announced!r}")
    rows = [_split(path, number, line) for number, line in enumerate(lines[start + 1 : start + 1 + count], start + 2)]
    if len(rows) < count:
        raise ValueError(f"{path}: !NATOM announces {count} atoms, the file ends after {len(rows)}")
    segments, numbers, codes, residue_names, names, masses = (np.array(column) for column in zip(*rows, strict=True))
    return Atoms(
        names=names,
        elements=_elements(names, residue_names, masses),
        residue_names=residue_names,
        chain_ids=segments,
        residue_numbers=numbers.astype(np.int64),
        insertion_codes=codes,
        altlocs=np.full(count, "", dtype="U1"),
        positions=np.zeros((count, 3)),
        b_factors=np.zeros(count),
        occupancies=np.ones(count),
    )


def _split(path: Path, number: int, line: str) -> tuple[str, int, str, str, str, float]:
    """Return (segment, residue number, insertion code, residue name, atom name, mass) of one atom line.

    A line has 9 fields, or 11 with CHARMM's charge-equilibration columns; one less where the segment is blank.
    """
    fields = line.split()
    if len(fields) in (8, 10):
        fields.insert(1, "")
    residue = RESIDUE_NUMBER.fullmatch(fields[2]) if len(fields) >= 9 else None
    try:
        if residue is None:
            raise ValueError("no residue number")
        return fields[1], int(residue[1]), residue[2], fields[3], fields[4], float(fields[7])
    except ValueError as error:
        raise ValueError(
            f"{path}, line {number}: expected an atom (serial, segment, residue number, residue, name, type, charge, "
            f"mass), found {line.strip()!r}"
        ) from error


def _elements(names: np.ndarray, residue_names: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Tell elements from names in known residues (hydrogen masses may be repartitioned), else from masses."""
    elements = guess_elements(names, residue_names).astype("U2")
    symbols, weights = np.array(list(WEIGHTS)), np.array(list(WEIGHTS.values()))
    nearest = np.abs(masses[:, None] - weights).argmin(axis=1)
    is_certain = np.abs(masses - weights[nearest]) < WEIGHT_TOLERANCE
    is_polymer = np.array([gemmi.find_tabulated_residue(name).found() for name in residue_names.tolist()])
    use_mass = is_certain & ~is_polymer
    elements[use_mass] = symbols[nearest[use_mass]]
    return elements
