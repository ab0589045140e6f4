"""What is measured for the trust page, and what stands in the way."""

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fits import settings, write_dataset

import cryoatom
from cryoatom.analysis import evidence
from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.evidence import Evidence, chosen_images, gather_evidence
from cryoatom.analysis.landscape import Landscape, survey
from cryoatom.analysis.run import Run
from cryoatom.run_folder import RunFolder
from cryoatom.training.feed import ImageFeed
from cryoatom.training.fit import training_rows
from cryoatom.training.stage import silent
from cryoatom.training.train import train

COUNT = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def trained(data) -> RunFolder:
    return train(settings(data, zdim=2, num_epochs=2, held_out=0.4, force=True))


@pytest.fixture
def copy(trained, tmp_path) -> RunFolder:
    shutil.copytree(trained.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def gather(run: Run, **changes: object) -> tuple[Evidence, Landscape]:
    given = {"run": run.folder.path, "ksample": 3, "pictures": 4, "threads": 1}
    config = AnalyzeConfig.model_validate(given | changes)
    landscape = survey(run, config)
    return gather_evidence(run, landscape, config, silent), landscape


def test_junk_and_dead_images_are_judged_nowhere(trained, monkeypatch):
    run, asked = cryoatom.load(trained.path), {}
    left_out, dead = np.array([1, 2, 3, 9, 10, 20]), 12
    run.__dict__["good_rows"] = np.setdiff1d(np.arange(COUNT), left_out)
    opened = Run.open_trainer

    def open_trainer(self: Run, *args: Any, **kwargs: Any):
        trainer = opened(self, *args, **kwargs)
        is_dead = np.arange(COUNT) == dead
        trainer.feed = ImageFeed(replace(trainer.data, is_dead=is_dead), trainer.device)
        return trainer

    def measure_controls(trainer, rows, seed, *, held_out):
        asked.update(rows=rows, held_out=held_out)

    monkeypatch.setattr(Run, "open_trainer", open_trainer)
    monkeypatch.setattr(evidence, "measure_controls", measure_controls)
    found, _ = gather(run)
    expected = np.setdiff1d(run.good_rows, [dead])
    held_out = training_rows(run.config, COUNT)[1]
    assert asked["rows"].tolist() == expected.tolist()
    assert asked["held_out"].tolist() == np.intersect1d(expected, held_out).tolist()
    assert found.geometry.rows.tolist() == run.good_rows.tolist()
    assert found.drift.images == len(run.good_rows)


@pytest.mark.parametrize("error", [PermissionError("read-only"), FileNotFoundError("gone"), ValueError("other images")])
def test_without_the_images_the_rest_is_measured(trained, monkeypatch, error):
    def open_trainer(self: Run, *args: Any, **kwargs: Any):
        raise error

    monkeypatch.setattr(Run, "open_trainer", open_trainer)
    found, _ = gather(cryoatom.load(trained.path))
    assert found.controls is None and found.pictures == () and len(found.drift.epochs) == 2
    assert any(str(error) in note for note in found.notes) and any("--half-sets" in note for note in found.notes)


def test_an_epoch_of_a_run_that_was_killed_is_measured(copy):
    for path in (copy.weights(), copy.latents(), copy.conformations, copy.image_report):
        path.unlink()
    run = cryoatom.load(copy.path, 1)
    found, landscape = gather(run)
    assert found.controls is not None and len(found.controls.rows) == COUNT
    assert not found.drift.has_end and found.half_sets is None and len(found.pictures) == 4
    assert [len(chosen_images(run, landscape, count)[0]) for count in (1, 8, 24, 99)] == [1, 8, 24, 24]
    assert set(chosen_images(run, landscape, 8)[1]) == {
        *(f"centre of cluster {label}" for label in (1, 2, 3)),
        "of an even sample",
    }


def test_images_of_an_epoch_are_not_chosen_by_the_final_state(trained):
    run = cryoatom.load(trained.path, 1)
    _, landscape = gather(run, controls=False, pictures=0)
    run.__dict__["images"] = {}  # were it looked at, this would fail
    images, notes = chosen_images(run, landscape, 10)
    assert len(set(images.tolist())) == len(notes) == 10 and "of an even sample" in notes


@pytest.mark.parametrize(("count", "held_out"), [(3, 0.0), (3, 0.5), (COUNT, 0.0)])
def test_few_images_and_none_held_out_are_no_error(tmp_path, count, held_out):
    write_dataset(tmp_path, count)
    changes: dict[str, Any] = {"zdim": 1, "num_epochs": 1, "held_out": held_out, "force": True, "uncertainty": False}
    run = cryoatom.load(train(settings(tmp_path, **changes)).path)
    found, _ = gather(run, ksample=2)
    assert found.controls is not None and found.controls.held_out == {} and found.pictures
    assert any(("at least 4" if count == 3 else "--half-sets") in note for note in found.notes)
