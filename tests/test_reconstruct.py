import numpy as np
import pytest
import torch
from fits import BOX, PIXEL_SIZE, RESIDUES, small_template

from cryoatom.analysis.volumes import bead_density
from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.direct import simulate_images
from cryoatom.imaging.grid import CropGrid, choose_grid
from cryoatom.particles.noise import white_noise
from cryoatom.poses.reconstruct import (
    Reconstruction,
    backproject_halves,
    fsc,
    low_pass,
    reconstruct,
    resolution,
    soft_sphere,
    solve,
)
from cryoatom.poses.volume import map_volume
from cryoatom.records import Optics, Poses
from cryoatom.workers import Workers

IMAGES = 120
GRID = choose_grid(BOX, PIXEL_SIZE, 60.0, PIXEL_SIZE)


def optics(generator: np.random.Generator) -> Optics:
    defocus = generator.uniform(8e3, 2e4, IMAGES)
    zeros = np.zeros(IMAGES)
    return Optics(zeros + 300, zeros + 2.7, zeros + 0.1, defocus + 100, defocus - 100, zeros + 0.3, zeros)


def found(images: torch.Tensor, parameters: Optics, poses: Poses) -> Reconstruction:
    noise = white_noise(len(poses), BOX)
    with Workers(1) as workers, torch.no_grad():
        halves = backproject_halves(
            lambda rows: images[torch.from_numpy(rows)], parameters, poses, GRID, noise=noise, workers=workers
        )
        return reconstruct(halves)


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


@pytest.fixture(scope="module")
def beads() -> BeadModel:
    template = small_template()
    return BeadModel(bead_layout(template, "atoms"), template, PIXEL_SIZE)


def test_images_of_beads_give_the_density_of_the_beads(beads):
    generator = np.random.default_rng(0)
    parameters = optics(generator)
    poses = Poses(random_rotations(IMAGES, generator), generator.uniform(-4, 4, (IMAGES, 2)))
    truth = generator.normal(0, 8, (1, RESIDUES, 3)).astype(np.float32)  # of one hand, unlike along each axis
    with torch.no_grad():
        centers = beads.project(
            torch.from_numpy(truth).expand(IMAGES, -1, -1), torch.from_numpy(poses.rotations).float()
        )
        centers = centers + torch.from_numpy(poses.shifts)[:, None].float()
        images = simulate_images(centers, beads.amplitudes(), beads.variances(), parameters, BOX, PIXEL_SIZE)
    reconstruction = found(images, parameters, poses)
    density = bead_density(beads, truth, GRID.side, GRID.coarse_pixel)
    frequency, half_correlation = fsc(*reconstruction.halves, reconstruction.pixel_size)
    assert half_correlation[frequency < 0.11].min() > 0.9  # finer than that, wide beads have next to nothing
    assert correlation(reconstruction.map, density) > 0.95
    for other in (density.flip(0), density.mT, density.transpose(0, 2)):  # the other hand, or other axes
        assert correlation(reconstruction.map, other) < 0.8
    scale = float((reconstruction.map * density).sum() / density.square().sum())
    assert scale == pytest.approx(1, abs=0.15)


def test_half_maps_of_noise_do_not_agree():
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.standard_normal((IMAGES, BOX, BOX))).float()
    poses = Poses(random_rotations(IMAGES, generator), np.zeros((IMAGES, 2)))
    reconstruction = found(images, optics(generator), poses)
    _, half_correlation = fsc(*reconstruction.halves, PIXEL_SIZE)
    assert abs(half_correlation[5:].mean()) < 0.1
    assert reconstruction.map.std() < 0.1 * reconstruction.halves[0].std()


def test_one_image_has_no_halves():
    poses = Poses(np.eye(3)[None], np.zeros((1, 2)))
    with Workers(1) as workers, pytest.raises(ValueError, match="half maps need two images at least"):
        backproject_halves(
            lambda rows: torch.zeros(len(rows), BOX, BOX),
            optics(np.random.default_rng(0))[:1],
            poses,
            GRID,
            noise=white_noise(1, BOX),
            workers=workers,
        )


@pytest.mark.parametrize("side", [16, 18])
def test_what_weighs_all_frequencies_alike_gives_the_map_back(side):
    values = np.random.default_rng(0).standard_normal((side, side, side)).astype(np.float32)
    smooth = low_pass(torch.from_numpy(values), 1.0, 4.0).numpy()
    volume = map_volume(smooth, 1.0, CropGrid(side, 1.0, side, side))
    solved = solve(volume, torch.full((side // 2 + 1,), 1e4))
    assert correlation(solved, torch.from_numpy(smooth)) > 0.99


@pytest.mark.parametrize("side", [12, 13])
def test_fsc_is_one_of_equal_maps_and_does_not_depend_on_scales_of_shells(side):
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((side, side, side))).float()
    frequency, equal = fsc(values, 3 * values, 2.0)
    assert len(frequency) == side // 2 + 1 and frequency[1] == pytest.approx(1 / (2 * side))
    np.testing.assert_allclose(equal, 1, atol=1e-6)
    np.testing.assert_allclose(fsc(values, -low_pass(values, 2.0, 8.0), 2.0)[1][1:2], -1, atol=1e-4)
    np.testing.assert_array_equal(fsc(values, torch.zeros_like(values), 2.0)[1], 0)


@pytest.mark.parametrize(
    ("correlations", "expected"),
    [([1, 1, 1, 1, 1], 2.5), ([1, 1, 0.643, -0.357, 1], 4.0), ([1, 0, 0, 0, 0], 10.0), ([1, 1, 0.143, 0, 0.9], 5.0)],
)
def test_resolution_is_where_the_correlation_first_falls_below(correlations, expected):
    frequency = np.arange(5) / 10
    assert resolution(frequency, np.array(correlations, float)) == pytest.approx(expected, rel=1e-6)


def test_a_soft_sphere_is_one_inside_and_zero_outside():
    mask = soft_sphere(20, 8.0)
    assert mask[10, 10, 10] == 1 and mask[10, 10, 15] == 1 and mask[10, 10, 18] == 0 and mask[0, 0, 0] == 0
    assert 0 < mask[10, 10, 17] < 1
    torch.testing.assert_close(mask, mask.transpose(0, 2))
