"""Adam and AdamW as fast as torch has them, also for channels-last weights on a CPU."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

FUSED_DEVICES = ("cpu", "cuda")


def fuse(optimizer: Optimizer) -> None:
    """Let Adam and AdamW change a weight in one pass over it, and all weights on a GPU in one kernel.

    As an option of the groups, not of the constructor: that also claims to unscale gradients by itself, and Lightning
    then refuses to clip them.
    """
    if not isinstance(optimizer, Adam | AdamW):
        return
    for group in optimizer.param_groups:
        if all(weight.device.type in FUSED_DEVICES for weight in group["params"]):
            group["fused"], group["foreach"] = True, False
            _walk_memory(optimizer)


def lay_out_as_weights(optimizer: Optimizer) -> None:
    """Give loaded moments the memory order of their weights: the fused step on a CPU pairs them as they lie."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _walk_memory(optimizer: Any) -> None:
    """Let the fused step on a CPU see channels-last tensors as the packed ones that they are in memory.

    torch 2.14 copies one tensor of each channels-last weight at every step, which takes three times as long as the step
    itself; and it mixes up the entries of a gradient that lies otherwise than its weight.
    """
    collect = getattr(optimizer, "_init_group", None)  # not public: where torch has it no more, its own way is taken
    if collect is None or "_init_group" in vars(optimizer):
        return

    def collect_as_it_lies(group: dict[str, Any], *lists: list[Tensor]) -> Any:
        found = collect(group, *lists)
        weights, gradients, *moments, _ = lists
        if group["fused"] and weights and weights[0].device.type == "cpu":
            gradients[:] = [_like(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True)]
            for tensors in (weights, gradients, *moments):
                tensors[:] = _packed(tensors)
        return found

    optimizer._init_group = collect_as_it_lies


def _like(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory order of its weight."""
    order = torch.channels_last if _is_channels_last(weight) else torch.contiguous_format
    if gradient.is_contiguous(memory_format=order):
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


def _packed(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Channels-last tensors as views whose indices follow the memory; all others as they are."""
    return [tensor.permute(0, 2, 3, 1) if _is_channels_last(tensor) else tensor for tensor in tensors]


def _is_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
