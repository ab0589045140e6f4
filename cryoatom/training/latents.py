"""The latent table of the autodecoder: one free vector per image, each with its own Adam state."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class LatentTable:
    """Latents of all images, and a row-sparse Adam: a row moves only when its image is in the batch.

    A dense Adam would keep moving absent rows by their momentum; here moments and the count for the bias correction
    belong to the row.

    Parameters
    ----------
    count, latent
        Images and latent dimension.
    spread
        Standard deviation of the starting noise.
    generator
        Source of that noise.
    """

    def __init__(self, count: int, latent: int, spread: float, generator: torch.Generator):
        self.values = spread * torch.randn(count, latent, generator=generator)
        self.mean = torch.zeros(count, latent)
        self.square = torch.zeros(count, latent)
        self.steps = torch.zeros(count, dtype=torch.int32)

    def step(self, rows: Int[Tensor, " batch"], gradient: Float[Tensor, "batch latent"], lr: float) -> None:
        """Take one Adam step for some rows (each at most once)."""
        beta1, beta2 = _BETAS
        self.steps[rows] += 1
        count = self.steps[rows, None].float()
        mean = self.mean[rows].lerp_(gradient, 1 - beta1)
        square = self.square[rows].lerp_(gradient.square(), 1 - beta2)
        self.mean[rows], self.square[rows] = mean, square
        denominator = (square / (1 - beta2**count)).sqrt_() + _EPS
        self.values[rows] -= lr * (mean / (1 - beta1**count)) / denominator

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything a resumed run needs."""
        return {"values": self.values, "mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`.

        Raises
        ------
        ValueError
            If the checkpoint is of another number of images or another latent dimension.
        """
        if state["values"].shape != self.values.shape:
            found, expected = tuple(state["values"].shape), tuple(self.values.shape)
            raise ValueError(f"the checkpoint has latents of shape {found}, this dataset needs {expected}")
        for name, value in state.items():
            getattr(self, name).copy_(value)
