"""The metric functions: against the golden file, by hand, and by property."""

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from beartype import beartype
from golden_helpers import ALIGNED, load
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from torch import Tensor

from posezoo.geometry import axis_angle_to_matrix, procrustes, root_align
from posezoo.metrics import functional as F
from posezoo.metrics.functional import PerJoint, abs_mpjpe, auc, mpjpe, mpjve, mrpe, n_mpjpe, pa_mpjpe, pck, ramp_scores

CASES = [*ALIGNED, "identical_pred", "threshold_edge"]

# Fixture pose P of the MeTRAbs dossier (section 11), mm; the pelvis comes last.
_P = """
    120 15 20  140 450 -40  150 880 60  -120 15 -20  -150 440 -120  -170 860 10  0 -230 20  0 -480 40
    10 -560 -20  10 -700 10  -150 -440 30  -330 -250 -60  -280 -60 -260  150 -440 50  350 -230 90
    300 -20 -120  0 0 0
"""
P = torch.tensor([float(word) for word in _P.split()], dtype=torch.float64).view(1, 17, 3)
PELVIS = 16

METRICS: dict[str, Callable[..., Tensor]] = {
    "mpjpe": mpjpe,
    "abs_mpjpe": abs_mpjpe,
    "mrpe": mrpe,
    "pa_mpjpe": pa_mpjpe,
    "n_mpjpe": n_mpjpe,
    "pck": pck,
    "auc": auc,
    "mpjve": mpjve,
}


def poses(seed: int, *shape: int) -> Tensor:
    return 200 * torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(seed: int, *shape: int) -> Tensor:
    valid = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    valid[..., 0] = True
    return valid


@pytest.mark.shared_data
@pytest.mark.parametrize("case", CASES)
def test_golden_scalars(case: str, golden: Any) -> None:
    data = golden("metrics")
    pred, target, valid, root = load(data, case)
    aligned = procrustes(pred, target, valid)
    found = {
        "mpjpe_abs.mmpose": abs_mpjpe(pred, target, valid),
        "mpjpe_abs.videopose3d": abs_mpjpe(pred, target, valid),
        "mpjpe_rootrel.mmpose": mpjpe(pred, target, valid, root),
        "mpjpe_rootrel.videopose3d": mpjpe(pred, target, valid, root),
        "n_mpjpe_rootrel.videopose3d": n_mpjpe(pred, target, valid, root),
        "n_mpjpe_rootrel_masked_scale.def": n_mpjpe(pred, target, valid, root),
        "p_mpjpe.videopose3d": pa_mpjpe(pred, target, valid),
        "p_mpjpe_masked_align.posepile": pa_mpjpe(pred, target, valid),
        "p_mpjpe_noscale_masked_align.posepile": pa_mpjpe(pred, target, valid, scale=False),
        "p_mpjpe_reflect_allowed_masked_align.posepile": pa_mpjpe(pred, target, valid, reflection=True),
        "p_mpjpe_centroid_convention": pa_mpjpe(pred, target, valid),
        "mpjve_abs.videopose3d": mpjve(pred, target, valid),
        "mpjve_rootrel.videopose3d": mpjve(root_align(pred, root), root_align(target, root), valid),
        "auc31_0_150_rootrel.posepile": auc(pred, target, valid, root),
        "auc31_0_150_pa.posepile": auc(aligned, target, valid, root=None),
        "auc40_0_195_rootrel.ddddwee": auc(pred, target, valid, root, thresholds=range(0, 200, 5)),
    }
    for t in (50, 100, 150):
        found[f"pck{t}_lt_rootrel.posepile"] = pck(pred, target, valid, root, threshold=t)
        found[f"pck{t}_lt_pa.posepile"] = pck(aligned, target, valid, root=None, threshold=t)
        found[f"apck{t}_lt_abs.posepile"] = pck(pred, target, valid, root=None, threshold=t)
    expected = {key: data[f"{case}.exp.{key}"] for key in found if f"{case}.exp.{key}" in data}

    assert len(expected) >= 4
    single = pred.dtype == torch.float32
    for key, value in expected.items():
        percent = "pck" in key or "auc" in key
        tolerance = {"atol": 1e-6, "rtol": 0} if percent else {"atol": 0.05 if single else 1e-5, "rtol": 1e-6}
        if percent and single:
            tolerance = {"atol": 1e-5, "rtol": 0}  # one part in ten million
        np.testing.assert_allclose(found[key].item(), value, err_msg=key, **tolerance)


