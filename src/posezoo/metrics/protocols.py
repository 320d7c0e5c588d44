"""Published evaluation protocols by name: which people and frames, joints, alignment and averaging make a number.

    protocol = get_protocol("h36m_p2_moon")
    protocol.check_subjects(found)                      # refuses other subjects
    result = protocol.score(pred, target, valid, action=action)
    print(protocol.definition, result.values)

A protocol holds facts and picks formulas of `metrics.functional`; it has none of its own. Selecting frames is up to the
data, with `Protocol.keeps`. docs/protocols.md tells the conventions apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.lifting import hemlets_released
from posezoo.metrics import functional as F
from posezoo.metrics.functional import PerJoint
from posezoo.skeletons import H36M17, LSP14, MPI_INF_3DHP_17, MPII16, MUPOTS17, SMPL24, Skeleton, get_skeleton
from posezoo.structures import Batch, Prediction, batch_crop

if TYPE_CHECKING:
    from posezoo.data.base import PoseDataModule
    from posezoo.metrics.multiperson import People
    from posezoo.metrics.scorers import Scorer


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


@dataclass(frozen=True)
class Result:
    """What a protocol found.

    Attributes:
        protocol: Its definition, to be printed beside every number.
        values: Measure -> number.
        groups: Measure -> action, activity or sequence id -> number; empty where no ids were given.
        notes: What is missing for the number to be the benchmark's, one sentence each.
    """

    protocol: str
    values: dict[str, float]
    groups: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """The facts every protocol has.

    Attributes:
        name: As given to `get_protocol`.
        dataset: Title of the dataset.
        subjects: What must be scored, all of it and nothing else; empty to take anything.
        subject_word: What these are: "subjects", "sequences" or "splits".
        trained_on: What the method may have seen, in words.
        frames: Which frames of which cameras, in words; `frame_step` and `cameras` say the same to code.
        frame_step: Frames whose number, counted from 0, is a multiple of this.
        cameras: Serial numbers; empty for all.
        left_out: Recordings that are not scored, like "S11 Directions".
        truth: Which annotation, and which of its known defects are corrected, in words.
        annotation: The same to code, for datasets that have several: what `PoseDataModule.annotation` must answer.
        complete: Whether every such frame must be there; else the dataset's own list of valid frames decides.
        source: Where the definition comes from.
    """

    name: str
    dataset: str
    subjects: tuple[str, ...]
    subject_word: str = "subjects"
    trained_on: str = ""
    frames: str
    frame_step: int = 1
    cameras: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    truth: str
    annotation: str = ""
    complete: bool = False
    source: str

    # Whether a root-relative pose is all it takes, so that a mean pose can be scored too.
    scores_poses: ClassVar[bool] = False

    @property
    def samples(self) -> tuple[object, ...]:
        """What is scored, whichever way: protocols that agree in it can be scored in one go."""
        return (self.dataset, self.subjects, self.frame_step, self.cameras, self.left_out, self.annotation)

    @property
    def definition(self) -> str:
        """Everything that a number of this protocol depends on, in one line."""
        who = _listed(self.subjects) or "as given"
        trained = f" (training: {self.trained_on})" if self.trained_on else ""
        without = f" without {', '.join(self.left_out)}" if self.left_out else ""
        facts = {
            self.subject_word: who + trained,
            "frames": self.frames + without,
            "joints": self._joints(),
            "alignment": self._alignment(),
            "averaging": self._averaging(),
            "measures": self._measures(),
            "truth": self.truth,
        }
        return f"{self.name} ({self.dataset}): " + "; ".join(f"{key}: {value}" for key, value in facts.items())

    def check_subjects(self, found: Iterable[str]) -> None:
        """Refuse data of other subjects, or of some only.

        Raises:
            PoseZooError: They differ; the message names protocols of the subjects that are there.
        """
        there = set(found)
        if not self.subjects or there == set(self.subjects):
            return
        fitting = [p.name for p in PROTOCOLS.values() if p.dataset == self.dataset and set(p.subjects) == there]
        raise PoseZooError(
            f"Protocol {self.name} is defined on the {self.subject_word} {_listed(self.subjects)}, but these data have "
            f"{', '.join(sorted(there)) or 'none'}: take {' or '.join([*fitting, 'none'])} instead."
        )

    def keeps(self, frame: int, camera: str = "", recording: str = "") -> bool:
        """Whether a frame is scored.

        Args:
            frame: Its number, counted from 0 (the files of mmpose and 3DMPPE count from 1).
            camera: Serial number.
            recording: Subject and scene, like "S11 Directions".
        """
        return bool(self.selects(np.array([frame]), np.array([camera]), np.array([recording]))[0])

    def selects(
        self,
        frame: NDArray[np.integer],
        camera: NDArray[np.str_] | None = None,
        recording: NDArray[np.str_] | None = None,
    ) -> NDArray[np.bool_]:
        """`keeps` for arrays [N]; None where the dataset has one camera, or no recordings."""
        keep: NDArray[np.bool_] = np.asarray(frame) % self.frame_step == 0
        if self.cameras:
            keep &= np.isin(camera, self.cameras) if camera is not None else False
        if self.left_out and recording is not None:
            keep &= ~np.isin(recording, self.left_out)
        return keep

    @abstractmethod
    def scorer(self, skeleton: Skeleton, data: "PoseDataModule", split: str, device: torch.device) -> "Scorer":
        """What scores a split batch by batch, over any number of processes (`metrics.scorers`).

        Args:
            skeleton: What the model predicts.
            data: Where names and labels beyond the batch come from.
            split: "val" or "test".
            device: Where sums are kept.

        Raises:
            PoseZooError: The model does not predict what is scored, or the data lack what it takes.
        """

    @property
    @abstractmethod
    def titles(self) -> dict[str, str]:
        """Title with unit of each measure."""

    @abstractmethod
    def _joints(self) -> str:
        """Which joints are scored, in words."""

    @abstractmethod
    def _alignment(self) -> str:
        """How prediction and truth are aligned, in words."""

    @abstractmethod
    def _averaging(self) -> str:
        """What is averaged first, in words."""

    def _measures(self) -> str:
        return ", ".join(self.titles.values())


@dataclass(frozen=True, kw_only=True)
class SinglePerson(Protocol):
    """A protocol over one predicted pose per annotated pose.

    Attributes:
        skeleton: The dataset's, which `score` expects unless told otherwise.
        measures: What is reported.
        averaging: How.
        groups: Which ids make the groups: "action" or "sequence".
        root: Joint that root alignment centres on.
    """

    skeleton: str
    measures: tuple[Measure, ...]
    averaging: Averaging = OVER_FRAMES
    groups: Literal["action", "sequence"] = "action"
    root: str = "pelvis"

    scores_poses: ClassVar[bool] = True

    def per_joint(
        self,
        pred: Float[Tensor, "batch joints 3"],
        target: Float[Tensor, "batch joints 3"],
        valid: Bool[Tensor, "batch joints"] | None = None,
        skeleton: str | Skeleton | None = None,
    ) -> dict[str, PerJoint]:
        """The values of each measure, before averaging; what a metric over several processes has to sum.

        Arguments and errors are those of `score`.
        """
        return {m.name: self.values(m, pred, target, valid, skeleton) for m in self.measures}

    def values(
        self,
        measure: Measure,
        pred: Float[Tensor, "batch joints 3"],
        target: Float[Tensor, "batch joints 3"],
        valid: Bool[Tensor, "batch joints"] | None = None,
        skeleton: str | Skeleton | None = None,
    ) -> PerJoint:
        """The values of one measure, before averaging: [N, scored joints]; arguments and errors as for `score`."""
        names = get_skeleton(skeleton or self.skeleton)
        if pred.ndim != 3 or pred.shape[1] != len(names):
            raise ValueError(f"poses must be [N, {len(names)}, 3] ({names.name}), got {list(pred.shape)}.")
        (root,) = self.indices(Joints("", (self.root,)), names)
        return measure.value(measure.alignment.errors(pred, target, valid, self.indices(measure.joints, names), root))

    def compared(self, skeleton: Skeleton) -> Skeleton:
        """The skeleton of `poses` for a model's."""
        return skeleton

    def poses(
        self, prediction: Prediction, batch: Batch, skeleton: Skeleton
    ) -> tuple[Float[Tensor, "batch joints 3"], Float[Tensor, "batch joints 3"], Bool[Tensor, "batch joints"]]:
        """What is compared of a batch: predicted and true joints (mm, one frame), and which are labelled.

        These measures forget the root's place and the camera's rotation, so the crop's frame does.
        """
        return prediction.joints3d_rel, batch["joints3d"], batch["valid3d"]

    def scorer(self, skeleton: Skeleton, data: "PoseDataModule", split: str, device: torch.device) -> "Scorer":
        """Sums and counts of every measure; see `metrics.scorers`."""
        from posezoo.metrics.scorers import SinglePersonScorer

        names = {"action": data.action_names, "sequence": data.sequence_names}[self.groups]()
        if self.averaging.grouped and not names:
            raise PoseZooError(
                f"Protocol {self.name} averages over {self.groups}s, but {type(data).__name__} does not name any: "
                "leave out --data.protocol, or give another --data."
            )
        return SinglePersonScorer(self, skeleton, names, device)

    def score(
        self,
        pred: Float[Tensor, "batch joints 3"],
        target: Float[Tensor, "batch joints 3"],
        valid: Bool[Tensor, "batch joints"] | None = None,
        *,
        action: Int64[Tensor, "batch"] | None = None,
        sequence: Int64[Tensor, "batch"] | None = None,
        skeleton: str | Skeleton | None = None,
    ) -> Result:
        """Score all samples of the protocol at once.

        Args:
            pred: Predicted joints, mm, camera or root-relative frame.
            target: Annotated joints, mm, same frame.
            valid: Labelled joints; all of them when None.
            action: Ids from 0 of the action or activity of each sample.
            sequence: Ids from 0 of its sequence.
            skeleton: Joints of the poses; the protocol's own when None.

        Raises:
            PoseZooError: The protocol averages over groups and no ids came, or the skeleton lacks a scored joint.
            ValueError: Shapes do not fit.
        """
        ids = {"action": action, "sequence": sequence}[self.groups]
        if ids is None and self.averaging.grouped:
            raise PoseZooError(f"Protocol {self.name} averages over {self.groups}s: give it the {self.groups} ids.")
        values, groups = {}, {}
        for name, joint in self.per_joint(pred, target, valid, skeleton).items():
            total, count = _sums(joint, ids)
            values[name] = float(self.averaging.mean(total, count))
            if ids is not None:
                groups[name] = {g: float(total[g] / count[g]) for g in count.nonzero()[:, 0].tolist()}
        return Result(self.definition, values, groups)

    def indices(self, joints: Joints, skeleton: Skeleton) -> list[int]:
        """Positions of scored joints in a skeleton.

        Raises:
            PoseZooError: It lacks some.
        """
        check_joints(self.name, joints.names, skeleton, self.skeleton)
        return joints.indices(skeleton)

    def _joints(self) -> str:
        return self._each(lambda m: m.joints.text)

    def _alignment(self) -> str:
        return self._each(lambda m: m.alignment.text)

    def _averaging(self) -> str:
        return self.averaging.text

    @property
    def titles(self) -> dict[str, str]:
        """Title with unit of each measure."""
        return {m.name: f"{m.title} [{m.unit}]" for m in self.measures}

    def _each(self, text: Callable[[Measure], str]) -> str:
        """What all measures share, said once, or what each has."""
        users: dict[str, list[str]] = {}
        for measure in self.measures:
            users.setdefault(text(measure), []).append(measure.name)
        if len(users) == 1:
            return next(iter(users))
        return " | ".join(f"{words} for {', '.join(names)}" for words, names in users.items())


