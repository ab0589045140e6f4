"""The matched form (design D1.1): what the likelihood needs of an image, computed once and kept on disk.

Of an image y with CTF C, shift t and noise of power S the likelihood needs only

    w = F⁻¹[ C̄ e^{+2πi k·t} ŷ / S ]    and    κ = F⁻¹[ |C|² / S ],

w on the particle's support and κ on lags up to twice that. Both are Fourier-cropped to a coarse grid and cropped in
real space from the full box: computing κ on the small grid would alias it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoatom.files.growing import growing, rows_there
from cryoatom.files.npy import npy_writer, save_npy
from cryoatom.files.sealed import SEAL, break_seal, find_damage, preparing, sealing
from cryoatom.fourier import centered_irfft2, centered_rfft2, crop_center, crop_spectrum, frequencies
from cryoatom.imaging.ctf import ctf_basis, ctf_coefficients, ctf_from_coefficients
from cryoatom.imaging.grid import CropGrid
from cryoatom.imaging.kernels import KernelTable, kernel_spectra, kernel_table
from cryoatom.particles.noise import NoisePower, white_noise
from cryoatom.particles.outliers import power_excess
from cryoatom.particles.rings import half_plane_weights
from cryoatom.records import Optics
from cryoatom.workers import Workers

WIDTH_PER_PIXEL = 0.98  # least width of a bead in coarse pixels: the gradients of both forms then agree to 0.999
_FORMAT = 3
_AT_ONCE = 32  # images transformed together
_logger = logging.getLogger(__name__)


def matched_crops(
    images: Float[Tensor, "batch box box"],
    transfer: Float[Tensor, "batch box half"],
    shifts: Float[Tensor, "batch 2"],
    grid: CropGrid,
) -> Float[Tensor, "batch side side"]:
    """Return w of images in units of their noise, scaled so that a plain sum over crop pixels is ⟨w, v⟩.

    Parameters
    ----------
    images
        Normalised to unit noise.
    transfer
        C / S on the half plane of the full box, C for white noise.
    shifts
        t in Å: the particle lies at +t from the centre and is moved back to it, once, by phase.
    """
    return _crops_of_spectra(centered_rfft2(images), transfer, shifts, grid)


def _crops_of_spectra(
    spectra: Complex[Tensor, "batch box half"],
    transfer: Float[Tensor, "batch box half"],
    shifts: Float[Tensor, "batch 2"],
    grid: CropGrid,
) -> Float[Tensor, "batch side side"]:
    spectrum = crop_spectrum(spectra, grid.box, grid.coarse_box)
    spectrum = spectrum * crop_spectrum(transfer, grid.box, grid.coarse_box)
    if bool(shifts.any()):
        kx, ky = (k.to(transfer) for k in frequencies(grid.coarse_box, grid.coarse_pixel))
        angle = 2 * torch.pi * (shifts[:, 0, None, None] * kx + shifts[:, 1, None, None] * ky)
        spectrum = spectrum * torch.polar(torch.ones_like(angle), angle)
    return crop_center(centered_irfft2(spectrum, grid.coarse_box), grid.side)


@dataclass(frozen=True)
class MatchedImages:
    """What a set keeps of some images, in half precision.

    Parameters
    ----------
    crops
        w of each image.
    lower, upper
        Spectra at the nodes of κ on both sides of each image's defocus; one where all images share it, and no upper
        ones where no image lies between nodes.
    mix
        κ = (1 - mix) lower + mix upper.
    """

    crops: Float[Tensor, "batch side side"]
    lower: Float[Tensor, "#batch twice half"]
    upper: Float[Tensor, "batch twice half"] | None = None
    mix: Float[Tensor, " batch"] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> MatchedImages:
        """Return the same with another tensor in place of each."""
        parts = (self.crops, self.lower, self.upper, self.mix)
        return MatchedImages(*(None if part is None else function(part) for part in parts))  # type: ignore[arg-type]

    def read(self) -> tuple[Float[Tensor, "batch side side"], Float[Tensor, "#batch twice half"]]:
        """Return w and the spectra of κ, float32."""
        spectra = self.lower.float()
        if self.upper is not None and self.mix is not None:
            spectra = torch.lerp(spectra, self.upper.float(), self.mix[:, None, None])
        return self.crops.float(), spectra


@dataclass(frozen=True)
class MatchedSet:
    """The memory-mapped sufficient statistics of a dataset.

    Parameters
    ----------
    crops : (n, side, side) float16
        w of each image.
    kernels : (nodes, 2 side, side + 1) float16
        Spectra of κ.
    kernel_index, kernel_mix : (n,)
        See :func:`kernel_table`.
    image_power : (n,) float64
        ½ Σ |ŷ|²/S in noise units.
    power_excess : (n,) float64
        See :func:`cryoatom.particles.outliers.power_excess`.
    is_dead : (n,) bool
        Images that cannot be used: all zero as they were read, or with values beyond float16. Their crops are zero.
    noise_power : (groups, rings) float64
        S, see :class:`cryoatom.particles.noise.NoisePower`.
    noise_group : (n,) int64
        Row of `noise_power` of each image.
    grid : CropGrid
    identity : str
        Digest of everything the statistics depend on.
    """

    crops: np.ndarray
    kernels: np.ndarray
    kernel_index: np.ndarray
    kernel_mix: np.ndarray
    image_power: np.ndarray
    power_excess: np.ndarray
    is_dead: np.ndarray
    noise_power: np.ndarray
    noise_group: np.ndarray
    grid: CropGrid
    identity: str

    def __len__(self) -> int:
        return len(self.crops)

    def read(self, rows: np.ndarray) -> tuple[Float[Tensor, "batch side side"], Float[Tensor, "#batch twice half"]]:
        """Return crops and kernel spectra of some particles, float32; one spectrum where all share it."""
        return self.take(rows).read()

    def take(self, rows: np.ndarray) -> MatchedImages:
        """Return what is kept of some particles, as it is kept."""
        crops = torch.from_numpy(self.crops[rows])
        if len(self.kernels) == 1:
            return MatchedImages(crops, torch.from_numpy(np.array(self.kernels)))
        index, mix = self.kernel_index[rows], torch.from_numpy(self.kernel_mix[rows])
        lower = torch.from_numpy(self.kernels[index])
        if not bool(mix.any()):
            return MatchedImages(crops, lower)
        upper = self.kernels[np.minimum(index + 1, len(self.kernels) - 1)]
        return MatchedImages(crops, lower, torch.from_numpy(upper), mix)


_NOISE = ("noise_power.npy", "noise_group.npy")  # written in this order
_SMALL_ARRAYS = ("kernel_index", "kernel_mix", "image_power", "power_excess", "is_dead", "noise_power", "noise_group")
_ARRAYS = ("crops", "kernels", *_SMALL_ARRAYS)


@dataclass(frozen=True)
class MatchedSource:
    """The images of a dataset and how they were taken.

    Parameters
    ----------
    read_normalized
        Returns the images of some rows with unit noise, particles dark; an image that cannot be used is all zero.
    optics, shifts
        Of all particles; Å.
    measure_noise
        Returns the power of the noise, when a set is built; white of unit variance where it is not given.
    key
        What identifies images and noise (stacks, rows, preprocessing, how the noise is measured): what they depend on,
        not their values, which another machine may round in another way.
    """

    read_normalized: Callable[[np.ndarray], Float[Tensor, "batch box box"]]
    optics: Optics
    shifts: np.ndarray
    measure_noise: Callable[[], NoisePower] | None = None
    key: dict[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.optics)


def build_matched_set(
    folder: Path,
    source: MatchedSource,
    grid: CropGrid,
    *,
    workers: Workers | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MatchedSet:
    """Compute the statistics of all images, streaming, or reopen them if `folder` holds those of the same source.

    The power of the noise is measured then, and kept with the set: one that is opened again has the very same. A set
    that is there but damaged is computed anew, with a warning. What a killed process has begun is gone on with; a set
    that another process prepares is waited for.

    Parameters
    ----------
    folder
        Where statistics are kept, those of each input in a folder of their own, named by the input's digest and
        renamed from a temporary name when all of it is written. Several runs may share it.
    source
        The images.
    grid
        See :func:`cryoatom.imaging.grid.choose_grid`.
    workers
        Threads that transform images; without them the caller's.
    progress
        Called with (images done, all images).

    Raises
    ------
    OSError
        The disk is full or the folder cannot be written; nothing is left under a final name.
    """
    workers = workers or Workers(1)
    digest = matched_identity(source.key, source.optics, source.shifts, grid)
    folder = matched_folder(folder, digest)
    seal: dict[str, object] = {"digest": digest, "images": len(source)}
    if not workers.ranks.of_first(lambda: _is_whole(folder, seal)):
        with preparing(folder) as begun:
            if not workers.ranks.of_first(lambda: _is_whole(folder, seal)):  # another run may have prepared it
                with sealing(begun, folder, seal):
                    _write_set(begun, source, grid, workers, progress)
            workers.ranks.wait()
    return open_matched_set(folder, grid, digest)


def _is_whole(folder: Path, seal: dict[str, object]) -> bool:
    """Return whether there is a set; the seal of one that is damaged is broken, with a warning."""
    if not (folder / SEAL).exists():
        return False
    damage = find_damage(folder, seal)
    if damage is None:
        return True
    _logger.warning("%s: %s; the images are prepared again", folder, damage)
    break_seal(folder)
    return False


def open_matched_set(folder: Path, grid: CropGrid, identity: str) -> MatchedSet:
    """Memory-map the statistics in `folder`."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    small = {name: np.array(arrays[name]) for name in _SMALL_ARRAYS}
    return MatchedSet(**(arrays | small), grid=grid, identity=identity)


