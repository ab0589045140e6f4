"""The arrays of the report page as JSON: small, and with a bound of what is lost."""

from __future__ import annotations

import base64
import re
from typing import Any

import numpy as np

from cryoatom.analysis.report_data import Picture, ReportData
from cryoatom.ensemble.motions import Motions

LARGEST_ERROR = 0.02  # Å, of a residue by storing a conformation in 16 bits
MOST_CLASSES = 40  # integers with more values are drawn as numbers
_MISSING = np.iinfo(np.uint16).max
_LEAST_LEVELS = 1000  # of a quantised colour, between the 1st and the 99th percentile
_NAME = re.compile(r"(\d+)@(.+)", re.DOTALL)

Json = dict[str, Any]


def payload(data: ReportData) -> Json:
    """Return everything that the page's script needs, ready for json.dumps."""
    template = data.template
    return {
        "title": data.title,
        "images": len(data.rows),
        "rows": _rows(data.rows),
        "names": None if data.image_names is None else _names(data.image_names),
        "template": {
            "name": template.residue_names.tolist(),
            "chain": template.chain_ids.tolist(),
            "number": template.residue_numbers.tolist(),
            "code": template.insertion_codes.tolist(),
            "bonded": stored(template.bonded.astype(np.uint8)),
            "positions": stored(template.positions.astype(np.float32)),
        },
        "maps": [_map(name, places) for name, places in data.maps.items()],
        "colours": [_colour(name, values) for name, values in data.colours.items()],
        "motions": {
            "mean": stored(data.motions.mean.astype(np.float32)),
            "axes": [stored(axis.astype(np.float32)) for axis in data.motions.axes],
            "amplitudes": stored_amplitudes(data.motions),
        },
        "series": [
            {"name": name, "notes": list(data.series_notes.get(name, ())), "frames": [_frame(each) for each in frames]}
            for name, frames in data.series.items()
        ],
        "residueColours": [_colour(name, values) for name, values in data.residue_colours.items()],
        "pictures": [_picture(each, grey_limit(data.pictures)) for each in data.pictures],
    }


def _rows(rows: np.ndarray) -> Json | None:
    """Store the row of each image, unless the images are the whole particle file."""
    return None if np.array_equal(rows, np.arange(len(rows))) else stored(rows.astype(np.int32))


def stored(array: np.ndarray) -> Json:
    """Store an array as it is: float32, int32, int16, uint16 or uint8, little-endian, row by row."""
    kind = {"f4": "<f4", "i4": "<i4", "i2": "<i2", "u2": "<u2", "u1": "u1"}[array.dtype.str[1:]]
    return {"type": array.dtype.str[1:], "data": base64.b64encode(array.astype(kind).tobytes()).decode("ascii")}


def quantised(values: np.ndarray) -> Json:
    """Store numbers by 65,535 levels between the least and the greatest; NaN and infinities are missing."""
    values = np.asarray(values, dtype=np.float64)
    is_known = np.isfinite(values)
    low, high = (values[is_known].min(), values[is_known].max()) if is_known.any() else (0.0, 0.0)
    scale = (high - low) / (_MISSING - 1) or 1.0
    levels = np.full(values.shape, _MISSING, dtype=np.uint16)
    levels[is_known] = np.rint((values[is_known] - low) / scale).astype(np.uint16)
    return {**stored(levels), "scale": float(scale), "offset": float(low)}


def stored_amplitudes(motions: Motions) -> list[Json]:
    """Store the amplitudes along each axis in 16 bits, or in 32 where no residue would then be right to 0.02 Å.

    An amplitude is wrong by at most half a step, so a residue by at most Σ_k step_k |axes[k, residue]| / 2.
    """
    amplitudes = motions.amplitudes
    steps = np.abs(amplitudes).max(axis=0, initial=0).astype(np.float64) / np.iinfo(np.int16).max
    reach = np.linalg.norm(motions.axes, axis=2)
    if (0.5 * steps @ reach).max(initial=0) > LARGEST_ERROR:
        return [stored(np.ascontiguousarray(column, dtype=np.float32)) for column in amplitudes.T]
    return [_whole_steps(column, step) for column, step in zip(amplitudes.T, steps.tolist(), strict=True)]


