"""The matched form against the paper's model in image space, its kernels against Fourier sums, and its cache."""

import errno
import json
import os
import resource
import signal
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from molecules import data_folder
from reference import kernel_loop
from torch import Tensor

from cryoatom.fourier import centered_irfft2, centered_rfft2, frequencies
from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.direct import direct_nll, simulate_images
from cryoatom.imaging.grid import CropGrid, choose_grid
from cryoatom.imaging.kernels import _DEFOCUS_STEP, KernelTable, kernel_spectra, kernel_table
from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll, quadratic_form
from cryoatom.imaging.matched import (
    WIDTH_PER_PIXEL,
    MatchedSet,
    MatchedSource,
    build_matched_set,
    matched_crops,
)
from cryoatom.imaging.project import render, render_dense
from cryoatom.particles.noise import NoisePower
from cryoatom.particles.rings import half_plane_weights
from cryoatom.records import Optics
from cryoatom.structure.template import Template, center_template, read_template
from cryoatom.train_config import TrainConfig
from cryoatom.workers import Workers

# From electrons to image units of unit noise per square root of an Å² pixel: what 100 electrons per Å² give
# (cryoatom simulate, ADK, 256 x 256 at 1 Å: <v, κ*v> of an image is about 170).
LOG_SCALE = -2.26


def make_optics(defocus_u, defocus_v, angle=0.0, **constants: float) -> Optics:
    u, v, angle = np.broadcast_arrays(np.asarray(defocus_u, float), np.asarray(defocus_v, float), angle)
    values = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.07, "phase_shift": 0.0} | constants
    full = {name: np.full(len(u), value) for name, value in values.items()}
    return Optics(defocus_u=u.copy(), defocus_v=v.copy(), defocus_angle=np.array(angle, float), **full)


def spread_optics(count: int, seed: int = 0) -> Optics:
    """Defocus of 0.5 to 3 µm; astigmatism from 0 to 1000 Å in all directions."""
    generator = np.random.default_rng(seed)
    mean, half = np.linspace(5e3, 3e4, count), generator.permutation(np.linspace(0, 500, count))
    return make_optics(mean + half, mean - half, generator.uniform(0, np.pi, count))


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    """Images come in several batches, the last one of them smaller."""
    monkeypatch.setattr("cryoatom.imaging.matched._AT_ONCE", 5)


@cache
def adk() -> Template:
    return center_template(read_template(data_folder() / "adk_closed.pdb")[0])


@dataclass(frozen=True)
class Scene:
    """Noisy images of ADK a little away from its template, and beads wide enough for the grid."""

    images: Tensor
    rotations: Tensor
    shifts: np.ndarray
    optics: Optics
    beads: BeadModel
    grid: CropGrid

    def predict(self, conformations: Tensor) -> Tensor:
        centers = self.beads.project(conformations, self.rotations) + torch.from_numpy(self.shifts)[:, None].float()
        beads = (centers, self.beads.amplitudes().detach(), self.beads.variances().detach())
        return simulate_images(*beads, self.optics, self.grid.box, self.grid.pixel_size)

    def direct(self, conformations: Tensor) -> tuple[Tensor, Tensor]:
        """½|y - F(x)|² - ½|y|², summed in float64, and |F(x)|²."""
        prediction = self.predict(conformations).double()
        power = prediction.square().sum(dim=(1, 2))
        return 0.5 * power - (prediction * self.images).sum(dim=(1, 2)), power.detach()

    def matched(self, conformations: Tensor, crops: Tensor, kernels: Tensor) -> Tensor:
        centers = self.beads.project(conformations, self.rotations)
        beads = (centers, self.beads.amplitudes().detach(), self.beads.variances().detach())
        return gaussian_nll(*cross_and_power(render(*beads, self.grid.side, self.grid.coarse_pixel), crops, kernels))


@cache
def make_scene(
    box: int, pixel_size: float, coarse_pixel: float, *, count: int = 12, margin: float = 12.0, is_noisy: bool = True
) -> Scene:
    generator = np.random.default_rng(box)
    reach = np.linalg.norm(adk().positions, axis=1).max()
    grid = choose_grid(box, pixel_size, 2 * (reach + margin), coarse_pixel)
    beads = BeadModel(bead_layout(adk(), "atoms"), adk(), WIDTH_PER_PIXEL * grid.coarse_pixel)
    with torch.no_grad():
        beads.log_scale += LOG_SCALE + np.log(pixel_size)
    rotations = torch.from_numpy(random_rotations(count, generator)).float()
    shifts, optics = generator.uniform(-9, 9, (count, 2)), spread_optics(count)
    scene = Scene(torch.zeros(0, box, box), rotations, shifts, optics, beads, grid)
    true = adk().positions + generator.normal(scale=1.0, size=(count, len(adk()), 3))
    with torch.no_grad():
        images = scene.predict(torch.from_numpy(true).float())
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(box))
    return replace(scene, images=images + noise if is_noisy else images)


