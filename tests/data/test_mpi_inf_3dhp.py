"""MPI-INF-3DHP: real samples project onto their labels; both layouts; what is missing, damaged or something else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_input_helpers import survive
from scipy.io import loadmat, savemat
from three_dhp_helpers import JOINTS_28 as HELPER_JOINTS
from three_dhp_helpers import SIDE, calibration, person, write_picture, write_test_set, write_train

from posezoo.cameras import apply_homography
from posezoo.data import MPIINF3DHP
from posezoo.data.annotated import CameraPeople, fit_pinhole
from posezoo.data.layouts.mpi_inf_3dhp_labels import ACTIVITIES, JOINTS_28, OUTDOOR_DISTORTION
from posezoo.data.layouts.mpi_inf_3dhp_official import moving, read_calibration
from posezoo.errors import PoseZooError
from posezoo.metrics.protocols import get_protocol
from posezoo.skeletons import MPI_INF_3DHP_17, MUCO21

OFFICIAL = Path("data") / "format_mimics" / "mpi_inf_3dhp_official"
EVERY_FRAME: dict[str, Any] = {"frame_step": 1, "min_motion": 0.0}


def module(root: Path, **keywords: Any) -> MPIINF3DHP:
    plain: dict[str, Any] = {"num_workers": 0, "batch_size": 2, "image_size": 64, "train_subjects": ["S1"]}
    return MPIINF3DHP(str(root), **plain | {"val_subjects": []} | keywords)


def misfits(people: CameraPeople) -> list[float]:
    """Mean distance of each person's projected 3D from the stored 2D labels, px."""
    found = []
    for index in range(len(people)):
        sample = people.read_labels(index)
        assert sample.camera is not None
        pixels = sample.camera.project(torch.as_tensor(sample.joints3d)).numpy()
        found.append(float(np.linalg.norm(pixels - sample.joints2d, axis=1)[:17].mean()))
    return found


# ------------------------------------------------------------------------------------------- real samples


@pytest.mark.shared_data
def test_real_samples_project_onto_their_labels(shared: Path) -> None:
    root = shared / "data" / "mpi_inf_3dhp"
    with np.load(root / "mpi_inf_3dhp_samples.npz") as data:
        truth = {key: data[key] for key in data.files}
    paths = [str(path) for path in truth["image_path"]]
    seen, errors = set(), []
    data = module(root, train_subjects=["S4"])
    for split in ("train", "test"):
        people = data.people(split)
        errors += misfits(people)
        for index in range(len(people)):
            row = paths.index(people.path(index).relative_to(root).as_posix())
            seen.add(row)
            sample = people.read(index)
            assert sample.camera is not None
            np.testing.assert_allclose(sample.joints3d, truth["joints_cam_mm"][row], atol=2e-3)
            np.testing.assert_allclose(sample.joints2d, truth["joints_px"][row], atol=2e-3)
            np.testing.assert_allclose(sample.camera.intrinsics, truth["K"][row], rtol=1e-6)
            assert sample.size == tuple(truth["image_size_wh"][row])
            if truth["has_extrinsics"][row]:
                np.testing.assert_allclose(sample.camera.rotation, truth["R_w2c"][row], atol=1e-6)
                np.testing.assert_allclose(sample.camera.translation, truth["t_w2c_mm"][row], atol=1e-3)
    assert seen == {0, 1, 2}
    assert np.mean(errors) < 0.35
    assert max(errors) < 0.45


@pytest.mark.shared_data
def test_landmarks_keep_their_place_in_the_crop(shared: Path) -> None:
    """The crop's 2D labels, sent back through its homography, are the file's own pixels."""
    data = module(shared / "data" / "mpi_inf_3dhp", skeleton="mpi_inf_3dhp_17")
    people, crops = data.people("test"), data.crops("test")
    for index in range(2):
        row = crops[index]
        back = apply_homography(row["crop_to_image"], row["joints2d"]).numpy()
        assert np.linalg.norm(back - people.joints2d[index], axis=1).mean() < 0.45
        assert row["valid3d"].all()
    # Her face is towards the camera in TS1: the right shoulder is left of the left one.
    names = [MPI_INF_3DHP_17.index(f"{side}_shoulder") for side in "rl"]
    right, left = (crops[0]["joints2d"][name, 0] for name in names)
    assert right < left


