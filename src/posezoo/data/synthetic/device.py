"""The renderer on a GPU: whole batches of people rasterised, shaded and photographed from the same tables (torch).

What a frame shows is drawn by NumPy as ever, and so are wall, floor, furniture and overlay: they are many small
operations of OpenCV. People, who cost most, become tables of coefficients, and their pixels are made on the device for
all frames at once. No random number is drawn here. Frames equal `render_sample` within a grey level (before the sensor)
but not to the bit, and the sensor leaves out JPEG: use them to train on, not as the benchmark of generator version 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from posezoo import kernels
from posezoo.data.batch_blur import convolve_each, gaussian_blur
from posezoo.data.synthetic import shade
from posezoo.data.synthetic.people import Mocap
from posezoo.data.synthetic.raster import FIRST_PROP, NO_SOLID, Floats, centred_coefficients, concatenate, pixel_boxes
from posezoo.data.synthetic.sample import (
    OVERLAY,
    Canvas,
    SyntheticSample,
    draw_overlay,
    draw_room,
    looks,
    plan_frame,
    segmentation,
    with_labels,
)
from posezoo.data.synthetic.scene import Composition, Preset
from posezoo.data.synthetic.streams import SyntheticDataError

# Columns of a quadric: Q, -A (1, u, u², v, uv, v²), b, y (1, u, v), and of a hit |y + second last| < last.
_QUADRATIC, _LINEAR = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)), ((0, 0), (0, 1), (1, 0))
# Columns of a solid, by name.
_SOLID = {"rays": 9, "origin": 3, "length": 1, "tangent": 1, "to_camera": 9, "colour": 3, "amplitude": 1,
          "specular": 1, "texture": 1, "radius": 1, "feature": 1}  # fmt: skip
# Of a scene's light: directions in the camera frame, colours, numbers.
_LIGHT = {"sun_at": 3, "up": 3, "half": 3, "sun": 3, "sky": 3, "ground": 3, "wrap": 1, "wrinkle": 1, "far": 1}


@dataclass
class PreparedFrame:
    """A frame before its people are drawn: NumPy only, made in any process.

    Attributes:
        composition: What it shows.
        intrinsics: [3,3] px.
        room: Wall, floor and furniture, drawn.
        front: The overlay, drawn in front of nothing; None without.
        quadrics: float32 [q,20], the polynomials of every quadric about the centre of its box.
        boxes: int32 [q,7] left, top, right, bottom, centre x, centre y (px), id.
        solids: float32 [n,31], parameters of every solid's surface.
        light: float32 [21].
        sensor: None where the preset has none.
    """

    composition: Composition
    intrinsics: Floats
    room: Canvas
    front: Canvas | None
    quadrics: NDArray[np.float32]
    boxes: NDArray[np.int32]
    solids: NDArray[np.float32]
    light: NDArray[np.float32]
    sensor: shade.Sensor | None


@dataclass
class RenderedBatch:
    """Frames on the device.

    Attributes:
        images: uint8 RGB.
        depth: mm, inf where there is only background.
        ids: Of solids, props or NO_SOLID; see `raster`.
    """

    images: UInt8[Tensor, "frames side side 3"]
    depth: Float[Tensor, "frames side side"]
    ids: Int[Tensor, "frames side side"]


def prepare_frame(
    index: int,
    split: str = "train",
    *,
    size: int = 256,
    preset: str | Preset = "easy",
    seed: int = 0,
    mocap: Mocap | None = None,
    scene_seed: int | None = None,
    window_shift: tuple[float, float] = (0.0, 0.0),
) -> PreparedFrame:
    """The part of `render_sample` that stays on the CPU; the arguments are the same.

    Raises:
        SyntheticDataError: Unknown split or preset, unusable size, index, seed or mocap.
    """
    plan = plan_frame(index, split, size, preset, seed, mocap, scene_seed, window_shift)
    composition, intrinsics, window = plan.composition, plan.intrinsics, plan.window
    front = None
    if composition.scene.overlay:
        nothing = np.zeros((size, size), np.float32), np.full((size, size), NO_SOLID, np.int16), np.zeros(0, np.int64)
        front = Canvas(np.zeros((size, size, 3), np.uint8), *nothing)
        draw_overlay(front, composition.scene.overlay, window)
    quadrics, boxes = _quadric_tables(composition, intrinsics, size)
    return PreparedFrame(
        composition,
        intrinsics,
        draw_room(composition, intrinsics, window),
        front,
        quadrics,
        boxes,
        _solid_table(composition, intrinsics),
        _light_table(composition),
        plan.sensor,
    )


def render_batch(
    frames: Sequence[PreparedFrame], device: torch.device | str = "cuda", sensor: bool = True
) -> RenderedBatch:
    """Draw the people of some frames, and photograph them: on the device, without waiting for it.

    Args:
        frames: Of one size.
        device: Where to draw; on a CPU, `render_sample` is far faster.
        sensor: Blur, exposure and noise as each frame's sensor has them (no JPEG). False: a perfect camera.

    Raises:
        SyntheticDataError: No frames, or of several sizes.
    """
    if len({len(frame.room.depth) for frame in frames}) != 1:
        raise SyntheticDataError("render_batch needs at least one frame, and all of one size.")
    device = torch.device(device)
    images, depth, ids = (
        _stacked([getattr(frame.room, name) for frame in frames], device) for name in ("image", "depth", "ids")
    )
    rasterise(_padded([f.quadrics for f in frames], device), _padded([f.boxes for f in frames], device), depth, ids)
    solids, light = _padded([frame.solids for frame in frames], device), _stacked([f.light for f in frames], device)
    images = _shaded(images, depth, ids, solids, light)
    if any(frame.front for frame in frames):
        _lay_over(images, depth, ids, frames)
    images = _softened(images, ids)
    if sensor:
        images = photograph(images, [frame.sensor for frame in frames])
    return RenderedBatch(images, depth, ids)


def to_samples(frames: Sequence[PreparedFrame], rendered: RenderedBatch) -> list[SyntheticSample]:
    """What `render_sample` returns, with depth and parts: labels of the scene, images and buffers copied to the CPU."""
    samples = []
    images, depths, ids = (each.cpu().numpy() for each in (rendered.images, rendered.depth, rendered.ids))
    for frame, image, depth, front in zip(frames, images, depths, ids.astype(np.int16), strict=True):
        canvas = Canvas(image, depth, front, frame.room.owner)
        sample = with_labels(image, frame.composition, frame.intrinsics, canvas)
        sample.depth = depth
        sample.part_id, sample.person_id = segmentation(frame.composition.people, canvas)
        samples.append(sample)
    return samples


# ------------------------------------------------------------------------------------------------ tables, on the CPU


def _quadric_tables(
    composition: Composition, intrinsics: Floats, size: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    rows: list[NDArray[np.float32]] = []
    places, first = [], 0
    for table, solids in zip(composition.tables, composition.solids, strict=True):
        boxes, centres = pixel_boxes(table, intrinsics, (size, size))
        forms = centred_coefficients(table, intrinsics, centres)
        terms: list[NDArray[np.floating[Any]]] = [forms[:, k, i, j] for k in (0, 1) for i, j in _QUADRATIC]
        terms += [forms[:, k, i, j] for k in (2, 3) for i, j in _LINEAR]
        # An ellipsoid has no range of y: its polynomial is 0.
        terms += [table.y_offset, np.where(table.cone, table.y_half, np.inf)]
        rows.append(np.stack(terms, 1).astype(np.float32))
        places.append(np.concatenate([boxes, centres, (table.solid + first)[:, None]], 1).astype(np.int32))
        first += len(solids)
    return np.concatenate(rows), np.concatenate(places)


def _solid_table(composition: Composition, intrinsics: Floats) -> NDArray[np.float32]:
    """[n,31] what `shade_people` gathers by id, in the order of `_SOLID`."""
    solids = concatenate(composition.solids)
    materials, features = looks(composition.people)
    table = shade.surface_table(solids, materials, intrinsics)
    own: dict[str, Any] = {"radius": solids.radius_a, "feature": features}
    columns = [own[name] if name in own else getattr(table, name) for name in _SOLID]
    return np.concatenate([np.atleast_2d(column) for column in columns]).T.astype(np.float32)


def _light_table(composition: Composition) -> NDArray[np.float32]:
    light, rotation = composition.scene.light, composition.camera.rotation
    sun = rotation @ light.direction
    far = max(float(solids.centre[:, 2].max()) for solids in composition.solids) + shade.BEHIND
    own: dict[str, Any] = {"sun_at": sun, "up": rotation[:, 1], "half": shade.halfway(sun), "far": far}
    columns = [own[name] if name in own else getattr(light, name) for name in _LIGHT]
    return np.concatenate([np.atleast_1d(column) for column in columns]).astype(np.float32)


# ------------------------------------------------------------------------------------------------ to the device


def _upload(values: Tensor, device: torch.device) -> Tensor:
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _stacked(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> Tensor:
    return _upload(torch.from_numpy(np.stack(arrays)), device)


def _padded(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> Tensor:
    """Tables of several lengths as one; a quadric of zeros has an empty box, and no pixel has a padded solid's id."""
    longest = max(len(array) for array in arrays)
    return _stacked([np.pad(array, ((0, longest - len(array)), (0, 0))) for array in arrays], device)


