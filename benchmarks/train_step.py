"""A training step of each method: reference formulation in float32 and autocast beside posezoo's fast path.

The reference is the same network, packed (NCHW), layer by layer, with softmax and marginal sums; ours runs in bfloat16
autocast and channels_last, with its fused Adam, and keeps freed memory as `posezoo fit` does. Each contender has a
process of its own. The targets speak of two threads: `--threads 2`. Timed are four samples: with one, the optimiser and
the weights' gradients, which are the same for everybody, weigh as much as the rest.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import formulas
from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from benchmarks.formulas import as_published
from posezoo.models.base import PoseEstimator
from posezoo.models.hemlets import HEMlets
from posezoo.models.integral import IntegralPose
from posezoo.models.metrabs import MeTRAbs
from posezoo.models.optimizers import fuse
from posezoo.models.partaware import PartAware, PartAwareSearch
from posezoo.models.rootnet import RootNet
from posezoo.structures import Batch
from posezoo.testing import TINY, synthetic_batch

AUTOCAST = "autocast"  # the reference under bfloat16 autocast
KEPT = "autocast, keeping freed memory"  # for those who would set this by hand
METHODS = {cls.__name__: cls for cls in (HEMlets, IntegralPose, MeTRAbs, RootNet, PartAware, PartAwareSearch)}
TIMED, WEIGHED = 4, 8  # samples of a step whose time, and of one whose memory is measured
METRABS = {"backbone": "resnet50", "centered_stride": False}
# What decides for another formulation of the same layers.
DECISIONS = (
    "posezoo.models.heads.can_fuse",
    "posezoo.models.hemlets.network.merges",
    "posezoo.models.deconvolution.Doubling._multiplies",
    "posezoo.models.depthwise.DepthwiseConv2d._rewrites",
)
USES = ("posezoo.models.heads.soft_argmax", "posezoo.models.metrabs.network.soft_argmax")


def plain_soft_argmax(logits: Tensor, ndim: int, grid: str = "corners", fused: bool | None = None) -> Tensor:
    """`formulas.soft_argmax` with the signature of ours; flat maps are volumes of depth one."""
    volume = logits if ndim == 3 else logits.unsqueeze(-3)
    cells = formulas.soft_argmax(volume)[..., :ndim]
    sizes = torch.tensor(logits.shape[: -ndim - 1 : -1], dtype=cells.dtype)
    return cells / (sizes - 1) if grid == "corners" else (cells + 0.5) / sizes


class Step:
    """Forward, losses, backward and the optimiser's step of one contender."""

    def __init__(self, estimator: PoseEstimator, batch: Batch, name: str) -> None:
        self.estimator, self.batch, self.name = estimator.train(), batch, name
        if name == OURS:
            estimator.configure_model()
        else:
            as_published(estimator)
        self.optimizer = self.make_optimizer()
        if name == OURS:
            fuse(self.optimizer)

    def make_optimizer(self) -> Optimizer:
        return self.estimator.default_optimizer(1000)[0]

    def loss(self) -> Tensor:
        low = self.name != REFERENCE
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            prediction = self.estimator.estimate(self.batch)
        terms = self.estimator.losses(prediction.apply(_full), self.batch)
        weights = self.estimator.loss_weights()
        return torch.stack([weights.get(key, 1.0) * term for key, term in terms.items()]).sum()

    def loss_alone(self) -> Tensor:
        with self.plain():
            return self.loss().detach()

    def plain(self) -> Any:
        """Our own formulation for ours, the reference's for the others."""
        return nullcontext() if self.name == OURS else _patched()

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        with self.plain():
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class SearchStep(Step):
    """A step of the architecture, then one of the weights, as `PartAwareSearch.training_step` makes them (order 1)."""

    def make_optimizer(self) -> Optimizer:
        search: Any = self.estimator
        self.architecture = search.arch_parameters()
        self.arch_optimizer = torch.optim.Adam(self.architecture, lr=6e-4)
        return torch.optim.Adam(search.weights().values(), lr=1e-3)

    def __call__(self) -> float:
        with self.plain():
            gradients = torch.autograd.grad(self.loss(), self.architecture)
        for parameter, gradient in zip(self.architecture, gradients, strict=True):
            parameter.grad = gradient
        self.arch_optimizer.step()
        return super().__call__()


