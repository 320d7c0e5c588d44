"""Loaders whose batches depend on (seed, epoch, index) alone, and what those who ask for the impossible are told."""

import gc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from posezoo.cameras import Camera
from posezoo.data.base import CropDataset, PoseDataModule, PoseDataset, TrainLoader, read_image
from posezoo.data.crop import Augmentation, CropSpec
from posezoo.data.folder import open_pictures
from posezoo.data.samplers import EvalSampler, TrainSampler
from posezoo.errors import PoseZooError
from posezoo.skeletons import H36M17, HEMLETS18, get_skeleton
from posezoo.structures import Batch, Sample, source_camera, to_device

LENGTH = 12
CAMERA = Camera.create([[90.0, 0, 50], [0, 90, 38], [0, 0, 1]])
AUGMENTATION = Augmentation(truncation=0.3, blur=0.3, jpeg=0.3)


class ToyPeople(PoseDataset):
    """`length` random poses on noisy pictures; the last joint of every third is unlabelled."""

    skeleton = H36M17

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read_labels(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        joints = rng.uniform(-400, 400, (17, 3)).astype(np.float32) + np.float32([0, 0, 2500])
        valid = np.ones(17, bool)
        valid[16] = index % 3 != 0
        box = np.float32([25, 15, 45, 50])
        return Sample(None, box, (100, 76), CAMERA, joints, valid, identity={"frame": index})

    def read(self, index: int, draw: int = 0) -> Sample:
        sample = self.read_labels(index)
        sample.image = np.random.default_rng(index).integers(0, 256, (76, 100, 3), np.uint8)
        return sample

    def meta(self, index: int) -> dict[str, Any]:
        return {"name": f"toy-{index}"}


class Toy(PoseDataModule):
    """A DataModule of toy people; `lengths` are the sizes of its splits."""

    def __init__(self, lengths: dict[str, int] | None = None, **keywords: Any) -> None:
        super().__init__(**{"num_workers": 0, "image_size": 32, "batch_size": 4, **keywords})
        self.lengths = lengths or {"train": LENGTH, "val": 5, "test": 5}

    def people(self, split: str) -> PoseDataset:
        if split not in self.lengths:
            return super().people(split)
        return ToyPeople(self.lengths[split])


def epoch(data: PoseDataModule, number: int = 0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
    return list(loader)


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert torch.equal(value, other[key]), key  # type: ignore[literal-required, arg-type]


# ------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("skeleton", [H36M17, HEMLETS18])
def test_a_batch_has_exactly_the_keys_types_and_shapes_of_the_contract(skeleton: Any) -> None:
    data = Toy(skeleton=skeleton.name, batch_size=3, augmentation=AUGMENTATION)
    batch = epoch(data)[0]
    b, j, p, s = 3, len(skeleton), len(skeleton.parts), 32
    whole, number, yes = torch.int64, torch.float32, torch.bool
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "image": (torch.uint8, (b, 3, s, s)),
        **dict.fromkeys(["intrinsics", "rotation", "crop_to_image", "source_intrinsics"], (number, (b, 3, 3))),
        "source_distortion": (number, (b, 12)),
        "distortion_model": (whole, (b,)),
        "has_camera": (yes, (b,)),
        "box": (number, (b, 4)),
        "joints3d": (number, (b, j, 3)),
        "joints2d": (number, (b, j, 2)),
        "valid3d": (yes, (b, j)),
        "valid2d": (yes, (b, j)),
        "depth_order": (torch.int8, (b, p)),
        "valid_order": (yes, (b, p)),
        **dict.fromkeys(["index", "source", "action", "sequence", "frame", "image_id", "person_id"], (whole, (b,))),
    }
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == wanted  # type: ignore[attr-defined]
    assert set(wanted) == set(Batch.__annotations__)
    assert torch.equal(batch["frame"], batch["index"])
    assert all(value.isfinite().all() for value in batch.values())  # type: ignore[attr-defined]
    moved = to_device(batch, "cpu")
    assert torch.equal(source_camera(moved).intrinsics, CAMERA.intrinsics.expand(b, 3, 3))


def test_evaluation_crops_are_not_augmented_and_come_in_order() -> None:
    data = Toy(augmentation=AUGMENTATION)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    plain = Toy()
    assert_same(batches, list(plain.test_dataloader()))
    assert_same(batches, list(data.val_dataloader()))  # the toy's splits are alike
    assert data.meta(3) == {"name": "toy-3"}
    labels = data.crops("test").labels(1)
    assert torch.equal(labels["joints3d"], batches[0]["joints3d"][1])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_single_pixel(workers: int) -> None:
    alone, forked = (Toy(augmentation=AUGMENTATION, num_workers=n) for n in (0, workers))
    for number in (0, 3):
        assert_same(epoch(alone, number), epoch(forked, number))


def test_persistent_workers_go_on_to_the_next_epoch() -> None:
    data, loader = Toy(augmentation=AUGMENTATION), Toy(augmentation=AUGMENTATION, num_workers=1).train_dataloader()
    for number in range(3):
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        assert_same(list(loader), epoch(data, number))


def test_spawned_workers_agree_with_the_main_process(tmp_path: Path) -> None:
    """With pictures of a folder, because a spawned process cannot import this test module."""
    for n in range(3):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.random.default_rng(n).integers(0, 256, (40, 60, 3), np.uint8))
    people = open_pictures(tmp_path, None, 55, None)
    crops = CropDataset(people, CropSpec(H36M17, 24, "look_at", "annotation"), AUGMENTATION)

    def load(**how: Any) -> list[Batch]:
        sampler = TrainSampler(crops)
        sampler.set_epoch(1)
        return list(TrainLoader(crops, batch_size=1, sampler=sampler, **how))

    assert_same(load(), load(num_workers=1, multiprocessing_context="spawn"))


