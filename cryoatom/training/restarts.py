"""Several starts: a few epochs from each of some starting weights; the run begins at those that came lowest.

A latent may fold in the first epochs, so that both ends of a motion lie side by side, and never unfolds again. Which
way it goes is decided by the starting weights, and the training loss tells soon.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np

from cryoatom.interruption import Stopped, deferring, stop_signal
from cryoatom.train_config import TrainConfig
from cryoatom.training.finite import NotFiniteError
from cryoatom.training.fit import follow_first, prepare_epoch, training_rows
from cryoatom.training.stage import Stage
from cryoatom.training.trainer import HaltedError, Trainer

TRIAL = 4  # epochs; after 2 a start that folds cannot be told from others yet
_STRIDE = 1000  # between the seeds of starts: runs of --seed 0, 1, 2 share none
_logger = logging.getLogger(__name__)


def choose_start(config: TrainConfig, fresh: Trainer, build: Callable[[int], Trainer], stage: Stage) -> Trainer:
    """Return a fit at the best of some starts; nothing is left of the epochs that tell which one that is.

    Parameters
    ----------
    fresh
        The fit at the start that `config` gives.
    build
        Makes the same with starting weights of another seed.

    Raises
    ------
    Stopped
        Where the run is asked to stop meanwhile: there is nothing to save.
    NotFiniteError
        If no start gets through its trial.
    """
    if config.restarts == 1:
        return fresh
    seeds = [config.seed + _STRIDE * index for index in range(config.restarts)]
    epochs = min(TRIAL, config.num_epochs)
    training, _ = training_rows(config, len(fresh.data))
    rows = training[~fresh.data.is_dead[training]]
    ranks, losses, failure = fresh.workers.ranks, [], None
    with stage(len(seeds) * epochs * len(rows), "Trying starts") as advance, deferring():
        for index, seed in enumerate(seeds):
            seen = index * epochs * len(rows)
            try:
                loss = trial_loss(config, build(seed), rows, epochs, lambda count, seen=seen: advance(seen + count, ""))
            except HaltedError:
                raise Stopped(stop_signal()) from None
            except NotFiniteError as error:  # all ranks see the same numbers
                failure, loss = error, math.inf
                _logger.warning("start %d runs away and is out: %s", index + 1, error)
            losses.append(loss)
            advance(seen + epochs * len(rows), f"start {index + 1}: loss = {loss:.2f} after {epochs} epochs")
        ranks.wait()
        if ranks.is_stop_asked:
            raise Stopped(stop_signal())
    losses = ranks.of_first(lambda: losses)  # in other ranks their last bits may differ
    if failure is not None and not np.isfinite(losses).any():
        raise failure
    best = int(np.argmin(losses))
    _logger.info("%s", describe_choice(losses, best))
    return build(seeds[best])


def trial_loss(
    config: TrainConfig, trainer: Trainer, rows: np.ndarray, epochs: int, advance: Callable[[int], None]
) -> float:
    """Train as a run does in its first epochs; return the mean loss of the images in the last one, nats."""
    loss = float("nan")
    for epoch in range(epochs):
        seen = epoch * len(rows)
        trainer.model.beads.widen(trainer.schedule.extra_variance(epoch))
        follow_first(trainer)
        prepare_epoch(config, trainer, None, rows, epoch, lambda note: None)
        loss = trainer.train_epoch(epoch, rows, lambda count, seen=seen: advance(seen + count))["loss"]
    return loss


def describe_choice(losses: list[float], best: int) -> str:
    """Say which start is taken and by how much the others are behind."""
    behind = ", ".join(
        f"{index + 1} by {loss - losses[best]:.2f}" for index, loss in enumerate(losses) if index != best
    )
    return (
        f"the run begins at start {best + 1} of {len(losses)}, loss {losses[best]:.2f}; nats behind it: start {behind}"
    )
