"""From a number to everything a frame shows: presets, cameras, companions and furniture.

A stage redraws its own stream when it fails (no room for a companion, an occluder that hides everything), and
every such decision is made from geometry, never from pixels: the same index shows the same scene at every
size, and moving the window (`window_shift`) or redrawing the scene (`scene_seed`) cannot change the person.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posezoo.data.synthetic.body import draw_colour
from posezoo.data.synthetic.people import (
    Capsules,
    Mocap,
    Person,
    capsules,
    clearance,
    draw_person,
    hidden_behind,
    segment_distances,
)
from posezoo.data.synthetic.pose import CLASS_WEIGHTS, check_mocap
from posezoo.data.synthetic.raster import (
    Floats,
    Quadrics,
    Solids,
    Surface,
    cross,
    quadrics,
)
from posezoo.data.synthetic.shade import (
    Backdrop,
    Floor,
    Light,
    draw_backdrop,
    draw_floor,
    draw_light,
    texture_count,
    textures,
)
from posezoo.data.synthetic.streams import SampleStreams, Stream, SyntheticDataError

SPLITS = {"train": 0, "val": 1, "test": 2}
_MIN_SIZE, _MAX_SIZE = 16, 2048
_NEAREST = 1500.0  # mm; nearer than this an outstretched arm may reach the camera
_UP = np.array([0.0, 1.0, 0.0])

Range = tuple[float, float]


@dataclass(frozen=True)
class Preset:
    """The distributions a sample is drawn from.

    Attributes:
        companions: Weights of 0, 1 and 2 further people.
        truncation: Probability that the frame cuts the subject.
        truncated_share: Share of the joints beyond the frame in a cut sample.
        fill: Larger side of the subject's surface box as a share of the frame.
        centre_jitter: How far the box is off the centre, as a share of the frame.
        distance: Camera to subject, mm, log-uniform.
        stature_sd: Standard deviation of the stature of adults of one sex, mm.
        class_weights: Weight of each pose class, in the order of POSE_CLASSES without `mocap`.
        clutter: Equally likely numbers of flat shapes on the wall.
        furniture: Equally likely numbers of boxes standing around.
        occlusion: Whether furniture may hide the subject.
        foreground: Probability of a box between camera and subject.
        overlay: Probability of a flat blob over the image.
        sensor: Whether blur, noise and JPEG are applied.
        min_seen: Least share of the subject's joints that nothing else hides.
    """

    companions: tuple[float, float, float] = (1.0, 0.0, 0.0)
    truncation: float = 0.0
    truncated_share: Range = (0.1, 0.5)
    fill: Range = (0.55, 0.8)
    centre_jitter: float = 0.07
    distance: Range = (2200.0, 7000.0)
    stature_sd: float = 65.0
    class_weights: tuple[float, ...] = CLASS_WEIGHTS
    clutter: tuple[int, ...] = (0, 0, 2, 4)
    furniture: tuple[int, ...] = (0, 0, 0, 1, 1, 2)
    occlusion: bool = False
    foreground: float = 0.0
    overlay: float = 0.0
    sensor: bool = True
    min_seen: float = 0.45

    def __post_init__(self) -> None:
        if len(self.class_weights) != len(CLASS_WEIGHTS):
            raise SyntheticDataError(
                f"Preset.class_weights needs {len(CLASS_WEIGHTS)} numbers, one per pose class "
                f"except mocap, got {len(self.class_weights)}."
            )
        shares = (self.truncation, self.foreground, self.overlay, self.min_seen)
        if not all(0 <= share <= 1 for share in (*shares, *self.truncated_share)):
            raise SyntheticDataError("Probabilities and shares of a Preset must lie between 0 and 1.")
        if min(self.fill) <= 0 or min(self.distance) < _NEAREST:
            raise SyntheticDataError(f"Preset.fill must be above 0 and Preset.distance at least {_NEAREST:.0f} mm.")


_BUSY_WALL, _BUSY_ROOM = (0, 2, 4, 8, 14), (0, 0, 1, 1, 2, 3)

PRESETS: dict[str, Preset] = {
    "easy": Preset(),
    "full": Preset(
        companions=(0.75, 0.15, 0.10),
        truncation=0.15,
        clutter=_BUSY_WALL,
        furniture=_BUSY_ROOM,
        occlusion=True,
        foreground=0.15,
        overlay=0.18,
    ),
    "truncated": Preset(truncation=1.0),
    "multi": Preset(
        companions=(0.0, 0.6, 0.4),
        clutter=_BUSY_WALL,
        furniture=_BUSY_ROOM,
        occlusion=True,
    ),
}


def find_preset(preset: str | Preset) -> Preset:
    """The preset of a name; a Preset is passed through.

    Raises:
        SyntheticDataError: Unknown name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise SyntheticDataError(f"Unknown preset '{preset}'. Choose one of {', '.join(PRESETS)}, or pass a Preset.")
    return PRESETS[preset]


