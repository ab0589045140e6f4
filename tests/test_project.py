"""The renderers against paper eq. 1 as a loop, and against what integrals and Fourier transforms of Gaussians are."""

import numpy as np
import pytest
import torch
from reference import render_loop

from cryoatom.fourier import centered_rfft2, frequencies
from cryoatom.imaging.project import _groups_per_slab, _tiles, render, render_dense

# A bead of `render` ends at 4.5 σ, where it is exp(-4.5²/2) = 4e-5 of its peak.
RENDERERS = [pytest.param(render_dense, 1e-6, id="dense"), pytest.param(render, 5e-5, id="tiles")]


def random_beads(
    batch: int = 2, beads: int = 4, *, reach: float = 4.0, narrowest: float = 2.0, seed: int = 0
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = reach * (2 * torch.rand(batch, beads, 2, generator=generator, dtype=torch.float64) - 1)
    amplitudes = 1 + torch.rand(beads, generator=generator, dtype=torch.float64)
    variances = narrowest * (1 + torch.rand(beads, generator=generator, dtype=torch.float64))
    return [centers.requires_grad_(), amplitudes.requires_grad_(), variances.requires_grad_()]


@pytest.mark.parametrize(("side", "pixel_size"), [(6, 1.7), (7, 1.3)])
def test_values_and_gradients_are_those_of_the_double_loop(side, pixel_size):
    beads = random_beads()
    weight = torch.randn(2, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fast, slow = render_dense(*beads, side, pixel_size), render_loop(*beads, side, pixel_size)
    torch.testing.assert_close(fast, slow)
    found, expected = (torch.autograd.grad((image * weight).sum(), beads) for image in (fast, slow))
    torch.testing.assert_close(found, expected)


def test_gradcheck():
    assert torch.autograd.gradcheck(lambda *beads: render_dense(*beads, 5, 1.5), random_beads(1, 3))


@pytest.mark.parametrize("side", [72, 320])
def test_float32_gradients_of_a_large_image_agree_with_float64(side):
    beads = random_beads(1, 60, reach=0.45 * side)
    weight = torch.randn(1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = torch.autograd.grad((render_dense(*beads, side, 1.25) * weight).sum(), beads)
    rounded = [value.detach().float().requires_grad_() for value in beads]
    found = torch.autograd.grad((render_dense(*rounded, side, 1.25) * weight.float()).sum(), rounded)
    for one, other in zip(found, exact, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()


@pytest.mark.parametrize("beads", [1, 5, 48, 49, 300])
@pytest.mark.parametrize(("side", "reach"), [(9, 3.0), (40, 12.0), (40, 45.0), (41, 30.0)])  # 45 Å is 5 Å outside
def test_strips_are_the_dense_image_but_for_the_tails(beads, side, reach):
    points = random_beads(3, beads, reach=reach)
    weight = torch.randn(3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dense, strips = (function(*points, side, 2.0) for function in (render_dense, render))
    peaks = (points[1] / (2 * np.pi * points[2])).detach()
    assert (dense - strips).abs().max() < 4.1e-5 * peaks.sum()
    torch.testing.assert_close(strips, dense, atol=1e-3 * float(peaks.max()), rtol=0)
    expected, found = (torch.autograd.grad((image * weight).sum(), points) for image in (dense, strips))
    for fast, slow in zip(found, expected, strict=True):
        assert (fast - slow).norm() < 2e-3 * slow.norm()


def test_strips_of_beads_on_one_line_and_of_a_wide_bead():
    centers = torch.zeros(1, 60, 2, dtype=torch.float64)
    centers[..., 0] = torch.linspace(-30, 30, 60)
    for variances in (torch.full((60,), 4.0), torch.linspace(3, 900, 60)):
        beads = (centers, torch.ones(60, dtype=torch.float64), variances.double())
        torch.testing.assert_close(render(*beads, 24, 2.0), render_dense(*beads, 24, 2.0), atol=1e-5, rtol=1e-3)


def many_beads(side: int, beads: int = 2500, *, scale: float = 0.55) -> list[torch.Tensor]:
    """Return beads in two images of 2 Å pixels, a few of them outside."""
    generator = torch.Generator().manual_seed(beads + side)
    centers = (0.45 * torch.randn(2, beads, 2, generator=generator, dtype=torch.float64)).clamp(-1.05, 1.05)
    _, amplitudes, variances = random_beads(1, beads, narrowest=1.6)
    return [(scale * 2 * side * centers).requires_grad_(), amplitudes, variances]


@pytest.mark.parametrize("beads", [1500, 2543])
@pytest.mark.parametrize("side", [72, 81])
def test_tiles_are_the_dense_image_but_for_the_tails(side, beads):
    points = many_beads(side, beads)
    assert all(tiles.columns < side for tiles in _tiles(points[0].detach(), points[2].detach(), side, 2.0))
    dense, tiles = (function(*points, side, 2.0) for function in (render_dense, render))
    assert (dense - tiles).abs().max() < 1e-4 * dense.max()
    weight = torch.randn(2, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected, found = (torch.autograd.grad((image * weight).sum(), points) for image in (dense, tiles))
    for fast, slow in zip(found, expected, strict=True):
        assert (fast - slow).norm() < 2e-3 * slow.norm()


def test_small_molecules_and_wide_beads_are_drawn_on_strips_and_large_molecules_on_tiles():
    assert [_groups_per_slab(beads, side, 10.0) for beads, side in ((590, 41), (1000, 48))] == [1, 1]
    assert _groups_per_slab(2400, 72, 60.0) == 1
    assert _groups_per_slab(38_000, 200, 10.0) > 10


@pytest.mark.parametrize("far", ["one bead", "a tail in x", "a tail in y"])
def test_beads_that_lie_apart_make_few_tiles_large(far):
    side, points = 120, [value.detach() for value in many_beads(120, 6000, scale=0.25)]
    line = torch.linspace(60, 118, 100, dtype=torch.float64)
    if far == "one bead":
        points[0][:, 0] = torch.tensor([-118.0, 100.0])
    else:
        axis = "xy".index(far[-1])
        points[0][:, :100, axis], points[0][:, :100, 1 - axis] = line, 0.0
    torch.testing.assert_close(render(*points, side, 2.0), render_dense(*points, side, 2.0), atol=1e-3, rtol=0)
    small, large = _tiles(points[0], points[2], side, 2.0)
    assert small.rows * small.columns < 0.05 * side**2
    assert len(large.bead) < len(small.bead)


def test_an_image_with_a_bead_that_is_nowhere_says_so():
    points = [value.detach() for value in many_beads(72)]
    points[0][1, 7, 0] = torch.nan
    image = render(*points, 72, 2.0)
    assert image[0].isfinite().all()
    assert image[1].isnan().any()


@pytest.mark.parametrize(("renderer", "tolerance"), RENDERERS)
def test_float32_agrees_with_float64(renderer, tolerance):
    beads = [b.detach() for b in random_beads(beads=30, reach=15.0)]
    single = renderer(*(b.float() for b in beads), 40, 2.0)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), render_dense(*beads, 40, 2.0), atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize("side", [40, 41])
@pytest.mark.parametrize(("renderer", "tolerance"), RENDERERS)
def test_the_integral_is_the_amplitude(renderer, tolerance, side):
    centers, amplitudes, variances = random_beads(3, 5)
    images = renderer(centers, amplitudes, variances, side, 1.25)
    torch.testing.assert_close(images.sum(dim=(1, 2)) * 1.25**2, amplitudes.sum().expand(3), atol=0, rtol=tolerance)


@pytest.mark.parametrize("side", [60, 61])
@pytest.mark.parametrize(("renderer", "tolerance"), RENDERERS)
def test_the_spectrum_is_gaussian_with_the_phase_of_the_centre(renderer, tolerance, side):
    centers, amplitudes, variances = random_beads(1, 1)
    kx, ky = frequencies(side, 1.0)
    expected = amplitudes * torch.exp(-2 * np.pi**2 * variances * (kx**2 + ky**2))
    phase = -2 * np.pi * (kx * centers[0, 0, 0] + ky * centers[0, 0, 1])
    found = centered_rfft2(renderer(centers, amplitudes, variances, side, 1.0))[0]
    torch.testing.assert_close(found, torch.polar(expected, phase), atol=10 * tolerance, rtol=0)


@pytest.mark.parametrize("side", [24, 25])
@pytest.mark.parametrize(("renderer", "tolerance"), RENDERERS)
def test_beads_add_up_and_move_with_the_pixels(renderer, tolerance, side):
    centers, amplitudes, variances = random_beads()
    together = renderer(centers, amplitudes, variances, side, 1.5)
    one_by_one = [renderer(centers[:, [b]], amplitudes[[b]], variances[[b]], side, 1.5) for b in range(4)]
    torch.testing.assert_close(together, sum(one_by_one), atol=tolerance, rtol=0)
    moved = renderer(centers + torch.tensor([1.5, -3.0]), amplitudes, variances, side, 1.5)  # x: column, y: row
    torch.testing.assert_close(moved[:, : side - 2, 1:], together[:, 2:, : side - 1], atol=tolerance, rtol=0)


@pytest.mark.parametrize(("renderer", "tolerance"), RENDERERS)
def test_far_outside_there_is_nothing_and_no_gradient_explodes(renderer, tolerance):
    centers = torch.tensor([[[500.0, -800.0], [0.0, 0.0], [-3e5, 2e5]]], requires_grad=True)
    image = renderer(centers, torch.ones(3), torch.full((3,), 3.0), 16, 2.0)
    assert torch.isfinite(image).all() and image.min() >= 0
    assert image.sum().item() == pytest.approx(1 / 2.0**2, rel=1e-4)  # the bead at the centre alone
    (gradient,) = torch.autograd.grad(image.square().sum(), centers)
    assert gradient[0, [0, 2]].abs().max() < 1e-12
