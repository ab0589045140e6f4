"""Rotations: the few closed forms that every layer shares. RELION's angles and cryoSPARC's vectors are defined here."""

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


def rotations_from_vectors(vectors: np.ndarray) -> np.ndarray:
    """Turn cryoSPARC's rotation vectors into rotation matrices.

    R is the transpose of the vector's matrix exponential (pyem ``geom.expmap``, cryoDRGN ``parse_pose_csparc``).

    Parameters
    ----------
    vectors : (n, 3) array
        Axis times angle, radians.

    Returns
    -------
    (n, 3, 3) float64 array
    """
    return np.swapaxes(Rotation.from_rotvec(vectors.astype(np.float64)).as_matrix(), -1, -2)


def vectors_from_rotations(rotations: np.ndarray) -> np.ndarray:
    """Invert :func:`rotations_from_vectors`: (n, 3) float64, of length at most pi."""
    return Rotation.from_matrix(np.swapaxes(rotations, -1, -2)).as_rotvec()


def rounded_rotations(rotations: np.ndarray) -> np.ndarray:
    """Return the rotations of a fixed grid that are nearest: within 3e-6 degrees, and the same when rounded again.

    Quaternions, divided by their largest component, are rounded to multiples of 2^-26. Nearly equal matrices, of
    whatever computation, become equal ones; rounded entries would be no rotation any more.

    Parameters
    ----------
    rotations : (n, 3, 3) array

    Returns
    -------
    (n, 3, 3) float64 array
        Orthonormal in double precision.
    """
    quaternions = Rotation.from_matrix(rotations).as_quat()
    largest = np.abs(quaternions).argmax(axis=1)
    ratios = quaternions / np.take_along_axis(quaternions, largest[:, None], axis=1)
    return Rotation.from_quat(np.round(ratios * 2**26) / 2**26).as_matrix()


def random_rotations(count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw (count, 3, 3) rotations from the Haar measure on SO(3)."""
    quaternions = generator.standard_normal((count, 4))
    return Rotation.from_quat(quaternions).as_matrix()