@pytest.mark.shared_data
def test_the_pixels_under_the_crop_are_those_of_the_image(shared: Path) -> None:
    data = module(shared / "data" / "mpi_inf_3dhp", skeleton="mpi_inf_3dhp_17", image_size=256)
    crops, people = data.crops("test"), data.people("test")
    row, image = crops[0], np.asarray(people.read(0).image).astype(float)
    for joint in ("l_shoulder", "pelvis", "l_knee"):
        u, v = (round(float(x)) for x in row["joints2d"][MPI_INF_3DHP_17.index(joint)])
        x, y = apply_homography(row["crop_to_image"], torch.tensor([[float(u), float(v)]]))[0].tolist()
        patch = image[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4].mean((0, 1))
        np.testing.assert_allclose(row["image"][:, v, u], patch, atol=12)


@pytest.mark.shared_data
def test_the_official_mimic_agrees_with_the_other_layout(shared: Path) -> None:
    people = module(shared / OFFICIAL, train_subjects=["S4"], labels="annot3", **EVERY_FRAME).people("train")
    assert len(people) == 1  # of 3 frames and 8 views, one has an image
    assert people.skeleton is MUCO21
    assert "23 frames without an image" in people.report()
    assert "1 without a folder (S4/Seq1)" in people.report()
    assert misfits(people)[0] < 0.05
    with np.load(shared / "data" / "mpi_inf_3dhp" / "mpi_inf_3dhp_samples.npz") as data:
        np.testing.assert_allclose(people.joints3d[0, :17], data["joints_cam_mm"][0], atol=2e-3)
    sample = people.read(0)
    assert sample.image is not None
    assert sample.image.shape == (2048, 2048, 3)
    test = module(shared / OFFICIAL, labels="annot3").people("test")
    assert test.frame.tolist() == [2, 3]
    assert [ACTIVITIES[action] for action in test.action] == ["Stand/Walk", "Exercise"]
    assert max(misfits(test)) < 0.35
    assert "1 of 2 images are missing" in test.report()


@pytest.mark.shared_data
def test_the_calibrations_of_both_layouts_are_the_same(shared: Path) -> None:
    from posezoo.data.layouts.mpi_inf_3dhp_mmpose import read_mmpose_cameras

    text = read_calibration(shared / OFFICIAL / "S4" / "Seq2" / "camera.calibration")
    pickled = read_mmpose_cameras(shared / "data" / "mpi_inf_3dhp", "train")
    for number in (0, 1, 2, 4, 5, 6, 7, 8):
        camera, size = text[number]
        other = pickled[f"S4_Seq2_Cam{number}"]
        assert size == (2048, 2048)
        for name in ("intrinsics", "rotation", "translation"):
            torch.testing.assert_close(
                getattr(camera, name), getattr(other, name), atol=5e-3, rtol=1e-6
            )  # printed with 6 digits


# --------------------------------------------------------------------------------------------- selection


def test_joint_names_are_those_of_the_release() -> None:
    """Its subset "relevant" is 7, 5, 14, ... and "extended" adds the hands and toes 17, 12, 27, 22."""
    relevant = [7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6]
    assert [JOINTS_28[place] for place in relevant] == list(MPI_INF_3DHP_17.joints)
    assert [JOINTS_28[place] for place in (17, 12, 27, 22)] == list(MUCO21.joints[17:])
    assert list(JOINTS_28) == HELPER_JOINTS


def test_a_training_frame_has_the_labels_of_its_row(tmp_path: Path) -> None:
    root = write_train(tmp_path, cameras=(0, 2))
    people = module(root, labels="annot3", **EVERY_FRAME).people("train")
    assert len(people) == 6
    assert [people.meta(index)["sequence"] for index in (0, 5)] == ["S1 Seq1 camera 0", "S1 Seq1 camera 2"]
    assert people.path(4) == root / "S1/Seq1/imageSequence/img_2_000002.jpg"
    wanted = person(300, 3200)[[HELPER_JOINTS.index(name) for name in MUCO21.joints]]
    np.testing.assert_allclose(people.joints3d[4], wanted, rtol=1e-5, atol=1e-3)
    assert people.valid3d.all()
    batch = next(iter(module(root, **EVERY_FRAME).train_dataloader()))
    assert batch["has_camera"].all()
    assert batch["valid3d"].any(1).all()


