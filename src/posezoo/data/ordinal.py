"""Photographs with 2D joints and the depth order of joint pairs: LSP and MPII with the labels of Pavlakos et al.

"Ordinal Depth Supervision for 3D Human Pose Estimation", CVPR 2018. Layout of their lsp-mpii-ordinal.zip:

    root/joints.mat      `joints` [3, J, N]: x, y, visible
    root/ordinal.mat     `ord` [N, J, J]: order of a row's and a column's joint, 1, 0 (level) or -1; NaN is no label
    root/images/         00001_full.jpg ... (mpii_upis1h, 16 joints) or im0001.jpg ... (lsp_dataset_original, 14 joints)

The images stay under their own licences; posezoo neither ships nor fetches them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posezoo.data.base import ImageError
from posezoo.data.boxes import joint_boxes as joint_boxes
from posezoo.data.folder import picture_size
from posezoo.data.images import SourceImage
from posezoo.data.keypoints import KeypointModule, PhotographPeople
from posezoo.data.mat import read_mat
from posezoo.errors import PoseZooError
from posezoo.skeletons import LSP14, MPII16, Skeleton, get_skeleton
from posezoo.structures import Sample

SKELETONS = {16: MPII16, 14: LSP14}
FILE_NAMES = ("{:05d}_full.jpg", "im{:04d}.jpg")  # numbers count from 1
_FARTHEST_PX = 1e6  # what lies farther off is no label
_FEWEST_VOTES = 50  # legs whose bend must be known before it says anything about the sign

Order = NDArray[np.int8]


class OrdinalDepth(KeypointModule):
    """2D joints and annotated depth order, without 3D labels or cameras: a weak source for `Mixed`.

    One folder of the release, so LSP and MPII are two sources. Joint order is MPII's for 16 joints and LSP's for 14. A
    part of the model's skeleton has an order where both its joints are annotated themselves: an order of derived joints
    (LSP has no pelvis and no thorax) is not known. Crops are `image_plane`, from a guessed field of view of 8 degrees;
    the box is always the one around the joints, because `pelvis_2000mm` needs depths that nobody has here.

    Args:
        root: Folder with joints.mat, ordinal.mat and images.
        positive: What 1 means in ordinal.mat: the row's joint is "closer" to the camera than the column's (the paper's
            text) or "farther" (what readers of the release report). Labels by which knees would bend forwards are
            refused.
        first_pixel: Coordinate of the first pixel in joints.mat: 0, or 1 as in MATLAB.
        margin: Box around the annotated joints, on each side, as share of the longer side.
        val_share: Share of the people, the last in the file, that is kept for validation; they have no 3D to score.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        positive: Literal["closer", "farther"] = "closer",
        first_pixel: Literal[0, 1] = 0,
        margin: float = 0.1,
        val_share: float = 0.0,
        **keywords: Any,
    ) -> None:
        super().__init__(root, **keywords)
        if positive not in ("closer", "farther"):
            raise PoseZooError(f"--data.positive is closer or farther, got '{positive}'.")
        if first_pixel not in (0, 1):
            raise PoseZooError(f"--data.first_pixel is 0 or 1, got {first_pixel}.")
        if margin < 0:
            raise PoseZooError(f"--data.margin must not be negative, got {margin}.")
        if not 0 <= val_share < 1:
            raise PoseZooError(f"--data.val_share must be at least 0 and below 1, got {val_share}.")
        self.positive, self.first_pixel, self.margin, self.val_share = positive, first_pixel, margin, val_share
        self._everybody: OrdinalPeople | None = None

    def people(self, split: str) -> "OrdinalPeople":
        """The people of "train" or "val": the first and the last in the file."""
        self.check_split(split)
        if split == "val" and not self.val_share:
            raise PoseZooError(
                "OrdinalDepth keeps nobody for validation: set --data.val_share, or make it a source of --data Mixed, "
                "which validates on another."
            )
        if self._everybody is None:
            self._everybody = open_people(
                self.root, get_skeleton(self.skeleton), self.positive, self.first_pixel, self.margin
            )
        # A block, not every n-th: neighbours in the file are often people of one photograph or video.
        kept = round(len(self._everybody) * self.val_share)
        first = len(self._everybody) - kept
        return self._everybody.part(slice(first) if split == "train" else slice(first, None))

    def protocol(self, split: str) -> str:
        """There is nothing to score in millimetres."""
        return "OrdinalDepth: 2D joints and depth order only, nothing is scored in mm"


