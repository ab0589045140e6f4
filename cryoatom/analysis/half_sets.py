"""The two runs of half of the images each: who may have them, how they are trained, and whether they are there."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from cryoatom.analysis.run import Run, load
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.fit import shortened
from cryoatom.training.inputs import MODEL_SETTINGS
from cryoatom.training.stage import Stage, silent
from cryoatom.training.train import train
from cryoatom.training.trainer import Schedule

_FEWEST = 4  # images: two for each half
_SAME = 0.05  # Å: another device decodes a little differently
_FITTED_BY = {  # settings that halves share with their run
    *MODEL_SETTINGS,
    *("fit_beads", "crop_pixel", "diameter", "margin", "num_epochs", "batch_size", "blur", "z_components", "kl"),
    *("regularizer", "geometry", "geometry_pairs", "geometry_count", "bond_length", "clash", "restarts"),
    *("lr", "bead_lr", "z_lr", "wd", "warmup", "decay", "z_passes", "scale", "robust"),
    *("r0", "r1", "r2", "omega", "r2_tolerance", "z_prior", "held_out", "patience", "noise", "uninvert_data"),
}
_logger = logging.getLogger(__name__)


def train_half_sets(
    run: Run, *, stage: Stage = silent, threads: int | None = None, datadir: Path | None = None
) -> None:
    """Train a decoder on the odd images and one on the even ones, into the run folder; a killed one goes on.

    All settings are the run's but the seeds, so each half takes half as many steps. With `--poses esl` both take the
    poses that the run has found.

    Raises
    ------
    FileNotFoundError, ValueError
        When the particles are no longer where they were, and what :func:`check_half_sets` raises.
    """
    check_half_sets(run)
    for config in half_configs(run, threads=threads, datadir=datadir):
        folder = RunFolder(config.outdir)
        if _is_half_of(run, folder):
            _logger.info("%s has ended: it is not trained again", folder.path)
        else:
            train(
                config,
                command=["cryoatom", "analyze", str(run.folder.path), "--half-sets"],
                stage=stage,
                is_checked=True,
            )


def check_half_sets(run: Run) -> None:
    """Check that a run can have half sets, before time is spent.

    Raises
    ------
    FileNotFoundError
        If the particle file is no longer where it was.
    ValueError
        If there are too few images; if the run is itself one of half of them, an epoch, or has not ended.
    """
    obstacle = _obstacle(run)
    if obstacle is not None:
        raise ValueError(f"--half-sets is not for this run: {obstacle}")
    if not run.config.particles.is_file():
        raise FileNotFoundError(f"--half-sets trains anew, and {run.config.particles} is not there any more")


def explain_missing_half_sets(run: Run) -> str | None:
    """Tell why a run has no half sets to be judged by; None where it has them."""
    obstacle = _obstacle(run)
    if obstacle is not None:
        return f"No half sets: {obstacle}."
    halves = [RunFolder(path) for path in run.folder.halves]
    command = f"`cryoatom analyze {run.folder.path} --half-sets`"
    if all(_is_half_of(run, half) for half in halves):
        return None
    if any(half.path.is_dir() for half in halves):
        return (
            "Half sets are left out: they have not ended, or were trained for another number of epochs than the run. "
            f"{command} trains them to their end."
        )
    return (
        f"No half sets: {command} trains two more decoders, on the odd and on the even images, and tells how far they "
        "agree."
    )


def _obstacle(run: Run) -> str | None:
    """Tell why a run cannot have half sets."""
    path, config = run.folder.path, run.config
    if run.epoch is not None:
        return f"they are compared at the end of a run, and this is epoch {run.epoch} (leave it out)"
    if config.train_on != "all":
        return f"{path} was itself trained on half of the images (--train-on {config.train_on})"
    if len(run) < _FEWEST:
        return f"they need at least {_FEWEST} images, {path} has {len(run)}"
    if not _has_ended(run.folder):
        return f"{path} has not ended (go on with `cryoatom train --load latest`)"
    return None


def half_configs(run: Run, *, threads: int | None = None, datadir: Path | None = None) -> list[TrainConfig]:
    """Return the settings of the two halves."""
    config = run.config
    shared: dict[str, object] = {
        "graph": run.folder.graph,
        "template": config.template if config.template.is_file() else run.folder.template,
        "cache": config.cache or run.folder.matched,
        "threads": threads or config.threads,
        "datadir": datadir or config.datadir,
        **{"dcd": False, "pdb": "none", "analysis": False, "uncertainty": False},
    }
    if config.poses == "esl":  # which has centred the template, and whose images are not moved back by their shifts
        found = {"poses": run.folder.poses, "pose_lr": 0.0, "template": run.folder.template}
        shared |= {**found, "cache": RunFolder(run.folder.halves[0]).matched}
    configs = []
    for index, path in enumerate(run.folder.halves):
        own: dict[str, object] = {"outdir": path, "train_on": ("odd", "even")[index], "seed": config.seed + 1 + index}
        is_begun = bool(RunFolder(path).resumable())
        own |= {"load": "latest" if is_begun else None, "overwrite": not is_begun}
        configs.append(config.model_copy(update={**shared, **own}))
    return configs


def _is_half_of(run: Run, folder: RunFolder) -> bool:
    """Tell whether a half has ended, and belongs to the run as it is: a run that went on asks for longer halves."""
    if not _has_ended(folder):
        return False
    half = load(folder.path)
    settings = [each.config.model_dump(include=_FITTED_BY) for each in (half, run)]
    return settings[0] == settings[1] and np.array_equal(half.rows, run.rows)


def _has_ended(folder: RunFolder) -> bool:
    """Tell whether the final files are those of the end of a run with the settings that it has now.

    One that goes on has the files of its former end until the new one.
    """
    files = [folder.config, folder.rows, folder.weights(), folder.latents(), folder.conformations]
    if not all(file.is_file() for file in files):
        return False
    run = load(folder.path)
    config, history = run.config, run.history
    full = Schedule(config.num_epochs, config.warmup, config.decay, config.lr, config.bead_lr, config.z_lr)
    if len(history) < shortened(full, history, config.patience).epochs:
        return False
    return np.allclose(run.decode(run.latents[:1]), run.conformations[:1], atol=_SAME)
