"""A method of one's own in one file: direct regression with a Laplace scale for every joint."""

from dataclasses import dataclass

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from posezoo.lifting import back_project
from posezoo.models.backbones import Backbone
from posezoo.models.base import NOT_SAVED, PoseEstimator
from posezoo.structures import Batch, Prediction

METRE = 1000.0  # mm
SCORE_SCALE = 0.15  # metres: a joint with this Laplace scale has the score 1 / e


@dataclass
class Answers:
    """What the network says about a batch."""

    pose: Tensor  # [B, J, 3] metres, relative to the root
    root: Tensor  # [B, 3]: x and y as shares of the crop from its centre, logarithm of the distance's correction
    log_scale: Tensor  # [B, J] logarithm of the Laplace scale, metres


class LaplaceNetwork(nn.Module):
    """Backbone, average over the crop, one linear layer. No Lightning in here."""

    def __init__(self, backbone: Backbone, joints: int) -> None:
        super().__init__()
        self.backbone, self.joints = backbone, joints
        self.head = nn.Linear(backbone.channels, 4 * joints + 3)

    def forward(self, image: Tensor) -> Answers:
        """Answers for uint8 RGB crops [B, 3, S, S]."""
        features = self.backbone(image).mean((2, 3))
        with torch.autocast(features.device.type, enabled=False):  # millimetres need float32
            answer = self.head(features.float())
        pose, log_scale, root = answer.split([3 * self.joints, self.joints, 3], dim=1)
        return Answers(pose.unflatten(1, (self.joints, 3)), root, log_scale.clamp(-5, 2))


class LaplacePose(PoseEstimator):
    """Every joint from averaged features, with an uncertainty.

    Args:
        backbone: timm model name, or one of posezoo's own (`resnet10_w32`, ...).
        skeleton: Skeleton that is predicted.
        image_size: Side of the crop, px.
        stride: px per cell of the features.
        person_mm: Height that a crop is assumed to show before anything is learned, mm.
        backbone_weights: None, "imagenet" or a file.
        optimizer: Factory; None for AdamW.
        lr_scheduler: Factory; None for a constant rate.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        skeleton: str = "h36m17",
        image_size: int = 256,
        stride: int = 32,
        person_mm: float = 2000.0,
        backbone_weights: str | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(skeleton, image_size, crop="look_at", optimizer=optimizer, lr_scheduler=lr_scheduler)
        self.save_hyperparameters(ignore=list(NOT_SAVED))  # so that a checkpoint alone is enough
        self.person_mm = person_mm
        body = Backbone(backbone, stride, centered_stride=False, weights=backbone_weights)
        self.network = LaplaceNetwork(body, len(self.skeleton))

    def estimate(self, batch: Batch) -> Prediction:
        """From a batch to millimetres in the frame of the crop's camera."""
        answers = self.network(batch["image"])
        k, side = batch["intrinsics"], self.image_size
        relative = answers.pose - answers.pose[:, self.root, None]
        first_guess = k[:, 1, 1] * self.person_mm / side  # how far away somebody is who fills the crop
        distance = first_guess * answers.root[:, 2].clamp(-3, 3).exp()
        pixel = (answers.root[:, None, :2] + 0.5) * side
        root = back_project(pixel, distance[:, None], k)  # [B, 1, 3] mm
        joints3d = relative * METRE + root
        depth = joints3d[..., 2:].clamp(min=100.0)
        joints2d = (joints3d[..., :2] / depth) @ k[:, :2, :2].mT + k[:, None, :2, 2]
        return Prediction(
            joints3d=joints3d,
            joints3d_rel=relative * METRE,
            joints2d=joints2d,
            scores=(-answers.log_scale.exp() / SCORE_SCALE).exp(),
            root_depth_source="learned correction of the box's size",
            aux={"log_scale": answers.log_scale},
        )

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Negative log-likelihood of the pose, L1 of root and pixels; 0, but connected, where labels are missing."""
        valid = batch["valid3d"] & batch["valid3d"][:, self.root, None]
        truth = batch["joints3d"] - batch["joints3d"][:, self.root, None]
        error = (prediction.joints3d_rel - truth).abs().sum(-1) / METRE
        log_scale = prediction.aux["log_scale"]
        likelihood = error / log_scale.exp() + 3 * log_scale  # of a Laplace distribution on each of three axes
        root = (prediction.joints3d - batch["joints3d"])[:, self.root].abs().sum(-1) / METRE
        pixels = (prediction.joints2d - batch["joints2d"]).abs().sum(-1) / self.image_size
        return {
            "pose": masked_mean(likelihood, valid),
            "root": masked_mean(root, valid[:, self.root] & batch["has_camera"]),
            "pixels": masked_mean(pixels, batch["valid2d"]),
        }

    def loss_weights(self) -> dict[str, float]:
        """A metre of distance is worth less than a metre of pose; the others count 1."""
        return {"root": 0.1}


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask; 0, still connected to the graph, where it is empty."""
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)
