"""How well a rigid set of beads explains a volume, for many placements at once."""

from __future__ import annotations

import math
from copy import copy

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.poses.volume import Volume, corners, frequency_radius, signed_index

_PRODUCTS = 100_000_000  # of frequencies and beads, for the power spectrum of the beads
_FREQUENCIES, _FREQUENCIES_OF_SCAN = 20_000, 1000
_AT_ONCE = 500
_MIRROR = (-1.0, 1.0, 1.0)


class RigidBeads:
    """Beads that move as one body: centres about their centre of mass, masses, and one width for all.

    Parameters
    ----------
    centers
        Å, in any frame.
    masses, variances
        a_b, and σ_b² in Å². The width is the root of the mean of σ_b²: where detail ends at 5 Å they are all alike.
    """

    def __init__(
        self,
        centers: Float[Tensor, "beads 3"],
        masses: Float[Tensor, " beads"],
        variances: Float[Tensor, " beads"],
    ):
        share = masses / masses.sum()
        self.origin = share @ centers
        self.centers, self.masses = centers - self.origin, masses
        self.variance = float(share @ variances)
        self.spread = self.centers.T @ (share[:, None] * self.centers)
        self.radius = float(self.spread.trace().sqrt())
        self.reach = float(self.centers.norm(dim=1).max())

    def mirrored(self) -> RigidBeads:
        """Return their mirror image, x -> -x."""
        return RigidBeads(
            self.centers * self.centers.new_tensor(_MIRROR), self.masses, torch.full_like(self.masses, self.variance)
        )

    def merged(self, cell: float) -> RigidBeads:
        """Return as few beads as a coarser resolution needs: those of a cubic cell of side `cell` Å become one."""
        _, group = torch.unique((self.centers / cell).floor().long(), dim=0, return_inverse=True)
        masses = self.masses.new_zeros(int(group.max()) + 1).index_add_(0, group, self.masses)
        moments = self.centers.new_zeros(len(masses), 3).index_add_(0, group, self.centers * self.masses[:, None])
        centers = moments / masses[:, None]
        apart = (self.centers - centers[group]).square().sum(dim=1) / 3
        variances = apart.new_zeros(len(masses)).index_add_(0, group, self.masses * (apart + self.variance)) / masses
        return RigidBeads(centers, masses, variances)

    def displacement(
        self,
        rotations: Float[Tensor, "*batch 3 3"],
        translations: Float[Tensor, "*batch 3"],
        rotation: Float[Tensor, "3 3"],
        translation: Float[Tensor, " 3"],
    ) -> Float[Tensor, "*batch"]:
        """Return the root mean square distance of beads between placements and another one, Å."""
        turned = 2 * (self.spread.trace() - ((rotation.mT @ rotations) * self.spread).sum(dim=(-2, -1)))
        return (turned + (translations - translation).square().sum(dim=-1)).clamp_min(0).sqrt()


class PlacementScore:
    """The score z = ⟨W, V⟩ / sqrt ⟨V, K * V⟩ of placements x -> Q x + T; ½ z² is the gain in log-likelihood.

    ⟨W, V⟩ = Σ_b a_b (W * g)(Q x_b + T) samples W, blurred once by the beads' Gaussian g, by cubic B-splines on a grid
    twice as fine. ⟨V, K * V⟩ does not depend on T, and on Q only as far as views are uneven: it is summed over
    frequencies fixed in the beads' frame.

    Parameters
    ----------
    volume
        W and K.
    beads
        What is placed.
    frequencies
        How many of them at most ⟨V, K * V⟩ is summed over.
    """

    def __init__(self, volume: Volume, beads: RigidBeads, frequencies: int = _FREQUENCIES):
        self.beads = beads
        self._spline, self._pixel = _spline_coefficients(volume, beads.variance), 0.5 * volume.pixel_size
        self._weight, self._step = volume.weight, 0.5 / volume.length
        self._frequencies, self._power, self._cell = _power_spectrum(beads, volume, frequencies)

    def __call__(
        self, rotations: Float[Tensor, "batch 3 3"], translations: Float[Tensor, "batch 3"]
    ) -> Float[Tensor, " batch"]:
        """Return z."""
        return self.cross(rotations, translations) * self.power(rotations).rsqrt()

    def cross(
        self, rotations: Float[Tensor, "batch 3 3"], translations: Float[Tensor, "batch 3"]
    ) -> Float[Tensor, " batch"]:
        """Return ⟨W, V⟩."""
        places = self.beads.centers @ rotations.mT + translations[:, None]
        return _sample_spline(self._spline, places / self._pixel) @ self.beads.masses

    def mirrored(self) -> PlacementScore:
        """Return the score of the mirror image of the beads; the volume's spline is shared."""
        other = copy(self)
        other.beads = self.beads.mirrored()
        other._frequencies = self._frequencies * self._frequencies.new_tensor(_MIRROR)
        return other

    def inverted(self) -> PlacementScore:
        """Return the score in data of the opposite contrast."""
        other = copy(self)
        other._spline = -self._spline
        return other

    @torch.no_grad()
    def power(self, rotations: Float[Tensor, "batch 3 3"]) -> Float[Tensor, " batch"]:
        """Return ⟨V, K * V⟩, without gradients: it hardly varies where ⟨W, V⟩ has a maximum."""
        flat, side = self._weight.flatten(), len(self._weight)
        values = []
        for rotation in rotations:
            index, share = corners(self._frequencies @ (rotation.T / self._step), side)
            values.append((flat[index] * share).sum(dim=-1) @ self._power)
        return torch.stack(values) * (2 * self._cell)


