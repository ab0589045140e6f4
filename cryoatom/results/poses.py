"""Poses of a run against true ones, whatever frames of their own its conformations have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.particles.table import read_particles
from cryoatom.records import Particles, Poses
from cryoatom.results.predictions import Predictions
from cryoatom.rotations import rotation_angle
from cryoatom.run_folder import RunFolder
from cryoatom.structure.superpose import kabsch

Key = tuple[str, int]


@dataclass(frozen=True)
class PosePairs:
    """Poses found and true, one of each per image, in the order of the run.

    Parameters
    ----------
    found, true : Poses
    notes : tuple of str
        How images were matched, where that needed a decision.
    """

    found: Poses
    true: Poses
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.found)

    def mirrored(self) -> PosePairs:
        """Return the same with the true poses of the mirrored molecule, x -> -x: R -> diag(-1, -1, 1) R.

        The mirrored molecule in the mirrored pose has the same projection along z.
        """
        rotations = self.true.rotations * np.array([-1.0, -1.0, 1.0])[:, None]
        return PosePairs(self.found, Poses(rotations, self.true.shifts), self.notes)


def read_pose_pairs(run: Path, true_poses: Path, images: int, *, datadir: Path | None = None) -> PosePairs:
    """Read the poses of a run and the true ones of the same images.

    Parameters
    ----------
    run : Path
        A run folder.
    true_poses : Path
        A particle file; may have more images than the run.
    images : int
        How many the run has.
    datadir : Path, optional
        Where the image stacks are.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file is missing, has no orientations, or is of other images.
    """
    path = RunFolder(run).poses
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: has the training ended? See {RunFolder(run).log}")
    found, true = (read_particles(source, datadir=datadir) for source in (path, true_poses))
    if len(found) != images:
        raise ValueError(f"{path} has {len(found)} images, the run {images} conformations")
    for particles in (found, true):
        if particles.poses is None:
            raise ValueError(f"{particles.source} has no orientations (rlnAngleRot, rlnAngleTilt, rlnAnglePsi)")
    index, notes = match_images(found, true)
    assert found.poses is not None and true.poses is not None
    return PosePairs(found.poses, true.poses[index], notes)


def match_images(found: Particles, true: Particles) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the row of `true` that is the image of each row of `found`.

    The same slice of the same stack file is the same image, and so is the same slice of a stack of the same name
    elsewhere. Where no image is matched by these, equally many are taken in order.

    Returns
    -------
    index : (images,) int64
    notes : tuple of str

    Raises
    ------
    ValueError
        When some images have no match, or none has and the numbers differ.
    """
    matched = 0
    for keys in (_places, _names):
        index = _find(keys, found, true)
        if (index >= 0).all():
            return index, ()
        matched = max(matched, int((index >= 0).sum()))
    counts = f"{found.source} has {len(found)} images, {true.source} {len(true)}"
    if matched or len(found) != len(true):
        raise ValueError(
            f"{counts}, and only {matched} are matched by image name, as {found.image_names[0]} and "
            f"{true.image_names[0]} are: the true poses must be of the same images"
        )
    return np.arange(len(found)), (f"no image of {true.source} is one of the run's by its name: taken in row order",)


def pose_errors(
    predictions: Predictions,
    frames: Float[Tensor, "frames residues 3"],
    labels: np.ndarray,
    poses: PosePairs,
    rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compare poses that belong to conformations in frames of their own.

    A conformation may be moved if its pose undoes the motion. So the prediction x̂ is superposed on the truth,
    A x̂ + b ≈ x, and its image coordinates R̂ x̂ + t̂ are written in the frame of the truth as R̂ Aᵀ x + t̂ - R̂ Aᵀ b.

    Parameters
    ----------
    predictions : Predictions
    frames : (frames, residues, 3) float64
        True conformations, Å.
    labels : (images,) int64
        The true frame of each image.
    poses : PosePairs
        True rotations R and shifts t beside R̂ and t̂.
    rows : (m,) int64, optional
        Some images; default all.

    Returns
    -------
    angle_deg : (m,) float64
        Of the rotation from R to R̂ Aᵀ.
    shift : (m,) float64
        |t̂ - (R̂ Aᵀ b)_xy - t|, Å: how far the origin of the truth lies from where it should in the image.
    """
    rows = np.arange(len(predictions)) if rows is None else rows
    angles, shifts = [], []
    for some, block in predictions.chunks_of(rows):
        motion, offset = kabsch(block, frames[torch.from_numpy(labels[some])])
        found, true = (_tensors(which[some]) for which in (poses.found, poses.true))
        rotation = found[0] @ motion.mT
        shift = found[1] - (rotation @ offset[..., None])[:, :2, 0]
        angles.append(torch.rad2deg(rotation_angle(rotation, true[0])))
        shifts.append((shift - true[1]).norm(dim=-1))
    return torch.cat(angles).numpy(), torch.cat(shifts).numpy()


def _tensors(poses: Poses) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(poses.rotations), torch.from_numpy(poses.shifts)


def _places(particles: Particles) -> list[Key]:
    """Return the stack file and slice of each image."""
    files = [str(path) for path in particles.stacks]
    return _keys(files, particles)


def _names(particles: Particles) -> list[Key]:
    """Return the name of the stack file without its folders, and the slice, of each image."""
    files = [path.name for path in particles.stacks]
    return _keys(files, particles)


def _keys(files: list[str], particles: Particles) -> list[Key]:
    images = zip(particles.stack_of_image.tolist(), particles.slice_of_image.tolist(), strict=True)
    return [(files[stack], number) for stack, number in images]


def _find(keys: Callable[[Particles], list[Key]], found: Particles, true: Particles) -> np.ndarray:
    """Return the row of `true` with the key of each row of `found`; -1 for none, or for all if keys are not unique."""
    known = keys(true)
    row_of = {key: row for row, key in enumerate(known)}
    if len(row_of) < len(known):
        return np.full(len(found), -1)
    return np.array([row_of.get(key, -1) for key in keys(found)])
