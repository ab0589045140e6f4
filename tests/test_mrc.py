import os
import pickle
import struct
import warnings

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoatom.files.mrc import StackWriter, open_stack

PIXELS = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def raw_mrc(images, mode, order="<", *, extended=0, pixel_size=1.5, spare=b"", stamp=None):
    """Pack an MRC file by the byte offsets of the MRC2014 table, independently of the package."""
    header = bytearray(1024)
    count, height, width = images.shape
    struct.pack_into(order + "4i", header, 0, width, height, count, mode)
    struct.pack_into(order + "3i3f", header, 28, width, height, 1, width * pixel_size, height * pixel_size, pixel_size)
    struct.pack_into(order + "3i", header, 64, 1, 2, 3)
    struct.pack_into(order + "2i", header, 88, 0, extended)
    header[152 : 152 + len(spare)] = spare
    header[208:216] = b"MAP " + (stamp or (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0"))
    pixels = images.astype(np.dtype(PIXELS.get(mode, "f4")).newbyteorder(order))
    return bytes(header) + b"\xff" * extended + pixels.tobytes()


def sample(mode, count=6, box=8):
    generator = np.random.default_rng(mode)
    if mode in (2, 12):
        return generator.normal(size=(count, box, box)).astype(PIXELS[mode]).astype(np.float32)
    limits = np.iinfo(PIXELS[mode])
    return generator.integers(limits.min, limits.max + 1, (count, box, box)).astype(np.float32)


@pytest.mark.parametrize("extended", [0, 160])
@pytest.mark.parametrize("box", [7, 8])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", PIXELS)
def test_modes_and_byte_orders(tmp_path, mode, order, box, extended):
    images = sample(mode, box=box)
    path = tmp_path / "a.mrcs"
    path.write_bytes(raw_mrc(images, mode, order, extended=extended))
    stack = open_stack(path)
    assert (len(stack), stack.count, stack.box, stack.pixel_size) == (6, 6, box, 1.5)
    found = stack.read(np.array([4, 0, 5]))
    assert found.dtype == np.float32 and found.dtype.isnative
    np.testing.assert_array_equal(found, images[[4, 0, 5]])


@pytest.mark.parametrize("mode", PIXELS)
def test_agrees_with_mrcfile(tmp_path, mode):
    images = sample(mode)
    with mrcfile.new(tmp_path / "a.mrcs", images.astype(PIXELS[mode])) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = 2.25
        mrc.set_extended_header(np.zeros(96, np.uint8).view("V1"))
    stack = open_stack(tmp_path / "a.mrcs")
    np.testing.assert_array_equal(stack.read(np.arange(6)), images)
    assert stack.pixel_size == pytest.approx(2.25)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("flags", "is_signed"), [(0, False), (1, True), (2, False), (3, True)])
def test_imod_bytes_are_unsigned_unless_flagged(tmp_path, order, flags, is_signed):
    images = sample(0)
    stamp = struct.pack(order + "2i", 1146047817, flags)
    (tmp_path / "a.mrcs").write_bytes(raw_mrc(images, 0, order, spare=stamp))
    expected = images if is_signed else images % 256
    np.testing.assert_array_equal(open_stack(tmp_path / "a.mrcs").read(np.arange(6)), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_wrong_machine_stamp(tmp_path, order):
    images = sample(2)
    stamp = b"\x11\x11\0\0" if order == "<" else b"\x44\x44\0\0"
    (tmp_path / "a.mrcs").write_bytes(raw_mrc(images, 2, order, stamp=stamp))
    np.testing.assert_array_equal(open_stack(tmp_path / "a.mrcs").read(np.arange(6)), images)


@pytest.fixture(scope="module")
def long_stack(tmp_path_factory):
    images = np.random.default_rng(0).normal(size=(30, 5, 5)).astype(np.float32)
    path = tmp_path_factory.mktemp("stack") / "long.mrcs"
    path.write_bytes(raw_mrc(images, 2, ">"))
    return open_stack(path), images


@given(st.lists(st.integers(0, 29), max_size=40))
def test_any_order_with_repeats(long_stack, wanted):
    stack, images = long_stack
    indices = np.array(wanted, dtype=np.int64)
    np.testing.assert_array_equal(stack.read(indices), images[indices])


def test_neighbours_are_read_in_one_piece(long_stack, monkeypatch):
    stack, images = long_stack
    spans, preadv = [], os.preadv

    def spy(descriptor, buffers, offset):
        if offset:  # not the header
            spans.append(((offset - 1024) // 100, (offset - 1024 + len(buffers[0])) // 100))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", spy)
    order = np.random.default_rng(1).permutation(np.r_[3:9, 20:25, 29])
    np.testing.assert_array_equal(stack.read(order), images[order])
    assert spans == [(3, 9), (20, 25), (29, 30)]


def test_stack_travels_to_other_processes(long_stack):
    stack, images = long_stack
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stack)).read(np.array([7])), images[[7]])


@pytest.mark.parametrize("wrong", [-1, 30])
def test_sections_that_are_not_there(long_stack, wrong):
    with pytest.raises(ValueError, match=f"images 0 to 29, asked for {wrong}"):
        long_stack[0].read(np.array([2, wrong]))


def test_truncated(tmp_path):
    content = raw_mrc(sample(2), 2)
    assert len(content) == 1024 + 6 * 8 * 8 * 4
    (tmp_path / "a.mrcs").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"a\.mrcs is truncated.*6 images.*in 2560 bytes, found 2559 bytes"):
        open_stack(tmp_path / "a.mrcs")
    (tmp_path / "a.mrcs").write_bytes(content[:1000])
    with pytest.raises(ValueError, match="header of 1024 bytes, found 1000 bytes"):
        open_stack(tmp_path / "a.mrcs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (raw_mrc(np.zeros((2, 8, 6)), 2), "expected a stack of square images, found 2 images of 6 x 8 pixels"),
        (raw_mrc(np.zeros((0, 8, 8)), 2), "found 0 images"),
        (raw_mrc(np.zeros((2, 8, 8)), 4), "MRC mode 4, expected one of 0, 1, 2, 6, 12"),
        (raw_mrc(np.zeros((2, 8, 8)), 2, extended=0)[:92] + b"\xff" * 4000, "a damaged header"),
        (b"data_particles\n" * 100, "is no MRC file"),
        (b"", "is no MRC file"),
    ],
)
def test_files_that_are_not_stacks(tmp_path, content, message):
    (tmp_path / "a.mrcs").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_stack(tmp_path / "a.mrcs")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image stack .*a\.mrcs"):
        open_stack(tmp_path / "a.mrcs")


