"""The fast scorer against images rendered for every rotation."""

from functools import cache

import numpy as np
import pytest
import torch
from molecules import data_folder
from reference import grid_costs_loop
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.grid import CropGrid
from cryoatom.imaging.kernels import kernel_spectra
from cryoatom.imaging.likelihood import quadratic_form
from cryoatom.imaging.matched import matched_crops
from cryoatom.imaging.project import render_dense
from cryoatom.poses.quadratic import choose_directions, half_sphere, radial_mean, radial_power
from cryoatom.poses.sampling import GridScorer, exact_costs, prepare_grid
from cryoatom.records import Optics
from cryoatom.structure.template import Template, center_template, read_template
from cryoatom.workers import Workers

CROPS = CropGrid(box=160, pixel_size=1.0, coarse_box=106, side=54)
PIXEL = CROPS.coarse_pixel


@cache
def adk() -> Template:
    return center_template(read_template(data_folder() / "adk_closed.pdb")[0])


@cache
def model() -> BeadModel:
    beads = BeadModel(bead_layout(adk(), "atoms"), adk(), 0.98 * PIXEL)
    with torch.no_grad():
        beads.log_scale += -1.9
    return beads


def optics(*defocus: float, astigmatism: float = 0.0) -> Optics:
    u, constant = np.array(defocus), np.ones(len(defocus))
    return Optics(300 * constant, 2.7 * constant, 0.07 * constant, u + astigmatism, u, 0.4 * constant, 0 * constant)


def conformations(count: int, seed: int = 0) -> torch.Tensor:
    """ADK bent a little, each copy otherwise."""
    x = torch.from_numpy(adk().positions).float()
    waves = torch.randn(count, 1, 3, generator=torch.Generator().manual_seed(seed))
    return x + waves * torch.sin(x[:, :1] / 15)


