"""Training on a GPU: images/s, model FLOP utilisation, memory, waiting, and whether the loaders keep up.

A program of its own, because it measures something else than the other benchmarks: wall-clock time of the device, for
posezoo alone. Without a GPU it says so and stops; `--quick` runs small networks on the CPU, to show that it runs.

    python -m benchmarks.gpu --peak-tflops 989 --batch 64 --workers 14 --json gpu.json
"""

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Before any library makes its pool of threads.
os.environ |= {"NO_ALBUMENTATIONS_UPDATE": "1"}

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from posezoo import kernels
from posezoo.callbacks import CompileNetwork
from posezoo.data import SyntheticPeople
from posezoo.data.crop import Augmentation
from posezoo.data.synthetic.device import prepare_frame, render_batch
from posezoo.heatmaps import soft_argmax
from posezoo.models import HEMlets, IntegralPose, MeTRAbs
from posezoo.models.base import PoseEstimator
from posezoo.models.optimizers import fuse
from posezoo.structures import Batch, to_device
from posezoo.testing import TINY, synthetic_batch

METHODS: dict[str, type[PoseEstimator]] = {cls.__name__: cls for cls in (MeTRAbs, IntegralPose, HEMlets)}
RESNET50: dict[str, Any] = {"backbone": "resnet50", "image_size": 256}
WARM_UP = 3
_SMALL = {"width": 16, "depth_bins": 16, "deconvs": 2}


@dataclass(frozen=True)
class Training:
    """A method's training step.

    Attributes:
        method: Its name.
        batch: Samples in a step.
        images_per_s: Of whole steps: images to the device, forward, losses, backward, optimiser.
        gflop: Of the method: three times the forward pass of one image, multiply and add counted separately.
        utilisation: Share of the stated peak that these make; None without a peak.
        peak_mb: Most memory that tensors took; None on a CPU.
        waits: Times that a step made the CPU wait for the device; None on a CPU.
        loader_images_per_s: Of SyntheticPeople, rendered, cropped and augmented by `workers` processes.
        margin: Loaders over steps: below 1, the device waits for images.
    """

    method: str
    batch: int
    images_per_s: float
    gflop: float
    utilisation: float | None
    peak_mb: float | None
    waits: int | None
    loader_images_per_s: float
    margin: float


@dataclass(frozen=True)
class Part:
    """Something smaller: milliseconds of a call, and how much it works through."""

    name: str
    milliseconds: float
    rate: float
    unit: str


class Step:
    """One training step as the recipes make it: bfloat16 autocast, channels_last, fused Adam, pinned uint8 images."""

    def __init__(self, estimator: PoseEstimator, batch: Batch, device: torch.device, compiled: bool) -> None:
        self.estimator = estimator.to(device, memory_format=torch.channels_last).train()
        self.device = device
        self.batch = {key: value.pin_memory() for key, value in batch.items()} if device.type == "cuda" else batch
        self.optimizer = estimator.default_optimizer(1000)[0]
        fuse(self.optimizer)
        if compiled:
            CompileNetwork().setup(None, estimator, "fit")  # it asks no trainer

    def __call__(self) -> Tensor:
        batch: Batch = to_device(self.batch, self.device)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16):
            prediction = self.estimator.estimate(batch)
        terms = self.estimator.losses(prediction.apply(_full), batch)
        weights = self.estimator.loss_weights()
        loss = torch.stack([weights.get(key, 1.0) * term for key, term in terms.items()]).sum()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def build(method: str, quick: bool) -> PoseEstimator:
    """The method with its defaults on ResNet-50 at 256 px, or small."""
    torch.manual_seed(0)
    settings = TINY if quick else RESNET50
    if quick and method != "MeTRAbs":
        settings = settings | _SMALL | ({"feature_width": 16} if method == "HEMlets" else {})
    return METHODS[method](**settings)


def gflop_per_image(step: Step) -> float:
    """Of a training step of one image: three times a forward pass of the published layers, which is run for it."""
    image = to_device({"image": step.batch["image"][:1]}, step.device)["image"]
    counter: Any = FlopCounterMode(display=False)
    network = step.estimator.network.eval()
    layer_by_layer = patch("posezoo.models.hemlets.network.merges", lambda *_: False)
    with counter, torch.no_grad(), layer_by_layer:
        network.forward(image)  # past torch.compile, whose kernels the counter does not know
    network.train()
    return 3 * counter.get_total_flops() / 1e9


def seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Wall-clock seconds of a call, mean of many after a few to warm up."""
    for _ in range(min(WARM_UP, repeats)):
        call()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def waits(step: Step) -> int | None:
    """How often the CPU waits for the device within a step."""
    if step.device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in told)


def loader_rate(quick: bool, batch: int, workers: int) -> float:
    """Images/s of the loaders alone, after the first batches."""
    side = (TINY if quick else RESNET50)["image_size"]
    count = 2 * batch if quick else 40 * batch
    data = SyntheticPeople(
        train_length=count, batch_size=batch, num_workers=workers, image_size=side, augmentation=Augmentation()
    )
    batches = iter(data.train_dataloader())
    start_up = 1 if quick else max(4, 2 * workers)  # what the workers have made ahead is not counted
    for _ in islice(batches, min(start_up, count // batch - 1)):
        pass
    start, images = time.perf_counter(), 0
    for each in batches:
        images += len(each["image"])
    return images / (time.perf_counter() - start)


def measure_training(method: str, arguments: argparse.Namespace, loader: float) -> Training:
    """All numbers of one method."""
    device, quick, size = arguments.device, arguments.quick, arguments.batch
    estimator = build(method, quick)
    labels = synthetic_batch(size, estimator.skeleton.name, estimator.image_size)
    step = Step(estimator, labels, device, arguments.compile)
    took = seconds(step, device, arguments.steps)
    peak = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    rate, gflop = size / took, gflop_per_image(step)
    used = None if arguments.peak_tflops is None else rate * gflop / (1e3 * arguments.peak_tflops)
    return Training(method, size, rate, gflop, used, peak, waits(step), loader, loader / rate)


def measure_parts(device: torch.device, quick: bool, steps: int) -> Iterator[Part]:
    """The kernels beside what they replace, and the renderer."""
    packed = torch.randn((1, 2, 8, 8, 8) if quick else (8, 18, 64, 64, 64), device=device)
    interleaved = packed.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    for layout, logits in (("packed", packed), ("channels last", interleaved)):
        moved = 3 * logits.numel() * logits.element_size() / 1e9  # read, read again, gradient written
        for name, fused, switch in (("plain", False, "0"), ("in blocks", True, "0"), ("Triton", True, "1")):
            with _switched(switch):
                if name != "Triton" or kernels.usable(logits, "soft-argmax"):
                    took = seconds(partial(_soft_argmax_step, logits.requires_grad_(), fused), device, steps)
                    yield Part(f"soft-argmax, {layout}, {name}", 1e3 * took, moved / took, "GB/s")
    frames = [prepare_frame(number, size=48 if quick else 256, preset="full") for number in range(2 if quick else 32)]
    for name, switch in (("plain", "0"), ("Triton", "1")):
        with _switched(switch):
            if name != "Triton" or kernels.usable(torch.zeros(1, device=device), "rasteriser"):
                took = seconds(partial(render_batch, frames, device), device, max(1, steps // 2))
                yield Part(f"people on prepared frames, {name}", 1e3 * took, len(frames) / took, "frames/s")


def _soft_argmax_step(logits: Tensor, fused: bool) -> None:
    logits.grad = None
    soft_argmax(logits, 3, fused=fused).sum().backward()


@contextmanager
def _switched(value: str) -> Iterator[None]:
    """The kernels' switch, for a while."""
    before = os.environ.get(kernels.SWITCH)
    os.environ[kernels.SWITCH] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[kernels.SWITCH]
        else:
            os.environ[kernels.SWITCH] = before


def table(rows: list[Any]) -> str:
    """Rows of one kind in Markdown."""
    names = [field.name for field in fields(rows[0])]
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(_shown(getattr(row, name)) for name in names)} |" for row in rows]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers belong to."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: no GPU was measured",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton_kernels": kernels.usable(torch.zeros(1, device=device), "soft-argmax"),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 also where there is nothing to measure."""
    arguments = _parser().parse_args(argv)
    if arguments.device is None:
        arguments.device = "cuda" if torch.cuda.is_available() or not arguments.quick else "cpu"
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("Skipped: there is no CUDA device here. --quick --device cpu shows that the benchmark runs.")
        return 0
    arguments.device = torch.device(arguments.device)
    if arguments.quick:
        arguments.batch, arguments.steps, arguments.workers = 2, 1, 0
    loader = loader_rate(arguments.quick, arguments.batch, arguments.workers)
    trainings = []
    for method in METHODS:
        print(f"{method} ...", file=sys.stderr, flush=True)
        trainings.append(measure_training(method, arguments, loader))
    parts = list(measure_parts(arguments.device, arguments.quick, arguments.steps))
    env = environment(arguments.device) | {"workers": arguments.workers, "compiled": arguments.compile}
    print(", ".join(f"{key} {value}" for key, value in env.items()))
    print(table(trainings), table(parts), sep="\n\n")
    if arguments.json:
        rows = {"trainings": [asdict(row) for row in trainings], "parts": [asdict(row) for row in parts]}
        found = {"environment": env, "quick": arguments.quick, "peak_tflops": arguments.peak_tflops, **rows}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", help="cuda, cuda:1 or cpu; the first GPU when left out")
    parser.add_argument("--batch", type=int, default=64, help="samples in a step")
    parser.add_argument("--steps", type=int, default=30, help="calls to average over")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="loader processes")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak that utilisation is a share of")
    parser.add_argument("--compile", action="store_true", help="compile the networks, as CompileNetwork does")
    parser.add_argument("--quick", action="store_true", help="small networks: that it runs, not how fast")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
