"""Derive the residue widths of `cryoatom/imaging/residues.py` again, as appendix C of Prins et al. 2024 describes.

    python benchmarks/residue_widths.py [STRUCTURE ...]

A residue of a structure with hydrogens is centred on its C-alpha, its atoms are Gaussians of unit width weighted by
atomic number, and its projection is averaged over all orientations. The width is that of the Gaussian of the same
electrons closest to the average in the least-squares sense. The average is analytic: the transform of an atom at
distance r is sin(2πkr)/(2πkr) exp(-2π²k²), and the distance of two projections is the same in Fourier space. The
widths of all residues of a kind are averaged; terminal residues, which have other atoms, are left out.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from scipy.optimize import minimize_scalar

from cryoatom.files.structure import read_atoms
from cryoatom.imaging.residues import AMINO_ACIDS, residue_electrons, residue_widths
from cryoatom.structure.residues import canonical_residue

NAMES = ("adk_closed.pdb", "cobrotoxin_dry_neutral_0.pdb", "nmr_neopetrosiamide.pdb", "5a7u.pdb")
FREQUENCIES = np.linspace(0, 1, 501)[1:]  # 1/Å; a unit Gaussian is 3e-9 at the end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", nargs="*", type=Path, help="with hydrogens; those of MDAnalysisTests if none")
    structures = parser.parse_args().structures or [data_folder() / name for name in NAMES]
    found: dict[str, list[float]] = {name: [] for name in AMINO_ACIDS}
    for path in structures:
        collect(path, found)
    published = residue_widths(np.array(AMINO_ACIDS))
    print("residue   found   width (Å)   spread   published   difference")
    differences = []
    for (name, widths), table in zip(found.items(), published, strict=True):
        if not widths:
            print(f"{name:7} {0:7}           -        -   {table:9.2f}            -")
            continue
        mean, spread = np.mean(widths), np.std(widths)
        differences.append(float(mean - table))
        print(f"{name:7} {len(widths):7} {mean:11.3f} {spread:8.3f}   {table:9.2f} {differences[-1]:12.3f}")
    size = np.abs(differences)
    print(f"absolute difference: mean {size.mean():.3f} Å, largest {size.max():.3f} Å ({len(size)} kinds of residue)")


def data_folder() -> Path:
    spec = find_spec("MDAnalysisTests")
    assert spec is not None and spec.submodule_search_locations, "this needs the package MDAnalysisTests"
    return Path(spec.submodule_search_locations[0]) / "data"


def collect(path: Path, found: dict[str, list[float]]) -> None:
    """Add the width of every residue of a structure's first model that has all its atoms."""
    atoms = read_atoms(path)
    electrons = np.array([gemmi.Element(element).atomic_number for element in atoms.elements], dtype=np.float64)
    labels = np.stack([atoms.chain_ids, atoms.residue_numbers.astype(str), atoms.insertion_codes, atoms.residue_names])
    starts = np.flatnonzero(np.append(True, (labels[:, 1:] != labels[:, :-1]).any(axis=0)))
    for start, stop in pairwise([*starts.tolist(), len(atoms)]):
        name = canonical_residue(str(atoms.residue_names[start]))
        alpha = start + np.flatnonzero(atoms.names[start:stop] == "CA")
        if name not in found or len(alpha) != 1:
            continue
        if abs(electrons[start:stop].sum() - residue_electrons(np.array([name]))[0]) <= 1:  # or a proton, more or less
            found[name].append(best_width(atoms.positions[start:stop] - atoms.positions[alpha], electrons[start:stop]))


def best_width(positions: np.ndarray, electrons: np.ndarray) -> float:
    distances = np.linalg.norm(positions, axis=1)
    average = np.sinc(2 * FREQUENCIES[:, None] * distances) @ electrons / electrons.sum()
    average *= np.exp(-2 * np.pi**2 * FREQUENCIES**2)

    def misfit(width: float) -> float:
        return float((FREQUENCIES * (average - np.exp(-2 * (np.pi * FREQUENCIES * width) ** 2)) ** 2).sum())

    found: Any = minimize_scalar(misfit, bounds=(0.8, 5), method="bounded")
    return float(found.x)


if __name__ == "__main__":
    main()
