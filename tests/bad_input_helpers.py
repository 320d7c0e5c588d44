"""A tiny dataset in Human3.6M's layout, made of noise, for tests that spoil it; and damaged versions of any file."""

import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from posezoo.errors import PoseZooError

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


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change, drop, repeat or insert a few bytes, or cut the end off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind < 3 and at < len(data):
            data[at] = rng.choice((0, 255, 127, rng.randrange(256), data[at] ^ (1 << rng.randrange(8))))
        elif kind == 3:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 4:
            data[at:at] = data[at : at + rng.randrange(1, 30)] or rng.randbytes(4)
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


def mutants(path: Path, count: int, seed: int) -> Iterator[None]:
    """Put `count` damaged versions into the place of a file, one after the other."""
    whole, rng = path.read_bytes(), random.Random(seed)
    for number in range(count):
        path.write_bytes(_mutate_member(whole, rng) if path.suffix == ".npz" and number % 2 else mutate(whole, rng))
        yield
    path.write_bytes(whole)


def _mutate_member(archive: bytes, rng: random.Random) -> bytes:
    """Damage one array of an npz file and give it a checksum that fits."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            head = 160 if rng.random() < 0.7 else len(content)  # mostly the description of the array
            new.writestr(name, mutate(content[:head], rng) + content[head:] if name == chosen else content)
    return out.getvalue()


def survive(path: Path, count: int, read: Callable[[], object]) -> int:
    """Read damaged versions of a file; returns how many were refused, in one line each."""
    sentences = []
    for _ in mutants(path, count, seed=7):
        try:
            read()
        except PoseZooError as error:
            sentences.append(str(error))
    assert all(len(sentence.splitlines()) == 1 for sentence in sentences)
    return len(sentences)