@lru_cache(maxsize=4)
def _textures(device: torch.device) -> Float[Tensor, "textures texels"]:
    return torch.from_numpy(shade.textures().values).flatten(1).to(device)


@lru_cache(maxsize=4)
def _grain(device: torch.device) -> UInt8[Tensor, "rows columns 3"]:
    return torch.from_numpy(shade.grain()).to(device)


# ------------------------------------------------------------------------------------------------ rasteriser


def rasterise(
    quadrics: Float[Tensor, "frames quadrics 20"],
    boxes: Int[Tensor, "frames quadrics 7"],
    depth: Float[Tensor, "frames rows columns"],
    ids: Int[Tensor, "frames rows columns"],
) -> None:
    """Draw quadrics into depth (mm) and id buffers, nearest surface first: `raster.rasterise` for a batch.

    On a GPU one Triton kernel does it, tile by tile, and passes over quadrics whose box does not touch the tile.
    """
    if kernels.usable(depth, "rasteriser"):
        from posezoo.kernels.rasterise import rasterise_tiles

        rasterise_tiles(quadrics, boxes, depth, ids)
    else:
        rasterise_plainly(quadrics, boxes, depth, ids)


def rasterise_plainly(
    quadrics: Float[Tensor, "frames quadrics 20"],
    boxes: Int[Tensor, "frames quadrics 7"],
    depth: Float[Tensor, "frames rows columns"],
    ids: Int[Tensor, "frames rows columns"],
) -> None:
    """`rasterise` in plain operations: one quadric of every frame at once, over all pixels."""
    rows, columns = (torch.arange(side, device=depth.device) for side in depth.shape[-2:])
    for table, box in zip(quadrics.unbind(1), boxes.unbind(1), strict=True):
        left, top, right, bottom, centre_x, centre_y, name = box[:, :, None, None].unbind(1)
        u, v = (columns - centre_x).float(), (rows[:, None] - centre_y).float()
        c = table[:, :, None, None].unbind(1)
        z = (_quadratic(c[:6], u, v).sqrt() + _linear(c[12:15], u, v)) / _quadratic(c[6:12], u, v)
        height = _linear(c[15:18], u, v) * z + c[18]
        inside = (columns >= left) & (columns < right) & (rows[:, None] >= top) & (rows[:, None] < bottom)
        nearer = (z < depth) & (height.abs() < c[19]) & inside  # never where a root is NaN
        depth.copy_(torch.where(nearer, z, depth))
        ids.copy_(torch.where(nearer, name.to(ids.dtype), ids))


