"""Two decoders that never saw each other's images: where they agree, the images and not chance decided.

They share the template, the beads, the regularisers, the poses, and the noise of the image that both are asked about.
Errors that come from these are alike in both, and half sets cannot see them: agreement is necessary, not sufficient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoatom.analysis.run import Run, load
from cryoatom.ensemble.motions import find_motions
from cryoatom.results.metrics import rank_correlation
from cryoatom.structure.superpose import rmsd, superpose
from cryoatom.train_config import TrainConfig
from cryoatom.training.fit import training_rows

BINS = 20
_RESIDUES_AT_ONCE = 2**20


@dataclass(frozen=True)
class HalfSets:
    """How far the two halves' conformations of the same images lie apart. Å.

    Parameters
    ----------
    rows : (images,) int64
        Which images these are: those that are neither junk nor dead.
    rmsd : (images,) float64
        Of the same image, superposed.
    seen_by : (images,) int64
        The half whose decoder was trained on the image, 1 or 2; 0: held out from both.
    residues : (residues,) float64
        Root mean square difference of each C-alpha after superposition, over √2: the deviation of one half, where both
        err independently and equally.
    bins : (bins,) float64
        Mean place, along the run's first motion, of images at similar places: r.m.s. over residues.
    bin_rmsd : (bins,) float64
        Between the two halves' mean conformations of these images: without the scatter of single images.
    motion_correlation : float or None
        Size of the rank correlation of the images' amplitudes along each half's own first motion; None where one of
        them is constant.
    spread : float
        Root mean square distance of the run's conformations from their mean: halves that agree differ by much less.
    shares_poses : bool
        The poses are those that the run has estimated from all images.
    """

    rows: np.ndarray
    rmsd: np.ndarray
    seen_by: np.ndarray
    residues: np.ndarray
    bins: np.ndarray
    bin_rmsd: np.ndarray
    motion_correlation: float | None
    spread: float
    shares_poses: bool

    @property
    def mean(self) -> float:
        """The mean RMSD of all images."""
        return float(self.rmsd.mean())

    @property
    def along_path(self) -> float:
        """The root mean square of the bins' RMSDs."""
        return float(np.sqrt((self.bin_rmsd**2).mean()))

    def mean_of(self, group: Literal[0, 1, 2]) -> float | None:
        """Return the mean RMSD of images that half 1, half 2 or none (0) has seen; None where there are none."""
        of_group = self.rmsd[self.seen_by == group]
        return float(of_group.mean()) if len(of_group) else None


def compare_half_sets(run: Run, *, bins: int = BINS) -> HalfSets:
    """Compare the conformations that the two halves give to the same images.

    Parameters
    ----------
    run
        The run; its halves have been trained. Images of junk and dead ones are left out.
    bins
        At most so many groups of images of similar amplitude along its first motion.
    """
    halves = [load(path) for path in run.folder.halves]
    images, count, residues = run.good_rows, len(run.good_rows), run.conformations.shape[1]
    (amplitude, spread), *own = (_amplitudes(each.conformations, images) for each in (run, *halves))
    bins = min(bins, count)
    bin_of_image = np.argsort(np.argsort(amplitude, kind="stable"), kind="stable") * bins // count
    sizes = np.bincount(bin_of_image, minlength=bins)
    template = torch.from_numpy(run.template.positions)
    rmsds, squares, sums = np.empty(count), np.zeros(residues), torch.zeros(2, bins, residues, 3, dtype=torch.float64)
    for rows in _blocks(count, residues):
        first, second = (superpose(_read(half.conformations, images[rows]), template) for half in halves)
        difference = (superpose(first, second) - second).square().sum(dim=-1)
        rmsds[rows] = difference.mean(dim=-1).sqrt().numpy()
        squares += difference.sum(dim=0).numpy()
        places = torch.from_numpy(bin_of_image[rows])
        for total, block in zip(sums, (first, second), strict=True):
            total.index_add_(0, places, block)
    means = sums / torch.from_numpy(sizes)[:, None, None]
    correlation = rank_correlation(own[0][0], own[1][0])
    return HalfSets(
        rows=images,
        rmsd=rmsds,
        seen_by=_seen_by([half.config for half in halves], len(run))[images],
        residues=np.sqrt(squares / count / 2),
        bins=np.bincount(bin_of_image, weights=amplitude, minlength=bins) / sizes,
        bin_rmsd=rmsd(means[0], means[1]).numpy(),
        motion_correlation=None if correlation is None else abs(correlation),
        spread=spread,
        shares_poses=run.config.poses == "esl",
    )


def _seen_by(configs: list[TrainConfig], count: int) -> np.ndarray:
    seen_by = np.zeros(count, dtype=np.int64)
    for index, config in enumerate(configs):
        seen_by[training_rows(config, count)[0]] = index + 1
    return seen_by


def _amplitudes(
    conformations: Float[np.ndarray, "images residues 3"], rows: Int[np.ndarray, " rows"]
) -> tuple[np.ndarray, float]:
    """Return where some conformations lie along the first motion of these, and their spread; r.m.s. Å."""
    motions = find_motions(conformations, 1, rows=rows)
    if len(motions) == 0:  # nothing moves
        return np.zeros(len(rows)), 0.0
    total = motions.spreads[0] / max(float(motions.shares[0]), 1e-9) ** 0.5
    return motions.amplitudes[rows, 0], float(total)


def _blocks(count: int, residues: int) -> list[np.ndarray]:
    at_once = max(1, _RESIDUES_AT_ONCE // residues)
    return [np.arange(start, min(start + at_once, count)) for start in range(0, count, at_once)]


def _read(conformations: Float[np.ndarray, "images residues 3"], rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(conformations[rows], dtype=np.float64))
