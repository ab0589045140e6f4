"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryoatom.interruption import Stopped, deferring, stop_signal
from cryoatom.particles.rows import spaced_rows
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.checkpoint import (
    History,
    Identity,
    fit_state,
    load_checkpoint,
    restore_fit,
    save_checkpoint,
)
from cryoatom.training.denoise import are_latents_denoised, denoise_latents
from cryoatom.training.expected import expected_plan
from cryoatom.training.orientation import Orientation
from cryoatom.training.robust import first_weighed, keep_what_is_asked_for, weigh_images
from cryoatom.training.search_plan import search_plan
from cryoatom.training.stage import Stage
from cryoatom.training.trainer import Begun, HaltedError, Schedule, Trainer
from cryoatom.training.uncertainty import are_poses_uncertain
from cryoatom.training.unseen import fit_unseen

_SCALE_SAMPLE = 1024  # images that fix the scale from electrons to image units
_GAIN = 1e-5  # part of the held-out likelihood that counts as a gain
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """What a fit leaves beside the state of its trainer."""

    orientation: Orientation | None
    history: History


def fit(
    config: TrainConfig, trainer: Trainer, folder: RunFolder, identity: Identity, checkpoint: Path | None, stage: Stage
) -> Fit:
    """Run the epochs, with a checkpoint and a row of metrics for each; then refine latents alone, if they are not held.

    Parameters
    ----------
    identity
        What the checkpoints belong to.
    checkpoint
        Where to go on; None starts anew.

    Returns
    -------
    Fit
        What has searched the poses, where they were not known, and the figures of all epochs.
    """
    is_alive = ~trainer.data.is_dead
    training, held_out = (rows[is_alive[rows]] for rows in training_rows(config, len(is_alive)))
    plan = search_plan(config)
    orientation = None if plan is None else Orientation(trainer, plan, training)
    history, begun = ([], None) if checkpoint is None else load_checkpoint(checkpoint, trainer)
    keep_what_is_asked_for(config, trainer.fits)
    first, full = len(history), trainer.schedule
    is_finished = first >= shortened(full, history, config.patience).epochs
    if config.encoder != "none" and trainer.latents is trainer.latents.table and not is_finished:
        raise ValueError(f"{checkpoint} is of the end of a run, without its encoder: go on from weights.{first}.pt")
    if is_finished and begun is not None:
        raise ValueError(
            f"{checkpoint} is within epoch {first + 1}, which --num-epochs {config.num_epochs} and --patience "
            f"{config.patience} leave out: give them as before, or --load {folder.weights(first)}"
        )
    if is_finished:
        _logger.warning("the run had finished: its last files are written again; --num-epochs is %d", config.num_epochs)
    with stage((config.num_epochs - first) * len(training), "Training") as advance:
        while True:
            trainer.schedule = shortened(full, history, config.patience)
            epoch = len(history)
            trainer.model.beads.widen(trainer.schedule.extra_variance(epoch))
            if epoch >= trainer.schedule.epochs:
                break
            seen = (epoch - first) * len(training)
            started = time.monotonic() - (0.0 if begun is None else begun.seconds)
            row = {"epoch": epoch + 1.0}
            follow_first(trainer)
            if begun is None:
                prepare_epoch(
                    config, trainer, orientation, training, epoch, lambda note, seen=seen: advance(seen, note)
                )
            with deferring(), keeping(folder, trainer, history, identity, started):
                row |= run_epoch(
                    trainer, orientation, epoch, training, lambda count, seen=seen: advance(seen + count, ""), begun
                )
                if plan is None or epoch >= plan.epochs:
                    held_out_row = follow_held_out(trainer, held_out, epoch)
                    row |= {f"held_out_{name}": value for name, value in held_out_row.items()}
                history.append(row | {"seconds": time.monotonic() - started})
                folder.save_metrics(history)
                if (epoch + 1) % config.checkpoint == 0 or epoch + 1 == trainer.schedule.epochs:
                    save_checkpoint(folder.weights(epoch + 1), trainer, history, identity)
                    folder.save_array(
                        folder.latents(epoch + 1), trainer.latents.read(torch.arange(len(trainer.data))).numpy()
                    )
                    folder.forget_stop()
            begun = None
            advance(seen + len(training), describe(history[-1]))
    trainer.latents = trainer.latents.settled(trainer.batches(np.flatnonzero(is_alive)))
    follow_first(trainer)
    are_rows_fitted = not config.homogeneous or trainer.schedule.pose_lr > 0  # else nothing is an image's own
    if config.train_on != "all" and config.encoder == "none" and are_rows_fitted:
        unseen = np.setdiff1d(np.flatnonzero(is_alive), np.concatenate([training, held_out]))
        fit_unseen(trainer, unseen, stage)
    are_final = trainer.are_latents_held or config.variational  # the latter by their prior
    if trainer.schedule.pose_lr > 0 or (are_rows_fitted and not are_final):
        refine_latents(trainer, config.z_passes, stage)
    return Fit(orientation, history)


