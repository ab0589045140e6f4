"""What a file can say of particles: where images are, how they were taken, how they are posed."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np

from cryoatom.geometry import rounded_rotations
from cryoatom.records import Optics, Particles, Poses

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """Where n images are: fields of :class:`cryoatom.records.Particles`."""

    stacks: tuple[Path, ...]
    stack_of_image: np.ndarray
    slice_of_image: np.ndarray
    box: int


@dataclass(frozen=True)
class OpticsGroups:
    """The zero-based optics group of each particle, and the groups' names."""

    of_particle: np.ndarray
    names: tuple[str, ...] | None = None


@runtime_checkable
class Rows(Protocol):
    """Rows of a file, one a particle; `names` and `uids` say which, None where the file does not."""

    @property
    def source(self) -> Path:
        """The file."""
        ...

    @property
    def names(self) -> np.ndarray | None:
        """Image names, (n,) str."""
        ...

    @property
    def uids(self) -> np.ndarray | None:
        """Numbers that a particle keeps, (n,) uint64."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, rows: np.ndarray) -> Self: ...


@runtime_checkable
class OpticsSource(Rows, Protocol):
    """Rows with CTF parameters."""

    def optics(self, amplitude_contrast: float | None = None) -> Optics:
        """Return the CTF parameters; an amplitude contrast that is given goes before the file's."""
        ...

    def pixel_size(self, box: int) -> float | None:
        """Return the Å per pixel of images of side `box`; None where the file does not say."""
        ...

    def groups(self) -> OpticsGroups | None:
        """Return the optics groups; None where the file does not say."""
        ...


@runtime_checkable
class PoseSource(Rows, Protocol):
    """Rows with poses."""

    def poses(self, pixel_size: float, box: int) -> Poses | None:
        """Return the poses; None where the file has none."""
        ...


@runtime_checkable
class ImageSource(OpticsSource, PoseSource, Protocol):
    """Rows that name images."""

    def places(self, datadir: Path | None) -> Places:
        """Find the images."""
        ...


def assemble(
    images: ImageSource,
    optics: OpticsSource,
    poses: PoseSource,
    *,
    datadir: str | os.PathLike | None = None,
    amplitude_contrast: float | None = None,
) -> Particles:
    """Put the parts of a data set together, of the same particles in the same order.

    Numbers are rounded to single precision, here and nowhere else, and stay float64: a .cs file holds no more, and so
    the same data give the same bits from any format. Angles of the CTF are rounded in degrees, as cryoDRGN writes
    them; rotations as :func:`cryoatom.geometry.rounded_rotations` says, which keeps them rotations; and what a file
    holds in pixels is multiplied by the rounded pixel size.

    Raises
    ------
    FileNotFoundError, ValueError
        With the file, what was expected and what was found.
    """
    assert len(images) == len(optics) == len(poses)
    parameters = optics.optics(amplitude_contrast)
    places = images.places(None if datadir is None else Path(datadir))
    pixel_size = _pixel_size(images, optics, places.box)
    posed = poses.poses(pixel_size, places.box)
    groups = images.groups() or optics.groups() or OpticsGroups(np.zeros(len(images), np.int64))
    names = images.names
    assert names is not None
    return Particles(
        source=images.source,
        image_names=names,
        stacks=places.stacks,
        stack_of_image=places.stack_of_image,
        slice_of_image=places.slice_of_image,
        box=places.box,
        pixel_size=pixel_size,
        optics=_rounded_optics(parameters),
        optics_group=groups.of_particle,
        poses=None if posed is None else Poses(rounded_rotations(posed.rotations), _single(posed.shifts)),
        optics_group_names=groups.names,
        uids=images.uids,
    )


def _pixel_size(images: ImageSource, optics: OpticsSource, box: int) -> float:
    own, other = images.pixel_size(box), optics.pixel_size(box)
    size = other if own is None else own
    if size is None:
        raise ValueError(
            f"{images.source} has no pixel size: expected rlnImagePixelSize (RELION 3.1 and later), or "
            "rlnDetectorPixelSize and rlnMagnification (3.0), or blob/psize_A (.cs); give a file that has it "
            "with --ctf (cryoDRGN's ctf.pkl does, too)"
        )
    if other is not None and abs(other / size - 1) > 1e-3:
        logger.warning(
            "%s: pixels of %g Å; those of %s would be %g Å, and are not used", images.source, size, optics.source, other
        )
    return float(np.float32(size))


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64) + 0.0  # no -0.0


def _rounded_optics(optics: Optics) -> Optics:
    return Optics(
        voltage_kv=_single(optics.voltage_kv),
        cs_mm=_single(optics.cs_mm),
        amplitude_contrast=_single(optics.amplitude_contrast),
        defocus_u=_single(optics.defocus_u),
        defocus_v=_single(optics.defocus_v),
        defocus_angle=np.deg2rad(_single(np.rad2deg(optics.defocus_angle))),
        phase_shift=np.deg2rad(_single(np.rad2deg(optics.phase_shift))),
    )


def common_value(source: Path, values: np.ndarray, what: str, unit: str, groups: np.ndarray | None = None) -> float:
    """Return the one positive value of all particles.

    Raises
    ------
    ValueError
        Where there are several; with the `groups`, one name per particle, that have each.
    """
    if not (values > 0).all():
        raise ValueError(f"{source}: expected positive {what}, found {values.min():g} {unit}")
    if np.allclose(values, values[0], rtol=1e-4, atol=0):
        return float(np.median(values))
    found = []
    for value in np.unique(values)[:10]:
        has = values == value
        who = f"{has.sum()} particles" if groups is None else ", ".join(np.unique(groups[has]))
        found.append(f"{value:g} {unit} ({who})")
    raise ValueError(f"{source} mixes {what}: {'; '.join(found)}; bring the images to one, or use one group by --ind")
