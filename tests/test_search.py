"""The joint search over conformations, shifts and rotations, against rendered and Fourier-filtered images."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from molecules import three_helices

from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.likelihood import gaussian_nll, profiled_nll
from cryoatom.imaging.project import render_dense
from cryoatom.poses.lowpass import LowPass
from cryoatom.poses.sampling import RotationGrid, prepare_grid
from cryoatom.poses.search import JointSearch, shift_places
from cryoatom.rotations import rotation_angle, rotation_grid
from cryoatom.structure.template import Template, center_template, template_from_atoms
from cryoatom.workers import Workers

PIXEL, SIDE, RESOLUTION = 2.5, 32, 9.0
TWICE = 2 * SIDE
FINER = 6  # times more rotations in the fine grid


@cache
def template() -> Template:
    return center_template(template_from_atoms(three_helices(), "three helices")[0])


@cache
def model() -> BeadModel:
    return BeadModel(bead_layout(template(), "atoms"), template(), 0.98 * PIXEL).requires_grad_(False)


@cache
def conformations() -> torch.Tensor:
    """Three: the second helix moves away."""
    x = torch.from_numpy(template().positions).float().repeat(3, 1, 1)
    x[:, 20:, 1] += torch.tensor([0.0, 8.0, 16.0])[:, None]
    return x - x.mean(dim=1, keepdim=True)


@cache
def grids() -> tuple[RotationGrid, RotationGrid]:
    fine = rotation_grid(400 * FINER)
    return prepare_grid(fine[::FINER], 150), prepare_grid(fine, 150)


@cache
def kernel() -> torch.Tensor:
    """A radial κ, such as CTFs have: its spectrum on the half plane."""
    ky, kx = torch.fft.fftfreq(TWICE, PIXEL)[:, None], torch.fft.rfftfreq(TWICE, PIXEL)
    square = ky**2 + kx**2
    return (1.2 - torch.cos(60 * square))[None].float()


def views(x: torch.Tensor, turns: torch.Tensor, shifts: torch.Tensor | None = None) -> torch.Tensor:
    x = x.expand(len(turns), -1, -1)
    centers = model().project(x, turns) + (0.0 if shifts is None else shifts[:, None])
    return render_dense(centers, model().amplitudes(), model().variances(), SIDE, PIXEL)


def crops(v: torch.Tensor) -> torch.Tensor:
    """The w of images that show exactly v: κ * v."""
    spectrum = torch.fft.rfft2(v, s=(TWICE, TWICE)) * kernel()
    return torch.fft.irfft2(spectrum, s=(TWICE, TWICE))[:, :SIDE, :SIDE].contiguous()


def joint_search(representatives: torch.Tensor, **options) -> JointSearch:
    settings = {"workers": Workers(1)} | options
    return JointSearch(model(), representatives, *grids(), LowPass(SIDE, PIXEL, RESOLUTION), **settings)


def randoms(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(random_rotations(count, np.random.default_rng(seed))).float()


@pytest.mark.parametrize(("reach", "step"), [(5.0, 2.5), (6.0, 2.0), (3.75, 2.5), (2.0, 2.5), (0.3, 0.1)])
def test_places_are_the_lattice_points_of_a_disc_from_its_centre_outwards(reach, step):
    places = shift_places(reach, step)
    count = int(reach / step) + 1
    expected = {
        (i, j)
        for i in range(-count, count + 1)
        for j in range(-count, count + 1)
        if step * math.hypot(i, j) <= reach + 1e-6
    }
    assert {(round(x / step), round(y / step)) for x, y in places.tolist()} == expected and len(places) == len(expected)
    assert places[0].tolist() == [0, 0] and (places.norm(dim=1).diff() >= -1e-5).all()
    torch.testing.assert_close(places, step * (places / step).round())


@pytest.mark.parametrize("nll", [gaussian_nll, profiled_nll])
def test_the_conformation_the_shift_and_the_rotation_of_each_image_are_found(nll):
    truth, places = torch.arange(12) % 3, shift_places(5.0, 2.5)
    true_place, true_turn = torch.arange(12) * 5 % len(places), FINER * (torch.arange(12) * 37 % 400)
    turns = grids()[1].rotations[true_turn]
    images = crops(views(conformations()[truth], turns, places[true_place]))
    found = joint_search(conformations()).best(images, kernel(), places.expand(12, -1, -1), nll, keep=8)
    assert torch.equal(found.representative, truth)
    assert torch.equal(found.shifts, places[true_place])
    assert torch.equal(found.rotations[:, 0], true_turn)
    assert (found.costs.diff(dim=1) >= 0).all() and (found.costs < 0).all()
    assert found.rotations.shape == (12, 8) and all(len(set(row)) == 8 for row in found.rotations.tolist())


def test_poses_between_those_of_the_grid_are_found_nearby():
    turns, shifts = randoms(20), torch.tensor([[1.0, -1.0], [3.0, 2.0]]).repeat(10, 1)
    images = crops(views(conformations()[0], turns, shifts))
    places = shift_places(5.0, 2.5).expand(20, -1, -1)
    found = joint_search(conformations()[:1]).best(images, kernel(), places, gaussian_nll, keep=1)
    assert (found.shifts - shifts).norm(dim=1).max() < 2.5
    spacing = rotation_angle(grids()[1].rotations, turns[:, None]).amin(dim=1).max()
    assert rotation_angle(grids()[1].rotations[found.rotations[:, 0]], turns).median() < spacing


def test_costs_are_those_of_rendered_views_below_the_resolution():
    """The brute force: each rotation rendered, both terms from whole spectra without what lies beyond."""
    fine = grids()[1].rotations
    turns, shifts = randoms(3, seed=2), torch.tensor([[0.0, 0.0], [2.5, 0.0], [0.0, -2.5]])
    images = crops(views(conformations()[[0, 1, 2]], turns, shifts))
    for k, x in enumerate(conformations()):
        image, place = images[k : k + 1], shifts[k].view(1, 1, 2)
        found = joint_search(x[None]).best(image, kernel(), place, gaussian_nll, keep=len(fine))
        expected = low_passed_costs(images[k], views(x, fine, shifts[[k]].expand(len(fine), 2)))[found.rotations[0]]
        assert (found.costs[0] - expected).std() < 0.05 * expected.std()
        assert expected[0] - expected.min() < 0.05 * expected.min().abs()
        assert torch.equal(found.shifts, shifts[[k]])


def low_passed_costs(image: torch.Tensor, projections: torch.Tensor) -> torch.Tensor:
    k = torch.fft.fftfreq(SIDE, PIXEL)
    w = torch.fft.ifft2(torch.fft.fft2(image) * (torch.hypot(k[:, None], k) <= 1 / RESOLUTION)).real
    padded = torch.hypot(torch.fft.fftfreq(TWICE, PIXEL)[:, None], torch.fft.rfftfreq(TWICE, PIXEL))
    twice = torch.full((TWICE, SIDE + 1), 2.0)
    twice[:, [0, -1]] = 1.0
    kept = kernel()[0] * twice * (padded <= 1 / RESOLUTION) / TWICE**2
    power = torch.fft.rfft2(projections, s=(TWICE, TWICE)).abs().square().mul(kept).sum(dim=(1, 2))
    return 0.5 * power - (w * projections).sum(dim=(1, 2))


def test_each_image_has_its_own_shifts_and_kernel():
    turns = randoms(4, seed=3)
    shifts = torch.tensor([[[2.5, 0.0]], [[0.0, 0.0]], [[-5.0, 2.5]], [[0.0, 5.0]]])
    images = crops(views(conformations()[[0, 1, 2, 0]], turns, shifts[:, 0]))
    kernels = kernel() * torch.tensor([1.0, 0.5, 2.0, 1.0])[:, None, None]
    search = joint_search(conformations())
    together = search.best(images, kernels, shifts, gaussian_nll, keep=5)
    for k in range(4):
        part = slice(k, k + 1)
        alone = search.best(images[part], kernels[part], shifts[part], gaussian_nll, keep=5)
        for name in ("representative", "shifts", "rotations"):
            assert torch.equal(getattr(alone, name), getattr(together, name)[part])
        torch.testing.assert_close(alone.costs, together.costs[part], rtol=1e-4, atol=1e-3)
    shared = search.best(images, kernel(), shifts, gaussian_nll, keep=5)
    torch.testing.assert_close(shared.costs[[0, 3]], together.costs[[0, 3]], rtol=1e-4, atol=1e-3)
    assert (shared.costs[1] - together.costs[1]).abs().min() > 1


def test_threads_change_no_bit():
    turns = randoms(2, seed=4)
    images, places = crops(views(conformations()[:2], turns)), torch.zeros(2, 1, 2)
    with Workers(2) as workers:
        threaded = joint_search(conformations(), workers=workers).best(images, kernel(), places, profiled_nll, keep=3)
    plain = joint_search(conformations()).best(images, kernel(), places, profiled_nll, keep=3)
    assert all(torch.equal(getattr(plain, name), getattr(threaded, name)) for name in vars(plain))
