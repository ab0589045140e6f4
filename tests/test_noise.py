"""The noise's power: measured on images of known power, and what is done where it cannot be measured."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import settings, write_dataset
from torch import Tensor

from cryoatom.files.mrc import open_stack
from cryoatom.fourier import centered_irfft2, centered_rfft2, frequencies
from cryoatom.imaging.matched import MatchedSet
from cryoatom.particles.noise import MOST_IMAGES, NoisePower, estimate_noise_power, noise_groups, white_noise
from cryoatom.particles.noise_report import report_noise
from cryoatom.particles.outliers import power_excess
from cryoatom.particles.rings import half_plane_weights
from cryoatom.particles.stack import ImageStack, estimate_noise
from cryoatom.run_folder import RunFolder
from cryoatom.training.images import image_key, prepare_images
from cryoatom.training.inputs import read_inputs, run_identity
from cryoatom.training.stage import silent
from cryoatom.workers import Workers

PIXEL = 1.5
SHAPES = {
    "white": lambda k: torch.ones_like(k),
    "detector": lambda k: torch.exp(-4 * k),
    "ice": lambda k: 1 + 20 / (1 + (k / 0.03) ** 2),
    "both": lambda k: torch.exp(-3 * k) + 8 / (1 + (k / 0.05) ** 2),
}


def frequency(box: int) -> Tensor:
    """|k| in cycles per pixel."""
    kx, ky = frequencies(box, 1.0)
    return (kx**2 + ky**2).sqrt()


def draw(count: int, box: int, shape, *, signal: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images of noise, normalised as stacks are, and their power S; the centre may hold a particle."""
    power = shape(frequency(box))
    power = power / ((power * half_plane_weights(box)).sum() / box**2)
    white = torch.randn(count, box, box, generator=torch.Generator().manual_seed(seed))
    images = centered_irfft2(centered_rfft2(white) * power.sqrt().float(), box)
    images[:, box // 2 - 5 : box // 2 + 5, box // 2 - 5 : box // 2 + 5] += signal
    mean, std = estimate_noise(images, radius(box), PIXEL)
    return (images - mean[:, None, None]) / std[:, None, None], power


def radius(box: int) -> float:
    return 0.4 * box * PIXEL


def estimate(images: Tensor, groups: np.ndarray | None = None) -> NoisePower:
    box = images.shape[-1]
    groups = np.zeros(len(images), np.int64) if groups is None else groups
    return estimate_noise_power(lambda rows: images[rows], groups, box, PIXEL, radius(box))


def rings(power: Tensor) -> np.ndarray:
    """Ring means of a power on the half plane."""
    box = len(power)
    ring = (frequency(box) * box).round().long().flatten()
    weights = half_plane_weights(box).expand_as(power).flatten()
    sums, counts = (torch.bincount(ring, w) for w in (weights * power.flatten(), weights))
    return (sums / counts).numpy()


@pytest.mark.parametrize("box", [63, 64])
@pytest.mark.parametrize("name", SHAPES)
def test_the_power_is_found_ring_by_ring(box, name):
    images, power = draw(600, box, SHAPES[name], signal=20.0)
    (found,) = estimate(images).spectra
    expected = rings(power)
    error = found / expected - 1
    assert len(found) == len(expected)
    assert np.abs(error[4 : box // 2]).max() < 0.08 and np.abs(error[1:4]).max() < 0.2
    assert abs(error[4 : box // 2].mean()) < 0.015
    assert found[0] == found[1]  # images have lost it with their mean


def test_white_noise_is_one_within_a_percent():
    images, _ = draw(800, 96, SHAPES["white"])
    (found,) = estimate(images).spectra
    assert np.abs(found[5:48] - 1).mean() < 0.01 and np.abs(found - 1).max() < 0.1
    assert found[5:].mean() == pytest.approx(1, abs=0.005)


def test_precision_is_one_over_the_interpolated_power():
    noise = NoisePower(np.array([[2.0] * 13, np.linspace(1, 13, 13)]), np.array([1, 0]), 16)
    precision = noise.precision()
    assert precision.shape == (2, 16, 9)
    torch.testing.assert_close(precision[0], torch.full((16, 9), 0.5, dtype=torch.float64))
    k = (frequency(16) * 16).clamp(max=12)
    torch.testing.assert_close(precision[1], 1 / (1 + k))
    torch.testing.assert_close(white_noise(2, 17).precision(), torch.ones(1, 17, 9, dtype=torch.float64))


@pytest.mark.parametrize("box", [63, 64, 128])
@pytest.mark.parametrize("limit", [0.2, 0.35])
def test_a_band_limit_leaves_frequencies_without_weight(caplog, box, limit):
    """Beyond it 1/S is 0, not huge; within it S is what it is."""
    images, power = draw(200, box, lambda k: (k < limit).double())
    with caplog.at_level(logging.INFO):
        noise = estimate(images)
        report_noise(noise, np.zeros(len(images), np.int64), PIXEL)
    (found,), k = noise.spectra, np.arange(len(noise.spectra[0])) / box
    assert (found[k > limit + 3 / box] == 0).all() and (found[k < limit - 4 / box] > 0).all()
    np.testing.assert_allclose(found[3 : int(box * limit) - 4], power.max().item(), rtol=0.08)
    assert (noise.precision()[0][frequency(box) > limit + 3 / box] == 0).all()
    assert noise.precision().max() < 20 / power.max()
    assert ("no power at" in caplog.text) == (limit < 0.5)


def test_a_smooth_filter_never_gives_huge_weights():
    images, _ = draw(200, 64, lambda k: torch.exp(-0.5 * (k / 0.1) ** 2))
    (found,), precision = estimate(images).spectra, estimate(images).precision()[0]
    assert precision.max() <= 10.01 / np.median(found[found > 0]) and (precision[frequency(64) > 0.35] == 0).all()


def test_groups_have_noise_of_their_own_and_small_ones_that_of_all(caplog):
    ice, detector = draw(100, 48, SHAPES["ice"])[0], draw(100, 48, SHAPES["detector"], seed=1)[0]
    few = draw(7, 48, SHAPES["detector"], seed=2)[0]
    groups = np.array([4] * 100 + [0] * 100 + [2] * 3 + [9] * 4)
    noise = estimate(torch.cat([ice, detector, few]), groups)
    with caplog.at_level(logging.INFO):
        report_noise(noise, groups, PIXEL)
    assert noise.spectra.shape[0] == 3 and noise.group_of_image.tolist() == [1] * 100 + [0] * 100 + [2] * 7
    alone = estimate(ice).spectra[0]
    np.testing.assert_array_equal(noise.spectra[1], alone)
    of_detector, of_ice, of_all = noise.spectra
    assert of_ice[2] > 1.5 * of_detector[2] and of_detector[2] < of_all[2] < of_ice[2]
    assert "optics group 5: power" in caplog.text and "2 small optics groups together: power" in caplog.text


def test_few_images_give_a_smooth_spectrum():
    """Of 8 images, all of a dataset, ring 1 alone would be known to 20%."""
    errors = [estimate(draw(8, 64, SHAPES["white"], seed=seed)[0]).spectra[0] - 1 for seed in range(12)]
    assert np.sqrt(np.mean(np.square([error[1:33] for error in errors]), axis=0)).max() < 0.12


def test_images_are_drawn_evenly_and_not_all_are_read():
    images, _ = draw(40, 32, SHAPES["white"])
    seen = []

    def read(rows: np.ndarray) -> Tensor:
        seen.extend(rows.tolist())
        return images[rows % 40]

    groups = np.arange(20_000) % 2
    estimate_noise_power(read, groups, 32, PIXEL, radius(32))
    assert len(seen) == 2000 and min(seen) == 0 and max(seen) == 19_999 and len(set(seen)) == 2000
    assert np.diff(np.sort(seen)).max() <= 25


@pytest.mark.parametrize(("count", "groups"), [(100_000, 1), (60_000, 30), (60_000, 600), (20_000, 10_000)])
def test_however_many_groups_there_are_few_images_are_read(count, groups):
    """One optics group for each micrograph, say."""
    images, _ = draw(32, 24, SHAPES["white"])
    seen = []

    def read(rows: np.ndarray) -> Tensor:
        seen.append(len(rows))
        return images[rows % 32]

    optics_group = np.arange(count) % groups
    noise = estimate_noise_power(read, optics_group, 24, 1.0, 7.0)
    assert sum(seen) <= MOST_IMAGES and len(noise.spectra) <= 70
    assert len(noise.spectra) == noise.group_of_image.max() + 1
    np.testing.assert_array_equal(noise.group_of_image, noise_groups(optics_group))


def test_the_largest_groups_have_noise_of_their_own():
    sizes = np.concatenate([np.full(80, 100), [99], np.arange(101, 130)])  # 110 groups, 109 of them large enough
    groups = noise_groups(np.random.default_rng(0).permutation(np.repeat(np.arange(110), sizes)))
    counts = np.bincount(groups)
    assert len(counts) == 70 and counts[:-1].tolist() == [100] * 40 + list(range(101, 130))
    assert counts[-1] == 40 * 100 + 99


def test_small_groups_together_have_noise_of_their_own_where_they_are_many():
    ice, detector = draw(150, 48, SHAPES["ice"])[0], draw(120, 48, SHAPES["detector"], seed=1)[0]
    groups = np.concatenate([np.zeros(150, np.int64), 1 + np.arange(120) // 4])
    noise = estimate(torch.cat([ice, detector]), groups)
    np.testing.assert_array_equal(noise.spectra, [estimate(ice).spectra[0], estimate(detector).spectra[0]])


def test_a_group_whose_images_are_dead_has_the_noise_of_all():
    images, _ = draw(220, 48, SHAPES["white"])
    images[:105] = 0
    noise = estimate(images, np.repeat([0, 1], 110))
    np.testing.assert_array_equal(noise.spectra, [estimate(images).spectra[0], estimate(images[110:]).spectra[0]])


def test_dead_images_and_outliers_are_not_counted():
    images, _ = draw(100, 48, SHAPES["white"])
    clean = estimate(images).spectra[0]
    images[[3, 50]] = 0
    images[70] = draw(1, 48, lambda k: 1 / (1 + (k / 0.01) ** 4))[0][0]  # carbon: all of its power at low frequency
    np.testing.assert_allclose(estimate(images).spectra[0], clean, rtol=0.1, atol=0.02)
    with pytest.raises(ValueError, match="none of the images.*constant or not finite"):
        estimate(torch.zeros(5, 48, 48))


def test_power_excess_lists_outliers():
    generator = np.random.default_rng(0)
    power = np.concatenate([generator.normal(500, 5, 300), generator.normal(900, 30, 100)])
    groups, is_dead = np.repeat([0, 1], [300, 100]), np.zeros(400, dtype=bool)
    power[[7, 333]], power[5], is_dead[5] = (560, 1200), 0, True
    excess = power_excess(power, groups, is_dead)
    assert np.flatnonzero(excess > 6).tolist() == [7, 333] and excess[5] == 0
    assert np.delete(excess, [5, 7, 333]).std() == pytest.approx(1, abs=0.2)
    assert (power_excess(np.full(4, 3.0), np.zeros(4, np.int64), np.zeros(4, dtype=bool)) == 0).all()
    assert (power_excess(np.zeros(2), np.zeros(2, np.int64), np.ones(2, dtype=bool)) == 0).all()


# --- what a run does with it ----------------------------------------------------------------------------------------


def prepare(folder: Path, **changes: object) -> MatchedSet:
    config = settings(folder, **changes)
    return prepare_images(config, read_inputs(config), RunFolder(config.outdir), Workers(1), silent)


def replace_pixels(folder: Path, change) -> None:
    path = folder / "particles.mrcs"
    images = open_stack(path).read(np.arange(41)).astype("<f4")
    change(images)
    path.write_bytes(path.read_bytes()[:1024] + images.tobytes())


def test_a_run_measures_the_noise_unless_it_is_to_be_white(tmp_path, caplog):
    write_dataset(tmp_path)
    with caplog.at_level(logging.INFO):
        radial, white = prepare(tmp_path), prepare(tmp_path, noise="white")
        assert caplog.text.count("noise of optics group 1: power") == 1
        stored = prepare(tmp_path)  # says so again
    assert caplog.text.count("noise of optics group 1: power") == 2
    np.testing.assert_array_equal(stored.noise_power, radial.noise_power)
    assert (white.noise_power == 1).all() and radial.noise_power[0, 1:15] == pytest.approx(1, abs=0.25)
    assert radial.identity != white.identity and len(list((tmp_path / "cache").iterdir())) == 2
    assert prepare(tmp_path).identity == radial.identity and len(list((tmp_path / "cache").iterdir())) == 2
    (stored,) = (np.load(path) for path in (tmp_path / "cache").glob(f"{radial.identity[:16]}/noise_power.npy"))
    np.testing.assert_array_equal(stored, radial.noise_power)
    identities = [run_identity(c, read_inputs(c)) for c in (settings(tmp_path), settings(tmp_path, noise="white"))]
    assert [name for name in identities[0] if identities[0][name] != identities[1][name]] == ["images"]


def test_a_set_that_is_there_reads_no_image_and_keeps_its_noise(tmp_path, monkeypatch):
    write_dataset(tmp_path)
    first = prepare(tmp_path)
    monkeypatch.setattr(ImageStack, "_read", lambda *_: pytest.fail("images were read"))
    monkeypatch.setattr("cryoatom.training.images.estimate_noise_power", lambda *_, **__: pytest.fail("measured"))
    again = prepare(tmp_path)
    for name in ("noise_power", "noise_group", "crops", "kernels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_what_determines_the_noise_is_in_the_key(tmp_path, monkeypatch):
    write_dataset(tmp_path)
    config = settings(tmp_path)
    particles = read_inputs(config).particles
    start = image_key(config, particles)
    assert len(json.dumps(start)) < 500
    other_groups = replace(particles, optics_group=np.arange(41) % 2)
    changed = [
        image_key(settings(tmp_path, noise="white"), particles),
        image_key(settings(tmp_path, uninvert_data=True), particles),
        image_key(settings(tmp_path, background_radius=25.0), particles),
        image_key(config, particles[np.arange(40)]),
        image_key(config, other_groups),
    ]
    monkeypatch.setattr("cryoatom.training.images.NOISE_VERSION", 99)
    changed.append(image_key(config, particles))
    texts = [json.dumps(key) for key in (start, *changed)]
    assert len(set(texts)) == len(texts)
    white = settings(tmp_path, noise="white")
    assert image_key(white, particles) == image_key(white, other_groups)  # which knows of no groups


@pytest.mark.parametrize("noise", ["radial", "white"])
def test_dead_images_are_named_each_time_and_marked(tmp_path, caplog, noise):
    write_dataset(tmp_path)

    def spoil(images: np.ndarray) -> None:
        images[3, 2, 2], images[30] = np.nan, 1.0

    replace_pixels(tmp_path, spoil)
    for _ in range(2):  # prepared, then reopened
        caplog.clear()
        data = prepare(tmp_path, noise=noise)
        assert np.flatnonzero(data.is_dead).tolist() == [3, 30]
        assert "2 of 41 images cannot be used" in caplog.text
        assert "000004@particles.mrcs has pixels that are not finite" in caplog.text
        assert "000031@particles.mrcs is constant: all pixels are 1" in caplog.text
    crops, _ = data.read(np.arange(41))
    assert torch.isfinite(crops).all() and not crops[[3, 30]].any() and crops[4].any()


@pytest.mark.parametrize("noise", ["radial", "white"])
def test_a_masked_stack_is_refused_and_nothing_is_left(tmp_path, noise):
    write_dataset(tmp_path)

    def mask(images: np.ndarray) -> None:
        images[:, np.hypot(*np.mgrid[-20:20, -20:20]) > 15] = 0

    replace_pixels(tmp_path, mask)
    with pytest.raises(ValueError, match="more than 5% of 41.*constant outside 32 Å.*--ind.*--background-radius"):
        prepare(tmp_path, noise=noise)
    assert not list(tmp_path.glob("cache/*"))


def test_a_hot_pixel_that_bursts_its_crop_is_dead(tmp_path, caplog):
    write_dataset(tmp_path)

    def heat(images: np.ndarray) -> None:
        images[8, 20, 22] = 1e8

    replace_pixels(tmp_path, heat)
    data = prepare(tmp_path)
    assert np.flatnonzero(data.is_dead).tolist() == [8]
    assert "000009@particles.mrcs has pixels thousands of times as large as the noise" in caplog.text
