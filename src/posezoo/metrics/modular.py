"""torchmetrics classes over `metrics.functional`: exact under DDP, per joint and per group (action, ...).

All but MPJVE keep only sums and counts of per-joint values, so the result over several processes is the
result over the pooled samples, however unevenly they were dealt. It is exact as long as no sample is seen
twice, which takes an evaluation sampler that never pads.

In a `MetricCollection` pass `compute_groups=False`: it otherwise merges metrics whose states happen to agree
after the first batch, and those of MPJPE and PA-MPJPE do on a perfect one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torchmetrics import Metric

from posezoo.metrics import functional as F
from posezoo.metrics.functional import AUC_THRESHOLDS, PerJoint
from posezoo.metrics.protocols import Measure, SinglePerson
from posezoo.skeletons import Skeleton

_WITHOUT_FLOAT64 = {"mps"}


class PoseMetric(Metric, ABC):
    """Mean of a per-joint value over all valid joints of all samples.

    Args:
        num_joints: J; makes `compute_per_joint` available.
        num_groups: Makes `compute_per_group` available; `update` then takes group ids.
        kwargs: Options of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = True
    higher_is_better = False

    def __init__(self, num_joints: int | None = None, num_groups: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_joints, self.num_groups = num_joints, num_groups

    @abstractmethod
    def _sums(self) -> tuple[Tensor, Tensor]:
        """Sum and count [groups or 1, joints or 1] of the valid values of this process' states."""

    def compute(self) -> Float[Tensor, ""]:
        """Mean over all valid joints of all samples; NaN when there are none."""
        total, count = self._sums()
        return total.sum() / count.sum()

    def compute_per_joint(self) -> Float[Tensor, "joints"]:
        """Mean of each joint over all samples of all processes; NaN for a joint that was never valid.

        Raises:
            ValueError: The metric was made without `num_joints`.
        """
        if self.num_joints is None:
            raise ValueError(f"{type(self).__name__} keeps no sums per joint: construct it with num_joints.")
        with self._synced():
            total, count = self._sums()
            return total.sum(0) / count.sum(0)

    def compute_per_group(self) -> Float[Tensor, "groups"]:
        """Mean of each group over its valid joints, over all processes; NaN for a group without any.

        Raises:
            ValueError: The metric was made without `num_groups`.
        """
        if self.num_groups is None:
            raise ValueError(f"{type(self).__name__} keeps no sums per group: construct it with num_groups.")
        with self._synced():
            total, count = self._sums()
            return total.sum(1) / count.sum(1)

    def _scatter(self, joint: PerJoint, group: Tensor) -> tuple[Tensor, Tensor]:
        """Sums and counts of a batch, [groups or 1, joints or 1]."""
        value, count = joint.value.to(self._sum_dtype), joint.valid.to(torch.int64)
        if self.num_joints is None:
            value, count = value.sum(1, keepdim=True), count.sum(1, keepdim=True)
        elif value.shape[1] != self.num_joints:
            raise ValueError(f"{type(self).__name__} was made for {self.num_joints} joints, got {value.shape[1]}.")
        shape = (self.num_groups or 1, value.shape[1])
        return (
            value.new_zeros(shape).index_add(0, group, value),
            count.new_zeros(shape).index_add(0, group, count),
        )

    def _check_group(self, group: Tensor | None, pred: Tensor) -> Tensor:
        if (group is None) != (self.num_groups is None):
            given = "without" if group is None else "with"
            raise ValueError(
                f"{type(self).__name__} has num_groups={self.num_groups} but was updated {given} group ids."
            )
        if group is None:
            return torch.zeros(len(pred), dtype=torch.int64, device=pred.device)
        if group.shape != pred.shape[:1] or group.dtype != torch.int64:
            raise ValueError(f"group must be int64 [N] = [{len(pred)}], got {group.dtype} {list(group.shape)}.")
        if len(group) and not (group.min() >= 0 and group.max() < (self.num_groups or 0)):
            raise ValueError(
                f"group ids must be in 0..{(self.num_groups or 0) - 1}, got {sorted(set(group.tolist()))}."
            )
        return group

    @property
    def _sum_dtype(self) -> torch.dtype:
        # A million float32 errors would drift in the third decimal; MPS has no float64 and must do with it.
        return torch.float32 if self.device.type in _WITHOUT_FLOAT64 else torch.float64

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """As torchmetrics does around `compute`: all processes' states inside, this process' own after."""
        already = self._is_synced
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn,
            should_sync=self._to_sync and not already,
            should_unsync=self._should_unsync and not already,
        ):
            yield

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        if fn(torch.empty(0)).device.type not in _WITHOUT_FLOAT64:
            return super()._apply(fn, exclude_state)
        return super()._apply(lambda t: fn(t.float() if t.dtype == torch.float64 else t), exclude_state)


