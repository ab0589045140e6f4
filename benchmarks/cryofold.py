"""Cryofold's experiments (Zhong et al. 2021, sections 5.1 and 5.2): one structure from several starts, and a motion.

    python benchmarks/cryofold.py OUT --seeds 3
    python benchmarks/cryofold.py OUT --seeds 1 --parts homogeneous --images 1500
    python benchmarks/cryofold.py OUT --seeds 3 --parts heterogeneous --distributions even --restarts 1

The paper's protein, chain A of 5NI1 (141 residues), ships with no package: this is open adenylate kinase
(MDAnalysisTests' adk_open.pdb, 214 residues). Images are all-atom ones of `cryoatom simulate` in known poses, 128
pixels of 1 Å with a CTF, at 450 electrons / Å²: there the variance of the whole image without noise is a tenth of the
noise's, the paper's SNR of 0.1.

Homogeneous: C-alphas start at the truth, up to 6 Å from it along each axis, or anywhere in a cube. Heterogeneous: ψ of
the residue in the middle turns by `--turn` radians in 50 steps; the template is the first structure; a variational
autoencoder with one latent learns the motion from four distributions of as many images: even, with a low and a high
barrier in the middle, and two clusters. A conformation stands for each step, that of the median latent of its images;
steps without images take latents between those of their neighbours. Nothing is superposed. Of `--restarts` starting
weights each run takes the best after a few epochs: now and then one lets the latent fold.

Prints markdown tables, writes OUT/cryofold.png; a finished run is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import adk
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import rankdata

import cryoatom
from cryoatom.files.trajectory import read_trajectory
from cryoatom.plotting import BLUE, GREY, STYLE, VERMILION, save_png
from cryoatom.structure.scaffold import Start, starting_alphas
from cryoatom.structure.template import Template, read_template, write_template

STEPS = 50
STARTS: dict[str, Start] = {"exact": "template", "uniform 6 Å": 6.0, "random": "random"}
PAPER = {"exact": (0.843, 99.29), "uniform 6 Å": (3.19, 53.19), "random": (17.16, 2.12)}
COMMON = ["--beads", "cryofold", "--no-analysis", "--no-dcd", "--no-uncertainty", "--patience", 0, "--crop-pixel", 2]
ONE = ["--homogeneous", "--num-epochs", 12, "--batch-size", 32, "--lr", 0.1, "--warmup", 0, "--decay", 0.5,
       "--no-robust", "--held-out", 0, "--r2", 0, "--bond-length", 3.8]  # fmt: skip
NEAR = ["--lr", 0.01]  # a start at the truth needs no long steps, and they would leave it
FAR = ["--r0", 0]  # known poses tell the centre; widths of 3.71 Å at the start are blur enough, more did not help
MOTION = ["--encoder", "mlp", "--variational", "--zdim", 1, "--decoder", "mlp", "--dec-layers", 3, "--dec-dim", 256,
          "--residual", "--num-epochs", 20, "--margin", 25, "--lr", 1e-3, "--no-robust", "--r0", 0]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["homogeneous", "heterogeneous"])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--distributions", nargs="+", default=list(distributions()), choices=distributions())
    parser.add_argument("--turn", type=float, default=1.0, help="radians, from the first to the last structure")
    parser.add_argument("--restarts", type=int, default=3, help="starting weights that a heterogeneous run tries")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if "homogeneous" in arguments.parts:
        compare_starts(arguments)
    if "heterogeneous" in arguments.parts:
        compare_distributions(arguments)


def compare_starts(arguments: argparse.Namespace) -> None:
    """Fit one structure from each start and print the table of the paper's section 5.1."""
    data = arguments.out / f"one-{arguments.images}"
    template = data.with_suffix(".cif")
    write_molecule(template)
    if not (data / "particles.star").exists():
        simulate(arguments, data, template, arguments.images)
    truth = read_template(data / "truth" / "consensus.cif")[0]
    print("| start | seed | RMSE at the start (Å) | C-alpha RMSE (Å) | within 3 Å (%) | paper: RMSE, within 3 Å |")
    print("|---" * 6 + "|")
    for name, start in STARTS.items():
        for seed in range(arguments.seeds):
            run = arguments.out / f"{data.name}-{start}-seed{seed}"
            options = [*ONE, "--start", start, *(NEAR if start == "template" else FAR)]
            train(arguments, data, template, run, seed, options)
            away = np.linalg.norm(np.load(run / "conformations.npy", mmap_mode="r")[0] - truth.positions, axis=1)
            begun = starting_alphas(truth, start, seed) - truth.positions
            error, first = (np.sqrt(np.mean(d**2)) for d in (away, np.linalg.norm(begun, axis=1)))
            paper = "{:.2f}, {:.1f} %".format(*PAPER[name])
            print(
                f"| {name} | {seed} | {first:.2f} | {error:.2f} | {100 * (away < 3).mean():.1f} | {paper} |", flush=True
            )


