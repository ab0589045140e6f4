"""Do template, poses and images belong together? Checked on a few hundred images before any time is spent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryoatom.config import TrainConfig
from cryoatom.rotations import rotation_angle, rotation_grid
from cryoatom.structure.hand import hand_of
from cryoatom.threads import available_cores
from cryoatom.training import findings
from cryoatom.training.halves import halves_agreement
from cryoatom.training.inputs import Inputs
from cryoatom.training.sample import Match, Sample, deviations, gains, read_sample
from cryoatom.workers import Workers

_FEWEST = 20  # images that tell anything together
_LEAST = 5.0  # deviations of a mean over images
_SHARE = 0.05  # of what the poses as given explain: less is not worth a stop
_PERMUTATIONS = 4
_TURN_DEG, _MOVE = 20.0, 8.0  # of the template, about and along each axis: in its frame every one is for the worse
_TURNS = 120  # of the template, all round
_MIRRORS = {"x": (-1.0, 1.0, 1.0), "y": (1.0, -1.0, 1.0), "z": (1.0, 1.0, -1.0), "all": (-1.0, -1.0, -1.0)}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hypothesis:
    """A way in which poses and images may have to be read.

    Parameters
    ----------
    rotation
        'given', 'transposed', or the axis of the mirror that made the reconstruction whose poses they are ('all': a
        point inversion).
    shift_sign, contrast
        1 as given, -1 turned round.
    """

    rotation: str = "given"
    shift_sign: int = 1
    contrast: int = 1

    @property
    def departures(self) -> int:
        """Return in how many ways it differs from what is given."""
        return (self.rotation != "given") + (self.shift_sign < 0) + (self.contrast < 0)


GIVEN = Hypothesis()


@dataclass(frozen=True)
class Evidence:
    """What each image gains by the template under each hypothesis, nats, and under the one that is chosen.

    Parameters
    ----------
    chosen
        The simplest hypothesis that no other beats.
    signal
        Deviations of the noise by which the template is seen under it.
    over_permuted
        Deviations by which it explains the images better than permuted poses do.
    expected
        At least so many are to be expected if it is right.
    better_turn
        How the template is turned or moved to fit better, by how many deviations; None if nothing helps.
    """

    gains: dict[Hypothesis, Tensor]
    chosen: Hypothesis
    signal: float
    over_permuted: float
    expected: float
    better_turn: tuple[str, float] | None

    def __len__(self) -> int:
        return len(self.gains[GIVEN])

    def better_by(self, one: Hypothesis, other: Hypothesis) -> float:
        """Return by how many deviations one hypothesis explains the images better than another."""
        return deviations(self.gains[one] - self.gains[other])


def check_inputs(config: TrainConfig, inputs: Inputs) -> None:
    """Check that the template explains the images in their poses, better than other readings of these do.

    Logs what was found, one line for each check. Nothing is checked where poses are to be estimated
    (:mod:`cryoatom.training.orientation` does it there), nor with fewer than 20 images.

    Raises
    ------
    ValueError
        With what is wrong, by how many deviations, and what mends it; with --force it is a warning.
    """
    if config.poses == "esl":
        return
    with Workers(available_cores(config.threads)) as workers:
        found = find_faults(config, inputs, workers)
    if found and not config.force:
        raise ValueError(f"{'; '.join(found)} (--force goes on all the same)")
    for fault in found:
        _logger.warning("%s; going on, as --force says", fault)


def find_faults(config: TrainConfig, inputs: Inputs, workers: Workers) -> list[str]:
    """Return what is wrong, with what mends it: a sentence each, none if nothing is."""
    hand = hand_of(inputs.template)
    is_mirrored = hand.hand == "mirrored"
    found = [findings.mirrored_template(str(hand))] if is_mirrored else []
    if len(inputs.particles) < _FEWEST:
        _logger.info("%d images are too few to check poses, hand and contrast", len(inputs.particles))
        return found
    sample = read_sample(config, inputs, workers)
    evidence = weigh(sample, Match(sample, inputs.template, workers))
    found += judge(sample, evidence, config, is_mirrored=is_mirrored)
    if not found:
        _log_passed(evidence)
    return found


def rotations_of(sample: Sample, name: str) -> Float[Tensor, "images 3 3"]:
    """Return the rotations under a hypothesis.

    A mirror M (det M = -1) of the reconstruction turns the pose R of an image into D R M, with D = diag(1, 1, -1):
    P D R M (M x) = P R x, as P drops z. So poses R of a mirrored reconstruction are D R M of the right one.
    """
    given = sample.rotations
    if name in _MIRRORS:
        return torch.diag(torch.tensor([1.0, 1.0, -1.0])) @ given @ torch.diag(torch.tensor(_MIRRORS[name]))
    return given.mT if name == "transposed" else given


def weigh(sample: Sample, match: Match) -> Evidence:
    """Measure all hypotheses on a sample."""
    gained, signals = {}, {}
    for name in ("given", "transposed", *_MIRRORS):
        cross, power = match(rotations_of(sample, name))
        for sign, contrast in product((1, -1), (1, -1)):
            of_sign = contrast * cross[0 if sign > 0 else 1]
            hypothesis = Hypothesis(name, sign, contrast)
            gained[hypothesis] = gains(of_sign, power)
            signals[hypothesis] = float(of_sign.sum() / power.sum().sqrt())
    chosen = _choose(gained)
    if signals[chosen] < -_LEAST:  # their scatter hides it, but the noise does not
        chosen = replace(chosen, contrast=-chosen.contrast)
    over, expected = _compare_permuted(sample, match, chosen, gained[chosen])
    turn = _find_better_turn(sample, match, chosen, gained[chosen])
    return Evidence(gained, chosen, signals[chosen], over, expected, turn)


def _choose(gained: dict[Hypothesis, Tensor]) -> Hypothesis:
    """Return the simplest hypothesis that the best one does not clearly beat."""
    best = max(gained, key=lambda h: float(gained[h].mean()))
    for hypothesis in sorted(gained, key=lambda h: (h.departures, -float(gained[h].mean()))):
        lead = gained[best] - gained[hypothesis]
        if deviations(lead) < _LEAST or float(lead.mean()) < _SHARE * float(gained[hypothesis].mean()):
            return hypothesis
    return best


def _compare_permuted(sample: Sample, match: Match, chosen: Hypothesis, own: Tensor) -> tuple[float, float]:
    """Return by how many deviations rotations do better than others', and how many there would be at least."""
    rotations = rotations_of(sample, chosen.rotation)
    generator, others, apart, scale = torch.Generator().manual_seed(0), torch.zeros_like(own), 0.0, 0.0
    for _ in range(_PERMUTATIONS):
        permuted = rotations[torch.randperm(len(sample), generator=generator)]
        cross, power = match(permuted)
        cross = chosen.contrast * cross[0 if chosen.shift_sign > 0 else 1]
        others += gains(cross, power) / _PERMUTATIONS
        apart += float(match.distance(rotations, permuted).sum()) / _PERMUTATIONS
        scale = max(scale, float(cross.sum() / power.sum()))
    return deviations(own - others), 0.5 * scale * apart**0.5