@contextmanager
def keeping(
    folder: RunFolder, trainer: Trainer, history: History, identity: Identity, started: float
) -> Iterator[None]:
    """Where the run is asked to stop in an epoch that has `started`, write a checkpoint of that moment.

    Raises
    ------
    Stopped
        Then.
    """
    begun, ranks = None, trainer.workers.ranks
    try:
        yield
        ranks.wait()
    except HaltedError as halt:
        begun = replace(halt.begun, seconds=time.monotonic() - started)
    if not ranks.is_stop_asked:
        return
    save_checkpoint(folder.stopped, trainer, history, identity, begun)
    _logger.info("stopped after %d epochs%s", len(history), "" if begun is None else f" and {begun.done} images")
    ranks.wait()  # else who has heard nothing might end before the file is written, and take the others with it
    raise Stopped(stop_signal())


def prepare_epoch(
    config: TrainConfig,
    trainer: Trainer,
    orientation: Orientation | None,
    training: np.ndarray,
    epoch: int,
    note: Callable[[str], None],
) -> None:
    """Do what comes before an epoch's steps: search poses, set the scale, weigh images, denoise latents."""
    if orientation is not None:
        orientation.before(epoch, note)
    if epoch == 0:
        start(config, trainer, orientation, training)
    elif epoch >= first_weighed(config):
        if config.variational or config.decoder == "rigid":  # steps saw images at draws, their controls are at means
            trainer.note_fits(training)
        weigh_images(config, trainer, training, epoch)
    if trainer.are_latents_held or epoch < held_from(config, trainer.schedule):
        return
    known = denoise_latents(
        trainer,
        training,
        trainer.fits.weights.numpy(),
        components=config.z_components,
        marginal_poses=are_poses_uncertain(config),
    )
    trainer.are_latents_held = known is not None


def follow_first(trainer: Trainer) -> None:
    """Take over the state of rank 0: the processors of other machines may round in other ways."""
    ranks = trainer.workers.ranks
    if ranks.size > 1:
        restore_fit(trainer, ranks.of_first(lambda: fit_state(trainer)))


def start(config: TrainConfig, trainer: Trainer, orientation: Orientation | None, training: np.ndarray) -> None:
    """Set the scale, from poses found with the template where there are no others yet."""
    measures = expected_plan(config)
    if measures is not None:
        Orientation(trainer, measures, training).pose_by_template()
    start_scale(trainer, training if orientation is None else orientation.rows(0))


def held_from(config: TrainConfig, schedule: Schedule) -> float:
    """Return the epoch from which latents may stay at their posterior means: while rates fall, in a run's second half.

    Not before they have had two epochs of their own to find their places; and only once images tell something of them.
    """
    if not are_latents_denoised(config):
        return math.inf
    return max(schedule.decay_start, 0.5 * schedule.epochs, first_weighed(config) + 1)


def run_epoch(
    trainer: Trainer,
    orientation: Orientation | None,
    epoch: int,
    rows: np.ndarray,
    advance: Callable[[int], None],
    begun: Begun | None = None,
) -> dict[str, float]:
    """Train the images of an epoch, or what is left of one that has begun, and return the mean of each term."""
    if orientation is None:
        return trainer.train_epoch(epoch, rows, advance, begun=begun)
    own, visits = orientation.rows(epoch), orientation.visits(epoch)
    share = len(rows) / (len(own) * visits)
    terms = {}
    for visit in range(0 if begun is None else begun.visit, visits):
        before = visit * len(own)
        terms = trainer.train_epoch(
            epoch, own, lambda count, before=before: advance(int(share * (before + count))), visit=visit, begun=begun
        )
        begun = None
    return terms


