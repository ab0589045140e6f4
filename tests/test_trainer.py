"""The loop over images: every image once, the same numbers whatever the threads, and errors that name the image."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import bent, settings, small_template, trainer_of

from cryoatom.rotations import exp_rotation, rotation_angle
from cryoatom.training.feed import ImageFeed
from cryoatom.training.fit import start_scale
from cryoatom.training.trainer import FINAL_RATE, Schedule, Trainer

COUNT = 41  # batches of 16 leave a last one of 9


@pytest.fixture(scope="module")
def folder(folder):
    with trainer_of(settings(folder)):  # fills the cache
        return folder


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    rows = {f"latents.{name}": value for name, value in trainer.latents.state_dict().items()}
    rows |= {f"poses.{name}": value for name, value in trainer.poses.state_dict().items()}
    return trainer.model.state_dict() | rows


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def run(folder, epochs: int = 2, **changes) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    with trainer_of(settings(folder, **changes)) as trainer:
        rows = np.arange(COUNT)
        terms = [trainer.train_epoch(epoch, rows) for epoch in range(epochs)]
        terms.append(trainer.fit_latents(rows, 1.0))
        return {name: value.clone() for name, value in everything(trainer).items()}, terms


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(folder):
    first, again, other = run(folder), run(folder), run(folder, seed=1)
    assert_equal(first[0], again[0])
    assert first[1] == again[1] != other[1]
    assert not torch.equal(first[0]["latents.values"], other[0]["latents.values"])


@pytest.mark.parametrize(("threads", "pose_lr"), [(2, 0.0), (3, 0.5)])
def test_the_number_of_threads_changes_no_bit(folder, threads, pose_lr):
    one, more = run(folder, pose_lr=pose_lr), run(folder, pose_lr=pose_lr, threads=threads)
    assert_equal(one[0], more[0])
    assert one[1] == more[1]


def test_chunks_only_split_the_work(folder):
    small, whole = run(folder, chunk=3), run(folder, chunk=100)
    for name, value in small[0].items():
        torch.testing.assert_close(value, whole[0][name], rtol=1e-2, atol=1e-3)
    for some, others in zip(small[1], whole[1], strict=True):
        assert some == pytest.approx(others, rel=1e-4)


def test_every_image_is_seen_once_an_epoch_the_last_partial_batch_included(folder, monkeypatch):
    with trainer_of(settings(folder)) as trainer:
        seen, batch, counts = [], trainer.batch, []
        monkeypatch.setattr(trainer, "batch", lambda rows, *tangents: seen.append(rows) or batch(rows, *tangents))
        rows = np.delete(np.arange(COUNT), [3, 30])
        trainer.train_epoch(0, rows, counts.append)
        np.testing.assert_array_equal(np.sort(np.concatenate(seen)), rows)
        assert counts == [16, 32, 39]
        assert trainer.latents.state_dict()["steps"].tolist() == [int(i in rows) for i in range(COUNT)]
        first = np.concatenate(seen)
        seen.clear()
        trainer.train_epoch(1, rows)
        assert not np.array_equal(np.concatenate(seen), first)  # in another order
        assert set(trainer.latents.state_dict()["steps"].tolist()) == {0, 2}


def test_the_figures_of_an_epoch_are_means_over_images(folder):
    with trainer_of(settings(folder, lr=1e-12, bead_lr=1e-12, z_lr=1e-12)) as trainer:
        torch.nn.init.normal_(trainer.model.decoder.readout.weight, std=0.1)
        found = trainer.train_epoch(0, np.arange(COUNT))
        with torch.no_grad():
            all_at_once = trainer.objective(trainer.model, trainer.latents.values, trainer.batch(np.arange(COUNT)))
        assert set(all_at_once) - set(found) == {"cross", "power"}  # these are kept for each image
        assert found == pytest.approx({name: all_at_once[name].mean().item() for name in found}, rel=1e-4)
        assert found["loss"] == pytest.approx(sum(found[name] for name in found if name != "loss"))
        assert trainer.fit_latents(np.arange(COUNT), 1e-12) == pytest.approx(found, rel=1e-4)


def test_a_step_is_adam_on_the_mean_over_the_batch(folder):
    with trainer_of(settings(folder, batch_size=64, lr=1e-3, bead_lr=1e-3, warmup=0, decay=0)) as trainer:
        torch.nn.init.normal_(trainer.model.decoder.readout.weight, std=0.1)
        before = [p.detach().clone() for p in trainer.parameters]
        loss = trainer.objective(trainer.model, trainer.latents.values, trainer.batch(np.arange(COUNT)))["loss"].mean()
        gradients = torch.autograd.grad(loss, trainer.parameters)
        copies = [p.clone().requires_grad_() for p in before]
        for copy, gradient in zip(copies, gradients, strict=True):
            copy.grad = gradient
        torch.optim.Adam(copies, lr=1e-3).step()
        trainer.train_epoch(0, np.arange(COUNT))
        for old, parameter, copy, gradient in zip(before, trainer.parameters, copies, gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())
            clear = gradient.abs() > 1e-3 * gradient.abs().max()  # where it is not, Adam's step is noise
            torch.testing.assert_close(parameter[clear], copy[clear], rtol=0, atol=2e-5)
            assert (parameter - old).abs().max() > 5e-4 or not gradient.any()


def test_training_brings_conformations_nearer_to_the_truth(folder):
    truth = np.load(folder / "truth.npy")
    with trainer_of(settings(folder, num_epochs=15, batch_size=8, r0=0.0, r1=100.0, r2=10.0)) as trainer:
        rows = np.arange(COUNT)
        start_scale(trainer, rows)
        start, first = trainer.decode(rows), trainer.train_epoch(0, rows)
        for epoch in range(1, 15):
            last = trainer.train_epoch(epoch, rows)
        np.testing.assert_allclose(start, bent(np.zeros(COUNT)), atol=1e-4)  # it starts as the template
        assert last["nll"] < first["nll"] - 5
        before, after = (np.sqrt(((x - truth) ** 2).sum(-1).mean(-1)).mean() for x in (start, trainer.decode(rows)))
        assert after < 0.7 * before


def test_latents_alone_move_in_fit_latents(folder):
    with trainer_of(settings(folder)) as trainer:
        rows = np.arange(COUNT)
        for epoch in range(2):
            trainer.train_epoch(epoch, rows)
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        latents, some = trainer.latents.values.clone(), np.arange(5, 25)
        first = trainer.fit_latents(some, 1.0)
        for _ in range(5):
            last = trainer.fit_latents(some, 1.0)
        assert last["loss"] < first["loss"]
        assert_equal(weights, trainer.model.state_dict())
        moved = (trainer.latents.values != latents).any(dim=1)
        assert torch.nonzero(moved)[:, 0].tolist() == some.tolist()
        assert trainer.fit_latents(np.arange(0), 1.0) == {}


def test_poses_stay_unless_they_have_a_rate(folder):
    """Shifts are of what is left after the crops were moved back: none at first."""
    with trainer_of(settings(folder, num_epochs=10)) as trainer:
        known = trainer.poses.rotations.clone()
        trainer.train_epoch(0, np.arange(COUNT))
        trainer.fit_latents(np.arange(COUNT), 1.0)
        assert torch.equal(trainer.poses.rotations, known) and not trainer.poses.shifts.any()
    with trainer_of(settings(folder, num_epochs=10, pose_lr=0.5)) as trainer:
        trainer.train_epoch(0, np.arange(COUNT))
        moved = rotation_angle(trainer.poses.rotations, known)
        assert (moved > 0).all() and moved.max() < math.radians(0.5 * 3**0.5 + 0.01)
        assert (trainer.poses.shifts != 0).all()
        trainer.fit_latents(np.arange(5), 1.0)
        assert ((rotation_angle(trainer.poses.rotations, known) != moved) == (torch.arange(COUNT) < 5)).all()


def test_a_gradient_of_poses_changes_no_other(folder):
    gradients = []
    for pose_lr in (0.0, 0.5):
        with trainer_of(settings(folder, pose_lr=pose_lr)) as trainer:
            torch.nn.init.constant_(trainer.model.decoder.readout.weight, 0.1)
            gradients.append(trainer._gradients(np.arange(COUNT), trainer.parameters)[1])
    assert not gradients[0][1].any() and gradients[1][1].all()
    for k in (0, *range(2, len(gradients[0]))):
        torch.testing.assert_close(gradients[0][k], gradients[1][k])


def test_wrong_poses_are_mended_along_the_gradient(folder):
    config = settings(folder, num_epochs=15, pose_lr=2.0, warmup=0, lr=1e-12, bead_lr=1e-12, z_lr=1e-12)
    with trainer_of(config) as trainer:
        rows = np.arange(COUNT)
        start_scale(trainer, rows)
        axis = torch.tensor([[0.1, 0.1, 0.0]])
        trainer.poses.rotations = exp_rotation(axis) @ trainer.poses.rotations
        trainer.poses.shifts += 2.0
        first = trainer.losses(rows)
        for epoch in range(15):
            trainer.fit_latents(rows, trainer.schedule.factor(epoch))
        assert (trainer.losses(rows) < first).all()
        assert trainer.poses.shifts.norm(dim=1).median() < 0.8


@pytest.mark.parametrize("fit_beads", [True, False])
def test_beads_are_fitted_if_asked(folder, fit_beads):
    with trainer_of(settings(folder, fit_beads=fit_beads)) as trainer:
        before = {name: value.clone() for name, value in trainer.model.beads.state_dict().items()}
        trainer.train_epoch(0, np.arange(COUNT))
        with torch.no_grad():
            trainer.model.beads.log_variance += 2.0  # wider than the floor that the grid sets
        before["log_variance"] += 2.0
        trainer.train_epoch(1, np.arange(COUNT))
        after = trainer.model.beads.state_dict()
        assert not torch.equal(before.pop("log_scale"), after["log_scale"])  # always fitted
        assert set(before) == {"log_amplitude", "log_variance"}
        for name, value in before.items():
            assert torch.equal(value, after[name]) != fit_beads


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_that_is_not_finite_is_named(folder, threads):
    with trainer_of(settings(folder, threads=threads)) as trainer:
        crops = np.array(trainer.data.crops)
        crops[29, 3, 3] = np.nan
        trainer.feed = ImageFeed(replace(trainer.data, crops=crops), trainer.device)
        for fit in (
            lambda: trainer.train_epoch(2, np.arange(COUNT)),
            lambda: trainer.fit_latents(np.arange(COUNT), 0.1),
        ):
            latents = trainer.latents.values.clone()
            with pytest.raises(ValueError, match=r"of the image of row 29 \(from 0\) is not finite in .* \(term nll"):
                fit()
            assert torch.equal(latents[29], trainer.latents.values[29])
        assert torch.isfinite(trainer.latents.values).all()


def test_a_fit_that_ran_away_is_reported_too(folder):
    with trainer_of(settings(folder)) as trainer:
        trainer.latents.values[7] = np.nan
        torch.nn.init.normal_(trainer.model.decoder.readout.weight)
        with pytest.raises(ValueError, match=r"row 7 \(from 0\) is not finite in epoch 1 \(term nll, r0, r1, r2"):
            trainer.train_epoch(0, np.arange(COUNT))


def test_rates_rise_as_in_the_paper_and_fall_at_the_end():
    paper = Schedule(epochs=200, warmup=20, decay=0.0, lr=1e-3, bead_lr=1e-3, z_lr=1e-3)
    for epoch in range(1, 201):  # supplement 5: min(epoch / 20, 1)
        assert paper.factor(epoch - 1) == paper.factor(epoch - 0.5) == pytest.approx(min(epoch / 20, 1))
    falling = replace(paper, epochs=20, warmup=0, decay=0.4)
    rates = [falling.factor(epoch) for epoch in np.linspace(0, 20, 201)]
    assert rates[:121] == [1.0] * 121 and (np.diff(rates[120:]) < 0).all()
    assert rates[-1] == pytest.approx(FINAL_RATE)
    assert falling.factor(16) == pytest.approx(FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 - math.cos(math.pi / 2)))


def test_rates_are_those_of_the_schedule_for_each_group(folder):
    with trainer_of(settings(folder, warmup=4, lr=0.01, bead_lr=0.02, num_epochs=8, decay=0)) as trainer:
        trainer.train_epoch(0, np.arange(COUNT))
        assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([0.0025, 0.005])
        assert sum(p.numel() for p in trainer.parameters) == sum(p.numel() for p in trainer.model.parameters())


@pytest.mark.parametrize(("epochs", "decay", "epoch"), [(20, 0.4, 5), (200, 0.1, 33), (9, 1.0, 0), (3, 0.1, 1)])
def test_a_schedule_that_ends_early_keeps_the_length_of_its_decay(epochs, decay, epoch):
    full = Schedule(epochs, warmup=0, decay=decay, lr=1e-3, bead_lr=1e-3, z_lr=1e-3)
    early = full.ended_early(epoch)
    length = max(1, round(decay * epochs))
    assert early.epochs == epoch + length and early.decay_start == pytest.approx(epoch)
    assert (early.lr, early.bead_lr, early.z_lr, early.warmup) == (1e-3, 1e-3, 1e-3, 0)
    assert early.factor(epoch) == pytest.approx(1)
    assert early.factor(epoch + 0.5 * length) == pytest.approx(FINAL_RATE + 0.5 * (1 - FINAL_RATE))
    assert early.factor(early.epochs) == pytest.approx(FINAL_RATE)


def test_a_schedule_without_decay_ends_at_once():
    full = Schedule(200, warmup=20, decay=0.0, lr=1e-3, bead_lr=1e-3, z_lr=1e-3)
    early = full.ended_early(30)
    assert early.epochs == 30 and early.factor(29.9) == 1.0


def test_the_template_is_no_parameter(folder):
    with trainer_of(settings(folder)) as trainer:
        trainer.train_epoch(0, np.arange(COUNT))
        np.testing.assert_allclose(trainer.model.template_positions, small_template().positions, atol=1e-4)
