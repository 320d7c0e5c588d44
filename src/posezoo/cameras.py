"""Pinhole cameras with lens distortion, and the virtual cameras of crops.

Frame: x right, y down, z forward; millimetres; pixels with integer coordinates at pixel centres. Everything is batched:
leading dimensions broadcast, points are [..., N, 3] or [..., N, 2].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posezoo.lens import H36M as H36M
from posezoo.lens import NO_DISTORTION as NO_DISTORTION
from posezoo.lens import NUM_COEFFICIENTS as NUM_COEFFICIENTS
from posezoo.lens import OPENCV as OPENCV
from posezoo.lens import distort as distort
from posezoo.lens import undistort as undistort

_MODELS = {"none": NO_DISTORTION, "opencv": OPENCV, "h36m": H36M}


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
    a, b, centre_u, c, d, centre_v, *_ = intrinsics.flatten(-2)[..., None].unbind(-2)
    u, v = pixels.unbind(-1)
    u, v = u - centre_u, v - centre_v
    # One coordinate after the other in memory: operations on few points are all overhead, more so across strides.
    x, y = torch.addcmul(d * u, b, v, value=-1), torch.addcmul(a * v, c, u, value=-1)
    return (torch.stack([x, y], -2) / (a * d - b * c)[..., None]).mT


def _apply_affine(k: Tensor, xy: Tensor) -> Tensor:
    return xy @ k[..., :2, :2].mT + k[..., None, :2, 2]


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
