"""The residue graph: peptide bonds and backbone hydrogen bonds (Kabsch and Sander, as DSSP finds them)."""

from __future__ import annotations

import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from cryoatom.files.npy import NPY_DAMAGE, one_line
from cryoatom.files.replacing import replacing
from cryoatom.structure.polymer import MAX_PEPTIDE_DISTANCE, backbone_positions
from cryoatom.structure.template import Template

PEPTIDE, HYDROGEN, SIDE_CHAIN = 0, 1, 2
COUPLING = 27.89  # q1 q2 f = 0.42 e * 0.20 e * 332 Å kcal/mol, as DSSP has it
MAX_ENERGY = -0.5
MIN_ENERGY = -9.9
MIN_DISTANCE = 0.5
MAX_ALPHA_DISTANCE = 9.0
NH_LENGTH = 1.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProteinGraph:
    """Undirected edges between residues, each once.

    Parameters
    ----------
    edges : (edges, 2) int64
        i < j, sorted.
    kinds : (edges,) int8
        0 for a peptide bond, 1 for a hydrogen bond; 2 for a C-alpha and its own side chain, where that is a point.
    energies : (edges,) float64
        Of hydrogen bonds in kcal/mol; NaN for others.
    residues : int
    """

    edges: np.ndarray
    kinds: np.ndarray
    energies: np.ndarray
    residues: int

    @property
    def degrees(self) -> np.ndarray:
        """(residues,) int64: the edges at each residue."""
        return np.bincount(self.edges.ravel(), minlength=self.residues)


def build_graph(template: Template) -> ProteinGraph:
    """Join bonded neighbours, and residues with a backbone hydrogen bond.

    There is no peptide edge over a chain break. (i, i + 2) hydrogen bonds are kept, as DSSP finds them. A template of
    C-alphas alone has no hydrogen bonds to find: a warning says so.
    """
    first = np.flatnonzero(template.bonded)
    peptides = np.stack([first, first + 1], axis=1)
    bonds, energies = hydrogen_bonds(template)
    if template.is_alpha_only:
        _logger.warning("the template has C-alphas only: its graph has peptide edges and no hydrogen bonds")
    edges = np.concatenate([peptides, np.sort(bonds, axis=1)])
    kinds = np.repeat(np.array([PEPTIDE, HYDROGEN], dtype=np.int8), [len(peptides), len(bonds)])
    energies = np.concatenate([np.full(len(peptides), np.nan), energies])
    order = np.lexsort((energies, kinds, edges[:, 1], edges[:, 0]))
    is_new = np.concatenate([[True], (np.diff(edges[order], axis=0) != 0).any(axis=1)])[: len(edges)]
    kept = order[is_new]
    return ProteinGraph(edges[kept].astype(np.int64), kinds[kept], energies[kept], len(template))


def hydrogen_bonds(template: Template, *, max_energy: float = MAX_ENERGY) -> tuple[np.ndarray, np.ndarray]:
    """Find the backbone hydrogen bonds N-H...O=C by the electrostatic energy of Kabsch and Sander.

    E = 27.89 (1/ON + 1/CH - 1/OH - 1/CN) kcal/mol, rounded to 0.001; a bond has E < -0.5 (Biopolymers 22 (1983) 2577).
    As in DSSP, H lies 1 Å from N, antiparallel to C=O of the residue before; at the start of a chain and after a break
    it lies on N (E = 0). Proline does not donate, nor a residue to the one before it; C-alphas are less than 9 Å apart.

    Returns
    -------
    pairs : (bonds, 2) int64
        Donor and acceptor residue. Residues without N, C or O take no part.
    energies : (bonds,) float64
        kcal/mol.
    """
    backbone = {
        name: backbone_positions(template.atoms, template.atom_residue, len(template), name) for name in ("N", "C", "O")
    }
    is_whole = np.isnan(np.concatenate(list(backbone.values()), axis=1)).sum(axis=1) == 0
    donors, acceptors = _near_pairs(template.positions, is_whole)
    is_possible = (template.residue_names[donors] != "PRO") & (acceptors != donors - 1)
    donors, acceptors = donors[is_possible], acceptors[is_possible]
    hydrogen = _hydrogens(template, backbone, is_whole)
    nitrogen, carbon, oxygen = backbone["N"][donors], backbone["C"][acceptors], backbone["O"][acceptors]
    energies = _bond_energies(nitrogen, hydrogen[donors], carbon, oxygen)
    is_bond = energies < max_energy
    return np.stack([donors[is_bond], acceptors[is_bond]], axis=1), energies[is_bond]


