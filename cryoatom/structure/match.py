"""Which residues of two structures are the same."""

from __future__ import annotations

import re
from typing import Protocol, runtime_checkable

import gemmi
import numpy as np

MIN_IDENTITY = 0.5
MIN_MATCHED = 3
MIN_RUN = 5
SAME_NUMBERING = 0.9


@runtime_checkable
class Numbered(Protocol):
    """Anything with names and numbers of residues: a Template, or Atoms."""

    @property
    def chain_ids(self) -> np.ndarray: ...  # noqa: D102

    @property
    def residue_names(self) -> np.ndarray: ...  # noqa: D102

    @property
    def residue_numbers(self) -> np.ndarray: ...  # noqa: D102

    @property
    def insertion_codes(self) -> np.ndarray: ...  # noqa: D102


def match_residues(first: Numbered, second: Numbered) -> tuple[np.ndarray, np.ndarray]:
    """Pair equal residues of two structures, by their numbers where these agree, else by aligning sequences.

    A chain goes with the same-named chain if half of the shorter one matches, else with the chain left over that
    matches it in most residues.

    Returns
    -------
    first_index, second_index : (pairs,) int64

    Raises
    ------
    ValueError
        When fewer than three residues match.
    """
    own, free, pairs = _chains(first), _chains(second), []
    for chain in sorted(own, key=lambda name: name not in free):
        same_name = {chain: free[chain]} if chain in free else {}
        for others in (same_name, free):
            aligned = {name: _equal_residues(first, own[chain], second, other) for name, other in others.items()}
            best = max(aligned, key=lambda name: len(aligned[name]), default=None)
            if best is not None and len(aligned[best]) >= MIN_IDENTITY * min(len(own[chain]), len(free[best])):
                pairs.append(aligned[best])
                del free[best]
                break
    matched = np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)
    if len(matched) < MIN_MATCHED:
        raise ValueError(
            f"only {len(matched)} residues of the two structures match ({describe_chains(first)}; "
            f"{describe_chains(second)}); superposing needs the same protein in both"
        )
    matched = matched[np.argsort(matched[:, 0])]
    return matched[:, 0], matched[:, 1]


def describe_chains(residues: Numbered) -> str:
    """Say which chains there are and how they are numbered, for messages."""
    parts = []
    for chain in dict.fromkeys(residues.chain_ids.tolist()):
        numbers = residues.residue_numbers[residues.chain_ids == chain]
        parts.append(f"chain {chain} {numbers.min()}-{numbers.max()}")
    return ", ".join(parts)


def _chains(residues: Numbered) -> dict[str, np.ndarray]:
    return {chain: np.flatnonzero(residues.chain_ids == chain) for chain in np.unique(residues.chain_ids).tolist()}


def _equal_residues(first: Numbered, own: np.ndarray, second: Numbered, other: np.ndarray) -> np.ndarray:
    """Pair the residues of two chains by number where the numbered ones are (almost) all equal, else by alignment."""
    numbers = [
        {(template.residue_numbers[i], template.insertion_codes[i]): i for i in index.tolist()}
        for template, index in ((first, own), (second, other))
    ]
    shared = [(numbers[0][key], numbers[1][key]) for key in numbers[0].keys() & numbers[1].keys()]
    equal = [(i, j) for i, j in shared if first.residue_names[i] == second.residue_names[j]]
    if len(equal) >= SAME_NUMBERING * len(shared) and len(equal) >= MIN_IDENTITY * min(len(own), len(other)):
        return np.array(equal, dtype=np.int64).reshape(-1, 2)
    return _aligned(first, own, second, other)


def _aligned(first: Numbered, own: np.ndarray, second: Numbered, other: np.ndarray) -> np.ndarray:
    """Return the (pairs, 2) indices of equal residues of two chains, without the short runs that chance gives."""
    sequences = first.residue_names[own].tolist(), second.residue_names[other].tolist()
    cigar = gemmi.align_string_sequences(*sequences, []).cigar_str()
    runs, i, j = [[]], 0, 0
    for count, letter in re.findall(r"(\d+)([MID])", cigar):
        for _ in range(int(count)):
            if letter == "M" and sequences[0][i] == sequences[1][j]:
                runs[-1].append((own[i], other[j]))
            else:
                runs.append([])
            i += letter in "MI"
            j += letter in "MD"
    shortest = min(MIN_RUN, len(own), len(other))
    pairs = [pair for run in runs if len(run) >= shortest for pair in run]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
