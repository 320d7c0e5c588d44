"""Several datasets in one batch: fixed counts, any number of workers and ranks, and exact resuming; search streams."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from numpy.typing import NDArray
from tests_cli_helpers import log_to
from torch import Tensor, nn

from posezoo.__main__ import main
from posezoo.callbacks.run_config import plain
from posezoo.cameras import Camera
from posezoo.data import Mixed, SearchSplit, SyntheticPeople
from posezoo.data.base import PoseDataModule, PoseDataset, TrainLoader
from posezoo.data.crop import Augmentation
from posezoo.data.mixed import last_groups
from posezoo.data.samplers import MixedSampler
from posezoo.errors import PoseZooError
from posezoo.skeletons import H36M17, HEMLETS18
from posezoo.structures import Batch, Sample

AUGMENTATION = Augmentation(occlusion=0.3, blur=0.3)


class People(PoseDataset):
    """Random poses on noise, another set for each `name`; equal parts belong to so many subjects."""

    skeleton = H36M17

    def __init__(self, length: int, name: int, labelled: bool, subjects: int) -> None:
        self.length, self.name, self.labelled, self.subjects = length, name, labelled, subjects

    def __len__(self) -> int:
        return self.length

    def read_labels(self, index: int) -> Sample:
        rng = np.random.default_rng((self.name, index))
        joints = rng.uniform(-400, 400, (17, 3)).astype(np.float32) + np.float32([0, 0, 2500])
        camera = Camera.create([[90.0, 0, 50], [0, 90, 38], [0, 0, 1]])
        pixels = camera.project(torch.as_tensor(joints)).numpy()
        box = np.float32([25, 15, 45, 50])
        if not self.labelled:
            return Sample(None, box, (100, 76), joints2d=pixels, identity={"frame": index})
        return Sample(None, box, (100, 76), camera, joints, identity={"frame": index})

    def read(self, index: int, draw: int = 0) -> Sample:
        sample = self.read_labels(index)
        sample.image = np.random.default_rng((self.name, index)).integers(0, 256, (76, 100, 3), np.uint8)
        return sample

    def meta(self, index: int) -> dict[str, Any]:
        return {"name": f"{self.name}-{index}"}

    def groups(self) -> tuple[NDArray[np.int32], tuple[str, ...]] | None:
        if not self.subjects:
            return None
        numbers = np.arange(self.length) * self.subjects // self.length
        return numbers.astype(np.int32), tuple(f"S{n}" for n in range(self.subjects))


class Toy(PoseDataModule):
    def __init__(
        self, length: int = 12, name: int = 0, labelled: bool = True, subjects: int = 0, **keywords: Any
    ) -> None:
        super().__init__(**{"num_workers": 0, "batch_size": 4, "augmentation": AUGMENTATION, **keywords})
        self.length, self.name, self.labelled, self.subjects = length, name, labelled, subjects

    def people(self, split: str) -> PoseDataset:
        return People(self.length if split == "train" else 3, self.name, self.labelled, self.subjects)

    def protocol(self, split: str) -> str:
        return f"toy {self.name} {split}"


def mix(*lengths: int, counts: tuple[int, ...] = (2, 1), workers: int = 0, **keywords: Any) -> Mixed:
    sources: list[PoseDataModule] = [Toy(length, name) for name, length in enumerate(lengths or (8, 5))]
    return Mixed(sources, list(counts), num_workers=workers, image_size=32, **keywords)


def epoch(data: PoseDataModule, number: int = 0) -> list[Any]:
    loader = data.train_dataloader()
    for part in getattr(loader, "flattened", [loader]):
        part.sampler.set_epoch(number)
    if not hasattr(loader, "flattened"):
        return list(loader)
    return [batch for batch, _, _ in loader]


def assert_same(some: Any, others: Any) -> None:
    assert type(some) is type(others)
    if isinstance(some, Tensor):
        assert torch.equal(some, others)
    elif isinstance(some, dict):
        assert some.keys() == others.keys()
        for key, value in some.items():
            assert_same(value, others[key])
    else:
        assert len(some) == len(others)
        for one, other in zip(some, others, strict=True):
            assert_same(one, other)


# ------------------------------------------------------------------------------------------------- batches


def test_every_batch_has_the_counts_of_every_source_in_order() -> None:
    data = mix(8, 5, 3, counts=(2, 3, 1))
    assert data.batch_size == 6
    assert len(data.train_dataloader()) == 4  # as many as the first source fills: 8 / 2
    for number in range(3):
        batches = epoch(data, number)
        assert len(batches) == 4
        for batch in batches:
            assert batch["source"].tolist() == [0, 0, 1, 1, 1, 2]
            assert set(batch) == set(Batch.__annotations__)
            assert batch["image"].shape == (6, 3, 32, 32)


def test_an_index_says_which_sample_of_which_source_it_is() -> None:
    data = mix(8, 5)
    for batch in epoch(data):
        for source, index, frame in zip(batch["source"], batch["index"], batch["frame"], strict=True):
            assert int(index) == int(frame) + 8 * int(source)  # indices count on over the sources
            meta = data.meta(int(index), "train")
            assert meta == {"source": f"{int(source)}: Toy", "name": f"{int(source)}-{int(frame)}"}
    crops = data.crops("train")
    assert len(crops) == 13
    assert_same(crops[9], crops[1, 1, 0])  # type: ignore[index]
    with pytest.raises(IndexError, match="no number 13"):
        crops[13]


def seen(data: PoseDataModule, epochs: int) -> dict[int, list[int]]:
    """Frames of each source in the order of training."""
    frames: dict[int, list[int]] = {}
    for number in range(epochs):
        for batch in epoch(data, number):
            for source, frame in zip(batch["source"].tolist(), batch["frame"].tolist(), strict=True):
                frames.setdefault(source, []).append(frame)
    return frames


def test_a_source_repeats_nobody_before_all_others_have_come() -> None:
    """The second source ends in the middle of the first epoch, the third needs more than one."""
    frames = seen(mix(8, 3, 9, counts=(2, 2, 1)), 5)
    assert [len(frames[source]) for source in range(3)] == [40, 40, 20]
    for source, length in enumerate((8, 3, 9)):
        cycles = [frames[source][at : at + length] for at in range(0, len(frames[source]) - length + 1, length)]
        assert all(sorted(cycle) == list(range(length)) for cycle in cycles)
        assert len({tuple(cycle) for cycle in cycles}) > 1  # shuffled anew


def test_a_first_source_that_does_not_fill_its_batches_goes_on_in_the_next_epoch() -> None:
    frames = seen(mix(7, 5), 7)
    assert len(frames[0]) == 7 * 6
    assert set(Counter(frames[0]).values()) == {6}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_single_pixel(workers: int) -> None:
    for number in (0, 2):
        assert_same(epoch(mix(), number), epoch(mix(workers=workers), number))


def test_every_source_has_its_own_augmentation() -> None:
    sources: list[PoseDataModule] = [Toy(8, 0), Toy(6, 1, augmentation=None)]
    data = Mixed(sources, [2, 2], num_workers=0, image_size=32)
    still = [Toy(8, name, augmentation=None, image_size=32).crops("train") for name in (0, 1)]
    changed = 0
    for number in range(2):
        for batch in epoch(data, number):
            for row in (0, 1):
                changed += not torch.equal(batch["image"][row], still[0][int(batch["frame"][row])]["image"])
            for row in (2, 3):
                assert torch.equal(batch["image"][row], still[1][int(batch["frame"][row])]["image"])
    assert changed == 2 * 4 * 2


def test_every_source_has_its_own_seed_stream() -> None:
    def rows(seed: int = 0, second: int = 0) -> list[Any]:
        sources: list[PoseDataModule] = [Toy(8, 0), Toy(8, 0, seed=second)]
        return epoch(Mixed(sources, [2, 2], num_workers=0, seed=seed, image_size=32))

    base = rows()
    pictures = [row.numpy().tobytes() for batch in base for row in batch["image"]]
    assert len(set(pictures)) == 16  # the same people in both halves, but no draw twice
    orders = [[frame for batch in base for frame in batch["frame"][half : half + 2].tolist()] for half in (0, 2)]
    assert orders[0] != orders[1]
    other = rows(second=1)
    assert all(torch.equal(a["image"][:2], b["image"][:2]) for a, b in zip(base, other, strict=True))
    assert not any(torch.equal(a["image"][2:], b["image"][2:]) for a, b in zip(base, other, strict=True))
    assert not any(torch.equal(a["image"][:2], b["image"][:2]) for a, b in zip(base, rows(seed=1), strict=True))
    assert_same(base, rows())


def test_weak_samples_in_the_mix_keep_2d_and_order() -> None:
    tiny: dict[str, Any] = {"preset": "easy", "frame_size": 48, "train_length": 6}
    sources: list[PoseDataModule] = [SyntheticPeople(**tiny), SyntheticPeople(**tiny, weak_share=1.0)]
    data = Mixed(sources, [2, 1], num_workers=0, skeleton="hemlets18", image_size=32, crop="image_plane")
    data.setup("fit")
    for batch in epoch(data):
        assert batch["valid3d"].any(1).tolist() == [True, True, False]
        assert batch["valid_order"].any(1).tolist() == [False, False, True]
        assert batch["valid_order"].shape[1] == len(HEMLETS18.parts)
        assert batch["valid2d"].all(1)[2]


# ------------------------------------------------------------------------------------------------- ranks


def keys(rank: int, ranks: int, number: int = 0, start: int = 0) -> list[tuple[int, int, int]]:
    sampler = MixedSampler([np.arange(9), np.arange(4)], [2, 1], [5, 6], num_replicas=ranks, rank=rank)
    sampler.load_state_dict({"epoch": number, "start": start})
    assert len(sampler) == len(list(MixedSampler(sampler.sources, [2, 1], [5, 6], num_replicas=ranks, rank=rank)))
    return list(sampler)


@pytest.mark.parametrize("ranks", [1, 2])
def test_all_ranks_have_the_same_counts_and_share_a_cycle_without_overlap(ranks: int) -> None:
    share = 9 // ranks
    frames: dict[int, list[list[int]]] = {}
    for rank in range(ranks):
        mine = [key for number in range(share * 2) for key in keys(rank, ranks, number)]
        assert [key[0] for key in mine] == [0, 0, 1] * (len(mine) // 3)
        assert len(keys(rank, ranks)) == 9 // ranks // 2 * 3
        for source, index, cycle in mine:
            frames.setdefault(source * 100 + cycle, []).append([rank, index])
    for source, length in ((0, 9), (1, 4)):
        whole = [frames[source * 100 + cycle] for cycle in range(2)]
        for cycle in whole:
            indices = [index for _, index in cycle]
            assert len(set(indices)) == len(indices) == length // ranks * ranks
        assert whole[0] != whole[1]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_sampler_goes_on_where_another_stopped(rank: int, batches: int) -> None:
    assert keys(rank, 2, 3, start=3 * batches) == keys(rank, 2, 3)[3 * batches :]


def test_a_source_with_fewer_samples_than_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="source 1 has 1 samples for 2 processes"):
        MixedSampler([np.arange(9), np.arange(1)], [2, 1], [0, 0], num_replicas=2, rank=0)
    MixedSampler([np.arange(9), np.arange(1)], [2, 0], [0, 0], num_replicas=2, rank=0)


# ------------------------------------------------------------------------------------------------- resuming


class Recorder(pl.LightningModule):
    """Learns nothing; writes down what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        parts = [batch] if "image" in batch else [batch["train"], batch["arch"]]
        self.seen.append([(part["index"].tolist(), int(part["image"].long().sum())) for part in parts])
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Saver(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(data: PoseDataModule, resume: Path | None = None, *callbacks: pl.Callback) -> list[Any]:
    trainer = pl.Trainer(
        accelerator="cpu",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        max_steps=9,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=data, ckpt_path=resume)
    return recorder.seen


def search(workers: int = 0) -> SearchSplit:
    return SearchSplit(Toy(14, subjects=2, batch_size=2), num_workers=workers, image_size=32)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice about workers and loggers
@pytest.mark.parametrize(("make", "batches"), [(mix, 4), (search, 3)])
def test_a_killed_run_goes_on_with_the_same_batches(make: Any, batches: int, tmp_path: Path) -> None:
    """Killed within an epoch, after its last batch, and in the third."""
    whole = fit(make(), None, Saver(tmp_path))
    assert len(whole) == 9
    assert len({str(step) for step in whole}) == 9
    for step, workers in ((2, 1), (batches, 0), (2 * batches, 2), (7, 0)):
        assert fit(make(workers=workers), tmp_path / f"{step}.ckpt") == whole[step:]


def test_a_loader_counts_the_batches_handed_out() -> None:
    loader = mix(workers=1).train_dataloader()
    batches: Iterator[Any] = iter(loader)
    next(batches)
    assert loader.state_dict() == {"epoch": 0, "start": 3, "batch_size": 3, "processes": 1}
    other = mix().train_dataloader()
    assert isinstance(other, TrainLoader)
    other.load_state_dict(loader.state_dict())
    assert_same(list(other), list(batches))


# ------------------------------------------------------------------------------------------------- evaluation


def test_scores_come_from_one_source() -> None:
    for place in (0, 1):
        data = mix(eval_source=place)
        data.setup("test")
        (batch,) = list(data.test_dataloader())
        assert batch["source"].tolist() == [place] * 3
        assert batch["index"].tolist() == [0, 1, 2]
        own = Toy(8, place, image_size=32).crops("test")
        assert torch.equal(batch["image"][1], own[1]["image"])
        assert data.meta(1) == {"name": f"{place}-1"}
        assert data.protocol("val") == f"toy {place} val; source {place} of Mixed (2 Toy + 1 Toy per batch)"


def test_a_source_may_be_there_to_be_scored_on_alone() -> None:
    data = mix(8, 5, 4, counts=(2, 1, 0), eval_source=2)
    assert set(seen(data, 2)) == {0, 1}
    assert next(iter(data.val_dataloader()))["source"].tolist() == [2] * 3


def test_the_mean_pose_is_that_of_the_first_source_with_3d_labels() -> None:
    sources: list[PoseDataModule] = [Toy(8, 0, labelled=False), Toy(6, 1), Toy(6, 2)]
    pose = Mixed(sources, [1, 1, 1], crop="image_plane", image_size=32).mean_pose()
    wanted = Toy(6, 1, crop="image_plane", image_size=32).mean_pose()
    assert pose is not None
    assert wanted is not None
    assert torch.equal(pose, wanted)
    assert Mixed([sources[0]], [1]).mean_pose() is None


def test_what_the_model_owns_reaches_the_sources() -> None:
    source = SyntheticPeople(preset="easy", train_length=4)
    data = Mixed(
        [source], [1], num_workers=3, skeleton="hemlets18", image_size=40, crop="image_plane", box="annotation"
    )
    assert (source.skeleton, source.image_size, source.crop) == ("hemlets18", 40, "image_plane")
    assert source.frame_size == 60  # 1.5 times the crop that it learnt of after its construction
    assert source.num_workers == 3
    data.image_size = 20
    data.setup("validate")
    assert source.spec == data.spec
    assert source.frame_size == 30


def test_every_trained_source_needs_labels_and_samples() -> None:
    class Blind(Toy):
        def people(self, split: str) -> PoseDataset:
            people = super().people(split)
            people.read_labels = lambda index: Sample(None, np.float32([0, 0, 9, 9]), (100, 76))  # type: ignore[method-assign]
            return people

    with pytest.raises(PoseZooError, match="Blind: no training sample has a label"):
        Mixed([Toy(), Blind()], [1, 1], image_size=32).setup("fit")
    Mixed([Toy(), Blind()], [1, 0], image_size=32).setup("fit")
    with pytest.raises(PoseZooError, match="Toy: the 'train' split is empty"):
        Mixed([Toy(), Toy(0)], [1, 1], image_size=32).setup("fit")


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sources": []}, r"--data\.sources is empty"),
        ({"counts": [2]}, r"--data\.counts has 1 numbers for 2 --data\.sources"),
        ({"counts": [0, 2]}, r"--data\.counts must be 1 or more for the first"),
        ({"counts": [2, -1]}, r"not negative for the others, got \[2, -1\]"),
        ({"eval_source": 2}, r"--data\.eval_source is the place of a source, 0 to 1, got 2"),
        ({"batch_size": 32}, r"--data\.batch_size 32 is not the sum of --data\.counts \(2 \+ 1 = 3\): leave it out"),
        ({"sources": [Toy(), Mixed([Toy()], [1])]}, r"--data\.sources cannot hold another mix"),
    ],
)
def test_a_mix_that_is_none_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence) as error:
        Mixed(**{"sources": [Toy(), Toy()], "counts": [2, 1]} | arguments)
    assert "\n" not in str(error.value)
    assert Mixed([Toy(), Toy()], [2, 1], batch_size=3).batch_size == 3