@dataclass(frozen=True, kw_only=True)
class ReleasedHEMlets(SinglePerson):
    """The evaluator in HEMlets' repository, which finds the root depth from bone lengths of its own."""

    def score_pixels(
        self,
        pixels: Float[Tensor, "batch joints 2"],
        depth_rel: Float[Tensor, "batch joints"],
        target: Float[Tensor, "batch joints 3"],
        valid: Bool[Tensor, "batch joints"] | None = None,
        *,
        action: Int64[Tensor, "batch"] | None = None,
        skeleton: str | Skeleton | None = None,
    ) -> Result:
        """Lift 2.5D predictions as the release does (`lifting.hemlets_released`), then `score` them.

        Args:
            pixels: px of the full image.
            depth_rel: mm, relative to the root.
            target: Annotated joints, mm, camera frame.
            valid: Labelled joints; all of them when None.
            action: Ids from 0 of each sample's action.
            skeleton: h36m17 (when None) or hemlets18.
        """
        pred = hemlets_released(pixels, depth_rel)
        return self.score(pred, target, valid, action=action, skeleton=skeleton)

    scores_poses: ClassVar[bool] = False  # it lifts pixels, which a mean pose does not have

    def compared(self, skeleton: Skeleton) -> Skeleton:
        """The release's 17 joints."""
        check_joints(self.name, H36M17.joints, skeleton, "h36m17 or hemlets18")
        return H36M17

    def poses(self, prediction: Prediction, batch: Batch, skeleton: Skeleton) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions lifted from pixels of the photograph, and the truth in its camera's frame."""
        chosen = H36M_17.indices(skeleton)
        crop = batch_crop(batch)
        depth = crop.to_source(prediction.joints3d_rel)[:, chosen, 2]
        pred = hemlets_released(crop.to_image(prediction.joints2d)[:, chosen], depth)
        return pred, crop.to_source(batch["joints3d"])[:, chosen], batch["valid3d"][:, chosen]


