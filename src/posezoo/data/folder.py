"""Photographs without labels: what `posezoo predict` is given.

Pixels are as OpenCV reads them: turned upright by their EXIF orientation, grey made RGB, 16 bits cut to the upper 8,
transparency dropped. Boxes and intrinsics refer to the upright picture.
"""

import csv
import json
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.base import ImageError, PoseDataModule, PoseDataset, read_image
from posezoo.data.crop import FOV_PHOTOGRAPH
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.skeletons import H36M17
from posezoo.structures import Sample

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
CSV_COLUMNS = ("file", "left", "top", "width", "height")
ANY_FILE = "*"
_EXIF_ORIENTATION = 0x0112

Boxes = dict[str, list[list[float]]]


class ImageFolder(PoseDataModule):
    """Your own pictures, for `predict`: one crop for every box, or for every whole picture where no boxes are given.

    Files are named relative to the folder (`a.jpg`; with a pattern `**`, `sub/a.jpg`), here and in meta.

    Args:
        root: A folder of pictures (its subfolders are not searched), one picture, or a quoted pattern such as
            "shots/**/*.jpg".
        boxes: File with the boxes of people, px of the upright picture: JSON {file: [[left, top, width, height], ...]}
            or CSV with the columns file,left,top,width,height. Pictures that it does not name have no people.
        fov: Field of view to assume where there is no camera, degrees along the longer side.
        cameras: JSON file {file: {"K": 3x3, "distortion": 4, 5, 8 or 12 OpenCV coefficients}}; "*" stands for all
            files that are not named. Only with it are absolute positions calibrated (`has_camera`).
        **keywords: As for `PoseDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        boxes: str | None = None,
        fov: float = FOV_PHOTOGRAPH,
        cameras: str | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(root, **keywords)
        if not 0 < fov < 180:
            raise PoseZooError(f"--data.fov must lie between 0 and 180 degrees, got {fov}.")
        self.boxes, self.fov, self.cameras = boxes, fov, cameras

    def people(self, split: str) -> "Pictures":
        """The people of "predict", the only split: pictures have no labels to train or test with."""
        if split != "predict":
            raise PoseZooError(
                f"ImageFolder has no labels, hence no '{split}' split: type `posezoo predict`, or use another --data."
            )
        if self.box != "annotation":
            raise PoseZooError(
                f"The model's box '{self.box}' needs the true depth of each person, which pictures do not have: set "
                "--model.box annotation."
            )
        return open_pictures(self.root, self.boxes, self.fov, self.cameras)

    def meta(self, index: int, split: str = "predict") -> dict[str, Any]:
        """Path, file name as in the boxes file, and number of the box in its picture."""
        return super().meta(index, split)

    def protocol(self, split: str) -> str:
        """There is nothing to score."""
        return "pictures without labels: nothing is scored"


@dataclass(eq=False)
class Pictures(PoseDataset):
    """Pictures and the people in them.

    Attributes:
        paths, names: The picture files, and what users call them.
        picture, person: int32 [N], picture of each crop and number of its box in that picture.
        boxes: float32 [N, 4] ltwh, px; NaN stands for the whole picture.
        fov: Degrees, for pictures without a camera.
        cameras: One for each picture, or none at all.
    """

    paths: list[Path]
    names: list[str]
    picture: NDArray[np.int32]
    person: NDArray[np.int32]
    boxes: NDArray[np.float32]
    fov: float
    cameras: list[Camera]
    # People of one picture follow each other: the last one is kept, so that it is decoded once.
    _last: tuple[int, NDArray[np.uint8]] | None = field(default=None, repr=False)

    skeleton = H36M17  # nothing is labelled, so that any would do

    def __len__(self) -> int:
        return len(self.picture)

    def read(self, index: int, draw: int = 0) -> Sample:
        """One box with its picture."""
        at = int(self.picture[index])
        if self._last is None or self._last[0] != at:
            self._last = at, read_image(self.paths[at])
        image = self._last[1]
        height, width = image.shape[:2]
        whole = np.isnan(self.boxes[index]).any()
        return Sample(
            image=image,
            box=np.array([0, 0, width, height], np.float32) if whole else self.boxes[index],
            size=(width, height),
            camera=self.cameras[at] if self.cameras else None,
            fov=self.fov,
            identity={"image_id": at, "person_id": int(self.person[index])},
        )

    def meta(self, index: int) -> dict[str, Any]:
        """Path, file name and box number."""
        at = int(self.picture[index])
        return {"path": str(self.paths[at]), "file": self.names[at], "box": int(self.person[index])}


def open_pictures(root: Path | None, boxes: str | None, fov: float, cameras: str | None) -> Pictures:
    """Find the pictures, check their headers, and read boxes and cameras.

    Raises:
        PoseZooError: No pictures; or a picture, box or camera that cannot be used.
    """
    files = find_pictures(root)
    names = list(files)
    sizes = [picture_size(path) for path in files.values()]
    if boxes is None:
        picture, person = np.arange(len(names), dtype=np.int32), np.zeros(len(names), np.int32)
        rows = np.full((len(names), 4), np.nan, np.float32)
    else:
        path = Path(boxes).expanduser()
        given = _matched(read_boxes(path), names, path)
        numbered = [(at, n, box) for at, name in enumerate(names) for n, box in enumerate(given.get(name, []))]
        for at, n, box in numbered:
            _check_box(box, sizes[at], f"{path}: box {n} of {names[at]}")
        if not numbered:
            raise PoseZooError(f"{path} has no boxes: add some, or leave --data.boxes out to use whole pictures.")
        picture = np.array([at for at, _, _ in numbered], np.int32)
        person = np.array([n for _, n, _ in numbered], np.int32)
        rows = np.array([box for _, _, box in numbered], np.float32)
    known = read_cameras(Path(cameras).expanduser(), names) if cameras else []
    return Pictures(list(files.values()), names, picture, person, rows, fov, known)


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


def _matched(entries: dict[str, Any], names: Sequence[str], path: Path, others: Iterable[str] = ()) -> dict[str, Any]:
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


def _check_box(box: Sequence[float], size: tuple[int, int], which: str) -> None:
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
    entries = _matched(_read_json(path, "the cameras", example), names, path, [ANY_FILE])
    cameras = {name: _camera(entry, f"{path}: the camera of {name}") for name, entry in entries.items()}
    missing = [name for name in names if name not in cameras]
    if missing and ANY_FILE not in cameras:
        raise PoseZooError(
            f"{path} has no camera for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ": "
            f'add it, or an entry "{ANY_FILE}" for all pictures that are not named.'
        )
    return [cameras.get(name) or cameras[ANY_FILE] for name in names]


def _camera(entry: Any, which: str) -> Camera:
    unknown = set(entry) - {"K", "distortion"} if isinstance(entry, dict) else {"?"}
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
    return Camera.create(k, None if distortion is None else np.array(distortion, np.float64))


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
