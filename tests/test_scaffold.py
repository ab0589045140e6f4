"""The points that a decoder moves, and where they start."""

from functools import cache

import numpy as np
import pytest
from molecules import data_folder, helix

from cryoatom.structure.graph import HYDROGEN, PEPTIDE, SIDE_CHAIN, build_graph
from cryoatom.structure.scaffold import (
    alpha_scaffold,
    side_chain_centers,
    side_chain_reach,
    side_chain_residues,
    side_chain_scaffold,
    starting_alphas,
)
from cryoatom.structure.template import Template, read_template, template_from_atoms


@cache
def adk() -> Template:
    return read_template(data_folder() / "adk_open.pdb")[0]


def test_points_are_c_alphas_then_the_side_chains_of_all_but_glycine():
    template = adk()
    scaffold = side_chain_scaffold(template, build_graph(template))
    assert len(scaffold) == 214 + 194  # it has 20 glycines
    np.testing.assert_array_equal(scaffold.positions[:214], template.positions)
    np.testing.assert_array_equal(scaffold.residue[:214], np.arange(214))
    assert (template.residue_names[scaffold.residue[214:]] != "GLY").all()


def test_each_side_chain_is_joined_to_its_own_c_alpha_and_nothing_else():
    template = adk()
    graph, scaffold = build_graph(template), side_chain_scaffold(adk(), build_graph(adk()))
    joined = scaffold.graph
    assert joined.residues == len(scaffold)
    is_new = joined.kinds == SIDE_CHAIN
    np.testing.assert_array_equal(joined.edges[~is_new], graph.edges)
    np.testing.assert_array_equal(joined.kinds[~is_new], graph.kinds)
    assert set(graph.kinds.tolist()) == {PEPTIDE, HYDROGEN}
    alpha, side = joined.edges[is_new].T
    np.testing.assert_array_equal(np.sort(side), np.arange(214, len(scaffold)))
    np.testing.assert_array_equal(scaffold.residue[side], alpha)
    np.testing.assert_array_equal(np.lexsort((joined.edges[:, 1], joined.edges[:, 0])), np.arange(len(joined.edges)))


def test_side_chains_start_at_their_centres_of_mass_and_elsewhere_at_the_c_alpha():
    template = template_from_atoms(helix(12), "helix")[0]  # alanines: the side chain is CB
    graph = build_graph(template)
    beta = template.atoms.positions[template.atoms.names == "CB"]
    np.testing.assert_allclose(side_chain_scaffold(template, graph).positions[12:], beta, atol=1e-9)
    assert side_chain_reach(template) == pytest.approx(np.linalg.norm(beta - template.positions, axis=1).max())
    moved = side_chain_scaffold(template, graph, start=2.0).positions
    np.testing.assert_array_equal(moved[12:], moved[:12])


def test_no_side_chain_of_a_protein_is_farther_than_the_reach():
    template = adk()
    arms = side_chain_centers(template) - template.positions[side_chain_residues(template)]
    assert np.linalg.norm(arms, axis=1).max() == pytest.approx(side_chain_reach(template))
    assert 3.5 < side_chain_reach(template) < 5.0


def test_a_template_of_c_alphas_alone_has_side_chains_that_start_there():
    template = template_from_atoms(helix(9, names=("CA",)), "helix")[0]
    scaffold = side_chain_scaffold(template, build_graph(template))
    np.testing.assert_array_equal(scaffold.positions[9:], template.positions)
    assert side_chain_reach(template) > 4


@pytest.mark.parametrize("start", [6.0, 0.5, "random"])
def test_a_start_is_given_by_its_seed(start):
    first, again, other = (starting_alphas(adk(), start, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_a_perturbed_start_is_uniform_within_its_range():
    away = starting_alphas(adk(), 6.0, 0) - adk().positions
    assert 5.9 < np.abs(away).max() <= 6.0
    assert np.abs(away.mean(axis=0)).max() < 1.0
    assert np.sqrt((away**2).sum(axis=1).mean()) == pytest.approx(6.0, rel=0.06)  # √3 times 6 / √3


def test_a_random_start_fills_a_cube_of_the_templates_extent_and_knows_no_more_of_it():
    positions = adk().positions
    start, width = starting_alphas(adk(), "random", 0), np.ptp(positions, axis=0).max()
    inside = start - positions.mean(axis=0)
    assert np.abs(inside).max() <= 0.5 * width
    assert (np.ptp(inside, axis=0) > 0.95 * width).all()
    correlation = np.corrcoef(inside.ravel(), (positions - positions.mean(axis=0)).ravel())[0, 1]
    assert abs(correlation) < 0.1


def test_the_template_is_where_c_alphas_start():
    assert starting_alphas(adk(), "template", 7) is adk().positions
    assert alpha_scaffold(adk(), build_graph(adk())).positions is adk().positions