def test_only_the_chosen_frames_are_taken(tmp_path: Path) -> None:
    places = tuple((20.0 * n, 3000.0) for n in range(20))
    root = write_train(tmp_path, places=places)
    frames = lambda **keywords: (module(root, **keywords).people("train").frame - 1).tolist()  # noqa: E731
    assert frames(frame_step=1, min_motion=0) == list(range(20))
    assert frames(frame_step=5, min_motion=0) == [0, 5, 10, 15]
    assert frames(frame_step=1, min_motion=100) == [0, 5, 10, 15]
    assert frames(frame_step=2, min_motion=100) == [0, 6, 12, 18]
    poses = np.zeros((4, 2, 3))
    poses[1:, 0, 2] = [60, 120, 130]
    assert moving(poses, np.arange(4), 100).tolist() == [0, 2]


def test_people_who_leave_the_image_are_kept_only_if_wanted(tmp_path: Path) -> None:
    root = write_train(tmp_path, places=((0, 3000), (1200, 3000)))
    assert len(module(root, **EVERY_FRAME).people("train")) == 1
    people = module(root, whole_body=False, **EVERY_FRAME).people("train")
    assert len(people) == 2
    assert people.valid3d.all()


def test_frames_may_be_extracted_in_other_ways(tmp_path: Path) -> None:
    root = write_train(tmp_path)
    folder = root / "S1" / "Seq1"
    for number in (1, 2, 3):
        old = folder / "imageSequence" / f"img_0_{number:06d}.jpg"
        new = folder / "imageFrames" / "video_0" / f"frame_{number:06d}.jpg"
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
    people = module(root, **EVERY_FRAME).people("train")
    assert len(people) == 3
    assert people.path(2).is_file()


def test_universal_people_project_where_the_true_ones_do(tmp_path: Path) -> None:
    """The release's `univ_annot3` is another size at the same place, which projects beside `annot2`."""
    root = write_train(tmp_path, taller=1.25)
    metric = module(root, labels="annot3", **EVERY_FRAME).people("train")
    universal = module(root, **EVERY_FRAME).people("train")
    assert max(misfits(universal)) < 1e-3
    size = [np.linalg.norm(p.joints3d[:, 0] - p.joints3d[:, 14], axis=1) for p in (metric, universal)]
    np.testing.assert_allclose(size[0] / size[1], 1.25, rtol=1e-5)
    np.testing.assert_allclose(universal.joints3d * 1.25, metric.joints3d, rtol=1e-4, atol=0.01)
    assert module(root).annotation("train") == get_protocol("mpi_inf_3dhp").annotation
    assert module(root, labels="annot3").annotation("train") == get_protocol("mpi_inf_3dhp_metric").annotation


def test_s8_validates_and_subjects_stay_whole(tmp_path: Path) -> None:
    for subject in ("S1", "S8"):
        write_train(tmp_path, subject)
    data = MPIINF3DHP(str(tmp_path), num_workers=0, image_size=64, **EVERY_FRAME)
    assert data.people("train").subjects == ("S1",)
    assert data.people("val").subjects == ("S8",)
    assert "13 without a folder" in data.people("train").report()
    groups = data.people("train").groups()
    assert groups is not None
    assert groups[1] == ("S1",)


# ------------------------------------------------------------------------------------------------ test set


def test_only_valid_test_frames_are_scored(tmp_path: Path) -> None:
    data = module(write_test_set(tmp_path, frames=4))
    people = data.people("test")
    assert people.frame.tolist() == [1, 2, 3]
    assert people.action.tolist() == [0, 1, 2]
    assert data.action_names()[2] == "Sit on Chair"
    np.testing.assert_allclose(people.cameras.intrinsics[0], [[1500, 0, 1024], [0, 1500, 1024], [0, 0, 1]], rtol=1e-4)
    assert max(misfits(people)) < 0.01
    records = people.records()
    assert records.subject.tolist() == ["TS1"] * 3
    assert records.frame.tolist() == [0, 1, 2]
    assert data.people("val") is people  # without subjects to validate on
    assert data.protocol("test") == "MPI-INF-3DHP, protocol none: TS1, universal skeleton; n=3, not a benchmark"
    batch = next(iter(data.test_dataloader()))
    assert batch["sequence"].tolist() == [0, 0]


def test_all_six_sequences_are_the_benchmark(tmp_path: Path) -> None:
    for number in range(1, 7):
        write_test_set(tmp_path, f"TS{number}", frames=2, size=(1920, 1080) if number > 4 else (2048, 2048))
    data = module(tmp_path, protocol="mpi_inf_3dhp")
    assert data.protocol("test").startswith("MPI-INF-3DHP test set, TS1 to TS6, 6 valid frames, universal skeleton")
    people = data.people("test")
    assert [people.size(index) for index in (0, 5)] == [(2048, 2048), (1920, 1080)]
    data.setup("test")
    with pytest.raises(PoseZooError, match="mpi_inf_3dhp_metric is defined on the labels 'annot3'"):
        module(tmp_path, protocol="mpi_inf_3dhp_metric").setup("test")