def build(folder: Path, scene: Scene, **changes: object) -> MatchedSet:
    arguments = {"read_normalized": lambda rows: scene.images[rows], "optics": scene.optics, "shifts": scene.shifts}
    names = ("key", "read_normalized", "optics", "shifts", "measure_noise")
    noise = changes.pop("noise", None)
    if noise is not None:
        changes |= {"measure_noise": lambda: noise, "key": {"noise": repr(vars(noise))} | changes.get("key", {})}
    source = MatchedSource(**(arguments | {name: changes[name] for name in names if name in changes}))
    rest = {name: value for name, value in changes.items() if name not in names}
    return build_matched_set(folder, source, rest.pop("grid", scene.grid), **rest)


# The images' noise beyond the crops' band, where narrow beads still hold a little, is all that is lost.
BOXES = [
    pytest.param(256, 1.0, 1.25, id="256-default"),  # 205 pixels would be odd: 204 of 1.2549 Å
    pytest.param(256, 1.0, 2.0, id="256"),
    pytest.param(200, 1.3, 2.0, id="200"),
    pytest.param(190, 1.37, 2.0, id="190"),  # 130 pixels of 2.0023 Å
    pytest.param(161, 1.37, 2.0, id="161"),  # odd; 110 pixels of 2.0052 Å
]


@pytest.mark.parametrize(("box", "pixel_size", "coarse_pixel"), BOXES)
@pytest.mark.parametrize("is_noisy", [True, False])
def test_value_and_gradient_are_those_of_the_direct_model(tmp_path, box, pixel_size, coarse_pixel, is_noisy):
    scene = make_scene(box, pixel_size, coarse_pixel, is_noisy=is_noisy)
    crops, kernels = build(tmp_path / "set", scene).read(np.arange(12))  # as stored, in half precision
    x = torch.from_numpy(adk().positions).float().repeat(12, 1, 1).requires_grad_()
    direct, power = scene.direct(x)
    matched = scene.matched(x, crops, kernels).double()
    error = ((matched - direct).abs() / torch.maximum(direct.abs(), power)).detach()
    expected, found = (torch.autograd.grad(value.sum(), x)[0].flatten(1) for value in (direct, matched))
    assert error.square().mean().sqrt() <= (1e-3 if is_noisy else 1e-4)
    assert error.max() <= (2e-3 if is_noisy else 2e-4)
    assert torch.nn.functional.cosine_similarity(found, expected).min() >= (0.999 if is_noisy else 0.9999)


@pytest.mark.parametrize("box", [96, 97])
def test_on_the_images_own_grid_it_is_the_direct_model_exactly(box):
    """Nothing is lost then, however narrow the beads, where the particle keeps clear of the crop's edge.

    Without astigmatism: of an even box's Nyquist frequencies, where narrow beads hold much, one sign stands for both.
    """
    scene = make_scene(box, 2.0, 2.0, count=3, margin=20.0)
    grid = CropGrid(box, 2.0, box, 48)
    optics = make_optics([5e3, 1e4, 2e4], [5e3, 1e4, 2e4])
    scene = replace(scene, rotations=scene.rotations.double(), images=scene.images.double(), optics=optics)
    beads_model = BeadModel(bead_layout(adk(), "atoms"), adk(), 1.0).double()
    x = torch.from_numpy(adk().positions).repeat(3, 1, 1).requires_grad_()
    transfer = ctf(scene.optics, box, 2.0)
    crops = matched_crops(scene.images, transfer, torch.zeros(3, 2, dtype=torch.float64), grid)
    centers = beads_model.project(x, scene.rotations)
    beads = (centers, beads_model.amplitudes(), beads_model.variances())
    projection = render_dense(*beads, grid.side, 2.0)
    cross, power = cross_and_power(projection, crops, kernel_spectra(transfer, grid))
    prediction = simulate_images(*beads, scene.optics, box, 2.0)
    torch.testing.assert_close(cross, (scene.images * prediction).sum(dim=(1, 2)), rtol=1e-6, atol=0)
    torch.testing.assert_close(power, prediction.square().sum(dim=(1, 2)), rtol=1e-6, atol=0)
    parameters = [x, *beads_model.parameters()]
    found, expected = (
        torch.autograd.grad(value, parameters, retain_graph=True)
        for value in (gaussian_nll(cross, power).sum(), direct_nll(scene.images, prediction).sum())
    )
    for fast, slow in zip(found, expected, strict=True):
        assert (fast - slow).norm() <= 1e-6 * slow.norm()


