"""Do template, poses and images belong together? Checked on a few hundred images before any time is spent."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cryoatom.structure.hand import hand_of
from cryoatom.structure.template import Template
from cryoatom.threads import available_cores
from cryoatom.train_config import TrainConfig
from cryoatom.training import findings
from cryoatom.training.docked import DockedSample, dock_sample
from cryoatom.training.halves import HalvesAgreement, measure_halves
from cryoatom.training.inputs import Inputs
from cryoatom.training.sample import Match, Sample, SampleSource, deviations, gains, open_sample, read_sample
from cryoatom.workers import Workers

_FEWEST = 50  # images that tell anything together
_FEWEST_TO_STOP = 100  # whose silence tells something
_LEAST = 5.0  # deviations of a mean over images
_NO_BETTER = 2.5  # deviations: less is as poor as permuted poses
_SHARE = 0.05  # of what the poses as given explain: less is not worth a stop
_PERMUTATIONS = 4
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """A way in which poses may have to be read: rotations as given or transposed, shifts as given (1) or not (-1)."""

    rotation: Literal["given", "transposed"] = "given"
    shift_sign: int = 1

    @property
    def departures(self) -> int:
        """Return in how many ways it differs from what is given."""
        return (self.rotation != "given") + (self.shift_sign < 0)


GIVEN = Reading()
READINGS = [Reading(rotation, sign) for rotation, sign in product(("given", "transposed"), (1, -1))]


@dataclass(frozen=True)
class Evidence:
    """What a sample says.

    Parameters
    ----------
    docked
        The template docked into the volume of the sample, rotations as given.
    gains
        What each image gains by the template, nats, under each reading; rotations as given have the template where it
        docks if that is out of its place.
    chosen
        The simplest reading that no other one beats.
    signal
        Deviations of the noise by which the template is seen under it.
    over_permuted
        Deviations by which it explains the images better than permuted poses do.
    expected
        At least so many are to be expected if it is right.
    """

    docked: DockedSample
    gains: dict[Reading, Tensor]
    chosen: Reading
    signal: float
    over_permuted: float
    expected: float

    def __len__(self) -> int:
        return len(self.gains[GIVEN])

    @property
    def is_settled(self) -> bool:
        """Whether template and poses are known to belong to the images: docked, or better than permuted."""
        is_docked = self.docked.is_found or self.docked.is_mirrored
        return self.chosen.rotation == "given" and (is_docked or self.over_permuted >= _LEAST)

    def better_by(self, one: Reading, other: Reading) -> float:
        """Return by how many deviations one reading explains the images better than another."""
        return deviations(self.gains[one] - self.gains[other])


def check_inputs(config: TrainConfig, inputs: Inputs) -> None:
    """Check that the template explains the images in their poses, better than other readings of these do.

    Logs what was found, one line for each check; what could not be told is a warning. Nothing is checked where poses
    are to be estimated (:mod:`cryoatom.training.orientation` does it there), nor with fewer than 50 images.

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
    found = [findings.mirrored_template(hand.counts)] if is_mirrored else []
    if len(inputs.particles) < _FEWEST:
        _logger.warning("%d images are too few to check poses, frame, hand and contrast", len(inputs.particles))
        return found
    source = open_sample(config, inputs, workers)
    sample = read_sample(source, workers)
    if len(sample) < _FEWEST:
        _logger.warning("poses, frame, hand and contrast were not checked: %s", source.images.dead.describe())
        return found
    if len(source.images.dead):
        dead = source.images.dead
        _logger.warning("%d of the images looked at cannot be used: %s", len(dead), dead.describe())
    evidence = weigh(sample, inputs.template, dock_sample(source, "given", inputs.template, workers), workers)
    if evidence.docked.contrast < 0:
        docked = evidence.docked
        found.append(findings.inverted_contrast(docked.best, docked.inverted, is_uninverted=config.uninvert_data))
    if not evidence.is_settled:
        return found + _judge_unsettled(sample, evidence, source, inputs.template, workers)
    found += _judge_settled(evidence, is_mirrored=is_mirrored)
    if not found:
        _log_passed(evidence)
    return found


def rotations_of(sample: Sample, reading: Reading) -> Float[Tensor, "images 3 3"]:
    """Return the rotations under a reading."""
    return sample.rotations.mT if reading.rotation == "transposed" else sample.rotations


def weigh(sample: Sample, template: Template, docked: DockedSample, workers: Workers) -> Evidence:
    """Measure all readings on a sample."""
    match, gained, signals = Match(sample, template, workers), {}, {}
    docked_match = match
    if docked.is_elsewhere:
        moved = template.moved(docked.rotation.double().numpy(), docked.translation.double().numpy())
        docked_match = Match(sample, moved, workers)
    for rotation in ("given", "transposed"):
        own = docked_match if rotation == "given" else match
        cross, power = own(rotations_of(sample, Reading(rotation)))
        for sign, part in zip((1, -1), docked.contrast * cross, strict=True):
            reading = Reading(rotation, sign)
            gained[reading] = gains(part, power)
            signals[reading] = float(part.sum() / power.sum().sqrt())
    chosen = _choose(gained)
    own = docked_match if chosen.rotation == "given" else match
    over, expected = _compare_permuted(sample, own, chosen, docked.contrast, gained[chosen])
    return Evidence(docked, gained, chosen, signals[chosen], over, expected)