@dataclass(frozen=True, eq=False, repr=False)
class OrdinalPeople(PhotographPeople):
    """Annotated people as arrays; one image each.

    Attributes:
        root: Folder of the release.
        file_name: Pattern of the image names.
        skeleton: MPII16 or LSP14.
        number: int32 [N], place of each person in the files.
        joints2d: float32 [N, J, 2] px, first pixel 0; `valid2d` bool [N, J].
        order: int8 [N, P] on the parts of the target skeleton, +1 child nearer than parent; `valid_order` bool [N, P].
        boxes: float32 [N, 4] ltwh, px.
    """

    root: Path
    file_name: str
    skeleton: Skeleton
    number: NDArray[np.int32]
    joints2d: NDArray[np.float32]
    valid2d: NDArray[np.bool_]
    order: Order
    valid_order: NDArray[np.bool_]
    boxes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.number)

    def part(self, rows: Any) -> "OrdinalPeople":
        """The people of some rows."""
        arrays = (self.number, self.joints2d, self.valid2d, self.order, self.valid_order, self.boxes)
        return OrdinalPeople(self.root, self.file_name, self.skeleton, *(array[rows] for array in arrays))

    def _sample(self, index: int, image: SourceImage | None, size: tuple[int, int]) -> Sample:
        return Sample(
            image=image,
            box=self.boxes[index],
            size=size,
            joints2d=self.joints2d[index],
            valid2d=self.valid2d[index],
            depth_order=self.order[index],
            valid_order=self.valid_order[index],
            identity={"image_id": int(self.number[index])},
        )

    def path(self, index: int) -> Path:
        """The image of a person."""
        return self.root / "images" / self.file_name.format(self.number[index] + 1)

    def meta(self, index: int) -> dict[str, Any]:
        """Path of the image."""
        return {"path": str(self.path(index))}


def open_people(
    root: Path | None, target: Skeleton, positive: str = "closer", first_pixel: int = 0, margin: float = 0.1
) -> OrdinalPeople:
    """Read one folder of the release; people with fewer than two annotated joints are left out.

    Raises:
        PoseZooError: Files are missing or hold something else, or their labels contradict images or anatomy.
    """
    folder = _checked_root(root)
    joints = _read(folder / "joints.mat", "joints")
    order = _read(folder / "ordinal.mat", "ord")
    count, people = joints.shape[1:] if joints.ndim == 3 else (0, 0)
    if count not in SKELETONS or joints.shape[0] != 3:
        raise PoseZooError(
            f"{folder / 'joints.mat'} has 'joints' of shape {joints.shape}, expected (3, 16, N) for MPII or (3, 14, N) "
            "for LSP: take it from lsp-mpii-ordinal.zip."
        )
    if order.shape != (people, count, count):
        raise PoseZooError(
            f"{folder / 'ordinal.mat'} has 'ord' of shape {order.shape}, expected {(people, count, count)}: it does "
            "not belong to the joints.mat beside it."
        )
    skeleton = SKELETONS[count]
    joints2d, valid2d = _labels2d(joints, skeleton, first_pixel)
    nearer, known = nearer_than(order, positive, folder / "ordinal.mat")
    check_bend(nearer, joints2d, skeleton, positive, folder / "ordinal.mat")
    parts, valid_parts = part_order(nearer, known & valid2d[:, :, None] & valid2d[:, None], skeleton, target)
    found = OrdinalPeople(
        root=folder,
        file_name=_file_name(folder),
        skeleton=skeleton,
        number=np.arange(people, dtype=np.int32),
        joints2d=joints2d,
        valid2d=valid2d,
        order=parts,
        valid_order=valid_parts,
        boxes=joint_boxes(joints2d, valid2d, margin),
    ).part(valid2d.sum(1) >= 2)
    _check_fit(found)
    return found


def nearer_than(order: NDArray[Any], positive: str, path: Path) -> tuple[Order, NDArray[np.bool_]]:
    """Depth order of every pair of joints in one convention.

    A release may hold both triangles of the matrix or one. A pair whose two entries contradict each other is unknown.

    Args:
        order: [N, J, J] as in the file: 1, 0, -1, or NaN without a label.
        positive: What 1 means: the row's joint is "closer" or "farther".
        path: For messages.

    Returns:
        int8 [N, J, J], +1 where the row's joint is nearer to the camera than the column's; and bool, which are known.

    Raises:
        PoseZooError: Other values than these.
    """
    known = ~np.isnan(order)
    values = np.where(known, order, 0)
    if not np.isin(values, (-1, 0, 1)).all():
        wrong = values[~np.isin(values, (-1, 0, 1))][0]
        raise PoseZooError(f"{path} holds the depth order {wrong:g}, but only 1, 0, -1 and NaN have a meaning.")
    near = values.astype(np.int8) * np.int8(1 if positive == "closer" else -1)
    upper = np.triu(np.ones(near.shape[1:], bool), 1)
    for half in (upper, upper.T):
        if not near[:, ~half].any():  # one triangle is empty: it is the other one's mirror
            near, known = np.where(half, near, 0), known & half
            return near - near.mT, known | known.mT
    mirrored, known_mirrored = -near.mT, known.mT
    agree = (near == mirrored) | ~known | ~known_mirrored
    near = np.where(known, near, mirrored)
    return near, (known | known_mirrored) & agree


