"""The known truth: which conformations exist, residue by residue as in the template, and which image shows which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoatom.files.trajectory import Trajectory, read_trajectory
from cryoatom.structure.template import Template, template_from_atoms


@dataclass(frozen=True)
class GroundTruth:
    """True conformations.

    Parameters
    ----------
    positions : (frames, residues, 3) float32
        C-alphas of the template's residues, Å.
    notes : tuple of str
        How residues were matched, where that needed a decision.
    """

    positions: np.ndarray
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)


def read_ground_truth(path: Path, topology: Path | None, template: Template) -> GroundTruth:
    """Read a trajectory and pick the C-alphas of the template's residues.

    Parameters
    ----------
    path : Path
        As :func:`read_trajectory`. Where nothing names its atoms, it must have one per residue of the template: they
        are taken as C-alphas.
    topology : Path or None
    template : Template

    Raises
    ------
    FileNotFoundError, ValueError
        When a file cannot be read or the residues do not match; names both numbers.
    """
    trajectory = read_trajectory(path, topology)
    if trajectory.atoms is None:
        atoms = trajectory.positions.shape[1]
        if atoms != len(template):
            raise ValueError(
                f"{path} has {atoms} atoms a frame and no names, the template {len(template)} residues: without names "
                "there must be one C-alpha per residue; name the atoms with --gt-top (.psf, .pdb or .cif)"
            )
        return GroundTruth(trajectory.positions, ())
    truth, kept = _protein(trajectory, str(topology or path))
    index, notes = match_by_number(truth, template, str(path))
    return GroundTruth(trajectory.positions[:, kept[index]], notes)


def match_by_number(truth: Template, template: Template, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the residue of the truth for each residue of the template.

    Equally many residues are taken in order. More of them in the truth are matched by chain, number and insertion
    code, or by number and insertion code alone where the chains have other names and that is unique.

    Returns
    -------
    index : (residues,) int64
    notes : tuple of str

    Raises
    ------
    ValueError
        When the truth lacks residues of the template.
    """
    if len(truth) == len(template):
        index, notes = np.arange(len(template)), []
    elif len(truth) < len(template):
        raise ValueError(
            f"the template has {len(template)} residues, the ground truth {source} only {len(truth)}: choose those "
            "with `cryoatom template --residues` before training"
        )
    else:
        index = _index_by_number(truth, template, source)
        notes = [f"{len(template)} of the ground truth's {len(truth)} residues are matched: {_ranges(truth, index)}"]
    differing = np.flatnonzero(truth.residue_names[index] != template.residue_names)
    if len(differing):
        first = differing[0]
        notes.append(
            f"{len(differing)} of {len(template)} residues have another name in the ground truth, the first is "
            f"{template.residue_names[first]} {template.residue_numbers[first]} in the template and "
            f"{truth.residue_names[index[first]]} {truth.residue_numbers[index[first]]} in the ground truth"
        )
    return index, tuple(notes)


def read_labels(path: Path, images: int, frames: int) -> np.ndarray:
    """Read the zero-based true frame of each image.

    Parameters
    ----------
    path : Path
        .npy, or text with one number per line.
    images, frames : int
        How many there are.

    Returns
    -------
    (images,) int64

    Raises
    ------
    FileNotFoundError, ValueError
        When the file cannot be read, has another number of labels, or one of them is no frame.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of labels {path}")
    try:
        labels = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.array(path.read_text().split())
        numbers = labels.astype(np.int64)
        if numbers.ndim != 1 or (labels.dtype.kind not in "U" and (numbers != labels).any()):
            raise ValueError(f"found {labels.dtype} of shape {labels.shape}")
    except ValueError as error:
        raise ValueError(f"{path}: expected one zero-based frame number per image: {error}") from None
    check_labels(numbers, images, frames, str(path))
    return numbers


def check_labels(labels: np.ndarray, images: int, frames: int, source: str) -> None:
    """Raise ValueError unless there is one zero-based frame per image."""
    if len(labels) != images:
        raise ValueError(
            f"{source} has {len(labels)} labels, the run {images} images: there must be one label per image, in the "
            "order of the particle file (of the --ind rows alone, if the run used --ind)"
        )
    if labels.min() >= 1 and labels.max() == frames:
        raise ValueError(f"{source} counts frames from 1 (1 to {frames}): labels are zero-based, subtract 1")
    if labels.min() < 0 or labels.max() >= frames:
        raise ValueError(
            f"{source} has labels {labels.min()} to {labels.max()}, the ground truth has frames 0 to {frames - 1}"
        )


def _protein(trajectory: Trajectory, source: str) -> tuple[Template, np.ndarray]:
    """Return the protein of a trajectory and the atom index of each of its C-alphas."""
    assert trajectory.atoms is not None
    first = trajectory.positions[0].astype(np.float64)  # a PSF has no positions of its own
    truth, report = template_from_atoms(replace(trajectory.atoms, positions=first), source)
    return truth, report.kept[truth.atoms.names == "CA"]


def _index_by_number(truth: Template, template: Template, source: str) -> np.ndarray:
    has_chains = set(template.chain_ids.tolist()) <= set(truth.chain_ids.tolist())
    wanted, found = (_keys(residues, has_chains) for residues in (template, truth))
    if len(set(found)) < len(found):
        own, other = (", ".join(dict.fromkeys(residues.chain_ids.tolist())) for residues in (template, truth))
        raise ValueError(
            f"the template has {len(template)} residues in chains {own}, the ground truth {source} {len(truth)} in "
            f"chains {other}, and residue numbers alone are not unique there: name the chains alike"
        )
    place = {key: index for index, key in enumerate(found)}
    missing = [key for key in wanted if key not in place]
    if missing:
        chain, number, code = missing[0]
        raise ValueError(
            f"the template has {len(template)} residues, the ground truth {source} {len(truth)}, and {len(missing)} of "
            f"the template's are not among them by number, the first is {chain}{':' if chain else ''}{number}{code}: "
            "number both alike"
        )
    return np.array([place[key] for key in wanted])


def _keys(residues: Template, has_chains: bool) -> list[tuple[str, int, str]]:
    chains: Sequence[str] = residues.chain_ids.tolist() if has_chains else [""] * len(residues)
    return list(zip(chains, residues.residue_numbers.tolist(), residues.insertion_codes.tolist(), strict=True))


def _ranges(residues: Template, index: np.ndarray) -> str:
    """Name the residues at increasing or any other places, as A:1-29, A:60-121."""
    chains, numbers = residues.chain_ids[index], residues.residue_numbers[index]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(numbers) != 1) | (chains[1:] != chains[:-1])]))
    stops = np.concatenate([starts[1:], [len(index)]]) - 1
    return ", ".join(
        f"{chains[start]}:{numbers[start]}" + (f"-{numbers[stop]}" if stop > start else "")
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    )
