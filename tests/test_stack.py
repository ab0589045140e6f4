import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from particle_data import make_particles, write_stack

from cryoatom.files.mrc import open_stack
from cryoatom.particles.stack import DeadImages, ImageStack, NormalizedImages, background_ring, estimate_noise

COUNTS = (5, 3, 4)


@pytest.fixture(scope="module", params=[15, 16])
def dataset(request, tmp_path_factory):
    """Particles, and their images in particle order, one by one."""
    particles = make_particles(tmp_path_factory.mktemp("images"), COUNTS, box=request.param)
    stacks = [open_stack(path) for path in particles.stacks]
    images = [
        stacks[stack].read(np.array([part]))[0]
        for stack, part in zip(particles.stack_of_image, particles.slice_of_image, strict=True)
    ]
    return particles, np.stack(images)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, sum(COUNTS) - 1), max_size=20))
def test_any_order_over_several_files(dataset, rows):
    particles, images = dataset
    index = np.array(rows, dtype=np.int64)
    found = ImageStack(particles).read(index)
    assert found.dtype == torch.float32 and found.shape == (len(rows), particles.box, particles.box)
    np.testing.assert_array_equal(found.numpy(), images[index])


def test_length_subsets_and_pickles(dataset):
    particles, images = dataset
    rows = np.array([9, 2, 4])
    stack = pickle.loads(pickle.dumps(ImageStack(particles[rows])))
    assert len(ImageStack(particles)) == 12 and len(stack) == 3
    np.testing.assert_array_equal(stack.read(np.array([2, 0])).numpy(), images[[4, 9]])


