"""Where one rigid domain turns into the next along the chain, and how they move against one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryoatom.ensemble.rigid_bodies import frame_of
from cryoatom.structure.superpose import kabsch, transform

_WINDOW = 5  # residues whose rotation is that of their middle one, as in DynDom
_REACH = 15  # residues that a hinge may reach to either side of its border
_TURNED = (0.2, 0.8)  # a residue that follows so much of the rotation bends
_LEAST_ANGLE = np.deg2rad(0.1)


@dataclass(frozen=True)
class Hinge:
    """Residues between two domains that bend.

    Parameters
    ----------
    residues : (n,) int64
        Indices of consecutive residues, the last of one domain and the first of the other among them.
    domains : (int, int)
        Those before and after it along the chain, from 1.
    """

    residues: np.ndarray
    domains: tuple[int, int]


@dataclass(frozen=True)
class ScrewMotion:
    """How a domain moves against the largest one: a rotation about an axis and a translation along it (Chasles).

    Parameters
    ----------
    domain : int
        From 2.
    angle_deg : float
        Rotation, 0 to 180.
    translation : float
        Along the axis, Å; positive in its direction.
    axis : (3,) float64
        Unit vector; the rotation is right-handed about it.
    point : (3,) float64
        On the axis, nearest to the domain's centre, Å, in the frame of the first conformation.
    """

    domain: int
    angle_deg: float
    translation: float
    axis: np.ndarray
    point: np.ndarray


def find_hinges(sample: Tensor, labels: np.ndarray, *, pieces: np.ndarray) -> tuple[Hinge, ...]:
    """Find the residues that bend at each border of two domains.

    Five residues around each one are followed: how they rotate in the frame of the domain before the border is
    regressed on how the domain after it rotates. The slope is 0 in the one and 1 in the other; residues next to the
    border with a slope of 0.2 to 0.8 are its hinge. (DynDom, too, names the residues whose rotations lie outside the
    distribution of their domain's: Hayward & Berendsen, Proteins 30 (1998) 144.)

    Parameters
    ----------
    sample : (images, residues, 3)
        Å.
    labels, pieces : (residues,) int64
        Domains from 1; unbroken pieces of chain. The gap between two pieces is no hinge.
    """
    borders = np.flatnonzero((np.diff(labels) != 0) & (np.diff(pieces) == 0))
    hinges = []
    for border in borders.tolist():
        domains = (int(labels[border]), int(labels[border + 1]))
        piece = np.flatnonzero(pieces == pieces[border])
        around = piece[(piece > border - _REACH) & (piece <= border + _REACH)]
        members = tuple(np.flatnonzero(labels == domain) for domain in domains)
        bends = _bending(sample, members, around=around, piece=piece)
        bends &= np.isin(labels[around], domains)
        hinges.append(Hinge(_run_around(around, bends, border), domains))
    return tuple(hinges)


def screw_motions(first: np.ndarray, last: np.ndarray, *, labels: np.ndarray) -> tuple[ScrewMotion, ...]:
    """Return how each domain but the first moves between two (residues, 3) conformations, in the frame of the first."""
    start, end = (torch.from_numpy(np.asarray(positions, dtype=np.float64)) for positions in (first, last))
    largest = torch.from_numpy(labels == 1)
    end = transform(end, *kabsch(end[largest], start[largest]))
    domains = range(2, int(labels.max()) + 1)
    return tuple(_screw(start[labels == domain], end[labels == domain], domain) for domain in domains)


def _screw(start: Tensor, end: Tensor, domain: int) -> ScrewMotion:
    rotation = Rotation.from_matrix(kabsch(start, end)[0].numpy()).as_rotvec()
    centre, shift = start.mean(dim=0).numpy(), (end.mean(dim=0) - start.mean(dim=0)).numpy()
    angle = float(np.linalg.norm(rotation))
    if angle < _LEAST_ANGLE:  # no axis can be placed: a translation along itself
        length = float(np.linalg.norm(shift))
        return ScrewMotion(domain, float(np.rad2deg(angle)), length, shift / length if length else np.eye(3)[2], centre)
    axis = rotation / angle
    along = float(shift @ axis)
    across = shift - along * axis
    point = centre + across / 2 + np.cross(axis, across) / (2 * np.tan(angle / 2))
    return ScrewMotion(domain, float(np.rad2deg(angle)), along, axis, point)


def _bending(sample: Tensor, members: tuple[np.ndarray, ...], *, around: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """Return which of the residues `around` a border follow part of the rotation."""
    before, after = members
    moved = transform(sample, *frame_of(sample, before))
    mean = moved.mean(dim=0)
    whole = _rotations(moved[:, torch.from_numpy(after)], mean[torch.from_numpy(after)])
    width = min(_WINDOW, len(piece))
    firsts = np.clip(around - width // 2, piece[0], piece[-1] + 1 - width)
    windows = torch.from_numpy(firsts[:, None] + np.arange(width))
    local = _rotations(moved[:, windows], mean[windows])  # images, around, 3
    slope = (local * whole[:, None]).sum(axis=(0, 2)) / max(float(np.square(whole).sum()), np.finfo(float).tiny)
    return (slope > _TURNED[0]) & (slope < _TURNED[1])


def _rotations(moved: Tensor, mean: Tensor) -> np.ndarray:
    """Return the (images, ..., 3) rotation vectors that turn parts of the mean, less their mean."""
    matrices = kabsch(mean, moved)[0].numpy()
    vectors = Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(matrices.shape[:-1])
    return vectors - vectors.mean(axis=0)


def _run_around(residues: np.ndarray, bends: np.ndarray, border: int) -> np.ndarray:
    """Return the unbroken run of bending residues that holds both sides of the border."""
    joined = bends | (residues == border) | (residues == border + 1)
    place = int(np.flatnonzero(residues == border)[0])
    stops = np.flatnonzero(~joined)
    low = stops[stops < place].max(initial=-1) + 1
    high = stops[stops > place].min(initial=len(residues))
    return residues[low:high]
