"""From pictures to people: the right frame, every kind of input, stated rules, and one sentence for each mistake."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from inference_helpers import PHOTO, Fixed, Oracle, Stub, person
from PIL import Image

import posezoo
from posezoo.cameras import Camera, image_plane_crop, look_at_crop
from posezoo.data.batch_crop import crop_boxes, lean, warp_crops
from posezoo.data.crop import warp
from posezoo.errors import PoseZooError
from posezoo.models import IntegralPose, MeTRAbs
from posezoo.people import People, no_people
from posezoo.pipeline import PosePipeline, as_pixels, views
from posezoo.skeletons import COCO17, H36M17
from posezoo.suppression import plausible, similarity, without_duplicates
from posezoo.testing import tiny_estimator

BOX = [20.0, 10.0, 60.0, 70.0]
CAMERA = Camera.create([[150.0, 0, 60], [0, 150, 45], [0, 0, 1]])


def pipeline(model: Any = None, detector: Any = "none") -> PosePipeline:
    return PosePipeline(Stub() if model is None else model, "cpu", detector=detector)


def stacked(camera: Camera, count: int) -> Camera:
    fields = (camera.intrinsics, camera.distortion, camera.distortion_model, camera.rotation, camera.translation)
    return Camera(*(value.expand(count, *value.shape) for value in fields))


# ----------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("distortion", [None, [-0.2, 0.1, 0.002, -0.001, 0.0]])
@pytest.mark.parametrize(("kind", "alone"), [("look_at", look_at_crop), ("image_plane", image_plane_crop)])
def test_batched_crops_are_the_crops_of_training(kind: Any, alone: Any, distortion: Any) -> None:
    image = cv2.resize(PHOTO, (480, 360), interpolation=cv2.INTER_CUBIC)
    camera = Camera.create([[500.0, 0, 230], [0, 500, 190], [0, 0, 1]], distortion)
    boxes = torch.tensor([[20.0, 30, 40, 60], [100, 20, 300, 310], [-40, 200, 90, 140], [900, 900, 40, 40]])
    together = warp_crops([PHOTO, image], crop_boxes(stacked(camera, 4), boxes, 48, kind), [1, 1, 1, 1])
    for crop, box in zip(together, boxes, strict=True):
        np.testing.assert_array_equal(crop, warp(image, alone(camera, box, 48)))
    assert together[0].any()
    assert not together[3].any(), "a box beside the picture gives a black crop"


@pytest.mark.parametrize("crop", ["look_at", "image_plane"])
@pytest.mark.parametrize("tta", [1, 2, 3, 5])
def test_a_perfect_network_gives_the_true_pose_from_every_view(crop: str, tta: int) -> None:
    """Mirrored, turned and zoomed views come back to one pose, sides in their places."""
    truth = person() + np.float32([400, -100, 500])
    people = pipeline(Oracle(truth, crop))(PHOTO, [BOX], CAMERA, tta=tta)
    np.testing.assert_allclose(people.joints3d[0], truth, atol=0.02)
    expected = CAMERA.project(torch.tensor(truth)).numpy()
    np.testing.assert_allclose(people.joints2d[0], expected, atol=0.01)


def test_pixels_have_the_lens_in_them() -> None:
    truth = person() + np.float32([900, 0, 0])
    bent = Camera.create(CAMERA.intrinsics, [-0.3, 0.1, 0, 0, 0])
    people = pipeline(Oracle(truth))(PHOTO, [BOX], bent)
    expected = cv2.projectPoints(truth.astype(float), np.zeros(3), np.zeros(3), bent.intrinsics.double().numpy(),
                                 bent.distortion[:5].double().numpy())[0][:, 0]  # fmt: skip
    np.testing.assert_allclose(people.joints2d[0], expected, atol=0.01)


def test_mirrored_views_do_not_mix_left_and_right() -> None:
    """A network that says one thing of every crop, mirrored or not: the mean must have its sides swapped back."""
    people = pipeline(Stub())(PHOTO, [BOX], CAMERA, tta=2)
    left, right = (people.joints3d[0, H36M17.index(name)] for name in ("l_wrist", "r_wrist"))
    assert left[0] - right[0] == pytest.approx(560, abs=2)
    assert (people.scores[0, H36M17.index("l_wrist")] + people.scores[0, H36M17.index("r_wrist")]) == pytest.approx(
        (13 + 16) / 16
    )
    assert people.scores[0, H36M17.index("l_wrist")] == pytest.approx(people.scores[0, H36M17.index("r_wrist")])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_views_are_symmetric(count: int) -> None:
    roll, zoom, flip = views(count)
    assert roll.sum().abs() < 1e-4
    assert (zoom - 1).sum().abs() < 1e-5
    assert roll.abs().max() <= 12.0
    assert (zoom - 1).abs().max() <= 0.1 + 1e-6
    if count > 1:
        assert flip.any()
    if count % 2:
        assert (roll[count // 2], zoom[count // 2], flip[count // 2]) == (0, 1, False)


@pytest.mark.parametrize("crop", ["look_at", "image_plane"])
def test_crops_follow_the_direction_of_up(crop: Any) -> None:
    """A camera that lies on its side: up is +x, and crops show people upright."""
    boxes = torch.tensor([BOX])
    turned = crop_boxes(stacked(CAMERA, 1), boxes, 32, crop, up=(1.0, 0.0, 0.0))
    centre = torch.tensor([[[50.0, 45.0], [60.0, 45.0]]])  # along +x of the picture
    start, end = turned.from_image(centre)[0]
    assert end[1] < start[1] - 1
    assert abs(end[0] - start[0]) < 0.05 * abs(end[1] - start[1])
    assert lean(stacked(CAMERA, 1), boxes, (0.0, -1.0, 0.0)).item() == pytest.approx(0, abs=1e-5)


def test_world_coordinates_need_extrinsics() -> None:
    turn = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    camera = Camera.create(CAMERA.intrinsics, rotation=turn, translation=[10.0, 20, 30])
    people = pipeline()(PHOTO, [BOX], camera)
    back = people.world() @ turn.T.astype(np.float32) + np.float32([10, 20, 30])
    np.testing.assert_allclose(back, people.joints3d, atol=1e-2)
    for other in (pipeline()(PHOTO, [BOX]), pipeline()(PHOTO, [BOX], CAMERA)):
        with pytest.raises(PoseZooError, match="no world coordinates without extrinsics"):
            other.world()


# -------------------------------------------------------------------------------------------------------- inputs


def test_a_list_gives_ragged_people_in_one_pass() -> None:
    model = Stub()
    other = np.zeros((50, 200, 3), np.uint8)
    found = pipeline(model)([PHOTO, other, PHOTO], [[BOX, BOX], [], None], CAMERA)
    assert [len(people) for people in found] == [2, 0, 1]
    assert [len(batch["image"]) for batch in model.batches] == [3]
    np.testing.assert_array_equal(found[2].boxes, [[0, 0, 120, 90]])
    assert isinstance(pipeline()(PHOTO), People)
    assert len(pipeline()(np.stack([PHOTO, PHOTO]))) == 2
    assert pipeline()([]) == []


def test_memory_bounds_the_crops_of_a_pass() -> None:
    model = Stub(size=64)
    pose = pipeline(model)
    pose.memory_mb = 1  # 64 px: 96 KiB in and out of the layer, three times that in all: 3 crops
    people = pose(PHOTO, [BOX] * 10)
    sizes = [len(batch["image"]) for batch in model.batches]
    assert sizes == [1, 3, 3, 3, 1]
    assert len(people) == 10


def test_nobody_is_an_empty_result() -> None:
    for people in (pipeline()(PHOTO, np.zeros((0, 4))), pipeline(detector=Fixed())(PHOTO)):
        assert len(people) == 0
        assert people.joints3d.shape == (0, 17, 3)
        assert people.joints2d.shape == (0, 17, 2)
        assert people.world is not None
        assert people.to("coco17").joints3d.shape == (0, 17, 3)
        np.testing.assert_array_equal(people.draw(), PHOTO)
        assert people.draw3d((200, 100)).shape == (100, 200, 3)


def test_given_boxes_need_no_detector() -> None:
    detector = Fixed([0, 0, 10, 10])
    assert len(pipeline(detector=detector)(PHOTO, [BOX, BOX])) == 2  # equal ones too: they are the caller's
    assert detector.calls == 0


@pytest.mark.parametrize("tta", [1, 3])
def test_pictures_of_every_kind(tmp_path: Path, tta: int) -> None:
    grey = PHOTO[..., 0]
    alpha = np.dstack([PHOTO, np.full(grey.shape, 7, np.uint8)])
    kinds = {
        "rgb": (PHOTO, PHOTO),
        "16 bits": (PHOTO.astype(np.uint16) * 256 + 9, PHOTO),
        "floats": (PHOTO.astype(np.float32) / 255, PHOTO),
        "alpha": (alpha, PHOTO),
        "grey": (grey, np.dstack([grey] * 3)),
        "grey [H, W, 1]": (grey[..., None], np.dstack([grey] * 3)),
        "tensor": (torch.from_numpy(PHOTO).permute(2, 0, 1), PHOTO),
        "PIL": (Image.fromarray(PHOTO), PHOTO),
        "PIL alpha": (Image.fromarray(alpha), PHOTO),
        "PIL grey": (Image.fromarray(grey), np.dstack([grey] * 3)),
        "PIL 16": (Image.fromarray(grey.astype(np.uint16) * 256), np.dstack([grey] * 3)),
    }
    for name, (image, expected) in kinds.items():
        np.testing.assert_array_equal(as_pixels(image), expected, name)
    assert pipeline()(kinds["alpha"][0], tta=tta).size == (120, 90)
    for name, pixels in {"a.png": PHOTO, "b.png": alpha, "c.png": grey, "d.png": grey.astype(np.uint16) * 256}.items():
        cv2.imwrite(str(tmp_path / name), pixels)
        assert pipeline()(tmp_path / name).size == (120, 90), name
        assert pipeline()(str(tmp_path / name)).size == (120, 90), name


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    """Orientation 6: the camera was held upright, so the stored picture lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = cv2.resize(PHOTO[:3, :4], (120, 90), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", exif=exif, quality=95)
    from_file, from_pil = pipeline()(tmp_path / "a.jpg"), pipeline()(Image.open(tmp_path / "a.jpg"))
    assert from_file.size == from_pil.size == (90, 120)
    for people in (from_file, from_pil):
        assert np.abs(people.pixels().astype(int) - np.rot90(smooth, -1)).mean() < 3


def test_max_people_keeps_the_surest() -> None:
    people = pipeline()(PHOTO, [[*BOX, 0.2], [10, 10, 30, 40, 0.9], [30, 5, 50, 60, 0.5]], max_people=2)
    np.testing.assert_allclose(people.box_scores, [0.9, 0.5])
    assert people.suppressed == {"max_people": 1}


# --------------------------------------------------------------------------------------------------- suppression


def test_the_same_person_twice_is_suppressed_and_neighbours_are_not() -> None:
    pose = person()
    beside = pose + np.float32([600, 0, 0])
    farther = pose * 1.3  # the same rays, farther away: a wrong distance, not another person
    kept = without_duplicates(np.stack([pose, beside, farther]), np.float32([0.5, 0.6, 0.9]))
    assert kept.tolist() == [False, True, True]
    assert similarity(pose, pose) == pytest.approx(1)
    assert similarity(pose, pose + np.float32([150, 0, 0])) == pytest.approx(0.5, abs=0.01)
    assert similarity(pose, pose + np.float32([300, 0, 0])) == pytest.approx(0, abs=0.01)

    model = Oracle(pose)
    people = pipeline(model, Fixed([30, 0, 60, 90], [32, 1, 60, 88]))(PHOTO, camera=CAMERA)
    assert len(people) == 1
    assert people.suppressed == {"duplicate": 1}
    assert people.box_scores.tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda pose: pose * [1, 1, np.nan], "not finite"),
        (lambda pose: pose * [1, 1, -1], "behind the camera"),
        (lambda pose: np.where(np.arange(17)[:, None] == 3, pose + np.float32([0, 900, 0]), pose), "a bone of 1.3 m"),
        (lambda pose: (pose - pose[:1]) * 0.1 + pose[:1], "a doll"),
        (lambda pose: pose + np.float32([5000, 0, 0]), "somewhere else"),
    ],
)
def test_poses_that_nobody_can_have_are_suppressed(change: Any, name: str) -> None:
    good = person()
    pose = change(good).astype(np.float32)
    model = Oracle(pose)
    people = pipeline(model, Fixed([30, 0, 60, 90]))(PHOTO, camera=CAMERA)
    assert people.suppressed == {"implausible": 1}, name
    assert len(people) == 0
    assert len(pipeline(Oracle(good), Fixed([30, 0, 60, 90]))(PHOTO, camera=CAMERA)) == 1
    given = pipeline(model)(PHOTO, [[30, 0, 60, 90]], CAMERA)
    assert len(given) == 1, "people of given boxes are never left out"
    if name == "behind the camera":
        assert np.isnan(given.joints2d).all()
        assert not given.scores.any()


