"""Poses from images alone: a whole small run, and the parts of the search that a run rests on."""

import logging
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import settings, trainer_of, write_images
from molecules import three_helices
from run_files import read_metrics

from cryoatom.files.star import read_star_particles, write_star_particles
from cryoatom.geometry import random_rotations
from cryoatom.records import Poses
from cryoatom.rotations import rotation_angle
from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import (
    Template,
    center_template,
    read_template,
    template_from_atoms,
    write_template,
)
from cryoatom.train_config import TrainConfig
from cryoatom.training.feed import ImageFeed
from cryoatom.training.fit import split_rows, start_scale
from cryoatom.training.inputs import read_inputs
from cryoatom.training.orientation import Orientation
from cryoatom.training.pose_search import PoseSearch
from cryoatom.training.search_plan import search_plan
from cryoatom.training.train import train

COUNT = 48


@cache
def template() -> Template:
    return center_template(template_from_atoms(three_helices(), "three helices")[0])


def write(folder: Path, *, shift: float = 4.0) -> None:
    """Images, with little noise, of the second helix in different distances from the first."""
    generator = np.random.default_rng(0)
    truth = np.repeat(template().positions[None], COUNT, axis=0)
    truth[:, 20:34, 1] += generator.uniform(-4, 4, (COUNT, 1))
    angle, radius = generator.uniform(0, 2 * np.pi, COUNT), shift * np.sqrt(generator.uniform(0, 1, COUNT))
    shifts = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    poses = Poses(random_rotations(COUNT, generator), shifts)
    write_images(folder, template(), truth, poses, generator, 0, scale=5.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder)
    return folder


def esl(folder: Path, outdir: Path | None = None, **changes: object) -> TrainConfig:
    """Settings of a run from nothing, of a few seconds."""
    given = {"poses": "esl", "rotations": 1500, "classes": 3, "search_epochs": 2, "num_epochs": 5, "search_every": 2}
    given |= {"search_images": 2 * COUNT, "max_shift": 5.0, "batch_size": 8, "pose_lr": 3.0}
    return settings(folder, outdir, **(given | changes))


@pytest.fixture(scope="module")
def run(folder):
    """A finished run: two epochs of classes, one after the parting, one after another search."""
    return train(esl(folder))


def orientation_of(trainer, config: TrainConfig) -> Orientation:
    plan = search_plan(config)
    assert plan is not None
    return Orientation(trainer, plan, split_rows(COUNT, config.held_out, config.seed)[0])


def search_epochs(trainer, orientation: Orientation, *epochs: int) -> None:
    """Search before these epochs, without training."""
    for epoch in epochs:
        orientation.before(epoch)
        if epoch == 0:
            start_scale(trainer, orientation.rows(0))


def errors(found: Poses, true: Poses) -> tuple[np.ndarray, np.ndarray]:
    """Angles, degrees, after the best rotation of the whole, and lengths of wrong shifts, Å, of each image."""
    turn = np.einsum("nji,njk->ik", true.rotations, found.rotations)
    u, _, vt = np.linalg.svd(turn)
    gauge = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    angle = rotation_angle(torch.from_numpy(true.rotations @ gauge), torch.from_numpy(found.rotations))
    return np.rad2deg(angle.numpy()), np.linalg.norm(found.shifts - true.shifts, axis=1)


def poses_of(path: Path) -> Poses:
    poses = read_star_particles(path).poses
    assert poses is not None
    return poses


def true_poses(folder: Path) -> Poses:
    return poses_of(folder / "particles.star")


# --- a whole run ----------------------------------------------------------------------------------------------------


def test_poses_are_found_from_nothing_but_images(run, folder):
    angles, shifts = errors(poses_of(run.poses), true_poses(folder))
    assert np.median(angles) < 8 and np.median(shifts) < 1  # rotations searched lie 19° apart, shifts 2.5 Å
    assert np.mean(angles < 20) > 0.9
    moved = np.linalg.norm(true_poses(folder).shifts, axis=1)
    assert np.median(moved) > 2 and np.median(shifts[moved > 3]) < 1.2


def test_the_files_own_poses_are_not_used_and_the_same_seed_gives_the_same(run, folder, tmp_path):
    without = replace(read_star_particles(folder / "particles.star"), poses=None)
    (tmp_path / "particles.mrcs").symlink_to(folder / "particles.mrcs")
    write_star_particles(tmp_path / "particles.star", without)
    config = esl(folder, tmp_path / "run", particles=tmp_path / "particles.star", threads=2, checkpoint=5)
    again = train(config)
    for name in ("z.npy", "conformations.npy"):
        np.testing.assert_array_equal(np.load(again.path / name), np.load(run.path / name))
    first, second = (poses_of(f.poses) for f in (run, again))
    np.testing.assert_array_equal(first.rotations, second.rotations)
    np.testing.assert_array_equal(first.shifts, second.shifts)


