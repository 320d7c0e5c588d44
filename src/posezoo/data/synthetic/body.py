"""Bodies: anthropometry, the solids flesh and clothes are made of, and what they look like.

Body frame: x to the person's left, y up, z forward, origin midway between the hips. Lengths in this module's
tables are fractions of the stature (Drillis and Contini; Winter), so that one table fits a child and a giant.
"""

import colorsys
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from posezoo.data.synthetic.raster import CAP_A, CAP_B, SIDE, Floats, Solids
from posezoo.data.synthetic.streams import Stream

# The kinematic chain, parents first. A part of the body moves with exactly one of these frames.
FRAMES = (
    "pelvis", "spine", "chest", "neck", "head",
    "l_shoulder", "l_elbow", "l_wrist", "r_shoulder", "r_elbow", "r_wrist",
    "l_hip", "l_knee", "l_ankle", "r_hip", "r_knee", "r_ankle",
)  # fmt: skip
PARENTS = (-1, 0, 1, 2, 3, 2, 5, 6, 2, 8, 9, 0, 11, 12, 0, 14, 15)
PELVIS, SPINE, CHEST, NECK, HEAD = range(5)
SHOULDERS, ELBOWS, WRISTS = (5, 8), (6, 9), (7, 10)  # (left, right)
HIPS, KNEES, ANKLES = (11, 14), (12, 15), (13, 16)
SIDES = ((0, 1.0), (1, -1.0))  # (position in the pairs above, sign of x)

# Segmentation label of each frame's solids: `part_id` of a sample.
PART_NAMES = (
    "pelvis", "torso", "head",
    "l_upper_arm", "l_forearm", "l_hand", "r_upper_arm", "r_forearm", "r_hand",
    "l_thigh", "l_shank", "l_foot", "r_thigh", "r_shank", "r_foot",
)  # fmt: skip
PART_OF_FRAME = np.array([0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], np.int16)

# Flesh around each SYNTHETIC25 joint: it may lie this far behind the surface and still count as seen.
FLESH_RADIUS = np.array(
    [.060, .050, .035, .025, .050, .035, .025, .060, .060, .035, .055, .035, .025, .018, .035, .025, .018]
    + [.020] * 4 + [.018] * 2 + [.020] * 2
)  # fmt: skip

_THIGH, _SHANK, _UPPER_ARM, _FOREARM = 0.245, 0.236, 0.172, 0.150
_NECK_BASE = (0.0, 0.082, -0.004)  # in the chest's frame
_SOLE_FRONT = 0.096  # from the ankle forward to the centre of the toe ball
_TOE_RADIUS = 0.0115


@dataclass(frozen=True)
class Body:
    """One person's proportions.

    Attributes:
        female: Chooses proportions and clothes.
        stature: Height, mm.
        girth: Thickness of trunk and hips, 1 = average.
        muscle: Thickness of the limbs, 1 = average.
        leg: Leg length, 1 = average for the stature.
        arm: Arm length, likewise.
        head: Head size, likewise.
    """

    female: bool
    stature: float
    girth: float
    muscle: float
    leg: float
    arm: float
    head: float

    @property
    def hip_half_width(self) -> float:
        return 0.052 * (1.06 if self.female else 1.0)

    @property
    def shoulder_half_width(self) -> float:
        return (0.100 if self.female else 0.112) * math.pow(self.girth, 0.3)


def draw_body(stream: Stream, stature_sd: float) -> Body:
    """Draw proportions; `stature_sd` in mm. One person in 17 is a child with a larger head."""
    female = stream.chance(0.5)
    stature = stream.normal(1640.0 if female else 1760.0, stature_sd)
    child, shrink = stream.chance(0.06), stream.uniform(0.62, 0.9)
    girth = stream.normal(1.0, 0.11)
    return Body(
        female=female,
        stature=stature * shrink if child else stature,
        girth=girth,
        muscle=stream.normal(1.0, 0.08) * girth**0.5,
        leg=stream.normal(1.0, 0.03),
        arm=stream.normal(1.0, 0.03),
        head=stream.normal(1.0, 0.04) * (1.12 if child else 1.0),
    )


