"""Whole networks, one crop and eight: eager float32 as published, beside bfloat16 with batch norms folded and runtimes.

Weights are random, but batch norms are calibrated on the crops, heatmaps have peaks, and the 2D and the 3D heatmaps of
a joint agree: with pure noise the way to millimetres is ill-conditioned and says nothing about rounding.
"""

import copy
import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from benchmarks.formulas import as_published
from posezoo.export import Run, export_model, onnx_runner
from posezoo.models.backbones import batch_norms
from posezoo.models.folding import fold_batch_norms
from posezoo.models.metrabs import MeTRAbs
from posezoo.release import probe_batch
from posezoo.structures import Batch
from posezoo.testing import TINY

Path_ = Literal["folded", "onnxruntime", "openvino"]
UNFOLDED, OPENVINO_FLOAT32 = "bfloat16, not folded", "OpenVINO float32"
BACKBONE, MOST, CHECKED = "tf_efficientnetv2_s", 8, 2
FOLDER = tempfile.TemporaryDirectory(prefix="posezoo-bench-")  # gone when the process ends
_PEAK = 3.0  # standard deviation of the logits


@lru_cache(maxsize=2)
def network(quick: bool) -> tuple[MeTRAbs, Batch]:
    """The estimator in float32, and rendered people as crops."""
    torch.manual_seed(0)
    settings: dict[str, Any] = dict(TINY) if quick else {"backbone": BACKBONE}
    estimator = MeTRAbs(**settings)
    people = probe_batch(estimator, MOST)
    for norm in batch_norms(estimator):
        norm.momentum = None  # the mean over all batches
        norm.reset_running_stats()
    estimator.train()
    with torch.no_grad():
        estimator.network.backbone(people["image"])
        _agree(estimator, people["image"])
    return estimator.eval(), people


def _agree(estimator: MeTRAbs, image: Tensor) -> None:
    """Give the head peaks, and every depth bin of a joint its 2D heatmap and something of its own."""
    head, joints = estimator.network.head, estimator.network.num_joints
    flat, volume = head.weight.split([joints, len(head.weight) - joints])
    volume.mul_(0.5).add_(flat.repeat(len(volume) // joints, 1, 1, 1))
    estimator.eval()
    head.weight.mul_(_PEAK / head(estimator.network.backbone(image)).std())


@lru_cache(maxsize=2)
def exported(quick: bool) -> Path:
    """The ONNX file that `posezoo export` makes of it, which is compared with PyTorch there."""
    file = Path(FOLDER.name) / f"network-{quick}.onnx"
    export_model(network(quick)[0], file, people=2)
    return file


def _eager(estimator: MeTRAbs, batch: Batch) -> Callable[[], Tensor]:
    @torch.inference_mode()
    def call() -> Tensor:
        return estimator.estimate(batch).joints3d

    return call


def _runtime(run: Run, batch: Batch) -> Callable[[], Tensor]:
    return lambda: run(batch["image"], batch["intrinsics"])[0]


def bfloat16(estimator: MeTRAbs, folded: bool, example: Tensor) -> MeTRAbs:
    """A copy whose network computes in bfloat16; decoding and geometry are float32 by themselves."""
    low = copy.deepcopy(estimator)
    if folded:
        low.network = fold_batch_norms(low.network, example)
    low.network.bfloat16().to(memory_format=torch.channels_last)
    return low


def contenders(path: Path_, batch: Batch, quick: bool) -> dict[str, Callable[[], Tensor]]:
    """What runs the batch, ours last."""
    estimator, _ = network(quick)
    calls = {REFERENCE: _eager(as_published(copy.deepcopy(estimator)), batch)}
    if path == "onnxruntime":
        return calls | {OURS: _runtime(onnx_runner(exported(quick)), batch)}
    if path == "openvino":
        from posezoo.runtimes import openvino_runner

        calls[OPENVINO_FLOAT32] = _runtime(openvino_runner(exported(quick)), batch)
        return calls | {OURS: _runtime(openvino_runner(exported(quick), "bfloat16"), batch)}
    crop = batch["image"][:1]
    calls[UNFOLDED] = _eager(bfloat16(estimator, False, crop), batch)
    return calls | {OURS: _eager(bfloat16(estimator, True, crop), batch)}


def make(path: Path_, batch: int, quick: bool) -> Bench:
    estimator, people = network(quick)
    calls = contenders(path, _first(people, batch), quick)

    def errors() -> dict[str, float]:
        """Mean distance of a root-relative joint from the float64 network's, mm."""
        few = _first(people, min(batch, CHECKED))
        exact = _in_float64(estimator, few)
        few_calls = calls if batch <= CHECKED else contenders(path, few, quick)
        return {name: _distance(call(), exact, estimator.root) for name, call in few_calls.items()}

    def flops() -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            estimator.estimate(_first(people, 1))
        return float(batch * counter.get_total_flops())

    tolerance = {name: 0.1 if name in (REFERENCE, OPENVINO_FLOAT32) else 60.0 for name in calls}
    if path == "onnxruntime":
        tolerance[OURS] = 0.1
    dtype = "float32" if path == "onnxruntime" else "bfloat16"
    return Bench(calls, errors, tolerance, items=batch, flops=flops, dtype=dtype)


def _first(people: Batch, count: int) -> Batch:
    values: Any = {key: value[:count] for key, value in people.items()}
    return values  # type: ignore[no-any-return]


def _distance(found: Tensor, exact: Tensor, root: int) -> float:
    apart = (found.double() - found[:, root, None].double()) - (exact - exact[:, root, None])
    return float(apart.norm(dim=-1).mean())


@torch.inference_mode()
def _in_float64(estimator: MeTRAbs, people: Batch) -> Tensor:
    batch: Any = {key: value.double() if value.is_floating_point() else value for key, value in people.items()}
    batch["image"] = people["image"].double() / 255
    return copy.deepcopy(estimator).double().estimate(batch).joints3d


def _case(path: Path_, batch: int, wanted: float | None) -> Case:
    targets = () if wanted is None or batch == 1 else (Target("speed", wanted),)
    name = f"inference/effnetv2s-{path}-batch-{batch}"
    return Case(name, make, {"path": path, "batch": batch}, targets, "mm", most_rounds=5)


WANTED: dict[Path_, float | None] = {"folded": 4.0, "onnxruntime": 2.5}
if find_spec("openvino"):
    WANTED["openvino"] = None  # 9x to 14x needs a processor with AMX
register(*(_case(path, batch, wanted) for path, wanted in WANTED.items() for batch in (1, 8)))
