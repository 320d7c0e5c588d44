"""Other backgrounds and clothes: what changes, what stays, and that it depends on (seed, epoch, sample) alone."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from three_dhp_helpers import CHAIR, GREEN, SHIRT, SIDE, SKIN, TROUSERS, draw, person, write_picture, write_train

from posezoo.data import MPIINF3DHP
from posezoo.data.green_screen import (
    Change,
    GreenScreen,
    ScreenedImage,
    Screens,
    augmentable,
    background,
    blend,
    mask_path,
    person_weights,
)
from posezoo.data.images import ImageError, SourceImage, open_image
from posezoo.errors import PoseZooError

PURPLE = (200, 10, 220)
ROWS = {SKIN: 18, SHIRT: 26, TROUSERS: 42}  # a row of pixels in the middle of each part of the drawn person


def picture(path: Path, colour: tuple[int, int, int], side: int = 40) -> Path:
    return write_picture(path, np.full((side, side, 3), colour, np.uint8))


@pytest.fixture
def frame() -> tuple[SourceImage, SourceImage, SourceImage]:
    image, foreground, chair = (SourceImage(pixels) for pixels in draw(person()))
    return image, foreground, chair


BOX = (20, 10, 24, 48)


def changed(frame: tuple[SourceImage, SourceImage, SourceImage], change: Change) -> NDArray[np.int64]:
    return ScreenedImage(*frame, change, BOX).decode().astype(int)


def test_the_background_is_replaced_and_the_person_is_not(
    frame: tuple[SourceImage, SourceImage, SourceImage], tmp_path: Path
) -> None:
    pixels = changed(frame, Change(background=picture(tmp_path / "b.png", PURPLE)))
    for colour, row in ROWS.items():
        np.testing.assert_allclose(pixels[row, 32], colour, atol=6)
    for corner in ((1, 1), (1, 62), (62, 1), (62, 62)):
        np.testing.assert_allclose(pixels[corner], PURPLE, atol=1)
    chair = np.argwhere((np.asarray(frame[0]) == CHAIR).all(-1))
    middle = tuple(chair[len(chair) // 2])
    assert np.abs(pixels[middle] - PURPLE).sum() > np.abs(pixels[middle] - CHAIR).sum()
    assert (pixels[..., 1] > 150).sum() == 0  # no green is left, at the soft border neither


def test_clothes_lose_their_colour_and_take_half_of_the_texture(
    frame: tuple[SourceImage, SourceImage, SourceImage], tmp_path: Path
) -> None:
    """As the release's tools do: half the grey value, half the texture, on upper and lower body each."""
    texture = picture(tmp_path / "t.png", PURPLE)
    pixels = changed(frame, Change(upper=texture))
    grey = 0.299 * SHIRT[0] + 0.587 * SHIRT[1] + 0.114 * SHIRT[2]
    np.testing.assert_allclose(pixels[ROWS[SHIRT], 32], (np.array(PURPLE) + grey) / 2, atol=12)
    np.testing.assert_allclose(pixels[ROWS[TROUSERS], 32], TROUSERS, atol=6)
    np.testing.assert_allclose(pixels[2, 2], GREEN, atol=1)
    lower = changed(frame, Change(lower=texture))
    np.testing.assert_allclose(lower[ROWS[SHIRT], 32], SHIRT, atol=6)
    assert np.abs(lower[ROWS[TROUSERS], 32] - TROUSERS).max() > 30


def test_far_from_the_person_everything_is_background(
    frame: tuple[SourceImage, SourceImage, SourceImage], tmp_path: Path
) -> None:
    """The studio around the green room is bright in the masks, too."""
    bright = np.asarray(frame[1]).copy()
    bright[:, 58:, 0] = 255
    spoilt = frame[0], SourceImage(bright), frame[2]
    pixels = changed(spoilt, Change(background=picture(tmp_path / "b.png", PURPLE)))
    np.testing.assert_allclose(pixels[30, 62], PURPLE, atol=1)
    weights = person_weights(np.ones((64, 64, 3), np.float32), np.ones((64, 64, 3), np.float32), BOX)
    assert weights.sum() == pytest.approx(1.3**2 * BOX[2] * BOX[3], rel=0.1)


def test_a_change_looks_the_same_however_finely_it_is_decoded(tmp_path: Path) -> None:
    """Reduced by 2, it is the average of the whole."""
    root = write_train(tmp_path / "data", masks=True)
    frame = root / "S1" / "Seq1" / "imageSequence" / "img_0_000001.jpg"
    parts = [open_image(path) for path in (frame, mask_path(frame, "FGmasks"), mask_path(frame, "ChairMasks"))]
    gradient = np.linspace(0, 255, 80).astype(np.uint8)
    back = write_picture(tmp_path / "b.png", np.stack([np.tile(gradient, (80, 1))] * 3, -1))
    change = Change(background=back, upper=back, zoom=1.3, place=(0.2, 0.9))
    image = ScreenedImage(parts[0], parts[1], parts[2], change, BOX)
    assert image.reductions == (1, 2, 4, 8)
    whole, half = image.decode(1).astype(float), image.decode(2).astype(float)
    average = whole.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(average - half).mean() < 4
    with pytest.raises(ValueError, match="reduced by"):
        image.decode(3)


@pytest.mark.parametrize(("place", "first", "last"), [(0.0, 0, 49), (1.0, 50, 99), (0.5, 25, 74)])
def test_a_wide_background_is_cut_where_it_should_be(place: float, first: int, last: int, tmp_path: Path) -> None:
    ramp = np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (50, 1, 3))
    path = write_picture(tmp_path / "ramp.png", ramp)
    cut = background(path, (50, 50), 1.0, (place, 0.5))
    assert cut.shape == (50, 50, 3)
    assert [cut[25, 0, 0], cut[25, -1, 0]] == pytest.approx([first, last], abs=0.01)


