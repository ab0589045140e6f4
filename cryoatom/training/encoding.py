"""Latents that a network reads off the images (Prins et al., cryoSPHERE, Cryofold): amortised, perhaps variational."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cryoatom.gaussians import divergence_from_normal
from cryoatom.training.latents import LatentTable
from cryoatom.workers import Workers

ReadCrops = Callable[[np.ndarray], Tensor]
"""Returns w of some images, (batch, side, side)."""

_LOG_VARIANCE = (-12.0, 6.0)  # beyond, exp() of it is of no use


@dataclass(frozen=True)
class EncoderPlan:
    """How an encoder learns.

    Parameters
    ----------
    pace
        Its learning rate, as part of the latents' own.
    divergence
        Weight of the divergence from the prior; None: latents are points.
    weight_decay
        Of the network.
    seed
        Of the draws.
    """

    pace: float
    divergence: float | None
    weight_decay: float
    seed: int


class EncodedLatents:
    """Latents of an image encoder, in the place of a :class:`LatentTable`.

    Each step encodes its images, once and as a whole (batch normalisation sees all of them); the gradients of their
    latents then go on through the network. Between steps an image has the latent, or its mean, of its last visit.

    The network computes in the caller's thread, with the cores of the workers, which wait for it. So the last bits of
    a run with an encoder depend on the number of threads.

    Parameters
    ----------
    network
        Maps crops (batch, side, side) of unit variance to (batch, latent), or (batch, 2 latent) where variational.
    table
        Where the latents of all images are kept.
    read_crops
        Reads images.
    plan, device, workers
        How and where it learns.
    """

    def __init__(
        self,
        network: nn.Module,
        table: LatentTable,
        read_crops: ReadCrops,
        plan: EncoderPlan,
        *,
        device: torch.device,
        workers: Workers,
    ):
        self.network, self.table, self._read_crops = network.to(device), table, read_crops
        self._plan, self._device, self._workers = plan, device, workers
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._optimizer = torch.optim.AdamW(network.parameters(), weight_decay=plan.weight_decay, fused=True)
        self._drawn: Tensor | None = None
        self._place = torch.full((len(table.owner),), -1)
        self._cost: Tensor | None = None

    @property
    def values(self) -> Float[Tensor, "images latent"]:
        """The latents of all images at their last visit."""
        return self.table.values

    def prepare(self, images: Int[Tensor, " batch"], *, is_training: bool) -> None:
        """Encode the images of a step; without training, where their latents are."""
        crops = self._read_crops(images.numpy()).to(self._device)
        self.network.train(is_training)
        with torch.set_grad_enabled(is_training), self._workers.idle():
            mean, self._drawn, self._cost = self._draw(self.network(crops), is_training=is_training)
        self.table.values[self.table.owner[images]] = mean.detach().cpu()
        self._drawn = self._drawn if is_training else None
        self._place[images] = torch.arange(len(images)) if is_training else -1

    def _draw(self, output: Tensor, *, is_training: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return means, draws (the means themselves without training), and what they cost."""
        if self._plan.divergence is None:
            return output, output, None
        mean, log_variance = output.chunk(2, dim=1)
        log_variance = log_variance.clamp(*_LOG_VARIANCE)
        cost = self._plan.divergence * divergence_from_normal(mean, log_variance)
        if not is_training:
            return mean, mean, cost
        noise = torch.randn(mean.shape, generator=self._generator).to(mean)
        return mean, mean + noise * (0.5 * log_variance).exp(), cost

    def read(self, images: Int[Tensor, " batch"]) -> Float[Tensor, "batch latent"]:
        """Return the latents of some images: in a step those that it has drawn."""
        if self._drawn is None:
            return self.table.read(images)
        return self._drawn.detach().cpu()[self._place[images]]

    def terms(self, images: Int[Tensor, " batch"]) -> dict[str, Float[Tensor, " batch"]]:
        """Return what the latents of the prepared images cost by themselves, nats."""
        return {} if self._cost is None else {"kl": self._cost.detach().cpu()}

    def step(self, images: Int[Tensor, " batch"], gradient: Float[Tensor, "batch latent"], lr: float) -> None:
        """Take one step of the network by the gradients of the latents that :meth:`prepare` has drawn.

        What latents cost by themselves counts in full also for images that fit badly and weigh less: those go to the
        prior.
        """
        if self._drawn is None:  # a fit of latents alone: they stay where the network puts them
            return
        self._optimizer.zero_grad(set_to_none=True)
        total = (self._drawn * gradient.to(self._drawn)).sum()
        if self._cost is not None:
            total = total + self._cost.sum()
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.pace * lr
        with self._workers.idle():
            (total / len(images)).backward()
            self._optimizer.step()
        self._drawn = self._cost = None

    def settled(self, batches: list[np.ndarray]) -> LatentTable:
        """Return the latents of all images by the final network, which may then move freely."""
        self._renew_statistics(batches)
        for rows in batches:
            self.prepare(torch.from_numpy(rows), is_training=False)
        self._cost = None
        return self.table

    @torch.no_grad()
    def _renew_statistics(self, batches: list[np.ndarray]) -> None:
        """Give batch normalisation the mean statistics of all batches by the final weights.

        Those that it has followed in training are of the last few batches, and of weights that have moved since.
        """
        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # which means: a plain mean
        self.network.train()
        whole = max(map(len, batches), default=0)
        for rows in [each for each in batches if 2 * len(each) > whole] if layers else []:  # a mean counts all alike
            crops = self._read_crops(rows).to(self._device)
            with self._workers.idle():
                self.network(crops)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs."""
        return {
            **self.table.state_dict(),
            "network": self.network.state_dict(),
            "network_optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def restored(self, state: dict[str, Any]) -> EncodedLatents | LatentTable:
        """Return the latents of a checkpoint: this encoder's, or at the end of a run the table that it left."""
        if "network" not in state:
            return LatentTable.from_state(state)
        self.table = LatentTable.from_state(state)
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["network_optimizer"])
        for group in self._optimizer.param_groups:
            group["weight_decay"] = self._plan.weight_decay  # this run's option, not the checkpoint's
            group["fused"] = True
        self._generator.set_state(state["generator"])
        return self
