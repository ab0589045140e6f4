"""images.csv and good.npy: what does not fit, what is dead, and what a next run should keep."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import settings, trainer_of, write_dataset

from cryoatom.files.mrc import open_stack
from cryoatom.particles.table import read_particles
from cryoatom.run_folder import RunFolder
from cryoatom.training.image_report import report_images
from cryoatom.training.train import train

COUNT, DEAD, JUNK = 120, [17, 60], [3, 30, 31, 77, 99, 118]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """A data set with two dead images and six without a particle."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, COUNT)
    stack = folder / "particles.mrcs"
    images = open_stack(stack).read(np.arange(COUNT))
    images[DEAD[0]], images[DEAD[1], 5, 5] = 0.0, np.nan
    images[JUNK] = np.random.default_rng(1).normal(size=(len(JUNK), *images.shape[1:]))
    stack.write_bytes(stack.read_bytes()[:1024] + images.astype("<f4").tobytes())
    return folder


@pytest.fixture(scope="module")
def run(spoiled):
    return train(settings(spoiled, num_epochs=4, held_out=0.0, force=True))


def read_report(run: RunFolder) -> dict[str, np.ndarray]:
    with run.image_report.open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_each_image_has_its_row(run, spoiled):
    report = read_report(run)
    assert report["image"].tolist() == [str(i) for i in range(COUNT)]
    assert report["name"].tolist() == read_particles(spoiled / "particles.star").image_names.tolist()


def test_dead_images_are_listed_and_took_no_part(run):
    report = read_report(run)
    assert np.flatnonzero(report["is_dead"] == "1").tolist() == DEAD
    assert (report["fits"][DEAD].astype(float) == 0).all()
    steps = torch.load(run.weights(), weights_only=True)["latents"]["steps"]
    assert (steps[DEAD] == 0).all() and (steps > 0).sum() == COUNT - len(DEAD)


def test_images_without_a_particle_are_listed_and_weigh_less(run):
    fits = read_report(run)["fits"].astype(float)
    rest = np.setdiff1d(np.arange(COUNT), DEAD + JUNK)
    assert fits[JUNK].max() < 0.5 < np.quantile(fits[rest], 0.05)
    weights = torch.load(run.weights(), weights_only=True)["fits"]["weights"]
    assert weights[JUNK].max() < 0.5 < 0.95 < weights[rest].mean()


def test_good_rows_are_those_of_the_particle_file(run, spoiled, tmp_path):
    good = np.load(run.good_rows)
    assert not set(good) & set(DEAD) and len(good) > COUNT - len(DEAD) - 3 * len(JUNK)
    np.save(tmp_path / "some.npy", np.arange(40, 110))
    part = train(settings(spoiled, tmp_path / "run", ind=tmp_path / "some.npy", num_epochs=1, force=True))
    rows = np.load(part.good_rows)
    assert rows.min() >= 40 and rows.max() < 110 and 60 not in rows
    train(settings(spoiled, tmp_path / "again", ind=part.good_rows, num_epochs=1, force=True))


def test_weights_stay_without_robust(spoiled, tmp_path):
    run = train(settings(spoiled, tmp_path, num_epochs=3, robust=False, force=True))
    assert (torch.load(run.weights(), weights_only=True)["fits"]["weights"] == 1).all()


def test_particles_of_cryosparc_keep_their_uid(spoiled, tmp_path):
    config = settings(spoiled, tmp_path / "run")
    particles = read_particles(config.particles)
    with trainer_of(config) as trainer:
        folder = RunFolder(tmp_path)
        report_images(
            config, folder, replace(particles, uids=np.arange(COUNT, dtype=np.uint64) + 2**63), trainer, np.ones(COUNT)
        )
    assert read_report(folder)["uid"].tolist() == [str(2**63 + i) for i in range(COUNT)]
