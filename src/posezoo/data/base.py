"""What all datasets share: reading an annotated person, cropping it, and loaders with equal batches for any workers."""

import math
import os
import signal
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from jaxtyping import Float
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from posezoo.cameras import CropCamera
from posezoo.data.crop import (
    Augmentation,
    BoxKind,
    CropDraw,
    CropKind,
    CropSpec,
    crop_camera,
    draw_augmentation,
    make_labels,
    subject_box,
    warp,
)
from posezoo.data.evaluation import SCORED_SPLITS, Records, find_protocols, scored_rows
from posezoo.data.images import ImageError as ImageError
from posezoo.data.images import Pixels
from posezoo.data.images import open_image as open_image
from posezoo.data.images import read_image as read_image
from posezoo.data.photometric import Photometric
from posezoo.data.prepare.layout import INDEX, PreparedRoot
from posezoo.data.samplers import EvalSampler, TrainSampler
from posezoo.data.transport import collate
from posezoo.errors import PoseZooError
from posezoo.metrics.protocols import Protocol
from posezoo.skeletons import Skeleton, get_skeleton
from posezoo.structures import Sample

if TYPE_CHECKING:
    from posezoo.metrics.multiperson import People

MODEL_OWNED = ("skeleton", "image_size", "crop", "box")
SEED_DOMAIN = 0x705E  # keeps augmentation streams apart from the renderer's
MAX_BAD_IN_A_ROW = 100  # unreadable images side by side: then it is not a few files, but the folder
MAX_BAD_SHARE = 0.05  # of all images of a split, where that is more
BAD_SHOWN = 20  # warnings of bad images
Found = TypeVar("Found")
SPLITS_OF_STAGE = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class PoseDataset(ABC):
    """A split of a dataset as annotated people; implement this to add a dataset.

    Attributes:
        skeleton: The skeleton of the annotations.
    """

    skeleton: Skeleton

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int, draw: int = 0) -> Sample:
        """One annotated person with its image.

        Args:
            index: 0 <= index < len(self).
            draw: Epoch; endless datasets make a fresh sample of it, all others ignore it.
        """

    def read_labels(self, index: int) -> Sample:
        """As `read`, but the image may be None: override it where labels are cheaper."""
        return self.read(index)

    def meta(self, index: int) -> dict[str, Any]:
        """Readable names of a sample (subject, action, path), for tables and error messages."""
        return {}

    def groups(self) -> tuple[NDArray[np.int32], tuple[str, ...]] | None:
        """Subject (or sequence) of every sample, as places in a table of names: `SearchSplit` never divides one.

        None where nothing is known; then neighbours in the file stay together.
        """
        return None

    def report(self) -> str:
        """What was found, what was left out and what is missing, on one line; printed when the split is opened."""
        return ""

    def records(self) -> Records | None:
        """Whose sample each one is, from which frame and camera: what published protocols choose by.

        None where nothing is known; then no benchmark can be scored.
        """
        return None

    def head_sizes(self) -> NDArray[np.float32] | None:
        """Head size [N] of every sample, px of the source image, for PCKh; 0 where unknown, None without any."""
        return None

    def box_scores(self) -> NDArray[np.float32] | None:
        """Confidence [N] of a detector in each sample's box, for AP_root; None for annotated boxes."""
        return None


