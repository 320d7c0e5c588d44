"""Picture files: finding them, reading pixels, and the files with their boxes and cameras.

Pixels are as OpenCV reads them: turned upright by their EXIF orientation, grey made RGB, 16 bits cut to the upper 8,
transparency dropped. Boxes and intrinsics refer to the upright picture. Nothing here needs Lightning.
"""

import csv
import json
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.cameras import Camera
from posezoo.data.images import ImageError as ImageError
from posezoo.data.images import read_image as read_image
from posezoo.errors import PoseZooError, did_you_mean

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
CSV_COLUMNS = ("file", "left", "top", "width", "height")
ANY_FILE = "*"
_EXIF_ORIENTATION = 0x0112

Boxes = dict[str, list[list[float]]]


def find_pictures(root: Path | None) -> dict[str, Path]:
    """The pictures of a folder, file or pattern, by name relative to the folder, in the order of their names.

    Raises:
        PoseZooError: There are none; the message says what is there instead.
    """
    if root is None:
        raise PoseZooError(
            "ImageFolder does not know where the pictures are: set --data.root to a folder or a picture."
        )
    if root.is_file():
        return {_normal(root.name): root}
    if root.is_dir():
        folder, found = root, sorted(path for path in root.iterdir() if path.is_file())
    elif has_magic(str(root)):
        folder, found = _fixed_part(root), sorted(Path(name) for name in glob(str(root), recursive=True))
    else:
        raise PoseZooError(f"There is no file or folder {root}: set --data.root to a folder of pictures or a picture.")
    # Names that begin with a dot are hidden; macOS leaves such shadows of pictures on foreign disks.
    pictures = [p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not pictures:
        raise PoseZooError(f"No pictures in {root} ({_inventory(root, found)}): posezoo reads {', '.join(SUFFIXES)}.")
    return {_normal(path.relative_to(folder).as_posix()): path for path in pictures}


def pictures_below(folder: str | None, option: str) -> tuple[Path, ...]:
    """The pictures of a folder and its subfolders, in the order of their names; none for None.

    Raises:
        PoseZooError: There is no such folder, or it has no pictures.
    """
    if folder is None:
        return ()
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set {option} to a folder of pictures.")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise PoseZooError(f"No pictures in {root}: {option} is a folder with files like {', '.join(SUFFIXES[:3])}.")
    return tuple(found)


def _fixed_part(pattern: Path) -> Path:
    """The folder in front of a pattern's first wildcard."""
    return Path(*takewhile(lambda part: not has_magic(part), pattern.parts))


def _inventory(root: Path, found: Sequence[Path]) -> str:
    """What is there instead of pictures, for an error message."""
    if has_magic(str(root)) and not found:
        return "no file matches"
    kinds = Counter(path.suffix.lower() or "no suffix" for path in found)
    files = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(3)) or "no files"
    below = root.is_dir() and any(path.is_dir() for path in root.iterdir())
    return f"it holds {files}" + (f"; for its subfolders, type '{root}/**/*.jpg'" if below else "")


def _normal(name: str) -> str:
    """One spelling: macOS stores accented letters as two characters, editors write one; Windows has backslashes."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright picture, px, from its header alone.

    Raises:
        ImageError: The file is empty, damaged at its beginning, or no picture.
    """
    from PIL import Image  # comes with torchvision and matplotlib

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "decompression bomb": posezoo is not a server
            with Image.open(path) as header:
                width, height = header.size
                # Pillow decodes a whole PNG to look for its (very rare) orientation.
                sideways = header.format != "PNG" and header.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except Exception as error:  # Pillow's readers raise nearly anything for a damaged file
        raise ImageError(f"{path} is not a readable picture (empty or damaged): replace or remove it.") from error
    return (height, width) if sideways else (width, height)


def read_boxes(path: Path) -> Boxes:
    """Boxes by file name from a JSON or CSV file; their values are not checked yet.

    Raises:
        PoseZooError: The file is missing or is not in one of the two forms.
    """
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    entries = _read_json(path, "the boxes", '{"a.jpg": [[left, top, width, height]]}')
    for name, boxes in entries.items():
        if not isinstance(boxes, list) or not all(_is_numbers(box, 4) for box in boxes):
            raise PoseZooError(
                f"{path}: the boxes of {name} must be a list of [left, top, width, height], got {_short(boxes)}."
            )
    return entries


