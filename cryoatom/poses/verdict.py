"""What a fit of a template says of the hand and the contrast of the data, and whether it is a fit at all."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cryoatom.poses.docking import Docking
from cryoatom.structure.hand import hand_of
from cryoatom.structure.template import Template

_CLEAR_SPREADS = 6.0  # by which a score must win: in 13 maps without the template its hands differed by 0 to 4
_CERTAIN_SHARE = 0.2  # or by that of itself: there it was 0.09 at most
_CLEAR_SHARE = {"noise deviations": 0.03, "correlation": 0.1}
_CLEAR_NOISE = {"noise deviations": 3.0, "correlation": 0.0}
_FAINTEST = 8.0  # noise deviations; among all placements noise alone reaches 6
_logger = logging.getLogger(__name__)

Unit = Literal["noise deviations", "correlation"]


@dataclass(frozen=True)
class TemplateFit:
    """A template where it fits best, and how well others fit.

    Parameters
    ----------
    template
        In the frame of the poses.
    rotation, translation
        The motion x -> Q x + T from the file's frame, Å.
    docking
        Scores: noise deviations (at most: coarse features count less) for particles, correlations for maps.
    unit
        Of the scores.
    """

    template: Template
    rotation: np.ndarray
    translation: np.ndarray
    docking: Docking
    unit: Unit

    @property
    def hand(self) -> Literal["right", "mirrored", "undecided"]:
        """Whether the template fits better than its mirror image, and than the inverted contrast."""
        best, mirrored, inverted = self.docking.best.score, self.docking.mirrored, self.docking.inverted
        if self.is_clear(best, max(mirrored, inverted)):
            return "right"
        return "mirrored" if self.is_clear(mirrored, max(best, inverted)) else "undecided"

    @property
    def is_inverted(self) -> bool:
        """Whether inverted contrast fits better than the data as they are, in either hand."""
        return self.is_clear(self.docking.inverted, max(self.docking.best.score, self.docking.mirrored))

    @property
    def is_unique(self) -> bool:
        """Whether the best placement is better than all others."""
        return self.is_clear(self.docking.best.score, self.docking.rival)

    @property
    def is_found(self) -> bool:
        """Whether the best placement stands out of some that are wrong for certain or distinct from it."""
        alone = self.is_clear(self.docking.best.score, max(self.docking.rival, self.docking.inverted))
        return self.hand != "undecided" or alone

    def is_clear(self, better: float, worse: float) -> bool:
        """Whether a score is higher than another one beyond chance, noise, and what models leave open."""
        by_chance = min(_CLEAR_SPREADS * self.docking.spread, _CERTAIN_SHARE * abs(better))
        return better - worse > max(_CLEAR_NOISE[self.unit], _CLEAR_SHARE[self.unit] * abs(better), by_chance)

    def describe(self) -> str:
        """Say what was found, in lines."""
        angle = np.rad2deg(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1, 1)))
        shift = ", ".join(f"{value:.1f}" for value in self.translation)
        lines = [f"turned by {angle:.1f}°, then moved by ({shift}) Å", *self.scores, f"hand {self.hand}"]
        if self.hand == "right" and not self.is_unique:
            lines.append("another placement fits as well: each is right for copies or a symmetric molecule")
        return "\n".join(lines)

    @property
    def scores(self) -> tuple[str, str]:
        """The scores, in two lines."""
        found, digits = self.docking, 1 if self.unit == "noise deviations" else 3
        return (
            f"score {found.best.score:.{digits}f} ({self.unit}), next placement {found.rival:.{digits}f},",
            f"mirror image {found.mirrored:.{digits}f}, inverted contrast {found.inverted:.{digits}f}",
        )


def judge(fit: TemplateFit, name: str, *, force: bool) -> None:
    """Raise ValueError where the data contradict the template, and warn where they leave it open.

    Parameters
    ----------
    fit
    name
        Of the data's file.
    force
        Only warn.
    """
    scores, problem = " ".join(fit.scores), _problem(fit)
    if problem is not None and not force:
        raise ValueError(f"{name}: {problem} ({scores}); --force goes on all the same")
    doubt = problem or _doubt(fit)
    if doubt is not None:
        _logger.warning("%s: %s (%s)", name, doubt, scores)


def _problem(fit: TemplateFit) -> str | None:
    """Return what is wrong with the data, and the cure."""
    found, is_map = fit.docking, fit.unit == "correlation"
    if not is_map and max(found.best.score, found.mirrored, found.inverted) < _FAINTEST:
        return "the template is not found in the images: are they, and their poses, of this molecule?"
    if fit.is_inverted:
        cure = (
            "multiply the map by -1 (relion_image_handler --multiply_constant -1)"
            if is_map
            else "give --uninvert-data, or leave it out if it was given"
        )
        return f"the template fits the inverted contrast better: {cure}"
    if fit.hand != "mirrored":
        return None
    if hand_of(fit.template).hand == "mirrored":
        return "the mirror image of the template fits better, and the template is mirrored: mend its file"
    if is_map:
        return (
            "the mirror image of the template fits better: the map has the wrong hand, and so have "
            "the poses of its refinement: flip it (relion_image_handler --invert_hand, or cryoSPARC's Volume Tools) "
            "and refine again"
        )
    return (
        "the mirror image of the template fits better: the poses have the wrong hand: change the sign of "
        "rlnAngleTilt of all particles, or flip the map (relion_image_handler --invert_hand, cryoSPARC's Volume Tools) "
        "and refine again"
    )


def _doubt(fit: TemplateFit) -> str | None:
    """Return what the data leave open."""
    if not fit.is_found:
        return (
            "the template is not found: other placements, its mirror image or inverted contrast fit about as well; "
            "is this molecule in the data, and are these finer than 10 Å?"
        )
    if fit.hand == "undecided":
        return "the template's mirror image fits about as well: the hand of the data is not told"
    return None
