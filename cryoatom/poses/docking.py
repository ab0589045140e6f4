"""Rigid docking: where a set of beads explains a volume best, over all rotations and translations, and both hands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.poses.placement import PlacementScore, RigidBeads, TranslationScan
from cryoatom.poses.volume import OVERSAMPLING, Volume
from cryoatom.rotations import exp_rotation, rotation_grid
from cryoatom.workers import Workers

_TRUSTED = 20.0  # Å: coarser features count less; without it moving domains turned closed ADK by 2° off its core
_COARSE, _COARSE_PER_REACH = 10.0, 0.25  # resolution of the scan: 10 Å, and coarser for specimens beyond 40 Å
_STEP_PER_DETAIL, _STEP_DEG = 0.8, (12.0, 20.0)  # of rotations: the outermost atoms move by 0.8 resolutions
_LARGEST_SIDE = 80  # voxels of the scan: in larger boxes it is coarser
_CELLS_AT_ONCE, _ROTATIONS_AT_ONCE = 2_000_000, 32  # that fit in the processor's cache
_CELL = 0.33  # resolutions: beads so near to each other count as one in the scan
_KEPT = 20  # placements that climb
_EQUAL, _FEWEST_LEVELS = 1e-3, 6  # scores that near to each other are one; so many tell how scores scatter
_DISTINCT = 0.3  # radii of gyration: placements that far apart are two
_STEPS_COARSE, _STEPS = 25, 50  # of an ascent
_STEP = 1.0  # Å, the first
_CLIMB_TOGETHER = 4  # placements that a thread takes at once


@dataclass(frozen=True)
class Placement:
    """Where beads are put: x -> Q x + T about their centre of mass, and the score there."""

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]
    score: float


@dataclass(frozen=True)
class Docking:
    """What a docking found; scores are z = ⟨W, V⟩ / sqrt ⟨V, K * V⟩.

    Parameters
    ----------
    best
        The best placement.
    rival
        The score of the best one that is distinct from it.
    mirrored
        That of the mirror image at its best.
    inverted
        That of inverted contrast at its best.
    spread
        The scale of the upper tail of the scores of wrong placements: the best of these differ by about as much.
        Infinite where it is not known.
    """

    best: Placement
    rival: float
    mirrored: float
    inverted: float
    spread: float = math.inf


def dock(
    volume: Volume,
    beads: RigidBeads,
    *,
    workers: Workers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Docking:
    """Find the placement of the highest score.

    All translations inside the volume, for a grid of rotations, are compared at low resolution, the best distinct ones
    climb there, and the best of these at full resolution.

    Parameters
    ----------
    volume
        W and K.
    beads
        Those of the template.
    workers
        Threads that share the work.
    progress
        Called with (rotations done, all rotations).
    """
    fine = volume.sharpened(_TRUSTED)
    coarse = fine.low_passed(_scan_resolution(fine, beads))
    count = rotation_count(beads.reach, coarse.resolution)
    merged, found = beads.merged(_CELL * coarse.resolution), []
    for number, few in enumerate((merged, merged.mirrored())):
        done = number * count
        found.append(scan(coarse, few, count, workers, lambda more, done=done: progress(done + more, 2 * count)))
    (upright, inverted), (mirrored, _) = found
    scores = PlacementScore(coarse, merged), PlacementScore(fine, beads)
    right = climb_all(scores, upright, workers)
    wrong = climb_all([score.mirrored() for score in scores], mirrored, workers)
    opposite = climb_all([score.inverted() for score in scores], inverted[: _KEPT // 4], workers)
    rival = right[1].score if len(right) > 1 else 0.0
    return Docking(right[0], rival, wrong[0].score, opposite[0].score, min(_tail(right), _tail(wrong)))


def score_at(
    volume: Volume,
    beads: RigidBeads,
    rotations: Float[Tensor, "batch 3 3"],
    translations: Float[Tensor, "batch 3"],
) -> Float[Tensor, " batch"]:
    """Return the scores of placements x -> Q x + T of beads about their centre of mass, as :func:`dock` has them.

    A template is where its file puts it for Q = 1 and T = beads.origin. Of the mirror image, give `beads.mirrored()`;
    of inverted contrast the score is the negative.
    """
    return PlacementScore(volume.sharpened(_TRUSTED), beads)(rotations, translations)


def as_given(beads: RigidBeads) -> Placement:
    """Return the placement that leaves beads where their file puts them, its score not known."""
    return Placement(torch.eye(3).to(beads.centers), beads.origin, math.nan)


def _scan_resolution(volume: Volume, beads: RigidBeads) -> float:
    """Return the resolution at which all placements are compared, Å."""
    largest = 2 * OVERSAMPLING * volume.length / _LARGEST_SIDE
    return max(_COARSE, _COARSE_PER_REACH * beads.reach, largest, volume.resolution)


def _tail(placements: list[Placement]) -> float:
    """Return the scale of the upper tail of scores: the mean of the better half, less the best of the others.

    Of scores whose tail falls as exp(-z / β), whatever their number, this is β. Placements of a symmetric template or
    of equal copies count once, by their equal scores; where few are left the scale is not known, and infinite.
    """
    scores = [placement.score for placement in placements]
    levels = [scores[0], *(low for high, low in pairwise(scores) if high - low > _EQUAL * abs(high))]
    half = len(levels) // 2
    return sum(levels[:half]) / half - levels[half] if len(levels) >= _FEWEST_LEVELS else math.inf


def rotation_count(reach: float, resolution: float) -> int:
    """Return how many rotations of a specimen to try at a resolution, both in Å."""
    step_deg = min(max(math.degrees(_STEP_PER_DETAIL * resolution / reach), _STEP_DEG[0]), _STEP_DEG[1])
    return round(14761 * (9 / step_deg) ** 3)


def scan(
    volume: Volume,
    beads: RigidBeads,
    count: int,
    workers: Workers,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Placement], list[Placement]]:
    """Return the best distinct placements of `count` rotations, each at its best translation: in W, and in -W."""
    rotations = rotation_grid(count).to(volume.signal)
    translations = TranslationScan(volume, beads, max(0.5 * volume.length - beads.radius, volume.pixel_size))
    at_once = min(max(_CELLS_AT_ONCE // volume.signal.numel(), 1), _ROTATIONS_AT_ONCE)
    parts, found = rotations.split(at_once), []
    for result in workers.stream(translations.best, parts):
        found.append(result)
        progress(min(len(found) * at_once, len(rotations)))
    scores, places = (torch.cat(results) for results in zip(*found, strict=True))
    upright, inverted = (distinct(beads, rotations, places[:, k], scores[:, k], _KEPT) for k in range(2))
    return upright, inverted


def distinct(
    beads: RigidBeads,
    rotations: Float[Tensor, "count 3 3"],
    translations: Float[Tensor, "count 3"],
    scores: Float[Tensor, " count"],
    most: int,
) -> list[Placement]:
    """Return the best placements, best first, that lie at least 0.3 radii of gyration apart."""
    scores, chosen = scores.clone(), []
    while len(chosen) < most and float(scores.max()) > -math.inf:
        best = int(scores.argmax())
        rotation, translation = rotations[best], translations[best]
        chosen.append(Placement(rotation, translation, float(scores[best])))
        away = beads.displacement(rotations, translations, rotation, translation)
        scores[away <= _DISTINCT * beads.radius] = -math.inf
        scores[best] = -math.inf
    return chosen


def climb_all(scores: Sequence[PlacementScore], start: list[Placement], workers: Workers) -> list[Placement]:
    """Refine placements by a score at low resolution, then by one at full resolution; the best come first."""
    for score, steps in zip(scores, (_STEPS_COARSE, _STEPS), strict=True):
        parts = [start[first : first + _CLIMB_TOGETHER] for first in range(0, len(start), _CLIMB_TOGETHER)]
        climbed = workers.map(lambda part, score=score, steps=steps: climb(score, part, steps), parts)
        rotations, translations, found = (torch.cat(results) for results in zip(*climbed, strict=True))
        start = distinct(score.beads, rotations, translations, found, _KEPT)
    return start


def climb(
    score: PlacementScore, start: list[Placement], steps: int
) -> tuple[Float[Tensor, "count 3 3"], Float[Tensor, "count 3"], Float[Tensor, " count"]]:
    """Raise ⟨W, V⟩ from placements by Adam on rotation vectors and translations, with steps that shrink.

    Returns
    -------
    rotations, translations, scores
        Where the ascents end.
    """
    rotations = torch.stack([placement.rotation for placement in start])
    translations = torch.stack([placement.translation for placement in start])
    motion = rotations.new_zeros(len(start), 6, requires_grad=True)  # rotation vector · radius, translation; Å

    def moved() -> tuple[Tensor, Tensor]:
        turns = exp_rotation(motion[:, :3] / score.beads.radius)
        return turns @ rotations, translations + motion[:, 3:]

    adam = torch.optim.Adam([motion], betas=(0.8, 0.95))
    for step in range(steps):
        adam.param_groups[0]["lr"] = _STEP * math.cos(0.5 * math.pi * step / steps) ** 2
        adam.zero_grad()
        with torch.enable_grad():  # threads have a mode of their own
            (-score.cross(*moved())).sum().backward()
        adam.step()
    with torch.no_grad():
        return *moved(), score(*moved())