def _find_better_turn(sample: Sample, match: Match, chosen: Hypothesis, own: Tensor) -> tuple[str, float] | None:
    """Return the turn or move of the template that explains the images best, if it does so better than its frame.

    Out of its frame a template may fit transposed or mirrored rotations by chance: before these are believed it is
    turned all round in those that are given.
    """
    rotations, side = rotations_of(sample, chosen.rotation), 0 if chosen.shift_sign > 0 else 1
    best, most = None, (1 + _SHARE) * float(own.mean())
    trials = [(text, rotations @ turn, move) for text, turn, move in _small_trials()]
    if chosen.rotation != "given":
        trials += [(text, sample.rotations @ turn, move) for text, turn, move in _wide_trials()]
    for text, turned, move in trials:
        cross, power = match(turned, move)
        found = gains(chosen.contrast * cross[side], power)
        if float(found.mean()) > most and deviations(found - own) > _LEAST:
            best, most = (text, deviations(found - own)), float(found.mean())
    return best


Trial = tuple[str, Float[Tensor, "3 3"], Float[Tensor, " 3"]]
"""How the template is turned and moved, in words, as a rotation and in Å."""


def _small_trials() -> Iterator[Trial]:
    still, whole = torch.zeros(3), torch.eye(3)
    for axis, sign in product(range(3), (1, -1)):
        unit, name = sign * np.eye(3)[axis], f"{'-' if sign < 0 else ''}{'xyz'[axis]}"
        turn = Rotation.from_rotvec(_TURN_DEG * unit, degrees=True).as_matrix()
        yield f"turned by {_TURN_DEG:.0f}° about {name}", torch.from_numpy(turn).float(), still
        yield f"moved by {_MOVE:.0f} Å along {name}", whole, torch.from_numpy(_MOVE * unit).float()


