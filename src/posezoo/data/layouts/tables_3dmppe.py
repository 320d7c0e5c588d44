"""The JSON tables that 3DMPPE (Moon et al., ICCV 2019) made of MuCo-3DHP and MuPoTS-3D.

images       id, file_name, width, height, and the camera: f and c, or intrinsic (fx, fy, cx, cy)
annotations  id, image_id, bbox (ltwh), keypoints_cam (mm), keypoints_img (px), maybe keypoints_vis and is_valid
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.data.files import Tally, read_json
from posezoo.data.mat import one_line
from posezoo.errors import PoseZooError


@dataclass(frozen=True, eq=False)
class Table:
    """N annotated people in M images.

    Attributes:
        names: Names [M] of the images; `ids` int64 [M], their numbers.
        sizes: int32 [M, 2] (width, height), px; `focal` and `centre` float64 [M, 2], px.
        image: int64 [N], place of each person's image in these.
        number: int64 [N], numbers of the annotations.
        boxes: float32 [N, 4] ltwh, px.
        joints3d: float32 [N, J, 3] mm, camera frame; `joints2d` float32 [N, J, 2] px.
        valid: bool [N, J], with finite numbers and in front of the camera.
    """

    names: list[str]
    ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    focal: NDArray[np.float64]
    centre: NDArray[np.float64]
    image: NDArray[np.int64]
    number: NDArray[np.int64]
    boxes: NDArray[np.float32]
    joints3d: NDArray[np.float32]
    joints2d: NDArray[np.float32]
    valid: NDArray[np.bool_]


def read_table(path: Path, joints: int, remedy: str, tally: Tally) -> Table:
    """Read a table; people that are not valid, without labels or of unknown images are counted and left out.

    Args:
        path: The JSON file.
        joints: Joints of the skeleton that is expected.
        remedy: What to do about another file, the end of the sentence.
        tally: Counts what is left out.

    Raises:
        PoseZooError: The file is damaged or holds something else.
    """
    content = read_json(path, remedy)
    try:
        return _table(content, joints, tally)
    except PoseZooError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise PoseZooError(f"{path} is not a table of 3DMPPE ({one_line(error)}): {remedy}.") from error


def _table(content: Any, joints: int, tally: Tally) -> Table:
    images, rows = list(content["images"]), list(content["annotations"])
    place = {int(entry["id"]): number for number, entry in enumerate(images)}
    names = [str(entry["file_name"]) for entry in images]
    if not all(name.isascii() for name in names):
        raise ValueError("image names are not plain text")
    cameras = np.array([_camera(entry) for entry in images], np.float64).reshape(-1, 4)
    sizes = np.array([[entry["width"], entry["height"]] for entry in images], np.int32).reshape(-1, 2)
    if not (np.isfinite(cameras).all() and (cameras[:, :2] > 0).all() and (sizes > 0).all()):
        raise ValueError("an image has a size or a camera that no image has")
    joints3d = _numbers(rows, "keypoints_cam", (joints, 3))
    joints2d = _numbers(rows, "keypoints_img", (joints, 2))
    boxes = _numbers(rows, "bbox", (4,))
    valid = np.isfinite(joints3d).all(-1) & np.isfinite(joints2d).all(-1) & (joints3d[..., 2] > 0)
    number = np.array([int(row["id"]) for row in rows], np.int64)
    keep = np.ones(len(rows), bool)
    for reason, bad in (
        ("not valid", np.array([not row.get("is_valid", 1) for row in rows], bool)),
        ("of images that the file does not list", np.array([row["image_id"] not in place for row in rows], bool)),
        ("without labels", ~valid.any(1)),
        ("without a box", ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 1).all(1))),
    ):
        tally.leave_out(reason, number[keep & bad])
        keep &= ~bad
    kept = np.flatnonzero(keep)
    return Table(
        names=names,
        ids=np.array(list(place), np.int64),
        sizes=sizes,
        focal=cameras[:, :2],
        centre=cameras[:, 2:],
        image=np.array([place[rows[row]["image_id"]] for row in kept], np.int64),
        number=number[kept],
        boxes=boxes[kept],
        joints3d=np.where(valid[..., None], joints3d, 0)[kept],
        joints2d=np.where(valid[..., None], joints2d, 0)[kept],
        valid=valid[kept],
    )


def _camera(entry: Any) -> list[float]:
    values = entry["intrinsic"] if "intrinsic" in entry else [*entry["f"], *entry["c"]]
    fx, fy, cx, cy = (float(value) for value in values)
    return [fx, fy, cx, cy]


def _numbers(rows: list[Any], key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    table = np.array([row[key] for row in rows], np.float64).reshape(len(rows), -1)
    if len(rows) and np.shape(rows[0][key]) != shape:
        raise ValueError(f"'{key}' has the shape {np.shape(rows[0][key])}, expected {shape}: another skeleton")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is unlabelled
        return table.reshape(len(rows), *shape).astype(np.float32)
