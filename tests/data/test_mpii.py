"""MPII: three real people in three layouts, counting from 1, head sizes, boxes, and files that are something else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from bad_input_helpers import survive
from scipy.io import savemat

from posezoo.data import MPII
from posezoo.data.crop import CropDraw, CropSpec, crop_camera, make_labels
from posezoo.data.mpii import OFFICIAL, MPIIPeople, open_people
from posezoo.errors import PoseZooError
from posezoo.metrics.protocols import get_protocol
from posezoo.skeletons import MPII16

NAMES = ("a.jpg", "b.jpg", "c.jpg")
LAYOUTS = ("json", "h5", "mat")


def labels(count: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1-based joints [N, 16, 2], positions and scales; the second person lacks joint 5."""
    joints = np.random.default_rng(0).integers(20, 80, (count, 16, 2)).astype(float)
    joints[1:2, 5] = np.nan
    return joints, np.array([[50.0 + n, 45.0] for n in range(count)]), 0.25 + 0.05 * np.arange(count)


def write(root: Path, layout: str, split: str = "train") -> Path:
    """The same three people in each of the layouts."""
    joints, position, scale = labels()
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "annot").mkdir(exist_ok=True)
    for number, name in enumerate(NAMES):
        cv2.imwrite(str(root / "images" / name), np.full((90, 100, 3), 20 * number, np.uint8))
    known = ~np.isnan(joints).any(-1)
    name = {"train": "train", "val": "valid"}[split]
    if layout == "json":
        rows = [
            {
                "image": NAMES[n],
                "joints": np.where(known[n, :, None], joints[n], -1).tolist(),
                "joints_vis": known[n].astype(int).tolist(),
                "center": position[n].tolist(),
                "scale": float(scale[n]),
            }
            for n in range(3)
        ]
        (root / "annot" / f"{name}.json").write_text(json.dumps(rows))
    elif layout == "h5":
        with h5py.File(root / "annot" / f"{name}.h5", "w") as file:
            file["part"] = np.where(known[..., None], joints, 0)
            file["center"] = position + np.stack([0 * scale, 15 * scale], 1)
            file["scale"], file["normalize"] = 1.25 * scale, 25 * scale
            file["index"], file["person"] = np.arange(3.0), np.zeros(3)
        (root / "annot" / f"{name}_images.txt").write_text("\n".join(NAMES) + "\n")
    else:
        savemat(root / OFFICIAL, {"RELEASE": release(joints, position, scale)})
    return root


def release(joints: np.ndarray, position: np.ndarray, scale: np.ndarray) -> dict[str, Any]:
    """The RELEASE struct; heads are squares whose diagonal gives a head size of 25 px times the scale."""
    images = np.zeros(len(joints) + 1, [("image", "O"), ("annorect", "O"), ("frame_sec", "O"), ("vididx", "O")])
    for n in range(len(joints)):
        points = [
            {"x": x, "y": y, "id": float(j), "is_visible": []} for j, (x, y) in enumerate(joints[n]) if not np.isnan(x)
        ]
        table = np.array([tuple(p.values()) for p in points], [(key, "O") for key in points[0]])
        side = 25 * scale[n] / 0.6 / np.sqrt(2)
        head = {"x1": 30.0, "y1": 20.0, "x2": 30 + side, "y2": 20 + side}
        x, y = position[n]
        rect = head | {"annopoints": {"point": table}, "scale": scale[n], "objpos": {"x": x, "y": y}}
        images[n] = {"name": NAMES[n]}, rect, [], []
    images[-1] = {"name": "test.jpg"}, [], [], []
    flags = np.array([1] * len(joints) + [0], np.uint8)
    return {"annolist": images, "img_train": flags, "version": "12", "video_list": []}


def module(root: Path, **keywords: Any) -> MPII:
    return MPII(str(root), **{"num_workers": 0, "batch_size": 2, "image_size": 64, **keywords})


