"""SyntheticPeople: rendered people with exact labels, the dataset that everything runs on out of the box."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.base import PoseDataModule, PoseDataset
from posezoo.data.crop import Augmentation, BoxKind, CropKind
from posezoo.data.synthetic.cache import build_cache, open_cache
from posezoo.data.synthetic.pose import POSE_CLASSES
from posezoo.data.synthetic.sample import SyntheticSample, render_sample
from posezoo.data.synthetic.scene import PRESETS, SPLITS, Preset
from posezoo.data.synthetic.streams import GENERATOR_VERSION
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.skeletons import SYNTHETIC25, Skeleton, convert, get_skeleton
from posezoo.structures import Sample

_WEAK_DOMAIN = 0x3EAC  # keeps the choice of withheld labels apart from all other random streams
_LABELS_ONLY_SIZE = 32  # px; poses do not depend on the resolution, and small frames render quickly


class RenderedPeople(PoseDataset):
    """A split of SyntheticPeople, rendered on demand or read from a cache.

    Args:
        split: "train", "val" or "test".
        length: Number of samples.
        frame_size: Side of the rendered source frames, px.
        preset: Name in PRESETS, or a Preset.
        seed: Another seed is another dataset.
        fresh: Render new people in every epoch: sample i of epoch e has the generator's index i + e * length.
        weak_share: Share of the samples whose 3D labels are withheld; they keep 2D and annotated depth order.
        order_threshold: Depth difference, mm, up to which a part is labelled level (HEMlets' 50 mm).
        target: Skeleton whose parts get the depth order.
        mocap: Poses to retarget instead of the procedural prior, [N, 17, 3] mm or [N, 24, 3] axis-angle.
        cache: Folder of a finished cache; None renders.
    """

    skeleton = SYNTHETIC25

    def __init__(
        self,
        split: str,
        length: int,
        frame_size: int,
        preset: str | Preset,
        seed: int,
        target: Skeleton,
        fresh: bool = False,
        weak_share: float = 0.0,
        order_threshold: float = 50.0,
        mocap: NDArray[np.float32] | None = None,
        cache: Path | None = None,
    ) -> None:
        self.split, self.length, self.frame_size, self.preset = split, length, frame_size, preset
        self.seed, self.fresh, self.weak_share, self.mocap = seed, fresh, weak_share, mocap
        self.target, self.order_threshold = target, order_threshold
        self._cache = cache
        self._opened: tuple[Any, dict[str, NDArray[Any]]] | None = None

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        # A memory map is opened anew in every loader process instead of being copied there.
        return self.__dict__ | {"_opened": None}

    def read(self, index: int, draw: int = 0) -> Sample:
        """One rendered person; `draw` counts as a new person when the dataset is fresh."""
        number = index + draw * self.length if self.fresh else index
        if self._cache is not None and number < self.length:
            images, labels = self._open()
            row = {key: values[number] for key, values in labels.items()}
            return self._sample(np.asarray(images[number]), row, number)
        return self._render(number, self.frame_size)

    def read_labels(self, index: int) -> Sample:
        """Labels only: from the cache, or from a frame of the same scene too small to look at."""
        if self._cache is not None:
            _, labels = self._open()
            return self._sample(None, {key: values[index] for key, values in labels.items()}, index)
        return self._render(index, _LABELS_ONLY_SIZE)

    def meta(self, index: int) -> dict[str, Any]:
        """Split and index: together with the generator version they are the sample's name."""
        return {"name": f"synthetic-v{GENERATOR_VERSION}/{self.preset}/{self.split}/{index}"}

    def _open(self) -> tuple[Any, dict[str, NDArray[Any]]]:
        if self._opened is None:
            if self._cache is None:
                raise RuntimeError("This split has no cache.")
            self._opened = open_cache(self._cache)
        return self._opened

    def frame(self, number: int, size: int) -> SyntheticSample:
        """The source frame of a sample, `size` px; experiments change here what the camera sees."""
        return render_sample(number, self.split, size=size, preset=self.preset, seed=self.seed, mocap=self.mocap)

    def _render(self, number: int, size: int) -> Sample:
        frame = self.frame(number, size)
        row = {"joints3d": frame.joints3d[0], "joints2d": frame.joints2d[0], "boxes": frame.boxes[0]}
        row |= {"intrinsics": frame.intrinsics, "pose_class": frame.pose_class[0]}
        return self._sample(frame.image, row, number)

    def _sample(self, image: NDArray[np.uint8] | None, row: dict[str, Any], number: int) -> Sample:
        size = self.frame_size if image is None else image.shape[0]
        action = int(row["pose_class"])
        sample = Sample(
            image=image,
            box=clipped_box(row["boxes"], size),
            size=(size, size),
            camera=Camera.create(row["intrinsics"]),
            joints3d=row["joints3d"],
            joints2d=row["joints2d"],
            identity={"action": action, "sequence": number, "frame": 0, "image_id": number},
        )
        if self.weak_share and self._is_weak(number):
            sample.depth_order, sample.valid_order = self._depth_order(row["joints3d"])
            sample.joints3d = None
        return sample

    def _is_weak(self, number: int) -> bool:
        return bool(np.random.default_rng((_WEAK_DOMAIN, self.seed, number)).random() < self.weak_share)

    def _depth_order(self, joints3d: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """+1 where the child is nearer than its parent by more than the threshold, -1 where it is farther."""
        joints, valid = convert(joints3d, None, self.skeleton, self.target)
        parent, child = np.array(self.target.parts).T
        nearer = joints[parent, 2] - joints[child, 2]
        order = np.sign(nearer) * (np.abs(nearer) > self.order_threshold)
        known = valid[parent] & valid[child]
        return np.where(known, order, 0).astype(np.int8), known


class SyntheticPeople(PoseDataModule):
    """Rendered people for training and testing without any licensed data (generator version 1).

    Scores on it are not comparable with tables on Human3.6M or MPI-INF-3DHP.

    Args:
        root: Folder for caches.
        preset: "easy" (one person), "full" (companions, occluders, some truncation), "truncated" or "multi".
        train_length: Training samples (of one epoch, when `fresh`).
        val_length: Validation samples.
        test_length: Test samples.
        frame_size: Side of the rendered frames, px; None for 1.5 times the crop.
        fresh: Render new training people in every epoch instead of repeating the same.
        cache: Render each split once into a memory-mapped file under `root`; for small frames.
        weak_share: Share of training samples that keep only 2D joints and depth order.
        mocap: npz file with `poses_mm` [N, 17, 3] (Human3.6M order, z up) as source of poses.
        batch_size: Samples per process and step.
        num_workers: Loader processes.
        seed: Seeds shuffling and augmentation; the people are those of generator seed 0.
        augmentation: Random changes of training crops; none when null.
        skeleton: Set by the model.
        image_size: Set by the model.
        crop: Set by the model.
        box: Set by the model.
    """

    GENERATOR_SEED = 0  # fixed: benchmark splits are the same for everybody

    def __init__(
        self,
        root: str | None = None,
        preset: str = "full",
        train_length: int = 20_000,
        val_length: int = 512,
        test_length: int = 2_000,
        frame_size: int | None = None,
        fresh: bool = False,
        cache: bool = False,
        weak_share: float = 0.0,
        mocap: str | None = None,
        batch_size: int = 32,
        num_workers: int = 2,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        skeleton: str = "h36m17",
        image_size: int = 256,
        crop: CropKind = "look_at",
        box: BoxKind = "annotation",
    ) -> None:
        super().__init__(root, batch_size, num_workers, seed, augmentation, skeleton, image_size, crop, box)
        if preset not in PRESETS:
            raise PoseZooError(f"Unknown preset '{preset}': {did_you_mean(preset, PRESETS)}")
        if not 0 <= weak_share <= 1:
            raise PoseZooError(f"--data.weak_share is a share, so 0 to 1, got {weak_share}.")
        if cache and self.root is None:
            raise PoseZooError(
                "--data.cache needs a folder to write to: give --data.root, for example ~/.cache/posezoo."
            )
        if cache and fresh:
            raise PoseZooError(
                "--data.fresh renders new people, which a cache cannot hold: set one of the two to false."
            )
        self.preset, self.fresh, self.cache, self.weak_share = preset, fresh, cache, weak_share
        self.lengths = {"train": train_length, "val": val_length, "test": test_length}
        self._frame_size = frame_size
        self.mocap_path = Path(mocap).expanduser() if mocap else None

    @property
    def frame_size(self) -> int:
        """Side of the rendered frames, px. `Mixed` sets the size of the crops after construction."""
        return self._frame_size or round(1.5 * self.image_size)

    def people(self, split: str) -> RenderedPeople:
        """The people of a split; "predict" shows those of "test"."""
        name = "test" if split == "predict" else split
        if name not in SPLITS:
            raise PoseZooError(f"SyntheticPeople has no '{split}' split.")
        length = self.lengths[name]
        if length < 1:
            raise PoseZooError(f"--data.{name}_length must be at least 1, got {length}.")
        training = name == "train"
        return RenderedPeople(
            name,
            length,
            self.frame_size,
            self.preset,
            self.GENERATOR_SEED,
            get_skeleton(self.skeleton),
            fresh=self.fresh and training,
            weak_share=self.weak_share if training else 0.0,
            mocap=self._mocap(),
            cache=self._cache(name) if self.cache else None,
        )

    def prepare_data(self) -> None:
        """Render the caches once per machine, before the other processes look for them."""
        if self.cache:
            stage = str(self.trainer.state.fn.value) if self.trainer and self.trainer.state.fn else "fit"
            splits = {"fit": ("train", "val"), "validate": ("train", "val")}.get(stage, ("train", "test"))
            for split in splits:  # "train" also for scoring: the mean-pose baseline is taken from it
                self._cache(split)

    def protocol(self, split: str) -> str:
        """Generator version, preset, split and number of samples."""
        name = "test" if split == "predict" else split
        return (
            f"SyntheticPeople v{GENERATOR_VERSION} '{self.preset}' {name}, n={self.lengths[name]}, "
            f"{self.frame_size} px frames; not comparable with Human3.6M tables"
        )

    def action_names(self) -> tuple[str, ...]:
        """Names of the pose classes, by `Batch.action`."""
        return POSE_CLASSES

    def _cache(self, split: str) -> Path:
        if self.root is None:
            raise PoseZooError("--data.cache needs a folder to write to: give --data.root.")
        return build_cache(
            self.root,
            split=split,
            length=self.lengths[split],
            size=self.frame_size,
            preset=self.preset,
            seed=self.GENERATOR_SEED,
            mocap=self._mocap(),
            workers=max(1, self.num_workers),
        )

    def _mocap(self) -> NDArray[np.float32] | None:
        return None if self.mocap_path is None else load_mocap(self.mocap_path)


def clipped_box(box: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The part of a box [4] ltwh that lies in the frame: what a detector would report for a truncated person.

    A subject of whom nothing is in the frame keeps the whole box.
    """
    low = np.clip(box[:2], 0, size)
    high = np.clip(box[:2] + box[2:], 0, size)
    inside = np.concatenate([low, high - low]).astype(np.float32)
    return inside if (inside[2:] > 1).all() else np.asarray(box, np.float32)


@functools.lru_cache(maxsize=2)
def load_mocap(path: Path) -> NDArray[np.float32]:
    """Poses of an npz file: `poses_mm` [N, 17, 3] or `axis_angle` [N, 24, 3].

    Raises:
        PoseZooError: No such file, or neither array in it.
    """
    if not path.is_file():
        raise PoseZooError(f"No motion capture file at {path}; check --data.mocap.")
    with np.load(path) as data:
        for key in ("poses_mm", "axis_angle"):
            if key in data.files:
                return np.asarray(data[key], np.float32)
        raise PoseZooError(f"{path} holds {', '.join(data.files)}; --data.mocap needs 'poses_mm' or 'axis_angle'.")
