"""Run the jobs of a comparison that are not done yet, one after the other, and write its table."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoatom.compare_config import CompareConfig
from cryoatom.comparison.judge import check_files, measure_quality, truth_files
from cryoatom.comparison.plan import Job, changed_settings, describe_changes, plain_settings, plan_jobs
from cryoatom.comparison.plots import write_plots
from cryoatom.comparison.process import JobError, train_apart
from cryoatom.comparison.records import Record, read_record, write_record
from cryoatom.comparison.table import Outcome, Table, make_table, write_table
from cryoatom.files.replacing import replacing
from cryoatom.training.inputs import check_segments
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
        with replacing(config.outdir / "compare.yaml") as temporary:
            temporary.write_text(config.to_yaml(command or []), encoding="utf-8")
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
    record, changes = read_record(job.record_file), changed_settings(job)
    hints = [f"run with other settings ({describe_changes(changes)})"] if changes else []
    if record is None:
        state = "unfinished" if job.settings_file.is_file() else "to do"
    elif record.error is not None:
        state = "failed"
    elif record.truth == truth_files(config):
        state = "done"
    else:
        state = "unfinished"
        hints.append(f"trained, and compared with {_name_truth(record.truth or {}, truth_files(config))}")
    return Outcome(job, state, record, tuple(hints))


def _name_truth(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say how the truth that a job was compared with differs from that of now."""
    if not before:
        return "no truth so far"
    options = [f"--{name.replace('_', '-')}" for name in {**before, **now} if before.get(name) != now.get(name)]
    return f"another truth ({', '.join(options)})"


def _prepare(config: CompareConfig, jobs: list[Job]) -> None:
    """Check all input; with --overwrite make room where settings have changed."""
    changed = [(job, changes) for job in jobs if (changes := changed_settings(job))]
    if changed and not config.overwrite:
        job, changes = changed[0]
        raise ValueError(
            f"{len(changed)} of {len(jobs)} jobs were run with other settings, first {job.name}: "
            f"{describe_changes(changes)}. Give the options of the first call (compare.yaml has its command), "
            "--overwrite to repeat them, or another -o"
        )
    inputs = check_files(config, jobs[0])
    for job in jobs[1:]:
        check_segments(job.config, inputs.template)
    for job, _ in changed:
        shutil.rmtree(job.folder.path)
    config.outdir.mkdir(parents=True, exist_ok=True)


def _run_missing(config: CompareConfig, jobs: list[Job], stage: Stage) -> None:
    missing = [job for job in jobs if look_up(config, job).state != "done"]
    if len(missing) < len(jobs):
        _logger.info("%d of %d jobs are done already", len(jobs) - len(missing), len(jobs))
    if not missing:
        return
    with stage(len(missing), "Comparing") as advance:
        for count, job in enumerate(missing):
            advance(count, f"job {job.number} ({job.name}) starts")
            run_job(config, job)
            advance(count + 1, f"job {job.number} ({job.name}) {look_up(config, job).describe()}")


def run_job(config: CompareConfig, job: Job) -> None:
    """Do what is missing of a job; a failure goes into its record."""
    job.folder.path.mkdir(parents=True, exist_ok=True)
    found = read_record(job.record_file)
    training = None if found is None else found.training
    about = {"system": job.system.name, "seed": job.seed, "settings": plain_settings(job.config)}
    try:
        if training is None:
            with replacing(job.settings_file) as temporary:
                temporary.write_text(job.config.to_yaml([]), encoding="utf-8")
            training = train_apart(job, is_resumed=bool(job.folder.outputs()))
        figures = measure_quality(config, job)
    except _FAILURES as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        write_record(job.record_file, Record(**about, training=training, error=reason))
        _logger.warning("job %d (%s) failed: %s", job.number, job.name, reason)
        return
    write_record(job.record_file, Record(**about, training=training, truth=truth_files(config), figures=figures))
