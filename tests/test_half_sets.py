"""Decoders of half of the images each."""

import shutil

import numpy as np
import pytest
from fits import settings, write_dataset

import cryoatom
from cryoatom.analysis.half_sets import compare_half_sets, half_configs, train_half_sets
from cryoatom.analysis.run import Run
from cryoatom.geometry import random_rotations
from cryoatom.training.checkpoint import read_checkpoint
from cryoatom.training.fit import training_rows
from cryoatom.training.train import train

COUNT = 41


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, COUNT)
    run = train(settings(folder, num_epochs=2, held_out=0.2, cache=None, force=True))
    train_half_sets(cryoatom.load(run.path))
    return folder


@pytest.fixture
def run(folder, tmp_path) -> Run:
    """The run and its halves, to write into."""
    shutil.copytree(folder / "run", tmp_path / "run")
    return cryoatom.load(tmp_path / "run")


def test_halves_see_other_images_and_share_the_matched_ones(folder):
    run = cryoatom.load(folder / "run")
    halves = [cryoatom.load(path) for path in run.folder.halves]
    seen = [training_rows(half.config, COUNT)[0] for half in halves]
    assert not set(seen[0]) & set(seen[1]) and all(len(rows) for rows in seen)
    assert [half.config.seed for half in halves] == [1, 2]
    assert len(list(run.folder.matched.iterdir())) == 1
    assert not any(half.folder.matched.exists() or half.folder.trajectory.exists() for half in halves)
    assert all(half.conformations.shape == run.conformations.shape for half in halves)


def test_images_of_the_other_half_have_latents_that_were_fitted(folder):
    half = cryoatom.load(folder / "run" / "half1")
    others = np.setdiff1d(np.arange(COUNT), np.concatenate(training_rows(half.config, COUNT)))
    state = read_checkpoint(half.folder.weights())
    assert state["latents"]["steps"].numpy()[others].min() >= 6
    assert np.abs(half.latents[others]).max(axis=1).min() > 0.5  # they began at 0.1
    assert half.decode(half.latents[others]) == pytest.approx(half.conformations[others], abs=1e-4)


@pytest.mark.parametrize("killed_after", [(2,), (1, 2)])
def test_a_finished_half_is_left_alone_and_a_killed_one_goes_on(run, killed_after):
    first, second = (cryoatom.load(path).folder for path in run.folder.halves)
    expected = np.load(second.conformations)
    before = first.weights().stat().st_mtime_ns
    second.conformations.unlink()
    second.weights().unlink()
    for epoch in killed_after:
        second.weights(epoch).unlink()
    train_half_sets(run)
    assert first.weights().stat().st_mtime_ns == before
    assert np.load(second.conformations) == pytest.approx(expected, abs=0.05)


def test_the_comparison_tells_who_saw_what(folder):
    run = cryoatom.load(folder / "run")
    found = compare_half_sets(run, bins=5)
    rows = [training_rows(cryoatom.load(path).config, COUNT)[0] for path in run.folder.halves]
    assert [np.flatnonzero(found.seen_by == group).tolist() for group in (1, 2)] == [each.tolist() for each in rows]
    assert (found.rmsd > 0).all() and (found.residues > 0).all() and len(found.bins) == len(found.bin_rmsd) == 5
    deviations = run.conformations - run.conformations.mean(axis=0)
    assert 0 < found.spread <= np.sqrt((deviations**2).sum(axis=-1).mean())
    assert (found.residues**2).mean() == pytest.approx((found.rmsd**2).mean() / 2)
    assert (np.diff(found.bins) > 0).all() and not found.shares_poses
    assert found.along_path < (found.rmsd**2).mean() ** 0.5
    means = [found.mean_of(group) for group in (0, 1, 2)]
    counts = np.bincount(found.seen_by, minlength=3)
    assert sum(mean * count for mean, count in zip(means, counts, strict=True)) / COUNT == pytest.approx(found.mean)


def test_equal_halves_in_any_frame_do_not_differ(run):
    first, second = (cryoatom.load(path).folder for path in run.folder.halves)
    rotations = random_rotations(COUNT, np.random.default_rng(0)).astype(np.float32)
    np.save(second.conformations, np.load(first.conformations) @ rotations + 3)
    found = compare_half_sets(run)
    assert found.rmsd.max() < 1e-3 and found.bin_rmsd.max() < 1e-3
    assert found.motion_correlation == pytest.approx(1, abs=1e-3)


def test_halves_of_estimated_poses_take_those_that_were_found(folder):
    run = cryoatom.load(folder / "run")
    run.__dict__["config"] = run.config.model_copy(update={"poses": "esl", "pose_lr": 0.6})
    configs = half_configs(run)
    for config in configs:
        assert config.poses == run.folder.poses and config.pose_lr == 0
        assert config.cache == run.folder.halves[0] / "matched" and config.template == run.folder.template
    assert [config.train_on for config in configs] == ["odd", "even"]


@pytest.mark.parametrize(("changes", "message"), [({"train_on": "odd"}, "itself"), ({}, "at least 4")])
def test_what_has_no_halves_is_refused(folder, changes, message):
    run = cryoatom.load(folder / "run")
    run.__dict__["config"] = run.config.model_copy(update=changes)
    if not changes:
        run.__dict__["latents"] = run.latents[:3]
    with pytest.raises(ValueError, match=message):
        half_configs(run)
