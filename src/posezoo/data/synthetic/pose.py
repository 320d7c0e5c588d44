"""Poses: what people do, the limits of their joints, and forward kinematics.

Angles are degrees, given for the left side; the right side mirrors them (x, -y, -z), so a pose is symmetric
when both sides hold equal numbers. The shoulder is described as in the ISB recommendation (plane of
elevation, elevation, axial rotation), which makes its limits natural.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from posezoo.data.synthetic.body import (
    ANKLES,
    CHEST,
    ELBOWS,
    FRAMES,
    HEAD,
    HIPS,
    KNEES,
    NECK,
    PARENTS,
    PELVIS,
    SHOULDERS,
    SPINE,
    WRISTS,
    Body,
    bone_offsets,
)
from posezoo.data.synthetic.raster import Floats
from posezoo.data.synthetic.streams import Stream, SyntheticDataError


@dataclass
class Leg:
    """Angles of one leg; abduction is outwards, the ankle's plantar flexion (toes down) is positive."""

    flexion: float = 0.0
    abduction: float = 0.0
    twist: float = 0.0
    knee: float = 0.0
    ankle: float = 0.0


@dataclass
class Arm:
    """Angles of one arm; plane 0 raises it to the front, 90 to the side, 180 to the back."""

    elevation: float = 0.0
    plane: float = 0.0
    axial: float = 0.0
    elbow: float = 0.0
    pronation: float = 0.0
    wrist: float = 0.0


@dataclass
class Bend:
    """Trunk or neck: forward flexion, twist to the left, lateral bend to the right."""

    flexion: float = 0.0
    twist: float = 0.0
    lateral: float = 0.0


