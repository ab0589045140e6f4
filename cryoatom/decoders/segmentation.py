"""Which residues move as one piece: a Gaussian mixture on the line of residues (cryoSPHERE, sections 3.3 and 3.5)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryoatom.gaussians import divergence_from_normal
from cryoatom.structure.match import describe_chains
from cryoatom.structure.template import RANGE, Template, select_residues

_SPEC = "expected a number, such as 6; chain:3; or ranges such as A:1-120=3,B:5-90=2"
_START_BETA = 0.02  # of the posteriors at the start: borders are drawn within two residues of a hundred
_LEAST_WIDTH = 1e-3  # of a component, in units of its stretch


@dataclass(frozen=True)
class Stretch:
    """Residues with a mixture of their own: `residues` are (n,) int64, in order, `count` its components."""

    residues: np.ndarray
    count: int


def parse_segments(spec: str, template: Template) -> list[Stretch]:
    """Read what `--segments` says: stretches that together hold each residue once.

    Parameters
    ----------
    spec : str
        '6': over the whole line of residues. 'chain:3': three in each chain. 'A:1-120=3,B:5-90=2': so many in these
        residues; a range without a chain is one of every chain. What remains moves too: each stretch of consecutive
        residues that no range names is one segment.

    Raises
    ------
    ValueError
        When it cannot be read, names a chain or residues that there are not, ranges overlap, or a count does not fit.
    """
    if not spec.strip():
        raise ValueError(f"--segments is empty: {_SPEC}")
    whole = np.arange(len(template))
    if found := re.fullmatch(r"(chain:)?(-?\d+)", spec.strip()):
        if found[1] is None:
            return [_stretch(whole, int(found[2]), spec)]
        return _stretches_by_chain(whole, int(found[2]), spec, template)
    owned, stretches = np.zeros(len(template), dtype=bool), []
    for text in spec.split(","):
        selection, equals, count = text.strip().rpartition("=")
        if not (equals and re.fullmatch(r"\s*-?\d+", count) and RANGE.fullmatch(selection.strip())):
            raise ValueError(f"cannot read {text.strip()!r} in --segments {spec}: {_SPEC}")
        selected = _select(selection.strip(), spec, template)
        if (owned & selected).any():
            raise ValueError(f"ranges of --segments {spec} overlap: {text.strip()!r} has residues of an earlier one")
        owned |= selected
        stretches += _stretches_by_chain(np.flatnonzero(selected), int(count), spec, template)
    stretches += [Stretch(part, 1) for part in _consecutive(np.flatnonzero(~owned), template)]
    return sorted(stretches, key=lambda stretch: int(stretch.residues[0]))


def _select(selection: str, spec: str, template: Template) -> np.ndarray:
    """Return the mask of a range whose ends there are: one that reaches farther is a slip, or of another template."""
    found = RANGE.fullmatch(selection)
    assert found is not None
    start, stop = int(found["start"]), int(found["stop"] or found["start"])
    if stop < start:
        raise ValueError(f"--segments {spec}: the range {selection} is reversed: give {stop}-{start}")
    try:
        selected = select_residues(selection, template)
    except ValueError as error:
        raise ValueError(f"--segments {spec}: {error}") from None
    numbers = template.residue_numbers[np.isin(template.chain_ids, template.chain_ids[selected])]
    if start < numbers.min() or stop > numbers.max():
        raise ValueError(
            f"--segments {spec}: {selection} reaches beyond the residues that there are: the structure has "
            f"{describe_chains(template)}"
        )
    return selected


def _stretch(residues: np.ndarray, count: int, spec: str, where: str = "") -> Stretch:
    if not 1 <= count <= len(residues):
        raise ValueError(
            f"--segments {spec} asks for {count} segments in {len(residues)} residues{where}: give 1 to {len(residues)}"
        )
    return Stretch(residues, count)


def _stretches_by_chain(residues: np.ndarray, count: int, spec: str, template: Template) -> list[Stretch]:
    parts = _by_chain(residues, template)
    return [_stretch(part, count, spec, f" of chain {template.chain_ids[part[0]]}") for part in parts]


def _by_chain(residues: np.ndarray, template: Template) -> list[np.ndarray]:
    chains = template.chain_ids[residues]
    return [residues[chains == chain] for chain in dict.fromkeys(chains.tolist())]


def _consecutive(residues: np.ndarray, template: Template) -> list[np.ndarray]:
    chains = template.chain_ids[residues]
    ends = np.flatnonzero((np.diff(residues) != 1) | (chains[1:] != chains[:-1])) + 1
    return [part for part in np.split(residues, ends) if len(part)]


class Segmentation(nn.Module):
    """G_im: how much of residue i belongs to segment m (cryoSPHERE, eq. 6).

    G_im ∝ { φ(x_i | μ_m, σ_m²) π_m }^τ over the segments of residue i's stretch, with π the softmax of α and
    σ = ELU + 1. The paper's priors, N(0, 1) for each number, need a unit of the line: x is the index of a residue in
    its stretch, scaled to zero mean and unit variance. Means start evenly spread, widths at the distance of neighbours.

    Parameters
    ----------
    stretches
        Each with its own mixture.
    tau
        τ: how sharply segments part.
    """

    place: Tensor
    is_own: Tensor

    def __init__(self, stretches: list[Stretch], tau: float):
        super().__init__()
        residues, count = sum(len(s.residues) for s in stretches), sum(s.count for s in stretches)
        place, is_own = torch.zeros(residues), torch.zeros(residues, count, dtype=torch.bool)
        nu = torch.zeros(3, count)  # of means, of widths before ELU + 1, of logits
        first = 0
        for stretch in stretches:
            last = first + stretch.count
            index = torch.arange(len(stretch.residues), dtype=torch.float64)
            scale = index.std(correction=0) if len(index) > 1 else torch.ones(())
            place[stretch.residues] = ((index - index.mean()) / scale).float()
            is_own[stretch.residues, first:last] = True
            spacing = 2 * math.sqrt(3) / stretch.count  # even numbers of unit variance fill ±√3
            nu[0, first:last] = spacing * (torch.arange(stretch.count) - 0.5 * (stretch.count - 1))
            nu[1, first:last] = spacing - 1 if spacing > 1 else math.log(spacing)
            first = last
        self.tau = tau
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("is_own", is_own, persistent=False)
        self.nu = nn.Parameter(nu)
        self.log_beta = nn.Parameter(torch.full((3, count), math.log(_START_BETA)))
        self._noise: Tensor | None = None

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw means, widths and logits from their posteriors; None: take the posteriors' means from now on."""
        self._noise = None if generator is None else torch.randn(self.nu.shape, generator=generator).to(self.nu)

    def forward(self) -> Float[Tensor, "residues segments"]:
        """Return G as drawn."""
        drawn = self.nu if self._noise is None else self.nu + self.log_beta.exp() * self._noise
        mean, before, logit = drawn
        width = (nn.functional.elu(before) + 1).clamp_min(_LEAST_WIDTH)
        # the constants of φ and of the softmax are equal for all segments of a residue: they cancel
        log_share = logit - width.log() - 0.5 * ((self.place[:, None] - mean) / width).square()
        return (self.tau * log_share).masked_fill(~self.is_own, -torch.inf).softmax(dim=1)

    def divergence(self) -> Float[Tensor, ""]:
        """Return KL( N(ν, β²) || N(0, 1) ), summed over all numbers of the mixtures, nats."""
        return divergence_from_normal(self.nu, 2 * self.log_beta).sum()
