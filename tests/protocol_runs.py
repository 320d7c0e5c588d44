"""Small benchmarks with known predictions: labels as the real datasets have them, black images, no network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from posezoo.cameras import Camera
from posezoo.data import PoseDataModule, PoseDataset
from posezoo.data.evaluation import Records
from posezoo.data.human36m import ACTIONS
from posezoo.errors import PoseZooError
from posezoo.metrics.multiperson import People
from posezoo.metrics.protocols import S9_RELEASED
from posezoo.models.base import PoseEstimator
from posezoo.skeletons import H36M17, MPII16, MUPOTS17, Skeleton
from posezoo.structures import Batch, Prediction, Sample, batch_crop

SIDE = 1000  # px of the source image
CAMERA = Camera.create([[1150.0, 0, 510], [0, 1140.0, 490], [0, 0, 1]])
CAMERAS = ("54138969", "60457274")


def poses(count: int, skeleton: Skeleton, seed: int = 0) -> np.ndarray:
    """Truths [N, J, 3] mm about 4.5 m away: a person of random limbs, all joints inside the image."""
    rng = np.random.default_rng(seed)
    root = np.stack([rng.uniform(-500, 500, count), rng.uniform(-300, 300, count), rng.uniform(4000, 5000, count)], 1)
    return np.asarray(root[:, None] + rng.normal(0, 250, (count, len(skeleton), 3)), np.float32)


def known_offset(sequence: Tensor, frame: Tensor, joints: int) -> Tensor:
    """What the predictions are off by, mm, in the camera's frame: a formula of the identity [B, joints, 3]."""
    phase = (1.3 * sequence + 0.7 * frame)[:, None, None].double()
    joint, axis = torch.arange(joints)[:, None], torch.arange(3)
    return 60 * torch.sin(phase + joint + 2 * axis) * (1 + sequence % 3)[:, None, None]


def pixels_of(joints: Tensor) -> Tensor:
    """Pixels of the source image, in the points' precision."""
    return CAMERA.to(joints.dtype).project(joints)


@dataclass(frozen=True, eq=False)
class Rows(PoseDataset):
    """Samples of arrays; columns are those of `Records` and the identities."""

    skeleton: Skeleton
    joints3d: np.ndarray
    identity: dict[str, np.ndarray]
    known: Records | None = None
    heads: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.joints3d)

    def read(self, index: int, draw: int = 0) -> Sample:
        joints = self.joints3d[index]
        pixels = pixels_of(torch.as_tensor(joints)).numpy()
        low, high = pixels.min(0), pixels.max(0)
        return Sample(
            image=np.zeros((SIDE, SIDE, 3), np.uint8),
            box=np.concatenate([low, high - low]).astype(np.float32),
            size=(SIDE, SIDE),
            camera=CAMERA,
            joints3d=joints,
            identity={name: int(values[index]) for name, values in self.identity.items()},
        )

    def records(self) -> Records | None:
        return self.known

    def head_sizes(self) -> np.ndarray | None:
        return self.heads


