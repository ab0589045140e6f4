"""Rotations: the few closed forms that every layer shares. RELION's Euler angles are defined here and nowhere else."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.spatial.transform import Rotation


def rotations_from_euler(rot_deg: np.ndarray, tilt_deg: np.ndarray, psi_deg: np.ndarray) -> np.ndarray:
    """Turn RELION angles into rotation matrices.

    R is the transpose of the intrinsic ZYZ matrix of (rot, tilt, psi), so that (R x)_xy are image coordinates of a
    point x of the map (RELION ``Euler_angles2matrix``).

    Parameters
    ----------
    rot_deg, tilt_deg, psi_deg : (n,) array
        Degrees.

    Returns
    -------
    (n, 3, 3) float64 array
    """
    angles = np.stack([rot_deg, tilt_deg, psi_deg], axis=-1).astype(np.float64)
    return np.swapaxes(Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix(), -1, -2)


def euler_from_rotations(rotations: np.ndarray) -> np.ndarray:
    """Invert :func:`rotations_from_euler`.

    Parameters
    ----------
    rotations : (n, 3, 3) array

    Returns
    -------
    (n, 3) float64 array
        (rot, tilt, psi) in degrees. At tilt 0 or 180 rot and psi are not unique: psi is taken as 0.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gimbal lock")
        return Rotation.from_matrix(np.swapaxes(rotations, -1, -2)).as_euler("ZYZ", degrees=True)


def random_rotations(count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw (count, 3, 3) rotations from the Haar measure on SO(3)."""
    quaternions = generator.standard_normal((count, 4))
    return Rotation.from_quat(quaternions).as_matrix()
