"""Whether the template stands where it fits a sample that is back-projected, and whether its mirror image does.

Docking tells it: over all placements and both hands, not over a few turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.poses.docking import Docking, as_given, dock, score_at
from cryoatom.poses.frame import rigid_beads
from cryoatom.rotations import rotation_angle
from cryoatom.structure.template import Template
from cryoatom.training.sample import SampleSource, sample_volume
from cryoatom.workers import Workers

_CLEAR_SHARE, _CLEAR_NOISE = 1.5, 3.0  # by which a hand wins: a part of ADK won in the wrong place by 1.34
_BETTER_SHARE = 1.2  # by which a placement, or contrast, or reading of the poses wins
_LEAST = 10.0  # noise deviations; among all placements noise alone reaches 6
_FAR_DEG, _FAR = 10.0, 5.0  # Å: of the motion to the best placement; less is left to training


@dataclass(frozen=True)
class DockedSample:
    """A template and a volume of the sample.

    Parameters
    ----------
    docking
        What was found, of the better contrast; scores in noise deviations.
    in_place
        The score where the template stands.
    inverted
        Of inverted contrast at its best where it was not better; of the images' own where it was.
    contrast
        1; -1 where the negatives of the images fit better.
    rotation, translation
        The motion x -> Q x + T to the best placement, Å.
    away
        How far it moves the template's centre of mass, Å.
    """

    docking: Docking
    in_place: float
    inverted: float
    contrast: int
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]
    away: float

    @property
    def best(self) -> float:
        """Return the score of the best placement."""
        return self.docking.best.score

    @property
    def angle_deg(self) -> float:
        """Return by how much the motion turns."""
        return math.degrees(float(rotation_angle(self.rotation[None], torch.eye(3))[0]))

    @property
    def is_found(self) -> bool:
        """Whether the template fits far better than its mirror image, which shows what wrong placements reach."""
        return _wins(self.best, self.docking.mirrored, _CLEAR_SHARE)

    @property
    def is_mirrored(self) -> bool:
        """Whether the mirror image fits far better than the template."""
        return _wins(self.docking.mirrored, self.best, _CLEAR_SHARE)

    @property
    def is_moved(self) -> bool:
        """Whether the template fits clearly better in a place that is not near."""
        is_far = self.angle_deg > _FAR_DEG or self.away > _FAR
        return self.is_found and is_far and _wins(self.best, self.in_place, _BETTER_SHARE)

    @property
    def is_elsewhere(self) -> bool:
        """Whether it also fits no better where it stands than wrong placements do: so it is out of its frame."""
        return self.is_moved and self.in_place < self.docking.mirrored

    def beats(self, other: DockedSample) -> bool:
        """Whether the poses of this one are better than those of another one."""
        mine, others = (max(found.best, found.docking.mirrored) for found in (self, other))
        return (self.is_found or self.is_mirrored) and _wins(mine, others, _BETTER_SHARE)


def dock_sample(source: SampleSource, rotations: str, template: Template, workers: Workers) -> DockedSample:
    """Dock the template into the volume of a sample, its rotations 'given' or 'transposed'."""
    beads = rigid_beads(template)
    with torch.no_grad():
        volume, contrast = sample_volume(source, rotations, workers), 1
        docking = dock(volume, beads, workers=workers)
        inverted = docking.inverted
        if _wins(inverted, max(docking.best.score, docking.mirrored), _BETTER_SHARE, least=0.0):
            volume, contrast, inverted = volume.inverted(), -1, docking.best.score
            docking = dock(volume, beads, workers=workers)
        place = as_given(beads)
        in_place = float(score_at(volume, beads, place.rotation[None], place.translation[None])[0])
    rotation, translation = docking.best.rotation, docking.best.translation
    away = float((translation - beads.origin).norm())
    return DockedSample(docking, in_place, inverted, contrast, rotation, translation - rotation @ beads.origin, away)


def _wins(better: float, worse: float, share: float, least: float = _LEAST) -> bool:
    return better > least and better > max(share * worse, worse + _CLEAR_NOISE)
