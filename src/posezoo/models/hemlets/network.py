"""HEMlets: part-centric heatmap triplets on the way to a volume.

Zhou, Han, Jiang, Jia, Lu: HEMlets Pose: Learning Part-Centric Heatmap Triplets for Accurate 3D Human Pose Estimation,
ICCV 2019. The layers are those of the authors' released inference code (section 3 of README.md beside this file).
"""

from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from posezoo.heatmaps import Grid, is_exported
from posezoo.models.backbones import Backbone
from posezoo.models.heads import DeconvTower, VolumeOutput, as_volumes, check_head_sizes, init_head, locate


class Branch(nn.Module):
    """Deconvolution tower and a 3x3 convolution, with nothing behind it: its output is linear."""

    def __init__(self, in_channels: int, width: int, deconvs: int, out_channels: int) -> None:
        super().__init__()
        self.tower = DeconvTower(in_channels, width, deconvs)
        self.conv = nn.Conv2d(width, out_channels, kernel_size=3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Features to maps of 2^deconvs times their resolution."""
        return self.conv(self.tower(features))  # type: ignore[no-any-return]


def merges(first: nn.Conv2d, second: nn.Conv2d, features: Tensor) -> bool:
    """Whether `convolve_merged` is allowed here, and less work than one convolution after the other.

    That depends on the size of the maps only, so a sample's result does not depend on its batch.
    """
    if is_exported():
        return False  # a graph keeps its layers: other tools fold and quantise them
    # A hook or a parametrisation on one of them would be passed over.
    hooked = any(conv._forward_hooks or conv._forward_pre_hooks for conv in (first, second))
    if hooked or type(first) is not nn.Conv2d or type(second) is not nn.Conv2d:
        return False
    return features.shape[-2:].numel() > first.weight[0].numel()


def convolve_merged(
    first: nn.Conv2d,
    second: nn.Conv2d,
    features: Float[Tensor, "batch channels rows columns"],
    others: Float[Tensor, "batch others rows columns"],
) -> Float[Tensor, "batch out rows columns"]:
    """`second(cat([first(features), others]))`, where `second` is 1x1, without what lies between the two.

    The convolutions are linear and nothing separates them, so the product of their weights is the weight of one: at the
    released sizes 12 to 14 % of the network's multiplications less, and neither the features nor their concatenation
    are stored.
    """
    assert first.bias is not None
    assert second.bias is not None
    mix, rest = second.weight.flatten(1).split([first.out_channels, others.shape[1]], 1)
    lying = first.weight.permute(0, 2, 3, 1)  # the memory order of a channels-last network's weights
    weight = (mix @ lying.flatten(1)).view(-1, *lying.shape[1:]).permute(0, 3, 1, 2)
    bias = second.bias + mix @ first.bias
    mixed = functional.conv2d(features, weight, bias, first.stride, first.padding, first.dilation)
    return mixed.add_(functional.conv2d(others, rest[:, :, None, None]))


class HEMletsNetwork(nn.Module):
    """Backbone, two branches, encoder of the maps, and the volume.

    With ResNet-50 and the default sizes it is the released network: 49,614,844 parameters at 18 joints and 60 maps.

    Args:
        backbone: Feature extractor.
        num_joints: J.
        num_maps: Channels under intermediate supervision: J + 3 K.
        width: Channels of the deconvolutions and of the encoder.
        feature_width: Channels of the feature branch, and of the hidden layer of the volume head.
        deconvs: Layers of each tower; each doubles the backbone's resolution.
        depth_bins: Cells of the volume along depth.
        grid: Grid of the soft-argmax.
        detach_encoder: Keep the volume's gradient out of the maps (an ablation; the release does not).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_joints: int = 18,
        num_maps: int = 60,
        width: int = 256,
        feature_width: int = 1024,
        deconvs: int = 3,
        depth_bins: int = 64,
        grid: Grid = "cells",
        detach_encoder: bool = False,
    ) -> None:
        super().__init__()
        check_head_sizes(width=width, feature_width=feature_width, deconvs=deconvs, depth_bins=depth_bins)
        self.backbone, self.num_joints, self.grid = backbone, num_joints, grid
        self.detach_encoder = detach_encoder
        self.feature_branch = Branch(backbone.channels, width, deconvs, feature_width)
        self.map_branch = Branch(backbone.channels, width, deconvs, num_maps)
        self.encoder = nn.Sequential(
            nn.Conv2d(num_maps, width, kernel_size=3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.tail = nn.Sequential(
            nn.Conv2d(feature_width + width, feature_width, kernel_size=1),
            nn.BatchNorm2d(feature_width),
            nn.ReLU(inplace=True),
            nn.Conv2d(feature_width, num_joints * depth_bins, kernel_size=1),
        )
        for part in (self.feature_branch, self.map_branch, self.encoder, self.tail):
            init_head(part)

    def forward(self, image: UInt8[Tensor, "batch 3 side side"]) -> VolumeOutput:
        """Coordinates and maps of uint8 RGB crops (or float crops in 0..1)."""
        maps, hidden = self._maps_and_hidden(image)
        last = cast(nn.Conv2d, self.tail[-1])
        coords, scores = locate(last, hidden, self.num_joints, self.grid, scored=not self.training)
        return VolumeOutput(coords, scores, maps)

    def maps_and_volume(
        self, image: UInt8[Tensor, "batch 3 side side"]
    ) -> tuple[Float[Tensor, "batch maps rows columns"], Float[Tensor, "batch joints depth rows columns"]]:
        """Linear heatmaps (J joints, then each part's triplet) and the logits of the volumes."""
        maps, hidden = self._maps_and_hidden(image)
        return maps, as_volumes(self.tail[-1](hidden), self.num_joints)

    def _maps_and_hidden(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps, and what the last convolution makes the volumes of."""
        features = self.backbone(image)
        maps = self.map_branch(features)
        code = self.encoder(maps.detach() if self.detach_encoder else maps)
        feature, mix = self.feature_branch.conv, cast(nn.Conv2d, self.tail[0])
        raised = self.feature_branch.tower(features)
        if merges(feature, mix, raised):
            mixed = convolve_merged(feature, mix, raised, code)
        else:
            mixed = mix(torch.cat([feature(raised), code], 1))
        return maps, self.tail[1:-1](mixed)
