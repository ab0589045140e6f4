"""How well each image fits, how much it therefore weighs, and the scale of its optics group."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST_WEIGHT = 0.01  # an image that does not fit keeps so much, so that it may come back


class ImageFits:
    """⟨w, v⟩ and ⟨v, κ*v⟩ of each image when it was last compared with its model, its weight, and its group's gain.

    Parameters
    ----------
    group_of_image
        (images,) optics groups, from 0. Images of a group of gain g are modelled as g times as strong as others.
    """

    def __init__(self, group_of_image: np.ndarray):
        self.group = torch.from_numpy(np.asarray(group_of_image, dtype=np.int64))
        count = len(self.group)
        self.cross, self.power = torch.full((count,), torch.nan), torch.full((count,), torch.nan)
        self.weights = torch.ones(count)
        self.gains = torch.ones(int(self.group.max()) + 1)

    def note(self, images: Int[Tensor, " batch"], terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take note of how well some images fit, where their objective has told; return its terms proper."""
        if "cross" in terms:
            self.cross[images], self.power[images] = terms["cross"], terms["power"]
        return {name: value for name, value in terms.items() if name not in ("cross", "power")}

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ⟨w, v⟩ and ⟨v, κ*v⟩ of some images, float64; NaN of those that have not been compared yet."""
        return self.cross[rows].double().numpy(), self.power[rows].double().numpy()

    def weigh(self, rows: np.ndarray, probability: Float[np.ndarray, " rows"]) -> None:
        """Give images weight by the probability that they fit."""
        self.weights[rows] = torch.from_numpy(np.maximum(probability, LEAST_WEIGHT)).float()

    def scale_groups(self, rows: np.ndarray) -> None:
        """Bring the gain of each group to its best value, s = Σ⟨w,v⟩ / Σ⟨v,κ*v⟩, relative to that of all images.

        Groups that fit no image keep theirs.
        """
        count = len(self.gains)
        weights, groups = self.weights[rows], self.group[rows]
        seen = torch.isfinite(self.cross[rows])
        cross, power = (
            torch.zeros(count, dtype=torch.float64).index_add_(0, groups[seen], (weights * table[rows])[seen].double())
            for table in (self.cross, self.power)
        )
        is_usable = (cross > 0) & (power > 0)
        if is_usable.any():
            ratio = cross / power * (power[is_usable].sum() / cross[is_usable].sum())
            self.gains = torch.where(is_usable, self.gains * ratio, self.gains).float()

    def scaled(
        self, rows: np.ndarray, crops: Float[Tensor, "batch side side"], kernels: Float[Tensor, "#batch twice half"]
    ) -> tuple[Float[Tensor, "batch side side"], Float[Tensor, "#batch twice half"]]:
        """Return w and the spectra of κ of some images for a model of gain 1."""
        if bool((self.gains == 1).all()):
            return crops, kernels
        gain = self.gains[self.group[rows], None, None].to(crops.device)
        return gain * crops, gain**2 * kernels

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything a resumed run needs."""
        return {"cross": self.cross, "power": self.power, "weights": self.weights, "gains": self.gains}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self.cross, self.power, self.weights, self.gains = (
            state[name].clone() for name in ("cross", "power", "weights", "gains")
        )
