"""Pictures: the right colours at the right pixels, nothing outside, and no crash on hard poses."""

import errno
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from posezoo.errors import PoseZooError
from posezoo.skeletons import COCO17, H36M17, HEMLETS18, SKELETONS, Skeleton
from posezoo.viz.draw2d import (
    LEFT,
    MIDDLE,
    PAPER,
    RIGHT,
    caption,
    draw_box,
    draw_pose,
    side_colour,
    tile,
    write_picture,
)
from posezoo.viz.draw3d import REFERENCE, VIEWS, draw_pose3d, view_rotation

GREY = np.full((120, 160, 3), 90, np.uint8)


def distance(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(image.astype(int) - colour).max(-1)


def standing(skeleton: Skeleton = H36M17) -> np.ndarray:
    """A person who faces the camera, in mm: the left side of the body is at +x."""
    places = {
        "pelvis": (0, 0), "hip": (100, 0), "knee": (110, 420), "ankle": (120, 830), "toe": (130, 860),
        "spine": (0, -230), "neck": (0, -480), "thorax": (0, -470), "nose": (0, -560), "head_top": (0, -680),
        "shoulder": (160, -470), "elbow": (220, -200), "wrist": (250, 30), "hand": (250, 100),
    }  # fmt: skip
    joints = np.zeros((len(skeleton), 3))
    for i, joint in enumerate(skeleton.joints):
        stem = joint.removeprefix("l_").removeprefix("r_")
        x, y = places.get(stem, (0, -560))
        joints[i] = (-x if joint.startswith("r_") else x, y, 4000)
    return joints


def test_colours_follow_the_side_of_the_person() -> None:
    assert [side_colour(j) for j in ("l_hip", "r_wrist", "spine", "left")] == [LEFT, RIGHT, MIDDLE, MIDDLE]
    # Blue and orange: apart in blue for red-green blindness, apart in brightness for all.
    assert abs(LEFT[2] - RIGHT[2]) > 150


def test_limbs_have_their_colour_at_their_pixels() -> None:
    joints = standing()[:, :2] * 0.07 + [80, 58]
    image = draw_pose(GREY, joints, H36M17)

    for bone, colour in (("l_knee l_ankle", LEFT), ("r_knee r_ankle", RIGHT), ("spine neck", MIDDLE)):
        a, b = (joints[H36M17.index(name)] for name in bone.split())
        x, y = np.round((a + b) / 2).astype(int)
        assert distance(image[y - 1 : y + 2, x - 1 : x + 2], colour).min() < 40, bone
    assert (GREY == 90).all(), "the input was drawn on"
    assert (image[:, :40] == 90).all()


def test_strokes_are_centred_on_pixel_centres() -> None:
    two = Skeleton("two", ("l_a", "l_b"), (-1, 0), 0)
    canvas = np.zeros((21, 41, 3), np.uint8)
    image = draw_pose(canvas, np.array([[8.0, 10.0], [32.0, 10.0]]), two).astype(float).sum(-1)
    rows, columns = np.indices(image.shape)
    assert (rows * image).sum() / image.sum() == pytest.approx(10, abs=0.05)
    assert (columns * image).sum() / image.sum() == pytest.approx(20, abs=0.05)

    zoomed = draw_pose(canvas, np.array([[8.0, 10.0], [32.0, 10.0]]), two, zoom=4).astype(float).sum(-1)
    rows, columns = np.indices(zoomed.shape)
    assert zoomed.shape == (84, 164)
    # Half-pixel rule: the centre of pixel 10 lies at 10.5 * 4 - 0.5.
    assert (rows * zoomed).sum() / zoomed.sum() == pytest.approx(41.5, abs=0.1)
    assert (columns * zoomed).sum() / zoomed.sum() == pytest.approx(81.5, abs=0.1)


def test_near_limbs_cover_far_ones() -> None:
    cross = Skeleton("cross", ("top", "l_a", "r_b"), (-1, 0, 0), 0)
    joints = np.array([[80.0, 20.0], [80.0, 100.0], [80.0, 100.0]])
    for depth, colour in (([0, 1, 2], LEFT), ([0, 2, 1], RIGHT)):
        image = draw_pose(GREY, joints, cross, depth=np.array(depth))
        assert distance(image[60, 80], colour) < 30


def test_unsure_limbs_are_fainter_and_invalid_ones_absent() -> None:
    joints = standing()[:, :2] * 0.07 + [80, 58]
    change = [
        np.abs(draw_pose(GREY, joints, H36M17, scores=np.full(17, score)).astype(int) - 90).sum()
        for score in (0.2, 0.6, 1.0)
    ]
    assert change[0] < change[1] < change[2]

    none = draw_pose(GREY, joints, H36M17, valid=np.zeros(17, bool))
    assert (none == GREY).all()
    right_only = draw_pose(GREY, joints, H36M17, valid=np.array([j.startswith("r_") for j in H36M17.joints]))
    assert distance(right_only, LEFT).min() > 40


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e12, -1e12])
def test_wild_joints_do_no_harm(bad: float) -> None:
    joints = standing()[:, :2] * 0.07 + [80, 58]
    joints[3] = bad
    assert draw_pose(GREY, joints, H36M17, depth=np.full(17, np.nan)).shape == GREY.shape

    joints3d = standing()
    joints3d[3] = bad
    image = draw_pose3d(joints3d, H36M17, (200, 100), span=2000)
    assert image.shape == (100, 200, 3)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"h36m17 needs joints of shape \(17, 2\)"):
        draw_pose(GREY, np.zeros((16, 2)), H36M17)
    with pytest.raises(ValueError, match=r"coco17 needs joints of shape \(17, 3\)"):
        draw_pose3d(np.zeros((17, 2)), COCO17)
    with pytest.raises(ValueError, match="Unknown view 'bakc'"):
        draw_pose3d(standing(), H36M17, views=("bakc",))


