"""Atomic structures: mmCIF and PDB files to and from :class:`~cryoatom.records.Atoms`, in file order."""

from __future__ import annotations

import os
from pathlib import Path

import gemmi
import numpy as np

from cryoatom.files.pdb import check_pdb_room, elements_or_guess, read_pdb_atoms, read_pdb_models, write_pdb_models
from cryoatom.files.replacing import replacing
from cryoatom.records import Atoms

PDB_SUFFIXES = (".pdb", ".ent")
MMCIF_SUFFIXES = (".cif", ".mmcif")
AtomSite = dict[str, list]


def read_atoms(path: str | os.PathLike, model: int = 0) -> Atoms:
    """Read one model of an mmCIF or PDB file.

    Parameters
    ----------
    path : path
        .cif, .mmcif, .pdb or .ent, plain or gzipped (.gz).
    model : int
        Zero-based.

    Returns
    -------
    Atoms
        Every atom of the model, nothing dropped, in file order. Chains and residues as their authors number them,
        or by mmCIF labels where a file (AlphaFold 3) has no author columns.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing, of another kind, without atoms, damaged, or has fewer models.
    """
    path = Path(path)
    if not is_mmcif(path):
        return read_pdb_atoms(path, model)
    site = _read_atom_site(path)
    models = _models(site)
    if model >= models[-1] + 1:
        raise ValueError(f"{path} has {models[-1] + 1} model(s); model {model + 1} was asked for")
    return _atoms(path, site)[models == model]


def read_models(path: str | os.PathLike) -> tuple[Atoms, np.ndarray]:
    """Read every model of an mmCIF or PDB file.

    Returns
    -------
    atoms : Atoms
        Of the first model.
    positions : (models, atoms, 3) float64
        Å.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_atoms`, and when the models do not have the same atoms in the same order.
    """
    path = Path(path)
    if not is_mmcif(path):
        return read_pdb_models(path)
    site = _read_atom_site(path)
    models, atoms = _models(site), _atoms(path, site)
    counts = np.bincount(models)
    if (counts != counts[0]).any():
        raise ValueError(f"{path}: models have different numbers of atoms ({counts.min()} to {counts.max()})")
    names = np.char.add(atoms.names, atoms.residue_numbers.astype(str)).reshape(len(counts), -1)
    if (names != names[0]).any():
        raise ValueError(f"{path}: the models list different atoms, or the same in another order")
    return atoms[models == 0], atoms.positions.reshape(len(counts), -1, 3)


def write_atoms(path: str | os.PathLike, atoms: Atoms) -> None:
    """Write atoms as mmCIF or PDB, by the suffix.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is missing, the suffix unknown, or the PDB format too narrow.
    """
    write_models(path, atoms, atoms.positions[None])


def write_models(path: str | os.PathLike, atoms: Atoms, positions: np.ndarray) -> None:
    """Write (models, atoms, 3) positions of the same atoms as a file of one or several models."""
    path = Path(path)
    write = _write_mmcif_models if is_mmcif(path) else write_pdb_models
    if write is write_pdb_models:
        check_pdb_room(path, atoms, positions)
    with replacing(path) as temporary:
        write(temporary, atoms, positions)


def format_suffix(path: Path) -> str:
    """Return the suffix that names a file's format, in lower case: that before .gz, '' without one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def is_mmcif(path: Path) -> bool:
    """Tell mmCIF from PDB by the suffix; any other suffix is a ValueError."""
    suffix = format_suffix(path)
    if suffix not in PDB_SUFFIXES + MMCIF_SUFFIXES:
        raise ValueError(f"{path}: expected a structure named .cif, .mmcif, .pdb or .ent (.gz too), not {suffix!r}")
    return suffix in MMCIF_SUFFIXES


def _read_atom_site(path: Path) -> AtomSite:
    if not path.is_file():
        raise FileNotFoundError(f"structure file {path} does not exist")
    try:
        document = gemmi.cif.read(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).removeprefix(f"{path}:")
        raise ValueError(f"{path} is not a readable mmCIF file, or was cut off: {reason}") from error
    for block in document:
        try:
            site = block.get_mmcif_category("_atom_site.")
        except RuntimeError as error:
            raise ValueError(f"{path} is not a readable mmCIF file: {error}") from error
        if site and all(site.values()):
            return site
    raise ValueError(f"{path}: no _atom_site table; expected an mmCIF file with atoms")


def _atoms(path: Path, site: AtomSite) -> Atoms:
    names = _strings(path, site, "auth_atom_id", "label_atom_id")
    residue_names = _strings(path, site, "auth_comp_id", "label_comp_id")
    symbols = _strings(path, site, "type_symbol") if "type_symbol" in site else np.full(len(names), "")
    optional = {tag: site.get(tag, [None] * len(names)) for tag in ("pdbx_PDB_ins_code", "label_alt_id")}
    return Atoms(
        names=names,
        elements=elements_or_guess(symbols.tolist(), names, residue_names),
        residue_names=residue_names,
        chain_ids=_strings(path, site, "auth_asym_id", "label_asym_id"),
        residue_numbers=_numbers(path, site, ("auth_seq_id", "label_seq_id"), 0).astype(np.int64),
        insertion_codes=_strings(path, optional, "pdbx_PDB_ins_code"),
        altlocs=_strings(path, optional, "label_alt_id"),
        positions=np.stack([_numbers(path, site, (f"Cartn_{axis}",), None) for axis in "xyz"], axis=1),
        b_factors=_numbers(path, site, ("B_iso_or_equiv",), 0.0),
        occupancies=_numbers(path, site, ("occupancy",), 1.0),
    )


def _models(site: AtomSite) -> np.ndarray:
    """Return each atom's zero-based model, models counted in order of appearance."""
    labels = site.get("pdbx_PDB_model_num") or [None] * len(next(iter(site.values())))
    order = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return np.array([order[label] for label in labels], dtype=np.int64)


