"""Frozen records that flow between the layers. NumPy only: importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np

SubsetIndex = np.ndarray | slice


@dataclass(frozen=True)
class Optics:
    """Contrast-transfer parameters of n particles, one array entry per particle.

    Parameters
    ----------
    voltage_kv, cs_mm, amplitude_contrast : (n,) float64
        Acceleration voltage, spherical aberration, fraction of amplitude contrast.
    defocus_u, defocus_v : (n,) float64
        Defocus along the two principal axes, Å, positive for underfocus.
    defocus_angle, phase_shift : (n,) float64
        Direction of `defocus_u` from the x axis, and phase-plate shift; radians.
    """

    voltage_kv: np.ndarray
    cs_mm: np.ndarray
    amplitude_contrast: np.ndarray
    defocus_u: np.ndarray
    defocus_v: np.ndarray
    defocus_angle: np.ndarray
    phase_shift: np.ndarray

    def __len__(self) -> int:
        return len(self.voltage_kv)

    def __getitem__(self, index: SubsetIndex) -> Self:
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def as_array(self) -> np.ndarray:
        """Return the parameters as one (n, 7) float64 array, columns in field order."""
        return np.stack([getattr(self, f.name) for f in fields(self)], axis=1)


@dataclass(frozen=True)
class Poses:
    """Rigid placements of n particles.

    Parameters
    ----------
    rotations : (n, 3, 3) float64
        R, template frame to microscope frame, on column vectors; projection is along z.
    shifts : (n, 2) float64
        t in Å: image coordinates of a point x are (R x)_xy + t.
    """

    rotations: np.ndarray
    shifts: np.ndarray

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, index: SubsetIndex) -> Self:
        return replace(self, rotations=self.rotations[index], shifts=self.shifts[index])


@dataclass(frozen=True)
class Particles:
    """The particles of one file: where each image is, how it was taken, how it is posed.

    Parameters
    ----------
    source : Path
        The particle file.
    image_names : (n,) str
        Image names as the file has them (``000001@Extract/job007/a.mrcs``).
    stacks : tuple of Path
        The stack files, resolved, each existing.
    stack_of_image, slice_of_image : (n,) int64
        Index into `stacks`, and the zero-based section within that stack.
    box : int
        Image side in pixels.
    pixel_size : float
        Å.
    optics : Optics
    optics_group : (n,) int64
        Zero-based optics group of each particle.
    poses : Poses or None
        None where the file has no orientations.
    optics_group_names : tuple of str, optional
        Names of the optics groups, by their number.
    uids : (n,) uint64, optional
        cryoSPARC's numbers of the particles.
    """

    source: Path
    image_names: np.ndarray
    stacks: tuple[Path, ...]
    stack_of_image: np.ndarray
    slice_of_image: np.ndarray
    box: int
    pixel_size: float
    optics: Optics
    optics_group: np.ndarray
    poses: Poses | None
    optics_group_names: tuple[str, ...] | None = None
    uids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_names)

    def __getitem__(self, index: SubsetIndex) -> Self:
        return replace(
            self,
            image_names=self.image_names[index],
            stack_of_image=self.stack_of_image[index],
            slice_of_image=self.slice_of_image[index],
            optics=self.optics[index],
            optics_group=self.optics_group[index],
            poses=None if self.poses is None else self.poses[index],
            uids=None if self.uids is None else self.uids[index],
        )


@dataclass(frozen=True)
class Atoms:
    """Atoms in file order, one array entry per atom (elements are right also for files without an element column).

    Parameters
    ----------
    names, elements, residue_names, chain_ids, insertion_codes, altlocs : (atoms,) str
        Elements capitalised as in the periodic table ('C', 'Zn'); blanks are ''.
    residue_numbers : (atoms,) int64
        Author numbering.
    positions : (atoms, 3) float64
        Å.
    b_factors, occupancies : (atoms,) float64
    """

    names: np.ndarray
    elements: np.ndarray
    residue_names: np.ndarray
    chain_ids: np.ndarray
    residue_numbers: np.ndarray
    insertion_codes: np.ndarray
    altlocs: np.ndarray
    positions: np.ndarray
    b_factors: np.ndarray
    occupancies: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SubsetIndex) -> Self:
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})