def test_boxes_are_drawn_on_their_edges() -> None:
    image = draw_box(GREY, (20, 30, 100, 60), colour=(255, 0, 0))
    red = distance(image, (255, 0, 0)) < 60
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (30, 90, 20, 120)
    labelled = draw_box(GREY, (20, 30, 100, 60), "person 0.98 ü", colour=(255, 0, 0))
    assert (labelled != image).any()


def test_tiles_are_in_reading_order_and_centred() -> None:
    small, large = np.full((10, 10, 3), 1, np.uint8), np.full((20, 30, 3), 2, np.uint8)
    sheet = tile([large, small, large], columns=2, gap=2)
    assert sheet.shape == (2 * 22 + 2, 2 * 32 + 2, 3)
    assert (sheet[2:22, 2:32] == 2).all()
    assert (sheet[7:17, 44:54] == 1).all()
    assert (sheet[24:44, 2:32] == 2).all()
    assert (sheet[24:44, 34:64] == PAPER).all()
    assert tile([small], columns=8, gap=0).shape == (10, 10, 3)
    with pytest.raises(ValueError, match="no images"):
        tile([], columns=2)


@pytest.mark.parametrize("text", ["short", "a caption much too long for a picture of eighty pixels", "größer", ""])
def test_captions_keep_the_width(text: str) -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    captioned = caption(image, text)
    assert captioned.shape[1] == 80
    assert captioned.shape[0] > 40
    assert (captioned[:40] == 0).all()
    assert (captioned[40:, -3:] == PAPER).all()


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_rotations(view: str) -> None:
    rotation = view_rotation(view, up=(0.1, -0.9, 0.3))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_views_look_from_where_they_say() -> None:
    right, down, away = np.eye(3)
    assert view_rotation("front") @ right == pytest.approx(right)
    assert (view_rotation("front") @ away)[2] > 0.9
    assert (view_rotation("side") @ away)[0] == pytest.approx(1)  # farther from the camera is right
    assert (view_rotation("back") @ right)[0] == pytest.approx(-1)
    assert (view_rotation("top") @ away)[1] == pytest.approx(-1)  # farther is up, as on a map
    assert (view_rotation("top") @ down)[2] == pytest.approx(1)
    for view in ("front", "side", "oblique", "back"):
        seen = view_rotation(view) @ down
        assert seen[1] > 0.9, "down stays down"
        assert seen[2] > 0, "the viewer looks down on the ground"


