"""From root-relative poses to the camera frame.

Frame: x right, y down, z forward; mm and px. Everything here computes in float32 or better, also under autocast: in
bfloat16 the same formulas are off by centimetres.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posezoo.cameras import homogeneous, normalised

Perspective = Literal["full", "weak"]

_OUTSIDE_WEIGHT = 1e-4  # joints outside the window keep this weight, so that the system never loses rank
_MIN_INSIDE = 2


def inside_window(coords2d: Float[Tensor, "*batch 2"], low: float, high: float) -> Bool[Tensor, "*batch"]:
    """Which pixels lie in [low, high] px on both axes (both ends belong to the window)."""
    return ((coords2d >= low) & (coords2d <= high)).all(-1)


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
    with torch.autocast(coords2d.device.type, enabled=False):
        dtype = torch.float64 if coords3d_rel.dtype == torch.float64 else torch.float32
        xy = normalised(coords2d.to(dtype), intrinsics.to(dtype))
        rel = coords3d_rel.to(dtype)
        trusted = torch.ones_like(rel[..., 0], dtype=torch.bool) if inside is None else inside
        used = trusted | (trusted.sum(-1, keepdim=True) < _MIN_INSIDE)
        if perspective == "full":
            translation = _full_perspective(xy, rel, used, ridge)
        elif perspective == "weak":
            translation = _weak_perspective(xy, rel, used)
        else:
            raise ValueError(f"Unknown perspective '{perspective}': choose 'full' or 'weak'.")
        moved = rel + translation[:, None]
        back_projected = homogeneous(xy) * moved[..., 2:]
        share = mix.to(dtype)[:, None, None] if isinstance(mix, Tensor) else mix
        mixed = share * moved + (1 - share) * back_projected
        return torch.where(trusted[..., None], mixed, moved)


def _full_perspective(xy: Tensor, rel: Tensor, used: Tensor, ridge: float) -> Tensor:
    """Least squares for r in r_xy - xy r_z = xy Z - XY, in closed form.

    Two of the three unknowns are eliminated by centring, which keeps float32 exact to micrometres at 20 m where the
    plain normal equations lose 13: the spread of `xy` is tiny beside its mean.
    """
    weight = (used.to(xy.dtype) + _OUTSIDE_WEIGHT).square()[..., None]
    target = xy * rel[..., 2:] - rel[..., :2]
    scale_xy = _rms(xy)
    scale_target = _rms(target)
    a, b = xy / scale_xy, target / scale_target
    total = weight.sum(-2)
    mean_a, mean_b = (weight * a).sum(-2) / total, (weight * b).sum(-2) / total
    da, db = a - mean_a[:, None], b - mean_b[:, None]
    shrink = ridge / (total + ridge)
    curvature = (weight * da * da).sum((-2, -1)) + ridge
    curvature = curvature + (total * shrink * mean_a * mean_a).sum(-1)
    slope = (weight * da * db).sum((-2, -1)) + (total * shrink * mean_a * mean_b).sum(-1)
    depth = -slope / curvature
    sideways = (mean_b + mean_a * depth[:, None]) * (1 - shrink)
    scaled = torch.cat([sideways, depth[:, None] / scale_xy[:, 0]], -1)
    return scaled * scale_target[:, 0]


def _rms(values: Tensor) -> Tensor:
    """Root mean square of each sample, [B, 1, 1]; a pose whose rays all coincide must not divide by zero."""
    return values.square().mean((-2, -1), keepdim=True).clamp(min=1e-12).sqrt()


def _weak_perspective(xy: Tensor, rel: Tensor, used: Tensor) -> Tensor:
    """Depth as the ratio of metric to image spread, isotropic over x and y: r = z (mean ray) - mean pose, mm."""
    weight = used.to(xy.dtype)[..., None]
    count = weight.sum(-2)
    mean_xy, mean_rel = (weight * xy).sum(-2) / count, (weight * rel).sum(-2) / count
    spread_xy = _spread(xy - mean_xy[:, None], weight, count)
    spread_rel = _spread(rel[..., :2] - mean_rel[:, None, :2], weight, count)
    return homogeneous(mean_xy) * (spread_rel / spread_xy) - mean_rel


def _spread(centred: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    return ((weight * centred.square()).sum((-2, -1))[:, None] / count + 1e-10).sqrt().clamp(min=1e-5)
