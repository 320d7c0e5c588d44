"""MPII Human Pose (Andriluka et al., CVPR 2014): the official file, and the two tables that most code trains with.

    root/images/015601864.jpg ...                                    always
    root/annot/train.json, valid.json                                HRNet's, or as mmpose calls them:
    root/annotations/mpii_train.json, mpii_val.json
    root/annot/train.h5, train_images.txt, valid.h5, ...             pose-hg-train's
    root/mpii_human_pose_v1_u12_1.mat                                the official release; it has no validation split

The images stay under their own licence; posezoo neither ships nor fetches them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.data.base import finite
from posezoo.data.evaluation import Records
from posezoo.data.files import Tally, check_images, read_h5, read_json
from posezoo.data.keypoints import KeypointModule, KeypointPeople, image_names
from posezoo.data.mat import one_line, read_mat
from posezoo.errors import PoseZooError
from posezoo.skeletons import MPII16

_JOINTS = len(MPII16)
OFFICIAL = "mpii_human_pose_v1_u12_1.mat"
# Where the table of a split may be; the first that is there is read.
TABLES = {
    "train": ("annot/train.json", "annotations/mpii_train.json", "annot/train.h5"),
    "val": ("annot/valid.json", "annotations/mpii_val.json", "annot/valid.h5"),
}
_WANTED = (
    "images and one of annot/train.json (HRNet), annotations/mpii_train.json (mmpose), annot/train.h5 (pose-hg-train) "
    f"and {OFFICIAL}"
)
_PX_PER_SCALE = 200  # MPII's unit of size: a person is as tall as this many px times its scale
_DOWN = 15  # px per scale from the marked position to the middle of the person, as all code since pose-hg-train does
_HEAD = 25  # px per scale: PCKh's head size, equal to 0.6 of the head rectangle's diagonal
_H5_SHAPES = {"part": (_JOINTS, 2), "center": (2,), "scale": (), "normalize": (), "index": (), "person": ()}
_H5_MARGIN = 1.25  # pose-hg-train has this factor in its scale


class MPII(KeypointModule):
    """2D joints of people in photographs, without 3D labels or cameras: a weak source for `Mixed`.

    All joints with coordinates are used, hidden ones too. Its files count pixels from 1, ours from 0.

    Args:
        root: Folder with `images` and the annotations in one of the three layouts.
        box_scale: Side of the square box in body heights (MPII's scale times 200 px). 1.25 is the value of HRNet,
            IntegralPose and HEMlets; 1 that of MeTRAbs.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(self, root: str | None = None, *, box_scale: float = 1.25, **keywords: Any) -> None:
        super().__init__(root, **keywords)
        if not 0 < box_scale < np.inf:
            raise PoseZooError(f"--data.box_scale must be positive, got {box_scale}.")
        self.box_scale = box_scale

    def people(self, split: str) -> "MPIIPeople":
        """The annotated people of "train" or "val"; the official file has the first only.

        The labels of the test images are not public: with --data.protocol mpii_pckh, "test" is "val".
        """
        if split == "test" and self.protocols:
            split = "val"
        self.check_split(split)
        return open_people(self.root, split, self.box_scale)


@dataclass(frozen=True, eq=False, repr=False)
class MPIIPeople(KeypointPeople):
    """Annotated people as arrays.

    Attributes:
        head_size: float32 [N], PCKh's unit, px of the original image; 0 where it is not known.
        split: "train" or "val".
    """

    head_size: NDArray[np.float32]
    split: str

    def head_sizes(self) -> NDArray[np.float32]:
        """PCKh's unit for every person, px of the original image; 0 where it is not known."""
        return self.head_size

    def records(self) -> Records:
        """The split that everybody belongs to, for PCKh; photographs have no frames."""
        return Records(np.full(len(self), self.split), np.zeros(len(self), np.int64))

    def meta(self, index: int) -> dict[str, Any]:
        """Path of the image, numbers of image and person, and head size, px."""
        return super().meta(index) | {"head_size": float(self.head_size[index])}


@dataclass
class _Table:
    """One file's people: pixels that count from 0; what is unknown is NaN.

    Attributes:
        joints2d: float64 [N, 16, 2] px.
        position: float64 [N, 2], the marked position, px.
        scale: float64 [N], body height in units of 200 px.
        head_size: float64 [N] px.
        names: Image of each person.
        image_id, person_id: The file's own numbers.
        tally: What the file has and the table has not.
    """

    joints2d: NDArray[np.float64]
    position: NDArray[np.float64]
    scale: NDArray[np.float64]
    head_size: NDArray[np.float64]
    names: list[str]
    image_id: NDArray[np.int64]
    person_id: NDArray[np.int64]
    tally: Tally


def open_people(root: Path | None, split: str = "train", box_scale: float = 1.25) -> MPIIPeople:
    """Read the people of a split, from the first of the layouts that is there.

    Raises:
        PoseZooError: Files are missing or are something else, or most images are missing.
    """
    folder, path, read = _find(root, split)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no label
            table = read(path)
            return _people(table, folder, path, split, box_scale)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        raise PoseZooError(f"{path} is not MPII's ({one_line(error)}): get it again.") from error


def _find(root: Path | None, split: str) -> tuple[Path, Path, Callable[[Path], _Table]]:
    """Folder, annotation file, and its reader."""
    if root is None:
        raise PoseZooError(f"MPII does not know where its files are: set --data.root to the folder with {_WANTED}.")
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the folder with {_WANTED}.")
    if not (root / "images").is_dir():
        raise PoseZooError(f"{root} has no folder 'images': unpack mpii_human_pose_v1.tar.gz in {root}.")
    for name in TABLES[split]:
        if (root / name).is_file():
            return root, root / name, _read_h5 if name.endswith(".h5") else _read_json
    official = next((path for path in (root / OFFICIAL, root / "annotations" / OFFICIAL) if path.is_file()), None)
    if official is None:
        wanted = f"{', '.join(TABLES[split])} or {OFFICIAL}"
        raise PoseZooError(f"{root} has no annotations for '{split}': copy one of {wanted} to its place there.")
    if split != "train":
        raise PoseZooError(
            f"{official} has no validation split: put HRNet's valid.json in {root / 'annot'}, or make MPII a source of "
            "--data Mixed, which validates on another."
        )
    return root, official, _read_official


def _people(table: _Table, folder: Path, path: Path, split: str, box_scale: float) -> MPIIPeople:
    tally, keep = table.tally, np.ones(len(table.names), bool)
    joints2d = table.joints2d.astype(np.float32)
    valid2d = finite(joints2d, np.ones(joints2d.shape[:2], bool))
    assert valid2d is not None
    boxes = _boxes(table, box_scale)
    for reason, bad in (
        ("without joints", ~valid2d.any(1)),
        ("without position or scale", ~(np.isfinite(boxes).all(1) & (boxes[:, 2] > 1))),
    ):
        tally.leave_out(reason, (f"{table.names[i]} {table.person_id[i]}" for i in np.flatnonzero(keep & bad)))
        keep &= ~bad
    names = [name for name, kept in zip(table.names, keep, strict=True) if kept]
    missing = check_images(folder / "images", sorted(set(names)), "unpack all of mpii_human_pose_v1.tar.gz there")
    return MPIIPeople(
        folder=folder / "images",
        skeleton=MPII16,
        image=image_names(names),
        boxes=boxes[keep],
        joints2d=np.where(valid2d[..., None], joints2d, 0)[keep],
        valid2d=valid2d[keep],
        image_id=table.image_id[keep],
        person_id=table.person_id[keep],
        summary=f"MPII, {path}: {len(names)} people in {len(set(names))} images; left out: {tally}{missing}",
        head_size=np.nan_to_num(table.head_size[keep], posinf=0).astype(np.float32),
        split=split,
    )


def _boxes(table: _Table, box_scale: float) -> NDArray[np.float32]:
    """Square boxes [N, 4] ltwh: the marked position is above the middle of the person."""
    side = table.scale * _PX_PER_SCALE * box_scale
    x, y = table.position.T
    return np.stack([x - side / 2, y + _DOWN * table.scale - side / 2, side, side], 1).astype(np.float32)


def _read_json(path: Path) -> _Table:
    """HRNet's and mmpose's list of people; missing joints are -1 with joints_vis 0."""
    rows = read_json(path, "get it again from HRNet or mmpose")
    joints = np.array([row["joints"] for row in rows], np.float64).reshape(-1, _JOINTS, 2)
    labelled = np.array([row["joints_vis"] for row in rows], np.float64).reshape(-1, _JOINTS) > 0
    position = np.array([row["center"] for row in rows], np.float64).reshape(-1, 2)
    scale = np.array([row["scale"] for row in rows], np.float64).reshape(-1)
    names = [str(row["image"]) for row in rows]
    return _Table(
        joints2d=np.where(labelled[..., None], joints - 1, np.nan),
        position=np.where(position[:, :1] > 0, position - 1, np.nan),  # -1: not marked
        scale=scale,
        head_size=np.where(scale > 0, _HEAD * scale, np.nan),
        names=names,
        image_id=_numbers(names),
        person_id=np.arange(len(rows), dtype=np.int64),
        tally=Tally(),
    )


def _read_h5(path: Path) -> _Table:
    """pose-hg-train's arrays; missing joints are (0, 0), and box and scale have their offsets and margin already."""
    again = "get it again from pose-hg-train's data/mpii/annot"
    arrays = read_h5(path, _H5_SHAPES, again)
    count = len(arrays["part"])
    scale = arrays["scale"] / _H5_MARGIN
    listed = path.with_name(f"{path.stem}_images.txt")
    if not listed.is_file():
        raise PoseZooError(f"There is no {listed}, which names the images of {path.name}: {again}.")
    names = listed.read_text(encoding="utf-8", errors="replace").split()
    if len(names) != count:
        raise PoseZooError(f"{listed} names {len(names)} images for the {count} people of {path.name}: {again}.")
    position = arrays["center"] - np.stack([np.zeros(count), _DOWN * scale], 1)
    return _Table(
        joints2d=np.where((arrays["part"] != 0).any(-1, keepdims=True), arrays["part"] - 1, np.nan),
        position=position - 1,
        scale=scale,
        head_size=np.where(arrays["normalize"] > 0, arrays["normalize"], np.nan),
        names=names,
        image_id=arrays["index"].astype(np.int64),
        person_id=arrays["person"].astype(np.int64),
        tally=Tally(),
    )


def _read_official(path: Path) -> _Table:
    """The RELEASE struct: people of the training images (img_train = 1) that have joints."""
    again = "unpack mpii_human_pose_v1_u12_2.zip again"
    release = read_mat(path, ["RELEASE"], again)["RELEASE"]
    images, training = _structs(release["annolist"]), np.asarray(release["img_train"], np.float64).ravel()
    if len(training) != len(images):
        raise PoseZooError(f"{path} has {len(images)} images but {len(training)} img_train flags: {again}.")
    tally = Tally()
    rows: list[tuple[str, int, int, dict[str, Any]]] = []
    for number in np.flatnonzero(training == 1):
        name = str(images[number]["image"]["name"])
        for place, person in enumerate(_structs(images[number]["annorect"])):
            if _structs(person.get("annopoints")):
                rows.append((name, int(number), place, person))
            else:
                tally.leave_out("without joints", [f"{name} {place}"])
    people = [person for *_, person in rows]
    rectangles = np.array([[_number(p.get(key)) for key in ("x1", "y1", "x2", "y2")] for p in people]).reshape(-1, 4)
    return _Table(
        joints2d=np.array([_points(person) for person in people]).reshape(-1, _JOINTS, 2),
        position=np.array([_position(person) for person in people]).reshape(-1, 2),
        scale=np.array([_number(person.get("scale")) for person in people]),
        head_size=0.6 * np.hypot(rectangles[:, 2] - rectangles[:, 0], rectangles[:, 3] - rectangles[:, 1]),
        names=[name for name, *_ in rows],
        image_id=np.array([number for _, number, *_ in rows], np.int64),
        person_id=np.array([place for _, _, place, _ in rows], np.int64),
        tally=tally,
    )


def _structs(value: Any) -> list[dict[str, Any]]:
    """A MATLAB struct or array of structs as a list; what is empty, or a number, has none."""
    if isinstance(value, dict):
        return [value]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [item for item in value.ravel(order="F") if isinstance(item, dict)]
    return []


def _number(value: Any) -> float:
    """A MATLAB number; NaN for []."""
    numbers = np.asarray(np.nan if value is None else value, np.float64).ravel()
    return float(numbers[0]) if len(numbers) else np.nan


def _points(person: dict[str, Any]) -> NDArray[np.float64]:
    joints = np.full((_JOINTS, 2), np.nan)
    for point in _structs(_structs(person["annopoints"])[0].get("point")):
        joint = _number(point["id"])
        if joint not in range(_JOINTS):
            raise ValueError(f"joint {joint:g}, but MPII has 0 to {_JOINTS - 1}")
        joints[int(joint)] = _number(point["x"]) - 1, _number(point["y"]) - 1
    return joints


def _position(person: dict[str, Any]) -> tuple[float, float]:
    marked = _structs(person.get("objpos"))
    return (_number(marked[0]["x"]) - 1, _number(marked[0]["y"]) - 1) if marked else (np.nan, np.nan)


def _numbers(names: Iterable[str]) -> NDArray[np.int64]:
    """A number for every distinct name, in the order of the names."""
    return np.unique(np.array(list(names), dtype=np.str_), return_inverse=True)[1].astype(np.int64)