def test_the_outdoor_lens_is_used_if_asked_for(tmp_path: Path) -> None:
    for name in ("TS1", "TS5"):
        write_test_set(tmp_path, name, frames=2, size=(2048, 2048) if name == "TS1" else (1920, 1080))
    plain, bent = (module(tmp_path, lens_distortion=bend).people("test") for bend in (False, True))
    assert plain.cameras.distortion_model.tolist() == [0, 0]
    np.testing.assert_allclose(bent.cameras.distortion[1, :5], OUTDOOR_DISTORTION, rtol=1e-6)
    assert bent.valid2d.any(1).tolist() == [True, False]  # its 2D labels are made without it
    assert bent.valid3d.all()


def test_a_camera_is_found_from_labels() -> None:
    points = np.stack([person(100 * n) for n in range(3)])
    pixels = points[..., :2] / points[..., 2:] * np.array([1500.0, 1501.0]) + np.array([1000.0, 1040.0])
    focal, centre = fit_pinhole(points, pixels, np.ones((3, 28), bool))
    np.testing.assert_allclose([*focal, *centre], [1500, 1501, 1000, 1040], rtol=1e-9)
    with pytest.raises(ValueError, match="too few"):
        fit_pinhole(points, pixels, np.zeros((3, 28), bool))
    with pytest.raises(ValueError, match="no camera projects"):
        fit_pinhole(points, -pixels, np.ones((3, 28), bool))


# -------------------------------------------------------------------------------------------------- mmpose


@pytest.fixture
def mmpose(shared: Path, tmp_path: Path) -> Path:
    source = shared / "data" / "mpi_inf_3dhp"
    shutil.copytree(source / "annotations", tmp_path / "annotations")
    for path in (tmp_path / "annotations").iterdir():
        path.chmod(0o644)
    (tmp_path / "images").symlink_to(source / "images")
    return tmp_path


@pytest.mark.shared_data
def test_mmpose_has_no_universal_labels(mmpose: Path) -> None:
    data = module(mmpose, train_subjects=["S4"])
    assert data.annotation("test") == get_protocol("mpi_inf_3dhp_metric").annotation
    assert data.protocol("train") == "MPI-INF-3DHP, protocol none: S4, metric skeleton; n=1, not a benchmark"
    with pytest.raises(PoseZooError, match=r"labels annot3 only: set --data\.labels annot3"):
        module(mmpose, labels="univ_annot3").people("test")
    with pytest.raises(PoseZooError, match=r"has S4, but none of S1 in cameras 0, 1.*set --data\.train_subjects"):
        module(mmpose).people("train")


@pytest.mark.shared_data
def test_joints_of_nan_are_unlabelled(mmpose: Path) -> None:
    path = mmpose / "annotations" / "mpi_inf_3dhp_test_valid.npz"
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    arrays["S"][0, 3, 1] = np.nan
    np.savez(path, **arrays)
    people = module(mmpose).people("test")
    assert people.valid3d.sum(1).tolist() == [16, 17]
    assert np.isfinite(people.joints3d).all()


# ------------------------------------------------------------------------------------------------ mistakes


def _change_annot(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / "S1" / "Seq1" / "annot.mat"
        content = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
        change(content)
        savemat(path, content)

    return spoil


def _other_joints(content: dict[str, Any]) -> None:
    content["annot3"][0, 0] = content["annot3"][0, 0][:, :51]


def _elsewhere(content: dict[str, Any]) -> None:
    content["annot3"][0, 0] = content["annot3"][0, 0] + np.tile([900.0, 0, 0], 28)


ANNOT, CAMERAS = "S1/Seq1/annot.mat", "S1/Seq1/camera.calibration"
MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no labels": (lambda root: (root / ANNOT).unlink(), r"There is no file .*annot\.mat: get it from the MPI-INF-3DHP"),
    "no cameras": (lambda root: (root / CAMERAS).unlink(), r"No cameras at .*camera\.calibration: get it"),
    "no frames": (lambda root: shutil.rmtree(root / "S1/Seq1/imageSequence"), r"no training frames of S1 .*24 frames "),
    "half a download": (
        lambda root: (root / ANNOT).write_bytes((root / ANNOT).read_bytes()[:2000]),
        r"annot\.mat cannot be read \(.*\): get it",
    ),
    "cut cameras": (
        lambda root: (root / CAMERAS).write_text(calibration()[:300]),
        r"camera\.calibration is not a calibration of MPI-INF-3DHP",
    ),
    "too few cameras": (
        lambda root: (root / CAMERAS).write_text(calibration(range(1, 14))),
        r"camera\.calibration lacks camera 0",
    ),
    "another skeleton": (_change_annot(_other_joints), r"annot3 of camera 0 of shape \(3, 51\), expected \(frames, 84"),
    "no cells": (_change_annot(lambda c: c.update(annot2=np.ones((3, 56)))), "another kind than a cell for each"),
    "no univ_annot3": (_change_annot(lambda c: c.pop("univ_annot3")), r"holds .*, not 'univ_annot3'"),
    "other poses": (_change_annot(_elsewhere), r"camera 0: the 3D labels project \d+ px away from the 2D labels"),
    "other size": (
        lambda root: write_picture(
            root / "S1/Seq1/imageSequence/img_0_000001.jpg", np.zeros((32, 32, 3), np.uint8)
        ),
        rf"img_0_000001\.jpg is 32 x 32 px, but its labels and camera are for {SIDE} x {SIDE} px",
    ),
}  # fmt: skip


