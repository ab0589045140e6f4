"""Which trainings a comparison is made of, in which order, with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoatom.compare_config import CompareConfig
from cryoatom.comparison.records import Record
from cryoatom.comparison.systems import System, choose_systems
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig

OWN = ("particles", "template", "outdir", "cache", "seed", "num_epochs", "threads", "device", "load", "overwrite")
"""Settings of `cryoatom train` that a comparison sets itself."""
_OUTPUT = {"analysis": False, "uncertainty": False, "dcd": False}  # nothing here reads them
_NAMED = 4  # changed settings in a message
_WITHOUT_EFFECT = {
    *("outdir", "threads", "device", "chunk", "cache", "load", "overwrite", "force", "checkpoint"),
    *_OUTPUT,
}
_INPUT_FILES = ("particles", "template", "graph", "poses", "ctf", "ind")


@dataclass(frozen=True)
class Job:
    """One training of one system.

    Parameters
    ----------
    number : int
        From 1, in the order in which they are run.
    system : System
    seed : int
    config : TrainConfig
    """

    number: int
    system: System
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.system.name}, seed {self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Its run folder."""
        return RunFolder(self.config.outdir)

    @property
    def input_files(self) -> dict[str, Path]:
        """What it is trained on, by setting; image stacks are not among them."""
        files = {name: getattr(self.config, name) for name in _INPUT_FILES}
        return {name: path for name, path in files.items() if isinstance(path, Path)}

    @property
    def lock_file(self) -> Path:
        """There while a comparison works on it; who it is."""
        return self.config.outdir / "job.lock"

    @property
    def settings_file(self) -> Path:
        """The settings that it is started with."""
        return self.config.outdir / "job.yaml"

    @property
    def record_file(self) -> Path:
        """What came of it."""
        return self.config.outdir / "job.json"

    @property
    def console_file(self) -> Path:
        """What the training said."""
        return self.config.outdir / "console.log"

    @property
    def clock_file(self) -> Path:
        """How long its training has taken so far, over all tries, s."""
        return self.config.outdir / "job.seconds"


def plan_jobs(config: CompareConfig, common: Mapping[str, Any]) -> list[Job]:
    """Return the jobs: all systems with the first seed, then all with the second one, ...

    So an unfinished comparison has every system, and more seeds later leave the numbers as they are.

    Parameters
    ----------
    config : CompareConfig
    common : mapping
        Settings of `cryoatom train` for all systems; a system's own ones, which make it what it is, go first.

    Raises
    ------
    FileNotFoundError, ValueError
        For systems or settings that there are not, or that do not go together.
    """
    taken = [name for name in OWN if name in common]
    if taken:
        raise ValueError(
            f"{taken[0]} = {common[taken[0]]} among the options for all systems: the comparison sets it itself; give "
            "it before --, where there is such an option"
        )
    systems = choose_systems(config.systems, config.systems_file)
    if not systems:
        raise ValueError("no system to train: name some with --systems; --list tells which there are")
    pairs = [(seed, system) for seed in range(config.seeds) for system in systems]
    return [
        Job(number, system, seed, _train_config(config, common, system, seed))
        for number, (seed, system) in enumerate(pairs, start=1)
    ]


def _train_config(config: CompareConfig, common: Mapping[str, Any], system: System, seed: int) -> TrainConfig:
    budget = {"num_epochs": config.num_epochs, "held_out": TrainConfig.model_fields["held_out"].default}
    own = {
        "particles": config.particles,
        "template": config.template,
        "outdir": config.outdir / "runs" / f"{system.name}-{seed}",
        "cache": config.cache or config.outdir / "cache",
        "seed": seed,
        "threads": config.threads,
        "device": config.device,
    }
    try:
        return TrainConfig.merge({**budget, **_OUTPUT, **common, **system.settings, **own})
    except ValueError as error:
        raise ValueError(f"system {system.name!r}: {error}") from None


def changed_settings(job: Job, record: Record | None) -> list[str]:
    """Return what differs from the settings that a job was started with before, as `lr: 0.005, before 0.01`.

    Its record has them too, as the figures in it need not be those of the file's settings.

    Raises
    ------
    ValueError
        If the file of those is no longer one of settings.
    """
    is_started = job.settings_file.is_file()
    before = plain_settings(TrainConfig.merge({}, job.settings_file)) if is_started else {}
    return _differences(job, before) or _differences(job, record.settings if record else {})


def _differences(job: Job, before: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {value}, before {before[name]}"
        for name, value in plain_settings(job.config).items()
        if name not in _WITHOUT_EFFECT and value != before.get(name, value)
    ]


def describe_changes(changes: list[str]) -> str:
    """Return what :func:`changed_settings` found in one line: of many, the first few."""
    more = len(changes) - _NAMED
    return "; ".join(changes[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """Return settings as they can be written and compared: paths are absolute words."""
    values = {name: getattr(config, name) for name in TrainConfig.model_fields}
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in values.items()}
