"""Photographs for predict: every kind of file, box and camera, and a sentence for what cannot be used."""

import gc
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posezoo.data import ImageFolder
from posezoo.data.folder import picture_size
from posezoo.errors import PoseZooError

WIDTH, HEIGHT = 60, 40
K = [[70.0, 0, 31], [0, 72, 18], [0, 0, 1]]


def picture(seed: int = 0) -> np.ndarray:
    """RGB: four flat quarters, so that turns and channel orders show."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:20, :30], image[:20, 30:] = (200, 10, 20), (30, 210, 40)
    image[20:, :30], image[20:, 30:] = (50, 60, 220), (240, 240, 80 + seed)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, and files that are none."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("b.png", "a.PNG"):
        Image.fromarray(picture()).save(pictures / name)
    (pictures / "notes.txt").write_text("no picture")
    (pictures / "._b.png").write_bytes(b"shadow")
    return pictures


def module(root: Path | str | None, **keywords: Any) -> ImageFolder:
    data = ImageFolder(
        None if root is None else str(root), **{"num_workers": 0, "batch_size": 4, "image_size": 32, **keywords}
    )
    data.setup("predict")
    return data


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def batch(data: ImageFolder) -> dict[str, torch.Tensor]:
    batches = list(data.predict_dataloader())
    assert len(batches) == 1
    return batches[0]  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- pictures


def test_every_picture_of_a_folder_is_one_person_in_the_whole_frame(folder: Path) -> None:
    data = module(folder)
    crops = batch(data)
    assert crops["box"].tolist() == [[0, 0, WIDTH, HEIGHT]] * 2
    assert crops["image_id"].tolist() == [0, 1]
    assert crops["person_id"].tolist() == [0, 0]
    assert [data.meta(i) for i in range(2)] == [
        {"path": str(folder / name), "file": name, "box": 0} for name in ("a.PNG", "b.png")
    ]
    for key in ("has_camera", "valid3d", "valid2d", "valid_order"):
        assert not crops[key].any()
    assert all(value.isfinite().all() for value in crops.values())
    assert data.protocol("predict") == "pictures without labels: nothing is scored"


def test_one_picture_or_a_pattern(folder: Path) -> None:
    below = folder / "sub" / "deep"
    below.mkdir(parents=True)
    Image.fromarray(picture()).save(below / "c.jpg")
    for root, files in [
        (folder / "b.png", ["b.png"]),
        (folder / "*.png", ["b.png"]),
        (folder / "**" / "*", ["a.PNG", "b.png", "sub/deep/c.jpg"]),
        (folder, ["a.PNG", "b.png"]),
    ]:
        data = module(root)
        assert [data.meta(i)["file"] for i in range(len(data.crops("predict")))] == files


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_make_no_difference(folder: Path, workers: int) -> None:
    assert torch.equal(batch(module(folder, num_workers=workers))["image"], batch(module(folder))["image"])


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_by_their_exif_orientation(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    Image.fromarray(picture()).save(path, quality=98, exif=exif(orientation))
    upright = {
        1: picture(), 2: picture()[:, ::-1], 3: picture()[::-1, ::-1], 4: picture()[::-1],
        5: picture().transpose(1, 0, 2), 6: np.rot90(picture(), -1), 7: picture()[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture()),
    }[orientation]  # fmt: skip
    sample = module(path).people("predict").read(0)
    assert sample.image is not None
    assert sample.size == picture_size(path) == upright.shape[1::-1]
    assert np.abs(np.asarray(sample.image).astype(int) - upright).mean() < 4


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("I;16", "png"), ("I;16", "tif"), ("L", "jpg"), ("P", "png"),
                         ("CMYK", "jpg"), ("RGB", "bmp"), ("RGB", "webp"), ("1", "png")],
)  # fmt: skip
def test_every_kind_of_picture_becomes_rgb_bytes(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    grey = picture()[..., 1]
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(picture()).convert(mode).save(path)
    image = np.asarray(module(path).people("predict").read(0).image)
    assert image.dtype == np.uint8
    assert image.shape == (HEIGHT, WIDTH, 3)
    if mode == "I;16":
        assert np.abs(image.astype(int) - grey[..., None]).max() <= 1
    elif mode in ("RGB", "RGBA", "CMYK"):
        assert np.abs(image.astype(int) - picture()).mean() < 12
    else:
        assert image.std() > 20


def test_names_may_have_any_letters(tmp_path: Path) -> None:
    """macOS writes an accent as a letter of its own, editors do not: a boxes file must still match."""
    name = "Übung 人 é.png"
    Image.fromarray(picture()).save(tmp_path / unicodedata.normalize("NFD", name))
    boxes = write(tmp_path / "boxes.json", {unicodedata.normalize("NFC", name): [[1, 2, 3, 4]]})
    data = module(tmp_path, boxes=boxes)
    assert batch(data)["box"].tolist() == [[1, 2, 3, 4]]
    assert data.meta(0)["file"] == name


# ------------------------------------------------------------------------------------------------- boxes


BOXES = {"b.png": [[5, 6, 20, 30], [-4, -3, 20.5, 12]], "a.PNG": []}


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_every_box_is_a_crop(kind: str, folder: Path, tmp_path: Path) -> None:
    if kind == "json":
        boxes = write(tmp_path / "boxes.json", BOXES)
    else:
        rows = "\ufeffscore,file,left,top,width,height\n.9,b.png,5,6,20,30\n.8,./b.png,-4,-3,20.5,12\n"
        boxes = write(tmp_path / "boxes.csv", rows)
    data = module(folder, boxes=boxes)
    crops = batch(data)
    assert crops["box"].tolist() == BOXES["b.png"]
    assert crops["image_id"].tolist() == [1, 1]
    assert crops["person_id"].tolist() == [0, 1]
    assert [data.meta(i)["box"] for i in range(2)] == [0, 1]
    assert crops["image"][0].float().std() > 1


def test_people_of_one_picture_are_decoded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(folder, boxes=write(tmp_path / "boxes.json", BOXES))
    from posezoo.data import folder as code

    opened = []
    read = code.open_image
    monkeypatch.setattr(code, "open_image", lambda path: opened.append(path) or read(path))
    batch(data)
    assert opened == [folder / "b.png"]


WRONG_BOXES: dict[str, tuple[str, Any, str]] = {
    "unknown picture": ("x.json", {"b.pgn": [[1, 1, 5, 5]]}, r"names 'b\.pgn', .*: did you mean b\.png"),
    "no width": ("x.json", {"b.png": [[1, 1, 5, 5], [1, 1, 0, 5]]}, "box 1 of b.png is .*height must be positive"),
    "negative": ("x.json", {"b.png": [[1, 1, 5, -5]]}, "must be positive"),
    "not finite": ("x.json", '{"b.png": [[NaN, 1, 5, 5]]}', "box 0 of b.png is"),
    "outside": ("x.json", {"b.png": [[61, 1, 5, 5]]}, "outside the picture of 60 x 40 px"),
    "outside above": ("x.json", {"b.png": [[1, -9, 5, 5]]}, "outside the picture"),
    "three numbers": ("x.json", {"b.png": [[1, 1, 5]]}, r"boxes of b\.png must be a list of \[left, top,"),
    "not nested": ("x.json", {"b.png": [1, 1, 5, 5]}, "must be a list of"),
    "words": ("x.json", {"b.png": [["1", 1, 5, 5]]}, "must be a list of"),
    "a list": ("x.json", [[1, 1, 5, 5]], "holds a list: write the boxes as"),
    "not JSON": ("x.json", "{b.png: }", "is not readable JSON"),
    "none": ("x.json", {"b.png": []}, "has no boxes: add some, or leave"),
    "columns": ("x.csv", "file,left,top,w,h\n", "lacks the columns height, width"),
    "no columns": ("x.csv", "", "lacks the columns"),
    "a word in CSV": ("x.csv", "file,left,top,width,height\nb.png,1,2,3,x\n", r"line 2: 'b\.png,1,2,3,x' must be"),
    "short CSV line": ("x.csv", "file,left,top,width,height\nb.png,1,2\n", "line 2"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG_BOXES)
def test_a_wrong_box_is_one_clear_sentence(mistake: str, folder: Path, tmp_path: Path) -> None:
    name, content, sentence = WRONG_BOXES[mistake]
    boxes = write(tmp_path / name, content)
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(folder, boxes=boxes)
    assert "\n" not in str(error.value)
    assert boxes in str(error.value)


@pytest.mark.parametrize("name", ["gone.json", "gone.csv"])
def test_a_missing_boxes_file_is_said(name: str, folder: Path) -> None:
    with pytest.raises(PoseZooError, match=r"There is no file .*gone"):
        module(folder, boxes=str(folder / name))


# ------------------------------------------------------------------------------------------------- cameras


@pytest.mark.parametrize("fov", [None, 30.0])
def test_without_a_camera_the_field_of_view_is_assumed(fov: float | None, folder: Path) -> None:
    crops = batch(module(folder) if fov is None else module(folder, fov=fov))
    focal = WIDTH / 2 / np.tan(np.radians((fov or 55) / 2))
    k = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]], dtype=torch.float32)
    torch.testing.assert_close(crops["source_intrinsics"], k.expand(2, 3, 3))
    assert not crops["has_camera"].any()


@pytest.mark.parametrize("crop", ["look_at", "image_plane"])
def test_photographs_are_cropped_as_the_model_wants(crop: Any, folder: Path, tmp_path: Path) -> None:
    boxes = write(tmp_path / "boxes.json", {"a.PNG": [[0, 0, 20, 20]]})
    turned = batch(module(folder, crop=crop, boxes=boxes))["rotation"][0]
    assert torch.equal(turned, torch.eye(3)) == (crop == "image_plane")


def test_given_cameras_are_calibrated(folder: Path, tmp_path: Path) -> None:
    distortion = [-0.1, 0.02, 0.001, -0.002, 0.003]
    cameras = {"*": {"K": K}, "b.png": {"K": K, "distortion": distortion}}
    crops = batch(module(folder, cameras=write(tmp_path / "cameras.json", cameras)))
    assert crops["has_camera"].all()
    torch.testing.assert_close(crops["source_intrinsics"], torch.tensor(K).expand(2, 3, 3))
    assert crops["distortion_model"].tolist() == [0, 1]
    torch.testing.assert_close(crops["source_distortion"][1, :5], torch.tensor(distortion))


WRONG_CAMERAS: dict[str, tuple[Any, str]] = {
    "left out": ({"a.PNG": {"K": K}}, 'has no camera for b.png: add it, or an entry "[*]"'),
    "empty": ({}, r"has no camera for a\.PNG and 1 more"),
    "unknown": ({"*": {"K": K}, "c.png": {"K": K}}, r"names 'c\.png'"),
    "no K": ({"*": {"f": 3}}, 'must be {"K": 3x3'),
    "typing": ({"*": {"K": K, "dist": []}}, "distortion may be left out"),
    "K alone": ({"*": K}, 'must be {"K": 3x3'),
    "shape": ({"*": {"K": [70, 70, 31, 18]}}, "must be three rows of three numbers"),
    "focal": ({"*": {"K": [[0, 0, 1], [0, 1, 1], [0, 0, 1]]}}, r"it must be \[\[fx, 0, cx\]"),
    "transposed": ({"*": {"K": np.transpose(K).tolist()}}, r"it must be \[\[fx, 0, cx\]"),
    "coefficients": ({"*": {"K": K, "distortion": [0.1, 0.2]}}, "must be 4, 5, 8 or 12 numbers"),
}


@pytest.mark.parametrize("mistake", WRONG_CAMERAS)
def test_a_wrong_camera_is_one_clear_sentence(mistake: str, folder: Path, tmp_path: Path) -> None:
    cameras, sentence = WRONG_CAMERAS[mistake]
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(folder, cameras=write(tmp_path / "cameras.json", cameras))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fov", [0, 180, -5])
def test_an_impossible_field_of_view_is_refused(fov: float, folder: Path) -> None:
    with pytest.raises(PoseZooError, match=r"--data\.fov must lie between 0 and 180"):
        module(folder, fov=fov)


# ------------------------------------------------------------------------------------------------- mistakes


def test_a_place_without_pictures_is_one_clear_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for root, sentence in [
        (None, r"set --data\.root to a folder or a picture"),
        (tmp_path / "gone", "There is no file or folder .*gone"),
        (empty, r"No pictures in .*empty \(it holds no files\): posezoo reads \.jpg"),
        (tmp_path, r"for its subfolders, type '.*/\*\*/\*\.jpg'"),
        (tmp_path / "*.jpg", "no file matches"),
    ]:
        with pytest.raises(PoseZooError, match=sentence):
            module(root)
    (empty / "IMG_1.HEIC").write_bytes(b"x")
    with pytest.raises(PoseZooError, match=r"it holds 1 x \.heic"):
        module(empty)


@pytest.mark.parametrize("content", [b"", b"GIF89a?", b"\x89PNG\r\n\x1a\n", b"hello" * 100])
def test_a_damaged_picture_is_named_before_anything_runs(content: bytes, folder: Path) -> None:
    (folder / "c.jpg").write_bytes(content)
    with pytest.raises(PoseZooError, match=r"c\.jpg is not a readable picture .*: replace or remove it"):
        module(folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_damaged_further_on_is_one_sentence_too(
    workers: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # torch's wait for a failed worker
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:70])  # its header is whole
    data = module(folder, num_workers=workers)
    with pytest.raises(PoseZooError) as error:
        list(data.predict_dataloader())
    assert str(error.value) == f"{folder / 'c.png'} is not a readable image (empty or damaged); replace or remove it."
    del error
    gc.collect()  # ends the worker while torch's patience is short


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_there_is_nothing_to_train_or_test_with(stage: str, folder: Path) -> None:
    with pytest.raises(PoseZooError, match=r"ImageFolder has no labels, hence no '(train|val|test)' split"):
        ImageFolder(str(folder)).setup(stage)


def test_a_model_that_needs_the_true_depth_cannot_predict(folder: Path) -> None:
    with pytest.raises(PoseZooError, match=r"pelvis_2000mm.*--model\.box annotation"):
        module(folder, box="pelvis_2000mm")
