import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import SCALE, bent, settings, small_template, trainer_of, write_dataset, write_images

from cryoatom.analysis.pictures import Smoothing, draw_pictures
from cryoatom.geometry import random_rotations
from cryoatom.records import Poses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the template itself: a fit that has not begun has the right conformation of each."""
    folder, generator = tmp_path_factory.mktemp("right"), np.random.default_rng(1)
    poses = Poses(random_rotations(24, generator), generator.uniform(-4, 4, (24, 2)))
    write_images(folder, small_template(), bent(np.zeros(24)), poses, generator, 1)
    return folder


def test_pictures_are_of_the_rows_asked_for_with_their_notes(folder: Path) -> None:
    rows, notes = np.arange(40, 4, -2), [f"picture {i}" for i in range(18)]  # more than are drawn at once
    with trainer_of(settings(folder)) as trainer:
        pictures = draw_pictures(trainer, rows, notes)
        alone = draw_pictures(trainer, rows[7:8], notes[7:8])[0]
    assert [picture.index for picture in pictures] == rows.tolist()
    assert [picture.note for picture in pictures] == notes
    assert pictures[7].image == pytest.approx(alone.image, abs=1e-5)
    assert pictures[7].model == pytest.approx(alone.model, abs=1e-5)
    assert pictures[7].residual == pytest.approx(alone.image - alone.model, abs=1e-5)


def test_no_picture_is_drawn_of_no_row(folder: Path) -> None:
    with trainer_of(settings(folder)) as trainer:
        assert draw_pictures(trainer, np.array([], dtype=np.int64), []) == ()


@pytest.mark.parametrize("resolution", [5.0, 8.0, 15.0])
def test_residuals_of_a_right_model_have_the_variance_of_noise(right: Path, resolution: float) -> None:
    rows = np.arange(24)
    with trainer_of(settings(right)) as trainer:
        trainer.model.beads.log_scale.data.fill_(math.log(SCALE))
        pictures = draw_pictures(trainer, rows, [""] * len(rows), resolution=resolution)
    assert np.mean([picture.residual**2 for picture in pictures]) == pytest.approx(
        1, abs=0.3
    )  # few pixels of smoothed noise are independent
    assert np.mean([picture.model**2 for picture in pictures]) > 0.3


def test_the_residual_of_a_wrong_model_shows_the_particle(right: Path) -> None:
    with trainer_of(settings(right)) as trainer:
        trainer.model.beads.log_scale.data.fill_(math.log(SCALE) - 10)
        picture = draw_pictures(trainer, np.arange(1), [""])[0]
    assert np.abs(picture.model).max() < 0.01
    assert picture.residual == pytest.approx(picture.image, abs=0.01)


@pytest.mark.parametrize(("side", "smaller"), [(40, 40), (64, 48), (30, 30)])
def test_smoothed_noise_has_the_deviation_that_is_foretold(side: int, smaller: int) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = Smoothing(8.0, 2.0, smaller)
    noise = smooth(torch.randn(100, side, side, generator=generator))
    assert noise.shape == (100, smaller, smaller)
    white = torch.ones(1, 2 * side, side + 1)
    assert float(noise.std()) == pytest.approx(float(smooth.noise_deviation(white)), rel=0.03)


def test_smoothing_keeps_the_mean_and_what_is_coarse() -> None:
    place = torch.arange(64) - 32
    blob = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * 12.0**2))[None]
    smoothed = Smoothing(8.0, 2.0, 32)(blob)
    assert float(smoothed.mean()) == pytest.approx(float(blob.mean()), rel=1e-5)
    assert smoothed[0].numpy() == pytest.approx(blob[0, ::2, ::2].numpy(), abs=0.03)
