"""Where the images lie: latents, motions, clusters, and a path through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.run import Run
from cryoatom.ensemble.along_path import density_on_path, latents_near, position_on_path, quantile_values
from cryoatom.ensemble.clusters import Clusters, cluster_latents
from cryoatom.ensemble.embedding import embed_umap
from cryoatom.ensemble.motions import Components, Motions, find_motions, latent_components
from cryoatom.ensemble.paths import neighbour_graph_path, parse_path, smooth_path

MOTIONS = 16  # enough for the report to hold every conformation
_PATH_MOTIONS = 10  # in which a path is found, not in latents: there noise makes barriers that are not there
_PATH_NODES = 60
_DENSITY_BINS = 40
_ENDS = 0.02  # quantiles of the largest motion between which a path runs by default


@dataclass(frozen=True)
class MotionPath:
    """A path through the images.

    Parameters
    ----------
    images : (m,) int64
        Those that it was found along, of the run, from 0.
    nodes : (n, motions) float64
        Points of the smooth curve among these images, amplitudes of motions, Å.
    position : (images,) float64
        Of each image along it, 0 to 1.
    distance : (images,) float64
        From it, Å (r.m.s. over residues).
    edges, density : (bins + 1,), (bins,) float64
        How densely the images lie along it.
    """

    images: np.ndarray
    nodes: np.ndarray
    position: np.ndarray
    distance: np.ndarray
    edges: np.ndarray
    density: np.ndarray


@dataclass(frozen=True)
class Landscape:
    """Where the images lie.

    Parameters
    ----------
    rows : (n,) int64
        Images that count, neither junk nor dead: of the run, from 0. They place axes, clusters and path.
    components, motions
        Principal components of latents and of superposed conformations.
    clusters
        Of latents.
    path
        None where there are fewer than three images, or nothing moves.
    embedding : (images, 2) float32 or None
        UMAP of the latents.
    """

    rows: np.ndarray
    components: Components
    motions: Motions
    clusters: Clusters
    path: MotionPath | None
    embedding: np.ndarray | None


@dataclass(frozen=True)
class Traversal:
    """A series of conformations to look at.

    Parameters
    ----------
    title : str
        For people.
    positions : (frames, residues, 3) float
        Å.
    latents : (frames, latent)
    notes : tuple of str
        One for each frame.
    images : (frames,) int64 or None
        Those whose conformations they are, of the run, from 0; None if decoded from other latents.
    """

    title: str
    positions: np.ndarray
    latents: np.ndarray
    notes: tuple[str, ...]
    images: np.ndarray | None = None


def survey(run: Run, config: AnalyzeConfig) -> Landscape:
    """Find components, motions, clusters and a path.

    Raises
    ------
    ValueError
        If `--path` names no images, or UMAP is wanted and not installed.
    """
    rows = run.good_rows
    components = latent_components(run.latents, max(config.pc, 2), rows=rows)
    motions = find_motions(run.conformations, max(config.pc, MOTIONS), rows=rows, seed=config.seed)
    clusters = cluster_latents(run.latents, config.ksample, seed=config.seed, rows=rows)
    return Landscape(
        rows=rows,
        components=components,
        motions=motions,
        clusters=clusters,
        path=_find_path(config, motions, clusters, rows),
        embedding=embed_umap(run.latents, seed=config.seed, rows=rows) if config.umap else None,
    )


def _find_path(config: AnalyzeConfig, motions: Motions, clusters: Clusters, rows: np.ndarray) -> MotionPath | None:
    points = motions.amplitudes[:, :_PATH_MOTIONS]
    if config.path is not None:
        start, end = parse_path(config.path, clusters, len(points))
    elif len(rows) < 3 or len(motions) == 0:
        return None
    else:
        start, end = _ends(motions.amplitudes[:, 0], rows)
    if start == end:
        return None
    images = neighbour_graph_path(points, start, end, rows=rows)
    curve = smooth_path(points[rows], points[images], _PATH_NODES)
    position, distance = position_on_path(points, curve)
    edges, density = density_on_path(position[rows], _DENSITY_BINS)
    return MotionPath(images, curve, position, distance, edges, density)


def _ends(amplitudes: np.ndarray, rows: np.ndarray) -> tuple[int, int]:
    """Return the images nearest to two quantiles of a motion: the very extremes are the noisiest."""
    of_rows = amplitudes[rows]
    values = np.quantile(of_rows, [_ENDS, 1 - _ENDS])
    first, last = (int(rows[np.abs(of_rows - value).argmin()]) for value in values)
    return first, last


def traverse(run: Run, landscape: Landscape, config: AnalyzeConfig) -> dict[str, Traversal]:
    """Return the series of conformations by the name of their folder: pc1, motion1, kmeans20, path."""
    found: dict[str, Traversal] = {}
    for index in range(min(config.pc, len(landscape.motions))):
        found[f"motion{index + 1}"] = _along_motion(run, landscape, index, config.n_per_pc)
    if landscape.path is not None:
        found["path"] = _along_path(run, landscape, landscape.path, config.n_per_pc)
    found[f"kmeans{config.ksample}"] = _of_clusters(run, landscape.clusters)
    for index in range(min(config.pc, len(landscape.components.axes))):
        found[f"pc{index + 1}"] = _along_component(run, landscape, index, config.n_per_pc)
    return found


def _along_component(run: Run, landscape: Landscape, index: int, count: int) -> Traversal:
    """Follow a principal component of the latents through their mean, as cryoDRGN does."""
    components = landscape.components
    values = quantile_values(components.coordinates[landscape.rows, index], count)
    latents = components.mean + values[:, None] * components.axes[index]
    notes = tuple(f"latent PC {index + 1} = {value:.2f}" for value in values)
    return Traversal(f"latent PC {index + 1}", run.decode(latents), latents, notes)


def _along_motion(run: Run, landscape: Landscape, index: int, count: int) -> Traversal:
    """Follow a principal motion: each conformation is that of the mean latent of images that lie there."""
    amplitudes = landscape.motions.amplitudes[:, index]
    values = quantile_values(amplitudes[landscape.rows], count)
    latents = latents_near(amplitudes, values, run.latents, rows=landscape.rows)
    notes = tuple(f"motion {index + 1}, {value:.1f} Å r.m.s. from the mean" for value in values)
    return Traversal(f"motion {index + 1}", run.decode(latents), latents, notes)


def _along_path(run: Run, landscape: Landscape, path: MotionPath, count: int) -> Traversal:
    """Follow the path: each conformation is that of the mean latent of images near it."""
    values = np.linspace(0, 1, count)
    stops = path.nodes[np.round(values * (len(path.nodes) - 1)).astype(int)]
    amplitudes = landscape.motions.amplitudes[:, : stops.shape[1]]
    latents = latents_near(amplitudes, stops, run.latents, rows=landscape.rows)
    notes = tuple(f"{100 * value:.0f}% of the path" for value in values)
    return Traversal("path", run.decode(latents), latents, notes)


def _of_clusters(run: Run, clusters: Clusters) -> Traversal:
    images = clusters.center_rows
    notes = tuple(
        f"cluster {label}: {size:,} images; row {run.rows[image]}"
        for label, (size, image) in enumerate(zip(clusters.sizes.tolist(), images.tolist(), strict=True), start=1)
    )
    positions = np.array([run.conformations[image] for image in images.tolist()])
    return Traversal("clusters", positions, run.latents[images], notes, images)