def test_every_draw_of_every_sample_is_another_one() -> None:
    """Over workers, epochs and ranks; a second run repeats all of them."""

    def crops(seed: int = 0) -> list[bytes]:
        data = Toy(augmentation=AUGMENTATION, num_workers=2, seed=seed)
        return [row.numpy().tobytes() for number in range(4) for batch in epoch(data, number) for row in batch["image"]]

    first = crops()
    assert len(first) == 4 * LENGTH == len(set(first))
    assert crops() == first
    assert not set(crops(seed=1)) & set(first)

    dataset = Toy(augmentation=AUGMENTATION).crops("train")
    by_rank = [
        dataset[key]["image"].numpy().tobytes()
        for rank in range(2)
        for key in TrainSampler(dataset, num_replicas=2, rank=rank)
    ]
    assert len(set(by_rank)) == LENGTH
    assert set(by_rank) <= set(first)  # two processes share the samples that one would see


def test_augmented_labels_differ_between_draws_and_plain_ones_do_not() -> None:
    augmented, plain = Toy(augmentation=AUGMENTATION).crops("train"), Toy().crops("train")
    assert not torch.equal(augmented[2, 0]["joints3d"], augmented[2, 1]["joints3d"])
    assert torch.equal(augmented[2, 1]["joints3d"], augmented[2, 1]["joints3d"])
    assert torch.equal(plain[2, 0]["image"], plain[2, 5]["image"])
    assert torch.equal(plain[2]["image"], plain[2, 0]["image"])


# ------------------------------------------------------------------------------------------------- resuming


class Recorder(pl.LightningModule):
    """Learns nothing; writes down what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], int]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        pixels = int(batch["image"].long().sum())
        self.seen.append((self.current_epoch, batch["index"].tolist(), pixels))
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Saver(pl.Callback):
    """Saves after every step, as a run that may be killed at any time does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(workers: int, resume: Path | None = None, *callbacks: pl.Callback, **length: int) -> Recorder:
    trainer = pl.Trainer(
        accelerator="cpu",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **({"max_epochs": -1} | length),
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=Toy(augmentation=AUGMENTATION, num_workers=workers), ckpt_path=resume)
    return recorder


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice about workers and loggers
@pytest.mark.parametrize("length", [{"max_steps": 11}, {"max_epochs": 4}], ids=str)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_run_goes_on_with_the_same_batches(workers: int, length: dict[str, int], tmp_path: Path) -> None:
    """Killed within an epoch of three batches (after 2 and 7 steps), and after its last batch (6)."""
    whole = fit(0, None, Saver(tmp_path), **length)
    assert [number for number, _, _ in whole.seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3][: len(whole.seen)]
    for step in (2, 6, 7):
        resumed = fit(workers, tmp_path / f"{step}.ckpt", **length)
        assert resumed.seen == whole.seen[step:]


def test_a_loader_counts_the_batches_handed_out_not_those_made_ahead() -> None:
    loader = Toy(num_workers=2).train_dataloader()
    assert isinstance(loader, TrainLoader)
    batches = iter(loader)
    next(batches)
    assert {"epoch": 0, "start": 4}.items() <= loader.state_dict().items()
    other = Toy().train_dataloader()
    other.load_state_dict(loader.state_dict())  # type: ignore[attr-defined]
    assert other.state_dict() == loader.state_dict()  # type: ignore[attr-defined]
    assert_same(list(other), list(batches))
    assert len(other) == 3


# ------------------------------------------------------------------------------------------------- mean pose


