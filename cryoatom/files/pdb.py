"""The PDB format, column by column, in file order.

gemmi's reader builds a hierarchy: it fuses same-named chains (a homodimer without chain names becomes one chain with
every atom twice) and takes a left-shifted CA without an element column for calcium. Atoms of a topology must keep
their order, so the fixed columns are read here.
"""

from __future__ import annotations

import gzip
import string
import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import gemmi
import numpy as np

from cryoatom.records import Atoms

TWO_LETTER_PREFIXES = ("CL", "BR", "FE", "ZN", "MG", "MN")
CHARMM_IONS = {"SOD": "Na", "CLA": "Cl", "POT": "K", "CAL": "Ca", "CES": "Cs", "LIT": "Li", "ZN2": "Zn", "BAR": "Ba"}
CHAIN_LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
WIDTH = 80


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacking gzip by its magic number."""
    if not path.is_file():
        raise FileNotFoundError(f"structure file {path} does not exist")
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: the gzip data are damaged or cut short: {error}") from error


def read_pdb_atoms(path: Path, model: int = 0) -> Atoms:
    """Read one model (zero-based) of a PDB file; the other models may have other atoms.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_pdb_models`, and when there are fewer models.
    """
    table, numbers, models = _atom_lines(path)
    if model > models[-1]:
        raise ValueError(f"{path} has {models[-1] + 1} model(s); model {model + 1} was asked for")
    table, numbers = table[models == model], numbers[models == model]
    return _atoms(table, _positions(table, path, numbers), path, numbers)


def read_pdb_models(path: Path) -> tuple[Atoms, np.ndarray]:
    """Read every model of a PDB file.

    Models are separated by MODEL, ENDMDL or END. The chain name is the chain column or, where that is blank (CHARMM,
    NAMD), the segment identifier.

    Returns
    -------
    atoms : Atoms
        Of the first model.
    positions : (models, atoms, 3) float64
        Å.

    Raises
    ------
    ValueError
        Without atoms, with unreadable numbers, or with models of different atoms.
    """
    table, numbers, models = _atom_lines(path)
    counts = np.bincount(models)
    if (counts != counts[0]).any():
        raise ValueError(
            f"{path}: models have different numbers of atoms ({counts.min()} to {counts.max()}); "
            "a trajectory needs the same atoms in every model"
        )
    first = table[: counts[0]]
    identity = table.reshape(len(counts), counts[0], WIDTH)[:, :, 12:27]
    differing = np.flatnonzero((identity != identity[0]).any(axis=(1, 2)))
    if len(differing):
        raise ValueError(f"{path}: model {differing[0] + 1} lists other atoms than model 1, or in another order")
    positions = _positions(table, path, numbers).reshape(len(counts), counts[0], 3)
    return _atoms(first, positions[0], path, numbers), positions


def write_pdb_models(path: Path, atoms: Atoms, positions: np.ndarray) -> None:
    """Write (models, atoms, 3) positions; MODEL records only where there is more than one model.

    Chain names of several letters become the first free letter, their own first letter if it is free. There must be
    room for all, see :func:`check_pdb_room`.
    """
    atoms = replace(atoms, chain_ids=_one_letter_chains(atoms.chain_ids))
    heads = [_head(atoms, i) for i in range(len(atoms))]
    tails = [
        f"{o:6.2f}{b:6.2f}          {e.upper():>2}"
        for o, b, e in zip(atoms.occupancies, np.clip(atoms.b_factors, -99.99, 999.99), atoms.elements, strict=True)
    ]
    with open(path, "w", encoding="ascii") as stream:
        for number, model in enumerate(positions, start=1):
            if len(positions) > 1:
                stream.write(f"MODEL     {number % 10000:4d}\n")
            for head, (x, y, z), tail in zip(heads, model.tolist(), tails, strict=True):
                stream.write(f"{head}{x:8.3f}{y:8.3f}{z:8.3f}{tail}\n")
            if len(positions) > 1:
                stream.write("ENDMDL\n")
        stream.write("END\n")


def guess_elements(names: np.ndarray, residue_names: np.ndarray) -> np.ndarray:
    """Tell elements from atom names, where a file has no element column.

    In amino acids, nucleotides and water the first letter decides (CA is carbon, HG hydrogen), except selenium.

    Parameters
    ----------
    names, residue_names : (atoms,) str

    Returns
    -------
    (atoms,) str array
        'X' where a name tells nothing.
    """
    return np.array([_guess_element(n, r) for n, r in zip(names.tolist(), residue_names.tolist(), strict=True)], str)


@lru_cache(maxsize=65536)
def _guess_element(name: str, residue_name: str) -> str:
    letters = name.lstrip("0123456789'\"").upper()
    residue = residue_name.upper()
    if residue in ("MSE", "SEC") and letters.startswith("SE"):
        return "Se"
    if residue in CHARMM_IONS and letters == residue:
        return CHARMM_IONS[residue]
    tabulated = gemmi.find_tabulated_residue(residue)
    is_polymer = tabulated.is_amino_acid() or tabulated.is_nucleic_acid() or tabulated.is_water()
    if not is_polymer:
        if letters.rstrip("0123456789+-") == residue.rstrip("0123456789+-") and known_element(residue[:2]):
            return known_element(residue[:2])
        if letters.startswith(TWO_LETTER_PREFIXES):
            return known_element(letters[:2])
    return known_element(letters[:1]) or "X"


@lru_cache(maxsize=1024)
def known_element(symbol: str) -> str:
    """Return the symbol as the periodic table writes it ('ZN' -> 'Zn'), or '' for none such."""
    symbol = symbol.strip().capitalize()
    element = gemmi.Element(symbol)
    return symbol if element.atomic_number > 0 and element.name == symbol else ""


def elements_or_guess(column: Iterable[str], names: np.ndarray, residue_names: np.ndarray) -> np.ndarray:
    """Take the element column where it holds an element, the atom name elsewhere."""
    elements = np.array([known_element(symbol) for symbol in column], dtype=str)
    unknown = elements == ""
    if unknown.any():
        elements = elements.astype("U2")
        elements[unknown] = guess_elements(names[unknown], residue_names[unknown])
    return elements


def _atom_lines(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the atom records as (records, 80) bytes, their line numbers (from 1) and models (from 0)."""
    lines, numbers, models, model = [], [], [], 0
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        if line.startswith((b"ATOM", b"HETATM")):
            lines.append(line[:WIDTH].ljust(WIDTH))
            numbers.append(number)
            models.append(model)
        elif line.startswith((b"MODEL ", b"END")) and models and models[-1] == model:
            model += 1
    if not lines:
        raise ValueError(f"{path}: no ATOM or HETATM records; expected a PDB file with atoms")
    table = np.frombuffer(b"".join(lines), dtype="S1").reshape(-1, WIDTH)
    return table, np.array(numbers), np.array(models)


def _positions(table: np.ndarray, path: Path, numbers: np.ndarray) -> np.ndarray:
    return np.stack([_floats(table, start, start + 8, path, numbers) for start in (30, 38, 46)], axis=1)


def _atoms(table: np.ndarray, positions: np.ndarray, path: Path, numbers: np.ndarray) -> Atoms:
    names, residue_names = _text(table, 12, 16), _text(table, 17, 21)
    chains, segments, codes = _text(table, 21, 22), _text(table, 72, 76), _text(table, 26, 27)
    is_digit = np.char.isdigit(codes)  # five-digit residue numbers spill into the insertion code
    sequence = np.where(is_digit, _text(table, 22, 27), _text(table, 22, 26))
    return Atoms(
        names=names,
        elements=elements_or_guess(_text(table, 76, 78).tolist(), names, residue_names),
        residue_names=residue_names,
        chain_ids=np.where(chains == "", segments, chains),
        residue_numbers=_residue_numbers(sequence, path, numbers),
        insertion_codes=np.where(is_digit, "", codes),
        altlocs=_text(table, 16, 17),
        positions=positions,
        b_factors=_floats(table, 60, 66, path, numbers, blank=b"0"),
        occupancies=_floats(table, 54, 60, path, numbers, blank=b"1"),
    )


def _text(table: np.ndarray, start: int, stop: int) -> np.ndarray:
    column = np.ascontiguousarray(table[:, start:stop]).view(f"S{stop - start}")[:, 0]
    return np.char.strip(np.char.decode(column, "latin-1"))


def _floats(
    table: np.ndarray, start: int, stop: int, path: Path, numbers: np.ndarray, *, blank: bytes | None = None
) -> np.ndarray:
    column = np.char.strip(np.ascontiguousarray(table[:, start:stop]).view(f"S{stop - start}")[:, 0])
    if blank is not None:
        column = np.where(column == b"", blank, column)
    try:
        values = column.astype(np.float64)
    except ValueError:
        values = np.array([_float_or_nan(text) for text in column])
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad) and blank is not None:
        return np.where(np.isfinite(values), values, float(blank))
    if len(bad):
        raise ValueError(
            f"{path}, line {numbers[bad[0]]}: columns {start + 1}-{stop} hold "
            f"{str(_text(table, start, stop)[bad[0]])!r}, not a number; the file does not keep to the PDB columns"
        )
    return values


def _float_or_nan(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _residue_numbers(texts: np.ndarray, path: Path, numbers: np.ndarray) -> np.ndarray:
    try:
        return texts.astype(np.int64)
    except ValueError:
        pass
    decoded = {text: _hybrid36(text) for text in np.unique(texts).tolist()}
    for text, line in zip(texts.tolist(), numbers.tolist(), strict=False):
        if decoded[text] is None:
            raise ValueError(f"{path}, line {line}: residue number {text!r} is not a number")
    return np.array([decoded[text] for text in texts.tolist()], dtype=np.int64)


def _hybrid36(text: str) -> int | None:
    """Decode a residue number above 9999 written in hybrid-36 (A000 is 10000, a000 follows ZZZZ)."""
    try:
        return int(text)
    except ValueError:
        pass
    if len(text) != 4 or not text.isalnum() or not (text.isupper() or text.islower()) or text[0].isdigit():
        return None
    offset = 10_000 if text.isupper() else 10_000 + 26 * 36**3
    return int(text, 36) - 10 * 36**3 + offset


def _one_letter_chains(chain_ids: np.ndarray) -> np.ndarray:
    chains = list(dict.fromkeys(chain_ids.tolist()))
    letters = {chain: chain for chain in chains if len(chain) <= 1}
    for chain in chains:
        if chain not in letters:
            letters[chain] = next(c for c in chain[0] + CHAIN_LETTERS if c not in letters.values() and c.isalnum())
    return np.array([letters[chain] for chain in chain_ids.tolist()], dtype=str)


def _head(atoms: Atoms, i: int) -> str:
    name, element = atoms.names[i], atoms.elements[i]
    shifted = f" {name:<3}" if len(element) == 1 and len(name) < 4 else f"{name:<4}"
    residue = f"{atoms.residue_names[i]:>3}".ljust(4)
    return (
        f"ATOM  {(i + 1) % 100_000:5d} {shifted}{atoms.altlocs[i]:1}{residue}{atoms.chain_ids[i]:1}"
        f"{atoms.residue_numbers[i]:4d}{atoms.insertion_codes[i]:1}   "
    )


def check_pdb_room(path: Path, atoms: Atoms, positions: np.ndarray) -> None:
    """Check that the PDB format has room for what is to be written to `path`.

    Raises
    ------
    ValueError
        Else: more than 99,999 atoms, more than 62 chains, and the like.
    """
    limits = {
        f"{len(atoms)} atoms (at most 99999)": len(atoms) > 99_999,
        f"{len(np.unique(atoms.chain_ids))} chains (at most {len(CHAIN_LETTERS)})": (
            len(np.unique(atoms.chain_ids)) > len(CHAIN_LETTERS)
        ),
        "residue numbers beyond -999..9999": bool(
            ((atoms.residue_numbers < -999) | (atoms.residue_numbers > 9999)).any()
        ),
        "atom or residue names longer than four letters": (
            (np.char.str_len(atoms.names) > 4).any() or (np.char.str_len(atoms.residue_names) > 4).any()
        ),
        "coordinates beyond -999..9999 Å": bool(positions.size and (positions.min() < -999 or positions.max() > 9999)),
    }
    excess = [text for text, is_exceeded in limits.items() if is_exceeded]
    if excess:
        raise ValueError(f"{path}: the PDB format has no room for {'; '.join(excess)}; write .cif instead")
