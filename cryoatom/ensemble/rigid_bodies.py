"""Residues that move as one: superposing a sample on parts of the molecule, and dividing chains among such bodies."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoatom.structure.superpose import kabsch, transform

_PROCRUSTES_STEPS = 3  # of the mean structure; more change a fluctuation by less than 1%
_RESIDUES_AT_ONCE = 500_000


def frame_of(
    sample: Float[Tensor, "images residues 3"], members: Int[np.ndarray, " members"]
) -> tuple[Float[Tensor, "images 3 3"], Float[Tensor, "images 3"]]:
    """Return the motions that superpose the given residues on their mean structure."""
    chosen = sample[:, torch.from_numpy(members)]
    mean = chosen[0]
    rotation, translation = kabsch(chosen, mean)
    for _ in range(_PROCRUSTES_STEPS - 1):
        mean = transform(chosen, rotation, translation).mean(dim=0)
        rotation, translation = kabsch(chosen, mean)
    return rotation, translation


def fluctuation_in_frame(
    sample: Float[Tensor, "images residues 3"], members: Int[np.ndarray, " members"]
) -> Float[np.ndarray, " residues"]:
    """Return the mean square fluctuation, Å², of every residue in the frame of the given ones."""
    rotation, translation = frame_of(sample, members)
    squares = [
        transform(part, rotation, translation).var(dim=0, correction=0).sum(dim=1)
        for part in sample.split(max(1, _RESIDUES_AT_ONCE // len(sample)), dim=1)
    ]
    return torch.cat(squares).numpy()


def distance_fluctuation(sample: Float[Tensor, "images residues 3"]) -> Float[np.ndarray, "residues residues"]:
    """Return the standard deviation of the distance of every pair of residues, Å.

    It is zero within a rigid body, whatever that does, and needs no superposition (Ponzoni et al., Structure 23
    (2015) 1516: SPECTRUS).
    """
    residues = sample.shape[1]
    start = torch.cdist(sample[0], sample[0])
    sums, squares = torch.zeros(2, residues, residues, dtype=sample.dtype)
    for conformation in sample:
        change = torch.cdist(conformation, conformation, compute_mode="donot_use_mm_for_euclid_dist") - start
        sums += change
        squares += change.square()
    mean = sums / len(sample)
    return (squares / len(sample) - mean.square()).clamp_min(0).sqrt().fill_diagonal_(0).numpy()


def divide_chains(
    costs: Float[np.ndarray, "residues bodies"], pieces: Int[np.ndarray, " residues"], *, least: float, penalty: float
) -> Int[np.ndarray, " residues"]:
    """Give every residue to a body, in segments, at the least total cost.

    Parameters
    ----------
    costs : (residues, bodies) float64
        Of giving a residue to a body.
    pieces : (residues,) int64
        Number of the unbroken piece of chain that each is in; segments do not reach over its ends.
    least : float
        Segments are at least as long; a piece shorter than two of them is one segment.
    penalty : float
        Cost of each segment.
    """
    edges = np.flatnonzero(np.diff(pieces)) + 1
    return np.concatenate([_divide(piece, int(np.ceil(least)), penalty) for piece in np.split(costs, edges)])


def _divide(costs: np.ndarray, least: int, penalty: float) -> np.ndarray:
    """Divide one piece by dynamic programming over the ends of segments."""
    length, bodies = costs.shape
    summed = np.concatenate([np.zeros((1, bodies)), np.cumsum(costs, axis=0)])
    if length < 2 * least:
        return np.full(length, summed[-1].argmin())
    total = np.full(length + 1, np.inf)  # least cost of the residues before each end
    total[0] = 0.0
    body, start = np.zeros((2, length + 1), dtype=np.int64)
    opened, opened_at = np.full(bodies, np.inf), np.zeros(bodies, dtype=np.int64)
    for end in range(least, length + 1):
        begin = end - least
        candidate = total[begin] + penalty - summed[begin]
        is_better = candidate < opened
        opened[is_better], opened_at[is_better] = candidate[is_better], begin
        closed = opened + summed[end]
        body[end] = closed.argmin()
        start[end], total[end] = opened_at[body[end]], closed[body[end]]
    labels, end = np.empty(length, dtype=np.int64), length
    while end > 0:
        labels[start[end] : end] = body[end]
        end = start[end]
    return labels
