"""The pose prior, forward kinematics and retargeting."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from posezoo.data.synthetic import POSE_CLASSES, PRESETS
from posezoo.data.synthetic.body import (
    ANKLES,
    ELBOWS,
    FRAMES,
    HIPS,
    KNEES,
    PARENTS,
    SHOULDERS,
    WRISTS,
    Body,
    bone_offsets,
    landmark_offsets,
)
from posezoo.data.synthetic.people import draw_person
from posezoo.data.synthetic.pose import (
    CLASS_WEIGHTS,
    LIMITS,
    arms_are_clear,
    draw_pose,
    kinematics,
    local_rotations,
    retarget,
)
from posezoo.data.synthetic.streams import SampleStreams
from posezoo.skeletons import H36M17, SYNTHETIC25

BODY = Body(False, 1750.0, 1.0, 1.0, 1.0, 1.0, 1.0)
# The table of the dossier, written out again: a changed limit must be changed here too.
DOSSIER = {
    "leg": {
        "flexion": (-28, 125),
        "abduction": (-18, 48),
        "twist": (-40, 40),
        "knee": (0, 148),
        "ankle": (-28, 48),
    },
    "arm": {
        "elevation": (0, 175),
        "plane": (-35, 200),
        "axial": (-110, 85),
        "elbow": (0, 148),
        "pronation": (-70, 70),
        "wrist": (-40, 40),
    },
    "trunk": {"flexion": (-12, 45), "twist": (-35, 35), "lateral": (-25, 25)},
    "neck": {"flexion": (-35, 35), "twist": (-65, 65), "lateral": (-22, 22)},
}


def joints25(rotations: np.ndarray, positions: np.ndarray, curl: tuple[float, float], body: Body = BODY) -> np.ndarray:
    frames, offsets = landmark_offsets(body, curl)
    return np.einsum("nij,nj->ni", rotations[frames], offsets) + positions[frames]


def stream(index: int):
    return SampleStreams((0, 0, index))("pose")


def test_ten_thousand_poses_obey_all_limits() -> None:
    assert LIMITS == DOSSIER
    seen = np.zeros(len(POSE_CLASSES))
    one = stream(0)
    for _ in range(10_000):
        pose, _, positions = draw_pose(one, BODY)
        joints = [("leg", leg) for leg in pose.legs] + [("arm", arm) for arm in pose.arms]
        for part, joint in [*joints, ("trunk", pose.trunk), ("neck", pose.neck)]:
            for name, (low, high) in LIMITS[part].items():
                assert low <= getattr(joint, name) <= high, (pose.name, part, name)
        for chain, limit in (((SHOULDERS, ELBOWS, WRISTS), 148), ((HIPS, KNEES, ANKLES), 148)):
            for side in range(2):
                a, b, c = (positions[joint[side]] for joint in chain)
                cosine = (b - a) @ (c - b) / np.linalg.norm(b - a) / np.linalg.norm(c - b)
                assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) <= limit + 1e-6
        seen[POSE_CLASSES.index(pose.name)] += 1
    expected = np.array(CLASS_WEIGHTS) / sum(CLASS_WEIGHTS)
    assert np.abs(seen[:-1] / 10_000 - expected).max() < 0.015
    assert seen[-1] == 0


def test_mirrored_pose_mirrors_the_joints() -> None:
    for index in range(30):
        pose, rotations, positions = draw_pose(stream(index), BODY)
        joints = joints25(rotations, positions, (0.2, 0.9))
        other = joints25(*kinematics(local_rotations(pose.mirrored()), bone_offsets(BODY)), (0.9, 0.2))
        np.testing.assert_allclose(SYNTHETIC25.flip(other) * (-1, 1, 1), joints, atol=1e-6)


def test_left_is_the_persons_left() -> None:
    """Body frame: x to the left. Poses in which nothing crosses: shoulders, hips, eyes and ears always."""
    for index in range(50):
        _, rotations, positions = draw_pose(stream(index), BODY)
        joints = joints25(rotations, positions, (0.5, 0.5))
        for name, frame in (("hip", 0), ("shoulder", 2), ("eye", 4), ("ear", 4)):
            left, right = (joints[SYNTHETIC25.index(f"{side}_{name}")] for side in "lr")
            assert ((left - right) @ rotations[frame])[0] > 50


def test_bones_keep_their_lengths_and_are_symmetric() -> None:
    offsets = bone_offsets(BODY)
    for index in range(20):
        _, rotations, positions = draw_pose(stream(index), BODY)
        for frame, parent in enumerate(PARENTS[1:], start=1):
            length = np.linalg.norm(positions[frame] - positions[parent])
            assert length == pytest.approx(np.linalg.norm(offsets[frame]), abs=1e-6)
        joints = joints25(rotations, positions, (0.5, 0.5))
        for parent, child in SYNTHETIC25.bones:
            a, b = SYNTHETIC25.partner[parent], SYNTHETIC25.partner[child]
            if a == parent or b == child:
                continue
            mirrored = np.linalg.norm(joints[a] - joints[b])
            assert np.linalg.norm(joints[parent] - joints[child]) == pytest.approx(mirrored, abs=1e-6)


def test_standing_height_is_the_stature() -> None:
    """From the sole to the top of the head, upright; the prior's standing people bend a little."""
    top = SYNTHETIC25.index("head_top")
    for number in range(20):
        person = draw_person(SampleStreams((0, 0, number)), 0, 65.0, (1.0, *[0.0] * 12))
        straight = kinematics(np.broadcast_to(np.eye(3), (len(FRAMES), 3, 3)), bone_offsets(person.body))
        sole = person.parts.lowest(*straight)[~person.parts.loose].min()
        height = joints25(*straight, (0.5, 0.5), person.body)[top, 1] - sole
        leg = (person.body.leg - 1) * 0.48
        assert height / person.body.stature == pytest.approx(1 + leg, abs=0.03)
        assert 0.85 < person.joints[top, 1] / person.body.stature < 1.09


