"""Paths through the images: found from image to image along the data graph, then drawn as a smooth curve."""

from __future__ import annotations

import logging
import re

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import KDTree

from cryoatom.ensemble.along_path import position_on_path
from cryoatom.ensemble.clusters import Clusters
from cryoatom.particles.rows import spread_rows

_GRAPH_IMAGES = 50_000  # neighbours in eight dimensions take 5 s there, and more than twice as long for twice as many
_WINDOW = 0.08  # of the length of a path: wider ones cut corners, narrower ones follow the noise
_CURVE_NODES = 60
_BINS = 400
_FAR = 3.0  # times the median distance from a path
_END = re.compile(r"k?\d+")
_logger = logging.getLogger(__name__)


def parse_path(text: str, clusters: Clusters, count: int) -> tuple[int, int]:
    """Read the ends of a path: two of images of the run (from 0) and clusters (k1, k2, ...; its central image).

    Parameters
    ----------
    text : str
        '12,3400' or 'k3,k17'.
    clusters : Clusters
    count : int
        Images of the run.

    Raises
    ------
    ValueError
        When there are not two different ends, or one does not exist.
    """
    parts = [part.strip().lower() for part in text.split(",")]
    if len(parts) != 2 or not all(_END.fullmatch(part) for part in parts):
        raise ValueError(
            f"--path {text!r}: expected two images of the run (from 0) or clusters, as '12,3400' or 'k3,k17'"
        )
    start, end = (_image(part, text, clusters, count) for part in parts)
    if start == end:
        raise ValueError(f"--path {text!r}: both ends are image {start}; give two different ones")
    return start, end


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
        Images.
    neighbours : int
        Of each image.
    sample : int
        At most so many images, spread over the file, besides the two ends.
    rows : (n,) int, optional
        Images that may lie on the path; all by default.

    Returns
    -------
    (m,) int64
        Images, from `start` to `end`.
    """
    rows = np.arange(len(points)) if rows is None else np.asarray(rows, dtype=np.int64)
    rows = np.union1d(spread_rows(rows, sample), [start, end])
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


def _image(part: str, text: str, clusters: Clusters, count: int) -> int:
    number = int(part.removeprefix("k"))
    if part.startswith("k"):
        if not 1 <= number <= len(clusters):
            raise ValueError(f"--path {text!r}: there is no cluster {number}; they are k1 to k{len(clusters)}")
        return int(clusters.center_rows[number - 1])
    if number >= count:
        raise ValueError(f"--path {text!r}: there is no image {number}; they are 0 to {count - 1}")
    return number


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
