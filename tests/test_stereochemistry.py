"""Clashes, bonds and angles of C-alphas."""

import numpy as np
import pytest
from molecules import data_folder, helix

from cryoatom.ensemble.stereochemistry import geometry_of, measure_geometry
from cryoatom.results.evaluate import evaluate
from cryoatom.results.ground_truth import GroundTruth
from cryoatom.results.predictions import Predictions
from cryoatom.structure.alpha_geometry import BOND_TOLERANCE, CLASH, chain_geometry, count_clashes
from cryoatom.structure.template import read_template, template_from_atoms

HELIX = template_from_atoms(helix(12), "helix")[0]


def rod(count: int, step: float = 3.8) -> np.ndarray:
    """C-alphas in a zigzag of 120 degrees."""
    index = np.arange(count)
    return step * np.stack([index * np.sin(np.pi / 3), (index % 2) * 0.5, np.zeros(count)], axis=1)


@pytest.mark.parametrize("name", ["adk_open.pdb", "adk_closed.pdb"])
def test_a_crystal_structure_has_nothing_to_blame(name):
    template = read_template(data_folder() / name)[0]
    found = geometry_of(template.positions, template.chain_position).means()
    assert found == {name: 0.0 for name in found}


@pytest.mark.parametrize(("distance", "expected"), [(CLASH - 0.01, 1), (CLASH + 0.01, 0)])
@pytest.mark.parametrize("apart", ["chains", "sequence"])
def test_a_pair_clashes_below_the_limit(distance, expected, apart):
    positions = np.array([[0.0, 0, 0], [distance, 0, 0]])
    chain = np.array([0, 1000] if apart == "chains" else [0, 3])
    assert count_clashes(positions, chain) == expected


@pytest.mark.parametrize("difference", [1, 2])
def test_neighbours_along_the_chain_do_not_clash(difference):
    assert count_clashes(np.array([[0.0, 0, 0], [2.9, 0, 0]]), np.array([0, difference])) == 0


def test_clashes_are_those_of_all_pairs():
    generator = np.random.default_rng(0)
    positions = generator.uniform(0, 25, (300, 3))
    chain = np.cumsum(generator.choice([1, 2, 1000], 300))
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    counts = (distances < CLASH) & (chain[None] - chain[:, None] >= 3)
    assert count_clashes(positions, chain) == counts.sum() > 20


def test_figures_are_shares_of_what_there_is():
    positions = rod(11)
    chain = np.arange(11)
    moved = positions.copy()
    moved[6:] += [0.5, 0, 0]  # one bond of ten is longer
    found = chain_geometry(np.stack([positions, moved]), positions, chain)
    assert found.bond_outliers.tolist() == found.bond_changes.tolist() == [0, 10]
    assert found.bond_rms[0] == 0 and 0.1 < found.bond_rms[1] < 0.5 / 10**0.5
    assert found.clashes.tolist() == found.angle_outliers.tolist() == [0, 0]


def test_cis_bonds_are_no_outliers_but_are_changes():
    straight = np.arange(5)[:, None] * np.array([[3.8, 0, 0]])
    cis = straight.copy()
    cis[3:, 0] -= 3.8 - 2.95
    found = chain_geometry(cis[None], straight, np.arange(5))
    assert found.bond_outliers[0] == 0 and found.bond_changes[0] == 25
    assert 3.8 - 2.95 > BOND_TOLERANCE


def test_straight_and_folded_back_angles_are_outliers():
    folded = np.array([[0.0, 0, 0], [3.8, 0, 0], [7.6, 0, 0], [3.8, 0.1, 0], [3.8, 3.9, 0]])
    found = chain_geometry(folded[None], folded, np.arange(5))
    assert found.angle_outliers[0] == pytest.approx(200 / 3)


def test_breaks_and_chains_have_no_bonds():
    positions = rod(9)
    positions[3:] += [30, 0, 0]
    positions[6:] += [0, 40, 0]
    chain = np.array([0, 1, 2, 7, 8, 9, 1009, 1010, 1011])
    found = geometry_of(positions, chain)
    assert found.means() == {name: 0.0 for name in found.means()}


@pytest.mark.parametrize("residues", [1, 2, 3])
@pytest.mark.filterwarnings("error")
def test_little_chains_have_zeros(residues):
    found = geometry_of(rod(residues), np.arange(residues))
    assert all(value == 0 for value in found.means().values())


def test_coinciding_residues_are_outliers_and_finite():
    positions = np.zeros((6, 3))
    found = geometry_of(positions, np.arange(6)).means()
    assert found["bond_outliers"] == found["angle_outliers"] == 100 and np.isfinite(list(found.values())).all()


def test_a_sample_is_evenly_spaced_and_does_not_depend_on_blocks(tmp_path, monkeypatch):
    generator = np.random.default_rng(1)
    start = HELIX.positions
    conformations = (start + generator.normal(0, 0.5, (101, len(start), 3))).astype(np.float32)
    np.save(tmp_path / "all.npy", conformations)
    mapped = np.load(tmp_path / "all.npy", mmap_mode="r")
    found = measure_geometry(mapped, start, HELIX.chain_position, sample=11)
    assert found.rows.tolist() == list(range(0, 101, 10))
    monkeypatch.setattr("cryoatom.structure.alpha_geometry._RESIDUES_AT_ONCE", 30)
    again = measure_geometry(mapped, start, HELIX.chain_position, sample=11)
    whole = chain_geometry(conformations, start, HELIX.chain_position)
    for name, values in vars(found).items():
        assert np.array_equal(values, getattr(again, name))
        assert np.array_equal(values, getattr(whole, name)[found.rows])


def test_an_evaluation_has_the_geometry_of_predictions_template_and_truth():
    noise = np.random.default_rng(0).normal(0, 0.5, (20, len(HELIX), 3))
    truth = (HELIX.positions + np.array([0.0, 0.1])[:, None, None] * noise[:2]).astype(np.float32)
    found = evaluate(Predictions(HELIX.positions + noise, HELIX), GroundTruth(truth, ())).summary()
    assert found["bond_rms_prediction"] > 5 * found["bond_rms_truth"] > found["bond_rms_template"] == 0
    assert found["bond_outliers_prediction"] > 50 > found["bond_outliers_truth"] == found["clashes_template"] == 0
