"""Regularisers against loops that follow the paper's equations 4 and 5."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from molecules import helix, join
from reference import bond_loop, center_loop, rigidity_loop

from cryoatom.geometry import random_rotations
from cryoatom.structure.template import Template, template_from_atoms
from cryoatom.training.regularizers import Rigidity, bond_loss, center_loss


def broken() -> Template:
    """Two chains, one of them with a gap of three residues."""
    atoms = helix(13)
    atoms, second = atoms[~np.isin(atoms.residue_numbers, [6, 7, 8])], helix(5, chain_ids="B")
    return template_from_atoms(join(atoms, replace(second, positions=second.positions + [9.0, 4.0, 2.0])), "test")[0]


def displaced(template: Template, count: int = 3) -> torch.Tensor:
    noise = np.random.default_rng(0).normal(scale=0.6, size=(count, len(template), 3))
    return torch.from_numpy(template.positions + noise + 3).requires_grad_()


TEMPLATE = broken()
START = torch.from_numpy(TEMPLATE.positions)
BONDED = torch.from_numpy(TEMPLATE.bonded)
LENGTHS = (START[1:] - START[:-1]).norm(dim=1)
CENTER = START.mean(dim=0)
POSITION = torch.from_numpy(TEMPLATE.chain_position)


def rigidity(omega: float = 0.25, tolerance: float = 0.0) -> Rigidity:
    return Rigidity(START, POSITION, omega, tolerance).double()


def assert_same(fast: torch.Tensor, slow: torch.Tensor, x: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(fast, slow, atol=tolerance, rtol=tolerance)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)  # one value per particle, unreduced
    found, expected = (torch.autograd.grad((value * weight).sum(), x)[0] for value in (fast, slow))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_r0():
    x = displaced(TEMPLATE)
    assert_same(center_loss(x, CENTER), torch.stack([center_loop(one, START) for one in x]), x)


def test_r0_of_a_template_away_from_the_origin_pulls_to_its_own_centre():
    """The frame is that of the poses: a domain may lie anywhere in it, and stays there."""
    away = START + torch.tensor([30.0, -20.0, 55.0], dtype=torch.float64)
    center = away.mean(dim=0)
    assert center_loss(away[None], center) < 1e-20
    turn = torch.from_numpy(random_rotations(3, np.random.default_rng(1)))
    assert center_loss((away - center) @ turn.mT + center, center).max() < 1e-20  # turned about its own centre
    drift = torch.tensor([[3.0, 0.0, -4.0]], dtype=torch.float64)
    x = (away + drift[:, None]).requires_grad_()
    value = center_loss(x, center)
    torch.testing.assert_close(value, torch.full((1,), 25.0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(x.detach() - 0.5 * len(away) * gradient, away[None])  # straight home


def test_r1():
    x = displaced(TEMPLATE)
    slow = torch.stack([bond_loop(one, START, TEMPLATE.bonded.tolist()) for one in x])
    assert_same(bond_loss(x, LENGTHS, BONDED), slow, x)


@pytest.mark.parametrize("omega", [0.0, 0.25, 1.0])
def test_r2(omega):
    x = displaced(TEMPLATE)
    slow = torch.stack([rigidity_loop(one, START, TEMPLATE.chain_position, omega) for one in x])
    assert_same(rigidity(omega)(x), slow, x, 1e-5)  # template distances and weights are kept in float32


def test_gradcheck():
    x = displaced(TEMPLATE, 1)
    r2 = rigidity()
    for function in (lambda x: center_loss(x, CENTER), lambda x: bond_loss(x, LENGTHS, BONDED), r2):
        assert torch.autograd.gradcheck(function, x)


def test_one_chain_is_the_paper_to_the_letter():
    """Without breaks the distance along the chain is |i - j|."""
    template = template_from_atoms(helix(12), "test")[0]
    x, start = displaced(template), torch.from_numpy(template.positions)
    r2 = Rigidity(start, torch.from_numpy(template.chain_position), 0.25, 0.0).double()
    assert_same(r2(x), torch.stack([rigidity_loop(one, start, np.arange(12), 0.25) for one in x]), x, 1e-5)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_the_band_leaves_out_no_more_than_its_tolerance(tolerance):
    template = template_from_atoms(helix(60), "test")[0]
    x, start = displaced(template), torch.from_numpy(template.positions)
    position = torch.from_numpy(template.chain_position)
    full, banded = (Rigidity(start, position, 0.25, t).double() for t in (0.0, tolerance))
    assert len(banded.weight) == int(-np.log(tolerance) / 0.25) < len(full.weight) == 59
    assert (banded.weight[banded.weight > 0] >= tolerance).all()
    assert torch.equal(banded.weight[banded.weight > 0], full.weight[full.weight >= tolerance])
    square = 0.5 * torch.cdist(x, x).square().clamp_min(1e-9).log() - torch.cdist(start, start).clamp_min(1e-9).log()
    left_out = tolerance * square.triu(1).square().sum(dim=(1, 2))  # an upper bound
    assert ((full(x) - banded(x) >= 0) & (full(x) - banded(x) <= left_out)).all()
    gradients = [torch.autograd.grad(r2(x).sum(), x)[0] for r2 in (full, banded)]
    assert (gradients[0] - gradients[1]).norm() < 3 * tolerance * gradients[0].norm()


def test_float32_is_accurate_enough():
    x = displaced(TEMPLATE)
    single = Rigidity(START, POSITION, 0.25, 0.0)(x.float())
    torch.testing.assert_close(single.double(), rigidity()(x), rtol=1e-5, atol=0)


def test_rigid_motions_cost_nothing():
    turn = torch.from_numpy(random_rotations(3, np.random.default_rng(0)))
    x = START @ turn.mT + 5.0
    assert bond_loss(x, LENGTHS, BONDED).abs().max() < 1e-20
    assert rigidity()(x).max() < 1e-10
    turned = (START - CENTER) @ turn.mT + CENTER
    assert center_loss(turned, CENTER).max() < 1e-20
    torch.testing.assert_close(center_loss(turned + 2.0, CENTER), torch.full((3,), 12.0, dtype=torch.float64))


def test_chains_move_freely_and_a_gap_is_looser_than_a_bond():
    is_b = torch.from_numpy(TEMPLATE.chain_ids == "B")
    moved = START.clone()[None]
    moved[:, is_b] += 20.0
    assert bond_loss(moved, LENGTHS, BONDED) < 1e-20 and rigidity()(moved) < 1e-10
    after_gap = torch.from_numpy((TEMPLATE.chain_ids == "A") & (TEMPLATE.residue_numbers > 5))
    moved = START.clone()[None]
    moved[:, after_gap] += 2.0
    assert bond_loss(moved, LENGTHS, BONDED) < 1e-20
    assert rigidity()(moved) > 1e-3  # still one chain, four numbers apart
    weight = rigidity(0.25).weight
    torch.testing.assert_close(weight[0, 4].item(), float(np.exp(-0.25 * 4)), rtol=1e-6, atol=0)
    assert (weight[0, :-1][~BONDED] < 0.5).all() and (weight[0, :-1][BONDED] > 0.7).all()
