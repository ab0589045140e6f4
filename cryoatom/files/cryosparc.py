"""cryoSPARC particle files: .cs, a structured numpy array with one record per particle."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from cryoatom.files.cryosparc_alignments import best_alignments
from cryoatom.files.locate import locate_stacks
from cryoatom.files.mrc import open_stack
from cryoatom.files.npy import read_npy
from cryoatom.files.optics import make_optics
from cryoatom.files.pose_conventions import convert_poses
from cryoatom.files.sources import OpticsGroups, Places, common_value
from cryoatom.records import Optics, Poses

logger = logging.getLogger(__name__)

_COMPRESSED = b"\x94CSDAT"
_LONGEST_HEADER = 1_000_000  # a job of 100 classes has 70 kB of field names; numpy's limit is 10 kB
_CTF_FIELDS = {
    "voltage_kv": "ctf/accel_kv",
    "cs_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "defocus_u": "ctf/df1_A",
    "defocus_v": "ctf/df2_A",
    "defocus_angle": "ctf/df_angle_rad",
    "phase_shift": "ctf/phase_shift_rad",
}
_MAY_MISS = ("amplitude_contrast", "phase_shift")
_NOT_MODELLED = {  # by field, the values that change nothing
    **dict.fromkeys(("ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/shift_A", "ctf/bfactor"), ((0.0,),)),
    "ctf/anisomag": ((0.0,), (1.0, 0.0, 0.0, 1.0)),
    "ctf/scale": ((0.0,), (1.0,)),
}


@dataclass(frozen=True)
class CryosparcParticles:
    """The particles of a .cs file; each part is read, and checked, when it is asked for."""

    source: Path
    records: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows: np.ndarray) -> Self:
        return replace(self, records=self.records[rows])

    def __contains__(self, field: str) -> bool:
        return field in (self.records.dtype.names or ())

    @property
    def uids(self) -> np.ndarray | None:
        """Numbers that a particle keeps through all jobs."""
        return self.records["uid"].astype(np.uint64) if "uid" in self else None

    @property
    def names(self) -> np.ndarray | None:
        """Image names as RELION has them, counted from 1."""
        return self._names

    @cached_property
    def _names(self) -> np.ndarray | None:
        if "blob/path" not in self or "blob/idx" not in self:
            return None
        of_image, paths = self._paths
        slices = self.records["blob/idx"].astype(np.int64) + 1
        return np.array([f"{n:06d}@{paths[i]}" for n, i in zip(slices.tolist(), of_image.tolist(), strict=True)])

    @cached_property
    def _paths(self) -> tuple[np.ndarray, list[str]]:
        """Return the stack of each image, and the stacks' names without cryoSPARC's mark of the project folder, '>'."""
        of_image, paths = pd.factorize(self.records["blob/path"].astype(object))
        texts = [path.decode("utf-8", "replace") if isinstance(path, bytes) else str(path) for path in paths.tolist()]
        return of_image.astype(np.int64), [text.removeprefix(">") for text in texts]

    def places(self, datadir: Path | None) -> Places:
        """Find the images, in the project folder where the file lies in it."""
        self._need(("blob/path", "blob/idx"), "give the job's particles.cs as the particle file, and this one with")
        self._check_sign()
        of_image, paths = self._paths
        stacks = locate_stacks(paths, self.source, datadir)
        if "blob/shape" not in self:
            return Places(stacks, of_image, self.records["blob/idx"].astype(np.int64), open_stack(stacks[0]).box)
        shapes = self.records["blob/shape"].astype(np.float64)
        if (shapes[:, 0] != shapes[:, 1]).any():
            raise ValueError(f"{self.source}: expected square images, found a blob/shape of {shapes[0].tolist()}")
        box = round(common_value(self.source, shapes[:, 0], "box sizes", "pixels", self._group_names()))
        return Places(stacks, of_image, self.records["blob/idx"].astype(np.int64), box)

    def pixel_size(self, box: int) -> float | None:
        """Return the Å per pixel; `box` says nothing."""
        if "blob/psize_A" not in self:
            return None
        sizes = self.records["blob/psize_A"].astype(np.float64)
        return common_value(self.source, sizes, "pixel sizes", "Å", self._group_names())

    def optics(self, amplitude_contrast: float | None = None) -> Optics:
        """Return the CTF parameters; a missing phase shift is 0."""
        self._need([field for name, field in _CTF_FIELDS.items() if name not in _MAY_MISS], "give that file with")
        self._warn_of_ignored_optics()
        values = {name: self.records[field].astype(np.float64) for name, field in _CTF_FIELDS.items() if field in self}
        return make_optics(self.source, values, _CTF_FIELDS, amplitude_contrast)

    def groups(self) -> OpticsGroups | None:
        """Return cryoSPARC's exposure groups."""
        if "ctf/exp_group_id" not in self:
            return None
        groups, of_particle = np.unique(self.records["ctf/exp_group_id"], return_inverse=True)
        return OpticsGroups(of_particle.reshape(-1).astype(np.int64), tuple(f"exposureGroup{g}" for g in groups))

    def poses(self, pixel_size: float, box: int) -> Poses | None:
        """Return the poses, of each particle's most probable class where there are several.

        Shifts are in pixels of the alignment, which may be larger than the images' (a binned refinement).
        """
        found = best_alignments(self.source, self.records)
        if found is None:
            return None
        unit = pixel_size if found.pixel_sizes is None else found.pixel_sizes
        unit = np.where(np.greater(unit, 0), unit, pixel_size)
        return convert_poses(self.source, "cryosparc", found.vectors, found.shifts, unit, self.names)

    def _group_names(self) -> np.ndarray | None:
        groups = self.groups()
        return None if groups is None else np.array(groups.names)[groups.of_particle]

    def _need(self, fields: tuple[str, ...] | list[str], way_out: str) -> None:
        missing = [field for field in fields if field not in self]
        if missing:
            option = "--ctf or --poses" if "blob/path" in fields else "--ctf"
            raise ValueError(
                f"{self.source} has no {', '.join(missing)}: cryoSPARC keeps what a job did not change in the job's "
                f"other file, passthrough_particles.cs; {way_out} {option}"
            )

    def _check_sign(self) -> None:
        if "blob/sign" not in self:
            return
        signs = np.unique(np.sign(self.records["blob/sign"]))
        if len(signs) > 1:
            raise ValueError(
                f"{self.source} mixes images of both contrasts (blob/sign {signs.tolist()}): use those of one by --ind"
            )
        if signs[0] > 0:
            logger.warning(
                "%s: cryoSPARC took these images as light protein on dark (blob/sign is 1): if that is true, "
                "train with --uninvert-data",
                self.source,
            )

    def _warn_of_ignored_optics(self) -> None:
        """Log which aberrations the file has that the image model lacks, with their largest value."""
        for field, neutrals in _NOT_MODELLED.items():
            if field not in self:
                continue
            values = np.nan_to_num(self.records[field].astype(np.float64)).reshape(len(self), -1)
            departure = np.min([np.abs(values - np.array(neutral)).max(axis=1) for neutral in neutrals], axis=0)
            if departure.max(initial=0) > 1e-6:
                row = values[int(departure.argmax())]
                largest = row[np.abs(row).argmax()]
                logger.warning("%s: %s is up to %g; cryoatom does not model it", self.source, field, largest)


def open_cryosparc(path: Path, datadir: Path | None = None) -> CryosparcParticles:
    """Read a .cs file; `datadir` is not needed for that.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no structured numpy array, or has no particles.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no particle file {path}")
    with path.open("rb") as file:
        if file.read(len(_COMPRESSED)) == _COMPRESSED:
            raise ValueError(
                f"{path} is in cryoSPARC's compressed format: write it as numpy with cryosparc-tools, "
                "Dataset.load(path).save(other)"
            )
    try:
        records = read_npy(path, _LONGEST_HEADER)
    except ValueError as error:
        raise ValueError(f"{path} is not a .cs file that can be read: {error}") from None
    if records.ndim != 1 or records.dtype.names is None:
        raise ValueError(f"{path} is not a .cs file: expected records, found {records.dtype} of shape {records.shape}")
    if len(records) == 0:
        raise ValueError(f"{path} has no particles")
    if not {"uid", "blob/path"} & set(records.dtype.names):
        raise ValueError(f"{path} has neither uid nor blob/path, so its rows are nobody's: is it of particles?")
    return CryosparcParticles(path, records)
