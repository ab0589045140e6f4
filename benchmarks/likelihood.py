"""Matched against direct likelihood of the same images and beads: time of value and gradient, and agreement.

    OMP_NUM_THREADS=1 python benchmarks/likelihood.py [--threads 2] [--crop-pixel 2.0]

Images of 256 x 256 at 1 Å of adenylate kinase (480 template-atom beads). The direct form renders them separably, all
beads on all pixels, applies the CTF by FFT and takes the squared distance; transfer functions are computed beforehand
and images are in memory. The gradient is that of the C-alphas and of the beads' masses and widths. Both forms split
the images in chunks over threads; the direct one in chunks of the size that suits it best.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from scene import BOX, CROP_PIXEL, PIXEL_SIZE, Scene, interleave, make_optics, make_scene
from scene import statistics as matched_statistics
from torch import Tensor

from cryoatom.fourier import centered_irfft2, centered_rfft2
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.direct import direct_nll
from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll
from cryoatom.imaging.project import render, render_dense
from cryoatom.workers import Workers

Gradients = Callable[[np.ndarray], tuple[Tensor, tuple[Tensor, ...]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--crop-pixel", type=float, default=CROP_PIXEL)
    arguments = parser.parse_args()
    compare_times(arguments)
    compare_values(arguments)


def compare_times(arguments: argparse.Namespace) -> None:
    count = arguments.images
    for title, optics in (
        ("one defocus for all", make_optics(np.full(count, 2e4))),
        ("a kernel for each image", make_optics(np.linspace(5e3, 3e4, count), 500.0, 0.7)),
    ):
        scene = make_scene(optics, crop_pixel=arguments.crop_pixel)
        matched, direct = matched_form(scene), direct_form(scene)
        with Workers(arguments.threads) as workers:
            ways = {f"direct, chunks of {c}": over_chunks(direct, c, count, workers) for c in (1, 2, 4, 8, 16)}
            probes = interleave(ways, 2)
            best = min(probes, key=lambda name: min(probes[name]))
            ways = {best: ways[best], "matched, chunks of 32": over_chunks(matched, 32, count, workers)}
            seconds = interleave(ways, arguments.repeats)
        print(f"{title}; crops of {scene.grid.side} x {scene.grid.side} at {scene.grid.coarse_pixel:.3f} Å, "
              f"{arguments.threads} thread(s), value and gradient, median of {arguments.repeats}:")  # fmt: skip
        for name, values in seconds.items():
            print(f"  {name:<22} {1e3 * statistics.median(values) / count:7.3f} ms an image")
        ratios = [d / m for d, m in zip(*seconds.values(), strict=True)]
        print(
            f"  {'ratio':<22} {statistics.median(ratios):7.2f}   ({min(ratios):.2f} to {max(ratios):.2f})", flush=True
        )


def over_chunks(form: Gradients, chunk: int, count: int, workers: Workers) -> Callable[[], object]:
    chunks = [np.arange(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    return lambda: workers.map(form, chunks)


def matched_form(scene: Scene) -> Gradients:
    crops, kernels = matched_statistics(scene).read(np.arange(len(scene.images)))

    def value_and_gradient(rows: np.ndarray) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, parameters = variables(scene, rows)
        centers = scene.beads.project(x, scene.rotations[rows])
        beads = (centers, scene.beads.amplitudes(), scene.beads.variances())
        v = render(*beads, scene.grid.side, scene.grid.coarse_pixel)
        value = gaussian_nll(*cross_and_power(v, crops[rows], kernels if len(kernels) == 1 else kernels[rows]))
        return value.detach(), torch.autograd.grad(value.sum(), [x, *parameters])

    return value_and_gradient


def direct_form(scene: Scene) -> Gradients:
    transfer = torch.cat([ctf(scene.optics[[i]], BOX, PIXEL_SIZE).float() for i in range(len(scene.images))])
    own = 0.5 * scene.images.double().square().sum(dim=(1, 2))

    def value_and_gradient(rows: np.ndarray) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, parameters = variables(scene, rows)
        centers = scene.beads.project(x, scene.rotations[rows]) + scene.shifts[rows, None]
        projection = render_dense(centers, scene.beads.amplitudes(), scene.beads.variances(), BOX, PIXEL_SIZE)
        image = centered_irfft2(centered_rfft2(projection) * transfer[rows], BOX)
        value = direct_nll(scene.images[rows], image)
        gradients = torch.autograd.grad(value.sum(), [x, *parameters])
        return value.detach() - own[rows], gradients

    return value_and_gradient


def variables(scene: Scene, rows: np.ndarray) -> tuple[Tensor, list[Tensor]]:
    x = torch.from_numpy(scene.template.positions).float().repeat(len(rows), 1, 1).requires_grad_()
    return x, [scene.beads.log_amplitude, scene.beads.log_variance]


def compare_values(arguments: argparse.Namespace) -> None:
    print("\nagreement of the stored statistics (half precision) with the direct form, 16 images each:")
    print("  defocus µm  astigmatism Å   value error rms   max      gradient cosine min")
    for defocus in (5e3, 1e4, 2e4, 3e4):
        for astigmatism in (0.0, 300.0, 1000.0):
            generator = np.random.default_rng(int(defocus + astigmatism))
            optics = make_optics(np.full(16, defocus), astigmatism, generator.uniform(0, np.pi, 16))
            scene = make_scene(optics, crop_pixel=arguments.crop_pixel, max_shift=10.0, seed=int(defocus))
            value, gradients = matched_form(scene)(np.arange(16))
            expected, true = direct_in_double(scene)
            _, expected_gradients = direct_form(scene)(np.arange(16))
            error = (value.double() - expected).abs() / torch.maximum(expected.abs(), true)
            cosine = torch.nn.functional.cosine_similarity(gradients[0].flatten(1), expected_gradients[0].flatten(1))
            print(f"  {defocus / 1e4:7.1f} {astigmatism:15.0f} {error.square().mean().sqrt():15.1e} {error.max():9.1e}"
                  f" {cosine.min():18.6f}", flush=True)  # fmt: skip


@torch.no_grad()
def direct_in_double(scene: Scene) -> tuple[Tensor, Tensor]:
    """Return ½|y - F|² - ½|y|² and |F|² summed in float64: in float32 the difference would drown in |y|²."""
    x = torch.from_numpy(scene.template.positions).float().expand(len(scene.images), -1, -1)
    centers = scene.beads.project(x, scene.rotations) + scene.shifts[:, None]
    projection = render_dense(centers, scene.beads.amplitudes(), scene.beads.variances(), BOX, PIXEL_SIZE).double()
    image = centered_irfft2(centered_rfft2(projection) * ctf(scene.optics, BOX, PIXEL_SIZE), BOX)
    power = image.square().sum(dim=(1, 2))
    return 0.5 * power - (image * scene.images).sum(dim=(1, 2)), power


if __name__ == "__main__":
    main()
