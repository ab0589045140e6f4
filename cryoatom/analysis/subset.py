"""Images of a run as a particle file for other programs, made from the original rows, or as a list of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoatom.analysis.run import Run
from cryoatom.analysis.select import file_rows
from cryoatom.analysis.select_config import SelectConfig
from cryoatom.files.cryosparc import open_cryosparc
from cryoatom.files.cryosparc_rows import save_cs, with_poses, write_cs_uids
from cryoatom.files.npy import npy_writer
from cryoatom.files.replacing import replacing
from cryoatom.files.rows import check_rows
from cryoatom.files.star import write_star_particles
from cryoatom.files.star_rows import read_star_layout, star_pose_changes, write_star_rows
from cryoatom.particles.table import read_particles

_FORMATS = {".star": (".star",), ".cs": (".cs",)}  # of a particle file; stacks have no rows: they become a .star


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
        If the particle file is no longer there.
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
    write_rows(config.output, file_rows(run, images))
    return [config.output]


def write_rows(path: Path, rows: np.ndarray) -> None:
    """Write rows of a particle file, from 0, as .npy or .txt: for `train --ind`."""
    if path.suffix.lower() == ".npy":
        with npy_writer(path, rows.shape, np.int64) as write:
            write(rows)
        return
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{row}\n" for row in rows.tolist()))


def _write_star(run: Run, images: np.ndarray, config: SelectConfig) -> list[Path]:
    source, rows = run.config.particles, file_rows(run, images)
    changes = None
    if config.with_poses:
        changes = star_pose_changes(read_star_layout(source), run.poses[images], run.pixel_size)
    names = run.images["name"][images].tolist()
    write_star_rows(source, rows, config.output, names=names, changes=changes)
    return [config.output]


def _write_cs(run: Run, images: np.ndarray, config: SelectConfig) -> list[Path]:
    source, rows = run.config.particles, file_rows(run, images)
    whole = open_cryosparc(source)
    check_rows(rows, len(whole), source)
    particles = whole[rows]
    if particles.uids is not None and "uid" in run.images:
        differing = np.flatnonzero(particles.uids.astype(str) != run.images["uid"][images])
        if len(differing):
            raise ValueError(
                f"{source} has changed: {len(differing)} of {len(rows)} rows, from {rows[differing[0]]} on, have other "
                "uids than those that the run was trained on; use that file"
            )
    others = {config.output.with_name(f"{config.output.stem}_{file.name}"): file for file in config.also}
    if others and particles.uids is None:
        raise ValueError(f"{source} has no uid to find its particles in {config.also[0]} by")
    if config.with_poses:
        particles = with_poses(particles, run.poses[images])
    save_cs(particles, config.output)
    for target, file in others.items():
        write_cs_uids(file, np.asarray(particles.uids), target)
    return [config.output, *others]


def _write_new_star(run: Run, images: np.ndarray, config: SelectConfig) -> list[Path]:
    """Write particles of stacks, which have no rows of their own, with the CTF and poses that training read."""
    settings = run.config
    particles = read_particles(
        settings.particles,
        datadir=settings.datadir,
        ind=file_rows(run, images),
        poses=settings.poses if isinstance(settings.poses, Path) else None,
        ctf=settings.ctf,
        amplitude_contrast=settings.amp_contrast,
    )
    if config.with_poses or particles.poses is None:
        particles = replace(particles, poses=run.poses[images])
    write_star_particles(config.output, particles)
    return [config.output]
