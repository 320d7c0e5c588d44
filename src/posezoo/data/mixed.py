"""Several DataModules in one: fixed counts of each in every batch; and two streams of one for architecture search."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from posezoo.data.base import MODEL_OWNED, CropDataset, PoseDataModule, PoseDataset, TrainLoader
from posezoo.data.crop import Augmentation, BoxKind, CropKind, CropSpec
from posezoo.data.samplers import Indices, MixedSampler
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.metrics.protocols import Protocol

if TYPE_CHECKING:
    from posezoo.metrics.multiperson import People

_MIX_DOMAIN = 0x313C  # keeps the seeds of sources apart from all other random streams
TRAIN, ARCH = 0, 1  # streams of SearchSplit; Mixed has the first one only


class Mixed(PoseDataModule):
    """Several datasets with fixed counts per batch, ordered by source: BatchNorm and losses see all kinds of labels.

    An epoch is as long as the first source: as many batches as its samples fill. Every source is an endless stream of
    freshly shuffled cycles over its own samples, so a smaller one repeats within an epoch (with other augmentation) and
    a larger one goes on in the next. Batches are the same for any number of workers, and go on exactly after a resume.

    Each source keeps its own files, augmentation and `seed`; `num_workers` and `batch_size` of a source are not used.
    `Batch.source` is the place in `sources`; `Batch.index` counts on over the training samples of all sources.

    Args:
        sources: The datasets. What the model owns (skeleton, image_size, crop, box) is passed on to them.
        counts: Samples of each in a batch of one process. 0 for a dataset that is only scored on; never the first.
        eval_source: Place of the dataset that validation, test and predict use.
        roots: Folders of sources by the name of their class, {Human36M: /data/h36m}, in place of their own `root`; by
            their place in `sources` where several are of one class. As options: --data.roots.Human36M /data/h36m.
        batch_size: Sum of the counts; leave it out.
        num_workers: Loader processes; batches are the same for every number.
        seed: Together with each source's own, seeds its shuffles and augmentation.
        skeleton: Set by the model.
        image_size: Set by the model.
        crop: Set by the model.
        box: Set by the model.

    Raises:
        PoseZooError: Counts that do not fit the sources or the batch size, or the root of a source that is not there.
    """

    def __init__(
        self,
        sources: list[PoseDataModule],
        counts: list[int],
        eval_source: int = 0,
        roots: dict[str, str] | None = None,
        batch_size: int | None = None,
        num_workers: int = 2,
        seed: int = 0,
        skeleton: str = "h36m17",
        image_size: int = 256,
        crop: CropKind = "look_at",
        box: BoxKind = "annotation",
    ) -> None:
        check_mix(sources, counts, eval_source, batch_size)
        super().__init__(None, sum(counts), num_workers, seed, None, skeleton, image_size, crop, box)
        self.sources, self.counts, self.eval_source = list(sources), list(counts), eval_source
        for source, folder in roots_of(sources, roots or {}):
            source.set_root(folder)
        self._pass_on()

    def _pass_on(self) -> None:
        """Give the sources what the model owns, and the trainer."""
        for source in self.sources:
            for name in MODEL_OWNED:
                setattr(source, name, getattr(self, name))
            source.num_workers, source.trainer = self.num_workers, self.trainer

    @property
    def scored(self) -> PoseDataModule:
        """The source that validation, test and predict use."""
        return self.sources[self.eval_source]

    def prepare_data(self) -> None:
        """Let every source prepare its files."""
        self._pass_on()
        for number, source in enumerate(self.sources):
            with self._speaking_of(number):
                source.prepare_data()

    def setup(self, stage: str) -> None:
        """Open the splits of the stage in the sources that have a part in it."""
        self._pass_on()
        super().setup(stage)

    def teardown(self, stage: str) -> None:
        """Let every source say what it skipped."""
        for source in self.sources:
            source.teardown(stage)
        self._crops.pop("val", None)

    def open(self, split: str) -> None:
        """Open a split of every trained source, or of the scored one; each must have usable labels to train with."""
        trained = [number for number, count in enumerate(self.counts) if count]
        for number in trained if split == "train" else [self.eval_source]:
            with self._speaking_of(number):
                self.sources[number].open(split)

    def people(self, split: str) -> PoseDataset:
        """The people of the scored source; of "train" there is no single set, see `sources`."""
        if split == "train":
            raise PoseZooError(f"{type(self).__name__} trains on several sources: ask each of them for its people.")
        return self.scored.people(split)

    def crops(self, split: str) -> CropDataset:
        """Crops of all sources for "train", else of the scored source."""
        if split not in self._crops:
            self._pass_on()
            if split == "train":
                self._crops[split] = self._mixed_crops(TRAIN)
            else:
                crops = copy.copy(self.scored.crops(split))
                crops.source = self.eval_source
                self._crops[split] = crops
        return self._crops[split]

    def _mixed_crops(self, stream: int) -> "MixedCrops":
        parts: list[CropDataset | None] = []
        for number, (source, count) in enumerate(zip(self.sources, self.counts, strict=True)):
            part = copy.copy(source.crops("train")) if count else None
            if part is not None:
                # Two sources of one dataset would otherwise draw the same augmentation for the same person.
                part.seed, part.source = self._seed(number, stream), number
            parts.append(part)
        return MixedCrops(parts, self.counts, self.spec)

    def _seed(self, source: int, stream: int) -> int:
        words = (_MIX_DOMAIN, self.seed, self.sources[source].seed, source, stream)
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])

    def train_dataloader(self) -> Any:
        """Batches with the counts of every source."""
        crops = self.crops("train")
        assert isinstance(crops, MixedCrops)
        return self._train_loader(crops, [np.arange(length) for length in crops.lengths], TRAIN)

    def _train_loader(
        self, crops: "MixedCrops", indices: Sequence[Indices], stream: int, batches: int | None = None
    ) -> DataLoader[Any]:
        seeds = [self._seed(number, stream) for number in range(len(self.sources))]
        try:
            sampler = MixedSampler(indices, self.counts, seeds, batches)
        except ValueError as error:
            raise PoseZooError(f"{error}: lower --trainer.devices or add samples.") from error
        if sampler.batches == 0:
            raise PoseZooError(
                f"The first source ({self._name(0)}) has {len(indices[0])} samples, fewer than its {self.counts[0]} in "
                "one batch on every process: lower the first of --data.counts."
            )
        return self._loader(crops, sampler, drop_last=True, kind=TrainLoader)

    def mean_pose(self, samples: int = 1000) -> Float[Tensor, "joints 3"] | None:
        """Mean training pose of the first source that has 3D labels, mm; None where none has."""
        self._pass_on()
        for source, count in zip(self.sources, self.counts, strict=True):
            pose = source.mean_pose(samples) if count else None
            if pose is not None:
                return pose
        return None

    def meta(self, index: int, split: str = "test") -> dict[str, Any]:
        """Readable names of a sample; of training samples also the source."""
        if split != "train":
            return self.scored.meta(index, split)
        crops = self.crops("train")
        assert isinstance(crops, MixedCrops)
        source, local = crops.place(index)
        return {"source": self._name(source), **self.sources[source].meta(local, split)}

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Those of the scored source."""
        return self.scored.protocols

    def annotation(self, split: str) -> str:
        """That of the scored source."""
        return self.scored.annotation(split)

    def annotated_people(self, split: str) -> "People":
        """Those of the scored source."""
        return self.scored.annotated_people(split)

    def action_names(self) -> tuple[str, ...]:
        """Those of the scored source."""
        return self.scored.action_names()

    def sequence_names(self) -> tuple[str, ...]:
        """Those of the scored source."""
        return self.scored.sequence_names()

    def protocol(self, split: str) -> str:
        """How the scored source reads its scores, and which mix it belongs to."""
        self._pass_on()
        mix = f"{type(self).__name__} ({self.recipe()})"
        return f"{self.scored.protocol(split)}; source {self.eval_source} of {mix}"

    def recipe(self) -> str:
        """The mix in words: "16 Human36M + 16 OrdinalDepth per batch"."""
        pairs = zip(self.sources, self.counts, strict=True)
        return " + ".join(f"{count} {type(source).__name__}" for source, count in pairs if count) + " per batch"

    def _name(self, source: int) -> str:
        return f"{source}: {type(self.sources[source]).__name__}"

    @contextmanager
    def _speaking_of(self, number: int) -> Iterator[None]:
        """Let what a source says of its --data.root name the option that sets it here."""
        try:
            yield
        except PoseZooError as error:
            option = f"--data.roots.{_handle(self.sources, number)}"
            raise PoseZooError(re.sub(r"--data\.root\b", option, str(error))) from error


