"""Soft-argmax of volumes in Triton: the logits are read once forwards, and read and written once backwards.

Every program reads a slab of one volume and keeps the maximum, the total and the three first moments of its softmax,
per lane and rescaled as the maximum grows (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
What the slabs found is a few numbers each, merged by plain operations. Lanes follow the memory: columns where volumes
are packed, depth bins where they are interleaved (channels last), and nothing is copied. No atomics: equal inputs give
equal bits.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from posezoo.heatmaps import Grid

# Cells of a program, and how many it works on at once: 8 programs for a volume of 64^3, so that a batch of 8 x 18
# fills the GPU; 8 cells in each of 128 threads, with five sums for each. Both are guesses, unmeasured.
_SLAB, _LANES = 1 << 15, 1 << 10


@dataclass
class Found:
    """The soft-argmax of volumes, and what its gradient needs.

    Attributes:
        coords: [N, K, 3] x, y, z, each 0..1.
        cells: [N K, 5] per volume: largest logit, sum of exp(logit - largest), x, y, z in cells; float32.
    """

    coords: Float[Tensor, "samples maps 3"]
    cells: Float[Tensor, "volumes 5"]


def locate(volumes: Float[Tensor, "samples maps depth rows columns"], grid: Grid) -> Found:
    """Soft-argmax of volumes [N, K, D, H, W] with any strides, float32, bfloat16 or float16; no gradient."""
    samples, maps, *sizes = volumes.shape
    slabs = triton.cdiv(volumes[0, 0].numel(), _SLAB)
    partial = torch.empty((samples * maps, slabs, 5), dtype=torch.float32, device=volumes.device)
    with torch.cuda.device_of(volumes):
        _locate_slab[(samples * maps, slabs)](
            volumes, partial, *sizes, maps, slabs, *volumes.stride(),
            INTERLEAVED=_is_interleaved(volumes), SLAB=_SLAB, LANES=_LANES,
        )  # fmt: skip
    peak = partial[..., 0].amax(1)
    share = torch.exp(partial[..., 0] - peak[:, None])
    sums = (partial[..., 1:] * share[..., None]).sum(1)
    cells = torch.cat([peak[:, None], sums[:, :1], sums[:, 1:] / sums[:, :1]], 1)
    scale, shift = _units(sizes, grid)
    coords = torch.stack([cells[:, 2 + axis] * scale[axis] + shift[axis] for axis in range(3)], 1)
    return Found(coords.view(samples, maps, 3), cells)


def pull(
    volumes: Float[Tensor, "samples maps depth rows columns"],
    found: Found,
    grad: Float[Tensor, "samples maps 3"],
    grid: Grid,
    out: Float[Tensor, "samples maps depth rows columns"],
) -> Float[Tensor, "samples maps depth rows columns"]:
    """Gradient for the logits, written to `out`: softmax(v) (gx (x - cx) + gy (y - cy) + gz (z - cz)).

    Args:
        volumes: What `locate` read.
        found: What it found there.
        grad: Gradient of its coordinates.
        grid: As given to it.
        out: Of the shape of `volumes`, any strides. It may be `volumes`, where nothing else holds the logits.
    """
    samples, maps, *sizes = volumes.shape
    slabs = triton.cdiv(volumes[0, 0].numel(), _SLAB)
    scale, _ = _units(sizes, grid)
    slopes = torch.stack([grad[..., axis].flatten() * scale[axis] for axis in range(3)], 1) / found.cells[:, 1:2]
    table = torch.cat([found.cells, slopes], 1).float().contiguous()
    with torch.cuda.device_of(volumes):
        _pull_slab[(samples * maps, slabs)](
            volumes, out, table, *sizes, maps, *volumes.stride(), *out.stride(),
            INTERLEAVED=_is_interleaved(volumes), SLAB=_SLAB, LANES=_LANES,
        )  # fmt: skip
    return out


class TritonSoftArgmax(torch.autograd.Function):
    """Soft-argmax of volumes [N, K, D, H, W] -> [N, K, 3]; keeps the logits and eight numbers per volume."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, grid: Grid) -> Tensor:
        """One pass over the logits."""
        found = locate(logits, grid)
        ctx.save_for_backward(logits, found.coords, found.cells)
        ctx.grid = grid
        return found.coords

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """One more, which writes the gradient."""
        logits, coords, cells = ctx.saved_tensors
        # Not into the logits: they belong to the caller.
        return pull(logits, Found(coords, cells), grads[0], ctx.grid, torch.empty_like(logits)), None


