"""MPI-INF-3DHP (Mehta et al., 3DV 2017): the official release with extracted frames, or as mmpose lays it out.

    root/S1/Seq1/annot.mat, camera.calibration, imageSequence/img_0_000001.jpg ...      official, training
    root/S1/Seq1/imageSequence/video_0.avi ...                                          for `posezoo prepare` only
    root/TS1/annot_data.mat, imageSequence/img_000001.jpg ...                           official, test
    root/images/S4_Seq2_Cam0_001033.jpg, TS1_002001.jpg ...                             mmpose, both
    root/annotations/mpi_inf_3dhp_{train,test_valid}.npz, cameras_{train,test}.pkl

The data are licensed to each user by their authors; posezoo neither ships nor fetches them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.data.annotated import CameraPeople
from posezoo.data.base import PoseDataModule
from posezoo.data.green_screen import GreenScreen, Screens, screened
from posezoo.data.layouts.mpi_inf_3dhp_labels import (
    ACTIVITIES,
    CHEST_HIGH_CAMERAS,
    OUTDOOR_DISTORTION,
    SUBJECTS,
    TEST_SEQUENCES,
    Labels,
    Selection,
)
from posezoo.data.layouts.mpi_inf_3dhp_mmpose import is_mmpose, open_mmpose_test, open_mmpose_train
from posezoo.data.layouts.mpi_inf_3dhp_official import is_official, open_official_test, open_official_train
from posezoo.errors import PoseZooError, did_you_mean


class MPIINF3DHP(PoseDataModule):
    """MPI-INF-3DHP: trains on S1 to S7, validates on S8, tests on the valid frames of TS1 to TS6.

    Args:
        root: Folder of the release (S1 ... S8 and TS1 ... TS6, or mpi_inf_3dhp_test_set) or of mmpose's layout.
        labels: "univ_annot3", skeletons of normalised height, which most papers train and test on; or "annot3", true
            sizes. Null takes the first in the release and the second in mmpose's layout, which has no other.
        train_subjects: Subjects to train on.
        val_subjects: Subjects to validate on; with [] validation is the test set.
        cameras: Cameras to train and validate on; the default is the eight at chest height.
        frame_step: Take every n-th frame of the release's videos, for training and for validation.
        min_motion: Of these, take a frame when a joint has moved this far since the last one taken, mm (MeTRAbs: 100).
        whole_body: Train and validate only on frames with all 17 joints inside the image.
        margin: Box around the joints, wider on each side by this share of the longer one.
        green_screen: Other backgrounds and clothes for training; needs the release's FGmasks and ChairMasks as frames.
        lens_distortion: Test TS5 and TS6 with the lens distortion that MeTRAbs' code gives; by default they are
            pinhole images, which is what their 2D labels are made with.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        labels: Labels | None = None,
        train_subjects: Sequence[str] = SUBJECTS[:-1],
        val_subjects: Sequence[str] = SUBJECTS[-1:],
        cameras: Sequence[int] = CHEST_HIGH_CAMERAS,
        frame_step: int = 5,
        min_motion: float = 100.0,
        whole_body: bool = True,
        margin: float = 0.025,
        green_screen: GreenScreen | None = None,
        lens_distortion: bool = False,
        **keywords: Any,
    ) -> None:
        super().__init__(root, **keywords)
        if labels not in (None, "univ_annot3", "annot3"):
            raise PoseZooError(f"--data.labels is univ_annot3, annot3 or null, got '{labels}'.")
        for name, chosen in (("train_subjects", train_subjects), ("val_subjects", val_subjects)):
            for subject in [chosen] if isinstance(chosen, str) else chosen:
                if subject not in SUBJECTS:
                    raise PoseZooError(f"--data.{name} has no subject '{subject}': {did_you_mean(subject, SUBJECTS)}")
        if set(train_subjects) & set(val_subjects):
            both = ", ".join(sorted(set(train_subjects) & set(val_subjects)))
            raise PoseZooError(f"--data.train_subjects and --data.val_subjects both have {both}: leave them to one.")
        if not cameras or not all(0 <= camera < 14 for camera in cameras):
            raise PoseZooError(f"--data.cameras must be some of 0 to 13, got {list(cameras)}.")
        if frame_step < 1:
            raise PoseZooError(f"--data.frame_step must be at least 1, got {frame_step}.")
        for name, value in (("min_motion", min_motion), ("margin", margin)):
            if not value >= 0:
                raise PoseZooError(f"--data.{name} must not be negative, got {value}.")
        self.labels, self.margin, self.lens_distortion = labels, margin, lens_distortion
        self.train_subjects, self.val_subjects = tuple(train_subjects), tuple(val_subjects)
        self.cameras, self.frame_step = tuple(cameras), frame_step
        self.min_motion, self.whole_body = min_motion, whole_body
        self.selection = Selection(tuple(cameras), frame_step, min_motion, whole_body)
        self.green_screen = green_screen
        self._opened: dict[str, CameraPeople] = {}

    def people(self, split: str) -> CameraPeople:
        """The annotated people of a split."""
        if split not in ("train", "val", "test"):
            raise PoseZooError(
                f"MPIINF3DHP has no '{split}' split: use fit, validate or test, or give pictures with --data "
                "ImageFolder."
            )
        if split == "val" and not self.val_subjects:
            split = "test"
        if split not in self._opened:
            self._opened[split] = self._open(split)
        return self._opened[split]

    def _open(self, split: str) -> CameraPeople:
        root, layout = _layout(self.root)
        labels = self._labels(layout)
        if split == "test":
            distortion = OUTDOOR_DISTORTION if self.lens_distortion else None
            open_test = open_official_test if layout == "official" else open_mmpose_test
            return open_test(root, labels, self.margin, distortion)
        subjects = self.train_subjects if split == "train" else self.val_subjects
        open_train = open_official_train if layout == "official" else open_mmpose_train
        selection = replace(self.selection, videos=self.from_videos)
        people = open_train(root, subjects, labels, selection, self.margin)
        if split == "train" and self.green_screen is not None:
            return screened(people, Screens(self.green_screen, self.seed))
        return people

    def _labels(self, layout: str) -> Labels:
        if layout == "mmpose" and self.labels == "univ_annot3":
            raise PoseZooError(
                f"{self.root} has mmpose's layout, which holds the labels annot3 only: set --data.labels annot3, or "
                "give the folder of the release."
            )
        return self.labels or ("annot3" if layout == "mmpose" else "univ_annot3")

    def annotation(self, split: str) -> str:
        """Which skeleton the labels of a split are, as protocols name it."""
        return self._labels(_layout(self.root)[1])

    def action_names(self) -> tuple[str, ...]:
        """The seven activities of the test set, and "unknown"."""
        return ACTIVITIES

    def sequence_names(self) -> tuple[str, ...]:
        """Names of the test sequences."""
        return TEST_SEQUENCES

    def protocol(self, split: str) -> str:
        """What the scores of a split mean."""
        people = self.people(split)
        who = [people.subjects[number] for number in np.unique(people.subject)]
        skeleton = "universal skeleton" if self.annotation(split) == "univ_annot3" else "metric skeleton"
        if tuple(who) != TEST_SEQUENCES:
            return f"MPI-INF-3DHP, protocol none: {', '.join(who)}, {skeleton}; n={len(people)}, not a benchmark"
        return (
            f"MPI-INF-3DHP test set, TS1 to TS6, {len(people)} valid frames, {skeleton}, root-relative, mean over "
            "joints and frames; its published measures are those of --data.protocol mpi_inf_3dhp"
        )


def _layout(root: Path | None) -> tuple[Path, str]:
    """The folder, and "official" or "mmpose"."""
    wanted = "S1 ... S8 and TS1 ... TS6 (the release), or images and annotations (mmpose's layout)"
    if root is None:
        raise PoseZooError(
            f"MPIINF3DHP does not know where its files are: set --data.root to the folder with {wanted}."
        )
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the folder with {wanted}.")
    if is_mmpose(root):
        return root, "mmpose"
    if is_official(root):
        return root, "official"
    raise PoseZooError(f"{root} holds neither layout of MPI-INF-3DHP: set --data.root to the folder with {wanted}.")