def test_a_first_source_smaller_than_its_count_is_refused() -> None:
    with pytest.raises(PoseZooError, match=r"first source \(0: Toy\) has 8 samples, fewer than its 9"):
        mix(8, 5, counts=(9, 1)).train_dataloader()
    with pytest.raises(PoseZooError, match="Mixed trains on several sources"):
        mix().people("train")


# ------------------------------------------------------------------------------------------------- search


def halves(data: SearchSplit, source: int = 0) -> list[list[int]]:
    return [half.tolist() for half in data.halves()[source]]


def test_a_search_step_has_two_streams_of_different_subjects() -> None:
    data = SearchSplit(Toy(12, subjects=3, batch_size=2), arch_share=0.3, num_workers=0, image_size=32)
    data.setup("fit")
    assert halves(data) == [list(range(8)), [8, 9, 10, 11]]
    train, arch = [], []
    for number in range(3):
        batches = epoch(data, number)
        assert len(batches) == 4  # as long as "train": 8 / 2
        for batch in batches:
            assert list(batch) == ["train", "arch"]
            assert batch["train"].keys() == batch["arch"].keys() == set(Batch.__annotations__)
            train += batch["train"]["index"].tolist()
            arch += batch["arch"]["index"].tolist()
    assert Counter(train) == dict.fromkeys(range(8), 3)
    assert Counter(arch) == dict.fromkeys(range(8, 12), 6)  # an endless stream of its own
    assert [batch["source"].unique().tolist() for batch in data.val_dataloader()] == [[0], [0]]


