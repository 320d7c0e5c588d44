"""A person: a body with a look and a pose, standing somewhere in the world.

World: y up, ground y = 0, mm. A person is placed by turning it about the vertical and moving it over the
ground.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from posezoo.data.synthetic.body import (
    ANKLES,
    CHEST,
    ELBOWS,
    HEAD,
    HIPS,
    KNEES,
    NECK,
    PELVIS,
    SHOULDERS,
    SPINE,
    WRISTS,
    Body,
    Look,
    Parts,
    build_parts,
    draw_body,
    draw_look,
    landmark_offsets,
)
from posezoo.data.synthetic.pose import POSE_CLASSES, draw_pose, retarget
from posezoo.data.synthetic.raster import Floats, Solids
from posezoo.data.synthetic.shade import texture_count
from posezoo.data.synthetic.streams import SampleStreams

Mocap = NDArray[np.floating]


@dataclass(frozen=True)
class Person:
    """A posed, dressed body in the world.

    Attributes:
        body: Proportions.
        look: Hair, clothes, colours.
        pose_class: Index into POSE_CLASSES.
        yaw: Heading, radians about the vertical; 0 faces world z.
        rotations: [17,3,3] body frames -> world.
        positions: [17,3] body frames' origins, mm.
        parts: The solids in their frames.
        seat_height: Where a chair's seat has to be, mm; 0 for those who do not sit on one.
    """

    body: Body
    look: Look
    pose_class: int
    yaw: float
    rotations: Floats
    positions: Floats
    parts: Parts
    seat_height: float

    @cached_property
    def solids(self) -> Solids:
        """Flesh and clothes in the world."""
        return self.parts.posed(self.rotations, self.positions)

    @cached_property
    def joints(self) -> Floats:
        """[25,3] SYNTHETIC25 joints in the world, mm."""
        frames, offsets = landmark_offsets(self.body, self.look.finger_curl)
        joints: Floats = np.einsum("nij,nj->ni", self.rotations[frames], offsets) + self.positions[frames]
        return joints

    def moved(self, x: float, z: float) -> "Person":
        """The same person elsewhere on the ground."""
        return replace(self, positions=self.positions + np.array([x, 0.0, z]))


def draw_person(
    streams: SampleStreams,
    number: int,
    stature_sd: float,
    class_weights: tuple[float, ...],
    mocap: Mocap | None = None,
) -> Person:
    """Draw person `number` of a sample, standing on the world's origin."""
    body = draw_body(streams("body", number), stature_sd)
    look = draw_look(streams("look", number), body, texture_count())
    stream = streams("pose", number)
    yaw = stream.uniform(-np.pi, np.pi)
    lift, seated, name = 0.0, False, "mocap"
    if mocap is None:
        pose, rotations, positions = draw_pose(stream, body, class_weights)
        lift, seated, name = pose.lift, pose.seated, pose.name
    else:
        rotations, positions = retarget(mocap[stream.integer(len(mocap))], body)
    thighs = (positions[list(KNEES)] - positions[list(HIPS)]).sum(0) @ rotations[PELVIS]
    parts = build_parts(body, look, thighs)
    turn = _turn(yaw)
    rotations, positions = turn @ rotations, positions @ turn.T
    lowest = parts.lowest(rotations, positions)
    ground = lowest[~parts.loose].min()
    positions[:, 1] += lift - ground
    seat = _seat_height(parts, lowest + lift - ground) if seated else 0.0
    return Person(body, look, POSE_CLASSES.index(name), yaw, rotations, positions, parts, seat)


def _turn(yaw: float) -> Floats:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def _seat_height(parts: Parts, lowest: Floats) -> float:
    """Top of the seat under the lowest buttock."""
    buttocks = [i for i, material in enumerate(parts.material) if material == "hip"]
    return float(lowest[buttocks].min())


# ---------------------------------------------------------------------------------------------- room

