"""Pickles that datasets are published as, read without ever running code.

A pickle is a program: loading one from elsewhere may do anything. Those of datasets hold arrays, dicts, lists, tuples,
text and numbers, so that is what is read; whatever else a file asks for ends the reading with one sentence.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from posezoo.errors import PoseZooError

_NPY_HEADER_BYTES = 100_000


def read_pickle(path: Path, remedy: str) -> Any:
    """The arrays and builtin containers of a pickle, also of Python 2 and old numpy; anything else is refused.

    Args:
        path: The file.
        remedy: What to do about one that asks for more, the end of the sentence.

    Raises:
        PoseZooError: It asks for code. A damaged one may raise any error.
    """
    return _ArrayUnpickler(path.read_bytes(), path, remedy).load()


def read_object_npz(path: Path, name: str, remedy: str) -> Any:
    """What was saved as `np.savez(path, name=<a dict>)`, which numpy itself reads with `allow_pickle=True` only.

    Args:
        path: The npz file.
        name: Which of its arrays.
        remedy: What to do about another file, the end of the sentence.

    Returns:
        The object; a plain array where there is one.

    Raises:
        PoseZooError: It asks for code. A damaged one may raise any error.
    """
    with zipfile.ZipFile(path) as archive:
        content = archive.read(f"{name}.npy")
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file, max_header_size=_NPY_HEADER_BYTES)
    if not dtype.hasobject:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    array = _ArrayUnpickler(content[file.tell() :], path, remedy).load()
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise ValueError(f"'{name}' is not the array that its header says")
    return array.item() if shape == () else array


class _ArrayUnpickler(pickle._Unpickler):
    """Reads pickles of arrays and builtin containers only.

    Arrays are put together here: numpy's own hooks for pickles end the process (a segmentation fault) on some damaged
    files. Python's own implementation in Python, because in the one in C, four damaged bytes can ask for 64 GB of
    memory. Text of Python 2 is read as latin-1, which keeps the bytes of its arrays.
    """

    def __init__(self, content: bytes, path: Path, remedy: str) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.path, self.remedy = path, remedy

    read: Callable[[int], bytes]  # these two are made by `load`
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def _load_bytearray(self) -> None:
        """Python's asks for the stated number of bytes before it looks how many there are."""
        size = int.from_bytes(self.read(8), "little")
        content = bytearray(self.read(size))
        if len(content) < size:
            raise ValueError("it ends too early")
        self.append(content)

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray

    def load(self) -> Any:
        return _resolved(super().load(), {})

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 has moved its core.
        known = _STAND_INS.get((module.replace("numpy._core.", "numpy.core."), name))
        if known is None:
            raise PoseZooError(
                f"{self.path} asks for {module}.{name}, which arrays do not need, so it was not opened: {self.remedy}."
            )
        # A function of its own for every request, because a pickle can give attributes to what it finds.
        return lambda *arguments: known(*arguments)


class _DType:
    """A numpy type in the making: the pickle gives its kind and size first, then its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, text: Any, *_flags: Any) -> None:
        if not isinstance(text, str) or not _TYPE.fullmatch(text):
            raise ValueError(f"an array of the type {text!r}")
        self.dtype: np.dtype[Any] = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order, base, names, fields = state[1:5]
        if (base, names, fields) != (None, None, None):
            raise ValueError("an array of records")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array in the making; others may point at it before its values are read."""

    __slots__ = ("value",)

    def __init__(self, *_class_shape_type: Any) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, values = state
        self.value = _array(values, kind, shape, "F" if fortran else "C")


def _array(values: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    """An array of raw bytes or, of the type object, of a list."""
    if not isinstance(kind, _DType) or order not in ("C", "F"):
        raise ValueError("an array without a type")
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"an array of the shape {shape!r}")
    if kind.dtype.hasobject:
        if not isinstance(values, list):
            raise ValueError("an array of objects without a list of them")
        flat = np.empty(len(values), dtype=object)
        for place, value in enumerate(values):  # all at once, numpy would join arrays of equal shape
            flat[place] = value
        return flat.reshape(shape, order=order)
    if isinstance(values, str):  # of Python 2
        values = values.encode("latin1")
    if kind.dtype.itemsize == 0:
        raise ValueError("an array of empty text")
    return np.frombuffer(bytes(values), kind.dtype).reshape(shape, order=order).copy(order=order)


def _scalar(kind: Any, value: Any) -> Any:
    array = _array(value, kind, (1,))
    return array[0]


def _no_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes written as {encoding!r}")
    return text.encode("latin1")


_TYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU][1-9]\d{0,5}|O8?)")
_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): lambda *_: None,  # only named, as the class of what `_reconstruct` makes
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,  # as Python 3 writes those for Python 2
}


def _resolved(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """The value with finished arrays in the places of those in the making; containers keep their identity.

    Args:
        value: As unpickled.
        done: Result of every container by its id, and the container itself, without which the id could be used again.
    """
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without values")
        value = value.value
    if isinstance(value, _DType):
        return value.dtype
    if not isinstance(value, tuple | list | dict | np.ndarray):
        return value
    if id(value) not in done:
        done[id(value)] = value, value
        done[id(value)] = value, _resolved_container(value, done)
    return done[id(value)][1]


def _resolved_container(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(value, tuple):
        return tuple(_resolved(item, done) for item in value)
    if isinstance(value, list):
        value[:] = [_resolved(item, done) for item in value]
    elif isinstance(value, dict):
        for key in list(value):
            value[key] = _resolved(value[key], done)
    elif value.dtype == object:
        for place in np.ndindex(value.shape):
            value[place] = _resolved(value[place], done)
    return value
