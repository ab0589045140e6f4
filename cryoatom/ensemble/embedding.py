"""Latents on a plane by UMAP, an optional extra."""

from __future__ import annotations

from importlib import import_module

import numpy as np

_NEIGHBOURS = 15
_FEWEST_IMAGES = 5


def embed_umap(latents: np.ndarray, *, seed: int) -> np.ndarray:
    """Embed latents into two dimensions by UMAP (McInnes et al., arXiv:1802.03426).

    Neighbours stay neighbours; distances and areas mean nothing, and gaps may be the method's own.

    Parameters
    ----------
    latents : (images, latent)
    seed : int
        The same seed gives the same plane, at the price of one thread.

    Returns
    -------
    (images, 2) float32

    Raises
    ------
    ValueError
        When umap-learn is not installed, or there are fewer than five images.
    """
    if len(latents) < _FEWEST_IMAGES:
        raise ValueError(f"UMAP needs at least {_FEWEST_IMAGES} images, found {len(latents)}; leave out --umap")
    try:
        umap = import_module("umap")
    except ImportError as error:
        raise ValueError("--umap needs umap-learn: pip install 'cryoatom[umap]'") from error
    neighbours = min(_NEIGHBOURS, len(latents) - 1)
    # with a seed umap-learn uses one thread, and warns unless it is told to
    embedding = umap.UMAP(n_components=2, n_neighbors=neighbours, random_state=seed, n_jobs=1)
    return np.asarray(embedding.fit_transform(np.asarray(latents, dtype=np.float32)), dtype=np.float32)
