"""COCO's person keypoints: the three real images, hand-made annotations, and files that are something else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from bad_input_helpers import survive
from landmark_helpers import dot_in_crop

from posezoo.data import COCO, Mixed, SyntheticPeople
from posezoo.data.coco import JOINT_NAMES, open_people
from posezoo.data.crop import CropDraw, CropSpec, crop_camera, make_labels
from posezoo.errors import PoseZooError
from posezoo.skeletons import COCO17, HEMLETS18

FILE = "annotations/person_keypoints_train2017.json"


def module(root: Path, **keywords: Any) -> COCO:
    return COCO(str(root), **{"num_workers": 0, "batch_size": 2, "image_size": 64, **keywords})


def person(number: int, image: int = 1, visibility: int = 2, **changes: Any) -> dict[str, Any]:
    """A person whose joint j is at (10 + j, 20 + 2 j)."""
    keypoints = [value for j in range(17) for value in (10 + j, 20 + 2 * j, visibility)]
    row = {"id": number, "image_id": image, "iscrowd": 0, "num_keypoints": 17, "category_id": 1}
    return row | {"bbox": [8.5, 15.0, 20.0, 40.0], "keypoints": keypoints} | changes


def write(root: Path, people: list[dict[str, Any]], images: int = 2, names: Any = JOINT_NAMES) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "train2017").mkdir(exist_ok=True)
    listed = []
    for number in range(1, images + 1):
        listed.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 64, "height": 80})
        cv2.imwrite(str(root / "train2017" / listed[-1]["file_name"]), np.full((80, 64, 3), 9 * number, np.uint8))
    categories = [{"id": 1, "name": "person", "keypoints": list(names)}]
    (root / FILE).write_text(json.dumps({"images": listed, "annotations": people, "categories": categories}))
    return root


# ------------------------------------------------------------------------------------------------- real images


@pytest.mark.shared_data
def test_the_real_sample_as_it_is(shared: Path) -> None:
    people = module(shared / "data" / "coco").people("val")
    assert people.person_id.tolist() == [442619, 198196, 230195, 460541, 488308, 1717641, 1724673]
    assert "left out: 2 without usable keypoints (1202706, 508900)" in people.report()
    surfer = people.read(0)
    assert surfer.size == (640, 425)
    assert surfer.camera is None
    assert surfer.joints2d is not None
    assert surfer.joints2d[COCO17.index("nose")].tolist() == [367, 81]
    np.testing.assert_allclose(surfer.box, [280.79, 44.73, 218.7, 346.68], atol=1e-3)
    inside = (people.joints2d - people.boxes[:, None, :2]) / people.boxes[:, None, 2:]
    assert ((inside > -0.1) & (inside < 1.1))[people.valid2d].all()


@pytest.mark.shared_data
def test_left_is_the_persons_own_left(shared: Path) -> None:
    """The skier of 000000000785 faces the camera: what is hers on the left is on the right in the image."""
    sample = module(shared / "data" / "coco").people("val").read(0)
    assert sample.joints2d is not None
    x = {name: sample.joints2d[COCO17.index(name), 0] for name in COCO17.joints}
    assert all(x[f"l_{part}"] > x[f"r_{part}"] for part in ("eye", "ear", "shoulder", "hip", "ankle"))


@pytest.mark.shared_data
@pytest.mark.parametrize("draw", [CropDraw(), CropDraw(roll=25.0, zoom=0.8, flip=True)])
def test_landmarks_stay_on_their_pixels_through_the_warp(shared: Path, draw: CropDraw) -> None:
    """A dot drawn onto a labelled joint of the real image is found at that joint's label in the crop."""
    people = module(shared / "data" / "coco").people("val")
    spec = CropSpec(COCO17, 256, "image_plane", "annotation")
    for index in (0, 5):
        sample = people.read(index)
        crop = crop_camera(sample, COCO17, spec, draw)
        labels = make_labels(sample, COCO17, spec, crop)
        seen = 0
        for joint in np.flatnonzero(people.valid2d[index]):
            target = COCO17.partner[joint] if draw.flip else joint
            at = labels["joints2d"][target].numpy()
            if not (at.min() > 8 and at.max() < 248):
                continue
            np.testing.assert_allclose(dot_in_crop(sample, joint, crop), at, atol=0.35)
            seen += 1
        assert seen > 8


