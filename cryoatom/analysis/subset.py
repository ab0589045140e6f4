"""Images of a run as a particle file for other programs, made from the original rows, or as a list of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from cryoatom.analysis.run import Run
from cryoatom.analysis.select_config import SelectConfig
from cryoatom.files.cryosparc import open_cryosparc
from cryoatom.files.cryosparc_rows import save_cs, with_poses, with_uids
from cryoatom.files.npy import npy_writer
from cryoatom.files.replacing import replacing
from cryoatom.files.sources import Rows
from cryoatom.files.star import open_star, write_star_particles
from cryoatom.files.star_rows import read_star_layout, star_pose_changes, write_star_rows
from cryoatom.particles.table import read_particles

_FORMATS = {".star": (".star",), ".cs": (".cs",)}  # of a particle file; stacks have no rows: they become a .star

Table = TypeVar("Table", bound=Rows)


def write_subset(run: Run, images: np.ndarray, config: SelectConfig) -> list[Path]:
    """Write images of a run as `config.output` asks for; return the files.

    Parameters
    ----------
    run : Run
    images : (m,) int64
        Of the run, ascending.
    config : SelectConfig

    Raises
    ------
    FileNotFoundError
        If the particle file is no longer there, which a list of rows does without.
    ValueError
        For a format that cannot be made of the particle file, or a file that has changed since the training.
    """
    suffix = config.output.suffix.lower()
    write = _writer(suffix, run.config.particles)
    if suffix != ".cs" and config.also:
        raise ValueError("--also cuts cryoSPARC's passthrough files: it goes with -o SUBSET.cs")
    if suffix in (".txt", ".npy") and config.with_poses:
        raise ValueError(f"--with-poses has no meaning for rows: -o {config.output} takes no poses")
    return write(run, images, config)


def _writer(suffix: str, source: Path) -> Callable[[Run, np.ndarray, SelectConfig], list[Path]]:
    kind = source.suffix.lower()
    if suffix in (".txt", ".npy"):
        return _write_list
    if suffix in _FORMATS.get(kind, (".star",)):
        return {".star": _write_star, ".cs": _write_cs}.get(kind, _write_new_star)
    works = ", ".join((*_FORMATS.get(kind, (".star",)), ".txt", ".npy"))
    pickles = "; for cryoDRGN: pickle.dump(numpy.load('rows.npy'), open('rows.pkl', 'wb'))" * (suffix == ".pkl")
    raise ValueError(f"cannot write {suffix or 'a file without suffix'} of {source}: give -o one of {works}{pickles}")


def _write_list(run: Run, images: np.ndarray, config: SelectConfig) -> list[Path]:
    """Write rows of the particle file; where that is gone they are still those that it had."""
    source = run.config.particles
    kind = source.suffix.lower()
    if kind in _FORMATS and source.is_file():
        _chosen(run, images, open_star(source) if kind == ".star" else open_cryosparc(source))
    write_rows(config.output, run.rows[images])
    return [config.output]


def _chosen(run: Run, images: np.ndarray, whole: Table) -> Table:
    """Return the rows of the particle file that are the images; by uid, where there is one, these are the same."""
    rows = run.rows[images]
    if rows.max() >= len(whole):
        raise ValueError(
            f"{whole.source} has changed: it has {len(whole)} rows, and the run images of row {rows.max()} (from 0); "
            "use the file that the run was trained on"
        )
    found = whole[rows]
    if found.uids is not None and "uid" in run.images:
        _check_same(run, images, found.uids.astype(str), run.images["uid"])
    else:
        _check_same(run, images, found.names, run.images["name"])
    return found


def _check_same(run: Run, images: np.ndarray, found: np.ndarray | None, known: np.ndarray) -> None:
    differing = np.arange(len(images)) if found is None else np.flatnonzero(found != known[images])
    if len(differing):
        raise ValueError(
            f"{run.config.particles} has changed: {len(differing)} of {len(images)} rows, row "
            f"{run.rows[images[differing[0]]]} first, are not the particles that the run was trained on; use that file"
        )


def write_rows(path: Path, rows: np.ndarray) -> None:
    """Write rows of a particle file, from 0, as .npy or .txt: for `train --ind`."""
    if path.suffix.lower() == ".npy":
        with npy_writer(path, rows.shape, np.int64) as write:
            write(rows)
        return
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{row}\n" for row in rows.tolist()))


def _write_star(run: Run, images: np.ndarray, config: SelectConfig) -> list[Path]:
    source, changes = run.config.particles, None
    if config.with_poses:
        changes = star_pose_changes(read_star_layout(source), run.poses[images], run.pixel_size)
    names = run.images["name"][images].tolist()
    write_star_rows(source, run.rows[images], config.output, names=names, changes=changes)
    return [config.output]


def _write_cs(run: Run, images: np.ndarray, config: SelectConfig) -> list[Path]:
    source = run.config.particles
    particles = _chosen(run, images, open_cryosparc(source))
    if config.also and particles.uids is None:
        raise ValueError(f"{source} has no uid to find its particles in {config.also[0]} by")
    parts = {config.output: with_poses(particles, run.poses[images]) if config.with_poses else particles}
    for file in config.also:
        target = config.output.with_name(f"{config.output.stem}_{file.name}")
        if target in parts:
            raise ValueError(f"--also: two files are named {file.name}, and both would become {target}: cut them apart")
        parts[target] = with_uids(open_cryosparc(file), np.asarray(particles.uids))
    save_cs(parts)
    return list(parts)


def _write_new_star(run: Run, images: np.ndarray, config: SelectConfig) -> list[Path]:
    """Write particles of stacks, which have no rows of their own, with the CTF and poses that training read."""
    settings = run.config
    particles = read_particles(
        settings.particles,
        datadir=settings.datadir,
        ind=run.rows[images],
        poses=settings.poses if isinstance(settings.poses, Path) else None,
        ctf=settings.ctf,
        amplitude_contrast=settings.amp_contrast,
    )
    _check_same(run, images, particles.image_names, run.images["name"])
    if config.with_poses or particles.poses is None:
        particles = replace(particles, poses=run.poses[images])
    write_star_particles(config.output, particles)
    return [config.output]
