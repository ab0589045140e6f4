"""What the checks of the input say: for each finding a sentence with numbers, and one with the cure."""

from __future__ import annotations

from cryoatom.training.docked import DockedSample
from cryoatom.training.halves import HalvesAgreement

_OTHER_CONVENTION = (
    "Give the refinement's own .star or .cs file, or transpose the matrices: a .pkl made from cryoSPARC's poses may "
    "have them the other way round"
)
_FIT = "`cryoatom template --fit particles.star`"


def mirrored_template(counts: str) -> str:
    """Say that the template is the mirror image of a protein."""
    return (
        f"wrong hand: the template is the mirror image of a protein ({counts}). Start from a template of the right "
        "hand; if it fits the map as it is, that is mirrored too, and with it the poses: flip the map and refine again"
    )


def inverted_contrast(better: float, worse: float, *, is_uninverted: bool) -> str:
    """Say that the negatives of the images show the template."""
    cure = "leave out --uninvert-data" if is_uninverted else "give --uninvert-data"
    return (
        f"the contrast is inverted: in a map of the images' negatives the template fits by {better:.0f} noise "
        f"deviations, of the images by {worse:.0f}. The protein is {'dark' if is_uninverted else 'bright'} in the "
        f"images: {cure}"
    )


def opposite_shifts(better: float) -> str:
    """Say that shifts have the wrong sign."""
    return (
        f"the shifts have the wrong sign: with the opposite one they explain the images better by {better:.0f} "
        "deviations. Negate them in the pose file (in RELION's convention they bring the particle to the centre)"
    )


def opposite_shifts_by_halves(better: HalvesAgreement, own: HalvesAgreement) -> str:
    """Say that shifts have the wrong sign, by the images alone."""
    return (
        f"the shifts have the wrong sign: maps of two halves of the images correlate by {better.own:.2f} with the "
        f"opposite one, by {own.own:.2f} as they are. Negate them in the pose file (in RELION's convention they bring "
        "the particle to the centre)"
    )


def inverse_rotations(transposed: DockedSample, given: DockedSample) -> str:
    """Say that rotations are the inverse ones, by docking."""
    return (
        "the rotations of the poses are the inverse ones: in a map of the images the template fits by "
        f"{max(transposed.best, transposed.docking.mirrored):.0f} noise deviations with them transposed, by "
        f"{max(given.best, given.docking.mirrored):.0f} as they are. {_OTHER_CONVENTION}"
    )


def inverse_rotations_by_halves(transposed: HalvesAgreement, own: HalvesAgreement) -> str:
    """Say that rotations are the inverse ones, by the images alone."""
    return (
        "the rotations of the poses are the inverse ones: maps of two halves of the images correlate by "
        f"{transposed.own:.2f} with them transposed, by {own.own:.2f} as they are, by {own.by_chance:.2f} with "
        f"permuted ones. {_OTHER_CONVENTION}"
    )


def other_hand(mirrored: float, best: float) -> str:
    """Say that the poses are those of a mirrored reconstruction."""
    return (
        f"the poses are of the other hand: in a map of the images the mirror image of the template fits by "
        f"{mirrored:.0f} noise deviations, the template by {best:.0f}. Change the sign of rlnAngleTilt of all "
        "particles, or flip the map (relion_image_handler --invert_hand, cryoSPARC's Volume Tools) and refine again; "
        f"then place the template with {_FIT}"
    )


def other_place(docked: DockedSample) -> str:
    """Say that the template is out of the frame of the poses."""
    return (
        f"the template is not in the frame of the poses: turned by {docked.angle_deg:.0f}° and moved by "
        f"{docked.away:.0f} Å it fits a map of the images by {docked.best:.0f} noise deviations, where it is by "
        f"{docked.in_place:.0f}, and in wrong places by up to {docked.docking.mirrored:.0f}. Place it with {_FIT}"
    )


def better_place(docked: DockedSample) -> str:
    """Say that the template might stand better."""
    return (
        f"the template stands well in the frame of the poses, but turned by {docked.angle_deg:.0f}° and moved by "
        f"{docked.away:.0f} Å it fits a map of the images better ({docked.best:.0f} noise deviations instead of "
        f"{docked.in_place:.0f}). If you did not place it there yourself, try {_FIT}"
    )


def unknown_place(docked: DockedSample) -> str:
    """Say that the frame could not be checked."""
    return (
        f"whether the template is in the frame of the poses could not be told: it fits a map of the images by "
        f"{docked.in_place:.0f} noise deviations where it is, by {docked.best:.0f} at its best, and its mirror image "
        f"by {docked.docking.mirrored:.0f}. See that it was placed with {_FIT}"
    )


def other_frame(deviations: float, own: HalvesAgreement) -> str:
    """Say that the poses belong to the images, but not to the template."""
    return (
        "the template is not in the frame of the poses: it explains the images no better than with permuted poses "
        f"({deviations:.1f} deviations), while the poses are those of the images (maps of two halves correlate by "
        f"{own.own:.2f}, with permuted poses by {own.by_chance:.2f}). Place it with {_FIT}"
    )


def other_images(deviations: float, expected: float, own: HalvesAgreement) -> str:
    """Say that the poses do not belong to the images."""
    return (
        "the poses do not belong to the images: they explain them no better than permuted ones do "
        f"({deviations:.1f} deviations, at least {expected:.0f} would be expected), and maps of two halves of the "
        f"images correlate by {own.own:.2f}, with permuted poses by {own.by_chance:.2f}. Was the order of images or "
        "poses changed, or --ind given for one of them alone? Poses in a .star or .cs file are joined by image name"
    )


def no_signal(images: int, signal: float, least: float) -> str:
    """Say that there is nothing of the template in the images."""
    return (
        f"the images do not show the template: over {images} images its projections correlate with them by "
        f"{signal:.1f} noise deviations, at least {least:.0f} are needed. Either it is another molecule, or it is not "
        f"in the frame of the poses ({_FIT}), or the images hold no particles"
    )


def undecided(images: int, signal: float) -> str:
    """Say that order and frame could not be checked."""
    return (
        f"{images} images show the template too faintly ({signal:.1f} noise deviations) to tell whether the poses are "
        f"their own and the template is in the frame of the poses: see that it was placed with {_FIT}"
    )
