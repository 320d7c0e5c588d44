"""Detectors: what torchvision says in our form, which one "auto" is, and one sentence when weights are missing."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from posezoo.detect import DEFAULT, MODELS, TorchvisionDetector, WholeImage, make_detector
from posezoo.errors import PoseZooError

IMAGE = np.zeros((40, 60, 3), np.uint8)


class Answers(torch.nn.Module):
    """A detection network that has seen these already."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert all(image.dtype == torch.float32 and image.max() <= 1 for image in images)
        return [
            {
                "boxes": torch.tensor([[1.0, 2, 11, 32], [5, 5, 9, 9], [0, 0, 60, 40], [3, 3, 3, 9], [2, 2, 8, 20]]),
                "labels": torch.tensor([1, 18, 1, 1, 1]),
                "scores": torch.tensor([0.6, 0.99, 0.9, 0.8, 0.3]),
            }
            for _ in images
        ]


def test_only_people_with_an_area_and_a_score_are_taken() -> None:
    detector = TorchvisionDetector(Answers(), 0.5)
    first, second = detector([IMAGE, IMAGE[:20]])
    np.testing.assert_allclose(first.boxes, [[0, 0, 60, 40], [1, 2, 10, 30]])
    np.testing.assert_allclose(first.scores, [0.9, 0.6])
    assert len(second) == 2
    assert detector([]) == []
    with pytest.raises(PoseZooError, match="between 0 and 1"):
        TorchvisionDetector(Answers(), 1.5)


def test_few_pictures_are_on_the_device_at_once() -> None:
    """And what is found in a picture does not depend on where it stands in the list."""
    together: list[int] = []

    class Widths(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            together.append(len(images))
            return [
                {
                    "boxes": torch.tensor([[0.0, 0, image.shape[2], 5]]),
                    "labels": torch.ones(1, dtype=torch.int64),
                    "scores": torch.ones(1),
                }
                for image in images
            ]

    found = TorchvisionDetector(Widths())([np.zeros((6, width, 3), np.uint8) for width in range(10, 29)])
    assert together == [8, 8, 3]
    assert [people.boxes[0, 2] for people in found] == list(range(10, 29))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights on disk, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for name in ("POSEZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "checkpoints"


def test_without_weights_auto_takes_the_whole_picture_and_says_so(
    empty_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = make_detector("auto")
    assert isinstance(detector, WholeImage)
    warning = capsys.readouterr().err
    assert warning.startswith("posezoo: warning: every picture is taken as one person's box")
    assert warning.count("\n") == 1
    np.testing.assert_array_equal(detector([IMAGE])[0].boxes, [[0, 0, 60, 40]])


def test_without_weights_torchvision_is_one_sentence(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PoseZooError, match=r"cannot be fetched \(no route to host\): put https://") as caught:
        make_detector("torchvision")
    assert str(empty_cache) in str(caught.value)
    monkeypatch.setenv("POSEZOO_OFFLINE", "1")
    with pytest.raises(PoseZooError, match="POSEZOO_OFFLINE is set"):
        make_detector("torchvision:ssdlite320_mobilenet_v3_large")


def test_weights_on_disk_are_used(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import detection

    class Small(torch.nn.Linear):
        def __init__(self, weights: None, weights_backbone: None) -> None:
            super().__init__(1, 1)

    monkeypatch.setattr(detection, DEFAULT, Small)
    url = getattr(detection, MODELS[DEFAULT]).DEFAULT.url
    empty_cache.mkdir()
    file = empty_cache / Path(url).name
    torch.save(torch.nn.Linear(1, 1).state_dict(), file)
    found = make_detector("auto", 0.7)
    assert isinstance(found, TorchvisionDetector)
    assert found.threshold == 0.7
    file.write_bytes(b"damaged")
    with pytest.raises(PoseZooError, match="delete it and try again"):
        make_detector("torchvision")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_and_its_weights_exist_in_torchvision(name: str) -> None:
    from torchvision.models import detection

    assert callable(getattr(detection, name))
    categories = getattr(detection, MODELS[name]).DEFAULT.meta["categories"]
    assert categories[1] == "person"


def test_detectors_by_name() -> None:
    assert isinstance(make_detector("none"), WholeImage)
    own = WholeImage()
    assert make_detector(own) is own
    for name in ("yolo", "torchvision:resnet", "torchvison"):
        with pytest.raises(PoseZooError, match=f"unknown detector '{name}'"):
            make_detector(name)


@pytest.mark.slow
def test_a_real_detector_runs() -> None:
    from torchvision.models import detection

    model = getattr(detection, DEFAULT)(weights=None, weights_backbone=None)
    found = TorchvisionDetector(model, 0.0)([IMAGE, np.full((50, 50, 3), 255, np.uint8)])
    assert [people.boxes.shape[1] for people in found] == [4, 4]