@pytest.mark.shared_data
@pytest.mark.parametrize("case", CASES)
def test_golden_errors_per_joint(case: str, golden: Any) -> None:
    data = golden("metrics")
    pred, target, valid, root = load(data, case)
    found = {
        "per_joint_abs": F.absolute_errors(pred, target, valid),
        "per_joint_rootrel": F.root_relative_errors(pred, target, valid, root),
        "p_mpjpe_per_joint.posepile": F.procrustes_errors(pred, target, valid),
        "p_mpjpe_noscale_per_joint.posepile": F.procrustes_errors(pred, target, valid, scale=False),
        "p_mpjpe_reflect_allowed_per_joint.posepile": F.procrustes_errors(pred, target, valid, reflection=True),
    }
    atol = 0.05 if pred.dtype == torch.float32 else 1e-5
    for key, errors in found.items():
        if f"{case}.exp.{key}" not in data:
            assert key.startswith("p_mpjpe"), key
            continue
        with_nan = errors.value.where(errors.valid, torch.nan).numpy()
        np.testing.assert_allclose(with_nan, data[f"{case}.exp.{key}"], atol=atol, rtol=1e-6, err_msg=key)


@pytest.mark.shared_data
def test_golden_fourteen_joints(golden: Any) -> None:
    data = golden("metrics")
    pred, target, _, root = load(data, "pck17")
    joints = [*range(14), root]
    errors = F.root_relative_errors(pred[:, joints], target[:, joints], root=14)
    scored = F.PerJoint(errors.value[:, :14], errors.valid[:, :14])
    found = F.pck_scores(scored).mean(), F.auc_scores(scored).mean()
    expected = data["pck17.exp.pck150_14joint.posepile"], data["pck17.exp.auc31_14joint.posepile"]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


@pytest.mark.shared_data
def test_nan_joints_equal_masked_joints(golden: Any) -> None:
    data = golden("metrics")
    pred, target, valid, root = load(data, "nan_absent")
    assert pred.isnan().any()
    clean_pred, clean_target, _, _ = load(data, "mask_random")
    for name, metric in METRICS.items():
        kwargs = {} if name in ("abs_mpjpe", "pa_mpjpe", "mpjve") else {"root": root}
        torch.testing.assert_close(
            metric(pred, target, valid, **kwargs), metric(clean_pred, clean_target, valid, **kwargs), msg=name
        )


@pytest.mark.parametrize("name", ["mpjpe", "abs_mpjpe", "mrpe", "pa_mpjpe", "n_mpjpe", "mpjve"])
def test_nan_reaches_no_gradient(name: str) -> None:
    valid = masks(0, 5, 9)
    pred = poses(1, 5, 9).where(valid[..., None], torch.nan).requires_grad_()
    target = poses(2, 5, 9).where(valid[..., None], torch.nan).requires_grad_()

    METRICS[name](pred, target, valid).backward()

    for leaf in (pred, target):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert (leaf.grad[~valid] == 0).all()
        assert (leaf.grad != 0).any()


@pytest.mark.parametrize("name", METRICS)
def test_nothing_valid_is_nan_with_zero_gradients(name: str) -> None:
    pred, target = poses(1, 3, 5).requires_grad_(), poses(2, 3, 5)
    value = METRICS[name](pred, target, torch.zeros(3, 5, dtype=torch.bool))
    assert value.isnan()
    assert value.shape == ()
    if value.requires_grad:
        value.backward()
        assert pred.grad is not None
        assert (pred.grad == 0).all()
    assert METRICS[name](pred[:0], target[:0]).isnan()


