"""The derived cell, and what it shares with the cell of the search."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from posezoo.models.partaware.genotype import INPUTS, Cell
from posezoo.models.partaware.operations import OPERATIONS


class Projection(nn.Module):
    """ReLU, 1x1 convolution, BatchNorm, then bilinear resizing: brings an input of a cell to its width and size.

    Resizing comes last, so that the convolution runs on the small map and all operations of a cell keep the shape.

    Args:
        in_channels: Channels of the input.
        channels: Width of the cell.
        affine: Whether the BatchNorm scales.
    """

    def __init__(self, in_channels: int, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Float[Tensor, "batch inputs rows columns"], size: tuple[int, int]) -> Tensor:
        """[B, channels, *size]."""
        x = self.norm(self.conv(F.relu(x)))
        if x.shape[-2:] == size:
            return x
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class FixedCell(nn.Module):
    """A cell of a genotype: two inputs, nodes that add two edges each, output = channels of all nodes.

    Args:
        in_channels: Channels of the two inputs.
        channels: Width C of the cell; the output has C per node.
        cell: Its edges.
    """

    def __init__(self, in_channels: tuple[int, int], channels: int, cell: Cell) -> None:
        super().__init__()
        self.project = nn.ModuleList(Projection(count, channels) for count in in_channels)
        self.sources = [[edge.source for edge in node] for node in cell]
        self.nodes = nn.ModuleList(nn.ModuleList(OPERATIONS[edge.op](channels, True) for edge in node) for node in cell)
        self.out_channels = channels * len(cell)

    def forward(
        self, first: Tensor, second: Tensor, size: tuple[int, int]
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """Features of the given size."""
        states = [project(x, size) for project, x in zip(self.project, (first, second), strict=True)]
        for node, sources in zip(self.nodes, self.sources, strict=True):
            terms = [op(states[s - 1]) for op, s in zip(cast(nn.ModuleList, node), sources, strict=True)]
            states.append(sum(terms[1:], terms[0]))
        return torch.cat(states[INPUTS:], 1)
