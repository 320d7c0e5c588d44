"""Whole networks, one crop and eight: eager float32, packed, beside bfloat16 autocast and channels_last."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import OURS, REFERENCE, Bench, Case, register
from posezoo.models.base import PoseEstimator
from posezoo.models.metrabs import MeTRAbs
from posezoo.structures import Batch
from posezoo.testing import TINY, synthetic_batch


def make(backbone: str, batch: int, quick: bool) -> Bench:
    settings: dict[str, Any] = dict(TINY) if quick else {"backbone": backbone}
    labels = synthetic_batch(batch, "h36m17", settings.get("image_size", 256))

    def build() -> PoseEstimator:
        torch.manual_seed(0)
        return MeTRAbs(**settings).eval()

    packed, fast = build(), build().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def reference() -> Tensor:
        return packed.estimate(labels).joints3d_rel

    @torch.inference_mode()
    def ours() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return fast.estimate(labels).joints3d_rel

    calls: dict[str, Callable[[], Tensor]] = {REFERENCE: reference, OURS: ours}

    def errors() -> dict[str, float]:
        """Mean distance of a joint from the float64 network's (random weights)."""
        exact = _in_float64(build, labels)
        return {name: float((call().double() - exact).norm(dim=-1).mean()) for name, call in calls.items()}

    return Bench(calls, errors, {REFERENCE: 0.1, OURS: 25.0}, items=batch)


@torch.inference_mode()
def _in_float64(build: Callable[[], PoseEstimator], labels: Batch) -> Tensor:
    batch: Any = {key: value.double() if value.is_floating_point() else value for key, value in labels.items()}
    batch["image"] = labels["image"].double() / 255
    return build().double().estimate(batch).joints3d_rel


register(
    *(
        Case(
            f"inference/metrabs-effnetv2s-batch-{batch}",
            make,
            {"backbone": "tf_efficientnetv2_s", "batch": batch},
            (),
            "mm",
            most_rounds=5,
            quick_check=True,
        )
        for batch in (1, 8)
    )
)
