"""The simulator against closed forms, statistics and its own files."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatom.files.mrc import StackWriter, open_stack
from cryoatom.files.star import read_star_particles
from cryoatom.files.structure import read_atoms, write_atoms
from cryoatom.files.trajectory import read_trajectory
from cryoatom.records import Atoms, Optics
from cryoatom.scattering import (
    VOLTS_PER_FACTOR,
    build_microscope,
    build_projector,
    count_electrons,
    delocalisation,
    interaction_constant,
    normalize_background,
)
from cryoatom.simulate import draw_exposures, expected_images, simulate
from cryoatom.simulate_config import SimulateConfig
from cryoatom.structure.specimen import Specimen, align_specimen, read_specimen


def optics(count: int = 1, **changes: float) -> Optics:
    values = dict(
        voltage_kv=300.0,
        cs_mm=2.7,
        amplitude_contrast=0.06,
        defocus_u=20000.0,
        defocus_v=20000.0,
        defocus_angle=0.0,
        phase_shift=0.0,
    )
    return Optics(**{name: np.full(count, changes.get(name, value)) for name, value in values.items()})


def helix(residues: int = 24, seed: int = 0) -> Atoms:
    """A helix of N, C-alpha, C, O, H: enough of a protein for the simulator."""
    turn = np.deg2rad(100) * np.arange(residues)
    calphas = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(residues)], axis=1)
    offsets = np.random.default_rng(seed).normal(0, 1.2, (residues, 5, 3))
    offsets[:, 1] = 0
    names = np.tile(["N", "CA", "C", "O", "H"], residues)
    blank = np.full(5 * residues, "")
    return Atoms(
        names=names,
        elements=np.tile(["N", "C", "C", "O", "H"], residues),
        residue_names=np.full(5 * residues, "ALA"),
        chain_ids=np.full(5 * residues, "A"),
        residue_numbers=np.repeat(np.arange(1, residues + 1), 5),
        insertion_codes=blank,
        altlocs=blank,
        positions=(calphas[:, None] + offsets).reshape(-1, 3),
        b_factors=np.zeros(5 * residues),
        occupancies=np.ones(5 * residues),
    )


def specimen(frames: int = 3) -> Specimen:
    """The helix, bent a little more in every frame, each frame in its own frame of reference."""
    atoms = helix()
    positions = []
    for frame in range(frames):
        bent = atoms.positions.copy()
        bent[:, 0] += 0.002 * frame * (bent[:, 2] - 18) ** 2
        rotation = Rotation.from_euler("zyx", [20 * frame, 35 * frame, 50 * frame], degrees=True)
        positions.append(rotation.apply(bent) + [7.0 * frame, -3.0 * frame, 40.0])
    return Specimen(atoms, np.array(positions, dtype=np.float32))


def config(outdir: Path = Path("unused"), **changes) -> SimulateConfig:
    return SimulateConfig(**{"outdir": outdir, "images_per_frame": 7, "box": 64, "pixel_size": 2.0, **changes})


def project(elements, xy, side, pixel_size, **options) -> torch.Tensor:
    options = {"solvent_potential": 0.0, **options}
    projector = build_projector(np.array(elements), extent=side * pixel_size, pixel_size=pixel_size, **options)
    assert projector.side == side
    return projector.project(torch.tensor(xy, dtype=torch.float32)[None])[0]


def test_interaction_constant():
    np.testing.assert_allclose(
        interaction_constant(np.array([300.0, 200.0, 100.0])), [6.526e-4, 7.288e-4, 9.244e-4], rtol=2e-4
    )


def blurred_atoms(elements, xy, side: int, pixel_size: float, b_factor: float) -> np.ndarray:
    """Evaluate the projected potential in real space, V·Å: Σ 4πa/(b+B) exp(-4π²r²/(b+B)), [y, x]."""
    axis = (np.arange(side) - side // 2) * pixel_size
    image = np.zeros((side, side))
    for element, (x, y) in zip(elements, xy, strict=True):
        r2 = (axis[:, None] - y) ** 2 + (axis - x) ** 2
        table = gemmi.Element(str(element)).c4322
        for a, b in zip(table.a, np.array(table.b) + b_factor, strict=True):
            image += VOLTS_PER_FACTOR * 4 * np.pi * a / b * np.exp(-4 * np.pi**2 * r2 / b)
    return image


@pytest.mark.parametrize("element", ["H", "C", "N", "O", "S", "P", "Zn"])
def test_one_atom_has_the_analytic_potential(element):
    image = project([element], [[3.3, -5.9]], 125, 0.25, b_factor=10.0)
    truth = blurred_atoms([element], [[3.3, -5.9]], 125, 0.25, 10.0)
    np.testing.assert_allclose(image, truth, atol=1e-4 * truth.max())


def test_displaced_solvent_is_the_volume_times_its_potential():
    vacuum = project(["C"], [[0.0, 0.0]], 63, 0.5)
    solvated = project(["C"], [[0.0, 0.0]], 63, 0.5, solvent_potential=4.53)
    assert float((vacuum - solvated).sum() * 0.25) == pytest.approx(4.53 * 16.44, rel=1e-3)


def test_projection_of_many_atoms_is_the_direct_fourier_sum():
    """Every frequency of the compact grid, the mirrored half of k_y included."""
    draw = np.random.default_rng(1)
    elements = draw.choice(["C", "N", "O"], 40)
    xy = draw.uniform(-8, 8, (40, 2))
    side, pixel = 35, 1.0
    image = project(elements, xy, side, pixel).double()
    spectrum = torch.fft.fft2(torch.fft.ifftshift(image)).numpy()
    k = np.fft.fftfreq(side, pixel)
    k2 = k[:, None] ** 2 + k**2
    truth = np.zeros((side, side), dtype=complex)
    for element, (x, y) in zip(elements, xy, strict=True):
        table = gemmi.Element(str(element)).c4322
        factor = sum(a * np.exp(-b * k2 / 4) for a, b in zip(table.a, table.b, strict=True))
        truth += VOLTS_PER_FACTOR * factor * np.exp(-2j * np.pi * (k[:, None] * y + k * x))
    np.testing.assert_allclose(spectrum, truth, atol=2e-6 * np.abs(truth).max())


def test_unknown_element_is_an_error():
    with pytest.raises(ValueError, match="scattering factor for element 'X'"):
        build_projector(np.array(["C", "X"]), extent=40.0, pixel_size=1.0)


@pytest.mark.parametrize("box", [63, 64])
def test_direction_and_handedness(box):
    """An atom at x appears at pixel [y, x] of (R x)_xy + t, for an arrangement without mirror symmetry."""
    points = np.array([[0.0, 0, 0], [16, 0, 0], [0, 10, 0], [0, 0, 22]])
    atoms = replace(helix(4)[:4], names=np.full(4, "CA"), elements=np.full(4, "C"), positions=points)
    molecule = Specimen(atoms, points[None].astype(np.float32))
    settings = config(
        box=box, pixel_size=1.0, images_per_frame=3, max_shift=4.0, solvent=False, b_factor=150.0, defocus=0.0, cs=0.0
    )
    settings = settings.model_copy(update={"amplitude_contrast": 1.0})  # an absorption image: C = -1 everywhere
    exposures = draw_exposures(settings, 1)
    images = expected_images(molecule, settings, exposures)(np.arange(3)).numpy()
    for image, rotation, shift in zip(images, exposures.poses.rotations, exposures.poses.shifts, strict=True):
        xy = (points @ rotation.T)[:, :2] + shift
        truth = -2 * 6.526e-4 * blurred_atoms("CCCC", xy, box, 1.0, 150.0)
        np.testing.assert_allclose(image - 1, truth, atol=2e-3 * abs(truth).max())


def test_protein_is_dark_under_focus_and_bright_over_focus():
    molecule = align_specimen(specimen(1))
    for defocus, sign in ((15000.0, -1), (-15000.0, 1)):
        settings = config(defocus=defocus, images_per_frame=4)
        exposures = draw_exposures(settings, 1)
        images = expected_images(molecule, settings, exposures)(np.arange(4))
        assert torch.all(sign * (images[:, 28:37, 28:37].mean(dim=(1, 2)) - 1) > 0)


def test_weak_phase_contrast_is_two_sigma_v_times_the_ctf():
    """A single Fourier component of the potential comes out multiplied by 2σC."""
    box, pixel = 96, 1.5
    microscope = build_microscope(box, pixel, least=2 * box)
    cycles = 24  # in the padded grid, along x
    padded = microscope.basis.shape[1]
    x = torch.arange(padded) - padded // 2
    wave = torch.cos(2 * torch.pi * cycles * x / padded).expand(1, padded, padded).contiguous()
    image = microscope.intensity(wave, optics()) - 1
    k = cycles / (padded * pixel)
    wavelength = 0.0196875
    chi = np.pi * wavelength * 2e4 * k**2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * k**4
    gain = -2 * 6.526e-4 * (np.sqrt(1 - 0.06**2) * np.sin(chi) + 0.06 * np.cos(chi))
    expected = gain * wave[:, (padded - box) // 2 :][:, :box, (padded - box) // 2 :][..., :box]
    torch.testing.assert_close(image, expected, atol=2e-6, rtol=0)


def test_far_from_focus_delocalised_signal_does_not_come_back_in():
    """An atom near the edge, 10 µm under focus: the image cut from a much larger one is the same."""
    box, pixel = 64, 1.0
    far = replace(optics(), defocus_u=np.array([1e5]), defocus_v=np.array([0.98e5]))
    spread = delocalisation(far, pixel)
    assert spread == pytest.approx(0.0196875 * 1e5 / 2, rel=1e-4)
    x = torch.arange(box) - 32.0
    potential = torch.exp(-0.5 * (x[:, None] ** 2 + (x - 24) ** 2))[None]
    truth = build_microscope(box, pixel, least=2048).intensity(potential, far) - 1
    padded = build_microscope(box, pixel, spread=spread)
    error = (padded.intensity(potential, far) - 1 - truth).norm() / truth.norm()
    wrapped = (build_microscope(box, pixel).intensity(potential, far) - 1 - truth).norm() / truth.norm()
    assert error < 0.05 and wrapped > 5 * error
    assert build_microscope(box, pixel, spread=10.0).basis.shape == build_microscope(box, pixel).basis.shape


def test_counts_are_poisson_and_normalised_background_is_standard():
    intensity = np.full((4, 64, 64), 0.9, dtype=np.float32)
    generators = [np.random.default_rng(i) for i in range(4)]
    counts = count_electrons(intensity, 20.0, generators)
    assert counts.mean() == pytest.approx(18, rel=0.01)
    assert counts.var() == pytest.approx(18, rel=0.05)
    assert np.all(counts == np.round(counts))
    images = normalize_background(counts)
    axis = np.arange(64) - 32
    outside = axis[:, None] ** 2 + axis**2 > 24**2
    np.testing.assert_allclose(images[:, outside].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(images[:, outside].std(axis=1), 1, atol=1e-5)


def test_superposition_is_on_the_selection_and_frames_are_centred():
    aligned = align_specimen(specimen(), superpose="1-10")
    calphas = aligned.positions[:, aligned.is_alpha]
    np.testing.assert_allclose(calphas.mean(axis=1), 0, atol=1e-4)
    moving = align_specimen(specimen(), superpose="1-10", is_centered=False)
    calphas = moving.positions[:, moving.is_alpha]
    np.testing.assert_allclose(calphas[1:, :10].mean(axis=1) - calphas[:1, :10].mean(axis=1), 0, atol=1e-3)
    assert abs(calphas[2] - calphas[0])[:10].max() < 0.5 < abs(calphas[2] - calphas[0])[10:].max()
    kept = align_specimen(specimen(), superpose="none")
    assert abs(kept.positions[1] - kept.positions[0]).max() > 5


def test_draws_follow_the_settings():
    settings = config(
        images_per_frame=500, voltage=(300.0, 200.0), defocus=15000, defocus_spread=4000, astigmatism=600, max_shift=3
    )
    exposures = draw_exposures(settings, 4)
    assert np.array_equal(np.bincount(exposures.frames), [500] * 4)
    assert np.array_equal(exposures.optics.voltage_kv, np.where(exposures.optics_group == 0, 300, 200))
    assert 0.4 < exposures.optics_group.mean() < 0.6
    mean = (exposures.optics.defocus_u + exposures.optics.defocus_v) / 2
    assert 11000 <= mean.min() < 11200 and 18800 < mean.max() <= 19000
    difference = exposures.optics.defocus_u - exposures.optics.defocus_v
    assert 0 <= difference.min() and 590 < difference.max() <= 600
    assert 2.9 < abs(exposures.poses.shifts).max() <= 3
    assert abs(exposures.poses.rotations.mean(axis=0)).max() < 0.05  # Haar


def test_same_seed_same_files_whatever_the_threads(tmp_path, monkeypatch):
    molecule = align_specimen(specimen())
    simulate(molecule, config(tmp_path / "a", seed=3))
    monkeypatch.setattr("cryoatom.simulate._WAVES_AT_ONCE", 1)  # one image at a time
    simulate(molecule, config(tmp_path / "b", seed=3, threads=2))
    simulate(molecule, config(tmp_path / "c", seed=4))
    for name in ("particles.star", "particles.mrcs", "truth/frames.txt", "truth/trajectory.dcd"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert (tmp_path / "a/particles.mrcs").read_bytes() != (tmp_path / "c/particles.mrcs").read_bytes()


def test_data_set_reads_back(tmp_path):
    molecule = align_specimen(specimen())
    settings = config(tmp_path / "data", voltage=(300.0, 200.0), astigmatism=500.0, max_shift=5.0)
    done = []
    written = simulate(molecule, settings, done.append)
    assert done == sorted(done) and done[-1] == len(written) == 21
    particles = read_star_particles(tmp_path / "data/particles.star")
    assert particles.poses is not None and written.poses is not None
    np.testing.assert_allclose(particles.poses.rotations, written.poses.rotations, atol=1e-6)
    np.testing.assert_allclose(particles.poses.shifts, written.poses.shifts, atol=1e-5)
    np.testing.assert_allclose(particles.optics.as_array(), written.optics.as_array(), atol=1e-2)
    stack = open_stack(particles.stacks[0])
    assert (stack.count, stack.box, stack.pixel_size) == (21, 64, pytest.approx(2.0))
    images = stack.read(np.arange(21))
    signal = expected_images(molecule, settings, draw_exposures(settings, 3))(np.arange(21)).numpy() - 1
    noise = images - np.sqrt(settings.dose * 4) * signal
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert np.corrcoef(images.ravel(), signal.ravel())[0, 1] > 0.05
    frames = np.loadtxt(tmp_path / "data/truth/frames.txt", dtype=int)
    truth = read_trajectory(tmp_path / "data/truth/trajectory.dcd", tmp_path / "data/truth/trajectory.cif")
    assert len(frames) == 21 and frames.max() == 2
    np.testing.assert_allclose(truth.positions, molecule.positions[:, molecule.is_alpha], atol=1e-5)
    consensus = read_atoms(tmp_path / "data/truth/consensus.cif")
    assert "H" not in consensus.elements and len(consensus) == 96
    np.testing.assert_allclose(
        consensus.positions.mean(axis=0),
        molecule.positions[:, molecule.atoms.elements != "H"].mean(axis=(0, 1)),
        atol=1e-2,
    )


def test_noise_free_and_half_precision(tmp_path):
    molecule = align_specimen(specimen())
    settings = config(tmp_path, noise=False, float16=True)
    simulate(molecule, settings)
    signal = expected_images(molecule, settings, draw_exposures(settings, 3))(np.arange(21)).numpy() - 1
    np.testing.assert_allclose(
        open_stack(tmp_path / "particles.mrcs").read(np.arange(21)), signal, atol=1e-4, rtol=1e-3
    )


def test_an_existing_data_set_is_kept(tmp_path):
    molecule = align_specimen(specimen(1))
    simulate(molecule, config(tmp_path))
    with pytest.raises(ValueError, match="particles.star exists.*--overwrite"):
        simulate(molecule, config(tmp_path, seed=1))
    before = (tmp_path / "particles.mrcs").read_bytes()
    simulate(molecule, config(tmp_path, seed=1, overwrite=True))
    assert (tmp_path / "particles.mrcs").read_bytes() != before


def test_a_full_disk_leaves_no_data_set(tmp_path, monkeypatch):
    def full(self, images):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StackWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        simulate(align_specimen(specimen(1)), config(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_clear_errors(tmp_path):
    molecule = align_specimen(specimen(1))
    with pytest.raises(ValueError, match="does not fit a box.*--box must be at least"):
        simulate(molecule, config(tmp_path, box=16))
    with pytest.raises(ValueError, match="selects 2 C-alphas"):
        align_specimen(specimen(), superpose="1-2")
    with pytest.raises(ValueError, match="no C-alpha"):
        align_specimen(Specimen(molecule.atoms[:1], molecule.positions[:, :1]))
    with pytest.raises(ValueError, match="voltage.*positive"):
        SimulateConfig.merge({"outdir": tmp_path, "voltage": (300.0, -1.0)})
    with pytest.raises(ValueError, match="does not have the atoms"):
        write_atoms(tmp_path / "a.pdb", helix())
        write_atoms(tmp_path / "b.pdb", helix()[:-1])
        read_specimen([tmp_path / "a.pdb", tmp_path / "b.pdb"])


def test_too_little_room_is_said_before_the_work(tmp_path, monkeypatch):
    molecule = align_specimen(specimen(1))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match="images need .* GB"):
        simulate(molecule, config(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_structures_are_frames_and_water_is_left_out(tmp_path):
    atoms = helix()
    water = replace(atoms[:1], names=np.array(["O"]), elements=np.array(["O"]), residue_names=np.array(["HOH"]))
    together = Atoms(**{name: np.concatenate([getattr(atoms, name), getattr(water, name)]) for name in vars(atoms)})
    write_atoms(tmp_path / "a.pdb", together)
    write_atoms(tmp_path / "b.pdb", replace(together, positions=together.positions + 1))
    molecule = read_specimen([tmp_path / "a.pdb", tmp_path / "b.pdb"])
    assert molecule.positions.shape == (2, len(atoms), 3)
    np.testing.assert_allclose(molecule.positions[0], molecule.positions[1], atol=2e-3)


def test_command(tmp_path):
    from click.testing import CliRunner

    from cryoatom.cli.main import cli

    write_atoms(tmp_path / "helix.pdb", helix())
    command = [
        "simulate",
        str(tmp_path / "helix.pdb"),
        "-o",
        str(tmp_path / "data"),
        "--box",
        "48",
        "--pixel-size",
        "2",
    ]
    command += ["--images-per-frame", "5", "--no-solvent", "--voltage", "200"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert "5 images of 1 frames" in result.output
    assert len(read_star_particles(tmp_path / "data/particles.star")) == 5
    again = CliRunner().invoke(cli, command)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
