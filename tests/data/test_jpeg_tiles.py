"""Parts of prepared JPEGs: the same pixels as of the whole, for less work, and damage is noticed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera, image_plane_crop
from posezoo.data import jpeg_tiles
from posezoo.data.crop import warp
from posezoo.data.images import ImageError, ImageFile, encode_jpeg
from posezoo.data.jpeg_tiles import encode_tiled, find_tiles

# Fewer pixels than a tile, one block, a prime number of blocks in a row, and whole tiles.
SIZES = [(5, 3), (16, 16), (37 * 16 - 3, 50), (320, 256), (129, 200)]


def picture(width: int, height: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(width).integers(0, 256, (9, 9, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def decoded(content: bytes) -> NDArray[np.int64]:
    return np.asarray(simplejpeg.decode_jpeg(content, "RGB", strict=True)).astype(int)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_part_has_the_pixels_of_the_whole(width: int, height: int) -> None:
    content = encode_tiled(picture(width, height), 95)
    whole, tiles = decoded(content), find_tiles(content)
    assert whole.shape == (height, width, 3)
    if width > 64:
        assert np.abs(whole - picture(width, height)).mean() < 4
    assert tiles is not None
    rectangles = [(0, 0, width, height), (width - 3, height - 2, width + 90, height + 9), (-50, -9, 9, 5)]
    rectangles += [(width / 3, height / 3, width / 2, height / 2), (width + 9, height + 9, width + 99, height + 99)]
    for left, top, right, bottom in rectangles:
        part, (x, y) = tiles.part((left, top), (right, bottom))
        pixels = decoded(part)
        below, across = y + pixels.shape[0], x + pixels.shape[1]
        assert x <= max(left, 0) or left >= width  # nothing of the rectangle is missing
        assert across >= min(right, width) or right <= 0
        assert y <= max(top, 0) or top >= height
        assert below >= min(bottom, height) or bottom <= 0
        # Colours, at half resolution, are interpolated: beside a cut they lack a neighbour.
        inner = tuple(
            slice(2 * (first > 0), None if last == end else -2)
            for first, last, end in ((y, below, height), (x, across, width))
        )
        np.testing.assert_array_equal(pixels[inner], whole[y:below, x:across][inner])


def test_a_part_is_small() -> None:
    content = encode_tiled(np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8), 95)
    tiles = find_tiles(content)
    assert tiles is not None
    part, _ = tiles.part((130, 130), (380, 380))
    assert len(part) < len(content) / 3
    assert decoded(part).shape == (256, 256, 3)


@pytest.mark.parametrize("zoom", [0.3, 0.8, 2.0])
def test_crops_are_the_same(zoom: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the crop leaves the picture, and where the picture is reduced while it is decoded."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encode_tiled(picture(600, 500), 95))
    camera = Camera.create([[900.0, 0, 300], [0, 900, 250], [0, 0, 1]])
    boxes = [(200, 150, 120, 150), (-60, -30, 200, 200), (500, 420, 150, 150)]
    crops = [image_plane_crop(camera, torch.tensor(box, dtype=torch.float32), 64, roll=15, zoom=zoom) for box in boxes]
    parts = [warp(ImageFile(path), crop) for crop in crops]
    monkeypatch.setattr("posezoo.data.images.find_tiles", lambda content: None)
    for part, crop in zip(parts, crops, strict=True):
        whole = warp(ImageFile(path), crop)
        assert part.any()
        assert np.abs(part.astype(int) - whole).max() <= 1


def test_other_files_have_no_tiles() -> None:
    content = encode_tiled(picture(200, 100), 95)
    assert find_tiles(encode_jpeg(picture(200, 100), 95)) is None
    for spoilt in (b"", b"\xff", content[:1], content[:30], content[:-2], content[: len(content) // 2], b"x" + content):
        assert find_tiles(spoilt) is None
    # Every byte in turn may be damaged: what is found can be cut, or nothing is found.
    for place in range(0, len(content), 7):
        tiles = find_tiles(content[:place] + b"\xd3" + content[place + 1 :])
        if tiles is not None:
            tiles.part((0, 0), (90, 40))


def test_a_damaged_file_is_still_named(tmp_path: Path) -> None:
    path, content = tmp_path / "a.jpg", encode_tiled(picture(200, 100), 95)
    path.write_bytes(content[: len(content) // 2])
    everything = np.zeros(2), np.array([200.0, 100.0])
    with pytest.raises(ImageError, match=r"a\.jpg"):
        ImageFile(path).decode_around(*everything)
    path.write_bytes(content)
    assert jpeg_tiles.find_tiles(content) is not None
    pixels, first = ImageFile(path).decode_around(*everything)
    assert (pixels.shape, first) == ((100, 200, 3), (0, 0))
