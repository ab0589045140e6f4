"""Poses where the file has none: searched jointly with classes of conformations, then refined with each image's own.

The first epochs ("search epochs") fit a few classes of conformations, each one latent shared by its images. Before
each of them every image is searched anew over all rotations, shifts and classes: a class averages over hundreds of
images, so that wrongly posed ones cannot pull it where only they want it, and classes next to those that are right
already become right in turn. Then each image has its own latent, and poses move along the gradient; from time to time
all images are searched again, and one keeps its pose unless another explains it better (docs/method.md).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.cluster.vq import kmeans2
from torch import Tensor

from cryoatom.geometry import random_rotations
from cryoatom.imaging.likelihood import profiled_nll
from cryoatom.particles.rows import spaced_rows
from cryoatom.training.latents import LatentTable, own_latents, scattered_latents
from cryoatom.training.pose_search import Oriented, PoseSearch
from cryoatom.training.search_plan import RANDOM_STREAM, SearchPlan
from cryoatom.training.trainer import Trainer

CLASS_SPREAD = 0.1  # standard deviation of the classes' first latents
_MOST_VISITS = 20  # of an image in a search epoch
_CLASS_PACE = 1 / 6  # of the latents' rate: a class moves at each step, an image's latent once an epoch
_NEGATIVES = 500  # images that are searched with their sign turned
_FEWEST = 20  # images whose gains tell anything together
_LEAST_DEVIATIONS = 5.0  # of the mean, by which images must do better than their negatives
_OWN_VIEWS = 64  # projections of the template that are searched for a symmetry
_CLUSTERED = 10_000  # images whose latents are clustered into representatives
_logger = logging.getLogger(__name__)


class Orientation:
    """Searches for the poses of a trainer's images.

    Parameters
    ----------
    trainer
        Whose poses and latents are set.
    plan
        How.
    training
        The rows that train.
    """

    def __init__(self, trainer: Trainer, plan: SearchPlan, training: np.ndarray):
        self._trainer, self._plan = trainer, plan
        generator = np.random.default_rng([trainer.seed, RANDOM_STREAM])
        sample = generator.permutation(training)[: plan.images]
        self._sample, self._training = np.sort(sample), training
        self._search = PoseSearch(trainer, plan)

    def rows(self, epoch: int) -> np.ndarray:
        """Return the images that train in an epoch."""
        return self._sample if epoch < self._plan.epochs else self._training

    def visits(self, epoch: int) -> int:
        """Return how often they do: classes of a small dataset need as many steps as those of a large one."""
        if epoch >= self._plan.epochs:
            return 1
        return min(max(1, round(self._plan.images / len(self._sample))), _MOST_VISITS)

    def before(self, epoch: int, note: Callable[[str], None] = lambda text: None) -> None:
        """Search what is to be searched before an epoch; `note` hears of it."""
        after, everything = epoch - self._plan.epochs, f"all {len(self._trainer.data):,} images"
        if after < 0:
            note(f"epoch {epoch + 1}: searching the poses of {len(self._sample):,} images")
            self._search_classes(epoch)
        elif after == 0:
            note(f"epoch {epoch + 1}: searching the poses of {everything}")
            self._part_from_classes(epoch)
        elif self._plan.every and after % self._plan.every == 0 and epoch < self._trainer.schedule.decay_start:
            note(f"epoch {epoch + 1}: searching the poses of {everything} again")
            self._search_again(epoch)

    def _search_classes(self, epoch: int) -> None:
        """Give the sample's images the best class and pose; at first all are seen as the template."""
        trainer, rows = self._trainer, self._sample
        if epoch == 0:
            found = self.pose_by_template()
            owner = torch.zeros(len(trainer.data), dtype=torch.long)
            # images that look less and less like the template are a first guess of the order of conformations
            owner[rows[found.costs.argsort().numpy()]] = torch.arange(len(rows)) * self._plan.classes // len(rows)
            generator = torch.Generator().manual_seed(trainer.seed)
            latents = scattered_latents(self._plan.classes, trainer.latents.values.shape[1], CLASS_SPREAD, generator)
            trainer.latents = LatentTable(latents, owner, _CLASS_PACE)
        else:
            found = self._search(epoch, rows, self._decode(trainer.latents.values))
            trainer.latents.table.owner[rows] = found.representative
            self._fill_empty_classes(epoch)
            trainer.poses.replace(torch.from_numpy(rows), found.rotations, found.shifts)

    def pose_by_template(self) -> Oriented:
        """Give the sample's images the poses in which they look most like the template.

        Raises
        ------
        ValueError
            If they do not show it.
        """
        rows, trainer = self._sample, self._trainer
        found = self._search(0, rows, trainer.model.start[None], profiled_nll, is_wide=True)
        self._check_signal(rows, found.costs)
        self._check_symmetry()
        trainer.poses.replace(torch.from_numpy(rows), found.rotations, found.shifts)
        return found

    def _fill_empty_classes(self, epoch: int) -> None:
        """Let a class that no image has chosen start again beside the largest."""
        latents = self._trainer.latents.table
        counts = torch.bincount(latents.owner[self._sample], minlength=len(latents.values))
        empty = torch.nonzero(counts == 0)[:, 0]
        generator = torch.Generator().manual_seed(self._trainer.seed + epoch)
        near = scattered_latents(len(empty), latents.values.shape[1], CLASS_SPREAD, generator)
        latents.restart(empty, latents.values[counts.argmax()] + near)

    def _part_from_classes(self, epoch: int) -> None:
        """Give each image a latent of its own, that of its class, and search those that have waited."""
        trainer, classes = self._trainer, self._trainer.latents
        trainer.latents = own_latents(classes.read(torch.arange(len(trainer.data))))
        conformations = self._decode(classes.values)
        fresh = np.setdiff1d(np.arange(len(trainer.data)), self._sample)
        if len(fresh):
            found = self._search(epoch, fresh, conformations, is_exact=True, is_wide=True)
            self._adopt(fresh, found, classes.values)
        again = self._search(epoch, self._sample, conformations, is_exact=True)
        self._adopt_if_better(self._sample, again, classes.values)

    def _search_again(self, epoch: int) -> None:
        """Search all images over representatives of the present conformations."""
        latents = self._representatives(epoch)
        everything = np.arange(len(self._trainer.data))
        found = self._search(epoch, everything, self._decode(latents), is_exact=True)
        better = self._adopt_if_better(everything, found, latents)
        _logger.info("searched all poses again: %d of %d images changed theirs", better, len(everything))

    def assess(self, epoch: int) -> tuple[Oriented, Tensor]:
        """Search all images with the final conformations.

        Returns
        -------
        Oriented
            Of all images.
        Tensor
            Costs of the negatives of some images, in which there is nothing to find.
        """
        representatives = self._decode(self._representatives(epoch))
        everything = np.arange(len(self._trainer.data))
        some = everything[:: max(1, len(everything) // _NEGATIVES)]
        found = self._search(epoch, everything, representatives)
        return found, self._search(epoch, some, representatives, sign=-1.0).costs

    def _representatives(self, epoch: int) -> Tensor:
        """Return the latents that stand for all images'."""
        values = self._trainer.latents.values[self._training].numpy()
        generator = np.random.default_rng([self._trainer.seed, RANDOM_STREAM + 1, epoch])
        some = generator.permutation(len(values))[:_CLUSTERED]
        classes = min(self._plan.classes, len(some))
        with warnings.catch_warnings():  # a cluster may end empty: its centre still is a conformation
            warnings.filterwarnings("ignore", message="One of the clusters is empty")
            centers, _ = kmeans2(values[some].astype(np.float64), classes, minit="++", rng=generator)
        return torch.from_numpy(centers).float()

    def _adopt(self, rows: np.ndarray, found: Oriented, latents: Tensor) -> None:
        images = torch.from_numpy(rows)
        self._trainer.latents.table.replace(images, latents[found.representative])
        self._trainer.poses.replace(images, found.rotations, found.shifts)

    def _adopt_if_better(self, rows: np.ndarray, found: Oriented, latents: Tensor) -> int:
        """Adopt what was found for those images whose objective it lowers; return their number."""
        trainer, images = self._trainer, torch.from_numpy(rows)
        own, (rotations, shifts) = trainer.latents.read(images), trainer.poses.read(images)
        before = trainer.losses(rows)
        at = trainer.latents.table.owner[images]
        trainer.latents.values[at] = latents[found.representative]
        trainer.poses.rotations[images], trainer.poses.shifts[images] = found.rotations, found.shifts
        is_better = trainer.losses(rows) < before
        trainer.latents.values[at] = own
        trainer.poses.rotations[images], trainer.poses.shifts[images] = rotations, shifts
        self._adopt(rows[is_better.numpy()], found.of(is_better), latents)
        return int(is_better.sum())

    @torch.no_grad()
    def _decode(self, latents: Float[Tensor, "rows latent"]) -> Float[Tensor, "rows points 3"]:
        return self._trainer.model.place(latents.to(self._trainer.device))

    def _check_signal(self, rows: np.ndarray, costs: Tensor) -> None:
        """Compare what images gain by the template with what their negatives do, in which there is nothing to find.

        Raises
        ------
        ValueError
            If the negatives show the template, or neither does.
        """
        trainer = self._trainer
        if len(rows) < _FEWEST:
            return
        some = spaced_rows(len(rows), _NEGATIVES)
        negative = self._search(0, rows[some], trainer.model.start[None], profiled_nll, sign=-1.0, is_wide=True).costs
        difference = negative - costs[some]
        deviations = float(difference.mean() / (difference.std() / len(some) ** 0.5).clamp_min(1e-6))
        _logger.info("the images explain the template better than their negatives, by %.0f deviations", deviations)
        if deviations < -_LEAST_DEVIATIONS:
            raise ValueError(
                f"the contrast is inverted: the negatives of the images show the template better, by {-deviations:.0f} "
                "deviations; give --uninvert-data, or leave it out if it was given"
            )
        if deviations < _LEAST_DEVIATIONS:
            raise ValueError(
                f"the images do not show the template: over {len(some)} images its best poses explain them no better "
                f"({deviations:.1f} deviations) than their negatives, at least {_LEAST_DEVIATIONS:.0f} are needed"
            )

    def _check_symmetry(self) -> None:
        """Warn where the template's own projections fit several poses far apart."""
        trainer, count = self._trainer, _OWN_VIEWS
        template = trainer.model.start
        rotations = torch.from_numpy(random_rotations(count, np.random.default_rng(trainer.seed))).float()
        side, size = trainer.data.grid.side, trainer.data.grid.coarse_pixel
        with torch.no_grad():
            views = rotations.to(trainer.device), torch.zeros(count, 2, device=trainer.device)
            images = trainer.model.render(template.expand(count, -1, -1), *views, side, size)
            kernels = trainer.data.read(np.arange(1))[1].to(trainer.device)
            spectrum = torch.fft.rfft2(images, s=(2 * side, 2 * side)) * kernels
            crops = torch.fft.irfft2(spectrum, s=(2 * side, 2 * side))[..., :side, :side]
        found = self._search.compare(0, template[None], crops, kernels, profiled_nll)
        if float(found.is_multimodal.float().mean()) > 0.5:
            _logger.warning(
                "the template looks the same from several sides: poses are found up to its symmetry, and the "
                "conformation of one side may be ascribed to another"
            )