def test_subjects_are_chosen_by_name_or_by_share() -> None:
    def split(**keywords: Any) -> list[list[int]]:
        return halves(SearchSplit(Toy(12, subjects=4), **keywords))

    assert split() == [list(range(6)), list(range(6, 12))]
    assert split(arch_groups=["S0", "S2"]) == [[3, 4, 5, 9, 10, 11], [0, 1, 2, 6, 7, 8]]
    assert split(arch_share=0.01)[1] == [9, 10, 11]  # never nobody
    assert split(arch_share=0.99)[0] == [0, 1, 2]
    with pytest.raises(PoseZooError, match=r"unknown subject 'S7': choose from S0, S1"):
        split(arch_groups=["S7"])
    with pytest.raises(PoseZooError, match="cannot be split into two streams by subjects"):
        split(arch_groups=["S0", "S1", "S2", "S3"])
    assert last_groups(np.array([1, 1, 1, 1, 2, 3], np.int32), 0.4) == [2, 3]
    assert last_groups(np.array([5, 5], np.int32), 0.5) == []


def test_without_subjects_the_index_ranges_are_disjoint() -> None:
    data = SearchSplit(SyntheticPeople(train_length=10, batch_size=2), arch_share=0.2)
    assert halves(data) == [list(range(8)), [8, 9]]
    with pytest.raises(PoseZooError, match="does not know its subjects"):
        SearchSplit(SyntheticPeople(train_length=10), arch_groups=["S1"]).halves()
    with pytest.raises(PoseZooError, match="cannot be split into two streams by share"):
        SearchSplit(SyntheticPeople(train_length=2), arch_share=0.1).halves()


