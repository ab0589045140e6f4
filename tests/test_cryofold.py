"""Cryofold: free side chains, their tethers, one conformation from any start, beads that narrow."""

from functools import cache

import numpy as np
import pytest
import torch
from fits import settings, small_template, trainer_of, write_dataset
from molecules import data_folder

from cryoatom.analysis.run import load
from cryoatom.analysis.volumes import bead_density
from cryoatom.catalog import DECODERS, GNN_LAYERS
from cryoatom.decoders import build_decoder
from cryoatom.files.structure import read_atoms
from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BACKBONE_ELECTRONS, BeadModel, bead_layout
from cryoatom.imaging.project import render_dense
from cryoatom.imaging.residues import residue_electrons
from cryoatom.structure.graph import build_graph
from cryoatom.structure.scaffold import side_chain_reach, side_chain_residues, side_chain_scaffold
from cryoatom.structure.template import Template, read_template
from cryoatom.train_config import TrainConfig
from cryoatom.training.restraints import SideChainTether
from cryoatom.training.train import train
from cryoatom.training.trainer import Schedule

COUNT = 41


@cache
def adk() -> Template:
    return read_template(data_folder() / "adk_open.pdb")[0]


@pytest.fixture(scope="module")
def folder(folder):
    with trainer_of(settings(folder)):  # fills the cache
        return folder


def test_beads_weigh_what_their_residues_do():
    layout = bead_layout(adk(), "cryofold")
    weight = np.bincount(layout.residue, layout.electrons)
    np.testing.assert_allclose(weight, residue_electrons(adk().residue_names))
    is_backbone = layout.kind == 0
    assert set(layout.electrons[is_backbone].tolist()) == {BACKBONE_ELECTRONS, 30.0}  # and whole glycines
    assert (layout.electrons[~is_backbone] > 0).all()


def test_beads_share_one_amplitude_and_one_width():
    layout = bead_layout(adk(), "cryofold")
    beads = BeadModel(layout, adk(), 0.5)
    assert beads.variances().unique().tolist() == pytest.approx([3.71**2])
    ratio = beads.amplitudes().detach() / torch.from_numpy(layout.electrons)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    with torch.no_grad():
        beads.log_variance.sub_(1.0)
        beads.log_scale.add_(0.7)
    assert len(beads.variances().unique()) == 1
    assert beads.amplitudes().sum().item() == pytest.approx(np.exp(0.7) * layout.electrons.sum(), rel=1e-5)


def test_beads_are_where_the_points_are_and_their_image_is_the_direct_models():
    template = small_template()
    scaffold = side_chain_scaffold(template, build_graph(template))
    beads = BeadModel(bead_layout(template, "cryofold"), template, 0.5)
    generator = np.random.default_rng(0)
    points = torch.from_numpy(scaffold.positions + generator.normal(size=(3, *scaffold.positions.shape))).float()
    rotations = torch.from_numpy(random_rotations(3, generator)).float()
    torch.testing.assert_close(beads.place(points), points)
    centers = (rotations @ points.mT).mT[..., :2]
    torch.testing.assert_close(beads.project(points, rotations), centers, atol=1e-4, rtol=1e-5)
    expected = render_dense(centers, beads.amplitudes(), beads.variances(), 24, 2.0)
    found = beads.render(points, rotations, 24, 2.0)
    assert (found - expected).abs().max() < 1e-3 * expected.max()


def test_points_move_along_the_gradient_of_their_own_beads_alone():
    template = small_template()
    beads = BeadModel(bead_layout(template, "cryofold"), template, 0.5)
    points = torch.from_numpy(side_chain_scaffold(template, build_graph(template)).positions)[None].float()
    points.requires_grad_()
    (gradient,) = torch.autograd.grad(beads.place(points)[0, 20].sum(), points)
    assert torch.nonzero(gradient.abs().sum(dim=-1)[0])[:, 0].tolist() == [20]


