"""The paper's forward model in image space: the definition, and the oracle that the matched form is tested against."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from cryoatom.fourier import centered_irfft2, centered_rfft2, crop_center
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.project import render_dense
from cryoatom.records import Optics


def simulate_images(
    centers: Float[Tensor, "batch beads 2"],
    amplitudes: Float[Tensor, " beads"],
    variances: Float[Tensor, " beads"],
    optics: Optics,
    side: int,
    pixel_size: float,
    padding: int = 0,
) -> Float[Tensor, "batch side side"]:
    """Return s · (h * v): paper eq. 1, then the CTF; s is in the amplitudes.

    Parameters
    ----------
    centers
        Projected bead centres (R x)_xy + t in Å.
    padding
        Pixels added on every side before the convolution and cut off after it, so that nothing wraps round.
    """
    padded = side + 2 * padding
    projection = render_dense(centers, amplitudes, variances, padded, pixel_size)
    transfer = ctf(optics, padded, pixel_size).to(projection)
    return crop_center(centered_irfft2(centered_rfft2(projection) * transfer, padded), side)


def direct_nll(
    images: Float[Tensor, "batch side side"], predictions: Float[Tensor, "batch side side"]
) -> Float[Tensor, " batch"]:
    """Return ½ |y - F(x)|² of each particle, for noise of unit variance."""
    return 0.5 * ((images - predictions) ** 2).sum(dim=(-2, -1))
