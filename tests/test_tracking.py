"""Identities that survive crossings and gaps, the assignment that costs least, and a filter that calms and follows."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from inference_helpers import person

from posezoo.cameras import Camera
from posezoo.people import People, no_people, project_joints
from posezoo.skeletons import H36M17
from posezoo.tracking import OneEuro, OneEuroFilter, Tracker, assign, distance_2d, distance_3d

CAMERA = Camera.create([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])


def frame(time: float, *poses: np.ndarray) -> People:
    joints3d = np.array(poses, np.float32).reshape(-1, 17, 3)
    joints2d = project_joints(joints3d, CAMERA)
    shape = len(joints3d), 17
    boxes, ones = np.zeros((shape[0], 4), np.float32), np.ones(shape[0], np.float32)
    return People(joints3d, joints2d, np.ones(shape, np.float32), boxes, ones, H36M17, CAMERA, (640, 480), time=time)


def at(x: float, z: float = 4000.0) -> np.ndarray:
    return person(depth=z) + np.float32([x, 0, 0])


@pytest.mark.parametrize("seed", range(20))
def test_assignment_costs_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = (int(n) for n in rng.integers(0, 6, 2))
    costs = rng.random((rows, columns))
    pairs = assign(costs)
    few, many = min(rows, columns), max(rows, columns)
    square = costs if rows <= columns else costs.T
    best = min(sum(square[i, p[i]] for i in range(few)) for p in itertools.permutations(range(many), few))
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == few
    assert sum(costs[pair] for pair in pairs) == pytest.approx(best)


def test_forbidden_pairs_stay_apart() -> None:
    assert assign(np.array([[1e6, 1.0], [1e6, 0.5]])) == [(1, 1)]
    assert assign(np.zeros((0, 3))) == []
    assert assign(np.array([[0.4, 0.5], [0.1, 0.9]])) == [(0, 1), (1, 0)]  # the greedy choice of 0.1 happens to fit
    assert assign(np.array([[0.1, 0.2], [0.0, 0.9]])) == [(0, 1), (1, 0)]


def test_people_keep_their_numbers_while_they_cross() -> None:
    """Two people walk past each other at different distances; the detector lists them by chance."""
    tracker, rng, first = Tracker(smooth=False), np.random.default_rng(0), []
    for step in range(41):
        x = -1000 + 50 * step
        poses = [at(x, 3000), at(-x, 5000)]
        order = rng.permutation(2)
        people = tracker.update(frame(step / 25, *(poses[i] for i in order)))
        ids = people.ids[np.argsort(order)].tolist()
        first = ids if step == 0 else first
        assert ids == first
    assert sorted(first) == [1, 2]


def test_a_gap_is_bridged_and_a_long_one_is_not() -> None:
    tracker = Tracker()
    assert tracker.update(frame(0.0, at(0))).ids.tolist() == [1]
    assert len(tracker.update(frame(0.1))) == 0
    assert tracker.update(frame(0.6, at(100))).ids.tolist() == [1]
    assert tracker.update(frame(2.0, at(100))).ids.tolist() == [2]
    assert tracker.update(frame(2.1, at(100), at(1500))).ids.tolist() == [2, 3]


def test_somebody_far_away_is_somebody_else() -> None:
    tracker = Tracker()
    tracker.update(frame(0.0, at(-1500)))
    assert tracker.update(frame(0.04, at(1500))).ids.tolist() == [2]


def test_distances() -> None:
    pose = at(0)
    assert distance_3d(pose, pose * 1.5) == pytest.approx(0, abs=1e-3)  # the same rays
    assert distance_3d(pose, pose + np.float32([100, 0, 0])) == pytest.approx(100, rel=1e-4)
    assert distance_3d(pose, -pose) == np.inf
    flat = pose[:, :2]
    tall = np.ptp(flat, axis=0).max()
    assert distance_2d(flat, flat + np.float32([tall / 2, 0])) == pytest.approx(0.5)
    assert distance_2d(flat * np.nan, flat) == np.inf


def test_smoothing_calms_who_stands_still_and_follows_who_walks() -> None:
    rng, still, moving = np.random.default_rng(1), Tracker(), Tracker()
    calm, lag = [], []
    for step in range(60):
        time = step / 30
        noisy = (at(0) + rng.normal(0, 15, (17, 3))).astype(np.float32)
        calm.append(still.update(frame(time, noisy)).joints3d[0])
        walked = moving.update(frame(time, at(1500 * time - 1500)))
        lag.append(np.abs(walked.joints3d[0] - at(1500 * time - 1500)).max())
        np.testing.assert_allclose(walked.joints2d, project_joints(walked.joints3d, CAMERA), atol=1e-3)
    jitter = np.diff(np.array(calm)[20:], axis=0).std()
    assert jitter < 0.35 * 15 * np.sqrt(2)
    assert lag[0] == 0
    assert max(lag[30:]) < 60  # 40 ms at 1.5 m/s


def test_the_one_euro_filter_by_hand() -> None:
    """Second value of a filter without speed term: alpha = 1 / (1 + 1 / (2 pi f dt))."""
    smooth = OneEuroFilter(OneEuro(min_cutoff=1.0, beta=0.0))
    assert smooth(np.zeros((1, 3)), 0.0).tolist() == [[0, 0, 0]]
    alpha = 1 / (1 + 1 / (2 * np.pi * 0.1))
    np.testing.assert_allclose(smooth(np.full((1, 3), 10.0), 0.1), 10 * alpha)
    assert np.isnan(smooth(np.full((1, 3), np.nan), 0.2)).all()
    np.testing.assert_allclose(smooth(np.full((1, 3), 10 * alpha), 0.3), 10 * alpha)


def test_unknown_joints_and_nobody_pass() -> None:
    pose = at(0)
    pose[3] = np.nan
    tracker = Tracker()
    for step in range(3):
        people = tracker.update(frame(step / 25, pose))
    assert np.isnan(people.joints3d[0, 3]).all()
    assert np.isfinite(np.delete(people.joints3d[0], 3, 0)).all()
    assert len(tracker.update(replace(no_people(H36M17, CAMERA, (640, 480)), time=1.0))) == 0
    with pytest.raises(ValueError, match="needs the time"):
        tracker.update(no_people(H36M17, CAMERA, (640, 480)))
