"""Trajectories: DCD, XTC, multi-model PDB/mmCIF and .npy to positions in Å; DCD written as a stream."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from cryoatom.files.npy import read_npy
from cryoatom.files.psf import read_psf
from cryoatom.files.replacing import replacing
from cryoatom.files.structure import MMCIF_SUFFIXES, PDB_SUFFIXES, format_suffix, read_atoms, read_models
from cryoatom.records import Atoms

ANGSTROM_PER_NM = 10.0
DCD_COMMENT = b"written by cryoatom"


@dataclass(frozen=True)
class Trajectory:
    """Frames of one molecule.

    Parameters
    ----------
    positions : (frames, atoms, 3) float32
        Å.
    atoms : Atoms or None
        Who the atoms are (their own positions are the topology's); None where neither the trajectory nor a topology
        says so.
    """

    positions: np.ndarray
    atoms: Atoms | None

    def __len__(self) -> int:
        return len(self.positions)


def read_trajectory(path: str | os.PathLike, topology: str | os.PathLike | None = None) -> Trajectory:
    """Read every frame of a trajectory.

    Parameters
    ----------
    path : path
        .dcd, .xtc, .npy (frames, atoms, 3; Å), or .pdb, .ent, .cif, .mmcif with one or several models (.gz too).
    topology : path, optional
        .psf, .pdb, .ent, .cif or .mmcif with the same atoms in the same order.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file is missing, damaged, of another kind, or the topology has another number of atoms.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"trajectory {path} does not exist")
    atoms = None
    suffix = format_suffix(path)
    if suffix in READERS:
        positions = READERS[suffix](path)
    elif suffix in PDB_SUFFIXES + MMCIF_SUFFIXES:
        atoms, models = read_models(path)
        positions = models.astype(np.float32)
    else:
        raise ValueError(f"{path}: expected a trajectory named .dcd, .xtc, .npy, .pdb or .cif, not {suffix!r}")
    if not len(positions):
        raise ValueError(f"{path} holds no frames")
    if not np.isfinite(positions).all():
        frame = np.flatnonzero(~np.isfinite(positions).all(axis=(1, 2)))[0]
        raise ValueError(f"{path}: frame {frame + 1} has positions that are not finite")
    if topology is not None:
        atoms = read_topology(topology)
        _check_counts(path, positions, Path(topology), atoms)
    return Trajectory(positions, atoms)


def read_topology(path: str | os.PathLike) -> Atoms:
    """Read the atoms of a topology: .psf (positions are zero), or a structure file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"topology {path} does not exist")
    if format_suffix(path) == ".psf":
        return read_psf(path)
    if format_suffix(path) in PDB_SUFFIXES + MMCIF_SUFFIXES:
        return read_atoms(path)
    raise ValueError(f"{path}: expected a topology named .psf, .pdb or .cif, not {format_suffix(path)!r}")


class DcdWriter:
    """Write a CHARMM-format DCD frame by frame; it takes its name when the block ends without an error.

    Parameters
    ----------
    path : path
    atoms : int
        Atoms in every frame.

    Examples
    --------
    >>> with DcdWriter("run/conformations.dcd", atoms=214) as writer:
    ...     writer.write(positions)
    """

    def __init__(self, path: str | os.PathLike, atoms: int) -> None:
        self._path = path
        self._atoms = atoms
        self._frames = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stream = stack.enter_context(open(stack.enter_context(replacing(self._path)), "wb"))
            self._stream.write(_dcd_header(0, self._atoms))
            self._stack = stack.pop_all()
        return self

    def write(self, positions: np.ndarray) -> None:
        """Append frames, (frames, atoms, 3) in Å."""
        frames = np.asarray(positions, dtype="<f4")
        if frames.ndim != 3 or frames.shape[1:] != (self._atoms, 3):
            raise ValueError(f"expected frames of shape (n, {self._atoms}, 3), found {frames.shape}")
        record = 4 * self._atoms
        table = np.empty((len(frames), 3, self._atoms + 2), dtype="<i4")
        table[:, :, [0, -1]] = record
        table[:, :, 1:-1] = np.ascontiguousarray(frames.transpose(0, 2, 1)).view("<i4")
        self._stream.write(table.tobytes())
        self._frames += len(frames)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                raise error
            self._stream.seek(0)
            self._stream.write(_dcd_header(self._frames, self._atoms))


def _dcd_header(frames: int, atoms: int) -> bytes:
    """Return the header of a CHARMM 24 DCD without unit cell: control block, title, atom count."""
    control = struct.pack("<4s9if10i", b"CORD", frames, 0, 1, frames, *[0] * 5, 1.0, *[0] * 9, 24)
    title = struct.pack("<i80s", 1, DCD_COMMENT.ljust(80))
    return b"".join(_record(block) for block in (control, title, struct.pack("<i", atoms)))


def _record(block: bytes) -> bytes:
    """Return a Fortran record: the block between its lengths."""
    length = struct.pack("<i", len(block))
    return length + block + length


def _read_dcd(path: Path) -> np.ndarray:
    from biotraj import DCDTrajectoryFile

    announced = _announced_frames(path)
    try:
        with DCDTrajectoryFile(str(path)) as stream:
            positions = stream.read()[0]
    except (OSError, RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"{path} is a DCD file without frames, or damaged: {error}") from error
    if len(positions) < announced:
        raise ValueError(
            f"{path} is cut short: its header announces {announced} frames, the file holds {len(positions)}; "
            "copy it again"
        )
    return positions


def _announced_frames(path: Path) -> int:
    """Return the frame count of a DCD header (0 where its writer never came to fill it in)."""
    with open(path, "rb") as stream:
        head = stream.read(16)
    for order in "<>":
        for layout in ("i4si", "q4si"):
            size = struct.calcsize(order + layout)
            if len(head) >= size:
                marker, magic, frames = struct.unpack(order + layout, head[:size])
                if (marker, magic) == (84, b"CORD"):
                    return frames
    raise ValueError(f"{path} is not a DCD file: its first record is no CORD header")


def _read_xtc(path: Path) -> np.ndarray:
    from biotraj import XTCTrajectoryFile

    try:
        with XTCTrajectoryFile(str(path)) as stream:
            return stream.read()[0] * np.float32(ANGSTROM_PER_NM)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable XTC file: {error}") from error


def _read_npy(path: Path) -> np.ndarray:
    try:
        positions = read_npy(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable .npy array: {error}") from error
    if positions.ndim != 3 or positions.shape[2] != 3 or positions.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected numbers of shape (frames, atoms, 3), found {positions.dtype} of {positions.shape}"
        )
    return positions.astype(np.float32)


def _check_counts(path: Path, positions: np.ndarray, topology: Path, atoms: Atoms) -> None:
    if len(atoms) != positions.shape[1]:
        raise ValueError(
            f"{path} has {positions.shape[1]} atoms a frame, the topology {topology} has {len(atoms)}; "
            "give the topology that the trajectory was written with"
        )


READERS = {".dcd": _read_dcd, ".xtc": _read_xtc, ".npy": _read_npy}
