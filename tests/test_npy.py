import resource
import signal

import numpy as np
import pytest

from cryoatom.files.npy import npy_writer


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_array_written_in_pieces_is_the_array(tmp_path, dtype):
    array = np.random.default_rng(0).normal(size=(11, 4, 3))
    with npy_writer(tmp_path / "a.npy", array.shape, dtype) as write:
        for start in range(0, 11, 4):
            write(array[start : start + 4])
        assert not (tmp_path / "a.npy").exists()
    for mode in (None, "r"):
        found = np.load(tmp_path / "a.npy", mmap_mode=mode)
        np.testing.assert_array_equal(found, array.astype(dtype))
        assert found.dtype == dtype


def test_rows_of_any_memory_order_and_arrays_without_rows(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 1, 0)
    with npy_writer(tmp_path / "a.npy", (4, 3, 2)) as write:
        write(array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    with npy_writer(tmp_path / "b.npy", (0, 3)):
        pass
    assert np.load(tmp_path / "b.npy").shape == (0, 3)


def test_too_few_rows_or_rows_of_another_shape_are_an_error_and_leave_the_old_file(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(2))
    with (
        pytest.raises(ValueError, match="expected 5 rows, were given 4"),
        npy_writer(tmp_path / "a.npy", (5, 2)) as write,
    ):
        write(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"expected rows of shape \(2,\), were given \(3,\)"):
        with npy_writer(tmp_path / "a.npy", (5, 2)) as write:
            write(np.zeros((5, 3)))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_full_disk_raises_and_leaves_nothing(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"), npy_writer(tmp_path / "a.npy", (100, 1000)) as write:
            for _ in range(100):
                write(np.zeros((1, 1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