def bone_offsets(body: Body) -> Floats:
    """[17,3] position of each frame in its parent's, mm; the pelvis is the origin."""
    offsets = np.zeros((len(FRAMES), 3))
    offsets[SPINE], offsets[CHEST] = (0, 0.097, -0.008), (0, 0.118, -0.006)
    offsets[NECK], offsets[HEAD] = (0, 0.100, -0.004), (0, 0.050, 0.012)
    for side, sign in SIDES:
        offsets[SHOULDERS[side]] = (sign * body.shoulder_half_width, 0.070, -0.006)
        offsets[ELBOWS[side], 1] = -_UPPER_ARM * body.arm
        offsets[WRISTS[side], 1] = -_FOREARM * body.arm
        offsets[HIPS[side], 0] = sign * body.hip_half_width
        offsets[KNEES[side], 1] = -_THIGH * body.leg
        offsets[ANKLES[side], 1] = -_SHANK * body.leg
    return offsets * body.stature


def landmark_offsets(body: Body, finger_curl: tuple[float, float]) -> tuple[NDArray[np.int64], Floats]:
    """Where the SYNTHETIC25 joints sit: their frames [25] and positions therein [25,3], mm.

    Args:
        body: Proportions.
        finger_curl: How far the left and the right fingers are bent, 0..1.
    """
    head = body.head
    places: list[tuple[int, tuple[float, float, float]]] = [(PELVIS, (0, 0, 0))]
    for side in (1, 0):  # Human3.6M lists the right leg first, but the left arm
        places += [(joint[side], (0, 0, 0)) for joint in (HIPS, KNEES, ANKLES)]
    places += [
        (SPINE, (0, 0.050, 0)),
        (CHEST, _NECK_BASE),
        (HEAD, (0, 0.045, 0.066 * head + 0.011)),
        (HEAD, (0, 0.058 + 0.066 * head, 0.006)),
    ]
    for side in (0, 1):
        places += [(joint[side], (0, 0, 0)) for joint in (SHOULDERS, ELBOWS, WRISTS)]
    places += [(HEAD, (sign * 0.017 * head, 0.056, 0.010 + 0.0495 * head)) for _, sign in SIDES]
    places += [(HEAD, (sign * 0.046 * head, 0.050, 0.004)) for _, sign in SIDES]
    places += [(WRISTS[side], _finger_tip(sign, finger_curl[side], 0.007)) for side, sign in SIDES]
    places += [(ANKLES[side], (0, -0.026, _SOLE_FRONT + _TOE_RADIUS)) for side, _ in SIDES]
    frames = np.array([frame for frame, _ in places])
    return frames, np.array([place for _, place in places], float) * body.stature


def _finger_tip(sign: float, curl: float, beyond: float = 0.0) -> tuple[float, float, float]:
    """Centre of the finger tips' ball in the wrist's frame, or a point `beyond` it along the fingers."""
    across, down = -0.030 * curl, 0.046 * (1 - 0.55 * curl)
    stretch = 1 + beyond / float(np.hypot(across, down))
    return sign * across * stretch, -0.047 - down * stretch, 0.004


# ------------------------------------------------------------------------------------------------ looks


@dataclass(frozen=True)
class Material:
    """Colour RGB 0..1, texture number and its amplitude, and specular strength."""

    colour: tuple[float, float, float]
    texture: int
    amplitude: float
    specular: float


@dataclass
class Look:
    """Hair, clothes and colours of one person.

    Lengths of sleeves and legs count segments: 0.5 ends mid upper arm, 1.95 at the wrist; 0 is none.
    """

    hair: int  # 0 bald, 1 short, 2 to the neck, 3 long, 4 bun
    hair_volume: float
    hat: int  # 0 none, 1 cap, 2 beanie
    beard: bool
    sleeve: float
    trousers: float
    skirt: float
    shirt_hem: float  # how far an untucked shirt hangs below the waist
    collar: bool
    backpack: bool
    looseness: float
    finger_curl: tuple[float, float]
    materials: dict[str, Material] = field(default_factory=dict)


