"""Rigid geometry of poses: Procrustes alignment, rotations, root alignment, bone lengths.

Points are rows ([..., joints, 3], mm); a rotation matrix R acts on columns, so a pose turns as `pose @ R.mT`.
Masked joints may hold anything, NaN included: it reaches neither values nor gradients.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# Poses per SVD call: ten thousand float64 poses of 17 joints (4 MB) still fit the caches of a CPU core.
_CHUNK = 10_000

# Below this share of a pose's distance from the origin, its spread is rounding noise in float64.
_COINCIDENT = 1e-12

# Relative to the largest singular value: below it, the turn about a line of joints is undetermined.
_UNDETERMINED = 1e-9


class Similarity(NamedTuple):
    """x -> scale * R x + translation."""

    scale: Float[Tensor, "*batch"]
    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]

    def apply(self, points: Float[Tensor, "*batch points 3"]) -> Float[Tensor, "*batch points 3"]:
        """Carry points over, in the units that the similarity was fitted in; computed in float64."""
        scale, rotation, translation, start = (_float64(x) for x in (*self, points))
        moved = scale[..., None, None] * (start @ rotation.mT) + translation[..., None, :]
        return moved.to(points)


def procrustes(
    source: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    valid: Bool[Tensor, "*batch joints"] | None = None,
    scale: bool = True,
    reflection: bool = False,
) -> Float[Tensor, "*batch joints 3"]:
    """Move each source pose onto its target by the best similarity, fitted on the valid joints only.

    Computed in float64 whatever the input dtype, and returned in the dtype of `source`. Degenerate poses
    give finite values: with one valid joint only the translation is fitted; source joints that all coincide
    go to the target's centroid; on collinear joints the free turn about the line is arbitrary. NaN at a
    *valid* joint gives a NaN pose. Differentiable once, also where singular values coincide.

    Args:
        source: Poses to move, mm, any frame.
        target: Poses to meet, mm.
        valid: Joints to fit on; all of them when None. The others come back as zeros; use
            `fit_similarity(...).apply(source)` to carry them along.
        scale: Fit the scale too; False for a rigid motion.
        reflection: Allow det R = -1.

    Raises:
        ValueError: Shapes do not belong together.
    """
    valid = _check(source, target, valid)
    parts = []
    for src, dst, ok in _chunks(source, target, valid):
        aligned = _fit(src, dst, ok, scale, reflection).apply(src)
        parts.append(aligned.where(ok[..., None], 0).to(source))
    return torch.cat(parts).view(source.shape)


def fit_similarity(
    source: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    valid: Bool[Tensor, "*batch joints"] | None = None,
    scale: bool = True,
    reflection: bool = False,
) -> Similarity:
    """The similarity that `procrustes` applies; arguments, errors and degenerate cases as there."""
    valid = _check(source, target, valid)
    parts = [_fit(src, dst, ok, scale, reflection) for src, dst, ok in _chunks(source, target, valid)]
    batch = source.shape[:-2]
    scales, rotations, translations = (torch.cat(part).to(source) for part in zip(*parts, strict=True))
    return Similarity(scales.view(batch), rotations.view(*batch, 3, 3), translations.view(*batch, 3))


def root_align(joints: Float[Tensor, "*batch joints 3"], root: int) -> Float[Tensor, "*batch joints 3"]:
    """Subtract the root joint: absolute mm become root-relative mm, axes unchanged."""
    return joints - joints[..., root, None, :]


def bone_lengths(
    joints: Float[Tensor, "*batch joints 3"],
    parts: Sequence[tuple[int, int]],
    valid: Bool[Tensor, "*batch joints"] | None = None,
) -> Float[Tensor, "*batch parts"]:
    """Lengths of body parts in the units of `joints`; NaN where an end of the part is not valid.

    Args:
        joints: Joint positions in any Euclidean frame, mm.
        parts: (parent, child) joint indices, `Skeleton.parts` or `Skeleton.bones`.
        valid: Which joints carry a label; all of them when None.

    Raises:
        IndexError: A part names a joint that `joints` does not have.
    """
    parent, child = torch.tensor(parts, dtype=torch.long, device=joints.device).view(-1, 2).unbind(1)
    if valid is None:
        return lengths(joints[..., child, :] - joints[..., parent, :])
    joints = joints.where(valid[..., None], 0)  # first of all: a masked NaN must not reach the gradient
    bones = lengths(joints[..., child, :] - joints[..., parent, :])
    return bones.where(valid[..., parent] & valid[..., child], torch.nan)


def lengths(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Euclidean lengths; the gradient at zero is zero."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms


def rotation_x(degrees: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Right-handed rotation about x (camera frame: tilts, y towards z)."""
    return _rotation_about(0, degrees)


