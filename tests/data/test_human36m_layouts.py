"""Human3.6M as recordings: official files, 3DMPPE's, VideoPose3D's, on mimics of real poses; S9's corrections."""

import json
import os
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
from pickle_helpers import Attack

from posezoo.data import Human36M
from posezoo.data.crop import CropDraw, CropSpec, crop_camera, make_labels
from posezoo.data.human36m import Human36MPeople, corrected, open_clips
from posezoo.data.layouts.human36m_cameras import read_cameras
from posezoo.data.layouts.human36m_clips import Wanted, scene_of
from posezoo.errors import PoseZooError
from posezoo.skeletons import H36M17

pytestmark = pytest.mark.shared_data
SERIALS = ("54138969", "55011271")
FEATURES = Path("S9") / "MyPoseFeatures"


def module(root: Path, **keywords: Any) -> Human36M:
    return Human36M(str(root), **{"num_workers": 0, "batch_size": 2, "image_size": 64, **keywords})


def rename(root: Path, scene: str, subject: str = "S9") -> None:
    """Give the mimic's only recording another name."""
    for path in list((root / subject / "MyPoseFeatures").rglob("Posing 1*")):
        path.rename(path.with_name(path.name.replace("Posing 1", scene)))


@pytest.fixture
def official(shared: Path, tmp_path: Path) -> Path:
    for path in (shared / "data" / "format_mimics" / "h36m_official").rglob("*.cdf"):
        target = tmp_path / "official" / path.relative_to(shared / "data" / "format_mimics" / "h36m_official")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "official" / "Release-v1.2").mkdir()
    shutil.copy(shared / "data" / "h36m" / "Release-v1.2" / "metadata.xml", tmp_path / "official" / "Release-v1.2")
    return tmp_path / "official"


@pytest.fixture
def videopose3d(shared: Path, tmp_path: Path) -> Path:
    root = tmp_path / "videopose3d"
    root.mkdir()
    shutil.copy(shared / "data" / "format_mimics" / "h36m_videopose3d" / "data_3d_h36m.npz", root)
    shutil.copy(shared / "data" / "h36m" / "Release-v1.2" / "metadata.xml", root)
    (root / "data_3d_h36m.npz").chmod(0o644)
    return root


@pytest.fixture
def moon(shared: Path, tmp_path: Path) -> Path:
    """3DMPPE's layout."""
    source, root = shared / "data" / "format_mimics" / "h36m_3dmppe", tmp_path / "3dmppe"
    (root / "annotations").mkdir(parents=True)
    for path in (source / "annotations").iterdir():
        (root / "annotations" / path.name).write_bytes(path.read_bytes())
    (root / "images").symlink_to(source / "images")
    return root


@pytest.fixture
def real(shared: Path) -> dict[str, np.ndarray]:
    """40 poses of S9 "Posing 1" that the mimics were made of, every fifth frame of the video."""
    with np.load(shared / "data" / "h36m" / "c2f_s9_posing" / "annot" / "valid.npz") as data:
        return {key: data[key] for key in data.files}


# ------------------------------------------------------------------------------------------------- official files


def reprojection(people: Human36MPeople, pixels: np.ndarray | None = None) -> float:
    """Largest distance of projected 3D joints from 2D labels, px."""
    apart = [
        people.calibration[people.view[n]].project(torch.as_tensor(people.joints3d[n])).numpy()
        - (people.joints2d if pixels is None else pixels)[n]
        for n in range(len(people))
    ]
    return float(np.abs(apart).max())


def test_official_poses_project_onto_the_official_pixels(official: Path, real: dict[str, np.ndarray]) -> None:
    people = module(official).people("test")
    assert len(people) == 80
    assert reprojection(people) < 1e-3
    second = people.view == people.cameras.index(("S9", "55011271"))
    np.testing.assert_allclose(people.joints3d[second], real["S_cam_mm"][:40], atol=1e-2)
    np.testing.assert_allclose(people.joints2d[second], real["joints_px"][:40], atol=1e-2)
    assert people.frame[second].tolist() == list(range(1, 41))
    records = people.records()
    assert records.recording is not None
    assert set(records.recording) == {"S9 Posing 1"}
    assert records.frame.min() == 0
    assert people.meta(0)["action"] == "Posing"
    report = people.report()
    assert "80 frames of 2 recordings of S9" in report
    assert f"cameras: {official / 'Release-v1.2' / 'metadata.xml'}" in report
    assert "1 subjects without MyPoseFeatures/D3_Positions_mono (S11)" in report
    assert "2 of 2 recordings have no images (first: " in report


