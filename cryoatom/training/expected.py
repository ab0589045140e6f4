"""The papers' loss for images without poses: the cost expected under a measure on the rotations of a grid (ESL).

At each step each image's own conformation is compared with it in all rotations of the grid, and the loss is
Σ_g b_g F_g with the weights b of :mod:`cryoatom.poses.esl` (arXiv 2602.21915). Since b vanishes but at the J cheapest
rotations and depends on the J + 1 cheapest alone, only these are rendered with a gradient: value and gradient are those
of the whole grid. There are no shifts.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.imaging.beads import BeadModel
from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll
from cryoatom.poses.esl import barycenter, esl_weights, expected_cost, shortlist_size
from cryoatom.poses.sampling import GridScorer, exact_costs, prepare_grid
from cryoatom.rotations import rotation_grid
from cryoatom.train_config import TrainConfig
from cryoatom.training.model import ConformationModel
from cryoatom.training.objective import Batch
from cryoatom.training.pose_table import PoseTable
from cryoatom.training.search_plan import SearchPlan, search_plan

# With these the J + 1 rotations found for adenylate kinase are the cheapest ones of the whole grid. More candidates
# cost less time than more directions do.
_DIRECTIONS = 150  # of the second term, tabulated for each image
_CANDIDATES = 3  # times J + 1 rotations, the cheapest by fast costs, among which exact costs choose


def expected_plan(config: TrainConfig) -> SearchPlan | None:
    """Return how images are compared with the grid at each step; None where they are not.

    Raises
    ------
    ValueError
        With the profiled likelihood, which has no fast costs.
    """
    if config.poses != "esl" or config.pose_loss == "refined":
        return None
    if config.likelihood == "profiled":
        raise ValueError("--pose-loss expected compares images at one scale: it needs --likelihood gaussian")
    plan = search_plan(config.model_copy(update={"pose_loss": "refined"}))
    assert plan is not None
    return replace(plan, max_shift=0.0, images=sys.maxsize)


class ExpectedLoss:
    """-log p of images expected under their measures, the loss :math:`Σ_g b_g F_g`.

    Parameters
    ----------
    plan
        Rotations of the grid and settings of ESL.
    poses
        Where the barycentre of each image's last measure is noted.
    pixel_size
        Of the crops, Å.
    is_attached
        See :func:`cryoatom.poses.esl.expected_cost`.
    """

    def __init__(self, plan: SearchPlan, poses: PoseTable, pixel_size: float, *, is_attached: bool):
        self._plan, self._poses, self._pixel_size, self._is_attached = plan, poses, pixel_size, is_attached
        self._grid = prepare_grid(rotation_grid(plan.grid), _DIRECTIONS)
        self._keep = shortlist_size(plan.grid, support=plan.support, eta=plan.eta)

    def __call__(
        self, model: ConformationModel, points: Float[Tensor, "batch points 3"], batch: Batch
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each image, nats, and note the barycentre of its measure as its pose."""
        plan = self._plan
        rotations = self._cheapest(model.beads, points, batch)
        costs = torch.stack([self._cost(model, points, one, batch) for one in rotations.unbind(1)], dim=1)
        places, weights = esl_weights(costs, plan.grid, support=plan.support, eta=plan.eta, order=plan.order)
        at_weights = places[..., None, None].expand(-1, -1, 3, 3)
        center, _, _ = barycenter(rotations.gather(1, at_weights), weights)
        self._poses.replace(batch.images, center.cpu(), torch.zeros(len(center), 2))
        return expected_cost(weights, costs.gather(1, places), attached=self._is_attached)

    @torch.no_grad()
    def _cheapest(
        self, beads: BeadModel, points: Float[Tensor, "batch points 3"], batch: Batch
    ) -> Float[Tensor, "batch kept 3 3"]:
        """Return the cheapest rotations of each image."""
        crops, kernels, size = batch.crops, batch.kernels, self._pixel_size
        scorer = GridScorer(beads, self._grid, crops.shape[-1], size, representatives=points)
        costs = scorer.costs(crops, kernels, points, torch.arange(len(crops), device=crops.device))
        count = min(_CANDIDATES * self._keep, self._plan.grid)
        rotations = scorer.grid.rotations[costs.topk(count, largest=False).indices]
        exact = exact_costs(beads, points, rotations, crops, kernels, pixel_size=size)
        places = exact.topk(self._keep, largest=False).indices
        return rotations.gather(1, places[..., None, None].expand(-1, -1, 3, 3))

    def _cost(
        self,
        model: ConformationModel,
        points: Float[Tensor, "batch points 3"],
        rotations: Float[Tensor, "batch 3 3"],
        batch: Batch,
    ) -> Float[Tensor, " batch"]:
        centered = torch.zeros_like(batch.shifts)
        image = model.render(points, rotations, centered, batch.crops.shape[-1], self._pixel_size)
        return gaussian_nll(*cross_and_power(image, batch.crops, batch.kernels))
