"""The images of a particle file: read when asked for, in any order, and normalised by their background."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from cryoatom.files.mrc import open_stack
from cryoatom.fourier import pixel_coordinates
from cryoatom.records import Particles

_AT_ONCE = 16  # images that fit in the processor's cache together
_FEWEST_PIXELS = 32  # of a background: its standard deviation is then known to 12%


class ImageStack:
    """Lazy images of particles. It keeps no file open: copies may be sent to other processes.

    Parameters
    ----------
    particles : Particles

    Raises
    ------
    FileNotFoundError, ValueError
        If a stack is missing, truncated or not an MRC file, see :func:`cryoatom.files.mrc.open_stack`.
    """

    def __init__(self, particles: Particles) -> None:
        self._particles = particles
        self._stacks = {
            int(number): open_stack(particles.stacks[number]) for number in np.unique(particles.stack_of_image)
        }

    def __len__(self) -> int:
        return len(self._particles)

    def read(self, index: Integer[np.ndarray, " batch"]) -> Float[Tensor, "batch box box"]:
        """Read the images of some particles as float32, as they are in their files.

        Raises
        ------
        ValueError
            For a pixel that is NaN or infinite; names the image.
        """
        stacks, slices = self._particles.stack_of_image[index], self._particles.slice_of_image[index]
        images = np.empty((len(index), self._particles.box, self._particles.box), np.float32)
        for number in np.unique(stacks):
            places = np.flatnonzero(stacks == number)
            self._stacks[int(number)].read_into(images, places, slices[places])
        tensor = torch.from_numpy(images)
        suspects = torch.nonzero(~torch.isfinite(tensor.sum(dim=(-2, -1))))[:, 0]  # one pass; huge pixels may overflow
        wrong = suspects[~torch.isfinite(tensor[suspects]).all(dim=-1).all(dim=-1)]
        if len(wrong):
            raise ValueError(f"{self._describe(int(index[wrong[0]]))} has pixels that are not finite numbers")
        return tensor

    def read_normalized(self, index: Integer[np.ndarray, " batch"], radius: float) -> Float[Tensor, "batch box box"]:
        """Read images with a background, outside `radius` Å, of mean 0 and standard deviation 1.

        Raises
        ------
        ValueError
            For an image that cannot be read, or has a constant background; names it.
        """
        images = self.read(index)
        mean, std = estimate_noise(images, radius, self._particles.pixel_size)
        constant = torch.nonzero(std <= 1e-6 * mean.abs())[:, 0]  # all of the spread is rounding
        if len(constant):
            raise ValueError(
                f"{self._describe(int(index[constant[0]]))} is constant outside {radius:g} Å: "
                "it is masked or empty and its noise cannot be measured; leave it out, or choose a smaller radius"
            )
        return images.sub_(mean[:, None, None]).div_(std[:, None, None])

    def _describe(self, row: int) -> str:
        particles = self._particles
        place = f"slice {particles.slice_of_image[row]} of {particles.stacks[particles.stack_of_image[row]]}"
        return f"image {particles.image_names[row]} of {particles.source} ({place})"


def background_ring(
    box: int, radius: float, pixel_size: float, *, device: torch.device | str = "cpu"
) -> Bool[Tensor, "box box"]:
    """Return which pixels lie farther than `radius` Å from the centre pixel.

    Raises
    ------
    ValueError
        If hardly any does.
    """
    axis = pixel_coordinates(box, pixel_size, device=device)
    ring = axis[:, None] ** 2 + axis**2 > radius**2
    if ring.sum() < _FEWEST_PIXELS:
        raise ValueError(
            f"{int(ring.sum())} pixels of a box of {box} pixels of {pixel_size:g} Å lie outside {radius:g} Å, and the "
            f"noise needs {_FEWEST_PIXELS}: extract larger boxes, or choose a smaller radius"
        )
    return ring


def estimate_noise(
    images: Float[Tensor, "batch box box"], radius: float, pixel_size: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return the mean and standard deviation of each image outside `radius` Å from its centre."""
    ring = background_ring(images.shape[-1], radius, pixel_size, device=images.device).flatten()
    weights = ring.to(images) / ring.sum()
    moments = [_moments(part, weights) for part in images.flatten(1).split(_AT_ONCE)]
    mean, std = (torch.cat(parts) for parts in zip(*moments, strict=True))
    return mean, std


def _moments(
    pixels: Float[Tensor, "batch pixels"], weights: Float[Tensor, " pixels"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    rough = pixels @ weights  # about it, a small spread is not lost in a large offset
    centered = pixels - rough[:, None]
    rest = centered @ weights
    variance = centered.square_() @ weights - rest.square()
    return rough + rest, variance.clamp_min(0).sqrt()