def matched_identity(key: dict[str, object], optics: Optics, shifts: np.ndarray, grid: CropGrid) -> str:
    """Return the digest of everything that the statistics of a source depend on, see :class:`MatchedSource`."""
    content = hashlib.sha256(json.dumps([_FORMAT, key, vars(grid)], sort_keys=True, default=str).encode())
    for array in (optics.as_array(), np.asarray(shifts, np.float64)):
        content.update(array.tobytes())
    return content.hexdigest()


def matched_folder(folder: Path, identity: str) -> Path:
    """Return where `folder` keeps the set of an identity."""
    return folder / identity[:16]


def _write_set(
    folder: Path, source: MatchedSource, grid: CropGrid, workers: Workers, progress: Callable[[int, int], None]
) -> None:
    """Compute what is not in `folder` yet."""
    is_measured = workers.ranks.of_first(lambda: (folder / "noise_group.npy").exists())
    if is_measured:
        spectra, group = workers.ranks.of_first(lambda: [np.load(folder / name) for name in _NOISE])
        noise = NoisePower(spectra, group, grid.box)
    else:
        noise = white_noise(len(source), grid.box) if source.measure_noise is None else source.measure_noise()
        for name, array in zip(_NOISE, (noise.spectra, noise.group_of_image), strict=True):
            save_npy(folder / name, array)
    table = kernel_table(source.optics, noise.group_of_image)
    if not workers.ranks.of_first(lambda: (folder / "kernels.npy").exists()):
        _write_kernels(folder / "kernels.npy", table, noise, grid, workers)
    save_npy(folder / "kernel_index.npy", table.index)
    save_npy(folder / "kernel_mix.npy", table.mix)
    _write_crops(folder, source, noise, grid, workers, progress)


