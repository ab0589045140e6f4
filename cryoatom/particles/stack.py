"""The images of a particle file: read when asked for, in any order, and normalised by their background."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from cryoatom.files.mrc import open_stack
from cryoatom.fourier import pixel_coordinates
from cryoatom.records import Particles

_AT_ONCE = 16  # images that fit in the processor's cache together
_NAMED = 5  # images in a message
_HUGE = 1e15  # a pixel's square, summed, is then near the end of float32
_NOT_FINITE = "has pixels that are not finite numbers"
_FEWEST_PIXELS = 32  # of a background: its standard deviation is then known to 12%


@dataclass(frozen=True)
class DeadImage:
    """An image that cannot be used: its row among those that are read, its name in the particle file, and why."""

    row: int
    name: str
    reason: str


class DeadImages:
    """The images of a dataset that cannot be used, collected while all are read.

    Parameters
    ----------
    total : int
        Images of the dataset.
    limit : float
        Share of them that may be unusable; 1 for a sample, which a run of bad images may fill.
    """

    def __init__(self, total: int, *, limit: float = 0.05) -> None:
        self._total, self._limit = total, limit
        self._by_row: dict[int, DeadImage] = {}

    def __len__(self) -> int:
        return len(self._by_row)

    def __iter__(self) -> Iterator[DeadImage]:
        return iter([self._by_row[row] for row in sorted(self._by_row)])

    def __contains__(self, row: object) -> bool:
        return row in self._by_row

    def add(self, image: DeadImage) -> None:
        """Take an image, once.

        Raises
        ------
        ValueError
            If more than one and more than the limit of all images cannot be used.
        """
        self._by_row[image.row] = image
        if len(self) > max(1, self._limit * self._total):
            raise ValueError(
                f"more than {self._limit:.0%} of {self._total} images cannot be used, among the first of them "
                f"{self.describe()}; leave them out (--ind); if they are masked, choose a smaller --background-radius, "
                "or extract them without a mask"
            )

    def describe(self, count: int = 0) -> str:
        """Name the first few, and say how many more there are; `count` of all, if more than have been read."""
        first = list(islice(self, _NAMED))
        named = "; ".join(f"{image.name} {image.reason}" for image in first)
        more = max(count, len(self)) - len(first)
        return f"{named}; and {more} more" if more else named


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
        images = self._read(index)
        wrong = _not_finite(images)
        if len(wrong):
            raise ValueError(f"{self._describe(int(index[wrong[0]]))} {_NOT_FINITE}")
        return images

    def read_normalized(
        self, index: Integer[np.ndarray, " batch"], radius: float, dead: DeadImages | None = None
    ) -> Float[Tensor, "batch box box"]:
        """Read images with a background, outside `radius` Å, of mean 0 and standard deviation 1.

        Parameters
        ----------
        index
            Rows of the particles.
        radius
            Å.
        dead
            Takes the images that cannot be used, which are then all zero: the caller must leave them out. Without it
            such an image is an error.

        Raises
        ------
        ValueError
            For an image whose pixels are not finite, or are constant in the background; names it. With `dead`: if
            there are too many of them.
        """
        images, reasons = self._read(index), {}
        for place in _not_finite(images):
            reasons[place] = _NOT_FINITE
            images[place] = 0
        mean, std = estimate_noise(images, radius, self._particles.pixel_size)
        is_normal = (std > 1e-6 * mean.abs()) & torch.isfinite(std)  # else all of the spread is rounding
        for place in torch.nonzero(~is_normal)[:, 0].tolist():
            reasons.setdefault(place, _why_not_normal(images[place], radius))
        images.sub_(mean[:, None, None]).div_(std[:, None, None])
        for place, reason in sorted(reasons.items()):
            row = int(index[place])
            if dead is None:
                raise ValueError(f"{self._describe(row)} {reason}; leave it out{_way_out(reason)}")
            images[place] = 0
            dead.add(DeadImage(row, str(self._particles.image_names[row]), reason))
        return images

    def _read(self, index: np.ndarray) -> Tensor:
        stacks, slices = self._particles.stack_of_image[index], self._particles.slice_of_image[index]
        images = np.empty((len(index), self._particles.box, self._particles.box), np.float32)
        for number in np.unique(stacks):
            places = np.flatnonzero(stacks == number)
            self._stacks[int(number)].read_into(images, places, slices[places])
        return torch.from_numpy(images)

    def _describe(self, row: int) -> str:
        particles = self._particles
        place = f"slice {particles.slice_of_image[row]} of {particles.stacks[particles.stack_of_image[row]]}"
        return f"image {particles.image_names[row]} of {particles.source} ({place})"


class NormalizedImages:
    """The images of particles as the model has them: called with rows, it returns them of unit noise, particles dark.

    Parameters
    ----------
    particles : Particles
    radius : float, optional
        Å from the centre, outside which there is background; 0.4 of the box where it is not given.
    are_bright : bool
        Particles are brighter than the background in the files.
    limit : float
        Share of the images that may be unusable: these are all zero.

    Attributes
    ----------
    radius : float
        Å.
    dead : DeadImages
        Those that could not be used so far.

    Raises
    ------
    FileNotFoundError, ValueError
        As :class:`ImageStack`; when called, if there are too many images that cannot be used.
    """

    def __init__(
        self, particles: Particles, *, radius: float | None = None, are_bright: bool = False, limit: float = 0.05
    ) -> None:
        self.radius = radius or default_radius(particles)
        self.dead = DeadImages(len(particles), limit=limit)
        self._stack, self._are_bright = ImageStack(particles), are_bright

    def __call__(self, rows: Integer[np.ndarray, " batch"]) -> Float[Tensor, "batch box box"]:
        """Return some images."""
        images = self._stack.read_normalized(rows, self.radius, self.dead)
        return images.neg_() if self._are_bright else images


def default_radius(particles: Particles) -> float:
    """Return how far from the centre of a box its particle is taken to reach, Å."""
    return 0.4 * particles.box * particles.pixel_size


def _not_finite(images: Tensor) -> list[int]:
    suspects = torch.nonzero(~torch.isfinite(images.sum(dim=(-2, -1))))[:, 0]  # one pass; huge pixels may overflow
    return suspects[~torch.isfinite(images[suspects]).all(dim=-1).all(dim=-1)].tolist()


def _why_not_normal(image: Tensor, radius: float) -> str:
    if bool((image == image[0, 0]).all()):
        return f"is constant: all pixels are {float(image[0, 0]):g}"
    if bool(image.abs().max() > _HUGE):
        return f"has pixels of up to {float(image.abs().max()):.2g}: too large to be normalised"
    return f"is constant outside {radius:g} Å: it is masked, and its noise cannot be measured"


def _way_out(reason: str) -> str:
    return ", or choose a smaller radius" if "outside" in reason else ""


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
