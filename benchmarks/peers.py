"""What a training image costs, here and elsewhere: the matched form, the direct one, cryoDRGN, cryoSPHERE.

    OMP_NUM_THREADS=1 python benchmarks/peers.py PARTICLES.star TEMPLATE.cif \\
        --cryodrgn /tmp/venv-cryodrgn/bin/python --cryosphere /tmp/venv-cryosphere/bin/python

    python -m venv /tmp/venv-cryodrgn && /tmp/venv-cryodrgn/bin/pip install -c constraints.txt cryodrgn
    python -m venv /tmp/venv-cryosphere && /tmp/venv-cryosphere/bin/pip install --no-deps cryosphere
    /tmp/venv-cryosphere/bin/pip install -c constraints.txt torch biotite gemmi mrcfile starfile pandas einops pyyaml \\
        scipy scikit-learn seaborn matplotlib tqdm roma wandb

One thread, CPU, the same images with their poses. cryoatom's step is everything: statistics, decoder, likelihood,
regularisers, both Adams. The direct form has the same decoder, beads, regularisers and Adams; at each step it renders
full images separably, all beads on all pixels, computes the CTF of each, applies it by FFT and takes the squared
distance to images in memory, in chunks of the size that suits it best. These two train in turns. cryoDRGN is `cryodrgn
train_vae`, eight latent dimensions, with its default networks (three layers of 1024) and those of its first papers
(256), on images of half the side, which it made itself, and the small ones on images as they are; batches are of 8,
for memory (cryoatom's are of 64).
cryoSPHERE is its own training loop with its example's networks (its parameters.yaml: 20 segments), which
its command runs on GPUs alone: here on one gloo process. Others are timed as processes, in runs of two
lengths; their difference leaves out start-up. All times are CPU seconds, which programs beside it do not lengthen
much; an epoch of cryoatom's starts from matched crops, which are made once (benchmarks/preparation.py).
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from scene import interleave
from torch import Tensor

from cryoatom.files.star import write_star_particles
from cryoatom.files.structure import write_atoms
from cryoatom.imaging.direct import direct_nll, simulate_images
from cryoatom.particles.stack import NormalizedImages
from cryoatom.particles.table import read_particles
from cryoatom.run_folder import RunFolder
from cryoatom.structure.template import read_template
from cryoatom.train_config import TrainConfig
from cryoatom.training.assemble import build_trainer
from cryoatom.training.images import prepare_images
from cryoatom.training.inputs import Inputs, known_shifts, read_inputs
from cryoatom.training.model import ConformationModel
from cryoatom.training.objective import Batch
from cryoatom.training.stage import silent
from cryoatom.training.trainer import Trainer
from cryoatom.workers import Workers

CHUNKS = (1, 2, 4, 8, 16)  # of the direct form
HALF = 2  # by which sides shrink
# cryosphere_train starts one NCCL process for each GPU. torchvision is imported for images that are to shrink: none.
CRYOSPHERE = """
import os, sys, types
for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]
import torch
from cryosphere import cryosphere_train as loop
from cryosphere.model.utils import parse_yaml
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
parallel = loop.DDP
loop.DDP = lambda model, device_ids: parallel(model)
(vae, image_translator, ctf, grid, gmm_repr, optimizer, dataset, N_epochs, batch_size, experiment_settings, device,
 scheduler, base_structure, lp_mask2d, mask_images, amortized, path_results, structural_loss_parameters,
 segmenter) = parse_yaml(sys.argv[1], "cpu")
N_epochs = int(sys.argv[2])
loop.start_training(vae, image_translator, ctf, grid, gmm_repr, optimizer, dataset, N_epochs, batch_size,
                    experiment_settings, scheduler, base_structure, lp_mask2d, mask_images, amortized, path_results,
                    structural_loss_parameters, segmenter, "cpu")