def test_knees_fold_backwards_and_elbows_forwards() -> None:
    """The heel goes behind the thigh, the hand in front of the upper arm: never the other way round."""
    for index in range(100):
        _, rotations, positions = draw_pose(stream(index), BODY)
        for side in range(2):
            shank = (positions[ANKLES[side]] - positions[KNEES[side]]) @ rotations[HIPS[side]]
            forearm = (positions[WRISTS[side]] - positions[ELBOWS[side]]) @ rotations[SHOULDERS[side]]
            assert shank[2] <= 1e-6
            assert forearm[2] >= -1e-6


def test_arms_are_clear_of_the_body() -> None:
    for index in range(200):
        _, rotations, positions = draw_pose(stream(index), BODY)
        assert arms_are_clear(rotations, positions, BODY) or positions[[*WRISTS], 1].min() < 0


def h36m_from(joints: np.ndarray) -> np.ndarray:
    """SYNTHETIC25, y up -> root-centred H36M-17, z up."""
    first = joints[: len(H36M17)]
    return ((first - first[0]) @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).T).astype(np.float32)


def test_mocap_positions_are_retargeted_by_direction() -> None:
    """Our own skeleton as mocap comes back with its limbs where they were, on another body's lengths."""
    tall = dataclasses.replace(BODY, stature=1950.0)
    limbs = [(4, 5), (5, 6), (1, 2), (2, 3), (11, 12), (12, 13), (14, 15), (15, 16)]
    for index in range(20):
        _, rotations, positions = draw_pose(stream(index), BODY)
        joints = joints25(rotations, positions, (0.5, 0.5))
        new_rotations, new_positions = retarget(h36m_from(joints), tall)
        again = joints25(new_rotations, new_positions, (0.5, 0.5))
        np.testing.assert_allclose(np.linalg.det(new_rotations), 1, atol=1e-9)
        for a, b in limbs:
            before, after = joints[b] - joints[a], again[b] - again[a]
            cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
            assert cosine > 0.9999
        lengths = [np.linalg.norm(new_positions[f] - new_positions[p]) for f, p in enumerate(PARENTS) if p >= 0]
        np.testing.assert_allclose(lengths, np.linalg.norm(bone_offsets(tall)[1:], axis=1), atol=1e-6)


@pytest.mark.shared_data
def test_captured_poses_keep_their_directions(shared: Path) -> None:
    poses = np.load(shared / "data" / "mocap" / "cmu_h17.npz")["poses_mm"]
    limbs = [
        H36M17.bones[i] for i, (a, _) in enumerate(H36M17.bones) if H36M17.joints[a][2:] in ("hip", "knee", "elbow")
    ]
    up = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    for pose in poses[::100]:
        joints, captured = joints25(*retarget(pose, BODY), (0.5, 0.5)), pose @ up.T
        for a, b in limbs:
            before, after = captured[b] - captured[a], joints[b] - joints[a]
            assert before @ after / np.linalg.norm(before) / np.linalg.norm(after) > 0.9999


def test_axis_angles_of_the_rest_pose_stand_with_arms_out() -> None:
    rest = np.zeros((24, 3))
    rest[0] = np.pi / 2, 0, 0  # SMPL's rest pose is y up; captured data is z up
    rotations, positions = retarget(rest, BODY)
    joints = joints25(rotations, positions, (0.0, 0.0))

    left, right = joints[SYNTHETIC25.index("l_wrist")], joints[SYNTHETIC25.index("r_wrist")]
    assert left[0] > 500
    assert right[0] < -500
    assert abs(left[1] - joints[SYNTHETIC25.index("l_shoulder")][1]) < 1
    assert joints[SYNTHETIC25.index("head_top")][1] > 700
    assert joints[SYNTHETIC25.index("l_ankle")][1] < -700
    assert joints[SYNTHETIC25.index("nose")][2] > 0


def test_presets_weigh_every_class() -> None:
    for preset in PRESETS.values():
        assert len(preset.class_weights) == len(POSE_CLASSES) - 1
