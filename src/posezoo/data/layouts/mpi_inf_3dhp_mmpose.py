"""MPI-INF-3DHP as mmpose's `preprocess_mpi_inf_3dhp.py` lays it out."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.annotated import CameraPeople, check_misfit, misfit, pinhole
from posezoo.data.files import Tally, check_images, numbered, read_json, read_npz
from posezoo.data.layouts.mpi_inf_3dhp_labels import (
    SIZE,
    TEST_SEQUENCES,
    UNKNOWN,
    Labels,
    Selection,
    join_sequences,
    join_views,
    label_columns,
)
from posezoo.data.mat import one_line
from posezoo.data.safe_pickle import read_pickle
from posezoo.errors import PoseZooError

_TRAIN_NAME = re.compile(r"(?P<subject>S\d{1,2})_(?P<seq>Seq\d{1,2})_Cam(?P<camera>\d{1,2})_(?P<frame>\d{1,9})\.\w+")
_TEST_NAME = re.compile(r"(?P<subject>TS\d{1,2})_(?P<frame>\d{1,9})\.\w+")
FILES = {"train": "mpi_inf_3dhp_train.npz", "test": "mpi_inf_3dhp_test_valid.npz"}
_MMPOSE = "make it again with mmpose's preprocess_mpi_inf_3dhp.py"


def is_mmpose(root: Path) -> bool:
    """Whether a folder has one of mmpose's annotation files."""
    return any((root / "annotations" / file).is_file() for file in FILES.values())


def open_mmpose_train(
    root: Path, subjects: Sequence[str], labels: Labels, selection: Selection, margin: float
) -> CameraPeople:
    """Read mmpose's training file; of the selection only the cameras count, its frames are those of the file.

    Raises:
        PoseZooError: A file is missing, is not what mmpose makes, or has none of the subjects.
    """
    parsed, data = _read_mmpose(root, "train", _TRAIN_NAME)
    wanted = [p["subject"] in subjects and int(p["camera"]) in selection.cameras for p in parsed]
    rows = np.flatnonzero(wanted)
    if not len(rows):
        found = ", ".join(sorted({p["subject"] for p in parsed})) or "nobody"
        raise PoseZooError(
            f"{root / 'annotations' / FILES['train']} has {found}, but none of {', '.join(subjects)} in "
            f"cameras {', '.join(map(str, selection.cameras))}: set --data.train_subjects, --data.val_subjects and "
            "--data.cameras."
        )
    keys = [(p["subject"], p["seq"], int(p["camera"])) for p in (parsed[row] for row in rows)]
    table, view = numbered(keys)
    known = read_mmpose_cameras(root, "train")
    views = []
    for subject, seq, camera in table:
        key = f"{subject}_{seq}_Cam{camera}"
        if key not in known:
            raise PoseZooError(f"The cameras in {root / 'annotations'} lack {key}: {_MMPOSE}.")
        views.append((known[key], SIZE))
    part = {name: values[rows] for name, values in data.items()} | {"view": view}
    _check_mmpose(root, part, views)
    missing = check_images(root / "images", [bytes(name).decode() for name in part["image"]], _MMPOSE)
    part["image"] = np.array([b"images/" + bytes(name) for name in part["image"]], np.bytes_)
    tally = Tally()
    names = [(subject, f"{subject} {seq} camera {camera}") for subject, seq, camera in table]
    people = join_views(root, "mmpose", [part], names, views, labels, margin, tally)
    return replace(people, summary=people.summary + missing)


def open_mmpose_test(
    root: Path, labels: Labels, margin: float, distortion: tuple[float, ...] | None = None
) -> CameraPeople:
    """Read mmpose's test file.

    Raises:
        PoseZooError: A file is missing or is not what mmpose makes.
    """
    parsed, data = _read_mmpose(root, "test", _TEST_NAME)
    known = read_mmpose_cameras(root, "test")
    sequences = [name for name in TEST_SEQUENCES if any(p["subject"] == name for p in parsed)]
    strange = sorted({p["subject"] for p in parsed} - set(sequences))
    if strange or not sequences:
        raise PoseZooError(f"{root / 'annotations'} names the test sequences {strange}, not TS1 to TS6: {_MMPOSE}.")
    parts = []
    for name in sequences:
        if name not in known:
            raise PoseZooError(f"The cameras in {root / 'annotations'} lack {name}: {_MMPOSE}.")
        rows = np.flatnonzero([p["subject"] == name for p in parsed])
        part = {key: values[rows] for key, values in data.items()}
        k = known[name].intrinsics.double().numpy()
        _check_mmpose(root, part | {"view": np.zeros(len(rows), np.int32)}, [(known[name], SIZE)])
        parts.append(
            part
            | {
                "action": np.full(len(rows), UNKNOWN, np.int32),
                "sequence": np.full(len(rows), TEST_SEQUENCES.index(name), np.int32),
                "focal": np.repeat(np.diag(k)[None, :2], len(rows), 0),
                "centre": np.repeat(k[None, :2, 2], len(rows), 0),
            }
        )
    return join_sequences(root, "mmpose", sequences, parts, labels, margin, distortion, "images")


