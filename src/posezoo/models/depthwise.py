"""Depthwise convolutions whose gradients on a CPU are made of those that oneDNN is good at.

The forward pass is fast and right for every kernel, the gradient of the weights only for 3x3 kernels without dilation.
That of a 5x5 one takes 60 times as long as its forward pass in bfloat16. That of a dilated one is as slow, and in
bfloat16 it is wrong: with torch 2.14 (oneDNN 3.12), channels last, it holds whatever was in memory.
"""

from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from posezoo.heatmaps import is_transformed
from posezoo.models.precision import as_autocast

_FAST = 3  # side of the kernels whose gradient is fast


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution of stride 1 without a bias, whose output has the size of its input.

    Args:
        channels: C.
        kernel: Odd side of the kernel.
        dilation: Of the kernel.
    """

    def __init__(self, channels: int, kernel: int, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, 1, padding, dilation, groups=channels, bias=False)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> "DepthwiseConv2d":
        """The same layer with the same weight, for `is_depthwise` ones."""
        with torch.device("meta"):  # no random number is drawn
            found = cls(conv.in_channels, conv.kernel_size[0], conv.dilation[0])
        found.weight = conv.weight
        return found

    def forward(
        self, input: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Same as `nn.Conv2d`."""
        if not self._rewrites(input):
            return super().forward(input)
        operands = as_autocast(input, self.weight)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = _Depthwise.apply(*operands, self.dilation[0])
        return found

    def _rewrites(self, input: Tensor) -> bool:
        trained = torch.is_grad_enabled() and self.weight.requires_grad and self.bias is None
        slow = self.kernel_size[0] > _FAST or self.dilation[0] > 1
        return trained and slow and input.device.type == "cpu" and not is_transformed(input)


def is_depthwise(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `DepthwiseConv2d.from_conv` can take the place of a layer."""
    if type(conv) is not nn.Conv2d or not conv.in_channels == conv.out_channels == conv.groups:
        return False
    side, step = conv.kernel_size[0], conv.dilation[0]
    square = conv.kernel_size == (side, side) and conv.dilation == (step, step) and side % 2 == 1
    same = conv.stride == (1, 1) and tuple(conv.padding) == (step * (side // 2),) * 2
    return square and same and conv.bias is None and conv.padding_mode == "zeros"


class _Depthwise(torch.autograd.Function):
    """Input [N, C, H, W] and weight [C, 1, K, K] -> [N, C, H, W]. Can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.dilation = dilation
        return _same(input, weight, dilation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        input, weight = ctx.saved_tensors
        d_input = d_weight = None
        with torch.autocast("cpu", enabled=False):  # a backward call may be inside of it
            if ctx.needs_input_grad[0]:
                d_input = _same(grads[0], weight.flip(2, 3), ctx.dilation)
            if ctx.needs_input_grad[1]:
                # Pixels that a dilated kernel sees at once are neighbours in one of the phases of the image.
                seen, pull = (_phases(tensor, ctx.dilation) for tensor in (input, grads[0]))
                d_weight = _weight_gradient(seen, pull, weight.shape[-1])
        return d_input, d_weight, None


def _same(input: Tensor, weight: Tensor, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return functional.conv2d(input, weight, None, 1, padding, dilation, groups=len(weight))


def _phases(image: Tensor, step: int) -> Tensor:
    """Every `step`-th pixel as an image of its own: [N, C, H, W] -> [step^2 N, C, H / step, W / step], zeros added."""
    pixels = image.permute(0, 2, 3, 1)
    if step == 1:
        return image
    rows, columns = (-size % step for size in image.shape[-2:])
    if rows or columns:
        pixels = functional.pad(pixels, (0, 0, 0, columns, 0, rows))
    split = pixels.unflatten(2, (-1, step)).unflatten(1, (-1, step))  # [N, H / step, step, W / step, step, C]
    phases: Tensor = split.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)
    return phases


def _weight_gradient(input: Tensor, pull: Tensor, side: int) -> Tensor:
    """Gradient [C, 1, side, side] for an undilated kernel, in overlapping squares of 3 x 3 of its entries."""
    channels, margin = input.shape[1], side // 2
    starts = range(0, side - 1, _FAST - 1)
    height, width = (size + _FAST - 1 for size in pull.shape[-2:])
    padded = functional.pad(input, (margin, margin, margin, margin))
    rows = []
    for row in starts:
        squares = [
            _fast_gradient(padded[..., row : row + height, column : column + width], pull)[..., (column > 0) :]
            for column in starts
        ]
        rows.append(torch.cat(squares, -1)[..., (row > 0) :, :])
    return torch.cat(rows, -2).view(channels, 1, side, side)


def _fast_gradient(input: Tensor, pull: Tensor) -> Tensor:
    """Of a 3x3 kernel without padding: [N, C, H + 2, W + 2] and [N, C, H, W] -> [C, 1, 3, 3]."""
    channels = input.shape[1]
    found: Tensor = conv2d_weight(input, [channels, 1, _FAST, _FAST], pull, groups=channels)
    return found
