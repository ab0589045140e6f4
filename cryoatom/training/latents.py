"""Latents of the autodecoder: a free vector for each image, or for each class of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoatom.training.row_adam import RowAdam

LATENT_SPREAD = 0.1  # of latents at their start


class LatentTable:
    """Latents, and which of them each image has.

    Parameters
    ----------
    values
        The latents.
    owner
        The row of `values` that each image reads; images of one row share their latent.
    pace
        Part of the rate at which they move.
    """

    def __init__(self, values: Float[Tensor, "rows latent"], owner: Int[Tensor, " images"], pace: float = 1.0):
        self.values, self.owner, self.pace = values, owner, pace
        self._adam = RowAdam(values.shape[0], values.shape[1])

    @property
    def table(self) -> LatentTable:
        """Itself."""
        return self

    def restored(self, state: dict[str, Any]) -> LatentTable:
        """Return the table of a checkpoint."""
        return LatentTable.from_state(state)

    def prepare(self, images: Int[Tensor, " batch"], *, is_training: bool) -> None:
        """Do nothing: these latents are there already."""

    def terms(self, images: Int[Tensor, " batch"]) -> dict[str, Tensor]:
        """Return what latents cost by themselves: nothing."""
        return {}

    def settled(self, batches: list[np.ndarray]) -> LatentTable:
        """Return the table itself."""
        return self

    def read(self, images: Int[Tensor, " batch"]) -> Float[Tensor, "batch latent"]:
        """Return the latents of some images."""
        return self.values[self.owner[images]]

    def step(self, images: Int[Tensor, " batch"], gradient: Float[Tensor, "batch latent"], lr: float) -> None:
        """Take one Adam step for the latents of some images (each at most once); shared ones by the mean gradient."""
        rows, place, count = self.owner[images].unique(return_inverse=True, return_counts=True)
        mean = torch.zeros(len(rows), gradient.shape[1]).index_add_(0, place, gradient) / count[:, None]
        self.values[rows] += self._adam.move(rows, mean, self.pace * lr)

    def replace(self, images: Int[Tensor, " batch"], latents: Float[Tensor, "batch latent"]) -> None:
        """Give some images, each with a latent of its own, another one, and forget how theirs moved."""
        self.restart(self.owner[images], latents)

    def restart(self, rows: Int[Tensor, " rows"], latents: Float[Tensor, "rows latent"]) -> None:
        """Set some rows of the table and forget how they moved."""
        self.values[rows] = latents
        self._adam.forget(rows)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything a resumed run needs."""
        pace = torch.tensor(self.pace, dtype=torch.float64)
        return {"values": self.values, "owner": self.owner, "pace": pace, **self._adam.state_dict()}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> LatentTable:
        """Restore :meth:`state_dict`."""
        table = cls(state["values"].clone(), state["owner"].clone(), float(state["pace"]))
        table._adam.load_state_dict(state)
        return table


def scattered_latents(
    count: int, latent: int, spread: float, generator: torch.Generator
) -> Float[Tensor, "count latent"]:
    """Return small random vectors to start from: zeros would never move (an untrained decoder has zero weights)."""
    return spread * torch.randn(count, latent, generator=generator)


def own_latents(values: Float[Tensor, "images latent"]) -> LatentTable:
    """Return a table where each image has a latent of its own."""
    return LatentTable(values, torch.arange(len(values)))