def rotation_y(degrees: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Right-handed rotation about y (camera frame: pans, z towards x)."""
    return _rotation_about(1, degrees)


def rotation_z(degrees: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Right-handed rotation about z (camera frame: rolls, x towards y)."""
    return _rotation_about(2, degrees)


def axis_angle_to_matrix(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of Rodrigues vectors (axis times angle in *radians*), as SMPL and OpenCV have."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
    # Unlike Rodrigues' formula, it needs no special case at zero angle; nor does its gradient.
    return torch.matrix_exp(skew.view(*x.shape, 3, 3))


def matrix_to_axis_angle(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rodrigues vectors (radians, at most pi long) of rotations; the inverse of `axis_angle_to_matrix`."""
    # The quaternion (w, x, y, z) from its largest entry: accurate for every angle, half a turn included.
    m = rotation.flatten(-2).unbind(-1)
    rows = [
        [1 + m[0] + m[4] + m[8], m[7] - m[5], m[2] - m[6], m[3] - m[1]],
        [m[7] - m[5], 1 + m[0] - m[4] - m[8], m[1] + m[3], m[2] + m[6]],
        [m[2] - m[6], m[1] + m[3], 1 - m[0] + m[4] - m[8], m[5] + m[7]],
        [m[3] - m[1], m[2] + m[6], m[5] + m[7], 1 - m[0] - m[4] + m[8]],
    ]
    outer = torch.stack([torch.stack(row, -1) for row in rows], -2)  # 4 q q^T
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = outer.take_along_dim(best[..., None, None], -2).squeeze(-2)
    quaternion = quaternion * torch.where(quaternion[..., :1] < 0, -1, 1)  # the shorter way round
    real, imaginary = quaternion[..., 0], quaternion[..., 1:]
    length = lengths(imaginary)
    straight = length == 0
    half_angle = torch.atan2(length, real)
    factor = 2 * half_angle / torch.where(straight, 1, length)
    return imaginary * torch.where(straight, 2 / real, factor)[..., None]


def _rotation_about(axis: int, degrees: float | Tensor) -> Tensor:
    radians = torch.deg2rad(torch.as_tensor(degrees))
    cos, sin, zero, one = radians.cos(), radians.sin(), torch.zeros_like(radians), torch.ones_like(radians)
    entries = {
        0: [one, zero, zero, zero, cos, -sin, zero, sin, cos],
        1: [cos, zero, sin, zero, one, zero, -sin, zero, cos],
        2: [cos, -sin, zero, sin, cos, zero, zero, zero, one],
    }
    return torch.stack(entries[axis], -1).view(*radians.shape, 3, 3)


def _check(source: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
    if source.shape != target.shape or source.ndim < 2 or source.shape[-1] != 3:
        raise ValueError(
            f"source and target must share a shape [..., joints, 3], "
            f"got {tuple(source.shape)} and {tuple(target.shape)}."
        )
    if valid is None:
        return torch.ones(source.shape[:-1], dtype=torch.bool, device=source.device)
    if valid.shape != source.shape[:-1] or valid.dtype != torch.bool:
        raise ValueError(
            f"valid must be a bool tensor of shape {tuple(source.shape[:-1])}, got {valid.dtype} {tuple(valid.shape)}."
        )
    return valid


def _chunks(source: Tensor, target: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Float64 poses [N, J, 3], zero where not valid, and masks [N, J], of so many poses at a time."""
    joints = source.shape[-2]
    source, target = source.reshape(-1, joints, 3), target.reshape(-1, joints, 3)
    valid = valid.reshape(-1, joints)
    for start in range(0, max(len(source), 1), _CHUNK):  # an empty batch is one empty chunk
        part = slice(start, start + _CHUNK)
        mask = valid[part, :, None]
        # First of all: neither NaN nor its gradient may get past a masked joint.
        clean = [_float64(poses[part].where(mask, 0)) for poses in (source, target)]
        yield clean[0], clean[1], valid[part].to(clean[0].device)


def _float64(tensor: Tensor) -> Tensor:
    # MPS has neither float64 nor an SVD of its own, so the CPU does the work there.
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def _fit(source: Tensor, target: Tensor, valid: Tensor, scale: bool, reflection: bool) -> Similarity:
    """Umeyama, "Least-squares estimation of transformation parameters" (PAMI 1991), eqs. 40-42; float64."""
    weight = valid[..., None].to(source.dtype)
    count = weight.sum(-2, keepdim=True).clamp(min=1)
    source_mean, target_mean = source.sum(-2, keepdim=True) / count, target.sum(-2, keepdim=True) / count
    centred, target_centred = (source - source_mean) * weight, (target - target_mean) * weight

    spread = centred.square().sum((-2, -1))
    reach = _COINCIDENT * source_mean.detach().abs().amax((-2, -1))
    coincident = spread <= count[..., 0, 0] * reach.square()
    covariance = (target_centred.mT @ centred).where(~coincident[..., None, None], 0)
    rotation = _NearestRotation.apply(covariance, reflection)

    ones = torch.ones_like(spread)
    # The rotation maximises <R, covariance>, so its own derivative drops out of the scale's.
    overlap = (rotation.detach() * covariance).sum((-2, -1))
    scales = torch.where(coincident, ones, overlap / torch.where(coincident, ones, spread)) if scale else ones
    translation = target_mean - scales[..., None, None] * (source_mean @ rotation.mT)
    return Similarity(scales, rotation, translation.squeeze(-2))


class _NearestRotation(torch.autograd.Function):
    """The rotation that maximises <R, M> for M [N, 3, 3]: U diag(1, 1, det UV) V^T.

    PyTorch's own SVD gradient divides by differences of squared singular values and is infinite where two
    agree. The rotation depends on the sums s_i + s_j only, which vanish for collinear joints alone; there the
    turn about the line is free and its gradient zero.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, reflection: bool) -> Tensor:
        finite = matrix.isfinite().all(-1).all(-1)[..., None, None]  # LAPACK raises on NaN
        u, stretch, vh = torch.linalg.svd(matrix.where(finite, 0))
        if not reflection:
            sign = torch.ones_like(stretch)
            x, y, z = (u @ vh).unbind(-2)
            sign[..., 2] = (torch.linalg.cross(x, y) * z).sum(-1).sign()  # the determinant; by LU it takes far longer
            u, stretch = u * sign[..., None, :], stretch * sign
        ctx.save_for_backward(u, stretch, vh)
        nearest: Tensor = u @ vh
        return nearest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        u, stretch, vh = ctx.saved_tensors
        turned = u.mT @ grads[0] @ vh.mT
        pair = stretch[..., :, None] + stretch[..., None, :]
        pair = pair.where(pair > _UNDETERMINED * stretch[..., :1, None], torch.inf)
        return u @ ((turned - turned.mT) / pair) @ vh, None