@pytest.mark.parametrize("name", ["mpjpe", "abs_mpjpe", "pa_mpjpe", "n_mpjpe"])
def test_a_diverged_network_is_not_scored_as_good(name: str) -> None:
    pred = poses(1, 3, 5)
    pred[1, 2] = torch.nan
    assert METRICS[name](pred, poses(2, 3, 5)).isnan()
    exact = torch.zeros(1, 2, 3)
    assert pck(torch.tensor([[[0.0] * 3, [torch.nan] * 3]]), exact) == 50
    assert auc(torch.tensor([[[0.0] * 3, [torch.nan] * 3]]), exact).item() == pytest.approx(50 * 30 / 31)


def test_a_sample_without_a_root_counts_for_absolute_metrics_only() -> None:
    pred, target = torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)
    pred[0, 1, 0] = 30.0
    pred[1] = 1000.0
    valid = torch.tensor([[True, True, True], [False, True, True]])

    assert mpjpe(pred, target, valid).item() == pytest.approx(10)
    assert mrpe(pred, target, valid) == 0
    assert abs_mpjpe(pred, target, valid).item() == pytest.approx((30 + 2 * 1000 * math.sqrt(3)) / 5)
    assert pck(pred, target, valid) == 100
    assert pck(pred, target, valid, root=None) == 60


def test_by_hand() -> None:
    """MeTRAbs dossier, T8."""
    target = P.expand(4, 17, 3)
    rotation = axis_angle_to_matrix(torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64))
    similar = 1.3 * target @ rotation.mT + torch.tensor([100.0, -50.0, 3000.0])
    assert pa_mpjpe(similar, target) < 1e-9
    assert mpjpe(1.1 * target, target, root=PELVIS).item() == pytest.approx(43.7255, abs=1e-4)
    assert n_mpjpe(1.1 * target, target, root=PELVIS) < 1e-9
    assert pa_mpjpe(1.1 * target, target) < 1e-9
    mirrored = target * torch.tensor([-1, 1, 1])
    assert pa_mpjpe(mirrored, target).item() == pytest.approx(106.488, abs=1e-3)
    assert pa_mpjpe(mirrored, target, reflection=True) < 1e-9


@pytest.mark.parametrize(
    ("error", "expected"),
    [(0, 0.967742), (4.9, 0.967742), (5, 0.935484), (75, 0.483871), (149, 0.032258), (150, 0)],
)
def test_auc_by_hand(error: float, expected: float) -> None:
    """MeTRAbs dossier, T8; a threshold equal to the error is missed."""
    pred = torch.tensor([[[error, 0.0, 0.0]]], dtype=torch.float64)
    assert auc(pred, torch.zeros_like(pred), root=None).item() == pytest.approx(100 * expected, abs=1e-4)
    mean = sum(pck(pred, torch.zeros_like(pred), root=None, threshold=t).item() for t in range(0, 151, 5)) / 31
    assert mean == pytest.approx(100 * expected, abs=1e-4)


def test_velocity_needs_both_frames() -> None:
    target = torch.zeros(4, 2, 3)
    pred = target.clone()
    pred[:, 0, 0] = torch.tensor([0.0, 2.0, 6.0, 6.0])
    pred[2, 1] = torch.nan
    valid = torch.ones(4, 2, dtype=torch.bool)
    valid[2, 1] = False
    assert mpjve(pred, target, valid).item() == pytest.approx((2 + 4 + 0 + 0) / 4)
    assert mpjve(pred[:1], target[:1]).isnan()


seeds = st.integers(0, 10_000)


