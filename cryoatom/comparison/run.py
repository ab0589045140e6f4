"""Run the jobs of a comparison that are not done yet, one after the other, and write its table."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryoatom.compare_config import CompareConfig
from cryoatom.comparison.claims import ClaimedError, claiming, clear, is_running
from cryoatom.comparison.judge import changed_truth, check_files, measure_quality, name_truth, truth_files
from cryoatom.comparison.plan import Job, changed_settings, describe_changes, plain_settings, plan_jobs
from cryoatom.comparison.plots import write_plots
from cryoatom.comparison.process import JobError, train_apart
from cryoatom.comparison.records import Record, read_record, stamp, write_record
from cryoatom.comparison.table import Outcome, Table, make_table, write_table
from cryoatom.files.replacing import replacing
from cryoatom.training.stage import Stage, silent

_FAILURES = (JobError, ValueError, OSError, RuntimeError)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What a comparison has so far.

    Parameters
    ----------
    outcomes : list of Outcome
        Of all jobs, or with --job of that one.
    table : Table or None
        None with --job.
    files : list of Path
        What was written beside the runs.
    """

    outcomes: list[Outcome]
    table: Table | None
    files: list[Path]

    @property
    def failures(self) -> list[Outcome]:
        """Jobs that have failed."""
        return [outcome for outcome in self.outcomes if outcome.state == "failed"]


def compare(
    config: CompareConfig,
    common: Mapping[str, Any] | None = None,
    *,
    command: list[str] | None = None,
    stage: Stage = silent,
) -> Comparison:
    """Train and evaluate what is missing, then write table.md, table.csv and the plots.

    A job that is done is not repeated, one that was cut off goes on, and one that failed is tried again; that one
    fails does not keep the others from being run.

    Parameters
    ----------
    config : CompareConfig
    common : mapping, optional
        Settings of `cryoatom train` for all systems.
    command : list of str, optional
        The command line, for compare.yaml.
    stage : Stage
        Opens progress reports.

    Raises
    ------
    FileNotFoundError, ValueError
        For bad input, before any time is spent; also where a job was run with other settings, without --overwrite.
    """
    jobs = plan_jobs(config, common or {})
    chosen = choose_job(config, jobs)
    if not config.table_only:
        _prepare(config, jobs if chosen is None else [chosen])
        _write_settings(config, chosen, command or [])
        _run_missing(config, jobs if chosen is None else [chosen], stage)
    if chosen is not None:
        return Comparison([look_up(config, chosen)], None, [])
    outcomes = [look_up(config, job) for job in jobs]
    if not any(outcome.state == "done" for outcome in outcomes) and config.table_only:
        hint = next((f"; {outcome.job.name}: {outcome.describe()}" for outcome in outcomes if outcome.hints), "")
        raise ValueError(f"{config.outdir} has no finished job yet: without --table-only they are run{hint}")
    table = make_table(outcomes)
    files = [*write_table(config.outdir, table, outcomes), *write_plots(config.outdir, outcomes)]
    return Comparison(outcomes, table, files)


def choose_job(config: CompareConfig, jobs: list[Job]) -> Job | None:
    """Return the job that --job or SLURM names; None stands for all.

    Raises
    ------
    ValueError
        If there is no such job, or --array is given outside an array.
    """
    number = config.job
    if config.array:
        word = os.environ.get("SLURM_ARRAY_TASK_ID", "")
        if not word.isdigit():
            raise ValueError(
                "--array takes the job from SLURM_ARRAY_TASK_ID, and that is not set: start it with sbatch --array, "
                "or name a job with --job"
            )
        number = int(word)
    if number is None:
        return None
    if not 1 <= number <= len(jobs):
        raise ValueError(f"there is no job {number}: they are numbered from 1 to {len(jobs)}; --jobs lists them")
    return jobs[number - 1]


def look_up(config: CompareConfig, job: Job) -> Outcome:
    """Return what is there of a job.

    Raises
    ------
    ValueError
        If its record is damaged.
    """
    outcome = _judge(config, job)
    return replace(outcome, state="running") if is_running(job) else outcome


def _judge(config: CompareConfig, job: Job) -> Outcome:
    record = read_record(job.record_file)
    hints = _differences(job, record)
    if record is None:
        state = "unfinished" if job.settings_file.is_file() else "to do"
    elif record.error is not None:
        state = "failed"
    elif record.figures is None:
        state = "unfinished"
    elif (other := changed_truth(config, record)) is not None:
        state = "unfinished"
        hints.append(f"trained, and compared with {other}")
    else:
        state = "done"
    return Outcome(job, state, record, tuple(hints))


