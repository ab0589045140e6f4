"""Paths stay where images are; positions, densities and free energies of paths with known answers."""

import logging

import numpy as np
import pytest
from matplotlib.figure import Figure

from cryoatom.ensemble import motion_plots
from cryoatom.ensemble.along_path import (
    density_on_path,
    free_energy,
    latents_near,
    position_on_path,
    quantile_values,
)
from cryoatom.ensemble.clusters import cluster_latents
from cryoatom.ensemble.motion_plots import plot_latents, plot_path
from cryoatom.ensemble.motions import latent_components
from cryoatom.ensemble.paths import neighbour_graph_path, parse_path, smooth_path


def arc(images: int = 1000, *, noise: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make a three-quarter circle in random order and the angle of each image."""
    generator = np.random.default_rng(seed)
    angle = generator.permutation(np.linspace(0, 1.5 * np.pi, images))
    points = np.stack([np.cos(angle), np.sin(angle), np.zeros(images)], axis=1)
    return points + generator.normal(0, noise, points.shape), angle


def test_a_path_follows_the_data_round_a_bend():
    points, angle = arc()
    start, end = int(angle.argmin()), int(angle.argmax())
    path = neighbour_graph_path(points, start, end)
    assert (path[0], path[-1]) == (start, end) and path.dtype == np.int64
    assert np.linalg.norm(points[path], axis=1).min() > 0.85  # the chord would come within 0.71 of the middle
    assert (np.diff(angle[path]) > -0.1).all() and len(set(path.tolist())) == len(path)


def test_a_path_prefers_dense_regions():
    """Two ways round a hole, the shorter one with few images."""
    generator = np.random.default_rng(0)
    upper = np.stack([np.linspace(0, 10, 2000), 3 * np.sin(np.linspace(0, np.pi, 2000))], axis=1)
    lower = np.stack([np.linspace(0, 10, 12), -np.sin(np.linspace(0, np.pi, 12))], axis=1)
    points = np.concatenate([upper, lower]) + generator.normal(0, 0.02, (2012, 2))
    assert (points[neighbour_graph_path(points, 0, 1999)][5:-5, 1] > 0).all()


def test_separate_regions_are_joined_where_they_are_nearest_and_it_is_said(caplog):
    generator = np.random.default_rng(0)
    left, right = generator.uniform(0, 1, (200, 2)), generator.uniform(0, 1, (300, 2)) + [5, 0]
    points = np.concatenate([left, right])
    with caplog.at_level(logging.WARNING):
        path = neighbour_graph_path(points, 0, 499)
    steps = np.linalg.norm(np.diff(points[path], axis=0), axis=1)
    nearest = np.linalg.norm(left[:, None] - right[None], axis=-1).min()
    assert steps.max() == pytest.approx(nearest) and (np.sort(steps)[:-1] < 0.5).all()
    assert "no images lie between" in caplog.text
    caplog.clear()
    neighbour_graph_path(points, 0, 199)
    assert not caplog.records


@pytest.mark.parametrize("images", [2, 3, 40])
def test_tiny_and_equal_sets_have_a_path(images):
    assert neighbour_graph_path(np.arange(images)[:, None] * 1.0, 0, images - 1)[-1] == images - 1
    path = neighbour_graph_path(np.zeros((images, 3)), 0, images - 1)
    assert (path[0], path[-1]) == (0, images - 1)
    assert neighbour_graph_path(np.zeros((images, 3)), 1, 1).tolist() == [1]


def test_a_path_keeps_to_its_rows_and_its_sample():
    points, angle = arc()
    start, end = int(angle.argmin()), int(angle.argmax())
    rows = np.arange(0, 1000, 2)
    assert set(neighbour_graph_path(points, start, end, rows=rows).tolist()) <= {*rows.tolist(), start, end}
    path = neighbour_graph_path(points, start, end, sample=100)
    assert len(path) <= 102 and np.linalg.norm(points[path], axis=1).min() > 0.85


def test_a_path_in_a_sample_sees_every_frame_of_a_periodic_file():
    """Images are frames 0 to 9 over and over: every tenth image shows one of them alone."""
    points = np.arange(391.0)[:, None] % 10 + np.random.default_rng(0).normal(0, 0.05, (391, 1))
    path = neighbour_graph_path(points, 0, 9, sample=40)
    assert len(set(np.rint(points[path, 0]).tolist())) > 6


def test_positions_on_a_bent_path():
    nodes = np.array([[0.0, 0], [2, 0], [2, 0], [2, 2]])
    points = np.array([[-1.0, 0], [0, 0], [1, 0.5], [2, 0], [3, 1], [2, 5]])
    position, distance = position_on_path(points, nodes)
    np.testing.assert_allclose(position, [0, 0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(distance, [1, 0, 0.5, 0, 1, 3])
    position, distance = position_on_path(points, nodes[:1])
    assert not position.any() and distance[1] == 0
    np.testing.assert_array_equal(position_on_path(points, np.ones((3, 2)))[0], 0)


def test_density_and_free_energy_of_known_populations():
    position = np.concatenate([np.full(300, 0.1), np.full(100, 0.6), np.zeros(50), np.ones(70)])
    edges, density = density_on_path(position, 4)
    np.testing.assert_allclose(edges, np.linspace(0, 1, 5))
    np.testing.assert_allclose(density, [3, 0, 1, 0])  # what lies beyond the ends does not count
    np.testing.assert_allclose(free_energy(density), [0, np.inf, np.log(3), np.inf])
    assert not density_on_path(np.zeros(5), 3)[1].any()
    assert np.isinf(free_energy(np.zeros(3))).all()


def test_a_smooth_path_runs_through_the_middle_and_shows_no_false_barriers():
    points, angle = arc(4000, noise=0.1)
    points = np.concatenate([points, np.random.default_rng(1).normal(0, 0.2, (4000, 5))], axis=1)
    path = neighbour_graph_path(points, int(angle.argmin()), int(angle.argmax()))
    curve = smooth_path(points, points[path], 30)
    assert curve.shape == (30, 8)
    np.testing.assert_allclose(np.linalg.norm(curve, axis=1), 1, atol=0.1)
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.1)
    position, _ = position_on_path(points, curve)
    assert abs(np.corrcoef(position, angle)[0, 1]) > 0.99
    smooth = density_on_path(position, 15)[1][1:-1]  # the truth is even
    rough = density_on_path(position_on_path(points, points[path])[0], 15)[1][1:-1]
    assert smooth.std() < 0.25 < rough.std()


@pytest.mark.parametrize("images", [2, 5, 30])
def test_smoothing_few_images_does_not_break(images):
    points = np.random.default_rng(0).normal(size=(images, 2))
    assert np.isfinite(smooth_path(points, points[[0, 1]], 5)).all()
    assert np.isfinite(smooth_path(np.zeros((images, 2)), np.zeros((2, 2)), 5)).all()


@pytest.fixture
def clusters():
    return cluster_latents(np.arange(100)[:, None] * 1.0, 5, seed=0)


@pytest.mark.parametrize(("text", "ends"), [("3,70", (3, 70)), (" 0 , 99 ", (0, 99)), ("k1,k5", None), ("K2,7", None)])
def test_ends_of_a_path_are_images_or_clusters(clusters, text, ends):
    start, end = parse_path(text, clusters, 100)
    if ends is not None:
        assert (start, end) == ends
    else:
        assert start == clusters.center_rows[int(text[1]) - 1]
    assert start != end


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3", "expected two images"),
        ("1,2,3", "expected two images"),
        ("a,b", "expected two images"),
        ("-1,5", "expected two images"),
        ("3,100", "no image 100; they are 0 to 99"),
        ("k0,k1", "they are k1 to k5"),
        ("k1,k6", "they are k1 to k5"),
        ("4,4", "both ends"),
    ],
)
def test_wrong_ends_of_a_path_are_explained(clusters, text, words):
    with pytest.raises(ValueError, match=words) as error:
        parse_path(text, clusters, 100)
    assert "--path" in str(error.value)


def test_traversals_stop_between_the_quantiles_on_the_data():
    amplitudes = np.arange(1000.0)
    values = quantile_values(amplitudes, 10)
    np.testing.assert_allclose(values, np.linspace(49.95, 949.05, 10))
    latents = np.stack([amplitudes, -amplitudes], axis=1)
    np.testing.assert_allclose(latents_near(amplitudes, values, latents)[:, 0], values, atol=1)
    chosen = latents_near(amplitudes, values, latents, rows=np.arange(0, 1000, 100))
    assert set(chosen[:, 0]) <= set(range(0, 1000, 100))
    assert latents_near(np.array([1.0]), values, latents[:1]).shape == (10, 2)
    nodes = np.array([[100.0, -100.0], [500.0, -500.0]])
    np.testing.assert_allclose(latents_near(latents, nodes, latents), nodes, atol=1)


@pytest.mark.parametrize("many", [0, 10**6])
def test_plots_of_latents_and_paths(clusters, monkeypatch, many):
    monkeypatch.setattr(motion_plots, "_MANY_POINTS", many)
    points, angle = arc(100)
    assert isinstance(plot_latents(latent_components(points, 2), clusters.labels), Figure)
    assert isinstance(plot_latents(latent_components(points[:, :1], 2)), Figure)
    position, distance = position_on_path(points, points[np.argsort(angle)[::10]])
    assert isinstance(plot_path(position, distance, *density_on_path(position, 8)), Figure)
