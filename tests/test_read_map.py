import struct

import mrcfile
import numpy as np
import pytest

from cryoatom.files.mrc import read_map

TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def values(box: int = 8) -> np.ndarray:
    """Return small integers, which every mode holds."""
    return np.random.default_rng(0).integers(0, 100, (box, box, box)).astype(np.float32)


def pack(content, mode=2, order="<", *, axes=(1, 2, 3), start=(0, 0, 0), origin=(0, 0, 0), cell=None, samples=None):
    """Pack a map by the byte offsets of the MRC2014 table."""
    header = bytearray(1024)
    sections, rows, columns = content.shape
    samples = samples or (columns, rows, sections)
    cell = cell or tuple(1.5 * n for n in samples)
    struct.pack_into(order + "7i", header, 0, columns, rows, sections, mode, *start)
    struct.pack_into(order + "3i6f", header, 28, *samples, *cell, 90, 90, 90)
    struct.pack_into(order + "3i", header, 64, *axes)
    struct.pack_into(order + "3f", header, 196, *origin)
    header[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    return bytes(header) + content.astype(order + TYPES.get(mode, "f4")).tobytes()


def write(path, *arguments, **fields):
    path.write_bytes(pack(*arguments, **fields))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", TYPES)
def test_every_mode_and_byte_order(tmp_path, mode, order):
    found = read_map(write(tmp_path / "m.mrc", values(), mode, order))
    np.testing.assert_array_equal(found.values, values())
    assert found.values.dtype == np.float32 and found.pixel_size == pytest.approx(1.5)
    np.testing.assert_array_equal(found.header_center, 0)


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (3, 1, 2), (2, 3, 1)])
def test_axes_come_as_z_y_x(tmp_path, axes):
    """The column axis is that of `mapc`: 1 is x."""
    zyx = values()
    names = {1: 2, 2: 1, 3: 0}  # where x, y, z are in [z, y, x]
    stored = zyx.transpose([names[axis] for axis in reversed(axes)])
    start = tuple((10, 20, 30)[axis - 1] for axis in axes)  # of columns, rows, sections
    found = read_map(write(tmp_path / "m.map", stored, axes=axes, start=start))
    np.testing.assert_array_equal(found.values, zyx)
    np.testing.assert_allclose(found.header_center, 1.5 * np.array([14, 24, 34]))


def test_maps_of_mrcfile_are_read(tmp_path):
    with mrcfile.new(tmp_path / "m.mrc") as file:
        file.set_data(values())
        file.voxel_size = 2.2
    found = read_map(tmp_path / "m.mrc")
    np.testing.assert_array_equal(found.values, values())
    assert found.pixel_size == pytest.approx(2.2)


def test_where_the_header_puts_the_centre(tmp_path):
    centred = write(tmp_path / "a.mrc", values(), origin=(-6.0, -6.0, -6.0))
    np.testing.assert_allclose(read_map(centred).header_center, 0)
    cut = write(tmp_path / "b.mrc", values(), origin=(1.5, 0, 0))
    np.testing.assert_allclose(read_map(cut).header_center, [7.5, 6, 6])


def test_the_cell_may_be_larger_than_the_map(tmp_path):
    assert read_map(write(tmp_path / "m.mrc", values(), samples=(16, 16, 16))).pixel_size == pytest.approx(1.5)


def half_empty():
    content = values()
    content[:, 4:] = 0
    return content


def with_nan():
    content = values()
    content[1, 2, 3] = np.nan
    return content


@pytest.mark.parametrize(
    ("content", "fields", "text"),
    [
        (values()[:5], {}, "8 x 8 x 5 voxels"),
        (values(), {"cell": (12.0, 12.0, 15.0)}, "cubic"),
        (values(), {"cell": (0.0, 0.0, 0.0)}, "voxel size"),
        (values(), {"axes": (1, 1, 3)}, "axes"),
        (values() * 0, {}, "constant"),
        (half_empty(), {}, "one half of the map along y"),
        (with_nan(), {}, "finite"),
        (values(), {"mode": 4}, "mode 4"),
    ],
)
def test_damaged_maps_are_one_clear_error(tmp_path, content, fields, text):
    path = write(tmp_path / "m.mrc", content, **fields)
    with pytest.raises(ValueError, match=text) as caught:
        read_map(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_and_missing_maps(tmp_path):
    path = tmp_path / "m.mrc"
    path.write_bytes(pack(values())[:-100])
    with pytest.raises(ValueError, match="truncated"):
        read_map(path)
    with pytest.raises(FileNotFoundError, match="no map"):
        read_map(tmp_path / "none.mrc")