def test_unsteady_poses_are_implausible() -> None:
    pose = person()[None]
    pixels = CAMERA.project(torch.tensor(pose)).numpy()
    box = np.float32([[30, 0, 60, 90]])
    assert plausible(pose, pixels, box, H36M17, np.full((1, 17), 199, np.float32)).all()
    assert not plausible(pose, pixels, box, H36M17, np.full((1, 17), 201, np.float32)).any()


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"boxes": [[10, 10, -5, 20]]}, r"box 0 of the picture .* width and height must be positive"),
        ({"boxes": [[10, 10, np.nan, 20]]}, "must be positive"),
        ({"boxes": [[500, 10, 5, 20]]}, "outside the picture of 120 x 90 px"),
        ({"boxes": [[1, 2, 3]]}, r"must be \[N, 4\]"),
        ({"boxes": "people"}, "must be rows of left, top, width, height"),
        ({"fov": 0}, "between 0 and 180"),
        ({"fov": 60, "camera": CAMERA}, "not both"),
        ({"tta": 0}, "at least 1, got 0"),
        ({"tta": 1.5}, "at least 1, got 1.5"),
        ({"max_people": 0}, "max_people must be at least 1"),
        ({"up": (0, 0, 0)}, "up is a direction"),
        ({"camera": np.eye(2)}, "Camera or intrinsics 3x3"),
        ({"camera": np.zeros((3, 3))}, "must be \\[\\[fx, 0, cx\\]"),
        ({"camera": [[300, 0, 240], [0, 300, 180], [0, 0, 1]]}, "middle of 480 x 360 px: scale the intrinsics"),
        ({"camera": [[100, 0, 45], [0, 100, 60], [0, 0, 1]]}, "turn the intrinsics as the picture was turned"),
        ({"camera": [[100, 0, 5000], [0, 100, 60], [0, 0, 1]]}, "far outside it"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence) as caught:
        pipeline()(PHOTO, **arguments)
    assert "\n" not in str(caught.value)


