"""Are the error bars of single images right? Deviations from the truth in units of what `train` says.

    python benchmarks/uncertainty.py RUN --gt truth/trajectory.dcd --gt-top truth/trajectory.cif \
        --labels truth/frames.txt [--plot docs/images/reliability.png]

Two deviations are told apart. That of an image from the mean over images of the same true conformation is what its own
noise does: uncertainty.npy claims to be its standard deviation. That from the true conformation also has what all
images share (template, beads, decoder, regularisers), which uncertainty.npy does not claim to know.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from scipy.stats import spearmanr

import cryoatom
from cryoatom.files.rows import read_rows
from cryoatom.files.trajectory import read_trajectory
from cryoatom.plotting import BLUE, GREY, STYLE, VERMILION, figure, legend_above, save_png
from cryoatom.structure.superpose import superpose

BINS = 10


def deviations(run, truth: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Mean square deviations of each image over residues, and z² of its residues, after superposition on the truth."""
    found = {name: np.zeros(len(run)) for name in ("own", "true", "z2_own", "z2_true", "sd2")}
    for frame, target in enumerate(torch.from_numpy(truth).double()):
        rows = np.flatnonzero(labels == frame)
        if len(rows) < 2:
            continue
        placed = superpose(torch.from_numpy(np.array(run.conformations[rows])).double(), target)
        variance = torch.from_numpy(np.array(run.uncertainty[rows], dtype=np.float64)) ** 2
        own = (placed - placed.mean(dim=0)).square().sum(dim=-1) * (len(rows) / (len(rows) - 1))
        true = (placed - target).square().sum(dim=-1)
        values = own.mean(1), true.mean(1), (own / variance).mean(1), (true / variance).mean(1), variance.mean(1)
        for name, value in zip(found, values, strict=True):
            found[name][rows] = value.numpy()
    return found


def motion_scores(run, truth: np.ndarray, labels: np.ndarray, count: int = 3) -> list[tuple[float, float, float]]:
    """For each principal motion: r.m.s. error against the truth, standard deviation claimed, and mean z²."""
    from cryoatom.analysis.landscape import MOTIONS
    from cryoatom.ensemble.motions import find_motions

    motions = find_motions(run.conformations, MOTIONS, rows=run.good_rows)
    covariances = np.load(run.folder.latent_covariance, mmap_mode="r")
    mean = torch.from_numpy(motions.mean)
    moved = (superpose(torch.from_numpy(truth).double(), mean) - mean).numpy()
    true = np.tensordot(moved, motions.axes, ([1, 2], [1, 2])) / len(mean)
    rows = np.linspace(0, len(run) - 1, min(len(run), 2000)).astype(int)
    step = 0.02 * np.std(run.latents, axis=0)
    latents = np.array(run.latents[rows])
    here = superpose(torch.from_numpy(run.decode(latents)).double(), mean).numpy()
    slopes = []
    for axis, size in enumerate(step):
        moved = latents.copy()
        moved[:, axis] += size
        there = superpose(torch.from_numpy(run.decode(moved)).double(), mean).numpy()
        slopes.append(np.tensordot(there - here, motions.axes[:count], ([1, 2], [1, 2])) / (size * len(mean)))
    slope = np.stack(slopes, axis=-1)
    variance = np.einsum("nml,nlk,nmk->nm", slope, np.array(covariances[rows], dtype=np.float64), slope)
    error = motions.amplitudes[rows, :count] - true[labels[rows], :count]
    return [
        (float(np.sqrt((e**2).mean())), float(np.sqrt(v.mean())), float((e**2 / v).mean()))
        for e, v in zip(error.T, variance.T, strict=True)
    ]


def draw(found: dict[str, np.ndarray], path: Path) -> None:
    order = np.argsort(found["sd2"])
    groups = np.array_split(order[found["sd2"][order] > 0], BINS)
    claimed, own, true = (np.array([np.sqrt(found[name][g].mean()) for g in groups]) for name in ("sd2", "own", "true"))
    with rc_context(STYLE):
        drawn, axes = figure(6.4, 5.2)
        top = 1.08 * true.max()
        axes.plot([0, top], [0, top], color=GREY, linestyle="--", label="claimed = found")
        axes.plot(claimed, own, "o-", color=BLUE, label="from the mean of images of the same true conformation")
        axes.plot(claimed, true, "s-", color=VERMILION, label="from the true conformation: also what images share")
        axes.set(xlabel="standard deviation claimed, r.m.s. over residues (Å)", ylabel="deviation found, r.m.s. (Å)")
        axes.set(xlim=(0, 1.15 * claimed.max()), ylim=(0, top))
        legend_above(axes, columns=1)
        save_png(drawn, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--gt", type=Path, required=True)
    parser.add_argument("--gt-top", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    run = cryoatom.load(given.run)
    truth, labels = read_trajectory(given.gt, given.gt_top).positions, read_rows(given.labels)
    found = deviations(run, truth, labels)
    good = run.good_rows
    of_good = {name: values[good] for name, values in found.items()}
    claimed, own, true = (np.sqrt(of_good[name].mean()) for name in ("sd2", "own", "true"))
    print(
        f"{len(run)} images; r.m.s. over images and residues, Å: claimed {claimed:.3f}, scatter {own:.3f}, "
        f"from the truth {true:.3f}"
    )
    print(f"z² of residues: scatter {of_good['z2_own'].mean():.3f}, from the truth {of_good['z2_true'].mean():.2f}")
    rank = spearmanr(of_good["sd2"], of_good["own"])[0]
    print(f"rank correlation of claimed and found, image by image: {rank:.3f}")
    for number, (error, sd, z2) in enumerate(motion_scores(run, truth, labels), start=1):
        print(f"motion {number} against the truth: r.m.s. error {error:.2f} Å, claimed {sd:.2f} Å, z² {z2:.2f}")
    information = run.images["information_nats"][good]
    print(
        f"information {information.mean():.2f} nats an image; {int(run.images['is_uninformative'].sum())} tell nothing"
    )
    if given.plot is not None:
        draw(of_good, given.plot)


if __name__ == "__main__":
    main()
