"""Settings of `cryoatom compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import PositiveInt, field_validator, model_validator

from cryoatom.config import Settings, setting


class CompareConfig(Settings):
    """Settings of `cryoatom compare`."""

    sections: ClassVar[dict[str, str]] = {
        "template": "Input and output",
        "gt": "Truth",
        "systems": "What is trained",
        "job": "Running",
    }

    particles: Path = setting(..., "Particle file, as for `cryoatom train`.", argument=True)
    template: Path = setting(..., "Structure to start from, as for `cryoatom train`.")
    outdir: Path = setting(..., "Folder to write to: runs, table, plots.", flags=("-o", "--outdir"))
    cache: Path | None = setting(
        None, "Folder for the images in the form that training reads, shared by all runs [default: in --outdir]."
    )

    gt: Path | None = setting(None, "True conformations, as for `cryoatom eval`. Without them the table has no RMSD.")
    gt_top: Path | None = setting(None, "Topology of the true conformations: .psf, .pdb or .cif.")
    labels: Path | None = setting(None, "The true frame of each image: .txt or .npy of zero-based frames.")
    gt_poses: Path | None = setting(None, "True poses, joined by image name: RELION .star. Needs --labels.")

    systems: tuple[str, ...] = setting(
        ("gnn", "mlp", "prins", "cryosphere", "cryofold", "anm"),
        "Systems, separated by commas or by repeating the option; --list tells which there are.",
    )
    systems_file: Path | None = setting(
        None, "YAML file of systems of your own: a name, and below it settings of `cryoatom train`. All are trained."
    )
    seeds: PositiveInt = setting(3, "Each system is trained so many times, with seeds 0, 1, 2, ...")
    num_epochs: PositiveInt = setting(20, "Passes over the images, at most.", flags=("-n", "--num-epochs"))

    job: PositiveInt | None = setting(None, "Run only this one of the list that --jobs prints, from 1, and no table.")
    array: bool = setting(False, "The same, with the job from SLURM_ARRAY_TASK_ID.")
    table_only: bool = setting(False, "Run nothing: make the table and the plots of what is there.")
    overwrite: bool = setting(False, "Repeat the jobs that were run with other settings or input files.")
    threads: PositiveInt | None = setting(None, "CPU threads [default: what SLURM and the machine grant].")
    device: str = setting("auto", "auto, cpu, or cuda[:N].")

    @field_validator("systems", mode="before")
    @classmethod
    def _split(cls, words: Any) -> Any:
        """Take `gnn,mlp` for two systems, wherever it stands."""
        if isinstance(words, str):
            words = [words]
        if not isinstance(words, list | tuple):
            return words
        names = [name.strip() for word in words for name in str(word).split(",")]
        return tuple(dict.fromkeys(name for name in names if name))

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if sum((self.job is not None, self.array, self.table_only)) > 1:
            raise ValueError("--job, --array and --table-only exclude each other: give one of them")
        if self.gt is None and (self.labels or self.gt_top or self.gt_poses):
            raise ValueError("--labels, --gt-top and --gt-poses go with the true conformations: give --gt")
        if self.gt_poses is not None and self.labels is None:
            raise ValueError("--gt-poses needs --labels: every conformation is superposed on its true one")
        return self