def test_intrinsics_of_a_larger_picture_are_doubted() -> None:
    with pytest.warns(UserWarning, match="the middle of 180 x 135 px: scale the intrinsics"):
        pipeline()(PHOTO, [BOX], [[200.0, 0, 90], [0, 200, 67.5], [0, 0, 1]])
    cut_out = [[200.0, 0, 140], [0, 200, 30], [0, 0, 1]]
    assert len(pipeline()(PHOTO, [BOX], cut_out)) == 1


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((1, 1, 3), np.uint8), "1 x 1 px: too little"),
        (np.zeros((40, 50, 7), np.uint8), r"shape \[40, 50, 7\]"),
        (np.zeros((0, 50, 3), np.uint8), "the shape"),
        (np.full((40, 50, 3), 7.0), "floats beyond 0..1"),
        (np.zeros((40, 50, 3), bool), "pixels of type bool"),
        (3, "is a int: give an array"),
        ("gone.jpg", "No image at gone.jpg"),
    ],
)
def test_a_picture_that_is_none_is_one_sentence(image: Any, sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        pipeline()(image)


def test_empty_and_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.png").write_bytes(b"not a picture")
    for name in ("a.jpg", "b.png"):
        with pytest.raises(PoseZooError, match=name):
            pipeline()([PHOTO, tmp_path / name])


def test_lists_must_match() -> None:
    with pytest.raises(PoseZooError, match="boxes must be a list of 2 entries"):
        pipeline()([PHOTO, PHOTO], [BOX])
    with pytest.raises(PoseZooError, match="camera must be a list of 2 entries"):
        pipeline()([PHOTO, PHOTO], camera=[CAMERA])
    with pytest.raises(PoseZooError, match="2 pictures but 3 cameras"):
        pipeline()([PHOTO, PHOTO], camera=stacked(CAMERA, 3))


# -------------------------------------------------------------------------------------------------- real networks


def test_real_networks_of_both_kinds() -> None:
    torch.manual_seed(0)
    for cls in (MeTRAbs, IntegralPose):
        pose = PosePipeline(tiny_estimator(cls), "cpu", detector="none")
        alone, among = pose(PHOTO, [BOX]), pose([PHOTO, PHOTO], [[[0, 0, 50, 50], BOX], [BOX]])
        np.testing.assert_allclose(alone.joints3d[0], among[0].joints3d[1], atol=0.5)
        assert ((alone.scores >= 0) & (alone.scores <= 1)).all()
        assert alone.root_depth_source


def test_root_depth_belongs_to_methods_without_one() -> None:
    model = tiny_estimator(IntegralPose, root_depth="truth")
    with pytest.warns(UserWarning, match="here it comes from bone lengths"):
        assert "bone lengths" in PosePipeline(model, "cpu", detector="none")(PHOTO).root_depth_source
    fixed = PosePipeline(tiny_estimator(IntegralPose), "cpu", detector="none", root_depth=4000)
    assert fixed(PHOTO).joints3d[0, 0, 2] == pytest.approx(4000, abs=0.1)
    with pytest.raises(PoseZooError, match="can: leave it out"):
        PosePipeline(tiny_estimator(MeTRAbs), "cpu", root_depth="bone_length")
    with pytest.raises(PoseZooError, match="needs labels"):
        PosePipeline(tiny_estimator(IntegralPose), "cpu", root_depth="truth")


def test_boxes_are_widened_for_weights_of_two_metre_boxes() -> None:
    model = Stub()
    model.box = "pelvis_2000mm"
    with pytest.warns(UserWarning, match="boxes are widened"):
        pose = pipeline(model)
    pose(PHOTO, [[40, 20, 20, 34]])
    scale = torch.linalg.det(model.batches[0]["crop_to_image"][0]).abs().sqrt() / 1
    assert scale.item() * 32 == pytest.approx(40, rel=0.03)


def test_load_takes_folders_and_refuses_what_is_none(tmp_path: Path) -> None:
    from posezoo.zoo import save_model

    folder = save_model(tiny_estimator(MeTRAbs), tmp_path / "weights")
    pose = posezoo.load(folder, "cpu", detector="none")
    assert repr(pose) == "PosePipeline(MeTRAbs, h36m17, 64 px, cpu)"
    assert len(pose(PHOTO)) == 1
    with pytest.raises(PoseZooError, match="nothing"):
        posezoo.load(tmp_path / "nothing.ckpt")
    with pytest.raises(PoseZooError, match="the device 'tpu9'"):
        posezoo.load(folder, "tpu9")
    with pytest.raises(PoseZooError, match="memory_mb must be at least 1"):
        posezoo.load(folder, memory_mb=0)


# -------------------------------------------------------------------------------------------------------- People


def some_people() -> People:
    people = pipeline()(PHOTO, [BOX, [5, 5, 40, 50]], CAMERA)
    people.joints3d[1, 3] = np.nan
    people.joints2d[1, 3] = np.nan
    return people


def test_people_are_saved_and_read_back(tmp_path: Path) -> None:
    people = some_people()
    for suffix in (".json", ".npz"):
        again = People.load(people.save(tmp_path / f"a{suffix}"))
        for name in ("joints3d", "joints2d", "scores", "boxes", "box_scores", "ids"):
            np.testing.assert_allclose(getattr(again, name), getattr(people, name), atol=0.006, err_msg=name)
        assert (again.skeleton, again.size, again.calibrated) == (H36M17, (120, 90), True)
        assert torch.equal(again.camera.intrinsics, CAMERA.intrinsics)
        assert again.root_depth_source == "stub"
    rows = people.save(tmp_path / "a.csv").read_text().splitlines()
    assert rows[0] == "frame,time,person,id,joint,x,y,z,u,v,score"
    assert len(rows) == 1 + 2 * 17
    assert rows[1 + 17 + 3].startswith("0,,1,-1,r_ankle,,,,,,")
    empty = no_people(H36M17, CAMERA, (120, 90))
    assert len(People.load(empty.save(tmp_path / "b.json"))) == 0
    assert len(People.load(empty.save(tmp_path / "b.npz"))) == 0


def test_saving_never_spoils_what_was_there(tmp_path: Path) -> None:
    people = some_people()
    with pytest.raises(PoseZooError, match=r"must end in \.json, \.npz or \.csv"):
        people.save(tmp_path / "a.txt")
    path = people.save(tmp_path / "a.json")
    before = path.read_bytes()
    people.suppressed = {"broken": object()}  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        people.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(PoseZooError, match="not a pose file of posezoo"):
        People.load(tmp_path / "b.json")
    with pytest.raises(PoseZooError, match="there is no file"):
        People.load(tmp_path / "c.json")


def test_people_of_another_skeleton() -> None:
    people = some_people()
    coco = people.to("coco17")
    assert coco.skeleton is COCO17
    at = COCO17.index("l_wrist")
    np.testing.assert_array_equal(coco.joints3d[:, at], people.joints3d[:, H36M17.index("l_wrist")])
    assert np.isnan(coco.joints3d[:, COCO17.index("l_eye")]).all()
    assert not coco.scores[:, COCO17.index("l_eye")].any()
    assert np.isnan(coco.joints3d[1, COCO17.index("r_ankle")]).all()
    back = coco.to("h36m17")  # the pelvis is derived: the mean of the hips, with the lower of their scores
    hips = [H36M17.index("l_hip"), H36M17.index("r_hip")]
    np.testing.assert_allclose(back.joints3d[:, 0], people.joints3d[:, hips].mean(1), atol=1e-3)
    np.testing.assert_allclose(back.scores[:, 0], people.scores[:, hips].min(1))
    with pytest.raises(PoseZooError, match="coco17"):
        people.to("coco")


def test_people_can_be_indexed_and_drawn() -> None:
    people = some_people()
    assert len(people[0]) == 1
    assert len(people[people.box_scores > 2]) == 0
    np.testing.assert_array_equal(people[[1, 0]].boxes, people.boxes[::-1])
    drawn = people.draw(boxes=True)
    assert drawn.shape == PHOTO.shape
    assert (drawn != PHOTO).any()
    assert people.draw3d((300, 150), ("oblique",)).shape == (150, 300, 3)
    people.image = None
    with pytest.raises(PoseZooError, match=r"people\.draw\(image\)"):
        people.draw()
