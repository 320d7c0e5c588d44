"""The part-aware network: one encoder, one decoder for each group of joints, one volume for each joint.

Image -> encoder -> c4, c5 -> for each group: cell, cell, cell, 1x1 convolution -> volumes of its joints -> soft-argmax
-> the skeleton's joint order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from posezoo.errors import PoseZooError
from posezoo.heatmaps import Grid
from posezoo.models.backbones import Backbone
from posezoo.models.heads import VolumeOutput, VolumetricHead, check_head_sizes
from posezoo.models.partaware.cells import FixedCell
from posezoo.models.partaware.genotype import Genotype
from posezoo.models.partaware.groups import Groups, Scatter
from posezoo.skeletons import Skeleton

CellInputs = Literal["previous", "lateral"]
BuildCell = Callable[[str, int, tuple[int, int], int], nn.Module]  # group, number, input channels, width -> a cell


class Encoder(nn.Module):
    """A backbone that also hands out its features at lower strides.

    Args:
        backbone: The feature extractor.

    Attributes:
        channels: Channels of each feature, from high to low resolution; the last is the backbone's own output.
        strides: px per cell of each.

    Raises:
        PoseZooError: timm offers no intermediate features of it.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        body: Any = backbone.body
        if not hasattr(body, "forward_intermediates") or len(body.feature_info) < 3:
            raise PoseZooError(
                f"{backbone.name} offers no features at several resolutions: choose another --model.backbone, "
                "mobilenetv2_100 or a ResNet for instance."
            )
        stages = list(body.feature_info)[:-1]
        self.indices = list(range(len(stages)))
        self.channels = [int(stage["num_chs"]) for stage in stages] + [backbone.channels]
        self.strides = [min(int(stage["reduction"]), backbone.stride) for stage in stages] + [backbone.stride]

    def forward(self, image: UInt8[Tensor, "batch 3 side side"]) -> list[Tensor]:
        """Features from high to low resolution."""
        body: Any = self.backbone.body
        last, features = body.forward_intermediates(self.backbone.normalise(image), indices=self.indices)
        return [*features, last]

    def at_stride(self, stride: int) -> int:
        """Number of the deepest feature, the last one aside, that is no coarser than `stride` px."""
        fine = [number for number in self.indices if self.strides[number] <= stride]
        return fine[-1] if fine else 0


class PartDecoder(nn.Module):
    """The cells of one group from low to high resolution; `head`, a 1x1 convolution, makes its joints' volumes.

    Args:
        encoder: Whose features come in.
        strides: px per heatmap cell at each of the cells.
        widths: Channels of each of the cells.
        build: Makes cell k from its input channels and width.
        num_joints: Joints of the group.
        depth_bins: Cells of a volume along depth.
        inputs: First input of a cell: the output before last ("previous"), or the encoder's feature at its resolution
            ("lateral"). The second is always the last output.
    """

    def __init__(
        self,
        encoder: Encoder,
        strides: Sequence[int],
        widths: Sequence[int],
        build: Callable[[int, tuple[int, int], int], nn.Module],
        num_joints: int,
        depth_bins: int,
        inputs: CellInputs,
    ) -> None:
        super().__init__()
        self.cells = nn.ModuleList()
        last = len(encoder.channels) - 1
        self.laterals = [encoder.at_stride(stride) if inputs == "lateral" else None for stride in strides]
        before, current = encoder.channels[last - 1], encoder.channels[last]
        for number, (width, lateral) in enumerate(zip(widths, self.laterals, strict=True)):
            first = before if lateral is None else encoder.channels[lateral]
            cell = build(number, (first, current), width)
            self.cells.append(cell)
            before, current = current, cast(int, cell.out_channels)
        self.head = VolumetricHead(current, num_joints, depth_bins)

    def forward(
        self, features: list[Tensor], sizes: Sequence[tuple[int, int]], weights: Sequence[tuple[Tensor, ...]] = ()
    ) -> Float[Tensor, "batch channels rows columns"]:
        """What `head` makes the volumes of.

        Args:
            features: Of the encoder.
            sizes: (rows, columns) of each cell's output.
            weights: What each cell wants besides (architecture weights in a search).
        """
        before, current = features[-2], features[-1]
        for number, (cell, lateral, size) in enumerate(zip(self.cells, self.laterals, sizes, strict=True)):
            first = before if lateral is None else features[lateral]
            extra = weights[number] if weights else ()
            before, current = current, cell(first, current, size, *extra)
        return current


