"""2.5D to millimetres: back-projection, root depth by bone lengths, and the grid search of the HEMlets release."""

import pytest
import torch
from torch import Tensor

from posezoo.lifting import HEMLETS_RELEASED_BONES, back_project, hemlets_released, root_depth_from_bones
from posezoo.metrics.functional import mpjpe
from posezoo.skeletons import H36M17

# (fx, fy, cx, cy) of Human3.6M's four cameras, px.
H36M_CAMERAS = (
    (1145.0494, 1143.7811, 512.5415, 515.4515),
    (1149.6757, 1147.5917, 508.8486, 508.0649),
    (1149.1407, 1148.7990, 519.8158, 501.4026),
    (1145.5113, 1144.7739, 514.9682, 501.8820),
)
UPPER_TORSO = 257.08  # mm, pelvis-spine-neck: the bone that the release leaves out


def universal_poses(count: int, seed: int = 0) -> Tensor:
    """Root-relative poses [count, 17, 3], mm, float64, of random joint angles with the release's bone lengths."""
    g = torch.Generator().manual_seed(seed)
    lengths = {(p, c): mm for p, c, mm in HEMLETS_RELEASED_BONES} | {(7, 8): UPPER_TORSO}
    rest = {c: torch.tensor([0.0, 1, 0]) for c in (2, 3, 5, 6, 12, 13, 15, 16)}  # limbs hang, the trunk stands
    rest |= {c: torch.tensor([0.0, -1, 0]) for c in (7, 8, 9, 10)}
    rest |= {c: torch.tensor([1.0, 0, 0]) for c in (4, 11)} | {c: torch.tensor([-1.0, 0, 0]) for c in (1, 14)}
    joints = torch.zeros(count, 17, 3, dtype=torch.float64)
    for parent, child in H36M17.bones:
        direction = rest[child] + 0.6 * torch.randn(count, 3, generator=g)
        bone = torch.nn.functional.normalize(direction.double(), dim=-1) * lengths[parent, child]
        joints[:, child] = joints[:, parent] + bone
    return joints


