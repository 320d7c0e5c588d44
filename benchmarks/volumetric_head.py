"""A training step of the volumetric head: 1x1 convolution and soft-argmax; and its share without the convolution.

As in a training step, the features come packed to the reference, and to ours as posezoo's networks make them: channels
last.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import formulas
from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from posezoo.heatmaps import block_maps, locate_block, pull_block
from posezoo.models.heads import VolumetricHead, as_volumes

CELLS = 64


def reference(head: nn.Module, features: Tensor) -> Tensor:
    logits = as_volumes(head.conv(features), head.num_joints)
    return formulas.soft_argmax(logits) / (CELLS - 1) - 0.5


def ours(head: nn.Module, features: Tensor) -> Tensor:
    return head.locate(features, "corners", scored=False)[0]


def step(formula: Callable[[nn.Module, Tensor], Tensor], head: nn.Module, features: Tensor) -> tuple[Tensor, ...]:
    """Coordinates, and gradients of features, weight and bias."""
    features = features.detach().requires_grad_()
    coords = formula(head, features)
    wanted = torch.linspace(-0.4, 0.4, coords[0].numel(), dtype=coords.dtype).view(coords[0].shape)
    loss = (coords - wanted).square().sum()
    return (coords.detach(), *torch.autograd.grad(loss, [features, head.conv.weight, head.conv.bias]))


def make(channels: int, quick: bool) -> Bench:
    batch, joints = (1, 4) if quick else (8, 18)
    torch.manual_seed(0)
    head = VolumetricHead(channels, joints, CELLS)
    nn.init.normal_(head.conv.weight, std=2 / channels**0.5)
    features = torch.randn(batch, channels, CELLS, CELLS)
    formula = {REFERENCE: reference, OURS: ours}
    layouts = {REFERENCE: torch.contiguous_format, OURS: torch.channels_last}

    def call(name: str) -> Callable[[], Any]:
        given = features.contiguous(memory_format=layouts[name])
        return lambda: step(formula[name], head, given)

    def errors() -> dict[str, float]:
        part = features[:1]
        exact = step(reference, copy.deepcopy(head).double(), part.double())
        return {name: _worst(step(formula[name], head, part), exact) for name in formula}

    tolerance = dict.fromkeys(formula, 1e-3)
    return Bench({name: call(name) for name in formula}, errors, tolerance)


def _worst(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """Largest error of coordinates and gradients, each relative to its largest entry."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))


def wanted_coords(coords: Tensor) -> Tensor:
    """Twice the distance to somewhere, the gradient of a squared error: cells -> per cell."""
    return 2 * (coords - (CELLS - 1) / 3)


def plain_in_head(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of [B, J, D, H, W] and the gradient of the logits, by autograd."""
    logits = logits.detach().requires_grad_()
    coords = formulas.soft_argmax(logits)
    coords.backward(wanted_coords(coords.detach()))
    assert logits.grad is not None
    return coords.detach(), logits.grad


@torch.no_grad()
def overwriting(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What the fused head does behind its matrix products: all blocks forward, all blocks back, over the logits."""
    maps = logits.flatten(0, 1)
    blocks = maps.split(block_maps(maps[0].numel(), maps.device))
    located = [locate_block(block, "corners") for block in blocks]
    for block, (found, total) in zip(blocks, located, strict=True):
        pull_block(block, found, total, wanted_coords(found * (CELLS - 1)) * (CELLS - 1), "corners", out=block)
    return torch.cat([found for found, _ in located]).view(*logits.shape[:2], 3) * (CELLS - 1), logits


def make_soft_argmax(quick: bool) -> Bench:
    shape = (1 if quick else 8, 4 if quick else 18, CELLS, CELLS, CELLS)
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    formula = {REFERENCE: plain_in_head, OURS: overwriting}
    # Ours turns its logits into gradients, and those of the next call into theirs: the same work.
    used = {name: logits.clone() for name in formula}

    def call(name: str) -> Callable[[], Any]:
        return lambda: formula[name](used[name])

    def errors() -> dict[str, float]:
        exact = plain_in_head(logits[:1].double())
        return {name: _worst(formula[name](logits[:1].clone()), exact) for name in formula}

    return Bench({name: call(name) for name in formula}, errors, dict.fromkeys(formula, 1e-3))


register(
    Case(
        "volumetric_head/soft-argmax-overwriting",
        make_soft_argmax,
        {},
        (Target("speed", 2.5),),
        "relative",
        memory=True,
        most_rounds=7,
    ),
    *(
        Case(
            f"volumetric_head/train-{channels}",
            make,
            {"channels": channels},
            (Target("speed", 1.0), Target("memory", share)),
            "relative",
            memory=True,
            most_rounds=5,
        )
        for channels, share in ((256, 1 / 6), (1024, 1 / 3))
    ),
)
