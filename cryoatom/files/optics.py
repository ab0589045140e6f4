"""Contrast-transfer parameters of any program to `Optics`, checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryoatom.records import Optics

logger = logging.getLogger(__name__)

_RANGES = {"voltage_kv": (10, 3000), "cs_mm": (0, 100), "amplitude_contrast": (0, 1)}


def make_optics(
    source: Path,
    values: Mapping[str, np.ndarray],
    labels: Mapping[str, str],
    amplitude_contrast: float | None = None,
) -> Optics:
    """Check the CTF parameters of a file.

    Parameters
    ----------
    source : Path
    values : dict of (n,) float64
        By field of :class:`cryoatom.records.Optics`, in its units. An absent phase shift is 0.
    labels : dict of str
        What the file calls each of them.
    amplitude_contrast : float, optional
        Goes before the file's.

    Raises
    ------
    ValueError
        For a missing amplitude contrast, and values that are not finite or cannot be true.
    """
    count = len(values["voltage_kv"])
    complete = {
        **values,
        "amplitude_contrast": _amplitude_contrast(source, values, labels, amplitude_contrast),
        "phase_shift": values.get("phase_shift", np.zeros(count)),
    }
    for field, numbers in complete.items():
        low, high = _RANGES.get(field, (-np.inf, np.inf))
        outside = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= low) & (numbers <= high)))
        if len(outside):
            expected = "finite numbers" if field not in _RANGES else f"between {low} and {high}"
            raise ValueError(
                f"{source}: expected {labels[field]} {expected}, found {numbers[outside[0]]:g} in row {outside[0]} "
                f"(from 0), and {len(outside) - 1} more of this kind"
            )
    return Optics(**complete)


def _amplitude_contrast(
    source: Path, values: Mapping[str, np.ndarray], labels: Mapping[str, str], given: float | None
) -> np.ndarray:
    count, found = len(values["voltage_kv"]), values.get("amplitude_contrast")
    if given is not None:
        known = np.zeros(0) if found is None else found[np.isfinite(found)]
        if len(known) and np.abs(known - given).max() > 1e-6:
            span = sorted({f"{known.min():g}", f"{known.max():g}"})
            logger.warning("%s has an amplitude contrast of %s; %g is taken", source, " to ".join(span), given)
        return np.full(count, float(given))
    absent = count if found is None else int(np.isnan(found).sum())
    if found is None or absent:
        raise ValueError(
            f"{source} has no amplitude contrast ({labels['amplitude_contrast']}) for {absent} of {count} particles: "
            "give it with --amp-contrast (0.1 in most refinements, 0.07 for some)"
        )
    return found
