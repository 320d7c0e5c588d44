"""MeTRAbs: metric-scale volumetric heatmaps and 2D heatmaps from one 1x1 convolution.

Sarandi, Linder, Arras, Leibe: MeTRAbs: Metric-Scale Truncation-Robust Heatmaps for Absolute 3D Human Pose Estimation,
T-BIOM 2020. Section numbers below are those of the method's model card (README.md beside this file).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from posezoo.heatmaps import heatmap_confidence, soft_argmax
from posezoo.models.backbones import Backbone


@dataclass
class Heads:
    """The decoded heads of a batch.

    Attributes:
        coords2d: [B, J, 2] crop px.
        coords3d: [B, J, 3] mm; crop-camera axes, origin at a corner of the metric box, so without meaning.
        scores: [B, J] in 0..1: geometric mean of how much of each heatmap's mass lies at its mode.
    """

    coords2d: Float[Tensor, "batch joints 2"]
    coords3d: Float[Tensor, "batch joints 3"]
    scores: Float[Tensor, "batch joints"]


class MeTRAbsNetwork(nn.Module):
    """Backbone, one 1x1 convolution with J + depth_bins * J channels, and their decoding.

    Args:
        backbone: The feature extractor; its cell grid decides which pixel a heatmap cell stands for.
        num_joints: J.
        image_size: Side S of the crop, px.
        depth_bins: Cells of the metric volume along depth.
        box_mm: Side of the metric volume, mm; the crop's S px span it along x and y.
        cell_shift: px added to what every cell stands for. 16 for released weights that were trained without centred
            striding but decoded as if with it (section 3); 0 otherwise.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_joints: int,
        image_size: int = 256,
        depth_bins: int = 8,
        box_mm: float = 2200.0,
        cell_shift: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_joints, self.image_size = num_joints, image_size
        self.depth_bins, self.box_mm, self.cell_shift = depth_bins, box_mm, cell_shift
        self.head = nn.Conv2d(backbone.channels, num_joints * (1 + depth_bins), kernel_size=1)

    def forward(self, image: UInt8[Tensor, "batch 3 side side"]) -> Heads:
        """Heads of uint8 RGB crops (or float crops in 0..1)."""
        return self.decode(self.head(self.backbone(image)))

    def decode(self, logits: Float[Tensor, "batch channels rows columns"]) -> Heads:
        """Soft-argmax of both heads in float32 or better (section 2).

        The first J channels are 2D heatmaps; the rest is (depth, joint) with depth slow. Cells stand for pixels
        `stride * k + offset`; in depth, the first bin stands for 0 and the last for `box_mm`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            flat, volume = logits.split([self.num_joints, self.num_joints * self.depth_bins], 1)
            volume = volume.unflatten(1, (self.depth_bins, self.num_joints)).transpose(1, 2)
            coords2d = self._to_pixels(soft_argmax(flat, 2), logits)
            unit3d = soft_argmax(volume, 3)
            xy = self._to_pixels(unit3d[..., :2], logits) * (self.box_mm / self.image_size)
            coords3d = torch.cat([xy, unit3d[..., 2:] * self.box_mm], -1)
            # Both heads must be sure of a joint: neither is right about the pose alone.
            sure = heatmap_confidence(flat.detach(), 2) * heatmap_confidence(volume.detach(), 3)
            return Heads(coords2d, coords3d, sure.sqrt())

    def _to_pixels(self, unit: Tensor, logits: Tensor) -> Tensor:
        """Positions 0..1 between the first and the last cell, to px."""
        stride, offset = self.backbone.cell_grid()
        offset = offset + self.cell_shift
        last_row, last_column = logits.shape[-2] - 1, logits.shape[-1] - 1
        x, y = unit.unbind(-1)
        return torch.stack([x * (last_column * stride) + offset, y * (last_row * stride) + offset], -1)
