"""Protocols batch by batch: sums over any number of processes, and one `Result` at the end.

A scorer is made by `Protocol.scorer`. It takes predictions as they come and is exact under DDP: single-person protocols
keep sums and counts, multi-person ones gather joints and ids, drop whoever was seen twice and compute once. `compute`
is a collective call.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posezoo.errors import PoseZooError
from posezoo.metrics.modular import PCKh, ProtocolMeasure
from posezoo.metrics.multiperson import MuPoTSMetric, People
from posezoo.metrics.protocols import Keypoints2D, MultiPerson, Protocol, Result, SinglePerson
from posezoo.skeletons import MPII16, MUPOTS17, Skeleton
from posezoo.structures import Batch, Prediction, batch_crop

if TYPE_CHECKING:
    from posezoo.data.base import PoseDataModule


class Scorer(ABC):
    """Scores the predictions of a split.

    Attributes:
        protocol: What it scores.
        group_names: Names of the groups (actions, sequences) by their ids in `Result.groups`.
    """

    protocol: Protocol
    group_names: tuple[str, ...] = ()

    @abstractmethod
    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Add a batch."""

    @abstractmethod
    def compute(self) -> Result:
        """The scores of all processes together."""


class SinglePersonScorer(Scorer):
    """Scores one predicted pose per annotated pose.

    Args:
        protocol: The protocol.
        skeleton: What the model predicts.
        group_names: Names of the protocol's groups; empty for none.
        device: Where sums are kept.

    Raises:
        PoseZooError: The skeleton lacks scored joints.
    """

    protocol: SinglePerson

    def __init__(
        self, protocol: SinglePerson, skeleton: Skeleton, group_names: tuple[str, ...], device: torch.device
    ) -> None:
        self.protocol, self.skeleton, self.group_names = protocol, skeleton, group_names
        compared = protocol.compared(skeleton)
        self.metrics = {
            measure.name: ProtocolMeasure(protocol, measure, compared, len(group_names) or None).to(device)
            for measure in protocol.measures
        }

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Add a batch."""
        pred, target, valid = self.protocol.poses(prediction, batch, self.skeleton)
        ids = batch[self.protocol.groups] if self.group_names else None
        for metric in self.metrics.values():
            metric.update(pred, target, valid, ids)

    def compute(self) -> Result:
        """Values, and those of every group that has any."""
        values = {name: float(metric.compute()) for name, metric in self.metrics.items()}
        groups: dict[str, dict[int, float]] = {}
        notes: list[str] = []
        for name, metric in self.metrics.items():
            if self.group_names:
                found = metric.compute_per_group()
                groups[name] = {g: float(found[g]) for g in (~found.isnan()).nonzero()[:, 0].tolist()}
                notes += self._missing_groups(len(groups[name]))
            never = metric.compute_unlabelled()
            notes += [f"{name}: no sample has a label of {', '.join(never)}"] if never else []
        return Result(self.protocol.definition, values, groups, tuple(dict.fromkeys(notes)))

    def _missing_groups(self, there: int) -> list[str]:
        if not self.protocol.averaging.grouped or there == len(self.group_names):
            return []
        return [f"only {there} of {len(self.group_names)} {self.protocol.groups}s have samples: not the benchmark"]


class KeypointsScorer(Scorer):
    """PCKh, in px of the original image.

    Args:
        protocol: The protocol.
        skeleton: What the model predicts.
        data: Knows the head sizes.
        split: What is scored.
        device: Where sums are kept.

    Raises:
        PoseZooError: There are no head sizes.
    """

    protocol: Keypoints2D

    def __init__(
        self, protocol: Keypoints2D, skeleton: Skeleton, data: "PoseDataModule", split: str, device: torch.device
    ) -> None:
        sizes = data.crops(split).people.head_sizes()
        if sizes is None:
            raise PoseZooError(
                f"Protocol {protocol.name} needs head sizes, which {type(data).__name__} does not have: "
                "leave out --data.protocol, or give another --data."
            )
        self.protocol, self.sizes = protocol, torch.as_tensor(sizes, dtype=torch.float32)
        self.joints = [skeleton.index(name) for name in MPII16.joints]
        self.metrics = {f"pckh@{t}": PCKh(len(self.joints), t).to(device) for t in protocol.thresholds}

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Add a batch."""
        crop = batch_crop(batch)
        pred, target = (crop.to_image(pixels)[:, self.joints] for pixels in (prediction.joints2d, batch["joints2d"]))
        sizes = self.sizes[batch["index"].cpu()].to(pred.device)
        for metric in self.metrics.values():
            metric.update(pred, target, batch["valid2d"][:, self.joints], sizes)

    def compute(self) -> Result:
        """Values only."""
        return Result(self.protocol.definition, {name: float(m.compute()) for name, m in self.metrics.items()})


class MultiPersonScorer(Scorer):
    """Matches the predictions of an image with everybody annotated there.

    The confidence of a predicted person, by which AP_root sorts, is that of the detector's box where the data have one,
    else the mean of its joints' scores.

    Args:
        protocol: The protocol.
        skeleton: What the model predicts.
        data: Knows the annotated people.
        split: What is scored.
        device: Where joints are kept.

    Raises:
        PoseZooError: The dataset does not know who is in its images.
    """

    protocol: MultiPerson

    def __init__(
        self, protocol: MultiPerson, skeleton: Skeleton, data: "PoseDataModule", split: str, device: torch.device
    ) -> None:
        self.protocol, self.group_names = protocol, data.sequence_names()
        self.annotated = data.annotated_people(split)
        self.joints = [skeleton.index(name) for name in MUPOTS17.joints]
        scores = data.crops(split).people.box_scores()
        self.box_scores = None if scores is None else torch.as_tensor(scores, dtype=torch.float32)
        self.gathered = MuPoTSMetric().to(device)

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Add the predicted people of a batch."""
        crop = batch_crop(batch)
        people = People(
            joints2d=crop.to_image(prediction.joints2d)[:, self.joints],
            joints3d=crop.to_source(prediction.joints3d)[:, self.joints],
            sequence=batch["sequence"],
            frame=batch["frame"],
            index=batch["index"],
            score=self._confidence(prediction.scores, batch["index"]),
        )
        self.gathered.update(people, self.annotated.take(torch.zeros(0, dtype=torch.int64)))

    def _confidence(self, scores: Tensor, index: Tensor) -> Tensor:
        if self.box_scores is None:
            return scores[:, self.joints].mean(1)
        return self.box_scores[index.cpu()].to(scores.device)

    def compute(self) -> Result:
        """Values, and those of every sequence."""
        predicted, _ = self.gathered.compute_people()
        _check_images(predicted, self.annotated, self.protocol.name)
        return self.protocol.score(predicted, self.annotated)


def _check_images(predicted: People, annotated: People, protocol: str) -> None:
    """Refuse ids that name other images: everybody would count as missed."""
    images = [torch.stack([people.sequence, people.frame], 1).cpu() for people in (predicted, annotated)]
    known = {tuple(row) for row in images[1].tolist()}
    if len(images[0]) and not any(tuple(row) in known for row in images[0].tolist()):
        raise PoseZooError(
            f"Protocol {protocol}: no (sequence, frame) of the predictions is among those of the annotated people, so "
            "`Batch` and `annotated_people` do not number the images alike."
        )
