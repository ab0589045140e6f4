"""Clashes: residues apart in the chain that come too near (cryoSPHERE, section 3.6; cryoSTAR)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

CLASH_DISTANCE = 4.0  # Å between C-alphas (cryoSPHERE, figure 7)
_NEIGHBOURS = 2  # residues that are so near in the chain may be near in space
_BRANCH = 4  # blocks, or residues, that make the next larger block
_MOST_BLOCKS = 16  # that are compared each with each


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

    Pairs are found without gradient, from large blocks of the chain that are near enough down to residues; the few that
    clash are computed. Time and memory are linear in the residues.
    """
    image, first, second = _clashing(conformations.detach(), chain_position)
    distance = (conformations[image, first] - conformations[image, second]).norm(dim=-1)
    overlap = (CLASH_DISTANCE - distance).clamp_min(0).square()
    return torch.zeros_like(conformations[:, 0, 0]).index_add(0, image, overlap)


def _clashing(conformations: Tensor, chain_position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, first and second residues of all pairs that clash."""
    levels = _spheres(conformations)
    everything = levels[-1][1].new_ones(*levels[-1][1].shape, levels[-1][1].shape[1], dtype=torch.bool)
    image, first, second = torch.nonzero(everything.triu(), as_tuple=True)
    child = torch.arange(_BRANCH, device=conformations.device)
    for depth in range(len(levels) - 1, -1, -1):
        centers, radii = levels[depth]
        apart = (centers[image, first] - centers[image, second]).norm(dim=-1)
        is_near = (apart < radii[image, first] + radii[image, second] + CLASH_DISTANCE) & (first <= second)
        image, first, second = image[is_near], first[is_near], second[is_near]
        if depth:
            image = image.repeat_interleave(_BRANCH**2)
            first = (_BRANCH * first[:, None] + child.repeat_interleave(_BRANCH)).flatten()
            second = (_BRANCH * second[:, None] + child.repeat(_BRANCH)).flatten()
    counts = chain_position[second] - chain_position[first] > _NEIGHBOURS
    return image[counts], first[counts], second[counts]


def _spheres(conformations: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return centres and radii of residues, of blocks of them, of blocks of blocks, until there are few."""
    centers, radii = conformations, torch.zeros_like(conformations[..., 0])
    levels = [(centers, radii)]
    while radii.shape[1] > _MOST_BLOCKS:
        missing = -radii.shape[1] % _BRANCH
        centers = torch.cat([centers, centers[:, -1:].expand(-1, missing, -1)], dim=1)
        radii = torch.nn.functional.pad(radii, (0, missing), value=-torch.inf)  # what is not there is near nothing
        levels[-1] = (centers, radii)
        inner, reach = centers.unflatten(1, (-1, _BRANCH)), radii.unflatten(1, (-1, _BRANCH))
        centers = inner.mean(dim=2)
        radii = ((inner - centers[:, :, None]).norm(dim=-1) + reach).amax(dim=2)
        levels.append((centers, radii))
    return levels