class _SumMetric(PoseMetric):
    """A pose metric that keeps sums and counts."""

    total: Tensor
    count: Tensor

    def __init__(self, num_joints: int | None = None, num_groups: int | None = None, **kwargs: Any) -> None:
        super().__init__(num_joints, num_groups, **kwargs)
        shape = (num_groups or 1, num_joints or 1)
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """The value of each joint of each sample, from `metrics.functional`."""

    def update(
        self,
        pred: Float[Tensor, "batch joints 3"],
        target: Float[Tensor, "batch joints 3"],
        valid: Bool[Tensor, "batch joints"] | None = None,
        group: Int64[Tensor, "batch"] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            pred: Predicted joints, mm.
            target: Annotated joints, mm, same frame.
            valid: Labelled joints; all of them when None.
            group: Ids in 0..num_groups - 1; required with `num_groups`, refused without.

        Raises:
            ValueError: Shapes, joints or group ids do not fit.
        """
        self._add(self.per_joint(pred, target, valid), self._check_group(group, pred))

    def _add(self, joint: PerJoint, group: Tensor) -> None:
        total, count = self._scatter(joint, group)
        # Out of place: a state handed out (synced, cached, saved) must not change under its owner.
        self.total, self.count = self.total + total, self.count + count

    def _sums(self) -> tuple[Tensor, Tensor]:
        return self.total, self.count


class MPJPE(_SumMetric):
    """Mean per-joint position error after root alignment, mm; see `functional.mpjpe`.

    Args:
        root: Joint that both poses are centred on.
        num_joints: J, for `compute_per_joint`.
        num_groups: Number of groups, for `compute_per_group`.
        kwargs: Options of `torchmetrics.Metric`.
    """

    def __init__(
        self, root: int = 0, num_joints: int | None = None, num_groups: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(num_joints, num_groups, **kwargs)
        self.root = root

    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """Root-relative distances."""
        return F.root_relative_errors(pred, target, valid, self.root)


class NMPJPE(MPJPE):
    """MPJPE after the best scale per sample, mm; see `functional.n_mpjpe`. Arguments as for `MPJPE`."""

    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """Distances after root alignment and scaling."""
        return F.scaled_errors(pred, target, valid, self.root)


class AbsMPJPE(_SumMetric):
    """Mean per-joint position error without alignment, mm; see `functional.abs_mpjpe`.

    Args:
        num_joints: J, for `compute_per_joint`.
        num_groups: Number of groups, for `compute_per_group`.
        kwargs: Options of `torchmetrics.Metric`.
    """

    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """Distances in the camera frame."""
        return F.absolute_errors(pred, target, valid)


class MRPE(_SumMetric):
    """Mean root position error, mm; see `functional.mrpe`.

    Args:
        root: The root joint.
        num_groups: Number of groups, for `compute_per_group`.
        kwargs: Options of `torchmetrics.Metric`.
    """

    def __init__(self, root: int = 0, num_groups: int | None = None, **kwargs: Any) -> None:
        super().__init__(None, num_groups, **kwargs)
        self.root = root

    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """Distances of the root joint [N, 1]."""
        return F.root_errors(pred, target, valid, self.root)


class PAMPJPE(_SumMetric):
    """Mean per-joint position error after Procrustes alignment, mm; see `functional.pa_mpjpe`.

    Args:
        scale: Fit the scale too.
        reflection: Allow reflections.
        num_joints: J, for `compute_per_joint`.
        num_groups: Number of groups, for `compute_per_group`.
        kwargs: Options of `torchmetrics.Metric`.
    """

    def __init__(
        self,
        scale: bool = True,
        reflection: bool = False,
        num_joints: int | None = None,
        num_groups: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_joints, num_groups, **kwargs)
        self.scale, self.reflection = scale, reflection

    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """Distances after alignment."""
        return F.procrustes_errors(pred, target, valid, self.scale, self.reflection)


class PCK3D(_SumMetric):
    """Percent of valid joints with an error strictly below `threshold`; see `functional.pck`.

    Args:
        root: Joint that both poses are centred on; None for absolute PCK.
        threshold: mm.
        num_joints: J, for `compute_per_joint`.
        num_groups: Number of groups, for `compute_per_group`.
        kwargs: Options of `torchmetrics.Metric`.
    """

    higher_is_better = True
    is_differentiable = False

    def __init__(
        self,
        root: int | None = 0,
        threshold: float = 150.0,
        num_joints: int | None = None,
        num_groups: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_joints, num_groups, **kwargs)
        self.root, self.threshold = root, threshold

    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """100 or 0."""
        return F.pck_scores(F.aligned_errors(pred, target, valid, self.root), self.threshold)


class AUC3D(_SumMetric):
    """Mean PCK over 0, 5, ..., 150 mm, percent; see `functional.auc`.

    Args:
        root: Joint that both poses are centred on; None for absolute AUC.
        thresholds: mm, ascending.
        num_joints: J, for `compute_per_joint`.
        num_groups: Number of groups, for `compute_per_group`.
        kwargs: Options of `torchmetrics.Metric`.
    """

    higher_is_better = True
    is_differentiable = False

    def __init__(
        self,
        root: int | None = 0,
        thresholds: Sequence[float] = AUC_THRESHOLDS,
        num_joints: int | None = None,
        num_groups: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_joints, num_groups, **kwargs)
        self.root, self.thresholds = root, tuple(thresholds)

    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """Share of the thresholds above each error."""
        return F.auc_scores(F.aligned_errors(pred, target, valid, self.root), self.thresholds)


class ProtocolMeasure(_SumMetric):
    """One measure of a published protocol, averaged its way; see `protocols.SinglePerson`.

    Args:
        protocol: The protocol.
        measure: One of its measures.
        skeleton: Joints of the poses.
        num_groups: Number of groups, for `compute_per_group`; required where the protocol averages over groups.
        kwargs: Options of `torchmetrics.Metric`.
    """

    is_differentiable = False

    def __init__(
        self, protocol: SinglePerson, measure: Measure, skeleton: Skeleton, num_groups: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(len(protocol.indices(measure.joints, skeleton)), num_groups, **kwargs)
        self.protocol, self.measure, self.skeleton = protocol, measure, skeleton

    def per_joint(self, pred: Tensor, target: Tensor, valid: Tensor | None) -> PerJoint:
        """Values of the scored joints."""
        return self.protocol.values(self.measure, pred, target, valid, self.skeleton)

    def compute(self) -> Float[Tensor, ""]:
        """The number of the protocol; NaN without any valid joint."""
        total, count = self._sums()
        return self.protocol.averaging.mean(total.sum(1), count.sum(1))

    def compute_unlabelled(self) -> tuple[str, ...]:
        """Scored joints that no sample of any process has a label of."""
        names = self.measure.joints.names or self.skeleton.joints
        with self._synced():
            counts = self._sums()[1].sum(0).tolist()
        return tuple(name for name, count in zip(names, counts, strict=True) if not count)


class PCKh(_SumMetric):
    """Percent of 2D joints closer than `threshold` head sizes, the mean over joints; see `functional.pckh`.

    Args:
        num_joints: J.
        threshold: In head sizes.
        kwargs: Options of `torchmetrics.Metric`.
    """

    higher_is_better = True
    is_differentiable = False

    def __init__(self, num_joints: int, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(num_joints, **kwargs)
        self.threshold = threshold

    def per_joint(
        self, pred: Tensor, target: Tensor, valid: Tensor | None, head_size: Tensor | None = None
    ) -> PerJoint:
        """100 or 0."""
        if head_size is None:
            raise ValueError("PCKh needs the head sizes.")
        return F.pck_scores(F.head_errors(pred, target, head_size, valid), self.threshold)

    def update(  # type: ignore[override]  # 2D, with head sizes
        self,
        pred: Float[Tensor, "batch joints 2"],
        target: Float[Tensor, "batch joints 2"],
        valid: Bool[Tensor, "batch joints"] | None,
        head_size: Float[Tensor, "batch"],
    ) -> None:
        """Add a batch; px of the original images. Samples of which the head size is not positive do not count."""
        self._add(self.per_joint(pred, target, valid, head_size), self._check_group(None, pred))

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the joints that have any label; NaN without any."""
        total, count = self._sums()
        total, count = total.sum(0), count.sum(0)
        return (total / count)[count > 0].mean()


class MPJVE(PoseMetric):
    """Mean per-joint velocity error, mm per frame; see `functional.mpjve`.

    Samples may come in any order, from any process and more than once: their position errors are kept
    (25 J bytes a sample), sorted by (sequence, frame) at compute, and differenced between neighbouring
    frames of one sequence. A sequence id therefore stands for one person in one camera.

    Args:
        frame_step: Distance of the frame ids of neighbouring samples (5 for data kept at every fifth frame).
        num_joints: J, for `compute_per_joint`.
        num_groups: Number of groups, for `compute_per_group`.
        kwargs: Options of `torchmetrics.Metric`.
    """

    # All flat, so that a process without samples can gather without knowing J, which is a state as well.
    keys: list[Tensor]  # int64 (sequence, frame, group)
    drift: list[Tensor]  # pred - target [J, 3]: all that a velocity error depends on
    seen: list[Tensor]  # uint8 [J], as not every backend gathers bool
    joints: Tensor

    def __init__(
        self,
        frame_step: int = 1,
        num_joints: int | None = None,
        num_groups: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_joints, num_groups, **kwargs)
        self.frame_step = frame_step
        for name in ("keys", "drift", "seen"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("joints", torch.tensor(num_joints or 0), dist_reduce_fx="max")

    def update(
        self,
        pred: Float[Tensor, "batch joints 3"],
        target: Float[Tensor, "batch joints 3"],
        valid: Bool[Tensor, "batch joints"] | None = None,
        group: Int64[Tensor, "batch"] | None = None,
        *,
        sequence: Int64[Tensor, "batch"],
        frame: Int64[Tensor, "batch"],
    ) -> None:
        """Add a batch of frames.

        Args:
            pred: Predicted joints, mm.
            target: Annotated joints, mm, same frame of reference.
            valid: Labelled joints; all of them when None.
            group: Ids in 0..num_groups - 1; required with `num_groups`, refused without.
            sequence: Which sequence each sample belongs to.
            frame: Its time in that sequence.

        Raises:
            ValueError: Shapes, joints or ids do not fit.
        """
        group = self._check_group(group, pred)
        for name, ids in (("sequence", sequence), ("frame", frame)):
            if ids.shape != pred.shape[:1] or ids.dtype != torch.int64:
                raise ValueError(f"{name} must be int64 [N] = [{len(pred)}], got {ids.dtype} {list(ids.shape)}.")
        if int(self.joints) not in (0, pred.shape[1]):
            raise ValueError(f"MPJVE has seen {int(self.joints)} joints a pose, got {pred.shape[1]}.")
        drift, valid = F.position_errors(pred, target, valid)
        self.joints = torch.full_like(self.joints, pred.shape[1])
        self.keys.append(torch.stack([sequence, frame, group], 1).flatten())
        self.drift.append(drift.to(self._sum_dtype).flatten())
        self.seen.append(valid.to(torch.uint8).flatten())

    def _sums(self) -> tuple[Tensor, Tensor]:
        joints = int(self.joints)
        sequence, frame, group = _flat(self.keys, torch.int64, self.device).view(-1, 3).unbind(1)
        drift = _flat(self.drift, self._sum_dtype, self.device).view(len(frame), joints, 3)
        seen = _flat(self.seen, torch.uint8, self.device).view(len(frame), joints).bool()

        order = frame.argsort(stable=True)
        order = order[sequence[order].argsort(stable=True)]
        sequence, frame = sequence[order], frame[order]
        first = torch.ones_like(frame, dtype=torch.bool)
        first[1:] = (sequence.diff() != 0) | (frame.diff() != 0)
        sequence, frame, order = sequence[first], frame[first], order[first]

        value, valid = F.drift_errors(drift[order], seen[order])
        neighbours = (sequence.diff() == 0) & (frame.diff() == self.frame_step)
        return self._scatter(PerJoint(value[neighbours], valid[neighbours]), group[order][1:][neighbours])

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics gathers float32 from a process without samples, whatever the others hold.
        for name, dtype in (("keys", torch.int64), ("drift", self._sum_dtype), ("seen", torch.uint8)):
            if not len(getattr(self, name)):
                setattr(self, name, [torch.empty(0, dtype=dtype, device=self.device)])
        super()._sync_dist(*args, **kwargs)


def _flat(state: list[Tensor] | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A cat state as one tensor: it is a list before and a tensor after synchronisation."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0, dtype=dtype, device=device)
