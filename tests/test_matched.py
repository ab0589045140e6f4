"""The matched form against the paper's model in image space, its kernels against Fourier sums, and its cache."""

import errno
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from molecules import data_folder
from reference import kernel_loop
from torch import Tensor

from cryoatom.fourier import centered_irfft2, frequencies
from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.direct import simulate_images
from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll
from cryoatom.imaging.matched import (
    WIDTH_PER_PIXEL,
    CropGrid,
    MatchedSet,
    build_matched_set,
    choose_grid,
    kernel_spectra,
    kernel_table,
    matched_crops,
)
from cryoatom.imaging.project import render
from cryoatom.records import Optics
from cryoatom.structure.template import Template, center_template, read_template

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
        return gaussian_nll(
            *cross_and_power(render(*beads, self.grid.side, self.grid.coarse_pixel), crops, kernels)
        )


@cache
def make_scene(box: int, pixel_size: float, coarse_pixel: float, count: int = 12, margin: float = 12.0) -> Scene:
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
    return replace(scene, images=images + noise)


def build(folder: Path, scene: Scene, **changes: object) -> MatchedSet:
    arguments = {"key": {}, "read_normalized": lambda rows: scene.images[rows], "optics": scene.optics}
    arguments |= {"shifts": scene.shifts, "grid": scene.grid, "batch": 5}
    return build_matched_set(folder, **(arguments | changes))


# --- the matched form is the direct one ---------------------------------------------------------------------------

BOXES = [
    pytest.param(256, 1.0, 2.0, id="256"),
    pytest.param(256, 1.0, 1.25, id="256-fine"),  # 205 pixels would be odd: 204 of 1.2549 Å
    pytest.param(200, 1.3, 2.0, id="200"),
    pytest.param(190, 1.37, 2.0, id="190"),  # 130 pixels of 2.0023 Å
    pytest.param(161, 1.37, 2.0, id="161"),  # odd; 110 pixels of 2.0052 Å
]


@pytest.mark.parametrize(("box", "pixel_size", "coarse_pixel"), BOXES)
def test_value_and_gradient_are_those_of_the_direct_model(tmp_path, box, pixel_size, coarse_pixel):
    scene = make_scene(box, pixel_size, coarse_pixel)
    crops, kernels = build(tmp_path / "set", scene).read(np.arange(12))  # as stored, in half precision
    x = torch.from_numpy(adk().positions).float().repeat(12, 1, 1).requires_grad_()
    direct, power = scene.direct(x)
    matched = scene.matched(x, crops, kernels).double()
    error = (matched - direct).abs() / torch.maximum(direct.abs(), power)
    expected, found = (torch.autograd.grad(value.sum(), x)[0].flatten(1) for value in (direct, matched))
    cosine = torch.nn.functional.cosine_similarity(found, expected)
    print(scene.grid, power.mean(), error, cosine, (found-expected).norm(dim=1)/expected.norm(dim=1))
    assert error.max() <= 1e-3
    assert cosine.min() >= 0.999