@dataclass(frozen=True, kw_only=True)
class MultiPerson(Protocol):
    """MuPoTS-3D: people are matched first (`metrics.multiperson`).

    Attributes:
        reported: (measure, key of `multiperson.all_scores`, title, unit).
        joints, alignment: In words, for the definition.
    """

    reported: tuple[tuple[str, str, str, str], ...]
    joints: str
    alignment: str

    def scorer(self, skeleton: Skeleton, data: "PoseDataModule", split: str, device: torch.device) -> "Scorer":
        """Gathers everybody's joints, matches and scores once; see `metrics.scorers`."""
        from posezoo.metrics.scorers import MultiPersonScorer

        check_joints(self.name, MUPOTS17.joints, skeleton, "muco21 or mupots17")
        return MultiPersonScorer(self, skeleton, data, split, device)

    def score(self, predicted: "People", annotated: "People") -> Result:
        """Score all people of all sequences at once; `MuPoTSMetric` does the same over several processes."""
        # Late: torchmetrics costs seconds.
        from posezoo.metrics.multiperson import all_scores

        scores = all_scores(predicted, annotated)
        ids = annotated.sequence.unique().tolist()
        values = {name: float(scores[key].view(-1)[-1]) for name, key, _, _ in self.reported}
        groups = {
            name: dict(zip(ids, scores[key][:-1].tolist(), strict=True))
            for name, key, _, _ in self.reported
            if scores[key].ndim
        }
        return Result(self.definition, values, groups)

    def _joints(self) -> str:
        return self.joints

    def _alignment(self) -> str:
        return self.alignment

    def _averaging(self) -> str:
        return "mean over the people of each sequence, then over the 20 sequences; recall and AP_root over all people"

    @property
    def titles(self) -> dict[str, str]:
        """Title with unit of each measure."""
        return {name: f"{title} [{unit}]" for name, _, title, unit in self.reported}


