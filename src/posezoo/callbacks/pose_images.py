"""Pictures of what the network believes: the first validation crops, prediction over truth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from posezoo.callbacks.pose_metrics import run_folder
from posezoo.callbacks.prediction_writer import write_picture
from posezoo.skeletons import Skeleton
from posezoo.structures import Batch, Prediction, to_device

TILE = 192  # px, side of a crop in the picture


class PoseImages(pl.Callback):
    """Writes `pictures/val-step<n>.png` into the run folder after every validation, and hands it to wandb if that logs.

    A method's own pictures (the triplets of HEMlets) follow as `val-step<n>-<name>.png`.

    Args:
        count: How many crops of the first batch to draw; 0 for none.
        columns: Tiles in a row.
    """

    def __init__(self, count: int = 8, columns: int = 2) -> None:
        self.count, self.columns = count, columns
        self._folder = Path()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Ask for the run folder, which all ranks must do together."""
        self._folder = run_folder(trainer)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Prediction, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Draw the first batch on the main process."""
        if batch_idx or trainer.sanity_checking or not trainer.is_global_zero or self.count < 1:
            return
        poses = comparison(outputs, to_device(batch, "cpu"), pl_module.skeleton, self.count, self.columns)
        self._write(trainer, "poses", f"val-step{trainer.global_step}.png", poses)
        for name, picture in pl_module.pictures(outputs, batch, self.count).items():
            self._write(trainer, name, f"val-step{trainer.global_step}-{name}.png", picture)

    def _write(self, trainer: Any, name: str, file: str, picture: Any) -> None:
        path = self._folder / "pictures" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, picture)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(f"val/{name}", [picture], step=trainer.global_step)


def comparison(prediction: Prediction, batch: Batch, skeleton: Skeleton, count: int, columns: int = 2) -> Any:
    """Crops with the predicted 2D pose, beside them the predicted 3D pose with the truth in thin black; uint8 RGB."""
    from posezoo.viz.draw2d import caption, draw_pose, tile
    from posezoo.viz.draw3d import draw_pose3d

    seen = prediction.detached()
    zoom = max(1, round(TILE / batch["image"].shape[-1]))
    tiles = []
    for row in range(min(count, len(seen.joints3d))):
        image = np.ascontiguousarray(batch["image"][row].permute(1, 2, 0).numpy())
        joints, scores = seen.joints3d_rel[row].numpy(), seen.scores[row].numpy()
        overlay = draw_pose(image, seen.joints2d[row].numpy(), skeleton, scores, joints[:, 2], zoom=zoom)
        truth, valid = _truth(batch, row, int(skeleton.root or 0))
        side = overlay.shape[0]
        views = draw_pose3d(joints, skeleton, (2 * side, side), reference=truth, reference_valid=valid)
        tiles.append(caption(np.hstack([overlay, views]), _title(joints, truth, valid)))
    return tile(tiles, columns)


def _truth(batch: Batch, row: int, root: int) -> tuple[Any, Any]:
    valid = batch["valid3d"][row].numpy()
    if not valid[root]:
        return None, None
    joints = batch["joints3d"][row].numpy()
    return joints - joints[root], valid


def _title(joints: Any, truth: Any, valid: Any) -> str:
    if truth is None:
        return "no 3D label"
    return f"MPJPE {np.linalg.norm(joints - truth, axis=1)[valid].mean():.0f} mm"