def _quadratic(c: Sequence[Tensor], u: Tensor, v: Tensor) -> Tensor:
    return (c[0] + c[1] * u + c[2] * (u * u)) + v * (c[3] + c[4] * u) + (v * v) * c[5]


def _linear(c: Sequence[Tensor], u: Tensor, v: Tensor) -> Tensor:
    return (c[0] + c[1] * u) + v * c[2]


# ------------------------------------------------------------------------------------------------ shading


def _shaded(images: Tensor, depth: Tensor, ids: Tensor, solids: Tensor, light: Tensor) -> Tensor:
    """Images [B,S,S,3] with the people coloured: `shade.shade_people` for a batch, on all pixels."""
    person = (ids >= 0) & (ids < FIRST_PROP)
    owner = torch.where(person, ids, 0).long()
    z = torch.where(person, depth, 1.0)  # any finite depth does for the others
    batch = torch.arange(len(ids), device=ids.device)[:, None, None]
    s = _columns(solids[batch, owner], _SOLID)
    scene = _columns(light[:, None, None], _LIGHT)
    local = _local_points(s, z)
    normal = _normals(s, local)
    albedo, bump = _albedo(s, local, scene["wrinkle"][0])
    albedo = _painted(albedo, s, local)
    occlusion = _occlusion(depth, scene["far"][0])
    key, sky, below = _received(normal, bump, occlusion, scene)
    gloss = _dot(normal, scene["half"]).clamp(min=0) ** 8 * s["specular"][0] * (sum(scene["sun"]) / 3)
    lit = [
        (colour * albedo * (key * sun + sky * above + below * ground) + gloss) * 255
        for colour, sun, above, ground in zip(s["colour"], scene["sun"], scene["sky"], scene["ground"], strict=True)
    ]
    return torch.where(person[..., None], torch.stack(lit, -1).clamp(0, 255).to(torch.uint8), images)


