"""Exponential moving average of the weights: what is validated, tested and saved, while the raw weights train on."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from posezoo.errors import PoseZooError

# Lightning's WeightAveraging uses the same keys, so that either resumes a checkpoint of the other.
RAW, STATE = "current_model_state", "averaging_state"


class EMA(pl.Callback):
    """Averages the weights: average = d * average + (1 - d) * weights with d = min(decay, (1 + n) / (10 + n)).

    `validate`, `test` and a test after `fit` score the average; a checkpoint's `state_dict` holds it, the raw weights
    lie beside it for resuming. BatchNorm statistics are averaged too, whole numbers are copied. Lightning's own
    WeightAveraging tests raw weights after a fit, averages counters (which then stand still) and starts from the
    random initialisation at full decay.

    Args:
        decay: d of a long run.
        warmup: Begin with the smaller d above; without it the initial weights count for 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise PoseZooError(f"decay of EMA lies between 0 and 1 (0.999 is usual), got {decay}.")
        self.decay, self.warmup = decay, warmup
        # The set that the model does not hold: the average while it trains, the raw weights while it is scored.
        self._other: dict[str, Tensor] | None = None
        self._averaged_in_model = False
        self._updates, self._step = 0, 0
        self._live: list[tuple[str, Tensor]] = []

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Begin a new average, unless a fit of this trainer goes on."""
        if stage != "fit":
            return
        if self._averaged_in_model:
            self._swap(pl_module)
        if self._other is None:
            self._other = {name: tensor.detach().clone() for name, tensor in _tensors(pl_module)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count steps from here."""
        self._step = trainer.global_step
        self._live = list(_tensors(pl_module))

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Average after each optimiser step."""
        if trainer.global_step == self._step or self._other is None:
            return
        self._step = trainer.global_step
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates)) if self.warmup else self.decay
        self._updates += 1
        averages, weights = [], []
        for name, tensor in self._live:
            average = self._other[name]
            if average.device != tensor.device:
                average = self._other[name] = average.to(tensor.device)
            if tensor.is_floating_point():
                averages.append(average)
                weights.append(tensor.detach())
            else:
                average.copy_(tensor)
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Put the average into the model (before its buffers are broadcast to all ranks)."""
        if trainer.state.fn == "fit" and not self._averaged_in_model:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Train on with the raw weights."""
        if trainer.state.fn == "fit" and self._averaged_in_model:
            self._swap(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Leave the average in the model: that is the result of the fit."""
        if not self._averaged_in_model:
            self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Do not leave the two swapped when a validation was broken off."""
        if trainer.state.fn == "fit" and self._averaged_in_model:
            self._swap(pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """The average as `state_dict`, the raw weights beside it."""
        if self._other is None:
            return
        names = checkpoint["state_dict"].keys()
        # The tensors of the model are taken as the strategy handed them out; ours only where names agree.
        other = {name: self._other.get(name, checkpoint["state_dict"][name]) for name in names}
        if self._averaged_in_model:
            checkpoint[RAW] = other
        else:
            checkpoint[RAW], checkpoint["state_dict"] = checkpoint["state_dict"], other
        checkpoint[STATE] = {"n_averaged": torch.tensor(self._updates)}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Resume both sets; for scoring, the model has the average already."""
        if trainer.state.fn != "fit":
            self._other, self._averaged_in_model = None, False
            return
        average = checkpoint["state_dict"]
        self._other = {name: average[name].detach().clone() for name, _ in _tensors(pl_module)}
        self._averaged_in_model = False
        if RAW in checkpoint:
            pl_module.load_state_dict(checkpoint[RAW])
            self._updates = int(checkpoint[STATE]["n_averaged"])

    @torch.no_grad()
    def _swap(self, pl_module: Any) -> None:
        if self._other is None:
            return
        kept = {name: tensor.detach().clone() for name, tensor in _tensors(pl_module)}
        for name, tensor in _tensors(pl_module):  # after all are kept: one tensor may have two names
            tensor.copy_(self._other[name])
        self._other = kept
        self._averaged_in_model = not self._averaged_in_model


def _tensors(module: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the module's state_dict by name."""
    saved = module.state_dict(keep_vars=True)
    yield from ((name, value) for name, value in saved.items() if isinstance(value, Tensor))
