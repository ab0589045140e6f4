"""What a residue weighs and how wide its projection is (numbers of Prins et al., appendix C)."""

from __future__ import annotations

import numpy as np

AMINO_ACIDS = (
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE",
    "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL",
)  # fmt: skip

# Electrons of a residue in a chain, and the width in Å of the Gaussian that fits its projection, averaged over
# orientations, best. Values published with Prins et al. 2024; benchmarks/residue_widths.py derives them again: they
# differ by 0.05 Å on average and by 0.17 Å (TRP) at most.
_ELECTRONS = (38, 85, 60, 59, 54, 68, 67, 30, 72, 62, 62, 71, 70, 78, 52, 46, 54, 98, 86, 54)
_WIDTHS = (1.4, 2.15, 1.65, 1.7, 1.6, 1.85, 1.9, 1.4, 1.9, 1.6, 1.65, 1.85, 1.85, 1.95, 1.5, 1.45, 1.55, 2.15, 2.1, 1.5)


def residue_types(residue_names: np.ndarray) -> np.ndarray:
    """Return the index of each residue name in `AMINO_ACIDS`; an unknown residue counts as alanine."""
    index = {name: i for i, name in enumerate(AMINO_ACIDS)}
    return np.array([index.get(str(name), 0) for name in residue_names], dtype=np.int64)


def residue_electrons(residue_names: np.ndarray) -> np.ndarray:
    """Return the number of electrons of each residue."""
    return np.array(_ELECTRONS, dtype=np.float64)[residue_types(residue_names)]


def residue_widths(residue_names: np.ndarray) -> np.ndarray:
    """Return the Gaussian width of each residue's mean projection in Å."""
    return np.array(_WIDTHS, dtype=np.float64)[residue_types(residue_names)]
