"""The template: the protein residues of a structure, their C-alphas, heavy atoms, chains and chain breaks."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from cryoatom.files.structure import is_mmcif, read_atoms, write_atoms
from cryoatom.records import Atoms
from cryoatom.structure.match import Numbered, describe_chains, match_residues
from cryoatom.structure.polymer import backbone_positions, clean_atoms, peptide_bonded, protein_residues
from cryoatom.structure.superpose import kabsch

NEW_CHAIN_JUMP = 1000
BREAK_JUMP = 2
TORN_DISTANCE = 20.0
RANGE = re.compile(r"(?:(?P<chain>[^:,\s]+):)?(?P<start>-?\d+)(?P<code>[A-Za-z]?)(?:-(?P<stop>-?\d+))?")


@dataclass(frozen=True)
class Template:
    """Residues in chain order, one array entry per residue, and their atoms.

    Parameters
    ----------
    positions : (residues, 3) float64
        C-alphas, Å.
    residue_names, chain_ids, insertion_codes : (residues,) str
        One of the twenty amino acids in three letters; chain names may have several letters.
    residue_numbers : (residues,) int64
    confidence : (residues,) float64
        The C-alpha's B factor: pLDDT in AlphaFold's files.
    chain_position : (residues,) int64
        Consecutive bonded residues differ by 1; a break inside a chain jumps by the difference in numbering, at least
        2; a new chain jumps by 1000.
    atoms : Atoms
        Every heavy atom, residue by residue, one conformer.
    atom_residue : (atoms,) int64
        The residue of each atom.
    """

    positions: np.ndarray
    residue_names: np.ndarray
    chain_ids: np.ndarray
    residue_numbers: np.ndarray
    insertion_codes: np.ndarray
    confidence: np.ndarray
    chain_position: np.ndarray
    atoms: Atoms
    atom_residue: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def bonded(self) -> np.ndarray:
        """(residues - 1,) bool: whether residue i is bonded to residue i + 1."""
        return np.diff(self.chain_position) == 1

    @property
    def is_alpha_only(self) -> bool:
        """Whether no residue has more than its C-alpha."""
        return len(self.atoms) == len(self)

    def with_positions(self, positions: np.ndarray) -> Self:
        """Return the template with its atoms at other (atoms, 3) positions; chain breaks stay."""
        atoms = replace(self.atoms, positions=np.asarray(positions, dtype=np.float64))
        return replace(self, atoms=atoms, positions=atoms.positions[self.atoms.names == "CA"])

    def moved(self, rotation: np.ndarray, translation: np.ndarray) -> Self:
        """Return the template after the motion x -> Q x + T, Å."""
        return self.with_positions(self.atoms.positions @ rotation.T + translation)


@dataclass(frozen=True)
class TemplateReport:
    """What reading a template dropped, renamed and found.

    Parameters
    ----------
    dropped : dict of str to Counter
        Kind of thing -> its name -> how many.
    renamed : Counter
        'MSE -> MET' -> residues.
    breaks : tuple of str
        One line per chain break.
    notes : tuple of str
        Decisions about chain names, order and the like.
    kept : (atoms,) int64
        The index in the file of each of the template's atoms: `positions[:, kept]` of a trajectory are theirs.
    """

    dropped: dict[str, Counter[str]]
    renamed: Counter[str]
    breaks: tuple[str, ...]
    notes: tuple[str, ...]
    kept: np.ndarray


def read_template(
    path: str | os.PathLike, *, chains: list[str] | None = None, residues: str | None = None
) -> tuple[Template, TemplateReport]:
    """Read the protein of a structure file as a template.

    Parameters
    ----------
    path : path
        mmCIF or PDB (.gz too); of several models the first.
    chains : list of str, optional
        Keep these chains only.
    residues : str, optional
        Keep these residues only, as :func:`select_residues` reads them.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file cannot be read, has no protein, or the selection is empty.
    """
    return template_from_atoms(read_atoms(path), str(path), chains=chains, residues=residues)


def template_from_atoms(
    atoms: Atoms, source: str, *, chains: list[str] | None = None, residues: str | None = None
) -> tuple[Template, TemplateReport]:
    """Make a template of atoms in file order, for example a trajectory's topology.

    Parameters
    ----------
    atoms : Atoms
    source : str
        Where they come from, for messages.
    chains, residues
        As in :func:`read_template`.
    """
    found, report = protein_residues(atoms)
    if not found:
        dropped = ", ".join(f"{sum(names.values())} x {kind}" for kind, names in report.dropped.items())
        raise ValueError(f"{source}: no protein residue with a C-alpha (found: {dropped or 'no residues'})")
    cleaned, atom_residue, kept = clean_atoms(atoms, found, report)
    template = _assemble(cleaned, atom_residue)
    is_selected = _selection(template, source, chains, residues)
    if not is_selected.all():
        for name in template.residue_names[~is_selected].tolist():
            report.drop("residue not selected", name)
        of_atom = is_selected[atom_residue]
        kept = kept[of_atom]
        template = _assemble(cleaned[of_atom], (np.cumsum(is_selected) - 1)[atom_residue[of_atom]])
    report.notes.extend(_torn(template))
    breaks, notes = tuple(_breaks(template)), tuple(report.notes)
    return template, TemplateReport(report.dropped, report.renamed, breaks, notes, kept)


def select_residues(spec: str, residues: Numbered) -> np.ndarray:
    """Turn a selection into a mask.

    Parameters
    ----------
    spec : str
        Ranges in the file's numbering, separated by commas: '1-29,60-121', or 'A:1-29,60-121,B:5'. A chain name holds
        until the next one; without one the range holds for every chain. '52A' is one inserted residue; ranges
        contain the insertions between their ends.
    residues : Template or Atoms

    Returns
    -------
    (residues,) bool array

    Raises
    ------
    ValueError
        When a range cannot be read or selects nothing.
    """
    mask = np.zeros(len(residues.residue_numbers), dtype=bool)
    chain = None
    for part in spec.split(","):
        found = RANGE.fullmatch(part.strip())
        if found is None:
            raise ValueError(
                f"cannot read {part.strip()!r} in the residue selection {spec!r}; expected 1-29,60-121 or A:1-29"
            )
        chain = found["chain"] or chain
        start = int(found["start"])
        stop = int(found["stop"]) if found["stop"] else start
        inside = (residues.residue_numbers >= start) & (residues.residue_numbers <= stop)
        if found["code"]:
            inside &= residues.insertion_codes == found["code"]
        if chain is not None:
            inside &= residues.chain_ids == chain
        if not inside.any():
            raise ValueError(f"{part.strip()!r} selects no residue; the structure has {describe_chains(residues)}")
        mask |= inside
    return mask


def center_template(template: Template) -> Template:
    """Move the C-alpha centroid to the origin."""
    return template.with_positions(template.atoms.positions - template.positions.mean(axis=0))


def superpose_template(template: Template, onto: Template) -> Template:
    """Move a template onto another structure of the same protein (chains and residues matched by sequence).

    Raises
    ------
    ValueError
        When fewer than three residues match.
    """
    moving, fixed = match_residues(template, onto)
    rotation, translation = kabsch(
        torch.from_numpy(template.positions[moving]), torch.from_numpy(onto.positions[fixed])
    )
    return template.moved(rotation.numpy(), translation.numpy())


def matched_deviation(first: Template, second: Template) -> tuple[int, float]:
    """Return how many residues match, and the RMSD (Å) of their C-alphas where they lie."""
    here, there = match_residues(first, second)
    return len(here), float(np.sqrt(((first.positions[here] - second.positions[there]) ** 2).sum(axis=1).mean()))


def write_template(path: str | os.PathLike, template: Template) -> None:
    """Write a template as mmCIF; reading it gives an equal template."""
    if not is_mmcif(Path(path)):
        raise ValueError(f"{path}: templates are written as mmCIF; name it .cif")
    write_atoms(path, template.atoms)


def _assemble(atoms: Atoms, atom_residue: np.ndarray) -> Template:
    alpha = atoms[atoms.names == "CA"]
    nitrogen, carbon = (backbone_positions(atoms, atom_residue, len(alpha), name) for name in ("N", "C"))
    bonded = peptide_bonded(alpha.positions, nitrogen, carbon, alpha.chain_ids, alpha.residue_numbers)
    return Template(
        positions=alpha.positions,
        residue_names=alpha.residue_names,
        chain_ids=alpha.chain_ids,
        residue_numbers=alpha.residue_numbers,
        insertion_codes=alpha.insertion_codes,
        confidence=alpha.b_factors,
        chain_position=_chain_position(alpha, bonded),
        atoms=atoms,
        atom_residue=atom_residue,
    )


def _chain_position(alpha: Atoms, bonded: np.ndarray) -> np.ndarray:
    jumps = np.where(bonded, 1, np.maximum(np.diff(alpha.residue_numbers), BREAK_JUMP))
    jumps[alpha.chain_ids[1:] != alpha.chain_ids[:-1]] = NEW_CHAIN_JUMP
    return np.concatenate([[0], np.cumsum(jumps)]).astype(np.int64)


def _selection(template: Template, source: str, chains: list[str] | None, residues: str | None) -> np.ndarray:
    mask = np.ones(len(template), dtype=bool)
    if chains:
        missing = [chain for chain in chains if chain not in template.chain_ids]
        if missing:
            raise ValueError(f"{source} has no protein chain {', '.join(missing)}; it has {describe_chains(template)}")
        mask &= np.isin(template.chain_ids, chains)
    if residues:
        mask &= select_residues(residues, template)
    if not mask.any():
        raise ValueError(f"{source}: the chains {chains} have none of the residues {residues}")
    return mask


def _torn(template: Template) -> list[str]:
    """Notice a molecule that a periodic box has torn apart."""
    distances = np.linalg.norm(np.diff(template.positions, axis=0), axis=1)
    follows = (np.diff(template.residue_numbers) == 1) & (template.chain_ids[1:] == template.chain_ids[:-1])
    count = int((follows & (distances > TORN_DISTANCE)).sum())
    text = f"{count} pairs of consecutive residues are over {TORN_DISTANCE:.0f} Å apart: make the molecule whole first"
    return [f"{text} (periodic box)"] if count else []


def _breaks(template: Template) -> list[str]:
    lines = []
    for i in np.flatnonzero(~template.bonded & (template.chain_ids[1:] == template.chain_ids[:-1])).tolist():
        distance = np.linalg.norm(template.positions[i + 1] - template.positions[i])
        ends = [f"{template.residue_numbers[j]}{template.insertion_codes[j]}" for j in (i, i + 1)]
        lines.append(f"{template.chain_ids[i]}:{ends[0]} | {ends[1]} ({distance:.1f} Å)")
    return lines
