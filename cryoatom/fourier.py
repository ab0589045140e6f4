"""Centred Fourier transforms of square images. This is the only module that shifts.

Real-space arrays are centred: the origin is pixel n // 2. Half-plane spectra have the zero frequency at [0, 0], as
torch.fft.rfft2 lays them out.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def centered_rfft2(image: Float[Tensor, "*batch side side"]) -> Complex[Tensor, "*batch side half"]:
    """Fourier-transform real images whose origin is the centre pixel."""
    return torch.fft.rfft2(torch.fft.ifftshift(image, dim=(-2, -1)))


def centered_irfft2(spectrum: Complex[Tensor, "*batch side half"], side: int) -> Float[Tensor, "*batch side side"]:
    """Invert :func:`centered_rfft2`."""
    return torch.fft.fftshift(torch.fft.irfft2(spectrum, s=(side, side)), dim=(-2, -1))


def frequencies(
    side: int, pixel_size: float, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> tuple[Float[Tensor, "side half"], Float[Tensor, "side half"]]:
    """Return (k_x, k_y) in 1/Å on the half plane of an rfft2 of `side` pixels."""
    ky = torch.fft.fftfreq(side, pixel_size, device=device, dtype=dtype)
    kx = torch.fft.rfftfreq(side, pixel_size, device=device, dtype=dtype)
    return kx.expand(side, -1), ky[:, None].expand(-1, len(kx))


def crop_spectrum(
    spectrum: Complex[Tensor, "*batch side half"] | Float[Tensor, "*batch side half"], side: int, new_side: int
) -> Tensor:
    """Keep the frequencies that an rfft2 of `new_side` <= `side` pixels has (both even: no Nyquist folding)."""
    if new_side > side:
        raise ValueError(f"cannot crop a spectrum of side {side} to the larger side {new_side}")
    half = new_side // 2
    rows = torch.cat([spectrum[..., : new_side - half, : half + 1], spectrum[..., side - half :, : half + 1]], dim=-2)
    return rows


def crop_center(image: Float[Tensor, "*batch side side"], new_side: int) -> Float[Tensor, "*batch new new"]:
    """Cut the central `new_side` pixels, keeping the origin at the centre pixel."""
    side = image.shape[-1]
    start = side // 2 - new_side // 2
    return image[..., start : start + new_side, start : start + new_side]


def pixel_coordinates(
    side: int, pixel_size: float, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, " side"]:
    """Return pixel centres along one axis in Å, zero at pixel side // 2."""
    return (torch.arange(side, device=device, dtype=dtype) - side // 2) * pixel_size
