"""Adam row by row, against torch's."""

import torch

from cryoatom.training.row_adam import RowAdam

BETAS = (0.8, 0.95)


def gradients(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def visits(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Some rows of six in a mixed order, and their gradients."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randperm(6, generator=generator)[: 1 + k % 4], gradients(1 + k % 4, 3, seed=k)) for k in range(count)
    ]


def test_every_row_is_an_adam_that_counts_its_own_visits():
    """A dense Adam would go on moving an absent row by its momentum, and correct its bias by steps that it missed."""
    values, adam = torch.zeros(6, 3), RowAdam(6, 3, BETAS)
    plain = [torch.zeros(3, requires_grad=True) for _ in range(6)]
    optimizers = [torch.optim.Adam([row], lr=0.05, betas=BETAS) for row in plain]
    for rows, gradient in visits(20):
        values[rows] += adam.move(rows, gradient, 0.05)
        for row, g in zip(rows.tolist(), gradient, strict=True):
            plain[row].grad = g.clone()
            optimizers[row].step()
    torch.testing.assert_close(values, torch.stack(plain).detach(), atol=1e-6, rtol=1e-5)
    counts = [sum(row in rows.tolist() for rows, _ in visits(20)) for row in range(6)]
    assert adam.steps.tolist() == counts and len(set(counts)) > 1


def test_a_forgotten_row_starts_anew_and_the_others_go_on():
    adam, untouched, fresh = RowAdam(6, 3, BETAS), RowAdam(6, 3, BETAS), RowAdam(6, 3, BETAS)
    everything = torch.arange(6)
    for seed in range(5):
        for each in (adam, untouched):
            each.move(everything, gradients(6, 3, seed=seed), 0.1)
    adam.forget(torch.tensor([1, 4]))
    found, known, new = (each.move(everything, gradients(6, 3, seed=9), 0.1) for each in (adam, untouched, fresh))
    is_forgotten = torch.tensor([False, True, False, False, True, False])
    assert torch.equal(found[is_forgotten], new[is_forgotten])
    assert torch.equal(found[~is_forgotten], known[~is_forgotten])
    assert (known != new).all()


def test_a_restored_state_goes_on_alike():
    first, second = RowAdam(6, 3, BETAS), RowAdam(6, 3, BETAS)
    for rows, gradient in visits(7):
        first.move(rows, gradient, 0.1)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    second.load_state_dict(state | {"another": torch.ones(1)})
    for rows, gradient in visits(12)[7:]:
        assert torch.equal(first.move(rows, gradient, 0.1), second.move(rows, gradient, 0.1))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(state["mean"], first.mean)  # a copy of the state stays as it was