def check_request(split: str, size: int) -> None:
    """Refuse an unknown split or a size that cannot be rendered.

    Raises:
        SyntheticDataError: With the accepted values.
    """
    if split not in SPLITS:
        raise SyntheticDataError(f"Unknown split '{split}'. Choose one of {', '.join(SPLITS)}.")
    if not _MIN_SIZE <= size <= _MAX_SIZE:
        raise SyntheticDataError(f"size must be between {_MIN_SIZE} and {_MAX_SIZE} px, got {size}.")


# ------------------------------------------------------------------------------------------------ camera


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: `focal` and the principal point `centre` are shares of the frame.

    Rotation and translation (mm) map the world into the camera frame (x right, y down, z forward).
    """

    rotation: Floats
    translation: Floats
    focal: float
    centre: tuple[float, float]

    @property
    def eye(self) -> Floats:
        return -self.rotation.T @ self.translation

    def intrinsics(self, size: int, shift: tuple[float, float] = (0.0, 0.0)) -> Floats:
        """[3,3] px for a frame of `size`, its window moved right and down by shares of the frame."""
        x, y = ((c - s) * size - 0.5 for c, s in zip(self.centre, shift, strict=True))
        return np.array([[self.focal * size, 0, x], [0, self.focal * size, y], [0, 0, 1.0]])

    def seen(self, points: Floats) -> Floats:
        """[n,3] world -> camera."""
        return points @ self.rotation.T + self.translation

    def project(self, points: Floats) -> Floats:
        """[n,3] world -> [n,2] shares of the frame."""
        local = self.seen(points)
        return local[:, :2] / local[:, 2:] * self.focal + self.centre

    def inside(self, points: Floats) -> NDArray[np.bool_]:
        """[n] which world points fall into the frame."""
        place = self.project(points)
        return ((place >= 0) & (place < 1)).all(1) & (self.seen(points)[:, 2] > 0)


_CUT_SIDES = ((1, 1.0), (0, 1.0), (0, -1.0), (1, -1.0))  # (axis, direction): bottom, right, left, top
_CUT_WEIGHTS = (0.46, 0.2, 0.2, 0.14)
_CAMERA_TRIES = 12


def draw_camera(stream: Stream, subject: Person, preset: Preset) -> tuple[Camera, Quadrics]:
    """Draw a camera that looks at the subject, and the subject's quadrics in it."""
    joints = subject.joints
    middle = 0.6 * (joints.min(0) + joints.max(0)) / 2 + 0.4 * joints[0]
    near, far = preset.distance
    distance = math.exp(stream.uniform(math.log(near), math.log(far)))
    azimuth = stream.uniform(-math.pi, math.pi)
    height = stream.uniform(900, 1900) if stream.chance(0.75) else stream.uniform(200, 3200)
    eye = np.array([math.sin(azimuth) * distance + middle[0], height, math.cos(azimuth) * distance + middle[2]])
    rotation = _look_at(eye, middle, math.radians(stream.normal(0, 4)))
    translation = -rotation @ eye
    table = quadrics(subject.solids.moved(rotation, translation))
    box = table.surface_box()
    focal = stream.uniform(*preset.fill) / float((box[2:] - box[:2]).max())
    jitter = np.array([stream.uniform(-1, 1), stream.uniform(-1, 1)]) * preset.centre_jitter
    centre = 0.5 - focal * (box[:2] + box[2:]) / 2 + jitter
    camera = Camera(rotation, translation, focal, (float(centre[0]), float(centre[1])))
    if stream.chance(preset.truncation):
        camera = _cutting(stream, camera, box, joints, preset)
    return camera, table


def _look_at(eye: Floats, target: Floats, roll: float) -> Floats:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = cross(forward, _UP)
    right /= np.linalg.norm(right)
    down = cross(forward, right)
    cos, sin = math.cos(roll), math.sin(roll)
    return np.stack([cos * right - sin * down, sin * right + cos * down, forward])


