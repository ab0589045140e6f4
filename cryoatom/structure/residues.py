"""Residue and atom names: the dialects of CHARMM, Amber, GROMACS and the PDB's modified residues to canonical names."""

from __future__ import annotations

from functools import lru_cache

import gemmi

CANONICAL = frozenset("ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL".split())
FORCE_FIELD_NAMES = {
    **dict.fromkeys("HSD HSE HSP HID HIE HIP HISA HISB HISD HISE HISH HISP HIS1 HIS2 HIN".split(), "HIS"),
    **dict.fromkeys("CYX CYM CYSH CYS1 CYS2 CYN CY2 SEC".split(), "CYS"),
    **dict.fromkeys("LYN LSN LYSH LYSN LYP PYL".split(), "LYS"),
    **dict.fromkeys("ASH ASPH ASPP ASPN".split(), "ASP"),
    **dict.fromkeys("GLH GLUH GLUP".split(), "GLU"),
    **dict.fromkeys("ARGN ARN".split(), "ARG"),
    "TYM": "TYR",
    "ASX": "ASN",
    "GLX": "GLN",
    "MSE": "MET",
}
UNKNOWN_RESIDUE = "UNK"
WATERS = frozenset("HOH WAT DOD H2O SOL SPC TIP TIP2 TIP3 TIP4 TIP5 TP3 TP4 TP5 T3P T4P SWM4 TP3M SOLV".split())
CAPS = frozenset("ACE NME NMA NH2 NHE FOR ACX CT3 CT2".split())
BACKBONE = frozenset(("N", "CA", "C"))
SUGAR = (frozenset(("C1'", "C4'")), frozenset(("C1*", "C4*")))


@lru_cache(maxsize=4096)
def canonical_residue(name: str) -> str | None:
    """Return which of the twenty amino acids a residue name stands for; 'UNK' for UNK, None for anything else.

    Modified residues become their parents by gemmi's table of the chemical component dictionary.
    """
    if name in CANONICAL:
        return name
    if name in FORCE_FIELD_NAMES:
        return FORCE_FIELD_NAMES[name]
    tabulated = gemmi.find_tabulated_residue(name)
    if tabulated.is_amino_acid():
        parent = gemmi.expand_one_letter(tabulated.one_letter_code.upper(), gemmi.ResidueKind.AA) or UNKNOWN_RESIDUE
        return parent if parent in CANONICAL else FORCE_FIELD_NAMES.get(parent, UNKNOWN_RESIDUE)
    if len(name) == 4 and name[0] in "NC":  # Amber's terminal residues: NMET, CHIE
        return canonical_residue(name[1:])
    return None


def residue_kind(name: str, atom_names: frozenset[str]) -> str:
    """Return 'amino acid', 'water', 'nucleic acid', 'cap' or 'ligand or ion'."""
    if canonical_residue(name):
        return "amino acid"
    tabulated = gemmi.find_tabulated_residue(name)
    if name in WATERS or tabulated.is_water():
        return "water"
    if name in CAPS:
        return "cap"
    if tabulated.is_nucleic_acid() or any(sugar <= atom_names for sugar in SUGAR):
        return "nucleic acid"
    return "ligand or ion"


def canonical_atoms(residue_name: str, atom_names: list[str]) -> list[str]:
    """Return the PDB's names of a residue's heavy atoms.

    ILE CD is CD1; the carboxylate's OT1/OT2, OC1/OC2 (and O1/O2, where there is no O) are O and OXT; the selenium of
    selenomethionine and selenocysteine is the sulphur of their parents.
    """
    renames = {}
    if residue_name == "ILE" and "CD1" not in atom_names:
        renames["CD"] = "CD1"
    if "O" not in atom_names:
        renames |= {first: "O" for first in ("OT1", "OC1", "O1") if first in atom_names}
    if "OXT" not in atom_names:
        has_pair = any(first in renames for first in ("OT1", "OC1", "O1"))
        renames |= {second: "OXT" for second in ("OT2", "OC2", "OT") if second in atom_names}
        renames |= {"O2": "OXT"} if has_pair else {}
    renames |= {"MET": {"SE": "SD"}, "CYS": {"SE": "SG"}}.get(residue_name, {})
    return [renames.get(name, name) for name in atom_names]
