"""Poses of any program to cryoatom's: the one place that knows how others write rotations and shifts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from cryoatom.geometry import rotations_from_euler, rotations_from_vectors
from cryoatom.records import Poses

Convention = Literal["relion", "cryosparc", "cryodrgn"]

_ORTHONORMAL = 1e-3  # largest departure of R Rᵀ from 1: single precision has 1e-6, text of three decimals 1e-3


def convert_poses(
    source: Path,
    convention: Convention,
    orientations: np.ndarray,
    offsets: np.ndarray,
    unit: float | np.ndarray,
    names: np.ndarray | None = None,
) -> Poses:
    """Convert orientations and offsets of another program to R and t, image coordinates = (R x)_xy + t.

    All three programs store by how much an *image* is moved to bring its particle to the centre, so the particle lies
    at t = -offset. RELION: rlnOrigin (``obs_model.cpp``). cryoSPARC: its shift is what pyem's ``csparc2star`` copies to
    rlnOrigin with its sign, and cryoDRGN's ``parse_pose_csparc`` and ``parse_pose_star`` take both the same way, as
    ``trans``.

    Parameters
    ----------
    source : Path
        The file, for errors.
    convention : {'relion', 'cryosparc', 'cryodrgn'}
        What `orientations` are: (n, 3) angles rot, tilt, psi in degrees; (n, 3) rotation vectors whose matrix is the
        transpose of R; or (n, 3, 3) matrices R themselves.
    offsets : (n, 2) array
    unit : float or (n,) array
        Å for one unit of `offsets`: 1, the pixel size, or the side of the box.
    names : (n,) str, optional
        Image names, for errors.

    Raises
    ------
    ValueError
        For values that are not finite, and matrices that are no rotations.
    """
    _check_finite(source, orientations, "orientation", names)
    _check_finite(source, offsets, "shift", names)
    rotations = _ROTATIONS[convention](np.asarray(orientations, np.float64))
    _check_rotations(source, rotations, names)
    return Poses(rotations, -np.asarray(offsets, np.float64) * np.reshape(unit, (-1, 1)))


def _from_angles(angles: np.ndarray) -> np.ndarray:
    return rotations_from_euler(*angles.T)


def _unchanged(matrices: np.ndarray) -> np.ndarray:
    return matrices


_ROTATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relion": _from_angles,
    "cryosparc": rotations_from_vectors,
    "cryodrgn": _unchanged,
}


def _check_finite(source: Path, values: np.ndarray, what: str, names: np.ndarray | None) -> None:
    wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{source}: expected finite numbers, found the {what} {np.ravel(values[wrong[0]]).tolist()} for "
            f"{_describe(int(wrong[0]), names)}{_more(wrong)}"
        )


def _check_rotations(source: Path, rotations: np.ndarray, names: np.ndarray | None) -> None:
    departure = np.abs(rotations @ np.swapaxes(rotations, -1, -2) - np.eye(3)).max(axis=(-1, -2))
    wrong = np.flatnonzero(departure > _ORTHONORMAL)
    if len(wrong):
        raise ValueError(
            f"{source}: expected rotation matrices, found one whose rows are off by {departure[wrong[0]]:.3g} from "
            f"orthonormal for {_describe(int(wrong[0]), names)}{_more(wrong)}"
        )
    mirrored = np.flatnonzero(np.linalg.det(rotations) < 0)
    if len(mirrored):
        raise ValueError(
            f"{source}: expected rotation matrices, found a reflection (determinant -1) for "
            f"{_describe(int(mirrored[0]), names)}{_more(mirrored)}: were the poses mirrored to change the hand?"
        )


def _describe(row: int, names: np.ndarray | None) -> str:
    return f"row {row} (from 0)" if names is None else str(names[row])


def _more(rows: np.ndarray) -> str:
    return f" and {len(rows) - 1} more" if len(rows) > 1 else ""
