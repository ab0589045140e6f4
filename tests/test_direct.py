"""The paper's forward model against the Fourier transform of a Gaussian times the CTF, written out."""

import numpy as np
import pytest
import torch

from cryoatom.fourier import centered_rfft2, crop_center, frequencies
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.direct import direct_nll, simulate_images
from cryoatom.records import Optics


def optics(count: int, **changes: float) -> Optics:
    values = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "defocus_u": 12e3, "defocus_v": 11e3}
    values |= {"defocus_angle": 0.6, "phase_shift": 0.0} | changes
    return Optics(**{name: np.full(count, value) for name, value in values.items()})


CENTERS = torch.tensor([[[3.1, -7.4], [-5.0, 2.2]], [[0.0, 0.0], [8.0, 8.0]]], dtype=torch.float64)
AMPLITUDES = torch.tensor([5.0, 3.0], dtype=torch.float64)
VARIANCES = torch.tensor([9.0, 7.0], dtype=torch.float64)


@pytest.mark.parametrize("side", [64, 65])
def test_each_frequency_is_the_projection_times_the_ctf(side):
    images = simulate_images(CENTERS, AMPLITUDES, VARIANCES, optics(2), side, 1.5)
    kx, ky = frequencies(side, 1.5)
    expected = torch.zeros(2, side, side // 2 + 1, dtype=torch.complex128)
    for bead, (a, variance) in enumerate(zip(AMPLITUDES, VARIANCES, strict=True)):
        phase = -2 * np.pi * (CENTERS[:, bead, 0, None, None] * kx + CENTERS[:, bead, 1, None, None] * ky)
        width = torch.exp(-2 * np.pi**2 * variance * (kx**2 + ky**2)) * a / 1.5**2
        expected += torch.polar(width.expand_as(phase), phase)
    expected *= ctf(optics(2), side, 1.5)
    inner = (kx**2 + ky**2).sqrt() < 0.3  # rows and columns at Nyquist hold both signs of a frequency
    found = centered_rfft2(images)
    torch.testing.assert_close(found[:, inner], expected[:, inner], atol=1e-8, rtol=0)


@pytest.mark.parametrize("phase_shift", [0.0, np.pi / 2])
def test_the_mean_is_the_mass_times_the_contrast_at_frequency_zero(phase_shift):
    images = simulate_images(CENTERS, AMPLITUDES, VARIANCES, optics(2, phase_shift=phase_shift), 48, 1.5)
    contrast = -np.sin(phase_shift + np.arcsin(0.1))
    torch.testing.assert_close(images.sum(dim=(1, 2)) * 1.5**2, (AMPLITUDES.sum() * contrast).expand(2))


def test_protein_is_dark_under_focus_at_its_centre():
    one = simulate_images(CENTERS[1:, :1], AMPLITUDES[:1], VARIANCES[:1], optics(1), 65, 1.5)[0]
    assert one[32, 32] == one.min() < 0


@pytest.mark.parametrize("side", [30, 31])
def test_padding_keeps_fringes_from_wrapping_round(side):
    near_edge = CENTERS + torch.tensor([15.0, 0.0])
    beads = (near_edge, AMPLITUDES, VARIANCES, optics(2))
    padded = simulate_images(*beads, side, 1.5, padding=40)
    torch.testing.assert_close(padded, crop_center(simulate_images(*beads, side + 80, 1.5), side))
    endless = crop_center(simulate_images(*beads, 401, 1.5), side)
    wrapped = simulate_images(*beads, side, 1.5)
    assert (padded - endless).norm() < 0.1 * (wrapped - endless).norm()


def test_gradient_of_the_discrepancy():
    target = torch.randn(2, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def nll(centers, amplitudes, variances):
        return direct_nll(target, simulate_images(centers, amplitudes, variances, optics(2), 12, 2.0, padding=2))

    beads = [b.clone().requires_grad_() for b in (CENTERS, AMPLITUDES, VARIANCES)]
    assert torch.autograd.gradcheck(nll, beads)
    residual = target - simulate_images(*beads, optics(2), 12, 2.0, padding=2)
    torch.testing.assert_close(nll(*beads), residual.flatten(1).norm(dim=1) ** 2 / 2)