@dataclass(frozen=True, kw_only=True)
class Keypoints2D(Protocol):
    """PCKh: 2D joints in the original image, in head sizes.

    Attributes:
        thresholds: In head sizes.
    """

    thresholds: tuple[float, ...] = (0.5, 0.1)

    def scorer(self, skeleton: Skeleton, data: "PoseDataModule", split: str, device: torch.device) -> "Scorer":
        """Sums and counts per joint; see `metrics.scorers`."""
        from posezoo.metrics.scorers import KeypointsScorer

        check_joints(self.name, MPII16.joints, skeleton, "hemlets18 or mpii16")
        return KeypointsScorer(self, skeleton, data, split, device)

    def score(
        self,
        pred: Float[Tensor, "batch joints 2"],
        target: Float[Tensor, "batch joints 2"],
        head_size: Float[Tensor, "batch"],
        valid: Bool[Tensor, "batch joints"] | None = None,
    ) -> Result:
        """Score all samples at once; arguments as for `functional.pckh`."""
        values = {f"pckh@{t}": float(F.pckh(pred, target, head_size, valid, t)) for t in self.thresholds}
        return Result(self.definition, values)

    def _joints(self) -> str:
        return "16 (mpii16)"

    def _alignment(self) -> str:
        return "none; distances in head sizes"

    def _averaging(self) -> str:
        return "mean over the labelled people of each joint, then over joints"

    @property
    def titles(self) -> dict[str, str]:
        """Title with unit of each measure."""
        return {f"pckh@{t}": f"PCKh < {t} [%]" for t in self.thresholds}


