"""Images beside what the model makes of them, drawn so that the eye can judge the difference.

Image and model are compared as the likelihood compares them, in the matched form (:mod:`cryoatom.imaging.matched`):
the image as w, corrected for its CTF by one more CTF and moved to its centre, the model as κ * v. Where the model is
right, w - κ * v is noise with the spectrum of κ and nothing else. Both are smoothed, since at the dose of cryo-EM no
unsmoothed particle can be seen, and divided by the standard deviation that the smoothed noise has. So the residual of
a right model has unit variance, whatever the CTF, the dose and the noise are. The raw stacks are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from cryoatom.analysis.report_data import Picture
from cryoatom.fourier import centered_irfft2, centered_rfft2, crop_spectrum, frequencies
from cryoatom.imaging.likelihood import quadratic_form
from cryoatom.particles.rings import half_plane_weights
from cryoatom.training.trainer import Trainer

LARGEST_SIDE = 96  # pixels of a picture
_AT_ONCE = 16


@dataclass(frozen=True)
class Smoothing:
    """A Gaussian low-pass and a binning.

    Parameters
    ----------
    resolution : float
        Where the Gaussian has fallen to one half, Å.
    pixel_size : float
        Å, before binning.
    side : int
        Pixels, after binning.
    """

    resolution: float
    pixel_size: float
    side: int

    def __call__(self, images: Float[Tensor, "batch side side"]) -> Float[Tensor, "batch new new"]:
        """Return images smoothed and binned."""
        before = images.shape[-1]
        spectra = crop_spectrum(centered_rfft2(images) * self._filter(before).to(images), before, self.side)
        return centered_irfft2(spectra, self.side) * (self.side / before) ** 2

    def noise_deviation(self, kernels: Float[Tensor, "batch twice half"]) -> Float[Tensor, " batch"]:
        """Return the standard deviation of a pixel that noise has after smoothing, if κ is its spectrum before."""
        before, after = kernels.shape[-2], 2 * self.side
        power = crop_spectrum(kernels * self._filter(before).to(kernels) ** 2, before, after)
        weights = half_plane_weights(after).to(power)
        return (power.clamp_min(0) * weights).sum(dim=(-2, -1)).sqrt() / before

    def _filter(self, side: int) -> Float[Tensor, "side half"]:
        kx, ky = frequencies(side, self.pixel_size)
        return torch.exp(-math.log(2) * self.resolution**2 * (kx.square() + ky.square()))


def draw_pictures(
    trainer: Trainer, indices: Integer[np.ndarray, " pictures"], notes: Sequence[str], *, resolution: float = 8.0
) -> tuple[Picture, ...]:
    """Draw some images beside the projections of their conformations and what is left between them.

    Parameters
    ----------
    trainer
        Of a finished run.
    indices
        Of images of the run, from 0.
    notes
        Why each is shown.
    resolution
        Where the low-pass has fallen to one half, Å.

    Returns
    -------
    tuple of Picture
        Of at most 96 pixels a side, bright where there is protein, in standard deviations of the noise.
    """
    pictures = []
    for start in range(0, len(indices), _AT_ONCE):
        part = np.asarray(indices[start : start + _AT_ONCE], dtype=np.int64)
        images, models = (each.cpu().numpy().astype(np.float32) for each in _compare(trainer, part, resolution))
        drawn = zip(part.tolist(), notes[start : start + _AT_ONCE], images, models, strict=True)
        pictures.extend(Picture(index, note, image, model, image - model) for index, note, image, model in drawn)
    return tuple(pictures)


def _compare(trainer: Trainer, indices: np.ndarray, resolution: float) -> tuple[Tensor, Tensor]:
    """Return w and κ * v, smoothed, in standard deviations of the noise."""
    batch = trainer.batch(indices)
    side, pixel_size = batch.crops.shape[-1], trainer.objective.pixel_size
    with torch.no_grad():
        projections = trainer.model.render(trainer.place(indices), batch.rotations, batch.shifts, side, pixel_size)
    models = _filtered(projections, batch.kernels)
    if trainer.objective.nll_is_profiled:  # each image has the scale that suits it
        cross, power = ((each * projections).sum(dim=(-2, -1)) for each in (batch.crops, models))
        models = models * (cross.clamp_min(0) / power)[:, None, None]
    smooth = Smoothing(resolution, pixel_size, min(side, LARGEST_SIDE))
    deviation = smooth.noise_deviation(batch.kernels)[:, None, None]
    return smooth(batch.crops) / deviation, smooth(models) / deviation


def _filtered(
    projections: Float[Tensor, "batch side side"], kernels: Float[Tensor, "#batch twice half"]
) -> Float[Tensor, "batch side side"]:
    """Return κ * v: half the gradient of ⟨v, κ * v⟩, which the likelihood computes anyway."""
    projections = projections.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(quadratic_form(projections, kernels).sum(), [projections])
    return 0.5 * gradient