_SKIN_TONES = (
    (.95, .78, .66), (.88, .67, .53), (.80, .58, .43), (.66, .45, .31), (.48, .31, .21), (.33, .21, .15),
)  # fmt: skip
_HAIR_COLOURS = (
    (.06, .05, .05), (.16, .10, .06), (.32, .20, .11), (.55, .40, .20), (.75, .62, .38), (.45, .17, .07),
    (.55, .55, .56),
)  # fmt: skip
_SMOOTH_TEXTURES = 10  # the first ones are plain noise, the others are patterns


def draw_colour(stream: Stream) -> Floats:
    """A colour of cloth or paint, RGB 0..1: seven in ten have a hue, the others are grey."""
    if stream.chance(0.7):
        hue, saturation = stream.unit(), stream.uniform(0, 0.9) * stream.uniform(0.3, 1)
        return np.array(colorsys.hsv_to_rgb(hue, saturation, stream.uniform(0.08, 0.95)))
    return np.full(3, stream.uniform(0.05, 0.92))


def draw_look(stream: Stream, body: Body, texture_count: int) -> Look:
    """Draw hair, clothes and colours."""
    female = body.female
    wears_skirt = stream.chance(0.3) and female
    look = Look(
        hair=stream.choice((1, 1, 2, 3, 3, 4) if female else (0, 1, 1, 1, 1, 1, 2)),
        hair_volume=stream.uniform(0.4, 1.6),
        hat=stream.choice((0, 0, 0, 0, 0, 0, 0, 1, 2)),
        beard=stream.chance(0.25) and not female,
        sleeve=stream.choice((0.0, 0.35, 0.45, 0.55, 0.7, 1.0, 1.6, 1.95, 1.95, 1.95)),
        trousers=stream.choice((0.3, 0.55, 0.75, 1.0, 1.4, 1.9, 1.9, 1.9, 1.95, 1.95)),
        skirt=0.0,
        shirt_hem=stream.uniform(0.02, 0.075) if stream.chance(0.6) else 0.0,
        collar=stream.chance(0.5),
        backpack=stream.chance(0.07),
        looseness=stream.uniform(1.0, 1.28),
        finger_curl=(stream.unit(), stream.unit()),
    )
    if wears_skirt:
        look.skirt, look.trousers = stream.uniform(0.35, 1.0), stream.choice((0.0, 0.0, 1.95))
    shirtless = stream.chance(0.04) and not female
    if shirtless:
        look.sleeve, look.shirt_hem, look.collar = 0.0, 0.0, False
    look.materials = _draw_materials(stream, look, texture_count, shirtless)
    return look


def _draw_materials(stream: Stream, look: Look, texture_count: int, shirtless: bool) -> dict[str, Material]:
    skin = _draw_skin(stream)
    hair = _material(np.array(stream.choice(_HAIR_COLOURS)) * stream.uniform(0.7, 1.2), 1, 0.25, 0.25)
    amplitude = stream.uniform(0, 0.35) if stream.chance(0.7) else 0.0
    top = _material(draw_colour(stream), stream.integer(texture_count), amplitude, 0.03)
    bottom = _material(draw_colour(stream), stream.integer(_SMOOTH_TEXTURES), amplitude * 0.7, 0.03)
    if stream.chance(0.12):  # overalls, tracksuits, dresses
        bottom = top
    shoe = _material(
        draw_colour(stream) if stream.chance(0.6) else np.full(3, stream.uniform(0.03, 0.25)), 3, 0.08, 0.2
    )
    barefoot, gloved, bare_belly, socks = (stream.chance(p) for p in (0.1, 0.06, 0.06, 0.12))
    glove, sock = _material(draw_colour(stream), 0, 0.05, 0.05), _material(draw_colour(stream), 2, 0.05, 0.03)
    hat = _material(draw_colour(stream), stream.integer(_SMOOTH_TEXTURES), 0.1, 0.05)
    pack = _material(draw_colour(stream), stream.integer(_SMOOTH_TEXTURES), 0.15, 0.08)
    shirt = skin if shirtless else top
    long_legs = look.trousers >= 1.85
    return {
        "skin": skin, "head": skin, "jaw": skin, "hair": hair, "beard": hair, "hat": hat, "pack": pack,
        "chest": shirt, "belly": skin if bare_belly and not look.shirt_hem else shirt,
        # Flesh under cloth takes its colour, or muscles would show as holes.
        "shoulder": shirt if look.sleeve > 0 else skin,
        "upper_arm": shirt if look.sleeve >= 1 else skin,
        "forearm": shirt if look.sleeve > 1.5 else skin,
        "hand": glove if gloved else skin,
        "sleeve": shirt,
        "hip": bottom,
        "thigh": bottom if look.trousers >= 1 else skin,
        "shank": bottom if long_legs else sock if socks else skin,
        "trousers": bottom, "skirt": bottom,
        "foot": skin if barefoot else shoe,
    }  # fmt: skip


