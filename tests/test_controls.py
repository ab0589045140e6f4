"""Controls: images against what should fit worse."""

from dataclasses import replace

import numpy as np
import pytest
from fits import bent, settings, small_template, trainer_of, write_dataset, write_images

from cryoatom.analysis.controls import (
    KINDS,
    MEAN,
    OTHER_POSE,
    OWN,
    SHUFFLED,
    TEMPLATE,
    Controls,
    measure_controls,
    mirrored,
)
from cryoatom.analysis.trust import trust_checks
from cryoatom.geometry import random_rotations
from cryoatom.records import Poses
from cryoatom.training.feed import ImageFeed
from cryoatom.training.fit import start_scale, training_rows

COUNT, HELD_OUT = 70, 30


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def trainer(data):
    """A short fit, as it ended."""
    with trainer_of(settings(data, num_epochs=7)) as found:
        start_scale(found, np.arange(COUNT))
        for epoch in range(7):
            found.train_epoch(epoch, np.arange(COUNT - HELD_OUT))
            found.fit_latents(np.arange(COUNT - HELD_OUT, COUNT), 1.0)
        found.model.requires_grad_(False)
        yield found


@pytest.fixture(scope="module")
def controls(trainer):
    return measure_controls(trainer, np.arange(COUNT), 0, held_out=np.arange(COUNT - HELD_OUT, COUNT))


def test_own_conformation_in_the_own_pose_fits_best(controls):
    gains = {kind: controls.mean(kind)[0] for kind in KINDS}
    assert max(gains, key=lambda kind: gains[kind]) == OWN
    for other in (SHUFFLED, MEAN, TEMPLATE, OTHER_POSE):
        value, error = controls.difference(OWN, other)
        assert value > error > 0


def test_held_out_images_are_measured_apart(controls):
    assert all(len(values) == HELD_OUT for values in controls.held_out.values())
    assert controls.mean(OWN, held_out=True)[0] > controls.mean(SHUFFLED, held_out=True)[0]
    assert controls.optimism == 4.0


@pytest.mark.parametrize("few", [0, 2, HELD_OUT - 1])
def test_of_few_held_out_images_there_are_no_figures(trainer, few):
    assert measure_controls(trainer, np.arange(COUNT), 0, held_out=np.arange(few)).held_out == {}


@pytest.mark.parametrize("has_held_out", [True, False])
def test_latents_fitted_to_noise_are_no_evidence(has_held_out):
    """d numbers fitted by least squares to n images of one conformation: noise alone, and all that it can make."""
    generator, size, count = np.random.default_rng(0), 4, 5000
    fits = generator.normal(size=(count, size))  # the least-squares latents, where F = 1
    others = np.roll(fits, 1, axis=0)
    found = {kind: np.zeros(count) for kind in KINDS}
    found[OWN] = 0.5 * (fits**2).sum(axis=1)
    found[SHUFFLED] = (fits * others).sum(axis=1) - 0.5 * (others**2).sum(axis=1)
    controls = Controls(np.arange(count), found, found if has_held_out else {}, size / 2)
    assert controls.difference(OWN, SHUFFLED)[0] == pytest.approx(size, rel=0.05)
    verdicts = {check.name: check.verdict for check in trust_checks(controls=controls)}
    assert (
        verdicts["Heterogeneity"] == verdicts["Another image's conformation"] == verdicts["Static template"] == "look"
    )


def test_a_trained_set_of_one_conformation_is_not_called_heterogeneous(tmp_path):
    generator, count = np.random.default_rng(3), 100
    poses = Poses(random_rotations(count, generator), generator.uniform(-4, 4, (count, 2)))
    write_images(tmp_path, small_template(), bent(np.zeros(count)), poses, generator, 3)
    config = settings(tmp_path, chunk=16, num_epochs=8, held_out=0.5)
    with trainer_of(config) as found:
        training, unseen = training_rows(config, count)
        start_scale(found, training)
        for epoch in range(8):
            found.train_epoch(epoch, training)
            found.fit_latents(unseen, 1.0)
        controls = measure_controls(found, np.arange(count), 0, held_out=unseen)
    value, error = controls.difference(OWN, SHUFFLED, held_out=True)
    assert 5 * error < value < 2 * controls.optimism  # noise has been fitted
    verdicts = {check.name: check.verdict for check in trust_checks(controls=controls)}
    assert (
        verdicts["Heterogeneity"] == verdicts["Another image's conformation"] == verdicts["Static template"] == "look"
    )


def test_the_seed_decides(trainer, controls):
    again = measure_controls(trainer, np.arange(COUNT), 0)
    other = measure_controls(trainer, np.arange(COUNT), 1)
    assert np.array_equal(again.gains[SHUFFLED], controls.gains[SHUFFLED]) and again.held_out == {}
    assert not np.array_equal(other.gains[SHUFFLED], controls.gains[SHUFFLED])
    assert np.array_equal(other.gains[OWN], controls.gains[OWN])


def test_gains_do_not_depend_on_the_strength_of_the_model(trainer, controls):
    before = trainer.model.beads.log_scale.clone()
    trainer.model.beads.log_scale.add_(0.7)
    again = measure_controls(trainer, np.arange(COUNT), 0)
    trainer.model.beads.log_scale.copy_(before)
    assert controls.gains[OWN] == pytest.approx(again.gains[OWN], rel=1e-3, abs=1e-2)


def test_an_untrained_run_has_no_heterogeneity(data):
    with trainer_of(settings(data)) as fresh:
        found = measure_controls(fresh, np.arange(COUNT), 0)
    value, error = found.difference(OWN, MEAN)
    assert abs(value) < 1e-3 and abs(found.difference(OWN, TEMPLATE)[0]) < 1e-3


def test_dead_images_take_no_part(trainer, monkeypatch):
    is_dead = np.zeros(COUNT, dtype=bool)
    is_dead[5] = True
    monkeypatch.setattr(trainer, "feed", ImageFeed(replace(trainer.data, is_dead=is_dead), trainer.device))
    assert 5 not in measure_controls(trainer, np.arange(COUNT), 0).rows
    with pytest.raises(ValueError, match="at least 2"):
        measure_controls(trainer, np.array([5, 6]), 0)


def test_a_mirror_image_has_the_other_hand_and_the_same_size():
    positions = bent(np.array([4.0]))[0] + [1.0, -2.0, 3.0]
    image = mirrored(positions)
    assert image.mean(axis=0) == pytest.approx(positions.mean(axis=0))
    assert mirrored(image) == pytest.approx(positions)
    distances = [np.linalg.norm(each[:, None] - each[None], axis=-1) for each in (positions, image)]
    assert distances[0] == pytest.approx(distances[1])

    def volume(each: np.ndarray) -> float:
        return float(np.linalg.det(each[1:4] - each[0]))

    assert volume(image) == pytest.approx(-volume(positions))
    assert len(small_template()) == len(image)
