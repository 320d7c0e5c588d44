"""Pose metrics as functions: tensors in mm, masks, ten lines each.

Every metric is a value per joint (`*_errors`, [N, J]) and one pooling rule: the mean over all valid joints of
the batch, whatever sample they belong to. The classes of `posezoo.metrics` sum the same per-joint values.

    pred, target    float [N, J, 3], mm, same frame
    valid           bool [N, J], labelled joints; all of them when None

Masked joints may hold anything, NaN included: it reaches neither values nor gradients. A prediction that is
NaN at a *valid* joint makes the mean NaN, and is a miss for `pck` and `auc`. Nothing valid at all gives a NaN
scalar. Shapes that do not belong together raise ValueError.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posezoo.geometry import lengths, procrustes, root_align

# Mehta et al., "Monocular 3D Human Pose Estimation In The Wild" (3DV 2017): 0, 5, ..., 150 mm.
AUC_THRESHOLDS = tuple(range(0, 151, 5))


class PerJoint(NamedTuple):
    """A value per joint, zero where it is not valid."""

    value: Float[Tensor, "batch joints"]
    valid: Bool[Tensor, "batch joints"]

    def mean(self) -> Float[Tensor, ""]:
        """Mean over the valid joints of the batch; NaN when there are none."""
        return self.value.sum() / self.valid.sum()


def mpjpe(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    root: int = 0,
) -> Float[Tensor, ""]:
    """Mean per-joint position error after moving both roots to the origin, mm (Human3.6M protocol 1).

    The root counts as a joint of zero error; a sample whose root is not valid does not count.
    """
    return root_relative_errors(pred, target, valid, root).mean()


def abs_mpjpe(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
) -> Float[Tensor, ""]:
    """Mean per-joint position error in the camera frame, without any alignment, mm."""
    return absolute_errors(pred, target, valid).mean()


def mrpe(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    root: int = 0,
) -> Float[Tensor, ""]:
    """Mean root position error in the camera frame, mm (Moon et al., ICCV 2019)."""
    return root_errors(pred, target, valid, root).mean()


def pa_mpjpe(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    scale: bool = True,
    reflection: bool = False,
) -> Float[Tensor, ""]:
    """Mean per-joint position error after Procrustes alignment of the prediction, mm (Human3.6M protocol 2).

    Each sample is fitted on its valid joints only; see `posezoo.geometry.procrustes` for degenerate poses.

    Args:
        pred: Predicted joints, mm.
        target: Annotated joints, mm.
        valid: Joints to fit and to score on; all of them when None.
        scale: Fit the scale too; False for a rigid alignment.
        reflection: Allow mirrored poses to be aligned by a reflection.
    """
    return procrustes_errors(pred, target, valid, scale, reflection).mean()


def n_mpjpe(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    root: int = 0,
) -> Float[Tensor, ""]:
    """Mean per-joint position error after root alignment and the best scale per sample, mm.

    Protocol 3 of Pavllo et al., "3D human pose estimation in video with temporal convolutions" (CVPR 2019).
    """
    return scaled_errors(pred, target, valid, root).mean()


def pck(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    root: int | None = 0,
    threshold: float = 150.0,
) -> Float[Tensor, ""]:
    """Percent of the valid joints with a root-relative error below (strictly) `threshold` mm (MPI-INF-3DHP).

    Args:
        pred: Predicted joints, mm.
        target: Annotated joints, mm.
        valid: Which joints count; all of them when None.
        root: Joint to align both poses at. None aligns nothing: absolute PCK, or PA-PCK of
            `procrustes(pred, target, valid)`.
        threshold: mm.
    """
    return pck_scores(aligned_errors(pred, target, valid, root), threshold).mean()


def auc(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    root: int | None = 0,
    thresholds: Sequence[float] = AUC_THRESHOLDS,
) -> Float[Tensor, ""]:
    """Mean `pck` over the 31 thresholds 0, 5, ..., 150 mm, percent (MPI-INF-3DHP).

    At best 96.77: no error is below 0 mm.

    Args:
        pred: Predicted joints, mm.
        target: Annotated joints, mm.
        valid: Which joints count; all of them when None.
        root: As for `pck`.
        thresholds: mm, ascending.
    """
    return auc_scores(aligned_errors(pred, target, valid, root), thresholds).mean()


def mpjve(
    pred: Float[Tensor, "frames joints 3"],
    target: Float[Tensor, "frames joints 3"],
    valid: Bool[Tensor, "frames joints"] | None = None,
) -> Float[Tensor, ""]:
    """Mean per-joint velocity error: distance between first differences along N, mm per frame.

    Pavllo et al. (CVPR 2019). N are the frames of one sequence in time order; a joint counts where it is valid in
    both frames.
    """
    return velocity_errors(pred, target, valid).mean()


def absolute_errors(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> PerJoint:
    """Distances [N, J] in the given frame, mm."""
    pred, target, valid = _clean(pred, target, valid)
    return PerJoint(lengths(pred - target), valid)


def root_relative_errors(pred: Tensor, target: Tensor, valid: Tensor | None = None, root: int = 0) -> PerJoint:
    """Distances [N, J] after moving both roots to the origin, mm."""
    pred, target, valid = _root_relative(pred, target, valid, root)
    return PerJoint(lengths(pred - target), valid)


def aligned_errors(pred: Tensor, target: Tensor, valid: Tensor | None, root: int | None) -> PerJoint:
    """Root-relative distances [N, J], or absolute ones where root is None, mm."""
    if root is None:
        return absolute_errors(pred, target, valid)
    return root_relative_errors(pred, target, valid, root)


def root_errors(pred: Tensor, target: Tensor, valid: Tensor | None = None, root: int = 0) -> PerJoint:
    """Distances [N, 1] of the root joint in the given frame, mm."""
    errors = absolute_errors(pred, target, valid)
    _check_root(root, pred.shape[1])
    return PerJoint(errors.value[:, root, None], errors.valid[:, root, None])


def scaled_errors(pred: Tensor, target: Tensor, valid: Tensor | None = None, root: int = 0) -> PerJoint:
    """Distances [N, J] after root alignment and the scale <pred, target> / <pred, pred> per sample, mm."""
    pred, target, valid = _root_relative(pred, target, valid, root)
    norm = pred.square().sum((1, 2), keepdim=True)
    # A prediction that has collapsed onto its root stays there at any scale.
    scale = (pred * target).sum((1, 2), keepdim=True) / norm.where(norm > 0, 1)
    return PerJoint(lengths(scale * pred - target), valid)


def procrustes_errors(
    pred: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    scale: bool = True,
    reflection: bool = False,
) -> PerJoint:
    """Distances [N, J] after Procrustes alignment on the valid joints, mm."""
    pred, target, valid = _clean(pred, target, valid)
    aligned = procrustes(pred, target, valid, scale, reflection)
    return PerJoint(lengths(aligned - target), valid)


def velocity_errors(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> PerJoint:
    """Distances [N - 1, J] between first differences along N, mm per frame."""
    return drift_errors(*position_errors(pred, target, valid))


def position_errors(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Position errors [N, J, 3], mm, zero where not valid, and the mask: what velocity errors depend on."""
    pred, target, valid = _clean(pred, target, valid)
    # Subtracting poses before frames loses less in float32, far from the origin, than the other way round.
    return pred - target, valid