def _draw_skin(stream: Stream) -> Material:
    first, second = (np.array(stream.choice(_SKIN_TONES)) for _ in range(2))
    mix = stream.uniform(0, 0.5)
    return _material((first * (1 - mix) + second * mix) * stream.uniform(0.9, 1.08), 9, 0.05, 0.15)


def _material(colour: Floats, texture: int, amplitude: float, specular: float) -> Material:
    red, green, blue = colour.tolist()
    return Material((red, green, blue), texture, amplitude, specular)


# ------------------------------------------------------------------------------------------------ solids

Point = tuple[float, float, float]
_BARE = CAP_A | CAP_B | SIDE
_CUFFED = CAP_A | SIDE  # closed above, open below: sleeves and trouser legs
_X, _Z = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])


@dataclass
class Parts:
    """The solids of a body at rest, each in the frame it moves with.

    Attributes:
        frame: [n] index into FRAMES.
        solids: Their shape in those frames, mm.
        axes: [n,3,3] their local axes (columns) in those frames, without the width and depth scaling.
        stretch: [n,3] that scaling: width, 1, depth.
        material: [n] material names.
        loose: [n] cloth that hangs: it does not carry the body's weight.
    """

    frame: NDArray[np.int64]
    solids: Solids
    axes: Floats
    stretch: Floats
    material: list[str]
    loose: NDArray[np.bool_]

    def posed(self, rotations: Floats, positions: Floats) -> Solids:
        """The solids in the world, given the frames' rotations [17,3,3] and positions [17,3] mm."""
        turned, rest = rotations[self.frame], self.solids
        return Solids(
            rest.to_local @ turned.transpose(0, 2, 1),
            np.einsum("nij,nj->ni", turned, rest.centre) + positions[self.frame],
            rest.radius_a,
            rest.radius_b,
            rest.length,
            rest.shape,
        )

    def lowest(self, rotations: Floats, positions: Floats) -> Floats:
        """[n] lowest y of each solid, mm, exact for both ends of the stretched cone."""
        axes = np.einsum("nj,njk->nk", rotations[self.frame][:, 1], self.axes)
        reach = np.sqrt(((axes * self.stretch) ** 2).sum(1))
        start = np.einsum("ni,ni->n", rotations[self.frame][:, 1], self.solids.centre) + positions[self.frame, 1]
        end = start + axes[:, 1] * self.solids.length
        low: Floats = np.minimum(start - reach * self.solids.radius_a, end - reach * self.solids.radius_b)
        return low


class _Builder:
    """Collects solids in fractions of the stature."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.materials: list[str] = []

    def cone(
        self, frame: int, a: Point, b: Point, radius_a: float, radius_b: float, material: str,
        width: float = 1.0, depth: float = 1.0, shape: int = _BARE,
    ) -> None:  # fmt: skip
        """A round cone from a to b; `width` and `depth` stretch its cross-section."""
        self.rows.append((frame, *a, *b, radius_a, radius_b, width, depth, shape))
        self.materials.append(material)

    def ellipsoid(self, frame: int, centre: Point, radii: Point, material: str) -> None:
        """An ellipsoid with half axes along the frame's own."""
        x, y, z = radii
        self.rows.append((frame, *centre, *centre, y, y, x / y, z / y, CAP_A))
        self.materials.append(material)

    def build(self, stature: float) -> Parts:
        table = np.array(self.rows)
        frame, shape = table[:, 0].astype(np.int64), table[:, 11].astype(np.int64)
        start, end = table[:, 1:4] * stature, table[:, 4:7] * stature
        axis = end - start
        length = np.sqrt((axis * axis).sum(1))
        axes = _local_axes(axis, length)
        stretch = np.stack([table[:, 9], np.ones(len(table)), table[:, 10]], 1)
        to_local = axes.transpose(0, 2, 1) / stretch[:, :, None]
        solids = Solids(to_local, start, table[:, 7] * stature, table[:, 8] * stature, length, shape)
        loose = (shape & CAP_B == 0) & (length > 0)  # all that hangs is open at its lower end
        return Parts(frame, solids, axes, stretch, self.materials, loose)