def _columns(table: Tensor, widths: dict[str, int]) -> dict[str, tuple[Tensor, ...]]:
    """The columns of a table [..., c] by name."""
    parts = table.split(list(widths.values()), -1)
    return {name: part.unbind(-1) for name, part in zip(widths, parts, strict=True)}


def _dot(vectors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    (x, y, z), (a, b, c) = vectors, others
    return x * a + y * b + z * c


def _local_points(s: dict[str, tuple[Tensor, ...]], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = (torch.arange(side, device=z.device, dtype=z.dtype) for side in z.shape[-2:])
    seen = columns * z, rows[:, None] * z, z
    x, y, depth = (_dot(s["rays"][3 * k : 3 * k + 3], seen) + s["origin"][k] for k in range(3))
    return x, y, depth


def _normals(s: dict[str, tuple[Tensor, ...]], local: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    x, y, z = local
    foot = torch.minimum((y - s["tangent"][0] * (x * x + z * z).sqrt()).clamp(min=0), s["length"][0])
    m = s["to_camera"]
    normal = [_dot((m[k], m[3 + k], m[6 + k]), (x, y - foot, z)) for k in range(3)]
    scale = 1 / (_dot(normal, normal) + 1e-12).sqrt()
    return tuple(each * scale for each in normal)


def _albedo(
    s: dict[str, tuple[Tensor, ...]], local: tuple[Tensor, Tensor, Tensor], wrinkle: Tensor
) -> tuple[Tensor, Tensor]:
    x, y, z = local
    side = shade.TEXTURE_SIDE
    u, v = (x * 0.25 + torch.where(z > 0, 37.0, 161.0)).int(), (y * 0.25).int()
    pool = _textures(x.device)
    texel = (v % side * side + u % side).long()
    factor = pool.flatten()[s["texture"][0].long() * pool.shape[1] + texel] * s["amplitude"][0]
    fold = (v * 2 % side * side + u * 2 % side).long()
    return factor + 1, pool[shade.WRINKLES][fold] * wrinkle


def _painted(albedo: Tensor, s: dict[str, tuple[Tensor, ...]], local: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    feature, ahead = s["feature"][0], local[2] > 0
    x, y = local[0].abs() / s["radius"][0], local[1] / s["radius"][0]
    face, jaw = ahead & (feature == shade.EYES), ahead & (feature == shade.MOUTH)
    for where, value in shade.face_paint(x, y, eyes=face, mouth=jaw):
        albedo = torch.where(where, value, albedo)
    return albedo


def _occlusion(depth: Tensor, far: Tensor) -> Tensor:
    capped = torch.minimum(depth, far)
    side = shade.occlusion_side(depth.shape[-1])
    around = F.avg_pool2d(_mirrored(capped[:, None], side // 2), side, stride=1)[:, 0]
    return 1 - ((capped - around) * 0.0025).clamp(0, 0.55)


def _mirrored(images: Tensor, border: int) -> Tensor:
    return F.pad(images, (border,) * 4, mode="reflect")


def _received(
    normal: Sequence[Tensor], bump: Tensor, occlusion: Tensor, scene: dict[str, tuple[Tensor, ...]]
) -> tuple[Tensor, Tensor, Tensor]:
    wrap = scene["wrap"][0]
    to_sun, to_sky = _dot(normal, scene["sun_at"]) + bump, _dot(normal, scene["up"]) + bump
    key = ((to_sun + wrap) / (1 + wrap)).clamp(min=0) * (0.5 + 0.5 * occlusion)
    sky = (0.5 + 0.5 * to_sky) * occlusion
    return key, sky, (1 - sky) * occlusion


# ------------------------------------------------------------------------------------------------ in front, and sensor


def _lay_over(images: Tensor, depth: Tensor, ids: Tensor, frames: Sequence[PreparedFrame]) -> None:
    """Put the overlays of the frames that have one before everything, in place."""
    for number, frame in enumerate(frames):
        if frame.front is not None:
            colours, near, front = (
                _upload(torch.from_numpy(each), images.device)
                for each in (frame.front.image, frame.front.depth, frame.front.ids)
            )
            covered = front == OVERLAY
            images[number] = torch.where(covered[..., None], colours, images[number])
            depth[number], ids[number] = (
                torch.where(covered, ours, behind[number]) for ours, behind in ((near, depth), (front, ids))
            )


def _softened(images: Tensor, ids: Tensor) -> Tensor:
    """`shade.soften_edges` for a batch."""
    edge = _edges(ids)
    planes = _mirrored(images.movedim(-1, 1).float(), 1)
    mean = (F.avg_pool2d(planes, 3, stride=1, divisor_override=1) / 9).round().to(torch.uint8)
    return torch.where(edge[..., None], mean.movedim(1, -1), images)


def _edges(ids: Tensor) -> Bool[Tensor, "frames rows columns"]:
    """What generator version 1 softens: both sides of a change of ids down, the left one of a change across."""
    across, down = ids[:, :, 1:] != ids[:, :, :-1], ids[:, 1:] != ids[:, :-1]
    edge = torch.cat([across, across[:, :, -1:]], -1)
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge


def photograph(
    images: UInt8[Tensor, "frames side side 3"], sensors: Sequence[shade.Sensor | None]
) -> UInt8[Tensor, "frames side side 3"]:
    """`shade.apply_sensor` for a batch, without JPEG; None leaves a frame as it is."""
    side, device = images.shape[1], images.device
    planes = images.movedim(-1, 1).float()
    sigmas = [sensor.blur(side) if sensor else 0.0 for sensor in sensors]
    if any(sigmas):
        planes = gaussian_blur(planes, _upload(torch.tensor(sigmas), device), math.ceil(3 * max(sigmas))).round()
    for number, sensor in enumerate(sensors):  # one frame in ten
        streak = sensor.streak_kernel(side) if sensor else None
        if streak is not None:
            kernel = _stacked([streak], device)
            planes[number] = convolve_each(planes[number, None], kernel)[0].round()
    identity = np.arange(256, dtype=np.uint8)
    curves = _stacked([sensor.curve if sensor else identity for sensor in sensors], device)
    frame = torch.arange(len(sensors), device=device)[:, None, None, None]
    planes = curves[frame, planes.long()].float()
    noise = _upload(torch.tensor([sensor.noise if sensor else 0.0 for sensor in sensors]), device)[:, None, None, None]
    cuts = [_grain(device)[shade.grain_window(sensor.grain_at if sensor else (0, 0), side)] for sensor in sensors]
    planes = planes + (torch.stack(cuts).movedim(-1, 1).float() - 128) * noise
    return planes.round().clamp(0, 255).to(torch.uint8).movedim(1, -1)
