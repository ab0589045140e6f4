"""How far conformations moved from epoch to epoch."""

import shutil

import numpy as np
import pytest
from fits import settings, write_dataset

import cryoatom
from cryoatom.analysis.convergence import measure_drift
from cryoatom.run_folder import RunFolder
from cryoatom.structure.superpose import rmsd
from cryoatom.training.train import train

EPOCHS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 24)
    return train(settings(folder, num_epochs=EPOCHS, held_out=0.2, force=True))


@pytest.fixture
def copy(run, tmp_path) -> RunFolder:
    shutil.copytree(run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_each_saved_epoch_is_compared(run):
    drift = measure_drift(cryoatom.load(run.path))
    assert drift.has_end
    assert drift.epochs.tolist() == [1, 2, 3] and drift.images == 24
    assert np.isnan(drift.from_previous[0]) and (drift.from_previous[1:] > 0).all()
    assert np.isfinite(drift.held_out_nll).all() and np.isfinite(drift.nll).all()
    assert (drift.to_end <= drift.to_end_unaligned + 1e-6).all()
    assert drift.to_end[-1] < drift.to_end[0]


def test_the_figures_are_those_of_decoded_epochs(run):
    import torch

    drift = measure_drift(cryoatom.load(run.path), sample=5)
    rows = np.array([0, 5, 11, 17, 23])
    first, second = (torch.from_numpy(cryoatom.load(run.path, epoch).conformations[rows]) for epoch in (1, 2))
    assert drift.from_previous[1] == pytest.approx(float(rmsd(second, first).mean()), abs=1e-5)
    unaligned = float(rmsd(second, first, align=False).mean())
    assert drift.from_previous_unaligned[1] == pytest.approx(unaligned, abs=1e-5)


@pytest.mark.parametrize("kept", [(1, 3), (2,), ()])
def test_epochs_may_be_missing(copy, kept):
    for epoch in set(range(1, EPOCHS + 1)) - set(kept):
        copy.weights(epoch).unlink()
        copy.latents(epoch).unlink()
    copy.metrics.unlink()
    drift = measure_drift(cryoatom.load(copy.path))
    assert drift.epochs.tolist() == list(kept) and np.isnan(drift.held_out_nll).all()
    assert np.isfinite(drift.to_end).all()
    if kept == (1, 3):
        assert drift.per_epoch[1] == pytest.approx(drift.from_previous[1] / 2)


def test_a_run_at_rest_does_not_drift(copy):
    for epoch in range(1, EPOCHS):
        shutil.copy(copy.weights(EPOCHS), copy.weights(epoch))
        shutil.copy(copy.latents(EPOCHS), copy.latents(epoch))
    drift = measure_drift(cryoatom.load(copy.path))
    assert drift.from_previous[1:].max() < 1e-3 and drift.from_previous_unaligned[1:].max() == 0


def test_a_run_that_has_not_ended_is_compared_with_its_last_epoch(copy):
    for path in (copy.weights(), copy.latents(), copy.conformations, copy.image_report, copy.weights(2)):
        path.unlink()
    drift = measure_drift(cryoatom.load(copy.path, 1))
    assert drift.epochs.tolist() == [1, 3] and not drift.has_end and drift.images == 24
    assert drift.to_end[0] == pytest.approx(drift.from_previous[1], abs=1e-5) and drift.to_end[1] < 1e-3


def test_the_end_of_a_run_that_went_on_is_not_its_end_any_more(copy):
    shutil.copy(copy.weights(1), copy.weights())
    shutil.copy(copy.latents(1), copy.latents())
    drift = measure_drift(cryoatom.load(copy.path))
    assert not drift.has_end and drift.to_end[0] > 0.01 > drift.to_end[2]


def test_epochs_without_latents_and_images_of_junk_do_not_count(copy):
    copy.latents(3).unlink()
    run = cryoatom.load(copy.path)
    run.__dict__["good_rows"] = np.array([2, 5])
    drift = measure_drift(run)
    assert drift.epochs.tolist() == [1, 2] and drift.images == 2 and drift.has_end
    end, first = (run.decode(np.load(copy.latents())[[2, 5]]), cryoatom.load(copy.path, 1).conformations[[2, 5]])
    assert drift.to_end_unaligned[0] == pytest.approx(np.sqrt(((end - first) ** 2).sum(-1).mean(-1)).mean(), abs=1e-4)
