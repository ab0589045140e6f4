"""What a run will write, and whether there is room for it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cryoatom.decoders import build_decoder
from cryoatom.encoders import build_encoder
from cryoatom.files.sealed import BEGUN
from cryoatom.imaging.kernels import kernel_table
from cryoatom.particles.noise import noise_groups
from cryoatom.run_folder import RunFolder
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_scaffold, one_conformation
from cryoatom.training.images import are_prepared
from cryoatom.training.inputs import Inputs, crop_grid
from cryoatom.training.outputs import chosen_rows
from cryoatom.training.uncertainty import is_uncertainty_measured

_POSE_BYTES = 36 + 8 + 40 + 4  # R, t, both moments of their tangents, steps
_LATENT_BYTES = 8 + 4  # owner, steps
_FIT_BYTES = 12  # of an image: ⟨w, v⟩, ⟨v, κ*v⟩, weight
_IMAGE_BYTES = 8 + 4 + 8 + 8 + 8 + 1  # kernel index and mix, noise group, power, excess, dead or not
_CHECKPOINT_BYTES = 50_000  # names, beads, identity
_TEXT_BYTES = 250  # of an image in poses.star and images.csv
_PDB_BYTES = 81  # of a residue
_BASE_BYTES = 2_000_000  # template, graph, log, metrics
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a run writes.

    Parameters
    ----------
    crop_side, kernels
        Side of the crops in pixels, and how many spectra of κ there are.
    cache
        Images in matched form, in --cache or in the run folder.
    checkpoint, checkpoints
        One of them, and how many there will be at most.
    outputs
        Conformations and tables.
    """

    crop_side: int
    kernels: int
    cache: int
    checkpoint: int
    checkpoints: int
    outputs: int


def disk_need(config: TrainConfig, inputs: Inputs) -> DiskNeed:
    """Return what a run writes to disk."""
    images, residues = len(inputs.particles), len(inputs.template)
    side, particles = crop_grid(config, inputs).side, inputs.particles
    groups = None if config.noise == "white" else noise_groups(particles.optics_group)
    nodes = len(kernel_table(particles.optics, groups).nodes)
    cache = images * (2 * side**2 + _IMAGE_BYTES) + nodes * 2 * (2 * side) * (side + 1)
    config = one_conformation(config)
    networks: list[nn.Module] = [build_decoder(config, build_scaffold(config, inputs.template, inputs.graph))]
    if config.encoder != "none":
        networks.append(build_encoder(config, side))
    weights = 3 * 4 * sum(p.numel() for network in networks for p in network.parameters())  # with Adam's moments
    checkpoint = _CHECKPOINT_BYTES + weights + images * (4 * 4 * config.zdim + _LATENT_BYTES + _POSE_BYTES + _FIT_BYTES)
    frames = images * residues * 12 * (2 if config.dcd and not config.homogeneous else 1)
    pdb = len(chosen_rows(config.pdb, images)) * residues * _PDB_BYTES
    uncertainty = images * (2 * residues + 4 * config.zdim**2) if is_uncertainty_measured(config) else 0
    outputs = frames + pdb + uncertainty + images * (4 * config.zdim + _TEXT_BYTES) + _BASE_BYTES
    return DiskNeed(side, nodes, cache, checkpoint, -(-config.num_epochs // config.checkpoint) + 1, outputs)


def folder_needs(config: TrainConfig, inputs: Inputs, need: DiskNeed) -> dict[Path, int]:
    """Return the bytes by which each folder grows: without images that are prepared, and files that are replaced."""
    folder = RunFolder(config.outdir)
    run = need.checkpoint * need.checkpoints + need.outputs
    if config.overwrite:
        run = max(0, run - sum(_size(path) for path in folder.outputs()))
    cache = config.cache or folder.matched
    begun = sum(_size(path) for path in cache.glob(f".*.{BEGUN}"))
    images = 0 if are_prepared(config, inputs) else max(0, need.cache - begun)
    if _device(cache) == _device(config.outdir):
        return {config.outdir: run + images}
    return {config.outdir: run, cache: images}


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder is or will be."""
    return shutil.disk_usage(_existing(folder)).free


def check_space(config: TrainConfig, inputs: Inputs) -> None:
    """Check that what a run writes fits on the disk.

    Raises
    ------
    ValueError
        With the folder, what is needed and what is free; with --force it is a warning.
    """
    for folder, needed in folder_needs(config, inputs, disk_need(config, inputs)).items():
        free = free_bytes(folder)
        if needed <= free:
            continue
        text = (
            f"{folder} has {in_bytes(free)} free and the run needs up to {in_bytes(needed)}: choose another --outdir "
            "or --cache, a larger --checkpoint, or --no-dcd"
        )
        if not config.force:
            raise ValueError(f"{text} (--force goes on all the same)")
        _logger.warning("%s; going on, as --force says", text)


def in_bytes(count: int) -> str:
    """Return a number of bytes as MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev
