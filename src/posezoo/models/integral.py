"""Integral pose regression: the volumetric 2.5D baseline that every comparison needs.

Sun, Xiao, Wei, Liang, Wei: Integral Human Pose Regression, ECCV 2018; in the form that HEMlets, 3DMPPE and the
part-aware method start from: ResNet, three deconvolutions, one 64^3 volume per joint, soft-argmax, L1.

From the authors' code, as our notes on it have it: the layers and their initialisation, L1 summed over joints and
divided by the batch, depth over 2000 mm times the box's scale, Adam and its steps, flip test. Ours: cells at
(i + 0.5) / n (theirs at i / n), axes that the volume cannot reach do not count, root depth from bone lengths, scores.
"""

from typing import Literal

from jaxtyping import UInt8
from torch import Tensor, nn

from posezoo.data.crop import BoxKind, CropKind
from posezoo.heatmaps import Grid
from posezoo.models.backbones import Backbone
from posezoo.models.base import NOT_SAVED
from posezoo.models.heads import DeconvTower, VolumeOutput, VolumetricHead, check_head_sizes
from posezoo.models.lightning import LRSchedulerCallable, OptimizerCallable
from posezoo.models.volumetric import VolumetricPose, integral_loss
from posezoo.structures import Batch, Prediction


class IntegralNetwork(nn.Module):
    """Backbone, deconvolution tower, one volume per joint.

    Args:
        backbone: Feature extractor.
        num_joints: J.
        width: Channels of the tower.
        deconvs: Layers of the tower; each doubles the backbone's resolution.
        depth_bins: Cells of the volume along depth.
        grid: Grid of the soft-argmax.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_joints: int,
        width: int = 256,
        deconvs: int = 3,
        depth_bins: int = 64,
        grid: Grid = "cells",
    ) -> None:
        super().__init__()
        check_head_sizes(width=width, deconvs=deconvs, depth_bins=depth_bins)
        self.backbone, self.grid = backbone, grid
        self.tower = DeconvTower(backbone.channels, width, deconvs)
        self.head = VolumetricHead(width, num_joints, depth_bins)

    def forward(self, image: UInt8[Tensor, "batch 3 side side"]) -> VolumeOutput:
        """Coordinates of uint8 RGB crops (or float crops in 0..1)."""
        features = self.tower(self.backbone(image))
        return VolumeOutput(*self.head.locate(features, self.grid, scored=not self.training))


class IntegralPose(VolumetricPose):
    """Integral pose regression (Sun et al., ECCV 2018) in 2.5D; absolute joints through `root_depth`.

    Args:
        backbone: timm model name, or one of posezoo's own (`resnet10_w32`, ...).
        skeleton: Skeleton that is predicted.
        image_size: Side of the crop, px.
        stride: px per cell of the backbone's features.
        centered_stride: Centre those cells in the crop; the published networks do not.
        width: Channels of the deconvolutions.
        deconvs: Number of deconvolutions.
        depth_bins: Cells of the volume along depth.
        depth_mm: Depth that the volume spans, centred on the root, mm.
        depth_follows_zoom: Span less depth where augmentation magnifies the person (as the Integral code does).
        convention: "clean" (cells at (i + 0.5) / n), or "official" (cells at i / (n - 1), the HEMlets release).
        root_depth: Distance of the root: "bone_length", "truth" (fit, validate and test only), "rootnet", or mm.
        rootnet: Trained RootNet for `root_depth: rootnet`.
        flip_test: Average the coordinates of the crop and of its mirror image outside training.
        learning_rate: Of Adam in the published schedule.
        bn_momentum: BatchNorm momentum of the backbone; None keeps its own.
        backbone_weights: None, "imagenet" or a file.
        crop: Kind of the crop camera.
        box: What is cropped; the published Human3.6M numbers use "pelvis_2000mm", which tells the true root depth.
        optimizer: Factory; None for Adam.
        lr_scheduler: Factory; None for steps of 0.1 at 90 % and 96.7 % of the run.
    """

    network: IntegralNetwork

    def __init__(
        self,
        backbone: str = "resnet50",
        skeleton: str = "hemlets18",
        image_size: int = 256,
        stride: int = 32,
        centered_stride: bool = False,
        width: int = 256,
        deconvs: int = 3,
        depth_bins: int = 64,
        depth_mm: float = 2000.0,
        depth_follows_zoom: bool = True,
        convention: Literal["clean", "official"] = "clean",
        root_depth: float | str = "bone_length",
        rootnet: str | None = None,
        flip_test: bool = True,
        learning_rate: float = 1e-3,
        bn_momentum: float | None = None,
        backbone_weights: str | None = None,
        crop: CropKind = "image_plane",
        box: BoxKind = "annotation",
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(
            skeleton,
            image_size,
            convention,
            depth_mm,
            depth_follows_zoom,
            root_depth,
            rootnet,
            flip_test,
            learning_rate,
            crop,
            box,
            optimizer,
            lr_scheduler,
        )
        self.save_hyperparameters(ignore=list(NOT_SAVED))
        body = Backbone(backbone, stride, None, centered_stride, backbone_weights, bn_momentum)
        self.network = IntegralNetwork(body, len(self.skeleton), width, deconvs, depth_bins, self.convention.grid)

    def channel_names(self) -> dict[str, tuple[int, list[str]]]:
        """Bones and volumes."""
        volumes = self.network.head.channel_names(self.skeleton.joints)
        return super().channel_names() | {f"network.head.conv.{kind}": (0, volumes) for kind in ("weight", "bias")}

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """L1 of x, y (and z where 3D is labelled)."""
        return {"volume": integral_loss(prediction.aux["coords"], *self.volume_targets(batch))}
