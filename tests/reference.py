"""Plain, slow twins of the fast paths: loops that follow the papers' formulas. Autograd gives their gradients."""

import math

import numpy as np
import torch
from torch import Tensor

from cryoatom.structure.template import Template


def render_loop(centers: Tensor, amplitudes: Tensor, variances: Tensor, side: int, pixel_size: float) -> Tensor:
    """Paper eq. 1, pixel by pixel and bead by bead."""
    images = []
    for points in centers:
        for row in range(side):
            for column in range(side):
                value = torch.zeros((), dtype=centers.dtype)
                for point, a, variance in zip(points, amplitudes, variances, strict=True):
                    dx = (column - side // 2) * pixel_size - point[0]
                    dy = (row - side // 2) * pixel_size - point[1]
                    value = value + a / (2 * math.pi * variance) * torch.exp(-(dx * dx + dy * dy) / (2 * variance))
                images.append(value)
    return torch.stack(images).view(len(centers), side, side)


def quadratic_loop(image: Tensor, kernel: Tensor) -> Tensor:
    """Σ_q Σ_q' v(q) κ(q - q') v(q') of one image; κ has lag 0 at its centre pixel."""
    side, zero = len(image), len(kernel) // 2
    total = torch.zeros((), dtype=image.dtype)
    for y in range(side):
        for x in range(side):
            for v in range(side):
                for u in range(side):
                    total = total + image[y, x] * kernel[zero + y - v, zero + x - u] * image[v, u]
    return total


def kernel_loop(power: np.ndarray, pixel_size: float, lag: tuple[float, float]) -> float:
    """κ at a lag (x, y) in Å: the mean over all frequencies of |C(k)|² cos 2π k·lag, `power` as fft2 lays it out."""
    side = len(power)
    k = np.fft.fftfreq(side, pixel_size)
    return float(sum(power[i, j] * math.cos(2 * math.pi * (k[j] * lag[0] + k[i] * lag[1]))
                     for i in range(side) for j in range(side))) / side**2  # fmt: skip


def center_loop(conformation: Tensor, template: Tensor) -> Tensor:
    """R0 of one conformation: the squared distance between the mean of its positions and of the template's."""
    mean, start = (sum(positions) / len(positions) for positions in (conformation, template))
    return sum((a - b) ** 2 for a, b in zip(mean, start, strict=True))


def bond_loop(conformation: Tensor, template: Tensor, bonded: list[bool]) -> Tensor:
    """R1 (eq. 4) of one conformation, over the pairs that are bonded."""
    total = torch.zeros((), dtype=conformation.dtype)
    for i, is_bonded in enumerate(bonded):
        if is_bonded:
            length = torch.linalg.vector_norm(conformation[i + 1] - conformation[i])
            total = total + (length - torch.linalg.vector_norm(template[i + 1] - template[i])) ** 2
    return total / len(conformation)


def rigidity_loop(conformation: Tensor, template: Tensor, chain_position: np.ndarray, omega: float) -> Tensor:
    """R2 (eq. 5) of one conformation, over the pairs of one chain."""
    total = torch.zeros((), dtype=conformation.dtype)
    for i in range(len(conformation)):
        for j in range(i + 1, len(conformation)):
            separation = int(chain_position[j] - chain_position[i])
            if separation < 1000:
                ratio = torch.linalg.vector_norm(conformation[i] - conformation[j]) / torch.linalg.vector_norm(
                    template[i] - template[j]
                )
                total = total + math.exp(-omega * separation) * torch.log(ratio) ** 2
    return total


ELECTRONS = {"C": 6, "N": 7, "O": 8, "S": 16}


def atom_beads(template: Template) -> list[tuple[int, int, float, np.ndarray, float]]:
    """Beads of a template's atoms, one residue after another: (residue, kind, electrons, centre, Rg²).

    Backbone; side chain; and where a side chain has more than four heavy atoms, its far half (by distance from the
    C-alpha; the near half is the larger).
    """
    beads = []
    for residue in range(len(template)):
        atoms = template.atoms[template.atom_residue == residue]
        backbone = [i for i, name in enumerate(atoms.names) if name in ("N", "CA", "C", "O", "OXT")]
        side = sorted(
            set(range(len(atoms))) - set(backbone),
            key=lambda i: np.linalg.norm(atoms.positions[i] - template.positions[residue]),
        )
        near = len(side) if len(side) <= 4 else math.ceil(len(side) / 2)
        for kind, members in enumerate((backbone, side[:near], side[near:])):
            if members:
                weight = np.array([ELECTRONS[atoms.elements[i]] for i in members], dtype=float)
                xyz = atoms.positions[members]
                center = weight @ xyz / weight.sum()
                spread = float(weight @ ((xyz - center) ** 2).sum(axis=1) / weight.sum())
                beads.append((residue, kind, float(weight.sum()), center, spread))
    return beads


def grid_costs_loop(images: list[Tensor], crop: Tensor, kernel_spectrum: Tensor) -> Tensor:
    """-⟨w, v⟩ + ½ ⟨v, κ * v⟩ of one crop and the image v of each rotation; the spectrum of κ is on its half plane."""
    side = len(crop)
    mirrored = torch.cat([kernel_spectrum[:1], kernel_spectrum[1:].flip(0)])[:, 1:-1].flip(1)
    whole = torch.cat([kernel_spectrum, mirrored], dim=1)
    costs = []
    for v in images:
        spectrum = torch.fft.fft2(v, s=(2 * side, 2 * side))
        costs.append(0.5 * (whole * spectrum.abs() ** 2).mean() - (crop * v).sum())
    return torch.stack(costs)