def _write_kernels(path: Path, table: KernelTable, noise: NoisePower, grid: CropGrid, workers: Workers) -> None:
    basis = ctf_basis(grid.box, grid.pixel_size)
    coefficients = ctf_coefficients(table.nodes)
    whitening, group = noise.precision().sqrt(), torch.from_numpy(table.noise_group)

    def compute(start: int) -> np.ndarray:
        part = slice(start, start + _AT_ONCE)
        transfer = ctf_from_coefficients(coefficients[part], basis) * whitening[group[part]]
        return kernel_spectra(transfer, grid).half().numpy()

    with npy_writer(path, (len(coefficients), 2 * grid.side, grid.side + 1), np.float16) as write:
        for kernels in workers.stream(compute, range(0, len(coefficients), _AT_ONCE)):
            write(kernels)


def _write_crops(
    folder: Path,
    source: MatchedSource,
    noise: NoisePower,
    grid: CropGrid,
    workers: Workers,
    progress: Callable[[int, int], None],
) -> None:
    total, statistics = len(source), _Statistics(source, noise, grid)
    shapes = {"crops.npy": ((total, grid.side, grid.side), np.float16), "image_power.npy": ((total,), np.float64)}
    done = workers.ranks.of_first(lambda: rows_there(folder, shapes))
    if done:
        _logger.info("%d of %d images were prepared before", done, total)
    with growing(folder, shapes, done) as arrays:
        for crops, half_power in workers.stream(statistics.compute, range(done, total, _AT_ONCE)):
            arrays.write((crops, half_power))
            done += len(crops)
            progress(done, total)
    power = workers.ranks.of_first(lambda: np.load(folder / "image_power.npy"))
    is_dead = power == 0
    save_npy(folder / "is_dead.npy", is_dead)
    save_npy(folder / "power_excess.npy", power_excess(power, noise.group_of_image, is_dead))