def _handle(sources: Sequence[PoseDataModule], number: int) -> str:
    """What `roots` calls a source: its class, or its place where that is not the only one of its class."""
    name = type(sources[number]).__name__
    return name if [type(source).__name__ for source in sources].count(name) == 1 else str(number)


def roots_of(sources: Sequence[PoseDataModule], roots: Mapping[str, str]) -> Iterator[tuple[PoseDataModule, str]]:
    """Sources and the folders that `roots` gives them.

    Raises:
        PoseZooError: A name that no source, or more than one, has.
    """
    known = [_handle(sources, number) for number in range(len(sources))]
    places = {str(number): number for number in range(len(sources))}
    for name, folder in roots.items():
        place = known.index(name) if name in known else places.get(str(name))
        if place is None:
            raise PoseZooError(f"--data.roots has no source '{name}': {did_you_mean(str(name), known)}")
        yield sources[place], folder


def check_mix(sources: Sequence[Any], counts: Sequence[int], eval_source: int, batch_size: int | None) -> None:
    """Refuse a mix that is not one.

    Raises:
        PoseZooError: Saying which argument to change.
    """
    if not sources:
        raise PoseZooError("--data.sources is empty: list the datasets to mix.")
    if len(sources) != len(counts):
        raise PoseZooError(
            f"--data.counts has {len(counts)} numbers for {len(sources)} --data.sources: give one count for each."
        )
    if any(isinstance(source, Mixed) for source in sources):
        raise PoseZooError("--data.sources cannot hold another mix: list its datasets themselves.")
    if min(counts) < 0 or counts[0] < 1:
        raise PoseZooError(
            f"--data.counts must be 1 or more for the first source and not negative for the others, got {list(counts)}."
        )
    if not 0 <= eval_source < len(sources):
        raise PoseZooError(f"--data.eval_source is the place of a source, 0 to {len(sources) - 1}, got {eval_source}.")
    if batch_size is not None and batch_size != sum(counts):
        total = " + ".join(map(str, counts))
        raise PoseZooError(
            f"--data.batch_size {batch_size} is not the sum of --data.counts ({total} = {sum(counts)}): leave it out, "
            "or change the counts."
        )


