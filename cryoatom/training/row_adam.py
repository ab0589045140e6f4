"""Adam for tables of which a step touches a few rows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_EPS = 1e-8


class RowAdam:
    """A row-sparse Adam: a row moves only when it is in the batch.

    A dense Adam would keep moving absent rows by their momentum; here moments and the count for the bias correction
    belong to the row.

    Parameters
    ----------
    count, size
        Rows and their length.
    betas
        Decay of the first and second moment at each visit of a row.
    """

    def __init__(self, count: int, size: int, betas: tuple[float, float] = (0.9, 0.999)):
        self.betas = betas
        self.mean = torch.zeros(count, size)
        self.square = torch.zeros(count, size)
        self.steps = torch.zeros(count, dtype=torch.int32)

    def move(
        self, rows: Int[Tensor, " batch"], gradient: Float[Tensor, "batch size"], lr: float
    ) -> Float[Tensor, "batch size"]:
        """Take note of the gradients of some rows (each at most once) and return by how much to move them."""
        beta1, beta2 = self.betas
        self.steps[rows] += 1
        count = self.steps[rows, None].float()
        mean = self.mean[rows].lerp_(gradient, 1 - beta1)
        square = self.square[rows].lerp_(gradient.square(), 1 - beta2)
        self.mean[rows], self.square[rows] = mean, square
        denominator = (square / (1 - beta2**count)).sqrt_() + _EPS
        return -lr * (mean / (1 - beta1**count)) / denominator

    def forget(self, rows: Int[Tensor, " batch"]) -> None:
        """Start some rows anew."""
        self.mean[rows], self.square[rows], self.steps[rows] = 0.0, 0.0, 0

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments and counts."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`; other entries are left alone."""
        for name in ("mean", "square", "steps"):
            getattr(self, name).copy_(state[name])