def test_world_poses_give_the_same_as_those_of_each_camera(official: Path) -> None:
    mono = module(official).people("test")
    shutil.rmtree(official / FEATURES / "D3_Positions_mono")
    world = module(official).people("test")
    assert len(world) == 160  # of all four cameras
    for serial in SERIALS:
        a, b = (p.joints3d[p.view == p.cameras.index(("S9", serial))] for p in (mono, world))
        np.testing.assert_allclose(a, b, atol=1e-2)
    assert (
        "2 recordings without D2_Positions, whose 2D labels are projections (S9 Posing 1, S9 Posing 1)"
        in world.report()
    )
    assert reprojection(world) < 1e-3


def test_boxes_are_tight_squares(official: Path) -> None:
    tight, loose = module(official).people("test"), module(official, box_scale=1.0).people("test")
    low, high = tight.joints2d.min(1), tight.joints2d.max(1)
    np.testing.assert_allclose(tight.boxes[:, 2], (high - low).max(1), rtol=1e-5)
    np.testing.assert_allclose(tight.boxes[:, :2] + tight.boxes[:, 2:] / 2, (low + high) / 2, atol=1e-3)
    np.testing.assert_allclose(loose.boxes[:, 2:], 1.2 * tight.boxes[:, 2:], rtol=1e-5)


@pytest.mark.parametrize(
    "place",
    [
        "images/S9/S9_Posing_1.{0}/S9_Posing_1.{0}_{1:06d}.jpg",
        "S9/Images/Posing 1.{0}/frame_{2:06d}.jpg",
        "S9/Posing-1/imageSequence/{0}/img_{1:06d}.jpg",
    ],
)
def test_images_in_the_customary_places(place: str, official: Path) -> None:
    """Real heights differ from the nominal 1002: the size is the image's."""
    for serial in SERIALS:
        for frame in range(3):
            path = official / place.format(serial, frame + 1, frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((999, 1000, 3), 40 * frame, np.uint8))
    data = module(official)
    data.setup("test")
    people = data.people("test")
    for index in (0, 2, 42):
        sample = people.read(index)
        assert sample.size == (1000, 999)
        assert sample.image is not None
        assert np.asarray(sample.image)[0, 0, 0] == 40 * (people.frame[index] - 1)
    assert people.read_labels(0).size in ((1000, 1002), (1000, 1000))
    assert "no images" not in people.report()


def test_every_nth_frame_counts_from_the_first(official: Path) -> None:
    data = module(official, train_subjects=["S9"], every=5, eval_every=16)
    assert sorted(set((data.people("train").frame - 1).tolist())) == list(range(0, 40, 5))
    assert sorted(set((data.people("test").frame - 1).tolist())) == [0, 16, 32]


def test_the_protocol_selects_frames_and_subjects(official: Path) -> None:
    shutil.copytree(official / "S9", official / "S11")
    for subject in ("S9", "S11"):
        for serial in SERIALS:
            (official / subject / "Images" / f"Posing 1.{serial}").mkdir(parents=True)
    data = module(official, protocol="h36m_p1_spin")
    data.setup("test")
    assert len(data.crops("test")) == 2 * 2 * 8
    alone = module(official, protocol="h36m_p1_moon")
    alone.setup("test")
    assert len(alone.crops("test")) == 2
    assert {alone.meta(n)["subject"] for n in range(2)} == {"S11"}


# ------------------------------------------------------------------------------------------------- S9


@pytest.mark.parametrize(("scene", "moves"), [("Waiting 1", True), ("Greeting", True), ("Greeting 1", False)])
def test_three_recordings_of_s9_are_moved_by_200_mm(scene: str, moves: bool, official: Path) -> None:
    rename(official, scene)
    released, moved = (module(official, correct_s9=correct).people("test") for correct in (False, True))
    offset = np.array([-200.0 * moves, 0, 0])
    for index in (0, 45):
        worlds = [
            p.calibration[p.view[index]].camera_to_world(torch.as_tensor(p.joints3d[index])).numpy()
            for p in (released, moved)
        ]
        np.testing.assert_allclose(worlds[1] - worlds[0], np.tile(offset, (17, 1)), atol=1e-2)
    assert reprojection(moved) < 1e-3
    apart = np.linalg.norm(moved.joints2d - released.joints2d, axis=-1)
    assert (apart > 10).all() if moves else (apart == 0).all()
    inside = (moved.joints2d - moved.boxes[:, None, :2]) / moved.boxes[:, None, 2:]
    assert -0.03 < inside.min() < inside.max() < 1.03
    assert ("moved by 200 mm" in moved.report()) == moves