def camera(row: tuple[float, float, float, float]) -> Tensor:
    fx, fy, cx, cy = row
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def scene(count: int = 400, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(pixels, depth relative to the root, intrinsics, truth in mm) of people in front of Human3.6M's cameras."""
    g = torch.Generator().manual_seed(1)
    k = torch.stack([camera(H36M_CAMERAS[i % 4]) for i in range(count)])
    root = torch.rand(count, 1, 3, generator=g, dtype=torch.float64) * torch.tensor([1600.0, 600, 2500])
    truth = scale * universal_poses(count) + root + torch.tensor([-800.0, -300, 3500])
    pixels = truth @ k.mT
    return pixels[..., :2] / pixels[..., 2:], truth[..., 2] - truth[:, :1, 2], k, truth


def lengths_of(poses: Tensor) -> Tensor:
    parent, child = torch.tensor(H36M17.bones).unbind(1)
    return (poses[:, child] - poses[:, parent]).norm(dim=-1)


# ---------------------------------------------------------------- T14: the floor of each evaluator


def test_true_root_depth_has_no_floor() -> None:
    pixels, rel, k, truth = scene()
    found = back_project(pixels, rel + truth[:, :1, 2], k)
    assert (found - truth).abs().max() < 1e-6


def test_the_released_evaluator_has_a_floor_of_3_mm() -> None:
    pixels, rel, _, truth = scene()
    assert 2.0 < mpjpe(hemlets_released(pixels, rel), truth) < 4.5


def test_the_released_evaluator_is_off_by_16_to_18_mm_for_a_taller_person() -> None:
    pixels, rel, _, truth = scene(scale=1.04)
    assert 14 < mpjpe(hemlets_released(pixels, rel), truth) < 22


def test_the_released_search_is_the_nested_loop_that_it_replaces() -> None:
    pixels, rel, _, _ = scene(count=8)

    def error(i: int, s: float) -> float:
        depth = rel[i] + 1150 * s
        xyz = torch.cat([(pixels[i] - 500) / 1150 * depth[:, None], depth[:, None]], 1)
        return float(sum(abs((xyz[c] - xyz[p]).norm() - mm) for p, c, mm in HEMLETS_RELEASED_BONES))

    found = hemlets_released(pixels, rel)
    for i in range(8):
        coarse = min((2.0 + 0.5 * n for n in range(13)), key=lambda s: error(i, s))
        best = min((coarse - 0.5 + 0.1 * n for n in range(10)), key=lambda s: error(i, s))
        assert found[i, 0, 2] == pytest.approx(1150 * best, abs=1e-6)


# ---------------------------------------------------------------- bone lengths


def test_bone_lengths_find_the_exact_root_depth() -> None:
    pixels, rel, k, truth = scene()
    found = root_depth_from_bones(pixels, rel, k, H36M17.bones, lengths_of(truth))
    assert (found - truth[:, 0, 2]).abs().max() < 1e-6
    single = root_depth_from_bones(pixels.float(), rel.float(), k.float(), H36M17.bones, lengths_of(truth).float())
    assert single.dtype == torch.float32
    assert (single - truth[:, 0, 2]).abs().max() < 1.0  # at 6 m; pixels rounded to float32


def test_a_taller_person_is_seen_nearer_in_proportion() -> None:
    pixels, rel, k, truth = scene(scale=1.04)
    mean = lengths_of(universal_poses(400)).mean(0)
    found = root_depth_from_bones(pixels, rel, k, H36M17.bones, mean)
    ratio = (found / truth[:, 0, 2]).mean()
    assert 0.94 < ratio < 0.97  # 4 % too short bones at the same pixels and relative depths


def test_it_minimises_what_it_says_even_with_noise() -> None:
    pixels, rel, k, _ = scene(count=60)
    g = torch.Generator().manual_seed(2)
    pixels = pixels + 4 * torch.randn(pixels.shape, generator=g)
    rel = rel + 40 * torch.randn(rel.shape, generator=g)
    wanted = lengths_of(universal_poses(1))[0]
    found = root_depth_from_bones(pixels, rel, k, H36M17.bones, wanted, iterations=20)
    grid = torch.arange(1500.0, 9000.0, 2.0, dtype=torch.float64)
    cost = torch.stack([_cost(pixels, rel, k, depth.expand(60), wanted) for depth in grid])
    nearest = grid[cost.argmin(0)]
    assert (found - nearest).abs().max() < 2.0
    assert (_cost(pixels, rel, k, found, wanted) <= cost.min(0).values + 1e-6).all()


def _cost(pixels: Tensor, rel: Tensor, k: Tensor, depth: Tensor, wanted: Tensor) -> Tensor:
    return (lengths_of(back_project(pixels, rel + depth[:, None], k)) - wanted).square().sum(-1)


def test_the_default_number_of_steps_is_enough() -> None:
    pixels, rel, k, _ = scene(count=200)
    g = torch.Generator().manual_seed(3)
    pixels = pixels + 4 * torch.randn(pixels.shape, generator=g)
    wanted = lengths_of(universal_poses(1))[0]
    few, many = (root_depth_from_bones(pixels, rel, k, H36M17.bones, wanted, iterations=n) for n in (8, 60))
    assert (few - many).abs().max() < 0.1


def test_masked_joints_and_unknown_bones_do_not_count() -> None:
    pixels, rel, k, truth = scene(count=20)
    wanted = lengths_of(truth)
    pixels[:, 3], rel[:, 16] = 1e4, torch.nan
    valid = torch.ones(20, 17, dtype=torch.bool)
    valid[:, [3, 16]] = False
    wanted[:, 8] = torch.nan
    found = root_depth_from_bones(pixels, rel, k, H36M17.bones, wanted, valid)
    assert (found - truth[:, 0, 2]).abs().max() < 1e-6


def test_without_any_bone_the_depth_is_unknown() -> None:
    pixels, rel, k, truth = scene(count=2)
    valid = torch.ones(2, 17, dtype=torch.bool)
    valid[1] = False
    found = root_depth_from_bones(pixels, rel, k, H36M17.bones, lengths_of(truth), valid)
    assert found[0].isfinite()
    assert found[1].isnan()


def test_a_collapsed_pose_gives_no_nan() -> None:
    pixels, rel, k, truth = scene(count=3)
    found = root_depth_from_bones(torch.full_like(pixels, 500), rel * 0, k, H36M17.bones, lengths_of(truth))
    assert found.tolist() == [1e6] * 3  # mm: as far as it goes


def test_autocast_changes_nothing() -> None:
    pixels, rel, k, truth = (tensor.float() for tensor in scene(count=5))
    wanted = lengths_of(truth)
    plain = root_depth_from_bones(pixels, rel, k, H36M17.bones, wanted)
    points, released = back_project(pixels, rel + 4000, k), hemlets_released(pixels, rel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(root_depth_from_bones(pixels, rel, k, H36M17.bones, wanted), plain)
        assert torch.equal(back_project(pixels, rel + 4000, k), points)
        assert torch.equal(hemlets_released(pixels, rel), released)


def test_intrinsics_may_turn_pixels(pose: Tensor) -> None:
    turn = torch.tensor([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    k = (torch.tensor([[900.0, 0, 130], [0, 950.0, 110], [0, 0, 1]], dtype=torch.float64) @ turn)[None]
    truth = (pose + torch.tensor([200.0, -100.0, 4200.0]))[None]
    pixels = truth @ k.mT
    pixels = pixels[..., :2] / pixels[..., 2:]
    rel = truth[..., 2] - 4200.0
    found = root_depth_from_bones(pixels, rel, k, H36M17.bones, lengths_of(truth))
    assert found[0] == pytest.approx(4200.0, abs=1e-6)
    torch.testing.assert_close(back_project(pixels, rel + found[:, None], k), truth, atol=1e-6, rtol=0)
