"""From atoms to electron counts: scattering factors, projected potential, weak-phase image, detector.

This is the simulator's own model of an image. It shares the CTF with the reconstruction (there is one convention) and
nothing else: every atom scatters by its element, and no residue Gaussian appears here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
import scipy.fft
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryoatom.fourier import centered_irfft2, centered_rfft2, crop_center, frequencies
from cryoatom.imaging.ctf import ctf_basis, ctf_coefficients, ctf_from_coefficients, wavelength
from cryoatom.records import Optics

VOLTS_PER_FACTOR = 47.87801  # h² / (2π m e) in V·Å²: turns a scattering factor in Å into a transform of volts
REST_ENERGY_KV = 510.99895  # m c² / e
SOLVENT_POTENTIAL = 4.53  # V: water as free atoms at 0.93 g/cm³, 47.878 V·Å² · 3.041 Å / 32.2 Å³
PADDING = 1.5  # least side of the optics' grid over the box
BACKGROUND_RADIUS = 0.375  # of the box: RELION's default circle, outside of which an image is background

# Displaced volumes, Å³ (Fraser, MacRae & Suzuki, J. Appl. Cryst. 11, 693, 1978); other elements: van der Waals sphere.
_DISPLACED_VOLUMES = {"H": 5.15, "C": 16.44, "N": 2.49, "O": 9.13, "S": 19.86, "P": 5.73}


def interaction_constant(voltage_kv: np.ndarray | float) -> np.ndarray:
    """Return the phase per projected volt, σ = 2π/(λU) · (mc² + eU)/(2mc² + eU), in rad/(V·Å): 6.526e-4 at 300 kV."""
    kilovolts = np.asarray(voltage_kv, dtype=np.float64)
    relativistic = (REST_ENERGY_KV + kilovolts) / (2 * REST_ENERGY_KV + kilovolts)
    return 2 * np.pi / (wavelength(kilovolts) * kilovolts * 1e3) * relativistic


def electron_factor(element: str, k2: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    """Return f_e(k) = Σ a exp(-b k²/4) in Å (International Tables C, table 4.3.2.2); k² in 1/Å²."""
    symbol = gemmi.Element(element)
    if symbol.atomic_number == 0 or symbol.c4322 is None:
        raise ValueError(
            f"no electron scattering factor for element {element!r}: correct the element or drop its atoms"
        )
    factor = torch.zeros_like(k2)
    for a, b in zip(symbol.c4322.a, symbol.c4322.b, strict=True):
        factor += a * torch.exp(-0.25 * b * k2)
    return factor


def displaced_factor(element: str, k2: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    """Return V exp(-π k² V^(2/3)) in Å³, the transform of the Gaussian that an atom of volume V carves out of water."""
    sphere = 4 / 3 * np.pi * gemmi.Element(element).vdw_r ** 3
    volume = _DISPLACED_VOLUMES.get(element, sphere)
    return volume * torch.exp(-np.pi * volume ** (2 / 3) * k2)


@dataclass(frozen=True)
class Projector:
    """Exact band-limited projection of the atoms of one molecule onto a compact grid; see :func:`build_projector`.

    Parameters
    ----------
    order : (atoms,) int64
        The atoms sorted by element.
    counts : tuple of int
        Atoms of each element, in that order.
    factors : (elements, half, half) float32
        What one atom of the element adds to the spectrum at (|k_y|, |k_x|), V·Å².
    pixel_size : float
        Å.
    """

    order: Int[Tensor, " atoms"]
    counts: tuple[int, ...]
    factors: Float[Tensor, "elements half half"]
    pixel_size: float

    @property
    def side(self) -> int:
        """Pixels along one side of the compact grid: odd, so that no frequency is its own mirror image."""
        return 2 * self.factors.shape[-1] - 1

    def project(self, xy: Float[Tensor, "batch atoms 2"]) -> Float[Tensor, "batch side side"]:
        """Return the projected potential in V·Å; `xy` in Å from the centre pixel. Atoms beyond the grid wrap around."""
        half = self.factors.shape[-1]
        products = xy.new_zeros(len(xy), 2, half, 2, half)
        for factor, atoms in zip(self.factors, xy[:, self.order].split(self.counts, dim=1), strict=True):
            products += factor[:, None, :] * self._wave_products(atoms)
        return centered_irfft2(_half_plane(products), self.side) / self.pixel_size**2

    def _wave_products(self, xy: Float[Tensor, "batch atoms 2"]) -> Float[Tensor, "batch 2 half 2 half"]:
        """Sum {cos, sin}(2π k_y y) · {cos, sin}(2π k_x x) over atoms: one real matrix product for all four."""
        half = self.factors.shape[-1]
        k = torch.arange(half, dtype=xy.dtype, device=xy.device) * (2 * torch.pi / (self.side * self.pixel_size))
        phase = k[:, None] * xy.transpose(1, 2)[:, :, None, :]
        waves = phase.new_empty(len(xy), 2, 2 * half, xy.shape[1])
        torch.cos(phase, out=waves[:, :, :half])
        torch.sin(phase, out=waves[:, :, half:])
        return (waves[:, 1] @ waves[:, 0].mT).unflatten(1, (2, half)).unflatten(3, (2, half))


def _half_plane(products: Float[Tensor, "batch 2 half 2 half"]) -> Complex[Tensor, "batch side half"]:
    """Turn products of cosines and sines into Σ exp(-2πi k·x) on the half plane of an rfft2 of odd side."""
    (cos_cos, cos_sin), (sin_cos, sin_sin) = ((row.unbind(2)) for row in products.unbind(1))
    positive = torch.complex(cos_cos - sin_sin, -(cos_sin + sin_cos))
    negative = torch.complex(cos_cos + sin_sin, sin_cos - cos_sin)
    return torch.cat([positive, negative[:, 1:].flip(1)], dim=1)


def build_projector(
    elements: np.ndarray,
    *,
    extent: float,
    pixel_size: float,
    solvent_potential: float = SOLVENT_POTENTIAL,
    b_factor: float = 0.0,
) -> Projector:
    """Prepare the projection of atoms of the given elements.

    Parameters
    ----------
    elements : (atoms,) str
    extent : float
        Å: the least side of the compact grid, tails of the atoms included.
    pixel_size : float
        Å; the band limit is its Nyquist frequency.
    solvent_potential : float
        Mean inner potential in V of the vitreous water that atoms displace; 0 for atoms in vacuum.
    b_factor : float
        Å²; exp(-B k²/4) blurs atoms and solvent alike (motion, radiation damage).

    Raises
    ------
    ValueError
        For an element without a scattering factor.
    """
    half = _odd_fast_side(extent / pixel_size) // 2 + 1
    k = torch.arange(half, dtype=torch.float64) / ((2 * half - 1) * pixel_size)
    k2 = k[:, None] ** 2 + k**2
    kinds, element_of_atom = np.unique(elements, return_inverse=True)
    factors = [
        (VOLTS_PER_FACTOR * electron_factor(kind, k2) - solvent_potential * displaced_factor(kind, k2))
        * torch.exp(-0.25 * b_factor * k2)
        for kind in kinds.tolist()
    ]
    return Projector(
        order=torch.from_numpy(np.argsort(element_of_atom, kind="stable")),
        counts=tuple(np.bincount(element_of_atom).tolist()),
        factors=torch.stack(factors).float(),
        pixel_size=pixel_size,
    )


def _odd_fast_side(least: float) -> int:
    """Return the smallest odd side >= `least` that has only the prime factors 3, 5 and 7."""
    side = 2 * int(np.ceil((max(least, 3) - 1) / 2)) + 1
    while _largest_cofactor(side) > 1:
        side += 2
    return side


def _largest_cofactor(side: int) -> int:
    for prime in (3, 5, 7):
        while side % prime == 0:
            side //= prime
    return side


@dataclass(frozen=True)
class Microscope:
    """Weak-phase optics on a grid larger than the box, so that delocalised signal leaves the image for good.

    Parameters
    ----------
    box : int
        Side of an image in pixels.
    basis : (5, padded, padded_half) float32
        :func:`~cryoatom.imaging.ctf.ctf_basis` of the padded grid.
    envelope : (padded, padded_half) float32
        Square root of the detector's quantum efficiency.
    """

    box: int
    basis: Float[Tensor, "5 padded padded_half"]
    envelope: Float[Tensor, "padded padded_half"]

    def intensity(self, potential: Float[Tensor, "batch side side"], optics: Optics) -> Float[Tensor, "batch box box"]:
        """Return the expected image 1 + 2σ F⁻¹[V C], in units of the incident beam.

        C < 0 at low frequency under focus: matter is dark.
        """
        padded = self.basis.shape[1]
        spectrum = centered_rfft2(_embed_center(potential, padded))
        spectrum *= ctf_from_coefficients(ctf_coefficients(optics).float(), self.basis) * self.envelope
        contrast = crop_center(centered_irfft2(spectrum, padded), self.box)
        sigma = torch.from_numpy(interaction_constant(optics.voltage_kv)).float()
        return 1 + 2 * sigma[:, None, None] * contrast


def delocalisation(optics: Optics, pixel_size: float) -> float:
    """Return how far, in Å along x or y, defocus moves signal at most: λ |defocus| k at the Nyquist frequency."""
    defocus = np.maximum(np.abs(optics.defocus_u), np.abs(optics.defocus_v))
    return float((wavelength(optics.voltage_kv) * defocus).max() / (2 * pixel_size))


def build_microscope(
    box: int, pixel_size: float, *, least: int = 0, spread: float = 0.0, dqe_nyquist: float = 1.0
) -> Microscope:
    """Prepare the optics of images of `box` pixels of `pixel_size` Å.

    Parameters
    ----------
    least : int
        Smallest side of the padded grid, in pixels: that of the projections.
    spread : float
        Å: the :func:`delocalisation` of the images. The grid is larger than box and projection by as much, and at
        least 1.5 boxes: what its periodic transform brings back in at the other side then ends outside the box.
    dqe_nyquist : float
        Detective quantum efficiency at the Nyquist frequency; it falls linearly from 1 at zero (counting detectors).
        Counts are normalised to white noise, so the efficiency damps the signal by its square root.
    """
    wanted = max(PADDING * box, max(box, least) + spread / pixel_size)
    padded = int(scipy.fft.next_fast_len(int(np.ceil(wanted)), real=True) or 0)
    kx, ky = frequencies(padded, pixel_size)
    efficiency = 1 - (1 - dqe_nyquist) * 2 * pixel_size * torch.sqrt(kx**2 + ky**2)
    return Microscope(box, ctf_basis(padded, pixel_size).float(), efficiency.clamp(min=0).sqrt().float())


def _embed_center(image: Float[Tensor, "batch side side"], new_side: int) -> Float[Tensor, "batch new new"]:
    """Surround images by zeros, keeping the origin at the centre pixel."""
    side = image.shape[-1]
    before = new_side // 2 - side // 2
    after = new_side - side - before
    return torch.nn.functional.pad(image, (before, after, before, after))


def count_electrons(
    intensity: np.ndarray, electrons_per_pixel: float, generators: Sequence[np.random.Generator]
) -> np.ndarray:
    """Draw Poisson counts of (n, box, box) images, each from its own generator; float32."""
    expected = np.clip(intensity.astype(np.float64) * electrons_per_pixel, 0, None)
    return np.stack([draw.poisson(mean) for draw, mean in zip(generators, expected, strict=True)]).astype(np.float32)


def normalize_background(images: np.ndarray) -> np.ndarray:
    """Shift and scale each of (n, box, box) images to mean 0 and deviation 1 outside RELION's background circle."""
    box = images.shape[-1]
    offsets = np.arange(box) - box // 2
    outside = offsets[:, None] ** 2 + offsets**2 > (BACKGROUND_RADIUS * box) ** 2
    background = images[:, outside]
    mean = background.mean(axis=1, dtype=np.float64)[:, None, None]
    deviation = background.std(axis=1, dtype=np.float64)[:, None, None]
    return ((images - mean) / deviation).astype(np.float32)
