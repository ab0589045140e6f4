import logging
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from molecules import three_helices
from particle_data import make_optics, write_stack

from cryoatom.cli.main import cli
from cryoatom.files.star import write_star_particles
from cryoatom.geometry import euler_from_rotations, random_rotations, rotations_from_euler
from cryoatom.imaging.ctf import ctf
from cryoatom.imaging.direct import simulate_images
from cryoatom.imaging.grid import choose_grid
from cryoatom.imaging.kernels import kernel_spectra
from cryoatom.imaging.likelihood import cross_and_power
from cryoatom.imaging.matched import matched_crops
from cryoatom.imaging.project import render_dense
from cryoatom.particles.table import read_particles
from cryoatom.poses.docking import (
    _STEPS,
    _TRUSTED,
    Docking,
    Placement,
    _tail,
    as_given,
    climb,
    distinct,
    dock,
    rotation_count,
    score_at,
)
from cryoatom.poses.frame import fit_to_map, fit_to_particles, rigid_beads
from cryoatom.poses.placement import PlacementScore, RigidBeads, TranslationScan
from cryoatom.poses.verdict import TemplateFit, judge
from cryoatom.poses.volume import Volume, backproject, corners, even_side, map_volume
from cryoatom.records import Particles, Poses
from cryoatom.rotations import exp_rotation
from cryoatom.structure.superpose import kabsch
from cryoatom.structure.template import Template, read_template, template_from_atoms, write_template
from cryoatom.workers import Workers

BOX, PIXEL_SIZE = 32, 3.0
OFF_CENTER = np.array([6.0, -9.0, 4.0])
MIRROR = np.diag([1.0, 1.0, -1.0])


@pytest.fixture(scope="module")
def molecule() -> Template:
    """A template in the frame of the poses, off the centre of the box."""
    template = template_from_atoms(three_helices(), "test")[0]
    return template.with_positions(template.atoms.positions - template.positions.mean(axis=0) + OFF_CENTER)


@pytest.fixture(scope="module")
def particles(molecule, tmp_path_factory) -> Particles:
    """150 noisy images of the molecule, in a file."""
    return write_particles(tmp_path_factory.mktemp("particles"), [molecule], BOX, 150)


def write_particles(folder: Path, molecules: list[Template], box: int, count: int, blank: int = 0) -> Particles:
    """Write noisy images of molecules that make one particle; the last ones are blank."""
    draw = np.random.default_rng(0)
    poses = Poses(random_rotations(count, draw), draw.uniform(-6, 6, (count, 2)))
    optics = make_optics(count, draw)
    beads = [rigid_beads(molecule) for molecule in molecules]
    masses, places = torch.cat([b.masses for b in beads]), torch.cat([b.centers + b.origin for b in beads])
    centers = places @ torch.from_numpy(poses.rotations).float().mT
    shifted = centers[..., :2] + torch.from_numpy(poses.shifts).float()[:, None]
    variances = torch.full_like(masses, PIXEL_SIZE**2)
    images = simulate_images(shifted, 0.5 * masses, variances, optics, box, PIXEL_SIZE, padding=8)
    images += torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    images[count - blank :] = 0
    stack = write_stack(folder / "particles.mrcs", images.numpy(), PIXEL_SIZE)
    names = np.array([f"{k + 1:06d}@particles.mrcs" for k in range(count)])
    zeros = np.zeros(count, dtype=np.int64)
    source = folder / "particles.star"
    made = Particles(source, names, (stack,), zeros, np.arange(count), box, PIXEL_SIZE, optics, zeros, poses)
    write_star_particles(source, made)
    return made


