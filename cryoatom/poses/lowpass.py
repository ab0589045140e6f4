"""Crops and projections at low resolution as plain vectors, so that ⟨w, v⟩ of many images and views is one product."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.fourier import centered_rfft2, frequencies
from cryoatom.imaging.beads import BeadModel
from cryoatom.poses.quadratic import radial_power, ring_frequencies


class LowPass:
    """The part of a crop's spectrum below a resolution, in coordinates whose dot product is the crop's.

    Parameters
    ----------
    side, pixel_size
        Of the crops; Å.
    resolution
        Å; finer detail is left out, of images and projections alike.
    device
        Of the images and projections.
    """

    def __init__(self, side: int, pixel_size: float, resolution: float, device: torch.device | str = "cpu"):
        kx, ky = frequencies(side, pixel_size, device=device, dtype=torch.float32)
        radius = torch.hypot(kx, ky)
        self._inside = radius <= min(1 / resolution, (0.5 - 0.5 / side) / pixel_size)
        self._kx, self._ky = (k.expand_as(radius)[self._inside] for k in (kx, ky))
        twice = torch.where(self._kx == 0, 1.0, 2.0)  # the half plane stands for both halves
        self._weight = twice.sqrt() / side
        self.side, self.pixel_size, self._step = side, pixel_size, 1 / (side * pixel_size)
        self._is_kept = ring_frequencies(side, pixel_size).to(device) <= radius[self._inside].max() + 0.25 * self._step

    def __len__(self) -> int:
        return 2 * len(self._kx)

    def vectors(self, crops: Float[Tensor, "batch side side"]) -> Float[Tensor, "batch length"]:
        """Return the coordinates of crops."""
        return _as_real(centered_rfft2(crops)[:, self._inside] * self._weight)

    def moved(
        self, vectors: Float[Tensor, "batch length"], shifts: Float[Tensor, "batch places 2"]
    ) -> Float[Tensor, "batch places length"]:
        """Return crops whose particle, shifted by t, is moved back to the centre, for several t in Å."""
        phase = 2 * torch.pi * (shifts[..., :1] * self._kx + shifts[..., 1:] * self._ky)
        spectrum = torch.view_as_complex(vectors.unflatten(1, (-1, 2)))[:, None]
        return _as_real(spectrum * torch.polar(torch.ones_like(phase), phase))

    def projections(
        self,
        beads: BeadModel,
        conformations: Float[Tensor, "batch residues 3"],
        rotations: Float[Tensor, "batch 3 3"],
    ) -> Float[Tensor, "batch length"]:
        """Return the coordinates of projections, summed bead by bead in Fourier space.

        v(k) = Σ_b a_b exp(-2π² σ_b² k²) exp(-2πi k·p_b), separable in kx and ky.
        """
        centers = beads.project(conformations, rotations)
        order = torch.arange(int((self._kx.max() / self._step).round()) + 1, device=centers.device)
        k = order * self._step
        blur = torch.exp(-2 * torch.pi**2 * beads.variances()[:, None] * k.square())
        along_x, along_y = (
            torch.polar(blur.expand(*p.shape, -1), -2 * torch.pi * p[..., None] * k) for p in centers.unbind(-1)
        )
        along_y = along_y * beads.amplitudes()[:, None]
        both = torch.cat([along_y[..., 1:].conj().flip(-1), along_y], dim=-1)
        spectrum = torch.bmm(both.mT, along_x)
        column, row = ((k / self._step).round().long() for k in (self._kx, self._ky))
        return _as_real(spectrum[:, row + len(order) - 1, column] * (self._weight / self.pixel_size**2))

    def power(self, projections: Float[Tensor, "batch side side"]) -> Float[Tensor, "batch rings"]:
        """Return the power of projections on rings of the spectrum (see `radial_power`), none beyond the resolution."""
        return radial_power(projections) * self._is_kept


def _as_real(spectrum: Tensor) -> Tensor:
    return torch.view_as_real(spectrum).flatten(-2)
