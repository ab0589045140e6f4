"""Settings of `cryoatom volume`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import PositiveInt

from cryoatom.analysis.select_config import Selection
from cryoatom.config import setting


class VolumeConfig(Selection):
    """Settings of `cryoatom volume`."""

    sections: ClassVar[dict[str, str]] = {
        "run": "Which images (all criteria must be met)",
        "outdir": "Output",
        "box": "Maps",
        "datadir": "Running",
    }

    outdir: Path = setting(..., "Folder to write to.", flags=("-o", "--outdir"))
    backproject: bool = setting(
        False, "Also reconstruct a map from the images, in the run's final poses, with half maps and FSC."
    )

    box: int | None = setting(
        None, "Voxels of a side, filled up with zeros [default: what holds the particle, as in the training].", ge=8
    )
    pixel: float | None = setting(
        None, "Voxel, Å; not finer than the images' pixels [default: that of the training's crops].", gt=0
    )
    resolution: float | None = setting(None, "Low-pass density.mrc and map.mrc to this, Å.", gt=0)
    origin: Literal["model", "zero"] = setting(
        "model",
        "What the headers say: model = maps and C-alpha models lie over each other in viewers; zero = voxel 0 at "
        "0 Å, as in RELION, cryoSPARC and cryoDRGN.",
    )
    conformations: PositiveInt = setting(200, "Conformations that density.mrc is the mean of, at most.")

    datadir: Path | None = setting(None, "Folder of the image stacks, where they have moved since the training.")
    threads: PositiveInt | None = setting(None, "CPU threads [default: what SLURM and the machine grant].")
