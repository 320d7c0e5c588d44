"""What methods take from Lightning; in a process that only predicts (`posezoo.light`), a stand-in of a few lines."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posezoo.errors import PoseZooError
from posezoo.light import predict_only

if TYPE_CHECKING or not predict_only():
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning.cli import LRSchedulerCallable as LRSchedulerCallable
    from pytorch_lightning.cli import OptimizerCallable as OptimizerCallable
else:
    OptimizerCallable = Callable[[Iterable], torch.optim.Optimizer]
    LRSchedulerCallable = Callable[[torch.optim.Optimizer], Any]

    class LightningModule(nn.Module):
        """As much of a LightningModule as a method needs to predict; training it is refused."""

        def __init__(self) -> None:
            super().__init__()
            self._trainer, self.global_step = None, 0
            self.hparams: dict[str, Any] = {}  # nothing reads them: they are for checkpoints and loggers

        def save_hyperparameters(self, *_: Any, **__: Any) -> None:
            """This process writes no checkpoints."""

        @property
        def trainer(self) -> Any:
            """There is none."""
            raise PoseZooError("This process imported posezoo to predict: train in another one.")

        @property
        def device(self) -> torch.device:
            """Where the parameters are."""
            return next(self.parameters()).device

        @classmethod
        def load_from_checkpoint(
            cls, path: Path, map_location: str = "cpu", weights_only: bool = True, **overrides: Any
        ) -> Any:
            """Build the module of its hyperparameters and give it its weights, as Lightning does."""
            checkpoint = torch.load(path, map_location=map_location, weights_only=weights_only)
            known = inspect.signature(cls).parameters
            saved = {key: value for key, value in checkpoint["hyper_parameters"].items() if key in known}
            module = cls(**(saved | overrides))
            if hasattr(module, "on_load_checkpoint"):
                module.on_load_checkpoint(checkpoint)
            module.load_state_dict(checkpoint["state_dict"])
            return module


def mean_metric() -> Any:
    """A torchmetrics `MeanMetric`; a module without parameters where nothing is measured."""
    if predict_only():
        return nn.Identity()
    from torchmetrics import MeanMetric

    return MeanMetric()
