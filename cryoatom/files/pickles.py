"""Pickles of numbers, as cryoDRGN writes them, read without executing anything.

A pickle is a program that may call whatever Python can import. Here it can call five functions, all of this module,
which stand in for numpy's: they keep a shape, a type and bytes, and the arrays are made from these afterwards.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

_SHOWN = 8  # characters of a type in an error message
_TYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")  # numbers; neither objects (O) nor records (V)
_DEEPEST = 8
_DAMAGE = (  # what the unpickler raises for bytes that are no pickle
    *(pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError, ValueError),
    *(OverflowError, MemoryError, RecursionError),
)


def read_numpy_pickle(path: str | os.PathLike) -> Any:
    """Read a pickle of numpy arrays, numbers, tuples and lists, of any protocol, Python 2's included.

    Returns
    -------
    ndarray, tuple, list or number

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no pickle, or holds or calls anything else; names the first forbidden global.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        data = path.read_bytes()
        _check_memo(data)
        return _plain(_NumpyUnpickler(io.BytesIO(data), encoding="latin1").load(), {})
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"cannot read {path}: expected a pickle of numpy arrays, numbers, tuples and lists; {reason}"
        ) from None


def _check_memo(data: bytes) -> None:
    """Raise ValueError for a number in the unpickler's memory beyond the file's length: it takes memory for all."""
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
            raise ValueError(f"it remembers an object as number {argument}")


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a numpy name; of no other."""
        known = _Callable.KNOWN.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise ValueError(f"it asks for {module}.{name}, which is forbidden")
        return _Callable(known)


class _Type:
    """The type of numbers, as `numpy.dtype` is pickled."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "=", "|") or not isinstance(self.code, str):
            raise ValueError("it holds a damaged array")
        self.code = state[1] + self.code.lstrip("<>=|")

    def numpy(self) -> np.dtype:
        if not isinstance(self.code, str) or not _TYPE.fullmatch(self.code):
            what = repr(self.code[:_SHOWN]) if isinstance(self.code, str) else type(self.code).__name__
            raise ValueError(f"it holds an array of {what}, which are no numbers")
        return np.dtype(self.code)


class _Array:
    """An array's parts, as `numpy.ndarray` is pickled."""

    def __init__(self, *_: object) -> None:
        self.parts: tuple = ((0,), _Type("u1"), False, b"")

    def __setstate__(self, state: tuple) -> None:
        self.parts = state[-4:]

    def numpy(self) -> np.ndarray:
        shape, kind, is_fortran, raw = self.parts
        if not isinstance(kind, _Type):
            raise ValueError("it holds a damaged array")
        dtype = kind.numpy()
        data = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 had no other bytes
        return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _array_from_buffer(raw: object, kind: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.parts = (shape, kind, order == "F", raw)
    return array


def _scalar(kind: object, raw: object) -> _Array:
    return _array_from_buffer(raw, kind, (), "C")


def _bytes_from_text(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"it holds text in {encoding!r}")
    return text.encode("latin1")


class _Callable:
    """What a pickle may call. It has no attributes to be changed by the pickle."""

    __slots__ = ("_function",)
    KNOWN = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("numpy._core.numeric", "_frombuffer"): _array_from_buffer,
        ("_codecs", "encode"): _bytes_from_text,
    }

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("it changes a function")


def _plain(value: Any, known: dict[int, Any], depth: int = 0) -> Any:
    """Return what was read, with real arrays; raise ValueError for anything that is not allowed.

    `known` has what was converted before: lists may hold one another many times over.
    """
    if depth > _DEEPEST:
        raise ValueError(f"its lists are nested more than {_DEEPEST} deep")
    if id(value) in known:
        return known[id(value)]
    if type(value) in (bool, int, float):
        return value
    if isinstance(value, _Array):
        array = value.numpy()
        known[id(value)] = array if array.ndim else array[()]
    elif type(value) in (tuple, list):
        items = [_plain(item, known, depth + 1) for item in value]
        known[id(value)] = tuple(items) if type(value) is tuple else items
    else:
        raise ValueError(f"it holds a {type(value).__name__.lstrip('_')}")
    return known[id(value)]