def _read_csv(path: Path) -> Boxes:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = set(CSV_COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise PoseZooError(f"{path} lacks the columns {', '.join(sorted(missing))}: {','.join(CSV_COLUMNS)}.")
            boxes: Boxes = {}
            for row in reader:
                try:
                    name, *box = _normal(row["file"]), *(float(row[column]) for column in CSV_COLUMNS[1:])
                except (TypeError, ValueError):
                    values = ",".join(str(row[column]) for column in CSV_COLUMNS)
                    raise PoseZooError(
                        f"{path}, line {reader.line_num}: '{values}' must be a file name and four numbers."
                    ) from None
                boxes.setdefault(name, []).append(box)
    except FileNotFoundError:
        raise PoseZooError(f"There is no file {path}: set --data.boxes to the file with the boxes.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PoseZooError(f"{path} is not a readable CSV file ({error}): save it as UTF-8 text.") from error
    return boxes


def _read_json(path: Path, what: str, example: str) -> dict[str, Any]:
    if not path.is_file():
        raise PoseZooError(f"There is no file {path}: give the JSON file with {what}, such as {example}.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise PoseZooError(f"{path} is not readable JSON ({error}): write {what} as {example}.") from error
    if not isinstance(entries, dict):
        raise PoseZooError(f"{path} holds a {type(entries).__name__}: write {what} as {example}.")
    return entries


def match_names(
    entries: dict[str, Any], names: Sequence[str], path: Path, others: Iterable[str] = ()
) -> dict[str, Any]:
    """The entries under the pictures' own names; raises PoseZooError for one that names no picture."""
    known = {*names, *others}
    matched = {_normal(key): value for key, value in entries.items()}
    if len(matched) < len(entries):
        raise PoseZooError(f"{path} names a picture twice in two spellings: put its entries together.")
    for key in matched:
        if key not in known:
            hint = did_you_mean(key, names)
            hint = hint if len(hint) < 200 else f"they are called like '{names[0]}'."
            raise PoseZooError(f"{path} names '{key}', which is not among the pictures: {hint}")
    return matched


def check_box(box: Sequence[float], size: tuple[int, int], which: str) -> None:
    """Refuse a box (ltwh, px) without area, or outside a picture of `size` (width, height).

    Raises:
        PoseZooError: It starts with `which`.
    """
    left, top, width, height = box
    if not (np.isfinite(box).all() and width > 0 and height > 0):
        raise PoseZooError(f"{which} is {_short(box)}: width and height must be positive (left, top, width, height).")
    if left >= size[0] or top >= size[1] or left + width <= 0 or top + height <= 0:
        raise PoseZooError(f"{which} is {_short(box)}, outside the picture of {size[0]} x {size[1]} px: correct it.")


def read_cameras(path: Path, names: Sequence[str]) -> list[Camera]:
    """The camera of every picture, from a JSON file.

    Raises:
        PoseZooError: The file is missing or broken, names an unknown picture, or leaves one out.
    """
    example = '{"a.jpg": {"K": [[f, 0, cx], [0, f, cy], [0, 0, 1]], "distortion": [k1, k2, p1, p2, k3]}}'
    entries = match_names(_read_json(path, "the cameras", example), names, path, [ANY_FILE])
    cameras = {name: parse_camera(entry, f"{path}: the camera of {name}") for name, entry in entries.items()}
    missing = [name for name in names if name not in cameras]
    if missing and ANY_FILE not in cameras:
        raise PoseZooError(
            f"{path} has no camera for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ": "
            f'add it, or an entry "{ANY_FILE}" for all pictures that are not named.'
        )
    return [cameras.get(name) or cameras[ANY_FILE] for name in names]


def parse_camera(entry: Any, which: str) -> Camera:
    """A camera from its JSON form: K, and what is known of distortion, rotation and translation (world to camera, mm).

    Raises:
        PoseZooError: It has another form; the message starts with `which`.
    """
    unknown = set(entry) - {"K", "distortion", "rotation", "translation"} if isinstance(entry, dict) else {"?"}
    if unknown or "K" not in entry:
        raise PoseZooError(f'{which} must be {{"K": 3x3, "distortion": [...]}} (distortion may be left out).')
    rows = entry["K"]
    if not (isinstance(rows, list) and len(rows) == 3 and all(_is_numbers(row, 3) for row in rows)):
        raise PoseZooError(f"{which} has K = {_short(rows)}: it must be three rows of three numbers.")
    k = np.array(rows, np.float64)
    if not (np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0 and np.array_equal(k[2], [0, 0, 1])):
        raise PoseZooError(f"{which} has K = {_short(rows)}: it must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in px.")
    distortion = entry.get("distortion")
    if distortion is not None and not any(_is_numbers(distortion, count) for count in (4, 5, 8, 12)):
        raise PoseZooError(f"{which} has distortion = {_short(distortion)}: it must be 4, 5, 8 or 12 numbers (OpenCV).")
    rotation, translation = entry.get("rotation"), entry.get("translation")
    if rotation is not None and not _is_rotation(rotation):
        raise PoseZooError(f"{which} has rotation = {_short(rotation)}: it must be a rotation matrix, world to camera.")
    if translation is not None and not _is_numbers(translation, 3):
        raise PoseZooError(f"{which} has translation = {_short(translation)}: it must be three numbers, mm.")
    return Camera.create(
        k, None if distortion is None else np.array(distortion, np.float64), None, rotation, translation
    )


def _is_rotation(rows: Any) -> bool:
    if not (isinstance(rows, list) and len(rows) == 3 and all(_is_numbers(row, 3) for row in rows)):
        return False
    matrix = np.array(rows, np.float64)
    return np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and bool(np.linalg.det(matrix) > 0)


def _is_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        and all(isinstance(value, float) or abs(value) < 2**53 for value in values)  # numpy has no larger numbers
    )


def _short(values: Any) -> str:
    text = str(values)
    return text if len(text) <= 60 else text[:57] + "..."
