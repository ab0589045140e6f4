"""Domains and hinges of molecules that move as told: rigid, hinged, bending."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from molecules import three_helices
from scipy.spatial.transform import Rotation

from cryoatom.ensemble.domain_plots import plot_domains, plot_fluctuation
from cryoatom.ensemble.domain_search import LEAST_SEGMENT
from cryoatom.ensemble.domains import Domains, distance_fluctuations, find_domains
from cryoatom.ensemble.hinges import screw_motions
from cryoatom.ensemble.rigid_bodies import distance_fluctuation, divide_chains, frame_of
from cryoatom.structure.template import Template, template_from_atoms

WITHIN = 5


def bundle(helices: int, length: int = 20) -> np.ndarray:
    """C-alphas of helices side by side, up and down, in a zigzag."""
    step = np.arange(length)
    angle, height = np.deg2rad(100 * step), 1.5 * (step - (length - 1) / 2)
    helix = np.stack([2.3 * np.cos(angle), 2.3 * np.sin(angle), height], axis=1)
    places = [[9 * number, 5 * (number % 2), 0] for number in range(helices)]
    return np.concatenate([helix * [1, 1 - 2 * (n % 2), 1 - 2 * (n % 2)] + place for n, place in enumerate(places)])


def hinged(
    borders: list[int], angles: list[float], *, noise: float, images: int = 60, helices: int = 8, seed: int = 0
) -> np.ndarray:
    """Conformations of a bundle whose chain turns as a rigid body after each border, by up to the angles (degrees)."""
    generator = np.random.default_rng(seed)
    base = bundle(helices)
    found = np.repeat(base[None], images, axis=0)
    for number, (border, angle) in enumerate(zip(borders, angles, strict=True)):
        axis = np.eye(3)[1 + number % 2]
        turns = Rotation.from_rotvec(np.deg2rad(generator.uniform(-angle, angle, images))[:, None] * axis)
        pivot = found[:, border - 1 : border + 1].mean(axis=1, keepdims=True)
        found[:, border:] = pivot + np.einsum("nij,nrj->nri", turns.as_matrix(), found[:, border:] - pivot)
    return moved(found + generator.normal(0, noise, found.shape), seed)


def moved(positions: np.ndarray, seed: int = 0) -> np.ndarray:
    """Turn and shift each conformation at random."""
    generator = np.random.default_rng(seed + 1)
    turns = Rotation.random(len(positions), rng=generator).as_matrix()
    return positions @ turns.transpose(0, 2, 1) + generator.normal(0, 5, (len(positions), 1, 3))


def borders_of(domains: Domains) -> np.ndarray:
    return np.flatnonzero(np.diff(domains.labels)) + 1


@pytest.mark.parametrize("noise", [0.3, 0.6, 1.0])
@pytest.mark.parametrize(
    ("borders", "angles"), [([60], [25.0]), ([100], [20.0]), ([45, 105], [25.0, 25.0]), ([60, 100], [30.0, 40.0])]
)
def test_hinged_bodies_are_found_with_their_borders(borders: list[int], angles: list[float], noise: float) -> None:
    domains = find_domains(hinged(borders, angles, noise=noise), np.arange(160))
    assert len(domains) == len(borders) + 1
    assert np.abs(borders_of(domains) - borders).max() <= WITHIN
    assert domains.rigidity == pytest.approx(noise * np.sqrt(3), rel=0.15)
    for hinge, border in zip(domains.hinges, borders, strict=True):
        assert hinge.residues[0] - WITHIN <= border <= hinge.residues[-1] + WITHIN
        assert (np.diff(hinge.residues) == 1).all()
        assert hinge.domains == (domains.labels[border - WITHIN - 1], domains.labels[border + WITHIN])


def test_a_domain_of_two_pieces_is_one() -> None:
    """The middle of the chain turns about an axis through both its ends, as a lid."""
    generator, base = np.random.default_rng(3), bundle(8)
    axis = base[[100]] - base[[60]]
    turns = Rotation.from_rotvec(generator.uniform(-0.6, 0.6, (60, 1)) * axis / np.linalg.norm(axis)).as_matrix()
    found = np.repeat(base[None], 60, axis=0)
    found[:, 60:100] = base[60] + np.einsum("nij,rj->nri", turns, base[60:100] - base[60])
    domains = find_domains(moved(found + generator.normal(0, 0.4, found.shape)), np.arange(160))
    assert np.abs(borders_of(domains) - [60, 100]).max() <= WITHIN
    assert domains.labels[0] == domains.labels[-1] == 1 and domains.labels[80] == 2
    assert [hinge.domains for hinge in domains.hinges] == [(1, 2), (2, 1)]


@pytest.mark.parametrize("noise", [0.01, 0.5, 2.0])
def test_a_rigid_body_is_one_domain(noise: float) -> None:
    domains = find_domains(hinged([], [], noise=noise), np.arange(160))
    assert len(domains) == 1 and not domains.hinges and not domains.motions
    assert domains.captured == pytest.approx(0, abs=1e-9)
    assert domains.rigidity[0] == pytest.approx(noise * np.sqrt(3), rel=0.05)


def test_a_body_without_any_motion_is_one_domain() -> None:
    domains = find_domains(np.repeat(bundle(8)[None], 5, axis=0).astype(np.float32), np.arange(160))
    assert len(domains) == 1 and (domains.rigidity < 1e-3).all()


def test_a_bending_rod_has_few_domains_one_after_the_other() -> None:
    """Nothing in it is rigid: the answer is a division of the chain, not scattered pieces."""
    generator, places = np.random.default_rng(0), np.arange(150) * 1.5
    bends = generator.uniform(-0.006, 0.006, 60)[:, None]
    rod = np.stack([np.sin(bends * places) / bends, (1 - np.cos(bends * places)) / bends, 0 * bends * places], axis=2)
    domains = find_domains(moved(rod + generator.normal(0, 0.3, rod.shape)), np.arange(150))
    assert 2 <= len(domains) <= 4
    assert len(borders_of(domains)) == len(domains) - 1
    assert np.bincount(domains.labels)[1:].min() > 20


@pytest.mark.parametrize("length", [5.0, 20.0, 40.0])
def test_what_bends_at_random_has_no_domains(length: float) -> None:
    """Displacements are a smooth random field in space, as a decoder might make them, not a motion of bodies."""
    base = bundle(8)
    covariance = np.exp(-np.square(base[:, None] - base).sum(axis=2) / (2 * length**2)) + 1e-6 * np.eye(160)
    fields = np.linalg.cholesky(covariance) @ np.random.default_rng(0).normal(0, 0.7, (60, 160, 3))
    assert len(find_domains(base + fields, np.arange(160))) == 1


def test_a_small_domain_is_found_beside_a_large_one_that_is_less_rigid() -> None:
    domains = find_domains(hinged([30], [35.0], noise=0.7, helices=30), np.arange(600))
    assert len(domains) == 2 and abs(borders_of(domains)[0] - 30) <= WITHIN and domains.labels[0] == 2


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_number_of_domains_can_be_asked_for(count: int) -> None:
    domains = find_domains(hinged([60, 100], [30.0, 40.0], noise=0.3), np.arange(160), count=count)
    assert len(domains) == min(count, 3) == len(set(domains.labels.tolist()))  # a fourth is not there
    sizes = np.bincount(domains.labels)[1:]
    assert sizes[0] == sizes.max() and len(domains.motions) == len(domains) - 1


@pytest.mark.parametrize(("images", "residues"), [(1, 160), (2, 160), (10, 5), (3, 1), (4, 2), (10, 30)])
@pytest.mark.parametrize("count", [None, 3])
def test_few_images_or_residues_do_not_break_it(images: int, residues: int, count: int | None) -> None:
    conformations = hinged([60], [25.0], noise=0.3, images=images)[:, :residues]
    domains = find_domains(conformations.astype(np.float32), np.arange(residues), count=count)
    assert domains.labels.shape == (residues,) and set(domains.labels.tolist()) == set(range(1, len(domains) + 1))
    assert np.isfinite(domains.rigidity).all() and 0 <= domains.captured <= 1


def test_chains_that_turn_against_each_other_are_domains_without_a_hinge() -> None:
    chain_position = np.concatenate([np.arange(60), 1060 + np.arange(100)])
    domains = find_domains(hinged([60], [30.0], noise=0.5), chain_position)
    assert borders_of(domains).tolist() == [60] and domains.labels[0] == 2
    assert not domains.hinges


def test_every_residue_of_a_large_molecule_gets_its_domain() -> None:
    """Of 1,200 residues every third is worked on."""
    domains = find_domains(hinged([500], [25.0], noise=0.5, helices=60, images=40), np.arange(1200))
    assert np.abs(borders_of(domains) - 500).max() <= WITHIN


def test_only_the_rows_that_count_are_looked_at() -> None:
    both = np.concatenate([hinged([60], [25.0], noise=0.3), hinged([], [], noise=0.3)])
    assert len(find_domains(both, np.arange(160), rows=np.arange(60))) == 2
    assert len(find_domains(both, np.arange(160), rows=np.arange(60, 120))) == 1
    with pytest.raises(ValueError, match="at least one"):
        find_domains(both, np.arange(160), rows=np.arange(0))


def test_rigid_motions_of_the_conformations_change_nothing() -> None:
    conformations = hinged([60, 100], [30.0, 40.0], noise=0.3)
    first, second = (find_domains(some, np.arange(160)) for some in (conformations, moved(conformations, seed=7)))
    assert np.array_equal(first.labels, second.labels)
    assert first.rigidity == pytest.approx(second.rigidity)
    assert [motion.angle_deg for motion in first.motions] == pytest.approx([m.angle_deg for m in second.motions])


@pytest.mark.parametrize("angle", [1.0, 40.0, 150.0])
def test_a_screw_motion_is_recovered(angle: float) -> None:
    start, labels = bundle(4), np.repeat([1, 2], 40)
    axis, point = np.array([2.0, -1, 2]) / 3, np.array([20.0, 5, -3])
    turn = Rotation.from_rotvec(np.deg2rad(angle) * axis)
    end = start.copy()
    end[40:] = turn.apply(start[40:] - point) + point + 1.7 * axis
    (motion,) = screw_motions(start, moved(end[None])[0], labels=labels)
    assert (motion.domain, motion.angle_deg) == (2, pytest.approx(angle, abs=1e-6))
    assert motion.axis == pytest.approx(axis, abs=1e-6) and motion.translation == pytest.approx(1.7, abs=1e-6)
    assert np.linalg.norm(np.cross(motion.point - point, axis)) < 1e-4  # on the axis
    assert (motion.point - start[40:].mean(axis=0)) @ axis == pytest.approx(0, abs=2)  # beside the domain


def test_a_shift_without_rotation_is_its_own_axis() -> None:
    start, end = bundle(4), bundle(4)
    end[40:] += [0, 3, 4]
    (motion,) = screw_motions(start, end, labels=np.repeat([1, 2], 40))
    assert motion.angle_deg == pytest.approx(0, abs=1e-4) and motion.translation == pytest.approx(5)
    assert motion.axis == pytest.approx([0, 0.6, 0.8])


def test_distances_fluctuate_as_their_standard_deviation() -> None:
    sample = torch.from_numpy(hinged([20], [25.0], noise=0.3, helices=2, images=30))
    expected = torch.cdist(sample, sample).std(dim=0, correction=0)
    assert distance_fluctuation(sample) == pytest.approx(expected.numpy(), abs=1e-5)
    residues, matrix = distance_fluctuations(hinged([600], [25.0], noise=0.1, helices=60, images=5), sample=3)
    assert np.array_equal(residues, np.arange(0, 1200, 3)) and matrix.shape == (400, 400)
    assert matrix[:200, :200].max() < 1 < matrix[0, -1]
    assert np.array_equal(frame_of(sample, np.arange(40))[0].shape, (30, 3, 3))


def test_chains_are_divided_at_the_least_cost() -> None:
    """Against all divisions of a short chain in two."""
    generator = np.random.default_rng(1)
    for _ in range(20):
        costs = generator.random((14, 2))
        found = divide_chains(costs, np.zeros(14, dtype=np.int64), least=LEAST_SEGMENT, penalty=0.0)
        trials = [np.repeat(order, [at, 14 - at]) for order in ([0, 1], [1, 0]) for at in (0, *range(5, 10))]
        best = min(costs[np.arange(14), trial].sum() for trial in trials)
        assert costs[np.arange(14), found].sum() == pytest.approx(best)


def test_segments_end_at_breaks_and_short_ones_do_not_pay() -> None:
    costs = np.ones((30, 2))
    costs[:, 1] = 2
    costs[10:13] = [1.5, 1]  # too short
    costs[26:] = [5, 1]  # a piece of its own
    pieces = np.repeat([0, 1], [26, 4])
    assert divide_chains(costs, pieces, least=5, penalty=0.0).tolist() == [0] * 26 + [1] * 4


@pytest.fixture
def template() -> Template:
    return template_from_atoms(three_helices(), "made")[0]


def test_plots_are_drawn_of_one_and_of_several_domains(template: Template) -> None:
    residues = len(template)
    conformations = template.positions + np.random.default_rng(0).normal(0, 0.4, (20, residues, 3))
    fluctuation = np.linspace(0.2, 2.0, residues)
    for count in (1, 2):
        domains = find_domains(conformations, template.chain_position, count=count)
        assert isinstance(plot_fluctuation(template, fluctuation, domains=domains, uncertainty=fluctuation / 4), Figure)
        assert isinstance(plot_domains(np.zeros((residues, residues)), domains.labels), Figure)
        assert isinstance(plot_fluctuation(template, fluctuation, domains=domains), Figure)
