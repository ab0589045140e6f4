import pickle

import numpy as np
import pytest
from particle_data import make_exact_particles, write_cryodrgn, write_stack

from cryoatom.particles.stack import ImageStack
from cryoatom.particles.table import read_particles

POSES, CTF = "pose.pkl", "ctf.pkl"


@pytest.fixture
def folder(tmp_path):
    """One stack of 4 images of 16 pixels, with pose.pkl and ctf.pkl."""
    write_cryodrgn(tmp_path, make_exact_particles(tmp_path, (4,)))
    return tmp_path


def read(folder, **options):
    return read_particles(folder / "stack0.mrcs", **{"poses": folder / POSES, "ctf": folder / CTF} | options)


def change(folder, name, edit):
    content = pickle.loads((folder / name).read_bytes())
    edited = edit(content)
    (folder / name).write_bytes(pickle.dumps(content if edited is None else edited))


def set_column(column, value, rows=slice(None)):
    def edit(ctf):
        ctf[rows, column] = value

    return edit


def test_poses_and_ctf_by_hand(folder):
    """cryoDRGN's R of (rot, tilt, psi) = (90, 0, 0), and a translation that moves the image by 1/8 and -1/4 box."""
    rotation = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    change(folder, POSES, lambda _: (np.stack([rotation] * 4), np.array([[0.125, -0.25]] * 4)))
    change(folder, CTF, lambda _: np.array([[16, 1.5, 15000, 14000, 30, 300, 2.7, 0.1, 90.0]] * 4))
    found = read(folder)
    np.testing.assert_allclose(found.poses.rotations[0] @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    assert found.poses.shifts[0].tolist() == [-3, 6] and found.pixel_size == 1.5
    expected = [300, 2.7, 0.1, 15000, 14000, np.pi / 6, np.pi / 2]
    np.testing.assert_allclose(found.optics.as_array()[0], expected, rtol=1e-7)


def test_rotations_alone(folder, caplog):
    expected = read(folder)
    for wrap in (lambda poses: poses[0], lambda poses: (poses[0],), lambda poses: [poses[0]]):
        change(folder, POSES, wrap)
        found = read(folder)
        np.testing.assert_array_equal(found.poses.rotations, expected.poses.rotations)
        assert not found.poses.shifts.any() and "no shifts" in caplog.text
        write_cryodrgn(folder, make_exact_particles(folder, (4,)))


def mirrored(poses):
    poses[0][1:3] *= np.array([1.0, 1, -1])


def stretched(poses):
    poses[0][2] *= 1.01


def in_pixels(poses):
    poses[1][:] = [-3.0, 2.0]


def not_a_number(poses):
    poses[1][2, 0] = np.nan


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            mirrored,
            r"pose\.pkl: .*a reflection \(determinant -1\) for row 1 \(from 0\) and 1 more: were the poses mirr",
        ),
        (stretched, r"pose\.pkl: expected rotation matrices, found one whose rows are off by 0\.02\d+ .* row 2"),
        (in_pixels, r"4 particles lie outside their images.*fractions of the box"),
        (not_a_number, r"pose\.pkl: expected finite numbers, found the shift \[nan, .*row 2"),
        (
            lambda poses: (poses[0][:, :2], poses[1]),
            r"expected arrays of shapes .* found a tuple of 2: an array of shape",
        ),
        (lambda poses: (poses[0], np.zeros((4, 3))), r"expected arrays of shapes \(n, 3, 3\) and \(n, 2\)"),
        (lambda poses: (poses[0], poses[1][:2]), r"expected arrays of shapes"),
        (lambda poses: (*poses, poses[0]), r"expected \(rotations, shifts\)"),
        (lambda poses: 3, r"expected \(rotations, shifts\) of cryoDRGN's pose\.pkl, found 3"),
        (lambda poses: {"rot": poses[0]}, r"it holds a dict"),
    ],
)
def test_wrong_poses(folder, edit, message):
    change(folder, POSES, edit)
    with pytest.raises(ValueError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_column(1, 3.05, slice(2, None)), r"ctf\.pkl mixes pixel sizes: 1\.0609 Å \(2 particles\); 3\.05 Å \(2"),
        (set_column(0, 32, 1), r"ctf\.pkl mixes box sizes: 16 pixels \(3 particles\); 32 pixels \(1 particles\)"),
        (set_column(7, np.nan, 1), r"no amplitude contrast \(column 8.*\) for 1 of 4 particles: .*--amp-contrast"),
        (set_column(2, np.nan, 1), r"expected column 3 \(defocus U, Å\) finite numbers, found nan in row 1"),
        (set_column(5, 3e5), r"column 6 \(voltage, kV\) between 10 and 3000"),
        (set_column(8, np.inf), r"column 9 \(phase shift, degrees\) finite"),
        (set_column(1, np.nan), r"expected positive pixel sizes"),
        (
            lambda ctf: ctf[:, :8],
            r"expected cryoDRGN's ctf\.pkl, an array of shape \(n, 9\), found an array of shape \(4, 8",
        ),
        (lambda ctf: list(ctf), r"found a list of 4"),
    ],
)
def test_wrong_ctf(folder, edit, message):
    change(folder, CTF, edit)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_absent_phase_shift_and_contrast(folder, caplog):
    caplog.set_level("INFO")
    change(folder, CTF, set_column(8, np.nan))
    change(folder, CTF, set_column(7, np.nan, 2))
    found = read(folder, amplitude_contrast=0.1)
    assert not found.optics.phase_shift.any() and "no phase shift for 4 particles" in caplog.text
    assert found.optics.amplitude_contrast.tolist() == [float(np.float32(0.1))] * 4
    assert "an amplitude contrast of 0.07; 0.1 is taken" in caplog.text