# ------------------------------------------------------------------------------------------------- by hand


def test_who_is_left_out_and_why(tmp_path: Path) -> None:
    nan = person(7)
    nan["keypoints"][0] = float("nan")
    rows = [
        person(1),
        person(2, iscrowd=1),
        person(3, visibility=0),
        person(4, bbox=[5, 5, 0, 20]),
        person(5, image=99),
        person(6, image=2),
        nan,
    ]
    people = module(write(tmp_path, rows)).people("train")
    assert people.person_id.tolist() == [1, 6, 7]
    assert people.image_id.tolist() == [1, 2, 1]
    assert people.report() == (
        f"COCO, {tmp_path / FILE}: 3 people in 2 images; left out: 1 crowds (2), 1 without usable keypoints (3), "
        "1 without a box (4), 1 of images that the file does not list (5)"
    )
    assert people.valid2d.sum(1).tolist() == [17, 17, 16]
    assert not people.valid2d[2, 0]
    assert people.meta(1) == {
        "path": str(tmp_path / "train2017" / "000000000002.jpg"),
        "image_id": 2,
        "person_id": 6,
    }


def test_visibility_and_margin_are_options(tmp_path: Path) -> None:
    half = person(1)
    half["keypoints"][2 : 3 * 10 : 3] = [1] * 10
    root = write(tmp_path, [half, person(2, visibility=1)])
    everybody, seen = module(root).people("train"), module(root, occluded=False).people("train")
    assert everybody.valid2d.sum(1).tolist() == [17, 17]
    assert seen.person_id.tolist() == [1]
    assert seen.valid2d[0].tolist() == [False] * 10 + [True] * 7
    assert len(module(root, occluded=False, min_keypoints=7).people("train")) == 1
    assert len(module(root, occluded=False, min_keypoints=8).people("train")) == 0
    grown = module(root, box_scale=1.5).people("train").boxes[0]
    np.testing.assert_allclose(grown, [3.5, 5, 30, 60])


def test_pelvis_and_thorax_are_midpoints(tmp_path: Path) -> None:
    one = person(2)
    one["keypoints"][3 * 11 + 2] = 0  # left hip
    data = module(write(tmp_path, [person(1), one]), skeleton="hemlets18", box="pelvis_2000mm", image_size=40)
    data.open("train")
    rows = [data.crops("train").labels(index) for index in range(2)]
    pelvis, thorax, spine = (HEMLETS18.index(name) for name in ("pelvis", "thorax", "spine"))
    # The box 20 x 40 at (8.5, 15) fills 40 px: one pixel each; its centre (18.5, 35) lies at (19.5, 19.5).
    wanted = np.array([10 + 11.5, 20 + 2 * 11.5]) - [18.5, 35] + 19.5
    np.testing.assert_allclose(rows[0]["joints2d"][pelvis], wanted, atol=1e-3)
    assert [bool(row["valid2d"][pelvis]) for row in rows] == [True, False]
    assert [bool(row["valid2d"][thorax]) for row in rows] == [True, True]
    assert not any(bool(row["valid2d"][spine]) or row["valid3d"].any() or row["has_camera"] for row in rows)
    assert rows[0]["rotation"].equal(torch.eye(3))


def test_it_joins_a_mix_as_weak_source(tmp_path: Path) -> None:
    root = write(tmp_path, [person(1), person(2, image=2)])
    rendered = SyntheticPeople(preset="easy", frame_size=64, train_length=2, val_length=2)
    data = Mixed([rendered, COCO(str(root))], [1, 1], num_workers=0, image_size=48)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["has_camera"].tolist() == [True, False]
    assert batch["valid3d"].any(1).tolist() == [True, False]
    assert batch["valid2d"].any(1).tolist() == [True, True]
    assert data.meta(2, "train")["person_id"] == 1