def _units(sizes: list[int], grid: Grid) -> tuple[list[float], list[float]]:
    """Scale and shift of x, y, z from cells to 0..1; the only cell of an axis lies at 0.5."""
    scale, shift = [], []
    for cells in reversed(sizes):
        corners = grid == "corners" and cells > 1
        scale.append(1 / (cells - 1) if corners else 1 / cells)
        shift.append(0.0 if corners else 0.5 / cells)
    return scale, shift


def _is_interleaved(volumes: Tensor) -> bool:
    """Whether neighbours in memory are depth bins rather than columns."""
    return volumes.stride(2) < volumes.stride(4)


@triton.jit  # type: ignore[untyped-decorator]
def _place(cell, depth, rows, columns, INTERLEAVED: tl.constexpr):  # type: ignore[no-untyped-def]
    """x, y, z of numbered cells, counted along the memory."""
    if INTERLEAVED:
        z, x, y = cell % depth, cell // depth % columns, cell // depth // columns
    else:
        x, y, z = cell % columns, cell // columns % rows, cell // columns // rows
    return x, y, z


@triton.jit  # type: ignore[untyped-decorator]
def _locate_slab(  # type: ignore[no-untyped-def]
    logits, partial, depth, rows, columns, maps, slabs, step_n, step_k, step_z, step_y, step_x,
    INTERLEAVED: tl.constexpr, SLAB: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    volume, slab = tl.program_id(0).to(tl.int64), tl.program_id(1)
    source = logits + volume // maps * step_n + volume % maps * step_k
    cells = depth * rows * columns
    peak = tl.full((LANES,), float("-inf"), tl.float32)
    total, sum_x = tl.zeros((LANES,), tl.float32), tl.zeros((LANES,), tl.float32)
    sum_y, sum_z = tl.zeros((LANES,), tl.float32), tl.zeros((LANES,), tl.float32)
    for start in range(slab * SLAB, min((slab + 1) * SLAB, cells), LANES):
        cell = start + tl.arange(0, LANES)
        x, y, z = _place(cell, depth, rows, columns, INTERLEAVED)
        place = z.to(tl.int64) * step_z + y.to(tl.int64) * step_y + x.to(tl.int64) * step_x
        value = tl.load(source + place, mask=cell < cells, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(peak, value)
        level = tl.where(higher == float("-inf"), 0.0, higher)  # -inf - -inf would be NaN
        shrink, weight = tl.exp(peak - level), tl.exp(value - level)
        total = total * shrink + weight
        sum_x = sum_x * shrink + weight * x
        sum_y = sum_y * shrink + weight * y
        sum_z = sum_z * shrink + weight * z
        peak = higher
    highest = tl.max(peak, 0)
    share = tl.exp(peak - tl.where(highest == float("-inf"), 0.0, highest))
    result = partial + (volume * slabs + slab) * 5
    tl.store(result, highest)
    tl.store(result + 1, tl.sum(total * share, 0))
    tl.store(result + 2, tl.sum(sum_x * share, 0))
    tl.store(result + 3, tl.sum(sum_y * share, 0))
    tl.store(result + 4, tl.sum(sum_z * share, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _pull_slab(  # type: ignore[no-untyped-def]
    logits, gradient, table, depth, rows, columns, maps,
    step_n, step_k, step_z, step_y, step_x, out_n, out_k, out_z, out_y, out_x,
    INTERLEAVED: tl.constexpr, SLAB: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    volume, slab = tl.program_id(0).to(tl.int64), tl.program_id(1)
    source = logits + volume // maps * step_n + volume % maps * step_k
    target = gradient + volume // maps * out_n + volume % maps * out_k
    cells = depth * rows * columns
    row = table + volume * 8
    peak = tl.load(row)
    centre_x, centre_y, centre_z = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    slope_x, slope_y, slope_z = tl.load(row + 5), tl.load(row + 6), tl.load(row + 7)
    for start in range(slab * SLAB, min((slab + 1) * SLAB, cells), LANES):
        cell = start + tl.arange(0, LANES)
        x, y, z = _place(cell, depth, rows, columns, INTERLEAVED)
        z_step, y_step, x_step = z.to(tl.int64), y.to(tl.int64), x.to(tl.int64)
        place = z_step * step_z + y_step * step_y + x_step * step_x
        value = tl.load(source + place, mask=cell < cells, other=float("-inf")).to(tl.float32)
        lever = slope_x * (x - centre_x) + slope_y * (y - centre_y) + slope_z * (z - centre_z)
        # Equal places where source and target are one: each cell is read before it is written.
        where = target + z_step * out_z + y_step * out_y + x_step * out_x
        tl.store(where, (tl.exp(value - peak) * lever).to(gradient.dtype.element_ty), mask=cell < cells)
