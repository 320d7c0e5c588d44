"""Colour, blur, JPEG artefacts and occlusion: seeded by the sample alone, and within MeTRAbs' ranges."""

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from posezoo.data.crop import Augmentation
from posezoo.data.photometric import Photometric, _make, erase_rectangle, find_cut_outs, paste_objects
from posezoo.errors import PoseZooError

SIDE = 64
EVERYTHING = Augmentation(occlusion=1.0, blur=1.0, jpeg=1.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """Smooth colours without black or white, so that nothing is hidden by clipping."""
    ramp = np.linspace(60, 190, SIDE)
    return np.stack(
        [ramp[None] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp, np.full((SIDE, SIDE), 120.0)], -1
    ).astype(np.uint8)


def test_equal_generators_give_equal_pixels_and_others_do_not(image: NDArray[np.uint8]) -> None:
    photometric = Photometric(EVERYTHING)
    first = [photometric(image, rng(seed)) for seed in range(16)]
    shuffled = {seed: photometric(image, rng(seed)) for seed in reversed(range(16))}
    assert all(np.array_equal(first[seed], shuffled[seed]) for seed in range(16))
    assert len({pixels.tobytes() for pixels in first}) == 16


def test_two_instances_and_a_pickled_one_agree(image: NDArray[np.uint8]) -> None:
    """Loader processes get copies; whatever one of them has drawn before must not matter."""
    one, other = Photometric(EVERYTHING), Photometric(EVERYTHING)
    sent = pickle.loads(pickle.dumps(one))
    for seed in (5, 6):
        other(image, rng(seed + 90))
        wanted = one(image, rng(seed))
        assert np.array_equal(wanted, other(image, rng(seed)))
        assert np.array_equal(wanted, sent(image, rng(seed)))


@pytest.mark.parametrize(
    "aug", [EVERYTHING, Augmentation(), Augmentation(colour=False), Augmentation(occlusion=0.0)], ids=str
)
def test_bytes_in_bytes_out_and_the_input_is_left_alone(aug: Augmentation, image: NDArray[np.uint8]) -> None:
    before = image.copy()
    for seed in range(6):
        pixels = Photometric(aug)(image, rng(seed))
        assert pixels.dtype == np.uint8
        assert pixels.shape == image.shape
    assert np.array_equal(image, before)


def test_everything_off_is_the_identity(image: NDArray[np.uint8]) -> None:
    off = Photometric(Augmentation(occlusion=0.0, colour=False, blur=0.0, jpeg=0.0))
    assert all(np.array_equal(off(image, rng(seed)), image) for seed in range(20))


@pytest.mark.parametrize("probability", [0.3, 0.7])
def test_occlusion_happens_as_often_as_asked_half_of_it_by_erasing(
    probability: float, image: NDArray[np.uint8]
) -> None:
    count = 1200
    photometric = Photometric(Augmentation(occlusion=probability, colour=False))
    changed = [photometric(image, rng(seed)) for seed in range(count)]
    share = np.mean([not np.array_equal(pixels, image) for pixels in changed])
    assert share == pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / count))


def test_both_kinds_of_occlusion_occur(image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"paste": 0, "erase": 0}

    def count(kind: str) -> Any:
        def fake(pixels: NDArray[np.uint8], *_: Any) -> NDArray[np.uint8]:
            calls[kind] += 1
            return pixels

        return fake

    monkeypatch.setattr("posezoo.data.photometric.paste_objects", count("paste"))
    monkeypatch.setattr("posezoo.data.photometric.erase_rectangle", count("erase"))
    photometric = Photometric(Augmentation(occlusion=1.0, colour=False))
    for seed in range(1000):
        photometric(image, rng(seed))
    assert sum(calls.values()) == 1000
    assert calls["erase"] == pytest.approx(500, abs=64)


