"""Human3.6M (Ionescu et al., TPAMI 2014), as mmpose's `preprocess_h36m.py` lays it out.

    root/images/S1/S1_Directions_1.54138969/S1_Directions_1.54138969_000001.jpg
    root/annotation_body3d/fps50/h36m_train.npz, h36m_test.npz     imgname, center, scale, part, S
    root/annotation_body3d/cameras.pkl                             or cameras.json

The data are licensed to each user by their authors; posezoo neither ships nor fetches them.
"""

import io
import json
import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.base import PoseDataModule, PoseDataset, finite, read_image
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.skeletons import H36M17, conversion_weights, get_skeleton
from posezoo.structures import Sample

ANNOTATION_FILES = {"train": "h36m_train.npz", "val": "h36m_test.npz", "test": "h36m_test.npz"}
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
_MISFIT_PX = 5.0

CameraKey = tuple[str, str]  # subject, camera serial number


class Human36M(PoseDataModule):
    """Human3.6M with all cameras: train on `h36m_train.npz`, validate and test on `h36m_test.npz`.

    Args:
        root: Folder with `images` and `annotation_body3d`, as mmpose's `preprocess_h36m.py` makes it.
        box_scale: Factor on the annotated square boxes. They are 1.2 times as large as the person's longer side; the
            default undoes that, because MeTRAbs (like the other methods here) crops without a margin. 1 keeps it.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(self, root: str | None = None, *, box_scale: float = 1 / 1.2, **keywords: Any) -> None:
        super().__init__(root, **keywords)
        if not box_scale > 0:
            raise PoseZooError(f"--data.box_scale must be positive, got {box_scale}.")
        self.box_scale = box_scale
        self._files: dict[str, Human36MPeople] = {}

    def people(self, split: str) -> "Human36MPeople":
        """The annotated people of a split; "val" and "test" are the same."""
        if split not in ANNOTATION_FILES:
            raise PoseZooError(
                f"Human36M has no '{split}' split: use fit, validate or test, or give pictures with --data ImageFolder."
            )
        file = ANNOTATION_FILES[split]
        if file not in self._files:
            self._files[file] = open_people(self.root, file, self.box_scale)
        return self._files[file]

    def action_names(self) -> tuple[str, ...]:
        """The benchmark's fifteen actions."""
        return ACTIONS

    def protocol(self, split: str) -> str:
        """What the scores of a split mean: the benchmark only on frames of exactly S9 and S11."""
        people = self.people(split)
        subjects = [people.subjects[number] for number in np.unique(people.subject)]
        if set(subjects) != set(BENCHMARK_SUBJECTS):
            return f"protocol none: subjects {', '.join(subjects)}; n={len(people)}, not a benchmark"
        joints = int(conversion_weights(H36M17, get_skeleton(self.skeleton)).any(1).sum())
        return (
            f"Human3.6M, S9 and S11, {len(people)} frames, MPJPE over {joints} joints, pelvis-aligned, mean over frames"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Human36MPeople(PoseDataset):
    """One annotation file as arrays over its N frames: no object per sample that loader processes would copy.

    Attributes:
        root: Folder of the dataset.
        image: bytes [N], paths below `root/images`.
        boxes: float32 [N, 4] ltwh, px.
        joints3d: float32 [N, 17, 3] mm, camera frame; `valid3d` bool [N, 17].
        joints2d: float32 [N, 17, 2] px; `valid2d` bool [N, 17].
        subject, scene, action, view, frame: int32 [N], places in the tables `subjects`, `scenes`, ACTIONS and
            `cameras`; frames count from 1.
        subjects, scenes: Names.
        cameras: (subject, serial number) of each view; `calibration` holds its camera, `sizes` its nominal size.
    """

    root: Path
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

    skeleton = H36M17

    def __len__(self) -> int:
        return len(self.image)

    def read(self, index: int, draw: int = 0) -> Sample:
        """One frame with its image."""
        image = read_image(self._path(index))
        return self._sample(index, image, (image.shape[1], image.shape[0]))

    def read_labels(self, index: int) -> Sample:
        """One frame without its image; its size is the camera's nominal one, real ones differ by a few lines."""
        return self._sample(index, None, self.sizes[self.view[index]])

    def _sample(self, index: int, image: NDArray[np.uint8] | None, size: tuple[int, int]) -> Sample:
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
                # A sequence is one scene of one subject seen by one camera.
                "sequence": int(self.scene[index]) * len(self.cameras) + int(self.view[index]),
                "frame": int(self.frame[index]),
                "image_id": index,
            },
        )

    def groups(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """The subject of every frame."""
        return self.subject, self.subjects

    def _path(self, index: int) -> Path:
        return self.root / "images" / str(self.image[index].decode())

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


def open_people(root: Path | None, file: str, box_scale: float) -> Human36MPeople:
    """Read one annotation file and its cameras.

    Raises:
        PoseZooError: A file or folder is missing, is not what mmpose makes, or names an unknown camera.
    """
    folder = _checked_root(root)
    path = folder / "annotation_body3d" / "fps50" / file
    if not path.is_file():
        raise PoseZooError(
            f"No annotations at {path}: make them with mmpose's preprocess_h36m.py, or copy {file} to that folder."
        )
    data = _read_annotations(path)
    names = [str(name) for name in data["imgname"]]
    parsed = [_parse_name(name, path) for name in names]
    subjects, subject = _numbered((p["subject"] for p in parsed), key=lambda name: int(name[1:]))
    scenes, scene = _numbered(p["scene"] for p in parsed)
    _, action = _numbered((_action(p["scene"], path) for p in parsed), known=ACTIONS)
    cameras, view = _numbered((p["subject"], p["camera"]) for p in parsed)
    calibration, sizes = _calibration(folder / "annotation_body3d", cameras)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
        side = 200 * np.asarray(data["scale"], np.float64).reshape(-1, 1) * box_scale
        boxes = np.hstack([data["center"] - side / 2, side, side]).astype(np.float32)
        joints3d = (np.asarray(data["S"][..., :3], np.float64) * 1000).astype(np.float32)  # the file has metres
        joints2d = data["part"][..., :2].astype(np.float32)
    valid3d, valid2d = finite(joints3d, data["S"][..., 3] > 0), finite(joints2d, data["part"][..., 2] > 0)
    assert valid3d is not None
    assert valid2d is not None
    people = Human36MPeople(
        root=folder,
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
        subjects=subjects,
        scenes=scenes,
        cameras=cameras,
        calibration=calibration,
        sizes=sizes,
    )
    _check_fit(people, path)
    return people


def _checked_root(root: Path | None) -> Path:
    if root is None:
        raise PoseZooError(
            "Human36M does not know where its files are: set --data.root to the folder with images and "
            "annotation_body3d."
        )
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the Human3.6M folder.")
    for name in ("images", "annotation_body3d"):
        if not (root / name).is_dir():
            raise PoseZooError(
                f"{root} has no folder '{name}': set --data.root to the folder that mmpose's preprocess_h36m.py made, "
                "with images/S1 ... and annotation_body3d/fps50."
            )
    return root


def _read_annotations(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an annotation file; raises PoseZooError where they are not mmpose's."""
    wanted = {"imgname": (), "center": (2,), "scale": (), "part": (17, 3), "S": (17, 4)}
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {key: np.asarray(file[key]) for key in wanted}
        if not all(str(name).isascii() for name in data["imgname"]):
            raise ValueError("image names are not text")
    except Exception as error:  # a damaged file raises nearly anything
        raise PoseZooError(
            f"{path} cannot be read ({_line(error)}): make it again with mmpose's preprocess_h36m.py."
        ) from error
    count = len(data["imgname"])
    for key, shape in wanted.items():
        if data[key].dtype.kind not in ("US" if key == "imgname" else "biuf"):
            raise PoseZooError(
                f"{path} has '{key}' of type {data[key].dtype}: make it again with mmpose's preprocess_h36m.py."
            )
        if data[key].shape != (count, *shape):
            raise PoseZooError(
                f"{path} has '{key}' of shape {data[key].shape}, expected {(count, *shape)}: make it again with "
                "mmpose's preprocess_h36m.py."
            )
    return data


def _line(error: Exception) -> str:
    """An error's text on one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


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


def _numbered(
    values: Iterable[Any], known: tuple[Any, ...] = (), key: Any = None
) -> tuple[tuple[Any, ...], NDArray[np.int32]]:
    """A table of the distinct values (the known ones first, the others sorted) and each value's place in it."""
    found = list(values)
    table = (*known, *sorted(set(found) - set(known), key=key))
    place = {value: number for number, value in enumerate(table)}
    return table, np.array([place[value] for value in found], np.int32)


def _check_fit(people: Human36MPeople, path: Path) -> None:
    """Refuse 3D labels that the cameras do not project to the 2D labels, on a few frames spread over the file."""
    for index in np.linspace(0, len(people) - 1, min(len(people), 16)).astype(int):
        both = people.valid3d[index] & people.valid2d[index]
        if not both.any():
            continue
        projected = people.calibration[people.view[index]].project(torch.as_tensor(people.joints3d[index][both]))
        apart = projected.double().numpy() - people.joints2d[index][both]
        error = float(np.linalg.norm(apart, axis=1).mean())
        if not error < _MISFIT_PX:
            raise PoseZooError(
                f"{path}: the 3D labels of {people.image[index].decode()} project {error:.0f} px away from its 2D "
                "labels, so this file and the cameras beside it are not of one kind: make both with mmpose's "
                "preprocess_h36m.py."
            )


def _calibration(folder: Path, wanted: Iterable[CameraKey]) -> tuple[tuple[Camera, ...], tuple[tuple[int, int], ...]]:
    known = read_cameras(folder)
    cameras, sizes = [], []
    for subject, serial in wanted:
        if (subject, serial) not in known:
            raise PoseZooError(
                f"The cameras in {folder} lack camera {serial} of {subject}: use the cameras.pkl that "
                "mmpose's preprocess_h36m.py makes, which has all eleven subjects."
            )
        camera, size = known[subject, serial]
        cameras.append(camera)
        sizes.append(size)
    return tuple(cameras), tuple(sizes)


def read_cameras(folder: Path) -> dict[CameraKey, tuple[Camera, tuple[int, int]]]:
    """Camera and nominal (width, height) of every (subject, serial number), from cameras.pkl, else cameras.json.

    In the pickle, R is camera to world and T the camera's centre in metres; the JSON file has R_w2c and t_w2c_mm.

    Raises:
        PoseZooError: Neither file is there, or it holds something else.
    """
    binary, text = folder / "cameras.pkl", folder / "cameras.json"
    path = binary if binary.is_file() else text
    if not path.is_file():
        raise PoseZooError(f"No cameras at {binary} (or cameras.json): make them with mmpose's preprocess_h36m.py.")
    try:
        return _read_pickle(path) if path == binary else _read_json(path)
    except PoseZooError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise PoseZooError(
            f"{path} is not a camera file of mmpose's preprocess_h36m.py ({_line(error)}): make it again."
        ) from error


def _read_pickle(path: Path) -> dict[CameraKey, tuple[Camera, tuple[int, int]]]:
    entries = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    cameras = {}
    for (subject, serial), entry in entries.items():
        rotation = np.asarray(entry["R"], np.float64).T
        centre = np.asarray(entry["T"], np.float64).reshape(3) * 1000
        name = f"{path}: camera {serial} of {subject}"
        cameras[str(subject), str(serial)] = _camera(entry, rotation, -rotation @ centre, name)
    return cameras


def _read_json(path: Path) -> dict[CameraKey, tuple[Camera, tuple[int, int]]]:
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {
        (subject, serial): _camera(entry, entry["R_w2c"], entry["t_w2c_mm"], f"{path}: camera {serial} of {subject}")
        for subject, views in entries.items()
        for serial, entry in views.items()
    }


def _camera(entry: dict[str, Any], rotation: Any, translation: Any, name: str) -> tuple[Camera, tuple[int, int]]:
    (fx, fy), (cx, cy), (k1, k2, k3), (p1, p2) = values = [np.asarray(entry[k], np.float64).ravel() for k in "fckp"]
    if not (fx > 0 and fy > 0 and all(np.isfinite(v).all() for v in (*values, rotation, translation))):
        raise PoseZooError(
            f"{name} has the focal length ({fx:g}, {fy:g}) px or other values that no camera has: take the cameras "
            "from mmpose's preprocess_h36m.py."
        )
    camera = Camera.create(
        np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
        np.array([k1, k2, p1, p2, k3]),
        "h36m",
        np.asarray(rotation, np.float64),
        np.asarray(translation, np.float64),
    )
    return camera, (int(entry["w"]), int(entry["h"]))


class _ArrayUnpickler(pickle._Unpickler):
    """Reads pickles of arrays and builtin containers only: a pickle may otherwise run any code.

    Python's own implementation in Python: in the one in C, four damaged bytes can ask for 64 GB of memory.
    """

    _ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),  # how old pickles spell bytes
            *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
            *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        }
    )

    def __init__(self, file: IO[bytes], *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise PoseZooError(
                f"The camera file asks for {module}.{name}, which arrays do not need, so it was not opened: take "
                "cameras.pkl from mmpose's preprocess_h36m.py, or put a cameras.json in its place."
            )
        # numpy 2 has moved its core; the old address still works, but warns.
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