class _Statistics:
    """Computes crops and powers; whatever images share is computed once."""

    def __init__(self, source: MatchedSource, noise: NoisePower, grid: CropGrid):
        self._source, self._grid, self._group = source, grid, torch.from_numpy(noise.group_of_image)
        precision = noise.precision()
        self._power_weights = (precision * half_plane_weights(grid.box) * (0.5 / grid.box**2)).float()
        self._precision = precision.float()
        self._basis = ctf_basis(grid.box, grid.pixel_size)
        self._coefficients = ctf_coefficients(source.optics)
        is_uniform = bool((self._coefficients == self._coefficients[:1]).all())
        self._shared = self._transfer(np.arange(1)) if is_uniform and len(precision) == 1 else None

    def compute(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the crops, float16, and ½ Σ |ŷ|²/S of the images from `start` on: 0 of those that cannot be used."""
        rows = np.arange(start, min(start + _AT_ONCE, len(self._source)))
        spectra = centered_rfft2(self._source.read_normalized(rows))
        transfer = self._transfer(rows) if self._shared is None else self._shared.expand(len(rows), -1, -1)
        moved = torch.from_numpy(np.asarray(self._source.shifts[rows], dtype=np.float32))
        crops = _crops_of_spectra(spectra, transfer, moved, self._grid).half()
        power = spectra.real.square().add_(spectra.imag.square()).mul_(self._of_rows(self._power_weights, rows))
        half_power = power.sum(dim=(-2, -1), dtype=torch.float64)
        overflows = ~torch.isfinite(crops).flatten(1).all(dim=1)
        crops[overflows], half_power[overflows] = 0, 0
        return crops.numpy(), half_power.numpy()

    def _transfer(self, rows: np.ndarray) -> Float[Tensor, "batch box half"]:
        transfer = ctf_from_coefficients(self._coefficients[rows], self._basis).float()
        return transfer.mul_(self._of_rows(self._precision, rows))

    def _of_rows(self, by_group: Tensor, rows: np.ndarray) -> Tensor:
        return by_group if len(by_group) == 1 else by_group[self._group[rows]]
