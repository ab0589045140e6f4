"""The objective of the paper (eq. 3): this module alone weighs and adds its terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll, profiled_nll
from cryoatom.training.model import ConformationModel
from cryoatom.training.regularizers import Rigidity, bond_loss, center_loss


@dataclass(frozen=True)
class Batch:
    """The images of a step, on one device, and their numbers, which stay on the CPU."""

    crops: Float[Tensor, "batch side side"]
    kernels: Float[Tensor, "#batch twice half"]
    rotations: Float[Tensor, "batch 3 3"]
    shifts: Float[Tensor, "batch 2"]
    images: Int[Tensor, " batch"]


Restraint = nn.Module
"""Maps points (batch, points, 3) to a penalty of each image, nats."""

ImageLoss = Callable[[ConformationModel, Tensor, Batch], Tensor]
"""-log p of each image from its conformation, up to ½|y|², nats."""


@dataclass(frozen=True)
class Weights:
    """Weights of the terms in nats, the unit of -log p: λ0 (per Å²), λ1 (per Å²), λ2, and the latents' precision."""

    r0: float
    r1: float
    r2: float
    prior: float


class Objective(nn.Module):
    """-log p(y | x) + λ0 R0 + λ1 R1 + λ2 R2 + ½ prior |z|², per particle.

    Beside its terms it tells how well each image fits: ⟨w, v⟩ and ⟨v, κ*v⟩ as 'cross' and 'power'.

    Parameters
    ----------
    weights
        λ0, λ1, λ2 and the precision of the latents' Gaussian prior.
    rigidity
        R2 of the template.
    template_positions, bonded
        Of the template, for R0 and R1.
    likelihood
        'gaussian' with one scale for the dataset, or 'profiled' over each image's own scale.
    pixel_size
        Of the crops, Å.
    others
        Further terms, in nats, by name; they see all points.
    """

    template_center: Tensor
    bond_lengths: Tensor
    bonded: Tensor

    def __init__(
        self,
        weights: Weights,
        rigidity: Rigidity,
        template_positions: Float[Tensor, "residues 3"],
        bonded: Tensor,
        *,
        likelihood: Literal["gaussian", "profiled"],
        pixel_size: float,
        others: Mapping[str, Restraint] | None = None,
    ):
        super().__init__()
        self.others = nn.ModuleDict(others or {})
        self.weights, self.rigidity, self.pixel_size = weights, rigidity, pixel_size
        self.nll = {"gaussian": gaussian_nll, "profiled": profiled_nll}[likelihood]
        self.nll_is_profiled = likelihood == "profiled"
        lengths = (template_positions[1:] - template_positions[:-1]).norm(dim=-1)
        self.without_poses: ImageLoss | None = None
        self.register_buffer("template_center", template_positions.mean(dim=0).float(), persistent=False)
        self.register_buffer("bond_lengths", lengths.float(), persistent=False)
        self.register_buffer("bonded", bonded, persistent=False)

    def image_terms(
        self, model: ConformationModel, points: Float[Tensor, "batch points 3"], batch: Batch
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Return -log p of each image up to ½|y|² as 'nll', nats, in its pose unless a loss without poses has been set.

        In its pose an image also has its 'cross' and 'power', without gradient.
        """
        if self.without_poses is not None:
            return {"nll": self.without_poses(model, points, batch)}
        cross, power = self.compare(model, points, batch)
        return {"nll": self.nll(cross, power), "cross": cross.detach(), "power": power.detach()}

    def compare(
        self, model: ConformationModel, points: Float[Tensor, "batch points 3"], batch: Batch
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Return ⟨w, v⟩ and ⟨v, κ*v⟩ of each image, its conformation seen in its pose."""
        side = batch.crops.shape[-1]
        projection = model.render(points, batch.rotations, batch.shifts, side, self.pixel_size)
        return cross_and_power(projection, batch.crops, batch.kernels)

    def forward(
        self, model: ConformationModel, latents: Float[Tensor, "batch latent"], batch: Batch
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Return the terms of each particle in nats, weighted, their sum as 'loss', and how well its image fits."""
        points = model.place(latents)
        conformations = points[:, : len(self.bond_lengths) + 1]
        fit = self.image_terms(model, points, batch)
        terms = {"nll": fit.pop("nll")}
        weights = self.weights
        if weights.r0:
            terms["r0"] = weights.r0 * center_loss(conformations, self.template_center)
        if weights.r1:
            terms["r1"] = weights.r1 * bond_loss(conformations, self.bond_lengths, self.bonded)
        if weights.r2:
            terms["r2"] = weights.r2 * self.rigidity(conformations)
        for name, restraint in self.others.items():
            terms[name] = restraint(points)
        if weights.prior:
            terms["prior"] = 0.5 * weights.prior * latents.square().sum(dim=-1)
        return terms | {"loss": torch.stack(list(terms.values())).sum(dim=0)} | fit