def density(template: Template, box: int, pixel_size: float, width: float = 2.5) -> np.ndarray:
    """Return the map of a template's beads, [z, y, x]."""
    beads = rigid_beads(template)
    axis = (np.arange(box) - box // 2) * pixel_size
    places = (beads.centers + beads.origin).numpy()
    x, y, z = (np.exp(-((axis - places[:, k, None]) ** 2) / (2 * width**2)) for k in range(3))
    return np.einsum("b,bz,by,bx->zyx", beads.masses.numpy(), z, y, x, optimize=True)


def write_map(path, values, pixel_size=PIXEL_SIZE):
    with mrcfile.new(path) as file:
        file.set_data(values.astype(np.float32))
        file.voxel_size = pixel_size
    return path


def scattered(template: Template, seed: int = 1) -> Template:
    draw = np.random.default_rng(seed)
    centered = template.atoms.positions - template.positions.mean(axis=0)
    return template.with_positions(centered @ random_rotations(1, draw)[0].T + draw.uniform(-15, 15, 3))


def distance(first: Template, second: Template) -> tuple[float, float]:
    """Return the angle in degrees and the distance of centres in Å."""
    rotation = kabsch(torch.from_numpy(first.positions), torch.from_numpy(second.positions))[0]
    angle = np.rad2deg(np.arccos(np.clip((float(rotation.trace()) - 1) / 2, -1, 1)))
    return angle, float(np.linalg.norm((first.positions - second.positions).mean(axis=0)))


def fit(template, path, **choices):
    with Workers(1) as workers:
        if path.suffix == ".mrc":
            return fit_to_map(template, path, workers=workers, **choices)
        return fit_to_particles(template, read_particles(path), workers=workers, **choices)


@pytest.fixture(autouse=True)
def few_rotations(monkeypatch):
    """Search on a coarse grid of rotations and follow few, enough for a small molecule."""
    monkeypatch.setattr("cryoatom.poses.docking._KEPT", 6)
    monkeypatch.setattr("cryoatom.poses.docking._CLIMB_TOGETHER", 6)
    monkeypatch.setattr("cryoatom.poses.docking._STEPS_COARSE", 12)
    monkeypatch.setattr("cryoatom.poses.docking._STEPS", 30)
    monkeypatch.setattr("cryoatom.poses.docking._STEP_DEG", (12.0, 30.0))
    monkeypatch.setattr("cryoatom.poses.docking._STEP_PER_DETAIL", 1.2)


# --- the pieces -------------------------------------------------------------------------------------------------------


def test_trilinear_weights_add_up_and_keep_the_place():
    places = torch.rand(50, 3) * 4 + 1
    index, weight = corners(places, 8)
    torch.testing.assert_close(weight.sum(dim=-1), torch.ones(50))
    at = torch.stack([index % 8, index // 8 % 8, index // 64], dim=-1)
    torch.testing.assert_close((at * weight[..., None]).sum(dim=1), places)
    wrapped, _ = corners(torch.tensor([[-0.5, 0.0, 0.0]]), 8)
    assert set(wrapped[0].tolist()) >= {7, 0}


@pytest.mark.parametrize(("least", "most", "side"), [(21.3, 100, 24), (14, 100, 16), (30, 25, 25), (1, 9, 4)])
def test_sides_are_even_and_smooth(least, most, side):
    assert even_side(least, at_most=most) == side


def test_back_projection_is_the_sum_over_images(particles, molecule):
    """Against projections rendered and scored image by image, for a placement that is none of the true ones."""
    beads = rigid_beads(molecule)
    beads = RigidBeads(beads.centers, beads.masses, torch.full_like(beads.masses, PIXEL_SIZE**2))
    turn = exp_rotation(torch.tensor([0.4, -0.2, 0.7]))
    place = torch.from_numpy(OFF_CENTER).float() + 1.5
    grid = choose_grid(BOX, PIXEL_SIZE, BOX * PIXEL_SIZE, PIXEL_SIZE)
    images = torch.randn(len(particles), BOX, BOX, generator=torch.Generator().manual_seed(1)) + 0.2
    poses, optics = particles.poses, particles.optics
    assert poses is not None
    with Workers(1) as workers, torch.no_grad():
        volume = backproject(lambda rows: images[rows], optics, poses, grid, workers=workers)
        score = PlacementScore(volume, beads)
        cross, power = score.cross(turn[None], place[None]), score.power(turn[None])
        rotations = torch.from_numpy(poses.rotations).float()
        centers = (beads.centers @ turn.T + place) @ rotations.mT
        views = render_dense(
            centers[..., :2], beads.masses, torch.full_like(beads.masses, beads.variance), grid.side, grid.coarse_pixel
        )
        transfer = ctf(optics, BOX, PIXEL_SIZE).float()
        crops = matched_crops(images, transfer, torch.from_numpy(poses.shifts).float(), grid)
        crosses, powers = cross_and_power(views, crops, kernel_spectra(transfer, grid))
    assert float(cross) == pytest.approx(float(crosses.sum()), rel=0.02)
    assert float(power) == pytest.approx(float(powers.sum()), rel=0.03)


def small_volume(side: int = 24, pixel_size: float = 3.0) -> Volume:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(side, side, side, generator=generator)
    weight = torch.rand(2 * side, 2 * side, 2 * side, generator=generator) + 1
    return Volume(signal, weight, pixel_size).low_passed(9.0)


def small_beads() -> RigidBeads:
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(12, 3, generator=generator) * torch.tensor([9.0, 5.0, 3.0]) + 4
    return RigidBeads(centers, torch.rand(12, generator=generator) + 1, torch.full((12,), 4.0))


def test_splines_sample_the_band_limited_volume():
    volume, beads = small_volume(), small_beads()
    score = PlacementScore(volume, beads)
    turn, place = exp_rotation(torch.tensor([0.3, 0.1, -0.5])), torch.tensor([3.0, -4.0, 5.0])
    side, length = len(volume.signal), volume.length
    k = torch.fft.fftfreq(side, volume.pixel_size)
    kz, ky, kx = torch.meshgrid(k, k, k, indexing="ij")
    radius = (kx**2 + ky**2 + kz**2).sqrt()
    spectrum = torch.fft.fftn(volume.signal) * torch.exp(-2 * torch.pi**2 * beads.variance * radius**2)
    spectrum = spectrum * (radius <= 1 / volume.resolution) / side**3
    expected = 0.0
    for bead, mass in zip(beads.centers @ turn.T + place, beads.masses, strict=True):
        phase = 2 * torch.pi * (kx * bead[0] + ky * bead[1] + kz * bead[2])
        expected += float(mass) * float((spectrum * torch.polar(torch.ones_like(phase), phase)).sum().real)
    found = float(score.cross(turn[None], place[None]))
    size = float(spectrum.abs().square().sum().sqrt() * beads.masses.norm())
    assert found == pytest.approx(expected, abs=0.005 * size)
    moved = place + torch.tensor([length, 0.0, -length])  # it wraps
    assert float(score.cross(turn[None], moved[None])) == pytest.approx(found, abs=1e-3 * size)


def test_the_scan_finds_what_the_score_says():
    volume, beads = small_volume().low_passed(14.0, oversampling=2.0), small_beads()
    rotations = torch.from_numpy(random_rotations(6, np.random.default_rng(0))).float()
    values, places = TranslationScan(volume, beads, 15.0).best(rotations)
    score = PlacementScore(volume, beads)
    assert (places.abs() <= 15.0).all()
    for k, sign in enumerate((1, -1)):
        again = sign * score(rotations, places[:, k])
        torch.testing.assert_close(values[:, k], again, rtol=0.05, atol=0.02 * float(values.abs().max()))
        for offset in torch.tensor([[6.0, 0, 0], [0, -6.0, 0], [0, 0, 6.0]]):
            beside = places[:, k] + offset
            is_higher = sign * score(rotations, beside) > again
            assert not (is_higher & (beside.abs() <= 15.0).all(dim=-1)).any()


def test_displacement_is_that_of_the_beads():
    beads = small_beads()
    rotations = torch.from_numpy(random_rotations(3, np.random.default_rng(0))).float()
    places = torch.randn(3, 3)
    found = beads.displacement(rotations, places, rotations[0], places[0])
    share = beads.masses / beads.masses.sum()
    moved = beads.centers @ rotations.mT + places[:, None]
    expected = ((moved - moved[0]).square().sum(dim=-1) @ share).sqrt()
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=1e-4)


def test_merged_beads_keep_mass_centre_and_extent():
    beads = small_beads()
    few = beads.merged(6.0)
    assert len(few.masses) < len(beads.masses)
    torch.testing.assert_close(few.masses.sum(), beads.masses.sum())
    torch.testing.assert_close(few.origin, torch.zeros(3), atol=1e-4, rtol=0)
    second = float(beads.spread.trace()) + 3 * beads.variance
    assert float(few.spread.trace()) + 3 * few.variance == pytest.approx(second, rel=1e-4)


def test_distinct_placements_are_apart_and_in_order():
    beads = small_beads()
    rotations = torch.from_numpy(random_rotations(40, np.random.default_rng(0))).float()
    scores = torch.rand(40)
    found = distinct(beads, rotations, torch.zeros(40, 3), scores, 5)
    assert found[0].score == float(scores.max()) and len(found) == 5
    assert sorted((place.score for place in found), reverse=True) == [place.score for place in found]
    for place in found[1:]:
        assert float(beads.displacement(place.rotation, place.translation, found[0].rotation, torch.zeros(3))) > 1


def test_larger_specimens_need_more_rotations_to_a_limit(monkeypatch):
    monkeypatch.undo()
    counts = [rotation_count(reach, 10.0) for reach in (5, 15, 25, 35, 80)]
    assert counts == sorted(counts) and counts[0] > 1000 and counts[-1] < 7000


@pytest.mark.parametrize(("box", "pixel_size"), [(36, 2.5), (33, 3.1)])
def test_a_map_correlates_with_its_own_beads(molecule, box, pixel_size):
    beads = rigid_beads(molecule)
    beads = RigidBeads(beads.centers + beads.origin, beads.masses, torch.full_like(beads.masses, 2.5**2))
    grid = choose_grid(box, pixel_size, box * pixel_size, 2.5)
    volume = map_volume(density(molecule, box, pixel_size), pixel_size, grid)
    score = PlacementScore(volume, beads)
    assert float(score(torch.eye(3)[None], beads.origin[None])) == pytest.approx(1, abs=0.06)
    assert float(score(torch.eye(3)[None], beads.origin[None] + 6)) < 0.8


# --- the fit ----------------------------------------------------------------------------------------------------------


def test_particles_bring_the_template_into_their_frame(particles, molecule, caplog):
    found = fit(scattered(molecule), particles.source)
    angle, away = distance(found.template, molecule)
    assert angle < 2 and away < 1
    assert found.hand == "right" and not caplog.records
    moved = scattered(molecule).positions @ found.rotation.T + found.translation
    np.testing.assert_allclose(moved, found.template.positions, atol=1e-6)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-5)
    assert "hand right" in found.describe() and "noise deviations" in found.describe()


def test_poses_of_the_wrong_hand_are_noticed(particles, molecule, tmp_path, caplog):
    poses = particles.poses
    assert poses is not None
    angles = euler_from_rotations(poses.rotations)
    mended = rotations_from_euler(angles[:, 0], -angles[:, 1], angles[:, 2])  # what the message says
    mirrored = Poses(MIRROR @ poses.rotations @ MIRROR, poses.shifts)
    np.testing.assert_allclose(mirrored.rotations, mended, atol=1e-6)
    path = tmp_path / "wrong.star"
    write_star_particles(path, replace(particles, poses=mirrored))
    assert fit(scattered(molecule), path, force=True).hand == "mirrored"
    assert "wrong hand: change the sign of rlnAngleTilt" in caplog.text


def test_inverted_contrast_is_noticed(particles, molecule):
    with pytest.raises(ValueError, match="--uninvert-data"):
        fit(molecule, particles.source, uninvert=True)


@pytest.fixture(scope="module")
def pair(molecule) -> list[Template]:
    """Two copies, C2-related, farther off the centre than they are wide."""
    turn = random_rotations(1, np.random.default_rng(5))[0]
    centered = (molecule.atoms.positions - molecule.positions.mean(axis=0)) @ turn.T
    one = centered + np.array([24.0, -26.0, 6.0])
    return [molecule.with_positions(one), molecule.with_positions(one @ np.diag([-1.0, -1.0, 1.0]))]


@pytest.mark.parametrize("kind", ["map", "particles"])
def test_one_of_two_copies_off_the_centre_is_found(kind, pair, molecule, tmp_path, caplog):
    if kind == "map":
        path = write_map(tmp_path / "m.mrc", density(pair[0], 48, PIXEL_SIZE) + density(pair[1], 48, PIXEL_SIZE))
    else:
        path = write_particles(tmp_path, pair, 48, 120, blank=12).source
    with caplog.at_level(logging.WARNING):
        found = fit(scattered(molecule), path)
    angle, away = min(distance(found.template, copy) for copy in pair)
    assert angle < 3 and away < 1.5
    assert found.hand == "right" and "another placement fits as well" in found.describe()
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == (kind == "particles") and all("left out 12 images" in text for text in warnings)


@pytest.mark.parametrize("seed", range(2))
def test_a_map_without_the_template_is_of_no_hand(seed, molecule, tmp_path, caplog):
    noise = np.fft.rfftn(np.random.default_rng(seed).standard_normal((BOX,) * 3))
    k = [np.fft.fftfreq(BOX, PIXEL_SIZE), np.fft.fftfreq(BOX, PIXEL_SIZE), np.fft.rfftfreq(BOX, PIXEL_SIZE)]
    square = sum(axis**2 for axis in np.meshgrid(*k, indexing="ij", sparse=True))
    axis = (np.arange(BOX) - BOX // 2) * PIXEL_SIZE
    away = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    blob = (1 + np.fft.irfftn(noise * np.exp(-120 * square)) / 0.1) * np.exp(-away / (2 * 15**2))
    found = fit(molecule, write_map(tmp_path / "m.mrc", blob))
    assert found.hand == "undecided" and not found.is_inverted
    assert "not found" in caplog.text


def test_scores_near_a_placement_are_those_of_the_docking(molecule):
    beads = rigid_beads(molecule)
    volume = map_volume(density(molecule, BOX, PIXEL_SIZE), PIXEL_SIZE, choose_grid(BOX, PIXEL_SIZE, 96, PIXEL_SIZE))
    there = as_given(beads)
    turn = exp_rotation(torch.tensor([0.1, 0.0, -0.1]))
    with Workers(1) as workers:
        best = dock(volume, beads, workers=workers).best
    start = replace(there, rotation=turn, translation=beads.origin + 2)
    found = climb(PlacementScore(volume.sharpened(_TRUSTED), beads), [start], _STEPS)
    near = Placement(*(part[0] for part in found[:2]), float(found[2]))
    assert near.score == pytest.approx(best.score, rel=1e-3)
    at = score_at(volume, beads, torch.stack([near.rotation, turn]), torch.stack([near.translation, beads.origin + 2]))
    assert float(at[0]) == pytest.approx(best.score, rel=1e-3) and at[1] < 0.9 * best.score
    assert float(score_at(volume, beads, there.rotation[None], there.translation[None])) > 0.98 * best.score


def test_the_spread_is_the_scale_of_a_tail_with_copies_counted_once():
    draw = np.random.default_rng(0)
    still = torch.eye(3), torch.zeros(3)
    found = []
    for _ in range(200):
        best = np.sort(draw.exponential(2.0, 5000))[:-21:-1] + 30
        found.append([_tail([Placement(*still, s) for s in np.repeat(best, n).tolist()]) for n in (1, 2)])
    assert np.mean(found, axis=0) == pytest.approx([2.0, 2.0], rel=0.15)
    assert _tail([Placement(*still, 30.0)] * 20) == np.inf


def verdict(molecule, unit, best, rival, mirrored, inverted, spread):
    still = Placement(torch.eye(3), torch.zeros(3), best)
    return TemplateFit(molecule, np.eye(3), np.zeros(3), Docking(still, rival, mirrored, inverted, spread), unit)


NOISE, CORRELATION = "noise deviations", "correlation"


@pytest.mark.parametrize(
    ("unit", "best", "rival", "mirrored", "inverted", "spread", "error"),
    [
        (NOISE, 30, 18, 19, 5, 1, None),
        (NOISE, 30, 29.5, 19, 5, 1, None),
        (NOISE, 19, 18, 30, 5, 1, "wrong hand"),
        (NOISE, 8.1, 8.0, 8.0, 8.2, 0.3, "not found"),
        (NOISE, 30, 29, 33, 5, 1, "not found"),
        (NOISE, 30, 20, 31, 5, 1, "hand of the data is not told"),
        (NOISE, 10, 9.9, 9.8, 30, 1, "--uninvert-data"),
        (NOISE, 10, 9.9, 30, 31, 1, "not found"),
        (NOISE, 5.9, 5.8, 5.7, 6.0, 0.2, "are they, and their poses"),
        (CORRELATION, 0.074, 0.073, 0.079, 0.02, 0.002, "not found"),
        (CORRELATION, 0.138, 0.137, 0.150, 0.044, 0.003, "not found"),
        (CORRELATION, 0.149, 0.148, 0.092, 0.022, 0.002, None),
        (CORRELATION, 0.160, 0.159, 0.314, 0.05, 0.008, "wrong hand"),
        (CORRELATION, 0.05, 0.05, 0.05, 0.3, 0.003, "multiply the map by -1"),
    ],
)
def test_verdicts_need_a_clear_best(unit, best, rival, mirrored, inverted, spread, error, molecule, caplog):
    fit = verdict(molecule, unit, best, rival, mirrored, inverted, spread)
    judge(fit, "x.star", force=True)
    assert (error or "") in caplog.text and bool(caplog.text) == (error is not None)
    if error in ("wrong hand", "--uninvert-data", "multiply the map by -1", "are they, and their poses"):
        with pytest.raises(ValueError, match=error):
            judge(fit, "x.star", force=False)
    else:
        judge(fit, "x.star", force=False)


def test_particles_need_poses(particles, molecule, tmp_path):
    path = tmp_path / "p.star"
    write_star_particles(path, replace(particles, poses=None))
    with pytest.raises(ValueError, match="no orientations.*--poses FILE"):
        fit(molecule, path)


def test_a_box_smaller_than_the_template_is_an_error(molecule, tmp_path):
    path = write_map(tmp_path / "m.mrc", density(molecule, 16, 2.0), 2.0)
    with pytest.raises(ValueError, match=r"Å across.*--chain"):
        fit(molecule, path)


def run(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="cryoatom", env={"COLUMNS": "150"})


def test_command_fits_to_a_map(molecule, tmp_path):
    write_template(tmp_path / "start.cif", scattered(molecule, 3))
    path = write_map(tmp_path / "m.mrc", density(molecule, BOX, PIXEL_SIZE))
    result = run("template", tmp_path / "start.cif", "-o", tmp_path / "t.cif", "--fit", path)
    assert result.exit_code == 0, result.stderr
    assert "fitted to m.mrc: turned by" in result.stdout and "hand right" in result.stdout
    angle, away = distance(read_template(tmp_path / "t.cif")[0], molecule)
    assert angle < 1 and away < 0.5


def test_command_refuses_a_map_of_the_wrong_hand(molecule, tmp_path):
    write_template(tmp_path / "start.cif", molecule)
    flipped = np.roll(density(molecule, BOX, PIXEL_SIZE)[::-1], 1, axis=0)
    path = write_map(tmp_path / "m.mrc", flipped)
    result = run("template", tmp_path / "start.cif", "-o", tmp_path / "t.cif", "--fit", path)
    assert result.exit_code == 1 and "wrong hand" in result.stderr and "--invert_hand" in result.stderr
    assert not (tmp_path / "t.cif").exists()


def test_command_takes_poses_and_ctf_from_other_files(particles, molecule, tmp_path, monkeypatch):
    seen = []

    def fit_to_particles(template, particles, **choices):
        seen.append((particles, choices["uninvert"]))
        raise ValueError("enough")

    monkeypatch.setattr("cryoatom.poses.frame.fit_to_particles", fit_to_particles)
    write_template(tmp_path / "start.cif", molecule)
    np.save(tmp_path / "ind.npy", np.array([3, 7]))
    source = particles.source
    result = run(
        "template", tmp_path / "start.cif", "-o", tmp_path / "t.cif", "--fit", source.with_suffix(".mrcs"), "--poses",
        source, "--ctf", source, "--amp-contrast", "0.2", "--ind", tmp_path / "ind.npy", "--uninvert-data",
    )  # fmt: skip
    assert result.exit_code == 1 and "enough" in result.stderr, result.stderr
    taken, is_bright = seen[0]
    np.testing.assert_allclose(taken.poses.rotations, particles.poses.rotations[[3, 7]], atol=1e-6)
    np.testing.assert_allclose(taken.optics.amplitude_contrast, 0.2)
    assert is_bright


def test_a_map_takes_no_poses(molecule, tmp_path):
    write_template(tmp_path / "start.cif", molecule)
    path = write_map(tmp_path / "m.mrc", np.zeros((8, 8, 8)))
    result = run("template", tmp_path / "start.cif", "-o", tmp_path / "t.cif", "--fit", path, "--poses", "p.pkl")
    assert result.exit_code == 1 and "go with particles" in result.stderr


@pytest.mark.parametrize("other", [("--no-center",), ("--onto", "x.pdb")])
def test_fit_goes_with_no_other_frame(other):
    result = run("template", "a.cif", "-o", "t.cif", "--fit", "m.mrc", *other)
    assert result.exit_code == 2 and "--fit" in result.stderr
