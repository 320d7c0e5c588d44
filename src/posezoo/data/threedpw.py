"""3DPW, people in the wild (von Marcard et al., ECCV 2018), in the official layout.

    root/sequenceFiles/train/courtyard_arguing_00.pkl ..., validation/..., test/...
    root/imageFiles/courtyard_arguing_00/image_00000.jpg ...

The pickles are read with an unpickler that knows arrays and builtin containers only and so never runs code. The data
are licensed to each user by their authors; posezoo neither ships nor fetches them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.annotated import CameraPeople, join
from posezoo.data.base import PoseDataModule, finite
from posezoo.data.boxes import joint_boxes
from posezoo.data.evaluation import Records
from posezoo.data.files import Tally, check_images, numbered
from posezoo.data.images import ImageError
from posezoo.data.mat import one_line
from posezoo.data.pictures import picture_size
from posezoo.data.safe_pickle import read_pickle
from posezoo.errors import PoseZooError
from posezoo.metrics.protocols import SMPL_JOINTS
from posezoo.skeletons import SMPL24

SPLITS: dict[str, tuple[str, ...]] = {"train": ("train",), "val": ("validation",), "test": ("test",)}
_WANTED = "imageFiles and sequenceFiles (of imageFiles.zip and sequenceFiles.zip)"
_IMAGE = "{}/image_{:05d}.jpg"
_JOINTS = len(SMPL24)


class ThreeDPW(PoseDataModule):
    """3DPW with the moving camera of every frame; joints are SMPL's 24, of each person's own body.

    People of frames whose camera pose is marked invalid, and people whom no 2D pose was found for, are left out (as
    3DPW's own evaluation does) and counted. The box is the one around the projected joints.

    Args:
        root: Folder with `imageFiles` and `sequenceFiles`.
        margin: Box around the projected joints, on each side, as share of the longer side: joints lie inside the body.
        **keywords: As for `PoseDataModule`. With `protocol: 3dpw`, validation and test are all three official splits.
    """

    def __init__(self, root: str | None = None, *, margin: float = 0.1, **keywords: Any) -> None:
        super().__init__(root, **keywords)
        if not 0 <= margin < np.inf:
            raise PoseZooError(f"--data.margin must not be negative, got {margin}.")
        self.margin = margin
        self._opened: dict[tuple[str, ...], ThreeDPWPeople] = {}

    def people(self, split: str) -> "ThreeDPWPeople":
        """The people of a split; under a protocol, "val" and "test" are what that is defined on."""
        if split not in SPLITS:
            raise PoseZooError(
                f"ThreeDPW has no '{split}' split: use fit, validate or test, or give pictures with --data ImageFolder."
            )
        names = SPLITS[split]
        if split != "train" and self.protocols and self.protocols[0].subjects:
            names = tuple(name for name, *_ in SPLITS.values() if name in self.protocols[0].subjects) or names
        if names not in self._opened:
            self._opened[names] = open_people(self.root, names, self.margin)
        return self._opened[names]

    def annotation(self, split: str) -> str:
        """The joints of SMPL; those that Human3.6M's regressor makes of its mesh need SMPL itself."""
        return SMPL_JOINTS

    def sequence_names(self) -> tuple[str, ...]:
        """People of recordings, such as "courtyard_arguing_00 person 1", of the scored split."""
        return self.people("test").sequences

    def protocol(self, split: str) -> str:
        """What the scores of a split mean."""
        people = self.people(split)
        return (
            f"3DPW, {' + '.join(people.splits)}, {len(people)} people in frames with a valid camera and a 2D pose, "
            "SMPL joints, mean over joints and frames"
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ThreeDPWPeople(CameraPeople):
    """Annotated people as arrays; every frame has a camera of its own.

    Attributes:
        split: int32 [N], place in `splits`.
        splits: Official names.
    """

    split: NDArray[np.int32]
    splits: tuple[str, ...]

    def records(self) -> Records:
        """The official split and frame of every sample."""
        return Records(np.array(self.splits)[self.split], self.frame)


def open_people(root: Path | None, splits: Sequence[str], margin: float = 0.1) -> ThreeDPWPeople:
    """Read all sequences of some official splits.

    Raises:
        PoseZooError: Files are missing or damaged (all of them are named), or most images are missing.
    """
    folder = _checked_root(root)
    paths = [path for split in splits for path in _sequence_files(folder, split)]
    parts: list[dict[str, NDArray[Any]]] = []
    cameras: list[dict[str, NDArray[Any]]] = []
    failed: list[str] = []
    for path in paths:
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                part, camera = _read_sequence(path)
        except PoseZooError as error:
            failed.append(str(error).rstrip("."))
        except Exception as error:  # a damaged pickle raises nearly anything
            failed.append(f"{path} is not a sequence of 3DPW ({one_line(error)})")
        else:
            part["view"] = part["view"] + sum(len(c["K"]) for c in cameras)
            parts.append(part)
            cameras.append(camera | {"size": _sizes(folder, path.stem, camera["K"])})
    if failed:
        more = f", and {len(failed) - 3} others" if len(failed) > 3 else ""
        raise PoseZooError(f"{'; '.join(failed[:3])}{more}: take them from sequenceFiles.zip again.")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no label
        return _people(folder, join(parts), join(cameras), margin)


def _people(
    folder: Path, table: dict[str, NDArray[Any]], cameras: dict[str, NDArray[Any]], margin: float
) -> ThreeDPWPeople:
    camera = Camera.create(cameras["K"], rotation=cameras["R"], translation=cameras["t"])
    joints3d = table["joints3d"].astype(np.float32)
    valid3d = finite(joints3d, joints3d[..., 2] > 1)  # what is behind the camera has no pixel
    assert valid3d is not None
    pixels, inside = _projected(joints3d, valid3d, cameras, table["view"])
    reasons = (
        ("people in frames without a valid camera", ~table["camera_valid"]),
        ("people without a 2D pose", ~table["detected"]),
        ("people without joints in front of the camera", ~valid3d[:, SMPL24.root] | (valid3d.sum(1) < 2)),
        ("people outside the image", ~inside),
    )
    tally, keep = Tally(), np.ones(len(joints3d), bool)
    for reason, bad in reasons:
        tally.leave_out(reason, (_name(table, int(row)) for row in np.flatnonzero(keep & bad)))
        keep &= ~bad
    table = {name: column[keep] for name, column in table.items()}
    images = [_IMAGE.format(video, frame) for video, frame in zip(table["video"], table["frame"], strict=True)]
    videos, video = numbered(table["video"].tolist())
    people = [f"{name} person {person}" for name, person in zip(table["video"], table["person"], strict=True)]
    sequences, sequence = numbered(people)
    splits, split = numbered(table["split"].tolist())
    unique = sorted(set(images))
    missing = check_images(folder / "imageFiles", unique, "unpack all of imageFiles.zip there")
    return ThreeDPWPeople(
        folder=folder / "imageFiles",
        skeleton=SMPL24,
        image=np.array([name.encode() for name in images], np.bytes_),
        boxes=joint_boxes(pixels[keep], valid3d[keep], margin),
        joints3d=joints3d[keep],
        valid3d=valid3d[keep],
        joints2d=pixels[keep],
        valid2d=valid3d[keep],
        view=table["view"].astype(np.int32),
        cameras=camera,
        sizes=cameras["size"].astype(np.int32),
        subject=video,
        subjects=videos,
        sequence=sequence,
        sequences=sequences,
        frame=table["frame"].astype(np.int32),
        action=np.zeros(len(images), np.int32),
        image_id=table["view"].astype(np.int64),
        person_id=table["person"].astype(np.int64),
        summary=(
            f"3DPW, {folder}: {len(images)} people in {len(unique)} frames of {len(videos)} sequences "
            f"({', '.join(splits)}); left out: {tally}{missing}"
        ),
        first_frame=0,
        split=split,
        splits=splits,
    )


def _name(table: dict[str, NDArray[Any]], row: int) -> str:
    return f"{table['video'][row]} person {table['person'][row]} frame {table['frame'][row]}"


def _projected(
    joints3d: NDArray[np.float32], valid: NDArray[np.bool_], cameras: dict[str, NDArray[Any]], view: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pixels [N, 24, 2], and who has any joint in the image."""
    safe = np.where(valid[..., None], joints3d, np.array([0, 0, 1], np.float32)).astype(np.float64)
    pixels = np.einsum("nij,nkj->nki", cameras["K"][view], safe)
    pixels = pixels[..., :2] / pixels[..., 2:]
    inside = ((pixels > -0.5) & (pixels < cameras["size"][view][:, None] - 0.5)).all(-1)
    return np.where(valid[..., None], pixels, 0).astype(np.float32), (inside & valid).any(1)


def _checked_root(root: Path | None) -> Path:
    if root is None:
        raise PoseZooError(f"ThreeDPW does not know where its files are: set --data.root to the folder with {_WANTED}.")
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the folder with {_WANTED}.")
    for name in ("sequenceFiles", "imageFiles"):
        if not (root / name).is_dir():
            raise PoseZooError(f"{root} has no folder '{name}': unpack {name}.zip in {root}.")
    return root


def _sequence_files(folder: Path, split: str) -> list[Path]:
    paths = sorted((folder / "sequenceFiles" / split).glob("*.pkl"))
    if not paths:
        raise PoseZooError(
            f"No sequences at {folder / 'sequenceFiles' / split}: unpack sequenceFiles.zip, with its folders train, "
            f"validation and test, in {folder}."
        )
    return paths


def _sizes(folder: Path, video: str, intrinsics: NDArray[np.float64]) -> NDArray[np.int64]:
    """(width, height) of every frame's image: that of the first one; without images, the principal point's double."""
    try:
        first = min((folder / "imageFiles" / video).glob("*.jpg"), default=None)
        size = None if first is None else picture_size(first)
    except ImageError:  # training decides what to do about it
        size = None
    if size is None:
        size = tuple(int(v) for v in np.rint(2 * np.nan_to_num(intrinsics[0, :2, 2])))  # type: ignore[assignment]
    return np.tile(np.array(size, np.int64), (len(intrinsics), 1))


def _read_sequence(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """One row for every person in every frame, mm in the camera's frame; and the camera of every frame.

    Names and units are the file's: `jointPositions` are metres in the world, `cam_poses` turn world into camera. The
    images are numbered like the rows of these, not like `img_frame_ids`, which count at 60 Hz.
    """
    data = read_pickle(path, "take it from sequenceFiles.zip again")
    poses = np.asarray(data["cam_poses"], np.float64)
    frames = len(poses)
    intrinsics = np.asarray(data["cam_intrinsics"], np.float64)
    people = data["jointPositions"]
    if poses.shape != (frames, 4, 4) or intrinsics.shape != (3, 3) or not frames or not len(people):
        raise ValueError(f"cam_poses {poses.shape}, cam_intrinsics {intrinsics.shape}, {len(people)} people")
    _check_camera(intrinsics)
    world = np.stack([np.asarray(joints, np.float64).reshape(frames, _JOINTS, 3) for joints in people])
    valid = np.stack([np.asarray(flags).reshape(frames) > 0 for flags in data["campose_valid"]])
    found = np.stack([np.asarray(pose, np.float64).reshape(frames, 3, -1)[:, 2] for pose in data["poses2d"]])
    if not len(world) == len(valid) == len(found):
        raise ValueError(f"joints of {len(world)} people, cameras of {len(valid)}, 2D poses of {len(found)}")
    rotation, translation = poses[:, :3, :3], poses[:, :3, 3]
    turned = np.abs(rotation @ rotation.mT - np.eye(3)).max((1, 2)) < 1e-3
    camera = np.einsum("tij,ptkj->ptki", rotation, world) + translation[None, :, None]
    count = len(world)
    rows = {
        "joints3d": (camera * 1000).reshape(-1, _JOINTS, 3),
        "camera_valid": (valid & turned).ravel(),
        "detected": (np.nan_to_num(found) > 0).any(-1).ravel(),
        "view": np.tile(np.arange(frames), count),
        "frame": np.tile(np.arange(frames), count),
        "person": np.repeat(np.arange(count), frames),
        "video": np.full(count * frames, path.stem),
        "split": np.full(count * frames, path.parent.name),
    }
    cameras = {
        "K": np.tile(intrinsics, (frames, 1, 1)),
        "R": np.where(turned[:, None, None], rotation, np.eye(3)),
        "t": np.where(turned[:, None], translation * 1000, 0),
    }
    return rows, cameras


def _check_camera(k: NDArray[np.float64]) -> None:
    if not (np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0 and np.array_equal(k[2], [0, 0, 1])):
        raise ValueError(f"cam_intrinsics are {k.tolist()}")
