"""Settings of `cryoatom analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import PositiveInt

from cryoatom.config import Settings, setting


class AnalyzeConfig(Settings):
    """Settings of `cryoatom analyze`."""

    sections: ClassVar[dict[str, str]] = {
        "outdir": "Input and output",
        "pc": "What is looked for",
        "controls": "What can be trusted",
        "pictures": "Report",
        "seed": "Running",
    }

    run: Path = setting(..., "Run folder of `cryoatom train`.", argument=True)
    epoch: PositiveInt | None = setting(None, "Epoch to look at [default: the final state].", argument=True)
    outdir: Path | None = setting(
        None,
        "Folder to write to [default: analyze/ in the run folder, analyze.N/ for an epoch].",
        flags=("-o", "--outdir"),
    )
    particles: Path | None = setting(None, "The particle file of the training, where it has moved since.")
    datadir: Path | None = setting(None, "Folder of the image stacks, where they have moved since the training.")

    pc: int = setting(2, "Principal components of latents, and of motion, that are followed.", ge=1, le=16)
    n_per_pc: int = setting(10, "Conformations along each.", ge=2)
    ksample: int = setting(20, "Clusters of latents (k-means); fewer where there are fewer images.", ge=2, le=200)
    umap: bool = setting(False, "Also embed the latents by UMAP (pip install 'cryoatom[umap]').")
    path: str | None = setting(
        None,
        "Ends of a path through the images: two images (from 0) or clusters, as '12,3400' or 'k3,k17' "
        "[default: the ends of the largest motion].",
    )
    cv: tuple[str, ...] = setting(
        (),
        "A collective variable, as 'lid=angle:179-185/115-125/125-153': distance of two, angle of three or dihedral "
        "of four centres of residues; may be given several times.",
    )
    domains: int | None = setting(
        None, "Rigid domains to look for [default: as many as there seem to be].", ge=1, le=20
    )

    controls: bool = setting(True, "Compare with the static template, other images' conformations, a wrong template.")
    half_sets: bool = setting(
        False,
        "Train two more decoders, on the odd and the even images, and compare: takes twice as long as the training.",
    )

    pictures: int = setting(40, "Images shown beside their models.", ge=0)
    volumes: bool = setting(False, "Also write a density map, .mrc, of each cluster.")

    seed: int = setting(0, "Seed of k-means, UMAP and samples.", ge=0)
    threads: PositiveInt | None = setting(None, "CPU threads [default: what SLURM and the machine grant].")
