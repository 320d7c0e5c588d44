"""Rendered samples: determinism, ground truth, paired streams and what the presets promise."""

import hashlib
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from posezoo.data.synthetic import (
    GENERATOR_VERSION,
    PART_NAMES,
    POSE_CLASSES,
    PRESETS,
    SPLITS,
    Preset,
    SyntheticDataError,
    SyntheticSample,
    render_sample,
)
from posezoo.data.synthetic.body import FLESH_RADIUS
from posezoo.data.synthetic.scene import compose
from posezoo.skeletons import SYNTHETIC25

DIGEST = """
import sys
sys.path.insert(0, {tests!r})
from test_synthetic_samples import digest
for index in (5, 0, 3):
    for preset in ("multi", "easy"):
        print(preset, index, digest(index, preset))
"""


def digest(index: int, preset: str) -> str:
    sample = render_sample(index, "val", size=64, preset=preset, return_depth=True, return_parts=True)
    joined = b"".join(np.ascontiguousarray(getattr(sample, f.name)).tobytes() for f in fields(sample))
    return hashlib.sha256(joined).hexdigest()


def clean(preset: str):
    """A preset without blur, noise and JPEG."""
    return replace(PRESETS[preset], sensor=False)


@pytest.fixture(scope="module")
def easy() -> list[SyntheticSample]:
    return [render_sample(i, size=128, return_depth=True, return_parts=True) for i in range(80)]


@pytest.fixture(scope="module")
def full() -> list[SyntheticSample]:
    return [render_sample(i, size=96, preset="full", return_depth=True, return_parts=True) for i in range(80)]


# ------------------------------------------------------------------------------------------------ determinism


def test_other_process_and_other_order_give_the_same_bits() -> None:
    here = {f"{preset} {index}": digest(index, preset) for preset in ("easy", "multi") for index in (0, 3, 5)}
    code = DIGEST.format(tests=os.path.dirname(__file__))
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    there = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())

    assert there == here


def test_splits_seeds_and_indices_differ() -> None:
    images = [
        render_sample(0, size=32).image,
        render_sample(1, size=32).image,
        render_sample(0, "val", size=32).image,
        render_sample(0, "test", size=32).image,
        render_sample(0, size=32, seed=1).image,
    ]
    for i in range(len(images)):
        for j in range(i):
            assert not np.array_equal(images[i], images[j])


def test_numpys_global_generator_is_left_alone() -> None:
    np.random.seed(3)  # noqa: NPY002 -- this is the generator nobody may touch
    expected = np.random.random(4)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    render_sample(2, size=32, preset="multi")

    np.testing.assert_array_equal(np.random.random(4), expected)  # noqa: NPY002


@pytest.mark.parametrize("preset", list(PRESETS))
def test_size_does_not_change_the_scene(preset: str) -> None:
    for index in range(6):
        small = render_sample(index, size=64, preset=preset)
        large = render_sample(index, size=256, preset=preset)
        np.testing.assert_array_equal(small.joints3d, large.joints3d)
        np.testing.assert_allclose((small.joints2d + 0.5) * 4 - 0.5, large.joints2d, atol=1e-2)


def test_small_render_is_the_large_one_seen_from_afar() -> None:
    """Shrinking a 256 px frame by 4 gives about the 64 px frame: no half-pixel slip, no other texture scale."""
    for index in range(8):
        small = render_sample(index, size=64, preset=clean("easy")).image.astype(float)
        large = render_sample(index, size=256, preset=clean("easy")).image.astype(float)
        shrunk = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert np.abs(small - shrunk).mean() < 8  # silhouettes and fine floors
        assert np.abs((small - shrunk).mean((0, 1))).max() < 1.5


# ------------------------------------------------------------------------------------------------ ground truth


