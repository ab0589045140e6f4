"""One search: the poses of some images over the whole grid, all shifts, and several conformations at once."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.geometry import random_rotations
from cryoatom.poses.esl import barycenter, esl_weights, shortlist_size
from cryoatom.poses.lowpass import LowPass
from cryoatom.poses.sampling import Nll, RotationGrid, exact_costs, prepare_grid
from cryoatom.poses.search import Found, JointSearch, shift_places
from cryoatom.rotations import rotation_angle, rotation_grid
from cryoatom.training.search_plan import RANDOM_STREAM, SearchPlan
from cryoatom.training.trainer import Trainer

_DIRECTIONS = 300  # of the second term at low resolution
_COARSER = 8  # times fewer rotations, on which conformations and shifts are chosen
_SHIFT_STEP = 2.5  # Å between shifts to try: gradients find the rest
_VECTORS_AT_ONCE = 832  # images times shifts compared with the grid together
_MEAN_GAP = 2.06  # radians times n^(1/3): the mean angle from any rotation to the nearest of a grid of n
_RESOLVED = 2.5  # times the rim's error there is the finest detail that a grid can compare
_FAR = math.radians(40)
_RIVAL_NATS = 3.0  # twenty to one is sure
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Oriented:
    """What a search says of images, in their order.

    Parameters
    ----------
    representative
        The best conformation.
    rotations, shifts
        Barycentre of the ESL measure of the best conformation, and the best shift (Å).
    spread
        Of the measure, radians.
    is_multimodal
        Whether a good part of the measure lies elsewhere.
    has_rival
        Whether a rotation far from the barycentre costs hardly more than the best.
    costs
        Of the best candidate, nats, up to ½|y|².
    """

    representative: Tensor
    rotations: Tensor
    shifts: Tensor
    spread: Tensor
    is_multimodal: Tensor
    has_rival: Tensor
    costs: Tensor

    def of(self, images: Tensor) -> Oriented:
        """Return what it says of some of the images."""
        return Oriented(*(getattr(self, field.name)[images] for field in fields(self)))


class PoseSearch:
    """Searches the images of a trainer.

    Parameters
    ----------
    trainer
        Whose images, beads and present shifts are used; nothing of it changes.
    plan
        How.
    """

    def __init__(self, trainer: Trainer, plan: SearchPlan):
        self._trainer, self._plan = trainer, plan
        self._keep = shortlist_size(plan.grid, support=plan.support, eta=plan.eta)
        side, pixel_size = trainer.data.grid.side, trainer.data.grid.coarse_pixel
        rim = float(trainer.model.template_positions.norm(dim=1).max())
        finest = _RESOLVED * rim * _MEAN_GAP * plan.grid ** (-1 / 3)
        if finest > plan.resolution:
            _logger.info(
                "the search compares at %.1f Å: the rim of the particle (%.0f Å) moves too far between %d rotations "
                "for less",
                finest,
                rim,
                plan.grid,
            )
        self._lowpass = LowPass(side, pixel_size, max(plan.resolution, finest), trainer.device)

    def __call__(
        self,
        epoch: int,
        rows: np.ndarray,
        representatives: Float[Tensor, "representatives residues 3"],
        nll: Nll | None = None,
        *,
        sign: float = 1.0,
        is_exact: bool = False,
        is_wide: bool = False,
    ) -> Oriented:
        """Search images over a grid that is turned anew each time, so that its gaps are not always in one place.

        Parameters
        ----------
        epoch
            Turns the grid.
        rows
            The images.
        representatives
            Conformations, on the device, Å.
        nll
            Turns ⟨w, v⟩ and ⟨v, κ * v⟩ into a cost; by default that of the objective.
        sign
            -1 searches the negatives.
        is_exact
            Whether the cheapest rotations are scored again at full resolution.
        is_wide
            Whether to try all shifts within reach, and not only those next to an image's own.
        """
        trainer = self._trainer
        search = self._prepare(epoch, representatives)
        nll = nll or trainer.objective.nll

        def compute(chunk: np.ndarray) -> Oriented:
            parts = (*trainer.read_images(chunk), self._shifts(chunk, is_wide))
            crops, kernels, shifts = (part.to(trainer.device) for part in parts)
            crops = sign * crops
            found = search.best(crops, kernels, shifts, nll, self._keep)
            if is_exact:
                found = self._score_again(found, search.fine, representatives, crops, kernels)
            return self._lift(found, search.fine)

        at_once = max(1, _VECTORS_AT_ONCE // self._shifts(rows[:1], is_wide).shape[1])
        chunks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
        parts = trainer.workers.map(compute, chunks)
        return Oriented(*(torch.cat([getattr(p, field.name) for p in parts]).cpu() for field in fields(Oriented)))

    def compare(
        self,
        epoch: int,
        representatives: Float[Tensor, "representatives residues 3"],
        crops: Float[Tensor, "batch side side"],
        kernels: Float[Tensor, "#batch twice half"],
        nll: Nll,
    ) -> Oriented:
        """Search centred images that are not of the dataset."""
        search = self._prepare(epoch, representatives)
        still = crops.new_zeros(len(crops), 1, 2)
        return self._lift(search.best(crops, kernels, still, nll, self._keep), search.fine)

    def _score_again(
        self,
        found: Found,
        grid: RotationGrid,
        representatives: Float[Tensor, "representatives residues 3"],
        crops: Float[Tensor, "batch side side"],
        kernels: Float[Tensor, "#batch twice half"],
    ) -> Found:
        """Replace the costs of what was found by those of the full likelihood."""
        costs = exact_costs(
            self._trainer.model.beads,
            representatives[found.representative],
            grid.rotations[found.rotations],
            crops,
            kernels,
            pixel_size=self._trainer.objective.pixel_size,
            shifts=found.shifts,
            nll=self._trainer.objective.nll,
        )
        costs, order = costs.sort(dim=1)
        return replace(found, rotations=found.rotations.gather(1, order), costs=costs)

    def _prepare(self, epoch: int, representatives: Float[Tensor, "representatives residues 3"]) -> JointSearch:
        """Return a search of representatives."""
        trainer, plan = self._trainer, self._plan
        turn = torch.from_numpy(random_rotations(1, np.random.default_rng([trainer.seed, RANDOM_STREAM + 2, epoch]))[0])
        coarse, fine = (
            prepare_grid(rotation_grid(count) @ turn, _DIRECTIONS).to(trainer.device)
            for count in (plan.grid // _COARSER, plan.grid)
        )
        beads, lowpass = trainer.model.beads, self._lowpass
        return JointSearch(beads, representatives, coarse, fine, lowpass, workers=trainer.workers)

    def _shifts(self, rows: np.ndarray, is_wide: bool) -> Float[Tensor, "batch places 2"]:
        """Return the shifts to try: all within reach, or those next to an image's own."""
        reach = self._plan.max_shift
        step = min(_SHIFT_STEP, reach)
        if reach == 0:
            return torch.zeros(len(rows), 1, 2)
        if is_wide:
            return shift_places(reach, step).expand(len(rows), -1, -1)
        own = self._trainer.poses.shifts[rows][:, None] + shift_places(1.5 * step, step)
        return own * (reach / own.norm(dim=-1, keepdim=True).clamp_min(reach))

    def _lift(self, found: Found, grid: RotationGrid) -> Oriented:
        """Turn costs into a measure and its barycentre (ESL)."""
        plan = self._plan
        places, weights = esl_weights(found.costs, plan.grid, support=plan.support, eta=plan.eta, order=plan.order)
        rotations = grid.rotations[found.rotations.gather(1, places)]
        mean, spread, is_multimodal = barycenter(rotations, weights)
        excess = found.costs.gather(1, places) - found.costs[:, :1]
        is_rival = (rotation_angle(mean[:, None], rotations) > _FAR) & (excess < _RIVAL_NATS)
        return Oriented(
            found.representative, mean, found.shifts, spread, is_multimodal, is_rival.any(dim=1), found.costs[:, 0]
        )
