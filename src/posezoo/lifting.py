"""From root-relative poses to the camera frame.

Frame: x right, y down, z forward; mm and px. Everything here computes in float32 or better, also under autocast: in
bfloat16 the same formulas are off by centimetres.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from posezoo.cameras import homogeneous, normalised

Perspective = Literal["full", "weak"]

_OUTSIDE_WEIGHT = 1e-4  # joints outside the window keep this weight, so that the system never loses rank
_MIN_INSIDE = 2


def inside_window(coords2d: Float[Tensor, "*batch 2"], low: float, high: float) -> Bool[Tensor, "*batch"]:
    """Which pixels lie in [low, high] px on both axes (both ends belong to the window)."""
    return ((coords2d >= low) & (coords2d <= high)).all(-1)


def _full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Where autocast has no say; switching off what is off costs as much as three operations on a few joints."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def reconstruct_absolute(
    coords2d: Float[Tensor, "batch joints 2"],
    coords3d_rel: Float[Tensor, "batch joints 3"],
    intrinsics: Float[Tensor, "batch 3 3"],
    inside: Bool[Tensor, "batch joints"] | None = None,
    mix: float | Float[Tensor, " batch"] = 0.5,
    perspective: Perspective = "full",
    ridge: float = 1e-6,
) -> Float[Tensor, "batch joints 3"]:
    """Absolute pose from pixels and a root-relative metric pose (section 5 of MeTRAbs' model card).

    Finds the translation r for which the pose, moved by r, projects to the pixels; then mixes the moved pose with the
    pixels back-projected to its depths. No sample's answer depends on the others of its batch: the official code
    conditions over the whole batch, which moves people by millimetres.

    Args:
        coords2d: px, in the image that `intrinsics` belong to.
        coords3d_rel: mm, camera axes, any origin.
        intrinsics: K of the (undistorted) image, px.
        inside: Joints whose pixels are trusted (inside the image); all when None. With fewer than two, all are used.
        mix: Share of the moved pose inside the window, the rest is back-projection; outside it is always 1. A number,
            or one per sample.
        perspective: "full" solves the least squares problem; "weak" compares standard deviations.
        ridge: Weight on the norm of the scaled unknowns; 1e-2 equals the official code run on one sample at a time,
            and biases people off the optical axis by centimetres.

    Returns:
        mm, camera frame, absolute. float64 for float64 input, else float32.

    Raises:
        ValueError: An unknown perspective.
    """
    with _full_precision(coords2d):
        dtype = torch.float64 if coords3d_rel.dtype == torch.float64 else torch.float32
        rays = normalised(coords2d.to(dtype), intrinsics.to(dtype)).mT
        rel = coords3d_rel.to(dtype).mT.contiguous()
        trusted = torch.ones_like(rel[:, 0], dtype=torch.bool) if inside is None else inside
        used = trusted | (trusted.sum(-1, keepdim=True) < _MIN_INSIDE)
        if perspective == "full":
            translation = _full_perspective(rays, rel, used, ridge)
        elif perspective == "weak":
            translation = _weak_perspective(rays, rel, used)
        else:
            raise ValueError(f"Unknown perspective '{perspective}': choose 'full' or 'weak'.")
        moved = rel + translation
        depth = moved[:, 2:]
        back_projected = torch.cat([rays * depth, depth], 1)
        share = mix.to(dtype)[:, None, None] if isinstance(mix, Tensor) else mix
        mixed = torch.lerp(back_projected, moved, share)
        return torch.where(trusted[:, None], mixed, moved).mT.contiguous()


def _full_perspective(rays: Tensor, rel: Tensor, used: Tensor, ridge: float) -> Tensor:
    """Least squares for r in xy r_z - r_xy = XY - xy Z, in closed form: rays [B, 2, J], pose [B, 3, J] -> [B, 3, 1].

    Two of the three unknowns are eliminated by centring, which keeps float32 exact to micrometres at 20 m where the
    plain normal equations lose 13: the spread of the rays is tiny beside their mean.
    """
    # The ridge on r_xy is one more joint of that weight, with ray and target zero. That on r_z belongs to unknowns in
    # the scale of the data, of which only the mean square of the rays is left; it must not be zero where all coincide.
    weight = torch.constant_pad_nd((used.to(rays.dtype) + _OUTSIDE_WEIGHT).square(), (0, 1), ridge)[:, None]
    both = torch.constant_pad_nd(torch.cat([rays, torch.addcmul(rel[:, :2], rays, rel[:, 2:], value=-1)], 1), (0, 1))
    total = weight.sum(-1, keepdim=True)
    weight = weight / total
    mean = (weight * both).sum(-1, keepdim=True)
    ray, offset = (both - mean).split(2, 1)
    weighted = weight * ray
    floor = ridge / total * rays.square().mean((1, 2), keepdim=True).clamp(min=1e-12)
    curvature, slope = ((weighted * other).sum((1, 2), keepdim=True) for other in (ray, offset))
    depth = slope / (curvature + floor)
    mean_ray, mean_offset = mean.split(2, 1)
    return torch.cat([mean_ray * depth - mean_offset, depth], 1)


def _weak_perspective(rays: Tensor, rel: Tensor, used: Tensor) -> Tensor:
    """Depth as the ratio of metric to image spread, isotropic over x and y: r = z (mean ray) - mean pose, mm."""
    weight = used.to(rays.dtype)[:, None]
    count = weight.sum(-1, keepdim=True)
    mean_ray, mean_rel = ((weight * points).sum(-1, keepdim=True) / count for points in (rays, rel))
    depth = _spread(rel[:, :2] - mean_rel[:, :2], weight, count) / _spread(rays - mean_ray, weight, count)
    return torch.cat([mean_ray * depth, depth], 1) - mean_rel


def _spread(centred: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    """Root mean square of [B, 2, J], [B, 1, 1]."""
    return ((weight * centred.square()).sum((1, 2), keepdim=True) / count + 1e-10).sqrt().clamp(min=1e-5)


# ------------------------------------------------------------------------------------------- 2.5D to millimetres


def back_project(
    pixels: Float[Tensor, "batch joints 2"],
    depth: Float[Tensor, "batch joints"],
    intrinsics: Float[Tensor, "batch 3 3"],
) -> Float[Tensor, "batch joints 3"]:
    """Points in the camera frame, mm, of (undistorted) pixels at absolute depths z, mm.

    float64 for float64 depths, else float32, also under autocast.
    """
    with _full_precision(pixels):
        dtype = torch.float64 if depth.dtype == torch.float64 else torch.float32
        return homogeneous(normalised(pixels.to(dtype), intrinsics.to(dtype))) * depth.to(dtype)[..., None]


def root_depth_from_bones(
    pixels: Float[Tensor, "batch joints 2"],
    depth_rel: Float[Tensor, "batch joints"],
    intrinsics: Float[Tensor, "batch 3 3"],
    bones: Sequence[tuple[int, int]] | Int64[Tensor, "bones 2"],
    lengths: Float[Tensor, " bones"] | Float[Tensor, "batch bones"],
    valid: Bool[Tensor, "batch joints"] | None = None,
    iterations: int = 8,
) -> Float[Tensor, " batch"]:
    """Depth of the root, mm, at which the bones of a 2.5D pose come nearest to given lengths, in least squares.

    A bone at root depth Z is the vector a Z + b: its rays differ by a, its relative depths give b. Matching the sum of
    squared lengths is a quadratic equation in Z; from its solution, Gauss-Newton steps minimise sum (|a Z + b| - L)^2.
    Exact for exact input. Ours; the HEMlets release searches a grid (`hemlets_released`).

    Args:
        pixels: px, in the image that `intrinsics` belong to.
        depth_rel: mm, relative to the root.
        intrinsics: K of the (undistorted) image, px.
        bones: (parent, child) joint indices, `Skeleton.bones`; a tensor on the device saves waiting for a copy to it.
        lengths: Expected length of each bone, mm; bones of unknown length are NaN or 0 and left out.
        valid: Joints to trust; all of them when None.
        iterations: Gauss-Newton steps; each at most halves or doubles the depth.

    Returns:
        [batch] mm, between 100 mm and 1 km; NaN for a sample without any usable bone. float64 for float64 `depth_rel`,
        else float32.
    """
    with _full_precision(pixels):
        dtype = torch.float64 if depth_rel.dtype == torch.float64 else torch.float32
        parent, child = torch.as_tensor(bones, dtype=torch.int64, device=pixels.device).view(-1, 2).unbind(1)
        rays = homogeneous(normalised(pixels.to(dtype), intrinsics.to(dtype)))
        points = rays * depth_rel.to(dtype)[..., None]
        a, b = rays[:, child] - rays[:, parent], points[:, child] - points[:, parent]
        wanted = lengths.to(dtype).expand(a.shape[:-1])
        used = wanted.isfinite() & (wanted > 0)
        if valid is not None:
            used = used & valid[:, parent] & valid[:, child]
        wanted = wanted.where(used, 1.0)
        a, b = a.where(used[..., None], 0.0), b.where(used[..., None], 0.0)
        depth = _matching_squares(a, b, wanted.where(used, 0.0))
        for _ in range(iterations):
            depth = _gauss_newton(depth, a, b, wanted, used)
        return depth.where(used.any(-1), torch.nan)


_NEAREST, _FARTHEST = 1e2, 1e6  # mm; a pose without extent, as untrained networks give, has no distance at all


def _matching_squares(a: Tensor, b: Tensor, lengths: Tensor) -> Tensor:
    """The larger Z with sum |a Z + b|^2 = sum L^2, or the minimum of the left side where it is always larger."""
    aa = a.square().sum((-2, -1)).clamp(min=1e-12)
    ab = (a * b).sum((-2, -1))
    excess = b.square().sum((-2, -1)) - lengths.square().sum(-1)
    return ((-ab + (ab.square() - aa * excess).clamp(min=0).sqrt()) / aa).clamp(_NEAREST, _FARTHEST)


def _gauss_newton(depth: Tensor, a: Tensor, b: Tensor, lengths: Tensor, used: Tensor) -> Tensor:
    bone = a * depth[:, None, None] + b
    length = bone.norm(dim=-1).clamp(min=1e-6)
    slope = ((a * bone).sum(-1) / length).where(used, 0.0)
    residual = (length - lengths).where(used, 0.0)
    step = (slope * residual).sum(-1) / slope.square().sum(-1).clamp(min=1e-12)
    return torch.maximum(torch.minimum(depth - step, 2 * depth), 0.5 * depth).clamp(_NEAREST, _FARTHEST)


# (parent, child, mm): the 15 bones of the released HEMlets evaluator, joints as in h36m17. The lengths are those of
# Human3.6M's universal skeleton.
HEMLETS_RELEASED_BONES: tuple[tuple[int, int, float], ...] = (
    (0, 1, 132.95),
    (1, 2, 442.89),
    (2, 3, 454.21),
    (0, 4, 132.95),
    (4, 5, 442.89),
    (5, 6, 454.21),
    (0, 7, 233.47),
    (8, 9, 121.13),
    (9, 10, 115.00),
    (8, 11, 151.03),
    (11, 12, 278.88),
    (12, 13, 251.73),
    (8, 14, 151.03),
    (14, 15, 278.89),
    (15, 16, 251.73),
)
_RELEASED_FOCAL, _RELEASED_CENTRE = 1150.0, 500.0


def hemlets_released(
    pixels: Float[Tensor, "batch joints 2"], depth_rel: Float[Tensor, "batch joints"]
) -> Float[Tensor, "batch joints 3"]:
    """2.5D to mm as the released HEMlets evaluator does it; for the protocol of that name, not for use.

    It assumes f = 1150 px and the principal point (500, 500) for every camera, and searches the root depth 1150 s over
    s = 2.0, 2.5 .. 8.0, then -0.5 .. +0.4 in steps of 0.1 around the best, for the smallest mean absolute error of 15
    bones from the constants above. With perfect input it is off by about 3 mm MPJPE for a person of exactly those
    bones, and by 16 to 18 mm for one who is 4 % taller. The constants leak the subject's skeleton where the truth is
    Human3.6M's universal one.

    Args:
        pixels: px of the full 1000 x 1000 image, joints as in h36m17 or hemlets18.
        depth_rel: mm, relative to the root.

    Returns:
        mm; the root is not moved to its own relative depth.
    """
    with _full_precision(pixels):
        dtype = torch.float64 if depth_rel.dtype == torch.float64 else torch.float32
        pixels, depth_rel = pixels.to(dtype), depth_rel.to(dtype)
        coarse = torch.arange(13, dtype=dtype, device=pixels.device) * 0.5 + 2.0
        fine = (torch.arange(10, dtype=dtype, device=pixels.device) - 5) * 0.1
        best = _best_released_scale(pixels, depth_rel, coarse.expand(len(pixels), -1))
        best = _best_released_scale(pixels, depth_rel, best[:, None] + fine)
        return _released_points(pixels, depth_rel, best[:, None])[:, 0]


def _best_released_scale(pixels: Tensor, depth_rel: Tensor, scales: Tensor) -> Tensor:
    parent, child, length = zip(*HEMLETS_RELEASED_BONES, strict=True)
    points = _released_points(pixels, depth_rel, scales)
    found = (points[:, :, list(child)] - points[:, :, list(parent)]).norm(dim=-1)
    error = (found - torch.tensor(length, dtype=found.dtype, device=found.device)).abs().mean(-1)
    return scales.gather(1, error.argmin(1, keepdim=True))[:, 0]


def _released_points(pixels: Tensor, depth_rel: Tensor, scales: Tensor) -> Tensor:
    """Joints [batch, scales, joints, 3], mm, for root depths 1150 * scales."""
    depth = depth_rel[:, None] + _RELEASED_FOCAL * scales[..., None]
    rays = homogeneous((pixels - _RELEASED_CENTRE) / _RELEASED_FOCAL)
    return rays[:, None] * depth[..., None]
