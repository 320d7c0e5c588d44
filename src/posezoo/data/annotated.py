"""People with 3D joints in calibrated images, as arrays: what the MPI-INF-3DHP family has in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.base import PoseDataset
from posezoo.data.evaluation import Records
from posezoo.data.images import SourceImage, open_image
from posezoo.errors import PoseZooError
from posezoo.skeletons import Skeleton
from posezoo.structures import Sample

MISFIT_PX = 5.0  # labels whose 3D projects farther from their 2D than this are not of one kind
_CHECKED = 16  # poses of a recording that are projected when it is opened


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CameraPeople(PoseDataset):
    """N annotated people as arrays: no object per sample that loader processes would copy.

    Attributes:
        folder: What the image names are relative to.
        skeleton: Of the annotations, J joints.
        image: ASCII bytes [N].
        boxes: float32 [N, 4] ltwh, px.
        joints3d: float32 [N, J, 3] mm, camera frame; `valid3d` bool [N, J].
        joints2d: float32 [N, J, 2] px; `valid2d` bool [N, J].
        view: int32 [N], place in `cameras` (a batch of them) and `sizes`, int32 [V, 2] (width, height) px.
        sequence: int32 [N], place in `sequences`; `subject` in `subjects`.
        frame: int32 [N], number in the image's name.
        action, image_id, person_id: int [N], identities.
        summary: What was found, left out and missing.
    """

    folder: Path
    skeleton: Skeleton
    image: NDArray[np.bytes_]
    boxes: NDArray[np.float32]
    joints3d: NDArray[np.float32]
    valid3d: NDArray[np.bool_]
    joints2d: NDArray[np.float32]
    valid2d: NDArray[np.bool_]
    view: NDArray[np.int32]
    cameras: Camera
    sizes: NDArray[np.int32]
    subject: NDArray[np.int32]
    subjects: tuple[str, ...]
    sequence: NDArray[np.int32]
    sequences: tuple[str, ...]
    frame: NDArray[np.int32]
    action: NDArray[np.int32]
    image_id: NDArray[np.int64]
    person_id: NDArray[np.int64]
    summary: str
    first_frame: int = 1  # number of a recording's first frame in the images' names

    def __len__(self) -> int:
        return len(self.image)

    def read(self, index: int, draw: int = 0) -> Sample:
        """One person with the image."""
        image = self.open_image(index)
        nominal = self.size(index)
        if image.size != nominal:
            raise PoseZooError(
                f"{self.path(index)} is {image.size[0]} x {image.size[1]} px, but its labels and camera are for "
                f"{nominal[0]} x {nominal[1]} px: use the images in their original size."
            )
        return self._sample(index, image)

    def read_labels(self, index: int) -> Sample:
        """One person without the image."""
        return self._sample(index, None)

    def open_image(self, index: int) -> SourceImage:
        """The image of a person, decoded when it is cropped."""
        return open_image(self.path(index))

    def _sample(self, index: int, image: SourceImage | None) -> Sample:
        identity = {name: int(getattr(self, name)[index]) for name in ("action", "sequence", "frame")}
        return Sample(
            image=image,
            box=self.boxes[index],
            size=self.size(index),
            camera=self.cameras[int(self.view[index])],
            joints3d=self.joints3d[index],
            valid3d=self.valid3d[index],
            joints2d=self.joints2d[index],
            valid2d=self.valid2d[index],
            identity=identity | {"image_id": int(self.image_id[index]), "person_id": int(self.person_id[index])},
        )

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of the image of a person, px."""
        width, height = self.sizes[self.view[index]]
        return int(width), int(height)

    def path(self, index: int) -> Path:
        """The image of a person."""
        return self.folder / bytes(self.image[index]).decode("ascii")

    def meta(self, index: int) -> dict[str, Any]:
        """Path, subject, sequence and frame."""
        return {
            "path": str(self.path(index)),
            "subject": self.subjects[self.subject[index]],
            "sequence": self.sequences[self.sequence[index]],
            "frame": int(self.frame[index]),
        }

    def groups(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """The subject of every sample."""
        return self.subject, self.subjects

    def records(self) -> Records:
        """Subject and frame of every sample."""
        return Records(np.array(self.subjects, np.str_)[self.subject], self.frame - self.first_frame)

    def report(self) -> str:
        """What was found, left out and missing."""
        return self.summary


def pinhole(focal: Any, centre: Any) -> Camera:
    """Cameras without distortion from focal lengths and principal points [..., 2], px."""
    f, c = np.asarray(focal, np.float64), np.asarray(centre, np.float64)
    k = np.zeros((*f.shape[:-1], 3, 3))
    k[..., 0, 0], k[..., 1, 1], k[..., 2, 2] = f[..., 0], f[..., 1], 1
    k[..., :2, 2] = c
    return Camera.create(k)


def fit_pinhole(
    joints3d: NDArray[Any], joints2d: NDArray[Any], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Focal lengths and principal point (px) that project 3D joints onto 2D joints, by least squares on each axis.

    For test sets that come without a calibration.

    Args:
        joints3d: [..., 3] mm, camera frame, in front of the camera where valid.
        joints2d: [..., 2] px.
        valid: bool [...].

    Raises:
        ValueError: Too few or useless joints.
    """
    points, pixels = joints3d[valid].astype(np.float64), joints2d[valid].astype(np.float64)
    if len(points) < 3 or not (points[:, 2] > 0).all():
        raise ValueError("too few joints in front of the camera")
    solved = []
    for axis in range(2):
        rows = np.stack([points[:, axis] / points[:, 2], np.ones(len(points))], 1)
        solved.append(np.linalg.lstsq(rows, pixels[:, axis], rcond=None)[0])
    (fx, cx), (fy, cy) = solved
    if not (np.isfinite(solved).all() and fx > 0 and fy > 0):
        raise ValueError("no camera projects the 3D joints onto the 2D joints")
    return np.array([fx, fy]), np.array([cx, cy])


def misfit(camera: Camera, joints3d: NDArray[Any], joints2d: NDArray[Any], valid: NDArray[np.bool_]) -> float:
    """Mean distance (px) of projected 3D joints from 2D joints, over poses [N, J] spread evenly; NaN without any.

    Args:
        camera: Unbatched.
        joints3d: [N, J, 3] mm, camera frame.
        joints2d: [N, J, 2] px.
        valid: bool [N, J], which to compare.
    """
    rows = np.linspace(0, max(len(valid) - 1, 0), min(len(valid), _CHECKED)).astype(int)
    both = valid[rows] & (joints3d[rows][..., 2] > 1)
    if not both.any():
        return float("nan")
    points = torch.as_tensor(np.asarray(joints3d[rows][both], np.float32))
    apart = camera.project(points).double().numpy() - joints2d[rows][both]
    return float(np.linalg.norm(apart, axis=-1).mean())


def check_misfit(error: float, labels: str, remedy: str) -> None:
    """Refuse 3D labels that do not project to the 2D labels.

    Raises:
        PoseZooError: They are `MISFIT_PX` or more apart on average.
    """
    if not (np.isnan(error) or error < MISFIT_PX):
        raise PoseZooError(
            f"{labels}: the 3D labels project {error:.0f} px away from the 2D labels, so they and the camera are not "
            f"of one kind: {remedy}."
        )


def join(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """One table out of several with the same columns."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def listed(names: Sequence[str]) -> str:
    """Names for a report: all of a few, the ends of a long row, "nothing" of none."""
    if not names:
        return "nothing"
    return ", ".join(names) if len(names) <= 8 else f"{names[0]} ... {names[-1]} ({len(names)})"
