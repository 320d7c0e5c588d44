"""MATLAB's .mat files: numbers, text, cells and structs; versions 5 to 7, and 7.3, which is HDF5.

Ours, because scipy's reader ends the process with a segmentation fault on some damaged files. Nothing here trusts a
size that a file states: memory is asked for only where the bytes that fill it are there.
"""

import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.errors import PoseZooError

_ORDERS = {
    b"IM": ("<", b"\x00\x01"),
    b"MI": (">", b"\x01\x00"),
}  # byte order and version by the mark at the header's end
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_PLACES = (0, 512)  # MATLAB's own files begin with 512 bytes of text, those of h5py do not
_HDF5_RATIO = 1100  # of values to compressed bytes: zlib's best is 1032
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_MATRIX, _COMPRESSED = 14, 15
_COMPLEX = 0x0800
_DEEPEST = 32  # cells in structs in cells ...: no dataset has more than eight
_MOST_DIMENSIONS = 32
_MOST_INFLATED = 8 << 30  # bytes of one variable

Matlab = Any  # ndarray of numbers, str, dict (1 x 1 struct), or object ndarray of these (cells, arrays of structs)


def read_mat(path: Path, names: Iterable[str] | None = None, again: str = "get it again") -> dict[str, Matlab]:
    """Read variables of a .mat file, of version 5 to 7 or 7.3.

    Numbers become arrays of MATLAB's type and shape (a scalar is 1 x 1), text becomes str (several rows: an array of
    them), a cell array an object array of its shape, a struct a dict, an array of structs an object array of dicts.
    Arrays of large variables are views of the file's content, read-only.

    Args:
        path: The file.
        names: Variables to read; all where None. Others are not decoded.
        again: What to do about a damaged file, for the message: "get it from x.zip again".

    Raises:
        PoseZooError: There is no such file, it is damaged, or it lacks a variable.
    """
    wanted = None if names is None else tuple(names)
    if not path.is_file():
        raise PoseZooError(f"There is no file {path}: {again}.")
    try:
        arrays = _read_hdf5(path, wanted) if is_hdf5(path) else decode_mat(path.read_bytes(), wanted)
    except Exception as error:  # a damaged file raises nearly anything
        raise PoseZooError(f"{path} cannot be read ({one_line(error)}): {again}.") from error
    for name in wanted or ():
        if name not in arrays:
            found = ", ".join(name for name in arrays if name.isprintable()) or "nothing"
            raise PoseZooError(f"{path} holds {found}, not '{name}': {again}.")
    return arrays


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5: MATLAB 7.3 writes that."""
    with path.open("rb") as file:
        start = file.read(_HDF5_PLACES[-1] + len(_HDF5))
    return any(start[place : place + len(_HDF5)] == _HDF5 for place in _HDF5_PLACES)


def one_line(error: Exception) -> str:
    """An error's text on one line of bounded length."""
    text = " ".join(str(error).split())[:160]
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


# --------------------------------------------------------------------------------------------- versions 5 to 7


def decode_mat(content: bytes, names: Iterable[str] | None = None) -> dict[str, Matlab]:
    """The variables of a MATLAB 5 to 7 file; of those that are not asked for only the names, with None.

    Raises:
        ValueError: It is not such a file. Damage may raise other errors, too.
    """
    order, version = _ORDERS.get(content[126:128], ("", b""))
    if not order or content[124:126] != version:
        raise ValueError("not a MATLAB 5 to 7 file")
    wanted = None if names is None else frozenset(names)
    variables: dict[str, Matlab] = {}
    for kind, data in _elements(memoryview(content)[128:], order):
        if kind == _COMPRESSED:
            kind, data = next(_elements(memoryview(_inflate(data)), order), (0, data))
        if kind == _MATRIX:
            matrix = _matrix(data, order)
            if matrix is not None and matrix.name:
                keep = wanted is None or matrix.name in wanted
                variables[matrix.name] = _decode(matrix, 0) if keep else None
    return variables


