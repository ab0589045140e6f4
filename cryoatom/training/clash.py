"""Clashes: residues apart in the chain that come too near (cryoSPHERE, section 3.6; cryoSTAR)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

CLASH_DISTANCE = 4.0  # Å between C-alphas (cryoSPHERE, figure 7)
_NEIGHBOURS = 2  # residues that are so near in the chain may be near in space
_BLOCK = 16  # residues


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

    Pairs are found without gradient, among blocks of residues that are near enough; the few that clash are computed.
    """
    image, first, second = _clashing(conformations.detach(), chain_position)
    distance = (conformations[image, first] - conformations[image, second]).norm(dim=-1)
    overlap = (CLASH_DISTANCE - distance).clamp_min(0).square()
    return torch.zeros_like(conformations[:, 0, 0]).index_add(0, image, overlap)


def _clashing(conformations: Tensor, chain_position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, first and second residues of all pairs that clash."""
    batch, residues, _ = conformations.shape
    blocks = -(-residues // _BLOCK)
    index = torch.arange(blocks * _BLOCK, device=conformations.device).clamp(max=residues - 1).view(blocks, _BLOCK)
    of_block = conformations[:, index]
    centers = of_block.mean(dim=2)
    radii = (of_block - centers[:, :, None]).norm(dim=-1).amax(dim=2)
    reach = radii[:, :, None] + radii[:, None] + CLASH_DISTANCE
    is_near = (centers[:, :, None] - centers[:, None]).norm(dim=-1) < reach
    image, one, other = torch.nonzero(is_near.triu(), as_tuple=True)
    apart = (of_block[image, one][:, :, None] - of_block[image, other][:, None]).square().sum(dim=-1)
    pair, row, column = torch.nonzero(apart < CLASH_DISTANCE**2, as_tuple=True)
    first, second = index[one[pair], row], index[other[pair], column]
    counts = chain_position[second] - chain_position[first] > _NEIGHBOURS
    counts &= (one[pair] * _BLOCK + row < residues) & (other[pair] * _BLOCK + column < residues)
    return image[pair][counts], first[counts], second[counts]
