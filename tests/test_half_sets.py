"""Decoders of half of the images each."""

import shutil
from typing import Any

import numpy as np
import pytest
from fits import settings, write_dataset

import cryoatom
from cryoatom.analysis.half_agreement import compare_half_sets
from cryoatom.analysis.half_sets import check_half_sets, explain_missing_half_sets, half_configs, train_half_sets
from cryoatom.analysis.run import Run
from cryoatom.geometry import random_rotations
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
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
    unaligned = np.sqrt((deviations**2).sum(axis=-1).mean())
    assert 0.3 * unaligned < found.spread <= unaligned
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
        check_half_sets(run)
    assert message in (explain_missing_half_sets(run) or "")


def test_an_epoch_has_no_halves(folder):
    run = cryoatom.load(folder / "run", 1)
    assert "this is epoch 1" in (explain_missing_half_sets(run) or "")
    with pytest.raises(ValueError, match="epoch 1"):
        check_half_sets(run)


def test_a_run_whose_particles_have_gone_is_refused(run):
    run.__dict__["config"] = run.config.model_copy(update={"particles": run.folder.path / "gone.star"})
    with pytest.raises(FileNotFoundError, match="gone.star"):
        check_half_sets(run)


def test_halves_are_told_from_what_is_left_of_them(run):
    assert explain_missing_half_sets(run) is None
    check_half_sets(run)
    shutil.rmtree(run.folder.halves[1])
    assert "left out" in (explain_missing_half_sets(run) or "")
    shutil.rmtree(run.folder.halves[0])
    assert "--half-sets" in (explain_missing_half_sets(run) or "")


def _shorten(config: TrainConfig, folder: RunFolder) -> None:
    """Leave a half as it was after one epoch, its settings too."""
    _go_back(config, folder)
    shorter = config.model_copy(update={"num_epochs": 1})
    folder.save_text(folder.config, shorter.to_yaml([]))


def _go_back(config: TrainConfig, folder: RunFolder) -> None:
    """Leave a half that was going on to two epochs with its files of one."""
    shutil.copy(folder.weights(1), folder.weights())
    shutil.copy(folder.latents(1), folder.latents())
    np.save(folder.conformations, cryoatom.load(folder.path).decode(np.load(folder.latents())))


def _forget_conformations(config: TrainConfig, folder: RunFolder) -> None:
    """Leave a half that was killed before its new conformations were written."""
    np.save(folder.conformations, np.load(folder.conformations) + 1.0)


@pytest.mark.parametrize("change", [_shorten, _go_back, _forget_conformations])
def test_halves_of_another_length_are_left_out_until_they_have_caught_up(run, change):
    half = cryoatom.load(run.folder.halves[0])
    expected = np.array(half.conformations)
    change(half.config, half.folder)
    assert "left out" in (explain_missing_half_sets(run) or "")
    train_half_sets(run)
    assert explain_missing_half_sets(run) is None
    assert cryoatom.load(half.folder.path).conformations == pytest.approx(expected, abs=0.05)


def test_a_run_that_goes_on_has_no_halves(run):
    longer = run.config.model_copy(update={"num_epochs": 5})
    run.folder.save_text(run.folder.config, longer.to_yaml([]))
    again = cryoatom.load(run.folder.path)
    with pytest.raises(ValueError, match="has not ended"):
        check_half_sets(again)


def test_junk_and_dead_images_are_not_compared(folder):
    run = cryoatom.load(folder / "run")
    whole = compare_half_sets(run, bins=4)
    kept = np.setdiff1d(np.arange(COUNT), [3, 20, 40])
    run.__dict__["good_rows"] = kept
    found = compare_half_sets(run, bins=4)
    assert found.rows.tolist() == kept.tolist() and len(found.rmsd) == len(found.seen_by) == COUNT - 3
    assert found.rmsd == pytest.approx(whole.rmsd[kept]) and found.seen_by.tolist() == whole.seen_by[kept].tolist()


@pytest.mark.parametrize("poses", ["file", "esl"])
def test_a_run_of_some_rows_is_halved_from_end_to_end(tmp_path, poses):
    write_dataset(tmp_path, COUNT, has_poses=poses == "file")
    rows = np.random.default_rng(0).permutation(COUNT)[:24]
    np.save(tmp_path / "ind.npy", rows)
    changes: dict[str, Any] = {"ind": tmp_path / "ind.npy", "force": True, "cache": None, "num_epochs": 1}
    if poses == "esl":
        changes |= {"poses": "esl", "rotations": 400, "classes": 2, "search_epochs": 1, "num_epochs": 2}
        changes |= {"search_images": 24, "max_shift": 5.0, "batch_size": 8, "uncertainty": False}
    run = cryoatom.load(train(settings(tmp_path, **changes)).path)
    check_half_sets(run)
    train_half_sets(run)
    assert explain_missing_half_sets(run) is None
    halves = [cryoatom.load(path) for path in run.folder.halves]
    assert all(half.image_names.tolist() == run.image_names.tolist() for half in halves)
    assert not any(half.folder.uncertainty.exists() for half in halves)
    for half in halves:
        assert half.poses.rotations == pytest.approx(run.poses.rotations, abs=1e-4)
        assert half.poses.shifts == pytest.approx(run.poses.shifts, abs=1e-3)
    found = compare_half_sets(run)
    assert found.rows.tolist() == run.good_rows.tolist() and np.isfinite(found.rmsd).all()
    assert found.shares_poses == (poses == "esl")