def test_types_and_shapes(full: list[SyntheticSample]) -> None:
    for sample in full[:20]:
        people = len(sample.joints3d)
        assert sample.image.shape == (96, 96, 3)
        assert sample.image.dtype == np.uint8
        assert sample.joints3d.shape == (people, len(SYNTHETIC25), 3)
        assert sample.joints2d.shape == (people, len(SYNTHETIC25), 2)
        assert sample.visibility.shape == (people, len(SYNTHETIC25))
        assert sample.boxes.shape == (people, 4)
        assert sample.pose_class.shape == sample.stature.shape == (people,)
        assert sample.joints3d.dtype == sample.intrinsics.dtype == sample.translation.dtype == np.float32
        assert sample.depth is not None
        assert sample.part_id is not None
        assert sample.person_id is not None
        assert (sample.depth.dtype, sample.part_id.dtype, sample.person_id.dtype) == (
            np.float32,
            np.int16,
            np.int8,
        )
        assert sample.person_id.max() < people
        assert sample.part_id.max() < len(PART_NAMES)
        np.testing.assert_allclose(sample.rotation @ sample.rotation.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(sample.rotation) == pytest.approx(1, abs=1e-5)


def test_depth_and_parts_come_only_when_asked_for() -> None:
    sample = render_sample(0, size=32)

    assert sample.depth is None
    assert sample.part_id is None
    assert sample.person_id is None


def test_intrinsics_project_joints3d_onto_joints2d(easy: list[SyntheticSample], full: list[SyntheticSample]) -> None:
    for sample in easy + full:
        projected = sample.joints3d.astype(float) @ sample.intrinsics.astype(float).T
        projected = projected[..., :2] / projected[..., 2:]
        np.testing.assert_allclose(projected, sample.joints2d, atol=1e-3)


def test_world_frame_has_its_ground_at_zero(easy: list[SyntheticSample]) -> None:
    for sample in easy:
        world = (sample.joints3d[0].astype(float) - sample.translation) @ sample.rotation
        assert world[:, 1].min() > -5
        assert world[:, 1].max() < 3300
        assert (-sample.rotation.T @ sample.translation)[1] > 150  # the camera is above the ground too


def test_visible_joints_agree_with_the_depth_buffer(easy: list[SyntheticSample], full: list[SyntheticSample]) -> None:
    inside_flesh = []
    for sample in easy + full:
        assert sample.depth is not None
        assert sample.person_id is not None
        size = len(sample.image)
        for person in range(len(sample.joints3d)):
            slack = FLESH_RADIUS * sample.stature[person] + 45
            place = np.round(sample.joints2d[person]).astype(int)
            within = ((place >= 0) & (place < size)).all(1)
            np.testing.assert_array_equal(within, sample.visibility[person] > 0)
            column, row = np.clip(place, 0, size - 1).T
            surface, owner = sample.depth[row, column], sample.person_id[row, column]
            joint = sample.joints3d[person, :, 2]
            visible = sample.visibility[person] == 3
            assert (surface[visible] >= (joint - slack - 0.5)[visible]).all()
            assert (owner[sample.visibility[person] == 2] == person).all()
            hidden = sample.visibility[person] == 1
            assert (owner[hidden] != person).all()
            assert (surface[hidden] < joint[hidden]).all()
            mine = visible & (owner == person)
            inside_flesh.append(np.abs(surface - joint)[mine] <= slack[mine])
    assert np.mean(np.concatenate(inside_flesh)) > 0.97


def test_joints_lie_on_their_own_limb(easy: list[SyntheticSample]) -> None:
    """A visible left elbow shows the left arm: names, sides and pixels agree."""
    expected = {
        "knee": ("thigh", "shank"),
        "ankle": ("shank", "foot"),
        "toe": ("foot",),
        "elbow": ("upper_arm", "forearm"),
        "wrist": ("forearm", "hand"),
        "hand": ("hand",),
    }
    right_limb, on_body = [], []
    for sample in easy:
        assert sample.part_id is not None
        assert sample.person_id is not None
        place = np.clip(np.round(sample.joints2d[0]).astype(int), 0, len(sample.image) - 1)
        for side in "lr":
            for joint, parts in expected.items():
                number = SYNTHETIC25.index(f"{side}_{joint}")
                column, row = place[number]
                if sample.visibility[0, number] == 3 and sample.person_id[row, column] == 0:
                    found = PART_NAMES[sample.part_id[row, column]]
                    right_limb.append(found in {f"{side}_{part}" for part in parts})
        body = [SYNTHETIC25.index(j) for j in SYNTHETIC25.joints if not j.endswith(("hand", "toe", "nose"))]
        seen = [j for j in body if sample.visibility[0, j] >= 2]
        on_body += [sample.person_id[place[j, 1], place[j, 0]] == 0 for j in seen]
    assert len(right_limb) > 400
    assert np.mean(right_limb) > 0.93
    assert np.mean(on_body) > 0.985


def test_boxes_hold_the_person(easy: list[SyntheticSample]) -> None:
    fills = []
    for sample in easy:
        assert sample.person_id is not None
        left, top, width, height = sample.boxes[0]
        rows, columns = np.nonzero(sample.person_id == 0)
        assert columns.min() >= left - 1
        assert columns.max() <= left + width + 1
        assert rows.min() >= top - 1
        assert rows.max() <= top + height + 1
        fills.append(max(width, height) / len(sample.image))
        assert left > -0.5
        assert top > -0.5
        assert left + width < 127.6
        assert top + height < 127.6
    assert min(fills) >= 0.549
    assert max(fills) <= 0.801
    assert np.mean(fills) == pytest.approx(0.675, abs=0.03)


# ------------------------------------------------------------------------------------------------ pairs


@pytest.mark.parametrize("preset", ["easy", "full", "truncated", "multi"])
def test_scene_seed_keeps_people_and_camera(preset: str) -> None:
    for index in range(12):
        one, other = (render_sample(index, size=48, preset=preset, scene_seed=k) for k in (None, 4))
        for name in ("joints3d", "joints2d", "intrinsics", "rotation", "translation", "boxes", "stature"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert np.abs(one.image.astype(int) - other.image).mean() > 2


@pytest.mark.parametrize("preset", ["easy", "full", "multi"])
def test_window_shift_moves_nothing_but_the_window(preset: str) -> None:
    size, step, border = 128, 32, 8
    for index in range(12):
        base = render_sample(index, size=size, preset=clean(preset), return_parts=True)
        moved = render_sample(
            index, size=size, preset=clean(preset), window_shift=(step / size, step / size), return_parts=True
        )
        np.testing.assert_array_equal(base.joints3d, moved.joints3d)
        np.testing.assert_allclose(base.joints2d - step, moved.joints2d, atol=1e-3)
        np.testing.assert_allclose(base.boxes[:, :2] - step, moved.boxes[:, :2], atol=1e-3)
        overlap = base.image[step + border : -border, step + border : -border].astype(int)
        same = moved.image[border : -step - border, border : -step - border].astype(int)
        assert np.abs(overlap - same).mean() < 0.6
        assert (np.abs(overlap - same).max(-1) <= 3).mean() > 0.985
        assert base.person_id is not None
        assert moved.person_id is not None
        agree = base.person_id[step:, step:] == moved.person_id[:-step, :-step]
        assert agree.mean() > 0.999


def test_shift_makes_joints_leave_the_frame() -> None:
    out = [
        np.mean([(render_sample(i, size=32, window_shift=(f, 0)).visibility[0] == 0).mean() for i in range(20)])
        for f in (0.0, 0.3, 0.6)
    ]
    assert out[0] == 0
    assert out[0] < out[1] < out[2]


# ------------------------------------------------------------------------------------------------ presets


def test_easy_shows_one_whole_person_with_nothing_in_front(easy: list[SyntheticSample]) -> None:
    for sample in easy:
        assert len(sample.joints3d) == 1
        assert (sample.visibility != 0).all()
        seated = POSE_CLASSES[sample.pose_class[0]] == "sit"  # a chair's back may hide some
        assert (sample.visibility == 1).mean() <= (0.5 if seated else 0.05)


def test_full_mixes_everything(full: list[SyntheticSample]) -> None:
    several = np.mean([len(sample.joints3d) > 1 for sample in full])
    cut = np.mean([(sample.visibility[0] == 0).any() for sample in full])
    hidden = np.mean([(sample.visibility[0] == 1).any() for sample in full])
    assert 0.1 < several < 0.4
    assert 0.05 < cut < 0.3
    assert 0.1 < hidden < 0.7
    seen = [(sample.visibility[0] >= 2).mean() for sample in full]
    assert min(seen) > 0.3  # the sight lines are coarse, so a little below the promised 45 %
    assert np.mean(np.array(seen) >= 0.45) > 0.93


def test_truncated_cuts_everybody_over_the_whole_range() -> None:
    share = np.array([(render_sample(i, size=32, preset="truncated").visibility[0] == 0).mean() for i in range(100)])
    assert share.min() > 0.05
    assert share.max() <= 0.55
    for low in (0.2, 0.3, 0.4):
        assert ((share >= low) & (share < low + 0.1)).mean() > 0.1


def test_multi_always_has_company() -> None:
    counts = [len(render_sample(i, size=32, preset="multi").joints3d) for i in range(40)]
    assert set(counts) <= {1, 2, 3}
    assert np.mean(np.array(counts) >= 2) > 0.95
    assert 3 in counts


def test_stature_sd_is_a_knob() -> None:
    """Doubling it doubles every adult's deviation, person by person, and nothing else about them."""
    for index in range(10):
        none, some, much = (
            render_sample(index, size=32, preset=replace(PRESETS["easy"], stature_sd=sd)) for sd in (0.0, 65.0, 130.0)
        )
        assert none.pose_class == some.pose_class == much.pose_class
        assert much.stature[0] - none.stature[0] == pytest.approx(2 * (some.stature[0] - none.stature[0]), abs=1e-2)


def test_mocap_replaces_the_prior() -> None:
    standing = np.zeros((2, 24, 3), np.float32)
    standing[:, 0, 0] = np.pi / 2
    sample = render_sample(0, size=32, mocap=standing)

    assert POSE_CLASSES[sample.pose_class[0]] == "mocap"
    world = (sample.joints3d[0] - sample.translation) @ sample.rotation
    assert np.ptp(world[:, 1]) == pytest.approx(sample.stature[0], rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "Unknown split 'dev'. Choose one of train, val, test"),
        ({"preset": "hard"}, "Unknown preset 'hard'. Choose one of easy, full, truncated, multi"),
        ({"size": 4}, "size must be between"),
        ({"seed": -1}, "must be 0 or more"),
        ({"mocap": np.zeros((3, 18, 3))}, r"mocap must be \[N,17,3\]"),
    ],
)
def test_mistakes_are_explained(arguments: dict, message: str) -> None:
    with pytest.raises(SyntheticDataError, match=message):
        render_sample(0, **arguments)


