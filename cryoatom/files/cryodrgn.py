"""cryoDRGN's pose.pkl and ctf.pkl: arrays in the order of the images, without a name among them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from cryoatom.files.optics import make_optics
from cryoatom.files.pickles import read_numpy_pickle
from cryoatom.files.pose_conventions import convert_poses
from cryoatom.files.sources import OpticsGroups, common_value
from cryoatom.records import Optics, Poses

logger = logging.getLogger(__name__)

_LABELS = {  # columns from the third on, in order
    "defocus_u": "column 3 (defocus U, Å)",
    "defocus_v": "column 4 (defocus V, Å)",
    "defocus_angle": "column 5 (defocus angle, degrees)",
    "voltage_kv": "column 6 (voltage, kV)",
    "cs_mm": "column 7 (spherical aberration, mm)",
    "amplitude_contrast": "column 8 (amplitude contrast)",
    "phase_shift": "column 9 (phase shift, degrees)",
}


@dataclass(frozen=True)
class CryodrgnPoses:
    """Rotation matrices (n, 3, 3), and shifts (n, 2) as fractions of the box."""

    source: Path
    rotations: np.ndarray
    shifts: np.ndarray
    names: None = None
    uids: None = None

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, rows: np.ndarray) -> Self:
        return replace(self, rotations=self.rotations[rows], shifts=self.shifts[rows])

    def poses(self, pixel_size: float, box: int) -> Poses:
        """Return the poses."""
        return convert_poses(self.source, "cryodrgn", self.rotations, self.shifts, box * pixel_size)


@dataclass(frozen=True)
class CryodrgnOptics:
    """CTF parameters (n, 9): box, Å per pixel, defocus U, V, angle, voltage, aberration, contrast, phase shift."""

    source: Path
    columns: np.ndarray
    names: None = None
    uids: None = None

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, rows: np.ndarray) -> Self:
        return replace(self, columns=self.columns[rows])

    def pixel_size(self, box: int) -> float:
        """Return the Å per pixel of images of side `box`, after downsampling where the file has another box.

        That keeps the side in Å, as cryoDRGN does (``load_ctf_for_training``).
        """
        sides = common_value(self.source, self.columns[:, 0], "box sizes", "pixels")
        size = common_value(self.source, self.columns[:, 1], "pixel sizes", "Å")
        if round(sides) != box:
            logger.warning(
                "%s is of boxes of %g pixels of %g Å, the images have %d: taken as downsampled, to pixels of %g Å",
                *(self.source, sides, size, box, size * sides / box),
            )
        return size * sides / box

    def optics(self, amplitude_contrast: float | None = None) -> Optics:
        """Return the CTF parameters; a phase shift of NaN, which cryoDRGN writes for an absent one, is 0."""
        values: dict[str, np.ndarray] = dict(zip(_LABELS, self.columns[:, 2:].T, strict=True))
        absent = int(np.isnan(values["phase_shift"]).sum())
        if absent:
            logger.info("%s: no phase shift for %d particles, taken as 0", self.source, absent)
        values["phase_shift"] = np.deg2rad(np.nan_to_num(values["phase_shift"], nan=0.0, posinf=np.inf, neginf=-np.inf))
        values["defocus_angle"] = np.deg2rad(values["defocus_angle"])
        return make_optics(self.source, values, _LABELS, amplitude_contrast)

    def groups(self) -> OpticsGroups:
        """Return groups of equal voltage, aberration and amplitude contrast."""
        of_particle = np.unique(self.columns[:, 5:8], axis=0, return_inverse=True)[1]
        return OpticsGroups(of_particle.reshape(-1).astype(np.int64))


def open_cryodrgn_poses(path: Path, datadir: Path | None = None) -> CryodrgnPoses:
    """Read pose.pkl: (rotations, shifts), or rotations alone.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it holds anything else.
    """
    content = read_numpy_pickle(path)
    parts = content if isinstance(content, tuple | list) else (content,)
    if len(parts) not in (1, 2) or not all(isinstance(part, np.ndarray) for part in parts):
        raise ValueError(f"{path}: expected (rotations, shifts) of cryoDRGN's pose.pkl, found {_describe(content)}")
    rotations = parts[0].astype(np.float64)
    if len(parts) == 1:
        logger.warning("%s has no shifts: particles are taken as centred", path)
    shifts = parts[1].astype(np.float64) if len(parts) == 2 else np.zeros((len(rotations), 2))
    if rotations.shape[1:] != (3, 3) or shifts.shape != (len(rotations), 2):
        raise ValueError(f"{path}: expected arrays of shapes (n, 3, 3) and (n, 2), found {_describe(content)}")
    return CryodrgnPoses(path, rotations, shifts)


def open_cryodrgn_optics(path: Path, datadir: Path | None = None) -> CryodrgnOptics:
    """Read ctf.pkl.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it holds anything else.
    """
    content = read_numpy_pickle(path)
    if not isinstance(content, np.ndarray) or content.ndim != 2 or content.shape[1] != 2 + len(_LABELS):
        raise ValueError(f"{path}: expected cryoDRGN's ctf.pkl, an array of shape (n, 9), found {_describe(content)}")
    return CryodrgnOptics(path, content.astype(np.float64))


def _describe(content: Any) -> str:
    if isinstance(content, np.ndarray):
        return f"an array of shape {content.shape}"
    if isinstance(content, tuple | list):
        return f"a {type(content).__name__} of {len(content)}: {', '.join(map(_describe, content[:4]))}"
    return repr(content)
