import importlib
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoatom.files.pickles import read_numpy_pickle

ARRAYS = [
    np.random.default_rng(0).normal(size=(4, 3, 3)),
    np.asfortranarray(np.arange(12, dtype=np.int32).reshape(3, 4)),
    np.arange(5, dtype=">f4"),
    np.array([True, False]),
    np.float32(1.5),
    np.array(7),
    np.arange(20)[::3],
]


def same(found, expected) -> bool:
    if isinstance(expected, tuple | list):
        pairs = zip(found, expected, strict=True)
        return type(found) is type(expected) and all(same(*pair) for pair in pairs)
    return np.array_equal(found, expected) and np.asarray(found).dtype == np.asarray(expected).dtype


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [*ARRAYS, tuple(ARRAYS), ARRAYS, [1, 2.5, True, (3,)]], ids=lambda _: "")
def test_numbers_come_back(tmp_path, content, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    assert same(read_numpy_pickle(tmp_path / "a.pkl"), content)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_names_of_numpy_1_are_known(tmp_path, protocol):
    data = pickle.dumps(ARRAYS[0], protocol)
    if protocol < 4:
        data = data.replace(b"numpy._core", b"numpy.core")
    else:  # a string with its length
        data = data.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric").replace(b"\x95", b"\x95", 1)
        start = data.index(b"\x95")
        data = data[:start] + data[start + 9 :]  # the frame, whose length is now another
    assert b"numpy.core" in data
    (tmp_path / "a.pkl").write_bytes(data)
    assert same(read_numpy_pickle(tmp_path / "a.pkl"), ARRAYS[0])


def test_python_2(tmp_path):
    """As Python 2 wrote numpy.array([1.0, 2.0]): bytes are its plain strings."""
    raw = np.array([1.0, 2.0]).tobytes()
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x10" + raw + b"tb."
    )
    (tmp_path / "a.pkl").write_bytes(data)
    assert same(read_numpy_pickle(tmp_path / "a.pkl"), np.array([1.0, 2.0]))


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.mkdir, os.system, eval, exec, open, getattr, importlib.import_module])
def test_nothing_is_executed(tmp_path, function, protocol):
    target = tmp_path / "made"
    argument = {
        os.system: f"touch {target}",
        eval: f"open({str(target)!r}, 'w')",
        exec: f"open({str(target)!r}, 'w')",
    }.get(function, str(target))
    arguments = (argument, "w") if function in (open, getattr) else (argument,)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([np.zeros(2), Call(function, *arguments)], protocol))
    with pytest.raises(ValueError, match=rf"a\.pkl: .*\.{function.__name__}, which is forbidden"):
        read_numpy_pickle(tmp_path / "a.pkl")
    assert not target.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy\nf2py.subprocess.os.system\n(S'touch made'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        b"cnumpy.core.multiarray\n_reconstruct\n(dS'a'\nI1\nsb.",  # changes a function
        b"cnumpy\nndarray\n(dS'numpy'\nI1\nsb.",
        b"cbuiltins\nobject\n.",
        b"\x82\x01.",  # extension registry
        b"Pname\n.",  # persistent object
        b"(lp0\ng0\na.",  # a list that holds itself
        b"c_codecs\nencode\n(Vabc\nVzip\ntR.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # remembers a list as number 2 thousand million: 32 GB
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00.",  # bytes that are not there
    ],
)
def test_crafted_pickles(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot read .*a\.pkl"):
        read_numpy_pickle(tmp_path / "a.pkl")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([{}, 1], dtype=object), r"'\|O8', which are no numbers"),
        (np.array(["a"]), "no numbers"),
        (np.zeros(2, [("a", "f4")]), "no numbers"),
        ({"rot": np.zeros(3)}, "it holds a dict"),
        ("text", "it holds a str"),
        (None, "it holds a NoneType"),
        (OrderedDict(), "collections.OrderedDict, which is forbidden"),
        (Path("a"), "which is forbidden"),
        (np.ma.array([1.0]), "_mareconstruct, which is forbidden"),
        ([[[[[[[[[[1]]]]]]]]]], "nested more than 8 deep"),
    ],
    ids=lambda _: "",
)
def test_other_content(tmp_path, content, message):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_numpy_pickle(tmp_path / "a.pkl")


def test_lists_that_hold_one_another_many_times(tmp_path):
    content = [1] * 100
    for _ in range(7):
        content = [content] * 100
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    found = read_numpy_pickle(tmp_path / "a.pkl")
    assert len(found) == 100 and found[0] is found[99]


def test_a_type_that_unfolds_is_not_spelt_out(tmp_path):
    """Lists that hold one another make few bytes a text of any length."""
    bomb: list = [1] * 10
    for _ in range(8):
        bomb = [bomb] * 10
    kind = pickle.dumps(np.zeros(2), 4)
    assert b"\x8c\x01<" in kind
    listed = pickle.dumps(bomb, 4)
    framed = listed[listed.index(b"]") : -1]  # without protocol, frame and stop
    (tmp_path / "a.pkl").write_bytes(kind[:2] + kind[11:].replace(b"\x8c\x01<", framed, 1))
    with pytest.raises(ValueError, match=r"a\.pkl") as caught:
        read_numpy_pickle(tmp_path / "a.pkl")
    assert len(str(caught.value)) < 300


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.pkl"):
        read_numpy_pickle(tmp_path / "a.pkl")


GOOD = pickle.dumps((np.random.default_rng(0).normal(size=(2, 3, 3)), np.zeros((2, 2))), 4)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(GOOD)))
def test_damage_is_one_error(tmp_path, changes, length):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    (tmp_path / "a.pkl").write_bytes(bytes(data[:length]) if length % 2 else bytes(data))
    try:
        read_numpy_pickle(tmp_path / "a.pkl")
    except ValueError as error:
        assert "a.pkl" in str(error)