class MixedCrops(CropDataset):
    """Rows of a `Batch` from the crops of several sources; `Batch.index` counts on over all of them.

    Indexed by (source, index in the source, draw), or by a number that counts on over the sources, with or without a
    draw.

    Args:
        parts: Crops of each source; None for one that is not trained on.
        counts: Samples of each in a batch.
        spec: What the crops look like.
    """

    def __init__(self, parts: Sequence[CropDataset | None], counts: Sequence[int], spec: CropSpec) -> None:
        self.parts, self.counts, self.spec = list(parts), list(counts), spec
        self.lengths = [0 if part is None else len(part) for part in parts]
        self.offsets = np.cumsum([0, *self.lengths])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __getitem__(self, key: Any) -> dict[str, Any]:
        if not isinstance(key, tuple):
            key = (key, 0)
        if len(key) == 2:
            key = (*self.place(key[0]), key[1])
        source, index, draw = key
        row = self._part(source)[index, draw]
        row["index"] = row["index"] + int(self.offsets[source])  # of the one that stands in for a bad image
        return row

    def place(self, index: int) -> tuple[int, int]:
        """(source, index in it) of a number that counts on over the sources."""
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, no number {index}")
        source = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return source, index - int(self.offsets[source])

    def labels(self, index: int) -> dict[str, Any]:
        """The labels of the unaugmented crop, without pixels."""
        source, local = self.place(index)
        return self._part(source).labels(local)

    def preview(self, count: int) -> list[Any]:
        """Keys in the proportions of a batch, ordered by source within each."""
        keys: list[Any] = []
        for batch in range(max(self.lengths)):
            for source, number in enumerate(self.counts):
                first = batch * number
                keys += [(source, i, 0) for i in range(first, min(first + number, self.lengths[source]))]
            if len(keys) >= count:
                break
        return keys[:count]

    def _part(self, source: int) -> CropDataset:
        part = self.parts[source]
        if part is None:
            raise IndexError(f"source {source} is not trained on")
        return part


