"""Drawing a composition, and reading its ground truth off the buffers it was drawn into."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from posezoo.data.synthetic.body import FLESH_RADIUS, PART_OF_FRAME, Material
from posezoo.data.synthetic.people import Mocap, Person, capsules
from posezoo.data.synthetic.raster import (
    FIRST_PROP,
    NO_SOLID,
    Depth,
    Floats,
    Ids,
    Pixels,
    Surface,
    box_corners,
    concatenate,
    draw_quad,
    rasterise,
    visible_faces,
)
from posezoo.data.synthetic.scene import (
    SPLITS,
    Box,
    Camera,
    Composition,
    Overlay,
    Preset,
    Scene,
    check_request,
    compose,
    find_preset,
)
from posezoo.data.synthetic.shade import (
    EYES,
    MOUTH,
    Light,
    Sensor,
    ShadowCaster,
    Window,
    apply_sensor,
    draw_sensor,
    face_light,
    paint_backdrop,
    paint_floor,
    shade_people,
    shadow_map,
    soften_edges,
)
from posezoo.data.synthetic.streams import SampleStreams

_FEATURES = {"head": EYES, "jaw": MOUTH}
_CLOTHES_SLACK = 45.0  # mm: clothes sit outside the flesh a joint is in
OVERLAY = FIRST_PROP + 2000  # faces of boxes are numbered from FIRST_PROP: their edges are softened too
_OVERLAY_DEPTH = 300.0


@dataclass
class SyntheticSample:
    """One rendered frame with its ground truth: P people (0 is the subject), side S, SYNTHETIC25 joints.

    Attributes:
        image: uint8 [S,S,3] RGB: the source frame, not a tight crop.
        intrinsics: float32 [3,3] px; pixel centres are integers and the principal point is not the centre.
        rotation: float32 [3,3] world -> camera; world y is up, the ground y = 0.
        translation: float32 [3] mm, world -> camera.
        joints3d: float32 [P,25,3] mm, camera frame, absolute.
        joints2d: float32 [P,25,2] px, also beyond the frame.
        visibility: uint8 [P,25]: 0 beyond the frame, 1 hidden by something else, 2 self-occluded, 3 visible.
        boxes: float32 [P,4] ltwh px around the surface, not clipped to the frame.
        pose_class: int64 [P] index into POSE_CLASSES.
        stature: float32 [P] mm.
        depth: float32 [S,S] mm, inf where there is only background; None unless asked for.
        part_id: int16 [S,S] index into PART_NAMES, -1 off people; None unless asked for.
        person_id: int8 [S,S], -1 off people; None unless asked for.
    """

    image: NDArray[np.uint8]
    intrinsics: NDArray[np.float32]
    rotation: NDArray[np.float32]
    translation: NDArray[np.float32]
    joints3d: NDArray[np.float32]
    joints2d: NDArray[np.float32]
    visibility: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    pose_class: NDArray[np.int64]
    stature: NDArray[np.float32]
    depth: NDArray[np.float32] | None = None
    part_id: NDArray[np.int16] | None = None
    person_id: NDArray[np.int8] | None = None


# ------------------------------------------------------------------------------------------------ drawing


@dataclass
class Canvas:
    """What a frame is drawn into."""

    image: Pixels
    depth: Depth
    ids: Ids
    owner: NDArray[np.int64]  # person of each solid id


def _draw(composition: Composition, intrinsics: Floats, window: Window) -> Canvas:
    """Wall, floor, furniture, people, overlay: from the back to the front, but for the depth buffer."""
    canvas = draw_room(composition, intrinsics, window)
    _draw_people(canvas, composition, intrinsics)
    if composition.scene.overlay:
        draw_overlay(canvas, composition.scene.overlay, window)
    soften_edges(canvas.image, canvas.ids)
    return canvas


def draw_room(composition: Composition, intrinsics: Floats, window: Window) -> Canvas:
    """Wall, floor and furniture, with the people's shadows but without the people."""
    scene, people, camera = composition.scene, composition.people, composition.camera
    size, middle = window.size, people[0].positions[0]
    image = paint_backdrop(scene.backdrop, window)
    shadow = shadow_map(_casters(scene, people), scene.light, middle)
    paint_floor(image, scene.floor, shadow, middle, intrinsics, camera.rotation, camera.translation)
    depth = np.full((size, size), np.inf, np.float32)
    ids = np.full((size, size), NO_SOLID, np.int16)
    owner = np.repeat(np.arange(len(people)), [len(solids) for solids in composition.solids])
    canvas = Canvas(image, depth, ids, owner)
    for number, box in enumerate(scene.boxes):
        _draw_box(canvas, box, camera, intrinsics, scene.light, FIRST_PROP + 6 * number)
    return canvas