def test_a_mix_is_split_source_by_source() -> None:
    inner = Mixed([Toy(8, 0, subjects=2), Toy(6, 1), Toy(4, 2)], [2, 1, 0], eval_source=2)
    data = SearchSplit(inner, num_workers=0, image_size=32)
    assert halves(data, 0) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert halves(data, 1) == [[0, 1, 2], [3, 4, 5]]
    assert halves(data, 2) == [[], []]
    for batch in epoch(data):
        for name in ("train", "arch"):
            assert batch[name]["source"].tolist() == [0, 0, 1]
        assert set(batch["arch"]["index"].tolist()) <= {4, 5, 6, 7, 11, 12, 13}
    assert next(iter(data.val_dataloader()))["source"].tolist() == [2] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_search_streams_do_not_depend_on_workers(workers: int) -> None:
    assert_same(epoch(search(), 1), epoch(search(workers), 1))


def test_the_architecture_stream_is_augmented_lightly() -> None:
    moving = Augmentation(flip=0, occlusion=1, colour=False)

    def arch(kind: Any) -> list[Tensor]:
        toy = Toy(8, batch_size=4, augmentation=moving)
        return [b["arch"]["image"] for b in epoch(SearchSplit(toy, 0.5, None, kind, num_workers=0, image_size=32))]

    still, none, same = arch("light"), arch("none"), arch("same")
    assert_same(still, none)  # without flip and colour, nothing is left
    assert not torch.equal(same[0], none[0])
    assert isinstance(search()._arch_crops().parts[0].augmentation, Augmentation)  # type: ignore[union-attr]
    light = search()._arch_crops().parts[0].augmentation  # type: ignore[union-attr]
    assert (light.flip, light.blur, light.occlusion, light.zoom) == (0.5, 0.3, 0, (1, 1))  # type: ignore[union-attr]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_leaves_a_stream_empty_is_refused(share: float) -> None:
    with pytest.raises(PoseZooError, match=r"--data\.arch_share must lie between 0 and 1"):
        SearchSplit(Toy(), share)