class SearchSplit(Mixed):
    """Two disjoint streams of one dataset for architecture search: {"train": Batch, "arch": Batch} in every step.

    Weights are trained on "train", the architecture on "arch". Whole subjects go to one of them where the dataset knows
    its subjects (Human3.6M), because neighbouring frames are nearly the same; else the last `arch_share` of the samples
    go to "arch". Both streams have the dataset's batch size (of a `Mixed`, its counts). An epoch is as long as "train";
    "arch" is an endless stream of shuffled cycles. Validation and test are the dataset's own.

    Args:
        dataset: What is split; a `Mixed` is split source by source.
        arch_share: Share of the samples for "arch"; with subjects, the last ones that come nearest to it.
        arch_groups: Subjects for "arch" by name, such as [S7, S8], instead of by share.
        arch_augmentation: "same" as the dataset's; "light" without what moves or covers the person; or "none".
        roots: As for `Mixed`, of the dataset or of its sources.
        num_workers: Loader processes of each stream.
        seed: Seeds the shuffles and augmentation of both streams.
        skeleton: Set by the model.
        image_size: Set by the model.
        crop: Set by the model.
        box: Set by the model.

    Raises:
        PoseZooError: A share or subjects that leave one stream without samples.
    """

    def __init__(
        self,
        dataset: PoseDataModule,
        arch_share: float = 0.5,
        arch_groups: list[str] | None = None,
        arch_augmentation: Literal["same", "light", "none"] = "light",
        roots: dict[str, str] | None = None,
        num_workers: int = 2,
        seed: int = 0,
        skeleton: str = "h36m17",
        image_size: int = 256,
        crop: CropKind = "look_at",
        box: BoxKind = "annotation",
    ) -> None:
        if not 0 < arch_share < 1:
            raise PoseZooError(f"--data.arch_share must lie between 0 and 1, got {arch_share}.")
        if isinstance(dataset, SearchSplit):
            raise PoseZooError("--data.dataset is split already: give the dataset itself.")
        sources, counts, scored = [dataset], [dataset.batch_size], 0
        if isinstance(dataset, Mixed):
            sources, counts, scored = dataset.sources, dataset.counts, dataset.eval_source
        super().__init__(sources, counts, scored, roots, None, num_workers, seed, skeleton, image_size, crop, box)
        self.arch_share, self.arch_groups, self.arch_augmentation = arch_share, arch_groups, arch_augmentation
        self._halves: list[tuple[Indices, Indices]] | None = None

    def open(self, split: str) -> None:
        """As for `Mixed`; also divides the training split."""
        super().open(split)
        if split == "train":
            self.halves()

    def halves(self) -> list[tuple[Indices, Indices]]:
        """Indices of each source's samples for "train" and for "arch"."""
        if self._halves is None:
            crops = self.crops("train")
            assert isinstance(crops, MixedCrops)
            known = [part.people.groups() if part else None for part in crops.parts]
            self._check_groups([names for groups in known if groups for names in groups[1]])
            self._halves = [
                self._divide(length, groups) if count else (np.arange(0), np.arange(0))
                for length, groups, count in zip(crops.lengths, known, self.counts, strict=True)
            ]
        return self._halves

    def _check_groups(self, known: list[str]) -> None:
        for name in self.arch_groups or []:
            if name not in known:
                hint = did_you_mean(name, known) if known else "this dataset does not know its subjects."
                raise PoseZooError(f"--data.arch_groups names the unknown subject '{name}': {hint}")

    def _divide(self, length: int, groups: tuple[NDArray[np.int32], tuple[str, ...]] | None) -> tuple[Indices, Indices]:
        if groups is None:
            chosen = np.arange(length) >= length - round(length * self.arch_share)
        elif self.arch_groups:
            chosen = np.isin(groups[0], [groups[1].index(name) for name in self.arch_groups if name in groups[1]])
        else:
            chosen = np.isin(groups[0], last_groups(groups[0], self.arch_share))
        train, arch = np.flatnonzero(~chosen), np.flatnonzero(chosen)
        if not len(train) or not len(arch):
            raise PoseZooError(
                f"The {length} training samples cannot be split into two streams by "
                f"{'subjects' if groups else 'share'}: change --data.arch_groups or --data.arch_share."
            )
        return train, arch

    def train_dataloader(self) -> CombinedLoader:
        """Both streams, with equally many batches."""
        crops, halves = self.crops("train"), self.halves()
        assert isinstance(crops, MixedCrops)
        crops = _within(crops, [half[TRAIN] for half in halves])
        train = self._train_loader(crops, [half[TRAIN] for half in halves], TRAIN)
        arch_crops = _within(self._arch_crops(), [half[ARCH] for half in halves])
        arch = self._train_loader(arch_crops, [half[ARCH] for half in halves], ARCH, len(train))
        return CombinedLoader({"train": train, "arch": arch}, "min_size")

    def _arch_crops(self) -> MixedCrops:
        crops = self._mixed_crops(ARCH)
        changed = [part and _augmented(part, self.arch_augmentation) for part in crops.parts]
        return MixedCrops(changed, self.counts, self.spec)