def _read_mmpose(
    root: Path, split: str, pattern: re.Pattern[str]
) -> tuple[list[dict[str, str]], dict[str, NDArray[Any]]]:
    """The parsed image names of an annotation file, and its columns."""
    path = root / "annotations" / FILES[split]
    if not path.is_file():
        raise PoseZooError(f"No annotations at {path}: make them with mmpose's preprocess_mpi_inf_3dhp.py.")
    if not (root / "images").is_dir():
        raise PoseZooError(f"{root} has no folder 'images': mmpose's preprocess_mpi_inf_3dhp.py makes it.")
    data = read_npz(path, {"imgname": (), "part": (17, 3), "S": (17, 4)}, _MMPOSE)
    names, parsed = [str(name) for name in data["imgname"]], []
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            raise PoseZooError(f"{path} names the image '{name[:80]}', which is none of its {split} set: {_MMPOSE}.")
        parsed.append(match.groupdict())
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is unlabelled
        joints3d = (data["S"][..., :3].astype(np.float64) * 1000).astype(np.float32)  # the file has metres
        joints2d = data["part"][..., :2].astype(np.float32)
    # Its flag says which joints are inside the image; the labels of those outside are as good.
    labelled = np.isfinite(joints3d).all(-1) & np.isfinite(joints2d).all(-1) & (joints3d[..., 2] > 0)
    frames = np.array([int(p["frame"]) - 1 for p in parsed], np.int64)
    columns = label_columns(frames, joints3d, joints2d, labelled)
    return parsed, columns | {"image": np.array([name.encode() for name in names], np.bytes_)}


def _check_mmpose(root: Path, part: dict[str, NDArray[Any]], views: Sequence[tuple[Camera, tuple[int, int]]]) -> None:
    for number, (camera, _) in enumerate(views):
        rows = part["view"] == number
        both = part["valid3d"][rows] & part["valid2d"][rows]
        error = misfit(camera, part["joints3d"][rows], part["joints2d"][rows], both)
        first = bytes(part["image"][rows][0]).decode()
        check_misfit(error, f"{root / 'annotations'}, {first}", _MMPOSE)


def read_mmpose_cameras(root: Path, split: str) -> dict[str, Camera]:
    """Cameras by name ("S1_Seq1_Cam0", "TS1") from cameras_train.pkl or cameras_test.pkl, else cameras.json.

    R is world to camera and T in metres; test cameras have neither.

    Raises:
        PoseZooError: Neither file is there, or it holds something else.
    """
    folder = root / "annotations"
    binary, text = folder / f"cameras_{split}.pkl", folder / "cameras.json"
    path = binary if binary.is_file() else text
    if not path.is_file():
        raise PoseZooError(f"No cameras at {binary} (or cameras.json): {_MMPOSE}.")
    try:
        entries = read_pickle(path, _MMPOSE) if path == binary else read_json(path, _MMPOSE)
        return {str(name): _mmpose_camera(entry, str(name)) for name, entry in entries.items()}
    except PoseZooError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise PoseZooError(f"{path} is not a camera file of mmpose's ({one_line(error)}): {_MMPOSE}.") from error


def _mmpose_camera(entry: dict[str, Any], name: str) -> Camera:
    focal, centre = (np.asarray(entry[key], np.float64).reshape(2) for key in "fc")
    turn = np.asarray(entry.get("R", np.eye(3)), np.float64).reshape(3, 3)
    shift = np.asarray(entry.get("T", np.zeros(3)), np.float64).reshape(3) * 1000
    if not (np.isfinite([*focal, *centre, *shift]).all() and np.isfinite(turn).all() and (focal > 0).all()):
        raise ValueError(f"{name} has values that no camera has")
    return Camera.create(pinhole(focal, centre).intrinsics, rotation=turn, translation=shift)
