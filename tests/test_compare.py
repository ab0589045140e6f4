"""Comparisons of systems; but for one slow test trainings are stood in for, to be quick."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cryoatom.cli.compare_table import arguments
from cryoatom.cli.main import cli
from cryoatom.compare_config import CompareConfig
from cryoatom.comparison import claims, plots, process
from cryoatom.comparison import run as comparison_run
from cryoatom.comparison.plan import Job, describe_changes, plan_jobs
from cryoatom.comparison.process import JobError, _reason, _seconds_so_far, _watch, train_apart
from cryoatom.comparison.records import Record, read_record, write_record
from cryoatom.comparison.run import choose_job, compare, look_up, run_job
from cryoatom.comparison.systems import SYSTEMS, choose_systems, read_systems
from cryoatom.comparison.table import Outcome, make_table, markdown
from cryoatom.files.lock import locked
from cryoatom.results import evaluation_files
from cryoatom.train_config import TrainConfig

QUICK = {"chunk": 5, "batch_size": 16, "warmup": 1, "z_passes": 0, "held_out": 0.1}
QUICK_WORDS = [word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value))]
COST = {"training_seconds": 2.5, "wall_seconds": 4.0, "peak_memory_gb": 0.5, "weights": 1234}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(folder, cache, tmp_path):
    """A comparison of two quick systems with the truth."""
    np.save(tmp_path / "labels.npy", np.arange(41))
    return CompareConfig(
        particles=folder / "particles.star",
        template=folder / "template.cif",
        outdir=tmp_path / "out",
        cache=cache,
        gt=folder / "truth.npy",
        labels=tmp_path / "labels.npy",
        systems=("mlp", "mlp-no-r2"),
        seeds=1,
        num_epochs=1,
        threads=1,
        device="cpu",
    )


def write_run(job: Job) -> None:
    """Write what a comparison reads of a run: conformations near the truth."""
    truth = np.load(job.config.particles.parent / "truth.npy")
    noise = np.random.default_rng(job.number).normal(scale=0.3, size=truth.shape)
    np.save(job.folder.conformations, (truth + noise).astype(np.float32))
    np.save(job.folder.latents(), np.zeros((len(truth), 2), dtype=np.float32))
    shutil.copy(job.config.template, job.folder.template)
    job.folder.save_metrics([{"epoch": 1.0, "held_out_nll": -3.0, "seconds": 2.5}])


@pytest.fixture
def trained(monkeypatch):
    """Stand in for training, and keep the (job, is_resumed) that would be trained; names in `broken` fail."""
    calls, broken = [], set()

    def stand_in(job: Job, *, is_resumed: bool) -> dict[str, float | None]:
        calls.append((job.name, is_resumed))
        if job.system.name in broken:
            raise JobError("the template is upside down")
        write_run(job)
        return COST

    monkeypatch.setattr(comparison_run, "train_apart", stand_in)
    monkeypatch.setattr(evaluation_files, "PLOTS", {})  # test_evaluate.py draws them
    stand_in.calls, stand_in.broken = calls, broken  # pyright: ignore
    return stand_in


@pytest.fixture
def undrawn(monkeypatch):
    """Spare the time of the plots."""
    monkeypatch.setattr(plots, "PLOTS", {})


def words(config: CompareConfig, *more: str) -> list[str]:
    given = ["compare", str(config.particles), "--template", str(config.template), "-o", str(config.outdir)]
    given += ["--gt", str(config.gt), "--labels", str(config.labels), "--cache", str(config.cache)]
    given += ["--systems", ",".join(config.systems), "--seeds", "1", "-n", "1", "--threads", "1", "--device", "cpu"]
    return [*given, *more, "--", *QUICK_WORDS]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="cryoatom")


def rows(config: CompareConfig) -> list[dict[str, str]]:
    with (config.outdir / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_one_that_can_be_trained(config, name):
    (job,) = plan_jobs(config.model_copy(update={"systems": (name,)}), {})
    assert all(getattr(job.config, key) == value for key, value in SYSTEMS[name].settings.items())
    assert (job.config.num_epochs, job.config.held_out) == (1, 0.02)  # the budget is no system's own


def test_an_unknown_system_or_setting_gets_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match="unknown system 'cryospere'; did you mean 'cryosphere'"):
        choose_systems(["gnn", "cryospere"])
    file = tmp_path / "mine.yaml"
    file.write_text("mine:\n  bach-size: 3\n")
    with pytest.raises(ValueError, match="'bach_size' of system 'mine' in .*mine.yaml; did you mean 'batch_size'"):
        read_systems(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gnn:\n  lr: 0.1\n", "a system 'gnn' already"),
        ("../up:\n  lr: 0.1\n", "name of a folder"),
        ("mine: 3\n", "must hold names"),
        ("mine:\n  ind: half.txt\n", "mine.yaml: ind of system 'mine' chooses its images.*-- --ind half.txt"),
        ("mine:\n  train-on: odd\n", "train_on of system 'mine' chooses its images"),
        ("- mine\n", "must hold names"),
        ("mine: [\n", "not a YAML file"),
    ],
)
def test_a_file_of_systems_that_is_none(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_systems(tmp_path / "mine.yaml")
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        read_systems(tmp_path / "absent.yaml")


def test_systems_of_the_user_are_trained_with_their_settings(config, tmp_path):
    (tmp_path / "mine.yaml").write_text("narrow:\n  decoder: mlp\n  dec-dim: 7\nplain:\n")
    given = config.model_copy(update={"systems_file": tmp_path / "mine.yaml"})
    jobs = plan_jobs(given, {"dec_dim": 9, "lr": 0.1})
    assert [job.system.name for job in jobs] == ["mlp", "mlp-no-r2", "narrow", "plain"]
    assert [job.config.dec_dim for job in jobs] == [9, 9, 7, 9], "what makes a system what it is goes first"
    assert all(job.config.lr == 0.1 for job in jobs)
    (tmp_path / "mine.yaml").write_text("wrong:\n  lr: -1\n")
    with pytest.raises(ValueError, match="system 'wrong': lr: .*-1"):
        plan_jobs(given, {})


def test_systems_are_typed_in_any_way(config):
    values = config.model_dump()
    for typed in ("gnn,mlp", ["gnn, mlp"], ("gnn", "mlp", "gnn"), ["gnn", "mlp,"]):
        assert CompareConfig.model_validate({**values, "systems": typed}).systems == ("gnn", "mlp")


def test_jobs_are_numbered_seed_by_seed_and_keep_their_numbers(config):
    two = plan_jobs(config.model_copy(update={"seeds": 2}), {})
    three = plan_jobs(config.model_copy(update={"seeds": 3}), {})
    assert [(j.number, j.system.name, j.seed) for j in two[1:3]] == [(2, "mlp-no-r2", 0), (3, "mlp", 1)]
    assert three[:4] == two and len({job.config.outdir for job in three}) == 6


def test_slurm_chooses_the_job(config, monkeypatch):
    jobs = plan_jobs(config, {})
    in_array = config.model_copy(update={"array": True})
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert choose_job(config, jobs) is None
    with pytest.raises(ValueError, match="SLURM_ARRAY_TASK_ID, and that is not set"):
        choose_job(in_array, jobs)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert choose_job(in_array, jobs) == jobs[1]
    assert choose_job(config, jobs) is None, "an array of something else"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    with pytest.raises(ValueError, match="no job 0: they are numbered from 1 to 2"):
        choose_job(in_array, jobs)
    with pytest.raises(ValueError, match="exclude each other"):
        CompareConfig.merge({**config.model_dump(), "array": True, "job": 1})


@pytest.mark.parametrize("name", ["seed", "outdir", "num_epochs", "particles"])
def test_what_the_comparison_sets_is_not_set_for_all_systems(config, name):
    with pytest.raises(ValueError, match=f"{name} = 3 .*the comparison sets it itself"):
        plan_jobs(config, {name: 3})


def test_a_comparison_from_the_first_job_to_the_table(config, trained):
    assert "1 of 2" not in invoke(*words(config, "--job", "2")).output
    assert not (config.outdir / "table.md").exists()
    result = invoke(*words(config))
    assert result.exit_code == 0, result.output
    assert trained.calls == [("mlp-no-r2, seed 0", False), ("mlp, seed 0", False)], "what is done is not repeated"
    first, second = rows(config)
    assert (first["system"], first["state"], first["weights"]) == ("mlp", "done", "1234")
    summary = json.loads((config.outdir / "runs/mlp-0/eval/summary.json").read_text())
    assert float(first["rmsd"]) == pytest.approx(summary["rmsd_mean"], abs=1e-4)
    assert float(first["clashes"]) == pytest.approx(summary["clashes_prediction"], abs=1e-4)
    assert float(second["held_out_nll"]) == -3
    assert {path.name for path in config.outdir.glob("*.png")} == {"rmsd.png", "frames.png", "time.png"}
    assert "best static structure" in result.output and "RMSD" in (config.outdir / "table.md").read_text()

    assert invoke(*words(config)).exit_code == 0 and len(trained.calls) == 2
    more = config.model_copy(update={"seeds": 2})
    assert len(compare(more, QUICK).outcomes) == 4
    assert trained.calls[2:] == [("mlp, seed 1", False), ("mlp-no-r2, seed 1", False)]


def test_a_failing_job_stops_no_other_and_is_tried_again(config, trained, undrawn):
    trained.broken.add("mlp")
    result = invoke(*words(config))
    assert result.exit_code == 1
    assert "Missing: mlp, seed 0: failed: the template is upside down" in result.output
    assert [(row["state"], row["error"]) for row in rows(config)] == [
        ("failed", "the template is upside down"),
        ("done", ""),
    ]
    table = (config.outdir / "table.md").read_text()
    assert "| mlp " in table and "| best static structure " in table
    assert invoke(*words(config, "--table-only")).exit_code == 1 and len(trained.calls) == 2
    trained.broken.clear()
    assert invoke(*words(config)).exit_code == 0
    assert trained.calls[2:] == [("mlp, seed 0", False)]


def test_an_interrupted_training_goes_on(config, trained, undrawn, monkeypatch):
    def interrupted(job: Job, *, is_resumed: bool) -> dict[str, float | None]:
        job.folder.save_array(job.folder.latents(1), np.zeros((41, 2)))
        raise KeyboardInterrupt

    single = config.model_copy(update={"systems": ("mlp",)})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(comparison_run, "train_apart", interrupted)
        compare(single, QUICK)
    (job,) = plan_jobs(single, QUICK)
    assert look_up(single, job).state == "unfinished"
    found = compare(single, QUICK)
    assert trained.calls == [("mlp, seed 0", True)] and found.outcomes[0].state == "done"


def test_the_clock_goes_on_over_tries(tmp_path):
    clock = tmp_path / "job.seconds"
    assert _seconds_so_far(clock) is None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        _watch(process, clock, time.monotonic() - 100)
    assert 100 <= (_seconds_so_far(clock) or 0) < 200
    clock.unlink()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        _watch(process, clock, None)
    assert not clock.exists(), "a sum that lacks a try is none"


@pytest.mark.parametrize("name", ["job.lock", ".lock"])
def test_a_job_that_another_process_runs_is_left_alone(config, trained, undrawn, name):
    (job, _) = plan_jobs(config, QUICK)
    job.folder.path.mkdir(parents=True)
    job.console_file.write_text("Training 1/3\n")
    with locked(job.folder.path / name):
        found = compare(config.model_copy(update={"overwrite": True}), QUICK)
        assert [each.state for each in found.outcomes] == ["running", "done"]
        assert found.table is not None and found.table.notes == ["mlp, seed 0: running"]
        assert not found.failures and not job.record_file.exists() and job.console_file.read_text() == "Training 1/3\n"
        assert "running" in invoke(*words(config, "--jobs")).output
    assert trained.calls == [("mlp-no-r2, seed 0", False)]
    assert look_up(config, job).state == "to do"


def test_a_run_that_goes_on_is_not_replaced(config, trained, undrawn):
    single = config.model_copy(update={"systems": ("mlp",), "overwrite": True})
    compare(single, QUICK)
    (job,) = plan_jobs(single, QUICK)
    files = sorted(job.folder.path.rglob("*"))
    with locked(job.folder.lock):
        (running,) = compare(single, {**QUICK, "lr": 0.1}).outcomes
    assert running.describe() == "running, run with other settings (lr: 0.1, before 0.005)"
    assert sorted(job.folder.path.rglob("*")) == files and len(trained.calls) == 1


def test_a_job_that_another_process_has_finished_meanwhile_is_not_repeated(config, trained, undrawn, monkeypatch):
    (_, second) = plan_jobs(config, QUICK)
    measured = []

    def measure(config: CompareConfig, job: Job) -> dict[str, float | None]:
        measured.append(job.name)
        return {}

    def both(job: Job, *, is_resumed: bool) -> dict[str, float | None]:
        with monkeypatch.context() as patch:
            patch.setattr(comparison_run, "train_apart", trained)
            run_job(config, second)
        return trained(job, is_resumed=is_resumed)

    monkeypatch.setattr(comparison_run, "train_apart", both)
    monkeypatch.setattr(comparison_run, "measure_quality", measure)
    assert [each.state for each in compare(config, QUICK).outcomes] == ["done", "done"]
    assert [name for name, _ in trained.calls] == measured == ["mlp-no-r2, seed 0", "mlp, seed 0"]


def test_a_run_that_was_half_removed_passes_for_no_other(config, trained, undrawn, monkeypatch):
    single = config.model_copy(update={"systems": ("mlp",), "overwrite": True})
    other = {**QUICK, "lr": 0.1}
    compare(single, QUICK)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(claims.shutil, "rmtree", raise_interrupt)
        compare(single, other)
    (job,) = plan_jobs(single, other)
    assert look_up(single, job).describe() == "unfinished, run with other settings (lr: 0.1, before 0.005)"
    with pytest.raises(ValueError, match="1 of 1 jobs were run with other settings"):
        compare(single.model_copy(update={"overwrite": False}), other)
    assert compare(single, other).outcomes[0].describe().endswith("trained in 2 s")
    assert trained.calls == [("mlp, seed 0", False)] * 2


def test_figures_of_other_settings_are_known_by_their_record(config, trained, undrawn):
    single = config.model_copy(update={"systems": ("mlp",)})
    compare(single, QUICK)
    (job,) = plan_jobs(single, {**QUICK, "lr": 0.1})
    job.settings_file.write_text(job.config.to_yaml([]))
    assert look_up(single, job).hints == ("run with other settings (lr: 0.1, before 0.005)",)
    job.settings_file.unlink()
    assert look_up(single, job).hints == ("run with other settings (lr: 0.1, before 0.005)",)


def test_a_training_without_its_settings_is_not_gone_on_with(config, trained, undrawn):
    single = config.model_copy(update={"systems": ("mlp",)})
    (job,) = plan_jobs(single, QUICK)
    job.folder.path.mkdir(parents=True)
    write_run(job)
    compare(single, QUICK)
    assert trained.calls == [("mlp, seed 0", False)]


def raise_interrupt(*words: object) -> None:
    raise KeyboardInterrupt


def test_a_kill_while_a_job_is_measured_costs_no_training(config, trained, undrawn, monkeypatch):
    single = config.model_copy(update={"systems": ("mlp",), "gt": None, "labels": None})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(comparison_run, "measure_quality", raise_interrupt)
        compare(single, QUICK)
    (job,) = plan_jobs(single, QUICK)
    assert look_up(single, job).describe() == "unfinished"
    (found,) = compare(single, QUICK).outcomes
    assert found.state == "done" and found.figure("wall_seconds") == 4 and len(trained.calls) == 1


def test_the_settings_of_a_comparison_are_read_back(config, trained, undrawn):
    file = config.outdir / "compare.yaml"
    assert invoke(*words(config, "--job", "1")).exit_code == 0
    assert CompareConfig.merge({}, file) == config, "of a task they are those of all"
    assert invoke(*words(config, "--overwrite")).exit_code == 0
    again = CompareConfig.merge({"table_only": True}, file)
    assert not again.overwrite and compare(again, QUICK).table is not None
    command = file.read_text()
    assert invoke(*words(config, "--job", "2")).exit_code == 0
    assert file.read_text() == command, "tasks leave it as it is"


def test_changed_files_are_said(config, trained, undrawn, tmp_path):
    template = tmp_path / "template.cif"
    shutil.copy(config.template, template)
    single = config.model_copy(update={"systems": ("mlp",), "template": template})
    compare(single, QUICK)
    os.utime(template, ns=(1, 1))
    found = compare(single, QUICK)
    assert found.table is not None and found.table.remarks == ["mlp, seed 0: changed since it was run: template"]
    assert len(trained.calls) == 1
    (repeated,) = compare(single.model_copy(update={"overwrite": True}), QUICK).outcomes
    assert trained.calls == [("mlp, seed 0", False)] * 2 and not repeated.hints

    np.save(tmp_path / "labels.npy", np.arange(41)[::-1])
    (job,) = plan_jobs(single, QUICK)
    assert look_up(single, job).describe() == "unfinished, trained, and compared with another truth (--labels)"
    (measured,) = compare(single, QUICK).outcomes
    assert (measured.figure("rmsd") or 0) > (repeated.figure("rmsd") or 0) and len(trained.calls) == 2
    template.unlink()
    assert not look_up(single, job).hints, "what is not there tells nothing"


def test_jobs_say_why_what_has_run_does_not_fit(config, trained, undrawn):
    compare(config, QUICK)
    bare = config.model_copy(update={"gt": None, "labels": None})
    (outcome, _) = [look_up(bare, job) for job in plan_jobs(bare, {})]
    assert outcome.state == "unfinished"
    assert "other settings (batch_size: 64, before 16; " in outcome.describe()
    assert "compared with another truth (--gt, --labels)" in outcome.describe()
    listed = " ".join(word for word in invoke(*words(config, "--jobs")[:-2]).output.split() if word not in "│┃")
    assert "run with other settings (held_out: 0.02, before 0.1)" in listed
    assert "The command that ran it is in" in listed
    assert "other settings" not in invoke(*words(config, "--jobs")).output
    found = compare(config.model_copy(update={"table_only": True}), {**QUICK, "lr": 0.1})
    assert found.table is not None and found.table.rows[0][1] == "1", "what is there is in the table"
    assert found.table.remarks == [f"{name}, seed 0: run with other settings (lr: 0.1, before 0.005)" for name in
                                   ("mlp", "mlp-no-r2")]  # fmt: skip
    assert found.table.remarks[0] in (config.outdir / "table.md").read_text()
    with pytest.raises(ValueError, match="no finished job yet.*mlp, seed 0: unfinished, trained, and compared with"):
        compare(bare.model_copy(update={"table_only": True}), QUICK)


def test_many_changes_are_not_all_said():
    assert describe_changes(["lr: 1, before 2"] * 6).endswith("; and 2 more")


def test_files_of_every_system_are_read_before_any_training(config, trained, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine:\n  poses: absent.star\n")
    with pytest.raises(FileNotFoundError, match="absent.star"):
        compare(config.model_copy(update={"systems_file": tmp_path / "mine.yaml"}), QUICK)
    assert trained.calls == [] and not config.outdir.exists()


def test_segments_of_every_system_are_checked_before_any_training(config, trained):
    both = config.model_copy(update={"systems": ("mlp", "cryosphere")})
    with pytest.raises(ValueError, match="reversed"):
        compare(both, {"segments": "9-4=2"})
    assert trained.calls == []


def test_changed_settings_are_said_and_repeated_on_demand_only(config, trained, undrawn):
    compare(config, QUICK)
    changed = config.model_copy(update={"threads": 2, "device": "auto"})
    compare(changed, {**QUICK, "chunk": 7})
    assert len(trained.calls) == 2, "threads, device and chunk do not change what a run finds"
    with pytest.raises(ValueError, match=r"2 of 2 .* first mlp, seed 0: lr: 0.01, before 0.005. Give .*--overwrite"):
        compare(config, {**QUICK, "lr": 0.01})
    own = config.model_copy(update={"overwrite": True})
    compare(own, {**QUICK, "r2": 1.0})  # the system without R2 keeps to that
    assert [name for name, _ in trained.calls[2:]] == ["mlp, seed 0"]


def test_without_a_truth_there_is_no_rmsd_and_a_truth_needs_no_training(config, trained):
    blind = config.model_copy(update={"gt": None, "labels": None, "systems": ("mlp",)})
    found = compare(blind, QUICK)
    assert found.table is not None
    assert not any("RMSD" in heading for heading in found.table.headings)
    assert {"clashes per 100 residues", "held-out -log p"} <= set(found.table.headings)
    assert not list(config.outdir.glob("*.png"))
    distribution = compare(config.model_copy(update={"labels": None, "systems": ("mlp",)}), QUICK).table
    assert distribution is not None and "EMD-RMSD (Å)" in distribution.headings
    assert "RMSD (Å)" not in distribution.headings
    assert len(trained.calls) == 1


def test_bad_input_is_found_before_any_training(config, trained, tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(40))
    with pytest.raises(ValueError, match="40 labels, the run 41 images"):
        compare(config, QUICK)
    with pytest.raises(FileNotFoundError):
        compare(config.model_copy(update={"template": tmp_path / "absent.cif"}), QUICK)
    with pytest.raises(ValueError, match="no finished job yet"):
        compare(config.model_copy(update={"table_only": True}), QUICK)
    assert trained.calls == [] and not config.outdir.exists()


def outcome(job: Job, state: str = "done", error: str | None = None, **figures: float | None) -> Outcome:
    record = Record(job.system.name, job.seed, {}, COST, {}, figures, error)
    return Outcome(job, state, record)  # pyright: ignore


def test_what_needs_no_training_is_shown_by_any_job(config):
    jobs = plan_jobs(config, {})
    table = make_table([outcome(jobs[0], "failed", "no memory"), outcome(jobs[1], rmsd=3.0, rmsd_static=2.0)])
    assert table.rows[-1][:3] == ["best static structure", "", "2.00"]


def test_a_table_of_known_figures(config):
    jobs = plan_jobs(config.model_copy(update={"seeds": 2}), {})
    table = make_table(
        [
            outcome(jobs[0], rmsd=1.0, clashes=0.25, rmsd_static=2.0),
            outcome(jobs[1], rmsd=3.0, clashes=None, rmsd_static=2.0),
            outcome(jobs[2], rmsd=2.0, clashes=0.75, rmsd_static=2.0),
            outcome(jobs[3], "failed", "no memory", rmsd=100.0),
        ]
    )
    assert table.headings == ["system", "seeds", "RMSD (Å)", "clashes per 100 residues"] + [
        *("training (s)", "memory (GB)", "weights")
    ]
    assert table.rows == [
        ["mlp", "2", "1.50 ± 0.71", "0.50", "2", "0.50", "1,234"],
        ["mlp-no-r2", "1 of 2", "3.00", "", "2", "0.50", "1,234"],
        ["best static structure", "", "2.00", "", "", "", ""],
    ]
    text = markdown(table)
    assert "- mlp-no-r2, seed 1: failed: no memory" in text
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_records_are_read_back(tmp_path):
    record = Record("mlp", 3, {"lr": 0.1}, COST, {"gt": "/a.dcd"}, {"rmsd": None, "bias": 0.1})
    write_record(tmp_path / "job.json", record)
    assert read_record(tmp_path / "job.json") == record
    assert (record.figure("rmsd"), record.figure("bias"), record.figure("weights")) == (None, 0.1, 1234)
    assert read_record(tmp_path / "absent.json") is None
    for text in ("{", "{}", "[]"):
        (tmp_path / "job.json").write_text(text)
        with pytest.raises(ValueError, match="no record of a job"):
            read_record(tmp_path / "job.json")
    assert not replace(record, figures=None).figure("bias")
    older = {name: value for name, value in asdict(record).items() if name != "files"}
    (tmp_path / "job.json").write_text(json.dumps(older))
    assert read_record(tmp_path / "job.json") == record


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (1, "Warning: few images\nError: no such file: a.star\nof the user\n", "no such file: a.star"),
        (-9, "Training 1/3\n", "the training was killed by SIGKILL: out of memory?"),
        (-15, "", "the training was killed by SIGTERM"),
        (3, "", "the training ended with code 3: see "),
        (
            75,
            "Error: stopped by SIGTERM; go on with --load latest\n",
            "the training was stopped; the same command again",
        ),
    ],
)
def test_the_reason_of_a_failure_is_one_line(tmp_path, code, text, reason):
    (tmp_path / "console.log").write_text(text)
    assert _reason(code, tmp_path / "console.log").startswith(reason)


@pytest.fixture
def stood_in_process(monkeypatch):
    """Let `train_apart` start a program of Python in place of the training; (set program, started processes)."""
    popen, started, program = subprocess.Popen, [], []

    def start(words: list[str], **options: Any) -> subprocess.Popen:
        started.append(popen([sys.executable, "-c", *program], **options))
        return started[-1]

    monkeypatch.setattr(process.subprocess, "Popen", start)
    return program.append, started


def test_a_training_is_out_of_reach_of_the_keyboard(config, stood_in_process):
    (job, _) = plan_jobs(config, {})
    job.folder.path.mkdir(parents=True)
    stood_in_process[0]("import os; print(os.getsid(0) == os.getpid()); raise SystemExit(75)")
    with pytest.raises(JobError, match="was stopped; the same command again goes on"):
        train_apart(job, is_resumed=False)
    assert job.console_file.read_text() == "True\n"


def test_an_end_of_the_comparison_ends_the_training(config, stood_in_process, monkeypatch):
    (job, _) = plan_jobs(config, {})
    job.folder.path.mkdir(parents=True)
    stood_in_process[0]("import time; time.sleep(60)")
    monkeypatch.setattr(process, "_watch", raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_apart(job, is_resumed=False)
    assert stood_in_process[1][0].returncode == -signal.SIGTERM


def test_jobs_are_listed_with_the_line_for_slurm(config, trained):
    output = invoke(*words(config, "--jobs")).output
    assert "mlp-no-r2" in output and "to do" in output
    assert "sbatch --array=1-2 --cpus-per-task=1 " in output
    assert not config.outdir.exists()
    typed = ["/bin/cryoatom", "--debug", "compare", "a.star", "--jobs", "-o", "x", "--", "--ind", "compare"]
    assert arguments(typed) == ["a.star", "-o", "x", "--", "--ind", "compare"]
    single = ["cryoatom", "compare", "--job", "3", "a.star", "--jobs", "--job=4", "-o", "x"]
    assert arguments(single) == ["a.star", "-o", "x"], "a task has its own number"


def test_the_list_of_systems_needs_no_data():
    output = invoke("compare", "--list").output
    assert all(line.split()[0] in SYSTEMS for line in output.splitlines()) and len(output.splitlines()) == len(SYSTEMS)


def test_a_misspelt_option_after_the_dashes_is_an_error(config):
    result = invoke(*words(config), "--zdin", "3")
    assert result.exit_code == 2 and "--zdim" in result.output
    assert invoke(*words(config), "--dry-run").exit_code == 2


@pytest.mark.slow
def test_a_training_in_its_own_process(config, tmp_path):
    found = compare(config.model_copy(update={"systems": ("mlp",)}), QUICK)
    (record,) = [outcome.record for outcome in found.outcomes]
    assert record is not None and record.error is None
    assert 0.1 < (record.figure("peak_memory_gb") or 0) < 4
    assert 0 < (record.figure("training_seconds") or 0) < (record.figure("wall_seconds") or 0)
    (job,) = plan_jobs(config.model_copy(update={"systems": ("mlp",)}), QUICK)
    assert (record.figure("weights") or 0) > 8 * 16 * 3
    with pytest.raises(JobError, match="holds a run"):
        train_apart(job, is_resumed=False)
    assert "Error:" in job.console_file.read_text()
    assert TrainConfig.merge({}, job.settings_file) == TrainConfig.merge({}, Path(job.folder.config))


def drawn_outcomes(config: CompareConfig, **errors: float) -> list[Outcome]:
    jobs = plan_jobs(config.model_copy(update={"systems": tuple(errors)}), {})
    return [outcome(job, rmsd=errors[job.system.name], rmsd_static=2.0, rmsd_template=5.0) for job in jobs]


@pytest.mark.parametrize(("error", "lines"), [(4.5, 2), (1.8, 1), (0.5, 0)])
def test_baselines_are_lines_where_they_fit_and_named_everywhere(config, error, lines):
    drawn = plots.plot_errors(drawn_outcomes(config, mlp=error, gnn=0.4))
    assert drawn is not None
    (axes,) = drawn.axes
    dashed = [each for each in axes.lines if each.get_linestyle() == "--"]
    assert len(dashed) == lines
    texts = [each.get_text().strip() for each in axes.texts]
    assert len(texts) == 2 and sum(text.endswith("→") for text in texts) == 2 - lines
    assert not any(each.get_linestyle() == "-" for each in axes.lines), "one seed has no mean to draw"


def test_curves_on_each_other_differ_in_stroke_and_marks(config, monkeypatch):
    monkeypatch.setattr(plots, "rmsd_by_frame", lambda folder: np.linspace(1, 2, 100))
    drawn = plots.plot_frames(drawn_outcomes(config, gnn=1, mlp=1, prins=1, cryosphere=1, cryofold=1, anm=1))
    assert drawn is not None
    curves = drawn.axes[0].lines
    for looks in (
        {str(each._dash_pattern) for each in curves},  # pyright: ignore[reportAttributeAccessIssue]
        {str(each.get_marker()) for each in curves},
        {str(each.get_markevery()) for each in curves},
    ):
        assert len(looks) == 6
    legend = drawn.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["gnn", "cryofold", "mlp", "anm", "prins", "cryosphere"]


def test_times_of_several_sizes_are_on_an_axis_that_says_so(config):
    first, second = drawn_outcomes(config, gnn=1, mlp=1)
    drawn = plots.plot_costs([first, second])
    assert drawn is not None and drawn.axes[0].get_xscale() == "linear" and drawn.axes[0].get_xlim()[0] == 0
    assert second.record is not None
    slow = replace(second, record=replace(second.record, training={"training_seconds": 2500.0}))
    drawn = plots.plot_costs([first, slow])
    assert drawn is not None and drawn.axes[0].get_xscale() == "log"
    assert "logarithmic" in drawn.axes[0].get_xlabel()
