"""Images of adenylate kinase drawn from the direct model, in memory: what the timing benchmarks share."""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoatom.files.npy import npy_writer
from cryoatom.geometry import random_rotations
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.direct import simulate_images
from cryoatom.imaging.grid import CropGrid, choose_grid
from cryoatom.imaging.kernels import kernel_spectra, kernel_table
from cryoatom.imaging.matched import WIDTH_PER_PIXEL, MatchedSet, matched_crops
from cryoatom.particles.noise import white_noise
from cryoatom.records import Atoms, Optics, Particles, Poses
from cryoatom.structure.graph import build_graph
from cryoatom.structure.template import NEW_CHAIN_JUMP, Template, center_template, read_template
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_trainer
from cryoatom.training.inputs import Inputs
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

BOX, PIXEL_SIZE = 256, 1.0
GAP = 4.0  # Å between the bounding boxes of copies
LOG_SCALE = -2.26  # image units per electron at 100 electrons per Å²: what `cryoatom simulate` gives for ADK
_MOST_GAUSSIANS = 2**24  # of beads along an axis, all images together, that are drawn at once: memory
DEFAULTS = TrainConfig.model_fields
CROP_PIXEL = DEFAULTS["crop_pixel"].default


@dataclass(frozen=True)
class Scene:
    """Images, what they are of, and beads as wide as the grid asks for."""

    template: Template
    beads: BeadModel
    grid: CropGrid
    images: Tensor
    rotations: Tensor
    shifts: Tensor
    optics: Optics


def adk() -> Template:
    found = importlib.util.find_spec("MDAnalysisTests")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("this benchmark needs the package MDAnalysisTests: pip install MDAnalysisTests")
    return center_template(read_template(Path(found.submodule_search_locations[0]) / "data" / "adk_closed.pdb")[0])


def packed(residues: int) -> Template:
    """Return so many residues: ADK's first, or copies of it."""
    one = adk()
    copies = -(-residues // len(one))
    cell = np.ptp(one.atoms.positions, axis=0) + GAP
    lattice = np.array(list(itertools.product(range(-4, 5), repeat=3))) * cell
    places = lattice[np.argsort(np.linalg.norm(lattice, axis=1), kind="stable")[:copies]]
    jump = one.chain_position[-1] - one.chain_position[0] + NEW_CHAIN_JUMP
    names = np.array([f"C{k}" for k in range(copies)])
    everything = Template(
        positions=(one.positions + places[:, None]).reshape(-1, 3),
        residue_names=np.tile(one.residue_names, copies),
        chain_ids=np.repeat(names, len(one)),
        residue_numbers=np.tile(one.residue_numbers, copies),
        insertion_codes=np.tile(one.insertion_codes, copies),
        confidence=np.tile(one.confidence, copies),
        chain_position=(one.chain_position + jump * np.arange(copies)[:, None]).ravel(),
        atoms=copied_atoms(one.atoms, places, names),
        atom_residue=(one.atom_residue + len(one) * np.arange(copies)[:, None]).ravel(),
    )
    return center_template(cut(everything, residues))


def copied_atoms(atoms: Atoms, places: np.ndarray, names: np.ndarray) -> Atoms:
    tiled = {name: np.tile(value, len(places)) for name, value in vars(atoms).items() if name != "positions"}
    tiled["chain_ids"] = np.repeat(names, len(atoms))
    return Atoms(**tiled, positions=(atoms.positions + places[:, None]).reshape(-1, 3))


def cut(template: Template, residues: int) -> Template:
    """Return the first residues."""
    kept = template.atom_residue < residues
    atoms = Atoms(**{name: value[kept] for name, value in vars(template.atoms).items()})
    rows = {name: value[:residues] for name, value in vars(template).items() if "atom" not in name}
    return Template(**rows, atoms=atoms, atom_residue=template.atom_residue[kept])


def make_optics(defocus: np.ndarray, astigmatism: np.ndarray | float = 0.0, angle: np.ndarray | float = 0.0) -> Optics:
    constants = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.06, "phase_shift": 0.0}
    return Optics(
        defocus_u=defocus + np.asarray(astigmatism) / 2,
        defocus_v=defocus - np.asarray(astigmatism) / 2,
        defocus_angle=np.broadcast_to(angle, defocus.shape).astype(float),
        **{name: np.full(len(defocus), value) for name, value in constants.items()},
    )