# ------------------------------------------------------------------------------------------------ sanity


def test_mean_pose_is_a_weak_predictor() -> None:
    """All headings occur, so the mean pose is nearly a line and some 300 mm off."""
    compositions = [compose(i, "train", PRESETS["easy"]) for i in range(300)]
    joints = np.stack([c.camera.seen(c.people[0].joints) for c in compositions])
    joints -= joints[:, :1]
    error = np.linalg.norm(joints - joints.mean(0), axis=-1)[:, 1:17].mean()
    assert 250 < error < 350
    left, right = (joints.mean(0)[SYNTHETIC25.index(f"{side}_shoulder")] for side in "lr")
    assert np.linalg.norm(left - right) < 60  # of some 370 mm


def test_bones_have_plausible_lengths(easy: list[SyntheticSample]) -> None:
    for sample in easy:
        for parent, child, low, high in (
            ("l_hip", "l_knee", 0.2, 0.29),
            ("l_knee", "l_ankle", 0.2, 0.28),
            ("r_shoulder", "r_elbow", 0.14, 0.2),
            ("r_elbow", "r_wrist", 0.12, 0.18),
            ("neck", "head_top", 0.1, 0.26),
        ):
            a, b = (sample.joints3d[0, SYNTHETIC25.index(j)] for j in (parent, child))
            assert low < np.linalg.norm(a - b) / sample.stature[0] < high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_weights": (1.0, 2.0)}, "class_weights needs 13 numbers"),
        ({"truncation": 1.5}, "between 0 and 1"),
        ({"distance": (100.0, 2000.0)}, "at least 1500 mm"),
    ],
)
def test_impossible_presets_are_refused(change: dict, message: str) -> None:
    with pytest.raises(SyntheticDataError, match=message):
        Preset(**change)