def test_a_ctf_of_the_images_before_downsampling(folder, caplog):
    expected = read(folder)
    change(folder, CTF, set_column(0, 64))
    change(folder, CTF, set_column(1, float(np.float32(1.0609)) / 4))
    found = read(folder)
    assert found.pixel_size == pytest.approx(1.0609) and found.poses is not None
    np.testing.assert_allclose(found.poses.shifts, expected.poses.shifts, rtol=1e-6)
    assert "taken as downsampled" in caplog.text


def test_a_stack_alone_says_what_it_needs(folder):
    with pytest.raises(ValueError, match=r"stack0\.mrcs has images and no CTF parameters: .*--ctf"):
        read(folder, ctf=None)
    assert read(folder, poses=None).poses is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing"),
        ("stack0.mrcs\nparticles.star\n", r"one a line, found 'particles\.star'"),
        ("stack0.mrcs\n stack0.mrcs\n", r"lists stack0\.mrcs more than once"),
    ],
)
def test_lists_of_stacks(folder, text, message):
    (folder / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"list\.txt.*{message}"):
        read_particles(folder / "list.txt", ctf=folder / CTF)
    (folder / "list.txt").write_text("stack0.mrcs\nnone.mrcs")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 image stacks of .*none\.mrcs"):
        read_particles(folder / "list.txt", ctf=folder / CTF)
    (folder / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"is no text file"):
        read_particles(folder / "list.txt", ctf=folder / CTF)


def test_a_list_s_stacks_are_relative_to_datadir(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "list.txt").write_text("stack0.mrcs\n")
    found = read_particles(elsewhere / "list.txt", datadir=folder, ctf=folder / CTF, ind=np.array([3, 1]))
    assert found.image_names.tolist() == ["000004@stack0.mrcs", "000002@stack0.mrcs"]
    assert found.stacks == ((folder / "stack0.mrcs").resolve(),)


def test_boxes_of_a_list_are_compared(folder):
    write_stack(folder / "small.mrcs", np.zeros((4, 12, 12)))
    (folder / "list.txt").write_text("stack0.mrcs\nsmall.mrcs")
    change(folder, CTF, lambda ctf: np.concatenate([ctf, ctf]))
    with pytest.raises(ValueError, match=r"small\.mrcs has a box of 12 pixels, expected 16"):
        read_particles(folder / "list.txt", ctf=folder / CTF)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "i1", ">i2", ">f4", "<u2"])
def test_pixels_of_any_kind(folder, dtype):
    """MRC modes 12 (half precision), 0 (signed bytes), 1, 2 and 6, of either byte order."""
    images = np.random.default_rng(0).integers(-100 if dtype != "<u2" else 0, 100, (4, 16, 16))
    mode = {"f2": 12, "i1": 0, "i2": 1, "f4": 2, "u2": 6}[dtype[-2:]]
    header = bytearray((folder / "stack0.mrcs").read_bytes()[:1024])
    words = np.frombuffer(bytes(header), "<i4").copy()
    words[3] = mode
    header = words.astype(">i4" if dtype[0] == ">" else "<i4").tobytes()
    (folder / "stack0.mrcs").write_bytes(header + images.astype(dtype).tobytes())
    found = ImageStack(read(folder)).read(np.arange(4))
    np.testing.assert_array_equal(found.numpy(), images)
