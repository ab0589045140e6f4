"""An elastic network of C-alphas and its softest modes: the anisotropic network model of Atilgan et al. (2001)."""

from __future__ import annotations

import logging

import numpy as np
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import eigsh
from scipy.spatial import KDTree

CUTOFF = 15.0
LONGEST_CUTOFF = 60.0
_WIDER = 1.25
_RIGID = 6  # translations and rotations
_STIFF = 1e-6  # of a spring: a softer mode costs nothing
_logger = logging.getLogger(__name__)


def elastic_modes(positions: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the softest motions of an elastic network that change its shape.

    Springs join C-alphas within 15 Å. Where that leaves parts that move freely, as chains that are far apart, the
    cutoff grows until none are left.

    Parameters
    ----------
    positions : (residues, 3)
        C-alphas, Å.
    count
        How many modes.

    Returns
    -------
    modes : (count, residues, 3) float64
        Orthonormal, softest first; of each the largest component is positive.
    stiffness : (count,) float64
        Eigenvalues of the Hessian, in units of a spring.

    Raises
    ------
    ValueError
        When the network is too small for so many modes, or falls into pieces with springs of up to 60 Å.
    """
    if count > 3 * len(positions) - _RIGID - 1:
        raise ValueError(
            f"{len(positions)} residues have fewer than {count} modes that change their shape: take a smaller --zdim"
        )
    cutoff = CUTOFF
    while cutoff <= LONGEST_CUTOFF:
        stiffness, modes = _softest(hessian(positions, cutoff), count + _RIGID)
        if stiffness[_RIGID] > _STIFF:
            if cutoff > CUTOFF:
                _logger.warning(
                    "parts of the template are far apart: its elastic network has springs of %.0f Å", cutoff
                )
            return _signed(modes[:, _RIGID:].T.reshape(count, -1, 3)), stiffness[_RIGID:]
        cutoff *= _WIDER
    raise ValueError(
        f"the template falls into pieces that no springs of up to {LONGEST_CUTOFF:.0f} Å hold together, so its elastic "
        "network has no modes: take a template in one piece, or another --decoder"
    )


def hessian(positions: np.ndarray, cutoff: float) -> csc_array:
    """Return the second derivatives of the energy ½ Σ (|x_i - x_j| - |x_i - x_j|_0)² over pairs within a cutoff.

    Blocks are H_ij = -u u^T and H_ii = -Σ_j H_ij, with u the unit vector from i to j (Atilgan et al. eq. 4-6).

    Returns
    -------
    matrix : (3 residues, 3 residues) float64
    """
    pairs = KDTree(positions).query_pairs(cutoff, output_type="ndarray").reshape(-1, 2)
    i, j = pairs.T
    offsets = positions[j] - positions[i]
    units = offsets / np.linalg.norm(offsets, axis=1, keepdims=True)
    blocks = units[:, :, None] * units[:, None, :]
    first, second = np.concatenate([i, j, i, j]), np.concatenate([j, i, i, j])
    values = np.concatenate([-blocks, -blocks, blocks, blocks])
    axis = np.arange(3)
    rows = np.broadcast_to(3 * first[:, None, None] + axis[:, None], values.shape)
    columns = np.broadcast_to(3 * second[:, None, None] + axis, values.shape)
    shape = (3 * len(positions), 3 * len(positions))
    return coo_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=shape).tocsc()


def _softest(matrix: csc_array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest eigenvalues, in rising order, and their vectors, found by their inverses around a shift.

    The shift lies below zero, where the matrix has no eigenvalue: it would be singular there.
    """
    guess = np.random.default_rng(0).standard_normal(matrix.diagonal().shape)
    values, vectors = eigsh(matrix, count, sigma=-0.01, v0=guess)  # pyright: ignore
    order = np.argsort(values)
    return values[order], vectors[:, order]


def _signed(modes: np.ndarray) -> np.ndarray:
    """Return modes with the sign that makes the largest component of each positive."""
    flat = modes.reshape(len(modes), -1)
    largest = np.take_along_axis(flat, np.abs(flat).argmax(axis=1)[:, None], axis=1)
    return modes * np.sign(largest)[:, :, None]
