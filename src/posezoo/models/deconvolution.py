"""A transposed convolution that doubles the resolution; its gradients are products of matrices where that is faster."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from posezoo.heatmaps import is_transformed
from posezoo.models.precision import as_autocast

_SIDE, _STRIDE, _PADDING = 4, 2, 1
# Input channels for each output channel from which on a CPU gains: up to 4 times at 2048 to 256, nothing at 256 to 256.
_WIDE = 2


class Doubling(nn.ConvTranspose2d):
    """Transposed 4x4 convolution of stride 2 without a bias: H x W becomes 2H x 2W.

    Args:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, _SIDE, _STRIDE, _PADDING, bias=False)

    def forward(
        self, input: Float[Tensor, "batch channels rows columns"], output_size: list[int] | None = None
    ) -> Float[Tensor, "batch out rows2 columns2"]:
        """Same as `nn.ConvTranspose2d`."""
        if output_size is not None or not self._multiplies(input):
            return super().forward(input, output_size)
        operands = as_autocast(input, self.weight)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = _Doubling.apply(*operands)
        return found

    def _multiplies(self, input: Tensor) -> bool:
        trained = torch.is_grad_enabled() and self.weight.requires_grad and self.bias is None
        wide = self.in_channels >= _WIDE * self.out_channels
        return trained and wide and input.device.type == "cpu" and not is_transformed(input)


class _Doubling(torch.autograd.Function):
    """Input [N, C, H, W] and weight [C, O, 4, 4] -> [N, O, 2H, 2W].

    oneDNN reorders the whole weight for its gradients, and so takes two to four times as long as the products when the
    maps are small. The backward pass can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input, weight)
        return functional.conv_transpose2d(input, weight, None, _STRIDE, _PADDING)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):  # a backward call may be inside of it
            pull, columns = _patches(grads[0]), weight.permute(0, 2, 3, 1).flatten(1)
            d_input = d_weight = None
            if ctx.needs_input_grad[0]:
                batch, channels, rows, cols = input.shape
                d_input = (pull @ columns.t()).view(batch, rows, cols, channels).permute(0, 3, 1, 2)
            if ctx.needs_input_grad[1]:
                pixels = input.permute(0, 2, 3, 1).flatten(0, 2)
                d_weight = (pixels.t() @ pull).view(len(weight), _SIDE, _SIDE, -1).permute(0, 3, 1, 2)
        return d_input, d_weight


def _patches(output: Tensor) -> Tensor:
    """What each input pixel has written to: [N, O, 2H, 2W] -> [N H W, 4 4 O]."""
    padded = functional.pad(output.permute(0, 2, 3, 1), (0, 0, _PADDING, _PADDING, _PADDING, _PADDING))
    windows = padded.unfold(1, _SIDE, _STRIDE).unfold(2, _SIDE, _STRIDE)  # [N, H, W, O, 4, 4]
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)
