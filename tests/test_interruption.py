"""A run that is asked to stop goes on from that very step, to the same numbers."""

import signal

import numpy as np
import pytest
from fits import results, settings

from cryoatom.cli.signals import exit_code, stopping
from cryoatom.distributed import Ranks
from cryoatom.interruption import Stopped, ask_to_stop, deferring, is_deferred, is_stop_asked, stop_signal
from cryoatom.run_folder import RunFolder
from cryoatom.training import fit as module
from cryoatom.training.train import train

ESL = {"poses": "esl", "rotations": 1500, "classes": 3, "search_epochs": 2, "num_epochs": 4}


def stop_at(monkeypatch, step: int) -> None:
    """Let a signal come before the end of a step, counted over a run."""
    count = 0

    def is_asked(ranks: Ranks) -> bool:
        nonlocal count
        count += 1
        if count == step:
            signal.raise_signal(signal.SIGUSR1)
        return is_stop_asked()

    monkeypatch.setattr(Ranks, "is_stop_asked", property(is_asked))


@pytest.fixture(scope="module")
def whole(folder):
    return train(settings(folder))


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("every", [1, 3])
def test_a_run_goes_on_from_the_step_where_it_stopped(folder, whole, tmp_path, monkeypatch, step, every):
    with monkeypatch.context() as patch, stopping(), pytest.raises(Stopped, match="SIGUSR1"):
        stop_at(patch, step)
        train(settings(folder, tmp_path, checkpoint=every))
    here = RunFolder(tmp_path)
    assert here.stopped.exists() and here.resumable()[0] == here.stopped and not here.conformations.exists()
    again = train(settings(folder, tmp_path, checkpoint=every, load="latest"))
    assert results(again) == results(whole)
    assert not here.stopped.exists()  # a later checkpoint has made it old
    own, others = (np.genfromtxt(run.metrics, delimiter=",", names=True) for run in (again, whole))
    for name in set(own.dtype.names) - {"seconds"}:
        np.testing.assert_array_equal(own[name], others[name])


@pytest.mark.slow
@pytest.mark.parametrize("changes", [ESL, {"encoder": "cnn", "variational": True, "decoder": "rigid"}])
def test_so_do_searches_and_encoders(folder, tmp_path, monkeypatch, changes):
    whole = train(settings(folder, tmp_path / "whole", **changes))
    with monkeypatch.context() as patch, stopping(), pytest.raises(Stopped):
        stop_at(patch, 5)
        train(settings(folder, tmp_path / "run", **changes))
    assert results(train(settings(folder, tmp_path / "run", load="latest", **changes))) == results(whole)


def test_it_stops_twice_in_one_epoch(folder, whole, tmp_path, monkeypatch):
    for load in (None, "latest"):
        with monkeypatch.context() as patch, stopping(), pytest.raises(Stopped):
            stop_at(patch, 1)
            train(settings(folder, tmp_path, load=load))
    assert results(train(settings(folder, tmp_path, load="latest"))) == results(whole)


def test_a_stop_while_a_checkpoint_is_written_waits_for_it(folder, whole, tmp_path, monkeypatch):
    save = module.save_checkpoint

    def interrupted(*given):
        signal.raise_signal(signal.SIGTERM)
        save(*given)

    with monkeypatch.context() as patch, stopping(), pytest.raises(Stopped, match="SIGTERM"):
        patch.setattr(module, "save_checkpoint", interrupted)
        train(settings(folder, tmp_path))
    assert RunFolder(tmp_path).weights(1).exists()
    assert results(train(settings(folder, tmp_path, load="latest"))) == results(whole)


# --- signals that wait ----------------------------------------------------------------------------------------------


def test_signals_wait_while_they_are_deferred():
    with pytest.raises(Stopped, match="SIGTERM"), deferring():
        assert is_deferred() and not is_stop_asked()
        ask_to_stop(signal.SIGTERM)
        assert is_stop_asked() and stop_signal() == signal.SIGTERM
        ask_to_stop(signal.SIGTERM)  # torchrun and SLURM both say it
    assert not is_deferred() and not is_stop_asked()
    with pytest.raises(Stopped, match="SIGHUP"):
        ask_to_stop(signal.SIGHUP)


def test_ctrl_c_for_the_second_time_waits_no_more():
    with pytest.raises(Stopped, match="interrupted"), deferring():
        ask_to_stop(signal.SIGTERM)
        ask_to_stop(signal.SIGINT)
        pytest.fail("it went on")


def test_an_error_goes_before_a_wish_to_stop():
    with pytest.raises(ValueError, match="first"), deferring():
        ask_to_stop(signal.SIGTERM)
        raise ValueError("first")
    assert not is_stop_asked()


@pytest.mark.parametrize(
    ("number", "is_resumable", "code"),
    [
        (signal.SIGTERM, True, 75),
        (signal.SIGUSR1, True, 75),
        (signal.SIGTERM, False, 143),
        (signal.SIGINT, True, 130),
        (signal.SIGHUP, True, 129),
    ],
)
def test_batch_systems_are_told_to_try_again(number, is_resumable, code):
    assert exit_code(Stopped(number), is_resumable=is_resumable) == code
