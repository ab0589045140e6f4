"""Settings of `cryoatom select`, and those by which any command chooses images of a run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import PositiveInt

from cryoatom.config import Settings, setting


class Selection(Settings):
    """Which images of a run: those that meet all that is asked for."""

    run: Path = setting(..., "Run folder of `cryoatom train`.", argument=True)
    epoch: PositiveInt | None = setting(None, "Epoch that was analysed [default: the final state].")
    analysis: Path | None = setting(None, "Folder of `cryoatom analyze` [default: that in the run folder].")

    cluster: str | None = setting(None, "In one of these clusters of latents, from 1, as '3,4'.")
    ksample: PositiveInt | None = setting(None, "Which clustering, where there are several: kmeans20 is 20.")
    pc: tuple[str, ...] = setting((), "Latent PC (from 1) within bounds: '1:-0.5:2', one may be empty. Repeatable.")
    motion: tuple[str, ...] = setting((), "Motion (PC of coordinates, from 1) within bounds, Å: '1:-20:0'. Repeatable.")
    cv: tuple[str, ...] = setting((), "Collective variable within bounds: 'lid:100:120'. Repeatable.")
    path: str | None = setting(None, "Position along the path of `cryoatom analyze` within bounds: '0:0.25'.")
    gain: str | None = setting(
        None, "How much better the model explains the image than nothing, nats: '50:', '50:900'."
    )
    fits: float | None = setting(None, "Probability that the image shows the particle in its pose, at least.")
    uncertainty: float | None = setting(None, "Standard deviation of the conformation, Å, at most.")
    ind: Path | None = setting(None, "Rows of the particle file, from 0: .txt, .npy or .pkl, as of `train --ind`.")
    images: Path | None = setting(
        None, "Images of the run, from 0, as images.csv counts them; other than --ind after `train --ind` alone."
    )
    invert: bool = setting(False, "All others instead.")
    random: PositiveInt | None = setting(None, "At random so many of what is left.")
    seed: int = setting(0, "Seed of --random.", ge=0)


_SECTIONS = {"run": "Which images (all criteria must be met)"}


class SelectConfig(Selection):
    """Settings of `cryoatom select`."""

    sections: ClassVar[dict[str, str]] = {**_SECTIONS, "output": "Output"}

    output: Path = setting(
        ...,
        "What to write: .star or .cs, as the particle file is, or rows of that file as .txt or .npy.",
        flags=("-o", "--output"),
    )
    with_poses: bool = setting(False, "Put the run's poses into the particles' columns.")
    also: tuple[Path, ...] = setting((), "With .cs: a passthrough file of the job, to be cut alike. Repeatable.")