def _cutting(stream: Stream, camera: Camera, box: Floats, joints: Floats, preset: Preset) -> Camera:
    """The camera zoomed in and moved until one edge of the frame cuts off a drawn share of the joints."""
    low, high = preset.truncated_share
    for attempt in range(_CAMERA_TRIES):
        zoom = stream.uniform(1.0, 1.5) if attempt < _CAMERA_TRIES - 1 else 1.0
        axis, direction = _CUT_SIDES[stream.weighted(_CUT_WEIGHTS)]
        share = stream.uniform(low, high)
        focal = camera.focal * zoom
        local = camera.seen(joints)
        along = np.sort(local[:, axis] / local[:, 2] * direction)[::-1]
        out = min(max(round(share * len(along)), 1), len(along) - 1)
        edge = float(along[out - 1] + along[out]) / 2 * direction
        centre = (0.5 - focal * (box[:2] + box[2:]) / 2) + [stream.uniform(-0.1, 0.1) for _ in range(2)]
        centre[axis] = (1.0 if direction > 0 else 0.0) - focal * edge
        cut = Camera(camera.rotation, camera.translation, focal, (float(centre[0]), float(centre[1])))
        outside = 1 - float(cut.inside(joints).mean())
        if low <= outside <= high:
            break
    return cut


# ------------------------------------------------------------------------------------------------ companions

_PLACE_TRIES = 12
_LEAST_GAP = 15.0  # mm between two people
_LEAST_TO_EYE = 900.0  # mm between the camera and anyone but the subject
_SEAT_RADIUS = 330.0  # a chair, seen from above


def _room(person: Person) -> Capsules:
    """The space a person takes up, with the chair."""
    body = capsules(person)
    if person.seat_height <= 0:
        return body
    foot = person.positions[0] * (1, 0, 1)
    back = foot + _UP * (person.seat_height + 400)
    return Capsules(
        np.concatenate([body.start, foot[None]]),
        np.concatenate([body.end, back[None]]),
        np.append(body.radius, _SEAT_RADIUS),
    )


def draw_companions(
    streams: SampleStreams, subject: Person, camera: Camera, preset: Preset, mocap: Mocap | None
) -> list[Person]:
    """Further people inside the view, none of them in anyone's way; one without room is left out."""
    count = streams("companions").weighted(preset.companions)
    people = [subject]
    for number in range(1, count + 1):
        person = draw_person(streams, number, preset.stature_sd, preset.class_weights, mocap)
        placed = _place(streams("companions", number), person, people, camera, preset)
        people += [placed] if placed else []
    return people[1:]


def _place(stream: Stream, person: Person, others: list[Person], camera: Camera, preset: Preset) -> Person | None:
    subject = others[0]
    eye, joints = camera.eye, subject.joints
    depth = float(camera.seen(joints[:1])[0, 2])
    rooms = [_room(other) for other in others]
    ahead = camera.rotation[2] * (1, 0, 1)
    ahead /= np.linalg.norm(ahead)
    right = cross(ahead, _UP)
    for attempt in range(_PLACE_TRIES):
        # Later tries look further away, where there is more room.
        forward = depth + stream.uniform(-1300, 2200 + 300 * attempt)
        sideways = (stream.uniform(0.02, 0.98) - camera.centre[0]) / camera.focal * forward
        spot = eye + ahead * forward + right * sideways
        placed = person.moved(float(spot[0]), float(spot[2]))
        room = _room(placed)
        to_eye = segment_distances(eye[None], eye[None], room.start, room.end) - room.radius
        if forward < _LEAST_TO_EYE or to_eye.min() < _LEAST_TO_EYE:
            continue
        if any(clearance(room, other) < _LEAST_GAP for other in rooms):
            continue
        bodies = [capsules(other) for other in (*others[1:], placed)]
        if _seen_share(camera, joints, bodies, []) >= preset.min_seen:
            return placed
    return None


# ------------------------------------------------------------------------------------------------ furniture


