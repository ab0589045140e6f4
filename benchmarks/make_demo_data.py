"""Make cryoatom/demo_data: adenylate kinase, its closed crystal structure and a path from closed to open.

    python benchmarks/make_demo_data.py 1ake.cif 4ake.pdb cryoatom/demo_data

1AKE (closed; both chains, waters and the ligand) and chain A of 4AKE (open; hydrogens are ignored) are entries of the
Protein Data Bank, whose coordinates are free of copyright (CC0). The path is geometric, not a simulation: NMP and LID
turn about their screw axes relative to CORE, hinges share the turn of their neighbours, and what is left of the
difference within a domain goes linearly. Both ends are the crystal structures exactly.
"""

import gzip
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from mdtraj.formats import XTCTrajectoryFile
from scipy.linalg import expm, logm

from cryoatom.files.structure import read_atoms, write_atoms
from cryoatom.records import Atoms
from cryoatom.structure.superpose import kabsch

FRAMES = 25
CORE = [(1, 29), (60, 121), (160, 214)]
DOMAINS = {"NMP": (30, 59), "LID": (122, 159)}
HINGE = 3  # residues on either side of a domain's border that share its turn


def chain_a(path: str) -> Atoms:
    atoms = read_atoms(path)
    keep = (atoms.chain_ids == "A") & (atoms.residue_numbers <= 214) & (atoms.elements != "H")
    keep &= np.isin(atoms.altlocs, ["", "A"])
    atoms = atoms[keep]
    return atoms[np.lexsort((atoms.names, atoms.residue_numbers))]


def within(numbers: np.ndarray, ranges: list[tuple[int, int]]) -> np.ndarray:
    return np.any([(numbers >= first) & (numbers <= last) for first, last in ranges], axis=0)


def rigid(mobile: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the 4x4 motion that superposes `mobile` on `target`."""
    rotation, translation = kabsch(torch.from_numpy(mobile), torch.from_numpy(target))
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation.numpy(), translation.numpy()
    return motion


def moved(motions: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.einsum("aij,aj->ai", motions[:, :3, :3], points) + motions[:, :3, 3]


def generators(closed: Atoms, opened: np.ndarray) -> np.ndarray:
    """Return for each atom the 4x4 logarithm of its domain's motion from closed to open, faded at the hinges."""
    numbers, is_ca = closed.residue_numbers, closed.names == "CA"
    total = np.zeros((len(closed), 4, 4))
    for first, last in DOMAINS.values():
        members = is_ca & within(numbers, [(first, last)])
        depth = np.minimum(numbers - first, last - numbers) + 0.5  # residues inside the border; negative outside
        weight = np.clip(0.5 + 0.5 * depth / HINGE, 0, 1)
        motion = logm(rigid(closed.positions[members], opened[members]))
        total += weight[:, None, None] * np.real(motion)
    return total


def path_between(closed: Atoms, opened: np.ndarray) -> np.ndarray:
    """Return (FRAMES, atoms, 3) from closed to open."""
    turn = generators(closed, opened)
    back = moved(np.stack([expm(-g) for g in turn]), opened)
    frames = []
    for t in np.linspace(0, 1, FRAMES):
        motions = np.stack([expm(t * g) for g in turn])
        frames.append(moved(motions, (1 - t) * closed.positions + t * back))
    return np.stack(frames)


def report(closed: Atoms, path: np.ndarray) -> None:
    ca = path[:, closed.names == "CA"]
    bonds = np.linalg.norm(np.diff(ca, axis=1), axis=-1)
    moved_by = np.sqrt(((ca - ca[0]) ** 2).sum(-1).mean(-1))
    print(
        f"C-alpha bonds {bonds.min():.2f} to {bonds.max():.2f} Å; RMSD to the first frame up to {moved_by.max():.2f} Å"
    )


def main(closed_file: str, open_file: str, folder: str) -> None:
    closed, opened = chain_a(closed_file), chain_a(open_file)
    assert np.array_equal(closed.names, opened.names) and np.array_equal(closed.residue_names, opened.residue_names)
    core = (closed.names == "CA") & within(closed.residue_numbers, CORE)
    to_core = rigid(opened.positions[core], closed.positions[core])
    path = path_between(closed, moved(np.broadcast_to(to_core, (len(opened), 4, 4)), opened.positions))
    report(closed, path)
    out = Path(folder)
    (out / "1ake.cif.gz").write_bytes(gzip.compress(Path(closed_file).read_bytes(), mtime=0))
    with tempfile.TemporaryDirectory() as scratch:
        topology = Path(scratch) / "path.pdb"
        write_atoms(topology, closed)
        (out / "path.pdb.gz").write_bytes(gzip.compress(topology.read_bytes(), mtime=0))
    with XTCTrajectoryFile(str(out / "path.xtc"), "w") as file:
        file.write((path / 10).astype(np.float32))


if __name__ == "__main__":
    main(*sys.argv[1:])
