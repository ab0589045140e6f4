"""Latents on a plane by UMAP, an optional extra."""

from __future__ import annotations

from importlib import import_module

import numpy as np

_NEIGHBOURS = 15
_FEWEST_IMAGES = 5


def embed_umap(latents: np.ndarray, *, seed: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Embed latents into two dimensions by UMAP (McInnes et al., arXiv:1802.03426).

    Neighbours stay neighbours; distances and areas mean nothing, and gaps may be the method's own.

    Parameters
    ----------
    latents : (images, latent)
    seed : int
        The same seed gives the same plane, at the price of one thread.
    rows : (n,) int, optional
        Images that make the plane; all by default. The others are put where they fit best.

    Returns
    -------
    (images, 2) float32

    Raises
    ------
    ValueError
        When umap-learn is not installed, or fewer than five images make the plane.
    """
    values = np.asarray(latents, dtype=np.float32)
    is_placing = np.ones(len(values), dtype=bool) if rows is None else np.isin(np.arange(len(values)), rows)
    count = int(is_placing.sum())
    if count < _FEWEST_IMAGES:
        raise ValueError(f"UMAP needs at least {_FEWEST_IMAGES} images, found {count}; leave out --umap")
    try:
        umap = import_module("umap")
    except ImportError as error:
        raise ValueError("--umap needs umap-learn: pip install 'cryoatom[umap]'") from error
    neighbours = min(_NEIGHBOURS, count - 1)
    # with a seed umap-learn uses one thread, and warns unless it is told to
    embedding = umap.UMAP(n_components=2, n_neighbors=neighbours, random_state=seed, n_jobs=1)
    plane = np.empty((len(values), 2), dtype=np.float32)
    plane[is_placing] = embedding.fit_transform(values[is_placing])
    if count < len(values):
        plane[~is_placing] = embedding.transform(values[~is_placing])
    return plane
