"""One virtual camera moves pixels, intrinsics and labels together: proven with blobs painted at the joints."""

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera, CropCamera, apply_homography
from posezoo.data.base import read_image
from posezoo.data.crop import (
    FOV_2D_TRAINING,
    FOV_PHOTOGRAPH,
    Augmentation,
    BoxKind,
    CropDraw,
    CropKind,
    CropSpec,
    crop_camera,
    draw_augmentation,
    guessed_camera,
    make_labels,
    subject_box,
    truncated_box,
    warp,
)
from posezoo.errors import PoseZooError
from posezoo.skeletons import COCO17, H36M17, HEMLETS18, MPII16
from posezoo.structures import IDENTITIES, Batch, Sample

SIZE = 128
BLOBS = (0, 2, 5, 10, 12, 15)  # far enough apart in POSE that blobs do not touch
WIDTH, HEIGHT = 720, 560
H36M_LENS = [-0.2071, 0.2478, -0.0014, -0.00098, -0.0031]

# A man with his limbs spread, root at the origin, mm (x right, y down).
POSE = np.array(
    [
        [0, 0, 0], [-130, 0, 20], [-250, 420, 60], [-340, 820, 120], [130, 0, -20], [260, 410, -60], [330, 810, -90],
        [0, -240, 10], [0, -480, 20], [10, -590, 0], [20, -720, 30],
        [170, -440, 0], [420, -450, -80], [640, -460, -200], [-170, -440, 40], [-410, -470, 90], [-620, -480, 160],
    ],
    np.float32,
)  # fmt: skip

CAMERAS = {
    "pinhole": {"intrinsics": [[610.0, 0, 401], [0, 590, 246], [0, 0, 1]]},  # off-centre, not square
    "h36m": {
        "intrinsics": [[600.0, 0, 365], [0, 602, 280], [0, 0, 1]],
        "distortion": H36M_LENS,
        "model": "h36m",
    },
    "opencv": {"intrinsics": [[600.0, 0, 340], [0, 590, 290], [0, 0, 1]], "distortion": [-0.15, 0.05, 0.002, -0.001]},
}
DRAWS = {
    "plain": CropDraw(),
    "roll": CropDraw(roll=25.0),
    "zoom in": CropDraw(zoom=1.2),
    "zoom out": CropDraw(zoom=0.7),
    "flip": CropDraw(flip=True),
    "all": CropDraw(roll=-38.0, zoom=0.85, flip=True),
}


def spec(crop: CropKind = "look_at", box: BoxKind = "annotation", size: int = SIZE, skeleton: Any = H36M17) -> CropSpec:
    return CropSpec(skeleton, size, crop, box)