# ------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_give_the_same_people_counted_from_zero(layout: str, tmp_path: Path) -> None:
    joints, position, scale = labels()
    people = module(write(tmp_path, layout)).people("train")
    known = ~np.isnan(joints).any(-1)
    assert people.valid2d.tolist() == known.tolist()
    np.testing.assert_allclose(people.joints2d[known], joints[known] - 1, atol=1e-4)
    np.testing.assert_allclose(people.head_sizes(), 25 * scale, rtol=1e-5)
    side = 250 * scale
    np.testing.assert_allclose(people.boxes[:, 2:], np.stack([side, side], 1), rtol=1e-5)
    middle = people.boxes[:, :2] + people.boxes[:, 2:] / 2
    np.testing.assert_allclose(middle, position - 1 + np.stack([0 * scale, 15 * scale], 1), atol=1e-3)
    assert [Path(people.meta(n)["path"]).name for n in range(3)] == list(NAMES)
    assert people.meta(1)["head_size"] == pytest.approx(25 * scale[1])
    assert "3 people in 3 images; left out: nothing" in people.report()
    assert not people.joints2d[~people.valid2d].any()


@pytest.mark.shared_data
def test_the_three_real_people(shared: Path, tmp_path: Path) -> None:
    """mmpose's json, pose-hg-train's h5 and the official struct; the h5 has whole pixels only."""
    (tmp_path / "annot").mkdir()
    (tmp_path / "images").symlink_to(shared / "data" / "mpii" / "images")
    for name in ("valid.h5", "valid_images.txt"):
        shutil.copy(shared / "data" / "mpii" / "annot" / name, tmp_path / "annot")
    shutil.copy(shared / "data" / "format_mimics" / "mpii_official" / OFFICIAL, tmp_path)
    found = [
        open_people(shared / "data" / "mpii", "val"),
        open_people(tmp_path, "val"),
        open_people(tmp_path, "train"),
    ]
    first = found[0]
    assert [Path(first.meta(n)["path"]).name for n in range(3)] == ["005808361.jpg", "051423444.jpg", "060754485.jpg"]
    for other in found[1:]:
        assert np.array_equal(first.valid2d, other.valid2d)
        np.testing.assert_allclose(first.joints2d, other.joints2d, atol=1)
        np.testing.assert_allclose(first.boxes, other.boxes, atol=1e-2)
        np.testing.assert_allclose(first.head_size, other.head_size, rtol=1e-6)
    np.testing.assert_array_equal(first.joints2d, found[2].joints2d)
    assert first.joints2d[0, MPII16.index("r_ankle")].tolist() == [803, 710]  # 804, 711 in the file
    assert first.valid2d[1].tolist() == [False, True, True, True, True, False] + [True] * 10