def _local_axes(axis: Floats, length: Floats) -> Floats:
    """[n,3,3] columns x, y, z: y along the axis, z as near to the frame's z as possible."""
    out = np.zeros((len(axis), 3, 3))
    out[:] = np.eye(3)
    long = np.flatnonzero(length > 0)
    y = axis[long] / length[long, None]
    forward = np.abs(y[:, 2]) > 0.9  # a foot: keep x instead, z then points down
    x = np.where(forward[:, None], _X - y * y[:, :1], np.cross(y, _Z))
    x /= np.sqrt((x * x).sum(1, keepdims=True))
    out[long] = np.stack([x, y, np.cross(x, y)], 2)
    return out


_DOWN = np.array([0.0, -1.0, 0.0])


def build_parts(body: Body, look: Look, thighs: Floats = _DOWN) -> Parts:
    """Flesh, hair and clothes of a person as solids.

    Args:
        body: Proportions.
        look: Hair and clothes.
        thighs: [3] where the thighs point in the pelvis' frame; a skirt follows them.
    """
    builder = _Builder()
    _add_trunk(builder, body, look)
    _add_head(builder, body, look)
    for side, sign in SIDES:
        _add_arm(builder, body, look, side, sign)
        _add_leg(builder, body, look, side)
    if look.skirt > 0:
        _add_skirt(builder, body, look, thighs)
    return builder.build(body.stature)


def _add_trunk(b: _Builder, body: Body, look: Look) -> None:
    w, m = body.girth, body.muscle
    hip, shoulder = body.hip_half_width * 0.9, body.shoulder_half_width
    b.cone(PELVIS, (-hip, 0.012, 0), (hip, 0.012, 0), 0.056 * w, 0.056 * w, "hip")
    for _, sign in SIDES:
        b.ellipsoid(PELVIS, (sign * 0.033, -0.003, -0.024 * w), (0.045 * w, 0.050, 0.046 * w), "hip")
    b.cone(PELVIS, (0, 0.034, 0.002), (0, 0.125, 0), 0.062 * w, 0.056 * w, "belly", width=1.25)
    if w > 1.08:
        b.ellipsoid(SPINE, (0, 0, 0.030 * w), (0.070 * w, 0.060, 0.050 * w), "belly")
    chest_width = 1.22 if body.female else 1.34
    b.cone(SPINE, (0, 0.03, 0), (0, 0.148, -0.003), 0.060 * w, 0.056 * m, "chest", width=chest_width)
    yoke = shoulder * 0.92
    b.cone(CHEST, (-yoke, 0.063, -0.006), (yoke, 0.063, -0.006), 0.032 * m, 0.032 * m, "chest")
    for _, sign in SIDES:
        ends = (0.0, 0.095, -0.010), (sign * shoulder * 0.85, 0.073, -0.008)
        b.cone(CHEST, *ends, 0.033 * m, 0.026 * m, "chest", shape=SIDE)
        if body.female:
            b.ellipsoid(CHEST, (sign * 0.036, 0.003, 0.044), (0.034, 0.033, 0.032), "chest")
        else:
            b.ellipsoid(CHEST, (sign * 0.036, 0.030, 0.034), (0.042, 0.036, 0.027), "chest")
    if look.shirt_hem:
        waist, hem = (0.0, 0.085, 0.0), (0.0, 0.030 - look.shirt_hem, 0.0)
        loose = 0.079 * w * look.looseness**0.3
        b.cone(PELVIS, waist, hem, 0.062 * w, loose, "chest", width=1.30, shape=SIDE)
    if look.backpack:
        b.cone(CHEST, (0, 0.045, -0.085), (0, -0.10, -0.095), 0.050, 0.062, "pack", width=1.25, depth=0.75)