def test_an_erased_rectangle_has_metrabs_area_and_is_noise(image: NDArray[np.uint8]) -> None:
    grey = np.full((200, 200, 3), 1, np.uint8)
    areas, noise = [], []
    for seed in range(400):
        erased = erase_rectangle(grey, rng(seed), 0.8)
        rows, columns = np.nonzero((erased != 1).any(2))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        areas.append(height * width / 200**2)
        noise.append(erased[(erased != 1).any(2)])
    assert max(areas) < 0.8 / 3 + 0.01
    assert np.mean(areas) == pytest.approx(0.8 / 6, abs=0.015)
    assert np.concatenate(noise).mean() == pytest.approx(127.5, abs=1)
    assert np.concatenate(noise).std() == pytest.approx(73.9, abs=1)


def test_pasted_objects_cover_a_part_and_leave_the_rest(image: NDArray[np.uint8]) -> None:
    shares = [(paste_objects(image, rng(seed), 0.8) != image).any(2).mean() for seed in range(200)]
    assert min(shares) >= 0
    assert 0.05 < np.mean(shares) < 0.5
    assert np.mean([share == 0 for share in shares]) < 0.1
    small = [(paste_objects(image, rng(seed), 0.4) != image).any(2).mean() for seed in range(200)]
    assert np.mean(small) < 0.5 * np.mean(shares)


def test_colours_stay_within_metrabs_ranges() -> None:
    """Contrast and saturation x U(0.5, 1.5), brightness +-12.5 %, hue +-72 degrees."""
    photometric = Photometric(Augmentation(occlusion=0.0))
    grey = np.full((8, 8, 3), 128, np.uint8)
    values = np.array([photometric(grey, rng(seed))[0, 0] for seed in range(500)], float)
    assert (np.ptp(values, axis=1) <= 1).all()  # saturation and hue do nothing to grey
    assert 128 * 0.86 < values.min() < 128 * 0.90
    assert 128 * 1.10 < values.max() < 128 * 1.14

    red = np.full((8, 8, 3), [200, 60, 60], np.uint8)
    hues = np.array([_hue(photometric(red, rng(seed))[0, 0]) for seed in range(500)])
    assert -74 < hues.min() < -60
    assert 60 < hues.max() < 74

    halves = np.full((8, 8, 3), 96, np.uint8)
    halves[:, 4:] = 160
    spread = np.array([np.ptp(photometric(halves, rng(seed))[..., 1].astype(float)) for seed in range(500)]) / 64
    assert 0.42 < spread.min() < 0.6  # contrast 0.5 x brightness 0.875
    assert 1.4 < spread.max() < 1.7


def _hue(rgb: NDArray[np.uint8]) -> float:
    """Degrees, -180..180; red is 0."""
    r, g, b = (float(c) for c in rgb)
    return float(np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)))


@pytest.mark.parametrize(
    ("aug", "low", "high"),
    [
        (Augmentation(occlusion=0.0, colour=False, blur=1.0), 0.02, 0.9),
        (Augmentation(occlusion=0.0, colour=False, jpeg=1.0), 0.05, 0.95),
    ],
    ids=["blur", "jpeg"],
)
def test_blur_and_jpeg_lose_detail_but_not_the_picture(aug: Augmentation, low: float, high: float) -> None:
    noise = rng().integers(60, 190, (SIDE, SIDE, 3)).astype(np.uint8)
    photometric = Photometric(aug)
    changed = np.stack([photometric(noise, rng(seed)) for seed in range(20)]).astype(float)
    kept = [np.corrcoef(pixels.ravel(), noise.ravel())[0, 1] for pixels in changed]
    assert low < min(kept) < high
    assert changed.mean() == pytest.approx(noise.mean(), abs=2)


def test_unknown_albumentations_arguments_do_not_pass_silently() -> None:
    """It only warns of them, and goes on without."""
    import albumentations as A

    _make(A.CoarseDropout, num_holes_range=(1, 2), p=0.5)
    with pytest.raises(UserWarning, match="max_holes"):
        _make(A.CoarseDropout, max_holes=2)