def grey_limit(pictures: tuple[Picture, ...]) -> float:
    """Return L: grey goes from -L (black) to L (white), in standard deviations of the noise, for all pictures."""
    if not pictures:
        return 1.0
    brightest = [np.percentile(np.abs(panel), 99.5) for each in pictures for panel in (each.image, each.model)]
    return float(np.ceil(2 * max(1.0, np.median(brightest))) / 2)


def _whole_steps(values: np.ndarray, step: float) -> Json:
    step = step or 1.0
    return {**stored(np.rint(values / step).astype(np.int16)), "scale": step, "offset": 0.0}


def _frame(positions: np.ndarray) -> Json:
    flat = np.asarray(positions, dtype=np.float64).ravel()
    step = float(np.abs(flat).max(initial=0)) / np.iinfo(np.int16).max
    if 0.5 * step * np.sqrt(3) > LARGEST_ERROR:
        return stored(flat.astype(np.float32))
    return _whole_steps(flat, step)


def _map(name: str, places: np.ndarray) -> Json:
    title, x_label, y_label = name.split("|") if name.count("|") == 2 else (name, f"{name}, 1", f"{name}, 2")
    x, y = (quantised(places[:, axis]) for axis in range(2))
    return {"name": title, "xLabel": x_label, "yLabel": y_label, "x": x, "y": y}


def _colour(name: str, values: np.ndarray) -> Json:
    values = np.asarray(values)
    if values.dtype.kind in "biu":
        classes, codes = np.unique(values, return_inverse=True)
        if len(classes) <= MOST_CLASSES:
            labels = ["yes" if each else "no" for each in classes] if values.dtype == bool else classes.astype(str)
            codes = codes.reshape(-1).astype(np.uint8)
            return {"name": name, "kind": "classes", "classes": list(map(str, labels)), "values": stored(codes)}
    return {"name": name, "kind": "numbers", "values": _numbers(values.astype(np.float64))}


def _numbers(values: np.ndarray) -> Json:
    """Quantise numbers, unless a few extreme ones would take the levels from all others."""
    known = values[np.isfinite(values)]
    if len(known):
        low, high = np.percentile(known, [1, 99])
        if known.max() - known.min() > (high - low) * _MISSING / _LEAST_LEVELS:
            return stored(values.astype(np.float32))
    return quantised(values)


def _picture(picture: Picture, limit: float) -> Json:
    panels = (picture.image, picture.model, picture.residual)
    grey = [np.clip(np.rint(127.5 + 127.5 * panel / limit), 0, 255).astype(np.uint8) for panel in panels]
    side = picture.image.shape[0]
    return {"index": picture.index, "note": picture.note, "side": side, "panels": [stored(panel) for panel in grey]}


def _names(names: np.ndarray) -> Json:
    """Store names such as 000012@stack.mrcs by slice and stack where all are of that form and width."""
    listed = names.tolist()
    matches = [_NAME.fullmatch(name) for name in listed]
    found = [match for match in matches if match is not None]
    widths = {len(match[1]) for match in found}
    stacks = sorted({match[2] for match in found})
    if len(found) < len(listed) or len(widths) != 1 or max(widths) > 9 or len(stacks) > _MISSING:
        return {"list": listed}
    place = {stack: index for index, stack in enumerate(stacks)}
    return {
        "width": widths.pop(),
        "stacks": stacks,
        "slice": stored(np.array([int(match[1]) for match in found], dtype=np.int32)),
        "stack": stored(np.array([place[match[2]] for match in found], dtype=np.uint16)),
    }