def test_whether_s9_is_moved_follows_the_protocol(official: Path) -> None:
    assert module(official).annotation("test") == "s9_corrected"
    assert module(official, protocol="h36m_metrabs").annotation("test") == "s9_corrected"
    assert module(official, protocol="h36m_p2_moon").annotation("test") == "s9_as_released"
    wrong = module(official, protocol="h36m_metrabs", correct_s9=False)
    shutil.copytree(official / "S9", official / "S11")
    for subject in ("S9", "S11"):
        for serial in SERIALS:
            (official / subject / "Images" / f"Posing 1.{serial}").mkdir(parents=True)
    with pytest.raises(PoseZooError, match=r"h36m_metrabs is defined on the labels 's9_corrected'"):
        wrong.setup("test")


def test_other_subjects_are_never_moved(moon: Path) -> None:
    people = module(moon, eval_subjects=["S1", "S5", "S8"]).people("test")
    assert corrected(people) is people


# ------------------------------------------------------------------------------------------------- 3DMPPE


def test_3dmppe_with_cameras_that_know_the_lens(moon: Path, shared: Path) -> None:
    """Its own cameras have no lens: about a pixel. With metadata.xml beside it, the labels are exact."""
    with np.load(shared / "data" / "h36m" / "h36m_samples.npz") as data:
        truth = {key: data[key] for key in data.files}
    rows = [list(truth["subject"]).index(subject) for subject in ("S1", "S5", "S8")]
    plain = module(moon, eval_subjects=["S1", "S5", "S8"]).people("test")
    assert [plain.meta(n)["scene"] for n in range(3)] == list(truth["subaction"][rows])
    assert [plain.meta(n)["camera"] for n in range(3)] == list(truth["camera"][rows])
    assert plain.frame.tolist() == list(truth["frame"][rows])
    np.testing.assert_allclose(plain.joints3d, truth["joints_cam_mm"][rows], atol=1e-2)
    assert 0.3 < reprojection(plain, truth["joints_px"][rows]) < 5
    assert "cameras without lens distortion, about 1 px off" in plain.report()
    for index, subject in enumerate((1, 5, 8)):
        table = json.loads((moon / "annotations" / f"Human36M_subject{subject}_data.json").read_text())
        left, top, width, height = table["annotations"][0]["bbox"]
        side = max(width, height)
        wanted = [left + width / 2 - side / 2, top + height / 2 - side / 2, side, side]
        np.testing.assert_allclose(plain.boxes[index], wanted, rtol=1e-5)
    shutil.copy(shared / "data" / "h36m" / "Release-v1.2" / "metadata.xml", moon)
    exact = module(moon, eval_subjects=["S1", "S5", "S8"]).people("test")
    np.testing.assert_allclose(exact.joints3d, truth["joints_cam_mm"][rows], atol=1e-2)
    assert reprojection(exact, truth["joints_px"][rows]) < 1e-3


@pytest.mark.parametrize("kind", ["look_at", "image_plane"])
def test_landmarks_stay_on_their_pixels_through_the_warp(kind: Any, moon: Path, shared: Path) -> None:
    """With Human3.6M's lens, in the real images' own size."""
    shutil.copy(shared / "data" / "h36m" / "Release-v1.2" / "metadata.xml", moon)
    people = module(moon, eval_subjects=["S1", "S5", "S8"]).people("test")
    spec = CropSpec(H36M17, 256, kind, "annotation")
    for index, (width, height) in enumerate([(1000, 1002), (1000, 1002), (1000, 1000)]):
        sample = people.read(index)
        assert sample.size == (width, height)
        crop = crop_camera(sample, H36M17, spec, CropDraw(roll=-20.0, zoom=0.7))
        labels = make_labels(sample, H36M17, spec, crop)
        for joint in (0, 3, 10, 13, 16):
            found = dot_in_crop(sample, joint, crop, radius=4)
            np.testing.assert_allclose(found, labels["joints2d"][joint].numpy(), atol=0.5)


