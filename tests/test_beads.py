"""Beads against the template's own atoms, and against what rigid motions do to them."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from molecules import data_folder, helix, join
from reference import atom_beads

from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout, frame_triples, local_frames
from cryoatom.imaging.residues import AMINO_ACIDS, residue_electrons, residue_types, residue_widths
from cryoatom.structure.template import Template, read_template, template_from_atoms

KINDS = ("atoms", "two", "ca")


@cache
def adk() -> Template:
    return read_template(data_folder() / "adk_closed.pdb")[0]


@cache
def broken() -> Template:
    """A helix with a gap, then two residues, then one, then another chain: every kind of piece."""
    atoms = helix(21)
    kept = atoms[~np.isin(atoms.residue_numbers, [7, 8, 16, 17, 20])]
    return template_from_atoms(join(kept, helix(5, chain_ids="B", names=("N", "CA", "C", "O"))), "test")[0]


def model(template: Template, kind: str, minimum_width: float = 0.5) -> BeadModel:
    torch.manual_seed(0)
    return BeadModel(bead_layout(template, kind), template, minimum_width)


def bead_positions(beads: BeadModel, conformations: torch.Tensor) -> torch.Tensor:
    """Three-dimensional bead centres, from projections along z and along x."""
    turned = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]).to(conformations)  # brings z to the first coordinate
    xy, zy = (
        beads.project(conformations, r.expand(len(conformations), -1, -1)) for r in (torch.eye(3).to(turned), turned)
    )
    torch.testing.assert_close(xy[..., 1], zy[..., 1])
    return torch.cat([xy, zy[..., :1]], dim=-1)


def deformed(template: Template, count: int = 2, scale: float = 0.4) -> torch.Tensor:
    noise = np.random.default_rng(0).normal(scale=scale, size=(count, len(template), 3))
    return torch.from_numpy(template.positions + noise)


def test_adk_has_480_beads():
    assert [len(bead_layout(adk(), kind)) for kind in KINDS] == [480, 214 + 194, 214]  # it has 20 glycines


@pytest.mark.parametrize("template", [adk, broken])
def test_the_template_carries_its_own_atoms(template):
    layout = bead_layout(template(), "atoms")
    expected = atom_beads(template())
    assert list(zip(layout.residue, layout.kind, strict=True)) == [(b[0], b[1]) for b in expected]
    np.testing.assert_allclose(layout.electrons, [b[2] for b in expected])
    np.testing.assert_allclose(layout.variances, [b[4] / 3 for b in expected], atol=1e-9)
    x = torch.from_numpy(template().positions)[None]
    found = bead_positions(model(template(), "atoms").double(), x)
    np.testing.assert_allclose(found[0], [b[3] for b in expected], atol=1e-5)  # offsets are kept in float32
    centers = torch.tensor(np.array([b[3] for b in expected]), dtype=torch.float32)
    torch.testing.assert_close(bead_positions(model(template(), "atoms"), x.float())[0], centers, atol=2e-5, rtol=0)


def test_electrons_are_conserved():
    atoms, two, ca = (bead_layout(adk(), kind) for kind in KINDS)
    numbers = {"C": 6, "N": 7, "O": 8, "S": 16}
    assert atoms.electrons.sum() == sum(numbers[element] for element in adk().atoms.elements)
    table = residue_electrons(adk().residue_names)
    for layout in (two, ca):
        np.testing.assert_allclose(np.bincount(layout.residue, layout.electrons), table)
    heavy = np.bincount(atoms.residue, atoms.electrons)  # without hydrogens, one electron each
    hydrogens = (table - heavy)[:-1]  # the last residue has an oxygen more
    assert hydrogens.min() == 3 and hydrogens.max() == 13  # GLY, and ARG or LYS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", [adk, broken])
def test_a_rigid_motion_of_the_conformation_moves_the_beads_with_it(template, kind):
    generator = np.random.default_rng(1)
    turns, poses = (torch.from_numpy(random_rotations(2, generator)) for _ in range(2))
    shift = torch.from_numpy(generator.normal(scale=10, size=(2, 1, 3)))
    beads, x = model(template(), kind).double(), deformed(template())
    moved = beads.project(x @ turns.mT + shift, poses)
    torch.testing.assert_close(moved, beads.project(x, poses @ turns) + (shift @ poses.mT)[..., :2])


@pytest.mark.parametrize("kind", KINDS)
def test_projection_is_the_first_two_coordinates_of_the_posed_beads(kind):
    poses = torch.from_numpy(random_rotations(2, np.random.default_rng(2)))
    beads, x = model(adk(), kind).double(), deformed(adk())
    posed = bead_positions(beads, x) @ poses.mT
    torch.testing.assert_close(beads.project(x, poses), posed[..., :2])


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_the_projection(kind):
    template = template_from_atoms(helix(5), "test")[0]
    beads, poses = model(template, kind).double(), torch.from_numpy(random_rotations(2, np.random.default_rng(0)))
    assert torch.autograd.gradcheck(lambda x: beads.project(x, poses), deformed(template).requires_grad_())


def test_alpha_carbons_alone_give_two_beads(caplog):
    bare = template_from_atoms(adk().atoms[adk().atoms.names == "CA"], "test")[0]
    bead_layout(bare, "two")
    assert not caplog.records
    bead_layout(bare, "atoms")
    assert "C-alphas only: two generic beads" in caplog.text
    found, expected = bead_layout(bare, "atoms"), bead_layout(adk(), "two")
    for name in ("residue", "kind", "anchors", "offsets", "electrons"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_residue_with_a_c_alpha_alone_weighs_as_much_as_a_whole_one():
    kept = adk().atoms[(adk().atoms.names == "CA") | (adk().atoms.residue_numbers > 20)]
    mixed, whole = template_from_atoms(kept, "test")[0], adk()
    found, alone, rest = (bead_layout(*which) for which in [(mixed, "atoms"), (mixed, "ca"), (whole, "atoms")])
    for name in ("residue", "kind", "anchors", "offsets", "electrons", "variances"):
        np.testing.assert_allclose(getattr(found, name)[:20], getattr(alone, name)[:20], atol=1e-9)
        np.testing.assert_array_equal(getattr(found, name)[20:], getattr(rest, name)[rest.residue >= 20])


def test_elements_weigh_by_atomic_number_and_unknown_ones_are_named(caplog):
    atoms = helix(4)
    elements = atoms.elements.astype("U2")
    elements[:5] = ["N", "C", "C", "O", "Br"]
    template = template_from_atoms(replace(atoms, elements=elements), "test")[0]
    assert bead_layout(template, "atoms").electrons[1] == 35 and not caplog.records
    elements[4] = "Qq"
    template = replace(template, atoms=replace(template.atoms, elements=elements))
    assert bead_layout(template, "atoms").electrons[1] == 6
    assert "unknown elements, taken as carbon: Qq" in caplog.text


def test_the_generic_side_chain_bead_lies_near_the_side_chain():
    layout, beads = bead_layout(adk(), "two"), model(adk(), "two").double()
    found = bead_positions(beads, torch.from_numpy(adk().positions)[None])[0].numpy()[layout.kind == 1]
    residues = layout.residue[layout.kind == 1]
    is_side = ~np.isin(adk().atoms.names, ["N", "CA", "C", "O", "OXT"])
    truth = np.stack([adk().atoms.positions[is_side & (adk().atom_residue == r)].mean(axis=0) for r in residues])
    from_alpha = np.linalg.norm(truth - adk().positions[residues], axis=1)
    from_bead = np.linalg.norm(truth - found, axis=1)
    assert from_bead.mean() < 0.75 * from_alpha.mean()


def test_frames_are_right_handed_orthonormal_and_point_outwards():
    frames = local_frames(adk().positions, frame_triples(adk().chain_position))
    np.testing.assert_allclose(frames @ frames.swapaxes(1, 2), np.broadcast_to(np.eye(3), (214, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(frames), 1)
    beta = adk().atoms.names == "CB"
    residue = adk().atom_residue[beta]
    outwards = ((adk().atoms.positions[beta] - adk().positions[residue]) * frames[residue, 1]).sum(axis=1)
    assert np.median(outwards) > 1.0 and np.mean(outwards > 0) > 0.95


def test_triples_stay_within_a_piece_where_it_has_three_residues():
    position = broken().chain_position
    triples = frame_triples(position)
    piece = np.concatenate([[0], np.cumsum(np.diff(position) != 1)])
    size = np.bincount(piece)
    assert sorted(size) == [1, 2, 5, 6, 7]
    assert (np.diff(triples, axis=1) == 1).all()
    large = size[piece] >= 3
    assert (piece[triples[large]] == piece[large, None]).all()
    inner = large & np.append(False, np.diff(piece) == 0) & np.append(np.diff(piece) == 0, False)
    np.testing.assert_array_equal(triples[inner, 1], np.flatnonzero(inner))


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_do_not_feel_each_other(kind):
    beads, x = model(broken(), kind).double(), deformed(broken(), 1)
    numbers = np.where(broken().chain_ids == "A", broken().residue_numbers, 100)
    for first, last in [(1, 6), (9, 15), (100, 100)]:
        is_other = (numbers < first) | (numbers > last)
        moved = x.clone()
        moved[:, is_other] += 30.0 * torch.randn(int(is_other.sum()), 3, dtype=torch.float64)
        own = ~is_other[bead_layout(broken(), kind).residue]
        before, after = bead_positions(beads, x), bead_positions(beads, moved)
        torch.testing.assert_close(after[:, own], before[:, own])
        assert torch.isfinite(after).all()


def test_residues_in_a_straight_line_have_finite_beads_and_gradients():
    template = template_from_atoms(helix(6), "test")[0]
    line = torch.zeros(1, 6, 3)
    line[0, :, 0] = 3.8 * torch.arange(6)
    line.requires_grad_()
    centers = model(template, "atoms").project(line, torch.eye(3)[None])
    (gradient,) = torch.autograd.grad(centers.square().sum(), line)
    assert torch.isfinite(centers).all() and torch.isfinite(gradient).all()


def test_two_residues_are_too_few_for_frames():
    with pytest.raises(ValueError, match="at least 3 residues, the template has 2"):
        bead_layout(template_from_atoms(helix(2), "test")[0], "atoms")


def test_a_fresh_model_has_the_masses_and_widths_of_its_layout():
    for kind in KINDS:
        layout, beads = bead_layout(adk(), kind), model(adk(), kind)
        np.testing.assert_allclose(beads.amplitudes().detach(), layout.electrons, rtol=1e-6)
        np.testing.assert_allclose(beads.variances().detach(), np.maximum(layout.variances + 1, 0.25), rtol=1e-6)
    np.testing.assert_allclose(  # the papers' beads: width and electrons of the residue
        model(adk(), "ca").variances().detach().sqrt(), residue_widths(adk().residue_names), rtol=1e-6
    )


def test_what_is_learned_is_shared_by_residue_type_and_kind():
    layout, beads = bead_layout(adk(), "atoms"), model(adk(), "atoms", minimum_width=1.4)
    floor = 1.4**2
    assert (beads.variances() >= 0.98 * floor).all()  # the floor slopes by 2%, so that a bead below it can return
    with torch.no_grad():
        beads.log_scale += 1.0
        beads.log_amplitude += torch.randn(60)
    factor = (beads.amplitudes() / torch.from_numpy(layout.electrons)).detach().numpy()
    label = residue_types(adk().residue_names)[layout.residue] * 3 + layout.kind
    assert len(np.unique(label)) == len(np.unique(factor.round(5)))
    assert all(np.ptp(factor[label == group]) < 1e-5 for group in np.unique(label))


def test_narrow_beads_stay_near_the_floor_and_can_leave_it():
    layout, floor = bead_layout(adk(), "atoms"), 1.4**2
    beads = model(adk(), "atoms", minimum_width=1.4)
    with torch.no_grad():
        beads.log_variance.uniform_(-12, 2, generator=torch.Generator().manual_seed(0))
    raw = torch.exp(beads.log_variance.detach())[beads.group] + torch.from_numpy(layout.variances).float()
    found, above = beads.variances(), raw > floor
    assert above.any() and not above.all()
    torch.testing.assert_close(found[above], raw[above])
    torch.testing.assert_close(found[~above], floor - 0.02 * (floor - raw[~above]))
    assert found.min() >= 0.98 * floor
    (gradient,) = torch.autograd.grad(found.sum(), beads.log_variance)
    used = torch.bincount(beads.group, minlength=60) > 0
    assert (gradient[used] > 0).all()


def test_residue_tables_follow_the_amino_acids():
    names = np.array(AMINO_ACIDS)
    np.testing.assert_array_equal(residue_types(names), np.arange(20))
    formula_electrons = {"GLY": 30, "ALA": 38, "TRP": 98, "TYR": 86, "CYS": 54}  # C2H3NO: 12 + 3 + 7 + 8 = 30 ...
    assert {name: e for name, e in zip(names, residue_electrons(names), strict=True) if name in formula_electrons} == (
        formula_electrons
    )
    assert residue_types(np.array(["XYZ"])) == 0
    assert residue_widths(names).min() == 1.4
