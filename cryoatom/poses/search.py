"""The poses of images over a whole grid of rotations, shifts, and a few conformations at once.

All images share the candidates, so that ⟨w, v⟩ of all of them is one matrix product at low resolution; the second term
comes from a table over viewing directions (:mod:`cryoatom.poses.quadratic`). What is found is scored again, and
refined, at full resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoatom.imaging.beads import BeadModel
from cryoatom.poses.lowpass import LowPass
from cryoatom.poses.quadratic import radial_mean
from cryoatom.poses.sampling import Nll, RotationGrid
from cryoatom.workers import Workers

_VIEWS_AT_ONCE = 64
_DIRECTIONS_AT_ONCE = 32
_FINALISTS = 4  # pairs of conformation and shift of an image that are compared on the fine grid


@dataclass(frozen=True)
class Found:
    """The best candidates of each image.

    Parameters
    ----------
    representative
        The conformation with the lowest cost.
    shifts
        The best of its shifts, Å.
    rotations
        The cheapest rotations of the grid at this conformation and shift, cheapest first.
    costs
        Theirs, nats, up to ½|y|².
    """

    representative: Int[Tensor, " batch"]
    shifts: Float[Tensor, "batch 2"]
    rotations: Int[Tensor, "batch kept"]
    costs: Float[Tensor, "batch kept"]


def shift_places(reach: float, step: float) -> Float[Tensor, "places 2"]:
    """Return a square lattice of shifts within a circle of radius `reach`, the centre first; Å."""
    count = int(reach / step + 1e-6)
    line = step * torch.arange(-count, count + 1)
    places = torch.cartesian_prod(line, line)
    places = places[places.norm(dim=1) <= reach + 1e-3]
    return places[places.norm(dim=1).argsort(stable=True)]


@dataclass(frozen=True)
class _Views:
    """A grid of rotations as seen of each conformation: vectors of projections, power by direction."""

    grid: RotationGrid
    vectors: list[Float[Tensor, "rotations length"]]
    powers: list[Float[Tensor, "directions rings"]]

    def cross(self, index: int, vectors: Float[Tensor, "batch length"]) -> Float[Tensor, "batch rotations"]:
        """Return ⟨w, v⟩ of one conformation."""
        return vectors @ self.vectors[index].T

    def power(self, index: int, radial: Float[Tensor, "batch rings"]) -> Float[Tensor, "batch rotations"]:
        """Return ⟨v, κ * v⟩ of one conformation; one row where all images share κ."""
        return self.grid.table.interpolate(self.powers[index] @ radial.T)


class JointSearch:
    """Costs of a grid of rotations for each of several conformations, shared by all images.

    From coarse to fine: all conformations and shifts are compared on a coarse grid, the best few of them on the fine
    one.

    Parameters
    ----------
    beads
        Maps conformations to Gaussians.
    representatives
        The conformations, Å.
    coarse, fine
        See :func:`cryoatom.poses.sampling.prepare_grid`; with equally many directions.
    lowpass
        The resolution of the comparison.
    workers
        Threads that share the preparation.
    """

    @torch.no_grad()
    def __init__(
        self,
        beads: BeadModel,
        representatives: Float[Tensor, "representatives residues 3"],
        coarse: RotationGrid,
        fine: RotationGrid,
        lowpass: LowPass,
        *,
        workers: Workers,
    ):
        self.fine, self._lowpass = fine, lowpass

        @torch.no_grad()  # threads have a mode of their own
        def vectors(part: tuple[Tensor, Tensor]) -> Tensor:
            conformation, rotations = part
            return lowpass.projections(beads, conformation.expand(len(rotations), -1, -1), rotations)

        @torch.no_grad()
        def powers(part: tuple[Tensor, Tensor]) -> Tensor:
            conformation, rotations = part
            views = conformation.expand(len(rotations), -1, -1)
            return lowpass.power(beads.render(views, rotations, lowpass.side, lowpass.pixel_size))

        def of_all(
            function: Callable[[tuple[Tensor, Tensor]], Tensor], rotations: Tensor, at_once: int
        ) -> list[Tensor]:
            parts = rotations.split(at_once)
            return [torch.cat(workers.map(function, [(x, part) for part in parts])) for x in representatives]

        shared = of_all(powers, fine.table.rotations(), _DIRECTIONS_AT_ONCE)
        self._coarse, self._fine = (
            _Views(grid, of_all(vectors, grid.rotations, _VIEWS_AT_ONCE), shared) for grid in (coarse, fine)
        )

    @torch.no_grad()
    def best(
        self,
        crops: Float[Tensor, "batch side side"],
        kernels: Float[Tensor, "#batch twice half"],
        shifts: Float[Tensor, "batch places 2"],
        nll: Nll,
        keep: int,
    ) -> Found:
        """Return the best conformation and shift of each image, and the `keep` cheapest rotations there.

        Parameters
        ----------
        crops, kernels
            w and the spectra of κ, see `MatchedSet.read`.
        shifts
            The shifts to try, Å.
        nll
            Turns both terms into a cost.
        keep
            Rotations to return.
        """
        vectors = self._lowpass.moved(self._lowpass.vectors(crops), shifts)
        radial = radial_mean(kernels)
        conformation, place = self._finalists(vectors, radial, nll)
        batch, finalists = conformation.shape
        costs = vectors.new_empty(batch, finalists, keep)
        rotations = conformation.new_empty(batch, finalists, keep)
        for index in conformation.unique().tolist():
            row, finalist = torch.nonzero(conformation == index, as_tuple=True)
            own_radial = radial if len(radial) == 1 else radial[row]
            cross = self._fine.cross(index, vectors[row, place[row, finalist]])
            own = nll(cross, self._fine.power(index, own_radial))
            costs[row, finalist], rotations[row, finalist] = own.topk(keep, largest=False)
        each, winner = torch.arange(batch, device=costs.device), costs[..., 0].argmin(dim=1)
        return Found(
            conformation[each, winner], shifts[each, place[each, winner]], rotations[each, winner], costs[each, winner]
        )

    def _finalists(
        self, vectors: Float[Tensor, "batch places length"], radial: Float[Tensor, "#batch rings"], nll: Nll
    ) -> tuple[Int[Tensor, "batch finalists"], Int[Tensor, "batch finalists"]]:
        """Return the conformations and places of shifts with the lowest costs on the coarse grid."""
        batch, places, _ = vectors.shape
        lowest = vectors.new_empty(batch, len(self._coarse.vectors), places)
        for index in range(lowest.shape[1]):
            power = self._coarse.power(index, radial)
            for place in range(places):
                lowest[:, index, place] = nll(self._coarse.cross(index, vectors[:, place]), power).amin(dim=1)
        best = lowest.flatten(1).topk(min(_FINALISTS, lowest[0].numel()), largest=False).indices
        return best // places, best % places