# ------------------------------------------------------------------------------------- cut-outs of one's own


@pytest.fixture
def cut_outs(tmp_path: Path) -> Path:
    """A red and a blue disc with nothing (but green under it) around, and a picture without transparency."""
    y, x = np.mgrid[:60, :80]
    disc = (x - 40) ** 2 + (y - 30) ** 2 < 25**2
    for name, colour in (("red", (0, 0, 255)), ("blue", (255, 0, 0))):
        bgra = np.zeros((60, 80, 4), np.uint8)
        bgra[..., :3] = (0, 255, 0)
        bgra[disc] = (*colour, 255)
        path = tmp_path / "voc" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), bgra)
    cv2.imwrite(str(tmp_path / "voc" / "photo.png"), np.zeros((9, 9, 3), np.uint8))
    return tmp_path / "voc"


def test_only_pictures_with_transparency_are_pasted(cut_outs: Path) -> None:
    assert [path.name for path in find_cut_outs(str(cut_outs))] == ["blue.png", "red.png"]
    assert find_cut_outs(None) == ()
    photometric = Photometric(Augmentation(occlusion=1.0, colour=False, occluders=str(cut_outs)))
    grey = np.full((SIDE, SIDE, 3), 100, np.uint8)
    colours, shares = set(), []
    for seed in range(200):
        pixels = photometric(grey, rng(seed)).astype(int)
        if (pixels[..., 1] > 101).any():
            continue  # erased: noise of all colours
        covered = (pixels != 100).any(2)
        shares.append(covered.mean())
        colours |= {tuple(colour) for colour in pixels[(np.ptp(pixels, axis=2) == 255)]}
    assert colours == {(255, 0, 0), (0, 0, 255)}  # what was transparent does not colour the rim
    assert 60 < len(shares) < 140
    assert 0.005 < np.mean(shares) < 0.05  # 1 to 7 discs of 50 px, at a quarter and less of 0.8 times half of it


def test_cut_outs_are_as_large_as_metrabs_makes_them(cut_outs: Path) -> None:
    """U(0.2, 1) * scale * 0.5 of their own size in a 256 px crop: a disc of 50 px gets 4 to 20 px at scale 0.8."""
    grey = np.full((256, 256, 3), 100, np.uint8)
    widths = []
    for seed in range(300):
        pasted = paste_objects(grey, rng(seed), 0.8, find_cut_outs(str(cut_outs))).astype(int)
        red = (pasted == (255, 0, 0)).all(2).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red)
        widths += [width for _, _, width, height, area in stats[1:] if area > 0.7 * width * height]
    assert 15 < max(widths) <= 21
    assert min(widths) <= 6


def test_equal_generators_paste_equal_cut_outs(cut_outs: Path, image: NDArray[np.uint8]) -> None:
    photometric = Photometric(Augmentation(occlusion=1.0, occluders=str(cut_outs)))
    sent = pickle.loads(pickle.dumps(photometric))
    for seed in range(6):
        assert np.array_equal(photometric(image, rng(seed)), sent(image, rng(seed)))


def test_a_damaged_cut_out_covers_nothing_and_is_named(cut_outs: Path, image: NDArray[np.uint8]) -> None:
    content = (cut_outs / "red.png").read_bytes()
    (cut_outs / "red.png").write_bytes(content[:60])
    with pytest.warns(UserWarning, match=r"red\.png is not readable as RGBA"):
        pasted = paste_objects(image, rng(), 0.8, (cut_outs / "red.png",))
    assert np.array_equal(pasted, image)


def test_a_folder_without_cut_outs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"There is no folder .*: set --data\.augmentation\.occluders"):
        Photometric(Augmentation(occluders=str(tmp_path / "none")))
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(PoseZooError, match="has 1 pictures, but none with transparency"):
        Photometric(Augmentation(occluders=str(tmp_path)))
