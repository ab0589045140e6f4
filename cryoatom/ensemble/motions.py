"""The motions of an ensemble: principal components of its superposed conformations, and of its latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cryoatom.particles.rows import spread_rows
from cryoatom.structure.superpose import procrustes_mean, superpose

_RESIDUES_AT_ONCE = 200_000
_SAMPLED_RESIDUES = 2_000_000  # of the singular value decomposition, which takes seconds up to there
_LEAST_SPREAD = 1e-4  # Å; less is the rounding of float32 coordinates
_LEAST_EXPANSION = 1e-3


@dataclass(frozen=True)
class Motions:
    """All conformations as a mean and a few axes of motion.

    conformation i ≈ mean + Σ_k amplitudes[i, k] axes[k], after superposition on the mean

    Parameters
    ----------
    mean : (residues, 3) float64
        Å.
    axes : (k, residues, 3) float64
        Orthogonal, of a root mean square of 1 over residues, the largest motion first. Along an axis the molecule
        expands; where it neither expands nor shrinks, the largest entry is positive.
    spreads : (k,) float64
        Standard deviation of the amplitudes, Å.
    shares : (k,) float64
        Part of the total variance.
    amplitudes : (images, k) float32
        Å: the root mean square over residues of the way from the mean.
    error : float
        Root mean square deviation, per C-alpha, of the approximation from the superposed conformations, Å.
    """

    mean: np.ndarray
    axes: np.ndarray
    spreads: np.ndarray
    shares: np.ndarray
    amplitudes: np.ndarray
    error: float

    def __len__(self) -> int:
        return len(self.axes)

    def conformations(self, amplitudes: np.ndarray) -> np.ndarray:
        """Return the (n, residues, 3) conformations of (n, k) amplitudes: straight lines, no decoder."""
        return self.mean + np.tensordot(np.asarray(amplitudes, dtype=np.float64), self.axes, axes=1)


@dataclass(frozen=True)
class Components:
    """Principal components of the latents.

    Parameters
    ----------
    mean : (latent,) float64
        Of the images that count.
    axes : (k, latent) float64
        Orthonormal, the largest variance first; the largest entry of each is positive.
    shares : (k,) float64
        Part of the total variance.
    coordinates : (images, k) float32
    """

    mean: np.ndarray
    axes: np.ndarray
    shares: np.ndarray
    coordinates: np.ndarray


def find_motions(
    conformations: np.ndarray, count: int, *, rows: np.ndarray | None = None, sample: int = 2000, seed: int = 0
) -> Motions:
    """Find the largest motions of an ensemble: principal component analysis after superposition.

    The mean and the axes come from a sample of images, one from each of `sample` equal stretches of the file; the
    amplitudes, spreads, shares and the error from all images, read in blocks. Of the images only internal motion
    counts: each conformation is superposed on the mean structure (generalised Procrustes analysis), all residues
    with equal weight (Amadei et al., Proteins 17 (1993) 412: essential dynamics).

    Parameters
    ----------
    conformations : (images, residues, 3)
        Å; may be mapped into memory.
    count : int
        Motions wanted; there are fewer where images or residues are few, and none where nothing moves.
    rows : (n,) int, optional
        Images that place mean and axes and enter spreads and shares; all by default. Amplitudes are of all images.
    sample : int
        At most so many images are decomposed, fewer of a very large molecule.
    seed : int
        Of the choice of the sample.
    """
    rows = np.arange(len(conformations)) if rows is None else np.sort(np.asarray(rows, dtype=np.int64))
    residues = conformations.shape[1]
    chosen = spread_rows(rows, min(sample, max(count + 1, _SAMPLED_RESIDUES // residues)), seed=seed)
    drawn = torch.from_numpy(np.array(conformations[chosen], dtype=np.float64))
    mean = procrustes_mean(drawn, torch.ones(len(drawn), dtype=torch.float64))
    axes = _axes(superpose(drawn, mean).numpy() - mean.numpy(), mean.numpy(), count)
    return _measured(conformations, mean, axes, rows)


def latent_components(latents: np.ndarray, count: int, *, rows: np.ndarray | None = None) -> Components:
    """Find the principal components of the latents.

    Parameters
    ----------
    latents : (images, latent)
    count : int
        Components wanted; there are at most as many as latent dimensions.
    rows : (n,) int, optional
        Images that place mean and axes and enter shares; all by default. Coordinates are of all images.
    """
    values = np.asarray(latents, dtype=np.float64)
    placing = values if rows is None else values[rows]
    mean = placing.mean(axis=0)
    variances, vectors = np.linalg.eigh((placing - mean).T @ (placing - mean) / len(placing))
    axes = vectors.T[::-1][:count]
    axes = axes * _sign_of_largest(axes)[:, None]
    total = variances.sum()
    shares = variances[::-1][:count].clip(min=0) / (total if total > 0 else 1.0)
    return Components(mean, axes, shares, ((values - mean) @ axes.T).astype(np.float32))


def _axes(deviations: np.ndarray, mean: np.ndarray, count: int) -> np.ndarray:
    """Return the axes of largest variance of (images, residues, 3) deviations, with their signs settled."""
    flat = (deviations - deviations.mean(axis=0)).reshape(len(deviations), -1)
    _, values, vectors = np.linalg.svd(flat, full_matrices=False)
    there = int((values > _LEAST_SPREAD * np.sqrt(len(flat))).sum())
    axes = vectors[: min(count, there)]
    outwards = mean - mean.mean(axis=0)
    radial = outwards.ravel() / max(float(np.linalg.norm(outwards)), np.finfo(float).tiny)
    expansion = axes @ radial
    signs = np.where(np.abs(expansion) > _LEAST_EXPANSION, np.where(expansion < 0, -1.0, 1.0), _sign_of_largest(axes))
    return (axes * signs[:, None]).reshape(len(axes), *mean.shape)


def _sign_of_largest(axes: np.ndarray) -> np.ndarray:
    largest = np.abs(axes).argmax(axis=1)
    return np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)


def _measured(conformations: np.ndarray, mean: torch.Tensor, axes: np.ndarray, rows: np.ndarray) -> Motions:
    """Stream all conformations for their amplitudes and what the axes leave over."""
    flat_axes, taking_part = axes.reshape(len(axes), mean.numel()), np.zeros(len(conformations), dtype=bool)
    taking_part[rows] = True
    amplitudes = np.empty((len(conformations), len(axes)), dtype=np.float32)
    left, sums, squares = 0.0, np.zeros(mean.numel()), 0.0
    for block in _blocks(*conformations.shape[:2]):
        moved = torch.from_numpy(np.array(conformations[block], dtype=np.float64))
        deviations = (superpose(moved, mean) - mean).reshape(len(moved), -1).numpy()
        values = deviations @ flat_axes.T
        amplitudes[block] = values
        left += float(np.square(deviations).sum() - np.square(values).sum())
        counted = deviations[taking_part[block]]
        sums, squares = sums + counted.sum(axis=0), squares + float(np.square(counted).sum())
    total = squares / len(rows) - float(np.square(sums / len(rows)).sum())
    spreads = amplitudes[rows].astype(np.float64).std(axis=0)
    shares = np.square(spreads) / (total if total > 0 else 1.0)
    error = float(np.sqrt(max(left, 0.0) / (len(conformations) * len(mean))))
    unit = len(mean) ** 0.5  # of an amplitude: so far that C-alphas move by 1 Å, r.m.s.
    return Motions(mean.numpy(), unit * axes, spreads / unit, shares, amplitudes / np.float32(unit), error)


def _blocks(images: int, residues: int) -> Iterator[slice]:
    at_once = max(1, _RESIDUES_AT_ONCE // residues)
    yield from (slice(start, start + at_once) for start in range(0, images, at_once))
