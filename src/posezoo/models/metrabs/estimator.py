"""The MeTRAbs estimator: network, absolute reconstruction, losses and schedule."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from posezoo.data.crop import BoxKind, CropKind
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.lifting import Perspective, inside_window, reconstruct_absolute
from posezoo.models.backbones import Backbone, batch_norms
from posezoo.models.base import NOT_SAVED, PoseEstimator
from posezoo.models.lightning import LRSchedulerCallable, OptimizerCallable
from posezoo.models.metrabs.losses import PROFILES, LossContext, split_by_label
from posezoo.models.metrabs.network import Heads, MeTRAbsNetwork
from posezoo.structures import Batch, Prediction

BASE_LR = {"paper": 1e-4, "modern": 2.121e-4}
_DECAY = 3e-3


class MeTRAbs(PoseEstimator):
    """Metric-scale truncation-robust heatmaps with absolute reconstruction (Sarandi et al., T-BIOM 2020).

    Predicts camera-frame joints in mm. The crop's intrinsics come with the batch.

    Args:
        backbone: timm model name, or one of posezoo's own (`resnet10_w32`, ...). The default is nearest to the paper's
            pre-activation ResNet-50.
        skeleton: Skeleton that is predicted.
        image_size: Side of the crop, px.
        stride: px per heatmap cell in training: 32, or 8 or 16 for small crops.
        stride_test: The same in evaluation (the paper's Human3.6M numbers use 4); None: as in training.
        centered_stride: Centre the cells in the crop.
        depth_bins: Cells of the metric volume along depth.
        box_mm: Side of the metric volume, mm.
        profile: "paper" (released with the paper) or "modern" (the authors' 2023 code): losses, batch handling and
            optimiser.
        perspective: Reconstruction after the first `weak_steps` steps. The paper's release ran "weak".
        weak_steps: Steps with weak perspective at the beginning, while the two heads do not agree yet.
        absolute_start: Step after which the absolute loss counts.
        absolute_weight: Weight of the absolute loss; None for the profile's.
        ridge: Regularisation of the reconstruction; ours is 1e-6, the official code's 1e-2.
        learning_rate: Base learning rate of the published schedule; None for the profile's.
        bn_momentum: BatchNorm momentum; None keeps the backbone's. Our default for long runs is 0.01.
        freeze_bn_steps: Steps at the end of training with BatchNorm in inference mode (the 2023 code: 1000).
        points: Points that the heads predict where these are not the joints; the joints are then combinations of them,
            fixed in the buffer `joint_transform`, as in some released weights. None: one point for each joint.
        cell_shift: px added to what every heatmap cell stands for: 16 for the released 256 px weights, else 0.
        backbone_weights: None, "imagenet" or a file.
        crop: Kind of the crop camera.
        box: What is cropped.
        optimizer: Factory; None for AdamW with the published decay.
        lr_scheduler: Factory; None for the published two-phase schedule.
    """

    network: MeTRAbsNetwork

    def __init__(
        self,
        backbone: str = "resnetv2_50",
        skeleton: str = "h36m17",
        image_size: int = 256,
        stride: int = 32,
        stride_test: int | None = None,
        centered_stride: bool = True,
        depth_bins: int = 8,
        box_mm: float = 2200.0,
        profile: Literal["paper", "modern"] = "modern",
        perspective: Perspective = "full",
        weak_steps: int = 500,
        absolute_start: int = 5000,
        absolute_weight: float | None = None,
        ridge: float = 1e-6,
        learning_rate: float | None = None,
        bn_momentum: float | None = None,
        freeze_bn_steps: int = 0,
        points: int | None = None,
        cell_shift: float = 0.0,
        backbone_weights: str | None = None,
        crop: CropKind = "look_at",
        box: BoxKind = "annotation",
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(skeleton, image_size, crop, box, optimizer, lr_scheduler)
        if profile not in PROFILES:
            raise PoseZooError(f"Unknown profile '{profile}': {did_you_mean(profile, PROFILES)}")
        if perspective not in get_args(Perspective):
            raise PoseZooError(
                f"Unknown perspective '{perspective}': {did_you_mean(perspective, get_args(Perspective))}"
            )
        if points is not None and profile == "paper":
            raise PoseZooError("--model.profile paper scores each joint's own heatmap: leave out --model.points.")
        self.save_hyperparameters(ignore=list(NOT_SAVED))
        body = Backbone(backbone, stride, stride_test, centered_stride, backbone_weights, bn_momentum)
        joints = len(self.skeleton)
        self.points = points
        self.network = MeTRAbsNetwork(body, points or joints, image_size, depth_bins, box_mm, cell_shift)
        if points is not None:
            self.register_buffer("joint_transform", torch.eye(points, joints))
        self.loss_profile = PROFILES[profile](absolute_start, absolute_weight)
        self.perspective, self.weak_steps, self.ridge = perspective, weak_steps, ridge
        self.learning_rate = learning_rate or BASE_LR[profile]
        self.freeze_bn_steps = freeze_bn_steps
        self.stride, self.mm_per_px = stride, box_mm / image_size
        # The border's width always follows the training stride, and it lies around what the cells look at.
        border = self.loss_profile.border_strides * stride
        shift = body.offset - stride / 2
        self.window = (border + shift, image_size - border + shift)
        # Travels with the weights: a trained network keeps its final reconstruction wherever it is loaded.
        self.register_buffer("steps_trained", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # its copy on the CPU: reading the buffer would wait for the GPU
        self.register_load_state_dict_post_hook(_recall_steps)

    steps_trained: Tensor
    joint_transform: Tensor  # [points, joints]; with `points` only

    def estimate(self, batch: Batch) -> Prediction:
        """Heads, then absolute joints in the crop-camera frame, mm."""
        heads = self._heads(batch)
        inside = inside_window(heads.coords2d.detach(), *self.window)
        joints3d = self._reconstruct(heads, batch["intrinsics"], inside)
        joints2d, scores = heads.coords2d, heads.scores
        if self.points is not None:
            joints3d, joints2d, scores = self._combined(joints3d, scores, batch["intrinsics"])
        relative = heads.coords3d if self.loss_profile.relative_from_head else joints3d
        aux = {"coords2d": heads.coords2d, "coords3d": heads.coords3d} if self.training else {}
        return Prediction(
            joints3d=joints3d,
            joints3d_rel=relative - relative[:, self.root, None],
            joints2d=joints2d,
            scores=scores,
            root_depth_source=f"metric reconstruction ({self._perspective()} perspective)",
            aux=aux,
        )

    def _combined(self, points: Tensor, scores: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Joints (mm), their projections (px) and scores, from the points that they are combinations of."""
        with torch.autocast(points.device.type, enabled=False):
            share = self.joint_transform.float()
            joints = (points.mT @ share).mT
            rays = joints / joints[..., 2:].clamp(min=1.0)
            pixels = (rays @ intrinsics.float().mT)[..., :2]
            weight = share.abs() / share.abs().sum(0).clamp(min=1e-6)
            return joints, pixels, scores.float() @ weight

    def _heads(self, batch: Batch) -> Heads:
        """Decoded heads; the paper's profile runs 2D-only samples separately, with batch statistics of their own."""
        _, only_2d = split_by_label(batch)
        separate = self.training and self.loss_profile.separate_forward
        if not separate or not only_2d.any() or only_2d.all():
            return self.network(batch["image"])  # type: ignore[no-any-return]
        first = self.network(batch["image"][~only_2d])
        second = self.network(batch["image"][only_2d])
        return Heads(*(_merge(only_2d, a, b) for a, b in zip(_fields(first), _fields(second), strict=True)))

    def _reconstruct(self, heads: Heads, intrinsics: Tensor, inside: Bool[Tensor, "batch joints"]) -> Tensor:
        mix: float | Tensor = self.loss_profile.mix_test
        if self.training:
            fixed = self.loss_profile.mix_train
            mix = torch.rand(len(intrinsics), device=intrinsics.device) if fixed is None else fixed
        return reconstruct_absolute(
            heads.coords2d, heads.coords3d, intrinsics, inside, mix, self._perspective(), self.ridge
        )

    def _perspective(self) -> Perspective:
        return "weak" if self._steps < self.weak_steps else self.perspective

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """The terms of the chosen profile (see `losses.py`)."""
        context = LossContext(self._steps, self.root, self.image_size, self.mm_per_px, self.stride, self.window)
        return self.loss_profile.terms(prediction, batch, context)

    def loss_weights(self) -> dict[str, float]:
        """The profile's weights."""
        return self.loss_profile.weights

    def channel_names(self) -> dict[str, tuple[int, list[str]]]:
        """The head's channels: J heatmaps, then (depth, joint) with depth slow."""
        if self.points is not None:
            return {}  # points are no joints
        joints, bins = self.skeleton.joints, self.network.depth_bins
        names = [f"{joint} heatmap" for joint in joints]
        names += [f"{joint} depth {d} of {bins}" for d in range(bins) for joint in joints]
        return {f"network.head.{kind}": (0, names) for kind in ("weight", "bias")}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Count steps, and stop moving BatchNorm statistics near the end where asked."""
        self._steps = self.global_step
        self.steps_trained.fill_(self._steps + 1)  # already here: checkpoints are written before the batch "ends"
        if self.freeze_bn_steps and self._steps >= self.total_steps() - self.freeze_bn_steps:
            for layer in batch_norms(self):
                layer.eval()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Validate with the perspective that the checkpoint will be loaded with."""
        self._steps = self.global_step

    def default_optimizer(self, total_steps: int) -> tuple[Optimizer, LRScheduler]:
        """AdamW with decay 3e-3 / (lr sqrt(T)) and the two-phase schedule (section 8 of the model card).

        The original decays weights by 3e-3 (lr / lr0) / sqrt(T) per step, not multiplied by the learning rate;
        dividing by lr0 gives the same in PyTorch's AdamW, which multiplies.
        """
        decay = _DECAY / (self.learning_rate * math.sqrt(total_steps))
        optimizer = AdamW(self.parameters(), lr=self.learning_rate, eps=1e-8, weight_decay=decay)
        return optimizer, LambdaLR(optimizer, two_phase_decay(total_steps))


def _recall_steps(estimator: MeTRAbs, incompatible: Any) -> None:
    """After loading weights, also as part of a larger module: go on with the perspective that their step calls for."""
    estimator._steps = int(estimator.steps_trained)


def two_phase_decay(total_steps: int) -> Callable[[int], float]:
    """Learning rate factor: 1 to 1/3 exponentially over 92 % of the run, then 1/30 to 1/100."""
    switch = 0.92 * total_steps

    def factor(step: int) -> float:
        if step < switch:
            return float((1 / 3) ** (step / switch))
        return float((1 / 30) * 0.3 ** min(1.0, (step - switch) / (total_steps - switch)))

    return factor


def _fields(heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    return heads.coords2d, heads.coords3d, heads.scores


def _merge(mask: Bool[Tensor, " batch"], where_false: Tensor, where_true: Tensor) -> Tensor:
    """One tensor from two, each sample at its own place in the batch."""
    order = torch.cat([(~mask).nonzero()[:, 0], mask.nonzero()[:, 0]])
    return torch.cat([where_false, where_true])[order.argsort()]
