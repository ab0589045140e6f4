"""`cryoatom eval`: conformations against a known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cryoatom.cli.options import settings_options
from cryoatom.results.evaluate_config import EvaluateConfig

if TYPE_CHECKING:
    from rich.table import Table

    from cryoatom.results.evaluation import EvaluationResult


@click.command("eval")
@settings_options(EvaluateConfig)
def eval_command(config: EvaluateConfig) -> None:
    """Compare the conformations of a run with a known truth.

    Writes rmsd.csv (one row per image), per_frame.csv, per_residue.csv, summary.json and plots. RMSDs are the minimum
    over rigid motions where not said otherwise; EMD-RMSD is the earth mover's distance between the two distributions.

    \b
    cryoatom eval run --gt data/truth/trajectory.dcd --labels data/truth/frames.txt --gt-poses data/particles.star
    cryoatom eval run --gt traj.dcd --gt-top traj.psf
    cryoatom eval --predictions conformations.npy --template template.cif --gt traj.pdb -o eval
    """
    import torch
    from rich.console import Console

    from cryoatom.results.evaluate import evaluate_files
    from cryoatom.results.evaluation_files import write_evaluation
    from cryoatom.run_folder import RunFolder
    from cryoatom.threads import available_cores

    torch.set_num_threads(available_cores(config.threads))
    outdir = config.outdir or (RunFolder(config.run).evaluation if config.run else None)
    if outdir is None:
        raise ValueError("without a run folder, say where to write to: -o DIR")
    console = Console()
    with console.status("Comparing"):
        result = evaluate_files(config)
        written = write_evaluation(outdir, result)
    console.print(_table(result))
    for line in (*(f"Note: {note}" for note in result.notes), f"{outdir}: {', '.join(path.name for path in written)}"):
        console.print(line, soft_wrap=True, highlight=False)


def _table(result: EvaluationResult) -> Table:
    from rich.table import Column, Table

    found = result.summary()
    columns = "Å", *(Column(name, justify="right") for name in ("prediction", "best static", "template", "truth"))
    rows = {
        "RMSD, mean": ("rmsd_mean", "rmsd_static_mean", "rmsd_template_mean"),
        "RMSD, median": ("rmsd_median",),
        "RMSD without alignment, mean": ("rmsd_unaligned_mean",),
        "bias, mean over images": ("bias_mean",),
        "scatter, mean over images": ("scatter_mean",),
        "RMSD to the nearest frame, mean": ("rmsd_nearest_mean",),
        "EMD-RMSD, all images": ("emd_rmsd_full", "emd_rmsd_static", "emd_rmsd_template"),
        f"EMD-RMSD, {found['emd_samples']:,} images": ("emd_rmsd_sampled_mean",),
        "rank correlation of latents": ("latent_rank_correlation",),
        "rank correlation of coordinates": ("coordinate_rank_correlation",),
        "pose error, median, degrees": ("pose_error_deg_median",),
        "pose error, mean, degrees": ("pose_error_deg_mean",),
        "pose error, share within 15 degrees": ("pose_share_within_15_deg",),
        "shift error, median": ("shift_error_median",),
        f"hand: {found['hand']}; RMSD, {found['hand_images']:,} images": ("hand_rmsd",),
        "RMSD to the mirror image of the truth": ("hand_rmsd_mirrored",),
        **result.geometry_rows,
    }
    table = Table(*columns, title=f"{found['n_images']:,} images, {found['n_frames']:,} frames", title_justify="left")
    for heading, keys in rows.items():
        if found[keys[0]] is not None:  # needs labels or poses, or was skipped
            table.add_row(heading, *(f"{found[key]:.3f}" if key else "" for key in keys))
    return table
