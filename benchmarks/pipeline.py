"""From a picture with boxes to people: crops together beside one by one, the call beside its network, a cold start."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from benchmarks.core import ROOT
from posezoo.cameras import Camera, apply_homography, look_at_crop
from posezoo.data.batch_crop import crop_boxes, warp_crops
from posezoo.data.crop import warp
from posezoo.models import MeTRAbs
from posezoo.pipeline import PosePipeline
from posezoo.testing import TINY
from posezoo.zoo import save_model

SIDE, FINER = 256, 4
TRAINING = "training's crop, in a loop"
LIGHTNING = "Python, with Lightning"
FOLDER = tempfile.TemporaryDirectory(prefix="posezoo-bench-")  # gone when the process ends


def photograph(quick: bool) -> NDArray[np.uint8]:
    """Soft random colours, 1920 x 1080."""
    height, width = (270, 480) if quick else (1080, 1920)
    coarse = np.random.default_rng(0).integers(0, 256, (height // 30, width // 30, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def eight_boxes(quick: bool) -> NDArray[np.float32]:
    """People of 320 to 670 px height, spread over the picture."""
    rows = [[30 + 230 * i, 60 + 35 * i, 150 + 20 * i, 320 + 50 * i] for i in range(8)]
    return np.array(rows, np.float32) / (4 if quick else 1)


def _batched(camera: Camera, count: int) -> Camera:
    fields = (camera.intrinsics, camera.distortion, camera.distortion_model, camera.rotation, camera.translation)
    return Camera(*(value.expand(count, *value.shape) for value in fields))


def one_by_one(image: NDArray[np.uint8], camera: Camera, boxes: Tensor, size: int) -> Tensor:
    """The released PyTorch port's way: a pyramid of the whole picture in floats, one grid and one sampling a crop."""
    pyramid = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255]
    for _ in range(2):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    axis = torch.arange(size, dtype=torch.float32)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    pixels = torch.stack([u, v], -1).flatten(0, 1)
    extent = torch.tensor([image.shape[1], image.shape[0]], dtype=torch.float32)
    crops = []
    for box in boxes:
        crop = look_at_crop(camera, box, size)
        scale = float(camera.intrinsics[0, 0] / crop.intrinsics[0, 0])
        level = int(np.clip(np.floor(np.log2(max(scale, 1e-6))), 0, 2))
        grid = (apply_homography(crop.crop_to_image, pixels) + 0.5) / extent * 2 - 1
        crops.append(F.grid_sample(pyramid[level], grid.view(1, size, size, 2), align_corners=False))
    return torch.cat(crops)


def make_crops(quick: bool) -> Bench:
    image, size = photograph(quick), 64 if quick else SIDE
    boxes = torch.from_numpy(eight_boxes(quick))
    camera = Camera.from_field_of_view(55.0, image.shape[1], image.shape[0])
    calls: dict[str, Callable[[], Any]] = {
        REFERENCE: lambda: one_by_one(image, camera, boxes, size),
        TRAINING: lambda: [warp(image, look_at_crop(camera, box, size)) for box in boxes],
        OURS: lambda: warp_crops([image], crop_boxes(_batched(camera, 8), boxes, size, "look_at"), [0] * 8),
    }

    def errors() -> dict[str, float]:
        """Root mean square over all crops, against many samples per crop pixel; the rim of the picture aside."""
        exact = np.stack([_oracle(image, camera, box, size) for box in boxes])
        found = {
            REFERENCE: calls[REFERENCE]().permute(0, 2, 3, 1).numpy() * 255.0,
            TRAINING: np.stack(calls[TRAINING]()),
            OURS: calls[OURS](),
        }
        return {name: float(np.sqrt(np.mean((crops - exact) ** 2))) for name, crops in found.items()}

    return Bench(calls, errors, {REFERENCE: 8.0, TRAINING: 8.0, OURS: 8.0}, items=8)


def _oracle(image: NDArray[np.uint8], camera: Camera, box: Tensor, size: int) -> NDArray[np.float64]:
    crop = look_at_crop(camera, box, size)
    finer = np.array([[1 / FINER, 0, 0.5 / FINER - 0.5], [0, 1 / FINER, 0.5 / FINER - 0.5], [0, 0, 1]])
    matrix = crop.crop_to_image.double().numpy() @ finer
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    large = cv2.warpPerspective(image.astype(np.float32), matrix, (size * FINER,) * 2, flags=flags).astype(np.float64)
    return large.reshape(size, FINER, size, FINER, 3).mean((1, 3))


def _model(quick: bool) -> MeTRAbs:
    torch.manual_seed(0)
    settings: dict[str, Any] = dict(TINY) if quick else {"backbone": "resnet50"}
    return MeTRAbs(**settings).eval()


def make_call(quick: bool) -> Bench:
    """The whole call beside backbone and head alone: what is between them is crop, decoding, un-rotating, merging."""
    image, boxes = photograph(quick), eight_boxes(quick)
    pose = PosePipeline(_model(quick), "cpu", detector="none")
    crops = torch.zeros(8, 3, pose.image_size, pose.image_size, dtype=torch.uint8)
    network = pose.model.network

    @torch.inference_mode()
    def alone() -> Tensor:
        logits: Tensor = network.head(network.backbone(crops))
        return logits

    def errors() -> dict[str, float]:
        """Largest difference of a joint between people found together and each by itself."""
        together = pose(image, boxes).joints3d
        single = np.concatenate([pose(image, box[None]).joints3d for box in boxes])
        return {REFERENCE: 0.0, OURS: float(np.abs(together - single).max())}

    return Bench({REFERENCE: alone, OURS: lambda: pose(image, boxes)}, errors, {REFERENCE: 0.0, OURS: 1.0}, items=8)


def make_cold(quick: bool) -> Bench:
    """`posezoo infer` of one picture in a fresh process, beside the same from Python with Lightning imported."""
    folder, photo = Path(FOLDER.name) / f"weights-{quick}", Path(FOLDER.name) / f"photo-{quick}.jpg"
    save_model(_model(quick), folder)
    cv2.imwrite(str(photo), photograph(quick))
    out = str(Path(FOLDER.name) / "out")
    words = [str(photo), "--model", str(folder), "--detector", "none", "--out", out, "--no-pictures", "--device", "cpu"]
    load = f"posezoo.load({str(folder)!r}, 'cpu', detector='none')"
    code = f"import pytorch_lightning, posezoo; print(len({load}({str(photo)!r})))"

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True, env=dict(os.environ)
        )
        return done.stdout

    calls = {LIGHTNING: lambda: run("-c", code), OURS: lambda: run("-m", "posezoo", "infer", *words)}

    def errors() -> dict[str, float]:
        """0 where one person was found."""
        return {LIGHTNING: float(calls[LIGHTNING]().strip() != "1"), OURS: float("Found 1 poses" not in calls[OURS]())}

    return Bench(calls, errors, {LIGHTNING: 0.0, OURS: 0.0})


register(
    Case("pipeline/crops-8-of-1080p", make_crops, {}, (Target("speed", 3.0),), "grey levels", most_rounds=30),
    Case("pipeline/call-resnet50-8", make_call, {}, (Target("speed", 0.9),), "mm", most_rounds=7, quick_check=True),
    Case("pipeline/cold", make_cold, {}, (), most_rounds=3, quick_check=True),
)
