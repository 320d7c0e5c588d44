"""Images that are decoded no finer than a crop needs: where their pixels lie, and what is still found to be damaged."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from posezoo.cameras import Camera, CropCamera, image_plane_crop, look_at_crop
from posezoo.data.base import CropDataset
from posezoo.data.crop import CropSpec, averaging, warp
from posezoo.data.folder import open_pictures
from posezoo.data.images import ImageError, ImageFile, SourceImage, area_shrink, open_image, read_image
from posezoo.skeletons import H36M17

LENS = [-0.2, 0.24, -0.0015, -0.001, -0.002]  # of a Human3.6M camera


SLOPE = 0.2371  # grey levels per px; no simple fraction, so that rounding averages out


def ramp(width: int, height: int, axis: int) -> np.ndarray:
    """Grey that grows along x (axis 0) or y (axis 1)."""
    place = np.meshgrid(np.arange(width), np.arange(height))[axis]
    return np.repeat((place * SLOPE).round().astype(np.uint8)[..., None], 3, -1)


def texture(side: int) -> np.ndarray:
    """Detail of all sizes, as in a photograph."""
    rng, found = np.random.default_rng(0), np.zeros((side, side, 3))
    for octave in range(2, 9):
        cells = rng.normal(0, 130 / 2 ** (octave / 2), (2**octave, 2**octave, 3))
        found += cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(found / 2 + 128, 0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, quality: int = 98) -> Path:
    Image.fromarray(pixels).save(path, quality=quality, subsampling=0)
    return path


def square(centre: float, side: float, camera: Camera, size: int = 64) -> CropCamera:
    box = torch.tensor([centre - side / 2, centre - side / 2, side, side])
    return image_plane_crop(camera, box, size)


def seen(crop: CropCamera) -> np.ndarray:
    """Source px of every pixel of a crop, exactly."""
    axis = torch.arange(crop.size, dtype=torch.float64)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    double = CropCamera(crop.intrinsics.double(), crop.rotation.double(), crop.source.to(torch.float64), crop.size)
    return double.to_image(torch.stack([u, v], -1).flatten(0, 1)).numpy().reshape(crop.size, crop.size, 2)


@pytest.mark.parametrize("side", [100, 170, 300, 520, 900])
@pytest.mark.parametrize(("size", "axis"), [((1024, 1000), 0), ((1021, 1003), 0), ((1021, 1003), 1)])
def test_a_reduced_jpeg_lies_where_the_whole_one_does(
    side: int, size: tuple[int, int], axis: int, tmp_path: Path
) -> None:
    rising = ramp(*size, axis)
    crop = square(500.0, side, Camera.from_field_of_view(40, *size))
    truth = seen(crop)[..., axis] * SLOPE
    up = (warp(ImageFile(save(tmp_path / "up.jpg", rising)), crop)[..., 0] - truth).mean()
    down = (warp(ImageFile(save(tmp_path / "down.jpg", 255 - rising)), crop)[..., 0] - (255 - truth)).mean()
    # A decoder that rounds upwards adds to both; a shift changes its sign.
    assert abs(up - down) / 2 / SLOPE < 0.3  # px; half a pixel beside it would be 0.5 at 1/2, and 3.5 at 1/8


@pytest.mark.parametrize("side", [200, 290, 370, 500, 1000])
def test_decoding_less_is_nearer_to_the_truth_than_skipping_pixels(side: int, tmp_path: Path) -> None:
    pixels = texture(1024)
    path = save(tmp_path / "texture.jpg", pixels)
    crop = square(511.5, side, Camera.from_field_of_view(40, 1024, 1024))
    fine = square(511.5, side, Camera.from_field_of_view(40, 1024, 1024), 64 * 16)
    truth = area_shrink(warp(read_image(path), fine, antialias=False), 16).astype(float)

    def error(found: np.ndarray) -> float:
        return float(np.sqrt(((found - truth) ** 2).mean()))

    ours = error(warp(ImageFile(path), crop))
    assert ours < error(warp(read_image(path), crop, antialias=False))
    assert ours < 1.15 * error(warp(read_image(path), crop))


def test_how_much_is_averaged_where() -> None:
    whole, jpeg = (1,), (1, 2, 4, 8)
    assert [averaging(scale, whole) for scale in (0.3, 1.9, 2.0, 5.7)] == [(1, 1), (1, 1), (1, 2), (1, 5)]
    assert [averaging(scale, jpeg) for scale in (0.3, 1.9, 1.9999, 3.9, 5.7, 9.0, 17.0)] == [
        (1, 1), (1, 1), (2, 1), (2, 1), (4, 1), (8, 1), (8, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [image_plane_crop, look_at_crop])
def test_a_lens_on_a_coarse_grid_is_exact(kind: object) -> None:
    camera = Camera.create([[1145.0, 0, 512], [0, 1144, 515], [0, 0, 1]], LENS, "h36m")
    crop = kind(camera, torch.tensor([20.0, 200, 480, 480]), 250, roll=17.0)  # type: ignore[operator]
    inside = (seen(crop) > 8).all(-1) & (seen(crop) < 990).all(-1)
    for axis in range(2):
        apart = (warp(ramp(1000, 1002, axis), crop)[..., 0] - seen(crop)[..., axis] * SLOPE)[inside] / SLOPE
        assert abs(apart.mean()) < 0.05  # px
        assert np.abs(apart).max() < 1.1 / SLOPE  # rounded twice


def test_an_image_knows_its_size_and_becomes_an_array(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", texture(80)[:51])
    image = open_image(path)
    assert image.size == (80, 51)
    assert image.shape == (51, 80, 3) == np.asarray(image).shape
    np.testing.assert_array_equal(np.asarray(image), read_image(path))
    assert image.decode(8).shape == (7, 10, 3)
    assert image.decode(8) is image.decode(8)
    with pytest.raises(ValueError, match=r"by \(1, 2, 4, 8\), not by 3"):
        image.decode(3)
    with pytest.raises(ValueError, match="not by 2"):
        SourceImage(texture(16)).decode(2)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_all_colours_of_jpegs_are_read_as_before(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(texture(64)).convert(mode).save(path)
    image = ImageFile(path)
    assert (image.reductions == (1,)) == (mode == "CMYK")
    by_opencv = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(np.asarray(image), by_opencv)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_turned_jpegs_are_decoded_whole(orientation: int, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(texture(64)[:40]).save(path, exif=tags)
    image = ImageFile(path)
    assert image.size == ((40, 64) if orientation == 6 else (64, 40))
    assert image.reductions == ((1, 2, 4, 8) if orientation == 1 else (1,))
    assert image.decode().shape[1::-1] == image.size


@pytest.mark.parametrize("share", [0.4, 0.99])
@pytest.mark.parametrize("reduction", [1, 4])
def test_a_cut_off_jpeg_is_found_when_it_is_decoded(share: float, reduction: int, tmp_path: Path) -> None:
    path = save(tmp_path / "cut.jpg", texture(64))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=r"cut\.jpg (is not a readable image|cannot be read)"):
        ImageFile(path).decode(reduction)


def decoded_rows(path: Path, crop: CropCamera) -> tuple[int, np.ndarray]:
    """How many rows of a file were decoded for a crop, and the crop."""
    image, rows = ImageFile(path), []

    def spy(*arguments: Any, decode: Any = image.decode_around) -> Any:
        found = decode(*arguments)
        rows.append(found[0].shape[0])
        return found

    image.decode_around = spy  # type: ignore[method-assign]
    pixels = warp(image, crop)
    return rows[0], pixels


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("side", [100, 200, 420])
@pytest.mark.parametrize("grey", [False, True])
def test_a_jpeg_is_read_down_to_the_feet_only(side: int, subsampling: str, grey: bool, tmp_path: Path) -> None:
    """With the very pixels of the whole picture, whatever it is reduced by."""
    path, picture = tmp_path / "a.jpg", Image.fromarray(texture(1000)[:, :900])
    picture.convert("L" if grey else "RGB").save(path, quality=90, subsampling=subsampling)
    crop = square(300.0, side, Camera.from_field_of_view(40, 900, 1000))
    reduction = averaging(side / 64, (1, 2, 4, 8))[0]
    rows, pixels = decoded_rows(path, crop)
    feet = (300 + side / 2) / reduction
    assert feet <= rows <= feet + 32 / reduction + 40
    whole = ImageFile(path)
    whole.decode(reduction)
    np.testing.assert_array_equal(pixels, warp(whole, crop))


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1, "subsampling": "4:4:4"}])
def test_jpegs_that_are_coded_otherwise_are_read_whole(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(texture(400)).save(path, **options)
    rows, pixels = decoded_rows(path, square(100.0, 80, Camera.from_field_of_view(40, 400, 400)))
    assert rows == 400
    assert pixels.any()


def test_damage_above_the_feet_is_found_and_damage_below_is_not_asked_for(tmp_path: Path) -> None:
    path, crop = tmp_path / "a.jpg", square(150.0, 200, Camera.from_field_of_view(40, 800, 800))
    Image.fromarray(texture(800)).save(path, quality=90)
    content, pixels = path.read_bytes(), decoded_rows(path, crop)[1]
    path.write_bytes(content[: len(content) * 9 // 10] + bytes(50) + content[len(content) * 9 // 10 + 50 :])
    np.testing.assert_array_equal(decoded_rows(path, crop)[1], pixels)
    path.write_bytes(content[: len(content) * 9 // 10])  # an incomplete copy is never taken for a sound one
    with pytest.raises(ImageError, match=r"a\.jpg"):
        decoded_rows(path, crop)
    spoilt = bytearray(content)
    spoilt[len(content) // 10 : len(content) // 10 + 40] = b"\xff\xd9" * 20
    path.write_bytes(bytes(spoilt))
    assert decoded_rows(path, crop)[0] == 400  # all of it, at 1/2: what OpenCV can read passes, as before


def test_several_people_of_a_picture_share_what_is_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", texture(600))
    camera, image = Camera.from_field_of_view(40, 600, 600), ImageFile(path)
    first = image.decode_around(np.zeros(2), np.array([90.0, 200]))[0]
    assert first.shape == (224, 600, 3)
    assert image.decode_around(np.zeros(2), np.array([300.0, 180]))[0] is first
    lower = image.decode_around(np.zeros(2), np.array([90.0, 400]))[0]
    assert lower.shape == (600, 600, 3)
    assert image.decode() is lower
    crop = square(450.0, 100, camera)
    np.testing.assert_array_equal(warp(image, crop), warp(read_image(path), crop))


def test_stray_bytes_are_no_damage(tmp_path: Path) -> None:
    """Photographs of the web have them; OpenCV reads them, and so do reduced ones."""
    path = save(tmp_path / "stray.jpg", texture(64))
    whole, content = read_image(path), path.read_bytes()
    path.write_bytes(content[:-2] + b"\x00" * 5 + content[-2:])
    np.testing.assert_array_equal(read_image(path), whole)
    assert ImageFile(path).decode(4).shape == (16, 16, 3)


def test_a_part_of_an_image_is_cropped_as_the_whole(tmp_path: Path) -> None:
    """Stored at 1/2 from (96, 64) on, as prepared data are."""
    pixels = texture(512)
    part = area_shrink(pixels[64:448, 96:480], 2)
    path = save(tmp_path / "part.png", part)
    image = ImageFile(path, (512, 512), (96.0, 64.0), (2.0, 2.0))
    assert image.size == (512, 512)
    crop = square(260.0, 140, Camera.from_field_of_view(40, 512, 512), 60)
    apart = warp(image, crop).astype(float) - warp(pixels, crop)
    assert np.sqrt((apart**2).mean()) < 3
    far = square(30.0, 40, Camera.from_field_of_view(40, 512, 512), 60)
    assert not warp(image, far).any()  # nothing is stored there


def test_rows_of_a_dataset_are_those_of_whole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.jpg", texture(400))
    spec = CropSpec(H36M17, 64, "look_at", "annotation")
    reduced = CropDataset(open_pictures(tmp_path, None, 55, None), spec)[0]
    monkeypatch.setattr("posezoo.data.folder.open_image", lambda path: SourceImage(read_image(path)))
    whole = CropDataset(open_pictures(tmp_path, None, 55, None), spec)[0]
    apart = reduced.pop("image").float() - whole.pop("image").float()
    assert 0 < float(apart.abs().mean()) < 4
    assert all(torch.equal(reduced[key], whole[key]) for key in whole)
