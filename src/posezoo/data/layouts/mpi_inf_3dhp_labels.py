"""MPI-INF-3DHP: what its layouts share, from joint names to the finished table of people."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.annotated import CameraPeople, join, listed, pinhole
from posezoo.data.base import finite
from posezoo.data.boxes import joint_boxes
from posezoo.data.files import Tally, check_images, numbered
from posezoo.skeletons import MPI_INF_3DHP_17, MUCO21

Labels = Literal["univ_annot3", "annot3"]

SUBJECTS = tuple(f"S{n}" for n in range(1, 9))
TEST_SEQUENCES = tuple(f"TS{n}" for n in range(1, 7))
# What `activity_annotation` counts from 1; mmpose's layout does not have it.
ACTIVITIES = (
    "Stand/Walk", "Exercise", "Sit on Chair", "Crouch/Reach", "On the Floor", "Sports", "Miscellaneous", "unknown",
)  # fmt: skip
UNKNOWN = len(ACTIVITIES) - 1
CHEST_HIGH_CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)  # "vnect" in the release's tools; the others look from the ceiling

# Names of all 28 joints of the training labels; their subset "relevant" is MPI_INF_3DHP_17, "extended" is MUCO21.
JOINTS_28 = (
    "spine3", "spine4", "spine2", "spine", "pelvis", "neck", "head", "head_top",
    "l_clavicle", "l_shoulder", "l_elbow", "l_wrist", "l_hand",
    "r_clavicle", "r_shoulder", "r_elbow", "r_wrist", "r_hand",
    "l_hip", "l_knee", "l_ankle", "l_foot", "l_toe", "r_hip", "r_knee", "r_ankle", "r_foot", "r_toe",
)  # fmt: skip
EXTENDED = [JOINTS_28.index(name) for name in MUCO21.joints]

OUTDOOR = ("TS5", "TS6")
# k1 k2 p1 p2 k3 of the outdoor camera, from MeTRAbs' code; no file of the dataset has them.
OUTDOOR_DISTORTION = (-0.276859611, 0.131125256, -0.000360494, -0.001149441, -0.049318332)

SIZE, OUTDOOR_SIZE = (2048, 2048), (1920, 1080)


@dataclass(frozen=True)
class Selection:
    """Which frames of the release's training videos are used; see `MPIINF3DHP`.

    With `videos`, frames that are only in a video count as there.
    """

    cameras: tuple[int, ...] = CHEST_HIGH_CAMERAS
    frame_step: int = 1
    min_motion: float = 0.0
    whole_body: bool = False
    videos: bool = False


def label_columns(
    frame: NDArray[Any], joints3d: NDArray[Any], joints2d: NDArray[Any], labelled: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Labels of frames (from 0) as columns of a table: zeros where a joint is not labelled or not finite.

    Args:
        frame: [N].
        joints3d: [N, J, 3] mm.
        joints2d: [N, J, 2] px.
        labelled: bool [N, J].
    """
    valid3d = finite(joints3d, labelled)
    assert valid3d is not None
    return {
        "frame": frame.astype(np.int32),
        "joints3d": np.where(valid3d[..., None], joints3d, 0).astype(np.float32),
        "valid3d": valid3d,
        "joints2d": np.where(labelled[..., None], joints2d, 0).astype(np.float32),
        "valid2d": labelled,
    }


