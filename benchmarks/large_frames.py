"""From a large JPEG to an augmented crop of 256 px: 3DMPPE's way beside what `CropDataset` does."""

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from posezoo.cameras import Camera, CropCamera
from posezoo.data.base import open_image, read_image
from posezoo.data.crop import CropDraw, CropSpec, crop_camera, make_labels, warp
from posezoo.data.synthetic import render_sample
from posezoo.skeletons import get_skeleton
from posezoo.structures import Sample

SIDE, FINER = 256, 8
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
FOLDER = tempfile.TemporaryDirectory(prefix="posezoo-bench-")  # gone when the process ends


def frame(size: int) -> Path:
    """A rendered room with people as a JPEG of `size` px, with as much grain as makes a photograph's bytes."""
    path = Path(FOLDER.name) / f"{size}.jpg"
    if not path.exists():
        image = cv2.resize(render_sample(0, size=256).image, (size, size), interpolation=cv2.INTER_CUBIC)
        grain = np.random.default_rng(0).normal(0, 3, image.shape)
        noisy = np.clip(image + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return path


def matrix(box: NDArray[np.float32], flip: bool, width: int, crop_side: int = SIDE) -> NDArray[np.float64]:
    """Frame (or, with `flip`, mirrored frame) to crop: centre to centre, as in `posezoo.cameras`."""
    left, top, side, _ = box.astype(np.float64)
    x, y = left + side / 2, top + side / 2
    x = width - 1 - x if flip else x
    scale, centre = crop_side / side, (crop_side - 1) / 2
    return np.array([[scale, 0, centre - scale * x], [0, scale, centre - scale * y]])


def reference(path: Path, box: NDArray[np.float32], flip: bool) -> torch.Tensor:
    """Decode all of it, mirror all of it, warp, normalise: float32 [3, S, S]."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR).copy()
    if flip:
        image = image[:, ::-1]
    crop = cv2.warpAffine(image, matrix(box, flip, image.shape[1]), (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    pixels = crop[..., ::-1].astype(np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1)))


def ours(path: Path, person: Sample, flip: bool) -> dict[str, Any]:
    """The row of a `Batch`: uint8 crop and every label."""
    skeleton = get_skeleton("h36m17")
    spec = CropSpec(skeleton, SIDE, "image_plane", "annotation")
    image = open_image(path)
    crop: CropCamera = crop_camera(person, skeleton, spec, CropDraw(flip=flip))
    row = make_labels(person, skeleton, spec, crop)
    row["image"] = torch.from_numpy(np.ascontiguousarray(warp(image, crop).transpose(2, 0, 1)))
    return row


def oracle(path: Path, box: NDArray[np.float32], flip: bool) -> NDArray[np.float64]:
    """Grey levels [S, S, 3] in float64: many samples per crop pixel, then their mean."""
    image = read_image(path).astype(np.float32)
    image = image[:, ::-1].copy() if flip else image
    fine = matrix(box, flip, image.shape[1], SIDE * FINER)
    large = cv2.warpAffine(image, fine, (SIDE * FINER,) * 2, flags=cv2.INTER_LINEAR).astype(np.float64)
    return large.reshape(SIDE, FINER, SIDE, FINER, 3).mean((1, 3))


def make(size: int, quick: bool) -> Bench:
    size = 512 if quick else size
    path = frame(size)
    box = np.array([0.2 * size, 0.25 * size, 0.5 * size, 0.5 * size], np.float32)
    rng = np.random.default_rng(0)
    camera = Camera.from_field_of_view(50.0, size, size)
    joints = (300 * rng.standard_normal((17, 3)) + [0, 0, 4000]).astype(np.float32)
    person = Sample(None, box, (size, size), camera, joints)
    flips = (False, True)
    calls = {
        REFERENCE: lambda: [reference(path, box, flip) for flip in flips],
        OURS: lambda: [ours(path, person, flip) for flip in flips],
    }

    def errors() -> dict[str, float]:
        """Root mean square over both crops."""
        exact = [oracle(path, box, flip).transpose(2, 0, 1) for flip in flips]
        floats = [image.double().numpy() * STD[:, None, None] + MEAN[:, None, None] for image in calls[REFERENCE]()]
        found = {
            REFERENCE: [255 * image for image in floats],
            OURS: [row["image"].double().numpy() for row in calls[OURS]()],
        }
        return {name: float(np.sqrt(np.mean((np.array(crops) - exact) ** 2))) for name, crops in found.items()}

    # The reference skips source pixels, so that it keeps the grain that averaging removes.
    return Bench(calls, errors, {REFERENCE: 6.0, OURS: 2.0}, items=len(flips))


register(
    Case("large_frames/2048px", make, {"size": 2048}, (Target("speed", 3.0),), "grey levels"),
    Case("large_frames/1000px", make, {"size": 1000}, (), "grey levels"),
)
