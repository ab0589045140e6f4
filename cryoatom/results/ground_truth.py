"""The known truth: which conformations exist, residue by residue as in the template, and which image shows which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoatom.files.npy import read_npy
from cryoatom.files.trajectory import Trajectory, read_trajectory
from cryoatom.structure.match import match_residues
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
    index, notes = match_truth(truth, template, str(path))
    return GroundTruth(trajectory.positions[:, kept[index]], notes)


def match_truth(truth: Template, template: Template, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the residue of the truth for each residue of the template.

    They are matched by :func:`~cryoatom.structure.match.match_residues`, and residues of other names by the numbers of
    their neighbours. Where no names match, numbers decide alone; where these do not, equally many residues are taken
    in order.

    Returns
    -------
    index : (residues,) int64
    notes : tuple of str

    Raises
    ------
    ValueError
        When the truth lacks residues of the template, or has several chains that could be one of the template's.
    """
    if len(truth) < len(template):
        raise ValueError(
            f"the template has {len(template)} residues, the ground truth {source} only {len(truth)}: choose those "
            "with `cryoatom template --residues` before training"
        )
    notes = []
    try:
        pairs = match_residues(template, truth)
    except ValueError as error:
        place = {key: row for row, key in enumerate(_keys(truth))}
        index = np.array([place.get(key, -1) for key in _keys(template)])
        if (index < 0).any():
            if len(truth) > len(template):
                raise ValueError(f"the ground truth {source} cannot be matched with the template: {error}") from None
            index = np.arange(len(template))
            notes.append("neither numbers nor names match: the residues of the ground truth are taken in order")
    else:
        _check_unique(truth, template, pairs[1], source)
        index = _with_neighbours(truth, template, pairs)
        _check_complete(truth, template, index, source)
        if len(truth) > len(template):
            matched = f"{len(template)} of the ground truth's {len(truth)} residues are matched"
            notes.append(f"{matched}: {_ranges(truth, index)}")
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
        labels = read_npy(path) if path.suffix == ".npy" else np.array(path.read_text().split())
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


def _check_unique(truth: Template, template: Template, matched: np.ndarray, source: str) -> None:
    """Raise ValueError where a chain without a namesake was matched though another chain would do as well."""
    own, other = (dict.fromkeys(residues.chain_ids.tolist()) for residues in (template, truth))
    if own.keys() <= other.keys():
        return
    rest = ~np.isin(truth.chain_ids, truth.chain_ids[matched])
    try:
        again = len(match_residues(template, truth.atoms[truth.atoms.names == "CA"][rest])[0])
    except ValueError:
        return
    if again >= len(matched):
        raise ValueError(
            f"the template has {len(template)} residues in chains {', '.join(own)}, the ground truth {source} "
            f"{len(truth)} in chains {', '.join(other)}, and which of these it is is not unique: name the chains alike"
        )


def _with_neighbours(truth: Template, template: Template, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the truth's residue of each of the template's, -1 for none.

    A residue that has no match for its name gets that with the shift in numbering of the nearest match in its chain.
    """
    index = np.full(len(template), -1)
    index[pairs[0]] = pairs[1]
    taken = set(pairs[1].tolist())
    place = {key: row for row, key in enumerate(_keys(truth)) if row not in taken}
    for row in np.flatnonzero(index < 0).tolist():
        same_chain = pairs[0][template.chain_ids[pairs[0]] == template.chain_ids[row]]
        if len(same_chain):
            nearest = same_chain[np.abs(same_chain - row).argmin()]
            shift = truth.residue_numbers[index[nearest]] - template.residue_numbers[nearest]
            number = int(template.residue_numbers[row] + shift)
            key = (str(truth.chain_ids[index[nearest]]), number, str(template.insertion_codes[row]))
            index[row] = place.pop(key, -1)
    return index


def _check_complete(truth: Template, template: Template, index: np.ndarray, source: str) -> None:
    missing = np.flatnonzero(index < 0)
    if len(missing):
        chain, number, code = _keys(template)[missing[0]]
        raise ValueError(
            f"the template has {len(template)} residues, the ground truth {source} {len(truth)}, and {len(missing)} of "
            f"the template's are not among them, the first is {chain}{':' if chain else ''}{number}{code}: choose "
            "those that are with `cryoatom template --residues` before training"
        )


def _keys(residues: Template) -> list[tuple[str, int, str]]:
    columns = (residues.chain_ids, residues.residue_numbers, residues.insertion_codes)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _ranges(residues: Template, index: np.ndarray) -> str:
    """Name the residues at increasing or any other places, as A:1-29, A:60-121."""
    chains, numbers = residues.chain_ids[index], residues.residue_numbers[index]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(numbers) != 1) | (chains[1:] != chains[:-1])]))
    stops = np.concatenate([starts[1:], [len(index)]]) - 1
    return ", ".join(
        f"{chains[start]}:{numbers[start]}" + (f"-{numbers[stop]}" if stop > start else "")
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    )