def _wide_trials() -> Iterator[Trial]:
    turns = rotation_grid(_TURNS).float()
    for turn, angle in zip(turns, torch.rad2deg(rotation_angle(turns, torch.eye(3))).tolist(), strict=True):
        yield f"turned by {angle:.0f}°", turn, torch.zeros(3)


def judge(sample: Sample, evidence: Evidence, config: TrainConfig, *, is_mirrored: bool) -> list[str]:
    """Return what the evidence says against the input; of a mirrored template the hand is known already."""
    chosen, found = evidence.chosen, []
    if chosen.contrast < 0:
        better = evidence.better_by(chosen, replace(chosen, contrast=1))
        found.append(findings.inverted_contrast(better, is_uninverted=config.uninvert_data))
    if evidence.better_turn is None and evidence.over_permuted >= _LEAST:
        if chosen.shift_sign < 0:
            found.append(findings.opposite_shifts(evidence.better_by(chosen, replace(chosen, shift_sign=1))))
        if chosen.rotation != "given" and not (is_mirrored and chosen.rotation in _MIRRORS):
            better = evidence.better_by(chosen, replace(chosen, rotation="given"))
            found.append(findings.wrong_rotations(chosen.rotation, better))
        return found
    found += _judge_frame(sample, evidence)
    return found


def _judge_frame(sample: Sample, evidence: Evidence) -> list[str]:
    """Tell a template out of the poses' frame from poses that are not the images' own."""
    agreements = {name: _agreement(sample, name, evidence.chosen.shift_sign) for name in ("given", "transposed")}
    own, by_chance, is_agreed = agreements["given"]
    is_expected = evidence.expected >= 2 * _LEAST
    transposed, by_chance_too, is_agreed_transposed = agreements["transposed"]
    if is_agreed_transposed and transposed - by_chance_too > 2 * (own - by_chance):
        return [findings.inverse_rotations_without_template(transposed, own, by_chance)]
    if evidence.better_turn is not None:
        return [findings.better_turn(*evidence.better_turn)]
    if is_agreed and (is_expected or evidence.signal < _LEAST):
        return [findings.other_frame(evidence.over_permuted, own, by_chance)]
    if evidence.signal < _LEAST:
        return [findings.no_signal(len(evidence), evidence.signal, _LEAST)]
    if is_expected:
        return [findings.other_images(evidence.over_permuted, evidence.expected, own, by_chance)]
    _logger.info("the images show the template too faintly to tell whether the poses are their own")
    return []


def _agreement(sample: Sample, name: str, shift_sign: int) -> tuple[float, float, bool]:
    """Return the agreement of half maps, that with permuted rotations, and whether it is clearly better."""
    rotations, generator = rotations_of(sample, name), torch.Generator().manual_seed(0)
    by_chance = torch.tensor(
        [
            halves_agreement(sample, rotations[torch.randperm(len(sample), generator=generator)], shift_sign)
            for _ in range(2 * _PERMUTATIONS)
        ]
    )
    own, spread = halves_agreement(sample, rotations, shift_sign), max(float(by_chance.std()), 0.01)
    return own, float(by_chance.mean()), own > float(by_chance.mean()) + _LEAST * spread


def _log_passed(evidence: Evidence) -> None:
    """Say by how much the poses as given do better than each other reading of them."""
    _logger.info(
        "checked %d images: the template explains them by %.0f deviations, %.2f nats an image",
        len(evidence),
        evidence.signal,
        float(evidence.gains[GIVEN].mean()),
    )
    readings = {"transposed rotations": Hypothesis("transposed"), "opposite shifts": Hypothesis(shift_sign=-1)}
    readings |= {f"the other hand ({name})": Hypothesis(name) for name in _MIRRORS}
    readings["inverted contrast"] = Hypothesis(contrast=-1)
    for text, hypothesis in readings.items():
        better = evidence.better_by(GIVEN, hypothesis)
        note = "" if better >= _LEAST else ": too few, the images cannot tell the two apart"
        _logger.info("poses as given against %s: better by %.0f deviations%s", text, better, note)
    _logger.info("poses as given against permuted ones: better by %.0f deviations", evidence.over_permuted)