@pytest.mark.parametrize("after", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(run, folder, tmp_path, after):
    """After one epoch the classes are there; after three the images have latents of their own, and moments."""
    resumed = RunFolder(tmp_path)
    shutil.copy(run.weights(after), resumed.weights(after))
    train(esl(folder, tmp_path, load="latest"))
    first, second = (torch.load(f.weights()) for f in (run, resumed))
    for part in ("model", "latents", "poses"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    np.testing.assert_array_equal(np.load(resumed.conformations), np.load(run.conformations))
    assert len(read_metrics(resumed)) == 5


def test_what_the_run_leaves(run):
    states = [torch.load(run.weights(epoch))["latents"] for epoch in range(1, 6)]
    assert [len(state["values"]) for state in states] == [3, 3, COUNT, COUNT, COUNT]
    for epoch, state in enumerate(states, start=1):  # a row for each image, also where images share their latent
        np.testing.assert_array_equal(np.load(run.latents(epoch)), state["values"][state["owner"]].numpy())
    assert ["held_out_nll" in row for row in read_metrics(run)] == [False, False, True, True, True]
    assert len(run.pose_report.read_text().splitlines()) == 1 + COUNT
    found = poses_of(run.poses).rotations
    identity = np.broadcast_to(np.eye(3), (COUNT, 3, 3))
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), identity, atol=1e-6)


# --- parts of it ----------------------------------------------------------------------------------------------------


def test_only_a_sample_is_searched_with_classes_and_the_others_follow(folder):
    config = esl(folder, search_images=20)
    with trainer_of(config) as trainer:
        orientation = orientation_of(trainer, config)
        training, held_out = split_rows(COUNT, config.held_out, config.seed)
        sample = orientation.rows(0)
        assert len(sample) == len(set(sample)) == 20 and set(sample) <= set(training)
        np.testing.assert_array_equal(sample, orientation.rows(1))
        np.testing.assert_array_equal(orientation.rows(2), training)
        assert [orientation.visits(epoch) for epoch in (0, 1, 2)] == [1, 1, 1]
        others = np.setdiff1d(np.arange(COUNT), sample)
        for epoch in range(2):
            search_epochs(trainer, orientation, epoch)
            assert len(trainer.latents.values) == 3
            is_posed = (trainer.poses.rotations != torch.eye(3)).any(dim=2).any(dim=1).numpy()
            np.testing.assert_array_equal(np.flatnonzero(~is_posed), others)
        orientation.before(2)
        assert len(trainer.latents.values) == COUNT
        angles, shifts = errors(trainer.poses.poses(), true_poses(folder))
        assert np.median(angles[others]) < 15 and np.median(angles[held_out]) < 20 and np.median(shifts[others]) < 2


def test_a_small_sample_is_visited_as_often_as_a_large_one(folder):
    for images, visits in ((20, 1), (COUNT, 1), (4 * COUNT, 4), (10_000, 20)):
        config = esl(folder, search_images=images)
        with trainer_of(config) as trainer:
            orientation = orientation_of(trainer, config)
            assert (orientation.visits(0), orientation.visits(2)) == (visits, 1)


def test_a_pose_is_only_taken_over_where_it_lowers_the_objective(folder):
    config = esl(folder)
    with trainer_of(config) as trainer:
        orientation, rows = orientation_of(trainer, config), np.arange(COUNT)
        search_epochs(trainer, orientation, 0, 2)
        trainer.train_epoch(2, rows)
        latents = torch.randn(5, trainer.latents.values.shape[1], generator=torch.Generator().manual_seed(0))
        found = orientation._search(1, rows, orientation._decode(latents))
        found.rotations[::3] = found.rotations[1]  # wrong, but for one
        before, state = trainer.losses(rows), copied(trainer)
        count = orientation._adopt_if_better(rows, found, latents)
        after = trainer.losses(rows)
        better = (trainer.poses.rotations != state["poses.rotations"]).any(dim=2).any(dim=1)
        assert 0 < int(better.sum()) == count < COUNT
        assert (after[better] < before[better] + 1e-3).all() and (after[better] < before[better] - 0.1).any()
        torch.testing.assert_close(after[~better], before[~better], rtol=0, atol=1e-2)
        for name, value in copied(trainer).items():
            assert torch.equal(value[~better], state[name][~better])
        assert torch.equal(trainer.poses.rotations[better], found.rotations[better])
        assert torch.equal(trainer.poses.shifts[better], found.shifts[better])
        assert torch.equal(trainer.latents.values[better], latents[found.representative[better]])
        assert (trainer.latents.state_dict()["steps"][better] == 0).all()


def copied(trainer) -> dict[str, torch.Tensor]:
    """What belongs to images."""
    tables = {"latents": trainer.latents.state_dict(), "poses": trainer.poses.state_dict()}
    named = {f"{table}.{name}": value.clone() for table, state in tables.items() for name, value in state.items()}
    return {name: value for name, value in named.items() if value.ndim}


