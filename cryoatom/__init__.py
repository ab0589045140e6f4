"""cryoatom: one atomic backbone conformation per cryo-EM particle image."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryoatom.analysis.run import Run

__version__ = version("cryoatom")


def load(path: str | Path, epoch: int | None = None) -> Run:
    """Open a run folder of `cryoatom train`: its latents, conformations, poses, and decoder.

    Parameters
    ----------
    path
        The run folder.
    epoch
        One of its epochs; the final state where absent.

    Raises
    ------
    FileNotFoundError
        When there is no such folder, or the run has not ended (or saved that epoch).
    """
    from cryoatom.analysis.run import load as load_run  # torch, only when it is needed

    return load_run(path, epoch)
