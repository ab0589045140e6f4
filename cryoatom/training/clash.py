"""Clashes: residues apart in the chain that come too near (cryoSPHERE, section 3.6; cryoSTAR)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

CLASH_DISTANCE = 4.0  # Å between C-alphas (cryoSPHERE, figure 7)
_NEIGHBOURS = 2  # residues that are so near in the chain may be near in space
_GRID = 2**16  # cells along an axis, each as wide as the distance; what lies beyond clashes with nothing
_COLUMNS = ((0, 1), (1, -1), (1, 0), (1, 1))  # of cells, beside a cell's own: one of each two that are opposite


class Clash(nn.Module):
    """Σ max(0, 4 Å - |x_i - x_j|)² over pairs of residues more than two apart in the chain; times a weight, nats.

    The sum, not the mean over pairs: a clash costs the same in a small molecule and in a large one. Residues of
    different chains count. Beads beyond C-alphas do not.

    Parameters
    ----------
    chain_position
        Of the Template.
    weight
        Nats/Å².
    """

    chain_position: Tensor

    def __init__(self, chain_position: Int[Tensor, " residues"], weight: float):
        super().__init__()
        self.weight = weight
        self.register_buffer("chain_position", chain_position, persistent=False)

    def forward(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, " batch"]:
        """Return what the clashes of each conformation cost, nats."""
        return self.weight * clash_loss(points[:, : len(self.chain_position)], self.chain_position)


def clash_loss(
    conformations: Float[Tensor, "batch residues 3"], chain_position: Int[Tensor, " residues"]
) -> Float[Tensor, " batch"]:
    """Return Σ max(0, 4 Å - |x_i - x_j|)² over pairs with |i - j| > 2 along the chain, Å².

    Pairs are found without gradient, in neighbouring cells of a grid; the few that clash are computed. At the density
    of proteins time and memory are linear in the residues.
    """
    image, first, second = _clashing(conformations.detach(), chain_position)
    distance = (conformations[image, first] - conformations[image, second]).norm(dim=-1)
    overlap = (CLASH_DISTANCE - distance).clamp_min(0).square()
    return torch.zeros_like(conformations[:, 0, 0]).index_add(0, image, overlap)


def _clashing(conformations: Tensor, chain_position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, first and second residues of all pairs that clash."""
    points, residues = conformations.flatten(0, 1), conformations.shape[1]
    one, other = _pairs_of_cells(conformations)
    apart = (points.index_select(0, one) - points.index_select(0, other)).square().sum(dim=-1)
    is_near = apart < CLASH_DISTANCE**2
    one, other = one[is_near], other[is_near]
    image, first, second = one // residues, torch.minimum(one, other) % residues, torch.maximum(one, other) % residues
    counts = chain_position[second] - chain_position[first] > _NEIGHBOURS
    return image[counts], first[counts], second[counts]


def _pairs_of_cells(conformations: Tensor) -> tuple[Tensor, Tensor]:
    """Return pairs of residues, counted through all images, in one cell or in two that touch; each pair once.

    Cells are numbered so that those along z follow each other: three of them are one run of the sorted residues.
    """
    cells = (conformations / CLASH_DISTANCE).floor() + _GRID // 2
    is_inside = ((cells > 0) & (cells < _GRID - 1)).all(dim=-1)  # not what is no number: it would share a cell
    cell = torch.where(is_inside[..., None], cells, 0).long()
    image = torch.arange(len(conformations), device=conformations.device)[:, None]
    number = ((image * _GRID + cell[..., 0]) * _GRID + cell[..., 1]) * _GRID + cell[..., 2]
    inside = torch.nonzero(is_inside.flatten())[:, 0]
    number, order = number.flatten()[inside].sort()
    residue = inside[order]
    here = torch.arange(len(number), device=number.device)
    starts, stops = [here + 1], [torch.searchsorted(number, number + 1, right=True)]
    for x, y in _COLUMNS:
        beside = number + (x * _GRID + y) * _GRID
        starts.append(torch.searchsorted(number, beside - 1))
        stops.append(torch.searchsorted(number, beside + 1, right=True))
    start, count = torch.cat(starts), torch.cat(stops) - torch.cat(starts)
    one = here.repeat(len(starts)).repeat_interleave(count)
    other = torch.arange(len(one), device=one.device) + (start - count.cumsum(0) + count).repeat_interleave(count)
    return residue[one], residue[other]