class PartAwareNetwork(nn.Module):
    """Encoder, decoders and soft-argmax; joints come out in the skeleton's order, found by name.

    Args:
        encoder: Shared by all groups.
        groups: Joints of each group.
        skeleton: Gives the order of the output.
        widths: Channels of each cell of a decoder, from low to high resolution.
        build: Makes a cell.
        output_stride: px per cell of the volumes.
        depth_bins: Cells of a volume along depth.
        grid: Grid of the soft-argmax.
        inputs: See `PartDecoder`.

    Attributes:
        plain: Use the plain soft-argmax, which can be differentiated twice.

    Raises:
        PoseZooError: No cells, or widths and strides that are no positive whole numbers.
    """

    inverse: Tensor

    def __init__(
        self,
        encoder: Encoder,
        groups: Groups,
        skeleton: Skeleton,
        widths: Sequence[int],
        build: BuildCell,
        output_stride: int = 4,
        depth_bins: int = 64,
        grid: Grid = "cells",
        inputs: CellInputs = "previous",
    ) -> None:
        super().__init__()
        check_head_sizes(widths=min(widths, default=0), depth_bins=depth_bins, output_stride=output_stride)
        if inputs not in ("previous", "lateral"):
            raise PoseZooError(f"--model.inputs must be 'previous' or 'lateral', got '{inputs}'.")
        self.encoder, self.groups, self.grid, self.plain = encoder, groups, grid, False
        self.strides = [output_stride * 2 ** (len(widths) - 1 - k) for k in range(len(widths))]
        self.decoders = nn.ModuleDict(
            {
                name: PartDecoder(
                    encoder, self.strides, widths, _for_group(build, name), len(joints), depth_bins, inputs
                )
                for name, joints in groups.items()
            }
        )
        places = Scatter(groups, skeleton).inverse
        # On the CPU also while the rest is made on the meta device to be counted.
        self.register_buffer("inverse", torch.tensor(places, device="cpu"), persistent=False)

    def forward(self, image: UInt8[Tensor, "batch 3 side side"]) -> VolumeOutput:
        """Coordinates of uint8 RGB crops (or float crops in 0..1)."""
        found = [head.locate(hidden, self.grid, not self.training, self.plain) for head, hidden in self._decoded(image)]
        coords, scores = (torch.cat(parts, 1).index_select(1, self.inverse) for parts in zip(*found, strict=True))
        return VolumeOutput(coords, scores)

    def volumes(self, image: Tensor) -> list[Float[Tensor, "batch joints depth rows columns"]]:
        """Logits of each group's volumes, in the order of the groups."""
        return [head(hidden) for head, hidden in self._decoded(image)]

    def _decoded(self, image: Tensor) -> Iterator[tuple[VolumetricHead, Tensor]]:
        """Each group's head and what it makes the volumes of; one group after the other, to hold one at a time."""
        features, sizes = self.encoder(image), self.sizes(image)
        for name, decoder in self.decoders.items():
            yield cast(VolumetricHead, decoder.head), decoder(features, sizes, self.cell_weights(name))

    def sizes(self, image: Tensor) -> list[tuple[int, int]]:
        """(rows, columns) of the output of each cell."""
        rows, columns = image.shape[-2:]
        return [(rows // stride, columns // stride) for stride in self.strides]

    def cell_weights(self, group: str) -> list[tuple[Tensor, ...]]:
        """Nothing: a derived cell has no architecture weights."""
        return []


def _for_group(build: BuildCell, name: str) -> Callable[[int, tuple[int, int], int], nn.Module]:
    return lambda number, channels, width: build(name, number, channels, width)


def fixed_cells(genotype: Genotype, cells: int) -> BuildCell:
    """Builds the cells of a genotype, for decoders of `cells` cells."""

    def build(group: str, number: int, channels: tuple[int, int], width: int) -> nn.Module:
        return FixedCell(channels, width, genotype.decoder(group, cells)[number])

    return build


def check_image_size(image_size: int, output_stride: int, cells: int) -> None:
    """Refuse crops that do not divide into the cells' maps.

    Raises:
        PoseZooError: `image_size` is no multiple of the coarsest stride.
    """
    coarsest = output_stride * 2 ** (cells - 1)
    if image_size % coarsest:
        raise PoseZooError(
            f"--model.image_size must be a multiple of {coarsest} px (output_stride {output_stride}, {cells} cells), "
            f"got {image_size}."
        )