@pytest.mark.shared_data
def test_left_and_right_of_the_real_people(shared: Path) -> None:
    """060754485 is seen from behind, with the right arm on the left side of the image; so are its hips."""
    people = open_people(shared / "data" / "mpii", "val")
    x = {name: people.joints2d[2, MPII16.index(name), 0] for name in MPII16.joints}
    assert all(x[f"r_{part}"] < x[f"l_{part}"] for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"))


def test_landmarks_follow_the_crop_by_hand(tmp_path: Path) -> None:
    """The middle of the box is the middle of the crop; 200 px times scale times 1.25 fill it."""
    people = module(write(tmp_path, "json")).people("train")
    sample = people.read(0)
    assert sample.camera is None
    assert sample.joints2d is not None
    crop = crop_camera(sample, MPII16, CropSpec(MPII16, 125, "look_at", "annotation"), CropDraw(flip=True))
    row = make_labels(sample, MPII16, CropSpec(MPII16, 125, "look_at", "annotation"), crop)
    moved = (sample.joints2d - [49, 44 + 15 * 0.25]) * 125 / 62.5  # box of 62.5 px around the position, 1-based 50, 45
    wanted = MPII16.flip(moved * [-1, 1] + 62)
    np.testing.assert_allclose(row["joints2d"].numpy(), wanted, atol=1e-3)
    assert row["rotation"].equal(torch.diag(torch.tensor([-1.0, 1, 1])))


# ------------------------------------------------------------------------------------------------- PCKh


def test_pckh_of_known_errors(tmp_path: Path) -> None:
    data = module(write(tmp_path, "json", "val"), protocol="mpii_pckh")
    people = data.people("test")  # the labels of the test images are not public
    assert isinstance(people, MPIIPeople)
    records = people.records()
    assert records.subject.tolist() == ["val"] * 3
    target, valid = torch.as_tensor(people.joints2d), torch.as_tensor(people.valid2d)
    away = torch.zeros_like(target)
    away[..., 0] = torch.tensor([0.09, 0.4, 0.6])[:, None] * torch.as_tensor(people.head_sizes())[:, None]
    protocol = get_protocol("mpii_pckh")
    values = protocol.score(target + away, target, torch.as_tensor(people.head_sizes()), valid).values  # type: ignore[attr-defined]
    # Joint 5 has two labels, 0.09 and 0.6 head sizes off; the other joints three.
    assert values["pckh@0.5"] == pytest.approx((15 * 200 / 3 + 50) / 16, abs=1e-3)
    assert values["pckh@0.1"] == pytest.approx((15 * 100 / 3 + 50) / 16, abs=1e-3)


def test_without_a_protocol_there_is_nothing_to_test(tmp_path: Path) -> None:
    data = module(write(tmp_path, "json", "val"))
    assert "nothing is scored in mm" in data.protocol("val")
    with pytest.raises(PoseZooError, match="no 3D labels to score"):
        data.people("test")


# ------------------------------------------------------------------------------------------------- mistakes


def _change(**fields: Any) -> Callable[[Path], Any]:
    def spoil(root: Path) -> None:
        path = root / "annot" / "train.json"
        rows = json.loads(path.read_text())
        rows[0] |= fields
        path.write_text(json.dumps(rows))

    return spoil


def _no_images(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()


MISTAKES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no images": ("json", lambda root: shutil.rmtree(root / "images"), r"has no folder 'images': unpack mpii_human"),
    "half an archive": ("json", _no_images, r"No image at .*a\.jpg, nor 2 others of 3 that the annotations name"),
    "no annotations": ("json", lambda root: shutil.rmtree(root / "annot"), r"no annotations for 'train': copy one"),
    "another skeleton": ("json", _change(joints=[[1, 2]] * 17), r"train\.json is not MPII's \(.*inhomogeneous"),
    "half a file": (
        "json",
        lambda root: (root / "annot" / "train.json").write_text("[{"),
        r"not readable JSON .*get it again from HRNet or mmpose",
    ),
    "half an h5": (
        "h5",
        lambda root: (root / "annot" / "train.h5").write_bytes((root / "annot" / "train.h5").read_bytes()[:3000]),
        r"train\.h5 cannot be read .*pose-hg-train's data/mpii/annot",
    ),
    "no names": (
        "h5",
        lambda root: (root / "annot" / "train_images.txt").unlink(),
        r"There is no .*train_images\.txt, which names the images of train\.h5",
    ),
    "too few names": (
        "h5",
        lambda root: (root / "annot" / "train_images.txt").write_text("a.jpg\n"),
        r"names 1 images for the 3 people of train\.h5",
    ),
    "another struct": (
        "mat",
        lambda root: savemat(root / OFFICIAL, {"joints": np.ones(3)}),
        r"holds joints, not 'RELEASE'",
    ),
    "an empty struct": (
        "mat",
        lambda root: savemat(root / OFFICIAL, {"RELEASE": {"annolist": np.zeros((1, 0))}}),
        r"is not MPII's \(KeyError: 'img_train'\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_another_folder_is_one_clear_sentence(mistake: str, tmp_path: Path) -> None:
    layout, spoil, sentence = MISTAKES[mistake]
    root = write(tmp_path, layout)
    spoil(root)
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(root).open("train")
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


def test_people_without_position_or_joints_are_counted(tmp_path: Path) -> None:
    root = write(tmp_path, "json")
    _change(center=[-1, -1])(root)
    rows = json.loads((root / "annot" / "train.json").read_text())
    rows[1]["joints_vis"] = [0] * 16
    (root / "annot" / "train.json").write_text(json.dumps(rows))
    people = module(root).people("train")
    assert len(people) == 1
    assert "left out: 1 without joints (b.jpg 1), 1 without position or scale (a.jpg 0)" in people.report()


def test_the_official_file_has_no_validation_split(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"has no validation split: put HRNet's valid\.json in .*annot"):
        module(write(tmp_path, "mat")).people("val")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"box_scale": 0.0}, r"--data\.box_scale must be positive, got 0\.0"),
        ({"root": None}, r"MPII does not know where its files are: set --data\.root"),
        ({"root": "/nowhere"}, r"There is no folder /nowhere: set --data\.root"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        MPII(**arguments).people("train")


@pytest.mark.parametrize(
    ("layout", "file"), [("json", "annot/train.json"), ("h5", "annot/train.h5"), ("mat", OFFICIAL)]
)
def test_damaged_files(layout: str, file: str, tmp_path: Path) -> None:
    root = write(tmp_path, layout)
    assert survive(root / file, 1000 if layout == "json" else 300, lambda: open_people(root, "train")) > 50
