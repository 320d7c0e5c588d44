"""What the definition of a protocol is put together from: joints, alignments, measures and averages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float, Int64
from torch import Tensor

from posezoo.metrics import functional as F
from posezoo.metrics.functional import PerJoint
from posezoo.skeletons import H36M17, LSP14, MPI_INF_3DHP_17, SMPL24, Skeleton


@dataclass(frozen=True)
class Alignment:
    """How a prediction is moved before its errors are taken.

    Attributes:
        text: For the definition.
        errors: (pred, target, valid, joints, root) -> errors [N, len(joints)] of those joints, mm.
    """

    text: str
    errors: Callable[[Tensor, Tensor, Tensor | None, Sequence[int], int], PerJoint]


def _at_root(pred: Tensor, target: Tensor, valid: Tensor | None, joints: Sequence[int], root: int) -> PerJoint:
    # The root goes first, because it need not be among the scored joints.
    chosen = [root, *joints]
    errors = F.root_relative_errors(pred[:, chosen], target[:, chosen], _columns(valid, chosen), root=0)
    return PerJoint(errors.value[:, 1:], errors.valid[:, 1:])


def _by_procrustes(
    pred: Tensor, target: Tensor, valid: Tensor | None, joints: Sequence[int], root: int, scale: bool = True
) -> PerJoint:
    del root
    chosen = list(joints)
    return F.procrustes_errors(pred[:, chosen], target[:, chosen], _columns(valid, chosen), scale=scale)


def _truth_onto_prediction(
    pred: Tensor, target: Tensor, valid: Tensor | None, joints: Sequence[int], root: int
) -> PerJoint:
    return _by_procrustes(target, pred, valid, joints, root)


def _columns(valid: Tensor | None, joints: Sequence[int]) -> Tensor | None:
    return None if valid is None else valid[:, list(joints)]


ROOT = Alignment("pelvis moved to the origin", _at_root)
SIMILARITY = Alignment("Procrustes with rotation, translation and scale, no mirroring", _by_procrustes)
RIGID = Alignment("Procrustes with rotation and translation, without scale", partial(_by_procrustes, scale=False))
REVERSED = Alignment("Procrustes with scale of the truth onto the prediction", _truth_onto_prediction)


@dataclass(frozen=True)
class Joints:
    """Scored joints by canonical name; no names for all joints of the skeleton at hand."""

    text: str
    names: tuple[str, ...] = ()

    def indices(self, skeleton: Skeleton) -> list[int]:
        """Positions in a skeleton, in the order of the names."""
        return [skeleton.index(name) for name in self.names or skeleton.joints]


ALL = Joints("all joints of the skeleton")
H36M_17 = Joints("17 (h36m17, the pelvis as a zero)", H36M17.joints)
H36M_16 = Joints("16 (h36m17 without the nose, the pelvis as a zero)", tuple(j for j in H36M17.joints if j != "nose"))
LSP_14 = Joints("14 (limbs, neck and head_top; no pelvis)", LSP14.joints)
MPI_14_PELVIS = Joints(
    "14 (neck to ankles and the pelvis as a zero; no head_top)", (*MPI_INF_3DHP_17.joints[1:14], "pelvis")
)
MPI_14_HEAD = Joints("14 (head_top to ankles; no pelvis)", MPI_INF_3DHP_17.joints[:14])
MPI_17 = Joints("17 (mpi_inf_3dhp_17, the pelvis as a zero)", MPI_INF_3DHP_17.joints)
SMPL_24 = Joints("24 (smpl24, the pelvis as a zero)", SMPL24.joints)
SMPL_LIMBS = Joints(
    "12 (hips, knees, ankles, shoulders, elbows, wrists)",
    tuple(SMPL24.joints[j] for j in (1, 2, 4, 5, 7, 8, *range(16, 22))),
)


def _as_is(errors: PerJoint) -> PerJoint:
    return errors


@dataclass(frozen=True)
class Measure:
    """One number of a protocol: errors of some joints after an alignment, and what becomes of each error.

    Attributes:
        name: Key in results and logs.
        title: With its threshold rule, for the definition.
        unit: "mm", "%" or "0..1".
        joints: What is scored.
        alignment: What is done first.
        value: From `metrics.functional`: errors to values of the same shape.
    """

    name: str
    title: str
    unit: str
    joints: Joints
    alignment: Alignment
    value: Callable[[PerJoint], PerJoint] = _as_is


def mpjpe(joints: Joints) -> Measure:
    """MPJPE with the roots moved together."""
    return Measure("mpjpe", "MPJPE", "mm", joints, ROOT)


def pa_mpjpe(joints: Joints, alignment: Alignment = SIMILARITY) -> Measure:
    """MPJPE after a Procrustes alignment."""
    return Measure("pa_mpjpe", "PA-MPJPE", "mm", joints, alignment)


def pck150(joints: Joints) -> Measure:
    """3DPCK of MPI-INF-3DHP."""
    return Measure("pck", "PCK < 150 mm", "%", joints, ROOT, F.pck_scores)


def auc31(joints: Joints) -> Measure:
    """AUC of MPI-INF-3DHP."""
    return Measure("auc", "AUC of < 0, 5, .. 150 mm", "%", joints, ROOT, F.auc_scores)


@dataclass(frozen=True)
class Averaging:
    """How values become one number.

    Attributes:
        text: For the definition.
        grouped: Mean of the groups' means, each over its valid joints; otherwise the mean over all valid joints.
    """

    text: str
    grouped: bool = False

    def mean(self, total: Float[Tensor, "groups"], count: Int64[Tensor, "groups"]) -> Float[Tensor, ""]:
        """The number, from sums and counts of each group; groups without a valid joint are left out."""
        if not self.grouped:
            return total.sum() / count.sum()
        seen = count > 0
        return (total[seen] / count[seen]).mean()


OVER_FRAMES = Averaging("mean over frames and joints, whatever the action")
OVER_ACTIONS = Averaging("mean over the frames of each of 15 actions, then over actions", grouped=True)
