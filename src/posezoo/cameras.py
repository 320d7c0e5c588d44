"""Pinhole cameras with lens distortion, and the virtual cameras of crops.

Frame: x right, y down, z forward; millimetres; pixels with integer coordinates at pixel centres. Everything is batched:
leading dimensions broadcast, points are [..., N, 3] or [..., N, 2].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from posezoo.heatmaps import is_transformed

NO_DISTORTION, OPENCV, H36M = 0, 1, 2
NUM_COEFFICIENTS = 12

_MODELS = {"none": NO_DISTORTION, "opencv": OPENCV, "h36m": H36M}

_EPS = 1e-9


@dataclass(frozen=True)
class Camera:
    """One camera or a batch of them.

    Attributes:
        intrinsics: K [..., 3, 3], px. The upper left 2x2 block may be any invertible matrix (skew, rotated pixels).
        distortion: [..., 12] in OpenCV's order k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4.
        distortion_model: int64 [...]: 0 none, 1 OpenCV, 2 Human3.6M (tangential terms without OpenCV's factor 2).
        rotation: [..., 3, 3], world to camera.
        translation: [..., 3] mm, world to camera: X_camera = R X_world + t.
    """

    intrinsics: Float[Tensor, "*batch 3 3"]
    distortion: Float[Tensor, "*batch 12"]
    distortion_model: Int[Tensor, "*batch"]
    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]

    @classmethod
    def create(
        cls,
        intrinsics: Any,
        distortion: Any = None,
        model: Literal["none", "opencv", "h36m"] | None = None,
        rotation: Any = None,
        translation: Any = None,
        dtype: torch.dtype = torch.float32,
    ) -> "Camera":
        """Build a camera from arrays, filling in what is left out (no distortion, identity extrinsics).

        Args:
            intrinsics: [..., 3, 3].
            distortion: [..., n] with n = 4, 5, 8 or 12 coefficients, OpenCV's order.
            model: Distortion formula; "opencv" when coefficients are given without a model.
            rotation: [..., 3, 3], world to camera.
            translation: [..., 3] or [..., 3, 1] mm, world to camera.
            dtype: Floating-point type of all tensors.

        Raises:
            ValueError: Another number of coefficients, a matrix of the wrong shape, or an unknown model.
        """
        k = torch.as_tensor(intrinsics, dtype=dtype)
        if k.shape[-2:] != (3, 3):
            raise ValueError(f"Intrinsics must be [..., 3, 3], got {tuple(k.shape)}.")
        given = k.new_zeros(NUM_COEFFICIENTS) if distortion is None else torch.as_tensor(distortion, dtype=dtype)
        if given.shape[-1] not in (4, 5, 8, NUM_COEFFICIENTS):
            raise ValueError(f"Distortion needs 4, 5, 8 or 12 coefficients, got {given.shape[-1]}.")
        name = model or ("none" if distortion is None else "opencv")
        if name not in _MODELS:
            raise ValueError(f"Unknown distortion model '{name}': choose from {', '.join(_MODELS)}.")
        r = torch.eye(3, dtype=dtype) if rotation is None else torch.as_tensor(rotation, dtype=dtype)
        t = torch.zeros(3, dtype=dtype) if translation is None else torch.as_tensor(translation, dtype=dtype)
        t = t.squeeze(-1) if t.shape[-1] == 1 else t
        batch = torch.broadcast_shapes(k.shape[:-2], given.shape[:-1], r.shape[:-2], t.shape[:-1])
        return cls(
            k.expand(*batch, 3, 3),
            F.pad(given, (0, NUM_COEFFICIENTS - given.shape[-1])).expand(*batch, NUM_COEFFICIENTS),
            torch.full(batch, _MODELS[name], dtype=torch.int64),
            r.expand(*batch, 3, 3),
            t.expand(*batch, 3),
        )

    @classmethod
    def from_field_of_view(cls, fov: float, width: int, height: int) -> "Camera":
        """A guess for an uncalibrated photograph, with the principal point in its middle.

        Args:
            fov: Field of view along the longer side, degrees.
            width: px.
            height: px.

        Raises:
            ValueError: `fov` is not between 0 and 180 degrees.
        """
        if not 0 < fov < 180:
            raise ValueError(f"The field of view must lie between 0 and 180 degrees, got {fov}.")
        f = max(width, height) / (2 * math.tan(math.radians(fov) / 2))
        return cls.create([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])

    def __getitem__(self, index: Any) -> "Camera":
        return Camera(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, *args: Any, **kwargs: Any) -> "Camera":
        """Move all tensors, as `torch.Tensor.to`; the distortion model stays an integer."""
        moved = {f.name: getattr(self, f.name).to(*args, **kwargs) for f in fields(self)}
        moved["distortion_model"] = moved["distortion_model"].long()
        return Camera(**moved)

    def world_to_camera(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 3"]:
        """World points to this camera's frame, mm."""
        return points @ self.rotation.mT + self.translation[..., None, :]

    def camera_to_world(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 3"]:
        """Points of this camera's frame to the world, mm."""
        return (points - self.translation[..., None, :]) @ self.rotation

    def project(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 2"]:
        """Pixels of points in the camera frame, with lens distortion. Depth must be positive."""
        xy = points[..., :2] / points[..., 2:]
        return _apply_affine(self.intrinsics, self._distort(xy))

    def rays(self, pixels: Float[Tensor, "*batch n 2"]) -> Float[Tensor, "*batch n 2"]:
        """Undistorted normalised coordinates (x/z, y/z) of pixels."""
        xy = normalised(pixels, self.intrinsics)
        if (self.distortion_model == NO_DISTORTION).all():
            return xy
        return undistort(xy, self.distortion, self.distortion_model)

    def unproject(
        self, pixels: Float[Tensor, "*batch n 2"], depth: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n 3"]:
        """Points in the camera frame, mm, of pixels at the given depths z, mm."""
        return homogeneous(self.rays(pixels)) * depth[..., None]

    def _distort(self, xy: Float[Tensor, "*batch n 2"]) -> Float[Tensor, "*batch n 2"]:
        if (self.distortion_model == NO_DISTORTION).all():
            return xy
        return distort(xy, self.distortion, self.distortion_model)


def homogeneous(xy: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 3"]:
    """Append a coordinate of one."""
    return torch.cat([xy, torch.ones_like(xy[..., :1])], -1)


def apply_homography(
    matrix: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*batch n 2"]
) -> Float[Tensor, "*batch n 2"]:
    """Map pixels through a homography."""
    mapped = homogeneous(points) @ matrix.mT
    return mapped[..., :2] / mapped[..., 2:]


def normalised(
    pixels: Float[Tensor, "*batch n 2"], intrinsics: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch n 2"]:
    """K^-1 applied to pixels, lens distortion aside: (x/z, y/z). Written out, because ONNX has no matrix inverse."""
    a, b = intrinsics[..., None, 0, 0], intrinsics[..., None, 0, 1]
    c, d = intrinsics[..., None, 1, 0], intrinsics[..., None, 1, 1]
    u, v = (pixels - intrinsics[..., None, :2, 2]).unbind(-1)
    return torch.stack([d * u - b * v, a * v - c * u], -1) / (a * d - b * c)[..., None]


def _apply_affine(k: Tensor, xy: Tensor) -> Tensor:
    return xy @ k[..., :2, :2].mT + k[..., None, :2, 2]


# Arrays of NumPy or tensors, the same formulas for both.
_Values = Any


@dataclass(frozen=True)
class _Coefficients:
    """Of the lenses; every one is [..., 1], or a number where all lenses share it."""

    k: tuple[_Values, _Values, _Values, _Values, _Values, _Values]
    p: tuple[_Values, _Values]
    s: tuple[_Values, _Values, _Values, _Values]
    # Human3.6M's own formula lacks the factor 2 of OpenCV's x * (2 p1 y + 2 p2 x); its 2D labels are made with it.
    factor: _Values

    @classmethod
    def of(cls, ordered: Sequence[_Values], factor: _Values) -> "_Coefficients":
        k1, k2, p1, p2, k3, k4, k5, k6, *s = ordered
        return cls((k1, k2, k3, k4, k5, k6), (p1, p2), (s[0], s[1], s[2], s[3]), factor)

    @classmethod
    def of_tensors(cls, coefficients: Tensor, model: Tensor) -> "_Coefficients":
        factor = torch.where(model[..., None] == H36M, 1.0, 2.0).to(coefficients.dtype)
        return cls.of([c[..., None] for c in coefficients.unbind(-1)], factor)


@dataclass(frozen=True)
class _Lens:
    """Intermediate terms of the distortion formula at normalised points; every term is [..., N]."""

    radial: _Values
    radial_slope: _Values  # derivative by r^2
    r2: _Values
    tangential: _Values


def _lens(x: _Values, y: _Values, c: _Coefficients) -> _Lens:
    k1, k2, k3, k4, k5, k6 = c.k
    r2 = x * x + y * y
    top = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    bottom = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    top_slope = k1 + r2 * (2 * k2 + 3 * r2 * k3)
    bottom_slope = k4 + r2 * (2 * k5 + 3 * r2 * k6)
    return _Lens(
        radial=top / bottom,
        radial_slope=(top_slope * bottom - top * bottom_slope) / bottom**2,
        r2=r2,
        tangential=c.factor * (c.p[0] * y + c.p[1] * x),
    )


def distort(
    xy: Float[Tensor, "*batch n 2"], coefficients: Float[Tensor, "*batch 12"], model: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch n 2"]:
    """Ideal normalised coordinates to distorted ones (OpenCV's rational thin-prism model, or Human3.6M's)."""
    x, y = xy.unbind(-1)
    lenses = _Coefficients.of_tensors(coefficients, model)
    bent = torch.stack(_bent(x, y, _lens(x, y, lenses), lenses), -1)
    return torch.where((model == NO_DISTORTION)[..., None, None], xy, bent)


def _bent(x: _Values, y: _Values, t: _Lens, c: _Coefficients) -> tuple[_Values, _Values]:
    """X and y of distorted points."""
    gain = t.radial + t.tangential
    (p1, p2), s, r2 = c.p, c.s, t.r2
    return x * gain + r2 * (p2 + s[0] + s[1] * r2), y * gain + r2 * (p1 + s[2] + s[3] * r2)


def undistort(
    xy: Float[Tensor, "*batch n 2"],
    coefficients: Float[Tensor, "*batch 12"],
    model: Int[Tensor, "*batch"],
    iterations: int = 6,
) -> Float[Tensor, "*batch n 2"]:
    """Inverse of `distort` by Newton's method; meaningful where the lens model is invertible.

    The few points of a crop take NumPy, in float64 and no more steps than they need: with tensors it is hundreds of
    operations of microseconds each, which a loader pays for every crop.
    """
    few = _as_arrays(xy, coefficients, model)
    if few is not None:
        return torch.from_numpy(_undistort_few(*few, iterations, _DONE[xy.dtype])).to(xy.dtype)
    lenses = _Coefficients.of_tensors(coefficients, model)
    x, y = wanted_x, wanted_y = xy.unbind(-1)
    for _ in range(iterations):
        dx, dy, det = _newton(x, y, wanted_x, wanted_y, lenses)
        det = torch.where(det.abs() < _EPS, torch.ones_like(det), det)
        x, y = x - dx / det, y - dy / det
    return torch.where((model == NO_DISTORTION)[..., None, None], xy, torch.stack([x, y], -1))


# Newton's steps shrink by squaring: behind one as short as this there is nothing left for the dtype to see.
_DONE = {torch.float32: 1e-5, torch.float64: 1e-9}
_FEW = 4096  # points; more are better off with the threads and the vector units of PyTorch


_Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def _as_arrays(xy: Tensor, coefficients: Tensor, model: Tensor) -> _Arrays | None:
    """NumPy views; None where there may be none (devices, gradients, tracing, vmap), or for many points."""
    if xy.dtype not in _DONE or xy.numel() > 2 * _FEW or is_transformed(xy) or is_transformed(coefficients):
        return None
    given = (xy, coefficients, model)
    if any(value.device.type != "cpu" or value.requires_grad for value in given):
        return None
    try:
        return xy.numpy(), coefficients.numpy(), model.numpy()
    except RuntimeError:  # fake tensors, which have no memory to look at
        return None


def _undistort_few(
    xy: NDArray[Any], coefficients: NDArray[Any], model: NDArray[Any], iterations: int, done: float
) -> NDArray[np.float64]:
    """`undistort` until the longest step is shorter than `done`."""
    shape = np.broadcast_shapes(xy.shape[:-2], coefficients.shape[:-1], model.shape)
    lenses = _lenses_of(coefficients.astype(np.float64), np.where(model[..., None] == H36M, 1.0, 2.0))
    wanted_x, wanted_y = np.moveaxis(xy.astype(np.float64), -1, 0)
    x, y = wanted_x, wanted_y
    with np.errstate(all="ignore"):  # points beyond the reach of a lens are not meaningful, here as there
        for _ in range(iterations):
            dx, dy, det = _newton(x, y, wanted_x, wanted_y, lenses)
            det[np.abs(det) < _EPS] = 1.0
            dx, dy = dx / det, dy / det
            x, y = x - dx, y - dy
            if max(np.abs(dx).max(initial=0.0), np.abs(dy).max(initial=0.0)) < done:
                break
    found: NDArray[np.float64] = np.where((model == NO_DISTORTION)[..., None, None], xy, np.stack([x, y], -1))
    return found if found.shape[:-2] == shape else np.broadcast_to(found, (*shape, *xy.shape[-2:])).copy()


def _lenses_of(coefficients: NDArray[np.float64], factor: NDArray[np.float64]) -> _Coefficients:
    """Numbers for what is zero in every lens or the same in all: cheaper than arrays."""
    rows = coefficients.reshape(-1, NUM_COEFFICIENTS)
    if len(rows) and (rows == rows[0]).all() and (factor == factor.flat[0]).all():
        return _Coefficients.of(rows[0].tolist(), float(factor.flat[0]))
    return _Coefficients.of([coefficients[..., i, None] for i in range(NUM_COEFFICIENTS)], factor)


def _newton(
    x: _Values, y: _Values, wanted_x: _Values, wanted_y: _Values, c: _Coefficients
) -> tuple[_Values, _Values, _Values]:
    """Determinant of the Jacobian, and the step of Newton's method times it."""
    lens = _lens(x, y, c)
    bent_x, bent_y = _bent(x, y, lens, c)
    dx, dy = bent_x - wanted_x, bent_y - wanted_y
    a, b, c_, d = _jacobian(x, y, lens, c)
    return d * dx - b * dy, a * dy - c_ * dx, a * d - b * c_


def _jacobian(x: _Values, y: _Values, t: _Lens, c: _Coefficients) -> tuple[_Values, _Values, _Values, _Values]:
    (p1, p2), s = c.p, c.s
    gain = t.radial + t.tangential
    gain_x = 2 * x * t.radial_slope + c.factor * p2
    gain_y = 2 * y * t.radial_slope + c.factor * p1
    prism_x = 2 * (p2 + s[0] + 2 * s[1] * t.r2)
    prism_y = 2 * (p1 + s[2] + 2 * s[3] * t.r2)
    return (
        gain + x * gain_x + x * prism_x,
        x * gain_y + y * prism_x,
        y * gain_x + x * prism_y,
        gain + y * gain_y + y * prism_y,
    )


def roll_matrix(degrees: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation about the optical axis: [[cos, -sin], [sin, cos]] in x and y."""
    angle = torch.deg2rad(degrees)
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    matrix: Tensor = torch.stack([c, -s, o, s, c, o, o, o, i], -1).unflatten(-1, (3, 3))
    return matrix


def look_at_rotation(
    direction: Float[Tensor, "*batch 3"], up: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """Rotation whose optical axis is `direction` and whose y axis points away from `up`.

    A direction parallel to `up` leaves roll undefined: then the x axis stays as near as possible to the old x axis
    (or to y, for a camera that looks along its own x axis).
    """
    z = F.normalize(direction, dim=-1)
    x = torch.linalg.cross(z, F.normalize(up, dim=-1).expand_as(z))
    old_x = torch.zeros_like(z)
    old_x[..., 0] = 1
    old_y = old_x.roll(1, -1)
    spare = torch.where(z[..., :1].abs() < 0.9, old_x, old_y)
    spare = spare - (spare * z).sum(-1, keepdim=True) * z
    x = torch.where(x.norm(dim=-1, keepdim=True) < 1e-6, spare, x)
    x = F.normalize(x, dim=-1)
    return torch.stack([x, torch.linalg.cross(z, x), z], -2)


@dataclass(frozen=True)
class CropCamera:
    """The virtual camera of a square crop.

    Attributes:
        intrinsics: K of the crop [..., 3, 3], px; no distortion.
        rotation: source camera to crop camera [..., 3, 3]; determinant -1 when the crop is mirrored.
        source: the camera that took the image (extrinsics unused).
        size: side of the crop, px.
    """

    intrinsics: Float[Tensor, "*batch 3 3"]
    rotation: Float[Tensor, "*batch 3 3"]
    source: Camera
    size: int

    def __getitem__(self, index: Any) -> "CropCamera":
        return CropCamera(self.intrinsics[index], self.rotation[index], self.source[index], self.size)

    @property
    def flipped(self) -> Bool[Tensor, "*batch"]:
        """Whether left and right change places."""
        mirrored: Tensor = torch.linalg.det(self.rotation) < 0
        return mirrored

    @property
    def crop_to_image(self) -> Float[Tensor, "*batch 3 3"]:
        """Homography from crop pixels to *undistorted* source pixels."""
        inverse: Tensor = torch.linalg.inv(self.intrinsics @ self.rotation)
        return self.source.intrinsics @ inverse

    def to_image(self, pixels: Float[Tensor, "*batch n 2"]) -> Float[Tensor, "*batch n 2"]:
        """Crop pixels to source pixels, lens distortion included."""
        rays = homogeneous(pixels) @ torch.linalg.inv(self.intrinsics @ self.rotation).mT
        return self.source.project(rays)

    def from_image(self, pixels: Float[Tensor, "*batch n 2"]) -> Float[Tensor, "*batch n 2"]:
        """Source pixels to crop pixels, lens distortion removed."""
        return apply_homography(self.intrinsics @ self.rotation, self.source.rays(pixels))

    def from_source(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 3"]:
        """Points of the source camera frame to the crop camera frame, mm."""
        return points @ self.rotation.mT

    def to_source(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 3"]:
        """Points of the crop camera frame to the source camera frame, mm (MeTRAbs: row vectors times R)."""
        return points @ self.rotation

    def project(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 2"]:
        """Crop pixels of points in the crop camera frame. Depth must not be zero."""
        pixels = points @ self.intrinsics.mT
        return pixels[..., :2] / pixels[..., 2:]


def _augmentation(like: Tensor, roll: Any, zoom: Any, flip: Any) -> tuple[Tensor, Tensor]:
    """The rotation (roll, then mirror) and the zoom that an augmentation asks for, batched like `like` [..., 4]."""
    batch = like.shape[:-1]
    rotation = roll_matrix(-torch.as_tensor(roll, dtype=like.dtype, device=like.device).expand(batch))
    sign = 1 - 2 * torch.as_tensor(flip, device=like.device).expand(batch).to(like.dtype)
    mirror = torch.stack([sign, torch.ones_like(sign), torch.ones_like(sign)], -1)
    scale = torch.as_tensor(zoom, dtype=like.dtype, device=like.device).expand(batch)
    return mirror[..., None] * rotation, scale


def look_at_crop(
    camera: Camera,
    box: Float[Tensor, "*batch 4"],
    size: int,
    up: Sequence[float] | Tensor = (0.0, -1.0, 0.0),
    roll: Any = 0.0,
    zoom: Any = 1.0,
    flip: Any = False,
) -> CropCamera:
    """Turn the camera towards a person and zoom until the box fills the crop (MeTRAbs; section 7 of its model card).

    The principal point of the crop is `size / 2`. Mirroring is a camera flip, u -> size - u.

    Args:
        camera: The camera that took the image.
        box: left, top, width, height in source px (distorted, as annotated).
        size: Side of the crop, px.
        up: Direction of "up" in the source camera's frame.
        roll: Degrees, turns the crop about its own axis.
        zoom: Factor on the focal length; the 3D targets do not change with it.
        flip: Mirror the crop; joints must then change sides by `Skeleton.flip`.
    """
    left, top, width, height = box.unbind(-1)
    cx, cy = left + width / 2, top + height / 2
    points = torch.stack([cx, cy, cx, top, cx, top + height, left, cy, left + width, cy], -1)
    rays = homogeneous(camera.rays(points.unflatten(-1, (5, 2))))
    direction = rays[..., 0, :]
    up_vector = torch.as_tensor(up, dtype=direction.dtype, device=direction.device)
    rotation = look_at_rotation(direction, up_vector)
    sides = apply_homography(camera.intrinsics @ rotation, rays[..., 1:, :2])
    extent = (sides[..., [1, 3], :] - sides[..., [0, 2], :]).norm(dim=-1).amax(-1)
    turn, factor = _augmentation(box, roll, zoom, flip)
    block = camera.intrinsics[..., :2, :2] * (factor * size / extent)[..., None, None]
    return CropCamera(_intrinsics(block, size / 2), turn @ rotation, camera, size)


def image_plane_crop(
    camera: Camera,
    box: Float[Tensor, "*batch 4"],
    size: int,
    roll: Any = 0.0,
    zoom: Any = 1.0,
    flip: Any = False,
) -> CropCamera:
    """A similarity of the (undistorted) image plane: depths and their order do not change.

    The box centre lands on the crop's centre (size - 1) / 2, and mirroring is u -> size - 1 - u, so that the clean
    convention x_n = (u + 0.5) / size - 0.5 simply changes sign.

    Args:
        camera: The camera that took the image.
        box: left, top, width, height in source px (distorted, as annotated).
        size: Side of the crop, px.
        roll: Degrees, turns the crop about its own axis.
        zoom: Factor on the focal length.
        flip: Mirror the crop; joints must then change sides by `Skeleton.flip`.
    """
    left, top, width, height = box.unbind(-1)
    centre = torch.stack([left + width / 2, top + height / 2], -1)
    centre = _apply_affine(camera.intrinsics, camera.rays(centre[..., None, :]))[..., 0, :]
    turn, factor = _augmentation(box, roll, zoom, flip)
    plane = turn[..., :2, :2] * (factor * size / torch.maximum(width, height))[..., None, None]
    k = camera.intrinsics
    # A K = K_crop R with R = turn, hence K_crop's 2x2 block is A K R^T; its centre is where A sends the old one.
    block = plane @ k[..., :2, :2] @ turn[..., :2, :2].mT
    offset = ((k[..., :2, 2] - centre)[..., None, :] @ plane.mT)[..., 0, :] + (size - 1) / 2
    return CropCamera(_intrinsics(block, offset), turn.expand_as(k), camera, size)


def _intrinsics(block: Tensor, centre: Tensor | float) -> Tensor:
    k = block.new_zeros(*block.shape[:-2], 3, 3)
    k[..., :2, :2] = block
    k[..., :2, 2] = centre
    k[..., 2, 2] = 1
    return k
