"""Whatever is wrong with files or arguments: one sentence that names it, exit status 2, and nothing lost."""

import errno
import json
import os
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from bad_input_helpers import (
    CAMERAS,
    Arrays,
    camera_entry,
    image_name,
    image_path,
    survive,
    truncate,
    write_cameras,
    write_h36m,
)
from scipy.io import loadmat, savemat
from tests_cli_helpers import log_to

from posezoo.__main__ import main
from posezoo.cameras import Camera
from posezoo.data import Human36M, ImageFolder, Mixed, base
from posezoo.data.base import BadImageWarning, CropDataset, PoseDataModule, PoseDataset, read_image
from posezoo.data.crop import Augmentation
from posezoo.data.human36m import open_people as open_h36m
from posezoo.data.images import ImageError
from posezoo.data.mixed import SearchSplit
from posezoo.data.ordinal import _read
from posezoo.data.ordinal import open_people as open_ordinal
from posezoo.errors import PoseZooError
from posezoo.models.base import load_estimator
from posezoo.skeletons import H36M17, HEMLETS18
from posezoo.structures import Batch, Sample

TRAINER = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
MODEL = ["--model=MeTRAbs", "--model.backbone=resnet10_w8", "--model.image_size=64", "--model.stride=16"]
AUGMENTATION = Augmentation(occlusion=0.0)


def data_options(root: Path) -> list[str]:
    return ["--data=Human36M", f"--data.root={root}", "--data.batch_size=3", "--data.num_workers=0"]


def fit_options(root: Path) -> list[str]:
    return ["fit", *MODEL, *data_options(root), *TRAINER, "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]


def module(root: Path, **keywords: Any) -> Human36M:
    return Human36M(str(root), **{"num_workers": 0, "batch_size": 3, "image_size": 32, **keywords})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two training steps; its dataset is in `data` beside the run."""
    folder = tmp_path_factory.mktemp("trained")
    assert not main([*fit_options(write_h36m(folder / "data")), *log_to(folder, "run")])
    return folder / "run" / "checkpoints" / "last.ckpt"


# ------------------------------------------------------------------------------------------- the command line


class Payload:
    """Unpickled carelessly, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.target}'",)


def _far_away(arrays: Arrays) -> None:
    arrays["center"][:] = 900


def _nowhere(arrays: Arrays) -> None:
    arrays["center"][:] = np.nan


def _evil_cameras(root: Path) -> None:
    write_cameras(root, Payload(root / "executed"))


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing folder": (lambda root: root.rename(root.with_name("moved")), "There is no folder {root}: set --data.root"),
    "truncated JPEG": (lambda root: truncate(image_path(root, 2)), "{image} is not a readable image"),
    "zero-byte JPEG": (lambda root: image_path(root, 2).write_bytes(b""), "{image} is not a readable image"),
    "missing JPEG": (lambda root: image_path(root, 2).unlink(), "No image at {image}"),
    "no person": (lambda root: write_h36m(root, 3, _far_away), "does not show its person: the box [8"),
    "a box of NaN": (lambda root: write_h36m(root, 3, _nowhere), "has the box [nan, nan, "),
    "no focal length": (lambda root: write_cameras(root, camera_entry(0.0)), "cameras.pkl: camera 54138969 of S1 has"),
    "focal length NaN": (lambda root: write_cameras(root, camera_entry(np.nan)), "has the focal length (nan, nan) px"),
    "a camera file with code": (_evil_cameras, ".system, which arrays do not need"),
}


