"""Which images of a run meet criteria: clusters, ranges of what the analysis found, how well they fit."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatom.analysis.run import Run
from cryoatom.analysis.select_config import Selection
from cryoatom.files.npy import read_npy
from cryoatom.files.rows import check_rows, read_rows
from cryoatom.run_folder import AnalysisFolder

Criterion = tuple[str, np.ndarray]


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

    Raises
    ------
    FileNotFoundError
        If the analysis has not been made that a criterion needs.
    ValueError
        For a criterion that cannot be understood, or that leaves no image.
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
    return Chosen(images, tuple(steps))


def file_rows(run: Run, images: np.ndarray) -> np.ndarray:
    """Return the rows of the particle file that images of the run are: others where it was trained with --ind.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file of --ind is no longer what it was.
    """
    return _rows_of_run(run)[images]


def _rows_of_run(run: Run) -> np.ndarray:
    if run.config.ind is None:
        return np.arange(len(run))
    rows = read_rows(run.config.ind)
    if len(rows) != len(run):
        raise ValueError(
            f"{run.config.ind} has {len(rows)} rows, and the run {len(run)} images: it has changed since the training"
        )
    return rows


def _criteria(run: Run, asked: Selection) -> Iterator[Criterion]:
    """Yield each criterion, with the images that meet it."""
    folder = run.folder.analysis(asked.epoch) if asked.analysis is None else AnalysisFolder(asked.analysis)
    if asked.cluster is not None:
        labels = _values(run, _clustering(folder, asked.ksample))
        yield f"--cluster {asked.cluster}", np.isin(labels, _clusters(asked.cluster, labels))
    axes = ("--pc", asked.pc, folder.latent_components), ("--motion", asked.motion, folder.motions)
    for option, texts, file in axes:
        for text in texts:
            number, _, bounds = text.partition(":")
            yield f"{option} {text}", _within(_axis(_values(run, file), number, option), bounds, option)
    for text in asked.cv:
        name, _, bounds = text.partition(":")
        yield f"--cv {text}", _within(_column(run, folder.collective, name), bounds, "--cv")
    if asked.path is not None:
        yield f"--path {asked.path}", _within(_values(run, folder.path_position), asked.path, "--path")
    if asked.gain is not None:
        bounds = asked.gain if ":" in asked.gain else f"{asked.gain}:"
        yield f"--gain {asked.gain}", _within(_column(run, run.folder.image_report, "gain_nats"), bounds, "--gain")
    if asked.fits is not None:
        yield f"--fits {asked.fits:g}", _column(run, run.folder.image_report, "fits") >= asked.fits
    if asked.uncertainty is not None:
        deviation = _column(run, run.folder.image_report, "sd")
        yield f"--uncertainty {asked.uncertainty:g}", deviation <= asked.uncertainty
    if asked.ind is not None:
        yield f"--ind {asked.ind}", _among(_rows_of_run(run), read_rows(asked.ind), asked.ind)
    if asked.images is not None:
        yield f"--images {asked.images}", _among(np.arange(len(run)), read_rows(asked.images), asked.images)


def _among(own: np.ndarray, rows: np.ndarray, source: Path) -> np.ndarray:
    missing = np.setdiff1d(rows, own)
    if len(missing):
        raise ValueError(f"{source} has row {missing[0]}, and {len(missing) - 1} more, that the run has no image of")
    check_rows(rows, int(own.max()) + 1, source)
    return np.isin(own, rows)


def _clustering(folder: AnalysisFolder, count: int | None) -> Path:
    if count is not None:
        return folder.labels(count)
    found = sorted(folder.path.glob(f"kmeans*/{folder.labels(2).name}"))
    if len(found) > 1:
        shown = ", ".join(path.parent.name for path in found)
        raise ValueError(f"{folder.path} has several clusterings ({shown}): say which with --ksample")
    return found[0] if found else folder.labels(20)


def _clusters(text: str, labels: np.ndarray) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--cluster {text}: expected numbers of clusters, from 1, between commas, as '3,4'")
    unknown = [word for word in words if not 1 <= int(word) <= labels.max()]
    if unknown:
        raise ValueError(f"--cluster {text}: there is no cluster {unknown[0]}, they are 1 to {labels.max()}")
    return [int(word) for word in words]


def _axis(values: np.ndarray, number: str, option: str) -> np.ndarray:
    values = values.reshape(len(values), -1)
    if not number.isdecimal() or not 1 <= int(number) <= values.shape[1]:
        raise ValueError(f"{option} {number}: expected a number from 1 to {values.shape[1]}, then ':LOW:HIGH'")
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
    return (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))


def _values(run: Run, path: Path) -> np.ndarray:
    _check_there(run, path)
    return _checked(run, path, read_npy(path))


def _column(run: Run, path: Path, name: str) -> np.ndarray:
    """Return a column of a table as numbers, NaN where it is empty."""
    _check_there(run, path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        names = next(rows, [])
        if name not in names:
            hint = "; was the run trained with --no-uncertainty?" if name == "sd" else ""
            raise ValueError(f"{path} has no column {name!r}, only {', '.join(names)}{hint}")
        place = names.index(name)
        return _checked(run, path, np.array([float(row[place] or "nan") for row in rows]))


def _check_there(run: Run, path: Path) -> None:
    if not path.is_file():
        epoch = "" if run.epoch is None else f" {run.epoch}"
        command = f"cryoatom analyze {run.folder.path}{epoch}"
        by = "has the training ended?" if path == run.folder.image_report else f"run `{command}` first"
        raise FileNotFoundError(f"there is no {path}: {by}")


def _checked(run: Run, path: Path, values: np.ndarray) -> np.ndarray:
    if len(values) != len(run):
        raise ValueError(
            f"{path} is of {len(values)} images, and the run has {len(run)}: do the analysis again, with --overwrite"
        )
    return values
