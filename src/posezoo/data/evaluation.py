"""Which samples of a split published protocols score, and whether the split is what they are defined on.

    --data.protocol h36m_p2_moon, or Human36M(root, protocol="h36m_p2_moon")

A dataset takes part by `PoseDataset.records`; one with several variants of its truth also by
`PoseDataModule.annotation`. Everything that a protocol is not defined on is refused before the first image is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posezoo.errors import PoseZooError
from posezoo.metrics.protocols import Protocol, get_protocol

SCORED_SPLITS = ("val", "test")
# A few frames of Human3.6M have no label in every layout; a file made of every fifth frame is another thing.
_LEAST_COVERAGE = 0.9


@dataclass(frozen=True, eq=False)
class Records:
    """What protocols choose among the N samples of a split by.

    Attributes:
        subject: Text [N], named as in the protocols: "S9", "TS1", or the official split ("test") where protocols are
            defined by splits.
        frame: Integers [N], numbers in the original video, counted from 0.
        recording: Text [N], subject and scene like "S9 SittingDown 1"; None where there are no scenes.
        camera: Text [N], serial numbers; None where there is one camera.
    """

    subject: NDArray[np.str_]
    frame: NDArray[np.integer]
    recording: NDArray[np.str_] | None = None
    camera: NDArray[np.str_] | None = None

    def take(self, rows: NDArray[np.int64]) -> "Records":
        """The given samples."""
        return Records(
            self.subject[rows],
            self.frame[rows],
            None if self.recording is None else self.recording[rows],
            None if self.camera is None else self.camera[rows],
        )


def find_protocols(names: Sequence[str] | str | None) -> tuple[Protocol, ...]:
    """The protocols of one name or several, which must be defined on the same samples.

    Raises:
        PoseZooError: An unknown name (the nearest are given), or protocols over other frames or people.
    """
    chosen = [names] if isinstance(names, str) else list(names or ())
    protocols = tuple(get_protocol(name) for name in dict.fromkeys(chosen))
    for other in protocols[1:]:
        if other.samples != protocols[0].samples:
            raise PoseZooError(
                f"--data.protocol: {protocols[0].name} and {other.name} are defined on other frames, people or labels: "
                "score them one after the other."
            )
    return protocols


def scored_rows(
    records: Records | None, protocols: Sequence[Protocol], annotation: str, data: str, split: str
) -> NDArray[np.int64] | None:
    """Which samples of a split are scored: rows in ascending order, or None for all of them.

    Args:
        records: Of the split; None when its dataset does not say.
        protocols: From `find_protocols`.
        annotation: Which variant of the dataset's truth the split holds.
        data: Name of the DataModule, for messages.
        split: For messages.

    Raises:
        PoseZooError: The split is not what the protocols are defined on, in one sentence.
    """
    protocol = protocols[0]
    if protocol.annotation and annotation != protocol.annotation:
        raise PoseZooError(_other_truth(protocol, annotation, data))
    if not protocol.subjects:
        return None
    if records is None:
        raise PoseZooError(
            f"Protocol {protocol.name} scores {protocol.dataset}, but {data} does not say whose its '{split}' samples "
            "are: leave out --data.protocol, or give another --data."
        )
    there = np.unique(records.subject).tolist()
    if not set(protocol.subjects) <= set(there):
        protocol.check_subjects(there)
    keep = np.isin(records.subject, protocol.subjects)
    keep &= protocol.selects(records.frame, records.camera, records.recording)
    rows = np.flatnonzero(keep)
    if protocol.complete:
        _check_coverage(protocol, records.take(rows), data)
    return None if len(rows) == len(keep) else rows


def _other_truth(protocol: Protocol, annotation: str, data: str) -> str:
    own = f"'{annotation}'" if annotation else "of one kind only"
    return (
        f"Protocol {protocol.name} is defined on the labels '{protocol.annotation}' ({protocol.truth}), but those of "
        f"{data} are {own}: choose the other labels of the dataset, or a protocol of these."
    )


def _check_coverage(protocol: Protocol, chosen: Records, data: str) -> None:
    """Refuse data of which frames are missing: each recording needs every multiple of the step up to its last."""
    if not len(chosen.frame):
        raise PoseZooError(
            f"Protocol {protocol.name} scores {protocol.frames}, but {data} has none of them: annotate all frames of "
            "the videos."
        )
    columns = [column for column in (chosen.subject, chosen.recording, chosen.camera) if column is not None]
    places = [np.unique(column, return_inverse=True)[1] for column in columns]
    _, video = np.unique(np.stack(places), axis=1, return_inverse=True)
    last = np.zeros(int(video.max()) + 1, np.int64)
    np.maximum.at(last, video, chosen.frame)
    expected = int((last // protocol.frame_step + 1).sum())
    if len(chosen.frame) < _LEAST_COVERAGE * expected:
        raise PoseZooError(
            f"Protocol {protocol.name} scores {protocol.frames}, but {data} has only {len(chosen.frame)} of these "
            f"{expected}: annotate all frames of the videos, and leave out options of --data that skip some."
        )