@given(seeds, st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_pa_mpjpe_ignores_similarities_of_the_prediction(seed: int, scale: float) -> None:
    pred, target, valid = poses(seed, 3, 8), poses(seed + 1, 3, 8), masks(seed, 3, 8)
    turn = axis_angle_to_matrix(poses(seed + 2, 3) / 200)
    moved = scale * pred @ turn.mT + poses(seed + 3, 3, 1)
    torch.testing.assert_close(pa_mpjpe(moved, target, valid), pa_mpjpe(pred, target, valid))
    rigid = pred @ turn.mT + poses(seed + 3, 3, 1)
    torch.testing.assert_close(pa_mpjpe(rigid, target, valid, scale=False), pa_mpjpe(pred, target, valid, scale=False))


@given(seeds, st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_root_relative_metrics_ignore_translations(seed: int, scale: float) -> None:
    pred, target, valid = poses(seed, 3, 8), poses(seed + 1, 3, 8), masks(seed, 3, 8)
    shift = poses(seed + 2, 3, 1)
    for metric in (mpjpe, n_mpjpe, pck, auc):
        torch.testing.assert_close(metric(pred + shift, target, valid), metric(pred, target, valid))
    torch.testing.assert_close(n_mpjpe(scale * pred, target, valid), n_mpjpe(pred, target, valid))
    torch.testing.assert_close(mpjve(pred + shift[:1], target), mpjve(pred, target))


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_pooling_does_not_care_about_order_or_masked_values(seed: int) -> None:
    pred, target, valid = poses(seed, 6, 8), poses(seed + 1, 6, 8), masks(seed, 6, 8)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(6, generator=generator)
    joints = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(7, generator=generator)])
    for name, metric in METRICS.items():
        value = metric(pred, target, valid)
        spoiled = metric(pred.where(valid[..., None], 1e6), target.where(valid[..., None], torch.inf), valid)
        torch.testing.assert_close(spoiled, value, msg=name)
        if name != "mpjve":
            torch.testing.assert_close(metric(pred[rows], target[rows], valid[rows]), value, msg=name)
        shuffled = metric(pred[:, joints], target[:, joints], valid[:, joints])
        torch.testing.assert_close(shuffled, value, msg=name)


def test_dtypes() -> None:
    pred, target = poses(0, 4, 17), poses(1, 4, 17)
    for metric in METRICS.values():
        assert metric(pred, target).dtype == torch.float64
        assert metric(pred.bfloat16(), target.float()).dtype == torch.float32
    far = torch.tensor([0.0, 0.0, 1e5])
    with torch.autocast("cpu", dtype=torch.bfloat16):  # must not reach the alignment
        single = pa_mpjpe((pred + far).float(), (target + far).float())
    assert single.item() == pytest.approx(pa_mpjpe(pred, target).item(), abs=0.05)


def test_mistakes_are_one_sentence() -> None:
    pose = torch.zeros(2, 17, 3)
    for metric in METRICS.values():
        with pytest.raises(ValueError, match=r"must both be \[N, J, 3\], got \(2, 17, 3\) and \(2, 16, 3\)"):
            metric(pose, pose[:, :16])
        with pytest.raises(ValueError, match=r"bool tensor \[N, J\]"):
            metric(pose, pose, torch.ones(2, 17))
    for metric in (mpjpe, mrpe, n_mpjpe, pck, auc):
        with pytest.raises(ValueError, match="root must be one of 17 joints, got 17"):
            metric(pose, pose, root=17)
    with pytest.raises(ValueError, match="ascending"):
        auc(pose, pose, thresholds=[10, 5])


def test_signatures_hold() -> None:
    pose, valid = torch.zeros(2, 17, 3), torch.ones(2, 17, dtype=torch.bool)
    for metric in METRICS.values():
        assert jaxtyped(typechecker=beartype)(metric)(pose, pose, valid).shape == ()


def test_functional_does_not_import_torchmetrics() -> None:
    code = "import sys, posezoo.metrics.functional; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_swapped_joints_raise_both_errors() -> None:
    """HEMlets dossier, T12: no alignment forgives a left wrist that is called the right one."""
    target = P.expand(1, 17, 3)
    swapped = target.clone()
    swapped[:, [12, 15]] = target[:, [15, 12]]
    apart = (target[0, 12] - target[0, 15]).norm().item()
    assert mpjpe(swapped, target, root=PELVIS).item() == pytest.approx(2 * apart / 17)
    assert pa_mpjpe(swapped, target) > 10


def test_a_continuous_auc_is_half_at_half_the_threshold() -> None:
    """MeTRAbs dossier, T8."""
    errors = torch.tensor([[0.0, 75.0, 150.0, 400.0]])
    scores = ramp_scores(PerJoint(errors, torch.ones_like(errors, dtype=torch.bool)), zero=150)
    assert scores.value[0].tolist() == [100, 50, 0, 0]