def _draw_people(canvas: Canvas, composition: Composition, intrinsics: Floats) -> None:
    first = 0
    for table, solids in zip(composition.tables, composition.solids, strict=True):
        rasterise(table, intrinsics, canvas.depth, canvas.ids, first)
        first += len(solids)
    materials, features = looks(composition.people)
    shade_people(
        canvas.image, canvas.depth, canvas.ids, concatenate(composition.solids), materials, features, intrinsics,
        composition.camera.rotation, composition.scene.light,
    )  # fmt: skip


def looks(people: list[Person]) -> tuple[list[Material], NDArray[np.int8]]:
    """Material and painted feature (EYES, MOUTH or 0) of every solid of the people."""
    names = [name for person in people for name in person.parts.material]
    materials = [person.look.materials[name] for person in people for name in person.parts.material]
    return materials, np.array([_FEATURES.get(name, 0) for name in names], np.int8)


def _casters(scene: Scene, people: list[Person]) -> list[ShadowCaster]:
    casters = []
    for person in people:
        body = capsules(person)
        casters.append(ShadowCaster(body.start, body.end, body.radius * 0.85))
    nothing, none = np.zeros((0, 3)), np.zeros(0)
    for box in scene.boxes:
        casters.append(ShadowCaster(nothing, nothing, none, box_corners(box.centre, box.half, box.rotation)))
    return casters


def _draw_box(canvas: Canvas, box: Box, camera: Camera, intrinsics: Floats, light: Light, first_id: int) -> None:
    corners = camera.seen(box_corners(box.centre, box.half, box.rotation))
    for face, (quad, normal) in enumerate(visible_faces(corners, camera.rotation @ box.rotation)):
        colour = box.surface.colour * face_light(camera.rotation.T @ normal, light)
        surface = Surface(colour, box.surface.texture, box.surface.amplitude, box.surface.texel)
        draw_quad(canvas.image, canvas.depth, canvas.ids, quad, intrinsics, surface, first_id + face)


def draw_overlay(canvas: Canvas, overlay: Overlay, window: Window) -> None:
    """A flat blob in front of everything; its texture belongs to the scene's window, as its outline does."""
    size, texture = window.size, overlay.surface.texture
    mask = np.zeros((size, size), np.uint8)
    outline = overlay.polygon * size + window.shift - 0.5
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    rows, columns = np.nonzero(mask)
    x, y = (
        (((places - shift) / size) * len(texture)).astype(int) % len(texture)
        for places, shift in zip((columns, rows), window.shift, strict=True)
    )
    shade = 1 + overlay.surface.amplitude * texture[y, x]
    canvas.image[rows, columns] = np.clip(shade[:, None] * overlay.surface.colour * 255, 0, 255)
    canvas.depth[rows, columns], canvas.ids[rows, columns] = _OVERLAY_DEPTH, OVERLAY


def _visibility(canvas: Canvas, person: int, stature: float, joints: Floats, pixels: Floats) -> NDArray[np.uint8]:
    """[25] 0 beyond the frame, 1 hidden by something else, 2 by the person itself, 3 visible."""
    size = len(canvas.depth)
    place = np.round(pixels).astype(np.int64)
    inside = ((place >= 0) & (place < size)).all(1) & (joints[:, 2] > 0)
    x, y = np.clip(place, 0, size - 1).T
    front, surface = canvas.ids[y, x], canvas.depth[y, x]
    of_person = (front >= 0) & (front < FIRST_PROP)
    own = of_person & (canvas.owner[np.where(of_person, front, 0)] == person)
    visible = surface >= joints[:, 2] - FLESH_RADIUS * stature - _CLOTHES_SLACK
    return np.select([~inside, visible, own], [0, 3, 2], 1).astype(np.uint8)


@lru_cache(maxsize=1)
def single_threaded_opencv() -> None:
    """Once per process: 256 px are too little work for a thread pool, and workers would fight.

    0 and not 1: OpenCV answers 1 by joining its pool, whose threads a forked loader process does not have, and waits
    for ever.
    """
    cv2.setNumThreads(0)


