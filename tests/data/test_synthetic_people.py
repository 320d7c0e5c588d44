"""Bodies on the ground, and the room between them."""

import numpy as np
import pytest

from posezoo.data.synthetic import POSE_CLASSES, PRESETS
from posezoo.data.synthetic.body import PART_OF_FRAME
from posezoo.data.synthetic.people import capsules, draw_person, segment_distances
from posezoo.data.synthetic.pose import CLASS_WEIGHTS
from posezoo.data.synthetic.raster import CAP_A, CAP_B
from posezoo.data.synthetic.scene import compose
from posezoo.data.synthetic.streams import SampleStreams

AIRBORNE = ("run", "jump", "random")


def surface_points(person) -> tuple[np.ndarray, np.ndarray]:
    """Points on the end balls of every solid [n,2,k,3], and which solids carry weight."""
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((400, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    solids = person.solids
    to_world = np.linalg.inv(solids.to_local)
    ends = []
    for bit, radius, height in ((CAP_A, solids.radius_a, 0), (CAP_B, solids.radius_b, 1)):
        local = unit[None] * radius[:, None, None] + np.array([0, 1, 0]) * (height * solids.length)[:, None, None]
        points = np.einsum("nij,nkj->nki", to_world, local) + solids.centre[:, None]
        points[(solids.shape & bit) == 0] = np.nan
        ends.append(points)
    return np.stack(ends, 1), ~person.parts.loose


def test_nobody_sinks_and_only_jumpers_float() -> None:
    floating = 0
    for index in range(150):
        person = draw_person(SampleStreams((0, 0, index)), 0, 65.0, CLASS_WEIGHTS)
        points, solid = surface_points(person)
        lowest = np.nanmin(points[solid][..., 1])
        assert lowest > -20
        if POSE_CLASSES[person.pose_class] not in AIRBORNE:
            assert lowest < 25
        else:
            floating += lowest > 25
    assert floating > 3


def test_sitters_have_a_seat_at_hip_height() -> None:
    only_sit = tuple(float(name == "sit") for name in POSE_CLASSES[:-1])
    for index in range(30):
        person = draw_person(SampleStreams((0, 0, index)), 0, 65.0, only_sit)
        assert 150 < person.seat_height < 700
        assert 20 < person.positions[0, 1] - person.seat_height < 180


def test_segment_distances_against_sampling() -> None:
    rng = np.random.default_rng(1)
    p0, p1, q0, q1 = rng.uniform(-1, 1, (4, 40, 3))
    steps = np.linspace(0, 1, 101)[:, None]
    exact = segment_distances(p0, p1, q0, q1)
    for i in range(40):
        p, q = p0[i] + steps * (p1[i] - p0[i]), q0[i] + steps * (q1[i] - q0[i])
        sampled = np.linalg.norm(p[:, None] - q[None], axis=2).min()
        assert exact[i, i] == pytest.approx(sampled, abs=0.02)
        assert exact[i, i] <= sampled + 1e-9


def test_companions_do_not_touch() -> None:
    """Every solid of one body against every solid of the other, by points: bodies are apart, not only capsules."""
    together = 0
    for index in range(60):
        people = compose(index, "train", PRESETS["multi"]).people
        together += len(people) >= 2
        hulls = [capsules(person) for person in people]
        for i in range(len(people)):
            for j in range(i):
                a, b = hulls[i], hulls[j]
                gap = segment_distances(a.start, a.end, b.start, b.end) - a.radius[:, None] - b.radius
                assert gap.min() > 0
                centres = people[i].solids.centre, people[j].solids.centre
                assert np.linalg.norm(centres[0][:, None] - centres[1], axis=2).min() > 30
    assert together >= 58  # one may be left out for want of room, but rarely


def test_capsules_hold_the_body() -> None:
    """The hull may be wider than the body, but little of the body may be outside."""
    outside = []
    for index in range(20):
        person = draw_person(SampleStreams((0, 0, index)), 0, 65.0, CLASS_WEIGHTS)
        points, solid = surface_points(person)
        flesh = points[solid]
        flesh = flesh[np.isfinite(flesh).all(-1)][::37]
        hull = capsules(person)
        outside.append((segment_distances(flesh, flesh, hull.start, hull.end) - hull.radius).min(1))
    assert np.mean(np.concatenate(outside) > 15) < 0.04


def test_every_frame_has_a_part_name() -> None:
    assert sorted(set(PART_OF_FRAME.tolist())) == list(range(15))
