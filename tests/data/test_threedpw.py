"""3DPW: the mimic in the official layout, hand-made sequences, pickles of Python 2, and pickles that are attacks."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from bad_input_helpers import survive
from landmark_helpers import dot_in_crop
from pickle_helpers import Attack, python2

from posezoo.data import ThreeDPW
from posezoo.data.crop import CropDraw, CropSpec, crop_camera, make_labels
from posezoo.data.threedpw import open_people
from posezoo.errors import PoseZooError
from posezoo.skeletons import SMPL24

MIMIC = Path("data") / "format_mimics" / "3dpw_official"
FOCAL, SIZE = 100.0, (80, 120)


def sequence(frames: int = 3, people: int = 1, **changes: Any) -> dict[str, Any]:
    """People 3 m before a camera that moves 100 mm to the right and turns by 10 degrees about its axis every frame."""
    rng = np.random.default_rng(0)
    world = rng.uniform(-0.4, 0.4, (people, 24, 3)) + np.array([0, 0, 3.0])
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for t in range(frames):
        angle = np.radians(10 * t)
        poses[t, :2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        poses[t, 0, 3] = -0.1 * t
    return {
        "sequence": "walk_00",
        "jointPositions": [np.tile(person.reshape(-1), (frames, 1)) for person in world],
        "poses2d": [np.ones((frames, 3, 18)) for _ in world],
        "campose_valid": [np.ones(frames, int) for _ in world],
        "cam_poses": poses,
        "cam_intrinsics": np.array([[FOCAL, 0, 39.5], [0, FOCAL, 59.5], [0, 0, 1]]),
        "img_frame_ids": np.arange(frames) * 2,
    } | changes


def write(root: Path, content: Any = None, split: str = "test", name: str = "walk_00", frames: int = 3) -> Path:
    path = root / "sequenceFiles" / split / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content or sequence(), protocol=2))
    images = root / "imageFiles" / name
    images.mkdir(parents=True, exist_ok=True)
    for t in range(frames):
        cv2.imwrite(str(images / f"image_{t:05d}.jpg"), np.full((SIZE[1], SIZE[0], 3), 10 * t, np.uint8))
    return root


def module(root: Path, **keywords: Any) -> ThreeDPW:
    return ThreeDPW(
        str(root), **{"num_workers": 0, "batch_size": 2, "image_size": 64, "skeleton": "smpl24", **keywords}
    )


# ------------------------------------------------------------------------------------------------- the mimic

# The twelve limb joints of OpenPose's 18 and of SMPL's 24: the detections are near, an exchange of sides is not.
OPENPOSE = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
LIMBS = [
    SMPL24.index(f"{side}_{part}") for side, parts in
    (("r", "shoulder elbow wrist"), ("l", "shoulder elbow wrist"), ("r", "hip knee ankle"), ("l", "hip knee ankle"))
    for part in parts.split()
]  # fmt: skip


@pytest.mark.shared_data
def test_the_mimic_projects_onto_its_2d_labels(shared: Path) -> None:
    """Its 2D poses are detections: 7 px median apart in 1080 x 1920 px as its README says; left and right agree."""
    with np.load(shared / MIMIC / "sequenceFiles" / "test" / "mimic_balance_00.npz") as safe:
        joints, poses = safe["jointPositions"][0].reshape(-1, 24, 3), safe["cam_poses"]
        intrinsics, detected = safe["cam_intrinsics"], safe["poses2d"][0]
    people = module(shared / MIMIC).people("test")
    assert len(people) == 5
    swapped = []
    for index in range(5):
        sample = people.read(index)
        assert sample.camera is not None
        assert sample.joints3d is not None
        assert sample.image is not None
        assert sample.size == (1080, 1920) == sample.image.size
        in_camera = joints[index] @ poses[index, :3, :3].T + poses[index, :3, 3]
        np.testing.assert_allclose(sample.joints3d, 1000 * in_camera, atol=1e-2)
        pixels = sample.camera.project(torch.as_tensor(sample.joints3d)).numpy()
        by_hand = in_camera @ intrinsics.T
        np.testing.assert_allclose(pixels, by_hand[:, :2] / by_hand[:, 2:], atol=1e-3)
        np.testing.assert_allclose(sample.joints2d, pixels, atol=1e-3)
        world = sample.camera.camera_to_world(torch.as_tensor(sample.joints3d)).numpy()
        np.testing.assert_allclose(world, 1000 * joints[index], atol=2e-2)
        apart = np.linalg.norm(pixels[LIMBS] - detected[index, :2, OPENPOSE], axis=-1)
        assert np.median(apart) < 7.5
        swapped.append(np.median(np.linalg.norm(SMPL24.flip(pixels)[LIMBS] - detected[index, :2, OPENPOSE], axis=-1)))
        inside = (pixels - sample.box[:2]) / sample.box[2:]
        assert 0 < inside.min() < inside.max() < 1
    assert min(swapped) > 30
    assert [people.meta(n)["frame"] for n in range(5)] == list(range(5))  # of the image, not of img_frame_ids


@pytest.mark.shared_data
@pytest.mark.parametrize("kind", ["look_at", "image_plane"])
def test_landmarks_stay_on_their_pixels_through_the_warp(shared: Path, kind: Any) -> None:
    people = module(shared / MIMIC).people("test")
    sample = people.read(2)
    spec = CropSpec(SMPL24, 256, kind, "annotation")
    crop = crop_camera(sample, SMPL24, spec, CropDraw(roll=15.0))
    labels = make_labels(sample, SMPL24, spec, crop)
    for name in ("l_wrist", "r_ankle", "head"):
        joint = SMPL24.index(name)
        found = dot_in_crop(sample, joint, crop, radius=6)
        np.testing.assert_allclose(found, labels["joints2d"][joint].numpy(), atol=0.3)


# ------------------------------------------------------------------------------------------------- by hand


def test_the_moving_camera_by_hand(tmp_path: Path) -> None:
    data = sequence()
    data["jointPositions"][0][:, :3] = [0.3, 0.2, 3.0]  # the pelvis
    people = module(write(tmp_path, data)).people("test")
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    wanted = np.array([300 * c - 200 * s - 200, 300 * s + 200 * c, 3000])
    np.testing.assert_allclose(people.joints3d[2, 0], wanted, atol=1e-2)
    np.testing.assert_allclose(people.joints2d[2, 0], wanted[:2] / 30 + [39.5, 59.5], atol=1e-4)
    assert people.sequences == ("walk_00 person 0",)


def test_who_is_left_out_and_why(tmp_path: Path) -> None:
    data = sequence(frames=5, people=2)
    data["campose_valid"][1][0] = 0
    data["poses2d"][0][1] = 0
    data["cam_poses"][2, 0, 0] = np.nan
    data["jointPositions"][1][3] -= 10  # behind the camera
    data["jointPositions"][0][4].reshape(24, 3)[:, 0] += 9  # beside the image
    people = module(write(tmp_path, data, frames=5)).people("test")
    left = {(int(p), int(f)) for p, f in zip(people.person_id, people.frame, strict=True)}
    assert left == {(0, 0), (0, 3), (1, 1), (1, 4)}
    for reason in (
        "3 people in frames without a valid camera (walk_00 person 0 frame 2, walk_00 person 1 frame 0, walk_00 person",
        "1 people without a 2D pose (walk_00 person 0 frame 1)",
        "1 people without joints in front of the camera (walk_00 person 1 frame 3)",
        "1 people outside the image (walk_00 person 0 frame 4)",
    ):
        assert reason in people.report()


def test_a_joint_that_is_nan_is_masked(tmp_path: Path) -> None:
    data = sequence()
    data["jointPositions"][0][1, 3 * 20] = np.nan
    people = module(write(tmp_path, data)).people("test")
    assert people.valid3d.sum(1).tolist() == [24, 23, 24]
    assert not people.valid2d[1, 20]
    assert np.isfinite(people.boxes).all()


def test_splits_and_protocols(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("validation", "b"), ("test", "c"), ("test", "d")):
        write(tmp_path, sequence(), split, name)
    data = module(tmp_path)
    assert [len(data.people(split)) for split in ("train", "val", "test")] == [3, 3, 6]
    assert data.sequence_names() == ("c person 0", "d person 0")
    assert data.people("test") is data.people("test")
    everything = module(tmp_path, protocol="3dpw")
    everything.setup("test")
    assert len(everything.crops("test")) == 12
    assert set(everything.people("test").records().subject) == {"train", "validation", "test"}
    assert len(everything.people("train")) == 3
    with pytest.raises(PoseZooError, match=r"3dpw_test14 is defined on the labels 'h36m_regressor'"):
        module(tmp_path, protocol="3dpw_test14").setup("test")
    with pytest.raises(PoseZooError, match="ImageFolder"):
        data.people("predict")


def test_pickles_of_python_2_are_read_alike(tmp_path: Path) -> None:
    new = module(write(tmp_path / "new")).people("test")
    old = module(write(tmp_path / "old", python2(sequence()))).people("test")
    assert np.array_equal(new.joints3d, old.joints3d)
    assert np.array_equal(new.boxes, old.boxes)
    assert len(old) == 3


# ------------------------------------------------------------------------------------------------- mistakes


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in sequence().items() if name != key}


def _no_images(root: Path) -> None:
    for path in (root / "imageFiles" / "walk_00").iterdir():
        path.unlink()


MISTAKES: dict[str, tuple[Any, Callable[[Path], Any], str]] = {
    "no pickles": (
        None,
        lambda root: shutil.rmtree(root / "sequenceFiles" / "test"),
        r"No sequences at .*test: ",
    ),
    "no images": (None, lambda root: shutil.rmtree(root / "imageFiles"), r"has no folder 'imageFiles': unpack image"),
    "half an archive": (None, _no_images, r"No image at .*image_00000\.jpg, nor 2 others of 3"),
    "half a pickle": (pickle.dumps(sequence())[:900], lambda root: None, r"walk_00\.pkl is not a sequence of 3DPW"),
    "no cameras": (_without("cam_poses"), lambda root: None, r"walk_00\.pkl is not a sequence .*'cam_poses'"),
    "another skeleton": (
        sequence(jointPositions=[np.zeros((3, 51))]),
        lambda root: None,
        r"is not a sequence of 3DPW \(cannot reshape array of size 153",
    ),
    "no focal length": (
        sequence(cam_intrinsics=np.diag([0.0, 0, 1])),
        lambda root: None,
        r"is not a sequence of 3DPW \(cam_intrinsics are",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_another_folder_is_one_clear_sentence(mistake: str, tmp_path: Path) -> None:
    content, spoil, sentence = MISTAKES[mistake]
    root = write(tmp_path, content)
    spoil(root)
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(root).setup("test")
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


def test_all_unreadable_pickles_are_named(tmp_path: Path) -> None:
    for name in "abcde":
        write(tmp_path, b"nothing" if name in "bd" else None, name=name)
    with pytest.raises(
        PoseZooError, match=r"/b\.pkl is not .*/d\.pkl is not .*take them from sequenceFiles\.zip again"
    ):
        module(tmp_path).people("test")


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    attack = Attack(os.system, f"touch '{tmp_path / 'executed'}'")
    root = write(tmp_path, pickle.dumps(sequence(texture_maps=[attack]), protocol=2))
    with pytest.raises(PoseZooError, match=r"walk_00\.pkl asks for .*\.system, which arrays do not need"):
        module(root).people("test")
    assert not (tmp_path / "executed").exists()


def test_senseless_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"ThreeDPW does not know where its files are: set --data\.root"):
        ThreeDPW().setup("test")
    with pytest.raises(PoseZooError, match=r"There is no folder .*nowhere: set --data\.root"):
        module(tmp_path / "nowhere").setup("test")
    with pytest.raises(PoseZooError, match=r"--data\.margin must not be negative, got -0\.1"):
        module(tmp_path, margin=-0.1)


def test_damaged_files(tmp_path: Path) -> None:
    root = write(tmp_path, python2(sequence()))
    path = root / "sequenceFiles" / "test" / "walk_00.pkl"
    assert survive(path, 500, lambda: open_people(root, ("test",))) > 100
