"""What all datasets share: reading an annotated person, cropping it, and loaders with equal batches for any workers."""

import os
import signal
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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
from posezoo.data.photometric import Photometric
from posezoo.data.samplers import EvalSampler, TrainSampler
from posezoo.errors import PoseZooError
from posezoo.skeletons import Skeleton, get_skeleton
from posezoo.structures import Sample

MODEL_OWNED = ("skeleton", "image_size", "crop", "box")
SEED_DOMAIN = 0x705E  # keeps augmentation streams apart from the renderer's
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


class SampleError(PoseZooError):
    """A sample that cannot be read or cropped.

    A loader process hands its errors on as text with a traceback in front; this one cuts itself down to its sentence.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class CropDataset(Dataset[dict[str, Any]]):
    """Rows of a `Batch`: crops of the people of a `PoseDataset`.

    Indexed by an int (no augmentation draw) or by (index, draw). Randomness comes from (seed, draw, index) alone.

    Attributes:
        source: Place among the sources of a `Mixed`, for `Batch.source`; None outside one.
    """

    source: int | None = None

    def __init__(
        self, people: PoseDataset, spec: CropSpec, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        self.people, self.spec, self.augmentation, self.seed = people, spec, augmentation, seed
        self.photometric = Photometric(augmentation) if augmentation else None

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        try:
            return self._row(index, draw)
        except PoseZooError as error:
            raise SampleError(str(error)) from error

    def _row(self, index: int, draw: int) -> dict[str, Any]:
        sample = self.people.read(index, draw)
        if sample.image is None:
            raise TypeError(f"{type(self.people).__name__}.read must return an image.")
        rng = np.random.default_rng((SEED_DOMAIN, self.seed, draw, index))
        geometry = self._draw(sample, rng)
        crop = crop_camera(sample, self.people.skeleton, self.spec, geometry)
        pixels = warp(sample.image, crop)
        if self.photometric:
            pixels = self.photometric(pixels, rng)
        row = make_labels(sample, self.people.skeleton, self.spec, crop)
        row["image"] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        row["index"] = torch.tensor(index)
        if self.source is not None:
            row["source"] = torch.tensor(self.source)
        return row

    def preview(self, count: int) -> list[tuple[int, int]]:
        """Keys of the samples to look at first, at most `count`."""
        return [(index, 0) for index in range(min(count, len(self)))]

    def labels(self, index: int) -> dict[str, Any]:
        """The labels of the unaugmented crop, without pixels."""
        sample = self.people.read_labels(index)
        crop = crop_camera(sample, self.people.skeleton, self.spec, CropDraw())
        return make_labels(sample, self.people.skeleton, self.spec, crop)

    def _draw(self, sample: Sample, rng: np.random.Generator) -> CropDraw:
        if self.augmentation is None:
            return CropDraw()
        box = subject_box(sample, self.people.skeleton, self.spec)
        return draw_augmentation(self.augmentation, box, rng)


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
    """

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
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise PoseZooError(f"--data.batch_size must be at least 1, got {batch_size}.")
        if num_workers < 0:
            raise PoseZooError(f"--data.num_workers must be 0 (load in the main process) or more, got {num_workers}.")
        if seed < 0:
            raise PoseZooError(f"--data.seed must not be negative, got {seed}.")
        self.root = Path(root).expanduser() if root else None
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.augmentation = augmentation
        self.skeleton, self.image_size, self.crop, self.box = skeleton, image_size, crop, box
        self._crops: dict[str, CropDataset] = {}
        self._people: dict[str, PoseDataset] = {}
        self._mean_pose: Tensor | None = None

    def people(self, split: str) -> PoseDataset:
        """The annotated people of "train", "val", "test" or "predict".

        Raises:
            PoseZooError: The dataset has no such split, or its files are missing.
        """
        raise PoseZooError(f"{type(self).__name__} has no '{split}' split.")

    def protocol(self, split: str) -> str:
        """One line that says how a split's scores are to be read; printed with every table."""
        return f"{type(self).__name__} {split}, root-relative unless said otherwise, mean over joints and frames"

    def action_names(self) -> tuple[str, ...]:
        """Names of the values of `Batch.action`; empty when samples have no actions."""
        return ()

    @property
    def spec(self) -> CropSpec:
        """What the crops look like."""
        return CropSpec(get_skeleton(self.skeleton), self.image_size, self.crop, self.box)

    def crops(self, split: str) -> CropDataset:
        """The crops of a split, built once; augmented for "train" only."""
        if split not in self._crops:
            augmentation = self.augmentation if split == "train" else None
            self._crops[split] = CropDataset(self._split(split), self.spec, augmentation, self.seed)
        return self._crops[split]

    def _split(self, split: str) -> PoseDataset:
        if split not in self._people:
            self._people[split] = self.people(split)
        return self._people[split]

    def setup(self, stage: str) -> None:
        """Check that model and data agree, and open the splits of the stage."""
        self._check_model()
        for split in SPLITS_OF_STAGE[stage]:
            self.open(split)

    def open(self, split: str) -> None:
        """Open a split; refuse an empty one, and training data without any usable label."""
        if len(self.crops(split)) == 0:
            raise PoseZooError(f"{type(self).__name__}: the '{split}' split is empty; check --data.root.")
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
        return {**self.sampler.state_dict(), "start": self.used * (self.batch_size or 1)}  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that another loader has handed out."""
        self.sampler.load_state_dict(state)  # type: ignore[attr-defined]
        self.used = state["start"] // (self.batch_size or 1)


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


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 RGB [H, W, 3].

    Raises:
        PoseZooError: The file is missing, or is not an image that OpenCV can read.
    """
    if not path.is_file():
        raise PoseZooError(f"No image at {path}; check the path or --data.root.")
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if pixels is None:
        raise PoseZooError(f"{path} is not a readable image (empty or damaged); replace or remove it.")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
