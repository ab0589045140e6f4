"""What is evaluated: one conformation per image, the template they began from, and their latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import Template, read_template

RESIDUES_AT_ONCE = 2**20


@dataclass(frozen=True)
class Predictions:
    """One conformation per image.

    Parameters
    ----------
    conformations : (images, residues, 3) float
        C-alphas, Å; may be mapped into memory.
    template : Template
        Of the same residues.
    latents : (images, latent) float or None
    """

    conformations: np.ndarray
    template: Template
    latents: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.conformations)

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all conformations as float64 tensors, some at a time.

        Raises
        ------
        ValueError
            When a conformation is not finite; names its image.
        """
        at_once = self._images_at_once()
        for start in range(0, len(self), at_once):
            rows = slice(start, min(start + at_once, len(self)))
            yield rows, self._load(rows)

    def chunks_of(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield the conformations of some images, a part of the rows at a time."""
        at_once = self._images_at_once()
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            yield some, self._load(some)

    def take(self, rows: np.ndarray) -> Tensor:
        """Return the conformations of some images as (rows, residues, 3) float64."""
        return self._load(rows)

    def _images_at_once(self) -> int:
        return max(1, RESIDUES_AT_ONCE // self.conformations.shape[1])

    def _load(self, rows: slice | np.ndarray) -> Tensor:
        block = np.array(self.conformations[rows], dtype=np.float64)
        is_finite = np.isfinite(block).all(axis=(1, 2))
        if not is_finite.all():
            image = np.arange(len(self))[rows][~is_finite][0]
            raise ValueError(f"the conformation of image {image} (counted from 0) has positions that are not finite")
        return torch.from_numpy(block)


def read_predictions(
    run: Path | None, *, conformations: Path | None = None, template: Path | None = None
) -> Predictions:
    """Read a run folder, or a file of conformations and its template.

    Raises
    ------
    FileNotFoundError, ValueError
        When neither or both are given, a file is missing or cannot be read, or two of them do not fit; names both
        numbers.
    """
    latents = None
    if run is None:
        if conformations is None or template is None:
            raise ValueError("nothing to evaluate: give a run folder, or --predictions and --template")
    elif conformations is not None or template is not None:
        raise ValueError("a run folder has its own conformations and template: drop --predictions and --template")
    else:
        folder = RunFolder(run)
        if not run.is_dir():
            raise FileNotFoundError(f"no run folder {run}")
        if not folder.conformations.is_file():
            raise FileNotFoundError(f"{folder.conformations} does not exist: has the training ended? See {folder.log}")
        conformations, template, latents = folder.conformations, folder.template, folder.latents()
    array, protein = _read_conformations(conformations), read_template(template)[0]
    if array.shape[1] != len(protein):
        raise ValueError(f"{conformations} has {array.shape[1]} residues, the template {template} {len(protein)}")
    return Predictions(array, protein, None if latents is None else _read_latents(latents, len(array)))


def _read_conformations(path: Path) -> np.ndarray:
    """Map an .npy file of (images, residues, 3) floats into memory."""
    array = _map_array(path)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind != "f":
        raise ValueError(
            f"{path}: expected floats of shape (images, residues, 3), found {array.dtype} of shape {array.shape}"
        )
    if len(array) == 0:
        raise ValueError(f"{path} holds no conformations")
    return array


def _read_latents(path: Path, images: int) -> np.ndarray | None:
    """Map (images, latent) floats into memory; None where there is no such file."""
    if not path.is_file():
        return None
    array = _map_array(path)
    if array.ndim != 2 or len(array) != images:
        raise ValueError(f"{path} has shape {array.shape}, expected one row for each of {images} images")
    return array


def _map_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npy array: {error}") from None
