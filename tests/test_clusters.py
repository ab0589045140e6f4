"""k-means: known blobs are found, none is empty, numbers follow the spread, and few or equal images do no harm."""

import numpy as np
import pytest

from cryoatom.ensemble import clusters as module
from cryoatom.ensemble.clusters import cluster_latents


def blobs(count: int = 5, images: int = 60, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, count, count * images)
    centers = np.stack([np.arange(count) * 10.0, np.zeros(count), generator.normal(size=count)], axis=1)
    return (centers[truth] + generator.normal(0, 0.3, (len(truth), 3))).astype(np.float32), truth


def test_blobs_are_found_and_numbered_along_the_line():
    latents, truth = blobs()
    found = cluster_latents(latents, 5, seed=0)
    np.testing.assert_array_equal(found.labels, truth + 1)
    np.testing.assert_array_equal(found.sizes, np.bincount(truth))
    np.testing.assert_allclose(found.centers[:, 0], np.arange(5) * 10, atol=0.2)


def test_the_central_image_is_the_nearest_of_its_cluster():
    latents, _ = blobs(3)
    found = cluster_latents(latents, 12, seed=1)
    for number, row in enumerate(found.center_rows):
        members = np.flatnonzero(found.labels == number + 1)
        distances = np.linalg.norm(latents[members] - found.centers[number], axis=1)
        assert row == members[distances.argmin()]


def test_the_seed_decides_and_close_numbers_are_near():
    latents = np.random.default_rng(0).uniform(0, 1, (2000, 4)).astype(np.float32) * [20, 1, 1, 1]
    first, again = (cluster_latents(latents, 10, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (np.diff(first.centers[:, 0]) > 0).all()


@pytest.mark.parametrize("count", [1, 3, 20])
def test_few_or_equal_images(count):
    for latents in (np.zeros((7, 3)), np.eye(4), np.ones((1, 2)), np.repeat(np.eye(2), 5, axis=0)):
        found = cluster_latents(latents, count, seed=0)
        assert len(found) == min(count, len(np.unique(latents, axis=0)))
        assert (found.sizes > 0).all() and found.sizes.sum() == len(latents)
        assert set(found.labels) == set(range(1, len(found) + 1))
        np.testing.assert_array_equal(found.labels[found.center_rows], np.arange(1, len(found) + 1))


def test_rows_place_the_centres_and_all_images_are_labelled():
    latents, truth = blobs()
    junk = np.full((50, 3), 500.0, np.float32)
    found = cluster_latents(np.concatenate([latents, junk]), 5, seed=0, rows=np.arange(len(latents)))
    np.testing.assert_array_equal(found.labels[: len(latents)], truth + 1)
    assert (found.labels[len(latents) :] == 5).all() and found.center_rows.max() < len(latents)


def test_the_images_that_place_centres_follow_no_period(monkeypatch):
    latents = np.arange(391)[:, None] % 10 * [1.0, 0.0]
    monkeypatch.setattr(module, "_PLACING_IMAGES", 40)  # evenly spaced ones would all be equal
    assert len(cluster_latents(latents, 5, seed=0)) == 5


def test_many_images_are_placed_by_some(monkeypatch):
    latents, truth = blobs(4, 200)
    monkeypatch.setattr(module, "_PLACING_IMAGES", 100)
    np.testing.assert_array_equal(cluster_latents(latents, 4, seed=0).labels, truth + 1)
