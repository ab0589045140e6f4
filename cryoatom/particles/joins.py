"""Which row of another file is which particle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cryoatom.files.sources import Rows

logger = logging.getLogger(__name__)

_SHOWN = 5


def find_rows(images: Rows, other: Rows, selected: np.ndarray | None, total: int) -> np.ndarray:
    """Find the row of `other` that is each particle of `images`.

    By cryoSPARC's uid where both files have it; else by image name, then by number and path, then by number and file
    name where that is unambiguous. A file without either, as cryoDRGN's pickles, is taken in row order.

    Parameters
    ----------
    images, other : Rows
    selected : (n,) int array, optional
        The rows of the particle file that `images` are; all of them where absent.
    total : int
        Of rows in the whole particle file.

    Returns
    -------
    (n,) int64 array

    Raises
    ------
    ValueError
        If some particle has no row, with how many and which; or if the numbers of rows differ.
    """
    if other.names is None and other.uids is None:
        return _rows_in_order(images, other, selected, total)
    best, problem = np.full(len(images), -1), "the files have no image names or uids in common"
    for what, wanted, known in _keys(images, other):
        index = pd.Index(known)
        if not index.is_unique:
            problem = f"{other.source} has the {what} {index[index.duplicated()][0]} more than once"
            continue
        rows = index.get_indexer(pd.Index(wanted)).astype(np.int64)
        if (rows >= 0).all():
            logger.info("%s: %d particles joined with %s by %s", images.source, len(rows), other.source, what)
            return rows
        if (rows >= 0).sum() > (best >= 0).sum():
            best, problem = rows, f"the others were joined by {what}"
    missing = np.flatnonzero(best < 0)
    labels = images.names if images.names is not None else images.uids
    assert labels is not None
    shown = ", ".join(str(label) for label in labels[missing[:_SHOWN]])
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    raise ValueError(
        f"{other.source} ({len(other)} rows) lacks {len(missing)} of the {len(images)} particles of {images.source}: "
        f"{shown}{more} ({problem}); give a file of the same particles, or leave these out with --ind"
    )


def _rows_in_order(images: Rows, other: Rows, selected: np.ndarray | None, total: int) -> np.ndarray:
    if len(other) == total:
        rows = np.arange(total) if selected is None else selected
    elif len(other) == len(images):
        rows = np.arange(len(images))
    else:
        counts = f"{total} rows" if selected is None else f"{total} rows, of which {len(images)} are used,"
        raise ValueError(
            f"{other.source} has {len(other)} rows and no names, and {images.source} has {counts}: they are taken in "
            "order and must be as many; give the poses or CTF as .star or .cs, which are joined by name"
        )
    logger.warning(
        "%s has no image names: its %d rows are taken in the order of %s; were they made from that file?",
        *(other.source, len(other), images.source),
    )
    return np.asarray(rows, np.int64)


def _keys(images: Rows, other: Rows) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield what is compared: its name, and the values of both files; the strictest first."""
    if images.uids is not None and other.uids is not None:
        yield "uid", images.uids, other.uids
    if images.names is None or other.names is None:
        return
    yield "image name", images.names, other.names
    for what, shorten in _SHORTER.items():
        wanted = shorten(images.names)
        if len(set(wanted)) == len(set(images.names.tolist())):
            yield what, np.array(wanted), np.array(shorten(other.names))


def _number_and_path(names: np.ndarray) -> list[str]:
    parts = [name.rpartition("@") for name in names.tolist()]
    return [f"{number.lstrip('0') if at else '1'}@{path}" for number, at, path in parts]


def _number_and_file(names: np.ndarray) -> list[str]:
    parts = [name.partition("@") for name in _number_and_path(names)]
    return [f"{number}@{Path(path).name}" for number, _, path in parts]


_SHORTER: dict[str, Callable[[np.ndarray], list[str]]] = {
    "number and path": _number_and_path,
    "number and file name": _number_and_file,
}
