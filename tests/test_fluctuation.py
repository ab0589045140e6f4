"""Fluctuations of residues, and which images stand for all."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoatom.ensemble.fluctuation import fluctuations
from cryoatom.ensemble.sampling import drawn_sample
from cryoatom.particles.rows import spread_rows


def turned(positions: np.ndarray) -> np.ndarray:
    generator = np.random.default_rng(5)
    matrices = Rotation.random(len(positions), rng=generator).as_matrix()
    return positions @ matrices.transpose(0, 2, 1) + generator.normal(0, 9, (len(positions), 1, 3))


@pytest.fixture
def mean() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (80, 3)).cumsum(axis=0) * 3


def test_noise_of_each_residue_is_measured(mean: np.ndarray) -> None:
    noise = np.linspace(0.1, 1.0, 80)
    drawn = mean + np.random.default_rng(1).normal(0, 1, (3000, 80, 3)) * noise[:, None]
    found = fluctuations(turned(drawn).astype(np.float32), mean, sample=1500)
    assert found.shape == (80,) and found == pytest.approx(noise * np.sqrt(3), rel=0.1, abs=0.1)


def test_rigid_motion_is_no_fluctuation(mean: np.ndarray) -> None:
    assert fluctuations(turned(np.repeat(mean[None], 7, axis=0)), mean) == pytest.approx(0, abs=1e-6)


def test_only_the_rows_that_count_are_measured(mean: np.ndarray) -> None:
    still = np.repeat(mean[None], 10, axis=0)
    still[5:] *= 1.1
    assert fluctuations(still, mean, rows=np.arange(5)).max() < 1e-6
    assert fluctuations(still, mean).max() > 0.1
    with pytest.raises(ValueError, match="at least one"):
        fluctuations(still, mean, rows=np.array([], dtype=np.int64))


@pytest.mark.parametrize(("images", "residues"), [(1, 80), (10, 5), (2, 1)])
def test_few_images_or_residues_do_not_break_it(images: int, residues: int, mean: np.ndarray) -> None:
    few = np.repeat(mean[None, :residues], images, axis=0)
    assert fluctuations(few, mean[:residues]).shape == (residues,)


def test_a_sample_has_one_row_of_each_stretch_and_follows_no_period() -> None:
    rows = np.arange(10_200)
    chosen = spread_rows(rows, 100)
    assert np.array_equal(chosen // 102, np.arange(100))
    assert len(set((chosen % 102).tolist())) > 50
    assert np.array_equal(chosen, spread_rows(rows, 100)) and not np.array_equal(chosen, spread_rows(rows, 100, seed=1))
    assert spread_rows(rows[:7], 100) is not None and len(spread_rows(rows[:7], 100)) == 7


def test_rows_are_read_in_order() -> None:
    values = np.arange(12.0).reshape(4, 1, 3)
    assert np.array_equal(drawn_sample(values, np.array([2, 0]), 5)[:, 0, 0], [0, 6])