def test_a_split_cannot_be_split() -> None:
    with pytest.raises(PoseZooError, match="split already"):
        SearchSplit(search())


# ------------------------------------------------------------------------------------------------- command line

SOURCE: dict[str, Any] = {"preset": "easy", "frame_size": 48, "train_length": 6, "val_length": 3, "test_length": 4}
RECIPE: dict[str, Any] = {
    "model": {
        "class_path": "MeTRAbs",
        "init_args": {"backbone": "resnet10_w8", "image_size": 64, "stride": 16, "skeleton": "hemlets18"},
    },
    "data": {
        "class_path": "Mixed",
        "init_args": {
            "sources": [
                {"class_path": "SyntheticPeople", "init_args": SOURCE | {"augmentation": {"roll": 5}}},
                {"class_path": "SyntheticPeople", "init_args": SOURCE | {"weak_share": 1.0, "seed": 7}},
            ],
            "counts": [2, 1],
            "num_workers": 0,
        },
    },
    "trainer": {
        "max_steps": 4,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}


def write(path: Path, recipe: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    assert not main(["fit", "-c", write(folder / "mix.yaml", RECIPE), *log_to(folder, "fit")])
    return folder / "fit"


def losses(folder: Path) -> list[str]:
    lines = (folder / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/loss")
    return [row.split(",")[column] for row in lines[1:] if row.split(",")[column]]


def test_a_mix_trains_from_yaml_and_its_saved_config_runs_again(trained: Path, tmp_path: Path) -> None:
    saved = yaml.safe_load((trained / "config.yaml").read_text())["data"]["init_args"]
    assert [source["init_args"]["weak_share"] for source in saved["sources"]] == [0.0, 1.0]
    assert not any("skeleton" in source["init_args"] for source in saved["sources"])
    assert not main(["fit", "-c", str(trained / "config.yaml"), *log_to(tmp_path, "again")])
    assert len(losses(trained)) == 4
    assert losses(trained) == losses(tmp_path / "again")


def test_a_checkpoint_of_a_mix_alone_is_enough_to_test(trained: Path, tmp_path: Path) -> None:
    last = trained / "checkpoints" / "last.ckpt"
    data = torch.load(last, weights_only=True)["posezoo_data"]
    assert data["init_args"]["sources"][0]["init_args"]["augmentation"]["roll"] == 5
    quiet = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
    assert not main(["test", f"--ckpt_path={last}", *quiet, *log_to(tmp_path, "test")])
    result = yaml.safe_load((tmp_path / "test" / "metrics.json").read_text())["test"]
    assert result["samples"] == 4
    assert "source 0 of Mixed (2 SyntheticPeople + 1 SyntheticPeople per batch)" in result["protocol"]
    assert result["mean_pose"]["mpjpe"] > 0


def changed(where: str, value: Any) -> dict[str, Any]:
    """The recipe with one place of its data changed or added."""
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    node, *path = recipe["data"], *where.split(".")
    for key in path[:-1]:
        node = node[int(key) if key.isdigit() else key]
    node[path[-1]] = value
    return recipe


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        ("init_args.sources.1.init_args.skeleton", "h36m17", "set --model.skeleton instead"),
        ("init_args.sources.0.init_args.image_size", 64, "set --model.image_size instead"),
        ("init_args.sources.1.init_args.preset", "eazy", "did you mean easy?"),
        ("init_args.sources.1.init_args.prezet", "easy", "SyntheticPeople has no argument 'prezet'"),
        ("init_args.sources.1.class_path", "SyntheticPeopel", "unknown dataset 'SyntheticPeopel' in sources of Mixed"),
        ("init_args.counts", [1], "--data.counts has 1 numbers"),
        ("init_args", {"sources": [{"class_path": "SyntheticPeople"}]}, "Mixed needs counts"),
    ],
)
def test_mistakes_inside_a_mix_get_one_sentence(
    where: str, value: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["fit", "-c", write(tmp_path / "bad.yaml", changed(where, value)), "--trainer.logger=false"]
    assert main(args) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("posezoo: error: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "words",
    [
        ["--data.sources.init_args.skeleton=h36m17"],
        ["--data.init_args.dataset.init_args.box=annotation"],
        ["--data.sources", "[{class_path: SyntheticPeople, init_args: {crop: look_at}}]"],
        ["--data.sources+={class_path: SyntheticPeople, init_args: {image_size: 64}}"],
    ],
)
def test_what_the_model_owns_is_refused_in_sources_on_the_command_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", write(tmp_path / "mix.yaml", RECIPE), *words, "--trainer.logger=false"]) == 2
    assert "the model owns" in capsys.readouterr().err


def test_show_batch_shows_every_source_in_its_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []
    import posezoo.viz.draw2d as draw2d

    original = draw2d.caption
    monkeypatch.setattr(draw2d, "caption", lambda image, text: captions.append(text) or original(image, text))
    out = tmp_path / "sheet.png"
    recipe = write(tmp_path / "mix.yaml", RECIPE)
    assert not main(["show-batch", "-c", recipe, "--count=6", "--columns=3", f"--out={out}"])
    assert cv2.imread(str(out)).std() > 10
    assert [text.partition(":")[0] for text in captions] == ["0", "0", "1"] * 2
    assert captions[2] == "1: 6, 2D and order of 14 parts"


def test_search_streams_come_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posezoo import cli

    recipe = RECIPE | {"data": {"class_path": "SearchSplit", "init_args": {"dataset": RECIPE["data"]}}}
    cli.load_plugins()
    data = cli.build(["-c", write(tmp_path / "search.yaml", recipe), "--trainer.logger=false"], run=False).datamodule
    assert isinstance(data, SearchSplit)
    data.num_workers = 0
    batch = epoch(data)[0]
    assert batch["arch"]["source"].tolist() == batch["train"]["source"].tolist() == [0, 0, 1]
    assert batch["arch"]["valid_order"].shape == (3, 14)


def test_configurations_become_plain_values_also_in_lists() -> None:
    spec = Namespace(class_path="A", init_args=Namespace(box="annotation", zoom=(1, 2)))
    nested = Namespace(class_path="Mixed", init_args=Namespace(box="annotation", sources=[spec]))
    assert plain(nested) == {
        "class_path": "Mixed",
        "init_args": {"box": "annotation", "sources": [{"class_path": "A", "init_args": {"zoom": [1, 2]}}]},
    }
