"""The search for quasi-rigid domains: from many small ones to those that move against one another."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from cryoatom.ensemble.rigid_bodies import distance_fluctuation, divide_chains, fluctuation_in_frame

LEAST_DOMAIN = 20  # residues, as in DynDom
LEAST_SEGMENT = 5  # residues
LEAST_RATIO = 1.0  # of the r.m.s. motion between two domains to that inside them, as in DynDom
LEAST_SHARE = 0.15  # of the mean square fluctuation of the whole molecule, that of two domains against one another
LEAST_EXPLAINED = 0.85  # of the mean square fluctuation, averaged over domains, that their motion explains
MOST_DOMAINS = 10  # to start from
SEEN_NOISE = 0.25  # of the noise's mean square; twice what superposing 20 noisy residues adds to fluctuations
_REFINEMENTS = 10
LEAST_FLUCTUATION = 1e-3  # Å, r.m.s.: less is the rounding of float32
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What is searched: conformations of some residues.

    Parameters
    ----------
    sample : (images, residues, 3)
    pieces : (residues,) int64
        Number of the unbroken piece of chain that each residue is in.
    stride : int
        How many residues of the molecule each stands for.
    noise : float
        Mean square fluctuation that is independent from residue to residue, Å².
    """

    sample: Tensor
    pieces: np.ndarray
    stride: int
    noise: float

    def costs(self, labels: np.ndarray) -> np.ndarray:
        """Return the mean square fluctuation of every residue in the frame of each domain, labelled from 0."""
        members = [np.flatnonzero(labels == domain) for domain in range(labels.max() + 1)]
        return np.stack([fluctuation_in_frame(self.sample, chosen) for chosen in members], axis=1)

    def divided(self, costs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Give each residue to the domain in whose frame it fluctuates least, and number those that are left.

        A segment has to gain as much as five residues of a domain fluctuate.
        """
        least = LEAST_SEGMENT / self.stride
        inside = float(costs[np.arange(len(labels)), labels].mean())
        return _numbered(divide_chains(costs, self.pieces, least=least, penalty=least * inside))

    def refined(self, labels: np.ndarray) -> np.ndarray:
        """Repeat fitting and dividing until nothing changes."""
        for _ in range(_REFINEMENTS):
            previous, labels = labels, self.divided(self.costs(labels), labels)
            if np.array_equal(labels, previous):
                break
        return labels


def search_domains(search: Search, count: int | None) -> np.ndarray:
    """Return the labels, from 0, of `count` domains, or of as many as there seem to be."""
    residues = len(search.pieces)
    superposed = fluctuation_in_frame(search.sample, np.arange(residues))
    whole = float(superposed.mean())
    least = max(LEAST_DOMAIN / search.stride, LEAST_SEGMENT)
    if count is not None:  # asked for: as small as they need be
        least = min(least, max(LEAST_SEGMENT, residues / (2 * count)))
    start = min(max(count or 1, MOST_DOMAINS), int(residues // least))
    if start < 2 or whole < LEAST_FLUCTUATION**2 or count == 1:
        return np.zeros(residues, dtype=np.int64)
    tree = linkage(squareform(distance_fluctuation(search.sample), checks=False), "ward")
    labels = _numbered(fcluster(tree, start, "maxclust"))
    labels = _without_small(search, search.refined(labels), least=least)
    while labels.max() > 0 and (count is None or labels.max() + 1 > count):
        clarity, first, second = _weakest(search, labels, whole=whole)
        if count is None and clarity >= 1 and _explained(search, labels, superposed) >= LEAST_EXPLAINED:
            break
        labels = _numbered(np.where(labels == second, first, labels))
        labels = _without_small(search, search.refined(labels), least=least)
    if count is not None and labels.max() + 1 < count:
        _logger.info("%d domains were asked for; only %d could be told apart", count, labels.max() + 1)
    return labels


def _without_small(search: Search, labels: np.ndarray, *, least: float) -> np.ndarray:
    """Give up the smallest domain, as long as it has fewer than `least` residues."""
    while labels.max() > 0 and (sizes := np.bincount(labels)).min() < least:
        kept = np.flatnonzero(np.arange(len(sizes)) != sizes.argmin())
        costs = search.costs(labels)[:, kept]
        labels = search.refined(search.divided(costs, costs.argmin(axis=1)))
    return labels


def _weakest(search: Search, labels: np.ndarray, *, whole: float) -> tuple[float, int, int]:
    """Return the pair of domains that moves least against one another, and that motion over the least that counts.

    Both domains count equally, however many residues they have.
    """
    costs = search.costs(labels)
    inside = np.array([costs[labels == domain, domain].mean() for domain in range(labels.max() + 1)])
    counted = np.maximum(inside - search.noise, SEEN_NOISE * search.noise)
    of_whole = LEAST_SHARE * max(whole - search.noise, 0.0)
    found = []
    for second in range(1, len(inside)):
        for first in range(second):
            joined = fluctuation_in_frame(search.sample, np.flatnonzero(np.isin(labels, (first, second))))
            between = [joined[labels == domain].mean() - inside[domain] for domain in (first, second)]
            enough = max(LEAST_RATIO**2 * counted[[first, second]].mean(), of_whole, LEAST_FLUCTUATION**2)
            found.append((float(np.mean(between) / enough), first, second))
    return min(found)


def _explained(search: Search, labels: np.ndarray, superposed: np.ndarray) -> float:
    """Return the part of the fluctuation above noise that the motion of domains explains; all domains count alike."""
    costs = search.costs(labels)[np.arange(len(labels)), labels]
    left, total = (
        float((np.bincount(labels, squares) / np.bincount(labels)).mean()) - search.noise
        for squares in (costs, superposed)
    )
    return 1 - max(left, 0.0) / total if total > 0 else 0.0


def neighbour_noise(sample: Tensor, pieces: np.ndarray) -> float:
    """Return the mean square fluctuation of noise that is independent from residue to residue, Å².

    Two thirds of it are the variance of a distance, however short; that of smooth deformation grows with the square
    of the distance. Neighbours and residues i, i + 2 tell them apart; medians pass over hinges.
    """
    variances, squares = [], []
    for apart in (1, 2):
        is_pair = torch.from_numpy(pieces[apart:] == pieces[:-apart])
        if not is_pair.any():
            return 0.0
        distances = (sample[:, apart:] - sample[:, :-apart])[:, is_pair].norm(dim=2)
        variances.append(float(distances.var(dim=0, correction=0).median()))
        squares.append(float(distances.mean(dim=0).square().median()))
    grows = max(variances[1] - variances[0], 0.0) * squares[0] / max(squares[1] - squares[0], 1.0)
    return 1.5 * max(variances[0] - grows, 0.0)


def spread_over(search: Search, labels: np.ndarray, *, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Give all residues to domains found on every k-th; return the labels by size and the residues' costs."""
    count = len(search.pieces)
    members = [np.arange(0, count, stride)[labels == domain] for domain in range(labels.max() + 1)]
    costs = np.stack([fluctuation_in_frame(search.sample, chosen) for chosen in members], axis=1)
    labels = search.divided(costs, costs.argmin(axis=1))
    order = np.argsort(-np.bincount(labels), kind="stable")
    labels = np.argsort(order)[labels]
    return labels, search.costs(labels)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Return labels numbered from 0 without gaps."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
