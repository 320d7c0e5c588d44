"""The geometry of one crop without tensors: what a loader pays for every sample.

`cameras.look_at_crop`, `image_plane_crop` and `CropCamera.to_image` are made for batches. For one crop they are
hundreds of tensor operations on a few numbers each, and take longer than decoding a prepared JPEG. Here are the same
formulas in Python's own numbers, in double precision; those of lenses are `lens`'s own, which take numbers as they take
tensors.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera, CropCamera
from posezoo.lens import CONVERGED, H36M, NO_DISTORTION, SINGULAR, Coefficients, bend, newton, terms

_STEPS = 6  # of Newton's method at most, as in `cameras.undistort`

Point = tuple[float, float]


def look_at(
    camera: Camera, box: Sequence[float], size: int, roll: float = 0.0, zoom: float = 1.0, flip: bool = False
) -> CropCamera:
    """`cameras.look_at_crop` of one box: arguments as there, `camera` unbatched and "up" as by default."""
    left, top, width, height = box
    x, y = left + width / 2, top + height / 2
    sides = [(x, top), (x, top + height), (left, y), (left + width, y)]
    centre, *others = _rays(camera, [(x, y), *sides])
    k, rotation = _double(camera.intrinsics), _look_at_rotation(*centre)
    seen = np.array([(*ray, 1.0) for ray in others]) @ (k @ rotation).T
    upper, lower, first, last = (seen[:, :2] / seen[:, 2:]).tolist()
    extent = max(math.dist(upper, lower), math.dist(first, last))
    block = k[:2, :2] * (zoom * size / extent)
    return _crop(block, (size / 2, size / 2), _turn(roll, flip) @ rotation, camera, size)


def image_plane(
    camera: Camera, box: Sequence[float], size: int, roll: float = 0.0, zoom: float = 1.0, flip: bool = False
) -> CropCamera:
    """`cameras.image_plane_crop` of one box: arguments as there, `camera` unbatched."""
    left, top, width, height = box
    k, turn = _double(camera.intrinsics), _turn(roll, flip)
    centre = k[:2, :2] @ _rays(camera, [(left + width / 2, top + height / 2)])[0]  # from the principal point
    plane = turn[:2, :2] * (zoom * size / max(width, height))
    offset = (size - 1) / 2 - plane @ centre
    return _crop(plane @ k[:2, :2] @ turn[:2, :2].T, offset, turn, camera, size)


def crop_to_image(crop: CropCamera) -> NDArray[np.float64]:
    """`CropCamera.crop_to_image` of one crop [3, 3]."""
    return _double(crop.source.intrinsics) @ _crop_to_rays(crop)


def to_image(
    crop: CropCamera, u: NDArray[Any], v: NDArray[Any], onward: NDArray[np.float64] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """`CropCamera.to_image` of one crop, lens distortion included, in the precision of `u` and `v`.

    Args:
        crop: Unbatched crop camera.
        u: Crop px; of any shape that broadcasts with that of `v`.
        v: Crop px.
        onward: [3, 3], an affine map of source px to wherever the result is wanted.

    Returns:
        X and y, source px (or those of `onward`).
    """
    k = _double(crop.source.intrinsics)
    to_target = k if onward is None else onward @ k
    lens = _lens_of(crop.source)
    with np.errstate(all="ignore"):  # what lies beside the camera has no pixel, here as in tensors
        if lens is None:
            return _divided(to_target @ _crop_to_rays(crop), u, v)
        x, y = _divided(_crop_to_rays(crop), u, v)
        x, y = bend(x, y, terms(x, y, lens), lens)
        (a, b, c), (d, e, f), _ = to_target.tolist()
        return a * x + b * y + c, d * x + e * y + f


def _divided(matrix: NDArray[np.float64], u: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points through a homography; Python's numbers leave the arrays their precision."""
    x, y, z = (a * u + b * v + c for a, b, c in matrix.tolist())
    return x / z, y / z


def _double(matrix: torch.Tensor) -> NDArray[np.float64]:
    return matrix.numpy().astype(np.float64)


def _crop_to_rays(crop: CropCamera) -> NDArray[np.float64]:
    """Crop px to rays of the source camera [3, 3]."""
    (a, b, x), (c, d, y), _ = crop.intrinsics.tolist()
    area = a * d - b * c
    first = d / area, -b / area, (b * y - d * x) / area  # rows of the intrinsics' inverse; the third is 0, 0, 1
    second = -c / area, a / area, (c * x - a * y) / area
    return np.array(
        [
            [p * first[0] + q * second[0], p * first[1] + q * second[1], p * first[2] + q * second[2] + r]
            for p, q, r in zip(*crop.rotation.tolist(), strict=True)
        ]
    )


def _lens_of(camera: Camera) -> Coefficients | None:
    """Coefficients as numbers; None without distortion."""
    model = int(camera.distortion_model)
    if model == NO_DISTORTION:
        return None
    return Coefficients.of(camera.distortion.tolist(), 1.0 if model == H36M else 2.0)


def _rays(camera: Camera, pixels: Sequence[Point]) -> list[Point]:
    """`Camera.rays` of a few pixels."""
    (a, b, x), (c, d, y), _ = camera.intrinsics.tolist()
    area = a * d - b * c
    rays = [((d * (u - x) - b * (v - y)) / area, (a * (v - y) - c * (u - x)) / area) for u, v in pixels]
    lens = _lens_of(camera)
    return rays if lens is None else [_undistorted(*ray, lens) for ray in rays]


def _undistorted(wanted_x: float, wanted_y: float, lens: Coefficients) -> Point:
    """`cameras.undistort` of a point; NaN where the lens has no number for it."""
    x, y = wanted_x, wanted_y
    try:
        for _ in range(_STEPS):
            dx, dy, det = newton(x, y, wanted_x, wanted_y, lens)
            det = det if abs(det) >= SINGULAR else 1.0
            dx, dy = dx / det, dy / det
            x, y = x - dx, y - dy
            if abs(dx) < CONVERGED[torch.float32] and abs(dy) < CONVERGED[torch.float32]:
                break
    except ArithmeticError:  # Python's, where arrays have infinities: far beyond what the lens can show
        return math.nan, math.nan
    return x, y


def _look_at_rotation(x: float, y: float) -> NDArray[np.float64]:
    """`cameras.look_at_rotation` to the ray (x, y, 1), up being (0, -1, 0)."""
    length, across = math.sqrt(x * x + y * y + 1), math.sqrt(x * x + 1)
    z_x, z_y, z_z = x / length, y / length, 1 / length
    x_x, x_z = 1 / across, -x / across
    return np.array([[x_x, 0.0, x_z], [z_y * x_z, z_z * x_x - z_x * x_z, -z_y * x_x], [z_x, z_y, z_z]])


def _turn(roll: float, flip: bool) -> NDArray[np.float64]:
    """Roll by degrees, then mirror."""
    angle, sign = math.radians(-roll), -1.0 if flip else 1.0
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[sign * c, -sign * s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _crop(
    block: NDArray[np.float64],
    centre: Sequence[float] | NDArray[Any],
    rotation: NDArray[Any],
    camera: Camera,
    size: int,
) -> CropCamera:
    """A crop camera in the precision of its source's."""
    intrinsics = np.eye(3)
    intrinsics[:2, :2], intrinsics[:2, 2] = block, centre
    dtype = camera.intrinsics.dtype
    return CropCamera(torch.from_numpy(intrinsics).to(dtype), torch.from_numpy(rotation).to(dtype), camera, size)
