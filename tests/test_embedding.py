"""UMAP is asked for what we say, with the library replaced by a stand-in; without it the way out is named."""

import sys
from types import ModuleType

import numpy as np
import pytest
from matplotlib.figure import Figure

from cryoatom.ensemble.embedding import embed_umap
from cryoatom.ensemble.motion_plots import plot_umap


@pytest.fixture
def umap(monkeypatch):
    module, asked = ModuleType("umap"), []

    class UMAP:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, values):
            self.middle = values.mean(axis=0)
            return self.transform(values)

        def transform(self, values):
            return (values - self.middle)[:, :2].astype(np.float64)

    vars(module)["UMAP"] = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    return asked


@pytest.mark.parametrize(("images", "neighbours"), [(100, 15), (6, 5)])
def test_seed_and_neighbours_reach_umap(umap, images, neighbours):
    latents = np.random.default_rng(0).normal(size=(images, 4))
    found = embed_umap(latents, seed=7)
    assert found.shape == (images, 2) and found.dtype == np.float32
    assert umap == [{"n_components": 2, "n_neighbors": neighbours, "random_state": 7, "n_jobs": 1}]
    assert isinstance(plot_umap(found, np.arange(images) % 3 + 1), Figure)


def test_only_rows_make_the_plane_but_every_image_has_a_place(umap):
    latents = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    latents[::3] += 1000
    good = np.flatnonzero(np.arange(30) % 3)
    found = embed_umap(latents, seed=0, rows=good)
    np.testing.assert_allclose(found[good], embed_umap(latents[good], seed=0))
    assert (found[::3] > 900).all() and umap[0]["n_neighbors"] == 15
    with pytest.raises(ValueError, match="at least 5 images, found 4"):
        embed_umap(latents, seed=0, rows=good[:4])


def test_without_the_library_or_with_too_few_images_the_message_says_what_to_do(monkeypatch, umap):
    with pytest.raises(ValueError, match="at least 5 images, found 4"):
        embed_umap(np.zeros((4, 2)), seed=0)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ValueError, match=r"pip install 'cryoatom\[umap\]'"):
        embed_umap(np.zeros((40, 2)), seed=0)
