"""Human3.6M's cameras, from any of the files that they are passed on in.

    cameras.pkl                 mmpose's: R is camera to world, T the camera's centre in metres
    cameras.json                the same numbers as R_w2c and t_w2c_mm
    metadata.xml                of the official release (Release-v1.2): angles and centres in mm
    camera-parameters.json      karfly/human36m-camera-parameters: world to camera, mm

All have Human3.6M's own lens distortion (`cameras`: model "h36m").
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.files import read_json
from posezoo.data.mat import one_line
from posezoo.data.safe_pickle import read_pickle
from posezoo.errors import PoseZooError

SERIALS = ("54138969", "55011271", "58860488", "60457274")
# Nominal (width, height), px; real images differ from it by a few lines.
SIZES = {"54138969": (1000, 1002), "55011271": (1000, 1000), "58860488": (1000, 1000), "60457274": (1000, 1002)}
SUBJECTS = tuple(f"S{number}" for number in range(1, 12))
FILES = (
    "annotation_body3d/cameras.pkl",
    "annotation_body3d/cameras.json",
    "cameras.pkl",
    "cameras.json",
    "metadata.xml",
    "Release-v1.2/metadata.xml",
    "camera-parameters.json",
)
REMEDY = "make it again with mmpose's preprocess_h36m.py, or put the official metadata.xml in its place"
_W0 = re.compile(rb"<w0>\s*\[([^\]<]{1,20000})\]")

CameraKey = tuple[str, str]  # subject, camera serial number
View = tuple[Camera, tuple[int, int]]  # camera and nominal (width, height)


def find_cameras(root: Path) -> tuple[Path, dict[CameraKey, View]] | None:
    """The first camera file below a dataset's folder and what it holds; None where there is none.

    Raises:
        PoseZooError: The file holds something else.
    """
    for name in FILES:
        if (root / name).is_file():
            return root / name, read_cameras(root / name)
    return None


def read_cameras(path: Path) -> dict[CameraKey, View]:
    """Camera and nominal (width, height) of every (subject, serial number).

    Raises:
        PoseZooError: The file is damaged or holds something else.
    """
    try:
        if path.suffix == ".pkl":
            return dict(_of_pickle(path))
        if path.suffix == ".xml":
            return dict(_of_metadata(path))
        content = read_json(path, REMEDY)
        return dict(_of_parameters(content, path) if "intrinsics" in content else _of_json(content, path))
    except PoseZooError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise PoseZooError(f"{path} is not a camera file of Human3.6M ({one_line(error)}): {REMEDY}.") from error


def pick_cameras(
    known: dict[CameraKey, View], wanted: Iterable[CameraKey], source: Path
) -> tuple[tuple[Camera, ...], tuple[tuple[int, int], ...]]:
    """Cameras and sizes of some views.

    Raises:
        PoseZooError: One is not known.
    """
    found = []
    for subject, serial in wanted:
        if (subject, serial) not in known:
            raise PoseZooError(
                f"The cameras in {source} lack camera {serial} of {subject}: use a file with all eleven subjects (the "
                "cameras.pkl that mmpose's preprocess_h36m.py makes, or the official metadata.xml)."
            )
        found.append(known[subject, serial])
    return tuple(camera for camera, _ in found), tuple(size for _, size in found)


def make_camera(numbers: dict[str, Any], rotation: Any, translation: Any, which: str, lens: bool = True) -> Camera:
    """A camera from its numbers.

    Args:
        numbers: f and c (two each, px); with a lens also k (three) and p (two).
        rotation: 3 x 3, world to camera.
        translation: mm, world to camera.
        which: For messages.
        lens: Whether the lens distorts.

    Raises:
        PoseZooError: No camera has such numbers.
    """
    keys = "fckp" if lens else "fc"
    values = [np.asarray(numbers[key], np.float64).ravel() for key in keys]
    (fx, fy), (cx, cy), *distortion = values
    turn, shift = np.asarray(rotation, np.float64), np.asarray(translation, np.float64).reshape(3)
    if not (fx > 0 and fy > 0 and all(np.isfinite(v).all() for v in (*values, turn, shift))):
        raise PoseZooError(
            f"{which} has the focal length ({fx:g}, {fy:g}) px or other values that no camera has: take the cameras "
            "from mmpose's preprocess_h36m.py or the official metadata.xml."
        )
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if not lens:
        return Camera.create(intrinsics, rotation=turn, translation=shift)
    (k1, k2, k3), (p1, p2) = distortion
    return Camera.create(intrinsics, np.array([k1, k2, p1, p2, k3]), "h36m", turn, shift)


def _of_pickle(path: Path) -> Iterable[tuple[CameraKey, View]]:
    remedy = "take cameras.pkl from mmpose's preprocess_h36m.py, or put the official metadata.xml in its place"
    for (subject, serial), entry in read_pickle(path, remedy).items():
        rotation = np.asarray(entry["R"], np.float64).T
        centre = np.asarray(entry["T"], np.float64).reshape(3) * 1000
        camera = make_camera(entry, rotation, -rotation @ centre, f"{path}: camera {serial} of {subject}")
        yield (str(subject), str(serial)), (camera, (int(entry["w"]), int(entry["h"])))


def _of_json(content: Any, path: Path) -> Iterable[tuple[CameraKey, View]]:
    for subject, views in content.items():
        for serial, entry in views.items():
            which = f"{path}: camera {serial} of {subject}"
            camera = make_camera(entry, entry["R_w2c"], entry["t_w2c_mm"], which)
            yield (subject, serial), (camera, (int(entry["w"]), int(entry["h"])))


def _of_parameters(content: Any, path: Path) -> Iterable[tuple[CameraKey, View]]:
    for subject, views in content["extrinsics"].items():
        for serial, entry in views.items():
            lens = content["intrinsics"][serial]
            matrix = np.asarray(lens["calibration_matrix"], np.float64)
            k1, k2, p1, p2, k3 = np.asarray(lens["distortion"], np.float64).ravel()
            numbers = {"f": matrix[[0, 1], [0, 1]], "c": matrix[:2, 2], "k": (k1, k2, k3), "p": (p1, p2)}
            camera = make_camera(numbers, entry["R"], entry["t"], f"{path}: camera {serial} of {subject}")
            yield (subject, serial), (camera, SIZES[serial])


def _of_metadata(path: Path) -> Iterable[tuple[CameraKey, View]]:
    """The element w0: angles and centres of 4 cameras x 11 subjects, then f, c, k, p of the 4 cameras."""
    match = _W0.search(path.read_bytes())  # no XML parser: its entities can ask for any memory
    numbers = np.array([] if match is None else match[1].split(), np.float64)
    if len(numbers) != 300:
        raise ValueError(f"its element w0 has {len(numbers)} numbers instead of 300")
    poses, lenses = numbers[:264].reshape(4, 11, 6), numbers[264:].reshape(4, 9)
    for serial, pose, lens in zip(SERIALS, poses, lenses, strict=True):
        values = {"f": lens[:2], "c": lens[2:4], "k": lens[4:7], "p": lens[7:]}
        for subject, row in zip(SUBJECTS, pose, strict=True):
            rotation = _rotation(row[:3])
            which = f"{path}: camera {serial} of {subject}"
            yield (subject, serial), (make_camera(values, rotation, -rotation @ row[3:], which), SIZES[serial])


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """R = Rx Ry Rz, world to camera."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: NDArray[np.float64] = about_x @ about_y @ about_z
    return turn
