"""The papers' geometric regularisers: pure functions, one value per particle, unreduced."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cryoatom.structure.template import NEW_CHAIN_JUMP

_MEETING = 1e-4  # Å²: residues that meet have no logarithm


def center_loss(
    conformations: Float[Tensor, "batch residues 3"], template_center: Float[Tensor, 3]
) -> Float[Tensor, " batch"]:
    """R0: the squared distance of the mean position from the template's, Å²; it keeps conformations from drifting.

    The paper's R0 is the squared norm of the mean; its template is centred, where both are the same.
    """
    return (conformations.mean(dim=1) - template_center).square().sum(dim=-1)


def bond_loss(
    conformations: Float[Tensor, "batch residues 3"],
    template_lengths: Float[Tensor, " bonds"],
    bonded: Bool[Tensor, " bonds"],
) -> Float[Tensor, " batch"]:
    """R1 (paper eq. 4): squared change of the distance between bonded neighbours, over the number of residues, Å².

    Parameters
    ----------
    template_lengths
        Distances of consecutive C-alphas of the template, Å.
    bonded
        False across a chain break; such a pair does not count.
    """
    lengths = (conformations[:, 1:] - conformations[:, :-1]).norm(dim=-1)
    return ((lengths - template_lengths).square() * bonded).sum(dim=-1) / conformations.shape[1]


def _band_differences(conformations: Tensor, band: int) -> Tensor:
    """Return x_{i+d} - x_i as (batch, 3, band, residues), d = 1..band; beyond the end the partner lies far away."""
    x = conformations.transpose(1, 2)
    batch, _, residues = x.shape
    padded = x.new_full((batch, 3, residues + band), 1e4)
    padded[..., :residues] = x
    partners = padded.unfold(2, residues, 1)[:, :, 1:]
    return partners - x[:, :, None]


class _RigidityFunction(torch.autograd.Function):
    """R2 over a band of pairs; value and gradient in one pass over the pairs."""

    @staticmethod
    def forward(ctx: Any, conformations: Tensor, log_distance: Tensor, weight: Tensor) -> Tensor:
        band, residues = weight.shape
        difference = _band_differences(conformations, band)
        squared = difference.square().sum(dim=1).clamp_min(_MEETING)
        change = 0.5 * torch.log(squared) - log_distance
        weighted = weight * change
        value = (weighted * change).sum(dim=(1, 2))
        pull = (2 * weighted / squared)[:, None] * difference
        gradient = -pull.sum(dim=2)
        for d in range(1, band + 1):
            gradient[..., d:] += pull[:, :, d - 1, : residues - d]
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (grads[0][:, None, None] * gradient).transpose(1, 2), None, None


class Rigidity(nn.Module):
    """R2 (paper eq. 5): Σ_{i<j} e^{-ω |i-j|} log²( |x_i - x_j| / |x⁰_i - x⁰_j| ), dimensionless.

    |i - j| is the distance along the chain (across a break, along the numbering); pairs of different chains do not
    count. Pairs whose weight is below `tolerance` are left out, so the cost is linear in the residues.

    Parameters
    ----------
    template_positions, chain_position
        Of the Template.
    omega
        ω of eq. 5: how fast rigidity decays along the chain.
    tolerance
        Weights below it are dropped; 0 keeps all pairs.
    """

    log_distance: Tensor
    weight: Tensor

    def __init__(
        self,
        template_positions: Float[Tensor, "residues 3"],
        chain_position: Int[Tensor, " residues"],
        omega: float,
        tolerance: float = 1e-3,
    ):
        super().__init__()
        residues = len(template_positions)
        band = residues - 1
        if tolerance > 0 and omega > 0:
            band = min(band, max(1, int(-torch.log(torch.tensor(tolerance)) / omega)))
        x = template_positions.double()[None]
        squared = _band_differences(x, band).square().sum(dim=1)[0].clamp_min(_MEETING)
        position = chain_position.double()
        offset = torch.arange(1, band + 1)[:, None] + torch.arange(residues)
        inside = offset < residues
        separation = position[offset.clamp(max=residues - 1)] - position
        weight = torch.exp(-omega * separation) * (inside & (separation < NEW_CHAIN_JUMP))
        weight = weight * (weight >= tolerance)
        self.register_buffer("log_distance", (0.5 * torch.log(squared)).float(), persistent=False)
        self.register_buffer("weight", weight.float(), persistent=False)

    def forward(self, conformations: Float[Tensor, "batch residues 3"]) -> Float[Tensor, " batch"]:
        """Return R2 of each conformation."""
        return _RigidityFunction.apply(conformations, self.log_distance, self.weight)  # type: ignore[return-value]
