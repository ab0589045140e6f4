"""What lies along a path or a component: positions of images, their density, and latents at its stops."""

from __future__ import annotations

import numpy as np

_NEAR_SHARE = 100  # of the images one in so many is near a value, and
_MOST_NEAR = 50


def position_on_path(points: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project every image on the polyline through the nodes.

    Latents are noisy, and equal steps of them are not equal motions: take amplitudes of motions for `points` where
    a density is wanted. On simulated adenylate kinase (102 frames, equally many images) the density along a latent path
    shows a barrier of 2.6 kT that is not there; that along a smooth path of amplitudes is off by 0.15 on average.

    Parameters
    ----------
    points : (images, dimensions)
    nodes : (m, dimensions)
        m >= 1.

    Returns
    -------
    position : (images,) float64
        Along the path, 0 to 1; exactly 0 or 1 for images that lie beyond an end.
    distance : (images,) float64
        From the path, in units of `points`.
    """
    places, nodes = np.asarray(points, dtype=np.float64), np.asarray(nodes, dtype=np.float64)
    best = np.square(places - nodes[0]).sum(axis=1)
    position = np.zeros(len(places))
    lengths = np.linalg.norm(np.diff(nodes, axis=0), axis=1)
    begins = np.concatenate([[0.0], lengths.cumsum()])
    for node, step, length, begin in zip(nodes, np.diff(nodes, axis=0), lengths, begins, strict=False):
        if length == 0:
            continue
        along = ((places - node) @ step / length**2).clip(0, 1)
        squared = np.square(places - node - along[:, None] * step).sum(axis=1)
        is_nearer = squared < best
        position[is_nearer] = begin + along[is_nearer] * length
        best[is_nearer] = squared[is_nearer]
    return (position / begins[-1] if begins[-1] > 0 else position).clip(0, 1), np.sqrt(best)


def density_on_path(position: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how densely images lie along a path.

    Images beyond the ends (position exactly 0 or 1) are left out: they would pile up in the outer bins.

    Parameters
    ----------
    position : (images,)
        From :func:`position_on_path`.
    bins : int
        Fewer than the path has nodes: at a bend images of a whole sector project on one node.

    Returns
    -------
    edges : (bins + 1,)
        0 to 1.
    density : (bins,)
        Per unit of position; integrates to 1, or is 0 everywhere where no image counts.
    """
    is_inside = (position > 0) & (position < 1)
    counts, edges = np.histogram(position[is_inside], bins=bins, range=(0, 1))
    total = counts.sum()
    return edges, counts * (bins / total if total > 0 else 0.0)


def free_energy(density: np.ndarray) -> np.ndarray:
    """Return -ln(density) relative to the lowest, in units of kT; infinite where there are no images.

    It is a free energy only as far as the images are a fair sample of an equilibrium: picking, 2-D classes and
    freezing select, and preferred orientations may hide states. The latents' noise widens every minimum and lowers
    every barrier, so that a barrier is a lower bound. It also depends on the coordinate: equal steps of latent
    are not equal steps of anything physical.
    """
    density = np.asarray(density, dtype=np.float64)
    highest = density.max(initial=0.0)
    relative = density / (highest if highest > 0 else 1.0)
    return -np.log(relative, out=np.full(len(density), -np.inf), where=relative > 0)


def quantile_values(coordinates: np.ndarray, count: int, low: float = 0.05, high: float = 0.95) -> np.ndarray:
    """Return where a traversal stops: `count` even steps between two quantiles of a component (as cryoDRGN).

    Parameters
    ----------
    coordinates : (images,)
        Of one component.
    """
    first, last = np.quantile(np.asarray(coordinates, dtype=np.float64), [low, high])
    return np.linspace(first, last, count)


def latents_near(
    amplitudes: np.ndarray, values: np.ndarray, latents: np.ndarray, *, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the mean latent of the images nearest to each value of a motion, so that it lies where data are.

    Parameters
    ----------
    amplitudes : (images,) or (images, k)
        Of one motion or several, Å.
    values : (count,) or (count, k)
        Å; also the nodes of a path through amplitudes.
    latents : (images, latent)
    rows : (n,) int, optional
        Images that may take part; all by default.

    Returns
    -------
    (count, latent) float64
        Means over one in a hundred images, at least 1 and at most 50.
    """
    rows = np.arange(len(amplitudes)) if rows is None else np.asarray(rows, dtype=np.int64)
    near = min(max(len(rows) // _NEAR_SHARE, 1), _MOST_NEAR)
    allowed = np.asarray(amplitudes, dtype=np.float64)[rows].reshape(len(rows), -1)
    distances = (np.linalg.norm(allowed - value, axis=1) for value in np.asarray(values, dtype=np.float64))
    chosen = [rows[np.argpartition(distance, near - 1)[:near]] for distance in distances]
    return np.stack([np.asarray(latents[np.sort(some)], dtype=np.float64).mean(axis=0) for some in chosen])