def _differences(job: Job, record: Record | None) -> list[str]:
    """Say how a job that has run differs from what is asked for."""
    changes = changed_settings(job, record)
    files = [] if record is None else record.changed_files(job.input_files)
    hints = [f"run with other settings ({describe_changes(changes)})"] if changes else []
    return [*hints, f"changed since it was run: {', '.join(files)}"] if files else hints


def _prepare(config: CompareConfig, jobs: list[Job]) -> None:
    """Check all input."""
    _check_settings(config, jobs)
    check_files(config, jobs)
    config.outdir.mkdir(parents=True, exist_ok=True)


def _check_settings(config: CompareConfig, jobs: list[Job]) -> None:
    changed = [(job, changes) for job in jobs if (changes := changed_settings(job, read_record(job.record_file)))]
    if changed and not config.overwrite:
        job, changes = changed[0]
        raise ValueError(
            f"{len(changed)} of {len(jobs)} jobs were run with other settings, first {job.name}: "
            f"{describe_changes(changes)}. Give the options of the first call (compare.yaml has its command), "
            "--overwrite to repeat them, or another -o"
        )


def _write_settings(config: CompareConfig, chosen: Job | None, command: list[str]) -> None:
    """Write compare.yaml: of all jobs, so without what chooses one, or what a later call may not do unasked."""
    path = config.outdir / "compare.yaml"
    if chosen is not None and path.exists():
        return
    lasting = config.model_copy(update={"job": None, "array": False, "overwrite": False})
    with replacing(path) as temporary:
        temporary.write_text(lasting.to_yaml(command), encoding="utf-8")


def _run_missing(config: CompareConfig, jobs: list[Job], stage: Stage) -> None:
    missing = [job for job in jobs if not _is_over(config, job)]
    if len(missing) < len(jobs):
        _logger.info("%d of %d jobs are done already", len(jobs) - len(missing), len(jobs))
    if not missing:
        return
    with stage(len(missing), "Comparing") as advance:
        for count, job in enumerate(missing):
            advance(count, f"job {job.number} ({job.name}) starts")
            run_job(config, job)
            advance(count + 1, f"job {job.number} ({job.name}) {look_up(config, job).describe()}")


def _is_over(config: CompareConfig, job: Job) -> bool:
    outcome = _judge(config, job)
    return outcome.state == "done" and not (outcome.hints and config.overwrite)


def run_job(config: CompareConfig, job: Job) -> None:
    """Do what is missing of a job, unless another process does; a failure goes into its record.

    Raises
    ------
    ValueError
        If somebody has meanwhile run it with other settings.
    """
    job.folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with claiming(job):
            _check_settings(config, [job])
            if config.overwrite and _differences(job, read_record(job.record_file)):
                clear(job)
            if not _is_over(config, job):  # another process may have been quicker
                _train_and_measure(config, job)
    except ClaimedError as error:
        _logger.warning("job %d (%s) is left alone: %s", job.number, job.name, error)


def _train_and_measure(config: CompareConfig, job: Job) -> None:
    """Do what is missing of a job that is claimed; what is done is recorded at once."""
    record = read_record(job.record_file)
    if record is None or record.training is None:
        record = Record(job.system.name, job.seed, plain_settings(job.config), files=stamp(job.input_files))
    record, truth = replace(record, truth=None, figures=None, error=None), truth_files(config)
    try:
        if record.training is None:
            record = replace(record, training=_train(job))
            write_record(job.record_file, record)
        record = replace(record, truth=name_truth(truth), files=record.files | stamp(truth))
        record = replace(record, figures=measure_quality(config, job))
    except _FAILURES as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        record = replace(record, error=reason)
        _logger.warning("job %d (%s) failed: %s", job.number, job.name, reason)
    write_record(job.record_file, record)


def _train(job: Job) -> dict[str, float | None]:
    """Train a job, from where an earlier try with its settings has come."""
    is_resumed = job.settings_file.is_file() and bool(job.folder.outputs())
    with replacing(job.settings_file) as temporary:
        temporary.write_text(job.config.to_yaml([]), encoding="utf-8")
    return train_apart(job, is_resumed=is_resumed)