def _choose(gained: dict[Reading, Tensor]) -> Reading:
    """Return the simplest reading that the best one does not clearly beat."""
    best = max(gained, key=lambda reading: float(gained[reading].mean()))
    for reading in sorted(gained, key=lambda r: (r.departures, -float(gained[r].mean()))):
        lead = gained[best] - gained[reading]
        if deviations(lead) < _LEAST or float(lead.mean()) < _SHARE * float(gained[reading].mean()):
            return reading
    return best


def _compare_permuted(sample: Sample, match: Match, chosen: Reading, contrast: int, own: Tensor) -> tuple[float, float]:
    """Return by how many deviations rotations do better than others', and how many there would be at least."""
    rotations = rotations_of(sample, chosen)
    generator, others, apart, scale = torch.Generator().manual_seed(0), torch.zeros_like(own), 0.0, 0.0
    for _ in range(_PERMUTATIONS):
        permuted = rotations[torch.randperm(len(sample), generator=generator)]
        cross, power = match(permuted)
        cross = contrast * cross[0 if chosen.shift_sign > 0 else 1]
        others += gains(cross, power) / _PERMUTATIONS
        apart += float(match.distance(rotations, permuted).sum()) / _PERMUTATIONS
        scale = max(scale, float(cross.sum() / power.sum()))
    return deviations(own - others), 0.5 * scale * apart**0.5


def _judge_settled(evidence: Evidence, *, is_mirrored: bool) -> list[str]:
    """Judge frame, hand and shifts of poses that are those of the images; of a mirrored template only shifts."""
    docked, found = evidence.docked, []
    if docked.is_mirrored and not is_mirrored:
        return [findings.other_hand(docked.docking.mirrored, docked.best)]
    if docked.is_elsewhere and not is_mirrored:
        found.append(findings.other_place(docked))
    elif docked.is_moved and not is_mirrored:
        _logger.warning("%s", findings.better_place(docked))
    elif not docked.is_found and not is_mirrored and evidence.chosen == GIVEN:
        _logger.warning("%s", findings.unknown_place(docked))
    if evidence.chosen.shift_sign < 0:
        found.append(
            findings.opposite_shifts(evidence.better_by(evidence.chosen, replace(evidence.chosen, shift_sign=1)))
        )
    return found


def _judge_unsettled(
    sample: Sample, evidence: Evidence, source: SampleSource, template: Template, workers: Workers
) -> list[str]:
    """Tell inverse rotations, a template out of its frame, and poses that are not the images' own."""
    halves = {
        reading: measure_halves(sample, rotations_of(sample, reading), reading.shift_sign) for reading in READINGS
    }
    own, docked = halves[GIVEN], evidence.docked
    best = max(READINGS, key=lambda reading: halves[reading].excess)
    if best != GIVEN and halves[best].is_clear and halves[best].excess > 2 * own.excess:
        return _misread(best, halves[best], own)
    transposed = dock_sample(source, "transposed", template, workers)
    if transposed.beats(docked):
        return [findings.inverse_rotations(transposed, docked)]
    if evidence.signal < -_LEAST and docked.contrast > 0 and docked.inverted > docked.best:
        is_uninverted = source.are_bright
        return [findings.inverted_contrast(docked.inverted, docked.best, is_uninverted=is_uninverted)]
    few = len(evidence) < _FEWEST_TO_STOP
    is_expected = evidence.expected >= 2 * _LEAST
    if own.is_clear and not few and evidence.over_permuted < _NO_BETTER and is_expected:
        return [findings.other_frame(evidence.over_permuted, own)]
    if not few and evidence.signal < _LEAST:
        return [findings.no_signal(len(evidence), evidence.signal, _LEAST)]
    if is_expected and evidence.over_permuted < _LEAST and not own.is_clear:
        return [findings.other_images(evidence.over_permuted, evidence.expected, own)]
    _logger.warning("%s", findings.undecided(len(evidence), evidence.signal))
    return []


def _misread(reading: Reading, better: HalvesAgreement, own: HalvesAgreement) -> list[str]:
    found = []
    if reading.rotation == "transposed":
        found.append(findings.inverse_rotations_by_halves(better, own))
    if reading.shift_sign < 0:
        found.append(findings.opposite_shifts_by_halves(better, own))
    return found


def _log_passed(evidence: Evidence) -> None:
    """Say by how much the poses as given do better than each other reading of them."""
    docked, mean = evidence.docked, float(evidence.gains[GIVEN].mean())
    _logger.info(
        "checked %d images: the template explains them by %.0f deviations, %.2f nats an image",
        len(evidence), evidence.signal, mean,
    )  # fmt: skip
    _logger.info(
        "docked into a map of them the template has %.0f where it is and %.0f at its best (turned by %.0f°, moved by "
        "%.0f Å), its mirror image %.0f, inverted contrast %.0f",
        docked.in_place, docked.best, docked.angle_deg, docked.away, docked.docking.mirrored, docked.inverted,
    )  # fmt: skip
    readings = {"transposed rotations": Reading("transposed"), "opposite shifts": Reading(shift_sign=-1)}
    for text, reading in readings.items():
        better = evidence.better_by(GIVEN, reading)
        note = "" if better >= _LEAST else ": too few to tell the two apart"
        _logger.info("poses as given against %s: better by %.0f deviations%s", text, better, note)
    _logger.info("poses as given against permuted ones: better by %.0f deviations", evidence.over_permuted)
    _logger.info("images, poses, hand, contrast and the template's frame agree")