def _add_head(b: _Builder, body: Body, look: Look) -> None:
    m, h = body.muscle, body.head
    b.cone(NECK, (0, -0.03, -0.002), (0, 0.045, 0.008), 0.031 * m, 0.028 * m, "skin")
    if look.collar:
        b.cone(NECK, (0, -0.022, -0.003), (0, 0.010, 0.0), 0.042 * m, 0.034 * m, "chest", shape=SIDE)
    b.ellipsoid(HEAD, (0, 0.058, 0.010), (0.0425 * h, 0.066 * h, 0.054 * h), "head")
    b.ellipsoid(HEAD, (0, 0.022, 0.026), (0.032 * h, 0.034 * h, 0.034 * h), "jaw")
    b.ellipsoid(HEAD, (0, 0.045, 0.066 * h), (0.0075, 0.013, 0.011), "skin")
    for _, sign in SIDES:
        b.ellipsoid(HEAD, (sign * 0.044 * h, 0.050, 0.004), (0.007, 0.017, 0.011), "skin")
    if look.hair:
        _add_hair(b, h, look)
    if look.hat:
        b.cone(HEAD, (0, 0.082, 0.004), (0, 0.11, 0), 0.0475 * h, 0.040 * h, "hat", width=0.98, depth=1.22)
        if look.hat == 1:
            b.ellipsoid(HEAD, (0, 0.086, 0.055), (0.042, 0.006, 0.042), "hat")
    if look.beard:
        b.ellipsoid(HEAD, (0, 0.012, 0.030), (0.034 * h, 0.030 * h, 0.036 * h), "beard")


def _add_hair(b: _Builder, h: float, look: Look) -> None:
    v = look.hair_volume
    # The skull again, moved up and back by a share `lift` of its radii and inflated until the two meet in a
    # hairline: a plane 0.05 radii behind the skull's centre along that direction, so that there is a face.
    lift = 0.11 + 0.11 * v
    grown = h * math.sqrt(1 + lift * lift - 2 * lift * 0.05)
    centre = (0.0, 0.058 + 0.8 * lift * 0.066 * h, 0.010 - 0.6 * lift * 0.054 * h)
    b.ellipsoid(HEAD, centre, (0.0425 * grown * 1.03, 0.066 * grown, 0.054 * grown), "hair")
    if look.hair >= 2:
        length = -0.03 if look.hair == 2 else -0.03 - 0.06 * v
        low = (0.0, length, -0.036) if look.hair != 4 else (0.0, 0.02, -0.030)
        b.cone(HEAD, (0, 0.06, -0.022), low, 0.046 * h, 0.034 * h, "hair", width=1.05, depth=0.75)
    if look.hair == 4:
        b.ellipsoid(HEAD, (0, 0.115, -0.052), (0.024, 0.024, 0.024), "hair")


def _add_arm(b: _Builder, body: Body, look: Look, side: int, sign: float) -> None:
    m = body.muscle
    shoulder, elbow, wrist = SHOULDERS[side], ELBOWS[side], WRISTS[side]
    upper, fore = _UPPER_ARM * body.arm, _FOREARM * body.arm
    b.ellipsoid(shoulder, (-sign * 0.004, -0.008, 0), (0.033 * m, 0.042 * m, 0.034 * m), "shoulder")
    b.cone(shoulder, (0, 0, 0), (0, -upper, 0), 0.029 * m, 0.0225 * m, "upper_arm", shape=SIDE | CAP_B)
    b.ellipsoid(shoulder, (0, -upper * 0.45, 0.005), (0.026 * m, 0.05, 0.027 * m), "upper_arm")
    b.cone(elbow, (0, 0, 0), (0, -fore, 0), 0.0225 * m, 0.0150, "forearm", width=1.05)
    b.ellipsoid(elbow, (0, -fore * 0.28, 0), (0.0265 * m, 0.045, 0.0245 * m), "forearm")
    b.ellipsoid(wrist, (0, -0.027, 0.002), (0.0115, 0.031, 0.023), "hand")
    tip = _finger_tip(sign, look.finger_curl[side])
    b.cone(wrist, (0, -0.047, 0.004), tip, 0.0085, 0.0070, "hand", depth=2.1, shape=SIDE | CAP_B)
    b.cone(wrist, (0, -0.015, 0.018), (-sign * 0.006, -0.047, 0.036), 0.0075, 0.006, "hand", shape=SIDE | CAP_B)
    if look.sleeve > 0:
        _add_sleeve(b, body, look, side)


