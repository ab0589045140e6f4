"""`cryoatom train --dry-run`: the checks of a run, and what it will cost, measured on a few of its images."""

from __future__ import annotations

import functools
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from cryoatom.particles.noise import MOST_IMAGES
from cryoatom.particles.rows import spaced_rows
from cryoatom.run_folder import RunFolder
from cryoatom.threads import available_cores
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_trainer
from cryoatom.training.checkpoint import find_checkpoint
from cryoatom.training.checks import check_inputs
from cryoatom.training.denoise import are_latents_denoised, measure_slopes
from cryoatom.training.disk import DiskNeed, check_space, disk_need, folder_needs, free_bytes, in_bytes
from cryoatom.training.fit import start_scale, training_rows
from cryoatom.training.images import are_prepared, measure_noise, prepare_images
from cryoatom.training.inputs import Inputs, read_inputs, run_identity
from cryoatom.training.latent_mixture import latent_prior
from cryoatom.training.pose_search import PoseSearch
from cryoatom.training.restarts import TRIAL
from cryoatom.training.robust import CONTROLS
from cryoatom.training.search_plan import search_plan
from cryoatom.training.stage import silent
from cryoatom.training.trainer import Trainer
from cryoatom.training.uncertainty import are_poses_uncertain, image_posterior, is_uncertainty_measured
from cryoatom.workers import Workers