def training_rows(config: TrainConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows that train the decoder, held-out rows); with --train-on odd or even only half of the former."""
    training, held_out = split_rows(count, config.held_out, config.seed)
    if config.train_on != "all":
        training = training[training % 2 == ("even", "odd").index(config.train_on)]
    return training, held_out


def split_rows(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (training rows, held-out rows), each sorted; at least one image trains."""
    order = np.random.default_rng([seed, 0, count]).permutation(count)
    held = min(round(fraction * count), count - 1)
    return np.sort(order[held:]), np.sort(order[:held])


def start_scale(trainer: Trainer, rows: np.ndarray) -> None:
    """Set the scale from electrons to image units to its best value for the template, s = Σ⟨w,v⟩ / Σ⟨v,κ*v⟩.

    Where images do not correlate with the template (:mod:`cryoatom.training.checks` stops there, unless forced) it is
    what noise alone would give, 1 / √Σ⟨v,κ*v⟩.
    """
    sample = rows[spaced_rows(len(rows), _SCALE_SAMPLE)]
    cross, power = template_match(trainer, sample)
    if cross < power**0.5:
        _logger.warning("the images do not show the template: the scale of its projections is a guess")
    with torch.no_grad():
        trainer.model.beads.log_scale.add_(float(np.log(max(cross, power**0.5) / power)))


def template_match(trainer: Trainer, rows: np.ndarray) -> tuple[float, float]:
    """Return Σ⟨w,v⟩ and Σ⟨v,κ*v⟩ of the template over some images in their poses."""
    cross = power = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), trainer.chunk):
            batch = trainer.batch(rows[start : start + trainer.chunk])
            template = trainer.model.start.expand(len(batch.rotations), -1, -1)
            chunk_cross, chunk_power = trainer.objective.compare(trainer.model, template, batch)
            cross, power = cross + float(chunk_cross.sum()), power + float(chunk_power.sum())
    return cross, power


def follow_held_out(trainer: Trainer, rows: np.ndarray, epoch: int) -> dict[str, float]:
    """Move the latents of held-out images twice, with the decoder frozen; return their terms in between."""
    if len(rows) == 0:
        return {}
    factor = trainer.schedule.factor(epoch + 0.5)
    trainer.fit_latents(rows, factor)
    return trainer.fit_latents(rows, factor)


def shortened(schedule: Schedule, history: History, patience: int) -> Schedule:
    """Return the schedule, its decay brought forward to the epoch after which held-out images gained nothing more.

    It depends on the history alone, so that a resumed run keeps to it.
    """
    for epoch in range(1, len(history) + 1):
        if epoch >= schedule.decay_start:
            break
        if has_stalled(history[:epoch], patience):
            return schedule.ended_early(epoch)
    return schedule


def has_stalled(history: History, patience: int) -> bool:
    """Tell whether the held-out likelihood has not improved for `patience` epochs (0: never)."""
    values = [row["held_out_nll"] for row in history if "held_out_nll" in row]
    if patience == 0 or len(values) <= patience:
        return False
    best_before = min(values[:-patience])
    return min(values[-patience:]) > best_before - _GAIN * abs(best_before)


def refine_latents(trainer: Trainer, passes: int, stage: Stage) -> None:
    """Fit the latents of all images to the final decoder, at a falling rate."""
    rows = np.flatnonzero(~trainer.data.is_dead)
    with stage(passes * len(rows), "Refining latents") as advance:
        for index in range(passes):
            trainer.fit_latents(rows, 0.1 * (passes - index) / passes)
            advance((index + 1) * len(rows), "")


def describe(row: dict[str, float]) -> str:
    """Return an epoch's figures in one line."""
    held = f" held-out nll = {row['held_out_nll']:.2f}," if "held_out_nll" in row else ""
    return (
        f"epoch {row['epoch']:.0f}: total loss = {row['loss']:.2f}, nll = {row['nll']:.2f},{held} "
        f"{row['seconds']:.0f} s"
    )
