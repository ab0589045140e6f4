"""How poses are searched: the settings of `--poses esl`."""

from __future__ import annotations

from dataclasses import dataclass

from cryoatom.poses.esl import Order
from cryoatom.train_config import TrainConfig

RANDOM_STREAM = 2**20  # random numbers of searches, from here on: not those of any epoch's order


@dataclass(frozen=True)
class SearchPlan:
    """How poses are searched.

    Parameters
    ----------
    epochs
        Search epochs, at the start of the run.
    classes
        Conformations of a joint search.
    images
        At most so many images take part in the search epochs.
    every
        Epochs between later searches; 0: none.
    grid
        Rotations.
    resolution
        Of the comparison, Å.
    max_shift
        Å; 0: images are centred.
    support, eta, order
        Of ESL, see :func:`cryoatom.poses.esl.esl_weights`.
    """

    epochs: int
    classes: int
    images: int
    every: int
    grid: int
    resolution: float
    max_shift: float
    support: int = 15
    eta: float = 2 / 3
    order: Order = "next"


def search_plan(config: TrainConfig) -> SearchPlan | None:
    """Return how poses are searched; None where they are known, or each step has its own measures."""
    if config.poses != "esl" or config.pose_loss == "expected":
        return None
    return SearchPlan(
        config.search_epochs,
        config.classes,
        config.search_images,
        config.search_every,
        config.rotations,
        config.search_resolution,
        config.max_shift,
        config.support,
        config.eta,
        config.esl_order,
    )
