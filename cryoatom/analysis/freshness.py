"""Is an analysis still that of the run? A run may have gone on since."""

from __future__ import annotations

import hashlib

from cryoatom.analysis.run import Run
from cryoatom.run_folder import AnalysisFolder


def latents_digest(run: Run) -> str:
    """Return a digest of the latents of a run, or of its epoch."""
    return hashlib.sha256(run.folder.latents(run.epoch).read_bytes()).hexdigest()[:16]


def check_fresh(run: Run, folder: AnalysisFolder) -> None:
    """Check that an analysis folder is there, whole, and of the run as it is now.

    Raises
    ------
    FileNotFoundError
        If there is none, or it was cut short.
    ValueError
        If the run has gone on since.
    """
    again = f"run `cryoatom analyze {run.folder.path}{'' if run.epoch is None else f' {run.epoch}'}`"
    if not folder.state.is_file():
        raise FileNotFoundError(f"{folder.path} holds no finished analysis: {again}")
    if folder.state.read_text(encoding="utf-8").strip() != latents_digest(run):
        raise ValueError(f"{folder.path} is the analysis of another state, or epoch, of the run: {again} again")