def write_graph(path: str | os.PathLike, graph: ProteinGraph) -> None:
    """Write a graph as .npz with the arrays edges, kinds, energies and residues."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream, edges=graph.edges, kinds=graph.kinds, energies=graph.energies, residues=np.int64(graph.residues)
        )


def read_graph(path: str | os.PathLike) -> ProteinGraph:
    """Read a graph that :func:`write_graph` wrote.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing or no graph.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"graph {path} does not exist; `cryoatom graph template.cif -o {path}` writes it")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            graph = ProteinGraph(file["edges"], file["kinds"], file["energies"], int(file["residues"]))
    except NPY_DAMAGE as error:
        raise ValueError(f"{path} is not a graph written by `cryoatom graph`: {one_line(error)}") from error
    count = len(graph.edges) if graph.edges.ndim else 0
    if graph.edges.shape != (count, 2) or graph.kinds.shape != (count,) or graph.energies.shape != (count,):
        raise ValueError(f"{path} is not a graph written by `cryoatom graph`: its arrays differ in length")
    if graph.edges.dtype.kind != "i" or graph.kinds.dtype.kind != "i" or graph.energies.dtype.kind != "f":
        raise ValueError(f"{path} is not a graph written by `cryoatom graph`: its arrays are of other types")
    if graph.edges.size and not 0 <= graph.edges.min() <= graph.edges.max() < graph.residues:
        raise ValueError(f"{path}: edges point outside the {graph.residues} residues of the graph")
    return graph


def _near_pairs(alpha: np.ndarray, is_whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every ordered pair of whole residues whose C-alphas are near, sorted."""
    index = np.flatnonzero(is_whole)
    pairs = index[KDTree(alpha[index]).query_pairs(MAX_ALPHA_DISTANCE, output_type="ndarray").reshape(-1, 2)]
    distances = np.linalg.norm(alpha[pairs[:, 0]] - alpha[pairs[:, 1]], axis=1)
    pairs = pairs[distances < MAX_ALPHA_DISTANCE]
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs[:, 0], pairs[:, 1]


def _hydrogens(template: Template, backbone: dict[str, np.ndarray], is_whole: np.ndarray) -> np.ndarray:
    """Place the amide hydrogens; on N where no whole residue is bonded before."""
    hydrogen = backbone["N"].copy()
    carbonyl = backbone["C"] - backbone["O"]
    distance = np.linalg.norm(backbone["N"][1:] - backbone["C"][:-1], axis=1)
    same_chain = template.chain_ids[1:] == template.chain_ids[:-1]
    after = np.flatnonzero(is_whole[1:] & is_whole[:-1] & same_chain & (distance <= MAX_PEPTIDE_DISTANCE)) + 1
    before = carbonyl[after - 1]
    hydrogen[after] += NH_LENGTH * before / np.linalg.norm(before, axis=1, keepdims=True)
    return hydrogen


def _bond_energies(nitrogen: np.ndarray, hydrogen: np.ndarray, carbon: np.ndarray, oxygen: np.ndarray) -> np.ndarray:
    pairs = ((oxygen, nitrogen), (carbon, hydrogen), (oxygen, hydrogen), (carbon, nitrogen))
    distances = np.stack([np.linalg.norm(a - b, axis=1) for a, b in pairs])
    inverse = 1.0 / np.maximum(distances, MIN_DISTANCE)
    energies = np.round(COUPLING * (inverse[0] + inverse[1] - inverse[2] - inverse[3]), 3)
    energies[(distances < MIN_DISTANCE).any(axis=0)] = MIN_ENERGY
    return np.maximum(energies, MIN_ENERGY)
