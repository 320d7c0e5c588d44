"""Batch norms folded into the convolutions before them: the same function with less to compute, for inference only.

A batch norm in evaluation mode multiplies and shifts each channel by constants, and so can the convolution whose output
it reads. In bfloat16 this also saves a rounding of every activation.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from posezoo.errors import PoseZooError

Network = TypeVar("Network", bound=nn.Module)
_CONVOLUTIONS: Final = (nn.Conv2d, nn.ConvTranspose2d)
# Largest change of an output, relative to its largest entry, that rounding explains.
_TOLERANCE: Final = 1e-3


@dataclass
class _Seen:
    """What a run of the network shows: who reads whose output, and how often each layer runs."""

    made: dict[int, nn.Module]  # id of an output -> convolution
    outputs: list[Tensor]  # kept, so that no id is used twice
    readers: dict[nn.Module, nn.Module]  # batch norm -> convolution
    runs: Counter[nn.Module]


def fold_batch_norms(network: Network, *example: Any) -> Network:
    """A copy of a network in evaluation mode whose batch norms are part of the convolutions before them.

    Layers are matched by running the example: a batch norm is folded where it reads the output of a convolution that
    nothing else reads. Others (before an activation and a convolution, as in pre-activation networks; in a backbone
    that runs at another stride in evaluation) stay as they are.

    Args:
        network: Is not changed.
        *example: What it is called with; its size does not matter.

    Raises:
        PoseZooError: The network is in training mode, or the copy computes something else: a layer does more than
            its class says.
    """
    if network.training:
        raise PoseZooError("batch norms follow their batch in training: call .eval() before fold_batch_norms.")
    folded = copy.deepcopy(network).requires_grad_(True)
    with torch.inference_mode(False), torch.enable_grad():
        pairs = _pairs(folded, example)
    with torch.no_grad():
        for norm, conv in pairs:
            _fold(conv, norm)
    replaced = {norm: _rest(norm) for norm, _ in pairs}
    for parent in list(folded.modules()):
        for name, child in parent.named_children():
            if child in replaced:
                setattr(parent, name, replaced[child])
    trained = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    for name, parameter in folded.named_parameters():  # a bias that folding made follows its weight
        parameter.requires_grad_(trained.get(name, trained.get(name.removesuffix("bias") + "weight", True)))
    _check(network, folded, example)
    return folded


def _pairs(network: nn.Module, example: tuple[Any, ...]) -> list[tuple[nn.BatchNorm2d, nn.Module]]:
    seen = _Seen({}, [], {}, Counter())
    hooks = [module.register_forward_hook(_watch(seen)) for module in network.modules()]
    try:
        result = network(*example)
    finally:
        for hook in hooks:
            hook.remove()
    edges = _edges(result)
    alone = {module: edges[output.grad_fn] == 1 for output in seen.outputs for module in [seen.made[id(output)]]}
    return [
        (norm, conv)
        for norm, conv in seen.readers.items()
        if isinstance(norm, nn.BatchNorm2d) and alone[conv] and seen.runs[conv] == seen.runs[norm] == 1
    ]


def _watch(seen: _Seen) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen.runs[module] += 1
        if isinstance(module, _CONVOLUTIONS):
            seen.made[id(output)] = module
            seen.outputs.append(output)
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats and id(inputs[0]) in seen.made:
            seen.readers[module] = seen.made[id(inputs[0])]

    return hook


def _edges(result: Any) -> Counter[Any]:
    """How many operations read what each node of the graph behind `result` made."""
    reads: Counter[Any] = Counter()
    waiting, known = [tensor.grad_fn for tensor in _tensors(result) if tensor.grad_fn is not None], set()
    while waiting:
        node = waiting.pop()
        if node in known:
            continue
        known.add(node)
        for source, _ in node.next_functions:
            if source is not None:
                reads[source] += 1
                waiting.append(source)
    return reads


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif is_dataclass(result) and not isinstance(result, type):
        for field in fields(result):
            yield from _tensors(getattr(result, field.name))
    elif isinstance(result, dict):
        for value in result.values():
            yield from _tensors(value)
    elif isinstance(result, tuple | list):
        for value in result:
            yield from _tensors(value)


def _fold(conv: Any, norm: nn.BatchNorm2d) -> None:
    """In float64: the product of two float32 numbers is rounded once."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    gain = gain if norm.weight is None else gain * norm.weight.double()
    bias = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
    bias = bias * gain if norm.bias is None else bias * gain + norm.bias.double()
    conv.weight.copy_(conv.weight.double() * _per_output(conv, gain))
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype))


def _per_output(conv: Any, gain: Tensor) -> Tensor:
    """`gain` [out] in the shape that multiplies each output channel of the weight."""
    if isinstance(conv, nn.Conv2d):
        return gain[:, None, None, None]
    # [in, out / groups, ...]: the inputs of a group see only its outputs.
    return (
        gain.view(conv.groups, 1, -1)
        .repeat_interleave(conv.in_channels // conv.groups, 1)
        .flatten(0, 1)[..., None, None]
    )


def _rest(norm: nn.Module) -> nn.Module:
    """What a batch norm does besides normalising: timm's have an activation (and dropout) inside."""
    activation = getattr(norm, "act", None)
    return nn.Identity() if activation is None else activation


@torch.no_grad()
def _check(network: nn.Module, folded: nn.Module, example: tuple[Any, ...]) -> None:
    for before, after in zip(_tensors(network(*example)), _tensors(folded(*example)), strict=True):
        allowed = _TOLERANCE * float(before.abs().max()) + 1e-12
        if not float((before - after).abs().max()) <= allowed:
            raise PoseZooError(
                f"folding the batch norms of {type(network).__name__} changes what it computes: one of its "
                "convolutions or batch norms does more than its class says, so use it unfolded."
            )