def tether(weight: float = 2.0, reach: float = 1.5) -> SideChainTether:
    return SideChainTether(torch.tensor([0, 2]), 4, reach=reach, weight=weight)


def points_at(distances: list[float]) -> torch.Tensor:
    alphas = torch.arange(12.0, dtype=torch.float64).view(4, 3)
    direction = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    sides = alphas[[0, 2]] + torch.tensor(distances, dtype=torch.float64)[:, None] * direction
    return torch.cat([alphas, sides])[None]


@pytest.mark.parametrize(
    ("distances", "expected"), [([0.0, 1.5], 0.0), ([1.4, 3.5], 4.0), ([2.5, 3.5], 5.0), ([0.0, 11.5], 100.0)]
)
def test_a_tether_is_slack_within_its_length_and_a_spring_beyond(distances, expected):
    assert tether()(points_at(distances)).tolist() == pytest.approx([2.0 / 4 * expected], rel=1e-6, abs=1e-9)


def test_tethers_have_one_value_per_image_and_a_gradient_where_points_meet():
    points = torch.cat([points_at([0.0, 3.0]), points_at([9.0, 0.0])]).requires_grad_()
    value = tether()(points)
    assert value.shape == (2,)
    (gradient,) = torch.autograd.grad(value.sum(), points)
    assert gradient.isfinite().all() and (gradient[0, 4] == 0).all() and (gradient[0, 5] != 0).any()
    assert torch.autograd.gradcheck(tether(), points_at([0.7, 3.0]).requires_grad_())


def test_tethers_are_as_stiff_as_bonds_and_reach_as_far_as_the_templates_side_chains(folder):
    with trainer_of(settings(folder, beads="cryofold", r1=7.0)) as trainer:
        found = trainer.objective.others["side_chains"]
        assert isinstance(found, SideChainTether)
        assert (found.weight, found.reach) == (7.0, pytest.approx(side_chain_reach(small_template()), abs=1e-3))
        np.testing.assert_array_equal(found.residue.numpy(), side_chain_residues(small_template()))
        assert (found(trainer.place(np.arange(3))) < 1e-6).all()


def test_beads_narrow_over_the_first_half_of_a_run():
    schedule = Schedule(10, 0, 0.4, lr=1.0, bead_lr=1.0, z_lr=1.0, blur=3.0)
    extra = [schedule.extra_variance(epoch) for epoch in range(10)]
    assert extra[0] == 9.0
    assert all(after < before for before, after in zip(extra[:5], extra[1:6], strict=True))
    assert extra[5:] == [0.0] * 5
    assert Schedule(10, 0, 0.4, lr=1.0, bead_lr=1.0, z_lr=1.0).extra_variance(0) == 0.0
    assert schedule.ended_early(3).extra_variance(schedule.ended_early(3).epochs) == 0.0


def test_wider_beads_are_those_of_a_blurred_image_and_nothing_is_saved_of_it():
    beads = BeadModel(bead_layout(adk(), "two"), adk(), 1.0)
    narrow, saved = beads.variances().detach(), {k: v.clone() for k, v in beads.state_dict().items()}
    beads.widen(4.0)
    torch.testing.assert_close(beads.variances().detach(), narrow + 4.0)
    assert beads.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in beads.state_dict().items())
    beads.widen(0.0)
    torch.testing.assert_close(beads.variances().detach(), narrow, atol=0, rtol=0)


@pytest.mark.parametrize("start", [3.0, "random"])
@pytest.mark.parametrize("beads", ["cryofold", "ca"])
def test_a_fit_from_elsewhere_knows_the_templates_chain_and_not_its_coordinates(tmp_path, folder, start, beads):
    """Two templates that differ in their coordinates alone are one and the same objective."""
    other = small_template().with_positions(small_template().atoms.positions[:, [1, 2, 0]] * [1.0, 1.0, -1.0])
    for name, value in state_of(settings(folder, beads=beads, start=start), small_template()).items():
        if not name.endswith(("template_center", "log_distance")):  # the start's own; that of R2, which is left out
            torch.testing.assert_close(value, state_of(settings(folder, beads=beads, start=start), other)[name])
    with trainer_of(settings(folder, beads=beads, start=start)) as trainer:
        assert trainer.objective.weights.r2 == 0
        assert (trainer.objective.bond_lengths == 3.8).all()
        alphas = trainer.model.start[: len(small_template())]
        torch.testing.assert_close(trainer.objective.template_center, alphas.mean(dim=0))


