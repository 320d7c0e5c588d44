"""`PoseEstimator`: what all methods share: steps, optimiser factories, hyperparameters, checkpoints."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from inspect import isabstract
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from posezoo.data.crop import BoxKind, CropKind
from posezoo.errors import PoseZooError
from posezoo.models.lightning import LightningModule, LRSchedulerCallable, OptimizerCallable
from posezoo.models.optimizers import fuse, lay_out_as_weights
from posezoo.plugins import load_installed_plugins
from posezoo.skeletons import Skeleton, get_skeleton
from posezoo.structures import Batch, Prediction

# Arguments that are objects or machine paths: they are never written into a checkpoint's hyperparameters.
NOT_SAVED = ("optimizer", "lr_scheduler", "backbone_weights")


class PoseEstimator(LightningModule, ABC):
    """Base class of all methods.

    A subclass builds `self.network`, and implements `estimate` and `losses`. It owns the facts about its input:
    `skeleton`, `image_size`, `crop` and `box`.

    Args:
        skeleton: Name of the skeleton that is predicted.
        image_size: Side of the square crop, px.
        crop: Kind of the crop camera.
        box: What is cropped.
        optimizer: Factory; None for the method's published optimiser.
        lr_scheduler: Factory, stepped once per optimiser step; None for the method's published schedule.
    """

    network: nn.Module
    predicts_joints: ClassVar[bool] = True  # False: only the root, so weights are good for any skeleton
    compilable: ClassVar[tuple[str, ...]] = ()  # functions beside the network that `CompileNetwork` compiles too

    def __init__(
        self,
        skeleton: str = "h36m17",
        image_size: int = 256,
        crop: CropKind = "look_at",
        box: BoxKind = "annotation",
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.skeleton: Skeleton = get_skeleton(skeleton)
        if self.skeleton.root is None:
            raise PoseZooError(
                f"{skeleton} has no pelvis to be relative to, so no 3D model can predict it: set --model.skeleton to "
                "h36m17 or another skeleton with a root."
            )
        self.root: int = self.skeleton.root
        self.image_size, self.crop, self.box = image_size, crop, box
        self.optimizer_factory, self.lr_scheduler_factory = optimizer, lr_scheduler

    @abstractmethod
    def estimate(self, batch: Batch) -> Prediction:
        """Run the network on a batch; `aux` holds what `losses` needs while training."""

    @abstractmethod
    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Every loss term, unweighted. A term without labels is 0 and connected to the graph, so that no rank hangs."""

    def pictures(self, prediction: Prediction, batch: Batch, count: int) -> dict[str, Any]:
        """Pictures that only this method has, by name: uint8 RGB of the first `count` samples; for `PoseImages`."""
        return {}

    def label_picture(self, batch: Batch, row: int, side: int) -> Any:
        """What only this method makes of a sample's labels: uint8 RGB [side, side, 3] for `show-batch`, or None."""
        return None

    def loss_weights(self) -> dict[str, float]:
        """Weight of each loss term; 1 for those not named."""
        return {}

    def channel_names(self) -> dict[str, tuple[int, list[str]]]:
        """Tensors that belong to single joints: name in the state dict -> (axis, what each entry along it stands for).

        An entry is named "JOINT WHAT" (or "PARENT>CHILD WHAT"). Fine-tuning on another skeleton carries entries over by
        these names; a tensor that is not here has to fit as it is.
        """
        return {}

    def prepare_fine_tuning(self) -> None:
        """Called on loaded weights before they are trained on other data: forget what that data shall decide anew."""

    def default_optimizer(self, total_steps: int) -> tuple[Optimizer, LRScheduler | None]:
        """The method's published optimiser and its per-step schedule, for a run of `total_steps`."""
        return AdamW(self.parameters(), lr=1e-4), None

    def configure_model(self) -> None:
        """Lay weights out as activations lie, channels last, which is what convolutions want."""
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: Batch) -> Prediction:
        """Same as `estimate`."""
        return self.estimate(batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; logs `train/loss` and every term as `train/loss_<key>`."""
        self.seed_step()
        prediction = self.estimate(batch)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 a millimetre is lost at 0.5 m
            terms = self.losses(prediction.apply(_full), batch)
        weights = self.loss_weights()
        total = torch.stack([weights.get(key, 1.0) * term for key, term in terms.items()]).sum()
        logged = {"train/loss": total.detach()} | {f"train/loss_{key}": t.detach() for key, t in terms.items()}
        size = len(batch["image"])
        self.log("train/loss", logged.pop("train/loss"), prog_bar=True, batch_size=size)
        self.log_dict(logged, batch_size=size)
        return total

    def seed_step(self) -> None:
        """Make everything random in a training step a function of (seed, batch number, rank).

        So dropout and random mixing go on exactly after a resume, on any number of ranks, with no state to save. The
        seed is that of `seed_everything`, or 0.
        """
        trainer = self._trainer
        if trainer is not None:
            seed = int(os.environ.get("PL_GLOBAL_SEED") or 0)
            words = (seed, trainer.fit_loop.total_batch_idx, trainer.global_rank)
            torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))

    def validation_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Returns the prediction; the `PoseMetrics` callback scores every method with the same code."""
        return self.estimate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """As `validation_step`."""
        return self.estimate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """The prediction without aux, on the CPU."""
        return self.estimate(batch).detached()

    def configure_optimizers(self) -> Any:
        """The user's factories, or the method's published schedule where none was given."""
        if self.optimizer_factory is None and self.lr_scheduler_factory is None:
            optimizer, schedule = self.default_optimizer(self.total_steps())
            fuse(optimizer)
        else:
            parameters = self.parameters()
            optimizer = (self.optimizer_factory or self._default_factory)(parameters)
            schedule = self.lr_scheduler_factory(optimizer) if self.lr_scheduler_factory else None
        optimizer.register_load_state_dict_post_hook(lay_out_as_weights)
        if schedule is None:
            return optimizer
        settings = {"scheduler": schedule, "interval": "step"}
        if isinstance(schedule, ReduceLROnPlateau):
            settings |= {"interval": "epoch", "monitor": getattr(schedule, "monitor", "val/mpjpe")}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def _default_factory(self, parameters: Iterable[Any]) -> Optimizer:
        return self.default_optimizer(self.total_steps())[0]

    def total_steps(self) -> int:
        """Optimiser steps of the whole run.

        Raises:
            PoseZooError: The run has no end, so a schedule over it has no meaning.
        """
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise PoseZooError(
                "The published schedule needs the length of the run: set --trainer.max_steps or --trainer.max_epochs, "
                "or choose --model.optimizer and --model.lr_scheduler yourself."
            )
        return int(steps)

    def on_train_start(self) -> None:
        """Refuse a schedule that ends before the run, where it is cheap: torch would raise in the middle of it.

        Raises:
            PoseZooError: Naming both lengths.
        """
        steps = self.scheduled_steps()
        for config in self.trainer.lr_scheduler_configs:
            end, name = getattr(config.scheduler, "total_steps", None), type(config.scheduler).__name__
            if end is None or config.interval != "step" or steps <= end:
                continue
            length = f"but the run makes {steps:.0f}" if steps < float("inf") else "but the run has no end"
            raise PoseZooError(
                f"The schedule {name} ends after {end} steps, {length}: "
                + (
                    f"a resumed run keeps its schedule, so set --trainer.max_steps {end}, or begin a new run from the "
                    "weights with --weights PATH instead of --ckpt_path."
                    if self.trainer.ckpt_path
                    else f"set --model.lr_scheduler.total_steps to the length of the run, or --trainer.max_steps {end}."
                )
            )

    def scheduled_steps(self) -> float:
        """How often a per-step schedule is stepped in the whole run; infinite for a run without an end."""
        return float(self.trainer.estimated_stepping_batches)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch, but weights of another model are one sentence.

        Raises:
            PoseZooError: They do not fit.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[1 if len(lines) > 1 else 0].rstrip(".")
            reason = reason if len(reason) < 200 else reason[:197] + "..."
            raise PoseZooError(
                f"The weights do not fit this {type(self).__name__} of {self.skeleton.name} ({reason}): leave out the "
                "--model options that differ from their training, or give another --ckpt_path."
            ) from error

    def on_validation_start(self) -> None:
        """Give all ranks rank 0's BatchNorm statistics: the score is that of the checkpoint, which rank 0 saves."""
        if dist.is_available() and dist.is_initialized():
            for buffer in self.buffers():
                dist.broadcast(buffer, src=0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the class, so that a checkpoint made from Python finds its way back too."""
        checkpoint["posezoo_class"] = f"{type(self).__module__}.{type(self).__qualname__}"

    @classmethod
    def known_methods(cls) -> dict[str, type["PoseEstimator"]]:
        """Every imported concrete method by class name."""
        found: dict[str, type[PoseEstimator]] = {}
        pending: list[type[PoseEstimator]] = list(cls.__subclasses__())
        while pending:
            method = pending.pop()
            pending += method.__subclasses__()
            if not isabstract(method):
                found[method.__name__] = method
        return found


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def load_estimator(path: Path, map_location: str = "cpu", **overrides: Any) -> PoseEstimator:
    """Load an estimator of whichever class from a Lightning checkpoint.

    Args:
        path: A `.ckpt` of posezoo.
        map_location: Where its tensors go.
        overrides: Hyperparameters to change.

    Raises:
        PoseZooError: No such file, or not a checkpoint of posezoo.
    """
    checkpoint = read_checkpoint(path)
    cls = estimator_class(checkpoint, path)
    estimator: PoseEstimator = cls.load_from_checkpoint(path, map_location=map_location, weights_only=True, **overrides)
    return estimator


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it (weights_only).

    Raises:
        PoseZooError: It is missing, damaged, or holds objects that only an unsafe load could restore.
    """
    if not path.is_file():
        raise PoseZooError(f"No checkpoint at {path}; check the path after --ckpt_path.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for damaged files
        raise PoseZooError(f"{path} cannot be read as a checkpoint ({str(error).splitlines()[0][:120]}).") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise PoseZooError(f"{path} is not a Lightning checkpoint: it has no state_dict.")
    return checkpoint


def estimator_class(checkpoint: dict[str, Any], path: Path) -> type[PoseEstimator]:
    """The estimator class that wrote a checkpoint.

    Raises:
        PoseZooError: The checkpoint does not name one that can be imported.
    """
    name = checkpoint.get("hyper_parameters", {}).get("_class_path") or checkpoint.get("posezoo_class")
    if not name:
        raise PoseZooError(f"{path} was not written by a posezoo model: it does not name its class.")
    if name.rpartition(".")[2] not in PoseEstimator.known_methods():
        load_installed_plugins()  # read from Python, where no command line has imported them
    cls = PoseEstimator.known_methods().get(name.rpartition(".")[2])
    if cls is None:
        raise PoseZooError(
            f"{path} needs the class {name}, which is not installed: install the plug-in that it comes from "
            "(`posezoo list plugins` names those that are)."
        )
    return cls