def check_joints(protocol: str, wanted: Sequence[str], skeleton: Skeleton, advice: str) -> None:
    """Refuse a model that does not predict what a protocol scores.

    Raises:
        PoseZooError: Naming the joints, and the skeleton to predict.
    """
    missing = [name for name in wanted if name not in skeleton.joints]
    if missing:
        raise PoseZooError(
            f"Protocol {protocol} scores {', '.join(missing)}, which {skeleton.name} lacks: predict {advice}."
        )


def _listed(subjects: Sequence[str]) -> str:
    """All names, or the first and last of a long row like TS1 .. TS20."""
    return ", ".join(subjects) if len(subjects) <= 6 else f"{subjects[0]} .. {subjects[-1]} (all {len(subjects)})"


def _sums(joint: PerJoint, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum and count [groups] of the valid values."""
    if ids is None:
        ids = torch.zeros(len(joint.value), dtype=torch.int64, device=joint.value.device)
    if ids.shape != joint.value.shape[:1] or ids.dtype != torch.int64:
        raise ValueError(f"ids must be int64 [N] = [{len(joint.value)}], got {ids.dtype} {list(ids.shape)}.")
    groups = int(ids.max()) + 1 if len(ids) else 1
    total = joint.value.new_zeros(groups, dtype=torch.float64).index_add(0, ids, joint.value.sum(1).double())
    count = joint.valid.new_zeros(groups, dtype=torch.int64).index_add(0, ids, joint.valid.sum(1))
    return total, count


S9_S11 = ("S9", "S11")
# Recordings whose labels are 200 mm off along x (isarandi/metrabs); root-relative scores do not notice, boxes do.
S9_SHIFTED = ("S9 Greeting", "S9 SittingDown 1", "S9 Waiting 1")

# What `PoseDataModule.annotation` answers where a dataset has several truths.
S9_RELEASED, S9_CORRECTED = "s9_as_released", "s9_corrected"
UNIVERSAL, METRIC = "univ_annot3", "annot3"
SMPL_JOINTS, H36M_REGRESSOR = "smpl_joints", "h36m_regressor"

_METRIC_JOINTS = "metric joints of each subject's own skeleton"
_S9_AS_RELEASED = f"{_METRIC_JOINTS}, no S9 corrections ({', '.join(S9_SHIFTED)} stay 200 mm off)"
_S9_CORRECTED = f"{_METRIC_JOINTS}, S9 corrections ({', '.join(S9_SHIFTED)} moved back 200 mm)"
_S9_UNUSED = f"{_METRIC_JOINTS}, no S9 corrections (S9 is not scored)"
_FIVE = "S1, S5, S6, S7, S8"
_h36m = partial(
    SinglePerson,
    dataset="Human3.6M",
    skeleton="h36m17",
    truth=_S9_AS_RELEASED,
    annotation=S9_RELEASED,
    complete=True,
)

_pavllo = partial(
    _h36m,
    subjects=S9_S11,
    trained_on=_FIVE,
    frames="every frame at 50 fps of all 4 cameras",
    left_out=("S11 Directions",),
    averaging=OVER_ACTIONS,
)
_moon = partial(_h36m, frames="every 64th frame of all 4 cameras", frame_step=64)
_spin = partial(_h36m, subjects=S9_S11, trained_on=_FIVE, frame_step=5)

_HUMAN36M = (
    _pavllo(
        name="h36m_p1_pavllo",
        measures=(mpjpe(H36M_17),),
        source="Pavllo et al., CVPR 2019, protocol 1, after Martinez et al., ICCV 2017; facebookresearch/VideoPose3D",
    ),
    _pavllo(
        name="h36m_p2_pavllo",
        measures=(pa_mpjpe(H36M_17),),
        source="Pavllo et al., CVPR 2019, protocol 2; facebookresearch/VideoPose3D",
    ),
    _pavllo(
        name="h36m_p1_semgcn",
        measures=(mpjpe(H36M_16),),
        source="Zhao et al., CVPR 2019, protocol 1: the 16 joints that stacked-hourglass detections have",
    ),
    _pavllo(
        name="h36m_p2_semgcn",
        measures=(pa_mpjpe(H36M_16),),
        source="Zhao et al., CVPR 2019, protocol 2",
    ),
    _moon(
        name="h36m_p1_moon",
        subjects=("S11",),
        truth=_S9_UNUSED,
        annotation="",
        trained_on=f"{_FIVE}, S9",
        measures=(pa_mpjpe(H36M_17, RIGID),),
        source="Moon et al., ICCV 2019, protocol 1, as mks0601/3DMPPE_POSENET_RELEASE aligns it",
    ),
    _moon(
        name="h36m_p1_moon_similarity",
        subjects=("S11",),
        truth=_S9_UNUSED,
        annotation="",
        trained_on=f"{_FIVE}, S9",
        measures=(pa_mpjpe(H36M_17),),
        source="the same with the usual PA-MPJPE, as Sun et al., ECCV 2018, define protocol 1",
    ),
    _moon(
        name="h36m_p2_moon",
        subjects=S9_S11,
        trained_on=_FIVE,
        measures=(mpjpe(H36M_17),),
        source="Moon et al., ICCV 2019, protocol 2; Sun et al., ECCV 2018; Chen et al., ECCV 2020",
    ),
    _moon(
        name="h36m_metrabs",
        subjects=S9_S11,
        trained_on=_FIVE,
        measures=(mpjpe(H36M_17), pa_mpjpe(H36M_17)),
        truth=_S9_CORRECTED,
        annotation=S9_CORRECTED,
        source="Sarandi et al., T-BIOM 2020; isarandi/metrabs",
    ),
    _spin(
        name="h36m_p1_spin",
        frames="every 5th frame of all 4 cameras",
        measures=(mpjpe(LSP_14), pa_mpjpe(LSP_14)),
        source="Kanazawa et al., CVPR 2018, protocol 1; nkolot/SPIN h36m-p1",
    ),
    _spin(
        name="h36m_p2_spin",
        frames="every 5th frame of the frontal camera 60457274",
        cameras=("60457274",),
        measures=(mpjpe(LSP_14), pa_mpjpe(LSP_14)),
        source="Kanazawa et al., CVPR 2018, protocol 2; nkolot/SPIN h36m-p2",
    ),
    ReleasedHEMlets(
        name="hemlets_released",
        dataset="Human3.6M",
        subjects=("S11",),
        trained_on="S1, S5, S6, S7, S8 and MPII",
        frames="every frame at 50 fps of all 4 cameras",
        skeleton="h36m17",
        measures=(mpjpe(H36M_17), pa_mpjpe(H36M_17, REVERSED)),
        averaging=OVER_ACTIONS,
        complete=True,
        truth="as given, probably the universal skeleton (no S9 in it); root depth by matching 15 constant bone "
        "lengths with f = 1150 px, which leak the subject's bones where the truth is that skeleton",
        source="redrock303/HEMlets, inference/metric_3d.py",
    ),
)

_3dhp = partial(
    SinglePerson,
    dataset="MPI-INF-3DHP",
    subjects=tuple(f"TS{n}" for n in range(1, 7)),
    subject_word="sequences",
    frames="valid frames only (valid_frame), about 2929",
    skeleton="mpi_inf_3dhp_17",
)
_UNIVERSAL = "universal skeleton (univ_annot3, normalised height), on which the method was trained too"
_METRIC = "metric skeleton (annot3, true size), on which the method was trained too"

_MPI_INF_3DHP = (
    _3dhp(
        name="mpi_inf_3dhp",
        measures=(pck150(MPI_14_PELVIS), auc31(MPI_14_PELVIS), mpjpe(MPI_14_PELVIS)),
        truth=_UNIVERSAL,
        annotation=UNIVERSAL,
        source="Mehta et al., 3DV 2017, and its test utility",
    ),
    _3dhp(
        name="mpi_inf_3dhp_metric",
        measures=(pck150(MPI_14_PELVIS), auc31(MPI_14_PELVIS), mpjpe(MPI_14_PELVIS)),
        truth=_METRIC,
        annotation=METRIC,
        source="the same on true body sizes, the only labels in mmpose's layout",
    ),
    _3dhp(
        name="mpi_inf_3dhp_posepile",
        measures=(pck150(MPI_14_HEAD), auc31(MPI_14_HEAD), mpjpe(MPI_17)),
        truth=_UNIVERSAL,
        annotation=UNIVERSAL,
        source="isarandi/posepile ds/tdhp/eval.py (MeTRAbs' later models)",
    ),
)

_3DPW = (
    SinglePerson(
        name="3dpw",
        dataset="3DPW",
        subjects=("train", "validation", "test"),
        subject_word="splits",
        trained_on="no 3DPW",
        frames="all frames of all sequences with a valid camera and 2D annotation",
        skeleton="smpl24",
        measures=(
            mpjpe(SMPL_24),
            pa_mpjpe(SMPL_24),
            Measure(
                "pck50", "PCK <= 50 mm", "%", SMPL_LIMBS, ROOT, partial(F.pck_scores, threshold=50.0, inclusive=True)
            ),
            Measure("auc", "AUC of <= 0 .. 199 mm", "0..1", SMPL_LIMBS, ROOT, F.auc_3dpw_scores),
        ),
        groups="sequence",
        truth="SMPL joints of each person's own body shape",
        annotation=SMPL_JOINTS,
        source="the 3DPW challenge (ECCV 2020); aymenmir1/3dpw-eval",
    ),
    SinglePerson(
        name="3dpw_test14",
        dataset="3DPW",
        subjects=("test",),
        subject_word="splits",
        frames="all frames of the test sequences with a valid camera",
        skeleton="h36m17",
        measures=(mpjpe(LSP_14), pa_mpjpe(LSP_14)),
        groups="sequence",
        truth="joints regressed from the SMPL mesh by the Human3.6M regressor, pelvis too",
        annotation=H36M_REGRESSOR,
        source="Kolotouros et al., ICCV 2019; nkolot/SPIN",
    ),
)

_mupots = partial(
    MultiPerson,
    dataset="MuPoTS-3D",
    subjects=tuple(f"TS{n}" for n in range(1, 21)),
    subject_word="sequences",
    trained_on="no MuPoTS-3D",
    frames="all valid frames",
    source="Mehta et al., 3DV 2018, and its MATLAB evaluation, through isarandi/posepile ds/mupots/eval.py",
)
_MUPOTS_JOINTS = "14 (head_top to ankles) of mupots17; matched in 2D on 13 within 40 px"
_RESCALED = "pelvis moved to the origin for the relative scores; predicted bones rescaled to the truth's lengths"
_RECALL = ("recall", "recall", "recall of annotated people", "0..1")

_MUPOTS_3D = (
    _mupots(
        name="mupots",
        reported=(
            ("pck_rel", "univ_rootrel_rescale.pck_all_anno", "relative 3DPCK < 150 mm, missed people count 0", "%"),
            ("pck_abs", "univ_nonrootrel_rescale.pck_all_anno", "absolute 3DPCK < 150 mm, missed people count 0", "%"),
            ("auc_rel", "univ_rootrel_rescale.auc_all_anno", "relative AUC of < 0, 5, .. 150 mm", "%"),
            ("ap_root", "ap_root", "AP_root within 250 mm", "%"),
            _RECALL,
        ),
        joints=_MUPOTS_JOINTS,
        alignment=_RESCALED,
        truth="universal skeleton (univ_annot3), AP_root on the metric one",
    ),
    _mupots(
        name="mupots_matched",
        reported=(
            ("pck_rel", "univ_rootrel_rescale.pck_matched", "relative 3DPCK < 150 mm of matched people", "%"),
            ("pck_abs", "univ_nonrootrel_rescale.pck_matched", "absolute 3DPCK < 150 mm of matched people", "%"),
            ("auc_rel", "univ_rootrel_rescale.auc_matched", "relative AUC of < 0, 5, .. 150 mm", "%"),
            _RECALL,
        ),
        joints=_MUPOTS_JOINTS,
        alignment=_RESCALED,
        truth="universal skeleton (univ_annot3)",
    ),
    _mupots(
        name="mupots_metric",
        reported=(
            ("mpjpe_rel", "nonuniv_rootrel_norescale.mpjpe14", "relative MPJPE of matched people", "mm"),
            ("mpjpe_abs", "nonuniv_nonrootrel_norescale.mpjpe14", "absolute MPJPE of matched people", "mm"),
            ("pck_rel", "nonuniv_rootrel_norescale.pck_matched", "relative 3DPCK < 150 mm of matched people", "%"),
            ("pck_abs", "nonuniv_nonrootrel_norescale.pck_matched", "absolute 3DPCK < 150 mm of matched people", "%"),
            _RECALL,
        ),
        joints=_MUPOTS_JOINTS,
        alignment="pelvis moved to the origin for the relative scores; no rescaling of bones",
        truth="metric skeleton (annot3)",
    ),
)

_OTHERS = (
    Keypoints2D(
        name="mpii_pckh",
        dataset="MPII",
        subjects=("val",),
        subject_word="splits",
        trained_on="the train split",
        frames="all annotated people of single images",
        truth="joints with a label, in px of the original image; head size is 0.6 of the head rectangle's diagonal",
        source="Andriluka et al., CVPR 2014, averaged as mmpose does",
    ),
    SinglePerson(
        name="none",
        dataset="any data",
        subjects=(),
        frames="as given",
        skeleton="h36m17",
        measures=(mpjpe(ALL), pa_mpjpe(ALL), pck150(ALL), auc31(ALL)),
        truth="as given, not a benchmark",
        source="posezoo",
    ),
)

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (*_HUMAN36M, *_MPI_INF_3DHP, *_3DPW, *_MUPOTS_3D, *_OTHERS)}


def get_protocol(name: str) -> Protocol:
    """Find a protocol by its name.

    Raises:
        PoseZooError: No such protocol; the message names the nearest.
    """
    if name not in PROTOCOLS:
        raise PoseZooError(f"There is no protocol '{name}': {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]
