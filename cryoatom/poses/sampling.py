"""Costs of all rotations of a grid without an image for each (design D1.4).

    F_g = -⟨w, v_g⟩ + ½ ⟨v_g, κ * v_g⟩,      ⟨w, v_g⟩ = Σ_b a_b (w * g_σb)(P R_g b)

The first term reads a crop that was filtered by the beads' Gaussians, at the places of the beads; the second, for a
radial κ, depends on the viewing direction alone (:mod:`cryoatom.poses.quadratic`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoatom.fourier import pixel_coordinates
from cryoatom.imaging.beads import BeadModel
from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll
from cryoatom.poses.quadratic import DirectionTable, choose_directions, radial_mean, radial_power
from cryoatom.workers import Workers

Nll = Callable[[Tensor, Tensor], Tensor]
"""-log p up to ½|y|² from (⟨w, v⟩, ⟨v, κ * v⟩), see :mod:`cryoatom.imaging.likelihood`."""

_CLASSES = 6  # of beads of nearly equal width, which share a filtered crop
_FINER = 8  # nodes of a filtered crop in a pixel of the crop; the nearest node is read
_REACH = 5.0  # standard deviations beyond the crop's edge where a filtered crop is zero
_BLOCK = 256  # rotations whose places fit the cache of a core
_AT_ONCE = 32  # images rendered together


@dataclass(frozen=True)
class RotationGrid:
    """Rotations to score, and the directions they are seen from; made once by :func:`prepare_grid`."""

    rotations: Float[Tensor, "rotations 3 3"]
    table: DirectionTable

    def __len__(self) -> int:
        return len(self.rotations)

    def to(self, device: torch.device) -> RotationGrid:
        """Return the grid on another device."""
        return RotationGrid(self.rotations.to(device), self.table.to(device))


def prepare_grid(rotations: Float[Tensor, "rotations 3 3"], directions: int = 800) -> RotationGrid:
    """Prepare rotations for a :class:`GridScorer`.

    Parameters
    ----------
    rotations
        R, of all images alike.
    directions
        Of the table of the second term. Its error falls with their number and grows with the particle: for
        adenylate kinase 400 give ½ ⟨v, κ * v⟩ to 0.3 nats, 800 to 0.2.
    """
    return RotationGrid(rotations.float(), choose_directions(rotations, directions))


class GridScorer:
    """Costs of a grid of rotations for batches of images, each with a conformation of its own.

    Every call computes in the caller's thread; spread images over threads with `Workers`. The amplitudes and widths
    of the beads are read when the scorer is made: make a new one when they have changed.

    Parameters
    ----------
    beads
        Maps conformations to Gaussians.
    grid
        See :func:`prepare_grid`.
    side, pixel_size
        Of the crops; Å.
    representatives
        One conformation for each cluster of images: the second term is that of the image's cluster. Differences of a
        few Å within a cluster cost more accuracy than all else; images may also each have a table of their own.
    workers
        Threads that tabulate the clusters; without them the caller's.
    """

    @torch.no_grad()
    def __init__(
        self,
        beads: BeadModel,
        grid: RotationGrid,
        side: int,
        pixel_size: float,
        *,
        representatives: Float[Tensor, "clusters residues 3"],
        workers: Workers | None = None,
    ):
        variances = beads.variances()
        device = variances.device
        grid = grid.to(device)
        self._beads, self.grid, self._side, self._pixel_size = beads, grid, side, pixel_size
        order = variances.argsort()
        parts = [part for part in order.tensor_split(_CLASSES) if len(part)]
        self._order = order
        self._class = torch.cat([torch.full((len(part),), k, device=device) for k, part in enumerate(parts)])
        self._amplitudes = beads.amplitudes()[order]
        self._node = pixel_size / _FINER
        self._filters = [self._filter(float(variances[part].mean())) for part in parts]
        scaled = (grid.rotations / self._node).permute(1, 2, 0)
        self._axes = [torch.cat([axis, axis.new_ones(1, len(grid))]) for axis in scaled[:2]]
        powers = (workers or Workers(1)).map(self._tabulate, list(representatives))
        self._powers: Float[Tensor, "clusters directions rings"] = torch.stack(powers)

    def _filter(self, variance: float) -> Float[Tensor, "nodes side"]:
        """Return the Gaussian of one axis between nodes and pixels.

        Reading the nearest node blurs by a box one node wide; its variance is taken off the Gaussian's.
        """
        pixels = pixel_coordinates(self._side, self._pixel_size, device=self._amplitudes.device)
        reach = _REACH * float(self._beads.variances().max()) ** 0.5
        half = int((0.5 * self._side * self._pixel_size + reach) / self._node)
        nodes = self._node * torch.arange(-half, half + 1, device=pixels.device)
        variance -= self._node**2 / 12
        return torch.exp((nodes[:, None] - pixels) ** 2 / (-2 * variance)) / (2 * torch.pi * variance) ** 0.5

    @torch.no_grad()
    def _tabulate(self, conformation: Float[Tensor, "residues 3"]) -> Float[Tensor, "directions rings"]:
        """Return the power on rings of one conformation, seen from each direction."""
        powers = []
        for rotations in self.grid.table.rotations().split(_AT_ONCE):
            views = conformation.expand(len(rotations), -1, -1)
            powers.append(radial_power(self._beads.render(views, rotations, self._side, self._pixel_size)))
        return torch.cat(powers)

    @torch.no_grad()
    def costs(
        self,
        crops: Float[Tensor, "batch side side"],
        kernels: Float[Tensor, "#batch twice half"],
        conformations: Float[Tensor, "batch residues 3"],
        cluster: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch rotations"]:
        """Return F_g of each image and rotation, -log p up to ½|y|²; NaN where a conformation is not finite.

        Parameters
        ----------
        crops, kernels
            w and the spectra of κ, see `MatchedSet.read`.
        conformations
            Of each image, Å.
        cluster
            Whose representative stands for the image's conformation in the second term.
        """
        costs = 0.5 * self._power(kernels.expand(len(crops), -1, -1), cluster)
        for row, crop, places in zip(costs, crops, self._beads.place(conformations)[:, self._order], strict=True):
            row -= self._cross(crop, places)
        return costs

    def _power(
        self, kernels: Float[Tensor, "batch twice half"], cluster: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch rotations"]:
        """Return ⟨v, κ * v⟩ of each image and rotation."""
        values = torch.bmm(self._powers[cluster], radial_mean(kernels)[..., None])[..., 0]
        return self.grid.table.interpolate(values.T)

    def _cross(self, crop: Float[Tensor, "side side"], places: Float[Tensor, "beads 3"]) -> Float[Tensor, " rotations"]:
        """Return ⟨w, v_g⟩ of one image for each rotation."""
        farthest = float(places.norm(dim=1).max()) / self._node + 1
        if not farthest < float("inf"):
            return crop.new_full((len(self.grid),), torch.nan)
        limit = len(self._filters[0]) // 2
        half = min(int(farthest), limit)
        near = [nodes[limit - half : limit + half + 1] for nodes in self._filters]
        filtered = torch.cat([nodes @ crop @ nodes.T for nodes in near])
        first_row = self._class * (2 * half + 1)
        columns = torch.cat([places, places.new_full((len(places), 1), half + 0.5)], dim=1)
        rows = torch.cat([places, (first_row + half + 0.5)[:, None]], dim=1)
        edges = first_row[:, None] if farthest > limit else None
        return self._read(filtered, columns, rows, edges)

    def _read(
        self,
        filtered: Float[Tensor, "rows nodes"],
        columns: Float[Tensor, "beads 4"],
        rows: Float[Tensor, "beads 4"],
        edges: Int[Tensor, "beads 1"] | None,
    ) -> Float[Tensor, " rotations"]:
        """Return Σ_b a_b of the filtered crops, one below the other, at the nodes nearest to the beads.

        `columns` and `rows` are linear maps from (R, 1) to a bead's node, with ½ added since conversion cuts off. Beads
        beyond the nodes, if there are any, are brought to their edge, where there is nothing: `edges` are first rows.
        """
        flat, width = filtered.flatten(), filtered.shape[1]
        cross = []
        for x_axis, y_axis in zip(*(axis.split(_BLOCK, dim=1) for axis in self._axes), strict=True):
            x, y = columns @ x_axis, rows @ y_axis
            if edges is not None:
                x = x.clamp_(0, width - 1)
                y = torch.minimum(torch.maximum(y, edges), edges + (width - 1))
            index = y.to(torch.int32).mul_(width).add_(x.to(torch.int32))
            cross.append(self._amplitudes @ flat.index_select(0, index.flatten()).view(index.shape))
        return torch.cat(cross)


@torch.no_grad()
def exact_costs(
    beads: BeadModel,
    conformations: Float[Tensor, "batch residues 3"],
    rotations: Float[Tensor, "batch candidates 3 3"],
    crops: Float[Tensor, "batch side side"],
    kernels: Float[Tensor, "#batch twice half"],
    *,
    pixel_size: float,
    shifts: Float[Tensor, "#batch 2"] | None = None,
    nll: Nll = gaussian_nll,
) -> Float[Tensor, "batch candidates"]:
    """Return the costs of a few rotations of each image at its shift (Å), each rendered as in training."""
    batch, candidates = rotations.shape[:2]
    kernels = kernels.expand(batch, -1, -1)
    moved = crops.new_zeros(batch, 2) if shifts is None else shifts.expand(batch, -1)
    costs = []
    for part in torch.arange(batch * candidates, device=crops.device).split(_AT_ONCE):
        image = part // candidates
        turned = rotations.flatten(0, 1)[part]
        projection = beads.render(conformations[image], turned, crops.shape[-1], pixel_size, shifts=moved[image])
        costs.append(nll(*cross_and_power(projection, crops[image], kernels[image])))
    return torch.cat(costs).view(batch, candidates)
