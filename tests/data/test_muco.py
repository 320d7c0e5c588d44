"""MuCo-3DHP: 3DMPPE's table, and composites made of single-person frames."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_input_helpers import survive
from numpy.typing import NDArray
from three_dhp_helpers import GREEN, SHIRT, SIDE, TROUSERS, write_picture, write_train

from posezoo.data import MPIINF3DHP, MuCo3DHP
from posezoo.data.annotated import CameraPeople
from posezoo.data.green_screen import GreenScreen, Screens
from posezoo.data.layouts.tables_3dmppe import Table
from posezoo.data.muco import open_people, stand_apart
from posezoo.data.muco_composition import CutOut, choose_people, compose, cut_out, make_composites
from posezoo.errors import PoseZooError
from posezoo.skeletons import MUCO21

MIMIC = Path("data") / "format_mimics" / "muco_3dmppe"


@pytest.fixture
def mimic(shared: Path, tmp_path: Path) -> Path:
    """The official table, with an image of the size that it says."""
    shutil.copy(shared / MIMIC / "MuCo-3DHP.json", tmp_path)
    (tmp_path / "MuCo-3DHP.json").chmod(0o644)
    write_picture(tmp_path / "augmented_set" / "000000_0.jpg", np.zeros((776, 1032, 3), np.uint8))
    return tmp_path


def module(root: Path, **keywords: Any) -> MuCo3DHP:
    return MuCo3DHP(
        str(root), **{"num_workers": 0, "batch_size": 1, "image_size": 64, "skeleton": "muco21", **keywords}
    )


def misfit(people: CameraPeople, index: int) -> float:
    sample = people.read_labels(index)
    assert sample.camera is not None
    pixels = sample.camera.project(torch.as_tensor(sample.joints3d)).numpy()
    return float(np.linalg.norm(pixels - sample.joints2d, axis=1).max())


# ------------------------------------------------------------------------------------------------- 3DMPPE


@pytest.mark.shared_data
def test_the_official_table_projects_onto_its_labels(mimic: Path) -> None:
    data = module(mimic)
    people = data.people("train")
    assert len(people) == 2
    assert people.skeleton is MUCO21
    assert max(misfit(people, index) for index in range(2)) < 0.05
    assert people.person_id.tolist() == [0, 1]
    assert people.image_id.tolist() == [0, 0]
    assert people.read(0).size == (1032, 776)
    # One is seen from behind, the other from the front: then the right hip is left of the left one.
    right, left = (people.joints2d[:, MUCO21.index(f"{side}_hip"), 0] for side in "rl")
    assert (right < left).tolist() == [False, True]
    batch = next(iter(data.train_dataloader()))
    assert batch["valid3d"].all()
    assert batch["has_camera"].all()
    report = people.report()
    assert "2 people in 1 images for train; left out: nothing" in report


def table(*pelvises: tuple[int, float, float]) -> Table:
    """People by (image, x, z) of their pelvis, mm."""
    count = len(pelvises)
    joints = np.zeros((count, 21, 3), np.float32)
    joints[:, 14] = [(x, 0, z) for _, x, z in pelvises]
    nothing = np.zeros((count, 0))
    image = np.array([image for image, _, _ in pelvises])
    arrays: list[Any] = [nothing] * 4 + [image, np.arange(count), nothing, joints, nothing, nothing]
    return Table(["a"] * 2, *arrays)


def test_crowded_people_are_left_out_but_for_the_nearest() -> None:
    """In image 0: 0 and 1 stand 400 mm apart, 2 stands alone; image 1 has one person."""
    crowd = table((0, 0, 3000), (0, 400, 3010), (0, 2000, 3000), (1, 0, 9000), (0, -400, 5000))
    assert stand_apart(crowd, 500).tolist() == [True, False, True, True, True]
    assert stand_apart(crowd, 300).tolist() == [True] * 5
    assert stand_apart(crowd, 1900).tolist() == [True, False, False, True, True]


def _set(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / "MuCo-3DHP.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def _fewer_joints(content: dict[str, Any]) -> None:
    for row in content["annotations"]:
        row["keypoints_cam"] = row["keypoints_cam"][:17]


def _elsewhere(content: dict[str, Any]) -> None:
    for row in content["annotations"]:
        row["keypoints_img"] = [[x + 40, y] for x, y in row["keypoints_img"]]


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no table": (lambda root: (root / "MuCo-3DHP.json").unlink(), r"No annotations at .*MuCo-3DHP\.json: take"),
    "cut off": (
        lambda root: (root / "MuCo-3DHP.json").write_text((root / "MuCo-3DHP.json").read_text()[:500]),
        r"MuCo-3DHP\.json is not readable JSON",
    ),
    "no images": (lambda root: shutil.rmtree(root / "augmented_set"), r"No image at .*000000_0\.jpg"),
    "another skeleton": (_set(_fewer_joints), r"'keypoints_cam' has the shape \(17, 3\), expected \(21, 3\)"),
    "no camera": (_set(lambda c: c["images"][0].pop("f")), r"is not a table of 3DMPPE \(KeyError"),
    "no focal length": (_set(lambda c: c["images"][0].update(f=[0, 0])), "a size or a camera that no image has"),
    "other labels": (_set(_elsewhere), r"the 3D labels project 40 px away from the 2D labels"),
}  # fmt: skip


@pytest.mark.shared_data
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_spoilt_table_is_one_clear_sentence(mistake: str, mimic: Path) -> None:
    spoil, sentence = MISTAKES[mistake]
    spoil(mimic)
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(mimic).setup("fit")
    assert "\n" not in str(error.value)
    assert str(mimic) in str(error.value)


@pytest.mark.shared_data
def test_bad_rows_are_counted_and_named(mimic: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        first = content["annotations"][0]
        content["annotations"] += [
            first | {"id": 7, "image_id": 99},
            first | {"id": 8, "bbox": [0, 0, 0, 0]},
            first | {"id": 9, "keypoints_cam": [[None] * 3] * 21},
        ]
        first["keypoints_cam"][3] = [None, None, None]

    _set(change)(mimic)
    people = module(mimic).people("train")
    assert people.valid3d.sum(1).tolist() == [20, 21]
    for text in ("1 of images that the file does not list (7)", "1 without a box (8)", "1 without labels (9)"):
        assert text in people.report()


@pytest.mark.shared_data
def test_damaged_tables(mimic: Path) -> None:
    assert survive(mimic / "MuCo-3DHP.json", 1000, lambda: open_people(mimic)) > 300


def test_senseless_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"--data\.apart must not be negative"):
        MuCo3DHP(apart=-1)
    with pytest.raises(PoseZooError, match=r"--data\.val_share must be at least 0"):
        MuCo3DHP(val_share=1)
    with pytest.raises(PoseZooError, match=r"does not know where its files are"):
        MuCo3DHP().people("train")
    with pytest.raises(PoseZooError, match=r"There is no folder"):
        module(tmp_path / "nowhere").people("train")
    with pytest.raises(PoseZooError, match="keeps no images for validation"):
        module(tmp_path).people("val")
    with pytest.raises(PoseZooError, match="test on --data MuPoTS3D"):
        module(tmp_path).people("test")


# --------------------------------------------------------------------------------------------- composition


def layer(value: float, columns: slice, depth: float, chair: slice | None = None) -> CutOut:
    person, seat = np.zeros((2, 6), np.float32), np.zeros((2, 6), np.float32)
    person[:, columns] = 1
    if chair is not None:
        seat[:, chair] = 1
    return CutOut(np.full((2, 6, 3), value, np.float32), person, seat, depth)


def test_the_nearer_person_hides_the_farther_one() -> None:
    """Columns of one row: person A (10, near) on 1-2, B (20, far) on 2-4, its frame behind everything."""
    near, far = layer(10, slice(1, 3), 2000), layer(20, slice(2, 5), 4000)
    for order, people in (((0, 1), [near, far]), ((1, 0), [far, near])):
        made = compose(people)
        assert made.pixels[0, :, 0].tolist() == [20, 10, 10, 20, 20, 20]
        assert made.order == order
        assert made.visible[people.index(near)] == 1
        assert made.visible[people.index(far)] == pytest.approx(2 / 3)


def test_a_chair_hides_too_and_a_third_person_is_behind_both() -> None:
    people = [layer(10, slice(0, 1), 2000, slice(1, 3)), layer(20, slice(2, 4), 3000), layer(30, slice(3, 6), 5000)]
    made = compose(people)
    assert made.pixels[0, :, 0].tolist() == [10, 10, 10, 20, 30, 30]
    assert made.visible == (1, 0.5, pytest.approx(2 / 3))


def test_a_half_covered_pixel_is_mixed() -> None:
    near, far = layer(100, slice(0, 0), 1000), layer(20, slice(0, 6), 2000)
    near.person[:] = 0.25
    assert (compose([near, far]).pixels == 40).all()
    with pytest.raises(ValueError, match="frames of one size"):
        compose([])


@pytest.fixture
def recording(tmp_path: Path) -> CameraPeople:
    """Frames of one camera by two subjects: on the left, on the right, far and near."""
    root = tmp_path / "raw"
    write_train(root, "S1", "Seq1", places=((-600, 3000), (0, 4000), (600, 3600)), masks=True)
    write_train(root, "S2", "Seq1", places=((100, 2500), (-300, 3300)), masks=True)
    return MPIINF3DHP(str(root), train_subjects=["S1", "S2"], labels="annot3", frame_step=1, min_motion=0).people(
        "train"
    )


def test_a_cut_out_is_the_person_without_the_green(recording: CameraPeople) -> None:
    layers = [cut_out(recording, index) for index in range(3)]
    assert [layer.depth for layer in layers] == [3000, 4000, 3600]
    for layer in layers:
        person = layer.pixels[layer.person > 0.8]
        assert len(person) > 20
        assert np.abs(person - np.array(GREEN)).sum(1).min() > 100
        assert 100 < (layer.person > 0.5).sum() < 900


def test_composites_keep_every_label(recording: CameraPeople, tmp_path: Path) -> None:
    out = tmp_path / "muco"
    made = make_composites(recording, out, count=6, per_image=3, apart=400, seed=3)
    assert (made.table, made.images, made.kept) == (out / "MuCo-3DHP.json", 6, 0)
    people = module(out).people("train")
    assert len(people) == 18
    content = json.loads((out / "MuCo-3DHP.json").read_text())
    sources = [row["source"] for row in content["annotations"]]
    names = [bytes(name).decode() for name in recording.image]
    for index, source in enumerate(sources):
        np.testing.assert_allclose(people.joints3d[index], recording.joints3d[names.index(source)], rtol=1e-6)
        np.testing.assert_allclose(people.joints2d[index], recording.joints2d[names.index(source)], rtol=1e-6)
        assert misfit(people, index) < 0.01
    assert len({tuple(sources[n : n + 3]) for n in range(0, 18, 3)}) > 1
    # The nearest person of each image is whole: its shirt is seen where its spine is.
    for number in range(6):
        rows = np.arange(3 * number, 3 * number + 3)
        nearest = int(rows[people.joints3d[rows, 14, 2].argmin()])
        assert content["annotations"][nearest]["visible_share"] == 1
        x, y = np.round(people.joints2d[nearest, MUCO21.index("spine")]).astype(int)
        pixel = np.asarray(people.read(nearest).image)[y, x].astype(int)
        assert min(np.abs(pixel - np.array(colour)).max() for colour in (SHIRT, TROUSERS)) < 40


def test_composites_are_made_once_and_go_on_where_they_stopped(recording: CameraPeople, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make_composites(recording, whole, count=3, per_image=2, seed=1)

    def stop(items: Iterable[Any], name: str, count: int) -> Iterator[Any]:
        yield from itertools.islice(items, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_composites(recording, broken, count=3, per_image=2, seed=1, track=stop)
    assert not (broken / "MuCo-3DHP.json").exists()
    first = broken / "composites" / "000000.jpg"
    stamp = first.stat().st_mtime_ns
    assert make_composites(recording, broken, count=3, per_image=2, seed=1).kept == 2
    assert first.stat().st_mtime_ns == stamp
    for number in range(3):
        name = f"composites/{number:06d}.jpg"
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert (whole / "MuCo-3DHP.json").read_text() == (broken / "MuCo-3DHP.json").read_text()
    make_composites(recording, broken, count=3, per_image=2, seed=2)  # of other people: made anew
    assert any(
        (whole / f"composites/{n:06d}.jpg").read_bytes() != (broken / f"composites/{n:06d}.jpg").read_bytes()
        for n in range(3)
    )
    assert not list(broken.rglob("*.tmp"))


def test_composites_may_have_other_backgrounds(recording: CameraPeople, tmp_path: Path) -> None:
    write_picture(tmp_path / "b" / "x.png", np.full((40, 40, 3), (200, 10, 220), np.uint8))
    screens = Screens(GreenScreen(backgrounds=str(tmp_path / "b"), background=1.0))
    make_composites(recording, tmp_path / "out", count=1, per_image=2, screens=screens)
    pixels = np.asarray(module(tmp_path / "out").people("train").read(0).image)
    assert pixels.shape == (SIDE, SIDE, 3)
    np.testing.assert_allclose(pixels[1, 1], (200, 10, 220), atol=8)


def distances(people: CameraPeople, group: list[int]) -> NDArray[np.float64]:
    pelvis = people.joints3d[group, 14]
    return np.linalg.norm(pelvis[:, None] - pelvis[None], axis=-1)[np.triu_indices(len(group), 1)]


def test_people_of_a_composite_stand_apart(recording: CameraPeople) -> None:
    groups = [choose_people(recording, 3, 700, np.random.default_rng(seed)) for seed in range(20)]
    assert min(distances(recording, group).min() for group in groups) >= 700
    assert len({tuple(group) for group in groups}) > 2
    with pytest.raises(PoseZooError, match=r"No 3 frames of one camera have people 9000 mm apart"):
        choose_people(recording, 3, 9000, np.random.default_rng(0))
