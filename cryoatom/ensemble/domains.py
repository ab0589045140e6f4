"""Quasi-rigid domains, found from the ensemble alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoatom.ensemble.domain_search import LEAST_FLUCTUATION, Search, neighbour_noise, search_domains, spread_over
from cryoatom.ensemble.hinges import Hinge, ScrewMotion, find_hinges, screw_motions
from cryoatom.ensemble.rigid_bodies import distance_fluctuation, fluctuation_in_frame
from cryoatom.ensemble.sampling import drawn_sample
from cryoatom.structure.superpose import superpose

_MOST_RESIDUES = 500  # worked on; the others follow
_SEARCHED_IMAGES = 200
_END_SHARE = 0.05


@dataclass(frozen=True)
class Domains:
    """Parts of the molecule that move as rigid bodies.

    Parameters
    ----------
    labels : (residues,) int64
        From 1, the largest.
    hinges : tuple of Hinge
        In the order of the chain.
    rigidity : (domains,) float64
        Root mean square fluctuation inside each domain, superposed on itself, Å.
    motions : tuple of ScrewMotion
        Of each other domain relative to the largest, between the two ends of the largest motion.
    captured : float
        Part of the mean square fluctuation of the superposed molecule that the motion of domains explains, 0 to 1.
    """

    labels: np.ndarray
    hinges: tuple[Hinge, ...]
    rigidity: np.ndarray
    motions: tuple[ScrewMotion, ...]
    captured: float

    def __len__(self) -> int:
        return len(self.rigidity)


def find_domains(
    conformations: np.ndarray,
    chain_position: np.ndarray,
    *,
    count: int | None = None,
    sample: int = 500,
    rows: np.ndarray | None = None,
    seed: int = 0,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> Domains:
    """Find the domains that move as rigid bodies.

    Residues whose distances to one another stay (Ponzoni et al., Structure 23 (2015) 1516) are clustered into up to
    ten domains. Each residue then goes to the domain in whose frame it fluctuates least, in segments of five residues
    or more, until nothing changes; domains of fewer than 20 residues are given up. Then the two domains that move
    least against one another become one, over and over, as long as their motion is below that inside them (Hayward &
    Berendsen, Proteins 30 (1998) 144: DynDom) or below 15% of the mean square fluctuation of the whole molecule
    (what bends all over could be divided without end), or the motion of all domains explains less than 85% of the
    mean square fluctuation, averaged over domains (what bends at random has none). Noise that is independent from
    residue to residue, estimated from neighbours, does not count.

    Parameters
    ----------
    conformations : (images, residues, 3)
        Å; may be mapped into memory.
    chain_position : (residues,) int64
        Of the template: bonded residues differ by 1.
    count : int, optional
        Domains wanted; there are fewer where not so many can be told apart.
    sample : int
        At most so many images are looked at.
    rows : (n,) int, optional
        Images that count; all by default.
    seed : int
        Of the choice of the sample.
    ends : two (residues, 3), optional
        Conformations between which the motions are measured; by default the mean conformations of the twentieths of
        the sample at both ends of its largest motion.
    """
    drawn = torch.from_numpy(drawn_sample(conformations, rows, sample, seed=seed))
    drawn = superpose(drawn, drawn[0])
    pieces = np.cumsum(np.concatenate([[False], np.diff(chain_position) != 1]))
    stride = -(-drawn.shape[1] // _MOST_RESIDUES)
    worked = drawn[:: max(1, len(drawn) // _SEARCHED_IMAGES), ::stride].contiguous()
    noise = neighbour_noise(drawn, pieces)
    labels = search_domains(Search(worked, pieces[::stride], stride, noise), count)
    labels, costs = spread_over(Search(drawn, pieces, 1, noise), labels, stride=stride)
    inside = costs[np.arange(len(labels)), labels]
    rigidity = np.sqrt(np.bincount(labels, inside) / np.bincount(labels))
    whole = float(fluctuation_in_frame(drawn, np.arange(len(labels))).mean())
    first, last = ends or _ends(drawn)
    labels += 1
    return Domains(
        labels=labels,
        hinges=find_hinges(drawn[:: max(1, len(drawn) // _SEARCHED_IMAGES)], labels, pieces=pieces),
        rigidity=rigidity,
        motions=screw_motions(first, last, labels=labels),
        captured=_captured(float(inside.mean()), whole),
    )


def distance_fluctuations(
    conformations: np.ndarray, *, rows: np.ndarray | None = None, sample: int = 500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much the distance of every pair of residues fluctuates, for a plot.

    Parameters
    ----------
    conformations, rows, sample, seed
        As in :func:`find_domains`.

    Returns
    -------
    residues : (n,) int64
        Indices: all, or every k-th of a large molecule.
    matrix : (n, n) float64
        Standard deviations, Å.
    """
    residues = np.arange(0, conformations.shape[1], -(-conformations.shape[1] // _MOST_RESIDUES))
    drawn = drawn_sample(conformations, rows, sample, seed=seed)[:, residues]
    return residues, distance_fluctuation(torch.from_numpy(drawn))


def _captured(inside: float, whole: float) -> float:
    return max(0.0, 1 - inside / whole) if whole > LEAST_FLUCTUATION**2 else 0.0


def _ends(sample: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean conformations at both ends of the largest motion."""
    moved = superpose(sample, superpose(sample, sample[0]).mean(dim=0))
    flat = (moved - moved.mean(dim=0)).flatten(1)
    vectors = torch.linalg.eigh(flat @ flat.T)[1]
    order = vectors[:, -1].argsort()
    few = max(1, round(_END_SHARE * len(moved)))
    return moved[order[:few]].mean(dim=0).numpy(), moved[order[-few:]].mean(dim=0).numpy()