def test_what_was_found_is_printed_when_the_split_is_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(write(tmp_path, [person(1), person(2, iscrowd=1)]))
    with caplog.at_level("INFO"):
        data.open("train")
    assert "1 people in 1 images; left out: 1 crowds (2)" in caplog.text


# ------------------------------------------------------------------------------------------------- mistakes


def _unlink(name: str) -> Callable[[Path], Any]:
    return lambda root: (root / name).unlink()


def _content(**changes: Any) -> Callable[[Path], Any]:
    return lambda root: (root / FILE).write_text(json.dumps(json.loads((root / FILE).read_text()) | changes))


def _few_images(root: Path) -> None:
    for path in (root / "train2017").iterdir():
        path.unlink()


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no annotations": (_unlink(FILE), r"No annotations at .*person_keypoints_train2017\.json: unpack COCO's"),
    "no images": (lambda root: (root / "train2017").rename(root / "x"), r"has no folder 'train2017'.*train2017\.zip"),
    "half an archive": (_few_images, r"No image at .*000000000001\.jpg, nor 1 others of 2 that the annotations name"),
    "half a file": (
        lambda root: (root / FILE).write_text((root / FILE).read_text()[:300]),
        r"is not readable JSON .*annotations_trainval archive again",
    ),
    "instances": (
        _content(annotations=[{"id": 1, "image_id": 1, "iscrowd": 0, "bbox": [1, 2, 3, 4]}]),
        r"is not a file of person keypoints \(KeyError: 'keypoints'\).*not instances_",
    ),
    "a list": (lambda root: (root / FILE).write_text("[1]"), r"is not a file of person keypoints"),
    "another skeleton": (
        _content(categories=[{"id": 1, "keypoints": ["head", "neck", "hip", "knee"]}]),
        r"has the keypoints head, neck, hip, \.\.\. instead of COCO's 17 .*custom_dataset",
    ),
    "too few numbers": (_content(annotations=[person(1, keypoints=[1, 2, 2] * 14)]), r"not a file of person keypoints"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_another_folder_is_one_clear_sentence(mistake: str, tmp_path: Path) -> None:
    root = write(tmp_path, [person(1), person(2, image=2)])
    spoil, sentence = MISTAKES[mistake]
    spoil(root)
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(root).setup("fit")
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"min_keypoints": 0}, r"--data\.min_keypoints must be 1 to 17, got 0"),
        ({"box_scale": float("nan")}, r"--data\.box_scale must be positive, got nan"),
        ({"root": None}, r"COCO does not know where its files are: set --data\.root"),
        ({"root": "/nowhere"}, r"There is no folder /nowhere: set --data\.root"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        COCO(**arguments).people("train")


def test_nothing_is_scored(tmp_path: Path) -> None:
    data = module(write(tmp_path, [person(1)]))
    for split in ("test", "predict"):
        with pytest.raises(PoseZooError, match="no 3D labels to score"):
            data.people(split)
    assert "nothing is scored in mm" in data.protocol("val")


def test_one_missing_image_is_counted_and_named_when_read(tmp_path: Path) -> None:
    rows = [person(n, image=n) for n in (1, 2, 3)]
    root = write(tmp_path, rows, images=3)
    (root / "train2017" / "000000000002.jpg").unlink()
    people = module(root).people("train")
    assert "; 1 of 3 images are missing (first: " in people.report()
    with pytest.raises(PoseZooError, match=r"No image at .*000000000002\.jpg"):
        people.read(1)


def test_damaged_files(tmp_path: Path) -> None:
    root = write(tmp_path, [person(1), person(2, image=2)])
    assert survive(root / FILE, 1000, lambda: open_people(root / FILE, root / "train2017")) > 500
