"""Poses of all images, and how they move: on SO(3) and in the image plane, along the gradient."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from cryoatom.records import Poses
from cryoatom.rotations import exp_rotation
from cryoatom.training.row_adam import RowAdam

_BETAS = (0.9, 0.99)  # an image is visited some tens of times: its second moment must keep up


class PoseTable:
    """R and t of each image.

    Poses move in tangents (rotation vector, t / reach): both parts move the rim of the particle equally far.

    Parameters
    ----------
    rotations, shifts
        R, and t (Å) as far as the crops have not been moved back by it already.
    reach
        A typical distance from the particle's centre, Å; 0: shifts stay.
    crop_shifts
        (images, 2) t by which the crops have been moved back, Å.
    """

    def __init__(
        self,
        rotations: Float[Tensor, "images 3 3"],
        shifts: Float[Tensor, "images 2"],
        reach: float,
        crop_shifts: np.ndarray,
    ):
        self.rotations, self.shifts, self.reach = rotations.float(), shifts.float(), reach
        self.crop_shifts = crop_shifts
        self._adam = RowAdam(len(rotations), 5, _BETAS)

    def __len__(self) -> int:
        return len(self.rotations)

    def read(
        self, images: Int[Tensor, " batch"], tangents: Float[Tensor, "batch 5"] | None = None
    ) -> tuple[Float[Tensor, "batch 3 3"], Float[Tensor, "batch 2"]]:
        """Return (R, t) of some images, moved by tangents."""
        rotations, shifts = self.rotations[images], self.shifts[images]
        if tangents is None:
            return rotations, shifts
        return exp_rotation(tangents[:, :3]) @ rotations, shifts + self.reach * tangents[:, 3:]

    def step(self, images: Int[Tensor, " batch"], gradient: Float[Tensor, "batch 5"], lr: float) -> None:
        """Take one Adam step, `lr` in radians, for some images (each at most once)."""
        rotations, shifts = self.read(images, self._adam.move(images, gradient, lr))
        self.rotations[images], self.shifts[images] = _orthogonal(rotations), shifts

    def replace(
        self, images: Int[Tensor, " batch"], rotations: Float[Tensor, "batch 3 3"], shifts: Float[Tensor, "batch 2"]
    ) -> None:
        """Give some images other poses and forget how theirs moved."""
        self.rotations[images], self.shifts[images] = rotations, shifts
        self._adam.forget(images)

    def poses(self) -> Poses:
        """Return the poses of the images."""
        return Poses(self.rotations.double().numpy(), self.crop_shifts + self.shifts.double().numpy())

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything a resumed run needs."""
        return {"rotations": self.rotations, "shifts": self.shifts, **self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self.rotations.copy_(state["rotations"])
        self.shifts.copy_(state["shifts"])
        self._adam.load_state_dict(state)


def _orthogonal(rotations: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 3 3"]:
    """Undo the rounding that many products add up: one Newton step of the polar decomposition."""
    return 1.5 * rotations - 0.5 * rotations @ rotations.mT @ rotations