def rotations(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(random_rotations(count, np.random.default_rng(seed))).float()


@torch.no_grad()
def views(conformation: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    centers = model().project(conformation.expand(len(turns), -1, -1), turns)
    return render_dense(centers, model().amplitudes(), model().variances(), CROPS.side, PIXEL)


@torch.no_grad()
def statistics(x: torch.Tensor, poses: torch.Tensor, of: Optics) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops and kernels of noisy images of conformations `x`."""
    transfer = ctf(of, CROPS.box, CROPS.pixel_size).float()
    centers = model().project(x, poses)
    v = render_dense(centers, model().amplitudes(), model().variances(), CROPS.box, CROPS.pixel_size)
    origin = torch.fft.ifftshift(v, dim=(-2, -1))
    image = torch.fft.fftshift(torch.fft.irfft2(torch.fft.rfft2(origin) * transfer, s=v.shape[-2:]), dim=(-2, -1))
    image = image + torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    crops = matched_crops(image, transfer.expand(len(x), -1, -1), torch.zeros(len(x), 2), CROPS)
    return crops, kernel_spectra(transfer.double(), CROPS).float()


def dense(x: torch.Tensor, turns: torch.Tensor, crops: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    shared = kernels.expand(len(crops), -1, -1)
    return torch.stack([grid_costs_loop(list(views(a, turns)), w, k) for a, w, k in zip(x, crops, shared, strict=True)])


def scorer(turns: torch.Tensor, representatives: torch.Tensor, directions: int = 800, **options) -> GridScorer:
    grid = prepare_grid(turns, directions)
    return GridScorer(model(), grid, CROPS.side, PIXEL, representatives=representatives, **options)


def test_placed_beads_turn_into_projected_ones():
    turns, x = rotations(3), conformations(3)
    for kind in ("atoms", "two", "ca"):
        beads = BeadModel(bead_layout(adk(), kind), adk(), 1.0)
        torch.testing.assert_close((beads.place(x) @ turns.mT)[..., :2], beads.project(x, turns), atol=1e-4, rtol=0)


@pytest.mark.parametrize("defocus", [(15e3,), (8e3, 24e3)])
def test_costs_are_those_of_rendered_images(defocus):
    poses, x = rotations(2, seed=1), conformations(2)
    turns = torch.cat([rotations(700), poses])
    crops, kernels = statistics(x, poses, optics(*defocus))
    fast = scorer(turns, x).costs(crops, kernels, x, torch.arange(2))
    slow = dense(x, turns, crops, kernels)
    assert fast.shape == (2, 702)
    for found, expected in zip(fast, slow, strict=True):
        assert spearmanr(found, expected)[0] > 0.999
        assert (found - expected).std() < 0.04 * expected.std()
        best = expected[found.argmin()] - expected.min()
        assert best < 1e-3 * expected.min().abs()
    assert (fast.argmin(dim=1) == torch.tensor([700, 701])).all()  # the true poses


def test_a_cluster_lends_its_second_term_to_its_images():
    poses, x = rotations(3, seed=1), conformations(3)
    turns = rotations(200)
    crops, kernels = statistics(x, poses, optics(12e3))
    shared = scorer(turns, x[[0, 2]]).costs(crops, kernels, x, torch.tensor([0, 0, 1]))
    own = scorer(turns, x).costs(crops, kernels, x, torch.arange(3))
    torch.testing.assert_close(shared[[0, 2]], own[[0, 2]])
    assert 0.01 < (shared[1] - own[1]).std() < 0.2 * own[1].std()


def test_images_and_threads_do_not_change_each_other():
    poses, x = rotations(3, seed=1), conformations(3)
    turns = rotations(300)
    crops, kernels = statistics(x, poses, optics(8e3, 1e4, 12e3))
    together = scorer(turns, x).costs(crops, kernels, x, torch.arange(3))
    with Workers(2) as workers:
        threaded = scorer(turns, x, workers=workers)
        parts = [torch.tensor([k]) for k in range(3)]
        alone = workers.map(lambda k: threaded.costs(crops[k], kernels[k], x[k], k), parts)
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-3, rtol=0)


def test_beads_outside_the_crop_count_for_nothing_and_nan_stays_with_its_image():
    turns, x = rotations(200), conformations(4)
    crops, kernels = statistics(x, rotations(4), optics(1e4))
    far = x.clone()
    far[1, 100:] += 80.0
    far[2, 100:] += 1e9
    far[3, 0] = torch.nan
    fast = scorer(turns, x).costs(crops, 0 * kernels, far, torch.arange(4))
    slow = dense(far[:3], turns, crops[:3], 0 * kernels)
    assert torch.isfinite(fast[:3]).all() and fast[3].isnan().all()
    for found, expected in zip(fast, slow, strict=False):
        assert (found - expected).std() < 0.05 * expected.std()


def test_the_shortlist_is_scored_by_the_likelihood():
    poses, x = rotations(3, seed=1), conformations(3)
    turns = rotations(3 * 17, seed=2).view(3, 17, 3, 3)
    crops, kernels = statistics(x, poses, optics(8e3, 1e4, 12e3))
    found = exact_costs(model(), x, turns, crops, kernels, pixel_size=PIXEL)
    expected = torch.cat([dense(x[[k]], turns[k], crops[[k]], kernels[[k]]) for k in range(3)])
    assert (found - expected).std() < 0.03 * expected.std()  # strips leave the tails of beads out
    one = exact_costs(model(), x[1:2], turns[1:2, 5:7], crops[1:2], kernels[1:2], pixel_size=PIXEL)
    torch.testing.assert_close(one, found[1:2, 5:7])


@pytest.mark.parametrize("side", [15, 16])
def test_rings_hold_the_power_and_the_mean_of_a_kernel(side):
    v = torch.randn(2, side, side, generator=torch.Generator().manual_seed(0))
    power = radial_power(v)
    torch.testing.assert_close(power.sum(dim=1), v.square().sum(dim=(1, 2)))
    ky, kx = torch.fft.fftfreq(2 * side)[:, None], torch.fft.rfftfreq(2 * side)
    smooth = (1 + torch.cos(4 * torch.hypot(ky, kx)))[None]
    flat = torch.full_like(smooth, 3.0)
    for kernel in (flat, smooth):
        value = power @ radial_mean(kernel)[0]
        torch.testing.assert_close(value, quadratic_form(v, kernel), rtol=2e-3, atol=0)


def test_the_second_term_forgets_in_plane_turns_and_opposite_views():
    (x,), turn = conformations(1), rotations(1)
    (kernel,) = kernel_spectra(ctf(optics(1e4), CROPS.box, 1.0), CROPS).float()
    angles = np.arange(0, 360, 30)
    in_plane = torch.from_numpy(Rotation.from_rotvec(angles[:, None] * [0, 0, 1], degrees=True).as_matrix()).float()
    opposite = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    values = (
        radial_power(views(x, torch.cat([in_plane @ turn, in_plane @ opposite @ turn]))) @ radial_mean(kernel[None])[0]
    )
    different = radial_power(views(x, rotations(50, seed=3))) @ radial_mean(kernel[None])[0]
    assert values.std() < 0.01 * different.std()


def test_directions_cover_the_half_sphere_and_interpolate_smooth_even_functions():
    directions = half_sphere(400)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(400))
    assert (directions[:, 2] > 0).all()
    turns = rotations(500)
    table = choose_directions(turns, 400)
    torch.testing.assert_close(table.rotations()[:, 2], directions)
    torch.testing.assert_close(
        table.rotations() @ table.rotations().mT, torch.eye(3).expand(400, -1, -1), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(table.weights.sum(dim=1), torch.ones(500))
    axis = torch.tensor([0.48, 0.6, 0.64])
    for power in (0, 2, 4):
        found = table.interpolate(((directions @ axis) ** power)[:, None])[0]
        torch.testing.assert_close(found, (turns[:, 2] @ axis) ** power, atol=3e-3, rtol=0)
