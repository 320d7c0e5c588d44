"""The geometry of one crop in plain numbers is that of `cameras`, which is made for batches."""

from typing import Any

import numpy as np
import pytest
import torch

from posezoo import cameras
from posezoo.cameras import Camera
from posezoo.data import crop as crop_module
from posezoo.data.base import CropDataset, PoseDataset
from posezoo.data.crop import Augmentation, CropKind, CropSpec, crop_camera, make_labels
from posezoo.data.single_crop import crop_to_image, image_plane, look_at, to_image
from posezoo.skeletons import H36M17
from posezoo.structures import Sample

SIZE = 128
LENSES: dict[str, Any] = {
    "none": None,
    "opencv": [-0.15, 0.05, 0.002, -0.001, 0.01, 0.02, -0.01, 0.004, 0.001, -0.002, 0.0005, 0.001],
    "h36m": [-0.2071, 0.2478, -0.0014, -0.00098, -0.0031],
}
PLAIN = {look_at: cameras.look_at_crop, image_plane: cameras.image_plane_crop}
ALL = pytest.mark.parametrize("model", LENSES)


def camera(model: Any, dtype: torch.dtype = torch.float64) -> Camera:
    k = [[1145.0, 1.5, 512], [0.7, 1144, 515], [0, 0, 1]]  # skewed, as after a stretched image
    return Camera.create(k, LENSES[model], model, dtype=dtype)


@ALL
@pytest.mark.parametrize("make", PLAIN)
def test_cameras_are_those_of_the_tensors(make: Any, model: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        box = torch.from_numpy(np.concatenate([rng.uniform(-100, 700, 2), rng.uniform(5, 500, 2)]))
        change = {"roll": rng.uniform(-180, 180), "zoom": rng.uniform(0.5, 2), "flip": bool(rng.random() < 0.5)}
        one, plain = make(camera(model), box.tolist(), SIZE, **change), PLAIN[make](camera(model), box, SIZE, **change)
        torch.testing.assert_close(one.intrinsics, plain.intrinsics, rtol=1e-8, atol=1e-6)
        torch.testing.assert_close(one.rotation, plain.rotation, rtol=0, atol=1e-8)
        assert one.size == SIZE
        np.testing.assert_allclose(crop_to_image(one), plain.crop_to_image.numpy(), rtol=1e-6, atol=1e-6)


@ALL
@pytest.mark.parametrize("make", PLAIN)
def test_single_precision_loses_nothing_that_tensors_keep(make: Any, model: str) -> None:
    box, change = torch.tensor([431.5, 210.25, 180, 430.5]), {"roll": -17.3, "zoom": 0.83, "flip": True}
    one = make(camera(model, torch.float32), box.tolist(), SIZE, **change)
    plain = PLAIN[make](camera(model, torch.float32), box, SIZE, **change)
    for ours, theirs in ((one.intrinsics, plain.intrinsics), (one.rotation, plain.rotation)):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-6


@ALL
def test_pixels_go_where_tensors_send_them(model: str) -> None:
    crop = look_at(camera(model), [300.0, 200, 200, 400], SIZE, roll=25.0, flip=True)
    points = torch.from_numpy(np.random.default_rng(1).uniform(-20, SIZE + 20, (40, 2)))
    u, v = points.numpy().T
    expected = crop.to_image(points).numpy().T
    np.testing.assert_allclose(to_image(crop, u, v), expected, rtol=0, atol=1e-9)
    single = to_image(crop, u.astype(np.float32), v.astype(np.float32))
    assert single[0].dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-3)
    onward = np.array([[0.5, 0, 3], [0, 0.25, -7], [0, 0, 1.0]])
    np.testing.assert_allclose(to_image(crop, u, v, onward), [expected[0] / 2 + 3, expected[1] / 4 - 7], atol=1e-9)


def test_a_point_beyond_the_reach_of_a_lens_is_no_number() -> None:
    absurd = Camera.create(np.eye(3), [0.0] * 5 + [1e200, 0, 0], dtype=torch.float64)
    assert look_at(absurd, [1.0, 1, 1, 1], SIZE).rotation.isnan().any()


class OnePerson(PoseDataset):
    skeleton = H36M17

    def __init__(self, view: Camera) -> None:
        rng = np.random.default_rng(3)
        coarse = rng.integers(0, 256, (40, 40, 3), np.uint8).repeat(25, 0).repeat(25, 1)
        joints = (rng.normal(0, 300, (17, 3)) + np.array([-300, -100, 4000])).astype(np.float32)
        self.sample = Sample(coarse, np.float32([330.2, 240.7, 210, 400]), (1000, 1000), view, joints)

    def __len__(self) -> int:
        return 1

    def read(self, index: int, draw: int = 0) -> Sample:
        return self.sample


@ALL
@pytest.mark.parametrize("kind", ["look_at", "image_plane"])
def test_rows_are_those_of_the_plain_formulas(kind: CropKind, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops, cameras and joints with every crop camera and every projection made by tensors."""
    people, spec = OnePerson(camera(model, torch.float32)), CropSpec(H36M17, SIZE, kind, "annotation")
    crops = CropDataset(people, spec, Augmentation(occlusion=0, colour=False))
    rows = [crops[0, draw] for draw in range(6)]
    for make, plain in PLAIN.items():
        by_tensors: Any = lambda view, box, *rest, plain=plain: plain(  # noqa: E731
            view, torch.tensor(box), rest[0], roll=rest[1], zoom=rest[2], flip=rest[3]
        )
        monkeypatch.setattr(crop_module, make.__name__, by_tensors)
    for draw, row in enumerate(rows):
        other = crops[0, draw]
        for key in ("intrinsics", "rotation", "crop_to_image", "joints3d", "joints2d"):
            assert float((row[key] - other[key]).abs().max() / other[key].abs().max()) < 2e-6, key
        apart = (row["image"].int() - other["image"].int()).abs()
        assert apart.max() <= 8  # a 32nd of a pixel at the edge of two squares
        assert (apart > 0).float().mean() < 0.003


@ALL
def test_labels_are_projected_as_tensors_are(model: str) -> None:
    sample, spec = OnePerson(camera(model, torch.float32)).sample, CropSpec(H36M17, SIZE, "look_at", "annotation")
    crop = crop_camera(sample, H36M17, spec, crop_module.CropDraw(roll=11.0))
    labels = make_labels(sample, H36M17, spec, crop)
    joints = crop.from_source(torch.as_tensor(sample.joints3d))
    torch.testing.assert_close(labels["joints3d"], joints, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(labels["joints2d"], crop.project(joints), rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(labels["crop_to_image"], crop.crop_to_image, rtol=1e-5, atol=1e-4)
