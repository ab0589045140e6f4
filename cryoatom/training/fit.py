"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cryoatom.config import TrainConfig
from cryoatom.imaging.likelihood import cross_and_power
from cryoatom.run_folder import RunFolder
from cryoatom.training.checkpoint import History, Identity, load_checkpoint, save_checkpoint
from cryoatom.training.expected import expected_plan
from cryoatom.training.orientation import Orientation
from cryoatom.training.search_plan import search_plan
from cryoatom.training.stage import Stage
from cryoatom.training.trainer import Schedule, Trainer

_LEAST_DEVIATIONS = 5.0  # of the noise, by which the template must be seen in the sample
_SCALE_SAMPLE = 1024  # images that fix the scale from electrons to image units
_GAIN = 1e-5  # part of the held-out likelihood that counts as a gain
_logger = logging.getLogger(__name__)


def fit(
    config: TrainConfig, trainer: Trainer, folder: RunFolder, identity: Identity, checkpoint: Path | None, stage: Stage
) -> Orientation | None:
    """Run the epochs, with a checkpoint and a row of metrics for each, then refine the latents alone.

    Parameters
    ----------
    identity
        What the checkpoints belong to.
    checkpoint
        Where to go on; None starts anew.

    Returns
    -------
    Orientation or None
        What has searched the poses, where they were not known.
    """
    training, held_out = split_rows(len(trainer.data), config.held_out, config.seed)
    plan = search_plan(config)
    orientation = None if plan is None else Orientation(trainer, plan, training)
    history: History = [] if checkpoint is None else load_checkpoint(checkpoint, trainer)
    first, full = len(history), trainer.schedule
    with stage((config.num_epochs - first) * len(training), "Training") as advance:
        while True:
            trainer.schedule = shortened(full, history, config.patience)
            epoch = len(history)
            if epoch >= trainer.schedule.epochs:
                break
            seen, started = (epoch - first) * len(training), time.monotonic()
            row = {"epoch": epoch + 1.0}
            if orientation is not None:
                orientation.before(epoch, lambda note, seen=seen: advance(seen, note))
            if epoch == 0:
                start(config, trainer, orientation, training)
            row |= run_epoch(trainer, orientation, epoch, training, lambda count, seen=seen: advance(seen + count, ""))
            if plan is None or epoch >= plan.epochs:
                row |= {f"held_out_{name}": value for name, value in follow_held_out(trainer, held_out, epoch).items()}
            history.append(row | {"seconds": time.monotonic() - started})
            folder.save_metrics(history)
            if (epoch + 1) % config.checkpoint == 0 or epoch + 1 == trainer.schedule.epochs:
                save_checkpoint(folder.weights(epoch + 1), trainer, history, identity)
                folder.save_array(
                    folder.latents(epoch + 1), trainer.latents.read(torch.arange(len(trainer.data))).numpy()
                )
            advance(seen + len(training), describe(history[-1]))
    refine_latents(trainer, config.z_passes, stage)
    save_checkpoint(folder.weights(), trainer, history, identity)
    return orientation


def start(config: TrainConfig, trainer: Trainer, orientation: Orientation | None, training: np.ndarray) -> None:
    """Set the scale, from poses found with the template where there are no others yet."""
    measures = expected_plan(config)
    if measures is not None:
        Orientation(trainer, measures, training).pose_by_template()
    start_scale(trainer, training if orientation is None else orientation.rows(0))


def run_epoch(
    trainer: Trainer, orientation: Orientation | None, epoch: int, rows: np.ndarray, advance: Callable[[int], None]
) -> dict[str, float]:
    """Train the images of an epoch and return the mean of each term."""
    if orientation is None:
        return trainer.train_epoch(epoch, rows, advance)
    own, visits = orientation.rows(epoch), orientation.visits(epoch)
    share = len(rows) / (len(own) * visits)
    terms = {}
    for visit in range(visits):
        before = visit * len(own)
        terms = trainer.train_epoch(
            epoch, own, lambda count, before=before: advance(int(share * (before + count))), visit
        )
    return terms


def split_rows(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (training rows, held-out rows), each sorted; at least one image trains."""
    order = np.random.default_rng([seed, 0, count]).permutation(count)
    held = min(round(fraction * count), count - 1)
    return np.sort(order[held:]), np.sort(order[:held])


def start_scale(trainer: Trainer, rows: np.ndarray) -> None:
    """Set the scale from electrons to image units to its best value for the template, s = Σ⟨w,v⟩ / Σ⟨v,κ*v⟩.

    Raises
    ------
    ValueError
        If the images do not correlate with the template: inverted contrast, poses or a frame that are not theirs.
    """
    sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), _SCALE_SAMPLE)).astype(np.int64)]
    cross, power = template_match(trainer, sample, sample)
    deviations = cross / power**0.5 if power > 0 else 0.0
    if deviations < _LEAST_DEVIATIONS:
        raise ValueError(
            f"the images do not show the template: over {len(sample)} images its projections correlate with them by "
            f"{deviations:.1f} noise deviations, at least {_LEAST_DEVIATIONS:.0f} are needed. If the protein is bright "
            "in the images give --uninvert-data; otherwise the poses do not belong to the images, or the template is "
            "not in their frame (`cryoatom template --onto`)"
        )
    other_cross, other_power = template_match(trainer, sample, np.roll(sample, len(sample) // 2))
    by_chance = other_cross / other_power**0.5 if other_power > 0 else 0.0
    _logger.info("the template explains the images by %.0f deviations, with permuted poses %.0f", deviations, by_chance)
    if len(sample) > 1 and deviations < by_chance + _LEAST_DEVIATIONS:
        _logger.warning(
            "the poses explain the images no better (%.0f deviations) than poses of other images (%.0f): "
            "do they belong to these images, and does the template lie in their frame?",
            deviations,
            by_chance,
        )
    with torch.no_grad():
        trainer.model.beads.log_scale.add_(float(np.log(cross / power)))


def template_match(trainer: Trainer, rows: np.ndarray, pose_rows: np.ndarray) -> tuple[float, float]:
    """Return Σ⟨w,v⟩ and Σ⟨v,κ*v⟩ of the template over some images, seen in the poses of `pose_rows`."""
    cross = power = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), trainer.chunk):
            part = slice(start, start + trainer.chunk)
            batch = trainer.batch(rows[part])
            rotations, shifts = trainer.poses.read(torch.from_numpy(pose_rows[part]))
            template = trainer.model.template_positions.expand(len(rotations), -1, -1)
            side, size = batch.crops.shape[-1], trainer.objective.pixel_size
            pose = rotations.to(trainer.device), shifts.to(trainer.device)
            projection = trainer.model.render(template, *pose, side, size)
            chunk_cross, chunk_power = cross_and_power(projection, batch.crops, batch.kernels)
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
    rows = np.arange(len(trainer.data))
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
