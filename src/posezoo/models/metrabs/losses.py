"""The two loss profiles of MeTRAbs: `paper` (the code released with the paper) and `modern` (the authors' 2023 code).

All terms are L1 means over valid coordinates of the whole batch, in metres; pixels count box_mm / image_size mm.
Section 6 of the model card (README.md) has the formulas.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from posezoo.cameras import homogeneous
from posezoo.lifting import inside_window
from posezoo.structures import Batch, Prediction

_METRE = 1000.0  # mm


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over masked entries; 0, still connected to the graph, when there are none."""
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def centred(joints: Tensor, valid: Bool[Tensor, "batch joints"], root: int | None) -> Tensor:
    """Joints minus the root joint, or minus the mean of the valid joints when `root` is None; in their units."""
    if root is not None:
        return joints - joints[:, root : root + 1]
    weight = valid[..., None].to(joints.dtype)
    mean = (joints * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    return joints - mean


def aligned_2d(
    predicted: Float[Tensor, "batch joints 2"],
    target: Float[Tensor, "batch joints 2"],
    valid: Bool[Tensor, "batch joints"],
) -> Float[Tensor, "batch joints 2"]:
    """The prediction, shifted and scaled (isotropically) to the masked mean and deviation of the target."""
    weight = valid[..., None].to(predicted.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1)

    def moments(points: Tensor) -> tuple[Tensor, Tensor]:
        mean = (points * weight).sum(1, keepdim=True) / count
        variance = ((points - mean).square() * weight).sum((1, 2), keepdim=True) / count
        return mean, (variance + 1e-10).sqrt()

    mean_p, std_p = moments(predicted)
    mean_t, std_t = moments(target)
    return (predicted - mean_p) / std_p * std_t + mean_t


@dataclass
class LossContext:
    """What a loss needs to know beside prediction and batch.

    Attributes:
        step: Optimiser steps made so far.
        root: Index of the root joint.
        image_size: Side of the crop, px.
        mm_per_px: Size of a crop pixel in the metric volume, mm.
        stride: Training stride, px.
        window: (low, high) px of the part of the crop in which 2D predictions are trusted, on both axes.
    """

    step: int
    root: int
    image_size: int
    mm_per_px: float
    stride: int
    window: tuple[float, float]


class LossProfile(ABC):
    """A set of loss terms with their weights, and how the batch is fed.

    Attributes:
        separate_forward: 2D-only samples get a forward pass (and BatchNorm statistics) of their own.
        border_strides: Width of the untrusted border of the crop, in training strides.
        mix_train: Share of the 3D-based answer inside the window in training; None draws U(0, 1) per sample.
        mix_test: The same in evaluation.
        relative_from_head: Root-relative output comes from the metric head, not from the absolute pose.
        weights: Weight of each term.
    """

    separate_forward: bool
    border_strides: float
    mix_train: float | None
    mix_test: float
    relative_from_head: bool

    def __init__(self, absolute_start: int, absolute_weight: float | None) -> None:
        self.absolute_start = absolute_start
        self.weights = self.default_weights()
        if absolute_weight is not None:
            self.weights["absolute"] = absolute_weight

    @abstractmethod
    def default_weights(self) -> dict[str, float]:
        """Weight of each term as published."""

    @abstractmethod
    def terms(self, prediction: Prediction, batch: Batch, context: LossContext) -> dict[str, Tensor]:
        """Every term, unweighted; a term without labels is 0 and connected to the graph."""

    def started(self, term: Tensor, context: LossContext) -> Tensor:
        """The absolute loss waits until the two heads agree: 0, still connected, before its start."""
        return term if context.step > self.absolute_start else term * 0


def split_by_label(batch: Batch) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """(samples with 3D labels, samples with 2D labels only)."""
    has_3d = batch["valid3d"].any(1)
    return has_3d, ~has_3d & batch["valid2d"].any(1)


class PaperLosses(LossProfile):
    """The release of November 2020: losses on each head, absolute loss at full weight after 5000 steps."""

    separate_forward = True
    border_strides = 1.0
    mix_train = 0.0
    mix_test = 0.0
    relative_from_head = True

    def default_weights(self) -> dict[str, float]:
        """L3 + L23 + Labs + 0.1 (L22 + L32)."""
        return {"relative": 1.0, "heatmap2d": 1.0, "absolute": 1.0, "weak2d": 0.1, "weak3d": 0.1}

    def terms(self, prediction: Prediction, batch: Batch, context: LossContext) -> dict[str, Tensor]:
        """L3, L23, Labs on samples with 3D labels; L22, L32 on samples with 2D labels only."""
        has_3d, has_2d = split_by_label(batch)
        coords2d, coords3d = prediction.aux["coords2d"], prediction.aux["coords3d"]
        rooted = batch["valid3d"] & batch["valid3d"][:, context.root, None]
        px = context.mm_per_px / _METRE

        truth = centred(batch["joints3d"], rooted, context.root)
        relative = (centred(coords3d, rooted, context.root) - truth).abs() / _METRE
        pixels = (coords2d - batch["joints2d"]).abs() * px
        absolute = (prediction.joints3d - batch["joints3d"]).abs() / _METRE
        aligned = aligned_2d(coords3d[..., :2] / context.mm_per_px, batch["joints2d"], batch["valid2d"])
        weak3d = (aligned - batch["joints2d"]).abs() * px

        calibrated = batch["valid3d"] & batch["has_camera"][:, None]
        strong2d = batch["valid2d"] & has_3d[:, None]
        weak = batch["valid2d"] & has_2d[:, None]
        return {
            "relative": _mean(relative, rooted),
            "heatmap2d": _mean(pixels, strong2d),
            "absolute": self.started(_mean(absolute, calibrated), context),
            "weak2d": _mean(pixels, weak),
            "weak3d": _mean(weak3d, weak),
        }


class ModernLosses(LossProfile):
    """The authors' code of 2023: every term is taken on the reconstructed absolute pose."""

    separate_forward = False
    border_strides = 0.75
    mix_train = None
    mix_test = 0.5
    relative_from_head = False

    NEAREST = 300.0  # mm; labels and predictions nearer than this are left out
    FAR = 10_000.0  # mm; depth errors beyond this distance count less
    OUTSIDE_STRIDES = 20.0  # projections further outside the crop than this are left out

    def default_weights(self) -> dict[str, float]:
        """Lrel + Lproj + 0.1 Labs + 0.2 Lproj of 2D-only samples."""
        return {"relative": 1.0, "projection": 1.0, "absolute": 0.1, "weak2d": 0.2}

    def terms(self, prediction: Prediction, batch: Batch, context: LossContext) -> dict[str, Tensor]:
        """Mean-relative pose, projection, distance; projection alone where only 2D is labelled."""
        has_3d, has_2d = split_by_label(batch)
        valid, truth, pose = batch["valid3d"], batch["joints3d"], prediction.joints3d
        relative = (centred(pose, valid, None) - centred(truth, valid, None)).abs() / _METRE
        projected, in_view = _project(pose, batch["intrinsics"], context.window)
        pixels = (projected - batch["joints2d"]).abs() * (context.mm_per_px / _METRE)
        margin = self.OUTSIDE_STRIDES * context.stride
        near_crop = inside_window(batch["joints2d"], -margin, context.image_size + margin)
        judged = batch["valid2d"] & near_crop & in_view
        in_front = valid & (truth[..., 2] > self.NEAREST)
        calibrated = in_front & batch["has_camera"][:, None]
        return {
            "relative": _mean(relative, valid),
            "projection": _mean(pixels, judged & in_front & has_3d[:, None]),
            "absolute": self.started(self._absolute(pose, truth, calibrated), context),
            "weak2d": _mean(pixels, judged & has_2d[:, None]),
        }

    def _absolute(self, pose: Tensor, truth: Tensor, calibrated: Tensor) -> Tensor:
        """(2 |dx, dy| + |dz| min(1, 10 m / z)) / 3: distant people are allowed a proportional depth error."""
        error = (pose - truth).abs()
        damping = (self.FAR / truth[..., 2].abs().clamp(min=1.0)).clamp(max=1.0)
        sideways = masked_mean(error[..., :2].mean(-1), calibrated)
        depth = masked_mean(error[..., 2] * damping, calibrated)
        return (2 * sideways + depth) / 3 / _METRE


def _project(pose: Tensor, intrinsics: Tensor, window: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Crop px of a pose in mm, and which of them are in front of the camera and inside the trusted window."""
    z = pose[..., 2:]
    rays = homogeneous(pose[..., :2] / z.clamp(min=1.0))
    pixels = (rays @ intrinsics.mT)[..., :2]
    return pixels, inside_window(pixels.detach(), *window) & (z[..., 0] > 1.0)


def _mean(values: Tensor, mask: Bool[Tensor, "batch joints"]) -> Tensor:
    return masked_mean(values, mask[..., None].expand_as(values))


PROFILES: dict[str, type[LossProfile]] = {"paper": PaperLosses, "modern": ModernLosses}
