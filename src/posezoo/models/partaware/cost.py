"""What a network costs: parameters, multiply-accumulates counted truly, and as THOP counts them.

Published tables of this field mostly print THOP's number, which charges transposed convolutions by their *output*
positions: four times too much at stride 2. Integral Pose with ResNet-50 then has "14.1 G", truly 8.4 G. Compare like
with like, and use `thop_macs` beside published figures only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from posezoo.errors import PoseZooError

ROUND_TO = 8  # channels; what tensor cores like, and what the depthwise kernels of CPUs like too


@dataclass(frozen=True)
class Cost:
    """Cost of one crop: encoder, decoders and head; no soft-argmax, no detector.

    Attributes:
        parameters: Number of trainable and other parameters.
        macs: Multiply-accumulates of convolutions and matrix products, by torch's FlopCounter.
        thop_macs: As THOP (0.1.1) prints them: transposed convolutions by output position, BatchNorms at 4 (without
            scale: 2) per element. For comparison with published figures only.
    """

    parameters: int
    macs: int
    thop_macs: int

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} GMACs "
            f"({self.thop_macs / 1e9:.2f} G as THOP counts)"
        )


def measure(build: Callable[[], nn.Module], image_size: int, volumes: Callable[[Any, Tensor], Any]) -> Cost:
    """Cost of a network, found without computing anything: it is built on the meta device.

    Args:
        build: Makes the network.
        image_size: Side of the crop, px.
        volumes: Runs the network up to its logits: `volumes(network, image)`.
    """
    with torch.device("meta"):
        network = build().eval()
        image = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
    convention = _ThopCounter(network)
    counter: Any = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        volumes(network, image)
    convention.close()
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(parameters, counter.get_total_flops() // 2, convention.macs)


class _ThopCounter:
    """Adds up what THOP charges for each layer that runs."""

    def __init__(self, network: nn.Module) -> None:
        self.macs = 0
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
        self._hooks = [m.register_forward_hook(self._add) for m in network.modules() if isinstance(m, kinds)]

    def _add(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.BatchNorm2d):
            self.macs += inputs[0].numel() * (4 if layer.affine else 2)
            return
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        self.macs += output.numel() * layer.in_channels // layer.groups * kernel

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def fit_widths(
    widths: list[int],
    cost: Callable[[list[int]], Cost],
    max_params: float | None,
    max_gmacs: float | None,
    steps: int = 12,
) -> list[int]:
    """Scale all widths alike to the most that a budget allows, by bisection; multiples of 8.

    Args:
        widths: Their proportions.
        cost: Cost at given widths.
        max_params: Budget in millions of parameters; None for no limit.
        max_gmacs: Budget in true GMACs; None for no limit.
        steps: Halvings of the interval.

    Raises:
        PoseZooError: A budget is not positive, or smaller than the thinnest network.
    """
    if max_params is None and max_gmacs is None:
        return widths
    for name, value in (("max_params", max_params), ("max_gmacs", max_gmacs)):
        if value is not None and not value > 0:
            raise PoseZooError(f"--model.{name} must be positive, got {value}.")

    def scaled(factor: float) -> list[int]:
        return [max(ROUND_TO, floor(width * factor / ROUND_TO + 0.5) * ROUND_TO) for width in widths]

    def fits(factor: float) -> bool:
        found = cost(scaled(factor))
        params_fit = max_params is None or found.parameters <= max_params * 1e6
        return params_fit and (max_gmacs is None or found.macs <= max_gmacs * 1e9)

    low, high = ROUND_TO / max(widths) / 2, 1.0
    if not fits(low):
        least = cost(scaled(low))
        name = "max_params" if max_params is not None and least.parameters > max_params * 1e6 else "max_gmacs"
        raise PoseZooError(
            f"--model.{name} cannot be met: with the thinnest decoders the network still has {least}; choose a smaller "
            "--model.backbone or a larger budget."
        )
    while fits(high):
        low, high = high, 2 * high
    for _ in range(steps):
        if scaled(low) == scaled(high):
            break
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return scaled(low)
