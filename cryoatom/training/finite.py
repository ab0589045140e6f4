"""Stop at the first number that is none, and say whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cryoatom.training.model import ConformationModel


class NotFiniteError(ValueError):
    """A fit ran away, or an image is not as the others.

    Parameters
    ----------
    what
        Which number, with ``{image}`` where one is to blame.
    advice
        The way out.
    row
        Of that image, from 0, among those that the fit has.
    image
        Its name in the particle file.
    """

    def __init__(self, what: str, advice: str, row: int | None = None, image: str = ""):
        self.what, self.advice, self.row = what, advice, row
        whose = f"image {image} (row {row}, from 0)" if image else f"the image of row {row} (from 0)"
        super().__init__(f"{what.format(image=whose)}: {advice}")

    def naming(self, image_names: Sequence[str] | np.ndarray) -> Self:
        """Return the same with the image's name, if it is of one."""
        name = "" if self.row is None else str(image_names[self.row])
        return type(self)(self.what, self.advice, self.row, name)


def check_terms(terms: dict[str, Tensor], rows: np.ndarray, model: ConformationModel, where: str) -> None:
    """Check the terms of the objective, one value per image.

    Raises
    ------
    NotFiniteError
        Names a weight of the model that is not finite, or else the first image and its terms.
    """
    good = torch.isfinite(terms["loss"])
    if bool(good.all()):
        return
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise NotFiniteError(f"the weights {name} are not finite in {where}", _lower(name))
    bad = int(torch.nonzero(~good)[0])
    names = [name for name, value in terms.items() if name != "loss" and not bool(torch.isfinite(value[bad]))]
    listed = ", ".join(names) or "loss"
    raise NotFiniteError(
        f"the objective of {{image}} is not finite in {where} (term {listed})", _lower("", "--z-lr"), int(rows[bad])
    )


def check_gradients(gradients: list[Tensor], rows: np.ndarray, model: ConformationModel, where: str) -> None:
    """Check gradients before a step is taken: of latents, of poses, one row per image, and of all trained weights.

    Raises
    ------
    NotFiniteError
        Names the image or the weights.
    """
    sums = torch.stack([gradient.sum().cpu() for gradient in gradients])  # one value shows a NaN anywhere
    if bool(torch.isfinite(sums).all()):
        return
    for what, gradient in zip(("latent", "pose"), gradients[:2], strict=True):
        bad = torch.nonzero(~torch.isfinite(gradient).flatten(1).all(dim=1))
        if len(bad):
            text = f"the gradient of the {what} of {{image}} is not finite in {where}"
            raise NotFiniteError(
                text, _lower("", f"--{'z' if what == 'latent' else 'pose'}-lr"), int(rows[int(bad[0])])
            )
    trained = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, gradient in zip(trained, gradients[2].split(list(trained.values())), strict=True):
        if not bool(torch.isfinite(gradient).all()):
            raise NotFiniteError(f"the gradient of the weights {name} is not finite in {where}", _lower(name))


def _lower(parameter: str, also: str = "") -> str:
    rate = "--bead-lr" if parameter.startswith("beads") else "--lr"
    if parameter:
        return f"go on with --load latest and a lower {rate}"
    return f"go on with --load latest and a lower {rate} or {also}, or leave that image out by --ind"
