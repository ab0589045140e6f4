"""The geometry degradation loss against a loop that follows Prins' equation 1."""

import math

import numpy as np
import pytest
import torch
from molecules import helix
from torch import Tensor

from cryoatom.geometry import random_rotations
from cryoatom.structure.template import template_from_atoms
from cryoatom.training.geometry_loss import DensePairs, GeometryDegradation, SparsePairs, nearest_pairs

START = torch.from_numpy(template_from_atoms(helix(23), "helix")[0].positions)
COUNT = len(START)
EVERY = np.arange(COUNT)
PAIRS = ("all", "nearest", "subset")


def loss_loop(conformation: Tensor, start: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Eq. 1 of one conformation: the mean over pairs."""
    total = torch.zeros((), dtype=conformation.dtype)
    for a, b in pairs:
        squared, before = ((x[a] - x[b]).square().sum() for x in (conformation, start))
        total = total + torch.log(squared / before) ** 2
    return total / len(pairs)


def pairs_of(residues: list[int]) -> list[tuple[int, int]]:
    return [(a, b) for i, a in enumerate(residues) for b in residues[i + 1 :]]


def displaced(count: int = 5, away: float = 0.0) -> Tensor:
    noise = np.random.default_rng(0).normal(scale=0.8, size=(count, COUNT, 3))
    return (START + torch.from_numpy(noise) + away).requires_grad_()


def make(pairs: str, count: int, weight: float = 1.0) -> GeometryDegradation:
    return GeometryDegradation(START, weight, pairs, count).double()  # pyright: ignore[reportArgumentType]


def assert_same(fast: Tensor, slow: Tensor, x: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(fast, slow, atol=tolerance, rtol=tolerance)
    weight = torch.linspace(-2, 1, len(x), dtype=x.dtype)  # one value per particle, unreduced
    found, expected = (torch.autograd.grad((value * weight).sum(), x)[0] for value in (fast, slow))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def chosen_pairs(pairs: str, count: int) -> list[tuple[int, int]]:
    if pairs == "all":
        return pairs_of(list(range(COUNT)))
    if pairs == "subset":
        return pairs_of([i * (COUNT - 1) // (count - 1) for i in range(count)])
    distance = torch.cdist(START, START)
    near = {(i, j) for i in range(COUNT) for j in distance[i].argsort()[1 : count + 1].tolist()}
    return sorted({(min(pair), max(pair)) for pair in near})


@pytest.mark.parametrize(("pairs", "count"), [("all", 1), ("nearest", 4), ("subset", 7), ("subset", 2)])
def test_it_is_equation_1(pairs, count):
    x = displaced()
    wanted = chosen_pairs(pairs, count)
    assert_same(make(pairs, count)(x), torch.stack([loss_loop(one, START, wanted) for one in x]), x)


@pytest.mark.parametrize(("pairs", "count"), [("nearest", COUNT - 1), ("nearest", 1000), ("subset", COUNT)])
def test_enough_of_them_are_all_pairs(pairs, count):
    x = displaced()
    assert_same(make(pairs, count)(x), make("all", 1)(x), x)


@pytest.mark.parametrize("pairs", PAIRS)
def test_gradients(pairs):
    x = displaced(2)
    assert torch.autograd.gradcheck(make(pairs, 6), (x,))


@pytest.mark.parametrize("pairs", PAIRS)
def test_rigid_motions_cost_nothing_and_change_nothing(pairs):
    loss, x = make(pairs, 6), displaced(3).detach()
    turn = torch.from_numpy(random_rotations(3, np.random.default_rng(1)))
    moved = x @ turn.mT + torch.tensor([40.0, -7.0, 90.0])
    torch.testing.assert_close(loss(moved), loss(x))
    assert (loss(START @ turn.mT - 20.0) < 1e-10).all()
    mirrored = START * torch.tensor([-1.0, 1.0, 1.0])
    assert loss(mirrored[None]).item() < 1e-10  # distances know no hand


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_a_scaled_structure(pairs, factor):
    found = make(pairs, 6, weight=7.0)(factor * START[None]).item()
    assert found == pytest.approx(7 * math.log(factor**2) ** 2, rel=1e-5)


def test_a_relative_change_costs_the_same_near_and_far():
    start = torch.tensor([[0.0, 0, 0], [1, 0, 0], [40, 0, 0], [40, 10, 0]], dtype=torch.float64)
    loss = GeometryDegradation(start, 1.0, "nearest", 1).double()
    near, far = start.clone(), start.clone()
    near[1, 0], far[3, 1] = 1.2, 12.0
    torch.testing.assert_close(loss(near[None]), loss(far[None]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("pairs", PAIRS)
def test_residues_that_meet_are_safe_and_part_again(pairs):
    loss = make(pairs, 6)
    x = START.clone()[None].repeat(3, 1, 1)
    x[0, 0] = x[0, 1]  # the very same place
    x[1] = 0  # all of them
    x[2, 0] = x[2, 1] + torch.tensor([0.3, 0.0, 0.0])
    x.requires_grad_()
    value = loss(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all() and (value[1:] > 0).all()
    if pairs != "subset":
        assert gradient[2, 0, 0] < 0 < gradient[2, 1, 0]


def test_points_after_the_c_alphas_are_none_of_its_business():
    x = displaced(3)
    sides = torch.full((3, 4, 3), 5.0, dtype=torch.float64)
    torch.testing.assert_close(make("all", 1)(torch.cat([x, sides], dim=1)), make("all", 1)(x))


def test_images_are_done_a_few_at_a_time(monkeypatch):
    """Work is split by memory, on which no value depends."""
    whole, x = DensePairs(START, EVERY).double(), displaced(7)
    expected = whole(x)
    monkeypatch.setattr("cryoatom.training.geometry_loss._AT_ONCE", {"cpu": 3 * COUNT**2})
    assert_same(whole(x), expected, x, 1e-12)


def test_single_precision_far_from_the_origin():
    """A domain of a large complex lies hundreds of Å away; its short distances must survive that."""
    exact, x = DensePairs(START, EVERY).double(), displaced()
    single = DensePairs(START + 300, EVERY)
    found = single((x.detach() + 300).float())
    torch.testing.assert_close(found.double(), exact(x).detach(), rtol=2e-4, atol=0)


def test_nearest_pairs_are_no_pair_twice():
    pairs = nearest_pairs(START.numpy(), 3)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)
    assert np.isin(EVERY, pairs).all() and len(pairs) >= COUNT * 3 / 2
    assert isinstance(make("nearest", 3).loss, SparsePairs)
