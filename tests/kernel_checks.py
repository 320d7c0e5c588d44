"""Runs the Triton kernels on the CPU, in Triton's interpreter, and prints what they compute as JSON.

A process of its own, started by tests/test_kernels.py: TRITON_INTERPRET must be set before Triton is imported.
"""

import itertools
import json
import os
from typing import Any

import torch
from torch import Tensor

from posezoo import heatmaps, kernels
from posezoo.data.synthetic import device
from posezoo.data.synthetic.device import prepare_frame
from posezoo.data.synthetic.raster import FIRST_PROP
from posezoo.heatmaps import Grid, soft_argmax
from posezoo.kernels import soft_argmax as triton
from posezoo.kernels.rasterise import rasterise_tiles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = ("packed", "interleaved", "strided")
SIZES = (2, 3, 7, 9, 11)  # no size of a volume is a power of two


def logits(layout: str, dtype: torch.dtype, offset: float = 0.0, sizes: tuple[int, ...] = SIZES) -> Tensor:
    """The same numbers in three layouts; "strided" leaves gaps, which no dense tensor has."""
    values = (offset + 3 * torch.randn(sizes, generator=torch.Generator().manual_seed(0))).to(dtype)
    if layout == "interleaved":
        return values.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    if layout == "strided":
        return torch.stack([values, values], -1)[..., 0]
    return values


def error(volumes: Tensor, grid: Grid) -> dict[str, Any]:
    """Against the plain formulation in float64: coordinates in voxels, the gradient relative to its largest entry."""
    exact = volumes.double().requires_grad_()
    expected = soft_argmax(exact, 3, grid, fused=False)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (wanted,) = torch.autograd.grad(expected, exact, grad.double())
    before = volumes.clone()
    found = triton.locate(volumes, grid)
    pulled = triton.pull(volumes, found, grad, grid, torch.empty_like(volumes))
    untouched = torch.equal(volumes, before)
    overwritten = triton.pull(volumes, found, grad, grid, volumes)
    return {
        "voxels": float((found.coords - expected).detach().abs().max()) * max(volumes.shape[-3:]),
        "gradient": float((pulled - wanted).abs().max() / wanted.abs().max()),
        "untouched": untouched,
        "overwrites": overwritten is volumes and torch.equal(volumes, pulled),
        "keeps_layout": pulled.stride() == torch.empty_like(before).stride(),
    }


def special_values() -> dict[str, Any]:
    """Deltas, empty maps, NaN and infinity, in blocks of their own or among others."""
    maps = torch.full((1, 5, 5, 6, 7), -torch.inf)
    maps[0, 0, 3, 2, 5] = 0
    maps[0, 2], maps[0, 3], maps[0, 4] = 0, 0, 20_000
    maps[0, 2, 4, 5, 6], maps[0, 3, 0, 0, 0], maps[0, 4, 1, 1, 1] = torch.nan, torch.inf, 20_100
    coords = triton.locate(maps, "corners").coords[0]
    return {"delta": coords[0].tolist(), "nan": coords[1:4].isnan().all(1).tolist(), "high": coords[4].tolist()}


def dispatch() -> dict[str, Any]:
    """`soft_argmax` with the CPU among the devices that have kernels."""
    kernels._DEVICES = ("cuda", "cpu")
    values = logits("interleaved", torch.float32)
    coords = soft_argmax(values.clone().requires_grad_(), 3, fused=True)
    os.environ[kernels.SWITCH] = "0"
    without = soft_argmax(values.clone().requires_grad_(), 3, fused=True)
    del os.environ[kernels.SWITCH]
    double = soft_argmax(values.double().requires_grad_(), 3, fused=True)
    return {
        "functions": [_functions(found) for found in (coords, without, double)],
        "flat": float((soft_argmax(values, 2, fused=True) - soft_argmax(values, 2, fused=False)).abs().max()),
    }


def _functions(coords: Tensor) -> list[str]:
    """Names of the operations that made a tensor, the last first."""
    names, step = [], coords.grad_fn
    while step is not None:
        names.append(step.name())
        step = step.next_functions[0][0] if step.next_functions else None
    return names


def rasteriser() -> dict[str, Any]:
    """Real people, in frames whose side is no multiple of a tile's, on top of what is there already."""
    frames = [prepare_frame(index, "test", size=24, preset="multi") for index in (0, 4)]
    cpu = torch.device("cpu")
    tables = device._padded([f.quadrics for f in frames], cpu), device._padded([f.boxes for f in frames], cpu)
    depths, ids = [], []
    for draw in (device.rasterise_plainly, rasterise_tiles):
        depths.append(torch.stack([torch.from_numpy(frame.room.depth.copy()) for frame in frames]))
        ids.append(torch.stack([torch.from_numpy(frame.room.ids.copy()) for frame in frames]))
        draw(*tables, depths[-1], ids[-1])
    seen = ids[0] >= 0
    return {
        "share": float((seen & (ids[0] < FIRST_PROP)).float().mean()),
        "same_ids": float((ids[0] == ids[1]).float().mean()),
        "millimetres": float((depths[0] - depths[1])[seen].abs().max()),
    }


def main() -> None:
    """Slabs small enough that a volume is several of them, the last one not full."""
    with_defaults = error(logits("interleaved", torch.bfloat16, 0.0, (1, 18, 7, 9, 11)), "cells")
    triton._SLAB, triton._LANES = 512, 128
    heatmaps._BLOCK_CELLS_CPU = 2 * 7 * 9 * 11
    cases: Any = {"18 volumes bfloat16": with_defaults}
    for layout, (name, dtype) in itertools.product(LAYOUTS, DTYPES.items()):
        grid: Grid = "corners" if name == "float32" else "cells"
        cases[f"{layout} {name}"] = error(logits(layout, dtype), grid)
    cases["far from zero float32"] = error(logits("packed", torch.float32, 20_000.0), "cells")
    cases["axis of one float32"] = error(logits("packed", torch.float32, 0.0, (1, 3, 1, 5, 1)), "corners")
    found = {"cases": cases, "special": special_values(), "dispatch": dispatch()}
    cpu = torch.device("cpu")
    found["deviations"] = {name: check(cpu) for name, check in kernels._DEVIATIONS.items()}
    print(json.dumps(found | {"rasteriser": rasteriser()}))


if __name__ == "__main__":
    main()
