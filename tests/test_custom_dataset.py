"""The page about a dataset of one's own: its code is short, and the dataset works as those of posezoo do."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from posezoo.data import Mixed, SyntheticPeople
from posezoo.data.base import PoseDataModule
from posezoo.errors import PoseZooError
from posezoo.models import MeTRAbs

PAGE = Path(__file__).resolve().parents[1] / "docs" / "custom_dataset.md"
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])


def template() -> str:
    """The first block of the page."""
    match = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match
    return match[1]


@pytest.fixture(scope="module")
def my_dataset() -> type[PoseDataModule]:
    space: dict[str, Any] = {"__name__": "my_dataset"}
    exec(compile(template(), "my_dataset.py", "exec"), space)
    found: type[PoseDataModule] = space["MyDataset"]
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((48, 64, 3), 40 * number, np.uint8))
    for split in ("train", "val", "test"):
        np.savez(
            tmp_path / f"{split}.npz",
            image=np.array([f"{number}.png" for number in range(4)]),
            box=np.tile(np.array([12, 4, 40, 40], np.float32), (4, 1)),
            joints3d=rng.normal([0, 0, 3000], [200, 400, 100], (4, 17, 3)).astype(np.float32),
            intrinsics=np.tile(K, (4, 1, 1)),
        )
    return tmp_path


def test_it_is_at_most_forty_lines_of_code() -> None:
    lines = [line for line in template().splitlines() if line.strip()]
    assert 20 < len(lines) <= 40


def test_labels_land_where_the_pinhole_says(my_dataset: type[PoseDataModule], root: Path) -> None:
    data = my_dataset(str(root), num_workers=0, batch_size=4, image_size=40, crop="image_plane")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    with np.load(root / "test.npz") as labels:
        joints = labels["joints3d"]
    pixels = 60 * joints[..., :2] / joints[..., 2:] + [31.5, 23.5]
    # The box of 40 px fills the crop of 40 px: its centre (32, 24) lies at 19.5.
    np.testing.assert_allclose(batch["joints2d"].numpy(), pixels - [32, 24] + 19.5, atol=1e-2)
    np.testing.assert_allclose(batch["joints3d"].numpy(), joints, atol=1e-2)
    assert batch["image"][:, 0, 20, 20].tolist() == [0, 40, 80, 120]
    assert data.meta(2)["path"] == str(root / "images" / "2.png")


def test_it_trains_in_a_mix(my_dataset: type[PoseDataModule], root: Path) -> None:
    rendered = SyntheticPeople(preset="easy", frame_size=64, train_length=4, val_length=2)
    data = Mixed([my_dataset(str(root)), rendered], [2, 1], num_workers=0, image_size=64)
    model = MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16)
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, data)
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_mistakes_are_one_sentence(my_dataset: type[PoseDataModule], root: Path) -> None:
    (root / "val.npz").unlink()
    with pytest.raises(PoseZooError, match=r"There is no .*val\.npz: set --data\.root"):
        my_dataset(str(root), num_workers=0).setup("fit")
    with pytest.raises(PoseZooError, match="MyDataset has train, val and test"):
        my_dataset(str(root)).people("predict")
    (root / "images" / "0.png").unlink()
    with pytest.raises(PoseZooError, match=r"No image at .*0\.png"):
        my_dataset(str(root), num_workers=0).crops("test")[0]
