"""For runs in their own processes: writes down every step, so that two runs can be compared batch by batch.

Set RECORD to a path (".rank" is added), and START_METHOD to fork or spawn for the loader processes.
"""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

if os.environ.get("START_METHOD"):
    multiprocessing.set_start_method(os.environ["START_METHOD"], force=True)


class Recorder(pl.Callback):
    """One line of JSON per training step: pixels as a hash, loss, learning rate; and one per validation.

    With `crash_at`, the run breaks down in the middle of the batch with that number (counted over all epochs); with
    `crash_in_validation`, in the validation after that step.
    """

    def __init__(self, path: str = "", crash_at: int | None = None, crash_in_validation: int | None = None) -> None:
        self.path, self.crash_at, self.crash_in_validation = path, crash_at, crash_in_validation

    def on_before_backward(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.crash_at:
            raise RuntimeError("crash")

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.crash_in_validation:
            raise RuntimeError("crash")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._write(
            trainer,
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            batch_idx=batch_idx,
            pixels=hashlib.sha256(batch["image"].numpy().tobytes()).hexdigest()[:12],
            index=batch["index"].tolist(),
            loss=float(outputs["loss"]),
            lr=trainer.optimizers[0].param_groups[0]["lr"],
        )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._write(trainer, step=trainer.global_step, mpjpe=float(trainer.callback_metrics["val/mpjpe"]))

    def _write(self, trainer: Any, **line: Any) -> None:
        with Path(f"{self.path}.{trainer.global_rank}").open("a") as file:
            file.write(json.dumps(line) + "\n")


def records(path: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What `Recorder` has written so far."""
    file = path.with_name(f"{path.name}.{rank}")
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