@dataclass(frozen=True)
class Box:
    """A box on the ground or part of a chair; world, mm; turned by `yaw` about the vertical."""

    centre: Floats
    half: Floats
    yaw: float
    surface: Surface

    @property
    def rotation(self) -> Floats:
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])

    def hides(self, eye: Floats, points: Floats) -> NDArray[np.bool_]:
        """[n] which points the box hides from the eye (slab test)."""
        start = (eye - self.centre) @ self.rotation
        ray = (points - self.centre) @ self.rotation - start
        ray = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
        first, second = (-self.half - start) / ray, (self.half - start) / ray
        enter, leave = np.minimum(first, second).max(1), np.maximum(first, second).min(1)
        hit: NDArray[np.bool_] = (enter < leave) & (leave > 0) & (enter < 1)
        return hit


@dataclass(frozen=True)
class Overlay:
    """A flat blob over the finished image: a polygon [k,2] in shares of the unmoved window, and its look."""

    polygon: Floats
    surface: Surface

    def covers(self, places: Floats) -> NDArray[np.bool_]:
        """[n] which image places [n,2], shares of the window, it hides."""
        outline = self.polygon.astype(np.float32)
        return np.array([cv2.pointPolygonTest(outline, (float(x), float(y)), False) >= 0 for x, y in places])


@dataclass(frozen=True)
class Scene:
    """Everything but the people and the camera."""

    light: Light
    backdrop: Backdrop
    floor: Floor
    boxes: list[Box]
    overlay: Overlay | None


_SCENE_TRIES = 5


def draw_scene(streams: SampleStreams, people: list[Person], camera: Camera, preset: Preset) -> Scene:
    """Draw light, walls and furniture; what hides too much of the subject is redrawn, then left out."""
    stream = streams("scene")
    light, backdrop, floor = draw_light(stream), draw_backdrop(stream, preset.clutter), draw_floor(stream)
    stream = streams("occluders")
    joints, bodies = people[0].joints, [capsules(person) for person in people]
    for _ in range(_SCENE_TRIES):
        chairs = [box for person in people if person.seat_height > 0 for box in _chair(stream, person)]
        furniture = _furniture(stream, people, bodies, camera, preset)
        overlay = _draw_overlay(stream) if stream.chance(preset.overlay) else None
        share = _seen_share(camera, joints, bodies[1:], chairs + furniture, overlay)
        hidden = any(box.hides(camera.eye, joints).any() for box in furniture)
        if share >= preset.min_seen and (preset.occlusion or not hidden):
            return Scene(light, backdrop, floor, chairs + furniture, overlay)
    stools = [box for person in people if person.seat_height > 0 for box in _chair(stream, person, with_back=False)]
    return Scene(light, backdrop, floor, stools, None)


def _seen_share(
    camera: Camera, joints: Floats, bodies: list[Capsules], boxes: list[Box], overlay: Overlay | None = None
) -> float:
    """Share of the subject's joints in the unmoved frame that neither others, boxes nor the overlay hide."""
    seen = camera.inside(joints)
    for body in bodies:
        seen &= ~hidden_behind(camera.eye, joints, body)
    for box in boxes:
        seen &= ~box.hides(camera.eye, joints)
    if overlay:
        seen &= ~overlay.covers(camera.project(joints))
    return float(seen.mean())


def _draw_surface(stream: Stream, amplitude: float = 0.3) -> Surface:
    texture = textures().values[stream.integer(texture_count())]
    return Surface(draw_colour(stream), texture, stream.uniform(0, amplitude), stream.uniform(3, 10))


def _chair(stream: Stream, person: Person, with_back: bool = True) -> list[Box]:
    """A chair, stool or block whose seat is under the sitter."""
    surface = _draw_surface(stream, 0.15)
    width, depth, back_height = stream.uniform(200, 300), stream.uniform(190, 230), stream.uniform(150, 240)
    block, back = stream.chance(0.4), stream.chance(0.6) and with_back
    top, cos, sin = person.seat_height, math.cos(person.yaw), math.sin(person.yaw)
    pelvis = person.positions[0]

    def box(x: float, y: float, z: float, half: tuple[float, float, float]) -> Box:
        place = (pelvis[0] + x * cos + z * sin, y, pelvis[2] - x * sin + z * cos)
        return Box(np.array(place), np.array(half), person.yaw, surface)

    if top < 130:  # too low for legs
        return [box(0, top / 2, 40, (width, top / 2, depth))] if top > 30 else []
    under = (top - 60) / 2
    boxes = [box(0, top - 30, 40, (width, 30, depth))]
    if block:
        boxes.append(box(0, under, -10, (width * 0.92, under, depth * 0.7)))
    else:
        corners = [(x, z) for x in (-1, 1) for z in (-1, 1)]
        boxes += [box(x * width * 0.9, under, 40 + z * depth * 0.88, (20, under, 20)) for x, z in corners]
    if back:
        boxes.append(box(0, top + back_height + 20, -depth - 10, (width, back_height, 25)))
    return boxes