def test_images_are_not_shared(dataset):
    particles, images = dataset
    stack = ImageStack(particles)
    stack.read(np.array([0, 1])).zero_()
    np.testing.assert_array_equal(stack.read(np.array([0, 1])).numpy(), images[:2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_named(tmp_path, value):
    particles = make_particles(tmp_path, (4, 3))
    raw = bytearray(particles.stacks[1].read_bytes())
    pixel = 1024 + 4 * (2 * 16 * 16 + 5 * 16 + 7)  # of the last image
    raw[pixel : pixel + 4] = np.float32(value).tobytes()
    particles.stacks[1].write_bytes(raw)
    bad = int(np.flatnonzero((particles.stack_of_image == 1) & (particles.slice_of_image == 2))[0])
    stack = ImageStack(particles)
    fine = np.delete(np.arange(7), bad)
    assert torch.isfinite(stack.read(fine)).all()
    order = np.array([fine[0], bad, fine[1]])
    for read in (stack.read, lambda index: stack.read_normalized(index, 9.0)):
        with pytest.raises(ValueError, match=r"000003@stack1\.mrcs .*slice 2 of .*stack1\.mrcs.*not finite"):
            read(order)


def test_large_values_are_not_mistaken_for_infinite(tmp_path):
    particles = make_particles(tmp_path, (2,))
    header = particles.stacks[0].read_bytes()[:1024]
    particles.stacks[0].write_bytes(header + np.full((2, 16, 16), 3e38, "<f4").tobytes())
    assert (ImageStack(particles).read(np.arange(2)) == np.float32(3e38)).all()


def test_missing_and_truncated_stacks(tmp_path):
    particles = make_particles(tmp_path)
    particles.stacks[0].write_bytes(particles.stacks[0].read_bytes()[:-4])
    with pytest.raises(ValueError, match="truncated"):
        ImageStack(particles)
    particles.stacks[0].unlink()
    with pytest.raises(FileNotFoundError, match="stack0"):
        ImageStack(particles)


def test_a_stack_cut_short_after_opening_raises(tmp_path):
    particles = make_particles(tmp_path)
    stack = ImageStack(particles)
    particles.stacks[0].write_bytes(particles.stacks[0].read_bytes()[:-4])
    with pytest.raises(ValueError, match="has changed since it was first read"):
        stack.read(np.arange(8))


@pytest.mark.parametrize("box", [31, 32])
def test_background_ring(box):
    ring = background_ring(box, 10.0, 1.5).numpy()
    for y in range(box):
        for x in range(box):
            assert ring[y, x] == (1.5 * np.hypot(y - box // 2, x - box // 2) > 10.0)
    with pytest.raises(ValueError, match=f"box of {box} pixels of 1.5 Å lie outside 40 Å.*smaller radius"):
        background_ring(box, 40.0, 1.5)


@pytest.mark.parametrize("box", [31, 32])
def test_noise_is_measured_outside_the_particle(box):
    generator = torch.Generator().manual_seed(0)
    offset, scale = torch.tensor([0.0, 50.0, -3.0]), torch.tensor([1.0, 0.2, 7.0])
    images = torch.randn(3, box, box, generator=generator) * scale[:, None, None] + offset[:, None, None]
    ring = background_ring(box, 20.0, 1.5)
    mean, std = estimate_noise(images, 20.0, 1.5)
    expected = images.numpy()[:, ring.numpy()].astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), expected.mean(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(std.numpy(), expected.std(axis=1), rtol=1e-5)
    again = estimate_noise(torch.where(ring, images, images + 1e4), 20.0, 1.5)  # whatever the particle is
    torch.testing.assert_close(again, (mean, std))


def test_normalized_background(tmp_path):
    particles = make_particles(tmp_path)
    stack = ImageStack(particles)
    rows = np.array([3, 0, 6])
    images = stack.read_normalized(rows, 8.0)
    mean, std = estimate_noise(images, 8.0, particles.pixel_size)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(std, torch.ones(3), atol=1e-6, rtol=0)
    raw = stack.read(rows)
    slope = (images[:, 8, 8] - images[:, 0, 0]) / (raw[:, 8, 8] - raw[:, 0, 0])  # shifted and scaled, nothing else
    torch.testing.assert_close(images - images[:, :1, :1], slope[:, None, None] * (raw - raw[:, :1, :1]))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_a_constant_background_is_named(tmp_path, value):
    particles = make_particles(tmp_path, (3,))
    images = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    images[1] = np.where(background_ring(16, 8.0, 1.5).numpy(), value, images[1])
    write_stack(particles.stacks[0], images)
    assert len(ImageStack(particles).read(np.arange(3))) == 3
    with pytest.raises(ValueError, match=r"000002@stack0\.mrcs.*constant outside 8 Å"):
        ImageStack(particles).read_normalized(np.arange(3), 8.0)


def spoil(path, box=16):
    """Write 60 images of noise, of which five cannot be used, and return why."""
    images = np.random.default_rng(0).normal(3, 2, (60, box, box)).astype(np.float32)
    images[5] = 0
    images[11] = 7.5
    images[20] = np.where(background_ring(box, 8.0, 1.5).numpy(), 0.0, images[20])
    write_stack(path, images)
    images[40, 0, 3] = np.nan
    images[59] *= 1e30
    path.write_bytes(path.read_bytes()[:1024] + images.tobytes())
    reasons = ["is constant: all pixels are 0", "is constant: all pixels are 7.5", "is constant outside 8 Å"]
    return dict(zip([5, 11, 20, 40, 59], [*reasons, "not finite", "too large"], strict=True))


def test_dead_images_are_collected_where_they_may_be(tmp_path):
    particles = make_particles(tmp_path, (60,))
    reasons = {
        int(np.flatnonzero(particles.slice_of_image == k)[0]): why for k, why in spoil(particles.stacks[0]).items()
    }
    stack, dead = ImageStack(particles), DeadImages(200)
    for row, why in reasons.items():
        with pytest.raises(ValueError, match=why):
            stack.read_normalized(np.array([row]), 8.0)
    rows = np.random.default_rng(1).permutation(60)
    images = stack.read_normalized(rows, 8.0, dead)
    assert [image.row for image in dead] == sorted(reasons) and len(dead) == 5
    for image in dead:
        assert (
            image.name == particles.image_names[image.row] and reasons[image.row] in image.reason and image.row in dead
        )
    blank = ~images.flatten(1).any(dim=1).numpy()
    assert set(rows[blank]) == set(reasons)
    living = rows[~blank]
    torch.testing.assert_close(images[torch.from_numpy(~blank)], stack.read_normalized(living, 8.0))
    stack.read_normalized(rows, 8.0, dead)
    assert len(dead) == 5  # each is taken once
    first = dead.describe(9)
    assert first.count("@") == 5 and first.endswith("; and 4 more")


@pytest.mark.parametrize(("total", "is_too_many"), [(60, True), (99, True), (100, False)])
def test_too_many_dead_images_are_an_error(tmp_path, total, is_too_many):
    particles = make_particles(tmp_path, (60,))
    spoil(particles.stacks[0])
    stack, dead = ImageStack(particles), DeadImages(total)
    if not is_too_many:
        stack.read_normalized(np.arange(60), 8.0, dead)
        return
    named = rf"more than 5% of {total} images cannot be used, among .*\d+@stack0.mrcs .*--ind.*--background-radius"
    with pytest.raises(ValueError, match=named):
        stack.read_normalized(np.arange(60), 8.0, dead)


@pytest.mark.parametrize(("limit", "is_too_many"), [(0.05, True), (0.08, True), (0.09, False), (1.0, False)])
def test_a_sample_may_have_more_dead_images(tmp_path, limit, is_too_many):
    particles = make_particles(tmp_path, (60,))  # five of them dead
    spoil(particles.stacks[0])
    images = NormalizedImages(particles, radius=8.0, limit=limit)
    if is_too_many:
        with pytest.raises(ValueError, match=f"more than {100 * limit:.0f}% of 60 images cannot be used"):
            images(np.arange(60))
        return
    images(np.arange(60))
    assert len(images.dead) == 5


def test_normalized_images_have_dark_particles_and_a_background_of_unit_noise(tmp_path):
    particles, rows = make_particles(tmp_path), np.array([2, 0])
    dark, bright = NormalizedImages(particles), NormalizedImages(particles, are_bright=True)
    assert dark.radius == pytest.approx(0.4 * particles.box * particles.pixel_size)
    torch.testing.assert_close(dark(rows), ImageStack(particles).read_normalized(rows, dark.radius))
    torch.testing.assert_close(bright(rows), -dark(rows))
    assert NormalizedImages(particles, radius=5.0).radius == 5.0


def test_one_dead_image_is_never_too_many(tmp_path):
    particles = make_particles(tmp_path, (3,))
    write_stack(particles.stacks[0], np.stack([np.zeros((16, 16)), *np.random.default_rng(0).normal(size=(2, 16, 16))]))
    dead = DeadImages(3)
    ImageStack(particles).read_normalized(np.arange(3), 8.0, dead)
    assert len(dead) == 1


def test_pixel_size_sets_the_ring(tmp_path):
    particles = make_particles(tmp_path)
    rows = np.arange(3)
    fine = ImageStack(replace(particles, pixel_size=0.75)).read_normalized(rows, 4.0)
    torch.testing.assert_close(fine, ImageStack(particles).read_normalized(rows, 8.0))
