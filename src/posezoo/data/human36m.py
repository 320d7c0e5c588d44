"""Human3.6M (Ionescu et al., TPAMI 2014), in the layout that is found below the root.

mmpose's `preprocess_h36m.py`:

    root/images/S1/S1_Directions_1.54138969/S1_Directions_1.54138969_000001.jpg
    root/annotation_body3d/fps50/h36m_train.npz, h36m_test.npz     imgname, center, scale, part, S
    root/annotation_body3d/cameras.pkl                             or cameras.json

the official files, 3DMPPE's and VideoPose3D's (`human36m_clips`):

    root/S9/MyPoseFeatures/D3_Positions_mono/Posing 1.54138969.cdf, D2_Positions/...; root/metadata.xml
    root/annotations/Human36M_subject9_data.json, ..._camera.json, ..._joint_3d.json; root/images/s_09_act_...
    root/data_3d_h36m.npz; root/metadata.xml                       labels only, unless there are images

The data are licensed to each user by their authors; posezoo neither ships nor fetches them.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.annotated import MISFIT_PX
from posezoo.data.base import PoseDataModule, PoseDataset, finite
from posezoo.data.evaluation import Records
from posezoo.data.files import numbered, read_npz
from posezoo.data.images import SourceImage, open_image
from posezoo.data.layouts.human36m_cameras import FILES, CameraKey, find_cameras, pick_cameras
from posezoo.data.layouts.human36m_clips import (
    Clip,
    Clips,
    Wanted,
    image_names,
    is_3dmppe,
    is_official,
    is_videopose3d,
    read_3dmppe,
    read_official,
    read_videopose3d,
)
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.metrics.protocols import S9_CORRECTED, S9_RELEASED, S9_SHIFTED
from posezoo.skeletons import H36M17, conversion_weights, get_skeleton
from posezoo.structures import Sample

ANNOTATION_FILES = {"train": "h36m_train.npz", "val": "h36m_test.npz", "test": "h36m_test.npz"}
TRAIN_SUBJECTS = ("S1", "S5", "S6", "S7", "S8")
BENCHMARK_SUBJECTS = ("S9", "S11")
# The benchmark's fifteen actions, in its order; their position is the `action` of a Batch.
ACTIONS = (
    "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases", "Sitting",
    "SittingDown", "Smoking", "Waiting", "WalkDog", "Walking", "WalkTogether",
)  # fmt: skip
_SYNONYMS = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}
_IMAGE_NAME = re.compile(
    r"(?P<subject>S\d{1,9})_(?P<scene>.+)\.(?P<camera>\d+)_(?P<frame>\d{1,9})\.\w+", re.ASCII | re.DOTALL
)
_BOX_MARGIN = 1.2  # of mmpose's annotated boxes
_S9_SHIFT = (-200.0, 0.0, 0.0)  # mm in the world: where the labels of S9_SHIFTED belong (isarandi/metrabs)
_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path, Wanted], Clips]], ...] = (
    (is_3dmppe, read_3dmppe),
    (is_official, read_official),
    (is_videopose3d, read_videopose3d),
)
_KNOWN_LAYOUTS = (
    "annotation_body3d (mmpose), annotations/Human36M_subject*_data.json (3DMPPE), S*/MyPoseFeatures (the official "
    "files) or data_3d_h36m.npz (VideoPose3D)"
)


class Human36M(PoseDataModule):
    """Human3.6M with all cameras, in mmpose's, the official, 3DMPPE's or VideoPose3D's layout.

    Args:
        root: Folder of the dataset; its layout is detected and reported.
        box_scale: Factor on square boxes that are 1.2 times as large as the person's longer side, as mmpose's annotated
            ones; the default undoes that, because MeTRAbs (like the other methods here) crops without a margin. 1
            keeps it.
        train_subjects: Subjects to train on; null for S1, S5, S6, S7, S8 (with mmpose's files, whoever is in them).
        eval_subjects: Subjects to validate and test on; null for S9 and S11 (with mmpose's files, whoever is in them).
        every: Train on every n-th frame, counted from the first of each video at 50 fps.
        eval_every: The same for validation and test; leave it at 1 with a `protocol`, which chooses its frames itself.
        correct_s9: Move the labels of three recordings of S9, which are 200 mm off in the world, to where the person
            is. null corrects them unless the protocol is defined on the labels as released.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        box_scale: float = 1 / 1.2,
        train_subjects: list[str] | None = None,
        eval_subjects: list[str] | None = None,
        every: int = 1,
        eval_every: int = 1,
        correct_s9: bool | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(root, **keywords)
        if not 0 < box_scale < np.inf:
            raise PoseZooError(f"--data.box_scale must be positive, got {box_scale}.")
        for name, step in (("every", every), ("eval_every", eval_every)):
            if step < 1:
                raise PoseZooError(f"--data.{name} must be at least 1, got {step}.")
        for name, subjects in (("train_subjects", train_subjects), ("eval_subjects", eval_subjects)):
            for subject in subjects or ():
                if not re.fullmatch(r"S\d{1,2}", subject):
                    raise PoseZooError(f"--data.{name} are named like S9, got '{subject}'.")
        self.box_scale, self.every, self.eval_every = box_scale, every, eval_every
        self.train_subjects, self.eval_subjects, self.correct_s9 = train_subjects, eval_subjects, correct_s9
        self._opened: dict[str, Human36MPeople] = {}

    def people(self, split: str) -> "Human36MPeople":
        """The annotated people of a split; "val" and "test" are the same."""
        if split not in ANNOTATION_FILES:
            raise PoseZooError(
                f"Human36M has no '{split}' split: use fit, validate or test, or give pictures with --data ImageFolder."
            )
        file = ANNOTATION_FILES[split]
        if file not in self._opened:
            self._opened[file] = self._open(split, file)
        return self._opened[file]

    def _open(self, split: str, file: str) -> "Human36MPeople":
        train = split == "train"
        subjects, every = self.eval_subjects, self.eval_every
        if train:
            subjects, every = self.train_subjects, self.every
        root = _checked_root(self.root)
        if (root / "annotation_body3d").is_dir():
            people = open_people(root, file, self.box_scale, subjects, every)
        else:
            default = TRAIN_SUBJECTS if train else BENCHMARK_SUBJECTS
            people = open_clips(root, Wanted(tuple(subjects or default), every), self.box_scale)
        return corrected(people) if self.annotation(split) == S9_CORRECTED else people

    def open(self, split: str) -> None:
        """Open a split; refuse one of whose recordings most have no images."""
        self.people(split).check_images()
        super().open(split)

    def action_names(self) -> tuple[str, ...]:
        """The benchmark's fifteen actions."""
        return ACTIONS

    def annotation(self, split: str) -> str:
        """Whether the labels of three recordings of S9 are moved by 200 mm."""
        correct = self.correct_s9
        if correct is None:
            correct = not any(protocol.annotation == S9_RELEASED for protocol in self.protocols)
        return S9_CORRECTED if correct else S9_RELEASED

    def protocol(self, split: str) -> str:
        """What the scores of a split mean: the benchmark only on frames of exactly S9 and S11."""
        people = self.people(split)
        subjects = [people.subjects[number] for number in np.unique(people.subject)]
        if set(subjects) != set(BENCHMARK_SUBJECTS):
            return f"Human3.6M, protocol none: subjects {', '.join(subjects)}; n={len(people)}, not a benchmark"
        joints = int(conversion_weights(H36M17, get_skeleton(self.skeleton)).any(1).sum())
        return (
            f"Human3.6M, S9 and S11, {len(people)} frames, MPJPE over {joints} joints, pelvis-aligned, mean over frames"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Human36MPeople(PoseDataset):
    """One split as arrays over its N frames: no object per sample that loader processes would copy.

    Attributes:
        folder: What the image names are relative to.
        image: bytes [N], names of the images.
        boxes: float32 [N, 4] ltwh, px.
        joints3d: float32 [N, 17, 3] mm, camera frame; `valid3d` bool [N, 17].
        joints2d: float32 [N, 17, 2] px; `valid2d` bool [N, 17].
        subject, scene, action, view, frame: int32 [N], places in the tables `subjects`, `scenes`, ACTIONS and
            `cameras`; frames count from 1.
        subjects, scenes: Names.
        cameras: (subject, serial number) of each view; `calibration` holds its camera, `sizes` its nominal size.
        summary: What was found and left out.
    """

    folder: Path
    image: NDArray[np.bytes_]
    boxes: NDArray[np.float32]
    joints3d: NDArray[np.float32]
    valid3d: NDArray[np.bool_]
    joints2d: NDArray[np.float32]
    valid2d: NDArray[np.bool_]
    subject: NDArray[np.int32]
    scene: NDArray[np.int32]
    action: NDArray[np.int32]
    view: NDArray[np.int32]
    frame: NDArray[np.int32]
    subjects: tuple[str, ...]
    scenes: tuple[str, ...]
    cameras: tuple[CameraKey, ...]
    calibration: tuple[Camera, ...]
    sizes: tuple[tuple[int, int], ...]
    summary: str

    skeleton = H36M17

    def __len__(self) -> int:
        return len(self.image)

    def read(self, index: int, draw: int = 0) -> Sample:
        """One frame with its image."""
        image = open_image(self._path(index))
        return self._sample(index, image, image.size)

    def read_labels(self, index: int) -> Sample:
        """One frame without its image; its size is the camera's nominal one, real ones differ by a few lines."""
        return self._sample(index, None, self.sizes[self.view[index]])

    def _sample(self, index: int, image: SourceImage | None, size: tuple[int, int]) -> Sample:
        return Sample(
            image=image,
            box=self.boxes[index],
            size=size,
            camera=self.calibration[self.view[index]],
            joints3d=self.joints3d[index],
            valid3d=self.valid3d[index],
            joints2d=self.joints2d[index],
            valid2d=self.valid2d[index],
            identity={
                "action": int(self.action[index]),
                # `recording` would be computed for every frame.
                "sequence": int(self.scene[index]) * len(self.cameras) + int(self.view[index]),
                "frame": int(self.frame[index]),
                "image_id": index,
            },
        )

    @property
    def recording(self) -> NDArray[np.int32]:
        """Numbers [N]: a recording is one scene of one subject seen by one camera."""
        return self.scene * len(self.cameras) + self.view

    def groups(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """The subject of every frame."""
        return self.subject, self.subjects

    def records(self) -> Records:
        """Subject, recording ("S9 SittingDown 1"), camera and frame, counted from 0, of every sample."""
        scenes = np.array([scene.replace("_", " ") for scene in self.scenes])
        subject = np.array(self.subjects)[self.subject]
        recording = np.char.add(np.char.add(subject, " "), scenes[self.scene])
        camera = np.array([serial for _, serial in self.cameras])[self.view]
        return Records(subject, self.frame - 1, recording, camera)

    def report(self) -> str:
        """What was found, what was left out and what is missing."""
        missing, count = self._without_images()
        lacking = f"; {len(missing)} of {count} recordings have no images (first: {missing[0]})" if missing else ""
        return self.summary + lacking

    def check_images(self) -> None:
        """Refuse labels most of whose recordings have no folder of images.

        Raises:
            PoseZooError: Saying where the first one should be.
        """
        missing, count = self._without_images()
        if 2 * len(missing) > count:
            raise PoseZooError(
                f"No image at {missing[0]}, nor of {len(missing) - 1} others of {count} recordings: these are labels "
                "only, until the frames of the videos are there; extract them (see docs/datasets/human36m.md)."
            )

    def _without_images(self) -> tuple[list[Path], int]:
        """First image of every recording whose folder is not there, and the number of recordings."""
        first = np.unique(self.recording, return_index=True)[1]
        paths = [self._path(int(index)) for index in np.sort(first)]
        there = {folder: folder.is_dir() for folder in {path.parent for path in paths}}
        return [path for path in paths if not there[path.parent]], len(paths)

    def name(self, index: int) -> str:
        """Name of an image, as found in the annotations."""
        return bytes(self.image[index]).decode()

    def _path(self, index: int) -> Path:
        return self.folder / self.name(index)

    def meta(self, index: int) -> dict[str, Any]:
        """Subject, action, scene ("Directions_1"), camera, frame and path."""
        subject, camera = self.cameras[self.view[index]]
        return {
            "subject": subject,
            "action": ACTIONS[self.action[index]],
            "scene": self.scenes[self.scene[index]],
            "camera": camera,
            "frame": int(self.frame[index]),
            "path": str(self._path(index)),
        }

    def take(self, rows: NDArray[np.bool_]) -> "Human36MPeople":
        """Some of the frames."""
        names = ("image", "boxes", "joints3d", "valid3d", "joints2d", "valid2d", "subject", "scene", "action", "view")
        return replace(self, **{name: getattr(self, name)[rows] for name in (*names, "frame")})


# ------------------------------------------------------------------------------------------------- mmpose's layout


def open_people(
    root: Path, file: str, box_scale: float, subjects: Iterable[str] | None = None, every: int = 1
) -> Human36MPeople:
    """Read one annotation file in mmpose's layout, and its cameras.

    Args:
        root: Folder with `images` and `annotation_body3d`.
        file: Name of the npz file.
        box_scale: Factor on the annotated boxes.
        subjects: Whom to keep; everybody when None.
        every: Keep every n-th frame of the videos.

    Raises:
        PoseZooError: A file or folder is missing, is not what mmpose makes, or names an unknown camera.
    """
    if not (root / "images").is_dir():
        raise PoseZooError(
            f"{root} has no folder 'images': set --data.root to the folder that mmpose's preprocess_h36m.py made, "
            "with images/S1 ... and annotation_body3d/fps50."
        )
    path = _annotation_file(root, file)
    wanted = {"imgname": (), "center": (2,), "scale": (), "part": (17, 3), "S": (17, 4)}
    data = read_npz(path, wanted, "make it again with mmpose's preprocess_h36m.py")
    names = [str(name) for name in data["imgname"]]
    parsed = [_parse_name(name, path) for name in names]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
        side = 200 * np.asarray(data["scale"], np.float64).reshape(-1, 1) * box_scale
        boxes = np.hstack([data["center"] - side / 2, side, side]).astype(np.float32)
        joints3d = (np.asarray(data["S"][..., :3], np.float64) * 1000).astype(np.float32)  # the file has metres
        joints2d = data["part"][..., :2].astype(np.float32)
    cameras = find_cameras(root)
    if cameras is None:
        raise PoseZooError(
            f"No cameras at {root / FILES[0]} (or cameras.json): make them with mmpose's preprocess_h36m.py."
        )
    source, known = cameras
    subject_table, subject = numbered((p["subject"] for p in parsed), key=lambda name: int(name[1:]))
    scenes, scene = numbered(p["scene"] for p in parsed)
    _, action = numbered((_action(p["scene"], path) for p in parsed), known=ACTIONS)
    keys, view = numbered((p["subject"], p["camera"]) for p in parsed)
    calibration, sizes = pick_cameras(known, keys, source)
    valid3d, valid2d = finite(joints3d, data["S"][..., 3] > 0), finite(joints2d, data["part"][..., 2] > 0)
    assert valid3d is not None
    assert valid2d is not None
    people = Human36MPeople(
        folder=root / "images",
        image=np.array([name.encode() for name in names]),
        boxes=boxes,
        joints3d=joints3d,
        valid3d=valid3d,
        joints2d=joints2d,
        valid2d=valid2d,
        subject=subject,
        scene=scene,
        action=action,
        view=view,
        frame=np.array([int(p["frame"]) for p in parsed], np.int32),
        subjects=subject_table,
        scenes=scenes,
        cameras=keys,
        calibration=calibration,
        sizes=sizes,
        summary="",
    )
    _check_fit(people, path)
    keep = (people.frame - 1) % every == 0
    if subjects is not None:
        keep &= np.isin(np.array(people.subjects)[people.subject], list(subjects))
        if not keep.any():
            raise PoseZooError(f"{path} has {', '.join(people.subjects)}, but nobody of {', '.join(subjects)}.")
    kept = people if keep.all() else people.take(keep)
    return replace(kept, summary=f"Human3.6M, mmpose's {path}: {_inventory(kept)}; cameras: {source}")


def _annotation_file(root: Path, file: str) -> Path:
    """That of 50 frames a second, else of 10."""
    places = [root / "annotation_body3d" / fps / file for fps in ("fps50", "fps10")]
    for path in places:
        if path.is_file():
            return path
    raise PoseZooError(
        f"No annotations at {places[0]}: make them with mmpose's preprocess_h36m.py, or copy {file} to that folder."
    )


# ------------------------------------------------------------------------------------------------- recordings


def open_clips(root: Path, wanted: Wanted, box_scale: float) -> Human36MPeople:
    """Read the official, 3DMPPE's or VideoPose3D's layout, whichever is there.

    Args:
        root: Folder of the dataset.
        wanted: Subjects and frames.
        box_scale: Factor on square boxes of 1.2 times the person's (or the annotated box's) longer side.

    Raises:
        PoseZooError: None of them is there, nobody of the wanted is in it, or files are damaged.
    """
    reader = next((reader for is_there, reader in _LAYOUTS if is_there(root)), None)
    if reader is None:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise PoseZooError(
            f"{root} is no folder of Human3.6M: it has {there}, but none of {_KNOWN_LAYOUTS}; set --data.root."
        )
    found = reader(root, wanted)
    if not found.clips:
        raise PoseZooError(
            f"Human3.6M, {found.found}: no labels of {', '.join(wanted.subjects)} (left out: {found.tally}): set "
            "--data.train_subjects and --data.eval_subjects to those that are there, or add theirs."
        )
    keys, view = numbered((clip.subject, clip.serial) for clip in found.clips)
    calibration, sizes = pick_cameras(found.cameras, keys, found.source)
    people = _joined(root, found.clips, keys, view, calibration, sizes, box_scale)
    _check_fit(people, root)
    boxed = np.isfinite(people.boxes).all(1) & (people.boxes[:, 2] > 1)
    found.tally.leave_out("frames without joints or box", (people.name(int(row)) for row in np.flatnonzero(~boxed)))
    kept = people if boxed.all() else people.take(boxed)
    summary = f"Human3.6M, {found.found}: {_inventory(kept)}; cameras: {found.source}; left out: {found.tally}"
    return replace(kept, summary=summary)


def _joined(
    root: Path,
    clips: list[Clip],
    keys: tuple[CameraKey, ...],
    view: NDArray[np.int32],
    calibration: tuple[Camera, ...],
    sizes: tuple[tuple[int, int], ...],
    box_scale: float,
) -> Human36MPeople:
    """The frames of all clips in one table."""
    rows = np.repeat(np.arange(len(clips)), [len(clip.frame) for clip in clips])
    subjects, subject = numbered((clip.subject for clip in clips), key=lambda name: int(name[1:]))
    scenes, scene = numbered(clip.scene.replace(" ", "_") for clip in clips)
    _, action = numbered((_action(clip.scene, root) for clip in clips), known=ACTIONS)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no label
        joints3d = np.concatenate([clip.joints3d for clip in clips]).astype(np.float32)
        pixels = [_pixels(clip, calibration[place]) for clip, place in zip(clips, view.tolist(), strict=True)]
        joints2d = np.concatenate(pixels).astype(np.float32)
        valid3d, valid2d = (finite(values, np.ones(values.shape[:2], bool)) for values in (joints3d, joints2d))
        assert valid3d is not None
        assert valid2d is not None
        annotated = [
            _tight(flat) if clip.boxes is None else clip.boxes for clip, flat in zip(clips, pixels, strict=True)
        ]
        boxes = _squares(np.concatenate(annotated), _BOX_MARGIN * box_scale)
    return Human36MPeople(
        folder=root,
        image=np.array([name.encode() for clip in clips for name in image_names(root, clip)]),
        boxes=boxes,
        joints3d=joints3d,
        valid3d=valid3d,
        joints2d=joints2d,
        valid2d=valid2d,
        subject=subject[rows],
        scene=scene[rows],
        action=action[rows],
        view=view[rows],
        frame=np.concatenate([clip.frame for clip in clips]).astype(np.int32) + 1,
        subjects=subjects,
        scenes=scenes,
        cameras=keys,
        calibration=calibration,
        sizes=sizes,
        summary="",
    )


def _pixels(clip: Clip, camera: Camera) -> NDArray[np.float64]:
    """Annotated pixels, or the projections of the 3D joints."""
    if clip.joints2d is not None:
        return clip.joints2d
    pixels: NDArray[np.float64] = camera.project(torch.as_tensor(clip.joints3d, dtype=torch.float32)).double().numpy()
    return pixels


def _tight(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes [T, 4] ltwh around all joints that are numbers."""
    known = np.isfinite(pixels)
    low = np.where(known, pixels, np.inf).min(1)
    high = np.where(known, pixels, -np.inf).max(1)
    return np.hstack([low, high - low])


def _squares(boxes: NDArray[np.float64], factor: float) -> NDArray[np.float32]:
    """Square boxes of the same centres, `factor` times the longer side."""
    side = boxes[:, 2:].max(1, keepdims=True) * factor
    return np.hstack([boxes[:, :2] + boxes[:, 2:] / 2 - side / 2, side, side]).astype(np.float32)


# ------------------------------------------------------------------------------------------------- shared


def corrected(people: Human36MPeople) -> Human36MPeople:
    """The people with the labels of three recordings of S9 moved to where the person is seen.

    3D joints move by 200 mm in the world, their 2D labels are projected anew, and boxes follow the pelvis.
    """
    recordings = people.records().recording
    assert recordings is not None
    rows = np.flatnonzero(np.isin(recordings, S9_SHIFTED))
    if not len(rows):
        return people
    joints3d, joints2d, boxes = people.joints3d.copy(), people.joints2d.copy(), people.boxes.copy()
    valid2d = people.valid2d.copy()
    for view in np.unique(people.view[rows]):
        camera, at = people.calibration[view], rows[people.view[rows] == view]
        before = torch.as_tensor(joints3d[at])
        after = before + camera.rotation @ torch.tensor(_S9_SHIFT)
        old, new = camera.project(before).numpy(), camera.project(after).numpy()
        joints3d[at], joints2d[at] = after.numpy(), new
        valid2d[at] &= people.valid3d[at]
        closer = (before[:, :1, 2] / after[:, :1, 2]).numpy()
        middle = boxes[at, :2] + boxes[at, 2:] / 2 + (new - old)[:, 0]
        size = boxes[at, 2:] * closer
        boxes[at] = np.hstack([middle - size / 2, size])
    summary = f"{people.summary}; {len(rows)} frames of {', '.join(S9_SHIFTED)} moved by 200 mm"
    return replace(people, joints3d=joints3d, joints2d=joints2d, valid2d=valid2d, boxes=boxes, summary=summary)


def _inventory(people: Human36MPeople) -> str:
    subjects = ", ".join(people.subjects[number] for number in np.unique(people.subject))
    return f"{len(people)} frames of {len(np.unique(people.recording))} recordings of {subjects}"


def _checked_root(root: Path | None) -> Path:
    if root is None:
        raise PoseZooError(
            "Human36M does not know where its files are: set --data.root to the folder with images and "
            f"annotations: {_KNOWN_LAYOUTS}."
        )
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the Human3.6M folder.")
    return root


def _parse_name(name: str, path: Path) -> dict[str, str]:
    match = _IMAGE_NAME.fullmatch(name.rpartition("/")[2])
    if match is None:
        raise PoseZooError(
            f"{path} names the image '{name}', but Human3.6M's are like S1/S1_Directions_1.54138969/"
            "S1_Directions_1.54138969_000001.jpg: make the file again with mmpose's preprocess_h36m.py."
        )
    return match.groupdict()


def _action(scene: str, path: Path) -> str:
    """Action of a scene: "WalkingDog 1" and "WalkDog_1" are both WalkDog."""
    name = re.sub(r"[_ ]\d+$", "", scene)
    name = _SYNONYMS.get(name, name)
    if name not in ACTIONS:
        raise PoseZooError(
            f"{path} has frames of '{name}', which is no action of Human3.6M: {did_you_mean(name, ACTIONS)}"
        )
    return name


def _check_fit(people: Human36MPeople, path: Path) -> None:
    """Refuse 3D labels that the cameras do not project to the 2D labels, on a few frames spread over the file."""
    for index in np.linspace(0, len(people) - 1, min(len(people), 16)).astype(int):
        both = people.valid3d[index] & people.valid2d[index]
        if not both.any():
            continue
        projected = people.calibration[people.view[index]].project(torch.as_tensor(people.joints3d[index][both]))
        apart = projected.double().numpy() - people.joints2d[index][both]
        error = float(np.linalg.norm(apart, axis=1).mean())
        if not error < MISFIT_PX:
            raise PoseZooError(
                f"{path}: the 3D labels of {people.name(int(index))} project {error:.0f} px away from its 2D labels, "
                "so they and the cameras beside them are not of one kind: take both from one source."
            )
