"""Axes, angles, signs and the centre, held against formulas written out by hand: no function of the package vouches
for another."""

import numpy as np
import pytest
import torch
from particle_data import write_stack
from scipy import constants

from cryoatom.files.star import read_star_particles, write_star_particles
from cryoatom.fourier import centered_irfft2, centered_rfft2, crop_center, crop_spectrum, frequencies, pixel_coordinates
from cryoatom.geometry import euler_from_rotations, random_rotations, rotations_from_euler
from cryoatom.imaging.ctf import ctf, wavelength
from cryoatom.imaging.direct import simulate_images
from cryoatom.imaging.project import render_dense
from cryoatom.records import Optics


def optics(*, kv=300.0, cs=2.7, contrast=0.07, u=15000.0, v=None, angle_deg=0.0, phase_deg=0.0) -> Optics:
    columns = [kv, cs, contrast, u, u if v is None else v, np.deg2rad(angle_deg), np.deg2rad(phase_deg)]
    return Optics(*(np.array([column]) for column in columns))


# --- orientations -----------------------------------------------------------------------------------------------------


def passive(axis: str, degrees: float) -> np.ndarray:
    """Return the matrix that gives a fixed vector's components on axes turned by `degrees`."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) if axis == "z" else np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def relion_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """Return RELION's Euler matrix: axes turned by rot about Z, tilt about the new Y, psi about the new Z."""
    return passive("z", psi) @ passive("y", tilt) @ passive("z", rot)


@pytest.mark.parametrize(
    ("angles", "point", "seen"),
    [
        ((90, 0, 0), (1, 0, 0), (0, -1, 0)),  # the projection turns against rot
        ((0, 0, 90), (1, 0, 0), (0, -1, 0)),  # and against psi
        ((0, 90, 0), (0, 0, 1), (-1, 0, 0)),  # from +x of the map, its z axis points to -x of the image
        ((0, 90, 0), (1, 0, 0), (0, 0, 1)),
        ((90, 90, 0), (0, 1, 0), (0, 0, 1)),
        ((30, 180, 0), (0, 0, 1), (0, 0, -1)),
    ],
)
def test_euler_angles_of_simple_views(angles, point, seen):
    rotation = rotations_from_euler(*(np.array([float(angle)]) for angle in angles))[0]
    np.testing.assert_allclose(rotation @ point, seen, atol=1e-12)


def test_viewing_direction_is_the_third_row():
    """RELION: the direction of view is (cos rot sin tilt, sin rot sin tilt, cos tilt) in the map."""
    rot, tilt, psi = np.random.default_rng(0).uniform([[-180], [0], [-180]], [[180], [180], [180]], (3, 50))
    a, b = np.deg2rad(rot), np.deg2rad(tilt)
    direction = np.stack([np.cos(a) * np.sin(b), np.sin(a) * np.sin(b), np.cos(b)], axis=1)
    np.testing.assert_allclose(rotations_from_euler(rot, tilt, psi)[:, 2], direction, atol=1e-12)


def test_euler_matrix():
    angles = np.random.default_rng(0).uniform([-180, 0, -180], [180, 180, 180], (100, 3))
    expected = [relion_matrix(*row) for row in angles]
    rotations = rotations_from_euler(*angles.T)
    np.testing.assert_allclose(rotations, expected, atol=1e-12)
    np.testing.assert_allclose(euler_from_rotations(rotations), angles, atol=1e-6)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_euler_angles_at_the_poles(tilt):
    rotation = rotations_from_euler(np.array([40.0]), np.array([tilt]), np.array([25.0]))
    np.testing.assert_allclose(rotations_from_euler(*euler_from_rotations(rotation).T), rotation, atol=1e-6)