@pytest.mark.parametrize("up", [(0, -1, 0), (0, -0.8, -0.6), (0.6, -0.8, 0), (0, 1, 0), (0, 0, -2)])
def test_gravity_is_vertical_in_every_view(up: tuple[float, float, float]) -> None:
    for view in VIEWS:
        seen = view_rotation(view, up) @ np.array(up) / np.linalg.norm(up)
        assert seen[0] == pytest.approx(0, abs=1e-9)
        assert seen[1] <= 1e-9


def test_the_sides_of_a_person_who_faces_the_camera_are_where_one_sees_them() -> None:
    image = draw_pose3d(standing(), H36M17, (200, 200), views=("front",), labels=False)
    blue = np.flatnonzero((distance(image, LEFT) < 70).any(0))
    orange = np.flatnonzero((distance(image, RIGHT) < 70).any(0))
    assert orange.max() <= 102
    assert blue.min() >= 98


def test_axes_are_equal_and_the_scale_is_common() -> None:
    cross = Skeleton("cross", ("l_a", "l_b"), (-1, 0), 0)
    for ends in ([[-500, 0, 0], [500, 0, 0]], [[0, -500, 0], [0, 500, 0]]):
        image = draw_pose3d(np.array(ends), cross, (300, 300), ("front",), span=1500, labels=False)
        strong = distance(image, LEFT) < 60
        extent = max(np.ptp(np.flatnonzero(strong.any(axis))) for axis in (0, 1))
        # 1000 mm at 300 px per 1500 mm, and round caps; the front view is tilted by 10 degrees.
        assert extent == pytest.approx(200, abs=8)


@pytest.mark.parametrize("name", SKELETONS)
def test_every_skeleton_fits_its_picture(name: str) -> None:
    skeleton = SKELETONS[name]
    image = draw_pose3d(standing(skeleton), skeleton, (331, 160), ("front", "side", "oblique"), labels=False)
    assert image.shape == (160, 331, 3)
    assert image.dtype == np.uint8
    saturated = np.ptp(image.astype(int), axis=-1) > 60
    assert saturated.any()
    assert not saturated[0].any()
    assert not saturated[-1].any()


def test_the_picture_does_not_depend_on_where_the_person_stands() -> None:
    joints = standing()
    image = draw_pose3d(joints, H36M17)
    moved = draw_pose3d(joints + np.array([1000.0, -250.0, 3000.0]), H36M17)
    np.testing.assert_array_equal(image, moved)


def test_the_reference_is_drawn_on_top_in_black() -> None:
    joints, shift = standing(HEMLETS18), np.array([60.0, 0.0, 0.0])
    plain = draw_pose3d(joints, HEMLETS18, (300, 300), ("front",), span=2000, labels=False)
    both = draw_pose3d(joints, HEMLETS18, (300, 300), ("front",), span=2000, labels=False, reference=joints + shift)
    assert distance(plain, REFERENCE).min() > 60
    assert (distance(both, REFERENCE) < 25).sum() > 100
    hidden = draw_pose3d(
        joints, HEMLETS18, (300, 300), ("front",), span=2000, labels=False,
        reference=joints, reference_valid=np.zeros(18, bool),
    )  # fmt: skip
    np.testing.assert_array_equal(hidden, plain)


def test_a_pose_without_a_valid_joint_gives_an_empty_room() -> None:
    image = draw_pose3d(standing(), H36M17, valid=np.zeros(17, bool))
    assert np.ptp(image.astype(int), axis=-1).max() < 40


def test_a_picture_is_replaced_in_one_step_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.png"
    write_picture(path, GREY)
    np.testing.assert_array_equal(cv2.imread(str(path)), GREY)
    assert path.stat().st_mode & 0o777 == 0o644
    before, whole = path.read_bytes(), Path.write_bytes

    def full_disk(file: Path, content: Any) -> int:
        whole(file, content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(PoseZooError, match="No space left on device"):
        write_picture(path, GREY)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.png"], "nothing half-written stays"
    with pytest.raises(PoseZooError, match=r"use the ending .png or .jpg"):
        write_picture(tmp_path / "a.nothing", GREY)
