"""Settings of `cryoatom select`, and those by which any command chooses images of a run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import PositiveInt, model_validator

from cryoatom.config import Settings, setting


class Selection(Settings):
    """Which images of a run: those that meet all that is asked for."""

    of_the_end: ClassVar[tuple[str, ...]] = ("gain", "fits", "uncertainty")  # an epoch has none of these

    run: Path = setting(..., "Run folder of `cryoatom train`.", argument=True)
    epoch: PositiveInt | None = setting(None, "Epoch that was analysed [default: the final state].")
    particles: Path | None = setting(None, "The particle file of the training, where it has moved since.")
    analysis: Path | None = setting(None, "Folder of `cryoatom analyze` [default: that in the run folder].")

    cluster: str | None = setting(None, "In one of these clusters of latents, from 1, as '3,4'.")
    ksample: PositiveInt | None = setting(
        None, "Which clustering, if there are several: 20 is kmeans20/ [default: that of the report]."
    )
    pc: tuple[str, ...] = setting((), "Latent PC (from 1) within bounds: '1:-0.5:2', one may be empty. Repeatable.")
    motion: tuple[str, ...] = setting(
        (), "Motion (PC of coordinates, from 1) within bounds, Å r.m.s.: '1:-2:0'. Repeatable."
    )
    cv: tuple[str, ...] = setting(
        (), "Collective variable within bounds, its name as `analyze --cv` has it: 'lid:100:120'. Repeatable."
    )
    path: str | None = setting(None, "Position along the path of `cryoatom analyze` within bounds: '0:0.25'.")
    gain: str | None = setting(
        None, "How much better the model explains the image than nothing, nats: '50:', '50:900'."
    )
    fits: float | None = setting(
        None, "Probability that the image shows the particle in its pose, at least; 0.05 leaves out junk and dead ones."
    )
    uncertainty: float | None = setting(None, "Standard deviation of the conformation, Å, at most.")
    ind: Path | None = setting(
        None,
        "Particles in this list of rows of the particle file, from 0: what the report's page saves, a run's good.npy, "
        "a list for `train --ind`. .txt, .npy or .pkl.",
    )
    images: Path | None = setting(
        None,
        "Particles in this list of places in the run's own files, from 0, as images.csv and conformations.npy count "
        "them: the same as rows unless the run was trained with --ind.",
    )
    invert: bool = setting(False, "All others instead.")
    random: PositiveInt | None = setting(None, "At random so many of what is left.")
    seed: int = setting(0, "Seed of --random.", ge=0)

    @model_validator(mode="after")
    def _check_epoch(self) -> Self:
        given = [name for name in self.of_the_end if getattr(self, name) != type(self).model_fields[name].default]
        if self.epoch is not None and given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(
                f"{options} and --epoch do not go together: this is known of the final state of a run alone, not of "
                f"its epoch {self.epoch}"
            )
        return self


_SECTIONS = {"run": "Which images (all criteria must be met)"}


class SelectConfig(Selection):
    """Settings of `cryoatom select`."""

    sections: ClassVar[dict[str, str]] = {**_SECTIONS, "output": "Output"}
    of_the_end: ClassVar[tuple[str, ...]] = (*Selection.of_the_end, "with_poses")

    output: Path = setting(
        ...,
        "What to write: .star or .cs, as the particle file is, or rows of that file as .txt or .npy.",
        flags=("-o", "--output"),
    )
    with_poses: bool = setting(False, "Put the run's final poses into the particles' columns.")
    also: tuple[Path, ...] = setting((), "With .cs: a passthrough file of the job, to be cut alike. Repeatable.")
