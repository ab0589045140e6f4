"""The contrast transfer function. Only this module knows the sign of defocus."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.fourier import frequencies
from cryoatom.records import Optics

_PLANCK_CHARGE_MASS = 12.26425965  # h / sqrt(2 m e) in Å · sqrt(V), CODATA 2018
_RELATIVISTIC = 0.978475600e-6  # e / (2 m c²) in 1/V


def wavelength(voltage_kv: np.ndarray | float) -> np.ndarray | np.floating:
    """Return the relativistic electron wavelength in Å."""
    volts = np.asarray(voltage_kv, dtype=np.float64) * 1e3
    return _PLANCK_CHARGE_MASS / np.sqrt(volts + _RELATIVISTIC * volts**2)


def ctf_coefficients(optics: Optics) -> Float[Tensor, "particles 5"]:
    """Return per-particle coefficients of the basis [k², kx² - ky², 2 kx ky, k⁴, 1] of the CTF phase.

    The phase is χ = π λ Δz(α) k² - ½ π C_s λ³ k⁴ + phase shift + asin(amplitude contrast), with
    Δz(α) = ½ (U + V) + ½ (U - V) cos 2(α - α₀) and Δz > 0 for underfocus.
    """
    lam = wavelength(optics.voltage_kv)
    mean = 0.5 * (optics.defocus_u + optics.defocus_v)
    astigmatism = 0.5 * (optics.defocus_u - optics.defocus_v)
    columns = [
        np.pi * lam * mean,
        np.pi * lam * astigmatism * np.cos(2 * optics.defocus_angle),
        np.pi * lam * astigmatism * np.sin(2 * optics.defocus_angle),
        -0.5 * np.pi * (optics.cs_mm * 1e7) * lam**3,
        optics.phase_shift + np.arcsin(optics.amplitude_contrast),
    ]
    return torch.from_numpy(np.stack(columns, axis=1))


def ctf_basis(
    side: int, pixel_size: float, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> Float[Tensor, "5 side half"]:
    """Return the basis functions of :func:`ctf_coefficients` on the half plane of an rfft2."""
    kx, ky = frequencies(side, pixel_size, device=device, dtype=dtype)
    k2 = kx**2 + ky**2
    return torch.stack([k2, kx**2 - ky**2, 2 * kx * ky, k2**2, torch.ones_like(k2)])


def ctf_from_coefficients(
    coefficients: Float[Tensor, "particles 5"], basis: Float[Tensor, "5 side half"]
) -> Float[Tensor, "particles side half"]:
    """Evaluate C(k) = -( sqrt(1 - α²) sin χ + α cos χ ) = -sin(χ + asin α)."""
    return -torch.sin(torch.einsum("pc,chw->phw", coefficients, basis))


def ctf(optics: Optics, side: int, pixel_size: float) -> Float[Tensor, "particles side half"]:
    """Evaluate the CTF of each particle in float64 on the half plane of an rfft2 of `side` pixels of `pixel_size` Å.

    Negative at low frequency for underfocus: protein is dark in raw images. Source: the paper's supplement, section 1
    (there k = 2π/λ and frequencies are angular), and Prins et al. appendix D.
    """
    return ctf_from_coefficients(ctf_coefficients(optics), ctf_basis(side, pixel_size))
