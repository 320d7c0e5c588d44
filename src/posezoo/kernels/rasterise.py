"""The rasteriser of SyntheticPeople in Triton: one program for each tile of each frame.

A program keeps the depth and the id of its pixels in registers, walks through the quadrics of its frame in their order,
and passes over those whose box does not touch the tile. It computes what `posezoo.data.synthetic.device.rasterise`
does, from the same tables.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_TILE = 16  # px: 256 pixels in each program; a guess, unmeasured


def rasterise_tiles(
    quadrics: Float[Tensor, "frames quadrics 20"],
    boxes: Int[Tensor, "frames quadrics 7"],
    depth: Float[Tensor, "frames rows columns"],
    ids: Int[Tensor, "frames rows columns"],
) -> None:
    """Draw quadrics into packed depth (float32) and id (int16) buffers, nearest surface first."""
    if not (depth.is_contiguous() and ids.is_contiguous()):
        raise ValueError("rasterise_tiles draws into packed buffers.")
    frames, rows, columns = depth.shape
    tiles_across = triton.cdiv(columns, _TILE)
    with torch.cuda.device_of(depth):
        _draw_tile[(tiles_across * triton.cdiv(rows, _TILE), frames)](
            quadrics.contiguous(), boxes.contiguous(), depth, ids, quadrics.shape[1], rows, columns, tiles_across,
            TILE=_TILE,
        )  # fmt: skip


@triton.jit
def _quadratic(at, u, v):  # type: ignore[no-untyped-def]
    across = tl.load(at) + tl.load(at + 1) * u + tl.load(at + 2) * (u * u)
    return across + v * (tl.load(at + 3) + tl.load(at + 4) * u) + (v * v) * tl.load(at + 5)


@triton.jit
def _linear(at, u, v):  # type: ignore[no-untyped-def]
    return (tl.load(at) + tl.load(at + 1) * u) + v * tl.load(at + 2)


@triton.jit  # type: ignore[untyped-decorator]
def _draw_tile(  # type: ignore[no-untyped-def]
    quadrics, boxes, depth, ids, count, rows, columns, tiles_across, TILE: tl.constexpr
):
    tile, frame = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first_row, first_column = tile // tiles_across * TILE, tile % tiles_across * TILE
    row, column = first_row + tl.arange(0, TILE)[:, None], first_column + tl.arange(0, TILE)[None, :]
    exists = (row < rows) & (column < columns)
    place = frame * rows * columns + row * columns + column
    nearest = tl.load(depth + place, mask=exists, other=0.0)
    name = tl.load(ids + place, mask=exists, other=0)
    for number in range(count):
        box = boxes + (frame * count + number) * 7
        left, top, right, bottom = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
        if (left < first_column + TILE) & (right > first_column) & (top < first_row + TILE) & (bottom > first_row):
            c = quadrics + (frame * count + number) * 20
            u = (column - tl.load(box + 4)).to(tl.float32)
            v = (row - tl.load(box + 5)).to(tl.float32)
            root = _quadratic(c, u, v)
            # Rounded as everywhere else; the default would be the GPU's fast approximations.
            z = tl.div_rn(tl.sqrt_rn(tl.maximum(root, 0.0)) + _linear(c + 12, u, v), _quadratic(c + 6, u, v))
            height = _linear(c + 15, u, v) * z + tl.load(c + 18)
            inside = (column >= left) & (column < right) & (row >= top) & (row < bottom) & (root >= 0)
            nearer = (z < nearest) & (tl.abs(height) < tl.load(c + 19)) & inside
            nearest = tl.where(nearer, z, nearest)
            name = tl.where(nearer, tl.load(box + 6).to(tl.int16), name)
    tl.store(depth + place, nearest, mask=exists)
    tl.store(ids + place, name, mask=exists)