def make_scene(
    optics: Optics,
    *,
    template: Template | None = None,
    box: int = BOX,
    crop_pixel: float = CROP_PIXEL,
    max_shift: float = 0.0,
    seed: int = 0,
) -> Scene:
    """Draw noisy images of ADK, or of another template, each with its C-alphas 1 Å (in each coordinate) from it."""
    template = adk() if template is None else template
    generator, count = np.random.default_rng(seed), len(optics)
    reach = float(np.linalg.norm(template.positions, axis=1).max())
    grid = choose_grid(box, PIXEL_SIZE, 2 * (reach + DEFAULTS["margin"].default), crop_pixel)
    beads = BeadModel(bead_layout(template, "atoms"), template, WIDTH_PER_PIXEL * grid.coarse_pixel)
    rotations = torch.from_numpy(random_rotations(count, generator)).float()
    shifts = torch.from_numpy(generator.uniform(-1, 1, (count, 2)) * max_shift).float()
    true = torch.from_numpy(template.positions + generator.normal(size=(count, len(template), 3))).float()
    with torch.no_grad():
        beads.log_scale.add_(LOG_SCALE)
        centers = beads.project(true, rotations) + shifts[:, None]
        parts = np.array_split(np.arange(count), -(-count * len(beads.electrons) * box // _MOST_GAUSSIANS))
        masses, widths = beads.amplitudes(), beads.variances()
        images = torch.cat([simulate_images(centers[p], masses, widths, optics[p], box, PIXEL_SIZE) for p in parts])
    images += torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return Scene(template, beads, grid, images, rotations, shifts, optics)


def statistics(scene: Scene) -> MatchedSet:
    """Return what `cryoatom train` keeps of the images, in memory, in half precision."""
    crops, grid = [], scene.grid
    box = grid.box
    for part in np.array_split(np.arange(len(scene.images)), max(1, len(scene.images) // 32)):
        transfer = ctf(scene.optics[part], box, PIXEL_SIZE).float()
        crops.append(matched_crops(scene.images[part], transfer, scene.shifts[part], grid).half().numpy())
    table, noise = kernel_table(scene.optics), white_noise(len(scene.optics), box)
    return MatchedSet(
        crops=np.concatenate(crops),
        kernels=kernel_spectra(ctf(table.nodes, box, PIXEL_SIZE), grid).half().numpy(),
        kernel_index=table.index,
        kernel_mix=table.mix,
        image_power=0.5 * scene.images.square().sum(dim=(1, 2)).double().numpy(),
        power_excess=np.zeros(len(scene.optics)),
        is_dead=np.zeros(len(scene.optics), dtype=bool),
        noise_power=noise.spectra,
        noise_group=noise.group_of_image,
        grid=grid,
        identity="benchmark",
    )


def repeat_statistics(folder: Path, drawn: MatchedSet, count: int) -> None:
    """Write the statistics of a few images, repeated, as a set of `count` for :func:`open_matched_set`."""
    with npy_writer(folder / "crops.npy", (count, *drawn.crops.shape[1:]), np.float16) as write:
        for start in range(0, count, len(drawn)):
            write(drawn.crops[: min(len(drawn), count - start)])
    np.save(folder / "kernels.npy", drawn.kernels)
    np.save(folder / "noise_power.npy", drawn.noise_power)
    for name in ("kernel_index", "kernel_mix", "image_power", "power_excess", "is_dead", "noise_group"):
        np.save(folder / f"{name}.npy", np.resize(getattr(drawn, name), count))


def make_trainer(template: Template, data: MatchedSet, rotations: np.ndarray, workers: Workers, **options) -> Trainer:
    """Return a fit to statistics at its start, with the default settings but for `options`."""
    count = len(data)
    nothing = Path("none")
    particles = Particles(
        source=nothing, image_names=np.full(count, ""), stacks=(), stack_of_image=np.zeros(count, np.int64),
        slice_of_image=np.arange(count), box=data.grid.box, pixel_size=PIXEL_SIZE,
        optics=make_optics(np.full(count, 2e4)),
        optics_group=np.zeros(count, np.int64), poses=Poses(rotations, np.zeros((count, 2))),
    )  # fmt: skip
    settings = {"particles": nothing, "template": nothing, "outdir": nothing, "device": "cpu"}
    config = TrainConfig.model_validate({**settings, **options})
    trainer = build_trainer(config, Inputs(particles, template, build_graph(template)), data, workers)
    trainer.model.beads.log_scale.data.fill_(LOG_SCALE)
    return trainer


def interleave(
    functions: dict[str, Callable[[], object]], repeats: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time functions in turns, A B A B: a busy moment of the machine then falls on all alike."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = clock()
            function()
            seconds[name].append(clock() - started)
    return seconds
