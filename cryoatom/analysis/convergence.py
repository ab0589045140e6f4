"""Did the structures come to rest? How far the conformations of the same images moved from epoch to epoch.

The loss of noisy images is nearly flat while structures still move, so it is the structures that are followed. At the
end of a run they move little also because the learning rates have fallen: the held-out likelihood stands beside, and
has to have come to rest before.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoatom.analysis.run import Run
from cryoatom.particles.rows import spaced_rows
from cryoatom.run_folder import RunFolder
from cryoatom.structure.superpose import rmsd
from cryoatom.training.checkpoint import read_checkpoint

SAMPLE = 300


@dataclass(frozen=True)
class Drift:
    """One array entry per saved epoch, in their order. Means over some images, Å; NaN where there is none before.

    Parameters
    ----------
    epochs : (epochs,) int64
        Counted from 1.
    from_previous, from_previous_unaligned : (epochs,) float64
        RMSD to the same images' conformations at the saved epoch before: the least over rigid motions, and as they lie
        in the frame of the template.
    to_end, to_end_unaligned : (epochs,) float64
        RMSD to the final conformations; where there are none yet, to those of the last saved epoch.
    held_out_nll, nll : (epochs,) float64
        -log p of metrics.csv, nats an image; NaN where it has none.
    images : int
        How many were followed.
    has_end : bool
        There are final conformations, of the last saved epoch or later: the training has ended.
    """

    epochs: np.ndarray
    from_previous: np.ndarray
    from_previous_unaligned: np.ndarray
    to_end: np.ndarray
    to_end_unaligned: np.ndarray
    held_out_nll: np.ndarray
    nll: np.ndarray
    images: int
    has_end: bool = True

    @property
    def per_epoch(self) -> np.ndarray:
        """(epochs,) how far conformations moved an epoch, Å: less than one epoch may have been saved in each."""
        return self.from_previous / np.diff(self.epochs, prepend=np.nan)


def measure_drift(run: Run, *, sample: int = SAMPLE) -> Drift:
    """Decode some images at each epoch that was saved, and compare.

    Parameters
    ----------
    run
        Any state of it: all saved epochs count. One that has ended may have no saved epoch.
    sample
        At most so many evenly spaced images, of those that are neither junk nor dead.
    """
    folder, rows = run.folder, run.good_rows[spaced_rows(len(run.good_rows), sample)]
    run = replace(run)  # its model will hold the weights of one epoch after another
    epochs = saved_epochs(folder)
    has_end = _has_end(folder, epochs)
    end = _decode(run, None if has_end else int(epochs[-1]), rows)
    figures = np.full((4, len(epochs)), np.nan)
    before: Tensor | None = None
    for index, epoch in enumerate(epochs.tolist()):
        now = _decode(run, epoch, rows)
        if before is not None:
            figures[:2, index] = _distances(now, before)
        figures[2:, index] = _distances(now, end)
        before = now
    metrics = _read_metrics(folder.metrics)
    return Drift(
        epochs,
        *figures,
        held_out_nll=_of_epochs(metrics, "held_out_nll", epochs),
        nll=_of_epochs(metrics, "nll", epochs),
        images=len(rows),
        has_end=has_end,
    )


def saved_epochs(folder: RunFolder) -> Int[np.ndarray, " epochs"]:
    """Return the epochs, from 1, whose weights and latents are there."""
    numbers = [int(path.name.split(".")[1]) for path in folder.checkpoints()]
    return np.array(sorted(epoch for epoch in numbers if folder.latents(epoch).is_file()), dtype=np.int64)


def _has_end(folder: RunFolder, epochs: np.ndarray) -> bool:
    """Tell whether there is a final state that is not older than the last saved epoch: a run may have gone on."""
    if not (folder.weights().is_file() and folder.latents().is_file()):
        return False
    return len(epochs) == 0 or len(read_checkpoint(folder.weights())["history"]) >= int(epochs[-1])


def _decode(run: Run, epoch: int | None, rows: Int[np.ndarray, " rows"]) -> Float[Tensor, "rows residues 3"]:
    """Return the conformations of some images as an epoch, or the end, had them; the run's model takes its weights."""
    run.model.load_state_dict(read_checkpoint(run.folder.weights(epoch))["model"])
    latents = np.load(run.folder.latents(epoch), mmap_mode="r", allow_pickle=False)
    return torch.from_numpy(run.decode(np.array(latents[rows])))


def _distances(some: Float[Tensor, "n residues 3"], others: Float[Tensor, "n residues 3"]) -> tuple[float, float]:
    return float(rmsd(some, others).mean()), float(rmsd(some, others, align=False).mean())


def _read_metrics(path: Path) -> dict[int, dict[str, float]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return {round(row["epoch"]): row for row in rows}


def _of_epochs(metrics: dict[int, dict[str, float]], name: str, epochs: np.ndarray) -> np.ndarray:
    return np.array([metrics.get(epoch, {}).get(name, np.nan) for epoch in epochs.tolist()])
