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
    drift = measure_drift(run)
    assert drift.epochs.tolist() == [1, 2, 3] and drift.images == 24
    assert np.isnan(drift.from_previous[0]) and (drift.from_previous[1:] > 0).all()
    assert np.isfinite(drift.held_out_nll).all() and np.isfinite(drift.nll).all()
    assert (drift.to_end <= drift.to_end_unaligned + 1e-6).all()
    assert drift.to_end[-1] < drift.to_end[0]


def test_the_figures_are_those_of_decoded_epochs(run):
    import torch

    drift = measure_drift(run, sample=5)
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
    drift = measure_drift(copy)
    assert drift.epochs.tolist() == list(kept) and np.isnan(drift.held_out_nll).all()
    assert np.isfinite(drift.to_end).all()
    if kept == (1, 3):
        assert drift.per_epoch[1] == pytest.approx(drift.from_previous[1] / 2)


def test_a_run_at_rest_does_not_drift(copy):
    for epoch in range(1, EPOCHS):
        shutil.copy(copy.weights(EPOCHS), copy.weights(epoch))
        shutil.copy(copy.latents(EPOCHS), copy.latents(epoch))
    drift = measure_drift(copy)
    assert drift.from_previous[1:].max() < 1e-3 and drift.from_previous_unaligned[1:].max() == 0
