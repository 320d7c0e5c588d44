"""Soft-argmax of 64^3 volumes: softmax and marginal sums beside `posezoo.heatmaps.soft_argmax`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import formulas
from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from posezoo.heatmaps import soft_argmax

CELLS = 64
GRADIENT_UNIT = 1e-3  # an error of this share of the largest gradient counts as much as one voxel


def ours(logits: Tensor) -> Tensor:
    return soft_argmax(logits, 3, "corners") * (CELLS - 1)


def make_logits(batch: int, joints: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Noise with a peak in every volume, as a trained head has; in the memory order that a convolution leaves."""
    g = torch.Generator().manual_seed(0)
    axis = torch.arange(CELLS, dtype=torch.float32)
    peak = CELLS * (0.2 + 0.6 * torch.rand(3, batch, joints, 1, generator=g))
    depth, rows, columns = (12 * torch.exp(-((axis - p) ** 2) / 50) for p in peak)
    logits = torch.randn(batch, joints, CELLS, CELLS, CELLS, generator=g)
    logits += depth[..., None, None] * rows[..., None, :, None] * columns[..., None, None, :] / 144
    logits = logits.to(dtype)
    if channels_last:
        flat = logits.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        logits = flat.unflatten(1, (joints, CELLS))
    return logits


def with_gradient(formula: Callable[[Tensor], Tensor], logits: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    coords = formula(logits)
    (gradient,) = torch.autograd.grad((coords * pull).sum(), logits)
    return coords.detach(), gradient


def make(dtype: str, channels_last: bool, train: bool, quick: bool) -> Bench:
    batch, joints = (1, 4) if quick else (8, 18)
    logits = make_logits(batch, joints, getattr(torch, dtype), channels_last)
    pull = torch.randn(batch, joints, 3, generator=torch.Generator().manual_seed(1))
    formula: dict[str, Callable[[Tensor], Tensor]] = {REFERENCE: formulas.soft_argmax, OURS: ours}

    def call(name: str) -> Callable[[], Any]:
        if train:
            return lambda: with_gradient(formula[name], logits, pull)
        return lambda: torch.no_grad()(formula[name])(logits)

    def errors() -> dict[str, float]:
        part = logits[:1]  # a float64 volume of the whole batch would take a gigabyte
        exact, slope = with_gradient(formulas.soft_argmax, part.double(), pull[:1].double())
        found = {}
        for name in formula:
            coords, gradient = with_gradient(formula[name], part, pull[:1])
            found[name] = float((coords.double() - exact).abs().max())
            wrong = float((gradient.double() - slope).abs().max() / slope.abs().max())
            # A gradient is rounded to the dtype of the logits at the end, whatever it was computed in.
            if train and dtype == "float32":
                found[name] = max(found[name], wrong / GRADIENT_UNIT)
        return found

    loose = 0.5 if dtype == "bfloat16" else 0.2
    volume = logits.nbytes / 2**20
    return Bench(
        calls={name: call(name) for name in formula},
        errors=errors,
        tolerance={REFERENCE: loose, OURS: 1e-2},
        base_mb=volume,
        own_mb=volume if train else 0.0,
    )


def _case(dtype: str, channels_last: bool, train: bool, *targets: Target) -> Case:
    words = ("train" if train else "forward", dtype, "channels_last" if channels_last else "contiguous")
    arguments = {"dtype": dtype, "channels_last": channels_last, "train": train}
    name = f"soft_argmax/{'-'.join(words)}"
    return Case(name, make, arguments, targets, "voxel", memory=True, most_rounds=7)


register(
    _case("float32", False, False, Target("speed", 2.5), Target("share", 0.05)),
    _case("float32", False, True, Target("speed", 1.6), Target("share", 0.05)),
    _case("float32", True, False, Target("speed", 4), Target("share", 0.05)),
    _case("float32", True, True, Target("speed", 2.5), Target("share", 0.05)),
    _case("bfloat16", False, False, Target("error", 1e-4)),
    _case("bfloat16", False, True, Target("error", 1e-4)),
    _case("bfloat16", True, False, Target("error", 1e-4)),
    _case("bfloat16", True, True, Target("error", 1e-4)),
)