def test_header_without_pixel_size(tmp_path):
    (tmp_path / "a.mrcs").write_bytes(raw_mrc(sample(2), 2, pixel_size=0))
    assert open_stack(tmp_path / "a.mrcs").pixel_size == 0


@pytest.mark.parametrize("box", [7, 8])
@pytest.mark.parametrize(("mode", "dtype", "offset"), [(2, np.float32, 1000), (12, np.float16, 9)])
def test_writer_is_read_by_mrcfile(tmp_path, mode, dtype, offset, box):
    images = np.random.default_rng(0).normal(offset, 3, (11, box, box)).astype(np.float32)
    path = tmp_path / "out.mrcs"
    with StackWriter(path, box, 1.25, mode=mode) as stack:
        for part in np.split(images, [4, 4, 5]):
            stack.write(part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        assert mrc.is_image_stack() and mrc.data.dtype == dtype
        np.testing.assert_array_equal(mrc.data, images.astype(dtype))
        stored = images.astype(dtype).astype(np.float64)
        assert float(mrc.header.dmin) == stored.min() and float(mrc.header.dmax) == stored.max()
        assert float(mrc.header.dmean) == pytest.approx(stored.mean(), rel=1e-6)
        assert float(mrc.header.rms) == pytest.approx(stored.std(), rel=1e-5)
        assert float(mrc.voxel_size.x) == float(mrc.voxel_size.y) == pytest.approx(1.25)
    np.testing.assert_array_equal(open_stack(path).read(np.arange(11)), images.astype(dtype))
    assert list(tmp_path.iterdir()) == [path]


def test_pieces_make_no_difference(tmp_path):
    images = np.random.default_rng(0).normal(1e-6, 1, (20, 9, 9)).astype(np.float32)
    for name, pieces in [("a", [images]), ("b", np.split(images, [1, 8, 9])), ("c", images[:, None])]:
        with StackWriter(tmp_path / name, 9, 1.0) as stack:
            for piece in pieces:
                stack.write(piece)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("given_count", [0, 2, 4])
def test_writer_counts(tmp_path, given_count):
    with pytest.raises(ValueError, match=f"expected 3 images, were given {given_count}"):
        with StackWriter(tmp_path / "out.mrcs", 4, 1.0, 3) as stack:
            stack.write(np.zeros((given_count, 4, 4), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_writer_without_images(tmp_path):
    with (
        pytest.raises(ValueError, match="expected some images, were given 0"),
        StackWriter(tmp_path / "a.mrcs", 4, 1.0),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "out.mrcs"
    path.write_text("precious")
    with pytest.raises(RuntimeError, match="interrupted"), StackWriter(path, 4, 1.0) as stack:
        stack.write(np.zeros((2, 4, 4), np.float32))
        raise RuntimeError("interrupted")
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("mode", "value"), [(2, np.nan), (2, -np.inf), (12, 1e5)])
def test_writer_refuses_pixels_that_are_not_finite(tmp_path, mode, value):
    images = np.zeros((5, 4, 4), np.float32)
    images[3, 1, 2] = value
    with (
        pytest.raises(ValueError, match=r"image 5 \(from 0\)"),
        StackWriter(tmp_path / "a.mrcs", 4, 1.0, mode=mode) as s,
    ):
        s.write(images[:2])
        s.write(images)
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_other_sizes_and_modes(tmp_path):
    with pytest.raises(ValueError, match="side 4, were given"), StackWriter(tmp_path / "a.mrcs", 4, 1.0) as stack:
        stack.write(np.zeros((2, 5, 5), np.float32))
    with pytest.raises(ValueError, match="cannot write MRC mode 1"):
        StackWriter(tmp_path / "a.mrcs", 4, 1.0, mode=1)
    with pytest.raises(FileNotFoundError, match="does not exist"), StackWriter(tmp_path / "no/a.mrcs", 4, 1.0):
        pass
