"""The matched form (design D1.1): what the likelihood needs of an image, computed once and kept on disk.

Of an image y with CTF C, shift t and white noise the likelihood needs only

    w = F⁻¹[ C̄ e^{+2πi k·t} ŷ ]    and    κ = F⁻¹[ |C|² ],

w on the particle's support and κ on lags up to twice that. Both are Fourier-cropped to a coarse grid and cropped in
real space from the full box: computing κ on the small grid would alias it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.files.npy import npy_writer
from cryoatom.fourier import centered_irfft2, centered_rfft2, crop_center, crop_spectrum, frequencies
from cryoatom.imaging.ctf import ctf_basis, ctf_coefficients, ctf_from_coefficients
from cryoatom.records import Optics
from cryoatom.workers import Workers

WIDTH_PER_PIXEL = 0.98  # least width of a bead in coarse pixels: the gradients of both forms then agree to 0.999
_DEFOCUS_STEP = 15.0  # Å between nodes of an interpolated kernel table
_FORMAT = 1
_AT_ONCE = 32  # images transformed together
_MARKER = "matched.json"


@dataclass(frozen=True)
class CropGrid:
    """The coarse grid of a dataset.

    Parameters
    ----------
    box, pixel_size
        Of the images; Å.
    coarse_box
        Pixels of the whole box after Fourier cropping.
    side
        Pixels of the crop.
    """

    box: int
    pixel_size: float
    coarse_box: int
    side: int

    @property
    def coarse_pixel(self) -> float:
        """Return the pixel size of the crop, Å."""
        return self.box * self.pixel_size / self.coarse_box


def choose_grid(box: int, pixel_size: float, diameter: float, coarse_pixel: float) -> CropGrid:
    """Return the grid of a particle of `diameter` Å (margins for motion included).

    The crop side is even and a product of small primes, since its double is transformed at each step. A crop never
    exceeds the box, nor is an image that is already coarse refined.
    """
    coarse_box = min(box, 2 * round(box * pixel_size / coarse_pixel / 2))
    wanted = int(np.ceil(diameter / (box * pixel_size / coarse_box)))
    side = next(s for s in range(wanted + wanted % 2, 4 * wanted + 8, 2) if _is_smooth(s))
    return CropGrid(box, pixel_size, coarse_box, min(side, coarse_box))


def _is_smooth(number: int) -> bool:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1


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
        C on the half plane of the full box.
    shifts
        t in Å: the particle lies at +t from the centre and is moved back to it, once, by phase.
    """
    spectrum = crop_spectrum(centered_rfft2(images), grid.box, grid.coarse_box)
    spectrum = spectrum * crop_spectrum(transfer, grid.box, grid.coarse_box)
    if bool(shifts.any()):
        kx, ky = (k.to(transfer) for k in frequencies(grid.coarse_box, grid.coarse_pixel))
        angle = 2 * torch.pi * (shifts[:, 0, None, None] * kx + shifts[:, 1, None, None] * ky)
        spectrum = spectrum * torch.polar(torch.ones_like(angle), angle)
    return crop_center(centered_irfft2(spectrum, grid.coarse_box), grid.side)


def kernel_spectra(
    transfer: Float[Tensor, "batch box half"], grid: CropGrid
) -> Float[Tensor, "batch twice half_twice"]:
    """Return the real spectra of κ cropped to lags below the crop's side, for padded products on the crop."""
    power = crop_spectrum(transfer.square(), grid.box, grid.coarse_box)
    kernel = centered_irfft2(
        power.to(torch.complex64 if power.dtype == torch.float32 else torch.complex128), grid.coarse_box
    )
    kernel = kernel * (grid.box / grid.coarse_box) ** 2
    twice = 2 * grid.side
    lags = kernel.new_zeros(len(kernel), twice, twice)
    reach = min(twice, grid.coarse_box)
    start = grid.side - reach // 2
    lags[:, start : start + reach, start : start + reach] = crop_center(kernel, reach)
    lags[:, 0] = 0  # the lag of -side has no partner at +side: an even kernel cannot hold it
    lags[:, :, 0] = 0
    return centered_rfft2(lags).real.contiguous()