def part_order(
    nearer: Order, known: NDArray[np.bool_], source: Skeleton, target: Skeleton
) -> tuple[Order, NDArray[np.bool_]]:
    """Depth order of the target's parts, +1 child nearer than parent; only of joints that the source has by name.

    Args:
        nearer: [N, J, J], +1 where the row's joint is nearer.
        known: [N, J, J] which of them are labelled.
        source: Skeleton of rows and columns.
        target: Skeleton whose parts are wanted.

    Returns:
        int8 and bool [N, P]; an unknown order is 0 with a False mask.
    """
    order = np.zeros((len(nearer), len(target.parts)), np.int8)
    valid = np.zeros(order.shape, bool)
    for number, (parent, child) in enumerate(target.parts):
        names = target.joints[child], target.joints[parent]
        if all(name in source.joints for name in names):
            row, column = (source.index(name) for name in names)
            valid[:, number] = known[:, row, column]
            order[:, number] = np.where(valid[:, number], nearer[:, row, column], 0)
    return order, valid


def check_bend(nearer: Order, joints2d: NDArray[np.float32], skeleton: Skeleton, positive: str, path: Path) -> None:
    """Refuse labels of the wrong sign, which train as well and teach the opposite: by them, knees bend forwards.

    Seen from the front (right shoulder and hip left of the left ones in the image), a bent knee is nearer than its
    ankle; seen from behind, farther. In 4800 motion capture poses from random sides that holds for 93 % of the legs.

    Raises:
        PoseZooError: It holds for less than a third, of enough legs.
    """
    x = {name: joints2d[:, skeleton.index(name), 0] for name in ("l_shoulder", "r_shoulder", "l_hip", "r_hip")}
    shoulders, hips = x["l_shoulder"] > x["r_shoulder"], x["l_hip"] > x["r_hip"]
    facing = np.where(shoulders & hips, 1, np.where(~shoulders & ~hips, -1, 0))
    votes = np.concatenate(
        [nearer[:, skeleton.index(f"{side}_knee"), skeleton.index(f"{side}_ankle")] * facing for side in "lr"]
    )
    backwards, total = int((votes > 0).sum()), int((votes != 0).sum())
    if total >= _FEWEST_VOTES and 3 * backwards < total:
        other = "farther" if positive == "closer" else "closer"
        raise PoseZooError(
            f"By the depth order in {path}, knees bend forwards in {total - backwards} of {total} legs, so its sign is "
            f"the other one: set --data.positive {other} (now {positive})."
        )


def _labels2d(
    joints: NDArray[Any], skeleton: Skeleton, first_pixel: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pixels [N, J, 2] that count from 0, and which are annotated."""
    rows = joints.transpose(2, 1, 0)
    valid = (np.abs(rows[..., :2]) < _FARTHEST_PX).all(-1)  # False for NaN, too
    if skeleton is MPII16:  # LSP's flag has both meanings in circulation, and all its joints have coordinates
        valid &= rows[..., 2] > 0
    pixels = np.where(valid[..., None], rows[..., :2] - first_pixel, 0)
    return pixels.astype(np.float32), valid


def _checked_root(root: Path | None) -> Path:
    wanted = "joints.mat, ordinal.mat and images (mpii_upis1h or lsp_dataset_original of lsp-mpii-ordinal.zip)"
    if root is None:
        raise PoseZooError(
            f"OrdinalDepth does not know where its files are: set --data.root to the folder with {wanted}."
        )
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the folder with {wanted}.")
    for name in ("joints.mat", "ordinal.mat", "images"):
        if not (root / name).exists():
            raise PoseZooError(f"{root} has no '{name}': set --data.root to the folder with {wanted}.")
    return root


def _read(path: Path, field: str) -> NDArray[np.float64]:
    """One field of a .mat file."""
    again = "take it from lsp-mpii-ordinal.zip again"
    array = read_mat(path, [field], again)[field]
    if not isinstance(array, np.ndarray) or array.dtype == object:
        raise PoseZooError(f"{path} has no numbers in '{field}': {again}.")
    return array.astype(np.float64)


def _file_name(folder: Path) -> str:
    for pattern in FILE_NAMES:
        if (folder / "images" / pattern.format(1)).is_file():
            return pattern
    names = " nor ".join(pattern.format(1) for pattern in FILE_NAMES)
    raise PoseZooError(f"{folder / 'images'} has neither {names}: unpack all of lsp-mpii-ordinal.zip there.")


def _check_fit(people: OrdinalPeople) -> None:
    """Refuse 2D labels of other images or another size, on a few people spread over the file."""
    for index in np.linspace(0, len(people) - 1, min(len(people), 16)).astype(int):
        try:
            width, height = picture_size(people.path(index))
        except ImageError:  # training decides what to do about it
            continue
        joints = people.joints2d[index][people.valid2d[index]]
        beyond = ((joints <= -1) | (joints >= np.array([width, height]))).sum(1) > 0
        if beyond.mean() > 0.5:
            raise PoseZooError(
                f"{people.path(index)} is {width} x {height} px, but most of its joints in joints.mat lie outside: the "
                "images and joints.mat are not of one kind."
            )
