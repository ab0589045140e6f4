"""Crops at low resolution as vectors, against Fourier transforms made here."""

from functools import cache

import numpy as np
import pytest
import torch
from molecules import helix

from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.likelihood import quadratic_form
from cryoatom.imaging.project import render_dense
from cryoatom.poses.lowpass import LowPass
from cryoatom.poses.quadratic import radial_mean
from cryoatom.structure.template import Template, center_template, template_from_atoms

PIXEL, RESOLUTION = 2.0, 8.0


@cache
def template() -> Template:
    return center_template(template_from_atoms(helix(16), "helix")[0])


def beads(width: float = 2.0) -> BeadModel:
    return BeadModel(bead_layout(template(), "atoms"), template(), width)


def rotations(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(random_rotations(count, np.random.default_rng(seed))).float()


def conformations(count: int) -> torch.Tensor:
    x = torch.from_numpy(template().positions).float()
    return x + torch.linspace(-1, 1, count)[:, None, None] * (x[:, 2:] / 6) ** 2 * torch.tensor([1.0, 0.3, 0])


@torch.no_grad()
def views(model: BeadModel, x: torch.Tensor, turns: torch.Tensor, side: int, shifts: torch.Tensor | float = 0.0):
    centers = model.project(x, turns) + shifts
    return render_dense(centers, model.amplitudes(), model.variances(), side, PIXEL)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def radii(side: int) -> torch.Tensor:
    k = torch.fft.fftfreq(side, PIXEL, dtype=torch.float64)
    return torch.hypot(k[:, None], k)


def low_passed(images: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Images without what lies beyond a frequency, by a whole (not a real) transform."""
    return torch.fft.ifft2(torch.fft.fft2(images) * (radii(images.shape[-1]) <= cutoff)).real


@pytest.mark.parametrize("side", [24, 25])
@pytest.mark.parametrize("resolution", [RESOLUTION, 12.3])
def test_products_of_vectors_are_those_of_low_passed_crops(side, resolution):
    lowpass = LowPass(side, PIXEL, resolution)
    a, b = noise(3, side, side), noise(4, side, side, seed=1)
    found = lowpass.vectors(a.float()) @ lowpass.vectors(b.float()).T
    cutoff = 1 / resolution
    expected = torch.einsum("iyx,jyx->ij", low_passed(a, cutoff), low_passed(b, cutoff))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)
    assert found.shape == (3, 4) and len(lowpass) == lowpass.vectors(a.float()).shape[1]
    assert (
        len(lowpass) / side**2 < 1.4 * np.pi * (PIXEL / resolution) ** 2
    )  # not many more numbers than there are in it


@pytest.mark.parametrize("side", [16, 17, 24, 25, 40, 45])
def test_beyond_the_grids_resolution_all_but_its_corners_and_last_frequency_is_kept(side):
    """A frequency that the grid holds once for both signs cannot be shifted, so none of it is taken."""
    lowpass, images = LowPass(side, PIXEL, 0.1), noise(2, side, side)
    inside = 0.5 * (side - 1) / (side * PIXEL)
    found = lowpass.vectors(images.float()).square().sum(dim=1)
    expected = low_passed(images, 1.00001 * inside).square().sum(dim=(1, 2))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("side", [40, 41])
def test_projections_are_the_vectors_of_rendered_views(side):
    lowpass, model, x, turns = LowPass(side, PIXEL, RESOLUTION), beads(), conformations(5), rotations(5)
    with torch.no_grad():
        found = lowpass.projections(model, x, turns)
    expected = lowpass.vectors(views(model, x, turns, side))
    assert (found - expected).norm() < 1e-3 * expected.norm()  # pixels hold aliases of the beads
    assert (found - expected.roll(1, dims=0)).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("side", [40, 41])
def test_moving_back_undoes_a_shift_of_the_beads(side):
    lowpass, model, x, turns = LowPass(side, PIXEL, RESOLUTION), beads(), conformations(3), rotations(3)
    shifts = torch.tensor([[[3.0, 0.0], [0.0, -5.5]], [[-1.3, 2.4], [0.0, 0.0]], [[4.0, 4.0], [1.0, 0.0]]])
    centred = lowpass.vectors(views(model, x, turns, side))
    for place in range(2):
        shifted = lowpass.vectors(views(model, x, turns, side, shifts[:, [place]]))
        found = lowpass.moved(shifted, shifts)[:, place]
        assert found.shape == (3, len(lowpass))
        assert (found - centred).norm() < 2e-3 * centred.norm()
    torch.testing.assert_close(lowpass.moved(centred, torch.zeros(3, 1, 2))[:, 0], centred)
    torch.testing.assert_close(lowpass.moved(centred, shifts).norm(dim=-1), centred.norm(dim=-1)[:, None].expand(3, 2))


@pytest.mark.parametrize("side", [24, 25])
def test_power_is_that_of_the_padded_spectrum_below_the_resolution(side):
    """Of a radial κ it gives ⟨v, κ * v⟩ of the low-passed v, the term that goes with the product of vectors."""
    resolution = 14.0
    lowpass, model = LowPass(side, PIXEL, resolution), beads()
    v = views(model, conformations(6), rotations(6), side)
    radius = radii(2 * side)
    kernel = (1.5 + torch.cos(150 * radius**2))[None]
    half = kernel[..., : side + 1].float().contiguous()
    spectrum = torch.fft.fft2(v.double(), s=(2 * side, 2 * side))
    expected = (kernel * spectrum.abs() ** 2 * (radius <= 1 / resolution)).mean(dim=(1, 2))
    found = lowpass.power(v) @ radial_mean(half)[0]
    torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0)
    whole = quadratic_form(v, half)
    assert (expected < 0.97 * whole).all()
    torch.testing.assert_close(LowPass(side, PIXEL, 0.1).power(v) @ radial_mean(half)[0], whole, rtol=1e-2, atol=0)
