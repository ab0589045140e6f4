"""Paths through the images: along the data graph, along a component; and where images lie on a path."""

from __future__ import annotations

import logging
import re

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import KDTree

from cryoatom.ensemble.clusters import Clusters
from cryoatom.particles.rows import spaced_rows

_GRAPH_IMAGES = 50_000  # neighbours in eight dimensions take 5 s there, and more than twice as long for twice as many
_NEAR_SHARE = 100  # of the images one in so many is near a value, and
_MOST_NEAR = 50
_WINDOW = 0.08  # of the length of a path: wider ones cut corners, narrower ones follow the noise
_CURVE_NODES = 60
_BINS = 400
_FAR = 3.0  # times the median distance from a path
_END = re.compile(r"k?\d+")
_logger = logging.getLogger(__name__)


def neighbour_graph_path(
    points: np.ndarray,
    start: int,
    end: int,
    *,
    neighbours: int = 10,
    sample: int = _GRAPH_IMAGES,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Find the shortest path from one image to another that steps from image to image.

    Each image is joined to its nearest neighbours; a step costs its squared distance, so that many short steps
    through dense regions win over few long ones (as cryoDRGN's graph_traversal). Regions that no edge joins are
    joined where they are nearest, and a warning tells how far that is.

    Parameters
    ----------
    points : (images, dimensions)
        Latents, or amplitudes of motions.
    start, end : int
        Rows.
    neighbours : int
        Of each image.
    sample : int
        At most so many images, evenly spaced in the file, besides the two ends.
    rows : (n,) int, optional
        Images that may lie on the path; all by default.

    Returns
    -------
    (m,) int64
        Rows, from `start` to `end`.
    """
    rows = np.arange(len(points)) if rows is None else np.asarray(rows, dtype=np.int64)
    rows = np.union1d(rows[spaced_rows(len(rows), sample)], [start, end])
    places = np.asarray(points[rows], dtype=np.float64)
    first, last = (int(np.searchsorted(rows, row)) for row in (start, end))
    graph = _neighbour_graph(places, neighbours)
    joined = _joined(graph, places, first, last)
    previous = dijkstra(joined, directed=False, indices=first, return_predecessors=True)[1]
    path = [last]
    while path[-1] != first:
        path.append(int(previous[path[-1]]))
    if joined is not graph:
        longest = np.linalg.norm(np.diff(places[path], axis=0), axis=1).max()
        usual = float(np.sqrt(np.median(graph.data)))
        _logger.warning(
            "no images lie between the ends of the path: its longest step is %.3g, neighbours are %.3g apart; "
            "what is shown in between is a guess",
            longest,
            usual,
        )
    return rows[path[::-1]].astype(np.int64)


def spread_along(points: np.ndarray, path_rows: np.ndarray, count: int) -> np.ndarray:
    """Thin a path to at most `count` images about equally far apart, its ends among them.

    Parameters
    ----------
    points : (images, dimensions)
    path_rows : (m,) int64
        As :func:`neighbour_graph_path` returns them.
    count : int
        At least 2.
    """
    places = np.asarray(points[path_rows], dtype=np.float64)
    lengths = np.concatenate([[0.0], np.linalg.norm(np.diff(places, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, lengths[-1], min(count, len(path_rows)))
    nearest = np.abs(lengths - wanted[:, None]).argmin(axis=1)
    return path_rows[np.union1d(nearest, [0, len(path_rows) - 1])]


def smooth_path(points: np.ndarray, nodes: np.ndarray, count: int, *, rounds: int = 4) -> np.ndarray:
    """Draw a path through the middle of the images around it: a principal curve.

    A path from image to image zigzags by the noise of the images, and images crowd at its outer corners: along it
    density shows barriers that are not there. Each round projects the images on the path and replaces it by their
    local mean (Hastie & Stuetzle, J. Am. Stat. Assoc. 84 (1989) 502), a local line fitted in a Gaussian window. Images
    more than three times as far away as the median are left out.

    Parameters
    ----------
    points : (images, dimensions)
        Latents, or better amplitudes of motions: then length along the path is in Å.
    nodes : (m, dimensions)
        Of the path found.
    count : int
        Nodes wanted.
    rounds : int

    Returns
    -------
    (count, dimensions) float64
        Equally far apart. The ends are means too: less extreme than single images.
    """
    places = np.asarray(points, dtype=np.float64)
    curve = _evenly_spaced(np.asarray(nodes, dtype=np.float64), _CURVE_NODES)
    for _ in range(rounds):
        position, distance = position_on_path(places, curve)
        near = distance <= _FAR * max(float(np.median(distance)), np.finfo(float).tiny)
        curve = _evenly_spaced(_local_lines(position[near], places[near], _WINDOW), _CURVE_NODES)
    return _evenly_spaced(curve, count)


def position_on_path(points: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project every image on the polyline through the nodes.

    Parameters
    ----------
    points : (images, dimensions)
    nodes : (m, dimensions)
        m >= 1.

    Latents are noisy, and equal steps of them are not equal motions: take amplitudes of motions for `points` where
    a density is wanted. On simulated adenylate kinase (102 frames, equally many images) the density along a latent path
    shows a barrier of 2.6 kT that is not there; that along a smooth path of amplitudes is off by 0.15 on average.

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


def density_on_path(
    position: np.ndarray, bins: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return how densely images lie along a path.

    Images beyond the ends (position exactly 0 or 1) are left out: they would pile up in the outer bins.

    Parameters
    ----------
    position : (images,)
        From :func:`position_on_path`.
    bins : int
        Fewer than the path has nodes: at a bend images of a whole sector project on one node.
    weights : (images,), optional
        0 for images that shall not count, as those far from the path.

    Returns
    -------
    edges : (bins + 1,)
        0 to 1.
    density : (bins,)
        Per unit of position; integrates to 1, or is 0 everywhere where no image counts.
    """
    is_inside = (position > 0) & (position < 1)
    used = None if weights is None else np.asarray(weights, dtype=np.float64)[is_inside]
    counts, edges = np.histogram(position[is_inside], bins=bins, range=(0, 1), weights=used)
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


def parse_path(text: str, clusters: Clusters, count: int) -> tuple[int, int]:
    """Read the ends of a path: two of particle rows (from 0) and clusters (k1, k2, ...; its central image).

    Parameters
    ----------
    text : str
        '12,3400' or 'k3,k17'.
    clusters : Clusters
    count : int
        Images.

    Raises
    ------
    ValueError
        When there are not two different ends, or one does not exist.
    """
    parts = [part.strip().lower() for part in text.split(",")]
    if len(parts) != 2 or not all(_END.fullmatch(part) for part in parts):
        raise ValueError(f"--path {text!r}: expected two particles (rows from 0) or clusters, as '12,3400' or 'k3,k17'")
    start, end = (_row(part, text, clusters, count) for part in parts)
    if start == end:
        raise ValueError(f"--path {text!r}: both ends are the particle in row {start}; give two different ones")
    return start, end


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


def _row(part: str, text: str, clusters: Clusters, count: int) -> int:
    number = int(part.removeprefix("k"))
    if part.startswith("k"):
        if not 1 <= number <= len(clusters):
            raise ValueError(f"--path {text!r}: there is no cluster {number}; they are k1 to k{len(clusters)}")
        return int(clusters.center_rows[number - 1])
    if number >= count:
        raise ValueError(f"--path {text!r}: there is no particle in row {number}; rows are 0 to {count - 1}")
    return number


def _local_lines(position: np.ndarray, places: np.ndarray, window: float) -> np.ndarray:
    """Return a line fitted around each of some even positions, at its position: local linear regression on bins."""
    bins = np.minimum((position * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    middle = np.bincount(bins, weights=position, minlength=_BINS) / counts.clip(min=1)
    sums = np.stack([np.bincount(bins, weights=axis, minlength=_BINS) for axis in places.T], axis=1)
    low, high = position.min(), position.max()
    offsets = middle - np.linspace(low, high, _CURVE_NODES)[:, None]
    # where images are few the window widens until it holds some
    kernel = np.exp(-0.5 * np.square(offsets / window)) * counts + 1e-6 * np.exp(-np.abs(offsets)) * counts
    zeroth, first, second = (kernel @ np.ones(_BINS), (kernel * offsets).sum(1), (kernel * offsets**2).sum(1))
    means = sums / counts.clip(min=1)[:, None]
    determinant = zeroth * second - first**2
    is_line = determinant > 1e-12 * zeroth * second
    safe = np.where(is_line, determinant, 1.0)[:, None]
    lines = (second[:, None] * (kernel @ means) - first[:, None] * ((kernel * offsets) @ means)) / safe
    return np.where(is_line[:, None], lines, (kernel @ means) / zeroth[:, None])


def _evenly_spaced(curve: np.ndarray, count: int) -> np.ndarray:
    """Return `count` points at equal steps along a polyline."""
    lengths = np.concatenate([[0.0], np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, lengths[-1], count)
    return np.stack([np.interp(wanted, lengths, axis) for axis in curve.T], axis=1)


def _neighbour_graph(places: np.ndarray, neighbours: int) -> csr_array:
    """Return the graph of nearest neighbours; its edges count in both directions."""
    distances, indices = KDTree(places).query(places, k=min(neighbours + 1, len(places)))
    begins = np.repeat(np.arange(len(places)), indices.size // len(places))
    return _edges(begins, indices.ravel(), distances.ravel(), len(places))


def _edges(begins: np.ndarray, ends: np.ndarray, distances: np.ndarray, count: int) -> csr_array:
    # a stored zero is no edge to scipy: identical points are a tiny step apart
    costs = np.square(distances).clip(min=np.finfo(float).tiny)
    is_step = begins != ends
    return coo_array((costs[is_step], (begins[is_step], ends[is_step])), shape=(count, count)).tocsr()


def _joined(graph: csr_array, places: np.ndarray, first: int, last: int) -> csr_array:
    """Join the region of `first` to the nearest other region until it holds `last`."""
    while True:
        regions = connected_components(graph, directed=False)[1]
        if regions[first] == regions[last]:
            return graph
        inside, outside = np.flatnonzero(regions == regions[first]), np.flatnonzero(regions != regions[first])
        few, many = sorted((inside, outside), key=len)
        distances, nearest = KDTree(places[many]).query(places[few])
        least = int(distances.argmin())
        bridge = few[[least]], many[np.asarray(nearest)[[least]]]
        graph = csr_array(graph + _edges(*bridge, distances[[least]], len(places)))