class _patched:
    def __enter__(self) -> None:
        self.patches = [patch(name, plain_soft_argmax) for name in USES]
        # Convolution first, volume stored, then the soft-argmax; one layer after the other.
        self.patches += [patch(name, lambda *_: False) for name in DECISIONS]
        for each in self.patches:
            each.start()

    def __exit__(self, *_: object) -> None:
        for each in self.patches:
            each.stop()


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def make(method: str, settings: dict[str, Any], batch: int, quick: bool) -> Bench:
    skeleton = "h36m17" if method == "MeTRAbs" else "hemlets18"
    chosen: dict[str, Any] = {"skeleton": skeleton} | (_tiny(method) if quick else settings)
    side = chosen.get("image_size", 256)
    labels = synthetic_batch(2 if quick else batch, skeleton, side)

    def build() -> PoseEstimator:
        torch.manual_seed(0)
        return METHODS[method](**chosen)

    kind = SearchStep if method == "PartAwareSearch" else Step

    def step(name: str) -> Step:
        return kind(build(), labels, name)

    def errors() -> dict[str, float]:
        """Relative error of the first loss."""
        exact = float(kind(build().double(), _doubled(labels), REFERENCE).loss_alone())
        steps = [step(name) for name in (REFERENCE, AUTOCAST, OURS)]
        found = {each.name: abs(float(each.loss_alone()) / exact - 1) for each in steps}
        return {name: found[AUTOCAST if name == KEPT else name] for name in names}

    names = (REFERENCE, AUTOCAST, KEPT, OURS) if batch == TIMED else (REFERENCE, AUTOCAST, OURS)

    def flops() -> float:
        """Of three forward passes, once more for the architecture: a backward pass has twice its products."""
        ours = step(OURS)
        with FlopCounterMode(display=False) as counter:
            ours.loss()
        return (6 if method == "PartAwareSearch" else 3) * counter.get_total_flops()

    calls = {name: Lazy(step, name) for name in names}
    tolerance = {name: 1e-3 if name == REFERENCE else 0.05 for name in names}
    return Bench(calls, errors, tolerance, items=len(labels["image"]), flops=flops, dtype="bfloat16")


class Lazy:
    """Builds the network at the first call only: a process runs one contender of three."""

    def __init__(self, make_step: Callable[[str], Step], name: str) -> None:
        self.arguments = make_step, name
        self.step: Step | None = None

    def __call__(self) -> float:
        return self._ready()()

    def prepare(self) -> None:
        """Also makes the optimiser's state: a step without gradients, which changes no weight of Adam's."""
        step = self._ready()
        weights = [weight for weight in step.estimator.parameters() if weight.requires_grad]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        step.optimizer.step()
        step.optimizer.zero_grad()

    def _ready(self) -> Step:
        if self.step is None:
            make_step, name = self.arguments
            self.step = make_step(name)
        return self.step


def _doubled(labels: Batch) -> Batch:
    batch: Any = {key: value.double() if value.is_floating_point() else value for key, value in labels.items()}
    batch["image"] = labels["image"].double() / 255
    return batch  # type: ignore[no-any-return]


def _tiny(method: str) -> dict[str, Any]:
    tiny: dict[str, Any] = dict(TINY)
    if method in ("HEMlets", "IntegralPose"):
        tiny |= {"width": 16, "depth_bins": 16, "deconvs": 2}
    if method == "HEMlets":
        tiny["feature_width"] = 16
    if method.startswith("PartAware"):
        tiny |= {"widths": [8, 8], "depth_bins": 16}
    return tiny


def _case(method: str, settings: dict[str, Any], *targets: Target) -> Case:
    arguments = {"method": method, "settings": settings, "batch": TIMED}
    name = f"train_step/{method.lower()}"
    kept = (KEPT, OURS)
    return Case(name, make, arguments, targets, "relative", most_rounds=5, quick_check=True, apart=True, keep_heap=kept)


def _memory_case(method: str, settings: dict[str, Any]) -> Case:
    arguments = {"method": method, "settings": settings, "batch": WEIGHED}
    name, targets = f"train_step/{method.lower()}-batch-{WEIGHED}", (Target("memory", 0.6),)
    return Case(name, make, arguments, targets, "relative", memory=True, timed=False, quick_check=True)


def _wanted(reference: float, autocast: float) -> tuple[Target, ...]:
    return Target("speed", reference), Target("speed", autocast, AUTOCAST)


register(
    _case("HEMlets", {}, *_wanted(3.0, 1.6)),
    _case("IntegralPose", {}, *_wanted(2.5, 1.5)),
    _case("MeTRAbs", METRABS),
    _case("RootNet", {}),
    _case("PartAware", {}),
    _case("PartAwareSearch", {}),
    *(_memory_case(method, METRABS if method == "MeTRAbs" else {}) for method in METHODS),
)