def _inflate(data: memoryview) -> bytes:
    inflater = zlib.decompressobj()
    content = inflater.decompress(data, _MOST_INFLATED)
    if not inflater.eof:
        raise ValueError("it ends too early")
    return content


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the data elements that follow each other; short ones have both sizes in one word."""
    place = 0
    byte_order = "little" if order == "<" else "big"
    while place + 8 <= len(data):
        kind = int.from_bytes(data[place : place + 4], byte_order)  # type: ignore[arg-type]
        size = int.from_bytes(data[place + 4 : place + 8], byte_order)  # type: ignore[arg-type]
        start, end = place + 8, place + 8 + size
        place = end if kind == _COMPRESSED else end + -size % 8
        if kind >> 16:
            kind, size, start, place = kind & 0xFFFF, kind >> 16, start - 4, start
            end = start + size
        if end > len(data) or (size > 4 and place == start):
            raise ValueError("it ends too early")
        yield kind, data[start:end]


@dataclass(frozen=True)
class _Matrix:
    """One array, still undecoded: class, shape, name, and the elements of its content."""

    order: str
    kind: int
    complex: bool
    shape: tuple[int, ...]
    name: str
    parts: list[tuple[int, memoryview]]


def _matrix(data: memoryview, order: str) -> _Matrix | None:
    """Take an array apart; None for an empty element, as which MATLAB writes [] within cells."""
    parts = list(_elements(data, order))
    if not parts:
        return None
    if len(parts) < 3:
        raise ValueError("an array lacks its shape")
    flags = int(np.frombuffer(parts[0][1], f"{order}u4")[0])
    sizes = np.frombuffer(parts[1][1], f"{order}i4")
    if (sizes < 0).any() or not 0 < len(sizes) <= _MOST_DIMENSIONS:
        raise ValueError("an array has no shape")
    name = bytes(parts[2][1]).decode("latin-1")
    return _Matrix(order, flags & 0xFF, bool(flags & _COMPLEX), tuple(int(s) for s in sizes), name, parts[3:])


def _decode(matrix: _Matrix | None, depth: int) -> Matlab:
    if matrix is None:
        return np.zeros((0, 0))
    if depth > _DEEPEST:
        raise ValueError("its cells are nested too deeply")
    if matrix.kind in _NUMBERS:
        return _numbers(matrix)
    if matrix.kind == _CHAR:
        return _text(matrix)
    if matrix.kind == _CELL:
        return _objects(matrix.shape, [_content(part, matrix.order, depth) for part in matrix.parts])
    if matrix.kind == _STRUCT:
        return _struct(matrix, depth)
    raise ValueError(f"it has an array of class {matrix.kind} (sparse or an object), which is not read")


def _content(part: tuple[int, memoryview], order: str, depth: int) -> Matlab:
    if part[0] != _MATRIX:
        raise ValueError("a cell holds no array")
    return _decode(_matrix(part[1], order), depth + 1)


def _numbers(matrix: _Matrix) -> NDArray[Any]:
    if matrix.complex or len(matrix.parts) != 1 or matrix.parts[0][0] not in _STORED:
        raise ValueError("no array of real numbers")
    kind, data = matrix.parts[0]
    # MATLAB stores whole numbers in the smallest type that holds them, whatever the array's own type.
    values = np.frombuffer(data, matrix.order + _STORED[kind]).astype(_NUMBERS[matrix.kind], copy=False)
    return values.reshape(matrix.shape, order="F")


def _text(matrix: _Matrix) -> Matlab:
    kind, data = matrix.parts[0] if matrix.parts else (1, memoryview(b""))
    if kind not in _TEXT:
        raise ValueError("text of an unknown encoding")
    encoding = _TEXT[kind] + ("-le" if matrix.order == "<" else "-be") * (kind in (4, 17, 18))
    letters = bytes(data).decode(encoding)
    if len(matrix.shape) != 2 or matrix.shape[0] <= 1:
        return letters
    rows, columns = matrix.shape
    if rows * columns != len(letters):
        raise ValueError("text of another shape")
    return np.array([letters[row::rows] for row in range(rows)], dtype=object)


def _struct(matrix: _Matrix, depth: int) -> Matlab:
    if len(matrix.parts) < 2:
        raise ValueError("a struct lacks its fields")
    width = int(np.frombuffer(matrix.parts[0][1], f"{matrix.order}i4")[0])
    packed = bytes(matrix.parts[1][1])
    if width <= 0 or len(packed) % width:
        raise ValueError("a struct has fields without names")
    fields = [packed[at : at + width].split(b"\0")[0].decode("latin-1") for at in range(0, len(packed), width)]
    values = [_content(part, matrix.order, depth) for part in matrix.parts[2:]]
    if len(values) != math.prod(matrix.shape) * len(fields):
        raise ValueError("a struct lacks values")
    count = len(fields)
    places = range(0, len(values), max(count, 1))
    rows = [dict(zip(fields, values[at : at + count], strict=True)) for at in places]
    return rows[0] if matrix.shape == (1, 1) and rows else _objects(matrix.shape, rows)


def _objects(shape: tuple[int, ...], values: list[Any]) -> NDArray[np.object_]:
    if len(values) != math.prod(shape):
        raise ValueError("an array of another shape than it says")
    flat = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):  # all at once, numpy would join arrays of equal shape
        flat[place] = value
    return flat.reshape(shape, order="F")


# --------------------------------------------------------------------------------------------- version 7.3


def _read_hdf5(path: Path, names: Iterable[str] | None) -> dict[str, Matlab]:
    """The variables of a MATLAB 7.3 file; of those that are not asked for only the names, with None."""
    import h5py

    wanted = None if names is None else frozenset(names)
    most = _HDF5_RATIO * path.stat().st_size
    with h5py.File(path, "r") as file:
        return {
            name: _hdf5(file[name], most, 0) if wanted is None or name in wanted else None
            for name in file
            if not name.startswith("#")  # where cells are kept
        }


def _hdf5(item: Any, most: int, depth: int) -> Matlab:
    import h5py

    if depth > _DEEPEST:
        raise ValueError("its cells are nested too deeply")
    if isinstance(item, h5py.Group):
        return {name: _hdf5(item[name], most, depth + 1) for name in item}
    if not isinstance(item, h5py.Dataset):
        raise ValueError("it holds something else than arrays")
    kind = bytes(item.attrs.get("MATLAB_class", b""))
    if "MATLAB_empty" in item.attrs:  # the values are the shape
        return "" if kind == b"char" else np.zeros((0, 0))
    if item.nbytes > most:
        raise ValueError("it states more values than it has")
    values = item[()].T  # HDF5 counts its dimensions from the other end
    if item.dtype == h5py.ref_dtype:
        cells = [_hdf5(item.file[reference], most, depth + 1) for reference in values.ravel(order="F")]
        return _objects(values.shape, cells)
    if item.dtype.kind not in "biuf":
        raise ValueError("it holds something else than numbers, text and cells")
    if kind == b"char":
        return bytes(values.ravel(order="F").astype("<u2")).decode("utf-16-le")
    return values
