"""Clashes against a loop over all pairs."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoatom.training.clash import Clash, _pairs_of_cells, clash_loss


def clash_loop(conformation: Tensor, position: list[int]) -> Tensor:
    total = conformation.new_zeros(())
    for i in range(len(position)):
        for j in range(i + 1, len(position)):
            if position[j] - position[i] > 2:
                total = total + (4 - (conformation[i] - conformation[j]).norm()).clamp_min(0) ** 2
    return total


@pytest.mark.parametrize("residues", [5, 16, 17, 70])
def test_clashes_are_those_of_all_pairs(residues):
    generator = np.random.default_rng(residues)
    jumps = np.where(generator.random(residues - 1) < 0.1, 1000, 1)
    position = np.concatenate([[0], np.cumsum(jumps)]).astype(np.int64)
    x = torch.from_numpy(generator.normal(size=(3, residues, 3)) * 8).requires_grad_()
    fast = clash_loss(x, torch.from_numpy(position))
    slow = torch.stack([clash_loop(each, position.tolist()) for each in x])
    torch.testing.assert_close(fast, slow)
    assert residues < 16 or (fast > 0).any()
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found, expected = (torch.autograd.grad((weight * v).sum(), x, allow_unused=True)[0] for v in (fast, slow))
    torch.testing.assert_close(found, torch.zeros_like(x) if expected is None else expected)


def test_a_stretched_chain_has_none_and_points_beyond_residues_do_not_count():
    x = torch.arange(20.0)[None, :, None] * torch.tensor([3.8, 0.0, 0.0])
    assert clash_loss(x, torch.arange(20)).tolist() == [0.0]
    folded = x.clone()
    folded[0, 19] = x[0, 2] + torch.tensor([0.0, 3.0, 0.0])
    points = torch.cat([folded, x], dim=1)
    torch.testing.assert_close(Clash(torch.arange(20), 7.0)(points), torch.tensor([7.0]))  # 1 Å too near, one pair


@pytest.mark.parametrize("middle", [0.0, -250.0, 1e4])
def test_clashes_of_many_residues_are_those_of_all_distances(middle):
    generator = torch.Generator().manual_seed(0)
    x = 60 * torch.rand(3, 1500, 3, generator=generator, dtype=torch.float64) + middle
    position = torch.arange(1500) + 999 * (torch.arange(1500) >= 700)
    overlap = (4 - (x[:, :, None] - x[:, None]).norm(dim=-1)).clamp_min(0).square()
    expected = (overlap * (position - position[:, None] > 2)).sum(dim=(1, 2))
    torch.testing.assert_close(clash_loss(x, position), expected)


def test_residues_that_are_nowhere_or_far_beyond_the_grid_clash_with_nothing_else():
    x = 100.0 * torch.arange(24.0)[:, None].repeat(1, 3)[None]
    x[0, 3], x[0, 9], x[0, 15], x[0, 20] = torch.nan, 1e9, -3e38, torch.inf
    x[0, 23] = x[0, 0] + torch.tensor([3.0, 0.0, 0.0])
    torch.testing.assert_close(clash_loss(x, torch.arange(24)), torch.tensor([1.0]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e9])
def test_a_conformation_that_has_run_away_costs_nothing(value):
    one, other = _pairs_of_cells(torch.full((2, 50, 3), value))
    assert len(one) == len(other) == 0


def test_gradcheck():
    x = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    assert torch.autograd.gradcheck(lambda x: clash_loss(x, torch.arange(12)), x.requires_grad_())
