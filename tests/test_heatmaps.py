"""Soft-argmax and its relatives: by hand, against the golden file, and fused against plain."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from torch import Tensor

from posezoo import heatmaps
from posezoo.heatmaps import gaussian_targets, heatmap_confidence, marginals, soft_argmax

GRIDS = ("corners", "cells")


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute_force(maps: Tensor, ndim: int, grid: str) -> Tensor:
    """Straight from the definition, in float64."""
    maps = maps.double()
    weights = maps.flatten(-ndim).softmax(-1).view(maps.shape)
    coords = []
    for axis in range(-1, -ndim - 1, -1):
        n = maps.shape[axis]
        place = torch.arange(n, dtype=torch.float64)
        place = (place + 0.5) / n if grid == "cells" else place / (n - 1) if n > 1 else place + 0.5
        coords.append((weights * place.view(-1, *(1,) * (-1 - axis))).sum(tuple(range(-ndim, 0))))
    return torch.stack(coords, -1)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two small volumes, so that tests cross block borders."""
    monkeypatch.setattr(heatmaps, "_BLOCK_CELLS_CPU", 2 * 4 * 5 * 6)


@pytest.mark.shared_data
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("key", "expected", "ndim"),
    [("logits3d", "softargmax3d_xyz01", 3), ("logits2d", "softargmax2d_xy01", 2)],
)
def test_golden(key: str, expected: str, ndim: int, fused: bool, golden: Any) -> None:
    data = golden("camera")
    found = soft_argmax(torch.from_numpy(data[f"head.{key}"]), ndim, fused=fused)
    torch.testing.assert_close(found, torch.from_numpy(data[f"head.exp.{expected}.metrabs"]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_decoding_by_hand(fused: bool) -> None:
    """MeTRAbs dossier T1, in 0..1: uniform, a delta, a 1:3 mixture and a corner."""
    maps = torch.full((4, 8, 8, 8), -torch.inf, dtype=torch.float64)
    maps[0] = 0
    maps[1, 3, 2, 5] = 0
    maps[2, 0, 3, 2], maps[2, 0, 3, 3] = 0, torch.tensor(3.0).log()
    maps[3] = 0
    maps[3, 0, 0, 0] = 10

    found = soft_argmax(maps, 3, fused=fused)

    expected = torch.tensor([[0.5, 0.5, 0.5], [5 / 7, 2 / 7, 3 / 7], [2.75 / 7, 3 / 7, 0]])
    torch.testing.assert_close(found[:3], expected.double(), atol=1e-7, rtol=0)
    assert found[3, 2].item() * 2200 == pytest.approx(24.989, abs=1e-3)
    cells = soft_argmax(maps[1], 3, grid="cells", fused=fused)
    torch.testing.assert_close(cells, torch.tensor([5.5, 2.5, 3.5]).double() / 8)


@pytest.mark.parametrize("fused", [True, False])
def test_an_axis_of_one_cell_lies_in_the_middle(fused: bool) -> None:
    for grid in GRIDS:
        assert (soft_argmax(torch.zeros(2, 1, 1), 2, grid, fused) == 0.5).all()


@pytest.mark.usefixtures("small_blocks")
@given(
    st.integers(1, 3),
    st.lists(st.integers(0, 3), max_size=2),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
    st.sampled_from(GRIDS),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_both_formulations_equal_the_definition(
    ndim: int, batch: list[int], sizes: list[int], grid: Any, fused: bool
) -> None:
    maps = logits(*batch, *sizes[:ndim])
    found = soft_argmax(maps, ndim, grid, fused)
    assert found.shape == (*batch, ndim)
    torch.testing.assert_close(found, brute_force(maps, ndim, grid))


@given(st.integers(0, 1000), st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_adding_a_constant_or_flipping_an_axis(seed: int, constant: float) -> None:
    maps = logits(2, 4, 5, 6, seed=seed)
    coords = soft_argmax(maps, 3)
    torch.testing.assert_close(soft_argmax(maps + constant, 3), coords)
    flipped = soft_argmax(maps.flip(-1), 3)
    torch.testing.assert_close(flipped, coords * torch.tensor([-1, 1, 1]) + torch.tensor([1, 0, 0]))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (5, 4, 6), (7,)])
def test_fused_gradient(shape: tuple[int, ...], grid: Any) -> None:
    ndim = {5: 3, 3: 2, 1: 1}[len(shape)]
    maps = logits(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_argmax(x, ndim, grid, fused=True), maps)
    pull = logits(*shape[:-ndim], ndim, seed=1)
    fused, plain = (
        torch.autograd.grad((soft_argmax(maps, ndim, grid, fused=fused) * pull).sum(), maps)[0]
        for fused in (True, False)
    )
    torch.testing.assert_close(fused, plain)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("interleaved", [False, True])
def test_more_threads_work_on_larger_blocks_and_give_the_same(interleaved: bool) -> None:
    maps = torch.randn(2, 7, 4, 5, 6, dtype=torch.float64)
    maps = maps.flatten(1, 2).to(memory_format=torch.channels_last).unflatten(1, (7, 4)) if interleaved else maps
    found, threads = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            assert heatmaps.block_maps(4 * 5 * 6, maps.device) == 2 * count
            leaf = maps.clone().requires_grad_()
            coords = soft_argmax(leaf, 3, fused=True)
            found.append((coords.detach(), *torch.autograd.grad(coords.square().sum(), leaf)))
        finally:
            torch.set_num_threads(threads)
    torch.testing.assert_close(found[1], found[0], atol=1e-12, rtol=1e-12)


def test_plain_differentiates_twice_and_fused_says_that_it_cannot() -> None:
    maps = logits(2, 3, 3, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: soft_argmax(x, 3, fused=False), maps)
    (first,) = torch.autograd.grad(soft_argmax(maps, 3, fused=True).square().sum(), maps, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_channels_last_views(dtype: torch.dtype) -> None:
    """The volumes of a [B, J*D, H, W] channels-last head, in both channel orders, and a slice of it."""
    head = logits(2, 3 * 4, 5, 6).to(dtype).to(memory_format=torch.channels_last)
    views = {
        "joint slow": head.view(2, 3, 4, 5, 6),
        "depth slow": head.view(2, 4, 3, 5, 6).transpose(1, 2),
        "slice": head.view(2, 3, 4, 5, 6)[:, 1:],
        "last axis": head.view(2, 3, 4, 5, 6).transpose(-1, -2),
    }
    for name, view in views.items():
        leaf = view.detach().requires_grad_()
        assert leaf.stride() == view.stride(), name
        found = soft_argmax(leaf, 3, fused=True)
        packed = view.detach().contiguous().requires_grad_()
        expected = soft_argmax(packed, 3, fused=False)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6, msg=name)
        pull = logits(*found.shape, seed=2).to(found.dtype)
        found.backward(pull)
        expected.backward(pull)
        assert leaf.grad is not None
        assert packed.grad is not None
        torch.testing.assert_close(leaf.grad.contiguous(), packed.grad, atol=1e-3, rtol=1e-2, msg=name)
    flat = head[:, :3]
    torch.testing.assert_close(soft_argmax(flat, 2, fused=True), soft_argmax(flat.contiguous(), 2))


def test_backward_needs_the_gradient_and_no_second_volume(tmp_path: Path) -> None:
    """At most 5 % of the volume beyond the logits and their gradient, at any time; 18 joints of 64^3 cells."""
    maps = torch.zeros(4, 18, 64, 64, 64, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        soft_argmax(maps, 3).sum().backward()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    allocated = list(itertools.accumulate(event["args"]["Bytes"] for event in changes))
    size = maps.untyped_storage().nbytes()
    assert max(allocated) >= size  # the gradient itself: allocations were seen
    assert max(allocated) <= 1.05 * size


def test_channels_last_gradient_keeps_the_layout() -> None:
    head = logits(2, 12, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    soft_argmax(head.view(2, 3, 4, 5, 6), 3, fused=True).sum().backward()
    assert head.grad is not None
    assert head.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_cost_no_accuracy(dtype: torch.dtype, fused: bool) -> None:
    size = 64
    maps = logits(2, 2, size, size, size).to(dtype).requires_grad_()
    exact = brute_force(maps.detach(), 3, "corners")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = soft_argmax(maps, 3, fused=fused)

    assert found.dtype == torch.float32
    assert (found - exact).abs().max() * (size - 1) < 1e-4  # cells
    found.sum().backward()
    assert maps.grad is not None
    assert maps.grad.dtype == dtype
    plain = soft_argmax(maps, 3, fused=False)
    (gradient,) = torch.autograd.grad(plain.sum(), maps)
    torch.testing.assert_close(maps.grad, gradient, atol=1e-6, rtol=2e-2)


def test_functorch_and_forward_mode() -> None:
    maps, tangent = logits(3, 4, 4, 4), logits(3, 4, 4, 4, seed=1)
    expected = soft_argmax(maps, 3)

    mapped = torch.func.vmap(lambda x: soft_argmax(x, 3, fused=False))(maps)
    _, slope = torch.func.jvp(lambda x: soft_argmax(x, 3, fused=False), (maps,), (tangent,))

    torch.testing.assert_close(mapped, expected)
    step = 1e-6
    difference = (soft_argmax(maps + step * tangent, 3) - soft_argmax(maps - step * tangent, 3)) / (2 * step)
    torch.testing.assert_close(slope, difference, atol=1e-6, rtol=1e-5)
    torch.func.jacrev(lambda x: soft_argmax(x, 3, fused=False))(maps)


def test_choice_of_the_formulation(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bool] = []
    fused = heatmaps._fused_soft_argmax
    monkeypatch.setattr(heatmaps, "_fused_soft_argmax", lambda *args: used.append(True) or fused(*args))

    def takes_fused(call: Any) -> bool:
        used.clear()
        call()
        return bool(used)

    small, many_small = torch.zeros(2, 17, 8, 8, 8), torch.zeros(2100, 8, 8, 8)
    large = torch.zeros(4, 64, 64, 64)
    assert takes_fused(lambda: soft_argmax(large, 3))
    assert takes_fused(lambda: soft_argmax(small, 3, fused=True))
    assert not takes_fused(lambda: soft_argmax(small, 3))
    assert not takes_fused(lambda: soft_argmax(many_small, 3))
    assert not takes_fused(lambda: torch.func.vmap(lambda x: soft_argmax(x, 3))(large))
    assert not takes_fused(lambda: torch.func.jvp(lambda x: soft_argmax(x, 3), (large,), (large,)))
    assert not takes_fused(lambda: torch.jit.trace(lambda x: soft_argmax(x, 3), large, check_trace=False))

    def dual() -> None:
        with torch.autograd.forward_ad.dual_level():
            soft_argmax(torch.autograd.forward_ad.make_dual(large, large), 3)

    assert not takes_fused(dual)


def test_compile() -> None:
    maps = logits(4, 64, 64, 64, dtype=torch.float32)  # large: eager mode takes the fused formulation
    compiled = torch.compile(soft_argmax, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(maps, 3), soft_argmax(maps, 3))


def test_export() -> None:
    class Head(torch.nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return soft_argmax(maps, 3)

    maps = logits(2, 3, 32, 32, 32, dtype=torch.float32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Head(), (maps,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(maps[:1].repeat(5, 1, 1, 1, 1)), Head()(maps[:1]).repeat(5, 1, 1))


def test_inputs_are_left_alone_and_backward_can_be_repeated() -> None:
    maps = logits(2, 2, 8, 8, 8).requires_grad_()
    before = maps.detach().clone()
    loss = soft_argmax(maps * 1, 3, fused=True).square().sum() + soft_argmax(maps, 3, fused=True).sum()

    (first,) = torch.autograd.grad(loss, maps, retain_graph=True)
    (second,) = torch.autograd.grad(loss, maps)

    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert torch.equal(maps, before)


def test_partly_masked_maps_are_finite_and_wholly_masked_ones_are_nan() -> None:
    maps = torch.full((2, 4, 4), -torch.inf, requires_grad=True)
    with torch.no_grad():
        maps[0, 1, 2] = 5.0
    for fused in (True, False):
        found = soft_argmax(maps, 2, fused=fused)
        torch.testing.assert_close(found[0], torch.tensor([2 / 3, 1 / 3]))
        assert found[1].isnan().all()
        assert torch.autograd.grad(found[0].sum(), maps)[0][0].isfinite().all()


def test_marginals() -> None:
    maps = logits(2, 3, 4, 5, 6)
    probability = maps.flatten(-3).softmax(-1).view(maps.shape)
    x, y, z = marginals(maps, 3)
    torch.testing.assert_close(x, probability.sum((-3, -2)))
    torch.testing.assert_close(y, probability.sum((-3, -1)))
    torch.testing.assert_close(z, probability.sum((-2, -1)))
    assert marginals(maps.bfloat16(), 1)[0].dtype == torch.float32


def test_gaussian_targets() -> None:
    coords = torch.tensor([[2.0, 1.0], [2.5, 1.0], [torch.nan, 1.0], [-1.0, 0.0]], requires_grad=True)
    valid = torch.tensor([True, True, False, True])

    maps = gaussian_targets(coords, (4, 6), 1.5, valid)

    assert maps.shape == (4, 4, 6)
    assert maps[0, 1, 2] == 1.0
    assert maps[1, 1, 2] == maps[1, 1, 3] < 1.0
    assert maps[0, 2, 4].item() == pytest.approx(torch.exp(torch.tensor(-(4 + 1) / (2 * 1.5**2))).item())
    assert (maps[2] == 0).all()
    assert maps[3].argmax() == 0
    maps.sum().backward()
    assert coords.grad is not None
    assert coords.grad.isfinite().all()
    with pytest.raises(ValueError, match="positive sigma"):
        gaussian_targets(coords, (4, 6), 0.0)


def test_a_sharp_target_decodes_to_its_centre() -> None:
    coords = torch.tensor([[10.25, 7.75]])
    log_target = gaussian_targets(coords, (24, 32), 2.0).log()
    found = soft_argmax(log_target, 2) * torch.tensor([31, 23])
    torch.testing.assert_close(found, coords, atol=1e-3, rtol=0)


def test_confidence() -> None:
    delta = torch.full((8, 8, 8), -100.0)
    delta[0, 3, 7] = 0.0
    uniform = torch.zeros(8, 8, 8)
    inside = uniform.clone()
    inside[4, 4, 4] = 1e-6

    found = heatmap_confidence(torch.stack([delta, uniform, inside]), 3)

    torch.testing.assert_close(found, torch.tensor([1.0, 8 / 512, 27 / 512]), atol=1e-6, rtol=1e-5)
    assert heatmap_confidence(torch.zeros(2, 1, 2), 2).tolist() == [1.0, 1.0]


@given(st.integers(0, 1000), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_confidence_by_brute_force(seed: int, ndim: int) -> None:
    maps = logits(*(4, 5, 6)[:ndim], seed=seed)
    probability = maps.flatten().softmax(0).view(maps.shape)
    mode = torch.stack(torch.unravel_index(maps.argmax(), maps.shape))
    cells = torch.stack(torch.meshgrid(*map(torch.arange, maps.shape), indexing="ij"), -1)
    near = ((cells - mode).abs() <= 1).all(-1)
    torch.testing.assert_close(heatmap_confidence(maps, ndim), probability[near].sum())


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="floating-point maps"):
        soft_argmax(torch.zeros(3, 3), 3)
    with pytest.raises(ValueError, match=r"torch\.int64"):
        soft_argmax(torch.zeros(3, 3, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="grid must be 'corners' or 'cells', got 'edges'"):
        soft_argmax(torch.zeros(3, 3), 2, grid="edges")  # type: ignore[arg-type]


def test_signatures_hold() -> None:
    maps = torch.zeros(2, 3, 4, 5, 6)
    for name in ("soft_argmax", "marginals", "heatmap_confidence"):
        jaxtyped(typechecker=beartype)(getattr(heatmaps, name))(maps, 3)
    jaxtyped(typechecker=beartype)(gaussian_targets)(torch.zeros(2, 3, 2), (4, 5), 1.0)