class ToyHuman36M(PoseDataModule):
    """S9 and S11 in 16 recordings of unequal length, two cameras.

    Args:
        frames: Of the shortest recording.
        step: Only every so many frames were annotated.
        subjects: In all splits.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        frames: int = 3,
        step: int = 1,
        subjects: list[str] | None = None,
        labels: str = S9_RELEASED,
        **keywords: Any,
    ) -> None:
        super().__init__(root, **keywords)
        self.frames, self.step, self.subjects, self.labels = frames, step, subjects or ["S9", "S11"], labels

    def people(self, split: str) -> Rows:
        if split == "train":
            raise PoseZooError("no training split")
        rows = [
            (subject, scene, camera, frame, action, sequence)
            for sequence, (subject, scene, action, camera) in enumerate(self.videos())
            for frame in range(
                0, self.frames + 2 * (action % 2) + (scene[-1] == "1" and camera == CAMERAS[0]), self.step
            )
        ]
        subject, scene, camera, frame, action, sequence = map(np.array, zip(*rows, strict=True))
        recording = np.char.add(np.char.add(subject, " "), scene)
        return Rows(
            H36M17,
            poses(len(rows), H36M17),
            {"action": action, "sequence": sequence, "frame": frame},
            Records(subject, frame, recording, camera),
        )

    def length(self, scene: str, action: int, camera: str) -> int:
        """Frames of a recording: odd actions are longer, and the whole is an odd number for S11."""
        return self.frames + 2 * (action % 2) + (scene == "Directions 1" and camera == CAMERAS[0])

    def videos(self) -> list[tuple[str, str, int, str]]:
        scenes = [(action, number) for number, action in enumerate(ACTIONS)] + [("Directions 1", 0)]
        return [
            (subject, scene, number, camera)
            for subject in self.subjects
            for scene, number in scenes
            for camera in CAMERAS
        ]

    def action_names(self) -> tuple[str, ...]:
        return ACTIONS

    def annotation(self, split: str) -> str:
        return self.labels


class ToyMuPoTS(PoseDataModule):
    """Twenty sequences of two people and one who is no sample, so never predicted; 59 samples of 90 people."""

    def people(self, split: str) -> Rows:
        if split == "train":
            raise PoseZooError("no training split")
        joints, ids = self.everybody()
        seen = ids[:, 2] < 2
        seen[-2] = False  # an odd number of samples
        sequence, frame, person = ids[seen].T
        subject = np.array([f"TS{number}" for number in sequence])
        identity = {"sequence": sequence, "frame": frame, "person_id": person}
        return Rows(MUPOTS17, joints[seen], identity, Records(subject, frame))

    def everybody(self) -> tuple[np.ndarray, np.ndarray]:
        """Joints and (sequence, frame, person) of all annotated people."""
        ids = np.array([(s, f, p) for s in range(1, 21) for f in range(1 + s % 2) for p in range(3)])
        return poses(len(ids), MUPOTS17, seed=1), ids

    def annotated_people(self, split: str) -> People:
        joints, ids = self.everybody()
        joints3d = torch.as_tensor(joints)
        sequence, frame, person = torch.as_tensor(ids).unbind(1)
        return People(pixels_of(joints3d), joints3d, sequence, frame, person, universal=1.05 * joints3d)

    def sequence_names(self) -> tuple[str, ...]:
        return ("", *(f"TS{number}" for number in range(1, 21)))


class ToyMPII(PoseDataModule):
    """Seven people with head sizes, one of them unknown."""

    def people(self, split: str) -> Rows:
        if split == "train":
            raise PoseZooError("no training split")
        count = 7
        heads = np.array([20, 30, 40, 25, np.nan, 60, 35], np.float32)
        records = Records(np.full(count, "val"), np.zeros(count, int))
        identity = {"sequence": np.arange(count), "frame": np.arange(count)}
        return Rows(MPII16, poses(count, MPII16, seed=2), identity, records, heads)


class Reciter(PoseEstimator):
    """Knows every label and is off by `known_offset`."""

    def __init__(self, skeleton: str = "h36m17", image_size: int = 64, **keywords: Any) -> None:
        super().__init__(skeleton=skeleton, image_size=image_size, **keywords)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.save_hyperparameters("skeleton", "image_size")

    def estimate(self, batch: Batch) -> Prediction:
        crop = batch_crop(batch)
        offset = known_offset(batch["sequence"], batch["frame"], len(self.skeleton)).float()
        joints = batch["joints3d"] + crop.from_source(offset)
        pixels = crop.project(joints)
        scores = torch.sigmoid(batch["index"].float())[:, None].expand(joints.shape[:2])
        return Prediction(joints, joints - joints[:, self.root, None], pixels, scores, "recited")

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        return {"none": self.weight * 0}


def predicted(rows: Rows) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Predictions and truth [N, J, 3] of all rows in float64, and their identities."""
    identity = {name: torch.as_tensor(values) for name, values in rows.identity.items()}
    truth = torch.as_tensor(rows.joints3d).double()
    return truth + known_offset(identity["sequence"], identity["frame"], truth.shape[1]), truth, identity


def checkpoint(folder: Path, skeleton: str) -> Path:
    """A checkpoint of the model that recites."""
    path = folder / f"{skeleton}.ckpt"
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, barebones=False)
    trainer.strategy.connect(Reciter(skeleton))
    trainer.save_checkpoint(path)
    return path


def words(path: Path, data: str, *options: str, devices: int = 1) -> list[str]:
    """What to type after `posezoo`."""
    return [
        "test",
        f"--ckpt_path={path}",
        f"--data={data}",
        "--data.num_workers=0",
        "--data.batch_size=16",
        *options,
        "--trainer.accelerator=cpu",
        f"--trainer.devices={devices}",
        "--trainer.enable_progress_bar=false",
    ]


# Name -> (skeleton, data and options) of every run that is compared between one process and two.
RUNS: dict[str, tuple[str, list[str]]] = {
    "pavllo": ("h36m17", ["ToyHuman36M", "--data.protocol=[h36m_p1_pavllo,h36m_p2_pavllo]", "--data.frames=1"]),
    "hemlets": ("hemlets18", ["ToyHuman36M", "--data.protocol=hemlets_released", "--data.frames=1"]),
    "mupots": ("muco21", ["ToyMuPoTS", "--data.protocol=mupots"]),
    "mpii": ("mpii16", ["ToyMPII", "--data.protocol=mpii_pckh"]),
}
