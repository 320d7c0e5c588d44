"""What readers of annotation files share: JSON, npz, HDF5, counts of what was left out, missing images, safe writing.

MATLAB's files are read by `data.mat`, pickles by `data.safe_pickle`.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.data.mat import one_line
from posezoo.disk import replaced
from posezoo.errors import PoseZooError

_EXAMPLES = 3
_H5_RATIO = 1100  # of values to compressed bytes: zlib's best is 1032


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file.

    Args:
        path: The file; it must exist.
        remedy: What to do about a damaged one, the end of the sentence.

    Raises:
        PoseZooError: It is cut off or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise PoseZooError(f"{path} is not readable JSON ({one_line(error)}): {remedy}.") from error


def read_npz(path: Path, wanted: Mapping[str, tuple[int, ...]], remedy: str) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file, all with N rows; pickled ones are refused.

    Args:
        path: The file.
        wanted: Name -> shape of one row. "imgname" is text, all others are numbers.
        remedy: What to do about a damaged or another file, the end of the sentence.

    Raises:
        PoseZooError: It is damaged, or lacks an array or has it in another shape or type.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {key: np.asarray(file[key]) for key in wanted}
        if not all(str(name).isascii() for name in data.get("imgname", ())):
            raise ValueError("image names are not text")
    except Exception as error:  # a damaged file raises nearly anything
        raise PoseZooError(f"{path} cannot be read ({one_line(error)}): {remedy}.") from error
    count = len(next(iter(data.values())))
    for key, shape in wanted.items():
        if data[key].dtype.kind not in ("US" if key == "imgname" else "biuf"):
            raise PoseZooError(f"{path} has '{key}' of type {data[key].dtype}: {remedy}.")
        if data[key].shape != (count, *shape):
            raise PoseZooError(f"{path} has '{key}' of shape {data[key].shape}, expected {(count, *shape)}: {remedy}.")
    return data


def numbered(
    values: Iterable[Any], known: tuple[Any, ...] = (), key: Any = None
) -> tuple[tuple[Any, ...], NDArray[np.int32]]:
    """A table of the distinct values (the known ones first, the others sorted) and each value's place in it."""
    found = list(values)
    table = (*known, *sorted(set(found) - set(known), key=key))
    place = {value: number for number, value in enumerate(table)}
    return table, np.array([place[value] for value in found], np.int32)


def read_h5(path: Path, shapes: Mapping[str, tuple[int, ...]], remedy: str) -> dict[str, NDArray[np.float64]]:
    """Arrays of numbers from an HDF5 file.

    Args:
        path: The file; it must exist.
        shapes: Shape [..] of one row of each array; all have the same number of rows.
        remedy: What to do about a damaged one, the end of the sentence.

    Raises:
        PoseZooError: It is damaged, or an array is missing or has another shape.
    """
    import h5py  # type: ignore[import-untyped, unused-ignore]  # late: only a few layouts need it

    most = _H5_RATIO * path.stat().st_size
    arrays: dict[str, NDArray[np.float64]] = {}
    try:
        with h5py.File(path, "r") as file:
            for name in shapes:
                if file[name].nbytes > most:
                    raise ValueError(f"{name} states more values than there are")
                arrays[name] = np.asarray(file[name][()], np.float64)
    except Exception as error:  # a damaged file raises nearly anything
        raise PoseZooError(f"{path} cannot be read ({one_line(error)}): {remedy}.") from error
    rows = len(arrays[next(iter(shapes))])
    for name, shape in shapes.items():
        if arrays[name].shape != (rows, *shape):
            raise PoseZooError(
                f"{path} has '{name}' of shape {arrays[name].shape}, expected {(rows, *shape)}: {remedy}."
            )
    return arrays


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place, then renamed.

    Raises:
        OSError: The folder cannot be written.
    """
    with replaced(path) as temporary:
        temporary.write_bytes(content)


class Tally:
    """What a reader has left out, and why: counted, with the first names of each reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def leave_out(self, reason: str, names: Iterable[Any]) -> None:
        """Count things under a reason ("without keypoints")."""
        for name in names:
            self.counts[reason] = self.counts.get(reason, 0) + 1
            shown = self.examples.setdefault(reason, [])
            if len(shown) < _EXAMPLES:
                shown.append(str(name))

    def __str__(self) -> str:
        """Like "3 crowds (12, 15, 17), 1 without keypoints (9)", or "nothing"."""
        parts = []
        for reason, count in self.counts.items():
            more = ", ..." if count > len(self.examples[reason]) else ""
            parts.append(f"{count} {reason} ({', '.join(self.examples[reason])}{more})")
        return ", ".join(parts) or "nothing"


def missing_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of the names below a folder that are not there; every folder is listed once, no file is asked for."""
    there: dict[str, frozenset[str]] = {}
    missing = []
    for name in names:
        below, _, file = name.rpartition("/")
        if below not in there:
            there[below] = _listing(folder / below)
        if file not in there[below]:
            missing.append(name)
    return missing


def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def check_images(folder: Path, names: Sequence[str], remedy: str) -> str:
    """Say how many images are missing; refuse where it is most of them.

    A few missing ones are `on_bad_image`'s affair.

    Args:
        folder: What the names are relative to.
        names: Paths of the images, each once.
        remedy: What to do, the end of the sentence.

    Returns:
        "" or ", 2 of 10 images are missing (first: ...)".

    Raises:
        PoseZooError: More than half are missing.
    """
    missing = missing_files(folder, names)
    if not missing:
        return ""
    if 2 * len(missing) > len(names):
        others = f", nor {len(missing) - 1} others of {len(names)} that the annotations name"
        raise PoseZooError(f"No image at {folder / missing[0]}{others if len(missing) > 1 else ''}: {remedy}.")
    return f"; {len(missing)} of {len(names)} images are missing (first: {folder / missing[0]})"
