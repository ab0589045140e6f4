import json
import logging
from dataclasses import replace

import mkdssp
import numpy as np
import pytest
from click.testing import CliRunner
from molecules import data_folder, helix, join
from scipy.spatial.transform import Rotation

from cryoatom.cli.main import cli
from cryoatom.files.structure import write_atoms
from cryoatom.structure.graph import HYDROGEN, PEPTIDE, build_graph, hydrogen_bonds, read_graph, write_graph
from cryoatom.structure.template import Template, read_template, template_from_atoms

DATA = data_folder()
RECORDED = json.loads(mkdssp.RECORD.read_text())["bonds"]


def make(*parts) -> Template:
    return template_from_atoms(join(*parts), "test")[0]


def assert_agree(template: Template, bonds: list) -> None:
    """Compare with mkdssp, whose energies are rounded to 0.1: those printed as -0.5 may be bonds or not."""
    pairs, energies = hydrogen_bonds(template, max_energy=-0.4)
    ours = {(donor, acceptor): energy for (donor, acceptor), energy in zip(pairs.tolist(), energies, strict=True)}
    theirs = {(donor, acceptor): energy for donor, acceptor, energy in bonds}
    assert {pair for pair, energy in ours.items() if energy < -0.5} <= set(theirs)
    assert set(theirs) <= set(ours)
    assert max(abs(ours[pair] - energy) for pair, energy in theirs.items()) < 0.0515
    assert {pair for pair, energy in theirs.items() if energy < -0.55} <= {p for p, e in ours.items() if e < -0.5}


@pytest.mark.parametrize("name", RECORDED)
def test_hydrogen_bonds_are_those_of_mkdssp(name):
    assert len(RECORDED[name]) > 50
    assert_agree(read_template(DATA / name)[0], RECORDED[name])


@pytest.mark.skipif(mkdssp.PROGRAM is None, reason="mkdssp is not installed (Debian package dssp)")
@pytest.mark.parametrize("name", ["1a28.pdb.gz", "dssp/3q4oA.pdb.gz"])
def test_hydrogen_bonds_are_those_of_mkdssp_run_now(name):
    template, _ = read_template(DATA / name)
    assert_agree(template, mkdssp.hydrogen_bonds(template))


def plain_energy(template: Template, donor: int, acceptor: int) -> float:
    """Return the Kabsch-Sander energy of one pair, written out for one pair at a time."""
    at = {
        (residue, name): position
        for residue, name, position in zip(
            template.atom_residue.tolist(), template.atoms.names.tolist(), template.atoms.positions, strict=True
        )
    }
    nitrogen, carbon, oxygen = at[donor, "N"], at[acceptor, "C"], at[acceptor, "O"]
    hydrogen = nitrogen
    if donor > 0 and np.linalg.norm(nitrogen - at[donor - 1, "C"]) <= 2.5:
        carbonyl = at[donor - 1, "C"] - at[donor - 1, "O"]
        hydrogen = nitrogen + carbonyl / np.linalg.norm(carbonyl)
    on, ch, oh, cn = (
        np.linalg.norm(a - b)
        for a, b in ((oxygen, nitrogen), (carbon, hydrogen), (oxygen, hydrogen), (carbon, nitrogen))
    )
    return round(27.89 * (1 / on + 1 / ch - 1 / oh - 1 / cn), 3)


def test_the_vectorised_search_equals_the_plain_double_loop():
    template, _ = read_template(DATA / "mmcif/5PTI.cif.gz")
    expected = {
        (i, j): energy
        for i in range(len(template))
        for j in range(len(template))
        if i != j
        and j != i - 1
        and template.residue_names[i] != "PRO"
        and np.linalg.norm(template.positions[i] - template.positions[j]) < 9
        and (energy := plain_energy(template, i, j)) < -0.5
    }
    pairs, energies = hydrogen_bonds(template)
    assert [tuple(pair) for pair in pairs.tolist()] == sorted(expected)
    np.testing.assert_allclose(energies, [expected[pair] for pair in sorted(expected)], atol=1e-9)


def test_a_helix_bonds_each_residue_to_the_fourth_before():
    graph = build_graph(make(helix(12)))
    peptide = graph.edges[graph.kinds == PEPTIDE]
    assert peptide.tolist() == [[i, i + 1] for i in range(11)]
    hydrogen = {tuple(edge) for edge in graph.edges[graph.kinds == HYDROGEN].tolist()}
    assert {(i, i + 4) for i in range(8)} <= hydrogen
    assert np.isnan(graph.energies[graph.kinds == PEPTIDE]).all()
    assert (graph.energies[graph.kinds == HYDROGEN] < -0.5).all()


def test_proline_does_not_donate_and_the_first_residue_has_no_hydrogen():
    atoms = helix(12)
    proline = replace(atoms, residue_names=np.where(atoms.residue_numbers == 8, "PRO", "ALA"))
    assert 7 in hydrogen_bonds(make(atoms))[0][:, 0]
    assert 7 not in hydrogen_bonds(make(proline))[0][:, 0]
    later = make(atoms[atoms.residue_numbers != 7])
    assert 6 not in hydrogen_bonds(later)[0][:, 0]
    assert 7 in hydrogen_bonds(later)[0][:, 0]


def test_no_peptide_edge_crosses_a_break_or_a_chain_but_hydrogen_bonds_do():
    atoms = helix(12)
    broken = make(atoms[~np.isin(atoms.residue_numbers, (6, 7))])
    graph = build_graph(broken)
    peptide = graph.edges[graph.kinds == PEPTIDE].tolist()
    assert [4, 5] not in peptide and len(peptide) == 8
    two = make(replace(atoms, chain_ids=np.where(atoms.residue_numbers > 6, "B", "A")))
    graph = build_graph(two)
    assert [5, 6] not in graph.edges[graph.kinds == PEPTIDE].tolist()
    hydrogen = graph.edges[graph.kinds == HYDROGEN]
    assert ((hydrogen[:, 0] < 6) & (hydrogen[:, 1] >= 6)).any()


@pytest.mark.parametrize("name", ["adk_closed.pdb", "mmcif/3PWP.cif.gz", "mmcif/1BD2.cif.gz"])
def test_edges_are_sorted_unique_and_independent_of_the_frame(name):
    template, _ = read_template(DATA / name)
    graph = build_graph(template)
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()
    assert np.array_equal(np.unique(graph.edges, axis=0), graph.edges)
    assert (graph.kinds == PEPTIDE).sum() == template.bonded.sum()
    assert graph.degrees.sum() == 2 * len(graph.edges) and len(graph.degrees) == len(template)
    motion = Rotation.from_rotvec([0.3, -1, 2])
    moved = build_graph(template.with_positions(motion.apply(template.atoms.positions) + 40))
    np.testing.assert_array_equal(moved.edges, graph.edges)
    np.testing.assert_allclose(moved.energies, graph.energies, atol=1.1e-3)


def test_fourteen_thousand_residues():
    template, _ = read_template(DATA / "mmcif/3PWP.cif.gz")
    copies = 17
    chains = np.concatenate([np.char.add(template.atoms.chain_ids, str(copy)) for copy in range(copies)])
    shift = np.repeat(np.arange(copies), len(template.atoms))[:, None] * [150.0, 0, 0]
    atoms = join(*[template.atoms] * copies)
    many = make(replace(atoms, chain_ids=chains, positions=atoms.positions + shift))
    graph, one = build_graph(many), build_graph(template)
    assert graph.residues == 14093
    offsets = np.repeat(np.arange(copies) * len(template), len(one.edges))[:, None]
    np.testing.assert_array_equal(graph.edges, np.tile(one.edges, (copies, 1)) + offsets)


def test_c_alphas_alone_give_peptide_edges_and_a_warning(tmp_path, caplog):
    atoms = helix(6, names=("CA",))
    with caplog.at_level(logging.WARNING, logger="cryoatom"):
        graph = build_graph(make(atoms))
    assert graph.edges.tolist() == [[i, i + 1] for i in range(5)] and (graph.kinds == PEPTIDE).all()
    assert "C-alphas only" in caplog.text
    write_atoms(tmp_path / "ca.pdb", atoms)
    result = CliRunner().invoke(cli, ["graph", str(tmp_path / "ca.pdb"), "-o", str(tmp_path / "g.npz")])
    assert result.exit_code == 0
    assert "Warning: " in result.stderr and "0 (C-alphas only)" in result.stdout


def test_one_residue_has_no_edges():
    graph = build_graph(make(helix(1)))
    assert graph.edges.shape == (0, 2) and graph.residues == 1 and graph.degrees.tolist() == [0]


def test_command_writes_a_graph_that_comes_back(tmp_path):
    result = CliRunner().invoke(cli, ["graph", str(DATA / "adk_closed.pdb"), "-o", str(tmp_path / "g.npz")])
    assert result.exit_code == 0, result.stderr
    graph, expected = read_graph(tmp_path / "g.npz"), build_graph(read_template(DATA / "adk_closed.pdb")[0])
    for name in ("edges", "kinds", "energies"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(expected, name))
        assert getattr(graph, name).dtype == getattr(expected, name).dtype
    assert graph.residues == 214
    for text in ("213", str((expected.kinds == HYDROGEN).sum()), f"{expected.degrees.mean():.2f}"):
        assert text in result.stdout


def test_what_is_no_graph_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="cryoatom graph template.cif"):
        read_graph(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    np.save(tmp_path / "array.npz.npy", np.arange(3))
    (tmp_path / "noise.npz").write_bytes(b"PK noise")
    for name in ("other.npz", "array.npz.npy", "noise.npz"):
        with pytest.raises(ValueError, match="is not a graph written by"):
            read_graph(tmp_path / name)
    graph = build_graph(make(helix(6)))
    write_graph(tmp_path / "g.npz", replace(graph, residues=3))
    with pytest.raises(ValueError, match="outside the 3 residues"):
        read_graph(tmp_path / "g.npz")
