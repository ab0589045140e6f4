"""Motions put into an ensemble are found again, whatever rigid motion is on top; sums of squares are exact."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cryoatom.ensemble import motions as module
from cryoatom.ensemble.motion_plots import plot_motions
from cryoatom.ensemble.motions import find_motions, latent_components
from cryoatom.geometry import random_rotations
from cryoatom.structure.superpose import procrustes_mean, rmsd, superpose

RESIDUES = 30


def internal_axes(mean: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """Make orthonormal axes without rigid motion: superposition leaves them alone to first order."""
    generator = np.random.default_rng(seed)
    centred = mean - mean.mean(axis=0)
    turns = [np.cross(np.eye(3)[i], centred).ravel() for i in range(3)]
    shifts = [np.tile(np.eye(3)[i], len(mean)) for i in range(3)]
    drawn = generator.normal(size=(count, mean.size))
    basis = np.linalg.qr(np.array([*turns, *shifts, *drawn]).T)[0].T
    return basis[6:].reshape(count, *mean.shape)


def ensemble(images: int = 300, *, spreads=(4.0, 1.5), noise: float = 0.0, moved: bool = True, seed: int = 0):
    generator = np.random.default_rng(seed)
    mean = generator.normal(size=(RESIDUES, 3)).cumsum(axis=0) * 3
    axes = internal_axes(mean, len(spreads))
    amplitudes = generator.normal(size=(images, len(spreads))) * spreads
    positions = mean + np.tensordot(amplitudes, axes, axes=1) + noise * generator.normal(size=(images, RESIDUES, 3))
    if moved:
        positions = positions @ random_rotations(images, generator) + generator.normal(0, 20, (images, 1, 3))
    return positions.astype(np.float32), axes, amplitudes


def test_planted_motions_are_found_under_rigid_motion():
    positions, axes, amplitudes = ensemble()
    found = find_motions(positions, 2)
    assert found.axes.shape == (2, RESIDUES, 3) and found.amplitudes.shape == (300, 2)
    assert found.amplitudes.dtype == np.float32
    for number in range(2):
        assert abs(np.corrcoef(found.amplitudes[:, number], amplitudes[:, number])[0, 1]) > 0.99
    np.testing.assert_allclose(found.spreads, amplitudes.std(axis=0) / np.sqrt(RESIDUES), rtol=0.05)
    np.testing.assert_allclose(found.shares, found.spreads**2 / (found.spreads**2).sum(), atol=0.02)
    flat = found.axes.reshape(2, -1)
    np.testing.assert_allclose(flat @ flat.T / RESIDUES, np.eye(2), atol=1e-10)


def test_the_error_is_that_of_the_approximation_and_falls_with_the_rank():
    positions, _, _ = ensemble(120, noise=0.3)
    errors = []
    for count in (0, 1, 2, 5):
        found = find_motions(positions, count)
        target = superpose(torch.from_numpy(positions).double(), torch.from_numpy(found.mean)).numpy()
        left = found.conformations(found.amplitudes) - target
        assert found.error == pytest.approx(np.sqrt((left**2).sum(axis=-1).mean()), rel=1e-4)
        errors.append(found.error)
    assert errors == sorted(errors, reverse=True)
    assert find_motions(positions, 1000).error < 1e-4


def test_shares_are_of_the_total_variance():
    positions, _, _ = ensemble(200, noise=0.5)
    assert find_motions(positions, 1000).shares.sum() == pytest.approx(1, abs=1e-5)
    assert 0.3 < find_motions(positions, 2).shares.sum() < 1


def test_signs_do_not_depend_on_how_the_ensemble_lies():
    positions, _, _ = ensemble(noise=0.1)
    turned = positions @ random_rotations(1, np.random.default_rng(5))[0].astype(np.float32)
    first, second = find_motions(positions, 3), find_motions(turned, 3)
    np.testing.assert_allclose(first.amplitudes[:, :2], second.amplitudes[:, :2], atol=0.05)


def test_the_molecule_expands_along_an_axis():
    generator = np.random.default_rng(0)
    mean = generator.normal(size=(RESIDUES, 3)).cumsum(axis=0) * 3
    scale = generator.uniform(0.9, 1.1, 100)
    found = find_motions((mean * scale[:, None, None]).astype(np.float32), 1)
    assert np.corrcoef(found.amplitudes[:, 0], scale)[0, 1] > 0.999


def test_blocks_and_the_type_do_not_matter(monkeypatch):
    positions, _, _ = ensemble(70, noise=0.2)
    whole = find_motions(positions, 3)
    monkeypatch.setattr(module, "_RESIDUES_AT_ONCE", 7 * RESIDUES)
    parts = find_motions(positions.astype(np.float64), 3)
    np.testing.assert_allclose(parts.amplitudes, whole.amplitudes, atol=1e-4)
    np.testing.assert_allclose([parts.error, *parts.shares], [whole.error, *whole.shares], rtol=1e-5)


def test_a_sample_finds_the_same_motions():
    positions, _, _ = ensemble(1000, noise=0.1)
    whole, some = find_motions(positions, 2), find_motions(positions, 2, sample=200, seed=3)
    for number in range(2):
        assert np.corrcoef(whole.amplitudes[:, number], some.amplitudes[:, number])[0, 1] > 0.99
    again = find_motions(positions, 2, sample=200, seed=3)
    np.testing.assert_array_equal(again.amplitudes, some.amplitudes)


def test_only_rows_place_the_axes_but_every_image_has_amplitudes():
    good, axes, _ = ensemble(200, spreads=(3.0,))
    bad = good + np.random.default_rng(2).normal(0, 8, good.shape).astype(np.float32)
    mixed = np.concatenate([good, bad])
    found = find_motions(mixed, 1, rows=np.arange(200))
    clean = find_motions(good, 1)
    assert found.amplitudes.shape == (400, 1)
    np.testing.assert_allclose(found.amplitudes[:200], clean.amplitudes, atol=1e-3)
    np.testing.assert_allclose([found.shares, found.spreads], [clean.shares, clean.spreads], rtol=1e-4)


@pytest.mark.parametrize(("images", "residues"), [(1, 5), (2, 5), (10, 1), (10, 2), (3, 40)])
def test_few_images_or_residues_do_not_break_it(images, residues):
    positions = np.random.default_rng(0).normal(0, 5, (images, residues, 3)).astype(np.float32)
    found = find_motions(positions, 10)
    assert len(found) <= min(10, images - 1) and found.amplitudes.shape == (images, len(found))
    assert np.isfinite(found.error) and np.isfinite(found.shares).all()
    assert isinstance(plot_motions(found), Figure)


def test_nothing_moves_in_copies_of_one_structure():
    positions = np.random.default_rng(0).normal(0, 30, (1, 50, 3)).astype(np.float32)
    found = find_motions(np.repeat(positions, 20, axis=0), 5)
    assert len(found) == 0 and found.error < 1e-4


def test_latent_components_are_principal_components():
    generator = np.random.default_rng(0)
    latents = (generator.normal(size=(500, 4)) * [1, 5, 2, 0.1] + 3).astype(np.float32)
    found = latent_components(latents, 3)
    np.testing.assert_allclose(np.abs(found.axes), np.eye(4)[[1, 2, 0]], atol=0.1)
    assert (found.axes[np.arange(3), np.abs(found.axes).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose(found.shares, np.array([25, 4, 1]) / 30.01, atol=0.05)
    np.testing.assert_allclose(found.coordinates.mean(axis=0), 0, atol=1e-4)
    whole = latent_components(latents, 9)
    assert len(whole.axes) == 4 and whole.shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(whole.mean + whole.coordinates @ whole.axes, latents, atol=1e-4)
    assert latent_components(np.ones((3, 2), np.float32), 2).shares.tolist() == [0, 0]


def test_only_rows_place_the_latent_axes_but_every_image_has_coordinates():
    good = (np.random.default_rng(0).normal(size=(300, 3)) * [5, 2, 1]).astype(np.float32)
    junk = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32) * [0, 1, 50] + [0, 0, 200]
    mixed = np.concatenate([good, junk.astype(np.float32)])
    found, clean = latent_components(mixed, 2, rows=np.arange(300)), latent_components(good, 2)
    assert found.coordinates.shape == (400, 2)
    for name in ("mean", "axes", "shares"):
        np.testing.assert_allclose(getattr(found, name), getattr(clean, name))
    np.testing.assert_allclose(found.coordinates[:300], clean.coordinates, atol=1e-5)


def test_the_mean_is_the_procrustes_mean():
    positions, _, _ = ensemble(50)
    expected = procrustes_mean(torch.from_numpy(positions).double(), torch.ones(50))
    assert rmsd(torch.from_numpy(find_motions(positions, 2).mean), expected) < 1e-4