# Hard limits in degrees: every pose that leaves this module obeys them.
LIMITS: dict[str, dict[str, tuple[float, float]]] = {
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


@dataclass
class Pose:
    """A pose as angles.

    Attributes:
        name: One of POSE_CLASSES.
        pitch: Forward tilt of the pelvis.
        roll: Sideways tilt of the pelvis, after the pitch.
        trunk: Lumbar and thoracic spine together.
        neck: Neck and head together.
        arms: (left, right).
        legs: (left, right).
        lift: Height of the lowest point above the ground, mm.
        seated: On a chair.
    """

    name: str
    pitch: float
    roll: float
    trunk: Bend
    neck: Bend
    arms: tuple[Arm, Arm]
    legs: tuple[Leg, Leg]
    lift: float = 0.0
    seated: bool = False

    def clamped(self) -> "Pose":
        """The pose within LIMITS (in place)."""
        for leg in self.legs:
            _clamp(leg, LIMITS["leg"])
        for arm in self.arms:
            _clamp(arm, LIMITS["arm"])
        _clamp(self.trunk, LIMITS["trunk"])
        _clamp(self.neck, LIMITS["neck"])
        return self

    def mirrored(self) -> "Pose":
        """The pose seen in a mirror, the person's left and right swapped."""
        trunk, neck = self.trunk, self.neck
        return Pose(
            self.name,
            self.pitch,
            -self.roll,
            Bend(trunk.flexion, -trunk.twist, -trunk.lateral),
            Bend(neck.flexion, -neck.twist, -neck.lateral),
            self.arms[::-1],
            self.legs[::-1],
            self.lift,
            self.seated,
        )


def _clamp(joint: Leg | Arm | Bend, limits: dict[str, tuple[float, float]]) -> None:
    for name, (low, high) in limits.items():
        setattr(joint, name, min(max(getattr(joint, name), low), high))


# ------------------------------------------------------------------------------------------------ arms

Range = tuple[float, float]
# elevation, plane, axial, elbow, pronation, wrist: each drawn uniformly.
_ARM_CLASSES: dict[str, tuple[float, tuple[Range, Range, Range, Range, Range, Range]]] = {
    "hang": (4, ((1, 24), (20, 110), (-20, 40), (2, 48), (-40, 60), (-20, 20))),
    "swing_forward": (0.6, ((5, 40), (-20, 30), (-10, 20), (15, 95), (-30, 40), (-5, 5))),
    "swing_back": (0.4, ((5, 40), (150, 200), (-10, 20), (15, 95), (-30, 40), (-5, 5))),
    "reach": (2, ((45, 150), (-25, 110), (-40, 60), (0, 60), (-60, 60), (-30, 30))),
    "up": (1, ((120, 172), (0, 100), (-40, 40), (0, 70), (-60, 60), (-20, 20))),
    "wave": (1, ((60, 110), (60, 105), (-110, -60), (60, 130), (-40, 40), (-30, 30))),
    "phone": (1, ((30, 75), (10, 70), (0, 30), (120, 148), (0, 60), (-10, 20))),
    "photo": (1, ((50, 85), (5, 35), (10, 45), (85, 130), (0, 60), (-10, 10))),
    "hips": (1, ((30, 50), (75, 115), (60, 85), (75, 105), (0, 40), (0, 30))),
    "crossed": (1, ((25, 45), (10, 30), (50, 80), (85, 110), (0, 40), (-5, 5))),
    "carry": (1, ((5, 35), (-5, 30), (0, 20), (60, 110), (-60, 0), (-5, 5))),
    "side": (1, ((60, 100), (70, 110), (-30, 30), (0, 25), (-50, 50), (-5, 5))),
    "random": (2, ((0, 160), (-35, 130), (-70, 70), (0, 140), (-70, 70), (-40, 40))),
}
_ARM_NAMES = tuple(_ARM_CLASSES)
_ARM_WEIGHTS = tuple(weight for weight, _ in _ARM_CLASSES.values())
# The last resorts: to the side, forwards (lying on a side), a little backwards (prone).
_CLEAR_ARMS = (Arm(72, 75, elbow=15), Arm(80, 0, elbow=15), Arm(90, 105, elbow=0))

Arms = tuple[Arm, Arm]
ArmSampler = Callable[[Stream], Arms]


def _draw_arm(s: Stream, name: str) -> Arm:
    return Arm(*(s.uniform(low, high) for low, high in _ARM_CLASSES[name][1]))


def _everyday_arms(s: Stream) -> Arms:
    """Two arms of any class; in 55 % both of the same."""
    first = _ARM_NAMES[s.weighted(_ARM_WEIGHTS)]
    second = first if s.chance(0.55) else _ARM_NAMES[s.weighted(_ARM_WEIGHTS)]
    return _draw_arm(s, first), _draw_arm(s, second)


def _busy_arms(s: Stream) -> Arms:
    first = s.choice(("reach", "up", "side", "random"))
    return _draw_arm(s, first), _draw_arm(s, s.choice((first, "hang", "random")))


# ------------------------------------------------------------------------------------------------ classes


@dataclass
class _Draft:
    """A pose being drawn: what a class leaves alone keeps these values."""

    legs: tuple[Leg, Leg]
    trunk: Bend
    neck: Bend
    pitch: float
    roll: float
    lift: float = 0.0
    arms: ArmSampler = _everyday_arms


def _standing_draft(s: Stream) -> _Draft:
    legs = tuple(
        Leg(s.normal(2, 4), s.normal(6, 5), s.normal(0, 6), abs(s.normal(6, 6)), s.uniform(0, 12)) for _ in range(2)
    )
    trunk = Bend(s.normal(4, 5), s.normal(0, 8), s.normal(0, 5))
    neck = Bend(s.normal(5, 13), s.normal(0, 24), s.normal(0, 8))
    return _Draft((legs[0], legs[1]), trunk, neck, s.normal(0, 3), s.normal(0, 3))


def _stand(s: Stream, d: _Draft) -> None:
    if s.chance(0.3):  # weight on one leg
        free = d.legs[s.integer(2)]
        free.flexion, free.knee, free.abduction = s.uniform(5, 25), s.uniform(15, 45), s.uniform(0, 14)


def _walk(s: Stream, d: _Draft) -> None:
    _stride(s, d, swing=(18, 32), lean=4, bend=8, fold=(35, 55))
    d.trunk.flexion, d.pitch = s.normal(4, 4), s.uniform(0, 4)
    _add_arm_swing(s, d, (12, 32), (10, 45))


def _run(s: Stream, d: _Draft) -> None:
    _stride(s, d, swing=(40, 60), lean=12, bend=25, fold=(60, 85))
    d.trunk.flexion, d.pitch, d.lift = s.uniform(5, 18), s.uniform(3, 15), s.uniform(0, 120)
    _add_arm_swing(s, d, (35, 55), (70, 105))


def _stride(s: Stream, d: _Draft, swing: Range, lean: float, bend: float, fold: Range) -> None:
    """One phase drives both legs and the counter-rotation of the trunk."""
    phase, amplitude = s.uniform(0, 2 * math.pi), s.uniform(*swing)
    for leg, offset in zip(d.legs, (0, math.pi), strict=True):
        angle = phase + offset
        leg.flexion = lean + amplitude * math.sin(angle)
        leg.knee = bend + s.uniform(*fold) * max(0.0, math.cos(angle + 0.3))
        leg.abduction, leg.ankle = s.uniform(0, 6), s.uniform(-5, 20)
    d.trunk.twist, d.trunk.lateral = 12 * math.sin(phase), s.normal(0, 3)


def _add_arm_swing(s: Stream, d: _Draft, swing: Range, elbow: Range) -> None:
    """Most arms swing against the leg of their side; the others carry, phone or wave."""
    if s.chance(0.25):
        return
    lean = (d.legs[0].flexion - d.legs[1].flexion) / 2
    strength = max(min(lean / 25, 1.0), -1.0)

    def arms(s: Stream) -> Arms:
        angles = [side * strength * s.uniform(*swing) for side in (-1, 1)]
        planes = [s.uniform(-5, 25) if angle > 0 else s.uniform(165, 190) for angle in angles]
        left, right = (
            Arm(abs(angle) + 5, plane, s.uniform(-10, 10), s.uniform(*elbow), s.uniform(-20, 30), 0)
            for angle, plane in zip(angles, planes, strict=True)
        )
        return left, right

    d.arms = arms


def _sit(s: Stream, d: _Draft) -> None:
    d.pitch = s.uniform(-18, 8)
    for leg in d.legs:
        # Thighs stay near the horizontal, whatever the pelvis does: they lie on the seat.
        leg.flexion = 90 + d.pitch + s.uniform(-8, 12)
        leg.abduction, leg.twist = s.uniform(-3, 22), s.uniform(-20, 20)
        leg.knee, leg.ankle = s.uniform(60, 108), s.uniform(-5, 25)
    if s.chance(0.2):  # one leg over the other
        d.legs[0].flexion, d.legs[0].abduction = d.legs[1].flexion + 14, s.uniform(-15, -5)
        d.legs[1].abduction = s.uniform(-3, 4)
    d.trunk = Bend(s.uniform(0, 25), s.normal(0, 12), s.normal(0, 7))


def _sit_floor(s: Stream, d: _Draft) -> None:
    style = s.choice(("stretched", "hugged", "crossed"))
    d.pitch, d.trunk = s.uniform(-22, -2), Bend(s.uniform(0, 30), s.normal(0, 10), s.normal(0, 8))
    for leg in d.legs:
        # Feet on the floor: a thigh raised by an angle wants a knee bent by twice that.
        rise = s.uniform(0, 15) if style == "stretched" else s.uniform(30, 55)
        leg.knee = rise * s.uniform(1.7, 2.0) + (s.uniform(0, 20) if style == "hugged" else 0)
        leg.abduction, leg.twist, leg.ankle = s.uniform(0, 25), s.uniform(-10, 15), s.uniform(0, 30)
        if style == "crossed":
            rise, leg.knee = s.uniform(4, 20), s.uniform(105, 138)
            leg.abduction, leg.twist = s.uniform(32, 48), s.uniform(-40, -22)
        leg.flexion = 90 + d.pitch + rise


def _squat(s: Stream, d: _Draft) -> None:
    depth = s.uniform(50, 125)
    for leg in d.legs:
        leg.flexion, leg.knee = depth + s.uniform(-8, 8), depth * s.uniform(0.95, 1.15) + s.uniform(-5, 10)
        leg.abduction, leg.twist, leg.ankle = s.uniform(5, 35), s.uniform(-30, 10), s.uniform(-25, -5)
    d.pitch, d.trunk = s.uniform(5, 35), Bend(s.uniform(0, 30), s.normal(0, 8), s.normal(0, 5))


def _kneel(s: Stream, d: _Draft) -> None:
    front, back = d.legs
    front.flexion, front.knee = s.uniform(72, 98), s.uniform(75, 105)
    if s.chance(0.35):  # on both knees
        front.flexion, front.knee, front.ankle = s.uniform(-8, 25), s.uniform(88, 128), s.uniform(20, 45)
    back.flexion, back.knee, back.ankle = s.uniform(-12, 18), s.uniform(85, 112), s.uniform(10, 45)
    d.trunk.flexion = s.uniform(-5, 30)


def _lunge(s: Stream, d: _Draft) -> None:
    front, back = d.legs
    front.flexion, front.knee, front.abduction = s.uniform(40, 90), s.uniform(30, 100), s.uniform(0, 25)
    back.flexion, back.knee, back.abduction = s.uniform(-25, 0), s.uniform(0, 60), s.uniform(0, 25)
    d.trunk = Bend(s.uniform(-5, 25), s.normal(0, 15), s.normal(0, 8))


def _jump(s: Stream, d: _Draft) -> None:
    d.lift = s.uniform(50, 550)
    for leg in d.legs:
        leg.flexion, leg.abduction = s.uniform(-20, 80), s.uniform(0, 40)
        leg.knee, leg.ankle = s.uniform(0, 110), s.uniform(10, 45)
    d.trunk = Bend(s.uniform(-12, 20), s.normal(0, 10), s.normal(0, 8))
    if s.chance(0.6):
        d.arms = _alike_arms


def _alike_arms(s: Stream) -> Arms:
    name = s.choice(("up", "reach", "side"))
    arm = _draw_arm(s, name)
    other = Arm(*(getattr(arm, f.name) + s.normal(0, 8) for f in fields(Arm)))
    return arm, other


def _bend(s: Stream, d: _Draft) -> None:
    depth = s.uniform(25, 90)
    for leg in d.legs:
        leg.flexion, leg.knee = depth + s.uniform(-8, 8), abs(s.normal(12, 15))
    d.pitch, d.trunk = depth, Bend(s.uniform(5, 35), s.normal(0, 12), s.normal(0, 6))
    if s.chance(0.6):

        def reaching_down(s: Stream) -> Arms:
            left, right = (
                Arm(
                    depth + s.uniform(-25, 35), s.uniform(-15, 30), s.uniform(-20, 20), s.uniform(0, 50),
                    s.uniform(-40, 40), 0,
                )
                for _ in range(2)
            )  # fmt: skip
            return left, right

        d.arms = reaching_down


def _lie(s: Stream, d: _Draft) -> None:
    """On the back, the front or a side; what would push the floor stays level."""
    prone, side = s.chance(0.35), s.chance(0.35)
    d.pitch = (90 if prone else -90) + s.normal(0, 4)
    d.roll = s.choice((-84.0, 84.0)) + s.normal(0, 5) if side else 0.0
    for leg in d.legs:
        rise = s.uniform(0, 60) * s.unit()
        leg.flexion, leg.abduction, leg.ankle = rise, s.uniform(0, 5 if side else 25), s.uniform(10, 40)
        leg.knee = rise * s.uniform(1.0, 1.9)
        if prone and not side:
            leg.flexion, leg.knee, leg.ankle = s.uniform(-5, 2), s.uniform(0, 90) * s.unit(), s.uniform(30, 48)
    d.trunk = Bend(s.uniform(0, 10), s.normal(0, 6), s.normal(0, 5))
    d.neck.flexion = s.uniform(0, 22)
    if side:
        d.arms = _forward_arms
    elif prone:
        d.trunk.flexion, d.neck.flexion, d.arms = s.uniform(-10, 0), s.uniform(-22, -2), _spread_arms


def _forward_arms(s: Stream) -> Arms:
    left, right = (
        Arm(s.uniform(35, 130), s.uniform(-8, 12), s.uniform(-10, 10), s.uniform(0, 90), s.uniform(-40, 40), 0)
        for _ in range(2)
    )
    return left, right


def _spread_arms(s: Stream) -> Arms:
    left, right = (
        Arm(s.uniform(8, 165), s.uniform(92, 112), s.uniform(-10, 10), s.uniform(0, 22), s.uniform(-40, 40), 0)
        for _ in range(2)
    )
    return left, right


def _reach(s: Stream, d: _Draft) -> None:
    d.trunk, d.arms = Bend(s.uniform(-12, 35), s.normal(0, 16), s.normal(0, 10)), _busy_arms


def _random(s: Stream, d: _Draft) -> None:
    for leg in d.legs:
        leg.flexion, leg.knee = s.uniform(-20, 115) * s.uniform(0.3, 1), s.uniform(0, 135) * s.uniform(0.3, 1)
        leg.abduction, leg.twist, leg.ankle = s.uniform(-10, 45), s.uniform(-35, 35), s.uniform(-15, 45)
    d.lift = s.uniform(0, 300) if s.chance(0.3) else 0.0
    d.trunk, d.arms = Bend(s.uniform(-12, 35), s.normal(0, 16), s.normal(0, 10)), _busy_arms


_CLASSES: dict[str, tuple[float, Callable[[Stream, _Draft], None]]] = {
    "stand": (5, _stand),
    "walk": (4, _walk),
    "run": (2, _run),
    "sit": (4, _sit),
    "sit_floor": (2, _sit_floor),
    "squat": (2, _squat),
    "kneel": (1, _kneel),
    "lunge": (1, _lunge),
    "jump": (2, _jump),
    "bend": (2, _bend),
    "lie": (1, _lie),
    "reach": (2, _reach),
    "random": (2, _random),
}
POSE_CLASSES = (*_CLASSES, "mocap")
CLASS_WEIGHTS = tuple(weight for weight, _ in _CLASSES.values())

_ARM_TRIES = 8


def draw_pose(
    stream: Stream, body: Body, class_weights: tuple[float, ...] = CLASS_WEIGHTS
) -> tuple[Pose, Floats, Floats]:
    """Draw a pose whose arms are clear of trunk, head, thighs and floor.

    Only the arms are redrawn when they collide, so that the share of each class stays what its weight says.

    Returns:
        The pose, and its frames in the body frame: rotations [17,3,3] and positions [17,3] mm (`kinematics`).
    """
    name = POSE_CLASSES[stream.weighted(class_weights)]
    draft = _standing_draft(stream)
    _CLASSES[name][1](stream, draft)
    mirror = stream.chance(0.5)
    offsets = bone_offsets(body)
    for attempt in range(_ARM_TRIES + len(_CLEAR_ARMS)):
        clear = _CLEAR_ARMS[max(attempt - _ARM_TRIES, 0)]
        arms = draft.arms(stream) if attempt < _ARM_TRIES else (clear, clear)
        pose = Pose(
            name, draft.pitch, draft.roll, draft.trunk, draft.neck, arms, draft.legs, draft.lift, name == "sit"
        ).clamped()
        if mirror:
            pose = pose.mirrored()
        rotations, positions = kinematics(local_rotations(pose), offsets)
        if arms_are_clear(rotations, positions, body):
            break
    return pose, rotations, positions


# ------------------------------------------------------------------------------------------------ kinematics


def local_rotations(pose: Pose) -> Floats:
    """[17,3,3] rotation of each frame in its parent's, as R = Ry Rz Rx Ry'."""
    angles = np.zeros((len(FRAMES), 4))  # columns: y, z, x, y'
    trunk, neck = pose.trunk, pose.neck
    angles[PELVIS] = 0, pose.roll, pose.pitch, 0
    for frame, share, bend in (
        (SPINE, 0.4, trunk),
        (CHEST, 0.6, trunk),
        (NECK, 0.4, neck),
        (HEAD, 0.6, neck),
    ):
        angles[frame] = 0, bend.lateral / 2, bend.flexion / 2, bend.twist * share
    for side, sign in ((0, 1), (1, -1)):
        arm, leg = pose.arms[side], pose.legs[side]
        angles[SHOULDERS[side]] = sign * arm.plane, 0, -arm.elevation, -sign * (arm.plane + arm.axial)
        angles[ELBOWS[side], 2] = -arm.elbow
        angles[WRISTS[side]] = 0, sign * 0.3 * arm.wrist, -arm.wrist, -sign * arm.pronation
        angles[HIPS[side]] = 0, sign * leg.abduction, -leg.flexion, sign * leg.twist
        angles[KNEES[side], 2] = leg.knee
        angles[ANKLES[side], 2] = leg.ankle
    return _euler(np.radians(angles))


def _euler(angles: Floats) -> Floats:
    """[n,3,3] Ry(a0) Rz(a1) Rx(a2) Ry(a3) of angles [n,4] in radians."""
    cos, sin = np.cos(angles), np.sin(angles)
    middle = np.zeros((len(angles), 3, 3))
    cz, sz, cx, sx = cos[:, 1], sin[:, 1], cos[:, 2], sin[:, 2]
    middle[:, 0, 0], middle[:, 0, 1], middle[:, 0, 2] = cz, -sz * cx, sz * sx
    middle[:, 1, 0], middle[:, 1, 1], middle[:, 1, 2] = sz, cz * cx, -cz * sx
    middle[:, 2, 1], middle[:, 2, 2] = sx, cx
    return _about_y(cos[:, 0], sin[:, 0]) @ middle @ _about_y(cos[:, 3], sin[:, 3])


def _about_y(cos: Floats, sin: Floats) -> Floats:
    out = np.zeros((len(cos), 3, 3))
    out[:, 0, 0], out[:, 0, 2], out[:, 1, 1], out[:, 2, 0], out[:, 2, 2] = cos, sin, 1, -sin, cos
    return out


def kinematics(local: Floats, offsets: Floats) -> tuple[Floats, Floats]:
    """Rotations [17,3,3] and positions [17,3] of all frames in the body frame, the pelvis at the origin."""
    rotations, positions = local.copy(), np.zeros_like(offsets)
    for frame, parent in enumerate(PARENTS[1:], start=1):
        rotations[frame] = rotations[parent] @ local[frame]
        positions[frame] = positions[parent] + rotations[parent] @ offsets[frame]
    return rotations, positions


def arms_are_clear(rotations: Floats, positions: Floats, body: Body) -> bool:
    """Whether forearms and hands are outside trunk, skull and legs, and not what the body would rest on."""
    size = body.stature
    elbows, wrists = positions[list(ELBOWS)], positions[list(WRISTS)]
    hands = wrists - rotations[list(WRISTS), :, 1] * (0.06 * size)
    points = np.concatenate([elbows, wrists, hands, (elbows + wrists) / 2])
    trunk = (points - positions[SPINE]) @ rotations[SPINE] / size
    inside = (trunk[:, 0] / (0.078 * body.girth)) ** 2 + (trunk[:, 2] / (0.064 * body.girth)) ** 2 < 1
    if (inside & (trunk[:, 1] > -0.14) & (trunk[:, 1] < 0.2)).any():
        return False
    head = (points - positions[HEAD]) @ rotations[HEAD] / size - (0, 0.058, 0.01)
    if (((head / (0.052, 0.072, 0.062)) ** 2).sum(1) < 1).any():
        return False
    starts, ends = positions[[*HIPS, *KNEES]], positions[[*KNEES, *ANKLES]]
    reach = np.array([0.058, 0.058, 0.042, 0.042]) * size * body.girth**0.8
    if (_point_segment_distances(points[2:], starts, ends) < reach).any():
        return False
    legs_low = positions[[*ANKLES], 1].min() - 0.045 * size
    trunk_low = positions[[PELVIS, *HIPS, *KNEES, *SHOULDERS], 1].min() - 0.03 * size
    return bool(points[:, 1].min() > min(legs_low, trunk_low) + 0.005 * size)


def _point_segment_distances(points: Floats, starts: Floats, ends: Floats) -> Floats:
    """[points, segments] distances."""
    axis = ends - starts
    along = np.einsum("psi,si->ps", points[:, None] - starts, axis) / (axis * axis).sum(1)
    nearest = starts + np.clip(along, 0, 1)[..., None] * axis
    gap = points[:, None] - nearest
    distances: Floats = np.sqrt((gap * gap).sum(2))
    return distances


# ------------------------------------------------------------------------------------------------ mocap

_Z_UP_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
# Our frames in SMPL's 24 joints; its arms rest sideways, ours hang.
_SMPL_JOINTS = (0, 3, 9, 12, 15, 16, 18, 20, 17, 19, 21, 1, 4, 7, 2, 5, 8)
_SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
_HANGING = {
    1.0: np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
    -1.0: np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
}


def check_mocap(mocap: NDArray[np.floating]) -> None:
    """Refuse an array that is neither H36M-17 positions nor SMPL axis-angles.

    Raises:
        SyntheticDataError: With the accepted shapes.
    """
    if mocap.ndim != 3 or mocap.shape[1:] not in ((17, 3), (24, 3)) or len(mocap) == 0:
        raise SyntheticDataError(
            "mocap must be [N,17,3] (root-centred positions in mm, H36M-17 order, z up) or "
            f"[N,24,3] (SMPL axis-angles, z up), got {list(mocap.shape)}. Reshape or convert it first."
        )


def retarget(frame: NDArray[np.floating], body: Body) -> tuple[Floats, Floats]:
    """One captured pose on our bones: directions are the actor's, lengths are `body`'s.

    Args:
        frame: [17,3] positions, mm, or [24,3] axis-angles; both z up.
        body: Whose bone lengths to use.

    Returns:
        Rotations [17,3,3] and positions [17,3] mm as `kinematics` gives them.
    """
    values = frame.astype(np.float64)
    rotations = _rotations_from_positions(values @ _Z_UP_TO_Y_UP.T) if len(values) == 17 else _from_smpl(values)
    offsets, positions = bone_offsets(body), np.zeros((len(FRAMES), 3))
    for child, parent in enumerate(PARENTS[1:], start=1):
        positions[child] = positions[parent] + rotations[parent] @ offsets[child]
    return rotations, positions


def _rotations_from_positions(joints: Floats) -> Floats:
    """Frames [17,3,3] from H36M-17 positions, y up."""
    out = np.empty((len(FRAMES), 3, 3))
    hips, shoulders = joints[4] - joints[1], joints[11] - joints[14]
    out[PELVIS] = _upright(hips, joints[7] - joints[0])
    out[CHEST] = _upright(shoulders, joints[8] - joints[7])
    out[SPINE] = _upright(hips / np.linalg.norm(hips) + shoulders / np.linalg.norm(shoulders), joints[8] - joints[0])
    out[NECK] = out[HEAD] = _along_y(joints[10] - joints[8], out[CHEST][:, 0])
    arms, legs = ((11, 12, 13), (14, 15, 16)), ((4, 5, 6), (1, 2, 3))
    for side in range(2):
        upper, lower = _hinge(joints, arms[side], out[CHEST][:, 2], folds_forward=True)
        out[SHOULDERS[side]], out[ELBOWS[side]], out[WRISTS[side]] = upper, lower, lower
        upper, lower = _hinge(joints, legs[side], out[PELVIS][:, 2], folds_forward=False)
        out[HIPS[side]], out[KNEES[side]], out[ANKLES[side]] = upper, lower, _levelled(lower)
    return out


def _levelled(shank: Floats) -> Floats:
    """The foot's frame: as level as the ankle allows. The 17 joints do not say where the toes are."""
    low, high = LIMITS["leg"]["ankle"]
    angle = math.degrees(math.atan2(shank[1, 2], max(shank[1, 1], 0.3)))
    return shank @ _rodrigues(np.array([math.radians(min(max(angle, low), high)), 0.0, 0.0]))


def _upright(across: Floats, up: Floats) -> Floats:
    """A frame with exactly this x axis and y as near to `up` as possible."""
    x = across / np.linalg.norm(across)
    z = np.cross(x, up)
    z /= np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], 1)


