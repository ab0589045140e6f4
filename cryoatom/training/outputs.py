"""What a finished fit leaves for the user: conformations in several formats, final latents, weights, poses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cryoatom.files.npy import npy_writer
from cryoatom.files.rows import read_rows
from cryoatom.files.star import write_star_particles
from cryoatom.files.structure import write_atoms
from cryoatom.files.trajectory import DcdWriter
from cryoatom.records import Atoms, Particles
from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import Template
from cryoatom.train_config import TrainConfig
from cryoatom.training.trainer import Trainer
from cryoatom.training.uncertainty import are_poses_uncertain

_RESIDUES_AT_ONCE = 200_000
_logger = logging.getLogger(__name__)


def write_outputs(
    config: TrainConfig,
    folder: RunFolder,
    particles: Particles,
    template: Template,
    trainer: Trainer,
    progress: Callable[[int], None],
) -> None:
    """Write every image's conformation, in particle order, and the final latents and poses.

    Raises
    ------
    OSError
        When the disk is full; no file is left half-written under its name.
    """
    everything = torch.arange(len(particles))
    folder.save_array(folder.latents(), trainer.latents.read(everything).numpy())
    are_new = are_poses_uncertain(config)
    write_star_particles(folder.poses, replace(particles, poses=trainer.poses.poses()) if are_new else particles)
    count = len(particles)
    with npy_writer(folder.conformations, (count, len(template), 3)) as write:
        at_once, reach = max(1, _RESIDUES_AT_ONCE // len(template)), 0.0
        for start in range(0, count, at_once):
            rows = np.arange(start, min(start + at_once, count))
            decoded = trainer.decode(rows)
            reach = max(reach, float(np.square(decoded).sum(axis=-1).max()) ** 0.5)
            write(decoded)
            progress(int(rows[-1]) + 1)
    half = 0.5 * trainer.data.grid.side * trainer.data.grid.coarse_pixel
    if reach > half:
        _logger.warning(
            "conformations reach %.0f Å from the centre and the crops end at %.0f Å: what lies outside was not "
            "compared with the images; repeat with --margin %.0f",
            reach,
            half,
            config.margin + reach - half + 5,
        )
    conformations = np.load(folder.conformations, mmap_mode="r")
    calphas = alpha_atoms(template)
    if config.homogeneous:
        write_atoms(folder.homogeneous, _unranked(calphas, conformations[0]))
    elif config.dcd:
        write_trajectory(folder, calphas, conformations)
    residue_sd = np.load(folder.uncertainty, mmap_mode="r") if folder.uncertainty.is_file() else None
    write_pdb_files(folder, calphas, conformations, chosen_rows(config.pdb, count), residue_sd)


def alpha_atoms(template: Template) -> Atoms:
    """Return the template's C-alphas as atoms."""
    return template.atoms[template.atoms.names == "CA"]


def _unranked(calphas: Atoms, positions: np.ndarray) -> Atoms:
    """Return C-alphas at other positions; their B factors, 0, say nothing: nothing is known of how sure they are."""
    return replace(calphas, positions=positions.astype(np.float64), b_factors=np.zeros(len(calphas)))


def write_trajectory(folder: RunFolder, calphas: Atoms, conformations: np.ndarray) -> None:
    """Write the conformations as DCD with a C-alpha topology."""
    write_atoms(folder.topology, calphas)
    with DcdWriter(folder.trajectory, len(calphas)) as trajectory:
        at_once = max(1, _RESIDUES_AT_ONCE // len(calphas))
        for start in range(0, len(conformations), at_once):
            trajectory.write(conformations[start : start + at_once])


def chosen_rows(choice: str | int | Path, count: int) -> np.ndarray:
    """Return the rows that `--pdb` names: none, all, the first N, or those in a file.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file cannot be read or names a row that there is not.
    """
    if isinstance(choice, int):
        return np.arange(min(choice, count))
    if choice in ("none", "all"):
        return np.arange(count if choice == "all" else 0)
    rows = read_rows(choice)
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside):
        raise ValueError(f"--pdb {choice} names row {outside[0]}, there are {count} particles (rows start at 0)")
    return rows


def write_pdb_files(
    folder: RunFolder,
    calphas: Atoms,
    conformations: np.ndarray,
    rows: np.ndarray,
    residue_sd: np.ndarray | None = None,
) -> None:
    """Write pdb/000001.pdb ..., numbered by particle from 1; standard deviations, Å, go into the B column."""
    if len(rows) == 0:
        return
    folder.pdb.mkdir(exist_ok=True)
    for row in rows:
        b_factors = calphas.b_factors if residue_sd is None else residue_sd[row].astype(np.float64)
        posed = replace(calphas, positions=conformations[row].astype(np.float64), b_factors=b_factors)
        write_atoms(folder.pdb / f"{row + 1:06d}.pdb", posed)
