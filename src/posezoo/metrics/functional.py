"""Pose metrics as functions: tensors in mm, masks, ten lines each.

Every metric is a value per joint (`*_errors`, [N, J]) and one pooling rule: the mean over all valid joints of
the batch, whatever sample they belong to. The classes of `posezoo.metrics` sum the same per-joint values.

    pred, target    float [N, J, 3], mm, same frame
    valid           bool [N, J], labelled joints; all of them when None

Masked joints may hold anything, NaN included: it reaches neither values nor gradients. A prediction that is
NaN at a *valid* joint makes the mean NaN, and is a miss for `pck`, `auc`, `cps` and `pckh`. Nothing valid at all gives
a NaN scalar. Shapes that do not belong together raise ValueError.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posezoo.geometry import lengths, procrustes, root_align

# Mehta et al., "Monocular 3D Human Pose Estimation In The Wild" (3DV 2017): 0, 5, ..., 150 mm.
AUC_THRESHOLDS = tuple(range(0, 151, 5))

# The thresholds 0, 1, ..., 199 mm of the 3DPW challenge's evaluator (aymenmir1/3dpw-eval) end here.
_AUC_3DPW_END = 199


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
    inclusive: bool = False,
) -> Float[Tensor, ""]:
    """Percent of the valid joints with a root-relative error below (strictly) `threshold` mm (MPI-INF-3DHP).

    Args:
        pred: Predicted joints, mm.
        target: Annotated joints, mm.
        valid: Which joints count; all of them when None.
        root: Joint to align both poses at. None aligns nothing: absolute PCK, or PA-PCK of
            `procrustes(pred, target, valid)`.
        threshold: mm.
        inclusive: Count an error of exactly `threshold` as a hit, as 3DPW's evaluator does.
    """
    return pck_scores(aligned_errors(pred, target, valid, root), threshold, inclusive).mean()


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


def auc_3dpw(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    root: int | None = 0,
) -> Float[Tensor, ""]:
    """Area under the PCK curve at 0, 1, ..., 199 mm (<=), by trapezoids, divided by 199 mm: 0..1 (3DPW challenge).

    The challenge's evaluator integrates the same curve with an adaptive quadrature, which leaves errors of 2e-6.
    """
    return auc_3dpw_scores(aligned_errors(pred, target, valid, root)).mean()


def cps(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    root: int | None = 0,
    threshold: float = 150.0,
) -> Float[Tensor, ""]:
    """Percent of the samples whose worst valid joint is off by less than `threshold` mm (correct poses score).

    Wandt et al., "CanonPose" (CVPR 2021), on root-aligned poses, as isarandi/posepile has it; the paper's own is taken
    after Procrustes alignment: `cps(procrustes(pred, target, valid), target, valid, root=None)`.
    """
    return pck_scores(worst_errors(aligned_errors(pred, target, valid, root)), threshold).mean()


def cps_auc(
    pred: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    root: int | None = 0,
    threshold: float = 150.0,
) -> Float[Tensor, ""]:
    """Area under `cps` from 0 to `threshold` mm, percent: the mean of max(0, 1 - worst joint / threshold)."""
    return ramp_scores(worst_errors(aligned_errors(pred, target, valid, root)), threshold).mean()


def pckh(
    pred: Float[Tensor, "batch joints 2"],
    target: Float[Tensor, "batch joints 2"],
    head_size: Float[Tensor, "batch"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    threshold: float = 0.5,
) -> Float[Tensor, ""]:
    """Percent of 2D joints closer than `threshold` head sizes, as the mean over the joints that have any label.

    Andriluka et al. (CVPR 2014), as mmpose computes it: strictly below, every joint of equal weight. MPII's own script
    counts an error of exactly `threshold` and pools all labels.

    Args:
        pred: Predicted joints, px of the original image.
        target: Annotated joints, px of the original image.
        head_size: px; a sample where it is not positive does not count. MPII's is 0.6 times the diagonal of the
            annotated head rectangle.
        valid: Which joints count; all of them when None.
        threshold: In head sizes.
    """
    scores = pck_scores(head_errors(pred, target, head_size, valid), threshold)
    counts = scores.valid.sum(0)
    return (scores.value.sum(0) / counts)[counts > 0].mean()


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


def head_errors(pred: Tensor, target: Tensor, head_size: Tensor, valid: Tensor | None = None) -> PerJoint:
    """Distances [N, J] of 2D joints in head sizes."""
    pred, target, valid = _clean(pred, target, valid, dims=2)
    if head_size.shape != pred.shape[:1]:
        raise ValueError(f"head_size must be [N] = [{len(pred)}], got {list(head_size.shape)}.")
    usable = (head_size > 0)[:, None]
    valid = valid & usable
    distance = lengths(pred - target) / head_size[:, None].where(usable, 1)
    return PerJoint(distance.where(valid, 0), valid)


def worst_errors(errors: PerJoint) -> PerJoint:
    """The largest valid error of each sample [N, 1]; NaN where one is."""
    return PerJoint(errors.value.where(errors.valid, 0).amax(1, keepdim=True), errors.valid.any(1, keepdim=True))


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


def pck_scores(errors: PerJoint, threshold: float = 150.0, inclusive: bool = False) -> PerJoint:
    """100 where an error is below `threshold` (or equal to it, where inclusive), 0 elsewhere [N, J], percent."""
    hit = errors.value <= threshold if inclusive else errors.value < threshold
    return PerJoint(100.0 * (hit & errors.valid).to(errors.value), errors.valid)


def auc_scores(errors: PerJoint, thresholds: Sequence[float] = AUC_THRESHOLDS) -> PerJoint:
    """Share of the thresholds above each error [N, J], percent."""
    if not thresholds or list(thresholds) != sorted(set(thresholds)):
        raise ValueError(f"thresholds must be one or more ascending lengths in mm, got {list(thresholds)}.")
    steps = torch.tensor(thresholds, dtype=errors.value.dtype, device=errors.value.device)
    not_above = torch.searchsorted(steps, errors.value.detach().contiguous(), right=True)  # NaN: all of them
    score = (100.0 / len(steps)) * (len(steps) - not_above).to(errors.value)
    return PerJoint(score.where(errors.valid, 0), errors.valid)


def auc_3dpw_scores(errors: PerJoint) -> PerJoint:
    """Area [N, J] under each joint's own step from 0 to 1, by trapezoids over 0, 1, ..., 199 mm; 0..1."""
    step = errors.value.detach().ceil()  # the first threshold that is not below the error
    area = torch.where(step > 0, _AUC_3DPW_END - step + 0.5, _AUC_3DPW_END) / _AUC_3DPW_END
    return PerJoint(area.where((step <= _AUC_3DPW_END) & errors.valid, 0), errors.valid)


def ramp_scores(errors: PerJoint, zero: float, full: float = 0.0) -> PerJoint:
    """100 up to `full` mm, falling linearly to 0 at `zero` mm [N, J], percent: PCK averaged over all thresholds."""
    score = 100.0 * ((zero - errors.value) / (zero - full)).clamp(0, 1)
    return PerJoint(score.where(errors.valid & ~score.isnan(), 0), errors.valid)


def _root_relative(pred: Tensor, target: Tensor, valid: Tensor | None, root: int) -> tuple[Tensor, Tensor, Tensor]:
    pred, target, valid = _clean(pred, target, valid)
    _check_root(root, pred.shape[1])
    valid = valid & valid[:, root, None]
    mask = valid[..., None]
    return root_align(pred, root).where(mask, 0), root_align(target, root).where(mask, 0), valid


def _clean(pred: Tensor, target: Tensor, valid: Tensor | None, dims: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Checked inputs, at least float32, with zeros at masked joints (first of all: 0 * NaN is NaN)."""
    if pred.shape != target.shape or pred.ndim != 3 or pred.shape[-1] != dims:
        raise ValueError(
            f"pred and target must both be [N, J, {dims}], got {tuple(pred.shape)} and {tuple(target.shape)}."
        )
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