_MEASURED = 256  # images that are prepared and trained on
_DEAD = 0.5  # share of them that may be unusable: bad images may come in runs
_SEARCHED = 8  # images, at first, whose poses are searched
_NEGATIVES, _OWN_VIEWS = 500, 64  # images that searches look at besides, to tell whether there is something to find
_TABLE_BYTES = 600  # of an image: poses, latents, their moments, optics, names
_COVARIANCES = 6  # of an image's latent that are held at once while latents are denoised
_CHECKS = 3  # looks at the objective while latents go to their posterior means


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Parameters
    ----------
    images, residues
        Of the run.
    disk
        What it writes.
    folders
        Folder -> (bytes needed, bytes free).
    memory
        Peak of the process, bytes, without cached pages of files.
    seconds
        Part of the run -> its time. Training may end early, see --patience.
    """

    images: int
    residues: int
    disk: DiskNeed
    folders: dict[Path, tuple[int, int]]
    memory: int
    seconds: dict[str, float]

    @property
    def total_seconds(self) -> float:
        """Return the time of the whole run."""
        return sum(self.seconds.values())

    def rows(self) -> list[tuple[str, str]]:
        """Return the lines of a table: what, how much."""
        disk = self.disk
        parts = [(f"time, {name}", _duration(seconds)) for name, seconds in self.seconds.items()]
        folders = [
            (f"disk, {folder}", f"{in_bytes(needed)} of {in_bytes(free)} free")
            for folder, (needed, free) in self.folders.items()
        ]
        return [
            ("images", f"{self.images:,}"),
            ("residues", f"{self.residues:,}"),
            ("crop side", f"{disk.crop_side} pixels"),
            ("cache", f"{in_bytes(disk.cache)} ({disk.kernels:,} kernels)"),
            ("checkpoints", f"{disk.checkpoints} of {in_bytes(disk.checkpoint)}"),
            ("conformations and tables", in_bytes(disk.outputs)),
            *folders,
            ("memory", in_bytes(self.memory)),
            *parts,
            ("time, at most", _duration(self.total_seconds)),
        ]


def rehearse(config: TrainConfig) -> Estimate:
    """Check the input of a run as `train` does and estimate its cost; nothing is written to its folders.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`cryoatom.training.train.train`.
    """
    inputs = read_inputs(config)
    folder = RunFolder(config.outdir)
    find_checkpoint(config.load, folder, run_identity(config, inputs))
    if config.load is None:
        folder.check_vacant(overwrite=config.overwrite)
    check_inputs(config, inputs)
    check_space(config, inputs)
    return estimate_cost(config, inputs)


def estimate_cost(config: TrainConfig, inputs: Inputs) -> Estimate:
    """Measure a run's parts on a few of its images and scale them to all."""
    need, count = disk_need(config, inputs), len(inputs.particles)
    some = replace(inputs, particles=inputs.particles[spaced_rows(count, _MEASURED)])
    with tempfile.TemporaryDirectory() as name, Workers(available_cores(config.threads)) as workers:
        small = config.model_copy(update={"cache": Path(name), "outdir": Path(name), "ind": None})
        started = time.perf_counter()
        data = prepare_images(small, some, RunFolder(small.outdir), workers, silent, dead_limit=_DEAD)
        preparing = _preparing(small, some, workers, time.perf_counter() - started, count, need.kernels)
        trainer = build_trainer(small, some, data, workers)
        seconds = {"preparing images": 0.0 if are_prepared(config, inputs) else preparing}
        seconds |= _searching(config, trainer, count)
        seconds |= _training(config, trainer, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    folders = {folder: (needed, free_bytes(folder)) for folder, needed in folder_needs(config, inputs, need).items()}
    matrices = _COVARIANCES * 8 * config.zdim**2 if are_latents_denoised(config) else 0
    memory = peak + (_TABLE_BYTES + matrices) * count + 2 * need.checkpoint
    return Estimate(count, len(inputs.template), need, folders, memory, seconds)


def _preparing(config: TrainConfig, some: Inputs, workers: Workers, measured: float, count: int, kernels: int) -> float:
    """Return the time of preparing `count` images and `kernels`, from that of some."""
    noise = 0.0
    if config.noise != "white":  # a few images tell it, however many there are
        noise = min(measured, _elapsed(lambda: measure_noise(config, some.particles, workers, dead_limit=_DEAD)))
    own = disk_need(config.model_copy(update={"pdb": "none"}), some).kernels
    each = (measured - noise) / (len(some.particles) + own)
    return each * (count + kernels) + noise * min(count, MOST_IMAGES) / len(some.particles)


def _training(config: TrainConfig, trainer: Trainer, count: int) -> dict[str, float]:
    """Return the time of all epochs, and of the outputs."""
    rows = np.arange(len(trainer.data))
    if config.poses != "esl":
        start_scale(trainer, rows)
    step = _seconds_each(lambda some: trainer.train_epoch(0, some), rows)
    latents = _seconds_each(lambda some: trainer.fit_latents(some, 0.0), rows)
    forward = _seconds_each(trainer.losses, rows)
    decoding = _seconds_each(trainer.decode, rows)
    training, held_out = (len(part) for part in training_rows(config, count))
    visited, plan = config.num_epochs * training, search_plan(config)
    if plan is not None:
        sample = min(training, plan.images)
        visited += plan.epochs * (max(plan.images, sample) - training)
    epochs = visited * step + config.num_epochs * (2 * held_out * latents + min(count, CONTROLS) * forward)
    trials = {}
    if config.restarts > 1 and not config.homogeneous:
        trials = {f"trying {config.restarts} starts": config.restarts * min(TRIAL, config.num_epochs) * training * step}
    is_denoised = are_latents_denoised(config)
    passes = 0 if config.homogeneous or config.variational or is_denoised else config.z_passes
    denoising = _seconds_each(functools.partial(_slopes, config, trainer), rows) + _CHECKS * forward
    return trials | {
        f"{config.num_epochs} epochs": epochs + passes * count * latents,
        "denoising latents": (training + count) * denoising if is_denoised else 0.0,
        "uncertainty": count * _uncertainty(config, trainer, rows),
        "writing conformations": count * decoding * (2 if config.dcd and not config.homogeneous else 1),
    }


def _slopes(config: TrainConfig, trainer: Trainer, rows: np.ndarray) -> object:
    spread = trainer.latents.table.values.double().std(dim=0)
    return measure_slopes(trainer, rows, spread, marginal_poses=are_poses_uncertain(config))


def _uncertainty(config: TrainConfig, trainer: Trainer, rows: np.ndarray) -> float:
    """Return the time of one image's uncertainty."""
    if not is_uncertainty_measured(config):
        return 0.0
    prior, fits = latent_prior(trainer.latents.values, torch.ones(len(rows))), torch.ones(len(rows))
    known = prior.covariance.expand(len(rows), -1, -1) if are_latents_denoised(config) else None  # then they are there

    def measure(some: np.ndarray) -> object:
        posterior = functools.partial(
            image_posterior,
            trainer,
            prior=prior,
            fits=fits,
            marginal_poses=are_poses_uncertain(config),
            covariances=known,
        )
        return trainer.workers.map(posterior, np.array_split(some, -(-len(some) // trainer.chunk)))

    return _seconds_each(measure, rows)


def _searching(config: TrainConfig, trainer: Trainer, count: int) -> dict[str, float]:
    """Return the time of the searches of --poses esl (:mod:`cryoatom.training.orientation` says which there are)."""
    plan = search_plan(config)
    if plan is None:
        return {}
    search, template = PoseSearch(trainer, plan), trainer.model.start
    classes, sample = template.expand(plan.classes, -1, -1), min(count, plan.images)
    first = _SearchCost.of(lambda rows: search(0, rows, template[None], is_wide=True), len(trainer.data))
    own = _SearchCost.of(lambda rows: search(0, rows, classes, is_exact=True), len(trainer.data))
    seconds = first.seconds(sample) + first.seconds(min(sample, _NEGATIVES)) + first.seconds(_OWN_VIEWS)
    if count > sample:
        wide = _SearchCost.of(lambda rows: search(0, rows, classes, is_exact=True, is_wide=True), len(trainer.data))
        seconds += wide.seconds(count - sample)
    later = range(plan.epochs + 1, int(trainer.schedule.decay_start))
    again = sum((epoch - plan.epochs) % plan.every == 0 for epoch in later) if plan.every else 0
    images = [sample] * plan.epochs + [count] * (again + 1) + [min(count, _NEGATIVES)]
    return {"searches of poses": seconds + sum(own.seconds(each) for each in images)}


@dataclass(frozen=True)
class _SearchCost:
    """Seconds of a search: a fixed part, the projections of the grid, and one for each image."""

    fixed: float
    each: float

    @classmethod
    def of(cls, search: Callable[[np.ndarray], object], count: int) -> _SearchCost:
        few = min(_SEARCHED, count)
        many = min(4 * few, count)
        short, long = (_elapsed(lambda k=k: search(np.arange(k))) for k in (few, many))
        each = max(long - short, 0.0) / max(many - few, 1)
        return cls(max(short - few * each, 0.0), each)

    def seconds(self, images: int) -> float:
        return self.fixed + self.each * images


def _seconds_each(work: Callable[[np.ndarray], object], rows: np.ndarray) -> float:
    """Return the time of one image: the shorter of two, as a busy moment of the machine passes."""
    return min(_elapsed(lambda: work(rows)) for _ in range(2)) / len(rows)


def _elapsed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
