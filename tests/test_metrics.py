"""RMSD matrices against Kabsch, the earth mover's distance against brute force, and what must not change them."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr

from cryoatom.geometry import random_rotations
from cryoatom.results import metrics, transport
from cryoatom.results.metrics import emd_rmsd, principal_axis, rank_correlation, rmsd_matrix
from cryoatom.results.transport import apportion, optimal_pairing
from cryoatom.structure.superpose import procrustes_mean, rmsd


def structures(count: int, residues: int = 12, *, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    """Variations of one random walk."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(residues, 3, generator=generator, dtype=torch.float64).cumsum(0) * 2
    return walk + spread * torch.randn(count, residues, 3, generator=generator, dtype=torch.float64)


def moved(positions: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    rotations = torch.from_numpy(random_rotations(len(positions), generator))
    shifts = torch.from_numpy(generator.normal(0, 20, (len(positions), 1, 3)))
    return positions @ rotations.mT + shifts


def kabsch_matrix(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return rmsd(first[:, None], second[None])


AWKWARD = {
    "collinear": [1.0, 0.0, 0.0],
    "planar": [1.0, 1.0, 0.0],
    "nearly collinear": [1.0, 1e-5, 1e-7],
    "nearly planar": [1.0, 1.0, 1e-9],
    "one point": [0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("residues", [1, 2, 3, 4, 40])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 30.0])
def test_rmsd_matrix_agrees_with_kabsch(residues, spread):
    first, second = structures(7, residues, spread=spread), structures(5, residues, seed=1, spread=spread)
    second[2] = first[3]
    torch.testing.assert_close(rmsd_matrix(moved(first), second), kabsch_matrix(first, second), atol=2e-5, rtol=1e-9)


@pytest.mark.parametrize("shape", AWKWARD)
def test_rmsd_matrix_of_degenerate_sets(shape):
    scale = torch.tensor(AWKWARD[shape], dtype=torch.float64)
    first, second = structures(6, spread=3.0) * scale, structures(6, seed=1, spread=3.0)
    second[:3] *= scale
    second[0] = first[0]
    found = rmsd_matrix(moved(first), moved(second))
    torch.testing.assert_close(found, kabsch_matrix(first, second), atol=2e-5, rtol=1e-9)


def test_rmsd_matrix_of_mirror_images():
    first = structures(4, spread=3.0)
    mirrored = first * torch.tensor([1.0, 1.0, -1.0])
    found = rmsd_matrix(first, mirrored)
    torch.testing.assert_close(found, kabsch_matrix(first, mirrored), atol=1e-9, rtol=1e-9)
    assert found.diagonal().min() > 0.1


def test_rmsd_matrix_does_not_depend_on_blocks(monkeypatch):
    first, second = structures(23), structures(6, seed=1)
    whole = rmsd_matrix(first, second)
    monkeypatch.setattr(metrics, "PAIRS_AT_ONCE", 13)
    torch.testing.assert_close(rmsd_matrix(first, second), whole, atol=1e-12, rtol=0)


def test_rmsd_matrix_is_float64_and_symmetric():
    single = structures(5).float()
    found = rmsd_matrix(single, single)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, found.mT, atol=1e-9, rtol=0)
    assert found.diagonal().max() < 1e-5


def brute_force(costs: np.ndarray, counts: np.ndarray) -> float:
    copies = np.repeat(np.arange(len(counts)), counts)
    return min(costs[np.arange(len(costs)), list(order)].mean() for order in permutations(copies.tolist()))


@pytest.mark.parametrize("counts", [[2, 2, 2], [1, 0, 5], [6], [0, 3, 1, 2], [1, 1, 1, 1, 1, 1]])
def test_emd_is_the_least_over_all_pairings(counts):
    counts = np.array(counts)
    for seed in range(5):
        costs = np.random.default_rng(seed).random((counts.sum(), len(counts)))
        pairing = emd_rmsd(costs, counts)
        assert pairing.emd_rmsd == pytest.approx(brute_force(costs, counts), abs=1e-12)
        np.testing.assert_array_equal(np.bincount(pairing.frames, minlength=len(counts)), counts)
        np.testing.assert_array_equal(pairing.rmsds, costs[np.arange(len(costs)), pairing.frames])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 12), st.booleans())
def test_chains_agree_with_jonker_volgenant(seed, images, frames, has_ties):
    generator = np.random.default_rng(seed)
    costs = generator.random((images, frames))
    costs = np.round(costs * 3) if has_ties else costs
    counts = generator.multinomial(images, generator.dirichlet(np.full(frames, 0.5)))
    paired, prices = transport._paired_by_chains(costs, counts)
    copies = np.repeat(np.arange(frames), counts)
    rows, columns = linear_sum_assignment(costs[:, copies])
    best = costs[rows, copies[columns]].sum()
    np.testing.assert_array_equal(np.bincount(paired, minlength=frames), counts)
    assert costs[np.arange(images), paired].sum() == pytest.approx(best, abs=1e-9)
    dual = (costs - prices).min(axis=1).sum() + prices @ counts
    assert dual == pytest.approx(best, abs=1e-9)  # no pairing can be better: duality