def place_universal(universal: NDArray[Any], metric: NDArray[Any], labelled: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Move poses of normalised height to where they project onto the same pixels as the true ones.

    The release's `univ_annot3` does not project onto `annot2`: its bodies are another size at the same place. A body of
    s times the size looks the same at s times the distance, so the pelvis goes there; s is one for the recording.

    Args:
        universal: [frames, 21 or 17, 3] mm, camera frame.
        metric: The same people in true size.
        labelled: bool [frames, 21 or 17].
    """
    pelvis = int(MPI_INF_3DHP_17.root or 0)  # at the same place in both skeletons
    universal, metric = universal.astype(np.float64), metric.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is unlabelled
        relative, true = universal - universal[:, [pelvis]], metric - metric[:, [pelvis]]
        known = (labelled & np.isfinite(relative).all(-1) & np.isfinite(true).all(-1))[..., None]
        sizes = [np.linalg.norm(np.where(known, poses, 0), axis=(1, 2)) for poses in (relative, true)]
        some = (sizes[0] > 0) & (sizes[1] > 0)
        scale = np.median(sizes[0][some] / sizes[1][some]) if some.any() else 1.0
        return np.asarray(relative + scale * metric[:, [pelvis]], np.float32)


def join_views(
    root: Path,
    layout: str,
    parts: list[dict[str, NDArray[Any]]],
    names: list[tuple[str, str]],
    views: list[tuple[Camera, tuple[int, int]]],
    labels: str,
    margin: float,
    tally: Tally,
) -> CameraPeople:
    """Put the views of the training sequences together; `names` has the subject and the title of each."""
    data = join(parts)
    subjects, subject = numbered([name for name, _ in names], key=lambda name: int(name[1:]))
    view, count = data["view"], len(data["image"])
    return CameraPeople(
        folder=root,
        skeleton=MUCO21 if data["joints3d"].shape[1] == len(MUCO21) else MPI_INF_3DHP_17,
        image=data["image"],
        boxes=joint_boxes(data["joints2d"], data["valid2d"], margin),
        joints3d=data["joints3d"],
        valid3d=data["valid3d"],
        joints2d=data["joints2d"],
        valid2d=data["valid2d"],
        view=view,
        cameras=_stack([camera for camera, _ in views]),
        sizes=np.array([size for _, size in views], np.int32),
        subject=subject[view],
        subjects=subjects,
        sequence=view,
        sequences=tuple(title for _, title in names),
        frame=data["frame"] + 1,
        action=np.full(count, UNKNOWN, np.int32),
        image_id=np.arange(count),
        person_id=np.zeros(count, np.int64),
        summary=(
            f"MPI-INF-3DHP, {layout} layout at {root}: {count} training frames of {', '.join(subjects)} in "
            f"{len(views)} views, labels {labels}; left out: {tally}"
        ),
    )


def _stack(cameras: Sequence[Camera]) -> Camera:
    """A batch of cameras."""
    return Camera(*(torch.stack(column) for column in zip(*(_fields(camera) for camera in cameras), strict=True)))


def _fields(camera: Camera) -> tuple[torch.Tensor, ...]:
    return camera.intrinsics, camera.distortion, camera.distortion_model, camera.rotation, camera.translation


def join_sequences(
    root: Path,
    layout: str,
    sequences: Sequence[str],
    parts: Sequence[dict[str, NDArray[Any]]],
    labels: str,
    margin: float,
    distortion: tuple[float, ...] | None,
    folder: str = "",
) -> CameraPeople:
    """Put test sequences together; each has one camera."""
    data = join(parts)
    firsts = [np.flatnonzero(data["sequence"] == TEST_SEQUENCES.index(name))[0] for name in sequences]
    cameras = [
        _test_camera(name, data["focal"][at], data["centre"][at], distortion)
        for name, at in zip(sequences, firsts, strict=True)
    ]
    view_of = np.full(len(TEST_SEQUENCES), -1, np.int32)
    view_of[[TEST_SEQUENCES.index(name) for name in sequences]] = np.arange(len(sequences))
    images = root / folder
    names = [bytes(name).decode("ascii") for name in data["image"]]
    missing = check_images(images, names, "unpack all of mpi_inf_3dhp_test_set there")
    absent = [name for name in TEST_SEQUENCES if name not in sequences]
    count = len(names)
    # Where a lens bends the images, the 2D labels, which are made without it, are beside the joints.
    bent = [number for number, name in enumerate(TEST_SEQUENCES) if name in OUTDOOR and distortion is not None]
    straight = ~np.isin(data["sequence"], bent)
    return CameraPeople(
        folder=images,
        skeleton=MPI_INF_3DHP_17,
        image=data["image"],
        boxes=joint_boxes(data["joints2d"], data["valid2d"], margin),
        joints3d=data["joints3d"],
        valid3d=data["valid3d"],
        joints2d=data["joints2d"],
        valid2d=data["valid2d"] & straight[:, None],
        view=view_of[data["sequence"]],
        cameras=_stack(cameras),
        sizes=np.array([OUTDOOR_SIZE if name in OUTDOOR else SIZE for name in sequences], np.int32),
        subject=data["sequence"],
        subjects=TEST_SEQUENCES,
        sequence=data["sequence"],
        sequences=TEST_SEQUENCES,
        frame=data["frame"] + 1,
        action=data["action"],
        image_id=np.arange(count),
        person_id=np.zeros(count, np.int64),
        summary=(
            f"MPI-INF-3DHP, {layout} layout at {root}: {count} valid test frames of {', '.join(sequences)}, labels "
            f"{labels}; not there: {listed(absent)}{missing}"
        ),
    )


def _test_camera(name: str, focal: Any, centre: Any, distortion: tuple[float, ...] | None) -> Camera:
    camera = pinhole(focal, centre)
    if distortion is None or name not in OUTDOOR:
        return camera
    return Camera.create(camera.intrinsics, distortion)