def _strings(path: Path, site: AtomSite, *tags: str) -> np.ndarray:
    """Return the first of the columns that has a value, row by row ('' for . and ?)."""
    columns = [np.array([value or "" for value in site[tag]], dtype=str) for tag in tags if tag in site]
    if not columns:
        raise ValueError(f"{path}: the _atom_site table has no column {' or '.join(tags)}")
    result = columns[0]
    for column in columns[1:]:
        result = np.where(result == "", column, result)
    return result


def _numbers(path: Path, site: AtomSite, tags: tuple[str, ...], default: float | None) -> np.ndarray:
    if default is not None and not any(tag in site for tag in tags):
        return np.full(len(next(iter(site.values()))), default, dtype=np.float64)
    texts = _strings(path, site, *tags)
    if default is not None:
        texts = np.where(texts == "", str(default), texts)
    try:
        values = texts.astype(np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: _atom_site.{tags[0]} holds a value that is no number ({error})") from error
    if not np.isfinite(values).all():
        atom = np.flatnonzero(~np.isfinite(values))[0] + 1
        raise ValueError(f"{path}: _atom_site.{tags[0]} of atom {atom} is not finite")
    return values


def _write_mmcif_models(path: Path, atoms: Atoms, positions: np.ndarray) -> None:
    count = len(positions)
    text = _residue_columns(atoms) | {
        "type_symbol": [element.upper() for element in atoms.elements.tolist()],
        "label_atom_id": atoms.names.tolist(),
        "label_alt_id": [altloc or False for altloc in atoms.altlocs.tolist()],
        "occupancy": [f"{value:.2f}" for value in atoms.occupancies.tolist()],
        "B_iso_or_equiv": [f"{value:.2f}" for value in atoms.b_factors.tolist()],
        "auth_atom_id": atoms.names.tolist(),
    }
    site: AtomSite = {
        "group_PDB": ["ATOM"] * (count * len(atoms)),
        "id": [str(serial) for serial in range(1, count * len(atoms) + 1)],
    }
    site |= {tag: column * count for tag, column in text.items()}
    for axis, values in zip("xyz", positions.reshape(-1, 3).T.tolist(), strict=True):
        site[f"Cartn_{axis}"] = [f"{value:.4f}" for value in values]
    site["pdbx_PDB_model_num"] = [str(model) for model in range(1, count + 1) for _ in range(len(atoms))]
    document = gemmi.cif.Document()
    document.add_new_block(path.name.strip(".").split(".")[0] or "structure").set_mmcif_category("_atom_site.", site)
    # gemmi's own writer says nothing of a full disk
    path.write_text(document.as_string(gemmi.cif.WriteOptions(gemmi.cif.Style.Aligned)), encoding="utf-8")


def _residue_columns(atoms: Atoms) -> AtomSite:
    """Return the columns that name residues; label numbers count the residues of a chain from 1."""
    chains, numbers = atoms.chain_ids.tolist(), atoms.residue_numbers.tolist()
    codes = atoms.insertion_codes.tolist()
    label_numbers, counts, previous = [], {}, None
    for key in zip(chains, numbers, codes, strict=True):
        if key != previous:
            counts[key[0]] = counts.get(key[0], 0) + 1
        label_numbers.append(str(counts[key[0]]))
        previous = key
    entities = {chain: str(index) for index, chain in enumerate(dict.fromkeys(chains), start=1)}
    return {
        "label_comp_id": atoms.residue_names.tolist(),
        "label_asym_id": [chain or False for chain in chains],
        "label_entity_id": [entities[chain] for chain in chains],
        "label_seq_id": label_numbers,
        "pdbx_PDB_ins_code": [code or None for code in codes],
        "auth_seq_id": [str(number) for number in numbers],
        "auth_comp_id": atoms.residue_names.tolist(),
        "auth_asym_id": [chain or False for chain in chains],
    }