def test_blend_takes_the_upper_picture_where_the_weights_are_one() -> None:
    above, below = np.full((1, 2, 3), 10, np.float32), np.full((1, 2, 3), 30, np.float32)
    assert blend(above, below, np.array([[1, 0.5]], np.float32))[0, :, 0].tolist() == [10, 20]


# --------------------------------------------------------------------------------------------------- draws


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    for number in range(4):
        picture(tmp_path / "backgrounds" / "below" / f"{number}.png", (number, 0, 0))
        picture(tmp_path / "textures" / f"{number}.png", (0, number, 0))
    return {name: str(tmp_path / name) for name in ("backgrounds", "textures")}


def test_draws_depend_on_seed_epoch_and_sample_alone(folders: dict[str, str]) -> None:
    settings = GreenScreen(**folders, background=1, clothing=1)  # type: ignore[arg-type]
    one, other = Screens(settings, 5), pickle.loads(pickle.dumps(Screens(settings, 5)))
    first = {key: one.draw(*key) for key in ((index, epoch) for index in range(8) for epoch in range(2))}
    assert all(other.draw(*key) == change for key, change in reversed(first.items()))
    assert len(set(map(str, first.values()))) == 16
    assert Screens(settings, 6).draw(0, 0) != first[0, 0]


def test_probabilities_and_masks_are_obeyed(folders: dict[str, str]) -> None:
    screens = Screens(GreenScreen(**folders, background=0.7, clothing=0.2))  # type: ignore[arg-type]
    changes = [screens.draw(index, 0) for index in range(2000)]
    share = lambda name: np.mean([c is not None and getattr(c, name) is not None for c in changes])  # noqa: E731
    assert share("background") == pytest.approx(0.7, abs=0.04)
    for name in ("upper", "lower", "chair"):
        assert share(name) == pytest.approx(0.2, abs=0.04)
    assert len({c.background for c in changes if c}) == 5  # four pictures, or none
    only = [screens.draw(index, 0, (False, True, False)) for index in range(200)]
    assert all(c is None or (c.background is None and c.lower is None) for c in only)
    assert any(c is not None and c.upper is not None for c in only)


def test_bad_masks_of_the_release_are_not_used() -> None:
    """S1 Seq2 and S4 Seq2 have bad masks of background and lower body; S1 Seq1 has none of clothes."""
    assert augmentable("S1", "Seq2") == augmentable("S4", "Seq2") == (False, True, False)
    assert augmentable("S1", "Seq1") == augmentable("S7", "Seq2") == (True, False, False)
    assert augmentable("S2", "Seq2") == augmentable("S8", "Seq1") == (True, True, True)
    assert sum(augmentable(f"S{s}", f"Seq{q}")[1] for s in range(1, 9) for q in (1, 2)) == 8


# ------------------------------------------------------------------------------------------- in a DataModule


def module(root: Path, **screen: Any) -> MPIINF3DHP:
    return MPIINF3DHP(
        str(root),
        train_subjects=["S1"],
        frame_step=1,
        min_motion=0,
        green_screen=GreenScreen(**screen),
        num_workers=0,
        batch_size=3,
        image_size=64,
    )


def test_training_frames_change_from_epoch_to_epoch_and_labels_do_not(tmp_path: Path) -> None:
    root = write_train(tmp_path / "data", masks=True)
    picture(tmp_path / "b" / "purple.png", PURPLE)
    data = module(root, backgrounds=str(tmp_path / "b"), background=0.5)
    crops = data.crops("train")
    rows = [crops[0, draw] for draw in range(12)]
    purple = [int((row["image"][0] > 150).sum()) for row in rows]
    assert min(purple) < 500 < 1500 < max(purple)
    assert all((row["joints3d"] == rows[0]["joints3d"]).all() for row in rows)
    again = module(root, backgrounds=str(tmp_path / "b"), background=0.5).crops("train")[0, 7]
    assert (again["image"] == rows[7]["image"]).all()


def test_missing_masks_are_said_at_once(tmp_path: Path) -> None:
    root = write_train(tmp_path / "data", masks=True)
    picture(tmp_path / "b" / "x.png", PURPLE)
    shutil.rmtree(root / "S1" / "Seq1" / "ChairMasks")
    with pytest.raises(PoseZooError, match=r"No mask at .*ChairMasks/img_0_000001\.jpg: extract"):
        module(root, backgrounds=str(tmp_path / "b")).people("train")


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    root = write_train(tmp_path / "data", masks=True)
    picture(tmp_path / "b" / "x.png", PURPLE)
    path = root / "S1" / "Seq1" / "FGmasks" / "img_0_000001.jpg"
    write_picture(path, np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ImageError, match=rf"img_0_000001\.jpg is 32 x 32 px, but its frame {SIDE} x {SIDE} px"):
        module(root, backgrounds=str(tmp_path / "b"), background=1.0).people("train").read(0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "set backgrounds, textures, or both"),
        ({"backgrounds": "x", "background": 1.5}, r"green_screen\.background is a probability"),
        ({"backgrounds": "/nowhere"}, r"There is no folder /nowhere: set --data\.green_screen\.backgrounds"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        Screens(GreenScreen(**settings))


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(PoseZooError, match=r"No pictures in .*: --data\.green_screen\.textures"):
        Screens(GreenScreen(textures=str(tmp_path)))
