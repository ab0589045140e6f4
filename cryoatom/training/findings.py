"""What the checks of the input say: for each finding a sentence with numbers, and one with the cure."""

from __future__ import annotations

_OTHER_CONVENTION = (
    "Give the refinement's own .star or .cs file, or transpose the matrices: a .pkl made from cryoSPARC's poses may "
    "have them the other way round"
)


def mirrored_template(hand: str) -> str:
    """Say that the template is the mirror image of a protein."""
    return (
        f"wrong hand: the template is the mirror image of a protein ({hand}). Start from a template of the right hand; "
        "if it fits the map as it is, that is mirrored too, and with it the poses: flip the map and refine again"
    )


def inverted_contrast(better: float, *, is_uninverted: bool) -> str:
    """Say that the negatives of the images show the template."""
    cure = "leave out --uninvert-data" if is_uninverted else "give --uninvert-data"
    return (
        f"the contrast is inverted: the negatives of the images show the template better, by {better:.0f} deviations. "
        f"The protein is {'dark' if is_uninverted else 'bright'} in the images: {cure}"
    )


def opposite_shifts(better: float) -> str:
    """Say that shifts have the wrong sign."""
    return (
        f"the shifts have the wrong sign: with the opposite one they explain the images better by {better:.0f} "
        "deviations. Negate them in the pose file (in RELION's convention they bring the particle to the centre)"
    )


def wrong_rotations(name: str, better: float) -> str:
    """Say that rotations are the inverse ones ('transposed'), or those of a mirrored reconstruction."""
    if name == "transposed":
        return (
            "the rotations of the poses are the inverse ones: transposed they explain the images better by "
            f"{better:.0f} deviations. {_OTHER_CONVENTION}"
        )
    mirror = "inverted through the origin" if name == "all" else f"mirrored along {name}"
    return (
        f"the poses are of the other hand: those of the reconstruction {mirror} explain the images better by "
        f"{better:.0f} deviations. Flip the hand of the map that the poses come from and refine again, then place the "
        "template in it"
    )


def inverse_rotations_without_template(transposed: float, agreement: float, by_chance: float) -> str:
    """Say that rotations are the inverse ones, by the images alone."""
    return (
        "the rotations of the poses are the inverse ones: maps of two halves of the images correlate by "
        f"{transposed:.2f} with them transposed, by {agreement:.2f} as they are, by {by_chance:.2f} with permuted "
        f"ones. {_OTHER_CONVENTION}. The template is not in their frame either "
        "(`cryoatom template --fit particles.star`)"
    )


def better_turn(turn: str, better: float) -> str:
    """Say that the template fits better where it is not."""
    return (
        f"the template is not in the frame of the poses: {turn}, it explains the images better by {better:.0f} "
        "deviations. Place it with `cryoatom template --fit particles.star`"
    )


def other_frame(deviations: float, agreement: float, by_chance: float) -> str:
    """Say that the poses belong to the images, but not to the template."""
    return (
        "the template is not in the frame of the poses: it explains the images no better than with permuted poses "
        f"({deviations:.1f} deviations), while the poses are those of the images (maps of two halves correlate by "
        f"{agreement:.2f}, with permuted poses by {by_chance:.2f}). Place it with `cryoatom template --fit "
        "particles.star`"
    )


def other_images(deviations: float, expected: float, agreement: float, by_chance: float) -> str:
    """Say that the poses do not belong to the images."""
    return (
        "the poses do not belong to the images: they explain them no better than permuted ones do "
        f"({deviations:.1f} deviations, at least {expected:.0f} would be expected), and maps of two halves of the "
        f"images correlate by {agreement:.2f}, with permuted poses by {by_chance:.2f}. Was the order of images or "
        "poses changed, or --ind given for one of them alone? Poses in a .star or .cs file are joined by image name"
    )


def no_signal(images: int, signal: float, least: float) -> str:
    """Say that there is nothing of the template in the images."""
    return (
        f"the images do not show the template: over {images} images its projections correlate with them by "
        f"{signal:.1f} noise deviations, at least {least:.0f} are needed. Either it is another molecule, or it is not "
        "in the frame of the poses (`cryoatom template --fit particles.star`), or the images hold no particles"
    )
