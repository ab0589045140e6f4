"""Density maps, written. :func:`cryoatom.files.mrc.read_map` reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from mrcfile.dtypes import HEADER_DTYPE

from cryoatom.files.replacing import replacing


def write_map(path: Path, values: Float[np.ndarray, "box box box"], pixel_size: float, *, is_centered: bool) -> None:
    """Write a map as MRC2014, float32.

    Parameters
    ----------
    path : Path
    values : (box, box, box) float array
        [z, y, x]; voxel box // 2 is the origin of the models that belong to it.
    pixel_size : float
        Å.
    is_centered : bool
        The header's origin puts voxel box // 2 at (0, 0, 0) Å, where the models of a run have it: both then lie over
        each other in viewers. Otherwise voxel 0 is there, as in the maps of RELION, cryoSPARC and cryoDRGN.

    Raises
    ------
    ValueError
        For values that are not finite.
    """
    stored = np.ascontiguousarray(values, dtype="<f4")
    if not np.isfinite(stored).all():
        raise ValueError(f"{path}: the map has voxels that are not finite")
    box, length = len(stored), len(stored) * pixel_size
    corner = -(box // 2) * pixel_size if is_centered else 0.0
    fields = {
        **dict.fromkeys(("nx", "ny", "nz", "mx", "my", "mz"), box),
        **{"mode": 2, "ispg": 1, "cella": (length,) * 3, "cellb": (90, 90, 90), "mapc": 1, "mapr": 2, "maps": 3},
        **{"dmin": stored.min(), "dmax": stored.max(), "dmean": stored.mean(dtype=np.float64)},
        **{"rms": stored.std(dtype=np.float64), "origin": (corner,) * 3, "nversion": 20141},
        **{"map": b"MAP ", "machst": (0x44, 0x44, 0, 0), "nlabl": 1},
    }
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    for name, value in fields.items():
        header[name] = value
    header["label"][0] = b"Written by cryoatom"
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header.tobytes())
        file.write(stored.data)