def _spline_coefficients(volume: Volume, variance: float) -> Float[Tensor, "fine fine fine"]:
    """Return the cubic B-spline coefficients of W * g on a grid twice as fine, where W has detail to half its band."""
    side, length = len(volume.signal), volume.length
    radius = frequency_radius(side, length, volume.signal.device)
    spectrum = torch.fft.fftn(volume.signal) * torch.exp(-2 * math.pi**2 * variance * radius.square())
    spectrum = spectrum * (radius <= 1 / volume.resolution)
    axis = (2 + torch.cos(math.pi * signed_index(side, radius.device) / side)) / 3  # of B-splines sampled at 2 side
    spectrum = spectrum / (axis[:, None, None] * axis[:, None] * axis)
    fine = spectrum.new_zeros(2 * side, 2 * side, 2 * side)
    index = signed_index(side, radius.device) % (2 * side)
    fine[index[:, None, None], index[:, None], index] = spectrum
    return torch.fft.ifftn(fine).real * 8


def _sample_spline(
    coefficients: Float[Tensor, "side side side"], places: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch"]:
    """Evaluate a periodic cubic B-spline at places (x, y, z) in grid units."""
    side = len(coefficients)
    floor = places.detach().floor()
    t = places - floor
    basis = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4, t**3], dim=-1)
    offset = torch.arange(-1, 3, device=places.device)
    x, y, z = ((floor.long()[..., None] + offset) % side).unbind(-2)
    wx, wy, wz = (basis / 6).unbind(-2)
    flat = (z[..., :, None, None] * side + y[..., None, :, None]) * side + x[..., None, None, :]
    along_x = (coefficients.flatten()[flat] * wx[..., None, None, :]).sum(dim=-1)
    return ((along_x * wy[..., None, :]).sum(dim=-1) * wz).sum(dim=-1)


def _power_spectrum(
    beads: RigidBeads, volume: Volume, most: int
) -> tuple[Float[Tensor, "frequencies 3"], Float[Tensor, " frequencies"], float]:
    """Return |V̂|² on a lattice of half the frequencies that matter, and the volume of its cells in 1/Å³."""
    finest = 1 / volume.resolution
    count = min(most, _PRODUCTS // len(beads.masses))
    step = max(1 / volume.length, finest * (2 * math.pi / 3 / count) ** (1 / 3))
    line = torch.arange(0.5, finest / step, device=beads.centers.device) * step
    both = torch.cat([-line.flip(0), line])
    lattice = torch.cartesian_prod(both, both, line)
    lattice = lattice[lattice.norm(dim=1) <= finest]
    power = []
    for q in lattice.split(_AT_ONCE):
        phase = 2 * math.pi * (q @ beads.centers.T)
        power.append((torch.cos(phase) @ beads.masses).square() + (torch.sin(phase) @ beads.masses).square())
    blur = torch.exp(-4 * math.pi**2 * beads.variance * lattice.square().sum(dim=1))
    return lattice, torch.cat(power) * blur, step**3


class TranslationScan:
    """The best translation of a rotation: all of them on a coarse grid, by FFT.

    Parameters
    ----------
    volume
        At the resolution of the scan, see `Volume.low_passed`.
    beads
        What is placed.
    farthest
        Å along each axis; translations end there.
    """

    def __init__(self, volume: Volume, beads: RigidBeads, farthest: float):
        self._score, self._beads, self._volume = PlacementScore(volume, beads, _FREQUENCIES_OF_SCAN), beads, volume
        side, length = len(volume.signal), volume.length
        radius = frequency_radius(side, length, volume.signal.device)
        blur = torch.exp(-2 * math.pi**2 * beads.variance * radius.square()) * (radius <= 1 / volume.resolution)
        axis = torch.sinc(signed_index(side, radius.device) / side).square()  # of the trilinear weights
        filtered = torch.fft.fftn(volume.signal) * blur / (axis[:, None, None] * axis[:, None] * axis)
        self._spectrum = torch.fft.rfftn(torch.fft.ifftn(filtered).real)
        is_far = signed_index(side, radius.device).abs() * volume.pixel_size > farthest
        self._is_far = is_far[:, None, None] | is_far[:, None] | is_far

    @torch.no_grad()
    def best(
        self, rotations: Float[Tensor, "batch 3 3"]
    ) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch 2 3"]]:
        """Return the highest z and the highest -z of each rotation, and where they are, Å."""
        side, pixel = len(self._volume.signal), self._volume.pixel_size
        density = rotations.new_zeros(len(rotations), side**3)
        index, share = corners(self._beads.centers @ rotations.mT / pixel, side)
        density.scatter_add_(1, index.flatten(1), (share * self._beads.masses[:, None]).flatten(1))
        spectrum = torch.fft.rfftn(density.view(-1, side, side, side), dim=(1, 2, 3)).conj() * self._spectrum
        cross = torch.fft.irfftn(spectrum, s=(side, side, side), dim=(1, 2, 3)).masked_fill_(self._is_far, 0).flatten(1)
        place = torch.stack([cross.argmax(dim=1), cross.argmin(dim=1)], dim=1)
        value = cross.gather(1, place) * cross.new_tensor([1.0, -1.0])
        x, y, z = (signed_index(side, place.device)[place // side**axis % side] for axis in range(3))
        return value * self._score.power(rotations).rsqrt()[:, None], torch.stack([x, y, z], dim=-1) * pixel
