"""Human3.6M in mmpose's layout, on three real frames read in place."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posezoo.data import Human36M
from posezoo.data.human36m import ACTIONS, Human36MPeople
from posezoo.data.layouts.human36m_cameras import find_cameras, read_cameras
from posezoo.errors import PoseZooError
from posezoo.skeletons import H36M17

pytestmark = pytest.mark.shared_data
Annotations = dict[str, np.ndarray]


@pytest.fixture
def h36m(shared: Path) -> Path:
    return shared / "data" / "h36m"


@pytest.fixture
def truth(h36m: Path) -> Annotations:
    with np.load(h36m / "h36m_samples.npz") as data:
        return {key: data[key] for key in data.files}


@pytest.fixture
def copy(h36m: Path, tmp_path: Path) -> Path:
    """A dataset whose files a test may change: annotations copied, images linked."""
    for name in ("cameras.pkl", "fps50/h36m_test.npz"):
        target = tmp_path / "annotation_body3d" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(h36m / "annotation_body3d" / name, target)
    (tmp_path / "images").symlink_to(h36m / "images")
    return tmp_path


def rewrite(root: Path, change: Callable[[Annotations], None], file: str = "h36m_test.npz") -> None:
    folder = root / "annotation_body3d" / "fps50"
    with np.load(folder / "h36m_test.npz") as data:
        arrays = {key: data[key] for key in data.files}
    change(arrays)
    np.savez(folder / file, **arrays)  # type: ignore[arg-type]


def module(root: Path, **keywords: Any) -> Human36M:
    return Human36M(str(root), **{"num_workers": 0, "batch_size": 3, "image_size": 64, **keywords})


# ------------------------------------------------------------------------------------------------- contents


def test_labels_are_millimetres_of_the_camera_frame_and_reproject(h36m: Path, truth: Annotations) -> None:
    people = module(h36m).people("test")
    assert len(people) == 3
    for index in range(3):
        sample = people.read(index)
        row = [str(path).removeprefix("images/") for path in truth["image_path"]].index(people.image[index].decode())
        assert sample.image is not None
        assert sample.camera is not None
        assert sample.joints3d is not None
        assert sample.valid3d is not None
        assert sample.valid3d.all()
        assert sample.size == tuple(truth["image_size_wh"][row]) == sample.image.shape[1::-1]
        np.testing.assert_allclose(sample.joints3d, truth["joints_cam_mm"][row], atol=2e-3)
        pixels = sample.camera.project(torch.as_tensor(sample.joints3d)).numpy()
        np.testing.assert_allclose(pixels, truth["joints_px"][row], atol=1e-3)
        np.testing.assert_allclose(sample.joints2d, truth["joints_px"][row], atol=1e-3)
        world = sample.camera.camera_to_world(torch.as_tensor(sample.joints3d)).numpy()
        np.testing.assert_allclose(world, truth["joints_world_mm"][row], atol=5e-3)


def test_names_are_read_from_the_file_names(h36m: Path, truth: Annotations) -> None:
    data = module(h36m)
    meta = [data.meta(index) for index in range(3)]
    assert [m["subject"] for m in meta] == list(truth["subject"])
    assert [m["action"] for m in meta] == list(truth["action"])
    assert [m["scene"] for m in meta] == list(truth["subaction"])
    assert [m["camera"] for m in meta] == list(truth["camera"])
    assert [m["frame"] for m in meta] == list(truth["frame"])
    assert all(Path(m["path"]).is_file() for m in meta)
    batch = next(iter(data.test_dataloader()))
    assert batch["frame"].tolist() == list(truth["frame"])
    assert [data.action_names()[i] for i in batch["action"]] == list(truth["action"])
    assert len(set(batch["sequence"].tolist())) == 3
    assert batch["has_camera"].all()
    assert batch["distortion_model"].tolist() == [2, 2, 2]
    assert len(ACTIONS) == 15


def test_boxes_are_tight_squares_unless_the_margin_is_wanted(h36m: Path, truth: Annotations) -> None:
    tight, loose = module(h36m).people("test"), module(h36m, box_scale=1.0).people("test")
    size = truth["bbox_xywh"][:, 2:]
    side = np.maximum(size[:, 0], size[:, 1])
    np.testing.assert_allclose(tight.boxes[:, 2:], np.stack([side, side], 1), rtol=1e-5)
    np.testing.assert_allclose(loose.boxes[:, 2:], 1.2 * tight.boxes[:, 2:], rtol=1e-5)
    middle = [p.boxes[:, :2] + p.boxes[:, 2:] / 2 for p in (tight, loose)]
    np.testing.assert_allclose(middle[0], middle[1], atol=1e-3)
    np.testing.assert_allclose(middle[0], truth["bbox_xywh"][:, :2] + size / 2, atol=1e-3)
    inside = (truth["joints_px"] - tight.boxes[:, None, :2]) / tight.boxes[:, None, 2:]
    assert inside.min() > -1e-4
    assert inside.max() < 1 + 1e-4


def test_splits_come_from_their_files(copy: Path) -> None:
    rewrite(copy, lambda arrays: arrays.update({k: v[:2] for k, v in arrays.items()}), "h36m_train.npz")
    data = module(copy, batch_size=2)
    data.setup("fit")
    assert [len(data.people(split)) for split in ("train", "val", "test")] == [2, 3, 3]
    assert data.people("val") is data.people("test")
    batch = next(iter(data.train_dataloader()))
    assert batch["valid3d"].all()
    pose = data.mean_pose()
    assert pose is not None
    assert pose[0].norm() == 0
    assert 200 < pose[H36M17.index("neck")].norm() < 700


def test_arrays_hold_everything(h36m: Path) -> None:
    """Loader processes must not copy an object per sample."""
    people = module(h36m).people("test")
    per_sample = [value for value in vars(people).values() if hasattr(value, "__len__") and len(value) == len(people)]
    assert all(isinstance(value, np.ndarray | tuple) for value in per_sample)
    assert {value.dtype.kind for value in per_sample if isinstance(value, np.ndarray)} <= set("SfbI" + "i")
    assert isinstance(pickle.loads(pickle.dumps(people)), Human36MPeople)


def test_labels_can_be_had_without_opening_images(h36m: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = module(h36m).people("test")
    with_image = people.read(1)
    monkeypatch.setattr("posezoo.data.human36m.open_image", lambda path: pytest.fail("opened an image"))
    sample = people.read_labels(1)
    assert sample.image is None
    assert np.array_equal(sample.box, with_image.box)
    assert np.array_equal(sample.joints3d, with_image.joints3d)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- protocol


def test_three_training_frames_are_no_benchmark(h36m: Path) -> None:
    assert module(h36m).protocol("test") == "Human3.6M, protocol none: subjects S1, S5, S8; n=3, not a benchmark"


def _rename(subjects: list[str]) -> Callable[[Annotations], None]:
    def change(arrays: Annotations) -> None:
        old = arrays["imgname"]
        arrays["imgname"] = np.array([n.replace(n[:2], s) for s, n in zip(subjects, old, strict=True)])
        # Other subjects' cameras would not fit these labels: their 2D labels are left out.
        arrays["part"][..., 2] = 0

    return change


@pytest.mark.parametrize("skeleton", ["h36m17", "hemlets18", "mpi_inf_3dhp_17"])
def test_s9_and_s11_are_the_benchmark(copy: Path, skeleton: str) -> None:
    rewrite(copy, _rename(["S9", "S11", "S9"]))
    joints = {"h36m17": 17, "hemlets18": 18, "mpi_inf_3dhp_17": 16}[skeleton]  # Human3.6M has no "head"
    assert module(copy, skeleton=skeleton).protocol("test") == (
        f"Human3.6M, S9 and S11, 3 frames, MPJPE over {joints} joints, pelvis-aligned, mean over frames"
    )


@pytest.mark.parametrize("subjects", [["S9", "S9", "S9"], ["S11", "S9", "S8"]])
def test_any_other_subjects_are_not(copy: Path, subjects: list[str]) -> None:
    rewrite(copy, _rename(subjects))
    line = module(copy).protocol("test")
    assert line.startswith("Human3.6M, protocol none: subjects S")
    assert line.endswith("; n=3, not a benchmark")
    assert module(copy).people("test").subjects in {("S9",), ("S8", "S9", "S11")}


# ------------------------------------------------------------------------------------------------- cameras


@pytest.mark.parametrize(
    "file", ["annotation_body3d/cameras.json", "Release-v1.2/metadata.xml", "camera-parameters.json"]
)
def test_all_camera_files_say_the_same(h36m: Path, file: str) -> None:
    """R of mmpose's pickle is camera to world, that of all others world to camera."""
    pickled, other = read_cameras(h36m / "annotation_body3d" / "cameras.pkl"), read_cameras(h36m / file)
    assert pickled.keys() == other.keys()
    assert len(pickled) == 44
    for key, (camera, size) in pickled.items():
        assert size == other[key][1]
        for name in ("intrinsics", "distortion", "rotation", "translation"):
            torch.testing.assert_close(getattr(camera, name), getattr(other[key][0], name), atol=1e-3, rtol=1e-6)
        assert torch.linalg.det(camera.rotation) == pytest.approx(1, abs=1e-5)


