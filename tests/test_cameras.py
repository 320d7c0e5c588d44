"""Cameras: against OpenCV, Human3.6M's and MeTRAbs' own formulas, and by their invariants."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from torch import Tensor

from posezoo import cameras
from posezoo.cameras import (
    NO_DISTORTION,
    Camera,
    CropCamera,
    apply_homography,
    distort,
    image_plane_crop,
    look_at_crop,
    look_at_rotation,
    normalised,
    roll_matrix,
    undistort,
)

BARREL = [-0.28, 0.12, 0.0008, -0.0011, -0.02]
BOX = torch.tensor([1200.0, 200, 200, 500])
Crop = Callable[..., CropCamera]
CROPS = pytest.mark.parametrize("make", [look_at_crop, image_plane_crop])

angles = st.floats(-180, 180)
offsets = st.floats(-300, 300)


def double(array: Any) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float64)


def intrinsics(fx: float = 1100, fy: float = 1150, cx: float = 500, cy: float = 520, skew: float = 0) -> Tensor:
    return double([[fx, skew, cx], [0, fy, cy], [0, 0, 1]])


def people(count: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64) * 400
    return points + double([300, -200, 4000])


# ---------------------------------------------------------------- golden values


@pytest.mark.shared_data
@pytest.mark.parametrize("view", range(4))
@pytest.mark.parametrize(
    ("model", "key"), [("h36m", "px_h36m.baseline3d"), ("opencv", "px_opencv.cv2"), ("none", "px_linear")]
)
def test_projection_equals_the_reference(golden: Any, view: int, model: Any, key: str) -> None:
    data = golden("camera")
    k, p = data["cam.k"][view], data["cam.p"][view]
    (fx, fy), (cx, cy) = data["cam.f"][view], data["cam.c"][view]
    camera = Camera.create(
        intrinsics(fx, fy, cx, cy),
        [k[0], k[1], p[0], p[1], k[2]],
        model,
        data["cam.R_w2c"][view],
        data["cam.t_w2c_mm"][view],
        dtype=torch.float64,
    )
    world = double(data["cam.points_world_mm"])
    points = camera.world_to_camera(world)

    torch.testing.assert_close(points, double(data[f"cam{view}.exp.points_cam_mm.baseline3d"]), atol=1e-8, rtol=0)
    torch.testing.assert_close(camera.camera_to_world(points), world, atol=1e-8, rtol=0)
    torch.testing.assert_close(camera.project(points), double(data[f"cam{view}.exp.{key}"]), atol=1e-9, rtol=0)
    if model == "opencv":
        ok = data[f"cam{view}.undistort_ok_mask"]
        rays = camera.rays(double(data[f"cam{view}.exp.px_opencv.cv2"]))
        torch.testing.assert_close(
            rays[ok], double(data[f"cam{view}.exp.undistorted_norm_true"])[ok], atol=1e-12, rtol=0
        )


@pytest.mark.shared_data
def test_real_human36m_labels_are_made_with_its_own_formula(golden: Any) -> None:
    data = golden("camera")
    points, pixels = double(data["cam.h36m_joints_cam_mm"]), double(data["cam.h36m_joints_px"])
    errors = {}
    for model in ("h36m", "opencv"):
        camera = Camera.create(data["cam.h36m_K"], data["cam.h36m_dist_k1k2p1p2k3"], model, dtype=torch.float64)
        errors[model] = float((camera.project(points) - pixels).abs().max())
    assert errors["h36m"] < 2e-4
    assert errors["opencv"] > 0.1


@pytest.mark.shared_data
@pytest.mark.parametrize("view", range(5))
def test_shelf_labels_project_onto_its_own_pixels(shared: Path, view: int) -> None:
    with np.load(shared / "data" / "shelf" / "shelf.npz") as data:
        world, pixels = (
            double(data["joints_world_mm"]).flatten(0, 1),
            double(data["joints_px"][:, :, view]).flatten(0, 1),
        )
        pose = data["R_w2c"][view], data["t_w2c_mm"][view]
        camera = Camera.create(data["K"][view], None, "none", *pose, dtype=torch.float64)
    there = world.isfinite().all(-1) & pixels.isfinite().all(-1)
    errors = (camera.project(camera.world_to_camera(world)) - pixels).norm(dim=-1)[there]
    assert len(errors) >= 14
    assert errors.max() < 0.05


@pytest.mark.shared_data
@pytest.mark.parametrize("count", [5, 12])
def test_distortion_equals_opencv_and_undistortion_inverts_it(golden: Any, count: int) -> None:
    data = golden("camera")
    camera = Camera.create(data["dist.K"], data[f"dist.coeffs{count}"], dtype=torch.float64)
    xy = double(data["dist.xy_norm"])
    bent = double(data[f"dist.exp.distorted_coeffs{count}.cv2"])

    torch.testing.assert_close(distort(xy, camera.distortion, camera.distortion_model), bent, atol=1e-12, rtol=0)
    torch.testing.assert_close(undistort(bent, camera.distortion, camera.distortion_model), xy, atol=1e-12, rtol=0)
    points = torch.cat([xy, torch.ones_like(xy[:, :1])], -1) * 3000
    torch.testing.assert_close(
        camera.project(points), double(data[f"dist.exp.px_coeffs{count}.cv2"]), atol=1e-8, rtol=0
    )
    official = double(data[f"dist.exp.undistorted5iter_coeffs{count}.metrabs"])  # five fixed-point steps
    torch.testing.assert_close(undistort(bent, camera.distortion, camera.distortion_model), official, atol=4e-6, rtol=0)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["noaug", "aug"])
def test_look_at_crop_equals_metrabs(golden: Any, name: str) -> None:
    data = golden("camera")
    camera = Camera.create(data["crop.K"], data["crop.dist"])
    change: dict[str, Any] = {}
    if name == "aug":
        change = {"roll": np.degrees(data["crop.aug_angle_rad"]), "zoom": float(data["crop.aug_scale"]), "flip": True}
    box, up = torch.from_numpy(data["crop.boxes_xywh"]), torch.from_numpy(data["crop.camspace_up"])
    crop = look_at_crop(camera, box, 256, up, **change)
    points = torch.from_numpy(data["crop.test_points_crop_px"]).expand(5, -1, -1)

    def expected(key: str) -> Tensor:
        return torch.from_numpy(data[f"crop.exp.{key}.metrabs"])

    torch.testing.assert_close(crop.rotation, expected(f"{name}_R"), atol=1e-6, rtol=0)
    torch.testing.assert_close(crop.intrinsics, expected(f"{name}_K_new"), atol=1e-3, rtol=0)
    torch.testing.assert_close(crop.to_image(points), expected(f"{name}_points_orig_px"), atol=1e-3, rtol=0)
    torch.testing.assert_close(crop.from_image(crop.to_image(points)), points, atol=1e-3, rtol=0)
    assert (crop.flipped == (name == "aug")).all()
    if name == "noaug":
        plain = [i for i in range(5) if not data["crop.dist"][i].any()]
        there = torch.from_numpy(data["crop.exp.homography_orig_to_crop_noaug"])[plain]
        torch.testing.assert_close(
            apply_homography(there, apply_homography(crop.crop_to_image[plain], points[plain])),
            points[plain],
            atol=0.01,
            rtol=0,
        )


@pytest.mark.shared_data
def test_crop_of_a_real_photograph_puts_joints_where_metrabs_does(golden: Any) -> None:
    data = golden("camera")
    camera = Camera.create(data["cropimg.K"], data["cropimg.dist"])
    crop = look_at_crop(camera, torch.from_numpy(data["cropimg.box_xywh"]), 128, data["cropimg.camspace_up"].tolist())
    torch.testing.assert_close(crop.intrinsics, torch.from_numpy(data["cropimg.exp.K_new"]), atol=1e-3, rtol=0)
    torch.testing.assert_close(crop.rotation, torch.from_numpy(data["cropimg.exp.R"]), atol=1e-6, rtol=0)


@pytest.mark.shared_data
def test_field_of_view_equals_metrabs(golden: Any) -> None:
    expected = golden("camera")["crop.exp.intrinsics_from_fov55_1000x1002.metrabs"]
    found = Camera.from_field_of_view(55, 1000, 1002).intrinsics
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-4, rtol=0)


# ---------------------------------------------------------------- numbers worked out elsewhere


@pytest.mark.parametrize(("fov", "focal"), [(55, 1844.1428), (60, 1662.77), (50, 2058.73)])
def test_field_of_view_is_along_the_longer_side(fov: float, focal: float) -> None:
    for width, height in ((1920, 1080), (1080, 1920)):
        k = Camera.from_field_of_view(fov, width, height).intrinsics
        assert k[0, 0] == k[1, 1] == pytest.approx(focal, abs=5e-3)
        assert k[:2, 2].tolist() == [width / 2, height / 2]


def test_look_at_crop_worked_example() -> None:
    crop = look_at_crop(Camera.from_field_of_view(55, 1920, 1080), BOX, 256)

    rotation = [[0.983426, 0, -0.181312], [0.008692, 0.99885, 0.047145], [0.181103, -0.047939, 0.982295]]
    torch.testing.assert_close(crop.rotation, torch.tensor(rotation), atol=1e-5, rtol=0)
    expected = torch.tensor([[962.2867, 0, 128], [0, 962.2867, 128], [0, 0, 1]])
    torch.testing.assert_close(crop.intrinsics, expected, atol=1e-3, rtol=0)
    pixels = crop.from_image(torch.tensor([[1300.0, 450], [1300, 200], [1300, 700]]))
    torch.testing.assert_close(pixels, torch.tensor([[128, 128], [128, 0.817], [128, 256.817]]), atol=1e-3, rtol=0)


def test_distortion_of_a_known_lens() -> None:
    # Test subject 5 of MPI-INF-3DHP.
    lens = Camera.create(torch.eye(3), [-0.276859611, 0.131125256, -0.000360494, -0.001149441, -0.049318332])
    found = distort(torch.tensor([[0.3, -0.2]]), lens.distortion, lens.distortion_model)
    torch.testing.assert_close(found, torch.tensor([[0.2895217, -0.1931610]]), atol=1e-6, rtol=0)


def test_human36m_tangential_terms_lack_the_factor_two() -> None:
    x, y, p1, p2 = 0.3, -0.2, 0.01, 0.02
    xy = double([[x, y]])
    for model, factor in (("opencv", 2), ("h36m", 1)):
        lens = Camera.create(torch.eye(3), [0, 0, p1, p2], model, dtype=torch.float64)  # type: ignore[arg-type]
        found = distort(xy, lens.distortion, lens.distortion_model)
        shared = factor * (p1 * y + p2 * x)
        expected = double([[x * (1 + shared) + p2 * (x * x + y * y), y * (1 + shared) + p1 * (x * x + y * y)]])
        torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------- round trips


@settings(max_examples=50, deadline=None)
@given(cx=offsets, cy=offsets, skew=st.floats(-50, 50), fx=st.floats(500, 2000), fy=st.floats(500, 2000), roll=angles)
def test_pixels_and_depth_lead_back_to_the_point(
    cx: float, cy: float, skew: float, fx: float, fy: float, roll: float
) -> None:
    k = intrinsics(fx, fy, cx, cy, skew)
    k[:2, :2] = roll_matrix(double(roll))[:2, :2] @ k[:2, :2]  # pixels need not be upright
    camera = Camera.create(k, BARREL, dtype=torch.float64)
    points = people()

    pixels = camera.project(points)
    torch.testing.assert_close(camera.unproject(pixels, points[:, 2]), points, atol=1e-6, rtol=0)
    undistorted = apply_homography(camera.intrinsics, camera.rays(pixels))
    torch.testing.assert_close(undistorted, apply_homography(k, points[:, :2] / points[:, 2:]), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([look_at_crop, image_plane_crop]),
    left=st.floats(-200, 900),
    top=st.floats(-200, 900),
    width=st.floats(20, 600),
    height=st.floats(20, 600),
    roll=angles,
    zoom=st.floats(0.5, 2),
    flip=st.booleans(),
    cx=offsets,
    skew=st.floats(-50, 50),
)
def test_crop_camera_and_warp_are_one(
    kind: Crop,
    left: float,
    top: float,
    width: float,
    height: float,
    roll: float,
    zoom: float,
    flip: bool,
    cx: float,
    skew: float,
) -> None:
    camera = Camera.create(intrinsics(cx=500 + cx, skew=skew), [-0.2, 0.24, -0.0014, -0.001, -0.003], "h36m")
    camera = camera.to(torch.float64)
    crop = kind(camera, double([left, top, width, height]), 256, roll=roll, zoom=zoom, flip=flip)
    points = people()

    turned = crop.from_source(points)
    torch.testing.assert_close(crop.to_source(turned), points, atol=1e-6, rtol=0)
    torch.testing.assert_close(crop.project(turned), crop.from_image(camera.project(points)), atol=1e-4, rtol=0)
    pixels = crop.project(turned)
    torch.testing.assert_close(crop.to_image(pixels), camera.project(points), atol=1e-4, rtol=0)
    assert bool(crop.flipped) == flip
    straight = apply_homography(camera.intrinsics, camera.rays(camera.project(points)))
    torch.testing.assert_close(apply_homography(crop.crop_to_image, pixels), straight, atol=1e-4, rtol=0)


@CROPS
def test_zoom_changes_the_focal_length_and_not_the_points(make: Crop) -> None:
    camera = Camera.create(intrinsics(), dtype=torch.float64)
    box = BOX.double()
    near, far = make(camera, box, 256, zoom=1.25), make(camera, box, 256)
    torch.testing.assert_close(near.intrinsics[:2, :2], 1.25 * far.intrinsics[:2, :2])
    torch.testing.assert_close(near.rotation, far.rotation)


def test_image_plane_crop_keeps_depths_and_fills_the_crop() -> None:
    camera = Camera.create(intrinsics(cx=-40, skew=12), BARREL, dtype=torch.float64)
    points = people(20)
    for change in ({}, {"roll": 35.0}, {"flip": True}, {"roll": -120.0, "zoom": 0.8, "flip": True}):
        crop = image_plane_crop(camera, BOX.double(), 256, **change)
        torch.testing.assert_close(crop.from_source(points)[:, 2], points[:, 2])
        centre = crop.from_image(double([[1300.0, 450]]))
        torch.testing.assert_close(centre, double([[127.5, 127.5]]), atol=1e-4, rtol=0)

    plain = Camera.create(intrinsics(), dtype=torch.float64)
    edges = image_plane_crop(plain, BOX.double(), 256).from_image(double([[1300, 200], [1300, 700]]))
    torch.testing.assert_close(edges, double([[127.5, -0.5], [127.5, 255.5]]))


def test_image_plane_flip_mirrors_the_pixel_array() -> None:
    camera = Camera.create(intrinsics(cx=-40, skew=12), BARREL, dtype=torch.float64)
    seen = camera.project(people())
    for roll in (0.0, 30.0):
        straight = image_plane_crop(camera, BOX.double(), 256, roll=roll).from_image(seen)
        flipped = image_plane_crop(camera, BOX.double(), 256, roll=roll, flip=True).from_image(seen)
        mirrored = torch.stack([255 - straight[:, 0], straight[:, 1]], -1)
        torch.testing.assert_close(flipped, mirrored, atol=1e-8, rtol=0)
        clean = (straight[:, 0] + 0.5) / 256 - 0.5, (flipped[:, 0] + 0.5) / 256 - 0.5
        torch.testing.assert_close(clean[0], -clean[1])


def test_look_at_flip_mirrors_about_the_principal_point() -> None:
    camera = Camera.create(intrinsics(cx=-40), BARREL, dtype=torch.float64)
    seen = camera.project(people())
    crops = [look_at_crop(camera, BOX.double(), 256, roll=20.0, flip=flip) for flip in (False, True)]
    straight, flipped = (crop.from_image(seen) for crop in crops)
    torch.testing.assert_close(flipped, torch.stack([256 - straight[:, 0], straight[:, 1]], -1), atol=1e-8, rtol=0)
    assert crops[0].intrinsics[:2, 2].tolist() == crops[1].intrinsics[:2, 2].tolist() == [128, 128]


# ---------------------------------------------------------------- look-at


@pytest.mark.parametrize("direction", [(0, 1, 0), (0, -1, 0), (1e-9, 1, 0), (0, 2, 1e-8)])
def test_looking_along_up_gives_a_rotation(direction: tuple[float, float, float]) -> None:
    z = torch.tensor(direction, dtype=torch.float32)
    rotation = look_at_rotation(z, torch.tensor([0.0, -1, 0]))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3))
    assert torch.linalg.det(rotation) == pytest.approx(1)
    torch.testing.assert_close(rotation[0], torch.tensor([1.0, 0, 0]))  # the old x axis
    torch.testing.assert_close(rotation[2], z / z.norm())


def test_looking_along_x_and_up_gives_a_rotation() -> None:
    rotation = look_at_rotation(torch.tensor([1.0, 0, 0]), torch.tensor([1.0, 0, 0]))
    assert torch.linalg.det(rotation) == pytest.approx(1)


def test_gradients_are_finite_where_only_some_look_along_up() -> None:
    direction = torch.tensor([[0.0, 1, 0], [0.3, 0.2, 1]], requires_grad=True)
    look_at_rotation(direction, torch.tensor([0.0, -1, 0])).sum().backward()
    assert direction.grad is not None
    assert direction.grad.isfinite().all()


def test_length_of_up_does_not_matter() -> None:
    camera = Camera.from_field_of_view(55, 1920, 1080)
    short = look_at_crop(camera, BOX, 256, up=(0.0, -1e-7, 0.0))
    torch.testing.assert_close(short.rotation, look_at_crop(camera, BOX, 256).rotation)


def test_up_of_the_world_keeps_people_upright_in_a_rolled_camera() -> None:
    roll = roll_matrix(torch.tensor(90.0))
    camera = Camera.from_field_of_view(55, 1000, 1000)
    up = roll @ torch.tensor([0.0, -1, 0])
    crop = look_at_crop(camera, torch.tensor([450.0, 450, 100, 100]), 256, up)
    lower, upper = crop.from_source(torch.stack([-up, up]) * 100 + torch.tensor([0.0, 0, 3000]))[:, 1]
    assert lower > 0 > upper  # y points down


# ---------------------------------------------------------------- batches and mistakes


@CROPS
def test_a_batch_equals_its_members_one_by_one(make: Crop) -> None:
    camera = Camera.create(
        torch.stack([intrinsics(), intrinsics(900, 950, 100, 900), intrinsics(skew=9)]),
        [[0.0] * 5, BARREL, BARREL],
        dtype=torch.float64,
    )
    camera.distortion_model[:] = torch.tensor([0, 1, 2])
    box = double([[0, 10, 200, 500], [300, 300, 200, 100], [700, 0, 300, 300]])
    roll, zoom, flip = double([0, 10, -20]), double([1, 0.8, 1.2]), torch.tensor([False, True, False])
    points, pixels = people(4).expand(3, -1, -1), double([[10, 20], [128, 128]]).expand(3, -1, -1)

    crops = make(camera, box, 256, roll=roll, zoom=zoom, flip=flip)
    for i in range(3):
        alone = make(camera[i], box[i], 256, roll=float(roll[i]), zoom=float(zoom[i]), flip=bool(flip[i]))
        torch.testing.assert_close(crops.intrinsics[i], alone.intrinsics)
        torch.testing.assert_close(crops.rotation[i], alone.rotation)
        torch.testing.assert_close(crops.crop_to_image[i], alone.crop_to_image)
        torch.testing.assert_close(crops.to_image(pixels)[i], alone.to_image(pixels[i]))
        torch.testing.assert_close(camera.project(points)[i], camera[i].project(points[i]))
        torch.testing.assert_close(camera.rays(pixels)[i], camera[i].rays(pixels[i]))


def test_one_model_of_a_batch_may_be_without_distortion() -> None:
    xy = double([[[0.3, -0.2]]] * 2)
    lens = Camera.create(torch.eye(3).expand(2, 3, 3), [BARREL, BARREL], dtype=torch.float64)
    model = torch.tensor([NO_DISTORTION, 1])
    bent = distort(xy, lens.distortion, model)
    assert torch.equal(bent[0], xy[0])
    assert not torch.equal(bent[1], xy[1])
    torch.testing.assert_close(undistort(bent, lens.distortion, model), xy)


def test_indexing_and_moving() -> None:
    camera = Camera.create(torch.eye(3).expand(4, 3, 3), [BARREL] * 4, translation=[1.0, 2, 3])
    assert camera[1].intrinsics.shape == (3, 3)
    assert camera[1:3].distortion.shape == (2, 12)
    assert camera[torch.tensor([0, 2])].translation.shape == (2, 3)
    moved = camera.to(torch.float64)
    assert moved.intrinsics.dtype == moved.distortion.dtype == torch.float64
    assert moved.distortion_model.dtype == torch.int64
    assert moved.distortion_model.tolist() == [1] * 4


def test_create_broadcasts_one_lens_over_many_views_and_fills_in_the_rest() -> None:
    camera = Camera.create(torch.eye(3), BARREL, "h36m", torch.eye(3).expand(4, 3, 3), torch.ones(4, 3, 1))
    assert camera.intrinsics.shape == (4, 3, 3)
    assert camera.distortion.shape == (4, 12)
    assert camera.distortion[2, :5].tolist() == pytest.approx(BARREL)
    assert not camera.distortion[:, 5:].any()
    assert camera.distortion_model.tolist() == [2] * 4
    assert camera.translation.tolist() == [[1, 1, 1]] * 4
    assert Camera.create(torch.eye(3)).distortion_model == NO_DISTORTION


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intrinsics": torch.eye(2)}, r"Intrinsics must be \[\.\.\., 3, 3\], got \(2, 2\)"),
        ({"intrinsics": torch.eye(3), "distortion": [0.1, 0.2, 0.3]}, "4, 5, 8 or 12 coefficients, got 3"),
        ({"intrinsics": torch.eye(3), "model": "fisheye"}, "'fisheye': choose from none, opencv, h36m"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Camera.create(**arguments)


@pytest.mark.parametrize("fov", [0, 180, -10])
def test_impossible_fields_of_view_are_refused(fov: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 180"):
        Camera.from_field_of_view(fov, 100, 100)


def test_shapes_are_as_annotated() -> None:
    k, xy = torch.eye(3).expand(2, 3, 3), torch.zeros(2, 5, 2)
    checked = {
        name: jaxtyped(typechecker=beartype)(getattr(cameras, name))
        for name in ("normalised", "apply_homography", "roll_matrix", "look_at_rotation", "distort", "undistort")
    }
    checked["normalised"](xy, k)
    checked["apply_homography"](k, xy)
    checked["roll_matrix"](torch.zeros(2))
    checked["look_at_rotation"](torch.rand(2, 3), torch.rand(2, 3))
    for name in ("distort", "undistort"):
        checked[name](xy, torch.zeros(2, 12), torch.ones(2, dtype=torch.int64))
    torch.testing.assert_close(normalised(xy, k), xy)


def test_t10_augmented_crops_return_to_one_pose() -> None:
    """Dossier T10: turned, zoomed and mirrored crops of one person, brought back and averaged in 3D."""
    camera = Camera.from_field_of_view(55, 1920, 1080)
    box = torch.tensor([1200.0, 200.0, 200.0, 500.0]).expand(5, 4)
    flip = torch.tensor([False, True, False, True, False])
    zoom = torch.tensor([0.8, 0.9, 1.0, 1.05, 1.1])
    camera = Camera(*(getattr(camera, f.name).expand(5, *getattr(camera, f.name).shape) for f in fields(camera)))
    crops = look_at_crop(camera, box, 256, roll=torch.linspace(-25, 25, 5), zoom=zoom, flip=flip)
    predicted = torch.tensor([[0.0, 0.0, 3000.0], [-300.0, 0.0, 3000.0], [300.0, 0.0, 3000.0]]).expand(5, 3, 3)
    unswapped = torch.where(flip[:, None, None], predicted[:, [0, 2, 1]], predicted)

    pelvis, l_wrist, r_wrist = crops.to_source(unswapped).mean(0)

    assert torch.allclose(pelvis, torch.tensor([543.310, -143.817, 2946.885]), atol=0.01)
    assert torch.allclose(camera[0].project(pelvis[None])[0], torch.tensor([1300.0, 450.0]), atol=0.01)
    assert (l_wrist - pelvis).norm() == pytest.approx(285.91, abs=0.01)
    assert float(l_wrist[0]) == pytest.approx(262.136, abs=0.01)
    assert float(r_wrist[0]) == pytest.approx(824.483, abs=0.01)


H36M_LENS = [-0.2071, 0.2478, -0.0009, -0.0014, -0.0031]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
def test_few_points_are_undistorted_as_many_are(dtype: torch.dtype, shared: bool) -> None:
    """NumPy's way is taken without a gradient, PyTorch's with one."""
    lens = Camera.create(torch.eye(3), H36M_LENS, "h36m", dtype=dtype)
    coefficients = lens.distortion.expand(3, 12).clone()
    if not shared:
        coefficients[1:] *= torch.tensor([[0.5], [0.9]], dtype=dtype)
    model = torch.tensor([2, 2, 2] if shared else [2, 0, 1])
    xy = torch.rand(3, 40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sub(0.5).to(dtype)
    few = undistort(xy, coefficients, model)
    plain = undistort(xy.requires_grad_(), coefficients, model)
    assert plain.requires_grad
    assert few.dtype == dtype
    torch.testing.assert_close(few, plain.detach(), atol=3 * torch.finfo(dtype).eps, rtol=0)


def test_one_set_of_points_may_meet_several_lenses() -> None:
    lenses = Camera.create(torch.eye(3).expand(3, 3, 3), H36M_LENS, "h36m")
    xy = torch.tensor([[0.2, -0.3], [0.0, 0.1]])
    assert undistort(xy, lenses.distortion, lenses.distortion_model).shape == (3, 2, 2)
    none = torch.zeros(0, 5, 2)
    assert undistort(none, lenses.distortion[:0], lenses.distortion_model[:0]).shape == (0, 5, 2)


def test_undistortion_can_be_mapped_differentiated_and_exported() -> None:
    lens = Camera.create(torch.eye(3), H36M_LENS, "h36m", dtype=torch.float64)
    xy = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5

    def straight(points: torch.Tensor) -> torch.Tensor:
        return undistort(points, lens.distortion, lens.distortion_model)

    class Module(torch.nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return straight(points)

    expected = torch.stack([straight(points) for points in xy])
    torch.testing.assert_close(torch.vmap(straight)(xy), expected)
    torch.testing.assert_close(torch.export.export(Module(), (xy[0],)).module()(xy[1]), expected[1])
    assert torch.autograd.gradcheck(straight, (xy[0].clone().requires_grad_(),), check_forward_ad=True)