def _furniture(
    stream: Stream, people: list[Person], bodies: list[Capsules], camera: Camera, preset: Preset
) -> list[Box]:
    """Boxes around the subject, and now and then one in front; those that touch anybody are left out."""
    boxes = []
    middle, eye = people[0].positions[0], camera.eye
    for _ in range(stream.choice(preset.furniture)):
        angle, radius, height = (
            stream.uniform(0, 2 * math.pi),
            stream.uniform(700, 3200),
            stream.uniform(100, 900),
        )
        spot = middle + np.array([math.cos(angle), 0, math.sin(angle)]) * radius
        boxes.append(_standing_box(stream, spot, height, stream.uniform(80, 500)))
    if stream.chance(preset.foreground):
        part = stream.uniform(0.35, 0.75)
        spot = eye + (middle - eye) * part + camera.rotation[0] * stream.uniform(-600, 600)
        boxes.append(_standing_box(stream, spot, stream.uniform(100, 550), stream.uniform(100, 600)))
    return [box for box in boxes if _is_free(box, bodies, eye)]


def _standing_box(stream: Stream, spot: Floats, half_height: float, half_width: float) -> Box:
    half = np.array([half_width, half_height, stream.uniform(80, 400)])
    centre = np.array([spot[0], half_height, spot[2]])
    return Box(centre, half, stream.uniform(0, math.pi), _draw_surface(stream))


def _is_free(box: Box, bodies: list[Capsules], eye: Floats) -> bool:
    """Whether the upright cylinder around the box touches nobody and leaves the camera alone."""
    radius = float(np.hypot(box.half[0], box.half[2]))
    foot, top = box.centre * (1, 0, 1), box.centre * (1, 2, 1)
    if float(np.hypot(*(eye - box.centre)[[0, 2]])) < radius + 500:
        return False
    gaps = [(segment_distances(foot[None], top[None], body.start, body.end) - body.radius).min() for body in bodies]
    return bool(min(gaps) > radius)


def _draw_overlay(stream: Stream) -> Overlay:
    corners, radius = 5 + stream.integer(5), stream.uniform(0.06, 0.2)
    centre = np.array([stream.uniform(0.15, 0.85), stream.uniform(0.15, 0.85)])
    angles = np.arange(corners) * (2 * math.pi / corners)
    radii = np.array([radius * stream.uniform(0.6, 1.3) for _ in range(corners)])
    polygon = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return Overlay(polygon, _draw_surface(stream, 0.5))


# ------------------------------------------------------------------------------------------------ everything


@dataclass(frozen=True)
class Composition:
    """Everything a frame shows, before a single pixel exists; index 0 is the subject.

    Attributes:
        people: In the world.
        camera: Looks at the subject.
        scene: The rest.
        solids: Of each person, camera frame.
        tables: Their quadrics.
    """

    people: list[Person]
    camera: Camera
    scene: Scene
    solids: list[Solids]
    tables: list[Quadrics]


def compose(
    index: int,
    split: str,
    preset: Preset,
    seed: int = 0,
    mocap: Mocap | None = None,
    scene_seed: int | None = None,
) -> Composition:
    """Draw what a sample shows; the arguments are those of `render_sample`.

    Raises:
        SyntheticDataError: Negative index or seeds, unusable mocap.
    """
    if min(index, seed, scene_seed or 0) < 0:
        raise SyntheticDataError("index, seed and scene_seed must be 0 or more.")
    if mocap is not None:
        check_mocap(mocap)
    streams = SampleStreams((seed, SPLITS[split], index), scene_seed)
    subject = draw_person(streams, 0, preset.stature_sd, preset.class_weights, mocap)
    camera, table = draw_camera(streams("camera"), subject, preset)
    people = [subject, *draw_companions(streams, subject, camera, preset, mocap)]
    scene = draw_scene(streams, people, camera, preset)
    solids = [person.solids.moved(camera.rotation, camera.translation) for person in people]
    return Composition(people, camera, scene, solids, [table, *(quadrics(s) for s in solids[1:])])