def _add_sleeve(b: _Builder, body: Body, look: Look, side: int) -> None:
    m, loose = body.muscle, 1.02 * look.looseness
    upper, fore = _UPPER_ARM * body.arm, _FOREARM * body.arm
    hem = 0.028 * m * (loose if look.sleeve <= 1 else loose**0.5)
    end = (0.0, -upper * min(look.sleeve, 1.0), 0.0)
    b.cone(SHOULDERS[side], (0, 0.008, 0), end, 0.0355 * m * loose**0.3, hem, "sleeve", shape=_CUFFED)
    if look.sleeve > 1:
        cuff, end = 0.021 * loose**0.5, (0.0, -fore * (look.sleeve - 1), 0.0)
        b.cone(ELBOWS[side], (0, 0, 0), end, 0.0275 * m * loose**0.6, cuff, "sleeve", shape=_CUFFED)


def _add_leg(b: _Builder, body: Body, look: Look, side: int) -> None:
    m, broad = body.muscle, body.girth**0.8
    hip, knee, ankle = HIPS[side], KNEES[side], ANKLES[side]
    thigh, shank = _THIGH * body.leg, _SHANK * body.leg
    b.cone(hip, (0, 0, 0), (0, -thigh, 0), 0.050 * broad, 0.0325 * m, "thigh", depth=1.05)
    b.ellipsoid(hip, (0, -thigh * 0.35, 0.010), (0.045 * m, 0.09, 0.043 * m), "thigh")
    b.cone(knee, (0, 0, 0), (0, -shank, 0), 0.031 * m, 0.0205, "shank", depth=1.04)
    b.ellipsoid(knee, (0, -shank * 0.30, -0.012), (0.030 * m, 0.062, 0.028 * m), "shank")
    b.ellipsoid(ankle, (0, -0.016, -0.018), (0.021, 0.023, 0.024), "foot")
    heel, toe = (0.0, -0.017, -0.004), (0.0, -0.026, _SOLE_FRONT)
    b.cone(ankle, heel, toe, 0.0205, _TOE_RADIUS, "foot", width=1.22, depth=1.05)
    if look.trousers > 0:
        _add_trouser_leg(b, body, look, side)
    elif look.skirt > 0:  # keeps the top of the thigh from showing through the skirt
        end = (0.0, -0.3 * thigh * look.skirt, 0.0)
        b.cone(hip, (0, 0.004, 0), end, 0.052 * broad, 0.050 * broad, "skirt", depth=1.05)


def _add_trouser_leg(b: _Builder, body: Body, look: Look, side: int) -> None:
    m, loose = body.muscle, look.looseness
    thigh, shank = _THIGH * body.leg, _SHANK * body.leg
    top, hem = 0.0535 * body.girth**0.8 * loose**0.3, 0.0365 * m * loose ** (1.2 if look.trousers <= 1 else 0.6)
    end = (0.0, -thigh * min(look.trousers, 1.0), 0.0)
    b.cone(HIPS[side], (0, 0.004, 0), end, top, hem, "trousers", depth=1.05, shape=_CUFFED)
    if look.trousers > 1:
        top, hem, end = 0.0385 * m * loose**0.5, 0.027 * loose, (0.0, -shank * (look.trousers - 1), 0.0)
        b.cone(KNEES[side], (0, 0, 0), end, top, hem, "trousers", depth=1.12, shape=_CUFFED)


def _add_skirt(b: _Builder, body: Body, look: Look, thighs: Floats) -> None:
    x, y, z = (thighs * (_THIGH * body.leg * look.skirt * 0.75 / (np.linalg.norm(thighs) + 1e-9))).tolist()
    waist, hem = 0.060 * body.girth, 0.085 + 0.04 * look.skirt
    b.cone(PELVIS, (0, 0.077, 0), (x, y, z), waist, hem, "skirt", width=1.22, shape=SIDE)