def test_mmposes_cameras_come_first(h36m: Path, tmp_path: Path) -> None:
    assert find_cameras(tmp_path) is None
    shutil.copy(h36m / "Release-v1.2" / "metadata.xml", tmp_path)
    assert find_cameras(tmp_path)[0].name == "metadata.xml"  # type: ignore[index]
    found = find_cameras(h36m)
    assert found is not None
    assert found[0].name == "cameras.pkl"


class _Evil:
    def __reduce__(self) -> Any:
        return print, ("this must not run",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_camera_file_cannot_run_code(copy: Path, protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "annotation_body3d" / "cameras.pkl"
    path.write_bytes(pickle.dumps({("S1", "54138969"): _Evil()}, protocol=protocol))
    with pytest.raises(PoseZooError, match=r"(__builtin__|builtins)\.print, which arrays do not need"):
        module(copy).setup("test")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_camera_files_of_any_pickle_protocol_are_read(copy: Path, protocol: int, h36m: Path) -> None:
    text = json.loads((h36m / "annotation_body3d" / "cameras.json").read_text())
    entries = {}
    for subject, views in text.items():
        for serial, view in views.items():
            entry = {key: np.array(view[key]).reshape(-1, 1) for key in "fckp"} | {
                "w": view["w"],
                "h": np.int64(view["h"]),
            }
            entry |= {"R": np.array(view["R_w2c"]).T, "T": np.array(view["cam_center_mm"]).reshape(3, 1) / 1000}
            entries[subject, serial] = entry
    (copy / "annotation_body3d" / "cameras.pkl").write_bytes(pickle.dumps(entries, protocol=protocol))
    module(copy).setup("test")


# ------------------------------------------------------------------------------------------------- mistakes


def _break(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / name
        path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)

    return change


def _change(key: str, value: Any) -> Callable[[Path], None]:
    def change(arrays: Annotations) -> None:
        arrays[key] = value(arrays[key])

    return lambda root: rewrite(root, change)


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: root.joinpath(name).write_bytes(content) and None


def _drop_cameras(root: Path) -> None:
    path = root / "annotation_body3d" / "cameras.pkl"
    entries = {key: value for key, value in pickle.loads(path.read_bytes()).items() if key[0] != "S5"}
    path.write_bytes(pickle.dumps(entries))


NPZ, PKL = "annotation_body3d/fps50/h36m_test.npz", "annotation_body3d/cameras.pkl"
MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no images": (_break("images"), r"has no folder 'images': set --data\.root"),
    "no annotations": (
        _break("annotation_body3d"),
        r"is no folder of Human3\.6M: it has images, but none of",
    ),
    "no file": (_break(NPZ), r"No annotations at .*h36m_test\.npz: make them with mmpose's preprocess_h36m\.py"),
    "no cameras": (_break(PKL), r"No cameras at .*cameras\.pkl \(or cameras\.json\)"),
    "a camera lacks": (_drop_cameras, r"lack camera 54138969 of S5"),
    "damaged npz": (_write(NPZ, b"PK\x03\x04 nothing"), r"h36m_test\.npz cannot be read"),
    "empty npz": (_write(NPZ, b""), r"h36m_test\.npz cannot be read"),
    "damaged pickle": (_write(PKL, b"\x80\x03 no"), r"cameras\.pkl is not a camera file of Human3\.6M"),
    "another skeleton": (_change("S", lambda s: s[:, :14]), r"'S' of shape \(3, 14, 4\), expected \(3, 17, 4\)"),
    "other names": (_change("imgname", lambda n: np.array(["a.jpg"] * 3)), "names the image 'a.jpg'"),
    "unknown action": (
        _change("imgname", lambda n: np.char.replace(n, "WalkDog", "WalkDgo")),
        r"frames of 'WalkDgo', which is no action of Human3\.6M: did you mean WalkDog",
    ),
    "world coordinates": (_change("S", lambda s: s + np.array([1, 0, 0, 0])), "px away from its 2D labels"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_folder_is_one_clear_sentence(mistake: str, copy: Path) -> None:
    spoil, sentence = MISTAKES[mistake]
    spoil(copy)
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(copy).setup("test")
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)


def test_no_or_a_wrong_root_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"set --data\.root to the folder with images"):
        Human36M().setup("test")
    with pytest.raises(PoseZooError, match=r"There is no folder .*nowhere: set --data\.root"):
        module(tmp_path / "nowhere").setup("test")
    with pytest.raises(PoseZooError, match=r"--data\.box_scale must be positive"):
        module(tmp_path, box_scale=0)


def test_there_is_nothing_to_predict(h36m: Path) -> None:
    with pytest.raises(PoseZooError, match="ImageFolder"):
        module(h36m).setup("predict")


def test_the_sample_has_no_training_file_and_says_where_it_should_be(h36m: Path) -> None:
    with pytest.raises(PoseZooError, match=r"No annotations at .*fps50/h36m_train\.npz"):
        module(h36m).setup("fit")


def test_a_missing_image_is_named(copy: Path) -> None:
    (copy / "images").unlink()
    (copy / "images").mkdir()
    with pytest.raises(PoseZooError, match=r"No image at .*S1_Directions_1\..*_000001\.jpg, nor of 2 others of 3"):
        module(copy).setup("test")
    for name in module(copy).people("test").image:
        (copy / "images" / name.decode()).parent.mkdir(parents=True)
    data = module(copy)
    data.setup("test")
    with pytest.raises(PoseZooError, match=r"No image at .*S1_Directions_1\.54138969_000001\.jpg"):
        next(iter(data.test_dataloader()))
