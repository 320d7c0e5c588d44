"""Everything that has a colour: textures, people, walls and floors, and what a sensor does to them.

Shading is deferred: only the frontmost surface of each pixel is lit, with parameters gathered by its id.
Screen-space patterns are anchored to the scene, not to the window, so that a moved window shows the same
wall.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posezoo.data.synthetic.body import Material, draw_colour
from posezoo.data.synthetic.raster import FIRST_PROP, Depth, Floats, Ids, Pixels, Solids
from posezoo.data.synthetic.streams import Stream

Triple = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

TEXTURE_SIDE = 256
_TEXTURE_SEED, _GRAIN_SEED = 12345, 99
_GRAIN_SIDE = 1024
_SMOOTH = 10  # textures below this number are plain noise
_EYE_WHITE, _DARK, _LIPS = 1.3, 0.3, 0.6
WRINKLES = 2  # the texture that cloth is wrinkled with
BEHIND = 500.0  # mm behind the farthest solid from where on nothing darkens what is before it
EYES, MOUTH = 1, 2  # what is painted on a solid: the skull carries the eyes, the jaw the mouth


# ------------------------------------------------------------------------------------------------ textures


@dataclass(frozen=True)
class Textures:
    """The shared pool of n textures.

    Attributes:
        values: [n,T,T] float32 about -1..1.
        tiles_at: Level k of the pyramid, uint8 [n,2T/2^k,2T/2^k]: twice each way, because warps read slowly
            across a border.
    """

    values: NDArray[np.float32]
    tiles_at: tuple[Pixels, ...]


def texture_count() -> int:
    return 26


@lru_cache(maxsize=1)
def textures() -> Textures:
    """Noise, stripes, checks, bricks, planks, dots; built on first use, the same in every process."""
    rng, side = np.random.default_rng(_TEXTURE_SEED), TEXTURE_SIDE
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    pool = [np.clip(_noise(rng, side, (0.6, 1.0, 1.5, 2.0, 2.5)[k % 5]) * 0.4, -1, 1) for k in range(_SMOOTH)]
    pool += [_weave(rng, x, y, k) + pool[k] * 0.2 for k in range(8)]
    pool += [_masonry(x, y, *size) + pool[k] * 0.3 for k, size in enumerate(((64, 32), (256, 16), (64, 64), (128, 32)))]
    pool += [_dots(x, y, spacing) for spacing in (16, 32, 32, 64)]
    values = np.stack(pool).astype(np.float32)
    levels = [np.clip(128 + values * 90, 0, 255).astype(np.uint8)]
    while levels[-1].shape[1] > 16:
        half = levels[-1].shape[1] // 2
        levels.append(np.stack([cv2.resize(t, (half, half), interpolation=cv2.INTER_AREA) for t in levels[-1]]))
    return Textures(values, tuple(np.tile(level, (1, 2, 2)) for level in levels))


def _noise(rng: np.random.Generator, side: int, beta: float) -> NDArray[np.float32]:
    """Tiling fractal noise of unit variance with a spectrum falling as frequency^-beta."""
    total = np.zeros((side, side), np.float32)
    for cells in (2, 4, 8, 16, 32, 64, 128):
        grid = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 1, mode="wrap")
        step = side // cells
        smooth = cv2.resize(grid, (side + 2 * step, side + 2 * step), interpolation=cv2.INTER_CUBIC)
        total += smooth[step : step + side, step : step + side] * cells ** (-beta / 2)
    total -= total.mean()
    total /= total.std() + np.float32(1e-6)
    return total


def _weave(rng: np.random.Generator, x: NDArray[np.float32], y: NDArray[np.float32], kind: int) -> NDArray[np.float32]:
    period = 2 ** rng.integers(3, 7)
    rows, columns = (np.sign(np.sin(2 * np.pi * (axis + 0.5) / period)) for axis in (y, x))
    pattern = (rows, columns, rows * columns, (rows + columns) / 2)[kind % 4]
    return np.asarray(pattern * 0.8, np.float32)


def _masonry(x: NDArray[np.float32], y: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Bricks, planks or tiles, each of its own shade, with dark joints."""
    row = y // height
    shifted = x + (row % 2) * width / 2 * (width != height)
    joint = (y % height < 2) | (shifted % width < 2)
    column = (shifted // width) % (TEXTURE_SIDE / width)
    shade = (np.sin(row * 12.9 + column * 78.2) * 43758.5) % 1 * 0.8 - 0.2
    return np.where(joint, -1, shade).astype(np.float32)


def _dots(x: NDArray[np.float32], y: NDArray[np.float32], spacing: int) -> NDArray[np.float32]:
    radius = np.hypot(x % spacing - spacing / 2, y % spacing - spacing / 2)
    return np.where(radius < spacing * 0.28, 1, -0.3).astype(np.float32)


@lru_cache(maxsize=1)
def grain() -> Pixels:
    """Sensor noise of standard deviation 32 about 128, [side,side,3]."""
    noise = np.random.default_rng(_GRAIN_SEED).normal(128, 32, (_GRAIN_SIDE, _GRAIN_SIDE, 3))
    return noise.round().clip(0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ light


@dataclass(frozen=True)
class Light:
    """One sun and a sky that is brighter above than below.

    Attributes:
        direction: [3] towards the sun, world, unit length.
        sun: RGB strength.
        sky: RGB light from above.
        ground: RGB light from below.
        wrap: How far the sun reaches round corners, 0..0.25.
        wrinkle: Strength of the cloth's bump texture.
        shadow: Darkness of the cast shadow, 0..1.
        shadow_blur: Its softness, mm on the ground.
    """

    direction: Floats
    sun: Floats
    sky: Floats
    ground: Floats
    wrap: float
    wrinkle: float
    shadow: float
    shadow_blur: float


def draw_light(stream: Stream) -> Light:
    direction = np.array([stream.uniform(-1, 1), stream.uniform(0.45, 1.7), stream.uniform(-1, 1)])
    warmth = stream.uniform(-0.12, 0.12)
    sun = np.array([1 + warmth, 1, 1 - warmth]) * stream.uniform(0.35, 1.1)
    sky = np.array([1 - warmth / 2, 1, 1 + warmth]) * stream.uniform(0.35, 0.75)
    return Light(
        direction / np.linalg.norm(direction),
        sun,
        sky,
        sky * np.array([1.05, 1, 0.9]) * stream.uniform(0.35, 0.8),
        stream.uniform(0, 0.25),
        stream.uniform(0, 0.16),
        stream.uniform(0.25, 0.75) * min(1.0, float(sun.mean()) * 1.3),
        stream.uniform(15, 90),
    )


def face_light(normal: Floats, light: Light) -> Floats:
    """RGB light on a flat face of a prop; the normal in the world."""
    up = 0.5 + 0.5 * float(normal[1])
    direct = max(0.0, float(normal @ light.direction))
    return light.sun * direct + light.sky * up + light.ground * (1 - up)


# ------------------------------------------------------------------------------------------------ people


def shade_people(
    image: Pixels,
    depth: Depth,
    ids: Ids,
    solids: Solids,
    materials: list[Material],
    features: NDArray[np.int8],
    intrinsics: Floats,
    rotation: Floats,
    light: Light,
) -> None:
    """Colour the pixels whose id is a solid's.

    Args:
        image: [H,W,3] RGB, written in place.
        depth: [H,W] mm.
        ids: [H,W] solid ids, props or NO_SOLID.
        solids: All people's solids, camera frame.
        materials: [n] of each solid.
        features: [n] EYES, MOUTH or 0: what is painted on each solid.
        intrinsics: [3,3].
        rotation: [3,3] world -> camera, for the light.
        light: Sun and sky.
    """
    flat = ids.ravel()
    where = np.flatnonzero((flat >= 0) & (flat < FIRST_PROP))
    if len(where) == 0:
        return
    owner = flat[where].astype(np.intp)
    z = depth.ravel()[where]
    table = surface_table(solids, materials, intrinsics)
    local = _local_points(table, owner, where, depth.shape[1], z)
    normal = _normals(table, owner, local)
    albedo, bump = _albedo(table, owner, local, light)
    _paint_faces(albedo, solids, features, owner, local)
    occlusion = _ambient_occlusion(depth, where, float(solids.centre[:, 2].max()) + BEHIND)
    key, sky, below = _received_light(normal, bump, occlusion, rotation, light)
    gloss = _highlight(normal, rotation @ light.direction) * table.specular.take(owner) * _f(light.sun.mean())
    out = np.empty((len(where), 3), np.float32)
    for channel in range(3):
        lit = key * _f(light.sun[channel]) + sky * _f(light.sky[channel]) + below * _f(light.ground[channel])
        out[:, channel] = (table.colour[channel].take(owner) * albedo * lit + gloss) * _f(255)
    np.clip(out, 0, 255, out)
    image.reshape(-1, 3)[where] = out.astype(np.uint8)


def _received_light(
    normal: Triple, bump: NDArray[np.float32], occlusion: NDArray[np.float32], rotation: Floats, light: Light
) -> Triple:
    """Shares of the sun's, the sky's and the ground's light that arrive at each pixel."""
    sun, up = rotation @ light.direction, rotation[:, 1]
    n_sun = normal[0] * _f(sun[0]) + normal[1] * _f(sun[1]) + normal[2] * _f(sun[2]) + bump
    n_up = normal[0] * _f(up[0]) + normal[1] * _f(up[1]) + normal[2] * _f(up[2]) + bump
    key = np.maximum(0, (n_sun + _f(light.wrap)) / _f(1 + light.wrap)) * (_f(0.5) + _f(0.5) * occlusion)
    sky = (_f(0.5) + _f(0.5) * n_up) * occlusion
    return key, sky, (_f(1) - sky) * occlusion


def _f(value: float) -> np.float32:
    return np.float32(value)


@dataclass(frozen=True)
class SurfaceTable:
    """Per solid, float32, each row contiguous: `take` is cheap then."""

    rays: NDArray[np.float32]  # [9,n] row-major 3x3: (u, v, 1) -> local direction
    origin: NDArray[np.float32]  # [3,n] camera centre, local
    length: NDArray[np.float32]  # [n]
    tangent: NDArray[np.float32]  # [n] slope / sqrt(1 - slope^2)
    to_camera: NDArray[np.float32]  # [9,n] row-major 3x3 to_local: its transpose turns normals into the camera frame
    colour: NDArray[np.float32]  # [3,n]
    texture: NDArray[np.intp]  # [n]
    amplitude: NDArray[np.float32]  # [n]
    specular: NDArray[np.float32]  # [n]


def surface_table(solids: Solids, materials: list[Material], intrinsics: Floats) -> SurfaceTable:
    n, slope = len(solids), solids.slope
    origin = -np.einsum("nij,nj->in", solids.to_local, solids.centre)
    rays = solids.to_local @ np.linalg.inv(intrinsics)
    rows = [(*m.colour, m.texture, m.amplitude, m.specular) for m in materials]
    looks = np.ascontiguousarray(np.array(rows, np.float32).T)
    return SurfaceTable(
        np.ascontiguousarray(rays.reshape(n, 9).T.astype(np.float32)),
        np.ascontiguousarray(origin.astype(np.float32)),
        solids.length.astype(np.float32),
        (slope / np.sqrt(1 - slope * slope)).astype(np.float32),
        np.ascontiguousarray(solids.to_local.reshape(n, 9).T.astype(np.float32)),
        looks[:3],
        looks[3].astype(np.intp),
        looks[4],
        looks[5],
    )


def _local_points(
    table: SurfaceTable, owner: NDArray[np.intp], where: NDArray[np.intp], width: int, z: Depth
) -> Triple:
    """Surface points of the pixels in their solids' local frames, mm."""
    v, u = np.divmod(where.astype(np.int32), np.int32(width))
    uz, vz = u.astype(np.float32) * z, v.astype(np.float32) * z
    rays, origin = table.rays, table.origin
    x, y, depth = (
        rays[3 * k].take(owner) * uz
        + rays[3 * k + 1].take(owner) * vz
        + rays[3 * k + 2].take(owner) * z
        + origin[k].take(owner)
        for k in range(3)
    )
    return x, y, depth


def _normals(table: SurfaceTable, owner: NDArray[np.intp], local: Triple) -> Triple:
    """Unit normals in the camera frame; one formula serves caps, cones and ellipsoids."""
    x, y, z = local
    foot = np.clip(y - table.tangent.take(owner) * np.sqrt(x * x + z * z), 0, table.length.take(owner))
    y = y - foot
    m = table.to_camera
    nx, ny, nz = (m[k].take(owner) * x + m[3 + k].take(owner) * y + m[6 + k].take(owner) * z for k in range(3))
    scale = _f(1) / np.sqrt(nx * nx + ny * ny + nz * nz + _f(1e-12))
    return nx * scale, ny * scale, nz * scale


def _albedo(
    table: SurfaceTable, owner: NDArray[np.intp], local: Triple, light: Light
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Texture factor (about 1) and wrinkle bump, in the cloth's own coordinates at 4 mm a texel."""
    x, y, z = local
    u = (x * _f(0.25) + np.where(z > 0, _f(37), _f(161))).astype(np.int32)
    v = (y * _f(0.25)).astype(np.int32)
    pool = textures().values.reshape(texture_count(), -1)
    texel = (v & 255) * TEXTURE_SIDE + (u & 255)
    factor = pool.reshape(-1).take(table.texture.take(owner) * pool.shape[1] + texel) * table.amplitude.take(owner)
    wrinkles = pool[WRINKLES].take(((v * 2) & 255) * TEXTURE_SIDE + ((u * 2) & 255)) * _f(light.wrinkle)
    return factor + _f(1), wrinkles


def _paint_faces(
    albedo: NDArray[np.float32],
    solids: Solids,
    features: NDArray[np.int8],
    owner: NDArray[np.intp],
    local: Triple,
) -> None:
    """Eyes, brows and a mouth: few pixels, but with the feet they are what tells front from back."""
    feature = features.take(owner)
    on_face = np.flatnonzero((feature > 0) & (local[2] > 0))
    if len(on_face) == 0:
        return
    feature, factor = feature[on_face], albedo[on_face]
    radius = solids.radius_a[owner[on_face]].astype(np.float32)
    x, y = np.abs(local[0][on_face]) / radius, local[1][on_face] / radius
    for where, value in face_paint(x, y, feature == EYES, feature == MOUTH):
        factor[where] = value
    albedo[on_face] = factor


def face_paint(x: Any, y: Any, eyes: Any, mouth: Any) -> list[tuple[Any, float]]:
    """Where a face has which albedo, the later before the earlier; of arrays or tensors alike.

    Args:
        x: Distance from the middle of the face, in radii of its solid.
        y: Height in its solid's frame, in radii.
        eyes: Which points carry the eyes.
        mouth: Which points carry the mouth.
    """
    lid = ((y + 0.03) / 0.07) ** 2
    eye = ((x - 0.40) / 0.14) ** 2 + lid < 1
    iris = ((x - 0.40) / 0.065) ** 2 + lid < 1
    brow = (abs(x - 0.42) < 0.20) & (abs(y - 0.18) < 0.03)
    lips = (x / 0.48) ** 2 + ((y - 0.10) / 0.11) ** 2 < 1
    return [(eye & eyes, _EYE_WHITE), ((iris | brow) & eyes, _DARK), (lips & mouth, _LIPS)]


def _ambient_occlusion(depth: Depth, where: NDArray[np.intp], far: float) -> NDArray[np.float32]:
    """Unsharp-masked depth: darker where the surroundings are nearer; nothing counts as beyond `far`."""
    capped = np.minimum(depth, _f(far))
    side = occlusion_side(depth.shape[0])
    behind = capped - cv2.blur(capped, (side, side))
    dark: NDArray[np.float32] = np.clip(behind.ravel()[where] * _f(0.0025), 0, _f(0.55))
    return np.subtract(_f(1), dark, dtype=np.float32)


def occlusion_side(size: int) -> int:
    """Side of the surroundings that darken a pixel, px."""
    return int(size * 0.05) | 1


def _highlight(normal: Triple, sun: Floats) -> NDArray[np.float32]:
    """Blinn's highlight with exponent 8 for a viewer at infinity."""
    half = halfway(sun)
    cos: NDArray[np.float32] = normal[0] * _f(half[0]) + normal[1] * _f(half[1]) + normal[2] * _f(half[2])
    np.maximum(cos, 0, out=cos)
    cos *= cos
    cos *= cos
    cos *= cos
    return cos


def halfway(sun: Floats) -> Floats:
    """Direction between the sun (camera frame) and a viewer at infinity."""
    half = sun - (0.0, 0.0, 1.0)
    half /= np.linalg.norm(half)
    return half


# ---------------------------------------------------------------------------------- walls and floors


@dataclass(frozen=True)
class Window:
    """The frame and where the scene's own window lies in it.

    Attributes:
        size: Side of the frame, px.
        shift: (x, y) px from the frame's corner to the corner of the scene's unmoved window.
    """

    size: int
    shift: tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """A flat piece of clutter on the wall; coordinates are fractions of the frame, 0..1."""

    kind: int  # 0, 1 rectangle, 2 ellipse, 3 line, 4 triangle
    colour: tuple[float, float, float]  # RGB 0..255
    points: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    thickness: float
    angle: float


@dataclass(frozen=True)
class Backdrop:
    """Wall or sky: a texture through a palette, or three as channels, with clutter in front."""

    coloured: bool
    numbers: tuple[int, int, int]
    offsets: tuple[tuple[float, float], ...]
    scales: tuple[float, float, float]  # share of the texture that spans the frame
    palette: Pixels  # [256,3]
    gain: tuple[float, float, float]
    shapes: tuple[Shape, ...]
    blur: float  # fraction of the frame


@dataclass(frozen=True)
class Floor:
    """The ground: a texture at `texel` mm per texel in a colour, ending `end` mm behind the subject."""

    number: int
    amplitude: float
    texel: float
    colour: Floats
    end: float
    offset: tuple[float, float]


def draw_backdrop(stream: Stream, clutter: tuple[int, ...]) -> Backdrop:
    """Draw a wall; `clutter` lists equally likely numbers of flat shapes."""
    gain = stream.uniform(0.45, 1.15)
    coloured = stream.chance(0.3)
    numbers = tuple(stream.integer(_SMOOTH if coloured else texture_count()) for _ in range(3))
    scales = tuple(stream.uniform(0.15, 1.0) for _ in range(3))
    contrast = stream.uniform(0.1, 1.0)
    tint = draw_colour(stream) * 0.6 + 0.4
    first, second = draw_colour(stream), draw_colour(stream) * 0.5 + 0.25
    mix = ((np.arange(256) / 255 - 0.5) * contrast + 0.5)[:, None]
    palette = np.clip((first * (1 - mix) + second * mix) * gain * 255, 0, 255).astype(np.uint8)
    red, green, blue = (tint * gain).tolist()
    return Backdrop(
        coloured,
        (numbers[0], numbers[1], numbers[2]),
        tuple((stream.uniform(0, 256), stream.uniform(0, 256)) for _ in range(3)),
        (scales[0], scales[1], scales[2]),
        palette,
        (red, green, blue),
        tuple(_draw_shape(stream) for _ in range(stream.choice(clutter))),
        stream.uniform(0.002, 0.012) if stream.chance(0.6) else 0.0,
    )


def _draw_shape(stream: Stream) -> Shape:
    red, green, blue = np.clip(draw_colour(stream) * stream.uniform(0.4, 1.1) * 255, 0, 255).tolist()
    kind = stream.integer(5)
    x, y = stream.uniform(-0.3, 1.3), stream.uniform(-0.3, 1.1)
    reach = (x + stream.uniform(-0.4, 0.4), y + stream.uniform(-0.5, 0.5))
    third = (x + stream.uniform(-0.4, 0.4), y + stream.uniform(-0.4, 0.4))
    return Shape(kind, (red, green, blue), ((x, y), reach, third), stream.uniform(0.004, 0.03), stream.uniform(0, 180))


def paint_backdrop(backdrop: Backdrop, window: Window) -> Pixels:
    """[S,S,3] RGB."""
    if backdrop.coloured:
        image = cv2.merge([_field(backdrop, k, window) for k in range(3)])
        image = cv2.multiply(image, (*backdrop.gain, 0.0))
    else:
        image = backdrop.palette.take(_field(backdrop, 0, window).ravel(), 0).reshape(window.size, window.size, 3)
    for shape in backdrop.shapes:
        _paint_shape(image, shape, window)
    if backdrop.blur:
        image = _blurred(image, backdrop.blur * window.size)
    return np.asarray(image, np.uint8)


def _blurred(image: Pixels, sigma: float) -> Pixels:
    """Two box filters: close to a Gaussian of this many pixels for a fifth of its price."""
    side = 2 * round(sigma * 1.22) + 1
    return image if side == 1 else np.asarray(cv2.blur(cv2.blur(image, (side, side)), (side, side)), np.uint8)


def _field(backdrop: Backdrop, channel: int, window: Window) -> Pixels:
    """A wall texture stretched over the frame; coarser levels are used where it would alias."""
    step = TEXTURE_SIDE * backdrop.scales[channel] / window.size  # texels per pixel
    level = min(max(math.ceil(math.log2(step)), 0), len(textures().tiles_at) - 1)
    tile = textures().tiles_at[level][backdrop.numbers[channel]]
    step /= 2**level
    side = TEXTURE_SIDE / 2**level
    x, y = (
        (offset / 2**level - step * (shift - 0.5)) % side
        for offset, shift in zip(backdrop.offsets[channel], window.shift, strict=True)
    )
    to_texel = np.array([[step, 0, x], [0, step, y]])
    flags, frame = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (window.size, window.size)
    return np.asarray(cv2.warpAffine(tile, to_texel, frame, flags=flags, borderMode=cv2.BORDER_WRAP), np.uint8)


def _paint_shape(image: Pixels, shape: Shape, window: Window) -> None:
    size = window.size
    points = np.round((np.array(shape.points) * size + window.shift - 0.5) * 16).astype(np.int32)
    first, second = points[0].tolist(), points[1].tolist()
    half = np.abs(points[1] - points[0]).tolist()
    if shape.kind <= 1:
        cv2.rectangle(image, first, second, shape.colour, -1, cv2.LINE_8, 4)
    elif shape.kind == 2:
        axes = (max(half[0] // 2, 16), max(half[1] // 2, 16))
        cv2.ellipse(image, first, axes, shape.angle, 0, 360, shape.colour, -1, cv2.LINE_8, 4)
    elif shape.kind == 3:
        cv2.line(image, first, second, shape.colour, max(1, round(shape.thickness * size)), cv2.LINE_8, 4)
    else:
        cv2.fillConvexPoly(image, points, shape.colour, cv2.LINE_8, 4)


def draw_floor(stream: Stream) -> Floor:
    return Floor(
        stream.integer(texture_count()),
        stream.uniform(0.1, 0.8),
        stream.uniform(12, 34),
        draw_colour(stream) * stream.uniform(0.5, 1.0) + 0.08,
        stream.uniform(2000, 12000) if stream.chance(0.65) else 60000.0,
        (stream.uniform(0, 256), stream.uniform(0, 256)),
    )


# Texel of the shadow map, mm, and its side: 7.7 m of ground around the subject.
_SHADOW_TEXEL, _SHADOW_SIDE = 30.0, 256
_MEAN_FLOOR = 150.0  # the grey level at which the floor has exactly its colour


@dataclass(frozen=True)
class _View:
    """A camera that looks at the ground: world -> camera in mm, and the (width, height) of its picture."""

    intrinsics: Floats
    rotation: Floats
    translation: Floats
    shape: tuple[int, int]

    @property
    def eye_height(self) -> float:
        return float(-(self.rotation.T @ self.translation)[1])

    def slope(self) -> NDArray[np.float32]:
        """[height,width] height gained per mm of depth along each pixel's ray; below the horizon negative."""
        up = np.linalg.inv(self.intrinsics).T @ self.rotation[:, 1]
        width, height = self.shape
        across = (up[0] * np.arange(width) + up[2]).astype(np.float32)
        down = (up[1] * np.arange(height)).astype(np.float32)
        slope: NDArray[np.float32] = across[None] + down[:, None]
        return slope

    def cropped(self, top: int, bottom: int) -> "_View":
        """The same camera, seeing rows top..bottom-1 only."""
        down = np.array([[1, 0, 0], [0, 1, -top], [0, 0, 1.0]])
        return _View(down @ self.intrinsics, self.rotation, self.translation, (self.shape[0], bottom - top))

    def warp(self, texture: Pixels, texel: float, corner: tuple[float, float], border: int) -> Pixels:
        """A texture lying on the ground, the outer corner of its first texel at `corner` (x, z)."""
        start_x, start_z = corner[0] + texel / 2, corner[1] + texel / 2
        to_world = np.array([[texel, 0, start_x], [0, 0, 0], [0, texel, start_z]])
        homography = self.intrinsics @ (self.rotation @ to_world + np.outer(self.translation, (0, 0, 1)))
        flags = cv2.INTER_LINEAR
        warped = cv2.warpPerspective(texture, homography, self.shape, flags=flags, borderMode=border, borderValue=255)
        return np.asarray(warped, np.uint8)


def paint_floor(
    image: Pixels,
    floor: Floor,
    shadow: Pixels,
    centre: Floats,
    intrinsics: Floats,
    rotation: Floats,
    translation: Floats,
) -> None:
    """Warp the floor and its shadow into the image, where the ground is nearer than the wall.

    Args:
        image: [S,S,3] RGB, written in place.
        floor: What lies there.
        shadow: [256,256] light that is left, 0..255, `_SHADOW_TEXEL` mm a texel around `centre`.
        centre: [3] the subject, world, mm.
        intrinsics: [3,3].
        rotation: [3,3] world -> camera.
        translation: [3] mm.
    """
    view = _View(intrinsics, rotation, translation, image.shape[1::-1])
    subject_depth = float((rotation @ centre + translation)[2])
    slope = view.slope()
    ground = slope < -view.eye_height / (subject_depth + floor.end)
    rows = np.flatnonzero(ground.any(1))
    if len(rows) == 0:
        return
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    view = view.cropped(top, bottom)
    grain = _floor_grain(floor, view, slope[top:bottom], subject_depth)
    corner_x, _, corner_z = (centre - _SHADOW_TEXEL * _SHADOW_SIDE / 2).tolist()
    light = view.warp(shadow, _SHADOW_TEXEL, (corner_x, corner_z), cv2.BORDER_CONSTANT)
    grey = cv2.multiply(grain, light, scale=1 / 255, dtype=cv2.CV_8U)
    palette = np.clip(np.arange(256)[:, None] / _MEAN_FLOOR * floor.colour * 255, 0, 255).astype(np.uint8)
    coloured = cv2.LUT(cv2.merge([grey, grey, grey]), palette[None])
    cv2.copyTo(coloured, ground[top:bottom].view(np.uint8), image[top:bottom])


def _floor_grain(floor: Floor, view: _View, slope: NDArray[np.float32], subject_depth: float) -> NDArray[np.float32]:
    """The floor's pattern as the camera sees it, about `_MEAN_FLOOR`; it fades out where it would alias."""
    focal = float(view.intrinsics[0, 0])
    level = _floor_level(floor, focal, subject_depth, view.eye_height)
    tile, texel = textures().tiles_at[level][floor.number], floor.texel * 2**level
    corner_x, corner_z = (-(offset + TEXTURE_SIDE / 2) * floor.texel for offset in floor.offset)
    seen = view.warp(tile, texel, (corner_x, corner_z), cv2.BORDER_WRAP)
    contrast = _contrast(floor.amplitude)
    mean = _f(contrast[round(float(tile[::2, ::2].mean()))])
    # No mip-maps in a warp: a texel that covers less than a pixel counts for less.
    fade = np.clip(slope * _f(-math.sqrt(focal * texel / max(view.eye_height, 200.0))), 0, 1)
    grain: NDArray[np.float32] = (cv2.LUT(seen, contrast) - mean) * fade + mean
    return grain


def _contrast(amplitude: float) -> Pixels:
    grey = _MEAN_FLOOR + (np.arange(256.0) - 128) * amplitude
    return grey.clip(0, 255).astype(np.uint8)


def _floor_level(floor: Floor, focal: float, depth: float, eye_height: float) -> int:
    """The pyramid level whose texels span about a pixel at the subject's feet."""
    pixel = depth / focal  # mm on a plane facing the camera
    grazing = max(min(eye_height / depth, 1.0), 0.15)
    level = math.log2(max(pixel / math.sqrt(grazing) / floor.texel, 1e-3))
    return min(max(round(level), 0), 3)


@dataclass(frozen=True)
class ShadowCaster:
    """Shades the ground: capsules (start, end [n,3], radius [n]) or a convex body's corners [m,3]."""

    start: Floats
    end: Floats
    radius: Floats
    corners: Floats | None = None


def shadow_map(casters: list[ShadowCaster], light: Light, centre: Floats) -> Pixels:
    """[256,256] light left on the ground around `centre`: capsules projected along the sun, then blurred."""
    dark = np.zeros((_SHADOW_SIDE, _SHADOW_SIDE), np.uint8)
    slant = light.direction[[0, 2]] / light.direction[1]

    def texels(points: Floats) -> NDArray[np.int32]:
        ground = points[:, [0, 2]] - points[:, 1:2] * slant - centre[[0, 2]]
        place: Floats = ground / _SHADOW_TEXEL + _SHADOW_SIDE / 2 - 0.5
        return (place.clip(-2000, 2000) * 16).round().astype(np.int32)

    for caster in casters:
        if caster.corners is not None:
            cv2.fillConvexPoly(dark, cv2.convexHull(texels(caster.corners)), 255, cv2.LINE_8, 4)
        starts, ends = texels(caster.start).tolist(), texels(caster.end).tolist()
        widths = np.maximum(np.round(caster.radius * (1.7 / _SHADOW_TEXEL)), 1).astype(int).tolist()
        for start, end, width in zip(starts, ends, widths, strict=True):
            cv2.line(dark, start, end, 255, width, cv2.LINE_8, 4)
    dark = cv2.GaussianBlur(dark, (0, 0), light.shadow_blur / _SHADOW_TEXEL)
    return np.asarray(cv2.LUT(dark, (255 - np.arange(256) * light.shadow).astype(np.uint8)), np.uint8)


# ------------------------------------------------------------------------------------------------ sensor


def soften_edges(image: Pixels, ids: Ids) -> None:
    """Blend pixels where the id changes with their neighbours: anti-aliasing for next to nothing."""
    edge = np.zeros(ids.shape, bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    edge[:, 1:], edge[:, :-1] = across, edge[:, :-1] | across
    edge[1:] |= down
    edge[:-1] |= down
    cv2.copyTo(cv2.blur(image, (3, 3)), edge.view(np.uint8), image)


@dataclass(frozen=True)
class Sensor:
    """What a sensor does to a frame; lengths are shares of its side.

    Attributes:
        defocus: Standard deviation of the blur; None for a sharp picture.
        streak: (length, angle in radians) of the motion blur; None when nothing moves.
        gain: Exposure.
        gamma: Of the tone curve.
        noise: Share of `grain` that is added.
        grain_at: (row, column) where the noise is cut out of the shared grain, 0..1.
        quality: Of the JPEG compression; None without.
    """

    defocus: float | None
    streak: tuple[float, float] | None
    gain: float
    gamma: float
    noise: float
    grain_at: tuple[float, float]
    quality: int | None

    def blur(self, size: int) -> float:
        """Standard deviation of the defocus in a frame of `size` px; 0 for a sharp one."""
        return 0.0 if self.defocus is None else self.defocus * size + 0.15

    def streak_kernel(self, size: int) -> NDArray[np.float32] | None:
        """Of the motion blur; None where it is too short to be seen."""
        if self.streak is None or self.streak[0] * size <= 1.5:
            return None
        return _streak(self.streak[0] * size, self.streak[1])

    @property
    def curve(self) -> Pixels:
        """[256] grey levels that the tone curve makes of 0..255."""
        return np.clip(255 * (np.arange(256) / 255 * self.gain) ** self.gamma, 0, 255).astype(np.uint8)


def draw_sensor(stream: Stream) -> Sensor:
    blur, defocus = stream.chance(0.5), stream.uniform(0.0012, 0.0043)
    motion, length, angle = stream.chance(0.1), stream.uniform(0.01, 0.03), stream.uniform(0, math.pi)
    gain, gamma = stream.uniform(0.85, 1.3), stream.uniform(0.7, 1.05)
    noise, row, column = stream.uniform(0, 8) / 32, stream.unit(), stream.unit()
    jpeg, quality = stream.chance(0.35), int(stream.uniform(35, 90))
    return Sensor(
        defocus if blur else None,
        (length, angle) if motion else None,
        gain,
        gamma,
        noise if noise > 0.03 else 0.0,
        (row, column),
        quality if jpeg else None,
    )


def apply_sensor(sensor: Sensor, image: Pixels) -> Pixels:
    """Defocus, motion blur, exposure, noise and JPEG, in this order."""
    size = image.shape[0]
    if sensor.defocus is not None:
        image = cv2.GaussianBlur(image, (0, 0), sensor.blur(size))
    streak = sensor.streak_kernel(size)
    if streak is not None:
        image = cv2.filter2D(image, -1, streak)
    image = cv2.LUT(image, sensor.curve)
    if sensor.noise:
        noise = grain()[grain_window(sensor.grain_at, size)]
        image = cv2.addWeighted(image, 1, noise, sensor.noise, -128 * sensor.noise)
    if sensor.quality is not None:
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, sensor.quality])
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(image, np.uint8)


def _streak(length: float, angle: float) -> NDArray[np.float32]:
    side = 2 * int(length / 2 + 1) + 1
    kernel = np.zeros((side, side), np.float32)
    middle, reach = side // 2, length / 2
    x, y = math.cos(angle) * reach, math.sin(angle) * reach
    cv2.line(kernel, (round(middle - x), round(middle - y)), (round(middle + x), round(middle + y)), 1)
    kernel /= kernel.sum()
    return kernel


def grain_window(place: tuple[float, float], size: int) -> Any:
    """Index of a square of `size` px in `grain`; a larger one repeats it."""
    if size <= _GRAIN_SIDE // 2:
        top, left = (int(share * (_GRAIN_SIDE - size)) for share in place)
        return slice(top, top + size), slice(left, left + size)
    rows, columns = ((np.arange(size) + int(share * _GRAIN_SIDE)) % _GRAIN_SIDE for share in place)
    return rows[:, None], columns
