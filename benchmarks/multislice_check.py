"""Compare the simulator's weak-phase images with an independent multislice calculation (abTEM), picture and table.

abTEM is GPL and is never imported by cryoatom; it lives in its own environment, and this script runs itself there:

    python3 -m venv /tmp/abtem-venv && /tmp/abtem-venv/bin/pip install abtem==1.0.11
    python benchmarks/multislice_check.py --abtem-python /tmp/abtem-venv/bin/python

Both sides get the same atoms, poses, defocus and spherical aberration, in vacuum, without noise and detector. abTEM has
its own scattering factors (Lobato's), slices of 1 Å, a 0.5 Å grid, and electrons that scatter more than once, between
slices at their true heights. Both compute on 384 Å and are cut to 256 Å. Three comparisons: defocus counted from the
exit plane of abTEM's cell, or from the molecule's centre; and the latter with the simulator's amplitude contrast, which
stands for the second order of scattering (iσV is followed by -(σV)²/2) that a linear image leaves out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

WIDE = 384  # Å: the box of both calculations before the cut to BOX
BOX = 256  # pixels of 1 Å
VOLTAGE_KV, CS_MM, DEFOCUS = 300.0, 2.7, 20000.0
AMPLITUDE_CONTRAST = 0.06  # the simulator's default
MARGIN = 4.0  # Å of vacuum above and below the molecule
BANDS = ((64, 16), (16, 8), (8, 4), (4, 3), (3, 2))  # Å; rings below 1/64 Å hold no signal without amplitude contrast
DOSE = 100.0  # e/Å², only to express differences in units of shot noise


def multislice(work: Path) -> None:
    """Run in abTEM's environment: poses.npz to multislice.npz, intensities (poses, WIDE, WIDE) [y, x]."""
    import abtem
    import ase

    abtem.config.set({"device": "cpu", "diagnostics.progress_bar": False})
    given = np.load(work / "poses.npz")
    images, depths = [], []
    for xyz in given["xyz"]:
        lowest, highest = xyz[:, 2].min() - MARGIN, xyz[:, 2].max() + MARGIN
        atoms = ase.Atoms(
            given["elements"].tolist(),
            positions=xyz + [WIDE / 2, WIDE / 2, -lowest],
            cell=[WIDE, WIDE, highest - lowest],
            pbc=True,
        )
        potential = abtem.Potential(
            atoms, sampling=0.5, slice_thickness=1.0, parametrization="lobato", projection="infinite"
        )
        exit_wave = abtem.PlaneWave(energy=VOLTAGE_KV * 1e3).multislice(potential)
        stack = []
        for shift in (0.0, highest):  # defocus is that of the exit plane, or of the molecule's centre (z = 0) above it
            ctf = abtem.CTF(energy=VOLTAGE_KV * 1e3, defocus=DEFOCUS + shift, Cs=CS_MM * 1e7)
            stack.append(exit_wave.apply_ctf(ctf).intensity().compute().array)
        images.append([fourier_crop(np.asarray(image).T, WIDE) for image in stack])
        depths.append(highest)
    np.savez(work / "multislice.npz", images=np.array(images), depths=depths, version=abtem.__version__)