def kernel_table(optics: Optics) -> tuple[Optics, np.ndarray, np.ndarray]:
    """Choose for which optics κ is computed, and how each particle's κ is mixed from them.

    Distinct optics are computed as they are; only where many images without astigmatism differ in nothing but
    defocus, nodes 15 Å apart with linear interpolation serve (error of |C|² below 0.6% at 2.5 Å, 300 kV).

    Returns
    -------
    nodes : Optics
    index : (n,) int64
        First node of each particle.
    mix : (n,) float32
        κ = (1 - mix) κ[index] + mix κ[index + 1].
    """
    parameters = optics.as_array()
    parameters[:, 5] = np.where(parameters[:, 3] == parameters[:, 4], 0.0, parameters[:, 5])
    unique, inverse = np.unique(parameters, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    blocks, index_of, mix_of, start = [], np.zeros(len(unique), dtype=np.int64), np.zeros(len(unique), np.float32), 0
    round_beam = unique[:, 3] == unique[:, 4]
    families, family = np.unique(unique[:, [0, 1, 2, 6]], axis=0, return_inverse=True)
    family = np.where(round_beam, family.reshape(-1), len(families))
    for label in range(len(families) + 1):
        members = np.flatnonzero(family == label)
        if len(members) == 0:
            continue
        block, index, mix = _family_nodes(unique[members], interpolate=label < len(families))
        blocks.append(block)
        index_of[members], mix_of[members] = index + start, mix
        start += len(block)
    return Optics(*np.concatenate(blocks).T), index_of[inverse], mix_of[inverse]


def _family_nodes(rows: np.ndarray, *, interpolate: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nodes of optics rows that differ only in defocus, with each row's first node and mix."""
    defocus = rows[:, 3]
    first = np.floor(defocus.min() / _DEFOCUS_STEP) * _DEFOCUS_STEP
    count = int(np.ceil((defocus.max() - first) / _DEFOCUS_STEP)) + 1
    if not interpolate or len(rows) <= count + 1:
        return rows, np.arange(len(rows)), np.zeros(len(rows), np.float32)
    nodes = np.repeat(rows[:1], count + 1, axis=0)
    nodes[:, 3] = nodes[:, 4] = first + _DEFOCUS_STEP * np.arange(count + 1)
    place = (defocus - first) / _DEFOCUS_STEP
    index = np.floor(place).astype(np.int64)
    return nodes, index, (place - index).astype(np.float32)


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
        ½|y|² in noise units.
    grid : CropGrid
    identity : str
        Digest of everything the statistics depend on.
    """

    crops: np.ndarray
    kernels: np.ndarray
    kernel_index: np.ndarray
    kernel_mix: np.ndarray
    image_power: np.ndarray
    grid: CropGrid
    identity: str

    def __len__(self) -> int:
        return len(self.crops)

    def read(self, rows: np.ndarray) -> tuple[Float[Tensor, "batch side side"], Float[Tensor, "#batch twice half"]]:
        """Return crops and kernel spectra of some particles, float32; one spectrum where all share it."""
        crops = torch.from_numpy(self.crops[rows]).float()
        if len(self.kernels) == 1:
            return crops, torch.from_numpy(np.array(self.kernels)).float()
        index, mix = self.kernel_index[rows], torch.from_numpy(self.kernel_mix[rows])
        spectra = torch.from_numpy(self.kernels[index]).float()
        mixed = torch.nonzero(mix)[:, 0]
        if len(mixed):
            upper = torch.from_numpy(self.kernels[index[mixed.numpy()] + 1]).float()
            spectra[mixed] += mix[mixed, None, None] * (upper - spectra[mixed])
        return crops, spectra


_ARRAYS = ("crops", "kernels", "kernel_index", "kernel_mix", "image_power")


def build_matched_set(
    folder: Path,
    key: dict[str, object],
    read_normalized: Callable[[np.ndarray], Float[Tensor, "batch box box"]],
    optics: Optics,
    shifts: np.ndarray,
    grid: CropGrid,
    *,
    workers: Workers | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MatchedSet:
    """Compute the statistics of all images, streaming, or reopen them if `folder` holds those of the same `key`.

    Parameters
    ----------
    folder
        Where statistics are kept, those of each input in a folder of their own, named by the input's digest and
        renamed from a temporary name when all of it is written. Several runs may share it.
    key
        What identifies the input (stacks, rows, preprocessing); optics, shifts and the grid are added to it.
    read_normalized
        Returns the images of some rows with unit noise, particles dark.
    optics, shifts
        Of all particles; Å.
    grid
        See :func:`choose_grid`.
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
    digest = _digest(key, optics, shifts, grid)
    folder = folder / digest[:16]
    marker = folder / _MARKER
    if marker.exists() and json.loads(marker.read_text()).get("digest") == digest:
        return open_matched_set(folder, grid, digest)
    nodes, index, mix = kernel_table(optics)
    with _rebuilding(folder) as temporary:
        _write_kernels(temporary / "kernels.npy", nodes, grid, workers)
        np.save(temporary / "kernel_index.npy", index)
        np.save(temporary / "kernel_mix.npy", mix)
        _write_crops(temporary, read_normalized, optics, shifts, grid, workers, progress)
        (temporary / _MARKER).write_text(json.dumps({"digest": digest, "images": len(optics)}))
    return open_matched_set(folder, grid, digest)


@contextmanager
def _rebuilding(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when all is written, unless another run was first with the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.{platform.node()}.*"):
        process = int(left.name.rsplit(".", 1)[1])
        if process == os.getpid() or not _is_running(process):  # containers give every run the same number
            shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{platform.node()}.{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        try:
            os.replace(temporary, folder)
        except OSError:  # there is one, of another run or without its last file
            if not (folder / _MARKER).exists():
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def open_matched_set(folder: Path, grid: CropGrid, identity: str) -> MatchedSet:
    """Memory-map the statistics in `folder`."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    small = {name: np.array(arrays[name]) for name in ("kernel_index", "kernel_mix", "image_power")}
    return MatchedSet(**(arrays | small), grid=grid, identity=identity)


def _digest(key: dict[str, object], optics: Optics, shifts: np.ndarray, grid: CropGrid) -> str:
    content = hashlib.sha256(json.dumps([_FORMAT, key, vars(grid)], sort_keys=True, default=str).encode())
    content.update(np.ascontiguousarray(optics.as_array()).tobytes())
    content.update(np.ascontiguousarray(shifts, dtype=np.float64).tobytes())
    return content.hexdigest()


def _write_kernels(path: Path, nodes: Optics, grid: CropGrid, workers: Workers) -> None:
    basis = ctf_basis(grid.box, grid.pixel_size)
    coefficients = ctf_coefficients(nodes)

    def compute(start: int) -> np.ndarray:
        transfer = ctf_from_coefficients(coefficients[start : start + _AT_ONCE], basis)
        return kernel_spectra(transfer, grid).half().numpy()

    with npy_writer(path, (len(nodes), 2 * grid.side, grid.side + 1), np.float16) as write:
        for kernels in workers.stream(compute, range(0, len(nodes), _AT_ONCE)):
            write(kernels)


def _write_crops(
    folder: Path,
    read_normalized: Callable[[np.ndarray], Tensor],
    optics: Optics,
    shifts: np.ndarray,
    grid: CropGrid,
    workers: Workers,
    progress: Callable[[int, int], None],
) -> None:
    total = len(optics)
    power = np.zeros(total)
    basis = ctf_basis(grid.box, grid.pixel_size)
    coefficients = ctf_coefficients(optics)
    is_uniform = bool((coefficients == coefficients[:1]).all())
    shared = ctf_from_coefficients(coefficients[:1], basis).float() if is_uniform else None

    def compute(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(start, min(start + _AT_ONCE, total))
        images = read_normalized(rows)
        transfer = shared if shared is not None else ctf_from_coefficients(coefficients[rows], basis).float()
        moved = torch.from_numpy(np.asarray(shifts[rows], dtype=np.float32))
        crops = matched_crops(images, transfer.expand(len(rows), -1, -1), moved, grid).half().numpy()
        return crops, 0.5 * images.square().sum(dim=(-2, -1), dtype=torch.float64).numpy()

    done = 0
    with npy_writer(folder / "crops.npy", (total, grid.side, grid.side), np.float16) as write:
        for crops, half_power in workers.stream(compute, range(0, total, _AT_ONCE)):
            write(crops)
            power[done : done + len(crops)] = half_power
            done += len(crops)
            progress(done, total)
    np.save(folder / "image_power.npy", power)
