"""Restraints of points: nats of each image, already weighted (the `others` of the objective)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class SideChainTether(nn.Module):
    """One-sided springs of free side chains (Cryofold, equation 3): k Σ max(0, |s - x| - l)² / residues.

    A side chain s moves freely within l of its C-alpha x. The sum is over the number of residues, as R1 has it: with
    k = λ1 bonds and tethers have one spring constant, as in the paper.

    Parameters
    ----------
    residue
        The residue of each side chain; the side chains follow the C-alphas in the points.
    residues
        How many C-alphas there are.
    reach
        l, Å.
    weight
        k, nats/Å².
    """

    residue: Tensor

    def __init__(self, residue: Int[Tensor, " sides"], residues: int, *, reach: float, weight: float):
        super().__init__()
        self.residues, self.reach, self.weight = residues, reach, weight
        self.register_buffer("residue", residue, persistent=False)

    def forward(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, " batch"]:
        """Return the penalty of each image, nats."""
        arms = points[:, self.residues :] - points[:, self.residue]
        beyond = (torch.linalg.vector_norm(arms, dim=-1) - self.reach).clamp_min(0)
        return self.weight / self.residues * beyond.square().sum(dim=-1)
