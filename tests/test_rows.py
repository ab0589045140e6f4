import pickle
from pathlib import Path

import numpy as np
import pytest

from cryoatom.files.rows import check_rows, read_rows


def test_all_formats_keep_the_order(tmp_path):
    np.save(tmp_path / "a.npy", np.array([7, 0, 3], dtype=np.uint16))
    (tmp_path / "a.txt").write_text("7\n0 3\n")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.array([7, 0, 3])))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([7, 0, 3]))
    for name in ("a.npy", "a.txt", "a.pkl", "b.pkl"):
        rows = read_rows(tmp_path / name)
        assert rows.dtype == np.int64 and rows.tolist() == [7, 0, 3]


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((3, 1), int), np.array([True]), np.array([{}])])
def test_arrays_that_are_not_rows(tmp_path, array):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=r"cannot read rows from .*a\.npy"):
        read_rows(tmp_path / "a.npy")


def test_masks_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([True, False, True]))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.array([True, False, True])))
    for name in ("a.npy", "a.pkl"):
        with pytest.raises(ValueError, match=rf"{name}: .* a mask of 3 booleans: numpy\.flatnonzero makes them"):
            read_rows(tmp_path / name)


def test_files_that_are_not_rows(tmp_path):
    (tmp_path / "a.txt").write_text("1 2.5")
    with pytest.raises(ValueError, match=r"a\.txt.*2\.5"):
        read_rows(tmp_path / "a.txt")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"expected a \.npy, \.txt or \.pkl file, found '\.csv'"):
        read_rows(tmp_path / "a.csv")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Path("a")))
    with pytest.raises(ValueError, match=r"a\.pkl.*pathlib.* forbidden"):
        read_rows(tmp_path / "a.pkl")
    with pytest.raises(FileNotFoundError, match=r"b\.npy"):
        read_rows(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows of p.star"),
        ([0, 5, 6], "row 5 is selected, and 1 more, that is not in p.star, which has rows 0 to 4"),
        ([0, -1], "row -1 is selected"),
        ([3, 0, 3], "row 3 of p.star is selected more than once"),
    ],
)
def test_rows_that_the_file_does_not_have(rows, message):
    with pytest.raises(ValueError, match=message):
        check_rows(np.array(rows, dtype=np.int64), 5, Path("p.star"))


def test_all_rows_in_any_order():
    check_rows(np.array([4, 0, 1, 3, 2]), 5, Path("p.star"))


def test_a_number_beyond_all_rows_is_one_clear_error(tmp_path):
    (tmp_path / "rows.txt").write_text("1 99999999999999999999\n")
    with pytest.raises(ValueError, match="cannot read rows from .*one of 20 digits"):
        read_rows(tmp_path / "rows.txt")