# Capsules that hold a dressed body: ends are frames or the tips numbered below, radii are fractions of the
# stature.
_L_HAND, _R_HAND, _L_TOE, _R_TOE, _TOP = range(17, 22)
_CAPSULES = (
    (PELVIS, SPINE, 0.085), (SPINE, CHEST, 0.088), (CHEST, NECK, 0.080), (NECK, HEAD, 0.050),
    (HEAD, _TOP, 0.066),
    (CHEST, SHOULDERS[0], 0.062), (CHEST, SHOULDERS[1], 0.062),
    (SHOULDERS[0], ELBOWS[0], 0.042), (SHOULDERS[1], ELBOWS[1], 0.042),
    (ELBOWS[0], WRISTS[0], 0.036), (ELBOWS[1], WRISTS[1], 0.036),
    (WRISTS[0], _L_HAND, 0.026), (WRISTS[1], _R_HAND, 0.026),
    (PELVIS, HIPS[0], 0.082), (PELVIS, HIPS[1], 0.082),
    (HIPS[0], KNEES[0], 0.064), (HIPS[1], KNEES[1], 0.064),
    (KNEES[0], ANKLES[0], 0.048), (KNEES[1], ANKLES[1], 0.048),
    (ANKLES[0], _L_TOE, 0.032), (ANKLES[1], _R_TOE, 0.032),
)  # fmt: skip
_CAPSULE_A = np.array([a for a, _, _ in _CAPSULES])
_CAPSULE_B = np.array([b for _, b, _ in _CAPSULES])
_CAPSULE_RADIUS = np.array([radius for _, _, radius in _CAPSULES])
_TIPS = (21, 22, 23, 24, 10)  # hands, toes and head top in SYNTHETIC25


@dataclass(frozen=True)
class Capsules:
    """Spheres swept along segments: `start`, `end` [n,3] and `radius` [n], mm."""

    start: Floats
    end: Floats
    radius: Floats


def capsules(person: Person) -> Capsules:
    """A coarse hull of a dressed person in the world."""
    points = np.concatenate([person.positions, person.joints[list(_TIPS)]])
    radius = _CAPSULE_RADIUS * person.body.stature * max(person.body.girth, 0.9)
    return Capsules(points[_CAPSULE_A], points[_CAPSULE_B], radius)


def clearance(a: Capsules, b: Capsules) -> float:
    """Smallest gap between two sets of capsules, mm; negative when they overlap."""
    gap = segment_distances(a.start, a.end, b.start, b.end)
    return float((gap - a.radius[:, None] - b.radius).min())


def segment_distances(p0: Floats, p1: Floats, q0: Floats, q1: Floats) -> Floats:
    """[n,m] distances between segments p [n,3] and q [m,3] (Ericson, Real-Time Collision Detection)."""
    d1, d2 = (p1 - p0)[:, None], (q1 - q0)[None]
    r = p0[:, None] - q0[None]
    a, e = _dot(d1, d1) + 1e-9, _dot(d2, d2) + 1e-9
    b, c, f = _dot(d1, d2), _dot(d1, r), _dot(d2, r)
    denominator = a * e - b * b
    parallel = denominator < 1e-6 * a * e
    s = np.where(parallel, 0.0, _share((b * f - c * e) / np.where(parallel, 1.0, denominator)))
    t = _share((b * s + f) / e)
    s = _share((b * t - c) / a)
    gap = r + s[..., None] * d1 - t[..., None] * d2
    distances: Floats = np.sqrt(_dot(gap, gap))
    return distances


def _dot(u: Floats, v: Floats) -> Floats:
    """Over the last axis of three: in the order of `sum`, but not row by row."""
    product: Floats = u[..., 0] * v[..., 0]
    product += u[..., 1] * v[..., 1]
    product += u[..., 2] * v[..., 2]
    return product


def _share(values: Floats) -> Floats:
    """Cut to 0..1; `np.clip` takes longer on so few numbers."""
    return np.asarray(np.minimum(np.maximum(values, 0.0), 1.0))


def hidden_behind(eye: Floats, points: Floats, bodies: Capsules) -> NDArray[np.bool_]:
    """[n] which points [n,3] the bodies hide from the eye; no pixels involved.

    The capsules are a little wider than the bodies; 0.8 of their radius is about the silhouette.
    """
    starts = np.broadcast_to(eye, points.shape)
    gap = segment_distances(starts, points, bodies.start, bodies.end)
    return np.asarray((gap < bodies.radius * 0.8).any(axis=1))