def test_the_mean_pose_is_the_mean_of_root_relative_crops_over_valid_joints() -> None:
    data = Toy(crop="image_plane", augmentation=AUGMENTATION)  # unaugmented image-plane crops keep the source's frame
    people = ToyPeople(LENGTH)
    sums, counts = np.zeros((17, 3)), np.zeros(17)
    for index in range(LENGTH):
        sample = people.read_labels(index)
        relative = sample.joints3d - sample.joints3d[0]  # type: ignore[operator, index]
        sums += relative * sample.valid3d[:, None]  # type: ignore[index]
        counts += sample.valid3d
    assert counts[16] == 8
    pose = data.mean_pose()
    assert pose is not None
    np.testing.assert_allclose(pose.numpy(), sums / counts[:, None], atol=1e-2)
    assert data.mean_pose() is pose


def test_there_is_no_mean_pose_without_3d_training_labels() -> None:
    assert Toy({"test": 3}).mean_pose() is None
    assert Toy({"train": 0}).mean_pose() is None
    assert Toy(skeleton="coco17").mean_pose() is None  # no root


# ------------------------------------------------------------------------------------------------- mistakes


class _Model:
    """Stands for the trainer's LightningModule."""

    image_size, crop, box = 32, "look_at", "annotation"

    def __init__(self, **facts: Any) -> None:
        self.skeleton = H36M17
        vars(self).update(facts)


def _attach(data: PoseDataModule, model: _Model) -> PoseDataModule:
    data.trainer = type("Trainer", (), {"lightning_module": model})()
    return data


@pytest.mark.parametrize(
    ("fact", "sentence"),
    [
        ({"skeleton": HEMLETS18}, r"wants skeleton='hemlets18' but the data makes 'h36m17'.*skeleton='hemlets18'\)"),
        ({"image_size": 256}, "wants image_size=256 but the data makes 32"),
        ({"crop": "image_plane"}, "wants crop='image_plane'"),
        ({"box": "pelvis_2000mm"}, "wants box='pelvis_2000mm'"),
    ],
)
def test_a_model_that_wants_other_crops_is_refused(fact: dict[str, Any], sentence: str) -> None:
    _attach(Toy(), _Model()).setup("fit")
    with pytest.raises(PoseZooError, match=sentence):
        _attach(Toy(), _Model(**fact)).setup("fit")


def test_two_names_of_one_skeleton_agree() -> None:
    _attach(Toy(skeleton="mupots17"), _Model(skeleton=get_skeleton("mpi_inf_3dhp_17"))).setup("fit")
    _attach(Toy(skeleton="H36M17"), _Model()).setup("fit")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batch_size": 0}, r"--data\.batch_size must be at least 1"),
        ({"num_workers": -1}, r"--data\.num_workers must be 0"),
        ({"seed": -1}, r"--data\.seed must not be negative"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        Toy(**arguments)


def test_a_batch_larger_than_the_training_split_is_refused() -> None:
    with pytest.raises(PoseZooError, match=r"12 samples.*lower --data\.batch_size \(now 13\)"):
        Toy(batch_size=13).train_dataloader()
    assert len(Toy(batch_size=12).train_dataloader()) == 1


def test_a_missing_or_empty_split_is_said_at_setup() -> None:
    with pytest.raises(PoseZooError, match="Toy has no 'predict' split"):
        Toy().setup("predict")
    with pytest.raises(PoseZooError, match=r"'val' split is empty; check --data\.root"):
        Toy({"train": 4, "val": 0}).setup("validate")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_one_sentence_from_workers_too(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader process hands its errors on as text with the traceback in front."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # torch's wait for a failed worker
    data = Toy(num_workers=workers)
    people = data.crops("test").people
    people.read = lambda index, draw=0: read_image(Path("gone") / f"{index}.jpg")  # type: ignore[method-assign, assignment]
    with pytest.raises(PoseZooError) as error:
        list(data.test_dataloader())
    assert str(error.value) == "No image at gone/0.jpg; check the path or --data.root."
    del error
    gc.collect()  # ends the worker while torch's patience is short


def test_people_without_pixels_are_a_programming_error() -> None:
    crops = Toy().crops("test")
    crops.people.read = lambda index, draw=0: crops.people.read_labels(index)  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"ToyPeople\.read must return an image"):
        crops[0]


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 no JPEG", b"text"])
def test_a_damaged_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ß.jpg"
    path.write_bytes(content)
    with pytest.raises(PoseZooError, match=r"ß\.jpg is not a readable image"):
        read_image(path)


def test_evaluation_loaders_use_the_sampler_that_never_repeats() -> None:
    data = Toy()
    assert isinstance(data.val_dataloader().sampler, EvalSampler)
    assert isinstance(data.train_dataloader().sampler, TrainSampler)