@pytest.mark.parametrize("box", [64, 65])
def test_a_shifted_particle_is_moved_back_to_the_centre(box):
    """A bead at the centre, imaged at +t, has its crop's peak at the centre again."""
    grid = CropGrid(box, 1.5, 2 * (box // 4), 20)
    optics = make_optics([1e4, 1e4], [1.1e4, 1.1e4])
    transfer = ctf(optics, box, 1.5)
    shifts = torch.tensor([[0.0, 0.0], [7.3, -11.9]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    images = simulate_images(shifts[:, None], 50 * one, 16 * one, optics, box, 1.5)
    crops = matched_crops(images, transfer, shifts, grid)
    torch.testing.assert_close(crops[1], crops[0], atol=1e-5, rtol=0)
    assert crops[0].flatten().argmax() == 10 * 20 + 10
    moved = matched_crops(
        images, transfer, torch.tensor([[0.0, 0.0], [7.3 - 3 * grid.coarse_pixel, -11.9]]).double(), grid
    )
    torch.testing.assert_close(moved[1, 1:, 4:], crops[0, 1:, 1:-3], atol=1e-5, rtol=0)  # less of it: farther in x


# --- coloured noise -------------------------------------------------------------------------------------------------


def coloured_noise(box: int, count: int) -> NoisePower:
    """Three groups in turn: ice, a detector, and images filtered to 60% of Nyquist."""
    k = np.arange(int(box / np.sqrt(2)) + 2) / box
    spectra = [0.4 + 6 / (1 + (k / 0.05) ** 2), np.exp(-3 * k), np.where(k < 0.3, 1.5, 0.0)]
    return NoisePower(np.stack(spectra), np.arange(count) % 3, box)


def draw_noise(noise: NoisePower, generator: torch.Generator) -> Tensor:
    precision = noise.precision()
    power = torch.where(precision > 0, 1 / precision, 0)
    white = torch.randn(len(noise.group_of_image), noise.box, noise.box, generator=generator)
    return centered_irfft2(centered_rfft2(white) * power.sqrt().float()[noise.group_of_image], noise.box)


@pytest.mark.parametrize("box", [112, 113])
def test_whitened_value_and_gradient_are_those_of_fourier_space(tmp_path, box):
    scene = make_scene(box, 2.0, 2.0, count=6, is_noisy=False)
    noise = coloured_noise(box, 6)
    scene = replace(scene, images=scene.images + draw_noise(noise, torch.Generator().manual_seed(1)))
    stored = build(tmp_path, scene, noise=noise)
    weights = noise.precision()[noise.group_of_image] * half_plane_weights(box) / box**2
    observed = centered_rfft2(scene.images.double())
    x = torch.from_numpy(adk().positions).float().repeat(6, 1, 1).requires_grad_()
    expected = centered_rfft2(scene.predict(x).double())
    power = (weights * expected.abs().square()).sum(dim=(1, 2))
    direct = 0.5 * power - (weights * (expected * observed.conj()).real).sum(dim=(1, 2))
    matched = scene.matched(x, *stored.read(np.arange(6))).double()
    error = (matched - direct).abs() / torch.maximum(direct.abs(), power)
    assert error.max() <= (2e-3 if box % 2 == 0 else 5e-3)  # 113 pixels are cropped to 112: noise at Nyquist is lost
    found, wanted = (torch.autograd.grad(value.sum(), x)[0].flatten(1) for value in (matched, direct))
    assert torch.nn.functional.cosine_similarity(found, wanted).min() >= 0.999
    np.testing.assert_allclose(stored.image_power, 0.5 * (weights * observed.abs().square()).sum(dim=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(stored.noise_power, noise.spectra)
    np.testing.assert_array_equal(stored.noise_group, noise.group_of_image)


@pytest.mark.parametrize("is_known", [True, False])
def test_the_likelihood_is_calibrated_if_the_noise_is_known(tmp_path, is_known):
    """<w, v> of the true v scatters about <v, κ*v> with variance <v, κ*v>; noise of ice taken for white does not."""
    box, count = 48, 900
    scene = make_scene(box, 2.5, 2.5, count=1, margin=2.0)
    optics, generator = make_optics([1.5e4], [1.5e4]), torch.Generator().manual_seed(0)
    noise = coloured_noise(box, count)
    x, beads = torch.from_numpy(adk().positions)[None].float(), scene.beads
    with torch.no_grad():
        point = (beads.project(x, scene.rotations), beads.amplitudes(), beads.variances())
        clean = simulate_images(*point, optics, box, 2.5)
        v = render(*point, scene.grid.side, scene.grid.coarse_pixel)
    images = clean + draw_noise(noise, generator)
    optics = optics[np.zeros(count, dtype=np.int64)]
    if not is_known:
        noise = None
    stored = build(
        tmp_path, scene, optics=optics, shifts=np.zeros((count, 2)), read_normalized=lambda r: images[r], noise=noise
    )
    crops, kernels = stored.read(np.arange(count))
    cross, power = cross_and_power(v.expand(count, -1, -1), crops, kernels)
    deviation = ((cross - power) / power.sqrt()).numpy()
    ice, detector, filtered = (deviation[start::3] for start in range(3))
    if is_known:
        for each in (ice, detector, filtered):
            assert abs(each.mean()) < 4 / np.sqrt(300) and each.std() == pytest.approx(1, abs=4 / np.sqrt(600))
    else:
        assert ice.std() > 1.3


def test_frequencies_without_power_weigh_nothing(tmp_path):
    """What images hold there makes no difference, nor does a model that holds something there gain or lose."""
    box, scene = 64, make_scene(64, 2.0, 2.0, count=3)
    spectrum = np.ones((1, 47))
    spectrum[:, 12:] = 0
    noise = NoisePower(spectrum, np.zeros(3, np.int64), box)
    beyond = centered_irfft2(centered_rfft2(scene.images) * (noise.precision() == 0), box)
    first = build(tmp_path, scene, noise=noise)
    second = build(tmp_path, replace(scene, images=scene.images + 3 * beyond), noise=noise, key={"second": 1})
    np.testing.assert_allclose(first.crops, second.crops, atol=2e-3)
    np.testing.assert_allclose(first.image_power, second.image_power, rtol=1e-5)
    axis = 2.0 * torch.arange(-(scene.grid.side // 2), scene.grid.side // 2)
    wave = torch.exp(-(axis**2) / 800) * torch.cos(2 * torch.pi * axis * 0.22)  # at 4.5 Å; 1/S ends at 10.7 Å
    _, power = cross_and_power((wave * wave[:, None])[None], *(each[:1] for each in first.read(np.arange(3))))
    _, whole = cross_and_power(
        (wave * wave[:, None])[None], *(each[:1] for each in build(tmp_path, scene).read(np.arange(3)))
    )
    assert power <= 1e-3 * whole


def test_dead_images_are_marked_and_their_crops_are_zero(tmp_path):
    scene = make_scene(64, 2.0, 2.0)
    images = scene.images.clone()
    images[4] = 0
    images[7, 30, 30] = 1e9  # beyond float16
    stored = build(tmp_path, replace(scene, images=images))
    np.testing.assert_array_equal(np.flatnonzero(stored.is_dead), [4, 7])
    assert not np.asarray(stored.crops[[4, 7]]).any() and np.isfinite(stored.crops).all()
    assert (stored.power_excess[[4, 7]] == 0).all() and (stored.image_power[[4, 7]] == 0).all()


# --- kernels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("box", "coarse_box", "side"), [(16, 16, 6), (16, 12, 6), (17, 12, 5), (12, 8, 8)])
def test_kernels_are_the_fourier_sums_at_every_lag(box, coarse_box, side):
    grid, k = CropGrid(box, 2.0, coarse_box, side), np.fft.fftfreq(box, 2.0)
    power = np.random.default_rng(0).uniform(size=(box, box))
    power += np.roll(power[::-1, ::-1], (1, 1), axis=(0, 1))  # even, and nothing at or beyond the coarse Nyquist
    inside = np.abs(k) < 0.5 / grid.coarse_pixel - 1e-9
    power *= inside[:, None] & inside
    spectra = kernel_spectra(torch.from_numpy(np.sqrt(power[None, :, : box // 2 + 1])), grid)
    lags = centered_irfft2(spectra.to(torch.complex128), 2 * side)[0]
    reach = min(side, (coarse_box + 1) // 2)  # a lag beyond half the box is another's, wrapped round
    lost = torch.ones_like(lags)
    lost[side - reach : side + reach + 1, side - reach : side + reach + 1] = 0
    assert (lags * lost).abs().max() < 1e-12
    for y in range(-reach + 1, reach):
        for x in range(-reach + 1, reach):
            expected = kernel_loop(power, 2.0, (x * grid.coarse_pixel, y * grid.coarse_pixel))
            assert lags[side + y, side + x].item() == pytest.approx(expected * (box / coarse_box) ** 4, abs=1e-9)


def defocus_of(table: KernelTable) -> np.ndarray:
    upper = np.minimum(table.index + 1, len(table.nodes) - 1)
    return (1 - table.mix) * table.nodes.defocus_u[table.index] + table.mix * table.nodes.defocus_u[upper]


def test_images_of_one_optics_share_a_kernel():
    table = kernel_table(make_optics(np.full(50, 2e4), np.full(50, 2e4)))
    assert len(table.nodes) == 1 and (table.index == 0).all() and (table.mix == 0).all()


def test_few_defoci_are_computed_as_they_are():
    defocus = np.random.default_rng(0).choice([5e3, 12345.6, 3e4], 40)
    table = kernel_table(make_optics(defocus, defocus, np.linspace(0, 3, 40)))  # round: no direction
    assert len(table.nodes) == 3 and (table.mix == 0).all()
    np.testing.assert_array_equal(table.nodes.defocus_u[table.index], defocus)


def test_many_defoci_share_nodes_between_which_they_are_interpolated():
    """But never between two voltages, or two kinds of noise."""
    generator = np.random.default_rng(0)
    defocus = generator.uniform(1e4, 1.2e4, 600)
    group, noise = generator.integers(2, size=(2, 600))
    optics = replace(make_optics(defocus, defocus), voltage_kv=np.array([200.0, 300.0])[group])
    table = kernel_table(optics, noise)
    nodes, index = table.nodes, table.index
    assert len(nodes) == len(table.noise_group) <= 4 * (2000 / _DEFOCUS_STEP + 4)
    np.testing.assert_allclose(defocus_of(table), defocus, atol=1e-3)
    assert ((table.mix >= 0) & (table.mix < 1)).all()
    upper = np.minimum(index + (table.mix > 0), len(nodes) - 1)
    for end in (index, upper):  # both ends are of the image's own optics group and noise, at most a step away
        np.testing.assert_array_equal(nodes.voltage_kv[end], optics.voltage_kv)
        np.testing.assert_array_equal(table.noise_group[end], noise)
        assert np.abs(nodes.defocus_u[end] - defocus).max() <= _DEFOCUS_STEP


def test_astigmatic_images_have_kernels_of_their_own():
    generator = np.random.default_rng(0)
    u = generator.uniform(1e4, 1.1e4, 200)
    v = np.where(np.arange(200) < 150, u, u - generator.uniform(1, 500, 200))  # 150 without astigmatism
    optics = make_optics(u, v, generator.uniform(0, np.pi, 200))
    table = kernel_table(optics)
    np.testing.assert_array_equal(table.nodes.as_array()[table.index[150:]], optics.as_array()[150:])
    assert (table.mix[150:] == 0).all() and (table.mix[:150] > 0).any()
    np.testing.assert_allclose(defocus_of(table), optics.defocus_u, atol=1e-3)
    assert len(table.nodes) <= 50 + 1000 / _DEFOCUS_STEP + 4


@pytest.mark.parametrize("mean", [5e3, 3e4])
def test_interpolated_kernels_are_accurate(tmp_path, mean):
    """κ of a defocus half way between two nodes: within 0.2% of |C|² at 4 Å, and 1e-3 of <v, κ*v>."""
    first = np.floor(mean / _DEFOCUS_STEP) * _DEFOCUS_STEP
    defocus = first + np.append(0.5 * _DEFOCUS_STEP, np.linspace(1, 99, 30))
    scene = make_scene(128, 2.0, 2.0, count=1)
    optics = make_optics(defocus, defocus)
    table = kernel_table(optics)
    nodes, index = table.nodes, table.index
    assert len(nodes) < 31 and table.mix[0] == pytest.approx(0.5)
    exact, below, above = (ctf(part, 128, 2.0)[0].square() for part in (optics, nodes[index[:1]], nodes[index[:1] + 1]))
    kx, ky = frequencies(128, 2.0)
    assert (0.5 * (below + above) - exact)[kx**2 + ky**2 <= 1 / 4**2].abs().max() < 2e-3
    images = torch.zeros(31, 128, 128)
    stored = build(
        tmp_path / "set", scene, optics=optics, shifts=np.zeros((31, 2)), read_normalized=lambda r: images[r]
    )
    _, kernels = stored.read(np.arange(31))
    with torch.no_grad():
        centers = scene.beads.project(torch.from_numpy(adk().positions)[None].float(), scene.rotations)
        v = render_dense(centers, scene.beads.amplitudes(), scene.beads.variances(), scene.grid.side, 2.0)
    found = quadratic_form(v.expand(31, -1, -1), kernels)
    expected = quadratic_form(v.expand(31, -1, -1), kernel_spectra(ctf(optics, 128, 2.0), scene.grid).float())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


# --- grids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [64, 65, 100, 127, 250, 256, 511])
@pytest.mark.parametrize("pixel_size", [0.7, 1.0, 1.37, 3.1])
@pytest.mark.parametrize("coarse_pixel", [1.25, 2.0])
def test_a_grid_holds_the_particle_and_is_never_finer_than_the_image(box, pixel_size, coarse_pixel):
    for diameter in (30.0, 75.0, 5000.0):
        grid = choose_grid(box, pixel_size, diameter, coarse_pixel)
        assert grid.coarse_box <= box and grid.side <= grid.coarse_box
        assert grid.coarse_pixel * grid.coarse_box == pytest.approx(box * pixel_size)
        assert grid.side * grid.coarse_pixel >= min(diameter, box * pixel_size) - 1e-6
        if pixel_size < coarse_pixel:
            assert abs(grid.coarse_pixel / coarse_pixel - 1) <= 1.0001 / grid.coarse_box
            assert grid.coarse_box % 2 == grid.side % 2 == 0
        if grid.side < grid.coarse_box:
            assert 2**12 * 3**8 * 5**5 % grid.side == 0  # a product of small primes


# --- the cache ------------------------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_computed(tmp_path):
    scene, seen = make_scene(64, 2.0, 2.0, count=12), []
    stored = build(tmp_path / "set", scene, progress=lambda done, total: seen.append((done, total)))
    transfer = ctf(scene.optics, 64, 2.0).float()
    expected = matched_crops(scene.images, transfer, torch.from_numpy(scene.shifts).float(), scene.grid)
    rows = np.array([7, 0, 11])
    crops, kernels = stored.read(rows)
    assert crops.dtype == kernels.dtype == torch.float32 and len(stored) == 12
    torch.testing.assert_close(crops, expected[rows], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        kernels, kernel_spectra(transfer.double(), scene.grid)[rows].float(), rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(stored.image_power, 0.5 * scene.images.square().sum(dim=(1, 2)), rtol=1e-5)
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_threads_change_no_bit(tmp_path):
    scene = make_scene(64, 2.0, 2.0)
    with Workers(3) as workers:
        several = build(tmp_path / "several", scene, workers=workers)
    with Workers(1) as workers:
        one = build(tmp_path / "one", scene, workers=workers)
    np.testing.assert_array_equal(several.crops, one.crops)
    np.testing.assert_array_equal(several.image_power, one.image_power)


def test_one_optics_for_all_is_stored_and_read_once(tmp_path):
    scene = replace(make_scene(64, 2.0, 2.0), optics=make_optics(np.full(12, 2e4), np.full(12, 2e4)))
    crops, kernels = build(tmp_path / "set", scene).read(np.array([3, 5]))
    assert len(crops) == 2 and len(kernels) == 1


def refuse(rows: np.ndarray) -> Tensor:
    raise AssertionError("the images were read again")


def test_a_second_call_reads_no_image(tmp_path):
    scene = make_scene(64, 2.0, 2.0)
    first = build(tmp_path / "set", scene, key={"stacks": ["a"]})
    again = build(tmp_path / "set", scene, key={"stacks": ["a"]}, read_normalized=refuse)
    assert again.identity == first.identity
    np.testing.assert_array_equal(again.crops, first.crops)
    assert isinstance(again.crops, np.memmap)  # a data set larger than the memory is no problem


def test_noise_is_measured_once_and_kept(tmp_path):
    """What is opened again is whitened by the S it was made with, to the bit, whatever S would be measured now."""
    scene, noise, measured = make_scene(64, 2.0, 2.0), coloured_noise(64, 12), []

    def measure() -> NoisePower:
        measured.append(1)
        return replace(noise, spectra=noise.spectra * (1 + 1e-9 * len(measured)))

    first = build(tmp_path / "set", scene, key={"noise": "radial"}, measure_noise=measure)
    again = build(tmp_path / "set", scene, key={"noise": "radial"}, measure_noise=measure, read_normalized=refuse)
    assert len(measured) == 1 and again.identity == first.identity
    np.testing.assert_array_equal(again.noise_power, noise.spectra * (1 + 1e-9))
    for name in ("crops", "noise_group", "kernels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_a_set_whose_noise_cannot_be_measured_leaves_nothing(tmp_path):
    def fail() -> NoisePower:
        raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        build(tmp_path / "set", make_scene(64, 2.0, 2.0), measure_noise=fail)
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize("changed", ["key", "shifts", "optics", "grid"])
def test_any_other_input_is_computed_anew(tmp_path, changed):
    scene = make_scene(64, 2.0, 2.0)
    first = build(tmp_path / "set", scene)
    others = {
        "key": {"sign": -1.0},
        "shifts": scene.shifts + 1e-3,
        "optics": replace(scene.optics, cs_mm=scene.optics.cs_mm + 0.1),
        "grid": replace(scene.grid, side=24),
    }
    other = {changed: others[changed]}
    with pytest.raises(AssertionError, match="read again"):
        build(tmp_path / "set", scene, **other, read_normalized=refuse)
    second = build(tmp_path / "set", scene, **other)
    assert second.identity != first.identity
    assert build(tmp_path / "set", scene, **other, read_normalized=refuse).identity == second.identity


def test_sets_of_several_inputs_live_side_by_side(tmp_path):
    scene = make_scene(64, 2.0, 2.0)
    sets = [build(tmp_path, scene, key={"sign": sign}) for sign in (1, -1)]
    for sign, first in zip((1, -1), sets, strict=True):
        assert build(tmp_path, scene, key={"sign": sign}, read_normalized=refuse).identity == first.identity


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("NaN")])
def test_a_failure_leaves_nothing_and_the_next_call_starts_afresh(tmp_path, error):
    scene, folder = make_scene(64, 2.0, 2.0), tmp_path / "cache"
    build(folder, scene, key={"other": 1})
    before = sorted(folder.rglob("*"))

    def read(rows: np.ndarray) -> Tensor:
        if rows[0] > 0:
            raise error
        return scene.images[rows]

    with pytest.raises(type(error)):
        build(folder, scene, read_normalized=read)
    assert sorted(folder.rglob("*")) == before
    assert len(build(folder, scene, key={"other": 1}, read_normalized=refuse)) == 12
    assert len(build(folder, scene)) == 12


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path):
    """Writing through a memory map would kill the process instead (SIGBUS)."""
    scene, limit = make_scene(64, 2.0, 2.0), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            build(tmp_path, scene)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_not_taken_for_a_set(tmp_path):
    scene = make_scene(64, 2.0, 2.0)
    build(tmp_path, scene)
    (marker,) = tmp_path.glob("*/sealed.json")
    digest = json.loads(marker.read_text())["digest"]
    marker.unlink()  # the folder of the set, without its last file
    with pytest.raises(AssertionError, match="read again"):
        build(tmp_path, scene, read_normalized=refuse)
    assert build(tmp_path, scene).identity == digest
    assert [path for path in tmp_path.iterdir()] == [marker.parent]


def test_a_set_that_another_run_prepares_is_waited_for(tmp_path, monkeypatch):
    scene, found = make_scene(64, 2.0, 2.0), []
    monkeypatch.setattr("cryoatom.files.lock._PAUSE", 0.01)
    second = threading.Thread(target=lambda: found.append(build(tmp_path, scene, read_normalized=refuse)))

    def read_while_another_waits(rows: np.ndarray) -> Tensor:
        if not second.is_alive():
            second.start()
            time.sleep(0.05)
        return scene.images[rows]

    stored = build(tmp_path, scene, read_normalized=read_while_another_waits)
    second.join(timeout=30)
    np.testing.assert_array_equal(found[0].crops, stored.crops)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("whole_pieces", [0, 1, 2])
def test_a_set_that_was_begun_is_gone_on_with(tmp_path, monkeypatch, whole_pieces):
    """What is noted to be on the disk is not read again; what a kill has left behind it is written over."""
    monkeypatch.setattr("cryoatom.imaging.matched._AT_ONCE", 4)
    monkeypatch.setattr("cryoatom.files.growing._NOTED", 4)
    scene, read = make_scene(64, 2.0, 2.0), []
    whole = build(tmp_path / "whole", scene)

    def read_some(rows: np.ndarray) -> Tensor:
        if len(read) == whole_pieces:
            raise KeyboardInterrupt
        read.append(int(rows[0]))
        return scene.images[rows]

    def read_on(rows: np.ndarray) -> Tensor:
        read.append(int(rows[0]))
        return scene.images[rows]

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set", scene, read_normalized=read_some)
    (begun,) = (tmp_path / "set").glob(".*.begun")
    for name in ("crops.npy", "image_power.npy"):
        with (begun / name).open("ab") as file:
            file.write(b"abc")
    again = build(tmp_path / "set", scene, read_normalized=read_on)
    assert read == [0, 4, 8]
    for name in ("crops", "kernels", "image_power", "power_excess", "is_dead", "noise_power", "noise_group"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    ours, others = ({path.name for path in folder.rglob("*")} for folder in (tmp_path / "set", tmp_path / "whole"))
    assert ours == others and not any(name.startswith(".") for name in ours)


def damage_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()


def damage_truncated(folder: Path, name: str) -> None:
    os.truncate(folder / name, (folder / name).stat().st_size - 2)


def damage_zeros(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) - 40] + bytes(40))


def damage_garbage(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(np.random.default_rng(0).bytes(len(content)))


def damage_shape(folder: Path, name: str) -> None:
    array = np.load(folder / name)
    np.save(folder / name, array.reshape(array.shape[::-1]) if array.ndim > 1 else array[:, None])


DAMAGES = [
    *(("crops.npy", d) for d in (damage_missing, damage_truncated, damage_zeros, damage_garbage, damage_shape)),
    *(("sealed.json", d) for d in (damage_truncated, damage_zeros, damage_garbage)),
    *((f"{name}.npy", damage_garbage) for name in ("kernels", "kernel_mix", "is_dead", "noise_power")),
    ("kernels.npy", damage_shape),
    ("image_power.npy", damage_zeros),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_set_is_noticed_and_computed_anew(tmp_path, caplog, name, damage):
    scene = make_scene(64, 2.0, 2.0)
    first = build(tmp_path, scene)
    crops = np.array(first.crops)
    (folder,) = tmp_path.iterdir()
    damage(folder, name)
    with pytest.raises(AssertionError, match="read again"):
        build(tmp_path, scene, read_normalized=refuse)
    assert f"{name} " in caplog.text and "prepared again" in caplog.text
    np.testing.assert_array_equal(build(tmp_path, scene).crops, crops)
    np.testing.assert_array_equal(build(tmp_path, scene, read_normalized=refuse).crops, crops)
    assert [path for path in tmp_path.iterdir()] == [folder]


def test_a_set_in_use_by_another_run_survives_its_replacement(tmp_path):
    """Its memory map still shows what was there."""
    scene = make_scene(64, 2.0, 2.0)
    first = build(tmp_path, scene)
    crops = np.array(first.crops)
    (folder,) = tmp_path.iterdir()
    damage_truncated(folder, "image_power.npy")
    build(tmp_path, scene)
    np.testing.assert_array_equal(first.crops, crops)


@pytest.mark.parametrize(("is_astigmatic", "times"), [(False, 15), (True, 11)])
def test_storage_is_far_smaller_than_the_images(tmp_path, is_astigmatic, times):
    """ADK's images of 256 x 256, float32, on the default grid; an astigmatic image keeps a kernel of its own."""
    count, pixel = 24, TrainConfig.model_fields["crop_pixel"].default
    scene = make_scene(256, 1.0, pixel, count=1)
    optics = spread_optics(count) if is_astigmatic else make_optics(np.full(count, 2e4), np.full(count, 2e4))
    stored = build(
        tmp_path / "set",
        scene,
        optics=optics,
        shifts=np.zeros((count, 2)),
        read_normalized=lambda rows: scene.images.expand(len(rows), -1, -1),
    )
    assert stored.crops.dtype == stored.kernels.dtype == np.float16
    size = sum(path.stat().st_size for path in (tmp_path / "set").rglob("*.*"))
    assert size / count <= 256 * 256 * 4 / times