"""
# Those of the parameters.yaml in its repository, but for the paths, wandb, workers and the batch.
CRYOSPHERE_SETTINGS = {
    "name": "peers",
    "wandb": False,
    "base_structure_path": "template.pdb",
    "image_yaml": "images.yaml",
    "segmentation_config": {"part1": {"all_protein": True, "N_segm": 20}},
    "latent_dimension": 8,
    "tau_segmentation": 0.05,
    "device": "CPU",
    "num_workers": 0,
    "amortized": True,
    "N_epochs": 3,
    "batch_size": 32,
    "epsilon_kl": "1e-10",
    "seed": 123,
    "deterministic_cuda": False,
    "encoder": {"hidden_dimensions": [512, 256, 64, 64]},
    "decoder": {"hidden_dimensions": [512, 512]},
    "optimizer": {"name": "adam", "learning_rate": 3e-5, "learning_rate_segmentation": 3e-4},
    "loss": {
        "clashing_loss": {"full_clashing_loss": True, "clashing_cutoff": 4, "schedule": "constant", "beta": 0.1},
        "continuity_loss": {"schedule": "constant", "beta": 0.1},
        "KL_prior_latent": {"schedule": "linear", "M": 5},
        "KL_prior_segmentation_mean": {"schedule": "linear", "M": 5},
        "KL_prior_segmentation_std": {"schedule": "linear", "M": 5},
        "KL_prior_segmentation_proportions": {"schedule": "cyclical", "M": 1, "R": 0.5},
        "l2_pen": {"schedule": "constant", "beta": 1e-6},
    },
    "resume_training": {"model": None, "segmentation": None},
}


@dataclass(frozen=True)
class Row:
    """A line of the table: ms an image of each repeat, and the images that an epoch had."""

    name: str
    images: int
    milliseconds: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("particles", type=Path)
    parser.add_argument("template", type=Path)
    parser.add_argument("--images", type=int, default=512, help="of cryoatom's epochs")
    parser.add_argument("--direct-images", type=int, default=64)
    parser.add_argument("--peer-images", type=int, default=128, help="of cryoSPHERE's epochs, 100 at least")
    parser.add_argument("--repeats", type=int, default=5, help="of cryoatom's epochs; peers have --peer-repeats")
    parser.add_argument("--peer-repeats", type=int, default=1)
    parser.add_argument("--cryodrgn", type=Path, help="python that has cryodrgn; without it its rows are left out")
    parser.add_argument("--cryosphere", type=Path, help="python that has cryosphere; likewise")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = own_rows(given, folder)
        for title, python, measure in (
            ("cryodrgn", given.cryodrgn, cryodrgn_rows),
            ("cryosphere", given.cryosphere, cryosphere_rows),
        ):
            if python is None:
                print(f"{title}: not measured, no --{title} PYTHON was given", flush=True)
            else:
                rows += measure(given, folder)
    report(rows)


def report(rows: list[Row]) -> None:
    ours = statistics.median(rows[0].milliseconds)
    print("\n| training | images | CPU ms an image | from, to | of cryoatom's |\n" + "|---" * 5 + "|")
    for row in rows:
        value = statistics.median(row.milliseconds)
        spread = f"{min(row.milliseconds):.3g} to {max(row.milliseconds):.3g}"
        print(f"| {row.name} | {row.images} | {value:.3g} | {spread} | {value / ours:.3g} |", flush=True)


def own_rows(given: argparse.Namespace, folder: Path) -> list[Row]:
    """Train with matched crops and, the same model, with full images, in turns."""
    np.save(folder / "rows.npy", np.arange(given.images))
    np.save(folder / "first.npy", np.arange(given.peer_images))
    config = TrainConfig(particles=given.particles, template=given.template, outdir=folder / "run",
                         ind=folder / "rows.npy", device="cpu", threads=1)  # fmt: skip
    inputs = read_inputs(config)
    with Workers(1) as workers:
        data = prepare_images(config, inputs, RunFolder(config.outdir), workers, silent)
        matched, direct = (build_trainer(config, inputs, data, workers) for _ in range(2))
        direct.objective.without_poses = DirectLoss(inputs, known_shifts(config, inputs.particles), given.direct_images)
        some = np.arange(given.direct_images)
        trials = {str(chunk): epochs(direct, some, chunk) for chunk in CHUNKS}
        found = interleave(trials, 1, clock=time.process_time)
        best = min(found, key=lambda chunk: min(found[chunk]))
        ways = {"matched": epochs(matched, np.arange(given.images), matched.chunk), "direct": trials[best]}
        seconds = interleave(ways, given.repeats, clock=time.process_time)
    box = inputs.particles.box
    return [
        Row("cryoatom, gnn", given.images, per_image(seconds["matched"], given.images)),
        Row(f"the same, direct model, {box} x {box}, chunks of {best}", given.direct_images,
            per_image(seconds["direct"], given.direct_images)),
    ]  # fmt: skip


def per_image(seconds: list[float], images: int) -> list[float]:
    return [1e3 * value / images for value in seconds]


def epochs(trainer: Trainer, rows: np.ndarray, chunk: int) -> Callable[[], object]:
    def epoch() -> None:
        trainer.chunk = chunk
        trainer.train_epoch(trainer.schedule.epochs // 2, rows)

    return epoch


class DirectLoss:
    """½|y - F(x)|² of full images, which are in memory: an image loss that a fit can have in place of the matched one.

    Parameters
    ----------
    inputs
        Particles and template.
    shifts
        t in Å of all particles.
    count
        How many images can be asked for, the first.
    """

    def __init__(self, inputs: Inputs, shifts: np.ndarray, count: int):
        particles = inputs.particles
        self._optics, self._box, self._pixel_size = particles.optics, particles.box, particles.pixel_size
        self._shifts = torch.from_numpy(shifts[:count]).float()
        self._images = NormalizedImages(particles)(np.arange(count))

    def __call__(self, model: ConformationModel, points: Tensor, batch: Batch) -> Tensor:
        beads, rows = model.beads, batch.images
        centers = beads.project(points, batch.rotations) + (batch.shifts + self._shifts[rows])[:, None]
        optics = self._optics[rows.numpy()]
        drawn = simulate_images(centers, beads.amplitudes(), beads.variances(), optics, self._box, self._pixel_size)
        return direct_nll(self._images[rows], drawn)


def cryodrgn_rows(given: argparse.Namespace, folder: Path) -> list[Row]:
    program, box = given.cryodrgn.with_name("cryodrgn"), box_of(given)
    poses, ctf = folder / "poses.pkl", folder / "ctf.pkl"
    cpu_of([program, "parse_pose_star", given.particles, "-o", poses])
    cpu_of([program, "parse_ctf_star", given.particles, "-o", ctf])
    rows = []
    for side, width, images, batch in (
        (box // HALF, 256, 64, 8),
        (box // HALF, 1024, 16, 8),
        (box, 256, 16, 8),
    ):
        chosen = pickled(folder / f"first{images}.pkl", images)
        stack = given.particles if side == box else shrunk(given, folder)
        command = [program, "train_vae", stack, "--datadir", given.particles.parent, "--ind", chosen, "--poses", poses,
                   "--ctf", ctf, "--zdim", 8, "-b", batch, "--enc-dim", width, "--dec-dim", width, "--no-analysis",
                   "--checkpoint", 1000, "--num-workers", 0, "--max-threads", 1, "-o", folder / "cryodrgn",
                   "-n"]  # fmt: skip
        found = repeated(given, command, images)
        rows.append(Row(f"cryoDRGN, 3 x {width}, {side} x {side}, batches of {batch}", images, found))
        print(f"{rows[-1].name}: {found} ms", flush=True)
    return rows


def repeated(given: argparse.Namespace, command: list[object], images: int) -> list[float]:
    """Return ms an image of each repeat of a command that takes the number of epochs as its last argument."""
    return [1e3 * longer_by(command) / images for _ in range(given.peer_repeats)]


def pickled(path: Path, count: int) -> Path:
    """Write the first rows as cryoDRGN reads them."""
    path.write_bytes(pickle.dumps(np.arange(count)))
    return path


def shrunk(given: argparse.Namespace, folder: Path) -> Path:
    """Return a stack of the first images at a part of their side, by cryoDRGN."""
    stack = folder / "half.mrcs"
    if not stack.exists():
        cpu_of([given.cryodrgn.with_name("cryodrgn"), "downsample", given.particles, "--datadir",
                given.particles.parent, "--ind", pickled(folder / "some.pkl", 64), "-D", box_of(given) // HALF,
                "-o", stack])  # fmt: skip
    return stack


def cryosphere_rows(given: argparse.Namespace, folder: Path) -> list[Row]:
    images, box = given.peer_images, box_of(given)
    if images < 100:
        raise SystemExit(f"--peer-images {images}: cryoSPHERE reads the unit of its images off every hundredth of them")
    home = folder / "cryosphere"
    home.mkdir()
    particles = read_particles(given.particles, ind=folder / "first.npy")
    write_star_particles(home / "first.star", particles)
    write_atoms(home / "template.pdb", read_template(given.template)[0].atoms)
    pixels = {"apix": particles.pixel_size, "Npix": box, "Npix_downsize": box, "sigma_gmm": 2.0}
    (home / "images.yaml").write_text(yaml.safe_dump(pixels))

    chosen = {"folder_path": str(home), "particles_path": str(home), "N_images": images,
              "cs_star_file": {"file": str(home / "first.star")}}  # fmt: skip
    (home / "parameters.yaml").write_text(yaml.safe_dump(CRYOSPHERE_SETTINGS | chosen))
    command = [given.cryosphere, "-c", CRYOSPHERE, home / "parameters.yaml"]
    return [Row(f"cryoSPHERE, {box} x {box}", images, repeated(given, command, images))]


def box_of(given: argparse.Namespace) -> int:
    return read_particles(given.particles).box


def longer_by(command: list[object]) -> float:
    """Return the CPU seconds of an epoch: half of what a run of three takes more than one of one."""
    one, three = (cpu_of([*command, epochs]) for epochs in (1, 3))
    return (three - one) / 2


def cpu_of(command: list[object]) -> float:
    """Run a program to its end; return its CPU seconds and those of the processes it started.

    Raises
    ------
    SystemExit
        If it failed, with the end of what it said.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(str(part) for part in command[:3])} ... failed:\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"
        )
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