def _along_y(up: Floats, across: Floats) -> Floats:
    """A frame with exactly this y axis and x as near to `across` as possible."""
    y = up / np.linalg.norm(up)
    z = np.cross(across, y)
    z /= np.linalg.norm(z)
    return np.stack([np.cross(y, z), y, z], 1)


def _hinge(joints: Floats, chain: tuple[int, int, int], forward: Floats, folds_forward: bool) -> tuple[Floats, Floats]:
    """Frames of the two bones of a limb, x along the hinge; a straight limb takes its x from the trunk."""
    upper, lower = joints[chain[1]] - joints[chain[0]], joints[chain[2]] - joints[chain[1]]
    down = upper / np.linalg.norm(upper)
    fold = lower / np.linalg.norm(lower)
    fold = (fold - (fold @ down) * down) * (1 if folds_forward else -1) + 0.1 * forward
    across = np.cross(-down, fold)
    return _along_y(-upper, across), _along_y(-lower, across)


def _from_smpl(axis_angles: Floats) -> Floats:
    """Frames [17,3,3] from SMPL's 24 axis-angles, z up."""
    rotations = np.empty((24, 3, 3))
    for joint, parent in enumerate(_SMPL_PARENTS):
        local = _rodrigues(axis_angles[joint])
        rotations[joint] = _Z_UP_TO_Y_UP @ local if parent < 0 else rotations[parent] @ local
    out = rotations[list(_SMPL_JOINTS)]
    for side, sign in ((0, 1.0), (1, -1.0)):
        for frame in (SHOULDERS[side], ELBOWS[side], WRISTS[side]):
            out[frame] = out[frame] @ _HANGING[sign]
    return out


def _rodrigues(axis_angle: Floats) -> Floats:
    angle = float(np.linalg.norm(axis_angle))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = axis_angle / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: Floats = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return rotation
