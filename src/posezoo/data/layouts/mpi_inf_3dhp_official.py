"""MPI-INF-3DHP as its authors release it, with the frames of the training videos extracted or, to prepare, without."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.annotated import CameraPeople, check_misfit, fit_pinhole, misfit, pinhole
from posezoo.data.files import Tally, missing_files
from posezoo.data.layouts.mpi_inf_3dhp_labels import (
    EXTENDED,
    JOINTS_28,
    SUBJECTS,
    TEST_SEQUENCES,
    UNKNOWN,
    Labels,
    Selection,
    join_sequences,
    join_views,
    label_columns,
    place_universal,
)
from posezoo.data.mat import one_line, read_mat
from posezoo.errors import PoseZooError
from posezoo.skeletons import MPI_INF_3DHP_17

# Frames that have an image, from the release's tools: some recordings have labels beyond the end of their videos.
_FRAME_COUNTS = {
    ("S1", "Seq1"): 6416, ("S1", "Seq2"): 12430, ("S2", "Seq1"): 6502, ("S2", "Seq2"): 6081,
    ("S3", "Seq1"): 12488, ("S3", "Seq2"): 12283, ("S4", "Seq1"): 6171, ("S4", "Seq2"): 6675,
    ("S5", "Seq1"): 12820, ("S5", "Seq2"): 12312, ("S6", "Seq1"): 6188, ("S6", "Seq2"): 6145,
    ("S7", "Seq1"): 6239, ("S7", "Seq2"): 6320, ("S8", "Seq1"): 6468, ("S8", "Seq2"): 6054,
}  # fmt: skip

# How people extract the videos; {number} counts from 1.
FRAME_PATTERNS = (
    "imageSequence/img_{camera}_{number:06d}.jpg",  # the release's own instructions
    "imageSequence/video_{camera}/img_{number:06d}.jpg",
    "imageSequence/video_{camera}/frame_{number:06d}.jpg",
    "imageFrames/video_{camera}/frame_{number:06d}.jpg",  # SPIN
)
TEST_FRAME = "imageSequence/img_{number:06d}.jpg"
_TRAIN_FOLDERS = ("", "train", "mpi_inf_3dhp_train_set")
_TEST_FOLDERS = ("", "mpi_inf_3dhp_test_set", "test")

_ONLY_VIDEO = "frames only as video"
_AGAIN = "get it from the MPI-INF-3DHP release again"


def is_official(root: Path) -> bool:
    """Whether a folder has sequences of the release."""
    return bool(_folders(root, _TRAIN_FOLDERS, SUBJECTS) or _folders(root, _TEST_FOLDERS, TEST_SEQUENCES))


def _folders(root: Path, below: Iterable[str], names: Iterable[str]) -> dict[str, Path]:
    """The folders of those names that are there."""
    found = {}
    for name in names:
        places = [root / folder / name for folder in below]
        path = next((place for place in places if place.is_dir()), None)
        if path is not None:
            found[name] = path
    return found


# ------------------------------------------------------------------------------------------------- training


def open_official_train(
    root: Path, subjects: Sequence[str], labels: Labels, selection: Selection, margin: float
) -> CameraPeople:
    """Read the training sequences of some subjects; frames without an image are left out and counted.

    Raises:
        PoseZooError: Nothing is there, or a file of a sequence that is there is missing or damaged.
    """
    there = _folders(root, _TRAIN_FOLDERS, subjects)
    wanted = [(subject, seq) for subject in subjects for seq in ("Seq1", "Seq2")]
    tally = Tally()
    parts: list[dict[str, NDArray[Any]]] = []
    names: list[tuple[str, str]] = []
    views: list[tuple[Camera, tuple[int, int]]] = []
    for subject, seq in wanted:
        folder = there.get(subject, root / subject) / seq
        if not folder.is_dir():
            tally.leave_out("without a folder", [f"{subject}/{seq}"])
            continue
        calibration = read_calibration(folder / "camera.calibration")
        for camera, part in _read_sequence(folder, subject, seq, labels, selection, calibration, tally).items():
            image, present, filmed = _images(root, folder, camera, part["frame"] + 1, selection.videos, tally)
            kept = present | filmed
            if kept.any():
                part = {name: values[kept] for name, values in part.items()}
                part["view"] = np.full(len(part["frame"]), len(views), np.int32)
                parts.append(part | {"image": image[kept], "filmed": filmed[kept]})
                names.append((subject, f"{subject} {seq} camera {camera}"))
                views.append(calibration[camera])
    if not parts:
        raise PoseZooError(
            f"{root} has no training frames of {', '.join(subjects)} (left out: {tally}): "
            + (
                f"take them out with `posezoo prepare mpi_inf_3dhp --raw {root} --root FOLDER`."
                if _ONLY_VIDEO in tally.counts
                else "unpack the release there."
            )
        )
    people = join_views(root, "official", parts, names, views, labels, margin, tally)
    filmed = np.concatenate([part["filmed"] for part in parts])
    return FilmedPeople(**vars(people), filmed=filmed) if filmed.any() else people


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FilmedPeople(CameraPeople):
    """Training frames of which some are in videos only, until they are taken out of these.

    Attributes:
        filmed: bool [N], which frames.
        frames: Folder that these are below once they are images.
    """

    filmed: NDArray[np.bool_]
    frames: Path | None = None

    def path(self, index: int) -> Path:
        """The image of a person."""
        folder = self.frames if self.filmed[index] and self.frames is not None else self.folder
        return folder / bytes(self.image[index]).decode("ascii")


def video_of(people: CameraPeople, index: int, kind: str = "imageSequence") -> Path:
    """The video that a training frame of the release, or its mask (`FGmasks`, `ChairMasks`), is from."""
    sequence = bytes(people.image[index]).decode("ascii").partition("/image")[0]
    camera = people.sequences[people.view[index]].rpartition(" ")[2]
    return people.folder / sequence / kind / f"video_{camera}.avi"


def _read_sequence(
    folder: Path,
    subject: str,
    seq: str,
    labels: Labels,
    selection: Selection,
    calibration: dict[int, tuple[Camera, tuple[int, int]]],
    tally: Tally,
) -> dict[int, dict[str, NDArray[Any]]]:
    """The selected frames of one sequence by camera: frame (from 0), joints3d, valid3d, joints2d, valid2d."""
    path = folder / "annot.mat"
    annot = read_mat(path, {"annot2", "annot3", "cameras", labels}, _AGAIN)
    cells = {name: _cells(annot[name], name, path) for name in {"annot2", "annot3", labels}}
    order = np.asarray(annot["cameras"]).ravel()
    at = {int(number): place for place, number in enumerate(order) if np.isfinite(float(number))}
    found: dict[int, dict[str, NDArray[Any]]] = {}
    rows: NDArray[np.int64] | None = None
    for camera in selection.cameras:
        name = f"{subject}/{seq} camera {camera}"
        if camera not in at or any(at[camera] >= len(cell) for cell in cells.values()):
            tally.leave_out("views without labels", [name])
            continue
        if camera not in calibration:
            raise PoseZooError(f"{folder / 'camera.calibration'} lacks camera {camera}: {_AGAIN}.")
        pixels = _table(cells["annot2"][at[camera]], 2, path, f"annot2 of camera {camera}")
        metric = _table(cells["annot3"][at[camera]], 3, path, f"annot3 of camera {camera}")
        chosen = metric if labels == "annot3" else _table(cells[labels][at[camera]], 3, path, f"{labels} of {camera}")
        count = min(len(pixels), len(metric), len(chosen), _FRAME_COUNTS.get((subject, seq), len(pixels)))
        pixels, metric, chosen = pixels[:count], metric[:count], chosen[:count]
        labelled = np.isfinite(metric).all(-1) & np.isfinite(pixels).all(-1) & (metric[..., 2] > 0)
        check_misfit(misfit(calibration[camera][0], metric, pixels, labelled), f"{path}, camera {camera}", _AGAIN)
        if rows is None:  # all cameras see the same poses
            rows = moving(metric, np.arange(0, count, selection.frame_step), selection.min_motion)
        kept = rows[(rows < count)]
        bare = ~labelled[kept].any(1)
        tally.leave_out("frames without labels", [f"{name} frame {row}" for row in kept[bare]])
        kept = kept[~bare]
        if selection.whole_body:
            kept = kept[_inside(pixels[kept], labelled[kept], calibration[camera][1])]
        placed = chosen if labels == "annot3" else place_universal(chosen, metric, labelled)
        found[camera] = label_columns(kept, placed[kept], pixels[kept], labelled[kept])
    return found


def _cells(value: Any, name: str, path: Path) -> list[Any]:
    if not isinstance(value, np.ndarray) or value.dtype != object:
        raise PoseZooError(f"{path} has '{name}' of another kind than a cell for each camera: {_AGAIN}.")
    return list(value.ravel())


def _table(value: Any, width: int, path: Path, name: str) -> NDArray[np.float32]:
    """The 21 joints of MUCO21, [frames, 21, width], of one camera's table of 28."""
    numbers = isinstance(value, np.ndarray) and value.dtype != object and value.ndim == 2
    if not numbers or value.shape[1] != len(JOINTS_28) * width:
        shape = getattr(value, "shape", ())
        raise PoseZooError(
            f"{path} has {name} of shape {shape}, expected (frames, {len(JOINTS_28) * width}) for the 28 joints of "
            f"MPI-INF-3DHP: {_AGAIN}."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is unlabelled
        return np.asarray(value.reshape(len(value), len(JOINTS_28), width)[:, EXTENDED], np.float32)


def moving(poses: NDArray[Any], rows: NDArray[np.int64], least: float) -> NDArray[np.int64]:
    """Those rows of a recording [frames, J, 3] in which a joint is `least` mm away from the last row taken."""
    if least <= 0 or not len(rows):
        return rows
    taken = [rows[0]]
    for row in rows[1:]:
        if not np.nanmax(np.linalg.norm(poses[row] - poses[taken[-1]], axis=-1), initial=0) < least:
            taken.append(row)
    return np.array(taken)


def _inside(pixels: NDArray[Any], labelled: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which poses [N] have all of the 17 joints inside the image."""
    first = slice(len(MPI_INF_3DHP_17))
    within = ((pixels >= 0) & (pixels < np.array(size))).all(-1) & labelled
    return np.asarray(within[:, first].all(1))


def _images(
    root: Path, folder: Path, camera: int, numbers: NDArray[Any], videos: bool, tally: Tally
) -> tuple[NDArray[np.bytes_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Names below the root of frames (from 1), which are there and which count as there, in the pattern that fits best.

    With `videos`, those that can only be in the view's video do.
    """
    best: tuple[int, str, list[str], list[str]] | None = None
    for pattern in FRAME_PATTERNS:
        names = [(folder / pattern.format(camera=camera, number=n)).relative_to(root).as_posix() for n in numbers]
        missing = missing_files(root, names)
        if best is None or len(missing) < best[0]:
            best = len(missing), pattern, names, missing
        if not missing:
            break
    assert best is not None
    _, _, names, missing = best
    absent = frozenset(missing)
    there = np.array([n not in absent for n in names], bool)
    video = (folder / "imageSequence" / f"video_{camera}.avi").is_file()
    filmed = ~there & (video and videos)
    if missing and not filmed.any():
        tally.leave_out(_ONLY_VIDEO if video and not there.any() else "frames without an image", missing)
    return np.array([n.encode() for n in names], np.bytes_), there, filmed


def read_calibration(path: Path) -> dict[int, tuple[Camera, tuple[int, int]]]:
    """Camera (world to camera, mm) and (width, height) by number, from a `camera.calibration` of the release.

    Raises:
        PoseZooError: It is missing or holds something else.
    """
    if not path.is_file():
        raise PoseZooError(f"No cameras at {path}: {_AGAIN}.")
    try:
        return _parse_calibration(path.read_text(encoding="ascii"))
    except (OSError, ValueError, IndexError, KeyError, RuntimeError, OverflowError) as error:
        raise PoseZooError(f"{path} is not a calibration of MPI-INF-3DHP ({one_line(error)}): {_AGAIN}.") from error


def _parse_calibration(text: str) -> dict[int, tuple[Camera, tuple[int, int]]]:
    cameras: dict[int, dict[str, list[float]]] = {}
    current: dict[str, list[float]] = {}
    for line in text.splitlines()[1:]:
        key, *values = line.split() or [""]
        if key == "name":
            current = cameras.setdefault(int(values[0]), {})
        elif key:
            current[key] = [float(value) for value in values]
    if not cameras:
        raise ValueError("it names no camera")
    return {number: _calibrated(entry, number) for number, entry in cameras.items()}


def _calibrated(entry: dict[str, list[float]], number: int) -> tuple[Camera, tuple[int, int]]:
    k = np.array(entry["intrinsic"]).reshape(4, 4)[:3, :3]
    pose = np.array(entry["extrinsic"]).reshape(4, 4)
    turn = pose[:3, :3]
    if not (np.isfinite(k).all() and np.isfinite(pose).all() and k[0, 0] > 0 and k[1, 1] > 0):
        raise ValueError(f"camera {number} has values that no camera has")
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3):
        raise ValueError(f"the rotation of camera {number} is none")
    if any(entry.get("radial", [0.0])):
        raise ValueError(f"camera {number} has lens distortion, which the release has not")
    width, height = (int(value) for value in entry["size"])
    if width < 1 or height < 1:
        raise ValueError(f"camera {number} has no size")
    return Camera.create(k, rotation=turn, translation=pose[:3, 3]), (width, height)


# ----------------------------------------------------------------------------------------------------- test


def open_official_test(
    root: Path, labels: Labels, margin: float, distortion: tuple[float, ...] | None = None
) -> CameraPeople:
    """Read the valid frames of the test sequences that are there.

    The release has no calibration of them: each camera is fitted to the sequence's 3D and 2D labels.

    Raises:
        PoseZooError: None is there, a file is damaged, or most images are missing.
    """
    folders = _folders(root, _TEST_FOLDERS, TEST_SEQUENCES)
    if not folders:
        raise PoseZooError(f"{root} has no test sequences (TS1 ... TS6): unpack mpi_inf_3dhp_test_set there.")
    parts = [_read_test(root, name, path / "annot_data.mat", labels) for name, path in folders.items()]
    return join_sequences(root, "official", list(folders), parts, labels, margin, distortion)


def _read_test(root: Path, name: str, path: Path, labels: Labels) -> dict[str, NDArray[Any]]:
    fields = ("annot2", "annot3", "valid_frame", "activity_annotation")
    annot = read_mat(path, {*fields, labels}, _AGAIN)
    pixels, metric = (_poses(annot[field], field, path) for field in ("annot2", "annot3"))
    chosen = metric if labels == "annot3" else _poses(annot[labels], labels, path)
    valid, activity = (_flags(annot[field], field, path) for field in ("valid_frame", "activity_annotation"))
    if len({len(column) for column in (pixels, metric, chosen, valid, activity)}) > 1:
        raise PoseZooError(f"{path} has labels of different numbers of frames: {_AGAIN}.")
    rows = np.flatnonzero(valid > 0)
    if not len(rows):
        raise PoseZooError(f"{path} has no valid frame: {_AGAIN}.")
    pixels, metric, chosen = pixels[rows], metric[rows], chosen[rows]
    labelled = np.isfinite(metric).all(-1) & np.isfinite(pixels).all(-1) & (metric[..., 2] > 0)
    try:
        focal, centre = fit_pinhole(metric, pixels, labelled)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise PoseZooError(f"{path}: {one_line(error)}, so its labels are not of one kind: {_AGAIN}.") from error
    check_misfit(misfit(pinhole(focal, centre), metric, pixels, labelled), str(path), _AGAIN)
    placed = chosen if labels == "annot3" else place_universal(chosen, metric, labelled)
    seven = activity[rows]
    known = np.isfinite(seven) & (seven >= 1) & (seven <= UNKNOWN)
    folder = path.parent
    names = [(folder / TEST_FRAME.format(number=row + 1)).relative_to(root).as_posix() for row in rows]
    return label_columns(rows, placed, pixels, labelled) | {
        "image": np.array([n.encode() for n in names], np.bytes_),
        "action": np.where(known, np.where(known, seven, 1) - 1, UNKNOWN).astype(np.int32),
        "sequence": np.full(len(rows), TEST_SEQUENCES.index(name), np.int32),
        "focal": np.repeat(focal[None], len(rows), 0),
        "centre": np.repeat(centre[None], len(rows), 0),
    }


def _poses(value: Any, name: str, path: Path) -> NDArray[np.float32]:
    """[frames, 17, 2 or 3] out of MATLAB's (2 or 3, 17, 1, frames)."""
    width = 2 if name == "annot2" else 3
    numbers = isinstance(value, np.ndarray) and value.dtype != object
    if not numbers or value.shape[:2] != (width, len(MPI_INF_3DHP_17)):
        raise PoseZooError(
            f"{path} has '{name}' of shape {getattr(value, 'shape', ())}, expected ({width}, 17, 1, frames): {_AGAIN}."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is unlabelled
        return np.asarray(value.reshape(width, len(MPI_INF_3DHP_17), -1).transpose(2, 1, 0), np.float32)


def _flags(value: Any, name: str, path: Path) -> NDArray[np.float64]:
    if not isinstance(value, np.ndarray) or value.dtype == object:
        raise PoseZooError(f"{path} has no numbers in '{name}': {_AGAIN}.")
    return value.ravel().astype(np.float64)
