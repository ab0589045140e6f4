"""The cost expected under each image's measure, against the whole grid rendered, and as the loss of a run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import PIXEL_SIZE, draw_images, settings, trainer_of, write_dataset
from particle_data import write_stack
from run_files import read_metrics

from cryoatom.files.star import read_star_particles, write_star_particles
from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll
from cryoatom.poses.esl import barycenter, esl_weights, expected_cost
from cryoatom.records import Poses
from cryoatom.rotations import rotation_angle, rotation_grid
from cryoatom.train_config import TrainConfig
from cryoatom.training.expected import expected_plan
from cryoatom.training.objective import Batch
from cryoatom.training.search_plan import search_plan
from cryoatom.training.train import train
from cryoatom.training.trainer import Trainer

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Centred particles whose file says nothing of their poses."""
    folder = tmp_path_factory.mktemp("data")
    particles = write_dataset(folder, COUNT)
    assert particles.poses is not None
    centered = Poses(particles.poses.rotations, np.zeros((COUNT, 2)))
    truth = np.load(folder / "truth.npy")
    write_stack(folder / "particles.mrcs", draw_images(truth, centered, particles.optics, 0), PIXEL_SIZE)
    write_star_particles(particles.source, replace(particles, poses=None))
    return folder


def expected(folder, outdir=None, **changes) -> TrainConfig:
    given = {"poses": "esl", "pose_loss": "expected", "rotations": 600, "num_epochs": 2}
    return settings(folder, outdir, **(given | changes))


def bend(trainer: Trainer) -> Batch:
    """Give each image another conformation and the beads a scale; return some images."""
    torch.manual_seed(0)
    weight = dict(trainer.model.decoder.named_parameters())["readout.weight"]
    torch.nn.init.normal_(weight, std=0.3)
    trainer.model.beads.log_scale.data += 0.5
    return trainer.batch(np.arange(5, 11))


def dense(trainer: Trainer, config: TrainConfig, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the barycentres from all rotations, each rendered with a gradient."""
    turns, x = rotation_grid(config.rotations).float(), trainer.model.decode(trainer.latents.read(batch.images))
    side, size = batch.crops.shape[-1], trainer.objective.pixel_size
    kernels = batch.kernels.expand(len(x), -1, -1)
    costs = []
    for one, crop, kernel in zip(x, batch.crops, kernels, strict=True):
        image = trainer.model.render(one.expand(len(turns), -1, -1), turns, torch.zeros(len(turns), 2), side, size)
        shape = (len(turns), -1, -1)
        costs.append(gaussian_nll(*cross_and_power(image, crop.expand(shape), kernel.expand(shape))))
    costs = torch.stack(costs)
    places, weights = esl_weights(costs, support=config.support, eta=config.eta, order=config.esl_order)
    center, _, _ = barycenter(turns[places], weights)
    return expected_cost(weights, costs.gather(1, places), attached=config.esl_attached), center


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"esl_attached": True},
        {"esl_attached": True, "esl_order": "last", "support": 8, "beads": "ca"},
        {"eta": 0.5, "rotations": 100},  # the shortlist is the whole grid
    ],
)
def test_value_gradient_and_pose_are_those_of_the_whole_grid(folder, tmp_path, changes):
    config = expected(folder, tmp_path, **changes)
    with trainer_of(config) as trainer:
        batch = bend(trainer)
        found = trainer.objective.image_terms(trainer.model, trainer.model.decode(trainer.latents.values[5:11]), batch)[
            "nll"
        ]
        loss, center = dense(trainer, config, batch)
        torch.testing.assert_close(found, loss, rtol=1e-4, atol=1e-3)
        assert loss.std() > 1
        wanted = trainer.parameters
        gradients = [torch.autograd.grad(value.sum(), wanted, allow_unused=True) for value in (found, loss)]
        for one, other in zip(*gradients, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert (one - other).norm() <= 5e-3 * other.norm() + 1e-6
        angle = rotation_angle(trainer.poses.rotations[5:11], center)
        assert angle.max() < 0.01
        others = np.setdiff1d(np.arange(COUNT), batch.images)
        assert (trainer.poses.rotations[others] == torch.eye(3)).all()  # of images that were not looked at
        assert (trainer.poses.shifts == 0).all()


def test_the_attached_gradient_is_another(folder, tmp_path):
    losses = []
    for attached in (False, True):
        with trainer_of(expected(folder, tmp_path, esl_attached=attached)) as trainer:
            batch = bend(trainer)
            x = trainer.model.decode(trainer.latents.values[5:11])
            loss = trainer.objective.image_terms(trainer.model, x, batch)["nll"]
            losses.append((loss, torch.autograd.grad(loss.sum(), x)[0]))
    (detached, of_detached), (attached, of_attached) = losses
    torch.testing.assert_close(detached, attached)
    assert (of_detached - of_attached).norm() > 0.05 * of_detached.norm()


@pytest.fixture(scope="module")
def run(folder):
    return train(expected(folder))


def test_a_run_learns_and_leaves_centred_poses(run):
    rows = read_metrics(run)
    assert rows[1]["loss"] < rows[0]["loss"] and "held_out_nll" in rows[0]
    assert np.isfinite(np.load(run.conformations)).all()
    poses = read_star_particles(run.poses).poses
    assert poses is not None and (poses.shifts == 0).all()
    turned = np.abs(poses.rotations - np.eye(3)).max(axis=(1, 2)) > 0.1
    assert turned.all()  # the held-out images' too
    np.testing.assert_allclose(poses.rotations @ poses.rotations.mT, np.eye(3)[None].repeat(COUNT, 0), atol=1e-5)


def test_the_same_seed_gives_the_same_numbers_with_another_number_of_threads(run, folder, tmp_path):
    again = train(expected(folder, tmp_path, threads=2))
    for name in ("conformations.npy", "z.npy", "z.1.npy"):
        np.testing.assert_array_equal(np.load(again.path / name), np.load(run.path / name))
    found, other = (read_star_particles(one.poses).poses for one in (again, run))
    assert found is not None and other is not None
    np.testing.assert_array_equal(found.rotations, other.rotations)


def test_a_resumed_run_is_the_uninterrupted_one(run, folder, tmp_path):
    again = train(expected(folder, tmp_path, load=run.weights(1)))
    np.testing.assert_array_equal(np.load(again.conformations), np.load(run.conformations))
    with pytest.raises(ValueError, match="poses"):
        train(expected(folder, tmp_path / "other", load=run.weights(1), rotations=700))


def test_who_searches(folder):
    config = expected(folder)
    assert search_plan(config) is None
    plan = expected_plan(config)
    assert plan is not None and plan.max_shift == 0 and plan.grid == 600
    assert expected_plan(config.model_copy(update={"pose_loss": "refined"})) is None
    assert expected_plan(config.model_copy(update={"poses": "known"})) is None
    paper = TrainConfig.merge({"preset": "paper", "particles": "p", "template": "t", "outdir": "o", "poses": "esl"})
    assert expected_plan(paper) is not None and not paper.esl_attached


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"likelihood": "profiled"}, "needs --likelihood gaussian"),
    ],
)
def test_what_cannot_be_done_is_said_before_images_are_read(folder, tmp_path, monkeypatch, changes, words):
    monkeypatch.setattr("cryoatom.training.train.prepare_images", lambda *_: pytest.fail("images were prepared"))
    with pytest.raises(ValueError, match=f"--pose-loss expected .* {words}"):
        train(expected(folder, tmp_path, **changes))