def fourier_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Resample to `side` pixels; pixel 0 stays where it is."""
    spectrum = np.fft.fftshift(np.fft.fft2(image.astype(np.float64)))
    start = image.shape[0] // 2 - side // 2
    cut = spectrum[start : start + side, start : start + side]
    return np.fft.ifft2(np.fft.ifftshift(cut)).real * (side / image.shape[0]) ** 2


def place_molecules(work: Path, poses: int, seed: int) -> None:
    """Leave frames of ADK in Haar poses for both sides: poses.npz."""
    from importlib.util import find_spec

    from cryoatom.geometry import random_rotations
    from cryoatom.structure.specimen import read_specimen

    folder = Path(find_spec("MDAnalysisTests").submodule_search_locations[0]) / "data"  # pyright: ignore
    specimen = read_specimen([folder / "adk_dims2.dcd"], folder / "adk.psf")
    rotations = random_rotations(poses, np.random.default_rng(seed))
    frames = np.linspace(0, len(specimen.positions) - 1, poses).astype(int)
    xyz = specimen.positions[frames] @ np.swapaxes(rotations, 1, 2)
    np.savez(work / "poses.npz", xyz=xyz, elements=specimen.atoms.elements)


def weak_phase(work: Path, amplitude_contrast: float) -> np.ndarray:
    """Render poses.npz with cryoatom; intensities (poses, BOX, BOX)."""
    import torch

    from cryoatom.records import Optics
    from cryoatom.scattering import build_microscope, build_projector

    given = np.load(work / "poses.npz")
    values = (VOLTAGE_KV, CS_MM, amplitude_contrast, DEFOCUS, DEFOCUS, 0.0, 0.0)
    optics = Optics(*(np.full(len(given["xyz"]), value) for value in values))
    projector = build_projector(given["elements"], extent=90.0, pixel_size=1.0, solvent_potential=0.0)
    xy = torch.from_numpy(given["xyz"][..., :2]).float()
    return build_microscope(BOX, 1.0).intensity(projector.project(xy), optics).numpy()


def ring_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Fourier ring correlation of two images, one value per ring of one cycle per box."""
    side = a.shape[0]
    spectra = [np.fft.fft2(image - image.mean()) for image in (a, b)]
    k = np.fft.fftfreq(side) * side
    ring = np.rint(np.hypot(k[:, None], k)).astype(int).ravel()

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring, values.ravel(), minlength=side)[1 : side // 2]

    cross = total((spectra[0] * spectra[1].conj()).real)
    return cross / np.sqrt(total(abs(spectra[0]) ** 2) * total(abs(spectra[1]) ** 2))


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Return the figures of one pair of images."""
    a, b = ours - ours.mean(), theirs - theirs.mean()
    rings = ring_correlation(ours, theirs)
    return {
        "std_weak_phase": float(a.std()),
        "std_multislice": float(b.std()),
        "correlation": float((a * b).mean() / (a.std() * b.std())),
        "scale": float((a * b).mean() / (a * a).mean()),
        "difference_in_shot_noise": float((a - b).std() * np.sqrt(DOSE)),
        **{f"frc_{low}_{high}A": float(rings[BOX // low - 1 : BOX // high].mean()) for low, high in BANDS},
    }


def table(rows: list[dict[str, float]]) -> str:
    names = list(rows[0])
    mean = {name: float(np.mean([row[name] for row in rows])) for name in names}
    lines = ["| pose | " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in [*enumerate(rows, start=1), ("mean", mean)]:
        lines.append(f"| {label} | " + " | ".join(f"{row[name]:.4f}" for name in names) + " |")
    return "\n".join(lines)


def picture(path: Path, ours: np.ndarray, theirs: np.ndarray, rows: dict[str, np.ndarray], shown: int = 3) -> None:
    """Draw a few poses side by side with their difference, and the ring correlations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 6.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    axes = left.subplots(shown, 3)
    window = slice(BOX // 2 - 64, BOX // 2 + 64)
    limit = 4 * ours.std()
    for row, (a, b) in enumerate(zip(ours[:shown], theirs[:shown], strict=True)):
        for axis, image in zip(axes[row], (a - 1, b - 1, b - a), strict=True):
            axis.imshow(image[window, window], cmap="gray", vmin=-limit, vmax=limit, origin="lower")
            axis.set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(f"pose {row + 1}")
    for axis, title in zip(axes[0], ("cryoatom, weak phase", "abTEM, multislice", "difference"), strict=True):
        axis.set_title(title, fontsize=10)
    left.supxlabel("central 128 Å; one grey scale", fontsize=9)
    axis = right.subplots()
    k = np.arange(1, BOX // 2) / BOX
    for label, rings in rows.items():
        axis.plot(k, rings.mean(axis=0), label=label)
        axis.fill_between(k, rings.min(axis=0), rings.max(axis=0), alpha=0.25)
    axis.set(
        xlabel="spatial frequency, 1/Å",
        ylabel="Fourier ring correlation",
        ylim=(0.9, 1.002),
        xlim=(0, 0.5),
        title="dips: zeros of the CTF",
    )
    axis.legend(title="mean and range over poses", loc="lower left", fontsize=9)
    axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--abtem-python", type=Path, default=Path("/tmp/abtem-venv/bin/python"))
    parser.add_argument("--poses", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/multislice_check.png"))
    parser.add_argument("--multislice", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.multislice:
        multislice(given.multislice)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        place_molecules(work, given.poses, given.seed)
        subprocess.run([given.abtem_python, __file__, "--multislice", work], check=True)
        result = np.load(work / "multislice.npz")
        start = (WIDE - BOX) // 2
        exit_plane, center = result["images"].swapaxes(0, 1)[..., start : start + BOX, start : start + BOX]
        plain, absorbing = weak_phase(work, 0.0), weak_phase(work, AMPLITUDE_CONTRAST)
        version = str(result["version"])
    pairs = {
        "defocus of the exit plane": (plain, exit_plane),
        "defocus of the centre": (plain, center),
        f"the same, amplitude contrast {AMPLITUDE_CONTRAST}": (absorbing, center),
    }
    report = {"abtem": version, "voltage_kv": VOLTAGE_KV, "cs_mm": CS_MM, "defocus": DEFOCUS, "seed": given.seed}
    for title, (ours, theirs) in pairs.items():
        report[title] = [compare(a, b) for a, b in zip(ours, theirs, strict=True)]
        print(f"\nabTEM {version}, {title}:\n\n{table(report[title])}")
    curves = {
        title: np.array([ring_correlation(a, b) for a, b in zip(ours, theirs, strict=True)])
        for title, (ours, theirs) in pairs.items()
    }
    picture(given.picture, absorbing, center, curves)
    given.picture.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