def test_an_empty_class_starts_again_beside_the_largest(folder):
    config = esl(folder, classes=4)
    with trainer_of(config) as trainer:
        orientation = orientation_of(trainer, config)
        orientation.before(0)
        latents = trainer.latents
        assert latents.owner[orientation.rows(0)].bincount().tolist() == pytest.approx([11] * 4, abs=1)
        latents.owner[:] = 2
        latents.owner[orientation.rows(0)[:5]] = 0
        latents.values[:] = 10 * torch.arange(4)[:, None]
        orientation._fill_empty_classes(1)
        distance = (latents.values - 20).norm(dim=1)
        assert (latents.values[[0, 2]] == torch.tensor([[0.0], [20.0]])).all()
        assert (distance[[1, 3]] > 0.05).all() and (distance[[1, 3]] < 1).all()
        assert not torch.equal(latents.values[1], latents.values[3])


def test_images_said_to_be_centred_stay_so(folder):
    config = esl(folder, max_shift=0.0)
    with trainer_of(config) as trainer:
        orientation = orientation_of(trainer, config)
        for epoch in (0, 2):
            search_epochs(trainer, orientation, epoch)
            trainer.train_epoch(epoch, orientation.rows(epoch))
        assert not trainer.poses.shifts.any() and trainer.poses.rotations.isfinite().all()


def test_shifts_are_sought_everywhere_at_first_and_then_around_their_own(folder):
    config = esl(folder, max_shift=6.0)
    plan = search_plan(config)
    assert plan is not None
    with trainer_of(config) as trainer:
        search, rows = PoseSearch(trainer, plan), np.array([3, 8])
        first = search._shifts(rows, is_wide=True)
        assert first.shape[0] == 2 and first.norm(dim=-1).max() > 5 and (first.norm(dim=-1) <= 6).all()
        trainer.poses.shifts[8] = torch.tensor([5.8, 0.0])
        later = search._shifts(rows, is_wide=False)
        assert torch.equal(later[:, 0], trainer.poses.shifts[rows])  # its own is among them
        assert (later.norm(dim=-1) <= 6 + 1e-4).all() and later.shape[1] < first.shape[1]


def test_images_that_join_after_the_search_epochs_are_sought_everywhere_too(tmp_path):
    write(tmp_path, shift=9.5)
    config = esl(tmp_path, max_shift=10.0, search_images=30)
    with trainer_of(config) as trainer:
        orientation = orientation_of(trainer, config)
        search_epochs(trainer, orientation, 0, 2)
        _, shifts = errors(trainer.poses.poses(), true_poses(tmp_path))
        others = np.setdiff1d(np.arange(COUNT), orientation.rows(0))
        assert np.median(shifts[orientation.rows(0)]) < 2
        far = np.linalg.norm(true_poses(tmp_path).shifts, axis=1) > 6
        assert np.median(shifts[others][far[others]]) < 2.5


# --- images that do not fit -----------------------------------------------------------------------------------------


def test_bright_protein_and_noise_are_refused(folder):
    config = esl(folder)
    with trainer_of(config) as trainer:
        crops = trainer.data.crops
        noise = np.random.default_rng(0).normal(size=crops.shape) * crops.astype(np.float64).std()
        for wrong, message in ((-crops, "give --uninvert-data"), (noise.astype(crops.dtype), "do not show the templ")):
            trainer.feed = ImageFeed(replace(trainer.data, crops=wrong), trainer.device)
            with pytest.raises(ValueError, match=message):
                orientation_of(trainer, config).before(0)


def test_a_template_that_looks_the_same_from_several_sides_is_warned_of(folder, tmp_path, caplog):
    config = esl(folder)
    with trainer_of(config) as trainer, caplog.at_level(logging.WARNING):
        orientation = orientation_of(trainer, config)
        orientation._check_symmetry()
        assert not caplog.records
        x = trainer.model.start
        x[:] = torch.stack([0 * x[:, 0], 0 * x[:, 0] + x[:, 1] / 1e3, torch.linspace(-20, 20, len(x))], dim=1)  # a rod
        orientation._check_symmetry()
    assert ["same from several sides" in record.message for record in caplog.records] == [True]


def test_a_template_off_the_origin_is_moved_there(folder, tmp_path):
    config = esl(folder)
    template, _ = read_template(config.template)
    moved = replace(
        template,
        positions=template.positions + 40.0,
        atoms=replace(template.atoms, positions=template.atoms.positions + 40.0),
    )
    write_template(tmp_path / "moved.cif", moved)
    found = read_inputs(config.model_copy(update={"template": tmp_path / "moved.cif"})).template
    np.testing.assert_allclose(found.positions, template.positions, atol=2e-3)
    np.testing.assert_allclose(found.atoms.positions, template.atoms.positions, atol=2e-3)


def test_without_an_epoch_after_the_searches_nothing_starts(folder):
    with pytest.raises(ValueError, match="--num-epochs 2 leaves no epoch after --search-epochs 2"):
        read_inputs(esl(folder).model_copy(update={"num_epochs": 2, "search_epochs": 2}))
