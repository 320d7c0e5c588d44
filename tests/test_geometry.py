"""Procrustes alignment, rotations and bone lengths: by hand, by property, and against the golden file."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from beartype import beartype
from golden_helpers import ALIGNED
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from torch import Tensor

from posezoo import geometry
from posezoo.geometry import (
    axis_angle_to_matrix,
    bone_lengths,
    fit_similarity,
    matrix_to_axis_angle,
    procrustes,
    root_align,
    rotation_x,
    rotation_y,
    rotation_z,
)


def poses(seed: int, *shape: int, spread: float = 300.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, 3, generator=generator, dtype=torch.float64)


def similar(pose: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A random similarity of the pose, and its scale, rotation and translation."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand((), generator=generator, dtype=torch.float64) * 2 + 0.2
    rotation = axis_angle_to_matrix(torch.randn(3, generator=generator, dtype=torch.float64))
    translation = 1000 * torch.randn(3, generator=generator, dtype=torch.float64)
    return scale * pose @ rotation.mT + translation, scale, rotation, translation


@pytest.mark.shared_data
@pytest.mark.parametrize("case", ALIGNED)
def test_aligned_prediction_equals_golden(case: str, golden: Any) -> None:
    data = golden("metrics")
    pred, target = (torch.from_numpy(data[f"{case}.{key}"]) for key in ("pred", "gt"))
    valid = torch.from_numpy(data[f"{case}.mask"]) if f"{case}.mask" in data else None
    expected = data[f"{case}.exp.p_aligned_pred.posepile"]

    aligned = procrustes(pred, target, valid)

    assert aligned.dtype == pred.dtype
    atol = 0.05 if pred.dtype == torch.float32 else 1e-5
    seen = ~np.isnan(expected)
    np.testing.assert_allclose(aligned.numpy()[seen], expected[seen], atol=atol, rtol=1e-6)
    assert aligned.isfinite().all()


@given(st.integers(0, 10_000), st.integers(3, 20))
@settings(max_examples=30, deadline=None)
def test_fit_recovers_a_similarity(seed: int, joints: int) -> None:
    source = poses(seed, joints)
    target, scale, rotation, translation = similar(source, seed + 1)

    fit = fit_similarity(source, target)

    torch.testing.assert_close(fit.scale, scale)
    torch.testing.assert_close(fit.rotation, rotation)
    torch.testing.assert_close(fit.translation, translation, atol=1e-6, rtol=1e-9)
    torch.testing.assert_close(fit.apply(source), procrustes(source, target))


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_invalid_joints_do_not_matter(seed: int) -> None:
    source, target = poses(seed, 4, 12), poses(seed + 1, 4, 12)
    valid = torch.rand(4, 12, generator=torch.Generator().manual_seed(seed)) > 0.4
    garbage = source.where(valid[..., None], torch.nan), target.where(valid[..., None], 1e9)

    aligned = procrustes(*garbage, valid)

    torch.testing.assert_close(aligned, procrustes(source, target, valid))
    assert (aligned[~valid] == 0).all()
    for row in range(4):  # the same as dropping the joints
        keep = valid[row]
        if keep.sum() >= 3:
            expected = procrustes(source[row, keep], target[row, keep])
            torch.testing.assert_close(aligned[row, keep], expected)


def test_mirrored_pose_needs_a_reflection() -> None:
    target = poses(0, 17)
    mirrored = target * torch.tensor([-1.0, 1.0, 1.0])

    assert torch.linalg.det(fit_similarity(mirrored, target).rotation) == pytest.approx(1)
    assert (procrustes(mirrored, target) - target).norm(dim=-1).mean() > 50
    torch.testing.assert_close(procrustes(mirrored, target, reflection=True), target)


def test_rigid_alignment_keeps_the_size() -> None:
    source, target = poses(1, 5, 17), 2 * poses(1, 5, 17)

    fit = fit_similarity(source, target, scale=False)

    assert (fit.scale == 1).all()
    torch.testing.assert_close(fit.apply(source), source + (target - source).mean(-2, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_poses_stay_finite(dtype: torch.dtype) -> None:
    target = poses(2, 17).to(dtype)
    line = torch.linspace(-1, 1, 17, dtype=dtype)[:, None] * torch.tensor([100.0, 200.0, 50.0], dtype=dtype)
    point = torch.full((17, 3), 1234.567, dtype=dtype)
    none, one = torch.zeros(17, dtype=torch.bool), torch.arange(17) == 3

    assert procrustes(line, target).isfinite().all()
    assert procrustes(target, line).isfinite().all()
    centroid = target.double().mean(0).to(dtype).expand(17, 3)
    torch.testing.assert_close(procrustes(point, target), centroid)
    torch.testing.assert_close(procrustes(target, point), point)
    assert (procrustes(line, target, none) == 0).all()
    torch.testing.assert_close(procrustes(line, target, one)[3], target[3])
    rotation = fit_similarity(line, target, one).rotation
    torch.testing.assert_close(rotation, torch.eye(3, dtype=dtype))


def test_nan_at_a_valid_joint_spoils_its_own_pose_only() -> None:
    source, target = poses(3, 2, 17), poses(4, 2, 17)
    source[0, 5] = torch.nan

    aligned = procrustes(source, target)

    assert aligned[0].isnan().all()
    assert aligned[1].isfinite().all()


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"reflection": True}])
def test_gradients(options: dict[str, bool]) -> None:
    source, target = poses(5, 2, 6, spread=1.0).requires_grad_(), poses(6, 2, 6, spread=1.0).requires_grad_()
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])

    assert torch.autograd.gradcheck(lambda s, t: procrustes(s, t, valid, **options), (source, target))


@pytest.mark.parametrize("kind", ["regular", "collinear", "point", "one valid"])
def test_gradients_are_finite_and_zero_at_masked_joints(kind: str) -> None:
    source, target = poses(7, 8), poses(8, 8)
    valid = torch.tensor([True] * 6 + [False] * 2)
    if kind == "regular":  # equal singular values: PyTorch's own SVD gradient is infinite here
        source[:6] = target[:6] = torch.cat([torch.eye(3), -torch.eye(3)])
    elif kind == "collinear":
        source[:] = torch.arange(8.0)[:, None]
    elif kind == "point":
        source[:] = 7.0
    else:
        valid = torch.arange(8) == 0
    source[~valid] = torch.nan
    source.requires_grad_()

    (procrustes(source, target, valid) * poses(9, 8)).sum().backward()

    assert source.grad is not None
    assert source.grad.isfinite().all()
    assert (source.grad[~valid] == 0).all()


def test_chunks_and_batches_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = poses(10, 3, 4, 7), poses(11, 3, 4, 7)
    whole = procrustes(source, target)

    monkeypatch.setattr(geometry, "_CHUNK", 5)

    torch.testing.assert_close(procrustes(source, target), whole)
    torch.testing.assert_close(fit_similarity(source, target).apply(source), whole)
    assert procrustes(source[:0], target[:0]).shape == (0, 4, 7, 3)


def test_shape_mistakes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"share a shape .* \(17, 3\) and \(16, 3\)"):
        procrustes(torch.zeros(17, 3), torch.zeros(16, 3))
    with pytest.raises(ValueError, match="bool tensor of shape"):
        procrustes(torch.zeros(17, 3), torch.zeros(17, 3), torch.ones(17))


def test_rotations_by_hand() -> None:
    x, y, z = torch.eye(3).unbind()
    torch.testing.assert_close(rotation_x(90.0) @ y, z)
    torch.testing.assert_close(rotation_y(90.0) @ z, x)
    torch.testing.assert_close(rotation_z(90.0) @ x, y)
    angles = torch.tensor([[0.0, 30.0]], dtype=torch.float64)
    assert rotation_z(angles).shape == (1, 2, 3, 3)
    assert rotation_z(angles)[0, 1, 1, 0] == pytest.approx(0.5)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1e-9, 0.5, 3.0, math.pi - 1e-7]))
@settings(max_examples=40, deadline=None)
def test_axis_angle_round_trip(seed: int, angle: float) -> None:
    axis = torch.nn.functional.normalize(poses(seed, 4), dim=-1)

    rotation = axis_angle_to_matrix(angle * axis)

    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    torch.testing.assert_close(axis_angle_to_matrix(matrix_to_axis_angle(rotation)), rotation)
    torch.testing.assert_close(matrix_to_axis_angle(rotation), angle * axis, atol=1e-6, rtol=0)


def test_axis_angle_gradient_at_zero() -> None:
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(axis_angle_to_matrix, zero)


def test_root_align() -> None:
    pose = poses(12, 2, 5)
    assert (root_align(pose, 2)[:, 2] == 0).all()
    torch.testing.assert_close(root_align(pose + 99, 2), root_align(pose, 2))


def test_bone_lengths_ignore_invalid_ends() -> None:
    joints = torch.tensor([[0.0, 0.0, 0.0], [0.0, 300.0, 400.0], [0.0, torch.nan, 0.0]], requires_grad=True)
    valid = torch.tensor([True, True, False])

    bones = bone_lengths(joints, [(0, 1), (1, 2)], valid)

    assert bones[0] == 500.0  # 3-4-5 triangle, in mm
    assert bones[1].isnan()
    bones[0].backward()
    assert joints.grad is not None
    assert joints.grad.isfinite().all()
    torch.testing.assert_close(bone_lengths(joints[:2], [(1, 0)]), torch.tensor([500.0]))
    with pytest.raises(IndexError):
        bone_lengths(joints, [(0, 3)])


def test_signatures_hold() -> None:
    pose, valid = torch.zeros(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    checked = {
        name: jaxtyped(typechecker=beartype)(getattr(geometry, name))
        for name in ("procrustes", "bone_lengths", "root_align", "rotation_x", "matrix_to_axis_angle")
    }
    checked["procrustes"](pose, pose, valid)
    checked["bone_lengths"](pose, [(0, 1)], valid)
    checked["root_align"](pose, 0)
    checked["rotation_x"](torch.zeros(2, 5))
    checked["matrix_to_axis_angle"](torch.eye(3))