def last_groups(groups: NDArray[np.int32], share: float) -> list[int]:
    """The last groups whose samples come nearest to a share of all; at least one, and never all of two or more."""
    numbers, sizes = np.unique(groups, return_counts=True)
    tails = np.cumsum(sizes[::-1])[:-1]  # samples of the last 1, 2, ... groups
    if not len(tails):
        return []
    count = int(np.argmin(np.abs(tails - share * len(groups)))) + 1
    return [int(number) for number in numbers[-count:]]


def _within(crops: MixedCrops, pools: Sequence[Indices]) -> MixedCrops:
    """The same crops, where what stands in for a bad image comes from the same stream."""
    parts = [copy.copy(part) for part in crops.parts]
    for part, pool in zip(parts, pools, strict=True):
        if part is not None:
            part.pool = pool
    return MixedCrops(parts, crops.counts, crops.spec)


def _augmented(crops: CropDataset, kind: str) -> CropDataset:
    """The same crops with less augmentation."""
    if kind == "same" or crops.augmentation is None:
        return crops
    still: dict[str, Any] = {"roll": 0.0, "full_roll": 0.0, "zoom": (1.0, 1.0), "shift": 0.0}
    light: Augmentation | None = replace(crops.augmentation, truncation=0.0, occlusion=0.0, **still)
    plain = CropDataset(crops.people, crops.spec, light if kind == "light" else None, crops.seed)
    plain.source, plain.bad = crops.source, crops.bad
    return plain