def test_windows_far_from_everything_are_empty() -> None:
    sample = render_sample(3, size=32, preset="full", window_shift=(4, -4), return_depth=True, return_parts=True)

    assert sample.person_id is not None
    assert (sample.visibility == 0).all()
    assert (sample.person_id == -1).all()


def test_splits_are_the_published_ones() -> None:
    assert SPLITS == {"train": 0, "val": 1, "test": 2}


# Over 64 samples of version 1: mean of all people's joints3d (mm) and joints2d (px), mean colour of the images.
FROZEN: dict[str, tuple[tuple[float, ...], ...]] = {
    "easy": ((3.7119, -150.5218, 4346.1678), (15.7457, 13.6842), (115.15, 115.43, 114.37)),
    "full": ((-82.2322, -183.2874, 4663.8377), (15.0928, 14.5491), (112.69, 113.57, 109.34)),
}


@pytest.mark.parametrize("preset", list(FROZEN))
def test_version_1_is_frozen(preset: str) -> None:
    """Whoever changes a draw makes another benchmark: raise GENERATOR_VERSION, then the numbers here."""
    assert GENERATOR_VERSION == 1
    joints3d, joints2d, colour = means(preset)

    np.testing.assert_allclose(joints3d, FROZEN[preset][0], atol=1e-3)
    np.testing.assert_allclose(joints2d, FROZEN[preset][1], atol=1e-3)
    np.testing.assert_allclose(colour, FROZEN[preset][2], atol=0.2)  # a grey level may round elsewhere


def means(preset: str) -> tuple[np.ndarray, ...]:
    samples = [render_sample(i, "test", size=32, preset=preset) for i in range(64)]
    joints = (np.concatenate([getattr(s, name) for s in samples]).astype(float) for name in ("joints3d", "joints2d"))
    return (*(j.mean((0, 1)) for j in joints), np.mean([s.image for s in samples], (0, 1, 2)))