def drift_errors(drift: Tensor, valid: Tensor) -> PerJoint:
    """Lengths [N - 1, J] of the changes of position errors [N, J, 3] along N; valid in both frames."""
    both = valid[1:] & valid[:-1]
    return PerJoint(lengths(drift.diff(dim=0).where(both[..., None], 0)), both)


def pck_scores(errors: PerJoint, threshold: float = 150.0) -> PerJoint:
    """100 where an error is below `threshold` mm, 0 elsewhere [N, J], percent."""
    return PerJoint(100.0 * ((errors.value < threshold) & errors.valid).to(errors.value), errors.valid)


def auc_scores(errors: PerJoint, thresholds: Sequence[float] = AUC_THRESHOLDS) -> PerJoint:
    """Share of the thresholds above each error [N, J], percent."""
    if not thresholds or list(thresholds) != sorted(set(thresholds)):
        raise ValueError(f"thresholds must be one or more ascending lengths in mm, got {list(thresholds)}.")
    steps = torch.tensor(thresholds, dtype=errors.value.dtype, device=errors.value.device)
    not_above = torch.searchsorted(steps, errors.value.detach().contiguous(), right=True)  # NaN: all of them
    score = (100.0 / len(steps)) * (len(steps) - not_above).to(errors.value)
    return PerJoint(score.where(errors.valid, 0), errors.valid)


def _root_relative(pred: Tensor, target: Tensor, valid: Tensor | None, root: int) -> tuple[Tensor, Tensor, Tensor]:
    pred, target, valid = _clean(pred, target, valid)
    _check_root(root, pred.shape[1])
    valid = valid & valid[:, root, None]
    mask = valid[..., None]
    return root_align(pred, root).where(mask, 0), root_align(target, root).where(mask, 0), valid


def _clean(pred: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Checked inputs, at least float32, with zeros at masked joints (first of all: 0 * NaN is NaN)."""
    if pred.shape != target.shape or pred.ndim != 3 or pred.shape[-1] != 3:
        raise ValueError(f"pred and target must both be [N, J, 3], got {tuple(pred.shape)} and {tuple(target.shape)}.")
    dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    pred, target = pred.to(dtype), target.to(dtype)
    if valid is None:
        return pred, target, torch.ones(pred.shape[:2], dtype=torch.bool, device=pred.device)
    if valid.shape != pred.shape[:2] or valid.dtype != torch.bool:
        raise ValueError(
            f"valid must be a bool tensor [N, J] = {tuple(pred.shape[:2])}, got {valid.dtype} {tuple(valid.shape)}."
        )
    return pred.where(valid[..., None], 0), target.where(valid[..., None], 0), valid


def _check_root(root: int, joints: int) -> None:
    if not -joints <= root < joints:
        raise ValueError(f"root must be one of {joints} joints, got {root}.")
