"""Pickles as old software wrote them, and pickles that are attacks."""

import io
import pickle
import struct
from typing import Any, ClassVar


class _OldPickler(pickle._Pickler):
    """Writes bytes and text as Python 2 wrote its strings: raw, of one byte a character."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def _save_string(self, value: Any) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(content) < 256
        self.write(
            b"U" + bytes([len(content)]) + content if short else b"T" + struct.pack("<i", len(content)) + content
        )  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[bytes] = _save_string
    dispatch[str] = _save_string


def python2(value: Any) -> bytes:
    """Arrays and containers as Python 2 with its numpy pickled them."""
    file = io.BytesIO()
    _OldPickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


class Attack:
    """Calls a function when it is unpickled carelessly."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments
