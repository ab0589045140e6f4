"""Settings of `cryoatom eval`."""

from __future__ import annotations

from pathlib import Path

from pydantic import PositiveInt

from cryoatom.config import Settings, setting


class EvaluateConfig(Settings):
    """Settings of `cryoatom eval`."""

    run: Path | None = setting(None, "Run folder of `cryoatom train`.", argument=True)
    gt: Path = setting(..., "True conformations: .dcd, .xtc, .npy, or .pdb/.cif with several models.")
    gt_top: Path | None = setting(None, "Topology of the true conformations: .psf, .pdb or .cif.")
    labels: Path | None = setting(None, "The true frame of each image: .txt or .npy of zero-based frames.")
    gt_poses: Path | None = setting(
        None, "True poses, joined by image name: RELION .star. Needs --labels: conformations are superposed first."
    )
    datadir: Path | None = setting(None, "Folder of the image stacks, where --gt-poses does not lead to them.")
    predictions: Path | None = setting(
        None, "Conformations (images, residues, 3) as .npy, in place of the run folder's; needs --template."
    )
    template: Path | None = setting(None, "Template that goes with --predictions.")
    outdir: Path | None = setting(
        None, "Folder to write to [default: eval/ in the run folder].", flags=("-o", "--outdir")
    )
    emd_samples: PositiveInt = setting(2000, "Images in each draw of the sampled earth mover's distance.")
    emd_draws: PositiveInt = setting(5, "Number of draws.")
    seed: int = setting(0, "Seed of the draws.", ge=0)
    threads: PositiveInt | None = setting(None, "CPU threads [default: what SLURM and the machine grant].")
