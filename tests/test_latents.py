"""Latents of images and of classes of images; what is row by row is tested in test_row_adam.py."""

import pytest
import torch

from cryoatom.training.latents import LatentTable, own_latents, scattered_latents


def scattered(count: int = 6, latent: int = 3, seed: int = 0) -> torch.Tensor:
    return scattered_latents(count, latent, 0.1, torch.Generator().manual_seed(seed))


def classes(pace: float = 1.0) -> LatentTable:
    """Three latents, that of class 1 without an image."""
    return LatentTable(scattered(3), torch.tensor([0, 2, 0, 0, 2]), pace)


def loss(z: torch.Tensor) -> torch.Tensor:
    return (z - 1).pow(4).sum() + (z[:, 0] * z[:, 1]).sum()


def copied(table: LatentTable) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in table.state_dict().items()}


def test_they_are_fitted_by_adam_where_every_row_is_in_every_batch():
    latents = own_latents(scattered())
    plain = latents.values.clone().requires_grad_()
    optimizer = torch.optim.Adam([plain], lr=0.05)
    for step in range(20):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(step))
        z = latents.read(order).requires_grad_()
        latents.step(order, torch.autograd.grad(loss(z), z)[0], 0.05)
        optimizer.zero_grad()
        loss(plain).backward()
        optimizer.step()
        torch.testing.assert_close(latents.values, plain.detach(), atol=1e-5, rtol=1e-5)


def test_absent_rows_stay():
    latents = own_latents(scattered())
    latents.step(torch.arange(6), torch.ones(6, 3), 0.05)
    before = latents.values.clone()
    latents.step(torch.tensor([4, 1]), torch.ones(2, 3), 0.05)
    assert (latents.values != before).any(dim=1).tolist() == [False, True, False, False, True, False]


def test_images_of_a_class_read_one_latent_and_move_it_by_their_mean_gradient():
    shared, single = classes(), own_latents(classes().values[[0, 2]])
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(shared.read(torch.tensor([4, 0, 1])), shared.values[[2, 0, 2]])
    empty = shared.values[1].clone()
    for _ in range(5):
        images = torch.tensor([3, 4, 0, 2, 1])
        gradient = torch.randn(5, 3, generator=generator)
        shared.step(images, gradient, 0.05)
        mean = torch.stack([gradient[[0, 2, 3]].mean(dim=0), gradient[[1, 4]].mean(dim=0)])
        single.step(torch.arange(2), mean, 0.05)
        torch.testing.assert_close(shared.values[[0, 2]], single.values)
    assert torch.equal(shared.values[1], empty)


def test_a_class_moves_once_a_step_however_many_of_its_images_are_in_it():
    many, one = classes(), classes()
    gradient = torch.tensor([[0.3, -2.0, 1.0]])
    for _ in range(3):
        many.step(torch.tensor([0, 2, 3]), gradient.expand(3, -1).contiguous(), 0.05)
        one.step(torch.tensor([2]), gradient, 0.05)
    torch.testing.assert_close(many.values, one.values)
    assert many.state_dict()["steps"].tolist() == [3, 0, 0]


def test_the_pace_is_a_part_of_the_rate():
    slow, full = classes(pace=0.25), classes()
    images, gradient, start = torch.arange(5), torch.ones(5, 3), classes().values
    slow.step(images, gradient, 0.08)
    full.step(images, gradient, 0.02)
    torch.testing.assert_close(slow.values, full.values)
    assert (slow.values != start).any(dim=1).tolist() == [True, False, True]


def test_a_replaced_latent_forgets_how_it_moved():
    latents, fresh = own_latents(scattered()), own_latents(scattered())
    everything, some = torch.arange(6), torch.tensor([5, 2])
    for _ in range(3):
        latents.step(everything, torch.ones(6, 3), 0.1)
    before, others = latents.values.clone(), torch.tensor([0, 1, 3, 4])
    latents.replace(some, torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert torch.equal(latents.values[others], before[others])
    fresh.values[some] = latents.read(some)
    for table in (latents, fresh):
        table.step(some, torch.tensor([[-1.0, 2, 3], [0.1, 0, 1]]), 0.1)
    assert torch.equal(latents.read(some), fresh.read(some))


def test_they_start_as_small_noise_that_the_generator_gives():
    values = scattered(5000, 8)
    assert values.std().item() == pytest.approx(0.1, rel=0.02) and abs(values.mean().item()) < 2e-3
    assert torch.equal(values, scattered(5000, 8))
    assert not torch.equal(values, scattered(5000, 8, seed=1))


@pytest.mark.parametrize("make", [lambda: own_latents(scattered()), lambda: classes(pace=1 / 6)])
def test_a_restored_table_goes_on_alike(make):
    first = make()
    images, gradient = torch.tensor([1, 4]), torch.tensor([[1.0, -2, 0.5], [3, 0, 1]])
    first.step(images, gradient, 0.1)
    second = LatentTable.from_state(copied(first))
    for table in (first, second):
        table.step(images, 2 * gradient, 0.1)
    assert first.pace == second.pace
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
