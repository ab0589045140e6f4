"""Which images of a run meet criteria: clusters, ranges of what the analysis found, how well they fit."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatom.analysis.analyze_config import AnalyzeConfig
from cryoatom.analysis.freshness import check_fresh
from cryoatom.analysis.run import Run
from cryoatom.analysis.select_config import Selection
from cryoatom.files.npy import read_npy
from cryoatom.files.rows import check_rows, read_rows
from cryoatom.run_folder import AnalysisFolder

Criterion = tuple[str, np.ndarray]
_CLUSTERS = re.compile(r"k?(?P<first>\d{1,6})(?:-k?(?P<last>\d{1,6}))?")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """Some images of a run.

    Parameters
    ----------
    images : (m,) int64
        Of the run, from 0, ascending.
    steps : tuple of (str, int, int)
        What was asked for, one after the other: how many images meet it, and how many are left.
    """

    images: np.ndarray
    steps: tuple[tuple[str, int, int], ...]


def choose_images(run: Run, asked: Selection) -> Chosen:
    """Find the images that meet all criteria. A value that is missing (NaN) meets none.

    A warning says how many of them are junk or dead.

    Raises
    ------
    FileNotFoundError
        If the analysis has not been made that a criterion needs.
    ValueError
        For a criterion that cannot be understood, or that leaves no image, and for an analysis of another state.
    """
    keeps, steps = np.ones(len(run), bool), []
    for label, meets in _criteria(run, asked):
        keeps &= meets
        steps.append((label, int(meets.sum()), int(keeps.sum())))
    if asked.invert:
        keeps = ~keeps
        steps.append(("--invert", int(keeps.sum()), int(keeps.sum())))
    images = np.flatnonzero(keeps)
    if asked.random is not None:
        count = min(asked.random, len(images))
        images = np.sort(np.random.default_rng(asked.seed).choice(images, count, replace=False))
        steps.append((f"--random {asked.random}", count, count))
    if len(images) == 0:
        shown = ", ".join(f"{label} {meeting:,}" for label, meeting, _ in steps)
        raise ValueError(f"no image of {run.folder.path} is left ({shown}): ask for less")
    _warn_of_poor(run, images)
    return Chosen(images, tuple(steps))


def dead_images(run: Run, images: np.ndarray) -> np.ndarray:
    """Return those of some images that the training could not use; none is known before it has ended."""
    if not run.folder.image_report.is_file():
        return images[:0]
    return images[run.images["is_dead"][images] == 1]


def _warn_of_poor(run: Run, images: np.ndarray) -> None:
    if not run.folder.image_report.is_file():
        return
    is_dead = run.images["is_dead"][images] == 1
    is_junk = (run.images["is_junk"][images] == 1) & ~is_dead
    if (is_junk | is_dead).any():
        way_out = "--fits 0.05" if run.epoch is None else f"--ind {run.folder.good_rows}"
        _logger.warning(
            "among these %d images are %d junk (they do not fit the model) and %d dead (they could not be used), see "
            "%s; %s leaves them out",
            *(len(images), int(is_junk.sum()), int(is_dead.sum()), run.folder.image_report, way_out),
        )


def _criteria(run: Run, asked: Selection) -> Iterator[Criterion]:
    """Yield each criterion, with the images that meet it."""
    yield from _analysed(run, asked)
    yield from _reported(run, asked)
    if asked.ind is not None:
        yield f"--ind {asked.ind}", _among(run.rows, asked.ind, "image of row")
    if asked.images is not None:
        yield f"--images {asked.images}", _among(np.arange(len(run)), asked.images, "image")


def _analysed(run: Run, asked: Selection) -> Iterator[Criterion]:
    """Yield what is asked of the analysis, which must be of the run as it is."""
    if asked.cluster is None and asked.path is None and not (asked.pc or asked.motion or asked.cv):
        return
    folder = run.folder.analysis(run.epoch) if asked.analysis is None else AnalysisFolder(asked.analysis)
    check_fresh(run, folder)
    if asked.cluster is not None:
        count = asked.ksample or AnalyzeConfig.merge({}, folder.config).ksample
        labels = _values(run, folder.labels(count), f" --ksample {count}")
        yield f"--cluster {asked.cluster}", np.isin(labels, _clusters(asked.cluster, labels))
    axes = ("--pc", asked.pc, folder.latent_components), ("--motion", asked.motion, folder.motions)
    for option, texts, file in axes:
        for text in texts:
            number, _, bounds = text.partition(":")
            yield f"{option} {text}", _within(_axis(_values(run, file), number, option), bounds, option)
    for text in asked.cv:
        name, bounds = _named(text)
        yield f"--cv {text}", _within(_column(run, folder.collective, name, " --cv ..."), bounds, "--cv")
    if asked.path is not None:
        yield f"--path {asked.path}", _within(_values(run, folder.path_position), asked.path, "--path")


def _reported(run: Run, asked: Selection) -> Iterator[Criterion]:
    """Yield what is asked of images.csv."""
    if asked.gain is not None:
        bounds = asked.gain if ":" in asked.gain else f"{asked.gain}:"
        yield f"--gain {asked.gain}", _within(_column(run, run.folder.image_report, "gain_nats"), bounds, "--gain")
    if asked.fits is not None:
        yield f"--fits {asked.fits:g}", _column(run, run.folder.image_report, "fits") >= asked.fits
    if asked.uncertainty is not None:
        deviation = _column(run, run.folder.image_report, "sd")
        yield f"--uncertainty {asked.uncertainty:g}", deviation <= asked.uncertainty


def _among(own: np.ndarray, source: Path, what: str) -> np.ndarray:
    rows = read_rows(source)
    missing = np.setdiff1d(rows, own)
    if len(missing):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(
            f"{source}: the run has no {what} {missing[0]}{more}; --ind takes rows of the particle file, --images "
            "places in the run"
        )
    check_rows(rows, int(own.max()) + 1, source)
    return np.isin(own, rows)


def _named(text: str) -> tuple[str, str]:
    """Cut 'NAME:LOW:HIGH' into a name, which may have colons, and bounds."""
    name, *bounds = text.rsplit(":", 2)
    if len(bounds) != 2:
        raise ValueError(f"--cv {text}: expected 'NAME:LOW:HIGH', one of the bounds may be empty")
    return name, ":".join(bounds)


def _clusters(text: str, labels: np.ndarray) -> list[int]:
    """Return the clusters of '3,4', '3-5' or 'k3', as `analyze` writes them."""
    found: list[int] = []
    for word in text.split(","):
        match = _CLUSTERS.fullmatch(word.strip())
        if match is None:
            raise ValueError(f"--cluster {text}: expected numbers of clusters, from 1, as '3,4' or '3-5'")
        first, last = int(match["first"]), int(match["last"] or match["first"])
        if not 1 <= first <= last <= labels.max():
            raise ValueError(f"--cluster {text}: there is no cluster {word.strip()}, they are 1 to {labels.max()}")
        found += range(first, last + 1)
    return found


def _axis(values: np.ndarray, number: str, option: str) -> np.ndarray:
    values = values.reshape(len(values), -1)
    if not number.isdecimal() or not 1 <= int(number) <= values.shape[1]:
        raise ValueError(
            f"{option} {number}: expected a number from 1 to {values.shape[1]}, then ':LOW:HIGH' (`analyze --pc N` "
            "writes more of them)"
        )
    return values[:, int(number) - 1]


def _within(values: np.ndarray, bounds: str, option: str) -> np.ndarray:
    """Return which values lie within 'LOW:HIGH', both included; an empty side is open."""
    sides = bounds.split(":")
    try:
        low, high = (float(side) if side.strip() else None for side in sides)
    except ValueError:
        raise ValueError(f"{option}: expected bounds as 'LOW:HIGH', one may be empty, found {bounds!r}") from None
    if low is not None and high is not None and low > high:
        raise ValueError(f"{option}: the lower bound of {bounds!r} is above the upper one")
    meets = (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
    if not meets.any() and np.isfinite(values).any():
        extent = f"{np.nanmin(values):.4g} to {np.nanmax(values):.4g}"
        raise ValueError(f"{option}: no image lies within {bounds!r}, they run from {extent}")
    return meets


def _values(run: Run, path: Path, options: str = "") -> np.ndarray:
    """Return an array of the analysis, which `options` of the command make."""
    _check_there(run, path, options)
    return _checked(run, path, read_npy(path))


def _column(run: Run, path: Path, name: str, options: str = "") -> np.ndarray:
    """Return a column of a table as numbers, NaN where it is empty."""
    _check_there(run, path, options)
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        names = next(rows, [])
        if name not in names:
            hint = "; was the run trained with --no-uncertainty, or --pose-loss expected?" if name == "sd" else ""
            raise ValueError(f"{path} has no column {name!r}, only {', '.join(names)}{hint}")
        place = names.index(name)
        return _checked(run, path, np.array([float(row[place] or "nan") for row in rows]))


def _check_there(run: Run, path: Path, options: str) -> None:
    if not path.is_file():
        epoch = "" if run.epoch is None else f" {run.epoch}"
        command = f"cryoatom analyze {run.folder.path}{epoch}{options}"
        by = "has the training ended?" if path == run.folder.image_report else f"run `{command}` first"
        raise FileNotFoundError(f"there is no {path}: {by}")


def _checked(run: Run, path: Path, values: np.ndarray) -> np.ndarray:
    if len(values) != len(run):
        raise ValueError(f"{path} is of {len(values)} images, and the run has {len(run)}: do the analysis again")
    return values