def test_left_and_right_are_the_persons(moon: Path) -> None:
    """Joints 1 to 3 are the right leg: on the left in an image of somebody who faces the camera."""
    people = module(moon, eval_subjects=["S1"]).people("test")
    x = {name: people.joints2d[0, H36M17.index(name), 0] for name in H36M17.joints}
    facing = np.sign(x["l_shoulder"] - x["r_shoulder"])
    assert np.sign(x["l_hip"] - x["r_hip"]) == facing
    chest = people.joints3d[0, H36M17.index("nose")] - people.joints3d[0, H36M17.index("neck")]
    assert np.sign(-chest[2]) == facing  # the nose is nearer than the neck exactly when the left side is at the right


def test_the_recordings_behind_3dmppes_numbers(shared: Path) -> None:
    """Against the table of file names in the official metadata."""
    import re

    text = (shared / "data" / "h36m" / "Release-v1.2" / "metadata.xml").read_text()
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)[:33]]
    header, compared = rows[0], 0
    for row in rows[3:33]:
        for subject in ("S1", "S5", "S6", "S7", "S8", "S9", "S11"):
            name = row[header.index(subject)].replace("TakingPhoto", "Photo").replace("WalkingDog", "WalkDog")
            assert scene_of(subject, int(row[0]), int(row[1])) == name
            compared += 1
    assert compared == 210


# ------------------------------------------------------------------------------------------------- VideoPose3D


def test_videopose3d_projects_onto_its_own_2d_file(videopose3d: Path, shared: Path) -> None:
    source = shared / "data" / "format_mimics" / "h36m_videopose3d" / "data_2d_h36m_gt.npz"
    with np.load(source, allow_pickle=True) as data:
        views = data["positions_2d"].item()["S9"]["Posing 1"]
    people = module(videopose3d).people("test")
    assert len(people) == 480
    order = ("54138969", "55011271", "58860488", "60457274")
    pixels = np.stack(
        [views[order.index(people.cameras[v][1])][f - 1] for v, f in zip(people.view, people.frame, strict=True)]
    )
    assert reprojection(people, pixels) < 2e-2  # that file has float32 pixels of float32 metres
    assert reprojection(people) < 1e-3


def test_videopose3d_has_labels_only_until_there_are_images(videopose3d: Path) -> None:
    data = module(videopose3d)
    assert data.people("test").read_labels(3).joints3d is not None
    with pytest.raises(PoseZooError, match=r"No image at .*S9_Posing_1\.54138969_000001\.jpg, nor of 3 others.*labels"):
        data.setup("test")


def test_videopose3d_without_cameras_is_one_sentence(videopose3d: Path) -> None:
    (videopose3d / "metadata.xml").unlink()
    with pytest.raises(PoseZooError, match=r"has no cameras: put the metadata\.xml .* in it\.$"):
        module(videopose3d).people("test")


def test_videopose3d_cannot_run_code(videopose3d: Path) -> None:
    attack = Attack(os.system, f"touch '{videopose3d / 'executed'}'")
    np.savez(videopose3d / "data_3d_h36m.npz", positions_3d=np.array({"S9": {"Posing": attack}}, dtype=object))
    with pytest.raises(PoseZooError, match=r"data_3d_h36m\.npz asks for .*\.system, which arrays do not need"):
        module(videopose3d).people("test")
    assert not (videopose3d / "executed").exists()


# ------------------------------------------------------------------------------------------------- mistakes


def _cut(path: Path) -> Callable[[Path], Any]:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:700])


def _another_recording(root: Path) -> None:
    folder = root / FEATURES / "D2_Positions"
    first, second = sorted(folder.iterdir())
    first.write_bytes(second.read_bytes())