def read_all(root: Path) -> None:
    crops = module(root, **EVERY_FRAME).crops("train")
    for index in range(len(crops)):
        crops[index]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_damaged_training_files_are_one_clear_sentence(mistake: str, tmp_path: Path) -> None:
    root = write_train(tmp_path / "data")
    spoil, sentence = MISTAKES[mistake]
    spoil(root)
    with pytest.raises(PoseZooError, match=sentence) as error:
        read_all(root)
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


def test_videos_without_frames_are_named(tmp_path: Path) -> None:
    root = write_train(tmp_path, cameras=())
    (root / "S1" / "Seq1" / "imageSequence" / "video_0.avi").write_bytes(b"")
    with pytest.raises(PoseZooError, match=r"3 frames only as video .*take them out with `posezoo prepare"):
        module(root, cameras=[0], **EVERY_FRAME).people("train")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"labels": "annot2"}, r"--data\.labels is univ_annot3, annot3 or null, got 'annot2'"),
        ({"train_subjects": ["S9"]}, r"--data\.train_subjects has no subject 'S9': choose from S1, S2"),
        ({"val_subjects": ["S1"]}, r"both have S1: leave them to one"),
        ({"cameras": [14]}, r"--data\.cameras must be some of 0 to 13"),
        ({"frame_step": 0}, r"--data\.frame_step must be at least 1"),
        ({"min_motion": -1}, r"--data\.min_motion must not be negative"),
        ({"root": None}, r"does not know where its files are: set --data\.root"),
        ({"root": "/nowhere"}, r"There is no folder /nowhere"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        MPIINF3DHP(**{"root": str(tmp_path), **arguments}).people("train")


def test_another_folder_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match="holds neither layout of MPI-INF-3DHP"):
        module(tmp_path).people("train")
    write_train(tmp_path)
    with pytest.raises(PoseZooError, match=r"no test sequences \(TS1 ... TS6\)"):
        module(tmp_path).people("test")
    with pytest.raises(PoseZooError, match="ImageFolder"):
        module(tmp_path).people("predict")


def test_most_images_missing_is_refused_at_once(tmp_path: Path) -> None:
    root = write_test_set(tmp_path, frames=3)
    shutil.rmtree(root / "TS1" / "imageSequence")
    with pytest.raises(PoseZooError, match=r"No image at .*img_000001\.jpg, nor 1 others of 2"):
        module(root).people("test")


# ------------------------------------------------------------------------------------------------- fuzzing


@pytest.mark.parametrize("file", ["annot.mat", "camera.calibration"])
def test_damaged_files_of_the_release(file: str, tmp_path: Path) -> None:
    root = write_train(tmp_path)
    path = root / "S1" / "Seq1" / file
    assert survive(path, 250, lambda: module(root, cameras=[0], **EVERY_FRAME).people("train")) > 30


def test_damaged_test_labels(tmp_path: Path) -> None:
    root = write_test_set(tmp_path)
    assert survive(root / "TS1" / "annot_data.mat", 250, lambda: module(root).people("test")) > 30


@pytest.mark.shared_data
@pytest.mark.parametrize("file", ["mpi_inf_3dhp_test_valid.npz", "cameras_test.pkl"])
def test_damaged_files_of_mmpose(file: str, mmpose: Path) -> None:
    assert survive(mmpose / "annotations" / file, 250, lambda: module(mmpose).people("test")) > 30
