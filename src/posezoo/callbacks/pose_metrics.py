"""Scores every method with the same code: one table, `val/...` and `test/...` in the logger, metrics.json."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from posezoo.callbacks.score_table import print_table
from posezoo.data.base import PoseDataModule
from posezoo.disk import replace_file
from posezoo.metrics import AUC3D, MPJPE, MRPE, NMPJPE, PAMPJPE, PCK3D, AbsMPJPE
from posezoo.metrics.protocols import Protocol, Result
from posezoo.metrics.scorers import Scorer
from posezoo.metrics.titles import METRICS
from posezoo.skeletons import Skeleton
from posezoo.structures import Batch, Prediction

SPLIT_OF_STAGE = {"fit": "val", "validate": "val", "test": "test"}


class _Scores:
    """The metrics of one stage, for the model or for the mean-pose baseline."""

    def __init__(self, skeleton: Skeleton, groups: int, device: torch.device, absolute: bool) -> None:
        root, joints = int(skeleton.root or 0), len(skeleton)
        self.metrics: dict[str, Metric] = {
            "mpjpe": MPJPE(root=root, num_joints=joints, num_groups=groups or None),
            "pa_mpjpe": PAMPJPE(num_joints=joints),
            "n_mpjpe": NMPJPE(root=root, num_joints=joints),
            "pck": PCK3D(root=root, num_joints=joints),
            "auc": AUC3D(root=root, num_joints=joints),
        }
        if absolute:
            self.metrics |= {"abs_mpjpe": AbsMPJPE(num_joints=joints), "mrpe": MRPE(root=root)}
        for metric in self.metrics.values():
            metric.to(device)
        self.groups = groups

    def update(self, relative: Tensor, absolute: Tensor | None, batch: Batch) -> None:
        truth, valid = batch["joints3d"], batch["valid3d"]
        calibrated = valid & batch["has_camera"][:, None]
        for name, metric in self.metrics.items():
            if METRICS[name][2]:
                metric.update(absolute, truth, calibrated)
            elif name == "mpjpe" and self.groups:
                metric.update(relative, truth, valid, batch["action"])
            else:
                metric.update(relative, truth, valid)

    def compute(self) -> dict[str, float]:
        return {name: float(metric.compute()) for name, metric in self.metrics.items()}

    def per_joint(self, skeleton: Skeleton) -> dict[str, float | None]:
        values = self.metrics["mpjpe"].compute_per_joint().tolist()  # type: ignore[operator]
        return {joint: _number(value) for joint, value in zip(skeleton.joints, values, strict=True)}

    def per_action(self, names: tuple[str, ...]) -> dict[str, float]:
        if not self.groups:
            return {}
        values = self.metrics["mpjpe"].compute_per_group().tolist()  # type: ignore[operator]
        return {name: value for name, value in zip(names, values, strict=True) if not math.isnan(value)}


class _Protocols:
    """The published protocols of one stage, for the model and, where a pose is all it takes, for the mean pose."""

    def __init__(self, trainer: pl.Trainer, estimator: Any, split: str) -> None:
        data = _datamodule(trainer)
        protocols = data.protocols if data else ()
        assert data is not None or not protocols

        def scorers(chosen: Iterable[Protocol]) -> dict[str, Scorer]:
            return {p.name: p.scorer(estimator.skeleton, data, split, estimator.device) for p in chosen}  # type: ignore[arg-type]

        self.model = scorers(protocols)
        self.mean = scorers(p for p in protocols if p.scores_poses)

    def update(self, prediction: Prediction, batch: Batch, mean_pose: Tensor | None) -> None:
        for scorer in self.model.values():
            scorer.update(prediction, batch)
        if mean_pose is not None:
            still = replace(prediction, joints3d_rel=mean_pose.expand_as(prediction.joints3d_rel))
            for scorer in self.mean.values():
                scorer.update(still, batch)

    def compute(self, with_mean: bool) -> dict[str, dict[str, Any]]:
        """By name; a collective call."""
        found = {name: _described(scorer, scorer.compute()) for name, scorer in self.model.items()}
        for name, scorer in self.mean.items() if with_mean else ():
            found[name]["mean_pose"] = scorer.compute().values
        return found


def _described(scorer: Scorer, result: Result) -> dict[str, Any]:
    names = scorer.group_names
    return {
        "definition": result.protocol,
        "metrics": result.values,
        "titles": scorer.protocol.titles,
        "mean_pose": None,
        "groups": {
            measure: {names[group] if group < len(names) else str(group): value for group, value in values.items()}
            for measure, values in result.groups.items()
        },
        "notes": list(result.notes),
    }


class PoseMetrics(pl.Callback):
    """Scores validation and test predictions.

    Published protocols are chosen in the data (`--data.protocol`, docs/protocols.md). They lead the table, are logged
    as `test/<protocol>/<measure>` and stand in metrics.json under `protocols`. The other scores are over all joints of
    the model, and over the same samples.

    Exact under DDP: sums and counts of per-joint errors, over a sampler that repeats nobody.

    Args:
        baseline: Show the mean pose of the training split beside the model.
        per_action: Print MPJPE per action (always in metrics.json).
        table: Print the table.
    """

    def __init__(self, baseline: bool = True, per_action: bool = False, table: bool = True) -> None:
        self.baseline, self.print_actions, self.table = baseline, per_action, table
        self._model: _Scores | None = None
        self._mean: _Scores | None = None
        self._mean_pose: Tensor | None = None
        self._protocols: _Protocols | None = None
        self._count = 0
        self._depth_source = ""
        self.results: dict[str, dict[str, Any]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse protocols that the model or the data cannot serve, before any work is done."""
        if stage in SPLIT_OF_STAGE:
            _Protocols(trainer, pl_module, SPLIT_OF_STAGE[stage])

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Fresh metrics."""
        self._start(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Fresh metrics."""
        self._start(trainer, pl_module, "test")

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Add a batch."""
        self._update(trainer, outputs, batch)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Add a batch."""
        self._update(trainer, outputs, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log `val/...`."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log `test/...`."""
        self._finish(trainer, pl_module, "test")

    def _start(self, trainer: pl.Trainer, estimator: Any, split: str) -> None:
        groups = len(_action_names(trainer))
        self._protocols = _Protocols(trainer, estimator, split)
        self._model = _Scores(estimator.skeleton, groups, estimator.device, absolute=True)
        self._mean, self._count = None, 0
        if self.baseline and not trainer.sanity_checking:
            pose = _mean_pose(trainer)
            if pose is not None:
                self._mean_pose = pose.to(estimator.device)
                self._mean = _Scores(estimator.skeleton, 0, estimator.device, absolute=False)

    def _update(self, trainer: pl.Trainer, prediction: Prediction, batch: Batch) -> None:
        if self._model is None or self._protocols is None or _is_padding(trainer):
            return
        self._depth_source = prediction.root_depth_source
        self._count += len(batch["image"])
        self._model.update(prediction.joints3d_rel, prediction.joints3d, batch)
        self._protocols.update(prediction, batch, self._mean_pose if self._mean else None)
        if self._mean is not None and self._mean_pose is not None:
            self._mean.update(self._mean_pose.expand_as(prediction.joints3d_rel), None, batch)

    def _finish(self, trainer: pl.Trainer, estimator: Any, stage: str) -> None:
        if self._model is None or self._protocols is None or trainer.sanity_checking:
            return
        values, published = self._model.compute(), self._protocols.compute(with_mean=self._mean is not None)
        result: dict[str, Any] = {
            "protocol": _protocol(trainer, stage),
            "protocols": published,
            "box": getattr(estimator, "box", "annotation"),
            "root_depth_source": self._depth_source,
            "samples": _total(trainer, self._count),
            "step": trainer.global_step,
            "metrics": values,
            "mean_pose": self._mean.compute() if self._mean else None,
            "mpjpe_per_joint": self._model.per_joint(estimator.skeleton),
            "mpjpe_per_action": self._model.per_action(_action_names(trainer)),
        }
        for name, value in values.items():
            estimator.log(f"{stage}/{name}", value, prog_bar=name == "mpjpe", rank_zero_only=False)
        for protocol, found in published.items():
            for name, value in found["metrics"].items():
                estimator.log(f"{stage}/{protocol}/{name}", value, rank_zero_only=False)
        self.results[stage] = result
        self._model, self._mean, self._protocols = None, None, None
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            write_metrics(folder, stage, result)
            if self.table:
                print_table(stage, result, self.print_actions)


def run_folder(trainer: pl.Trainer) -> Path:
    """Where this run's files go: the logger's folder. A collective call: every rank must make it.

    Loggers without a folder of their own per run (wandb) get save_dir/project/run, as their checkpoints do.
    """
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    logger = trainer.logger
    if logger is None or getattr(logger, "log_dir", None) is not None:
        return folder
    return folder / str(trainer.strategy.broadcast(f"{logger.name}/{logger.version}"))


def write_metrics(folder: Path, stage: str, result: dict[str, Any]) -> Path:
    """Add a stage to metrics.json of a run folder, atomically."""
    path = folder / "metrics.json"
    folder.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[stage] = result
    return write_json(path, known)


def write_json(path: Path, content: Any) -> Path:
    """Write JSON in one step; NaN becomes null.

    Raises:
        PoseZooError: The file cannot be written.
    """
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    return replace_file(path, lambda file: file.write_text(text, encoding="utf-8"))


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return _number(content) if isinstance(content, float) else content


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _datamodule(trainer: pl.Trainer) -> PoseDataModule | None:
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, PoseDataModule) else None


