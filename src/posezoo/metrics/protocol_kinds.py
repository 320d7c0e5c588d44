"""The kinds of published protocols: one pose per person, several people per image, 2D joints.

A protocol holds facts and picks formulas of `metrics.functional`; it has none of its own. `metrics.protocols` has the
table of all of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from posezoo.errors import PoseZooError
from posezoo.lifting import hemlets_released
from posezoo.metrics import functional as F
from posezoo.metrics.functional import PerJoint
from posezoo.metrics.protocol_parts import H36M_17, OVER_FRAMES, Averaging, Joints, Measure
from posezoo.skeletons import H36M17, MPII16, MUPOTS17, Skeleton, get_skeleton
from posezoo.structures import Batch, Prediction, batch_crop

if TYPE_CHECKING:
    from posezoo.data.base import PoseDataModule
    from posezoo.metrics.multiperson import People
    from posezoo.metrics.scorers import Scorer


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
        from posezoo.metrics.protocols import PROTOCOLS  # late: the table is made of these classes

        fitting = [p.name for p in PROTOCOLS.values() if p.dataset == self.dataset and set(p.subjects) == there]
        raise PoseZooError(
            f"Protocol {self.name} is defined on the {self.subject_word} {_listed(self.subjects)}, but these data have "
            f"{', '.join(sorted(there)) or 'none'}: take the protocol {' or '.join([*fitting, 'none'])} instead."
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
