"""The quality of a finished run: against the truth where there is one, as a structure, on held-out images."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cryoatom.compare_config import CompareConfig
from cryoatom.comparison.plan import Job
from cryoatom.comparison.records import Record
from cryoatom.ensemble.stereochemistry import measure_geometry
from cryoatom.results.evaluate import evaluate_files
from cryoatom.results.evaluate_config import EvaluateConfig
from cryoatom.results.evaluation_files import write_evaluation
from cryoatom.results.ground_truth import read_ground_truth, read_labels
from cryoatom.results.predictions import read_predictions
from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import Template
from cryoatom.training.inputs import Inputs, check_segments, read_inputs

_AGAINST_TRUTH = {  # figure -> name in the summary of an evaluation
    "rmsd": "rmsd_mean",
    "bias": "bias_mean",
    "scatter": "scatter_mean",
    "emd_rmsd": "emd_rmsd",
    "pose_error_deg": "pose_error_deg_median",
    "rmsd_template": "rmsd_template_mean",
    "rmsd_static": "rmsd_static_mean",
    "emd_rmsd_template": "emd_rmsd_template",
    "emd_rmsd_static": "emd_rmsd_static",
}


_READ = ("graph", "poses", "ctf", "amp_contrast", "datadir", "ind", "pose_loss", "search_epochs")
"""Settings of which reading the input depends, where systems may differ."""


def truth_files(config: CompareConfig) -> dict[str, Path]:
    """Return the files of the truth by option: figures are of these."""
    files = {name: getattr(config, name) for name in ("gt", "gt_top", "labels", "gt_poses")}
    return {name: path.absolute() for name, path in files.items() if path is not None}


def name_truth(files: Mapping[str, Path]) -> dict[str, str]:
    """Return them as a record has them."""
    return {name: str(path) for name, path in files.items()}


def changed_truth(config: CompareConfig, record: Record) -> str | None:
    """Say how the truth that a job was compared with differs from that of now; None where it does not."""
    files, before = truth_files(config), record.truth or {}
    now, others = name_truth(files), record.changed_files(files)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name) or name in others]
    if not names:
        return None
    options = [f"--{name.replace('_', '-')}" for name in names]
    return f"another truth ({', '.join(options)})" if before else "no truth so far"


def check_files(config: CompareConfig, jobs: Sequence[Job]) -> None:
    """Read particles, template and truth as the trainings and their evaluation will, before time is spent.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file is missing, cannot be read, or does not fit to the others.
    """
    templates: dict[tuple[object, ...], Template] = {}
    for job in jobs:
        read = tuple(getattr(job.config, name) for name in _READ)
        if read not in templates:
            inputs = read_inputs(job.config)
            _check_truth(config, inputs)
            templates[read] = inputs.template
        check_segments(job.config, templates[read])


def _check_truth(config: CompareConfig, inputs: Inputs) -> None:
    if config.gt is None:
        return
    truth = read_ground_truth(config.gt, config.gt_top, inputs.template)
    if config.labels is not None:
        read_labels(config.labels, len(inputs.particles), len(truth))


def measure_quality(config: CompareConfig, job: Job) -> dict[str, float | None]:
    """Evaluate a finished run, into its folder, and return its figures: RMSDs in Å, held-out -log p in nats.

    Raises
    ------
    FileNotFoundError, ValueError
        As of `cryoatom eval`.
    """
    predictions = read_predictions(job.folder.path)
    template = predictions.template
    geometry = measure_geometry(predictions.conformations, template.positions, template.chain_position).means()
    figures = {
        "clashes": geometry["clashes"],
        "bond_deviation": geometry["bond_rms"],
        "held_out_nll": _held_out_nll(job.folder),
    }
    if config.gt is None:
        return figures
    evaluation = EvaluateConfig(
        run=job.folder.path,
        gt=config.gt,
        gt_top=config.gt_top,
        labels=config.labels,
        gt_poses=config.gt_poses,
        datadir=job.config.datadir,
    )
    result = evaluate_files(evaluation)
    write_evaluation(job.folder.evaluation, result)
    summary = result.summary()
    return {figure: summary[name] for figure, name in _AGAINST_TRUTH.items()} | figures


def _held_out_nll(folder: RunFolder) -> float | None:
    """Return -log p of an image that did not train the decoder, after the last epoch; None where there are none."""
    with folder.metrics.open(newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    value = last.get("held_out_nll")
    return float(value) if value else None


def rmsd_by_frame(folder: RunFolder) -> np.ndarray | None:
    """Return the mean RMSD of each true frame, (frames,), NaN where no image shows it; None without labels."""
    path = folder.evaluation / "per_frame.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        values = [row["rmsd"] for row in csv.DictReader(file)]
    if not any(values):
        return None
    return np.array([float(value) if value else np.nan for value in values])
