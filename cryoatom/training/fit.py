"""The training loop."""

from __future__ import annotations

import logging
import time

import numpy as np
import torch

from cryoatom.config import TrainConfig
from cryoatom.imaging.likelihood import cross_and_power
from cryoatom.run_folder import RunFolder
from cryoatom.training.checkpoint import History, checkpoint_to_load, load_checkpoint, save_checkpoint
from cryoatom.training.stage import Stage
from cryoatom.training.trainer import Trainer

_SCALE_SAMPLE = 1024  # images that fix the scale from electrons to image units
_GAIN = 1e-5  # part of the held-out likelihood that counts as a gain
_logger = logging.getLogger(__name__)


def fit(config: TrainConfig, trainer: Trainer, folder: RunFolder, identity: str, stage: Stage) -> None:
    """Run the epochs, with a checkpoint and a row of metrics for each, then refine the latents alone.

    Parameters
    ----------
    identity
        Digest of the dataset, for the checkpoints.
    """
    training, held_out = split_rows(len(trainer.data), config.held_out, config.seed)
    checkpoint = checkpoint_to_load(config.load, folder)
    history: History = [] if checkpoint is None else load_checkpoint(checkpoint, trainer, identity)
    if checkpoint is None:
        start_scale(trainer, training[:_SCALE_SAMPLE])
    with stage(config.num_epochs * len(training), "Training") as advance:
        for epoch in range(len(history), config.num_epochs):
            if should_stop(history, config.patience):
                _logger.info("no gain on held-out images for %d epochs: stopped after epoch %d", config.patience, epoch)
                break
            seen, started = epoch * len(training), time.monotonic()
            row = {"epoch": epoch + 1.0}
            row |= trainer.train_epoch(epoch, training, lambda count, seen=seen: advance(seen + count, ""))
            row |= {f"held_out_{name}": value for name, value in follow_held_out(trainer, held_out, epoch).items()}
            history.append(row | {"seconds": time.monotonic() - started})
            folder.save_metrics(history)
            if (epoch + 1) % config.checkpoint == 0 or epoch + 1 == config.num_epochs:
                save_checkpoint(folder.weights(epoch + 1), trainer, history, identity)
                folder.save_array(folder.latents(epoch + 1), trainer.latents.values.numpy())
            advance(seen + len(training), describe(history[-1]))
    refine_latents(trainer, config.z_passes, stage)
    save_checkpoint(folder.weights(), trainer, history, identity)


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
        If the images correlate negatively with the template: inverted contrast, or poses that are not the images'.
    """
    cross = power = 0.0
    size = trainer.objective.pixel_size
    with torch.no_grad():
        for start in range(0, len(rows), trainer.chunk):
            batch = trainer.batch(rows[start : start + trainer.chunk])
            template = trainer.model.template_positions.expand(len(batch.crops), -1, -1)
            projection = trainer.model.render(template, batch.rotations, batch.crops.shape[-1], size)
            chunk_cross, chunk_power = cross_and_power(projection, batch.crops, batch.kernels)
            cross, power = cross + float(chunk_cross.sum()), power + float(chunk_power.sum())
    if cross <= 0:
        raise ValueError(
            f"the images correlate negatively with the template's projections ({cross / power**0.5:.1f} noise "
            "deviations): if the protein is bright in the images give --uninvert-data, otherwise the poses do not "
            "belong to the images or the template is not in their frame"
        )
    with torch.no_grad():
        trainer.model.beads.log_scale.add_(float(np.log(cross / power)))


def follow_held_out(trainer: Trainer, rows: np.ndarray, epoch: int) -> dict[str, float]:
    """Move the latents of held-out images twice, with the decoder frozen; return their terms in between."""
    if len(rows) == 0:
        return {}
    rate = trainer.schedule.z_lr * trainer.schedule.factor(epoch + 0.5)
    trainer.fit_latents(rows, rate)
    return trainer.fit_latents(rows, rate)


def should_stop(history: History, patience: int) -> bool:
    """Tell whether the held-out likelihood has not improved for `patience` epochs (0: never stop)."""
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
            trainer.fit_latents(rows, trainer.schedule.z_lr * 0.1 * (passes - index) / passes)
            advance((index + 1) * len(rows), "")


def describe(row: dict[str, float]) -> str:
    """Return an epoch's figures in one line."""
    held = f" held-out nll = {row['held_out_nll']:.2f}," if "held_out_nll" in row else ""
    return (
        f"epoch {row['epoch']:.0f}: total loss = {row['loss']:.2f}, nll = {row['nll']:.2f},{held} "
        f"{row['seconds']:.0f} s"
    )