def compare_distributions(arguments: argparse.Namespace) -> None:
    """Learn the motion from each distribution of images, print the table and draw the figure of section 5.2."""
    template = write_molecule(arguments.out / "motion-top.cif")
    counts = {name: counted(share, arguments.images) for name, share in distributions().items()}
    most = max(int(count.max()) for count in counts.values())
    data = arguments.out / f"motion-{arguments.turn:g}-{most}"
    if not (data / "particles.star").exists():
        np.save(arguments.out / "motion.npy", turned(template, np.linspace(0, arguments.turn, STEPS)))
        simulate(arguments, data, arguments.out / "motion.npy", most, "--top", arguments.out / "motion-top.cif",
                 "--superpose", "none", "--no-center")  # fmt: skip
    truth = read_trajectory(data / "truth" / "trajectory.dcd").positions.astype(np.float64)
    labels = np.loadtxt(data / "truth" / "frames.txt", dtype=int)
    first = read_template(data / "truth" / "trajectory.cif")[0]
    end = arguments.out / f"{data.name}-template.cif"
    if not end.exists():
        write_template(end, moved_onto(template, first.positions, truth[0]))
    print("| distribution | seed | mean RMSE (Å) | largest | largest where there are images | rank correlation of z |")
    print("|---" * 6 + "|")
    errors: dict[str, list[np.ndarray]] = {name: [] for name in arguments.distributions}
    for name, count in ((name, counts[name]) for name in arguments.distributions):
        rows = np.concatenate([np.flatnonzero(labels == step)[:number] for step, number in enumerate(count)])
        chosen = arguments.out / f"{data.name}-{name.replace(' ', '-')}.txt"
        np.savetxt(chosen, rows, fmt="%d")
        for seed in range(arguments.seeds):
            run = arguments.out / f"{chosen.stem}-restarts{arguments.restarts}-seed{seed}"
            train(arguments, data, end, run, seed, [*MOTION, "--restarts", arguments.restarts, "--ind", chosen])
            error, order = along_motion(run, truth, labels[rows])
            errors[name].append(error)
            print(f"| {name} | {seed} | {error.mean():.2f} | {error.max():.2f} | {error[count > 0].max():.2f} | "
                  f"{order:.3f} |", flush=True)  # fmt: skip
    draw(arguments.out / "cryofold.png", errors, counts, arguments.turn)


def write_molecule(path: Path) -> Template:
    """Write the molecule, centred, and return it."""
    if not path.exists():
        adk.cryoatom("template", adk.data_folder() / "adk_open.pdb", "-o", path)
    return read_template(path)[0]


def turned(template: Template, angles: np.ndarray) -> np.ndarray:
    """Return (angles, atoms, 3): all that follows C-alpha and C of the middle residue, turned about their bond."""
    middle, atoms = len(template) // 2, template.atoms
    own = template.atom_residue == middle
    alpha, carbon = (atoms.positions[own & (atoms.names == name)][0] for name in ("CA", "C"))
    follows = (template.atom_residue > middle) | (own & np.isin(atoms.names, ["O", "OXT"]))
    axis = (carbon - alpha) / np.linalg.norm(carbon - alpha)
    arms = atoms.positions[follows] - alpha
    along = (arms @ axis)[:, None] * axis
    frames = np.repeat(atoms.positions[None], len(angles), axis=0)
    for frame, angle in zip(frames, angles, strict=True):  # Rodrigues
        frame[follows] = alpha + along + np.cos(angle) * (arms - along) + np.sin(angle) * np.cross(axis, arms)
    return frames


