"""A model without a network for tests of the pipeline: what it answers is known."""

from typing import Any

import numpy as np
import torch
from torch import nn

from posezoo.cameras import CropCamera
from posezoo.skeletons import H36M17, Skeleton
from posezoo.structures import Batch, Prediction, source_camera

PHOTO = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def person(skeleton: Skeleton = H36M17, depth: float = 3000.0) -> np.ndarray:
    """Someone 1.7 m tall who stands upright and faces the camera, [J, 3] mm, pelvis at (0, 0, depth)."""
    places = {
        "pelvis": (0, 0), "hip": (100, 0), "knee": (110, 430), "ankle": (120, 850),
        "spine": (0, -230), "neck": (0, -480), "nose": (0, -560), "head_top": (0, -700),
        "shoulder": (170, -450), "elbow": (230, -200), "wrist": (280, 20),
    }  # fmt: skip
    joints = np.zeros((len(skeleton), 3), np.float32)
    for i, name in enumerate(skeleton.joints):
        x, y = places[name.removeprefix("l_").removeprefix("r_")]
        joints[i] = (-x if name.startswith("r_") else x, y, depth)
    return joints


class Stub(nn.Module):
    """Says the same pose (in the crop's frame) of every crop, and remembers what it was shown."""

    def __init__(self, pose: np.ndarray | None = None, crop: str = "look_at", size: int = 32) -> None:
        super().__init__()
        self.skeleton, self.image_size, self.crop, self.box, self.root = H36M17, size, crop, "annotation", 0
        self.pose = torch.tensor(person() if pose is None else pose)
        self.network = nn.Identity()
        self.batches: list[Batch] = []

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        self.batches.append(batch)
        self.network(batch["image"].float())
        joints3d = self.answer(batch)
        return Prediction(
            joints3d=joints3d,
            joints3d_rel=joints3d - joints3d[:, :1],
            joints2d=torch.zeros(len(joints3d), len(self.skeleton), 2),
            scores=torch.linspace(0, 1, len(self.skeleton)).expand(len(joints3d), -1),
            root_depth_source="stub",
        )

    def answer(self, batch: Batch) -> torch.Tensor:
        return self.pose.expand(len(batch["image"]), -1, -1)


class Oracle(Stub):
    """Knows a pose of the source camera's frame and says it in each crop's own frame, as a perfect network would."""

    def answer(self, batch: Batch) -> torch.Tensor:
        crops = CropCamera(batch["intrinsics"], batch["rotation"], source_camera(batch), self.image_size)
        found = crops.from_source(self.pose.expand(len(batch["image"]), -1, -1))
        return torch.where(crops.flipped[:, None, None], self.skeleton.flip(found), found)


class Fixed:
    """A detector that finds what it was told."""

    def __init__(self, *boxes: Any, scores: Any = None) -> None:
        self.boxes = np.array(boxes, np.float32).reshape(-1, 4)
        self.scores = np.linspace(1, 0.5, len(self.boxes), dtype=np.float32) if scores is None else np.float32(scores)
        self.calls = 0

    def __call__(self, images: Any) -> Any:
        from posezoo.detect import Detections

        self.calls += 1
        return [Detections(self.boxes, self.scores) for _ in images]
