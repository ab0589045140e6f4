"""Controls: images against what should fit worse."""

from dataclasses import replace

import numpy as np
import pytest
from fits import bent, settings, small_template, trainer_of, write_dataset

from cryoatom.analysis.controls import (
    KINDS,
    MEAN,
    OTHER_POSE,
    OWN,
    SHUFFLED,
    TEMPLATE,
    measure_controls,
    mirrored,
)
from cryoatom.training.fit import start_scale

COUNT = 50


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
            found.train_epoch(epoch, np.arange(COUNT - 10))
            found.fit_latents(np.arange(COUNT - 10, COUNT), 1.0)
        found.model.requires_grad_(False)
        yield found


@pytest.fixture(scope="module")
def controls(trainer):
    return measure_controls(trainer, np.arange(COUNT), 0, held_out=np.arange(COUNT - 10, COUNT))


def test_own_conformation_in_the_own_pose_fits_best(controls):
    gains = {kind: controls.mean(kind)[0] for kind in KINDS}
    assert max(gains, key=lambda kind: gains[kind]) == OWN
    for other in (SHUFFLED, MEAN, TEMPLATE, OTHER_POSE):
        value, error = controls.difference(OWN, other)
        assert value > error > 0


def test_held_out_images_are_measured_apart(controls):
    assert all(len(values) == 10 for values in controls.held_out.values())
    assert controls.mean(OWN, held_out=True)[0] > controls.mean(SHUFFLED, held_out=True)[0]
    assert controls.optimism == 4.0


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
    monkeypatch.setattr(trainer, "data", replace(trainer.data, is_dead=is_dead))
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