def test_starting_prices_do_not_change_the_result(monkeypatch):
    monkeypatch.setattr(transport, "COLD_IMAGES", 50)
    monkeypatch.setattr(transport, "ROWS_AT_ONCE", 64)
    generator = np.random.default_rng(0)
    frames = structures(10, spread=1.0)
    uneven = np.bincount(generator.integers(0, 10, 600) // 2 * 2, minlength=10)
    images = torch.cat([frames[:1].expand(300, -1, -1), frames[5:6].expand(300, -1, -1)])
    costs = rmsd_matrix(images + 0.3 * torch.from_numpy(generator.standard_normal(images.shape)), frames).numpy()
    copies = np.repeat(np.arange(10), uneven)
    rows, columns = linear_sum_assignment(costs[:, copies])
    assert emd_rmsd(costs, uneven).emd_rmsd == pytest.approx(costs[rows, copies[columns]].mean(), abs=1e-12)


def test_emd_is_zero_for_the_same_distribution_and_not_for_another():
    frames = structures(4)
    copies = torch.tensor([3, 0, 0, 2, 0, 3, 2, 0, 0, 2, 2, 3])
    matrix = rmsd_matrix(moved(frames[copies]), frames).numpy()
    assert emd_rmsd(matrix, np.array([5, 0, 4, 3])).emd_rmsd < 1e-5
    assert emd_rmsd(matrix, np.array([3, 3, 3, 3])).emd_rmsd > 0.5


def test_emd_ignores_rigid_motions_and_order():
    frames, images = structures(5), structures(30, seed=1)
    counts = np.array([10, 2, 9, 0, 9])
    value = emd_rmsd(rmsd_matrix(images, frames).numpy(), counts).emd_rmsd
    order, frame_order = np.random.default_rng(0).permutation(30), np.array([4, 2, 0, 1, 3])
    shuffled = rmsd_matrix(moved(images[order]), moved(frames[frame_order], seed=1)).numpy()
    assert emd_rmsd(shuffled, counts[frame_order]).emd_rmsd == pytest.approx(value, abs=1e-9)


def test_emd_of_one_structure_is_the_mean_rmsd():
    frames, static = structures(4), structures(1, seed=1)
    row = rmsd_matrix(static, frames).numpy()
    counts = np.array([7, 1, 0, 2])
    assert emd_rmsd(np.repeat(row, 10, axis=0), counts).emd_rmsd == pytest.approx((row[0] * counts).sum() / 10)


def test_pairing_needs_one_frame_per_image():
    with pytest.raises(ValueError, match="occur 4 times in all, expected 5"):
        optimal_pairing(np.zeros((5, 2)), np.array([2, 2]))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5000), st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any))
def test_apportionment_is_within_one_of_the_exact_share(total, weights):
    counts = apportion(total, np.array(weights))
    shares = total * np.array(weights) / sum(weights)
    assert counts.sum() == total
    assert (np.abs(counts - shares) < 1 + 1e-6).all()
    short, long = counts < np.floor(shares + 0.5 - 1e-6), counts > np.ceil(shares - 1e-6)
    assert not long.any() or not short.any()


def test_apportionment_takes_the_largest_remainders():
    np.testing.assert_array_equal(apportion(10, np.array([0.46, 0.35, 0.19])), [5, 3, 2])
    np.testing.assert_array_equal(apportion(6, np.array([2, 0, 1])), [4, 0, 2])


def test_ties_are_spread_over_the_trajectory():
    extra = np.flatnonzero(apportion(1010, np.ones(100)) == 11)
    assert len(extra) == 10
    assert np.diff(extra).min() > 3 and np.ptp(extra) > 60


def test_procrustes_mean_of_one_structure_is_itself():
    (single,) = moved(structures(1))
    torch.testing.assert_close(procrustes_mean(single[None], torch.ones(1)), single, atol=1e-9, rtol=0)


def test_procrustes_mean_is_the_best_static_structure():
    frames = moved(structures(6))
    weights = torch.tensor([1.0, 5.0, 0.0, 2.0, 1.0, 1.0])

    def mean_square(structure: torch.Tensor) -> torch.Tensor:
        return (weights * rmsd(structure, frames).square()).sum()

    best = procrustes_mean(frames, weights)
    rivals = [*frames, *(best + 0.05 * noise for noise in structures(10, seed=2, spread=1.0) - structures(1, seed=2))]
    assert all(mean_square(best) < mean_square(rival) for rival in rivals)


def test_procrustes_weights_are_multiplicities():
    frames = moved(structures(3))
    repeated = procrustes_mean(frames[[0, 1, 1, 1, 2]], torch.ones(5))
    assert rmsd(procrustes_mean(frames, torch.tensor([1.0, 3.0, 1.0])), repeated) < 1e-4


def test_principal_axis_finds_the_largest_spread():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 5.0, 0.2]) + 7
    mean, axis = principal_axis(values)
    torch.testing.assert_close(mean, values.mean(dim=0))
    torch.testing.assert_close(axis.abs(), torch.tensor([0.0, 1.0, 0.0]).double(), atol=0.02, rtol=0)


def test_rank_correlation_is_spearmans():
    generator = np.random.default_rng(0)
    first = generator.integers(0, 9, 50)
    second = first + generator.normal(0, 3, 50)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation(first, np.exp(first)) == pytest.approx(1)
    assert rank_correlation(first, np.zeros(50)) is None