def _mean_pose(trainer: pl.Trainer) -> Tensor | None:
    # Of rank 0 for all: a rank that saw no 3D labels must not leave the others waiting for its share of the scores.
    data = _datamodule(trainer)
    pose = data.mean_pose() if data and trainer.is_global_zero else None
    return trainer.strategy.broadcast(pose)  # type: ignore[no-any-return]


def _action_names(trainer: pl.Trainer) -> tuple[str, ...]:
    data = _datamodule(trainer)
    return data.action_names() if data else ()


def _protocol(trainer: pl.Trainer, stage: str) -> str:
    """One line that says what the scores mean: the published definitions, or else the data's own words.

    A collective call: every rank must make it.
    """
    data = _datamodule(trainer)
    if data is None:
        return "own data loader"
    bad = data.bad_images(stage)
    others = f"; NOT the benchmark's samples: {bad} damaged images, for which others stand in" if bad else ""
    return (" AND ".join(p.definition for p in data.protocols) or data.protocol(stage)) + others


def _is_padding(trainer: pl.Trainer) -> bool:
    """Whether this rank only repeats samples because there are fewer samples than ranks."""
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    return bool(getattr(getattr(loaders, "sampler", None), "is_padding", False))


def _total(trainer: pl.Trainer, count: int) -> int:
    return int(
        trainer.strategy.reduce(torch.tensor(float(count), device=trainer.strategy.root_device), reduce_op="sum")
    )