class SelectedPeople(PoseDataset):
    """Some samples of a split, numbered anew.

    Args:
        people: The whole split.
        rows: Numbers of the samples in it.
    """

    def __init__(self, people: PoseDataset, rows: NDArray[np.int64]) -> None:
        self.people, self.rows, self.skeleton = people, rows, people.skeleton

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, draw: int = 0) -> Sample:
        """One of the selected samples."""
        return self.people.read(int(self.rows[index]), draw)

    def read_labels(self, index: int) -> Sample:
        """Its labels."""
        return self.people.read_labels(int(self.rows[index]))

    def meta(self, index: int) -> dict[str, Any]:
        """Its names."""
        return self.people.meta(int(self.rows[index]))

    def groups(self) -> tuple[NDArray[np.int32], tuple[str, ...]] | None:
        """Groups of the selected samples."""
        groups = self.people.groups()
        return None if groups is None else (groups[0][self.rows], groups[1])

    def report(self) -> str:
        """What the whole split says, and how many are selected."""
        whole = self.people.report()
        return f"{f'{whole} ' if whole else ''}The protocol selects {len(self.rows)} of {len(self.people)} samples."

    def records(self) -> Records | None:
        """Records of the selected samples."""
        records = self.people.records()
        return None if records is None else records.take(self.rows)

    def head_sizes(self) -> NDArray[np.float32] | None:
        """Head sizes of the selected samples."""
        return self._taken(self.people.head_sizes())

    def box_scores(self) -> NDArray[np.float32] | None:
        """Box scores of the selected samples."""
        return self._taken(self.people.box_scores())

    def _taken(self, values: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        return None if values is None else values[self.rows]


class SampleError(PoseZooError):
    """A sample that cannot be read or cropped.

    A loader process hands its errors on as text with a traceback in front; this one cuts itself down to its sentence.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class CropDataset(Dataset[dict[str, Any]]):
    """Rows of a `Batch`: crops of the people of a `PoseDataset`.

    Indexed by an int (no augmentation draw) or by (index, draw). Randomness comes from (seed, draw, index) alone.

    With `skip_bad`, the next sample (cyclically, by index, within `pool`) whose image can be read stands in for one
    whose image cannot, with the augmentation draw of the place that it fills. So batches depend on the files alone.

    Attributes:
        source: Place among the sources of a `Mixed`, for `Batch.source`; None outside one.
        pool: Sorted indices that may stand in; None for all.
        bad: uint8 [N], 1 for each image found bad, shared with the loader processes; None without `skip_bad`.
    """

    source: int | None = None
    pool: NDArray[np.int64] | None = None

    def __init__(
        self,
        people: PoseDataset,
        spec: CropSpec,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> None:
        self.people, self.spec, self.augmentation, self.seed = people, spec, augmentation, seed
        self.photometric = Photometric(augmentation) if augmentation else None
        self.bad = torch.zeros(len(people), dtype=torch.uint8).share_memory_() if skip_bad else None

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        try:
            return self._row(index, draw)
        except PoseZooError as error:
            raise SampleError(str(error)) from error

    def _row(self, index: int, draw: int) -> dict[str, Any]:
        at, (sample, crop, pixels, rng) = self._readable(index, lambda at: self._crop(at, draw, index))
        if self.photometric:
            pixels = self.photometric(pixels, rng)
        row = make_labels(sample, self.people.skeleton, self.spec, crop)
        row["image"] = torch.from_numpy(np.stack(cv2.split(pixels)))
        row["index"] = torch.tensor(at)
        if self.source is not None:
            row["source"] = torch.tensor(self.source)
        return row

    def _crop(self, index: int, draw: int, place: int) -> tuple[Sample, CropCamera, Pixels, np.random.Generator]:
        """A person's crop, and the random stream of the place that it fills; files are decoded in here."""
        sample = self.read_checked(index, draw)
        assert sample.image is not None
        rng = np.random.default_rng((SEED_DOMAIN, self.seed, draw, place))
        crop = crop_camera(sample, self.people.skeleton, self.spec, self._draw(sample, rng))
        return sample, crop, warp(sample.image, crop), rng

    def read_checked(self, index: int, draw: int = 0) -> Sample:
        """A person with its image, as the dataset reads it.

        Raises:
            ImageError: The image cannot be read or does not show the person.
            PoseZooError: The labels are of no use.
        """
        sample = self._checked(index, self.people.read(index, draw))
        if sample.image is None:
            raise TypeError(f"{type(self.people).__name__}.read must return an image.")
        left, top, width, height = box = subject_box(sample, self.people.skeleton, self.spec)
        if left >= sample.size[0] or top >= sample.size[1] or left + width <= 0 or top + height <= 0:
            raise ImageError(
                f"{self._name(index)} does not show its person: the box {_rounded(box)} (left, top, width, height) "
                f"lies outside the image of {sample.size[0]} x {sample.size[1]} px; correct or remove the annotation."
            )
        return sample

    def _checked(self, index: int, sample: Sample) -> Sample:
        """A sample whose labels that are not finite are unlabelled; one that cannot be cropped is refused."""
        box = sample.box.tolist()
        if not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
            raise PoseZooError(
                f"{self._name(index)} has the box {_rounded(sample.box)}, but left, top, width and height must be "
                "numbers, and the last two positive: correct the annotation or remove it."
            )
        if sample.camera is not None:
            k = sample.camera.intrinsics.tolist()
            (a, b, _), (c, d, _), _ = k
            if not all(map(math.isfinite, chain(*k))) or a * d == b * c:
                raise PoseZooError(
                    f"{self._name(index)} has a camera with the intrinsics {k}: correct its focal length."
                )
            lens = sample.camera.distortion.tolist()
            if not all(map(math.isfinite, lens)):
                raise PoseZooError(f"{self._name(index)} has a camera with the distortion {lens}: correct it.")
        valid3d = finite(sample.joints3d, sample.valid3d)
        valid2d = finite(sample.joints2d, sample.valid2d)
        if valid3d is sample.valid3d and valid2d is sample.valid2d:
            return sample
        return replace(sample, valid3d=valid3d, valid2d=valid2d)

    def _readable(self, index: int, read: Callable[[int], Found]) -> tuple[int, Found]:
        """What `read` makes of the sample, or of the one that stands in for it, with its index."""
        if self.bad is None:
            return index, read(index)
        pool: Sequence[int] | NDArray[np.int64] = range(len(self)) if self.pool is None else self.pool
        place = index if self.pool is None else int(np.searchsorted(self.pool, index))
        first: ImageError | None = None
        for step in range(min(len(pool), MAX_BAD_IN_A_ROW)):
            at = int(pool[(place + step) % len(pool)])
            try:
                return at, read(at)
            except ImageError as error:
                first = first or error
                self._report(at, error)
        raise PoseZooError(f"{min(len(pool), MAX_BAD_IN_A_ROW)} images in a row are bad; the first: {first}")

    def _report(self, index: int, error: ImageError) -> None:
        """Warn of each bad image once, whichever process meets it, of the first ones; refuse where they are many."""
        assert self.bad is not None
        if self.bad[index]:
            return
        self.bad[index] = 1
        found = int(self.bad.sum())
        if found > max(MAX_BAD_IN_A_ROW, MAX_BAD_SHARE * len(self)):
            raise PoseZooError(
                f"{found} of {len(self)} images are bad, which is more than a few files; the last: {error} Mend the "
                "folder, or prepare the dataset with `posezoo prepare`, which leaves such people out."
            )
        if found <= BAD_SHOWN:
            more = " (no more of these will be shown; the end of fit has their number)" if found == BAD_SHOWN else ""
            warnings.warn(f"Another sample stands in (on_bad_image=skip): {error}{more}", BadImageWarning, stacklevel=2)

    def _name(self, index: int) -> str:
        return str(self.people.meta(index).get("path") or f"Sample {index} of {type(self.people).__name__}")

    def preview(self, count: int) -> list[tuple[int, int]]:
        """Keys of the samples to look at first, at most `count`."""
        return [(index, 0) for index in range(min(count, len(self)))]

    def labels(self, index: int) -> dict[str, Any]:
        """The labels of the unaugmented crop, without pixels."""
        _, sample = self._readable(index, lambda at: self._checked(at, self.people.read_labels(at)))
        crop = crop_camera(sample, self.people.skeleton, self.spec, CropDraw())
        return make_labels(sample, self.people.skeleton, self.spec, crop)

    def _draw(self, sample: Sample, rng: np.random.Generator) -> CropDraw:
        if self.augmentation is None:
            return CropDraw()
        box = subject_box(sample, self.people.skeleton, self.spec)
        return draw_augmentation(self.augmentation, box, rng)


class BadImageWarning(UserWarning):
    """An image was skipped; see `on_bad_image`."""


def finite(joints: NDArray[Any] | None, valid: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Which labels are valid, when those that are NaN or infinite are not; `valid` itself where all are finite."""
    if joints is None:
        return valid
    each = np.isfinite(joints)
    if each.all():
        return valid
    numbers: NDArray[np.bool_] = each.all(-1)
    return numbers if valid is None else valid & numbers


def _rounded(box: NDArray[Any]) -> list[float]:
    return [round(float(value), 1) for value in box]


class PoseDataModule(pl.LightningDataModule):
    """Base of all DataModules. Subclasses implement `people(split)`.

    Args:
        root: Folder of the dataset.
        batch_size: Samples per process and step.
        num_workers: Loader processes; batches are the same for every number.
        seed: Seeds shuffling and augmentation.
        augmentation: Random changes of training crops; none when null.
        skeleton: Set by the model: target skeleton.
        image_size: Set by the model: side of the crop, px.
        crop: Set by the model: kind of the crop camera.
        box: Set by the model: what is cropped.
        on_bad_image: What `fit` does about an image that cannot be read or does not show its person. "skip" takes the
            next readable sample instead, warns of each bad image once, and counts them at the end of the run; so does
            its validation, whose table then says so. "raise" stops with the image's path. `validate`, `test` and
            `predict` always stop: a score over other samples is another score.
        protocol: Published protocol, or several over the same samples, that validation and test follow
            (docs/protocols.md): it selects their frames and people, refuses others, and is printed with its scores.

    Attributes:
        from_videos: Whether frames that are only in videos count as there; `posezoo prepare` takes them out.
    """

    from_videos = False

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 32,
        num_workers: int = 2,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        skeleton: str = "h36m17",
        image_size: int = 256,
        crop: CropKind = "look_at",
        box: BoxKind = "annotation",
        on_bad_image: Literal["raise", "skip"] = "skip",
        protocol: list[str] | str | None = None,
    ) -> None:
        super().__init__()
        self._protocols = find_protocols(protocol)
        if on_bad_image not in ("raise", "skip"):
            raise PoseZooError(f"--data.on_bad_image is raise or skip, got '{on_bad_image}'.")
        self.on_bad_image = on_bad_image
        if batch_size < 1:
            raise PoseZooError(f"--data.batch_size must be at least 1, got {batch_size}.")
        if num_workers < 0:
            raise PoseZooError(f"--data.num_workers must be 0 (load in the main process) or more, got {num_workers}.")
        if seed < 0:
            raise PoseZooError(f"--data.seed must not be negative, got {seed}.")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.augmentation = augmentation
        self.skeleton, self.image_size, self.crop, self.box = skeleton, image_size, crop, box
        self._crops: dict[str, CropDataset] = {}
        self._people: dict[str, PoseDataset] = {}
        self._mean_pose: Tensor | None = None
        self.set_root(root)

    def set_root(self, root: str | None) -> None:
        """Give the folder of the dataset; before any split is opened. Prepared data is found here."""
        self.root = Path(root).expanduser() if root else None
        prepared = PreparedRoot(self) if self.root and (self.root / INDEX).is_file() else None
        # On the instance, where they come before the methods of every subclass.
        for name in ("people", "annotation", "annotated_people"):
            self.__dict__.pop(name, None)
            if prepared is not None:
                setattr(self, name, getattr(prepared, name))

    def people(self, split: str) -> PoseDataset:
        """The annotated people of "train", "val", "test" or "predict".

        Raises:
            PoseZooError: The dataset has no such split, or its files are missing.
        """
        raise PoseZooError(f"{type(self).__name__} has no '{split}' split.")

    def protocol(self, split: str) -> str:
        """One line that says how a split's scores are to be read; printed with every table."""
        return f"{type(self).__name__} {split}, root-relative unless said otherwise, mean over joints and frames"

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The published protocols that validation and test follow; none unless asked for."""
        return self._protocols

    def annotation(self, split: str) -> str:
        """Which variant of its truth a split holds, as `Protocol.annotation` names it; "" where there is only one."""
        return ""

    def annotated_people(self, split: str) -> "People":
        """Everybody annotated in the images of a split, also who is no sample: MuPoTS-3D's truth.

        `sequence` and `frame` are those of `Batch`: together they name an image. Joints as in mupots17, in px of the
        original image and mm in the source camera's frame, with the universal skeleton.

        Raises:
            PoseZooError: The dataset does not know.
        """
        raise PoseZooError(
            f"{type(self).__name__} does not list everybody in its images, which protocols that match people need: "
            "give another --data.protocol or --data."
        )

    def action_names(self) -> tuple[str, ...]:
        """Names of the values of `Batch.action`; empty when samples have no actions."""
        return ()

    def sequence_names(self) -> tuple[str, ...]:
        """Names of the values of `Batch.sequence`; empty when sequences have none."""
        return ()

    @property
    def spec(self) -> CropSpec:
        """What the crops look like."""
        return CropSpec(get_skeleton(self.skeleton), self.image_size, self.crop, self.box)

    def crops(self, split: str) -> CropDataset:
        """The crops of a split, built once; augmented for "train" only."""
        if split not in self._crops:
            augmentation = self.augmentation if split == "train" else None
            skip = self.on_bad_image == "skip" and (split == "train" or (split == "val" and self._fitting()))
            self._crops[split] = CropDataset(self._split(split), self.spec, augmentation, self.seed, skip)
        return self._crops[split]

    def _fitting(self) -> bool:
        return getattr(getattr(self.trainer, "state", None), "fn", None) == "fit"

    def _split(self, split: str) -> PoseDataset:
        if split not in self._people:
            people = self.people(split)
            if self._protocols and split in SCORED_SPLITS:
                names = type(self).__name__, split
                rows = scored_rows(people.records(), self._protocols, self.annotation(split), *names)
                people = people if rows is None else SelectedPeople(people, rows)
            self._people[split] = people
        return self._people[split]

    def setup(self, stage: str) -> None:
        """Check that model and data agree, and open the splits of the stage."""
        self._check_model()
        for split in SPLITS_OF_STAGE[stage]:
            self.open(split)

    def teardown(self, stage: str) -> None:
        """Say how many images were skipped, on whichever process."""
        kinds = {"train": "training", "val": "validation"} if stage == "fit" else {}
        for split, kind in kinds.items():
            bad = self.bad_images(split)
            if bad and getattr(self.trainer, "is_global_zero", True):
                total = len(self._crops[split])
                print(f"{type(self).__name__}: {bad} of {total} {kind} images were bad and skipped.")
        self._crops.pop("val", None)  # `fit` replaces bad images of it, and `validate` none

    def bad_images(self, split: str) -> int:
        """How many images of a split others have stood in for, on all processes together. A collective call."""
        bad = getattr(self._crops.get(split), "bad", None)
        if bad is None:
            return 0
        if dist.is_available() and dist.is_initialized():  # a run that broke down does not get here
            bad = bad.to(self.trainer.strategy.root_device)
            dist.all_reduce(bad, dist.ReduceOp.MAX)  # one image may have been met by several
        return int(bad.sum())

    def open(self, split: str) -> None:
        """Open a split; refuse an empty one, and training data without any usable label."""
        if len(self.crops(split)) == 0:
            raise PoseZooError(f"{type(self).__name__}: the '{split}' split is empty; check --data.root.")
        report = self._split(split).report()
        if report:
            rank_zero_info(report)
        if split == "train":
            self._check_labels()

    def _check_labels(self, samples: int = 64) -> None:
        """Refuse to train on nothing; a few samples all over the split are looked at."""
        crops = self.crops("train")
        for index in np.linspace(0, len(crops) - 1, min(samples, len(crops))).astype(int):
            row = crops.labels(int(index))
            if any(bool(row[key].any()) for key in ("valid3d", "valid2d", "valid_order")):
                return
        raise PoseZooError(
            f"{type(self).__name__}: no training sample has a label that {self.skeleton} knows: choose another "
            "--model.skeleton or check the annotations under --data.root."
        )

    def _check_model(self) -> None:
        model = getattr(self.trainer, "lightning_module", None)
        for name in MODEL_OWNED:
            wanted = getattr(model, name, None)
            made = getattr(self, name)
            if name == "skeleton" and wanted is not None:  # several names may mean one skeleton
                wanted, made = get_skeleton(wanted).name, get_skeleton(made).name
            if wanted is not None and wanted != made:
                raise PoseZooError(
                    f"The model wants {name}={wanted!r} but the data makes {made!r}: "
                    f"pass {type(self).__name__}({name}={wanted!r})."
                )

    def meta(self, index: int, split: str = "test") -> dict[str, Any]:
        """Readable names of a sample of a split."""
        return self._split(split).meta(index)

    def mean_pose(self, samples: int = 1000) -> Float[Tensor, "joints 3"] | None:
        """Mean root-relative pose of unaugmented training crops, mm: the baseline that a model must beat.

        None when the dataset has no training split or no 3D labels in it.
        """
        if self._mean_pose is None:
            root = get_skeleton(self.skeleton).root
            try:
                crops = self.crops("train")
            except PoseZooError:
                return None
            count = min(samples, len(crops))
            if count == 0 or root is None:
                return None
            indices = np.linspace(0, len(crops) - 1, count).astype(int)
            rows = [crops.labels(int(index)) for index in indices]
            joints = torch.stack([row["joints3d"] for row in rows]).double()
            valid = torch.stack([row["valid3d"] for row in rows])
            valid = valid & valid[:, [root]]
            relative = (joints - joints[:, [root]]) * valid[..., None]
            if not valid.any():
                return None
            self._mean_pose = (relative.sum(0) / valid.sum(0).clamp(min=1)[:, None]).float()
        return self._mean_pose

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled crops; incomplete last batches are dropped (BatchNorm dislikes a batch of one)."""
        crops = self.crops("train")
        sampler = TrainSampler(crops, self.seed)
        if len(sampler) < self.batch_size:
            raise PoseZooError(
                f"The training split has {len(crops)} samples, fewer than one batch on every process: "
                f"lower --data.batch_size (now {self.batch_size})."
            )
        return self._loader(crops, sampler, drop_last=True, kind=TrainLoader)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every validation crop once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Every test crop once."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Every crop to predict once."""
        return self._eval_loader("predict")

    def _eval_loader(self, split: str) -> DataLoader[Any]:
        crops = self.crops(split)
        return self._loader(crops, EvalSampler(crops), drop_last=False)

    def _loader(
        self, crops: Dataset[Any], sampler: Any, drop_last: bool, kind: type[DataLoader[Any]] = DataLoader
    ) -> DataLoader[Any]:
        workers = self.num_workers
        return kind(
            crops,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=drop_last,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=single_threaded if workers else None,
            persistent_workers=bool(workers),
        )


class TrainLoader(DataLoader[Any]):
    """A loader over a `TrainSampler` that a checkpoint can resume in the middle of an epoch.

    Lightning saves and restores its state. Batches that workers have made ahead do not count as used.
    """

    used = 0  # batches handed out in the current epoch

    def __iter__(self) -> Any:
        # A generator: it asks the sampler at the first batch, after the trainer has announced a resumed epoch.
        self.used = self.sampler.start // (self.batch_size or 1)  # type: ignore[attr-defined]
        for batch in super().__iter__():
            self.used += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch, and samples of this process used in it."""
        used = self.used * (self.batch_size or 1)
        return {**self.sampler.state_dict(), **self._made_of(), "start": used}  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that another loader has handed out.

        Raises:
            PoseZooError: Its batches were of another size, or for another number of processes.
        """
        ours = self._made_of()
        before = {key: state.get(key, value) for key, value in ours.items()}  # older checkpoints do not say
        if before != ours:
            size, ranks = before.values()
            raise PoseZooError(
                f"The checkpoint was made with {size} samples a batch on {ranks} process{'es' * (ranks > 1)}, but "
                f"this run has {ours['batch_size']} on {ours['processes']}, so its batches would be other ones: set "
                f"--data.batch_size {size} and --trainer.devices {ranks} (in all), or begin a new run from the weights "
                "with --weights PATH instead of --ckpt_path."
            )
        self.sampler.load_state_dict(state)  # type: ignore[attr-defined]
        self.used = state["start"] // (self.batch_size or 1)

    def _made_of(self) -> dict[str, int]:
        """What decides which samples make a batch, besides seed and data."""
        return {"batch_size": self.batch_size or 1, "processes": self.sampler.num_replicas}  # type: ignore[attr-defined]


def single_threaded(_worker: int) -> None:
    """One thread per loader process: the pools of OpenCV and torch only get in each other's way.

    Ctrl-C and the first SIGTERM (SLURM sends it to all processes of a job) are the main process's to answer: it
    finishes its step, for which it needs its loaders. A second SIGTERM ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
