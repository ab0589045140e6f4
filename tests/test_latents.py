import pytest
import torch

from cryoatom.training.latents import LatentTable


def table(count: int = 6, latent: int = 3, seed: int = 0) -> LatentTable:
    return LatentTable(count, latent, 0.1, torch.Generator().manual_seed(seed))


def loss(z: torch.Tensor) -> torch.Tensor:
    return (z - 1).pow(4).sum() + (z[:, 0] * z[:, 1]).sum()


def test_it_is_adam_where_every_row_is_in_every_batch():
    latents = table()
    plain = latents.values.clone().requires_grad_()
    optimizer = torch.optim.Adam([plain], lr=0.05)
    for step in range(20):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(step))
        z = latents.values[order].requires_grad_()
        latents.step(order, torch.autograd.grad(loss(z), z)[0], 0.05)
        optimizer.zero_grad()
        loss(plain).backward()
        optimizer.step()
        torch.testing.assert_close(latents.values, plain.detach(), atol=1e-5, rtol=1e-5)


def test_each_row_is_an_adam_of_its_own_and_absent_rows_stay():
    """Dense Adam would go on moving an absent row by its momentum."""
    latents = table()
    plain = [row.clone().requires_grad_() for row in latents.values]
    optimizers = [torch.optim.Adam([row], lr=0.05) for row in plain]
    generator = torch.Generator().manual_seed(1)
    for _ in range(15):
        rows = torch.randperm(6, generator=generator)[:2]
        before = latents.values.clone()
        gradient = torch.randn(2, 3, generator=generator)
        latents.step(rows, gradient, 0.05)
        for row, g in zip(rows.tolist(), gradient, strict=True):
            plain[row].grad = g.clone()
            optimizers[row].step()
        absent = [i for i in range(6) if i not in rows]
        assert torch.equal(latents.values[absent], before[absent])
    torch.testing.assert_close(latents.values, torch.stack(plain).detach(), atol=1e-5, rtol=1e-5)


def test_they_start_as_small_noise_that_the_seed_gives():
    values = table(5000, 8).values
    assert values.std().item() == pytest.approx(0.1, rel=0.02) and abs(values.mean().item()) < 2e-3
    assert torch.equal(values, table(5000, 8).values)
    assert not torch.equal(values, table(5000, 8, seed=1).values)


def test_a_restored_table_goes_on_alike():
    first, second = table(), table(seed=5)
    rows, gradient = torch.tensor([1, 4]), torch.ones(2, 3)
    first.step(rows, gradient, 0.1)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for latents in (first, second):
        latents.step(rows, 2 * gradient, 0.1)
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())


def test_a_table_of_other_images_is_an_error():
    with pytest.raises(ValueError, match=r"latents of shape \(6, 3\), this dataset needs \(7, 3\)"):
        table(7).load_state_dict(table(6).state_dict())
