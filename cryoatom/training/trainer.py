"""One epoch, one step: the state of a fit and how it moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.imaging.matched import MatchedSet
from cryoatom.training.encoding import EncodedLatents
from cryoatom.training.feed import ImageFeed
from cryoatom.training.finite import check_gradients, check_terms
from cryoatom.training.image_fits import ImageFits
from cryoatom.training.latents import LatentTable
from cryoatom.training.model import ConformationModel
from cryoatom.training.objective import Batch, Objective
from cryoatom.training.pose_table import PoseTable
from cryoatom.workers import Workers

FINAL_RATE = 0.02  # of the full learning rate, reached at the end of the decay


@dataclass(frozen=True)
class Schedule:
    """Learning rates.

    Parameters
    ----------
    epochs
        Length of the run.
    warmup
        The rate rises as min(epoch / warmup, 1) (paper, supplement section 5).
    decay
        Fraction of the run, at its end, over which all rates fall to 2% along a cosine.
    lr, bead_lr, z_lr, pose_lr
        Full rates of the decoder, of the bead parameters, of the latents, of the poses (radians; 0: they stay).
    blur
        By which beads start wider, Å.
    """

    epochs: int
    warmup: int
    decay: float
    lr: float
    bead_lr: float
    z_lr: float
    pose_lr: float = 0.0
    blur: float = 0.0

    @property
    def decay_start(self) -> float:
        """Return the epoch after which the rates fall."""
        return round(self.epochs * (1 - self.decay), 9)

    def ended_early(self, epoch: int) -> Schedule:
        """Return the schedule whose decay, of unchanged length, starts after `epoch`."""
        length = self.decay * self.epochs
        epochs = epoch + max(1, round(length)) if length else epoch
        return replace(self, epochs=epochs, decay=(epochs - epoch) / epochs)

    def extra_variance(self, epoch: int) -> float:
        """Return by how much beads are wider in an epoch, Å²: their blur falls evenly, to none in the second half."""
        return (self.blur * max(0.0, 1 - 2 * epoch / self.epochs)) ** 2

    def factor(self, epoch: float) -> float:
        """Return the part of the full rate after `epoch` epochs (a real number)."""
        rise = min((math.floor(epoch) + 1) / self.warmup, 1.0) if self.warmup else 1.0
        left = (self.epochs - epoch) / (self.decay * self.epochs) if self.decay else 1.0
        fall = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 - math.cos(math.pi * min(max(left, 0.0), 1.0)))
        return rise * fall


@dataclass(frozen=True)
class Plan:
    """How a fit proceeds.

    Parameters
    ----------
    schedule
        Learning rates.
    batch_size
        Images in a step.
    weight_decay
        Of the decoder.
    seed
        Of the order of images, which depends on (seed, epoch) alone.
    chunk
        Images that a CPU thread works on at once; on other devices a batch stays whole.
    """

    schedule: Schedule
    batch_size: int
    weight_decay: float
    seed: int
    chunk: int


@dataclass(frozen=True)
class Begun:
    """How far an epoch is, at the end of a step.

    Parameters
    ----------
    visit
        Of the epoch's visits of its rows, from 0.
    done
        Rows of this visit that have been seen.
    sums
        Of their terms, nats.
    seconds
        That the epoch has taken.
    """

    visit: int
    done: int
    sums: dict[str, float]
    seconds: float = 0.0


class HaltedError(Exception):
    """An epoch stopped after a step, as it was asked to; `begun` says where."""

    def __init__(self, begun: Begun):
        super().__init__(f"stopped after {begun.done} images")
        self.begun = begun


class Trainer:
    """Model, latents, optimisers and data of a fit.

    Parameters
    ----------
    model, objective, latents
        What is fitted and to what end.
    feed, poses
        Matched crops of all images on their way to the device, and their poses.
    fits
        How well they fit and how much they weigh.
    plan, device, workers
        How and where.
    """

    def __init__(
        self,
        model: ConformationModel,
        objective: Objective,
        latents: LatentTable | EncodedLatents,
        feed: ImageFeed,
        poses: PoseTable,
        plan: Plan,
        *,
        fits: ImageFits | None = None,
        device: torch.device,
        workers: Workers,
    ):
        self.model, self.objective, self.latents = model.to(device), objective.to(device), latents
        self.feed, self.poses = feed, poses
        self.fits = ImageFits(np.zeros(len(self.data), np.int64)) if fits is None else fits
        self.schedule, self.batch_size, self.seed = plan.schedule, plan.batch_size, plan.seed
        self.device, self.workers = device, workers
        self.are_latents_held = False
        self.chunk = plan.chunk if device.type == "cpu" else -(-plan.batch_size // workers.ranks.size)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": list(model.decoder.parameters()), "rate": self.schedule.lr, "weight_decay": plan.weight_decay},
            {"params": list(model.beads.parameters()), "rate": self.schedule.bead_lr, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.schedule.lr, fused=True)

    @property
    def data(self) -> MatchedSet:
        """What is kept of the images."""
        return self.feed.data

    def train_epoch(
        self,
        epoch: int,
        rows: np.ndarray,
        advance: Callable[[int], None] = lambda count: None,
        *,
        visit: int = 0,
        begun: Begun | None = None,
    ) -> dict[str, float]:
        """Visit all `rows` once in an order given by (seed, epoch, visit); return the mean of each term, nats.

        `advance` is called with the number of rows visited so far. `begun` tells where a halted epoch goes on.

        Raises
        ------
        HaltedError
            After a step in which the process, or another of the run, has been asked to stop.
        """
        order = np.random.default_rng([self.seed, epoch, visit]).permutation(rows)
        sums = {} if begun is None else dict(begun.sums)
        self.feed.expect(self._own_chunks(order[0 if begun is None else begun.done :]))
        for start in range(0 if begun is None else begun.done, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            factor = self.schedule.factor(epoch + start / len(order))
            self.latents.prepare(torch.from_numpy(batch), is_training=True)
            if self.model.decoder.is_random:
                self.model.decoder.draw(torch.Generator().manual_seed(_step_seed(self.seed, epoch, visit, start)))
            terms, gradients = self._gradients(batch, self.parameters)
            self._add_divergence(gradients, len(batch) / len(order))
            check_terms(terms, batch, self.model, f"epoch {epoch + 1}")
            check_gradients(gradients, batch, self.model, f"epoch {epoch + 1}")
            terms = self.fits.note(torch.from_numpy(batch), terms)
            self._step_weights(gradients[2] / len(batch), factor)
            z_lr = 0.0 if self.are_latents_held else factor * self.schedule.z_lr
            self._step_rows(batch, gradients, z_lr, factor * self.schedule.pose_lr)
            _add_up(sums, terms)
            advance(start + len(batch))
            if self.workers.ranks.is_stop_asked:
                raise HaltedError(Begun(visit, start + len(batch), sums))
        if self.model.decoder.is_random:
            self.model.decoder.draw(None)
        return {name: total / len(order) for name, total in sums.items()}

    def fit_latents(self, rows: np.ndarray, factor: float) -> dict[str, float]:
        """Move latents and poses of `rows` one step at a part of their full rates, with the decoder frozen.

        Returns the mean of each term before the step.
        """
        sums: dict[str, float] = {}
        self.feed.expect(self._own_chunks(rows))
        for batch in self.batches(rows):
            self.latents.prepare(torch.from_numpy(batch), is_training=False)
            terms, gradients = self._gradients(batch, [])
            check_terms(terms, batch, self.model, "the fit of the latents alone")
            check_gradients(gradients[:2], batch, self.model, "the fit of the latents alone")
            terms = self.fits.note(torch.from_numpy(batch), terms)
            self._step_rows(batch, gradients, factor * self.schedule.z_lr, factor * self.schedule.pose_lr)
            _add_up(sums, terms)
        return {name: total / max(len(rows), 1) for name, total in sums.items()}

    def decode(self, rows: np.ndarray) -> Float[np.ndarray, "batch residues 3"]:
        """Return the conformations of some images, float32, Å."""
        return self.place(rows)[:, : len(self.model.template_positions)].cpu().numpy()

    def place(self, rows: np.ndarray) -> Float[Tensor, "batch points 3"]:
        """Return where all points of some images are, on the device, without gradient."""
        with torch.no_grad():
            return self.model.place(self.latents.read(torch.from_numpy(rows)).to(self.device))

    def losses(self, rows: np.ndarray) -> Float[Tensor, " batch"]:
        """Return the objective of some images, nats."""

        @torch.no_grad()
        def compute(chunk: np.ndarray) -> Tensor:
            latents = self.latents.read(torch.from_numpy(chunk)).to(self.device)
            return self.objective(self.model, latents, self.batch(chunk))["loss"].cpu()

        return torch.cat(self.workers.map(compute, self.chunks(rows)))

    def note_fits(self, rows: np.ndarray) -> None:
        """Take note of how well some images fit as they are."""

        @torch.no_grad()
        def compute(chunk: np.ndarray) -> Tensor:
            return torch.stack(self.objective.compare(self.model, self.place(chunk), self.batch(chunk))).cpu()

        cross, power = torch.cat(self.workers.map(compute, self.chunks(rows)), dim=1)
        self.fits.note(torch.from_numpy(rows), {"cross": cross, "power": power})

    def posed(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return the images of a batch in the poses of others."""
        rotations, shifts = (part.to(self.device) for part in self.poses.read(torch.from_numpy(rows)))
        return replace(batch, rotations=rotations, shifts=shifts)

    def chunks(self, rows: np.ndarray) -> list[np.ndarray]:
        """Divide rows into those that a worker takes at once."""
        return [rows[start : start + self.chunk] for start in range(0, len(rows), self.chunk)]

    def likelihood_gradients(self, rows: np.ndarray) -> Float[Tensor, "batch unknowns"]:
        """Return the gradient of -log p of each image by its latent and the tangent of its pose."""
        latents = self.latents.read(torch.from_numpy(rows)).to(self.device).requires_grad_()
        tangents = torch.zeros(len(rows), 5, device=self.device, requires_grad=True)
        fit = self.objective.image_terms(self.model, self.model.place(latents), self.batch(rows, tangents))
        return torch.cat(torch.autograd.grad(fit["nll"].sum(), [latents, tangents]), dim=1).cpu()

    def batches(self, rows: np.ndarray) -> list[np.ndarray]:
        """Divide rows into those of a step."""
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def _own_chunks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield what this process will read in the steps over rows."""
        return (chunk for batch in self.batches(rows) for chunk in self.workers.ranks.share(self.chunks(batch)))

    def _gradients(
        self, rows: np.ndarray, parameters: list[torch.nn.Parameter]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the terms of each image and the gradients of their weighted sum.

        These are [latents, tangents of poses, all parameters in one vector].
        """
        results = self.workers.map(lambda chunk: self._chunk_gradients(chunk, parameters), self.chunks(rows))
        terms = {name: torch.cat([r[0][name] for r in results]) for name in results[0][0]}
        own = self.latents.terms(torch.from_numpy(rows))
        terms |= own | {"loss": torch.stack([terms["loss"], *own.values()]).sum(dim=0)}
        of_rows = [torch.cat([r[1][k] for r in results]) for k in range(2)]
        return terms, [*of_rows, torch.stack([r[1][2] for r in results]).sum(dim=0)]

    def _add_divergence(self, gradients: list[Tensor], share: float) -> None:
        """Add to the gradients of weights what the decoder's own random parameters cost, by the share of an epoch."""
        cost = self.model.decoder.divergence()
        if cost is None:
            return
        found = torch.autograd.grad(share * cost, self.parameters, allow_unused=True, materialize_grads=True)
        gradients[2] = gradients[2] + _joined(found)

    def _chunk_gradients(
        self, rows: np.ndarray, parameters: list[torch.nn.Parameter]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return terms and gradients, those of all weights in one vector: one message to the other ranks, one sum."""
        latents = self.latents.read(torch.from_numpy(rows)).to(self.device).requires_grad_()
        tangents = torch.zeros(len(rows), 5, device=self.device, requires_grad=self.schedule.pose_lr > 0)
        terms = self.objective(self.model, latents, self.batch(rows, tangents if tangents.requires_grad else None))
        moved = [latents, tangents, *parameters]
        wanted = [each for each in moved if each.requires_grad]
        total = (self.fits.weights[rows].to(self.device) * terms["loss"]).sum()
        found = dict(zip(wanted, torch.autograd.grad(total, wanted, allow_unused=True), strict=True))
        filled = [torch.zeros_like(each) if found.get(each) is None else found[each] for each in moved]
        of_rows, of_weights = [g.cpu() for g in filled[:2]], _joined(filled[2:])
        return {name: value.detach().cpu() for name, value in terms.items()}, [*of_rows, of_weights]

    def compare(self, rows: np.ndarray, pose_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ⟨w, v⟩ and ⟨v, κ*v⟩ of images with their own conformations in the poses of others, float64."""

        @torch.no_grad()
        def compute(part: tuple[np.ndarray, np.ndarray]) -> Tensor:
            rows, pose_rows = part
            batch = self.posed(self.batch(rows), pose_rows)
            return torch.stack(self.objective.compare(self.model, self.place(rows), batch)).cpu()

        parts = zip(self.chunks(rows), self.chunks(pose_rows), strict=True)
        cross, power = torch.cat(self.workers.map(compute, list(parts)), dim=1).double().numpy()
        return cross, power

    def read_images(
        self, rows: np.ndarray
    ) -> tuple[Float[Tensor, "batch side side"], Float[Tensor, "#batch twice half"]]:
        """Return w and the spectra of κ of some images, at the scale of the model."""
        return self.fits.scaled(rows, *self.feed.read(rows))

    def batch(self, rows: np.ndarray, tangents: Float[Tensor, "batch 5"] | None = None) -> Batch:
        """Return what the likelihood needs of some images, on the device, their poses moved by tangents."""
        crops, kernels = self.read_images(rows)
        rotations, shifts = self.poses.read(torch.from_numpy(rows), None if tangents is None else tangents.cpu())
        parts = (part.to(self.device) for part in (crops, kernels, rotations, shifts))
        return Batch(*parts, images=torch.from_numpy(rows))

    def _step_rows(self, rows: np.ndarray, gradients: list[Tensor], z_lr: float, pose_lr: float) -> None:
        images = torch.from_numpy(rows)
        if z_lr:
            self.latents.step(images, gradients[0], z_lr)
        if pose_lr:
            self.poses.step(images, gradients[1], pose_lr)

    def _step_weights(self, gradient: Tensor, factor: float) -> None:
        parts = gradient.split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["rate"]
        self.optimizer.step()


def _step_seed(*numbers: int) -> int:
    return int(np.random.default_rng(numbers).integers(2**62))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(0)


def _add_up(sums: dict[str, float], terms: dict[str, Tensor]) -> None:
    for name, value in terms.items():
        sums[name] = sums.get(name, 0.0) + float(value.sum(dtype=torch.float64))