MONO = FEATURES / "D3_Positions_mono" / "Posing 1.54138969.cdf"
MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a download": (_cut(MONO), r"Posing 1\.54138969\.cdf cannot be read .*: download its archive of Human3\.6M"),
    "no poses": (
        lambda root: [path.unlink() for path in (root / MONO).parent.iterdir()],
        r"D3_Positions_mono has no \.cdf files: unpack Poses_D3_Positions_mono_S9\.tgz",
    ),
    "no cameras": (lambda root: shutil.rmtree(root / "Release-v1.2"), r"has no cameras: put the metadata\.xml"),
    "half the cameras": (
        lambda root: (root / "Release-v1.2" / "metadata.xml").write_text("<w0>[1 2 3]</w0>"),
        r"metadata\.xml is not a camera file of Human3\.6M \(its element w0 has 3 numbers",
    ),
    "another camera's pixels": (_another_recording, r"project \d+ px away from its 2D labels"),
    "an unknown action": (lambda root: rename(root, "Posign 1"), r"'Posign', which is no action .*did you mean Posing"),
    "other joints": (
        lambda root: (root / MONO).write_bytes((root / FEATURES / "D2_Positions" / MONO.name).read_bytes()),
        r"its Pose has the shape \(1, 40, 64\), expected \(1, T, 96\)",
    ),
    "nobody": (
        lambda root: (root / "S9").rename(root / "S7"),
        r"no labels of S9, S11 \(left out: 2 subjects without .*\): set --data\.train_subjects",
    ),
    "something else": (
        lambda root: shutil.rmtree(root / "S9"),
        r"is no folder of Human3\.6M: it has Release-v1",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_folder_is_one_clear_sentence(mistake: str, official: Path) -> None:
    spoil, sentence = MISTAKES[mistake]
    spoil(official)
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(official).setup("test")
    assert "\n" not in str(error.value)
    assert str(official) in str(error.value)


def test_a_table_of_3dmppe_that_lacks_one_file_or_labels(moon: Path) -> None:
    data = module(moon, eval_subjects=["S1", "S5", "S8", "S9"])
    joints = moon / "annotations" / "Human36M_subject5_joint_3d.json"
    joints.write_text("{}")
    report = data.people("test").report()
    assert "1 images without joints or box (s_05_act_10_subact_01_ca_01/" in report
    assert "1 subjects without annotations (S9)" in report
    joints.unlink()
    with pytest.raises(PoseZooError, match=r"There is no .*subject5_joint_3d\.json: unpack all of 3DMPPE's"):
        module(moon, eval_subjects=["S5"]).people("test")


def test_frames_without_joints_are_counted(videopose3d: Path) -> None:
    world = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 32, 3)) + np.array([0, 0, 1])
    world[1] = np.nan
    world[2, 0] = np.nan
    np.savez(videopose3d / "data_3d_h36m.npz", positions_3d=np.array({"S9": {"Posing": world}}, dtype=object))
    people = module(videopose3d).people("test")
    assert people.frame.tolist() == [1, 3] * 4
    assert (
        "4 frames without joints or box (images/S9/S9_Posing.54138969/S9_Posing.54138969_000002.jpg" in people.report()
    )
    assert people.valid3d.sum(1).tolist() == [17, 16] * 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"every": 0}, r"--data\.every must be at least 1, got 0"),
        ({"eval_every": -1}, r"--data\.eval_every must be at least 1, got -1"),
        ({"train_subjects": ["9"]}, r"--data\.train_subjects are named like S9, got '9'"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        module(tmp_path, **arguments)


@pytest.mark.parametrize("share", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_damaged_files_are_one_sentence_each(share: float, official: Path, moon: Path, videopose3d: Path) -> None:
    def check(root: Path, path: Path | str, subject: str, count: int) -> None:
        refused = survive(root / path, round(count * share), lambda: open_clips(root, Wanted((subject,), 1), 1.0))
        assert refused > 0.1 * count * share

    if share == 1:  # cdflib takes 20 seconds for some damaged blocks
        check(official, MONO, "S9", 50)
    check(videopose3d, "data_3d_h36m.npz", "S9", 100)
    for kind in ("data", "joint_3d", "camera"):
        check(moon, f"annotations/Human36M_subject1_{kind}.json", "S1", 300)


def test_damaged_cameras_are_one_sentence_each(shared: Path, tmp_path: Path) -> None:
    content = json.loads((shared / "data" / "h36m" / "camera-parameters.json").read_text())
    small = {"intrinsics": content["intrinsics"], "extrinsics": {"S1": content["extrinsics"]["S1"]}}
    (tmp_path / "camera-parameters.json").write_text(json.dumps(small))
    numbers = " ".join(map(str, np.linspace(0.1, 3, 300)))
    (tmp_path / "metadata.xml").write_text(f"<a><w0>[{numbers}]</w0></a>")
    for name in ("camera-parameters.json", "metadata.xml"):
        assert survive(tmp_path / name, 200, lambda name=name: read_cameras(tmp_path / name)) > 50  # type: ignore[misc]
