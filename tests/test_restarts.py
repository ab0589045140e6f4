"""Several starts: which one is taken, that the run is the one that a trial has seen, and that it stops in order."""

import logging

import numpy as np
import pytest
from fits import results, settings, small_template, write_dataset
from pydantic import ValidationError
from test_distributed import ended, train_together
from test_interruption import stop_at

from cryoatom.cli.signals import stopping
from cryoatom.interruption import Stopped
from cryoatom.run_folder import RunFolder
from cryoatom.structure.graph import build_graph
from cryoatom.training import restarts
from cryoatom.training.assemble import build_model
from cryoatom.training.checkpoint import read_checkpoint
from cryoatom.training.finite import NotFiniteError
from cryoatom.training.train import train

QUICK = {"num_epochs": 2, "decoder": "mlp", "uncertainty": False, "dcd": False, "robust": False, "z_components": 0}
ENCODED = {"encoder": "mlp", "variational": True, "zdim": 1}
NAMES = ("conformations.npy", "z.npy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, 25)
    return path


def outcome(run: RunFolder) -> dict[str, bytes]:
    return {name: (run.path / name).read_bytes() for name in NAMES}


@pytest.mark.parametrize(("trial", "changes"), [(1, {}), (2, ENCODED)], ids=["own", "encoded"])
def test_the_run_repeats_the_best_trial(folder, tmp_path, monkeypatch, changes, trial):
    losses = []

    def noted(*given):
        losses.append(measure(*given))
        return losses[-1]

    measure = restarts.trial_loss
    monkeypatch.setattr(restarts, "TRIAL", trial)
    monkeypatch.setattr(restarts, "trial_loss", noted)
    run = train(settings(folder, tmp_path, restarts=2, **QUICK, **changes))
    found = np.genfromtxt(run.metrics, delimiter=",", names=True)["loss"]
    assert len(set(losses)) == 2 and found[trial - 1] == min(losses)


def test_the_lowest_is_taken_and_the_rest_is_of_the_seed(folder, tmp_path, monkeypatch, caplog):
    given = iter([3.0, -1.0, 2.5])
    monkeypatch.setattr(restarts, "trial_loss", lambda *_: next(given))
    config = settings(folder, tmp_path, restarts=3, lr=1e-12, bead_lr=1e-12, **QUICK)
    with caplog.at_level(logging.INFO, "cryoatom.training.restarts"):
        run = train(config)
    said = "the run begins at start 2 of 3, loss -1.00; nats behind it: start 1 by 4.00, 3 by 3.50"
    assert caplog.messages[-1] == said
    kept = read_checkpoint(run.weights())
    graph, pixel_size = build_graph(small_template()), 2.0
    own, other = (
        build_model(config, small_template(), graph, pixel_size, start_seed=seed).state_dict() for seed in (None, 1000)
    )
    name = next(name for name, value in own.items() if name.startswith("decoder") and (value != other[name]).any())
    np.testing.assert_allclose(kept["model"][name], other[name], atol=1e-6)
    assert kept["identity"]["--seed, --held-out, --train-on"].startswith("0 ")


@pytest.mark.parametrize("failing", [1, 2])
def test_a_start_that_runs_away_is_out(folder, tmp_path, monkeypatch, caplog, failing):
    count = 0

    def loss(*_):
        nonlocal count
        count += 1
        if count <= failing:
            raise NotFiniteError("the weights are not finite", "go on")
        return 1.0

    monkeypatch.setattr(restarts, "trial_loss", loss)
    config = settings(folder, tmp_path, restarts=2, **QUICK)
    if failing == 2:
        with pytest.raises(NotFiniteError, match="the weights are not finite"):
            train(config)
    else:
        with caplog.at_level(logging.INFO, "cryoatom.training.restarts"):
            train(config)
        assert "the run begins at start 2 of 2, loss 1.00" in caplog.messages[-1]


def test_the_first_start_is_the_run_without_others(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(restarts, "trial_loss", lambda *_: 0.0)
    alone, first = (train(settings(folder, tmp_path / str(n), restarts=n, **QUICK, **ENCODED)) for n in (1, 2))
    assert outcome(alone) == outcome(first)


@pytest.mark.parametrize("step", [2, 5])  # of 2 in each of two trials; then all are asked once more
def test_a_run_stopped_in_a_trial_starts_anew(folder, tmp_path, monkeypatch, step):
    monkeypatch.setattr(restarts, "TRIAL", 1)
    config = settings(folder, tmp_path / "run", restarts=2, **QUICK | {"num_epochs": 1})
    with monkeypatch.context() as patch, stopping(), pytest.raises(Stopped, match="SIGUSR1"):
        stop_at(patch, step)
        train(config)
    assert RunFolder(tmp_path / "run").resumable() == []
    assert outcome(train(config.model_copy(update={"load": "latest"}))) == outcome(
        train(config.model_copy(update={"outdir": tmp_path / "whole"}))
    )


def test_a_run_that_goes_on_tries_no_starts(folder, tmp_path, monkeypatch):
    config = settings(folder, tmp_path / "run", restarts=2, **QUICK, **ENCODED)
    whole = train(config)
    begun = RunFolder(tmp_path / "begun")
    begun.path.mkdir()
    begun.weights(1).write_bytes(whole.weights(1).read_bytes())
    monkeypatch.delattr(restarts, "trial_loss")
    again = train(config.model_copy(update={"outdir": begun.path, "load": "latest"}))
    assert outcome(again) == outcome(whole)


def test_one_conformation_has_one_start(folder, tmp_path, monkeypatch):
    monkeypatch.delattr(restarts, "trial_loss")
    changes = QUICK | {"num_epochs": 1, "homogeneous": True}
    assert train(settings(folder, tmp_path, restarts=3, **changes)).conformations.exists()


def test_unknown_poses_are_refused(folder):
    with pytest.raises(ValidationError, match=r"--restarts 3 tells starts apart.*poses\.star with --poses"):
        settings(folder, poses="esl", restarts=3)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, ENCODED | {"encoder": "cnn"}], ids=["own", "encoded"])
def test_some_ranks_take_the_start_that_one_takes(folder, tmp_path, changes):
    given = {"restarts": 3, "num_epochs": 2, "decoder": "mlp", "analysis": False} | changes
    alone = train(settings(folder, tmp_path / "alone", **given))
    ended(train_together(2, settings(folder, tmp_path / "together", cache=tmp_path / "cache", **given)))
    assert results(RunFolder(tmp_path / "together")) == results(alone)
