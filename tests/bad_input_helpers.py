"""A tiny dataset in Human3.6M's layout, made of noise, for tests that spoil it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SERIAL, SIDE, FOCAL = "54138969", 64, 80.0
CAMERAS = "annotation_body3d/cameras.pkl"
Arrays = dict[str, np.ndarray]


def image_name(number: int) -> str:
    return f"S1/S1_Directions_1.{SERIAL}/S1_Directions_1.{SERIAL}_{number + 1:06d}.jpg"


def image_path(root: Path, number: int) -> Path:
    return root / "images" / image_name(number)


def camera_entry(focal: float = FOCAL) -> dict[str, Any]:
    return {
        "R": np.eye(3),
        "T": np.zeros((3, 1)),
        "f": np.full((2, 1), focal),
        "c": np.full((2, 1), SIDE / 2),
        "k": np.zeros((3, 1)),
        "p": np.zeros((2, 1)),
        "w": SIDE,
        "h": SIDE,
    }


def annotations(count: int) -> Arrays:
    pose = np.random.default_rng(0).uniform(-0.4, 0.4, (count, 17, 3)) + np.array([0, 0, 2.5])
    pixels = FOCAL * pose[..., :2] / pose[..., 2:] + SIDE / 2
    ones = np.ones((count, 17, 1))
    return {
        "imgname": np.array([image_name(number) for number in range(count)]),
        "center": np.full((count, 2), SIDE / 2),
        "scale": np.full(count, 0.2),
        "part": np.concatenate([pixels, ones], -1),
        "S": np.concatenate([pose, ones], -1),
    }


def write_h36m(root: Path, count: int = 6, change: Callable[[Arrays], None] | None = None) -> Path:
    """Write `count` frames, the same for training and test; `change` may spoil their annotations."""
    arrays = annotations(count)
    if change:
        change(arrays)
    folder = root / "annotation_body3d" / "fps50"
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("h36m_train.npz", "h36m_test.npz"):
        np.savez(folder / file, **arrays)  # type: ignore[arg-type]
    write_cameras(root, camera_entry())
    rng = np.random.default_rng(1)
    for number in range(count):
        image_path(root, number).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image_path(root, number)), rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    return root


def write_cameras(root: Path, entry: Any) -> None:
    (root / CAMERAS).write_bytes(pickle.dumps({("S1", SERIAL): entry}, protocol=2))


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