def error_of(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """Run a mistake: exit status 2 and one line on stderr."""
    capsys.readouterr()
    assert main(args) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("posezoo: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_data_are_one_sentence_and_nothing_is_lost(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_h36m(tmp_path / "data", 3)
    spoil, expected = SPOILT[name]
    spoil(root)
    before = contents(tmp_path)
    message = error_of(capsys, [*fit_options(root), "--data.on_bad_image=raise", *log_to(tmp_path / "runs", "fit")])
    assert expected.format(root=root, image=image_path(root, 2)) in message
    after = contents(tmp_path)
    assert {key: after.get(key) for key in before} == before
    assert not (root / "executed").exists()


WRONG: dict[str, tuple[list[str], str]] = {
    "another method": (["--model=HEMlets"], "{checkpoint} holds a MeTRAbs, not a HEMlets: leave out --model"),
    "another skeleton": (["--model.skeleton=hemlets18"], "was trained on the skeleton h36m17, not hemlets18"),
    "other joints": (["--model.skeleton=mpi_inf_3dhp_17"], "{checkpoint} was trained on the skeleton h36m17, not mpi"),
    "another network": (["--model.backbone=resnet10_w16"], "The weights do not fit this MeTRAbs of h36m17"),
    "unknown method": (["--model=MeTRab"], "unknown method 'MeTRab': did you mean MeTRAbs"),
    "unknown dataset": (["--data=Human36"], "unknown dataset 'Human36': did you mean Human36M"),
    "unknown recipe": (["-c", "metrabs/demo_sintetic"], "did you mean metrabs/demo_synthetic"),
    "unknown option": (["--data.on_bad_imag=skip"], "Human36M has no argument 'on_bad_imag'"),
    "unknown value": (["--data.on_bad_image=drop"], "on_bad_image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_beside_a_checkpoint(
    name: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(checkpoint.parent)
    options, expected = WRONG[name]
    args = ["test", f"--ckpt_path={checkpoint}", *TRAINER, *log_to(tmp_path, "test"), *options]
    assert expected.format(checkpoint=checkpoint) in error_of(capsys, args)
    assert contents(checkpoint.parent) == before


@pytest.mark.parametrize("command", ["test", "fit"])
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_cannot_run_code(
    form: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "evil.ckpt", tmp_path / "executed"
    content = {"state_dict": {}, "hyper_parameters": Payload(target), "posezoo_class": "posezoo.models.MeTRAbs"}
    torch.save(content, path) if form == "torch" else path.write_bytes(pickle.dumps(content))
    options = fit_options(tmp_path)[1:] if command == "fit" else TRAINER
    message = error_of(capsys, [command, *options, f"--ckpt_path={path}"])
    assert f"{path} cannot be read as a checkpoint" in message
    with pytest.raises(PoseZooError, match="cannot be read as a checkpoint"):
        load_estimator(path)
    assert not target.exists()


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in its place: the superuser of a test machine may write everywhere else."""
    occupied = tmp_path / "occupied"
    occupied.write_text("mine")
    root = write_h36m(tmp_path / "data", 3)
    message = error_of(capsys, [*fit_options(root), *log_to(occupied, "fit")])
    assert str(occupied) in message
    assert "--trainer.logger.init_args.save_dir" in message
    assert occupied.read_text() == "mine"


# ------------------------------------------------------------------------------------- skipping bad images


def batches(data: PoseDataModule, epoch: int = 0) -> list[Batch]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadImageWarning)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return list(loader)


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for key, value in one.items():
            assert torch.equal(value, other[key]), key  # type: ignore[literal-required, arg-type]


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Six frames; 1 is empty, 2 is cut off, 5 is missing."""
    root = write_h36m(tmp_path / "data")
    image_path(root, 1).write_bytes(b"")
    truncate(image_path(root, 2))
    image_path(root, 5).unlink()
    return root


def test_the_next_readable_sample_stands_in_for_a_bad_one(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = module(damaged, augmentation=AUGMENTATION)
    crops = data.crops("train")
    with pytest.warns(BadImageWarning) as caught:
        found = [int(crops[index, draw]["index"]) for draw in range(2) for index in range(6)]
    assert found == [0, 3, 3, 3, 4, 0] * 2
    texts = sorted(str(warning.message) for warning in caught)
    assert len(texts) == 3  # each once
    assert all(any(image_name(number) in text for text in texts) for number in (1, 2, 5))
    rows = [crops[index, 0]["image"] for index in (1, 2, 3)]
    assert not torch.equal(rows[0], rows[1])  # one sample in three places, with three augmentations
    assert not torch.equal(rows[1], rows[2])
    data.teardown("fit")
    assert "Human36M: 3 of 6 training images were bad and skipped." in capsys.readouterr().out


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_with_stand_ins_do_not_depend_on_workers(
    workers: int, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"augmentation": AUGMENTATION, "batch_size": 2}
    alone, helped = module(damaged, **settings), module(damaged, num_workers=workers, **settings)
    for epoch in range(2):
        assert_same(batches(alone, epoch), batches(helped, epoch))
    helped.teardown("fit")
    assert "3 of 6 training images were bad" in capsys.readouterr().out  # counted in the workers


def test_a_resumed_epoch_has_the_same_stand_ins(damaged: Path) -> None:
    settings: dict[str, Any] = {"augmentation": AUGMENTATION, "batch_size": 2}
    whole = batches(module(damaged, **settings), epoch=1)
    loader: Any = module(damaged, **settings).train_dataloader()
    loader.load_state_dict({"epoch": 1, "start": 2})
    with pytest.warns(BadImageWarning):
        assert_same(list(loader), whole[1:])


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_never_replaces_a_sample(split: str, damaged: Path) -> None:
    data = module(damaged)
    with pytest.raises(PoseZooError, match=r"_000002\.jpg is not a readable image"):
        list(getattr(data, f"{split}_dataloader")())


def test_predict_never_replaces_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    truncate(path)
    data = ImageFolder(str(path), num_workers=0, image_size=32)
    with pytest.raises(PoseZooError, match=r"photo\.jpg is not a readable"):
        list(data.predict_dataloader())


def test_images_that_are_all_bad_stop_the_run(damaged: Path) -> None:
    for number in range(6):
        image_path(damaged, number).unlink(missing_ok=True)
    with pytest.raises(PoseZooError, match="6 images in a row are bad; the first: No image at"):
        batches(module(damaged))


def test_many_bad_images_are_not_a_few_files(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_BAD_IN_A_ROW", 2)
    with pytest.raises(PoseZooError, match="3 of 6 images are bad, which is more than a few files; the last: "):
        batches(module(damaged))


def test_only_the_first_bad_images_are_shown(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BAD_SHOWN", 2)
    crops = module(damaged).crops("train")
    with pytest.warns(BadImageWarning) as caught:
        _ = [crops[index] for index in range(6)]
    texts = [str(warning.message) for warning in caught if warning.category is BadImageWarning]
    assert len(texts) == 2
    assert "no more of these will be shown" in texts[1]


def test_trouble_of_the_machine_is_no_bad_image(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_files(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    crops = module(damaged).crops("train")
    monkeypatch.setattr(Path, "read_bytes", no_more_files)
    with pytest.raises(PoseZooError, match=r"Too many open files.*lower --data\.num_workers") as caught:
        crops.read_checked(0)
    assert not isinstance(caught.value, ImageError)


def test_mixes_count_in_their_sources_and_streams_stay_apart(
    damaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = Mixed([module(damaged)] * 2, [1, 2], num_workers=0, image_size=32)
    for batch in batches(mix):
        assert not set((batch["index"] % 6).tolist()) & {1, 2, 5}
    mix.teardown("fit")
    assert "3 of 6 training images were bad" in capsys.readouterr().out
    split = SearchSplit(module(damaged, batch_size=1), 0.5, num_workers=0, image_size=32)
    monkeypatch.setattr("posezoo.data.human36m.Human36MPeople.groups", lambda self: None)
    with pytest.warns(BadImageWarning):
        pairs = [batch for batch, _, _ in split.train_dataloader()]
    assert {int(pair["train"]["index"]) for pair in pairs} == {0}  # not 3, which is the other stream's
    assert {int(pair["arch"]["index"]) for pair in pairs} <= {3, 4}


def test_no_training_ends_at_a_bad_frame_and_its_scores_say_so(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in fit_options(damaged) if "limit_val_batches" not in word]
    with pytest.warns(BadImageWarning):
        assert not main([*words, *log_to(tmp_path, "fit")])
    out = capsys.readouterr().out
    assert "3 of 6 training images were bad and skipped." in out
    assert "3 of 6 validation images were bad and skipped." in out
    scores = json.loads((tmp_path / "fit" / "metrics.json").read_text())["val"]
    assert "NOT the benchmark's samples: 3 damaged images" in scores["protocol"]
    checkpoint = tmp_path / "fit" / "checkpoints" / "last.ckpt"
    command = ["validate", f"--ckpt_path={checkpoint}", *data_options(damaged), *TRAINER, *log_to(tmp_path, "validate")]
    assert "_000002.jpg is not a readable image" in error_of(capsys, command)


def test_one_module_replaces_in_fit_and_stops_in_validate(damaged: Path) -> None:
    data = module(damaged)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    with pytest.warns(BadImageWarning):
        list(data.val_dataloader())
    assert data.bad_images("val") == 3
    data.teardown("fit")
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="validate"))  # type: ignore[assignment]
    with pytest.raises(PoseZooError, match=r"_000002\.jpg is not a readable image"):
        list(data.val_dataloader())


@pytest.mark.parametrize("mixed", [False, True])
def test_one_module_that_has_validated_replaces_in_fit(mixed: bool, damaged: Path) -> None:
    data: PoseDataModule = module(damaged)
    data = Mixed([data], [3], num_workers=0, image_size=32) if mixed else data
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="validate"))  # type: ignore[assignment]
    with pytest.raises(PoseZooError, match=r"_000002\.jpg is not a readable image"):
        list(data.val_dataloader())
    data.teardown("validate")
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    with pytest.warns(BadImageWarning):
        list(data.val_dataloader())
    assert data.bad_images("val") == 3


# ------------------------------------------------------------------------------------------------ NaN labels


def test_labels_of_nan_are_unlabelled(tmp_path: Path) -> None:
    def spoil(arrays: Arrays) -> None:
        arrays["S"][0, 3, 1] = np.nan
        arrays["part"][0, 3, 0] = np.nan
        arrays["S"][1] = np.inf
        arrays["part"][2, :, :2] = np.nan

    data = module(write_h36m(tmp_path, 3, spoil))
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert all(value.isfinite().all() for value in batch.values())
    assert batch["valid3d"].sum(1).tolist() == [16, 0, 17]
    assert not batch["valid2d"][0, 3]
    pose = data.mean_pose()
    assert pose is not None
    assert pose.isfinite().all()


class _Careless(PoseDataset):
    """Somebody's dataset with NaN for what is unlabelled, and no masks."""

    skeleton = H36M17

    def __len__(self) -> int:
        return 1

    def read(self, index: int, draw: int = 0) -> Sample:
        joints = np.full((17, 3), 2000, np.float32)
        joints[4] = np.nan
        pixels = np.full((17, 2), 30, np.float32)
        pixels[5] = np.nan
        image = np.zeros((60, 60, 3), np.uint8)
        return Sample(image, np.array([5, 5, 50, 50], np.float32), (60, 60), joints3d=joints, joints2d=pixels)


def test_nan_is_masked_for_every_dataset() -> None:
    row = CropDataset(_Careless(), module(Path()).spec, AUGMENTATION)[0]
    assert all(value.isfinite().all() for value in row.values())
    assert int(row["valid3d"].sum()) == 16


def test_a_lens_of_nan_is_refused_for_every_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    people = _Careless()
    lens = Camera.create(np.array([[80.0, 0, 30], [0, 80, 30], [0, 0, 1]]), [np.nan, 0, 0, 0, 0])
    sample = replace(people.read(0), camera=lens)
    monkeypatch.setattr(people, "read", lambda index, draw=0: sample)
    with pytest.raises(PoseZooError, match=r"Sample 0 of _Careless has a camera with the distortion \[nan, 0"):
        CropDataset(people, module(Path()).spec)[0]


# ------------------------------------------------------------------------------------------------- fuzzing


@pytest.fixture
def ordinal(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / "images" / f"{number:05d}_full.jpg"), np.zeros((80, 100, 3), np.uint8))
    joints = np.random.default_rng(0).uniform(10, 70, (3, 16, 2))
    joints[2] = 1
    savemat(tmp_path / "joints.mat", {"joints": joints})
    savemat(tmp_path / "ordinal.mat", {"ord": np.sign(np.random.default_rng(0).normal(size=(2, 16, 16)))})
    return tmp_path


@pytest.mark.parametrize("file", [CAMERAS, "annotation_body3d/fps50/h36m_test.npz"])
def test_damaged_human36m_files(file: str, tmp_path: Path) -> None:
    root = write_h36m(tmp_path, 3)
    assert survive(root / file, 250, lambda: open_h36m(root, "h36m_test.npz", 1.0)) > 50


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "i2", "u1"])
def test_matlab_files_are_read_as_scipy_reads_them(kind: str, compressed: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 200, (3, 16, 5)).astype(kind)
    savemat(tmp_path / "some.mat", {"x": np.ones(1), "joints": array}, do_compression=compressed)
    read = _read(tmp_path / "some.mat", "joints")
    np.testing.assert_array_equal(read, loadmat(tmp_path / "some.mat")["joints"])


@pytest.mark.parametrize("file", ["joints.mat", "ordinal.mat"])
def test_damaged_matlab_files(file: str, ordinal: Path) -> None:
    assert survive(ordinal / file, 150, lambda: open_ordinal(ordinal, HEMLETS18)) > 20


@pytest.mark.parametrize("file", ["boxes.json", "boxes.csv", "cameras.json", "a.jpg"])
def test_damaged_files_of_a_picture_folder(file: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((40, 60, 3), np.uint8))
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": [[1, 2, 30, 30], [5.5, 0, 20, 30]]}))
    (tmp_path / "boxes.csv").write_text("file,left,top,width,height\na.jpg,1,2,30,30\na.jpg,5.5,0,20,30\n")
    camera = {"K": [[70.0, 0, 31], [0, 72, 18], [0, 0, 1]], "distortion": [0.1, 0, 0, 0, 0]}
    (tmp_path / "cameras.json").write_text(json.dumps({"*": camera}))

    def read() -> None:
        boxes = str(tmp_path / (file if file.startswith("boxes") else "boxes.json"))
        data = ImageFolder(str(tmp_path / "a.jpg"), boxes=boxes, cameras=str(tmp_path / "cameras.json"))
        data.setup("predict")
        read_image(tmp_path / "a.jpg")

    assert survive(tmp_path / file, 200, read) > 20
