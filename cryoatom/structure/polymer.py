"""From a file's atoms to its protein residues: what is kept and renamed, and a list of what is dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from cryoatom.records import Atoms
from cryoatom.structure.residues import BACKBONE, UNKNOWN_RESIDUE, canonical_atoms, canonical_residue, residue_kind

MAX_CA_DISTANCE = 4.2
MAX_PEPTIDE_DISTANCE = 2.5
HYDROGENS = ("H", "D")
CHAIN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass
class CleaningReport:
    """What was dropped and renamed while protein residues were sorted out.

    Parameters
    ----------
    dropped : dict of str to Counter
        Kind of thing -> name -> how many (residues; for hydrogens, altlocs and duplicates atoms, by residue name).
    renamed : Counter
        'MSE -> MET' -> residues.
    notes : list of str
        Anything else that was decided.
    """

    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    renamed: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def drop(self, kind: str, name: str, count: int = 1) -> None:
        """Note that something was dropped."""
        if count:
            self.dropped.setdefault(kind, Counter())[name] += count


@dataclass(frozen=True)
class Residue:
    """One residue while it is being cleaned: its name in the file and the indices of its atoms."""

    chain: str
    number: int
    code: str
    name: str
    index: np.ndarray


def protein_residues(atoms: Atoms) -> tuple[list[Residue], CleaningReport]:
    """Sort out the protein residues of a file, in chain order.

    Parameters
    ----------
    atoms : Atoms
        All atoms of the file, in file order.

    Returns
    -------
    residues : list of Residue
        Amino acids with a C-alpha; of each the heavy atoms of one conformer.
    report : CleaningReport
    """
    report = CleaningReport()
    candidates = _amino_acids(atoms, report)
    merged = _merge(atoms, candidates, report)
    cleaned = [residue for group in merged if (residue := _one_conformer(atoms, group, report)) is not None]
    ordered = [residue for chain in _by_chain(cleaned) for residue in _chain_order(atoms, chain, report)]
    return _without_free_amino_acids(atoms, ordered, report), report


def clean_atoms(atoms: Atoms, residues: list[Residue], report: CleaningReport) -> tuple[Atoms, np.ndarray, np.ndarray]:
    """Give the atoms of protein residues their canonical names.

    Returns
    -------
    atoms : Atoms
        Residue by residue, alternate locations blank.
    atom_residue : (atoms,) int64
    kept : (atoms,) int64
        The index of each atom in the file.
    """
    kept = np.concatenate([residue.index for residue in residues]).astype(np.int64)
    atom_residue = np.repeat(np.arange(len(residues)), [len(residue.index) for residue in residues])
    names, residue_names, elements = [], [], atoms.elements[kept].copy()
    for residue in residues:
        in_file = atoms.names[residue.index].tolist()
        name = _canonical_name(residue.name, in_file)
        if name != residue.name:
            report.renamed[f"{residue.name} -> {name}"] += 1
        names += canonical_atoms(name, in_file)
        residue_names.append(name)
    elements[(elements == "Se") & np.isin(names, ("SD", "SG"))] = "S"
    cleaned = replace(
        atoms[kept],
        names=np.array(names, dtype=str),
        elements=elements,
        residue_names=np.array(residue_names, dtype=str)[atom_residue],
        chain_ids=np.array([residue.chain for residue in residues], dtype=str)[atom_residue],
        altlocs=np.full(len(kept), "", dtype="U1"),
    )
    return cleaned, atom_residue, kept


def backbone_positions(atoms: Atoms, atom_residue: np.ndarray, residues: int, name: str) -> np.ndarray:
    """Return the (residues, 3) positions of the atom `name`, NaN where a residue has none."""
    result = np.full((residues, 3), np.nan)
    selected = atoms.names == name
    result[atom_residue[selected]] = atoms.positions[selected]
    return result


def peptide_bonded(
    alpha: np.ndarray,
    nitrogen: np.ndarray,
    carbon: np.ndarray,
    chain_ids: np.ndarray,
    residue_numbers: np.ndarray,
) -> np.ndarray:
    """Decide which consecutive residues are bonded.

    Never over more than 4.2 Å between C-alphas or 2.5 Å between C and N. Where C and N are there, they decide, also
    over a gap in the numbering (antibodies, chymotrypsin); where they are not, residue numbers must follow each other.

    Parameters
    ----------
    alpha, nitrogen, carbon : (residues, 3)
        Å, NaN where absent.
    chain_ids, residue_numbers : (residues,)

    Returns
    -------
    (residues - 1,) bool array
    """
    alpha_distance = np.linalg.norm(np.diff(alpha, axis=0), axis=1)
    peptide_distance = np.linalg.norm(nitrogen[1:] - carbon[:-1], axis=1)
    is_near = (alpha_distance <= MAX_CA_DISTANCE) & (chain_ids[1:] == chain_ids[:-1])
    follows = np.isin(np.diff(residue_numbers), (0, 1))
    return is_near & np.where(np.isnan(peptide_distance), follows, peptide_distance <= MAX_PEPTIDE_DISTANCE)


def _amino_acids(atoms: Atoms, report: CleaningReport) -> list[Residue]:
    """Return the runs of atoms that are amino acids, by name or, for unknown names, by backbone and peptide bond."""
    runs = list(_runs(atoms))
    kept = []
    for position, run in enumerate(runs):
        kind = residue_kind(run.name, frozenset(atoms.names[run.index].tolist()))
        if kind == "ligand or ion" and _is_in_chain(atoms, runs, position):
            report.notes.append(f"{_label(run)} {run.name} is unknown, but bonded into the chain: kept as amino acid")
            kind = "amino acid"
        if kind == "amino acid":
            kept.append(run)
        else:
            report.drop(kind, run.name)
    return kept


def _runs(atoms: Atoms) -> Iterator[Residue]:
    columns = (atoms.chain_ids, atoms.residue_numbers, atoms.insertion_codes, atoms.residue_names)
    changes = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    starts = np.flatnonzero(np.concatenate([[True], changes]))
    stops = np.concatenate([starts[1:], [len(atoms)]])
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        chain, number, code, name = (column[start].item() for column in columns)
        yield Residue(chain, number, code, name, np.arange(start, stop))


def _is_in_chain(atoms: Atoms, runs: list[Residue], position: int) -> bool:
    run = runs[position]
    if not BACKBONE <= set(atoms.names[run.index].tolist()):
        return False
    before = runs[position - 1] if position else None
    after = runs[position + 1] if position + 1 < len(runs) else None
    return (before is not None and _is_linked(atoms, before, run)) or (
        after is not None and _is_linked(atoms, run, after)
    )


def _is_linked(atoms: Atoms, first: Residue, second: Residue) -> bool:
    """Tell whether C of the first residue is bonded to N of the second."""
    carbon, nitrogen = _position(atoms, first, "C"), _position(atoms, second, "N")
    if first.chain != second.chain or carbon is None or nitrogen is None:
        return False
    return bool(np.linalg.norm(nitrogen - carbon) <= MAX_PEPTIDE_DISTANCE)


def _position(atoms: Atoms, residue: Residue, name: str) -> np.ndarray | None:
    found = residue.index[atoms.names[residue.index] == name]
    return atoms.positions[found[0]] if len(found) else None


def _merge(atoms: Atoms, residues: list[Residue], report: CleaningReport) -> list[list[Residue]]:
    """Group runs that are one residue: alternate conformers, or atoms listed elsewhere in the file.

    A residue that comes again with the same atoms is the next copy of its chain (files without chain names): it gets a
    chain name of its own. Blank chain names become the first free letter.
    """
    names = dict.fromkeys(residue.chain for residue in residues)
    copies: Counter[str] = Counter()
    groups: dict[tuple[str, int, int, str], list[Residue]] = {}
    for residue in residues:
        key = (residue.chain, copies[residue.chain], residue.number, residue.code)
        if key in groups and _is_repeat(atoms, groups[key], residue):
            copies[residue.chain] += 1
            key = (residue.chain, copies[residue.chain], residue.number, residue.code)
        groups.setdefault(key, []).append(residue)
    chains = {(chain, 0): chain for chain in names if chain}
    result = []
    for key, group in groups.items():
        chain = key[:2]
        if chain not in chains:
            chains[chain] = _free_chain(chain[0], set(chains.values()) | set(names))
            origin = f"chain {chain[0]!r}" if chain[0] else "a chain without a name"
            again = " that starts again" if chain[1] else ""
            report.notes.append(f"{origin}{again} (at residue {key[2]}{key[3]}) is named {chains[chain]!r}")
        result.append([replace(residue, chain=chains[chain]) for residue in group])
    return result


def _is_repeat(atoms: Atoms, group: list[Residue], residue: Residue) -> bool:
    """Tell a second copy of a residue from an alternate conformer or from more atoms of the same residue."""
    if (atoms.altlocs[residue.index] != "").any() or group[-1].index[-1] + 1 == residue.index[0]:
        return False
    present = {name for other in group for name in atoms.names[other.index].tolist()}
    return not present.isdisjoint(atoms.names[residue.index].tolist())


def _free_chain(chain: str, taken: set[str]) -> str:
    if not chain:
        return next((letter for letter in CHAIN_LETTERS if letter not in taken), None) or _free_chain("A", taken)
    return next(name for copy in range(2, len(taken) + 3) if (name := f"{chain}{copy}") not in taken)


def _one_conformer(atoms: Atoms, group: list[Residue], report: CleaningReport) -> Residue | None:
    """Return the heavy atoms of the best occupied conformer that has a C-alpha, or None where there is no C-alpha."""
    index = np.concatenate([residue.index for residue in group])
    is_hydrogen = np.isin(atoms.elements[index], HYDROGENS)
    report.drop("hydrogen atom", "H", int(is_hydrogen.sum()))
    index = index[~is_hydrogen]
    first = group[0]
    altlocs = atoms.altlocs[index]
    best = _best_altloc(atoms, index)
    chosen = index if best is None else index[np.isin(altlocs, ("", best))]
    names = atoms.residue_names[chosen]
    if best is not None and len(names):
        first = replace(first, name=atoms.residue_names[index[altlocs == best][0]].item())
    chosen = chosen[names == first.name]
    report.drop("alternate location (atoms)", first.name, len(index) - len(chosen))
    _, unique = np.unique(atoms.names[chosen], return_index=True)
    report.drop("duplicate atom", first.name, len(chosen) - len(unique))
    chosen = chosen[np.sort(unique)]
    unknown = atoms.elements[chosen] == "X"
    report.drop("atom of no element", first.name, int(unknown.sum()))
    chosen = chosen[~unknown]
    if "CA" not in atoms.names[chosen]:
        report.drop("residue without C-alpha", first.name)
        return None
    return replace(first, index=chosen)


def _best_altloc(atoms: Atoms, index: np.ndarray) -> str | None:
    """Return the alternate location with the highest mean occupancy, of those that have (or share) a C-alpha."""
    altlocs, is_alpha = atoms.altlocs[index], atoms.names[index] == "CA"
    labels = np.unique(altlocs[altlocs != ""]).tolist()
    if not (is_alpha & (altlocs == "")).any():
        labels = [label for label in labels if (is_alpha & (altlocs == label)).any()]
    occupancy = {label: atoms.occupancies[index[altlocs == label]].mean() for label in labels}
    return max(labels, key=lambda label: (round(occupancy[label], 4), -labels.index(label))) if labels else None


def _by_chain(residues: list[Residue]) -> list[list[Residue]]:
    chains: dict[str, list[Residue]] = {}
    for residue in residues:
        chains.setdefault(residue.chain, []).append(residue)
    return list(chains.values())


def _chain_order(atoms: Atoms, chain: list[Residue], report: CleaningReport) -> list[Residue]:
    """Keep the file's order, unless ordering by number closes more peptide bonds (modified residues listed last)."""
    by_number = sorted(chain, key=lambda residue: residue.number)
    if by_number == chain or _links(atoms, by_number) <= _links(atoms, chain):
        return chain
    report.notes.append(f"chain {chain[0].chain!r} is listed out of order: residues sorted by number")
    return by_number


def _links(atoms: Atoms, chain: list[Residue]) -> int:
    return sum(_is_linked(atoms, first, second) for first, second in zip(chain, chain[1:], strict=False))


def _without_free_amino_acids(atoms: Atoms, residues: list[Residue], report: CleaningReport) -> list[Residue]:
    """Drop amino acids that are ligands: with a carboxylate (OXT) and bonded to neither neighbour."""
    kept = []
    for position, residue in enumerate(residues):
        neighbours = residues[max(position - 1, 0) : position + 2]
        is_whole = BACKBONE | {"OXT"} <= set(atoms.names[residue.index].tolist())
        if is_whole and len(residues) > 1 and not _links(atoms, neighbours):
            report.drop("free amino acid", residue.name)
        else:
            kept.append(residue)
    return kept


def _canonical_name(name: str, atom_names: list[str]) -> str:
    canonical = canonical_residue(name) or UNKNOWN_RESIDUE
    if canonical != UNKNOWN_RESIDUE:
        return canonical
    return "ALA" if "CB" in atom_names or "N" not in atom_names else "GLY"


def _label(residue: Residue) -> str:
    return f"{residue.chain}:{residue.number}{residue.code}"