def moved_onto(template: Template, written: np.ndarray, first: np.ndarray) -> Template:
    """Return the template where the first frame lies in the frame of the poses."""
    assert len(written) == len(first)
    return template.moved(np.eye(3), first.mean(axis=0) - template.positions.mean(axis=0))


def distributions() -> dict[str, np.ndarray]:
    """Return the share of images at each step."""
    place = np.linspace(0, 1, STEPS)
    barrier = np.sin(np.pi * place) ** 2
    shares = {
        "even": np.ones(STEPS),
        "low barrier": np.exp(-1.5 * barrier),
        "high barrier": np.exp(-4.0 * barrier),
        "two clusters": ((place < 0.3) | (place > 0.7)).astype(float),
    }
    return {name: share / share.sum() for name, share in shares.items()}


def counted(share: np.ndarray, images: int) -> np.ndarray:
    """Return whole numbers of images."""
    return np.diff(np.round(np.concatenate([[0.0], np.cumsum(share)]) * images)).astype(int)


def along_motion(run: Path, truth: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the C-alpha RMSE of the conformation of each step's median latent, and how well latents keep the order."""
    opened = cryoatom.load(run)
    z = np.asarray(opened.latents)[:, 0]
    seen = np.unique(labels)
    median = np.interp(np.arange(STEPS), seen, [np.median(z[labels == step]) for step in seen])
    found = opened.decode(median[:, None].astype(np.float32))
    error = np.sqrt(((found - truth) ** 2).sum(axis=-1).mean(axis=-1))
    return error, abs(float(np.corrcoef(rankdata(z), rankdata(labels))[0, 1]))


def draw(path: Path, errors: dict[str, list[np.ndarray]], counts: dict[str, np.ndarray], turn: float) -> None:
    """Draw the errors along the motion over the number of images there, one panel for each distribution."""
    place = np.linspace(0, turn, STEPS)
    with rc_context(STYLE):
        columns = min(2, len(errors))
        rows = -(-len(errors) // columns)
        drawn = Figure(figsize=(4.5 * columns, 3.0 * rows), layout="constrained")
        panels = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        highest = max(2.0, *(float(e.max()) for each in errors.values() for e in each))
        for axes, (name, found) in zip(panels, errors.items(), strict=False):
            behind = axes.twinx()
            behind.bar(place, counts[name], width=turn / STEPS, color=GREY, alpha=0.4)
            behind.set_ylim(0, 2.5 * max(int(count.max()) for count in counts.values()))
            behind.set_yticks([])
            axes.set_zorder(behind.get_zorder() + 1)
            axes.patch.set_visible(False)
            for error in found:
                axes.plot(place, error, color=BLUE, linewidth=1.5)
            axes.axhline(1.0, color=VERMILION, linewidth=0.8, linestyle="--")
            axes.set(title=name, ylim=(0, 1.05 * highest))
        for axes in panels[-columns:]:
            axes.set_xlabel("turn of the dihedral (radians)")
        for axes in panels[::columns]:
            axes.set_ylabel("C-alpha RMSE (Å)")
        save_png(drawn, path)


def simulate(arguments: argparse.Namespace, data: Path, source: Path, images: int, *more: object) -> None:
    adk.cryoatom("simulate", source, *more, "-o", data, "--images-per-frame", images, "--box", 128,
                     "--pixel-size", 1, "--dose", 450, "--max-shift", 5, "--float16", "--overwrite",
                     "--threads", arguments.threads)  # fmt: skip


def train(
    arguments: argparse.Namespace, data: Path, template: Path, run: Path, seed: int, options: list[object]
) -> None:
    """Train, unless it has been done."""
    if not (run / "conformations.npy").exists():
        adk.cryoatom("train", data / "particles.star", "--template", template, "-o", run, "--overwrite",
                         "--cache", arguments.out / "matched", "--seed", seed, "--threads", arguments.threads,
                         *COMMON, *options)  # fmt: skip


if __name__ == "__main__":
    main()
