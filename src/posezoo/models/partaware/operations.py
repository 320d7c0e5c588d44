"""Candidate operations of a cell: what an edge may do, and what it costs.

The eight operations of DARTS (Liu et al., ICLR 2019), all of stride 1 and shape-preserving. The part-aware papers' own
list is not public; they speak of different kernel sizes and receptive fields (section 3 of the model card).
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from posezoo.models.depthwise import DepthwiseConv2d

NONE = "none"
SKIP = "skip_connect"


class Operation(nn.Module):
    """An operation on [B, C, h, w] that keeps the shape."""

    def macs(self, rows: int, columns: int) -> int:
        """Multiply-accumulates of its convolutions on a map of rows x columns; nothing else counts."""
        convolutions = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        return sum(conv.weight.numel() for conv in convolutions) * rows * columns


class Zero(Operation):
    """No connection."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros."""
        return x * 0.0


class Skip(Operation):
    """Identity."""

    def forward(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x


class Pool(Operation):
    """3x3 pooling; in the search with a BatchNorm, so that its size compares with that of the convolutions.

    Args:
        channels: C.
        affine: Whether BatchNorms scale; a derived pooling (affine) has none at all, as in DARTS.
        kind: "max" or "avg".
    """

    def __init__(self, channels: int, affine: bool, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.Identity() if affine else nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled, same shape; cells outside the map do not count."""
        if self.kind == "max":
            pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return self.norm(pooled)  # type: ignore[no-any-return]


class Convolution(Operation):
    """`repeats` times [ReLU, depthwise convolution, 1x1 convolution, BatchNorm].

    Args:
        channels: C.
        affine: Whether BatchNorms scale: not in the search, where the scale would absorb the architecture weight.
        kernel: Side of the depthwise kernel.
        dilation: Of the depthwise kernel.
        repeats: 2 for separable, 1 for dilated convolutions.
    """

    def __init__(self, channels: int, affine: bool, kernel: int, dilation: int, repeats: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(repeats):
            layers += [
                nn.ReLU(inplace=False),  # several edges share the input
                DepthwiseConv2d(channels, kernel, dilation),
                nn.Conv2d(channels, channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(channels, affine=affine),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels rows columns"]:
        """Same shape."""
        return self.layers(x)  # type: ignore[no-any-return]


# name -> (channels, affine) -> operation; the order is that of the architecture parameters, hence part of checkpoints.
OPERATIONS: dict[str, Callable[[int, bool], Operation]] = {
    NONE: lambda channels, affine: Zero(),
    "max_pool_3x3": lambda channels, affine: Pool(channels, affine, "max"),
    "avg_pool_3x3": lambda channels, affine: Pool(channels, affine, "avg"),
    SKIP: lambda channels, affine: Skip(),
    "sep_conv_3x3": lambda channels, affine: Convolution(channels, affine, kernel=3, dilation=1, repeats=2),
    "sep_conv_5x5": lambda channels, affine: Convolution(channels, affine, kernel=5, dilation=1, repeats=2),
    "dil_conv_3x3": lambda channels, affine: Convolution(channels, affine, kernel=3, dilation=2, repeats=1),
    "dil_conv_5x5": lambda channels, affine: Convolution(channels, affine, kernel=5, dilation=2, repeats=1),
}
PARAMETRIC = tuple(name for name in OPERATIONS if "conv" in name)

# Side of the input region that one output cell sees.
RECEPTIVE_FIELDS: dict[str, int] = {
    NONE: 0,
    "max_pool_3x3": 3,
    "avg_pool_3x3": 3,
    SKIP: 1,
    "sep_conv_3x3": 5,
    "sep_conv_5x5": 9,
    "dil_conv_3x3": 5,
    "dil_conv_5x5": 9,
}
