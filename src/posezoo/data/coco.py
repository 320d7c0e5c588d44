"""COCO person keypoints (Lin et al., ECCV 2014), in the official layout.

    root/annotations/person_keypoints_train2017.json, person_keypoints_val2017.json
    root/train2017/000000000009.jpg ..., root/val2017/...            (or root/images/train2017 ...)

The images stay under their own licences; posezoo neither ships nor fetches them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.data.base import finite
from posezoo.data.boxes import grow_boxes
from posezoo.data.files import Tally, check_images, read_json
from posezoo.data.keypoints import KeypointModule, KeypointPeople, image_names
from posezoo.data.mat import one_line
from posezoo.errors import PoseZooError
from posezoo.skeletons import COCO17

LEFT_RIGHT = {"l_": "left_", "r_": "right_"}
# The file's names for our joints, in its order.
JOINT_NAMES = tuple(LEFT_RIGHT.get(joint[:2], joint[:2]) + joint[2:] for joint in COCO17.joints)
_REMEDY = "take it from COCO's annotations_trainval archive again"


class COCO(KeypointModule):
    """2D keypoints of people in photographs, without 3D labels or cameras: a weak source for `Mixed`.

    Crowds, people without a usable keypoint and people without a box are left out, and counted. COCO has no pelvis and
    no thorax: skeletons that have them get the midpoints of hips and shoulders where both sides are annotated.

    Args:
        root: Folder with `annotations` and the image folders.
        year: Of the files: 2017, or 2014 for the older split of the same images.
        occluded: Use keypoints that the annotators placed without seeing them (visibility 1), too.
        min_keypoints: Leave out people with fewer usable keypoints.
        box_scale: Factor on the annotated boxes, which hold the whole visible person; 3DMPPE's 1.25 adds a margin.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        year: int = 2017,
        occluded: bool = True,
        min_keypoints: int = 1,
        box_scale: float = 1.0,
        **keywords: Any,
    ) -> None:
        super().__init__(root, **keywords)
        if not 1 <= min_keypoints <= len(COCO17):
            raise PoseZooError(f"--data.min_keypoints must be 1 to {len(COCO17)}, got {min_keypoints}.")
        if not 0 < box_scale < np.inf:
            raise PoseZooError(f"--data.box_scale must be positive, got {box_scale}.")
        self.year, self.occluded, self.min_keypoints, self.box_scale = year, occluded, min_keypoints, box_scale

    def people(self, split: str) -> KeypointPeople:
        """The annotated people of "train" or "val"."""
        self.check_split(split)
        name = f"{split}{self.year}"
        annotations, images = _find(self.root, name)
        return open_people(annotations, images, self.occluded, self.min_keypoints, self.box_scale)


def _find(root: Path | None, name: str) -> tuple[Path, Path]:
    """Annotation file and image folder of a split."""
    wanted = f"annotations/person_keypoints_{name}.json and the folder {name}"
    if root is None:
        raise PoseZooError(f"COCO does not know where its files are: set --data.root to the folder with {wanted}.")
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the folder with {wanted}.")
    annotations = root / "annotations" / f"person_keypoints_{name}.json"
    if not annotations.is_file():
        raise PoseZooError(f"No annotations at {annotations}: unpack COCO's annotations_trainval archive in {root}.")
    for images in (root / name, root / "images" / name):
        if images.is_dir():
            return annotations, images
    raise PoseZooError(f"{root} has no folder '{name}' (nor images/{name}): unpack COCO's {name}.zip in {root}.")


def open_people(
    annotations: Path, images: Path, occluded: bool = True, min_keypoints: int = 1, box_scale: float = 1.0
) -> KeypointPeople:
    """Read one annotation file in COCO's format.

    Args:
        annotations: The JSON file.
        images: Folder of its images.
        occluded: Use keypoints of visibility 1, too.
        min_keypoints: Leave out people with fewer usable keypoints.
        box_scale: Factor on the boxes.

    Raises:
        PoseZooError: The file is damaged, is another kind of file, or most images are missing.
    """
    content = read_json(annotations, _REMEDY)
    try:
        _check_skeleton(content, annotations)
        return _people(content, annotations, images, occluded, min_keypoints, box_scale)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PoseZooError(
            f"{annotations} is not a file of person keypoints ({one_line(error)}): {_REMEDY} "
            "(person_keypoints_*.json, not instances_*.json)."
        ) from error


def _check_skeleton(content: Any, path: Path) -> None:
    names = [tuple(category.get("keypoints", ())) for category in content["categories"]]
    if JOINT_NAMES not in names:
        found = next((", ".join(map(str, joints[:3])) + ", ..." for joints in names if joints), "none")
        raise PoseZooError(
            f"{path} has the keypoints {found} instead of COCO's 17 (nose, left_eye, right_eye, ...): take "
            "person_keypoints_*.json, or write a dataset for your own skeleton (docs/custom_dataset.md)."
        )


def _people(
    content: Any, path: Path, images: Path, occluded: bool, min_keypoints: int, box_scale: float
) -> KeypointPeople:
    files = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
    rows = content["annotations"]
    ids = np.array([row["id"] for row in rows], np.int64)
    crowd = np.array([bool(row["iscrowd"]) for row in rows], bool)
    unknown = np.array([row["image_id"] not in files for row in rows], bool)
    boxes = _boxes([row["bbox"] for row in rows], box_scale)
    joints2d, valid2d = _joints([row["keypoints"] for row in rows], occluded)
    labels = valid2d.sum(1)
    tally, keep = Tally(), np.ones(len(rows), bool)
    for reason, bad in (
        ("crowds", crowd),
        ("without usable keypoints", labels == 0),
        (f"with fewer than {min_keypoints} usable keypoints", labels < min_keypoints),
        ("without a box", ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 1).all(1))),
        ("of images that the file does not list", unknown),
    ):
        tally.leave_out(reason, ids[keep & bad])
        keep &= ~bad
    names = [files[row["image_id"]] for row, kept in zip(rows, keep, strict=True) if kept]
    missing = check_images(images, sorted(set(names)), f"unpack all of COCO's {images.name}.zip there")
    return KeypointPeople(
        folder=images,
        skeleton=COCO17,
        image=image_names(names),
        boxes=boxes[keep],
        joints2d=joints2d[keep],
        valid2d=valid2d[keep],
        image_id=np.array([row["image_id"] for row, kept in zip(rows, keep, strict=True) if kept], np.int64),
        person_id=ids[keep],
        summary=f"COCO, {path}: {len(names)} people in {len(set(names))} images; left out: {tally}{missing}",
    )


def _boxes(rows: list[Any], scale: float) -> NDArray[np.float32]:
    """Boxes [N, 4] ltwh, grown about their centres."""
    return grow_boxes(np.array(rows, np.float64).reshape(-1, 4), scale)


def _joints(rows: list[Any], occluded: bool) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pixels [N, 17, 2] and which are usable. COCO's visibility: 0 not labelled, 1 not seen, 2 seen.

    Pixels count from 0, as ours.
    """
    table = np.array(rows, np.float64).reshape(-1, len(COCO17), 3)
    with np.errstate(over="ignore", invalid="ignore"):
        joints2d = table[..., :2].astype(np.float32)
    valid = finite(joints2d, table[..., 2] >= (1 if occluded else 2))
    assert valid is not None
    return np.where(valid[..., None], joints2d, 0).astype(np.float32), valid
