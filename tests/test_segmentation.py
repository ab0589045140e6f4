"""The mixture on the line of residues: eq. 6 of cryoSPHERE, its posterior, and what `--segments` says."""

import math

import numpy as np
import pytest
import torch
from molecules import helix, join

from cryoatom.decoders.segmentation import Segmentation, Stretch, parse_segments
from cryoatom.structure.template import Template, template_from_atoms


def two_chains() -> Template:
    """A: 1-12; B: 1-8 and, after a gap, 12-15."""
    second = helix(15, chain_ids="B")
    second = second[~np.isin(second.residue_numbers, [9, 10, 11])]
    return template_from_atoms(join(helix(12), second), "test")[0]


TEMPLATE = two_chains()


def whole(residues: int, count: int) -> list[Stretch]:
    return [Stretch(np.arange(residues), count)]


def shares(residues: int, count: int, tau: float = 20.0) -> torch.Tensor:
    return Segmentation(whole(residues, count), tau)().detach()


def stretches(spec: str) -> list[tuple[list[int], int]]:
    return [(part.residues.tolist(), part.count) for part in parse_segments(spec, TEMPLATE)]


def test_number_is_over_all_residues_and_chain_over_each():
    assert stretches("6") == [(list(range(24)), 6)]
    assert stretches("chain:3") == [(list(range(12)), 3), (list(range(12, 24)), 3)]


def test_ranges_part_and_the_rest_stays_in_pieces():
    found = stretches("A:4-9=2,B:5-13=3")
    assert found == [([0, 1, 2], 1), (list(range(3, 9)), 2), ([9, 10, 11], 1), ([12, 13, 14, 15], 1),
                     ([16, 17, 18, 19, 20, 21], 3), ([22, 23], 1)]  # fmt: skip
    assert stretches("1-12=2") == [(list(range(12)), 2), (list(range(12, 21)), 2), ([21, 22, 23], 1)]
    segmentation = Segmentation(parse_segments("A:4-9=2,B:5-13=3", TEMPLATE), 20.0)
    share = segmentation().detach()
    assert share.shape == (24, 9)
    for residues, columns in (([0, 1, 2], [0]), (range(3, 9), [1, 2]), (range(16, 22), [5, 6, 7]), ([22, 23], [8])):
        torch.testing.assert_close(share[list(residues)][:, columns].sum(dim=1), torch.ones(len(residues)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "--segments is empty: expected a number, such as 6; chain:3; or ranges such as A:1-120=3,B:5-90=2"),
        (" ", "is empty"),
        ("six", "cannot read 'six' in --segments six: expected a number"),
        ("A:1-4=2=3,", "cannot read"),
        ("A:1-4", "cannot read"),
        ("0", "asks for 0 segments in 24 residues: give 1 to 24$"),
        ("A:9-4=2", "the range A:9-4 is reversed: give 4-9"),
        ("A:1-13=2", "A:1-13 reaches beyond .* chain A 1-12, chain B 1-15"),
        ("A:0-9=2", "reaches beyond"),
        ("1-16=2", "reaches beyond"),
        ("chain:x", "cannot read"),
        ("25", "give 1 to 24"),
        ("chain:-2", "asks for -2"),
        ("chain:13", "asks for 13 segments in 12 residues of chain A"),
        ("A:1-4=5", "asks for 5 segments in 4"),
        ("C:1-4=2", "selects no residue; the structure has"),
        ("A:40-50=2", "selects no residue"),
        ("A:1-6=2,A:6-9=2", "overlap"),
        ("A:1-x=2", "cannot read"),
    ],
)
def test_what_cannot_be_is_said(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_segments(spec, TEMPLATE)
    assert spec in str(caught.value)


@pytest.mark.parametrize("tau", [0.3, 1.0, 20.0])
def test_shares_are_those_of_equation_6(tau):
    torch.manual_seed(0)
    segmentation = Segmentation(whole(9, 3), tau).double()
    torch.nn.init.normal_(segmentation.nu)
    mean, before, logit = segmentation.nu.detach()
    width = torch.where(before > 0, before + 1, before.exp())
    weight = logit.exp() / logit.exp().sum()
    index = (np.arange(9) - 4) / np.arange(9).std()
    expected = torch.zeros(9, 3, dtype=torch.float64)
    for i in range(9):
        for m in range(3):
            density = math.exp(-0.5 * ((index[i] - mean[m]) / width[m]) ** 2) / (width[m] * math.sqrt(2 * math.pi))
            expected[i, m] = (density * weight[m]) ** tau
    expected /= expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(segmentation().detach(), expected, atol=1e-6, rtol=1e-5)  # the line is in float32


@pytest.mark.parametrize(("residues", "count"), [(1, 1), (7, 7), (100, 6), (600, 25)])
def test_rows_sum_to_one_and_segments_start_even(residues, count):
    share = shares(residues, count)
    torch.testing.assert_close(share.sum(dim=1), torch.ones(residues))
    sizes = torch.bincount(share.argmax(dim=1), minlength=count)
    assert sizes.max() - sizes.min() <= 2
    assert (share.argmax(dim=1).diff() >= 0).all()  # in order along the chain


def test_large_tau_parts_sharply():
    soft, hard = shares(101, 4, tau=1.0), shares(101, 4, tau=2000.0)
    assert soft.max(dim=1).values.min() < 0.5
    assert hard.max(dim=1).values.median() > 0.999
    assert (soft.argmax(dim=1) == hard.argmax(dim=1)).all()


def test_scale_of_the_line_does_not_depend_on_the_protein():
    few, many = shares(31, 3), shares(301, 3)
    torch.testing.assert_close(few[15], many[150], atol=1e-3, rtol=0)


def test_divergence_is_that_of_torch_distributions():
    torch.manual_seed(0)
    segmentation = Segmentation(whole(30, 5), 20.0)
    for weight in segmentation.parameters():
        torch.nn.init.normal_(weight)
    posterior = torch.distributions.Normal(segmentation.nu, segmentation.log_beta.exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).sum()
    torch.testing.assert_close(segmentation.divergence(), expected)
    for weight in segmentation.parameters():
        torch.nn.init.zeros_(weight)
    assert segmentation.divergence() == 0  # at the prior


def test_draws_are_those_of_the_posterior_and_of_the_generator():
    segmentation = Segmentation(whole(40, 4), 20.0)
    means = segmentation()
    drawn = []
    for seed in (1, 1, 2):
        segmentation.draw(torch.Generator().manual_seed(seed))
        drawn.append(segmentation())
        torch.testing.assert_close(segmentation(), drawn[-1], atol=0, rtol=0)  # until the next draw
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any() and (drawn[0] != means).any()
    gradient = torch.autograd.grad(drawn[2][20, 0], list(segmentation.parameters()))
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradient)
    segmentation.draw(None)
    assert (segmentation() == means).all()


def test_extreme_parameters_stay_finite():
    segmentation = Segmentation(whole(50, 3), 20.0)
    with torch.no_grad():
        segmentation.nu[1] = torch.tensor([-60.0, 0.0, 40.0])
        segmentation.nu[0, 0] = 900.0
    share = segmentation()
    assert torch.isfinite(share).all()
    (gradient,) = torch.autograd.grad(share.square().sum(), segmentation.nu)
    assert torch.isfinite(gradient).all()