def test_random_rotations_are_rotations_and_uniform():
    rotations = random_rotations(20000, np.random.default_rng(0))
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    assert np.abs(rotations.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose((rotations**2).mean(axis=0), 1 / 3, atol=0.02)
    trace = np.trace(rotations, axis1=1, axis2=2)  # Haar: the angle θ has density (1 - cos θ) / π
    assert (trace < 1).mean() == pytest.approx(0.5 + 1 / np.pi, abs=0.02)


# --- images: axes, centre, shifts -------------------------------------------------------------------------------------


def painted(points: np.ndarray, sigma: float, side: int, pixel_size: float) -> np.ndarray:
    """Return the image of unit Gaussians at (x, y, z), pixel by pixel: rows are y, columns are x, z is summed over."""
    image = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            x, y = (column - side // 2) * pixel_size, (row - side // 2) * pixel_size
            square = (points[:, 0] - x) ** 2 + (points[:, 1] - y) ** 2
            image[row, column] = np.sum(np.exp(-square / (2 * sigma**2)) / (2 * np.pi * sigma**2))
    return image


def draw(points: np.ndarray, side: int, pixel_size: float = 1.0, sigma: float = 1.5) -> np.ndarray:
    centers = torch.from_numpy(points[None, :, :2].astype(np.float64))
    ones = torch.ones(len(points), dtype=torch.float64)
    return render_dense(centers, ones, sigma**2 * ones, side, pixel_size)[0].numpy()


@pytest.mark.parametrize("side", [24, 25])
def test_projection_along_z(side):
    molecule = np.array([[0, 0, 0], [6, 0, 1], [0, 4, -3], [-2, 3, 5.0]])  # no symmetry, no mirror
    seen = molecule @ relion_matrix(-35.5, 67.25, 132.5).T
    rotations = rotations_from_euler(np.array([-35.5]), np.array([67.25]), np.array([132.5]))
    np.testing.assert_allclose(draw(molecule @ rotations[0].T, side), painted(seen, 1.5, side, 1.0), atol=1e-9)


@pytest.mark.parametrize("side", [24, 25])
def test_centre_pixel_and_axes(side):
    for point, place in [((0, 0), (0, 0)), ((5, 0), (0, 5)), ((0, -3), (-3, 0))]:  # x to columns, y to rows
        image = draw(np.array([[*point, 0.0]]), side)
        peak = np.unravel_index(image.argmax(), image.shape)
        assert (peak[0] - side // 2, peak[1] - side // 2) == place
    np.testing.assert_allclose(
        pixel_coordinates(side, 2.0, dtype=torch.float64).numpy(), 2.0 * (np.arange(side) - side // 2)
    )


@pytest.mark.parametrize("columns", [("rlnOriginXAngst", "rlnOriginYAngst", 1.5), ("rlnOriginX", "rlnOriginY", 1.0)])
@pytest.mark.parametrize("side", [24, 25])
def test_origin_brings_the_particle_to_the_centre(tmp_path, side, columns):
    """RELION shifts an image by its origin, in pixels to the right and down; the particle is then in the centre."""
    x_name, y_name, unit = columns
    write_stack(tmp_path / "a.mrcs", np.zeros((1, side, side)))
    (tmp_path / "p.star").write_text(
        "data_\n\nloop_\n_rlnImageName #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n_rlnAmplitudeContrast #4\n"
        "_rlnDefocusU #5\n_rlnDefocusV #6\n_rlnDefocusAngle #7\n_rlnImagePixelSize #8\n"
        f"_rlnAngleRot #9\n_rlnAngleTilt #10\n_rlnAnglePsi #11\n_{x_name} #12\n_{y_name} #13\n"
        f"1@a.mrcs 300 2.7 0.1 15000 15000 0 1.5 10 20 30 {4 * unit} {-2 * unit}\n"
    )
    poses = read_star_particles(tmp_path / "p.star").poses
    assert poses is not None
    image = draw(np.array([[*poses.shifts[0], 0.0]]), side, pixel_size=1.5)
    centred = np.roll(image, (-2, 4), axis=(0, 1))
    np.testing.assert_allclose(centred, painted(np.zeros((1, 3)), 1.5, side, 1.5), atol=1e-9)


def test_written_origins_have_relion_s_sign(tmp_path):
    write_stack(tmp_path / "a.mrcs", np.zeros((1, 24, 24)))
    header = "data_\nloop_\n_rlnImageName\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnDefocusU\n"
    header += "_rlnDefocusV\n_rlnDefocusAngle\n_rlnImagePixelSize\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n"
    row = "1@a.mrcs 300 2.7 0.1 15000 14000 33 1.5 10 20 30 6.0 -3.0\n"
    (tmp_path / "p.star").write_text(f"{header}_rlnOriginXAngst\n_rlnOriginYAngst\n{row}")
    write_star_particles(tmp_path / "q.star", read_star_particles(tmp_path / "p.star"))
    lines = (tmp_path / "q.star").read_text().splitlines()
    names = [line.split()[0] for line in lines if line.startswith("_")][8:]
    values = next(line.split() for line in lines if "@" in line)
    written = dict(zip(names, values, strict=True))
    expected = {"_rlnOriginXAngst": 6, "_rlnOriginYAngst": -3, "_rlnAngleRot": 10, "_rlnAngleTilt": 20}
    expected |= {"_rlnAnglePsi": 30, "_rlnDefocusU": 15000, "_rlnDefocusV": 14000, "_rlnDefocusAngle": 33}
    assert {name: float(written[name]) for name in expected} == pytest.approx(expected)


# --- Fourier transforms -----------------------------------------------------------------------------------------------


def transform_by_hand(image: np.ndarray, pixel_size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Σ y(q) exp(-2πi k·q), q counted from the centre pixel, at (k_x, k_y) of the half plane."""
    side = len(image)
    position = (np.arange(side) - side // 2) * pixel_size
    number = np.array([n if n <= (side - 1) // 2 else n - side for n in range(side)])
    ky, kx = number / (side * pixel_size), np.arange(side // 2 + 1) / (side * pixel_size)
    wave_y = np.exp(-2j * np.pi * ky[:, None] * position)
    wave_x = np.exp(-2j * np.pi * kx[:, None] * position)
    return wave_y @ image @ wave_x.T, *np.meshgrid(kx, ky)


@pytest.mark.parametrize("side", [10, 11])
def test_transform_about_the_centre_pixel(side):
    image = np.random.default_rng(0).normal(size=(side, side))
    expected, kx, ky = transform_by_hand(image, 1.3)
    found = centered_rfft2(torch.from_numpy(image))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(centered_irfft2(found, side).numpy(), image, atol=1e-12)
    found_kx, found_ky = (k.numpy() for k in frequencies(side, 1.3))
    np.testing.assert_allclose(found_kx, kx, atol=1e-12)
    np.testing.assert_allclose(found_ky, ky, atol=1e-12)


@pytest.mark.parametrize("side", [24, 25])
def test_shift_by_phase(side):
    """exp(-2πi k·t) moves an image by +t: to larger x and y."""
    still, moved = np.array([[1.0, 2.0, 0.0]]), np.array([[4.4, -0.3, 0.0]])
    kx, ky = frequencies(side, 1.0)
    phase = torch.exp(-2j * torch.pi * (3.4 * kx - 2.3 * ky))
    found = centered_irfft2(centered_rfft2(torch.from_numpy(draw(still, side))) * phase, side)
    np.testing.assert_allclose(found.numpy(), draw(moved, side), atol=1e-4)


@pytest.mark.parametrize(("side", "small"), [(24, 12), (25, 15), (24, 15), (25, 12)])
def test_crops_keep_the_centre(side, small):
    image = draw(np.array([[1.0, -2.0, 0.0]]), side)
    cropped = crop_center(torch.from_numpy(image), small).numpy()
    peak = np.unravel_index(cropped.argmax(), cropped.shape)
    assert peak == (small // 2 - 2, small // 2 + 1)


@pytest.mark.parametrize(("side", "small"), [(48, 24), (45, 25), (48, 25), (45, 24)])
def test_cropped_spectrum_is_the_image_on_a_coarser_grid(side, small):
    """A smooth image keeps its physical position and, scaled by the pixel area, its values."""
    points = np.array([[3.0, -5.0, 0.0], [-1.0, 2.0, 0.0]])
    image = torch.from_numpy(draw(points, side, pixel_size=1.0, sigma=2.5))
    found = centered_irfft2(crop_spectrum(centered_rfft2(image), side, small), small) * (small / side) ** 2
    np.testing.assert_allclose(found.numpy(), draw(points, small, pixel_size=side / small, sigma=2.5), atol=2e-4)


# --- the CTF ----------------------------------------------------------------------------------------------------------


def de_broglie(kv: float) -> float:
    """Return the relativistic wavelength in Å from the constants of nature."""
    energy, rest = constants.e * kv * 1e3, constants.m_e * constants.c**2
    return constants.h * constants.c / np.sqrt(energy * (energy + 2 * rest)) * 1e10


@pytest.mark.parametrize(("kv", "angstrom"), [(100.0, 0.03701), (200.0, 0.02508), (300.0, 0.01969)])
def test_wavelength(kv, angstrom):
    found = wavelength(np.array([kv]))[0]
    assert found == pytest.approx(angstrom, abs=6e-6)  # as textbooks print it
    assert found == pytest.approx(de_broglie(kv), rel=1e-7)
    volts = kv * 1e3
    assert found == pytest.approx(12.2639 / np.sqrt(volts + volts**2 * 0.97845e-6), rel=5e-5)  # Prins eq. 11


def half_plane(side: int, pixel_size: float) -> tuple[np.ndarray, np.ndarray]:
    return transform_by_hand(np.zeros((side, side)), pixel_size)[1:]


def supplement(kx, ky, kv, cs_mm, contrast, defocus):
    """Evaluate the paper's supplement, section 1: ξ is an angular frequency and k = 2π/λ."""
    xi = 2 * np.pi * np.hypot(kx, ky)
    k = 2 * np.pi / de_broglie(kv)
    phase = defocus / (2 * k) * xi**2 - cs_mm * 1e7 / (4 * k**3) * xi**4
    return -(np.sqrt(1 - contrast**2) * np.sin(phase) + contrast * np.cos(phase))


def prins(kx, ky, lam, cs_mm, contrast, f1, f2, angle):
    """Evaluate Prins et al., appendix D, equations 7 to 10."""
    g2 = kx**2 + ky**2
    f = 0.5 * (f1 + f2 + (f1 - f2) * np.cos(2 * (np.arctan2(ky, kx) - angle)))
    inner = np.pi * lam * g2 * (f - 0.5 * lam**2 * g2 * cs_mm * 1e7)
    return -np.sin(inner + np.arctan(contrast / np.sqrt(1 - contrast**2)))


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("defocus", [5000.0, 20000.0, -8000.0])
def test_ctf_of_the_supplement(side, defocus):
    kx, ky = half_plane(side, 1.1)
    expected = supplement(kx, ky, 300.0, 2.7, 0.06, defocus)
    np.testing.assert_allclose(ctf(optics(contrast=0.06, u=defocus), side, 1.1)[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("side", [32, 33])
def test_ctf_of_prins(side):
    kx, ky = half_plane(side, 1.1)
    found = ctf(optics(kv=200.0, cs=1.4, contrast=0.1, u=21000.0, v=19000.0, angle_deg=25.0), side, 1.1)[0].numpy()
    arguments = (1.4, 0.1, 21000.0, 19000.0, np.deg2rad(25.0))
    np.testing.assert_allclose(found, prins(kx, ky, de_broglie(200.0), *arguments), atol=1e-5)
    volts = 2e5
    rounded = 12.2639 / np.sqrt(volts + volts**2 * 0.97845e-6)  # the constants as printed there
    np.testing.assert_allclose(found, prins(kx, ky, rounded, *arguments), atol=2e-2)


def test_both_papers_agree():
    kx, ky = half_plane(64, 1.0)
    one = supplement(kx, ky, 300.0, 2.7, 0.06, 2e4)
    np.testing.assert_allclose(prins(kx, ky, de_broglie(300.0), 2.7, 0.06, 2e4, 2e4, 0.0), one, atol=1e-5)


def test_underfocus_is_dark():
    """The CTF starts at minus the amplitude contrast and falls; a particle is darker than what is around it."""
    transfer = ctf(optics(u=20000.0, contrast=0.07), 64, 2.0)[0]
    assert transfer[0, 0] == pytest.approx(-0.07)
    assert (transfer[0, :4].diff() < 0).all() and (transfer[:2, :4] < 0).all()
    overfocus = ctf(optics(u=-20000.0, contrast=0.0), 64, 2.0)[0]
    assert (overfocus[0, 1:4] > 0).all()
    centre = torch.zeros(1, 1, 2, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    image = simulate_images(centre, one, 9 * one, optics(u=20000.0), 65, 2.0)[0]
    assert image[32, 32] == image.min() < -5 * image.median().abs()


def test_first_zero():
    """Without aberration or amplitude contrast, sin(π λ Δz k²) vanishes at k = 1 / sqrt(λ Δz)."""
    side, defocus = 64, 1e4
    zero = 1 / np.sqrt(de_broglie(300.0) * defocus)
    pixel_size = 10 / (side * zero)  # so that it lies at the tenth frequency
    line = ctf(optics(cs=0.0, contrast=0.0, u=defocus), side, pixel_size)[0, 0]
    assert line[10] == pytest.approx(0, abs=1e-5) and (line[1:10] < 0).all() and (line[11:14] > 0).all()


@pytest.mark.parametrize("angle", [0.0, np.rad2deg(np.arctan(0.5)), 90.0, 135.0])
def test_defocus_u_lies_along_its_angle(angle):
    """In the direction (cos, sin) of the angle, x first, the beam has defocus U, and across it V."""
    side, pixel_size = 64, 1.5
    found = ctf(optics(u=22000.0, v=14000.0, angle_deg=angle), side, pixel_size)[0].numpy()
    kx, ky = half_plane(side, pixel_size)
    direction = np.rad2deg(np.arctan2(ky, kx))
    for defocus, along in [(22000.0, angle), (14000.0, angle + 90)]:
        on_line = np.abs((direction - along + 90) % 180 - 90) < 1e-6
        on_line[0, 0] = False
        assert on_line.sum() > 3
        expected = supplement(kx, ky, 300.0, 2.7, 0.07, defocus)
        np.testing.assert_allclose(found[on_line], expected[on_line], atol=1e-5)


def test_phase_shift_adds_to_the_phase():
    found = ctf(optics(cs=0.0, contrast=0.0, u=1e4, phase_deg=90.0), 32, 1.5)[0].numpy()
    kx, ky = half_plane(32, 1.5)
    np.testing.assert_allclose(found, -np.cos(np.pi * de_broglie(300.0) * 1e4 * (kx**2 + ky**2)), atol=1e-5)
    assert found[0, 0] == pytest.approx(-1)  # a phase plate gives contrast at the lowest frequencies


def test_convolution_about_the_centre():
    """The CTF does not move a particle: it spreads it evenly about its place."""
    for side in (48, 49):
        centers = torch.tensor([[[6.0, -4.0]]], dtype=torch.float64)
        one = torch.ones(1, dtype=torch.float64)
        image = simulate_images(centers, one, 4 * one, optics(u=5000.0), side, 2.0, padding=24)[0]
        row, column = side // 2 - 2, side // 2 + 3
        assert (image == image.min()).nonzero().tolist() == [[row, column]]
        window = image[row - 15 : row + 16, column - 15 : column + 16]
        torch.testing.assert_close(window, window.flip(0, 1), atol=1e-6, rtol=0)
