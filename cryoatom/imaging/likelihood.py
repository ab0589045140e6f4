"""The Gaussian log-likelihood of an image in matched form (design D1.1, equation M).

    -log p(y | v, s) = ½|y|² - s ⟨w, v⟩ + ½ s² ⟨v, κ * v⟩

`cross` is ⟨w, v⟩, `power` is ⟨v, κ * v⟩, both in units of the noise. Values are per particle, unreduced, without ½|y|².
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _QuadraticForm(torch.autograd.Function):
    """⟨v, κ * v⟩ for an even κ; its gradient 2 κ * v is already there after the forward pass."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, kernel_spectrum: Tensor) -> Tensor:
        filtered = _filter(image, kernel_spectrum)
        ctx.save_for_backward(filtered)
        return (image * filtered).sum(dim=(-2, -1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (filtered,) = ctx.saved_tensors
        return 2 * grads[0][:, None, None] * filtered, None


def _filter(image: Tensor, kernel_spectrum: Tensor) -> Tensor:
    """Return κ * v on the crop: one axis after the other, so that rows that are zero or not asked for cost nothing."""
    side, twice = image.shape[-1], kernel_spectrum.shape[-2]
    spectrum = torch.fft.fft(torch.fft.rfft(image, n=twice), n=twice, dim=-2).mul_(kernel_spectrum)
    return torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2)[..., :side, :], n=twice)[..., :side]


def quadratic_form(
    image: Float[Tensor, "batch side side"], kernel_spectrum: Float[Tensor, "#batch twice half"]
) -> Float[Tensor, " batch"]:
    """Return ⟨v, κ * v⟩ by one zero-padded real FFT; `kernel_spectrum` is the real spectrum of the cropped even κ."""
    return _QuadraticForm.apply(image, kernel_spectrum)  # type: ignore[return-value]


def cross_and_power(
    projection: Float[Tensor, "batch side side"],
    crop: Float[Tensor, "batch side side"],
    kernel_spectrum: Float[Tensor, "#batch twice half"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return (⟨w, v⟩, ⟨v, κ * v⟩) of each particle."""
    return (crop * projection).sum(dim=(-2, -1)), quadratic_form(projection, kernel_spectrum)


def gaussian_nll(cross: Float[Tensor, "*batch"], power: Float[Tensor, "*#batch"]) -> Float[Tensor, "*batch"]:
    """Return -log p up to ½|y|², with the scale s already in the bead amplitudes."""
    return 0.5 * power - cross


def profiled_nll(cross: Float[Tensor, "*batch"], power: Float[Tensor, "*#batch"]) -> Float[Tensor, "*batch"]:
    """Return -log p maximised over s >= 0: -½ ⟨w, v⟩² / ⟨v, κ * v⟩, the correlation loss of cryoSPHERE and cryoSTAR.

    A negative correlation has its best scale at 0; there the value is 0 and so is the gradient.
    """
    return -0.5 * cross.clamp_min(0) ** 2 / power
