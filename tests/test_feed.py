"""Images on their way to the device."""

import numpy as np
import pytest
import torch

from cryoatom.imaging.grid import CropGrid
from cryoatom.imaging.matched import MatchedSet
from cryoatom.training.feed import ImageFeed

COUNT, SIDE = 23, 6
CPU = torch.device("cpu")


def stored(nodes: int, *, is_mixed: bool) -> MatchedSet:
    """A set of random numbers: each image has its own crop, and a node of the kernels."""
    generator = np.random.default_rng(0)
    empty = np.zeros(COUNT)
    return MatchedSet(
        crops=generator.normal(size=(COUNT, SIDE, SIDE)).astype(np.float16),
        kernels=generator.normal(size=(nodes, 2 * SIDE, SIDE + 1)).astype(np.float16),
        kernel_index=np.arange(COUNT) % nodes,
        kernel_mix=(generator.uniform(size=COUNT) * (np.arange(COUNT) % nodes < nodes - 1) * is_mixed).astype("f4"),
        image_power=empty,
        power_excess=empty,
        is_dead=empty.astype(bool),
        noise_power=np.ones((1, 4)),
        noise_group=empty.astype(np.int64),
        grid=CropGrid(12, 1.0, 12, SIDE),
        identity="none",
    )


def feeds(data: MatchedSet) -> dict[str, ImageFeed]:
    ahead = ImageFeed(data, torch.device("meta"), room=0)  # no CPU: it reads ahead
    ahead._device = CPU
    return {"in place": ImageFeed(data, CPU), "resident": ImageFeed(data, CPU, room=10**9), "ahead": ahead}


@pytest.mark.parametrize("way", ["in place", "resident", "ahead"])
@pytest.mark.parametrize(("nodes", "is_mixed"), [(1, False), (5, False), (5, True), (COUNT, False)])
def test_all_ways_read_the_same(way, nodes, is_mixed):
    data = stored(nodes, is_mixed=is_mixed)
    feed = feeds(data)[way]
    parts = np.array_split(np.random.default_rng(1).permutation(COUNT), 4)
    feed.expect(parts)
    for rows in parts:
        crops, spectra = feed.read(rows)
        np.testing.assert_array_equal(crops.numpy(), data.crops[rows].astype(np.float32))
        mix = data.kernel_mix[rows, None, None]
        kernels = data.kernels.astype(np.float32)
        lower = data.kernel_index[rows]
        expected = (1 - mix) * kernels[lower] + mix * kernels[np.minimum(lower + 1, nodes - 1)]
        np.testing.assert_allclose(spectra.expand(len(rows), -1, -1).numpy(), expected, atol=1e-6)


def test_images_are_read_before_they_are_asked_for():
    data = stored(5, is_mixed=True)
    feed = feeds(data)["ahead"]
    taken = []
    feed._take = lambda rows: taken.append(rows.tolist()) or data.take(rows)
    parts = np.array_split(np.arange(COUNT), 6)
    feed.expect(parts)
    feed._ahead[-1][1].result()
    assert taken == [part.tolist() for part in parts[:3]]
    feed.read(parts[0])
    feed.read(parts[0])  # an encoder has seen them first
    feed.read(parts[1])
    feed._ahead[-1][1].result()
    assert taken == [part.tolist() for part in parts[:4]]
    feed.read(parts[3])  # out of turn
    feed.read(parts[4])
    feed._ahead[-1][1].result()
    assert taken == [part.tolist() for part in parts[:6]]


def test_who_asks_for_other_images_is_served_too():
    data = stored(5, is_mixed=False)
    feed = feeds(data)["ahead"]
    parts = np.array_split(np.arange(COUNT), 3)
    feed.expect(parts)
    np.testing.assert_array_equal(feed.read(parts[2])[0].numpy(), data.read(parts[2])[0].numpy())
    np.testing.assert_array_equal(feed.read(parts[0])[0].numpy(), data.read(parts[0])[0].numpy())
    feed.expect([parts[1]])
    np.testing.assert_array_equal(feed.read(parts[1])[0].numpy(), data.read(parts[1])[0].numpy())
    np.testing.assert_array_equal(feed.read(parts[1])[0].numpy(), data.read(parts[1])[0].numpy())
