"""MRC image stacks: read in runs of neighbours, written as a stream. The layout is MRC2014's."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from jaxtyping import Float, Float32, Integer
from mrcfile.dtypes import HEADER_DTYPE

from cryoatom.files.patience import PatientFile, Stamp, file_stamp
from cryoatom.files.replacing import replacing

_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_HEADER_BYTES = HEADER_DTYPE.itemsize
_BYTES_AT_ONCE = 1 << 22  # of pixels that have to be converted
_IMOD_STAMP, _IMOD_SIGNED = 1146047817, 1  # IMOD's own mark in the header's spare bytes, and its flag for mode 0


@dataclass(frozen=True)
class MrcStack:
    """Where the images of an MRC file are. It holds no open file, so thousands may exist and be sent to workers.

    Parameters
    ----------
    path : Path
    count, box : int
        Number of images, and their side in pixels.
    pixel_size : float
        Å, as the header has it: 0 where it does not say, and often wrong. Particle files know better.
    dtype : np.dtype
        Of a pixel, with its byte order.
    offset : int
        Bytes before the first image.
    stamp : (size, time)
        Of the file when its header was read, see :func:`cryoatom.files.patience.file_stamp`.
    """

    path: Path
    count: int
    box: int
    pixel_size: float
    dtype: np.dtype
    offset: int
    stamp: Stamp

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Integer[np.ndarray, " images"]) -> Float32[np.ndarray, "images box box"]:
        """Read images by zero-based section, in any order.

        Raises
        ------
        ValueError
            For a section that the file does not have.
        """
        images = np.empty((len(indices), self.box, self.box), np.float32)
        self.read_into(images, np.arange(len(indices)), indices)
        return images

    def read_into(
        self,
        images: Float32[np.ndarray, "all box box"],
        places: Integer[np.ndarray, " images"],
        indices: Integer[np.ndarray, " images"],
    ) -> None:
        """Read the sections `indices` to the rows `places` of `images`: in file order, neighbours in one piece.

        Raises
        ------
        ValueError
            For a section that the file does not have, or a file that changes while it is read.
        OSError
            If a section cannot be read, after some patience.
        """
        if len(indices) == 0:
            return
        order = np.argsort(indices, kind="stable")
        places, indices = places[order], indices[order]
        if indices[0] < 0 or indices[-1] >= self.count:
            wrong = indices[0] if indices[0] < 0 else indices[-1]
            raise ValueError(f"{self.path} has images 0 to {self.count - 1}, asked for {wrong}")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(indices) != 1) + 1, [len(indices)]])
        with PatientFile(self.path, self.stamp) as file:
            for first, last in zip(starts[:-1], starts[1:], strict=True):
                self._read_run(file, int(indices[first]), images, places[first:last])

    def _read_run(self, file: PatientFile, begin: int, images: np.ndarray, places: np.ndarray) -> None:
        """Read the sections from `begin` on to the rows `places` of `images`."""
        image_bytes = self.box**2 * self.dtype.itemsize
        if self.dtype == images.dtype and images.flags.c_contiguous and (np.diff(places) == 1).all():
            target = images[places[0] : places[0] + len(places)]
            file.read_into(target, self.offset + begin * image_bytes, self._piece(begin, len(places)))
            return
        at_once = max(1, _BYTES_AT_ONCE // image_bytes)
        for start in range(0, len(places), at_once):
            part = places[start : start + at_once]
            pixels = np.empty((len(part), self.box, self.box), self.dtype)
            file.read_into(pixels, self.offset + (begin + start) * image_bytes, self._piece(begin + start, len(part)))
            images[part] = pixels

    def _piece(self, begin: int, count: int) -> str:
        return f"image {begin + 1}" if count == 1 else f"images {begin + 1} to {begin + count}"


def open_stack(path: str | os.PathLike) -> MrcStack:
    """Read and check the header of an MRC image stack; no pixel is read.

    Modes 0 (signed bytes, or unsigned where IMOD's flag says so), 1, 2, 6 and 12, of either byte order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an MRC file of square images of a known mode, or is shorter than its header says.
    """
    path = Path(path)
    header, stamp = _read_header(path), file_stamp(path)
    nx, ny, count = (int(header[name]) for name in ("nx", "ny", "nz"))
    extended = int(header["nsymbt"])
    if nx != ny or count < 1:
        raise ValueError(f"{path}: expected a stack of square images, found {count} images of {nx} x {ny} pixels")
    if extended < 0:
        raise ValueError(f"{path} has a damaged header: an extended header of {extended} bytes")
    dtype = _pixel_type(header, path)
    offset = _HEADER_BYTES + extended
    expected, found = offset + count * nx * ny * dtype.itemsize, stamp[0]
    if found < expected:
        raise ValueError(
            f"{path} is truncated: its header promises {count} images of {nx} x {nx} pixels in {expected} bytes, "
            f"found {found} bytes; copy or write it again"
        )
    length, samples = float(header["cella"]["x"]), int(header["mx"])
    pixel_size = length / samples if samples > 0 and 0 < length < np.inf else 0.0
    return MrcStack(path, count, nx, pixel_size, dtype, offset, stamp)


def _read_header(path: Path) -> np.void:
    try:
        stamp = file_stamp(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no image stack {path}" if error.errno else str(error)) from None
    if stamp[0] < _HEADER_BYTES:
        raise ValueError(f"{path} is no MRC file: expected a header of {_HEADER_BYTES} bytes, found {stamp[0]} bytes")
    raw = np.empty(_HEADER_BYTES, np.uint8)
    with PatientFile(path, stamp) as file:
        file.read_into(raw, 0, "its header")
    orders: tuple[Literal["<"], Literal[">"]] = ("<", ">")
    for order in orders:  # the machine stamp is wrong in many files; a side of 1 to 65535 fits one byte order alone
        header = raw.view(HEADER_DTYPE.newbyteorder(order))[0]
        if 0 < header["nx"] < 65536 and 0 < header["ny"] < 65536:
            return header
    raise ValueError(f"{path} is no MRC file: its first bytes are no image size")


def _pixel_type(header: np.void, path: Path) -> np.dtype:
    mode = int(header["mode"])
    if mode not in _DTYPES:
        known = ", ".join(map(str, _DTYPES))
        raise ValueError(f"{path} holds pixels of MRC mode {mode}, expected one of {known}; convert it to mode 2")
    order = header.dtype["mode"].byteorder
    stamp, flags = np.frombuffer(bytes(header["extra2"])[40:48], np.dtype("i4").newbyteorder(order))
    if mode == 0 and stamp == _IMOD_STAMP and not flags & _IMOD_SIGNED:
        return np.dtype("u1")
    return np.dtype(_DTYPES[mode]).newbyteorder(order)


@dataclass(frozen=True)
class DensityMap:
    """A map, whose frame has its origin at voxel box // 2 of each axis, as RELION and cryoSPARC have it.

    Parameters
    ----------
    values : (box, box, box) float32
        [z, y, x].
    pixel_size : float
        Å.
    header_center : (3,) float64
        Where the header puts voxel box // 2, (x, y, z) in Å; the headers of RELION and cryoSPARC do not say.
    """

    values: Float32[np.ndarray, "box box box"]
    pixel_size: float
    header_center: Float[np.ndarray, " 3"]


def read_map(path: str | os.PathLike) -> DensityMap:
    """Read a cubic map (MRC, CCP4) of any byte order and order of axes, of mode 0, 1, 2, 6 or 12.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no cube of cubic voxels, says no voxel size, is truncated, or its values are not finite, constant, or
        constant in a whole half.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no map {path}")
    header = _read_header(path)
    axes = [int(header[name]) - 1 for name in ("mapc", "mapr", "maps")]  # of columns, rows and sections
    axes = [0, 1, 2] if axes == [-1, -1, -1] else axes
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(f"{path} has a damaged header: axes {[axis + 1 for axis in axes]}, expected 1, 2 and 3")
    values = _read_values(path, header).transpose([2 - axes.index(axis) for axis in (2, 1, 0)])
    _check_values(path, values)
    pixel_size = _voxel_size(path, header)
    starts = np.array([int(header[name]) for name in ("nxstart", "nystart", "nzstart")])
    starts = np.array([starts[axes.index(axis)] for axis in range(3)])
    origin = np.array([float(header["origin"][name]) for name in "xyz"])
    center = pixel_size * (starts + len(values) // 2) + origin if starts.any() or origin.any() else np.zeros(3)
    return DensityMap(np.ascontiguousarray(values, dtype=np.float32), pixel_size, center)


def _read_values(path: Path, header: np.void) -> np.ndarray:
    """Return the values of a cubic map, [section, row, column]."""
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    if len(set(shape)) != 1 or shape[0] < 4:
        raise ValueError(
            f"{path} has {shape[2]} x {shape[1]} x {shape[0]} voxels, expected a cubic map: give the map of the "
            "refinement that the poses are from, uncut"
        )
    dtype, offset = _pixel_type(header, path), _HEADER_BYTES + max(int(header["nsymbt"]), 0)
    expected, found = offset + shape[0] ** 3 * dtype.itemsize, path.stat().st_size
    if found < expected:
        raise ValueError(
            f"{path} is truncated: its header promises {shape[0]}³ voxels in {expected} bytes, found {found} bytes; "
            "copy or write it again"
        )
    values = np.empty(shape, dtype)
    with PatientFile(path, file_stamp(path)) as file:
        file.read_into(values, offset, "its values")
    return values


def _check_values(path: Path, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{path} has voxels that are not finite numbers: write the map again")
    low, high = values.min(axis=(1, 2)), values.max(axis=(1, 2))
    if low.min() == high.max():
        raise ValueError(f"{path} is constant: it holds no map")
    half = len(values) // 2
    for axis, name in enumerate("zyx"):
        others = tuple({0, 1, 2} - {axis})
        is_empty = values.min(axis=others) == values.max(axis=others)
        if is_empty[:half].all() or is_empty[half:].all():
            raise ValueError(
                f"{path}: one half of the map along {name} is constant: it is cut or was not written whole"
            )


def _voxel_size(path: Path, header: np.void) -> float:
    """Return the side of a cubic voxel in Å."""
    lengths = np.array([float(header["cella"][name]) for name in "xyz"])
    samples = np.array([int(header[name]) for name in ("mx", "my", "mz")])
    angles = np.array([float(header["cellb"][name]) for name in ("alpha", "beta", "gamma")])
    if not (np.isfinite(lengths).all() and (lengths > 0).all() and (samples > 0).all()):
        raise ValueError(
            f"{path} does not say its voxel size: write it with relion_image_handler --force_header_angpix"
        )
    sizes = lengths / samples
    if sizes.max() > 1.001 * sizes.min() or (angles.any() and np.abs(angles - 90).max() > 0.01):
        shown = " x ".join(f"{size:.4g}" for size in sizes)
        raise ValueError(f"{path} has voxels of {shown} Å, expected cubic ones: give the map of the refinement")
    return float(sizes.mean())


class StackWriter:
    """Write an MRC image stack piece by piece; a context manager.

    The file appears under its name when the block ends without an exception, with a header that knows the number of
    images and their statistics.

    Parameters
    ----------
    path : path
    box : int
        Image side in pixels.
    pixel_size : float
        Å.
    count : int, optional
        The number of images that will be written; checked at the end.
    mode : {2, 12}
        2 for float32, 12 for float16.
    """

    def __init__(
        self, path: str | os.PathLike, box: int, pixel_size: float, count: int | None = None, mode: int = 2
    ) -> None:
        if mode not in (2, 12):
            raise ValueError(f"cannot write MRC mode {mode}: expected 2 (float32) or 12 (float16)")
        self.path = Path(path)
        self._box, self._pixel_size, self._promised, self._mode = box, pixel_size, count, mode
        self._dtype = np.dtype(_DTYPES[mode]).newbyteorder("<")
        self._count, self._low, self._high = 0, np.inf, -np.inf
        self._mean, self._squares = 0.0, 0.0  # of all pixels so far: mean, sum of squared deviations from it
        self._open_files = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._file = opened.enter_context(opened.enter_context(replacing(self.path)).open("wb"))
            self._file.write(bytes(_HEADER_BYTES))
            self._open_files = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._open_files.__exit__(kind, error, trace)
            return
        with self._open_files:
            if self._count == 0 or self._promised not in (None, self._count):
                raise ValueError(f"{self.path}: expected {self._promised or 'some'} images, were given {self._count}")
            self._file.seek(0)
            self._file.write(self._header().tobytes())

    def write(self, images: Float[np.ndarray, "images box box"]) -> None:
        """Append images.

        Raises
        ------
        ValueError
            If they are of another size, or a pixel is NaN, infinite, or beyond the range of float16.
        """
        if images.shape[1:] != (self._box, self._box):
            raise ValueError(f"{self.path}: expected images of side {self._box}, were given {images.shape[1:]}")
        if len(images) == 0:
            return
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(images, dtype=self._dtype)
        low, high = float(stored.min()), float(stored.max())
        if not np.isfinite([low, high]).all():
            wrong = self._count + int(np.argmin(np.isfinite(stored).all(axis=(1, 2))))
            raise ValueError(
                f"{self.path}: image {wrong} (from 0) has a pixel that is not finite as {self._dtype.name}"
            )
        self._low, self._high = min(self._low, low), max(self._high, high)
        for image in stored:
            self._gather_moments(image.astype(np.float32, copy=False).reshape(-1))
        self._file.write(stored.data)

    def _gather_moments(self, pixels: np.ndarray) -> None:
        """Merge one image's moments into the running ones (Chan et al. 1983); how they are batched does not matter."""
        before, new = self._count * pixels.size, pixels.size
        rough = pixels.mean()
        centered = pixels - rough
        rest = float(centered.mean())
        step = float(rough) + rest - self._mean
        self._mean += step * new / (before + new)
        self._squares += float(centered @ centered) - new * rest**2 + step**2 * before * new / (before + new)
        self._count += 1

    def _header(self) -> np.ndarray:
        header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
        side = self._box * self._pixel_size
        fields = {
            **{"nx": self._box, "ny": self._box, "nz": self._count, "mode": self._mode},
            **{"mx": self._box, "my": self._box, "mz": 1, "ispg": 0},  # space group 0: a stack of images
            **{"cella": (side, side, self._pixel_size), "cellb": (90, 90, 90), "mapc": 1, "mapr": 2, "maps": 3},
            **{"dmin": self._low, "dmax": self._high, "dmean": self._mean},
            **{"rms": (self._squares / (self._count * self._box**2)) ** 0.5, "nversion": 20141},
            **{"map": b"MAP ", "machst": (0x44, 0x44, 0, 0), "nlabl": 1},
        }
        for name, value in fields.items():
            header[name] = value
        header["label"][0] = b"Written by cryoatom"
        return header
