"""Writes predictions as they come: JSON lines while running, one JSON at the end, and pictures to look at."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from posezoo.callbacks.pose_metrics import run_folder, write_json
from posezoo.cameras import CropCamera
from posezoo.data.base import PoseDataModule
from posezoo.skeletons import Skeleton
from posezoo.structures import Batch, Prediction, source_camera, to_device
from posezoo.viz.draw2d import write_picture as write_picture


class PredictionWriter(pl.Callback):
    """Streams the poses of `posezoo predict` to disk instead of keeping them in memory.

    `predictions.json` in the run folder holds, for every person: the names of the sample, joints in the camera frame
    of the photograph (mm), in its pixels, and their scores. `pictures/` shows overlay and 3D views.

    Args:
        folder: Where to write; the run folder when null.
        pictures: How many pictures to draw (per process); 0 for none.
    """

    def __init__(self, folder: str | None = None, pictures: int = 64) -> None:
        self.folder, self.pictures = folder, pictures
        self._drawn = 0
        self._target, self._part = Path(), Path()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start an empty file of this process."""
        self._drawn = 0
        self._target = Path(self.folder) if self.folder else run_folder(trainer)
        self._part = self._target / f".predictions-{trainer.global_rank}.jsonl"
        self._target.mkdir(parents=True, exist_ok=True)
        self._part.write_text("")

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Prediction, batch: Batch, *_: Any) -> None:
        """Append a batch; draw the first few."""
        rows = person_rows(outputs, to_device(batch, "cpu"), trainer.datamodule)
        with self._part.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows[: max(0, self.pictures - self._drawn)]:
            self._draw(trainer, row, pl_module.skeleton)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Join the parts of all processes into predictions.json."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        parts = sorted(self._target.glob(".predictions-*.jsonl"))
        rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
        rows.sort(key=lambda row: row["index"])
        skeleton: Skeleton = pl_module.skeleton
        content = {
            "skeleton": skeleton.name,
            "joints": list(skeleton.joints),
            "units": {"joints3d": "mm, camera frame: x right, y down, z forward", "joints2d": "px of the image"},
            "people": rows,
        }
        path = write_json(self._target / "predictions.json", content)
        for part in parts:
            part.unlink()
        pictures = f", pictures in {path.parent / 'pictures'}" if self._drawn else ""
        print(f"Wrote {len(rows)} poses to {path}{pictures}.")

    def _draw(self, trainer: Any, row: dict[str, Any], skeleton: Skeleton) -> None:
        data: PoseDataModule = trainer.datamodule
        image = data.crops("predict").people.read(row["index"]).image
        if image is None:
            return
        folder = self._target / "pictures"
        if self._drawn == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_picture(folder / f"{row['index']:05d}.png", person_picture(np.asarray(image), row, skeleton))
        self._drawn += 1


def person_rows(prediction: Prediction, batch: Batch, data: PoseDataModule) -> list[dict[str, Any]]:
    """One plain dictionary per person, in the frame and pixels of the source photograph."""
    crop = CropCamera(batch["intrinsics"], batch["rotation"], source_camera(batch), batch["image"].shape[-1])
    joints3d, joints2d = crop.to_source(prediction.joints3d), crop.to_image(prediction.joints2d)
    return [
        {
            "index": (index := int(batch["index"][row])),
            **data.meta(index, "predict"),
            "box": _rounded(batch["box"][row]),
            "calibrated": bool(batch["has_camera"][row]),
            "joints3d": _rounded(joints3d[row]),
            "joints2d": _rounded(joints2d[row]),
            "scores": _rounded(prediction.scores[row], 3),
            "root_depth_source": prediction.root_depth_source,
        }
        for row in range(len(joints3d))
    ]


def _rounded(values: Any, digits: int = 2) -> Any:
    return np.round(values.double().numpy(), digits).tolist()


def person_picture(image: Any, row: dict[str, Any], skeleton: Skeleton, height: int = 480) -> Any:
    """The photograph with the 2D overlay, beside it the 3D skeleton from two sides."""
    import cv2

    from posezoo.viz.draw2d import draw_box, draw_pose
    from posezoo.viz.draw3d import draw_pose3d

    joints2d, joints3d = np.array(row["joints2d"]), np.array(row["joints3d"])
    scale = height / image.shape[0]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    photo = cv2.resize(image, (max(1, round(image.shape[1] * scale)), height), interpolation=interpolation)
    pixels = (joints2d + 0.5) * scale - 0.5
    photo = draw_box(photo, np.array(row["box"]) * scale)
    photo = draw_pose(photo, pixels, skeleton, np.array(row["scores"]), joints3d[:, 2])
    return np.hstack([photo, draw_pose3d(joints3d, skeleton, (2 * height, height))])
