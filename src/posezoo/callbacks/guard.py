"""Steps with a loss or gradient that is not finite are skipped, counted, and in the end stop the run."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from posezoo.callbacks.pose_metrics import run_folder, write_json
from posezoo.errors import PoseZooError
from posezoo.structures import IDENTITIES


class NonFiniteGuard(pl.Callback):
    """Keeps NaN and infinity out of weights, optimiser and BatchNorm statistics.

    A step whose loss or gradient is not finite changes nothing; schedules and counters go on. How many were skipped is
    logged as `train/skipped_steps`. In half precision a few at the beginning are normal: the loss scale is being found.
    All ranks skip together.

    A step of a fused Adam does not wait for a GPU to tell; other optimisers do.

    Args:
        max_in_a_row: Stop the run after this many skipped steps without a good one between them, on a GPU up to twice
            as many. Who was in the last bad batch is then in `nonfinite.json` of the run folder (one file a rank).
    """

    def __init__(self, max_in_a_row: int = 20) -> None:
        if max_in_a_row < 1:
            raise PoseZooError(f"max_in_a_row of NonFiniteGuard must be at least 1, got {max_in_a_row}.")
        self.max_in_a_row = max_in_a_row
        # Counted where the network is, so that a step need not wait for a GPU.
        self._skipped, self._in_a_row = torch.zeros(()), torch.zeros(())
        self._steps = 0
        self._folder = Path()
        self._loss: Tensor | None = None  # sum over the batches of this step: finite only if all are
        self._batches: list[dict[str, Tensor]] = []
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []

    @property
    def skipped(self) -> int:
        """Steps that were not made."""
        return int(self._skipped)

    @property
    def in_a_row(self) -> int:
        """How many of them since the last good step."""
        return int(self._in_a_row)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Find the folder; a collective call."""
        self._folder = run_folder(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Find the BatchNorm statistics."""
        self._buffers = [
            buffer
            for module in pl_module.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for buffer in module.buffers(recurse=False)
        ]
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._skipped, self._in_a_row = self._skipped.to(pl_module.device), self._in_a_row.to(pl_module.device)
        self._forget()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Remember the statistics and who is in the batch."""
        if not self._batches and self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)
        self._batches += _identities(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Look at the loss without waiting for it."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        """Take its effect away from a step that must not be made."""
        bad = self._is_bad(trainer, optimizer)
        if _asks_found_inf(optimizer):
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # changes neither weights, moments nor their age
        elif bad:
            optimizer.zero_grad(set_to_none=True)  # optimisers pass over what has no gradient: no decay, no momentum
        if not _on_cpu(bad) or bad:  # a look is free there, and saves two operations a buffer
            for buffer, kept in zip(self._buffers, self._kept, strict=True):
                buffer.copy_(torch.where(bad.bool(), kept, buffer))
        self._skipped, self._in_a_row = self._skipped + bad, (self._in_a_row + 1) * bad
        self._steps += 1
        seen = _on_cpu(bad) or self._steps % self.max_in_a_row == 0  # to look is to wait for a GPU
        if seen and self.in_a_row >= self.max_in_a_row:
            self._stop(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Log the count."""
        if not trainer.fit_loop._should_accumulate():
            self._forget()
        pl_module.log("train/skipped_steps", self._skipped, batch_size=1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Leave the optimisers as they were."""
        for optimizer in trainer.optimizers:
            vars(optimizer).pop("found_inf", None)

    def state_dict(self) -> dict[str, Any]:
        """The counts go on after a resume."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        self._skipped, self._in_a_row = (torch.tensor(float(state_dict[key])) for key in ("skipped", "in_a_row"))

    def _is_bad(self, trainer: pl.Trainer, optimizer: Optimizer) -> Tensor:
        """1.0 where the loss of any rank or a gradient (equal on all ranks by now) is not finite, else 0.0."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        losses = [] if self._loss is None else [self._loss]
        bad = 1 - _all_finite([*losses, *_norms(gradients)]) if losses or gradients else torch.zeros_like(self._skipped)
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce(bad, reduce_op="sum").clamp(max=1)
        return bad

    def _forget(self) -> None:
        self._loss, self._batches = None, []

    def _stop(self, trainer: pl.Trainer) -> None:
        name = "nonfinite.json" if trainer.global_rank == 0 else f"nonfinite-rank{trainer.global_rank}.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {
            "step": trainer.global_step,
            "loss": None if self._loss is None else float(self._loss),
            "samples": _names(trainer, self._batches),
        }
        path = write_json(self._folder / name, content)
        raise PoseZooError(
            f"{self.in_a_row} steps in a row had a loss or gradient that is not finite, stopped at step "
            f"{trainer.global_step}: look at the samples listed in {path}, or lower the learning rate, or train with "
            "--trainer.precision=32-true."
        )


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _norms(gradients: list[Tensor]) -> list[Tensor]:
    """A number for each gradient that is finite if the gradient is."""
    if not gradients:
        return []
    if not _on_cpu(gradients[0]):
        return list(torch._foreach_norm(gradients, torch.inf))
    norms = torch._foreach_norm(gradients)  # eight times as fast on a CPU, but the squares of huge gradients overflow
    return [n if n.isfinite() else g.abs().amax() for n, g in zip(norms, gradients, strict=True)]


def _all_finite(numbers: list[Tensor]) -> Tensor:
    """1.0 or 0.0."""
    return torch.stack([number.float() for number in numbers]).isfinite().all().float()


def _asks_found_inf(optimizer: Any) -> bool:
    """Whether a step of the optimiser asks `found_inf`, as those that are fused do, and no gradient scaler answers."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) and not optimizer.defaults["fused"]


def _identities(batch: Any) -> list[dict[str, Tensor]]:
    """The identity fields of a batch, or of the batches in it by name (train and architecture streams)."""
    if not isinstance(batch, dict):
        return []
    if "index" in batch:
        return [{key: batch[key] for key in IDENTITIES if key in batch}]
    return [found for value in batch.values() for found in _identities(value)]


def _names(trainer: Any, batches: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """One row per sample: numbers, and what the dataset calls it."""
    rows = []
    for batch in batches:
        for position in range(len(batch["index"])):
            row: dict[str, Any] = {key: int(values[position]) for key, values in batch.items()}
            meta = getattr(trainer.datamodule, "meta", None)
            rows.append(row | (meta(row["index"], "train") if meta else {}))
    return rows