@dataclass(frozen=True)
class FramePlan:
    """Everything that is drawn for a frame before its first pixel; `sensor` is None where the preset has none."""

    composition: Composition
    intrinsics: Floats
    window: Window
    sensor: Sensor | None


def plan_frame(
    index: int,
    split: str,
    size: int,
    preset: str | Preset,
    seed: int,
    mocap: Mocap | None,
    scene_seed: int | None,
    window_shift: tuple[float, float],
) -> FramePlan:
    """What is in a frame, from the arguments of `render_sample`."""
    check_request(split, size)
    chosen = find_preset(preset)
    single_threaded_opencv()
    composition = compose(index, split, chosen, seed, mocap, scene_seed)
    intrinsics = composition.camera.intrinsics(size, window_shift)
    window = Window(size, (-window_shift[0] * size, -window_shift[1] * size))
    stream = SampleStreams((seed, SPLITS[split], index), scene_seed)("sensor")
    return FramePlan(composition, intrinsics, window, draw_sensor(stream) if chosen.sensor else None)


def render_sample(
    index: int,
    split: str = "train",
    *,
    size: int = 256,
    preset: str | Preset = "easy",
    seed: int = 0,
    mocap: Mocap | None = None,
    scene_seed: int | None = None,
    window_shift: tuple[float, float] = (0.0, 0.0),
    return_depth: bool = False,
    return_parts: bool = False,
) -> SyntheticSample:
    """Render one sample: a pure function of its arguments and GENERATOR_VERSION, in any process.

    Args:
        index: Which sample, 0 or more.
        split: train, val or test; their samples never coincide.
        size: Side of the frame, px; the scene does not depend on it.
        preset: Name in PRESETS or a Preset of your own.
        seed: Another universe of samples.
        mocap: Poses to draw from: [N,17,3] mm, H36M-17 order, z up, or [N,24,3] SMPL axis-angles.
        scene_seed: Redraw light, background, furniture and sensor around the same people and camera.
        window_shift: Move the window right and down by these shares of the frame; nothing else changes.
        return_depth: Fill `depth`.
        return_parts: Fill `part_id` and `person_id`.

    Raises:
        SyntheticDataError: Unknown split or preset, unusable size, index, seed or mocap.
    """
    plan = plan_frame(index, split, size, preset, seed, mocap, scene_seed, window_shift)
    canvas = _draw(plan.composition, plan.intrinsics, plan.window)
    image = canvas.image if plan.sensor is None else apply_sensor(plan.sensor, canvas.image)
    sample = with_labels(image, plan.composition, plan.intrinsics, canvas)
    if return_depth:
        sample.depth = canvas.depth
    if return_parts:
        sample.part_id, sample.person_id = segmentation(plan.composition.people, canvas)
    return sample


def with_labels(image: Pixels, composition: Composition, intrinsics: Floats, canvas: Canvas) -> SyntheticSample:
    people, camera, tables = composition.people, composition.camera, composition.tables
    joints = [camera.seen(person.joints) for person in people]
    pixels = [(j @ intrinsics.T)[:, :2] / j[:, 2:] for j in joints]
    scale, shift = np.diag(intrinsics)[:2], intrinsics[:2, 2]
    boxes = np.array([table.surface_box() for table in tables])
    corner, far = boxes[:, :2] * scale + shift, boxes[:, 2:] * scale + shift
    return SyntheticSample(
        image=image,
        intrinsics=intrinsics.astype(np.float32),
        rotation=camera.rotation.astype(np.float32),
        translation=camera.translation.astype(np.float32),
        joints3d=np.array(joints, np.float32),
        joints2d=np.array(pixels, np.float32),
        visibility=np.array(
            [_visibility(canvas, i, person.body.stature, joints[i], pixels[i]) for i, person in enumerate(people)]
        ),
        boxes=np.concatenate([corner, far - corner], 1).astype(np.float32),
        pose_class=np.array([person.pose_class for person in people], np.int64),
        stature=np.array([person.body.stature for person in people], np.float32),
    )


def segmentation(people: list[Person], canvas: Canvas) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
    on_person = (canvas.ids >= 0) & (canvas.ids < FIRST_PROP)
    solid = np.where(on_person, canvas.ids, 0)
    parts = np.concatenate([PART_OF_FRAME[person.parts.frame] for person in people])
    part_id = np.where(on_person, parts[solid], -1).astype(np.int16)
    return part_id, np.where(on_person, canvas.owner[solid], -1).astype(np.int8)
