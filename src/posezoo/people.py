"""`People`: what inference finds in a picture, and the files it is written to.

Camera frame: x right, y down, z forward; millimetres and pixels of the (upright) input picture. NumPy arrays; nothing
here runs a network.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import H36M, NO_DISTORTION, OPENCV, Camera
from posezoo.disk import replace_file
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.skeletons import Skeleton, conversion_weights, convert, get_skeleton

FORMATS = (".json", ".npz", ".csv")
_BEHIND = 1.0  # mm; nearer joints have no pixel
NOBODY = -1  # id of a person who was not tracked
UNITS = {
    "joints3d": "mm, camera frame: x right, y down, z forward",
    "joints2d": "px of the upright picture; integer = pixel centre",
    "scores": "0..1 confidence of each joint",
    "boxes": "px: left, top, width, height",
    "time": "s",
}
_DISTORTIONS = {NO_DISTORTION: "none", OPENCV: "opencv", H36M: "h36m"}
_COLUMNS = ("frame", "time", "person", "id", "joint", "x", "y", "z", "u", "v", "score")
_SHARED = ("skeleton", "size", "camera", "calibrated", "up", "root_depth_source")
_PER_PERSON = ("joints3d", "joints2d", "scores", "boxes", "box_scores", "ids")


@dataclass
class People:
    """Everybody found in one picture: N people, J joints. Row order: as the boxes given, or by falling box score.

    A joint that is not known (behind the camera, or lacking in the skeleton that `to` made) is NaN with score 0.

    Attributes:
        joints3d: float32 [N, J, 3] mm, camera frame, absolute.
        joints2d: float32 [N, J, 2] px of the input picture, lens distortion included; projections of `joints3d`.
        scores: float32 [N, J] confidence of each joint, 0..1.
        boxes: float32 [N, 4] ltwh px, as detected or given.
        box_scores: float32 [N] of the detector; 1 for given boxes.
        skeleton: Names and bones of the joints.
        camera: The camera that was used, with its extrinsics.
        size: (width, height) of the picture, px.
        ids: int64 [N] identity over the frames of a video; -1 outside videos.
        calibrated: Whether the camera was given; otherwise its field of view is a guess, and distances scale with it.
        root_depth_source: Where the distance to the camera comes from.
        suppressed: How many detections were left out, by rule ("implausible", "duplicate", "max_people").
        frame: Number of the frame in its video, from 0.
        time: Of the frame in its video, s; None for photographs.
        up: Direction against gravity in the camera's frame, as far as it was told; 3D pictures stand upright by it.
        image: The picture (uint8 [H, W, 3] RGB) or its file, for `draw`.
    """

    joints3d: NDArray[np.float32]
    joints2d: NDArray[np.float32]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    box_scores: NDArray[np.float32]
    skeleton: Skeleton
    camera: Camera
    size: tuple[int, int]
    ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    calibrated: bool = False
    root_depth_source: str = ""
    suppressed: dict[str, int] = field(default_factory=dict)
    frame: int = 0
    time: float | None = None
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)
    image: NDArray[np.uint8] | Path | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.joints3d):
            self.ids = np.full(len(self.joints3d), NOBODY, np.int64)
        expected = (len(self.joints3d), len(self.skeleton), 3)
        if self.joints3d.shape != expected:
            raise ValueError(f"{self.skeleton} needs joints3d of shape {expected}, got {self.joints3d.shape}.")

    def __len__(self) -> int:
        return len(self.joints3d)

    def __getitem__(self, rows: Any) -> "People":
        """The people of an index, slice, mask or list of indices, still as `People`."""
        index = np.arange(len(self))[rows]
        return replace(self, **{name: getattr(self, name)[np.atleast_1d(index)] for name in _PER_PERSON})

    @property
    def has_extrinsics(self) -> bool:
        """Whether the camera's place in the world is known (its extrinsics are not the identity)."""
        import torch

        camera = self.camera
        moved = bool((camera.rotation != torch.eye(3, dtype=camera.rotation.dtype)).any())
        return self.calibrated and (moved or bool((camera.translation != 0).any()))

    def world(self) -> NDArray[np.float32]:
        """Joints in the world frame, [N, J, 3] mm.

        Raises:
            PoseZooError: No extrinsics were given.
        """
        if not self.has_extrinsics:
            raise PoseZooError(
                "There are no world coordinates without extrinsics: give camera=Camera.create(K, distortion, "
                "rotation=R, translation=t) with the world-to-camera R and t (mm); joints3d is in the camera's frame."
            )
        r, t = self.camera.rotation.double().numpy(), self.camera.translation.double().numpy()
        return np.asarray((self.joints3d - t) @ r, np.float32)

    def to(self, skeleton: str | Skeleton) -> "People":
        """The same people with the joints of another skeleton, by joint name.

        A joint that this skeleton lacks is derived where possible (pelvis and thorax), else NaN with score 0. A
        derived joint has the lowest score of what it is made from.
        """
        target = get_skeleton(skeleton)
        known: NDArray[np.bool_] = np.asarray(np.isfinite(self.joints3d).all(-1))
        joints3d, valid = convert(self.joints3d, known, self.skeleton, target)
        joints2d, _ = convert(self.joints2d, known, self.skeleton, target)
        needed = conversion_weights(self.skeleton, target) > 0
        scores = np.where(needed, self.scores[:, None], 1.0).min(-1, initial=1.0)
        return replace(
            self,
            joints3d=np.where(valid[..., None], joints3d, np.nan).astype(np.float32),
            joints2d=np.where(valid[..., None], joints2d, np.nan).astype(np.float32),
            scores=np.where(valid, scores, 0).astype(np.float32),
            skeleton=target,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .json, .npz or .csv, by the ending of `path`; a file that exists is replaced in one step.

        JSON writes unknown joints as null. CSV has one row for every joint; it lacks boxes and camera.

        Raises:
            PoseZooError: Another ending, or the file cannot be written.
        """
        return save_people(path, [self])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "People":
        """Read back what `save` wrote as .json or .npz, without the picture.

        Raises:
            PoseZooError: Not such a file, or one of a video: `load_people` reads those.
        """
        frames = load_people(path)
        if len(frames) != 1:
            raise PoseZooError(f"{path} holds {len(frames)} frames: read it with posezoo.people.load_people.")
        return frames[0]

    def pixels(self) -> NDArray[np.uint8]:
        """The picture, uint8 [H, W, 3] RGB.

        Raises:
            PoseZooError: It was not kept.
        """
        if self.image is None:
            raise PoseZooError("These people come without their picture: give it, as in people.draw(image).")
        if isinstance(self.image, Path):
            from posezoo.data.pictures import read_image

            return read_image(self.image)
        return self.image

    def draw(self, image: NDArray[np.uint8] | None = None, boxes: bool = False, labels: bool = True) -> Any:
        """The picture with everybody drawn over it; near limbs cover far ones, left is blue and right orange.

        Args:
            image: uint8 [H, W, 3] RGB; the picture that was analysed when None.
            boxes: Draw the boxes too.
            labels: Write ids (in videos) and distances.

        Returns:
            uint8 [H, W, 3].
        """
        from posezoo.viz.people import draw_people

        return draw_people(self.pixels() if image is None else image, self, boxes=boxes, labels=labels)

    def draw3d(self, size: tuple[int, int] = (960, 480), views: Sequence[str] = ("front", "side")) -> Any:
        """Everybody in one 3D scene with the ground, equal axes, from several sides; uint8 [height, width, 3]."""
        from posezoo.viz.people import draw_scene

        return draw_scene(self, size, views)

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write an interactive page that opens offline in any browser: drag to turn the people in 3D."""
        from posezoo.viz.html import write_html

        return write_html(path, [self])


def no_people(skeleton: Skeleton, camera: Camera, size: tuple[int, int], **facts: Any) -> People:
    """Nobody: what an empty picture gives."""
    j = len(skeleton)
    shapes = {"joints3d": (0, j, 3), "joints2d": (0, j, 2), "scores": (0, j), "boxes": (0, 4), "box_scores": (0,)}
    arrays: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return People(**arrays, skeleton=skeleton, camera=camera, size=size, **facts)


def project_joints(joints3d: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """Pixels [N, J, 2] of joints [N, J, 3] (mm, camera frame), lens distortion included; NaN behind the camera."""
    import torch

    points = torch.from_numpy(joints3d)
    in_front = points[..., 2] > _BEHIND
    safe = torch.where(in_front[..., None], points, torch.tensor([0.0, 0.0, 1.0]))
    pixels = camera.project(safe.flatten(0, 1)).view(*points.shape[:2], 2)
    return np.asarray(pixels.where(in_front[..., None], torch.nan).numpy(), np.float32)


# --------------------------------------------------------------------------------------------------------- files


def save_people(path: str | os.PathLike[str], frames: Sequence[People]) -> Path:
    """Write a picture's people, or those of all frames of a video, as .json, .npz or .csv.

    Raises:
        PoseZooError: Another ending, no frames, or the file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise PoseZooError(f"cannot save poses as {target.name}: the name must end in .json, .npz or .csv.")
    if not frames:
        raise PoseZooError(f"there is no frame to write to {target}.")
    if suffix == ".json":
        text = json.dumps(as_document(frames), allow_nan=False, separators=(",", ":")) + "\n"
        return replace_file(target, lambda file: file.write_text(text, encoding="utf-8"))
    content = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(content, **_arrays(frames))  # type: ignore[arg-type]  # no array is called allow_pickle
    else:
        content.write(_table(frames).encode())
    return replace_file(target, lambda file: file.write_bytes(content.getvalue()))


def load_people(path: str | os.PathLike[str]) -> list[People]:
    """Read the frames of a .json or .npz file of `save_people`.

    Raises:
        PoseZooError: There is no such file, or it holds something else.
    """
    source = Path(path)
    if not source.is_file():
        raise PoseZooError(f"there is no file {source}: give a .json or .npz file that posezoo wrote.")
    try:
        if source.suffix.lower() == ".npz":
            with np.load(source) as arrays:
                return _from_arrays({name: arrays[name] for name in arrays.files})
        document = json.loads(source.read_text(encoding="utf-8"))
        head = {key: document[key] for key in _SHARED}
        return [_from_dict(head, frame) for frame in document["frames"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoseZooError(f"{source} is not a pose file of posezoo ({type(error).__name__}: {error}).") from error


def as_document(frames: Sequence[People]) -> dict[str, Any]:
    """Plain JSON values; NaN becomes None, numbers are rounded to 0.01 mm and px."""
    first = frames[0]
    return {
        "format": "posezoo people 1",
        "skeleton": first.skeleton.name,
        "joints": list(first.skeleton.joints),
        "bones": [list(bone) for bone in first.skeleton.bones],
        "units": UNITS,
        "size": list(first.size),
        "camera": camera_values(first.camera),
        "calibrated": first.calibrated,
        "up": list(first.up),
        "root_depth_source": next((p.root_depth_source for p in frames if p.root_depth_source), ""),
        "frames": [frame_values(people) for people in frames],
    }


def frame_values(people: People) -> dict[str, Any]:
    """One frame in plain JSON values, without what all frames share."""
    rows = [
        {
            "id": int(people.ids[row]),
            "box": _plain(people.boxes[row], 2),
            "box_score": round(float(people.box_scores[row]), 4),
            "joints3d": _plain(people.joints3d[row], 2),
            "joints2d": _plain(people.joints2d[row], 2),
            "scores": _plain(people.scores[row], 4),
        }
        for row in range(len(people))
    ]
    return {"frame": people.frame, "time": people.time, "suppressed": people.suppressed, "people": rows}


def camera_values(camera: Camera) -> dict[str, Any]:
    """A camera in plain JSON values."""
    return {
        "K": camera.intrinsics.tolist(),
        "distortion": camera.distortion.tolist(),
        "distortion_model": _DISTORTIONS[int(camera.distortion_model)],
        "rotation": camera.rotation.tolist(),
        "translation": camera.translation.tolist(),
    }


def camera_from_values(values: dict[str, Any]) -> Camera:
    """The inverse of `camera_values`."""
    model = values["distortion_model"]
    if model not in _DISTORTIONS.values():
        raise ValueError(f"unknown distortion model '{model}': {did_you_mean(model, _DISTORTIONS.values())}")
    return Camera.create(
        values["K"],
        None if model == "none" else values["distortion"],
        None if model == "none" else model,
        values["rotation"],
        values["translation"],
    )


def people_from_frame(frame: dict[str, Any], like: People) -> People:
    """The people of `frame_values`, with everything that frames share taken from `like`."""
    rows, j = frame["people"], len(like.skeleton)

    def stacked(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.array([row[name] for row in rows], np.float32).reshape(len(rows), *shape)

    return replace(
        like,
        joints3d=stacked("joints3d", (j, 3)),
        joints2d=stacked("joints2d", (j, 2)),
        scores=stacked("scores", (j,)),
        boxes=stacked("box", (4,)),
        box_scores=stacked("box_score", ()),
        ids=np.array([row["id"] for row in rows], np.int64),
        suppressed=dict(frame["suppressed"]),
        frame=int(frame["frame"]),
        time=frame["time"],
    )


def _from_dict(head: dict[str, Any], frame: dict[str, Any]) -> People:
    nobody = no_people(
        get_skeleton(head["skeleton"]),
        camera_from_values(head["camera"]),
        (int(head["size"][0]), int(head["size"][1])),
        calibrated=bool(head["calibrated"]),
        up=tuple(float(value) for value in head["up"]),
        root_depth_source=str(head["root_depth_source"]),
    )
    return people_from_frame(frame, nobody)


def _plain(values: NDArray[Any], digits: int) -> Any:
    """Nested lists with None for NaN."""
    rounded = np.round(values.astype(np.float64), digits).astype(object)
    rounded[~np.isfinite(values)] = None
    return rounded.tolist()


def _arrays(frames: Sequence[People]) -> dict[str, NDArray[Any]]:
    """All people of all frames in rows; `frame_index` says to which frame each belongs."""
    document = as_document([frames[0]])
    head = {key: document[key] for key in ("joints", "units", *_SHARED)}
    head["suppressed"] = [people.suppressed for people in frames]
    found = {name: np.concatenate([getattr(people, name) for people in frames]) for name in _PER_PERSON}
    times = np.array([np.nan if people.time is None else people.time for people in frames])
    return found | {
        "frame_index": np.repeat(np.arange(len(frames)), [len(people) for people in frames]),
        "frames": np.array([people.frame for people in frames]),
        "times": times,
        "about": np.array(json.dumps(head)),
    }


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> list[People]:
    head = json.loads(str(arrays["about"]))
    blank = _from_dict(head, {"people": [], "suppressed": {}, "frame": 0, "time": None})
    frames = []
    for at, (number, time) in enumerate(zip(arrays["frames"], arrays["times"], strict=True)):
        rows = arrays["frame_index"] == at
        frames.append(
            replace(
                blank,
                **{name: arrays[name][rows] for name in _PER_PERSON},
                suppressed=head["suppressed"][at],
                frame=int(number),
                time=None if np.isnan(time) else float(time),
            )
        )
    return frames


def _table(frames: Sequence[People]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for people in frames:
        time = "" if people.time is None else f"{people.time:.6f}"
        for person in range(len(people)):
            for joint, name in enumerate(people.skeleton.joints):
                values = [*people.joints3d[person, joint], *people.joints2d[person, joint]]
                numbers = ["" if not np.isfinite(v) else f"{v:.2f}" for v in values]
                score = f"{people.scores[person, joint]:.4f}"
                writer.writerow([people.frame, time, person, people.ids[person], name, *numbers, score])
    return text.getvalue()
