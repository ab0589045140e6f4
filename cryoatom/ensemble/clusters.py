"""Clusters of latents by k-means, numbered from 1 along the largest spread of their centres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import ClusterError, kmeans2, vq

from cryoatom.particles.rows import spread_rows

_PLACING_IMAGES = 20_000
_RESTARTS = 5
_STEPS = 30


@dataclass(frozen=True)
class Clusters:
    """Images in clusters.

    Parameters
    ----------
    labels : (images,) int64
        The cluster of each image, counted from 1.
    centers : (k, latent) float64
    center_rows : (k,) int64
        The image of each cluster that is nearest to its centre.
    sizes : (k,) int64
        Images in each.
    """

    labels: np.ndarray
    centers: np.ndarray
    center_rows: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.centers)


def cluster_latents(latents: np.ndarray, count: int, *, seed: int, rows: np.ndarray | None = None) -> Clusters:
    """Put images into clusters by k-means on their latents.

    Several k-means++ starts (Arthur & Vassilvitskii, SODA 2007) on at most 20,000 images; the best one is finished on
    all of `rows`. Clusters are numbered along the principal axis of their centres, so that close numbers are near each
    other. k-means cuts a continuous motion into equal pieces: clusters are representatives, not states.

    Parameters
    ----------
    latents : (images, latent)
    count : int
        Clusters wanted; there are fewer where fewer images differ. None is empty.
    seed : int
    rows : (n,) int, optional
        Images that place the centres, and that may stand for a cluster; all by default. Every image gets a label.
    """
    values = np.asarray(latents, dtype=np.float64)
    rows = np.arange(len(values)) if rows is None else np.asarray(rows, dtype=np.int64)
    placing = values[rows]
    centers = _refined(placing, _started(placing, count, seed))
    centers = centers[_order(centers)]
    own, distances = vq(placing, centers)
    nearest = np.lexsort((distances, own))  # by cluster, then by distance
    center_rows = rows[nearest[np.unique(own[nearest], return_index=True)[1]]]
    labels = vq(values, centers)[0].astype(np.int64) + 1
    return Clusters(labels, centers, center_rows, np.bincount(labels, minlength=len(centers) + 1)[1:])


def _started(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the centres of the best of several starts on some of the images."""
    some = values[spread_rows(np.arange(len(values)), _PLACING_IMAGES, seed=seed)]
    different = np.unique(some, axis=0)
    if len(different) <= count:
        return different
    generator = np.random.default_rng(seed)
    best, least = different[:1], np.inf
    for _ in range(_RESTARTS):
        try:
            centers, labels = kmeans2(some, count, iter=_STEPS, minit="++", missing="raise", rng=generator)
        except ClusterError:  # a cluster lost all its images on the way: another start
            continue
        cost = float(np.square(some - centers[labels]).sum())
        if cost < least:
            best, least = centers, cost
    if np.isinf(least):  # every start lost a cluster: so many cannot be kept apart
        return _started(values, count - 1, seed)
    return best


def _refined(values: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Go on with all images until no image changes its cluster; clusters that run empty are dropped."""
    previous = None
    for _ in range(_STEPS):
        labels = vq(values, centers)[0]
        if previous is not None and np.array_equal(labels, previous):
            break
        previous = labels
        sizes = np.bincount(labels, minlength=len(centers))
        sums = np.stack([np.bincount(labels, weights=axis, minlength=len(centers)) for axis in values.T], axis=1)
        centers = sums[sizes > 0] / sizes[sizes > 0, None]
        previous = None if (sizes == 0).any() else labels
    return centers[np.unique(vq(values, centers)[0])]


def _order(centers: np.ndarray) -> np.ndarray:
    """Return the order of the centres along the axis of their largest variance."""
    deviations = centers - centers.mean(axis=0)
    axis = np.linalg.svd(deviations, full_matrices=False)[2][0]
    axis = axis * (-1.0 if axis[np.abs(axis).argmax()] < 0 else 1.0)
    return np.argsort(deviations @ axis, kind="stable")
