"""What volumetric 2.5D methods share: deconvolution tower, volumetric head, and the meaning of their coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.heatmaps import Grid, heatmap_confidence, soft_argmax
from posezoo.models.deconvolution import Doubling
from posezoo.models.fused_head import can_fuse, locate_fused

INIT_STD = 0.001  # every convolution of a head; Integral Pose, 3DMPPE and the HEMlets release agree on it


@dataclass(frozen=True)
class Convention:
    """How crop pixels, heatmap cells and normalised coordinates (-0.5..0.5) correspond.

    Attributes:
        name: As on the command line.
        grid: Grid of the soft-argmax.
        pixel_shift: x_n = (u + pixel_shift) / S - 0.5 for pixel u of a crop of side S.
    """

    name: str
    grid: Grid
    pixel_shift: float

    def from_pixels(self, pixels: Float[Tensor, "*batch 2"], side: int) -> Float[Tensor, "*batch 2"]:
        """Crop px to normalised coordinates."""
        return (pixels + self.pixel_shift) / side - 0.5

    def to_pixels(self, coords: Float[Tensor, "*batch 2"], side: int) -> Float[Tensor, "*batch 2"]:
        """Normalised coordinates to crop px."""
        return (coords + 0.5) * side - self.pixel_shift

    def to_cells(self, coords: Float[Tensor, "*batch"], cells: int) -> Float[Tensor, "*batch"]:
        """Normalised coordinates to heatmap cells; an integer is a cell's centre."""
        return (coords + 0.5) * (cells - 1) if self.grid == "corners" else (coords + 0.5) * cells - 0.5

    def mirrored(self, coords: Float[Tensor, "*batch 3"], side: int) -> Float[Tensor, "*batch 3"]:
        """Coordinates in the mirrored crop (u -> S - 1 - u): in the clean convention x_n -> -x_n."""
        x = -coords[..., :1] + (2 * self.pixel_shift - 1) / side
        return torch.cat([x, coords[..., 1:]], -1)


# `clean` is consistent with itself under mirroring; `official` is the HEMlets release: pixels over S, cells over n - 1.
CONVENTIONS = {c.name: c for c in (Convention("clean", "cells", 0.5), Convention("official", "corners", 0.0))}


def get_convention(name: str) -> Convention:
    """A coordinate convention by name.

    Raises:
        PoseZooError: Neither `clean` nor `official`.
    """
    if name not in CONVENTIONS:
        raise PoseZooError(f"Unknown --model.convention '{name}': {did_you_mean(name, CONVENTIONS)}")
    return CONVENTIONS[name]


@dataclass
class VolumeOutput:
    """What a volumetric network says about a batch.

    Attributes:
        coords: [B, J, 3] x, y, z, each in -0.5..0.5 of the volume.
        scores: [B, J] in 0..1: mass of the volume at its mode. Zeros in training, where nobody reads them.
        maps: [B, C, h, w] heatmaps under intermediate supervision (HEMlets).
    """

    coords: Float[Tensor, "batch joints 3"]
    scores: Float[Tensor, "batch joints"]
    maps: Float[Tensor, "batch channels rows columns"] | None = None


class DeconvTower(nn.Sequential):
    """`layers` times [transposed 4x4 convolution of stride 2, BatchNorm, ReLU]: each doubles the resolution.

    Args:
        in_channels: Channels of the backbone's features.
        width: Channels of every layer.
        layers: Number of doublings.
    """

    def __init__(self, in_channels: int, width: int = 256, layers: int = 3) -> None:
        blocks: list[nn.Module] = []
        for layer in range(layers):
            channels = in_channels if layer == 0 else width
            blocks += [
                Doubling(channels, width),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*blocks)
        init_head(self)


class VolumetricHead(nn.Module):
    """1x1 convolution to one volume per joint; channel = joint * depth_bins + depth.

    Args:
        in_channels: C of the features.
        num_joints: J.
        depth_bins: D.
    """

    def __init__(self, in_channels: int, num_joints: int, depth_bins: int = 64) -> None:
        super().__init__()
        self.num_joints, self.depth_bins = num_joints, depth_bins
        self.conv = nn.Conv2d(in_channels, num_joints * depth_bins, kernel_size=1)
        init_head(self)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch joints depth rows columns"]:
        """Logits of the volumes."""
        return as_volumes(self.conv(features), self.num_joints)

    def channel_names(self, joints: Sequence[str]) -> list[str]:
        """What the channels stand for; `joints` are the names of this head's."""
        return volume_names(joints, self.depth_bins)

    def locate(
        self, features: Float[Tensor, "batch channels rows columns"], grid: Grid, scored: bool, plain: bool = False
    ) -> tuple[Float[Tensor, "batch joints 3"], Float[Tensor, "batch joints"]]:
        """`decode_volume` of the volumes; see `locate`."""
        return locate(self.conv, features, self.num_joints, grid, scored, plain)


def volume_names(joints: Sequence[str], bins: int) -> list[str]:
    """Names of the channels that `as_volumes` reads: (joint, depth) with depth fast."""
    return [f"{joint} depth {d} of {bins}" for joint in joints for d in range(bins)]


def as_volumes(
    logits: Float[Tensor, "batch channels rows columns"], num_joints: int
) -> Float[Tensor, "batch joints depth rows columns"]:
    """Channels as (joint, depth) with depth fast: a view, also of channels-last tensors."""
    volumes: Tensor = logits.unflatten(1, (num_joints, logits.shape[1] // num_joints))
    return volumes


def locate(
    conv: nn.Conv2d,
    features: Float[Tensor, "batch channels rows columns"],
    num_joints: int,
    grid: Grid,
    scored: bool,
    plain: bool = False,
) -> tuple[Float[Tensor, "batch joints 3"], Float[Tensor, "batch joints"]]:
    """`decode_volume` of the volumes that a 1x1 convolution makes; a CPU never stores large ones, unless `plain`."""
    if not plain and can_fuse(conv, features, num_joints):
        coords, scores = locate_fused(conv, features, num_joints, grid, scored)
        return coords - 0.5, scores.float()
    return decode_volume(as_volumes(conv(features), num_joints), grid, scored, plain)


def decode_volume(
    volume: Float[Tensor, "batch joints depth rows columns"], grid: Grid, scored: bool, plain: bool = False
) -> tuple[Float[Tensor, "batch joints 3"], Float[Tensor, "batch joints"]]:
    """Soft-argmax in float32 (x, y, z in -0.5..0.5), and the confidence where `scored`, else zeros.

    `plain` asks for the formulation that can be differentiated twice.
    """
    coords = soft_argmax(volume, 3, grid, fused=False if plain else None) - 0.5
    scores = heatmap_confidence(volume.detach(), 3) if scored else coords.detach().new_zeros(coords.shape[:2])
    return coords, scores.float()


def init_head(module: nn.Module) -> None:
    """Convolution weights ~ N(0, 0.001); biases keep PyTorch's default, BatchNorm starts as identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=INIT_STD)


def check_head_sizes(**sizes: int) -> None:
    """Refuse widths and counts below one.

    Raises:
        PoseZooError: The first size that is not positive.
    """
    for name, size in sizes.items():
        if size < 1:
            raise PoseZooError(f"--model.{name} must be at least 1, got {size}.")