def paint(points: NDArray[Any], sigma: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Grey Gaussian blobs at sub-pixel places."""
    image = np.zeros((size[1], size[0]))
    for x, y in points:
        across = np.exp(-((np.arange(size[0]) - x) ** 2) / (2 * sigma**2))
        down = np.exp(-((np.arange(size[1]) - y) ** 2) / (2 * sigma**2))
        rows, columns = down > 1e-6, across > 1e-6
        image[np.ix_(rows, columns)] += 220 * np.outer(down[rows], across[columns])
    return np.repeat(np.round(image.clip(0, 255))[..., None], 3, 2).astype(np.uint8)


@lru_cache(maxsize=8)
def person(camera: str = "pinhole", upscale: int = 1, sigma: float = 3.0) -> Sample:
    """A man left of the middle, seen by a camera, with blobs at his joints; `upscale` multiplies the resolution."""
    arguments: dict[str, Any] = dict(CAMERAS[camera])
    scale = np.array([[upscale, 0, (upscale - 1) / 2], [0, upscale, (upscale - 1) / 2], [0, 0, 1]])
    view = Camera.create(scale @ np.array(arguments.pop("intrinsics")), **arguments)
    joints = POSE + np.float32([-420, 120, 2900])
    pixels = view.project(torch.as_tensor(joints)).numpy()
    low, high = pixels.min(0) - 20 * upscale, pixels.max(0) + 20 * upscale
    size = (WIDTH * upscale, HEIGHT * upscale)
    image = paint(pixels[list(BLOBS)], sigma * upscale, size)
    return Sample(image, np.float32([*low, *(high - low)]), size, view, joints3d=joints)


def cut(sample: Sample, want: CropSpec, draw: CropDraw = CropDraw(), **how: Any) -> tuple[Any, Any, CropCamera]:  # noqa: B008
    """(pixels, labels, crop camera)."""
    crop = crop_camera(sample, H36M17, want, draw)
    assert sample.image is not None
    return warp(sample.image, crop, **how), make_labels(sample, H36M17, want, crop), crop


def centroid(image: NDArray[np.uint8], near: NDArray[Any], radius: float) -> NDArray[np.float64]:
    u, v = np.meshgrid(np.arange(image.shape[1]), np.arange(image.shape[0]))
    weight = image[..., 0] * (np.hypot(u - near[0], v - near[1]) < radius)
    return np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()


def blob_errors(pixels: NDArray[np.uint8], labels: dict[str, Any]) -> list[float]:
    """Distance between each painted joint's label and its blob; a mirrored crop has them at the partners."""
    flipped = bool(torch.linalg.det(labels["rotation"]) < 0)
    errors = []
    for joint in BLOBS:
        label = labels["joints2d"][H36M17.partner[joint] if flipped else joint].numpy()
        if (label > 8).all() and (label < len(pixels) - 9).all():
            errors.append(float(np.linalg.norm(centroid(pixels, label, 7.5) - label)))
    return errors


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("crop", ["look_at", "image_plane"])
@pytest.mark.parametrize("camera", CAMERAS)
def test_joints2d_are_where_the_pixels_went(camera: str, crop: CropKind, draw: str) -> None:
    sample = person(camera)
    moved = replace(DRAWS[draw], box=sample.box + np.float32([14, -9, 0, 0]))
    pixels, labels, _ = cut(sample, spec(crop), moved)
    errors = blob_errors(pixels, labels)
    assert len(errors) >= 4
    assert max(errors) < 0.1


@pytest.mark.parametrize("crop", ["look_at", "image_plane"])
@pytest.mark.parametrize("upscale", [2, 5])
def test_antialiased_shrinking_does_not_move_pixels(crop: CropKind, upscale: int) -> None:
    """Area averaging by 2 to 20 before the warp: half-pixel errors would show as 0.1 to 0.5 px."""
    pixels, labels, _ = cut(person("h36m", upscale), spec(crop), CropDraw(roll=10.0))
    errors = blob_errors(pixels, labels)
    assert len(errors) >= 5
    assert max(errors) < 0.1


def test_a_flip_mirrors_colours_and_swaps_sides() -> None:
    """Right joints are painted red, left ones blue: after the flip, blue blobs lie at the labels called right."""
    sample = person()
    assert sample.image is not None
    xy = sample.camera.project(torch.as_tensor(sample.joints3d)).numpy()  # type: ignore[union-attr]
    sides = [0 if name.startswith("r_") else 2 for name in H36M17.joints]
    layers = [
        paint(xy[[j for j in BLOBS if sides[j] == s and j not in (0, 10)]], 3, sample.size)[..., 0] for s in (0, 2)
    ]
    painted = replace(sample, image=np.stack([layers[0], np.zeros_like(layers[0]), layers[1]], -1))
    for flip in (False, True):
        pixels, labels, _ = cut(painted, spec("image_plane"), CropDraw(flip=flip))
        for joint in (2, 5, 12, 15):
            u, v = labels["joints2d"][joint].round().int().tolist()
            red, blue = pixels[v, u, 0], pixels[v, u, 2]
            right = H36M17.joints[joint].startswith("r_")
            assert (red > 150) == (right != flip)
            assert (blue > 150) == (right == flip)
        assert torch.linalg.det(labels["rotation"]) == pytest.approx(-1 if flip else 1, abs=1e-5)


@pytest.mark.parametrize("crop", ["look_at", "image_plane"])
@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("draw", DRAWS)
def test_labels_agree_with_each_other(camera: str, crop: CropKind, draw: str) -> None:
    """X_crop = R X_source, K projects it to joints2d, the homography leads back to undistorted source pixels."""
    sample = person(camera)
    _, labels, _ = cut(sample, spec(crop), DRAWS[draw])
    source = torch.as_tensor(H36M17.flip(sample.joints3d) if DRAWS[draw].flip else sample.joints3d)
    torch.testing.assert_close(labels["joints3d"], source @ labels["rotation"].mT, atol=1e-2, rtol=0)
    rays = labels["joints3d"] @ labels["intrinsics"].mT
    torch.testing.assert_close(labels["joints2d"], rays[:, :2] / rays[:, 2:], atol=1e-3, rtol=0)
    back = apply_homography(labels["crop_to_image"], labels["joints2d"])
    ideal = source @ labels["source_intrinsics"].mT
    torch.testing.assert_close(back, ideal[:, :2] / ideal[:, 2:], atol=2e-2, rtol=0)
    if not DRAWS[draw].flip and labels["distortion_model"] == 0:
        seen = sample.camera.project(source)  # type: ignore[union-attr]
        torch.testing.assert_close(back, seen, atol=2e-2, rtol=0)
    if crop == "image_plane":
        torch.testing.assert_close(labels["joints3d"][:, 2], source[:, 2])  # depths, hence their order, stay
    else:
        torch.testing.assert_close(labels["intrinsics"][:2, 2], torch.full((2,), SIZE / 2))
        centre = apply_homography(labels["crop_to_image"], torch.full((1, 2), SIZE / 2))
        middle = sample.camera.rays(torch.as_tensor(sample.box[:2] + sample.box[2:] / 2)[None])  # type: ignore[union-attr]
        ideal_middle = middle @ labels["source_intrinsics"][:2, :2].mT + labels["source_intrinsics"][:2, 2]
        torch.testing.assert_close(centre, ideal_middle, atol=1e-2, rtol=0)


@pytest.mark.parametrize("crop", ["look_at", "image_plane"])
def test_zoom_does_not_change_joints3d(crop: CropKind) -> None:
    """Property P4: zooming is a matter of intrinsics."""
    _, plain, _ = cut(person(), spec(crop))
    _, zoomed, _ = cut(person(), spec(crop), CropDraw(zoom=1.25))
    assert torch.equal(plain["joints3d"], zoomed["joints3d"])
    block = [labels["intrinsics"][:2, :2] for labels in (plain, zoomed)]
    torch.testing.assert_close(block[1], 1.25 * block[0])
    assert not torch.allclose(plain["joints2d"], zoomed["joints2d"])


def test_the_box_fills_the_crop() -> None:
    sample = person()
    left, top, width, height = sample.box
    assert height > width
    ends = torch.tensor([[left + width / 2, top], [left + width / 2, top + height]])
    _, _, crop = cut(sample, spec("look_at"))
    assert (crop.from_image(ends)[1] - crop.from_image(ends)[0]).norm() == pytest.approx(SIZE, abs=1e-2)
    _, _, crop = cut(sample, spec("image_plane"))
    torch.testing.assert_close(crop.from_image(ends)[:, 1], torch.tensor([-0.5, SIZE - 0.5]), atol=1e-3, rtol=0)


@pytest.mark.shared_data
def test_a_real_crop_equals_metrabs(golden: Any, shared: Path) -> None:
    case = {key.removeprefix("cropimg."): value for key, value in golden("camera").items() if "cropimg." in key}
    image = read_image(shared / "data" / "h36m" / str(case["image_path"]))
    camera = Camera.create(case["K"], case["dist"], "opencv")
    sample = Sample(image, case["box_xywh"], (image.shape[1], image.shape[0]), camera)
    crop = crop_camera(sample, H36M17, spec("look_at"), CropDraw())
    np.testing.assert_allclose(crop.rotation.numpy(), case["exp.R"], atol=1e-5)
    np.testing.assert_allclose(crop.intrinsics.numpy(), case["exp.K_new"], rtol=1e-4)

    pixels = warp(image, crop, antialias=False)
    difference = np.abs(pixels / 255 - case["exp.crop_rgb_float.metrabs"])
    assert difference.mean() < 2 / 255
    assert np.quantile(difference, 0.999) < 4 / 255

    with np.load(shared / "data" / "h36m" / "h36m_samples.npz") as samples:
        row = list(samples["image_path"]).index(str(case["image_path"]))
        joints, annotated = np.float32(samples["joints_cam_mm"][row]), np.float32(samples["joints_px"][row])
    labels = make_labels(replace(sample, joints3d=joints), H36M17, spec("look_at"), crop)
    np.testing.assert_allclose(labels["joints2d"].numpy(), case["exp.joints_crop_px"], atol=0.05)
    h36m = replace(crop, source=Camera.create(case["K"], case["dist"], "h36m"))
    np.testing.assert_allclose(
        h36m.from_image(torch.as_tensor(annotated)).numpy(), case["exp.joints_crop_px"], atol=0.05
    )


@pytest.mark.parametrize("factor", [2.6, 7.3, 20.0])
def test_antialias_is_nearer_to_a_supersampled_crop(factor: float) -> None:
    """Fine texture, shrunk by `factor`: reference = the crop rendered 8 (24) times as large, then averaged."""
    side, finer = 64, 24 if factor > 8 else 8
    full = int(side * factor * 1.3)
    noise = np.random.default_rng(0).integers(0, 256, (full, full, 3), np.uint8)
    image = cv2.GaussianBlur(noise, None, 0.6)
    box = np.float32([full / 2 - side * factor / 2 + 3, full / 2 - side * factor / 2 - 4, side * factor, side * factor])
    sample = Sample(image, box, (full, full))
    crop = crop_camera(sample, H36M17, spec("look_at", size=side), CropDraw(roll=12.0))
    enlarge = torch.tensor([[finer, 0, (finer - 1) / 2], [0, finer, (finer - 1) / 2], [0, 0, 1]])
    large = warp(image, replace(crop, intrinsics=enlarge @ crop.intrinsics, size=side * finer), antialias=False)
    reference = large.reshape(side, finer, side, finer, 3).mean((1, 3))

    def psnr(pixels: NDArray[np.uint8]) -> float:
        return float(-10 * np.log10(np.mean((pixels / 255 - reference / 255) ** 2)))

    assert psnr(warp(image, crop)) > psnr(warp(image, crop, antialias=False)) + 3


def test_outside_the_image_is_black() -> None:
    sample = replace(person(), image=np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    half, _, _ = cut(sample, spec("image_plane"), CropDraw(box=np.float32([-100, 100, 200, 200])))
    assert (half[:, : SIZE // 2 - 2] == 0).all()
    assert (half[:, SIZE // 2 + 2 :] == 255).all()
    away, _, _ = cut(sample, spec("look_at"), CropDraw(box=np.float32([-900, 100, 200, 200])))
    assert (away == 0).all()


# --------------------------------------------------------------------------------------------- augmentation


def test_truncation_keeps_metrabs_statistics() -> None:
    """T12 of the dossier: side 0.624 +- 0.097 of the squared box, area 0.40, always inside the square."""
    rng = np.random.default_rng(0)
    box = np.float32([30, 50, 100, 200])  # its square is [-20, 50, 200, 200]
    boxes = np.stack([truncated_box(box, rng) for _ in range(20_000)])
    side = boxes[:, 2] / 200
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert side.min() > 0.5
    assert side.mean() == pytest.approx(0.624, abs=0.002)
    assert side.std() == pytest.approx(0.097, abs=0.002)
    assert (side**2).mean() == pytest.approx(0.40, abs=0.005)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    assert (low >= [-20 - 1e-3, 50 - 1e-3]).all()
    assert (high <= [180 + 1e-3, 250 + 1e-3]).all()


def test_augmentation_stays_in_its_ranges() -> None:
    rng = np.random.default_rng(0)
    box = np.float32([10, 20, 60, 120])
    draws = [draw_augmentation(Augmentation(), box, rng) for _ in range(4000)]
    roll, zoom = np.array([d.roll for d in draws]), np.array([d.zoom for d in draws])
    assert -20 <= roll.min() < -19 < 19 < roll.max() <= 20
    assert 0.75 <= zoom.min() < 0.76 < 1.24 < zoom.max() <= 1.25
    assert np.mean([d.flip for d in draws]) == pytest.approx(0.5, abs=0.03)
    moved = np.stack([d.box for d in draws])  # type: ignore[misc]
    assert (moved[:, 2:] == box[2:]).all()
    reach = np.linalg.norm(moved[:, :2] - box[:2], axis=1) / 120
    assert reach.max() <= 0.1 + 1e-6
    assert (reach**2).mean() == pytest.approx(0.005, rel=0.05)  # uniform in the disc: E r^2 = R^2 / 2

    wild = [draw_augmentation(Augmentation(full_roll=0.5, truncation=1.0), box, rng) for _ in range(2000)]
    assert np.mean([abs(d.roll) > 20 for d in wild]) == pytest.approx(0.5 * 160 / 180, abs=0.04)
    assert all(d.box is not None and 60 < d.box[2] == d.box[3] < 120 for d in wild)


def test_no_augmentation_is_no_change() -> None:
    calm = Augmentation(roll=0, zoom=(1, 1), shift=0, flip=0)
    draw = draw_augmentation(calm, person().box, np.random.default_rng(0))
    changed, plain = cut(person(), spec(), draw), cut(person(), spec())
    assert np.array_equal(changed[0], plain[0])
    assert all(torch.equal(changed[1][key], plain[1][key]) for key in plain[1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"flip": 1.5}, "flip is a probability"),
        ({"occlusion": -0.1}, "occlusion is a probability"),
        ({"roll": -20.0}, "roll must not be negative"),
        ({"zoom": (1.25, 0.75)}, "low <= high"),
        ({"zoom": (0.0, 1.0)}, "0 < low"),
    ],
)
def test_senseless_augmentations_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        Augmentation(**arguments)


# --------------------------------------------------------------------------------------------- labels and masks


def test_labels_have_the_keys_and_types_of_a_batch() -> None:
    _, labels, _ = cut(person(), spec(skeleton=HEMLETS18))
    parts, joints = len(HEMLETS18.parts), len(HEMLETS18)
    shapes = {
        "intrinsics": (3, 3), "rotation": (3, 3), "crop_to_image": (3, 3), "source_intrinsics": (3, 3),
        "source_distortion": (12,), "distortion_model": (), "has_camera": (), "box": (4,), "joints3d": (joints, 3),
        "joints2d": (joints, 2), "valid3d": (joints,), "valid2d": (joints,), "depth_order": (parts,),
        "valid_order": (parts,), **dict.fromkeys(IDENTITIES, ()),
    }  # fmt: skip
    assert {key: tuple(value.shape) for key, value in labels.items()} == shapes
    assert set(labels) | {"image"} == set(Batch.__annotations__)


def test_identities_are_int64_whatever_a_dataset_gives() -> None:
    sample = replace(person(), identity={"action": np.int32(3), "frame": 7})
    _, labels, _ = cut(sample, spec())
    assert (int(labels["action"]), int(labels["frame"]), int(labels["sequence"])) == (3, 7, 0)
    assert all(labels[key].dtype == torch.int64 for key in IDENTITIES)


@pytest.mark.parametrize("flip", [False, True])
def test_masks_travel_with_their_joints(flip: bool) -> None:
    valid = np.ones(17, bool)
    valid[[H36M17.index("r_wrist"), H36M17.index("l_shoulder")]] = False
    joints = np.where(valid[:, None], person().joints3d, np.nan).astype(np.float32)  # type: ignore[arg-type]
    sample = replace(person(), joints3d=joints, valid3d=valid)
    _, labels, _ = cut(sample, spec(skeleton=HEMLETS18), CropDraw(flip=flip))
    names = ["l_wrist", "r_shoulder"] if flip else ["r_wrist", "l_shoulder"]
    wanted = [name not in [*names, "thorax"] for name in HEMLETS18.joints]  # thorax = mean of the shoulders
    assert labels["valid3d"].tolist() == labels["valid2d"].tolist() == wanted
    for key in ("joints3d", "joints2d"):
        assert labels[key].isfinite().all()
        assert (labels[key][~labels["valid3d"]] == 0).all()


def test_a_joint_behind_the_camera_has_no_pixel() -> None:
    joints = person().joints3d.copy()  # type: ignore[union-attr]
    joints[13, 2] = -50
    _, labels, _ = cut(replace(person(), joints3d=joints), spec("image_plane"))
    assert labels["valid3d"].all()
    assert labels["valid2d"].logical_not().nonzero().flatten().tolist() == [13]
    assert labels["joints2d"].isfinite().all()


@pytest.mark.parametrize("crop", ["look_at", "image_plane"])
def test_withheld_3d_leaves_the_2d_labels(crop: CropKind) -> None:
    """A sample may keep its camera and 2D labels while its 3D ones are withheld."""
    sample = person("h36m")
    pixels = sample.camera.project(torch.as_tensor(sample.joints3d)).numpy()  # type: ignore[union-attr]
    withheld = replace(sample, joints3d=None, joints2d=pixels, valid2d=np.ones(17, bool))
    masked = replace(withheld, joints3d=np.full((17, 3), np.nan, np.float32), valid3d=np.zeros(17, bool))
    _, full, _ = cut(sample, spec(crop))
    for without in (withheld, masked):
        _, labels, _ = cut(without, spec(crop))
        assert not labels["valid3d"].any()
        assert (labels["joints3d"] == 0).all()
        assert labels["valid2d"].all()
        torch.testing.assert_close(labels["joints2d"], full["joints2d"], atol=2e-2, rtol=0)
        assert labels["has_camera"]


def test_2d_labels_fill_in_where_3d_ones_are_missing() -> None:
    sample = person()
    pixels = sample.camera.project(torch.as_tensor(sample.joints3d)).numpy()  # type: ignore[union-attr]
    known = np.arange(17) != 5
    mixed = replace(sample, valid3d=np.arange(17) < 4, joints2d=pixels + np.float32(3), valid2d=known)
    _, labels, crop = cut(mixed, spec("image_plane"))
    assert labels["valid2d"].tolist() == known.tolist()
    exact = crop.from_image(torch.as_tensor(pixels))
    torch.testing.assert_close(labels["joints2d"][:4], exact[:4], atol=1e-3, rtol=0)
    moved = crop.from_image(torch.as_tensor(pixels + 3))
    torch.testing.assert_close(labels["joints2d"][6:], moved[6:], atol=1e-3, rtol=0)


def test_2d_samples_without_a_camera_are_cropped_in_the_image_plane() -> None:
    pixels = np.random.default_rng(0).uniform(100, 300, (16, 2)).astype(np.float32)
    sample = Sample(np.zeros((400, 500, 3), np.uint8), np.float32([90, 90, 220, 220]), (500, 400), joints2d=pixels)
    crop = crop_camera(sample, MPII16, spec("look_at"), CropDraw(roll=10, flip=True))
    labels = make_labels(sample, MPII16, spec("look_at"), crop)
    assert not labels["has_camera"]
    assert labels["rotation"][2].tolist() == [0, 0, 1]
    assert FOV_2D_TRAINING == 8
    focal = 250 / math.tan(math.radians(4))
    assert labels["source_intrinsics"][0, 0] == pytest.approx(focal, rel=1e-5)
    assert not labels["valid3d"].any()
    assert labels["valid2d"].sum() == 15  # MPII's neck is H36M's, but it has no spine and no nose


def test_a_photograph_is_cropped_as_the_model_wants_with_the_assumed_field_of_view() -> None:
    sample = Sample(np.zeros((400, 500, 3), np.uint8), np.float32([0, 90, 120, 220]), (500, 400))
    assert FOV_PHOTOGRAPH == 55
    for fov in (None, 40.0):
        focal = 250 / math.tan(math.radians((fov or 55) / 2))
        assert guessed_camera(replace(sample, fov=fov)).intrinsics[0, 0] == pytest.approx(focal, rel=1e-5)
    _, look, _ = cut(sample, spec("look_at"))
    _, plane, _ = cut(sample, spec("image_plane"))
    assert look["rotation"][2, 0] < -0.2
    torch.testing.assert_close(plane["rotation"], torch.eye(3))
    for labels in (look, plane):
        assert not labels["has_camera"]
        assert not labels["valid2d"].any()
        assert not labels["valid3d"].any()


def test_depth_order_changes_sides_with_a_flip() -> None:
    """A part's label goes to its twin; a mirror image does not change what is nearer."""
    parts = len(HEMLETS18.parts)
    order = np.random.default_rng(0).integers(-1, 2, parts).astype(np.int8)
    valid = np.arange(parts) % 3 > 0
    sample = replace(person(), depth_order=order, valid_order=valid)
    _, plain, _ = cut(sample, spec(skeleton=HEMLETS18))
    _, flipped, _ = cut(sample, spec(skeleton=HEMLETS18), CropDraw(flip=True))
    assert plain["depth_order"].tolist() == order.tolist()
    assert flipped["depth_order"].tolist() == order[list(HEMLETS18.part_partner)].tolist()
    assert flipped["valid_order"].tolist() == valid[list(HEMLETS18.part_partner)].tolist()
    assert flipped["depth_order"].dtype == torch.int8


def test_labels_are_finite_under_hard_augmentation() -> None:
    aug = Augmentation(roll=180, zoom=(0.3, 3.0), shift=1.0, truncation=0.5)
    rng = np.random.default_rng(1)
    for n in range(60):
        sample = person(("pinhole", "h36m", "opencv")[n % 3])
        _, labels, _ = cut(
            sample,
            spec(("look_at", "image_plane")[n % 2]),
            draw_augmentation(aug, sample.box, rng),  # type: ignore[arg-type]
        )
        for key, value in labels.items():
            assert value.isfinite().all(), key


# --------------------------------------------------------------------------------------------- pelvis box


def test_the_pelvis_box_spans_two_metres_at_the_pelvis() -> None:
    sample = person()
    box = subject_box(sample, H36M17, spec(box="pelvis_2000mm"))
    root, metre = sample.joints3d[0], np.float32([1000, 0, 0])  # type: ignore[index]
    edges = torch.as_tensor(np.stack([root - metre, root + metre]))
    left, right = sample.camera.project(edges).numpy()  # type: ignore[union-attr]
    assert box[0] == pytest.approx(left[0], abs=1e-2)
    assert box[0] + box[2] == pytest.approx(right[0], abs=1e-2)
    assert box[2] == box[3]
    assert box[1] + box[3] / 2 == pytest.approx(left[1], abs=1e-2)
    crop = crop_camera(sample, H36M17, spec("image_plane", "pelvis_2000mm"), CropDraw())
    labels = make_labels(sample, H36M17, spec("image_plane", "pelvis_2000mm"), crop)
    torch.testing.assert_close(labels["joints2d"][0], torch.full((2,), (SIZE - 1) / 2), atol=1e-3, rtol=0)


def test_the_pelvis_box_needs_a_camera_and_the_pelvis() -> None:
    sample = person()
    behind = np.array(sample.joints3d)
    behind[0, 2] = -10
    without = [
        replace(sample, camera=None),
        replace(sample, joints3d=None),
        replace(sample, valid3d=np.arange(17) > 0),
        replace(sample, joints3d=behind),
    ]
    for bad in without:
        with pytest.raises(PoseZooError, match="--model\\.box annotation"):
            subject_box(bad, H36M17, spec(box="pelvis_2000mm"))
    coco = replace(sample, joints3d=np.ones((17, 3), np.float32))
    with pytest.raises(PoseZooError, match="3D pelvis"):
        subject_box(coco, COCO17, spec(box="pelvis_2000mm"))