def state_of(config, template: Template) -> dict[str, torch.Tensor]:
    from cryoatom.training.assemble import build_objective

    return dict(build_objective(config, template, 2.0).named_buffers())


@pytest.mark.parametrize("beads", ["cryofold", "atoms"])
def test_a_homogeneous_run_leaves_one_structure(folder, tmp_path, beads):
    config = settings(
        folder, tmp_path / "run", beads=beads, homogeneous=True, start=0.5 if beads == "cryofold" else "template",
        blur=2.0, lr=0.05, num_epochs=4,
    )  # fmt: skip
    run = train(config)
    conformations = np.load(run.conformations)
    assert conformations.shape == (COUNT, len(small_template()), 3)
    assert (conformations == conformations[0]).all()
    atoms = read_atoms(run.homogeneous)
    np.testing.assert_allclose(atoms.positions, conformations[0], atol=1e-3)
    np.testing.assert_array_equal(atoms.residue_numbers, small_template().residue_numbers)
    assert (atoms.b_factors == 0).all()
    assert not run.uncertainty.exists() and not run.trajectory.exists()
    opened = load(run.path)
    np.testing.assert_allclose(opened.decode(opened.latents[:2]), conformations[:2], atol=2e-3)


def test_a_run_with_free_side_chains_goes_on_to_the_bit_and_its_volume_has_them(folder, tmp_path):
    given = {"beads": "cryofold", "zdim": 2, "blur": 2.0, "decoder": "mlp"}
    whole = train(settings(folder, tmp_path / "whole", **given))
    (tmp_path / "part").mkdir()
    for name in ("weights.1.pt", "z.1.npy"):
        (tmp_path / "part" / name).write_bytes((whole.path / name).read_bytes())
    rest = train(settings(folder, tmp_path / "part", load="latest", **given))
    np.testing.assert_array_equal(np.load(rest.conformations), np.load(whole.conformations))
    run = load(whole.path)
    points = run.place(run.latents[:3])
    assert points.shape == (3, 2 * len(small_template()), 3)
    np.testing.assert_allclose(points[:, : len(small_template())], run.conformations[:3], atol=2e-3)
    density = bead_density(run.model.beads, points, 32, 2.0)
    assert float(density.sum()) * 8.0 == pytest.approx(float(run.model.beads.amplitudes().sum()), rel=0.02)


def test_side_chains_are_searched_and_drawn_with_unknown_poses(tmp_path):
    write_dataset(tmp_path, 60, has_poses=False)
    config = settings(
        tmp_path, beads="cryofold", poses="esl", num_epochs=2, search_epochs=1, rotations=100, classes=2,
        search_images=20, max_shift=2.0, zdim=2, r2=0.0, force=True, uncertainty=False, z_passes=0, held_out=0.0,
    )  # fmt: skip
    assert np.isfinite(np.load(train(config).conformations)).all()


@pytest.mark.parametrize(
    "changes",
    [{"decoder": name, "homogeneous": name == "constant"} for name in DECODERS]
    + [{"gnn_layer": layer} for layer in GNN_LAYERS],
)
def test_every_decoder_moves_side_chains_too(changes):
    template = small_template()
    given = {"particles": "p.star", "template": "t.cif", "outdir": "run", "beads": "cryofold", "zdim": 2}
    config = TrainConfig.model_validate(given | changes)
    decoder = build_decoder(config, side_chain_scaffold(template, build_graph(template)))
    moved = decoder(torch.randn(3, 2))
    assert moved.shape == (3, 2 * len(template), 3)
    assert (moved == 0).all()
