"""PoseMetrics and PredictionWriter against values worked by hand."""

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from posezoo.callbacks import PoseImages, PoseMetrics, PredictionWriter
from posezoo.callbacks.pose_metrics import write_metrics
from posezoo.callbacks.score_table import _groups
from posezoo.cameras import Camera
from posezoo.data import PoseDataModule, PoseDataset
from posezoo.errors import PoseZooError
from posezoo.models import MeTRAbs
from posezoo.models.base import PoseEstimator
from posezoo.skeletons import H36M17
from posezoo.structures import Batch, Prediction, Sample


class TwoPoses(PoseDataset):
    """Two people at 4 m: a T of joints, and the same moved by 100 mm in x (action 1)."""

    skeleton = H36M17

    def __len__(self) -> int:
        return 2

    def read(self, index: int, draw: int = 0) -> Sample:
        joints = np.stack([np.linspace(-400, 400, 17), np.linspace(300, -300, 17), np.full(17, 4000.0)], 1)
        joints[:, 0] += 100 * index
        return Sample(
            image=np.zeros((100, 100, 3), np.uint8),
            box=np.array([20, 20, 60, 60], np.float32),
            size=(100, 100),
            camera=Camera.create([[100.0, 0, 50], [0, 100.0, 50], [0, 0, 1]]),
            joints3d=joints.astype(np.float32),
            identity={"action": index},
        )


class TwoPosesData(PoseDataModule):
    def people(self, split: str) -> PoseDataset:
        return TwoPoses()

    def action_names(self) -> tuple[str, ...]:
        return ("standing", "moved", "never")


class Shifted(PoseEstimator):
    """Predicts the truth, moved by (30, 0, -60) mm except for the root."""

    def __init__(self) -> None:
        super().__init__(image_size=64)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def estimate(self, batch: Batch) -> Prediction:
        joints = batch["joints3d"] + torch.tensor([30.0, 0.0, -60.0])
        joints[:, 0] = batch["joints3d"][:, 0]
        ones = torch.ones(joints.shape[:2])
        return Prediction(joints, joints - joints[:, :1], batch["joints2d"], ones, "by hand")

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, torch.Tensor]:
        return {"none": self.weight * 0}


@pytest.fixture
def trainer_options(tmp_path: Path) -> dict[str, Any]:
    return {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}


def test_pose_metrics_by_hand(
    trainer_options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = PoseMetrics(per_action=True)
    trainer = pl.Trainer(**trainer_options, callbacks=[metrics])
    trainer.test(Shifted(), TwoPosesData(num_workers=0, image_size=64, batch_size=2), verbose=False)

    result = json.loads((tmp_path / "metrics.json").read_text())["test"]
    distance = np.hypot(30, 60)
    assert result["metrics"]["mpjpe"] == pytest.approx(distance * 16 / 17, abs=1e-3)  # the root counts as zero
    assert result["metrics"]["mrpe"] == pytest.approx(0, abs=1e-3)
    assert result["metrics"]["pck"] == pytest.approx(100)
    assert result["mpjpe_per_joint"]["pelvis"] == pytest.approx(0, abs=1e-3)
    assert result["mpjpe_per_joint"]["r_wrist"] == pytest.approx(distance, abs=1e-3)
    assert set(result["mpjpe_per_action"]) == {"standing", "moved"}
    assert result["root_depth_source"] == "by hand"
    assert result["mean_pose"]["mpjpe"] < 20  # both people have one pose, seen from slightly turned cameras
    printed = capsys.readouterr().out
    assert "by hand" in printed
    assert "MPJPE moved [mm]" in printed
    assert trainer.callback_metrics["test/mpjpe"] == pytest.approx(distance * 16 / 17, abs=1e-3)


def test_predictions_are_in_the_frame_of_the_photograph(trainer_options: dict[str, Any], tmp_path: Path) -> None:
    trainer = pl.Trainer(**trainer_options, callbacks=[PredictionWriter(pictures=1)])
    data = TwoPosesData(num_workers=0, image_size=64, batch_size=1)
    trainer.predict(Shifted(), data, return_predictions=False)

    people = json.loads((tmp_path / "predictions.json").read_text())["people"]
    assert [person["index"] for person in people] == [0, 1]
    for index, person in enumerate(people):
        truth = TwoPoses().read(index)
        assert truth.joints3d is not None
        assert np.allclose(person["joints3d"][0], truth.joints3d[0], atol=0.01)  # the root was not moved
        pixels = truth.joints3d[:, :2] / truth.joints3d[:, 2:] * 100 + 50
        assert np.allclose(person["joints2d"], pixels, atol=0.01)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1
    assert not list(tmp_path.glob(".predictions*"))


def test_metrics_json_keeps_other_stages_and_writes_null_for_nan(tmp_path: Path) -> None:
    write_metrics(tmp_path, "val", {"metrics": {"mpjpe": 1.0}})
    write_metrics(tmp_path, "test", {"metrics": {"mpjpe": float("nan")}})

    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content == {"val": {"metrics": {"mpjpe": 1.0}}, "test": {"metrics": {"mpjpe": None}}}


def test_every_column_of_a_protocols_groups_has_its_unit() -> None:
    found = {
        "titles": {"mpjpe": "MPJPE [mm]", "pck": "PCK < 150 mm [%]"},
        "groups": {"mpjpe": {"Sitting": 71.2}, "pck": {"Sitting": 93.4}},
    }
    console = Console(width=120, file=io.StringIO())
    console.print(_groups({"one": found}))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "MPJPE [mm]" in printed
    assert "PCK < 150 mm [%]" in printed
    assert "71.2" in printed


def test_a_metrics_file_that_cannot_be_written_is_one_sentence_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_metrics(tmp_path, "val", {"metrics": {"mpjpe": 1.0}})
    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(PoseZooError, match="No space left"):
        write_metrics(tmp_path, "val", {"metrics": {"mpjpe": 2.0}})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def full_disk(path: Path, *_: Any, **__: Any) -> None:
    path.open("w").close()  # the file is there, its content is not
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_the_sanity_check_is_not_scored(trainer_options: dict[str, Any], tmp_path: Path) -> None:
    model = MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16)
    trainer = pl.Trainer(
        **trainer_options, callbacks=[PoseMetrics(table=False)], max_steps=1, limit_val_batches=0,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, TwoPosesData(num_workers=0, image_size=64, batch_size=2))
    assert not (tmp_path / "metrics.json").exists()


def test_validation_pictures_are_drawn(trainer_options: dict[str, Any], tmp_path: Path) -> None:
    trainer = pl.Trainer(**trainer_options, callbacks=[PoseImages(count=2)])
    trainer.validate(Shifted(), TwoPosesData(num_workers=0, image_size=64, batch_size=2), verbose=False)

    picture = cv2.imread(str(tmp_path / "pictures" / "val-step0.png"))
    assert picture.shape[0] > 192
    assert picture.std() > 10


def test_training_without_any_label_is_refused(trainer_options: dict[str, Any]) -> None:
    class Unlabelled(TwoPoses):
        def read(self, index: int, draw: int = 0) -> Sample:
            sample = super().read(index, draw)
            sample.valid3d = np.zeros(17, bool)
            return sample

    class UnlabelledData(TwoPosesData):
        def people(self, split: str) -> PoseDataset:
            return Unlabelled()

    model = MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16)
    trainer = pl.Trainer(**trainer_options, max_steps=1, enable_checkpointing=False, enable_model_summary=False)
    with pytest.raises(PoseZooError, match="no training sample has a label"):
        trainer.fit(model, UnlabelledData(num_workers=0, image_size=64, batch_size=2))
