"""Targets of a batch for HEMlets: map by map in NumPy, as loader workers do it, beside `hemlets.targets.encode`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cases import OURS, REFERENCE, Bench, Case, register
from posezoo.models.hemlets.targets import encode, find_parts
from posezoo.skeletons import get_skeleton

Array = NDArray[np.float32]

SIDE, SIGMA = 64, 2.0


def bump(centre: Array, dtype: type = np.float32) -> Array:
    """One Gaussian over the whole map."""
    axis = np.arange(SIDE, dtype=dtype)
    x, y = np.meshgrid(axis, axis)
    return np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * SIGMA**2))


def draw(cells: Array, order: NDArray[np.int8], pairs: tuple[tuple[int, int], ...], dtype: type = np.float32) -> Array:
    """[J + 3 K, h, w] of one sample: joint by joint, part by part."""
    maps = np.zeros((len(cells) + 3 * len(pairs), SIDE, SIDE), dtype)
    for joint, centre in enumerate(cells):
        maps[joint] = bump(centre, dtype)
    for part, (parent, child) in enumerate(pairs):
        first = len(cells) + 3 * part
        maps[first + 1] = bump(cells[parent], dtype)
        at = first + 1 + int(order[part])
        maps[at] = np.maximum(maps[at], bump(cells[child], dtype))
    return maps


def make(batch: int, quick: bool) -> Bench:
    batch = 2 if quick else batch
    skeleton = get_skeleton("hemlets18")
    parts = find_parts(skeleton)
    g = torch.Generator().manual_seed(0)
    cells = 4 + 56 * torch.rand(batch, len(skeleton), 2, generator=g)
    order = torch.randint(-1, 2, (batch, len(parts)), generator=g, dtype=torch.int8)
    seen, known = torch.ones(batch, len(skeleton), dtype=torch.bool), torch.ones(batch, len(parts), dtype=torch.bool)

    def loop(dtype: type = np.float32) -> Tensor:
        rows = zip(cells.numpy().astype(dtype), order.numpy(), strict=True)
        return torch.stack([torch.from_numpy(draw(centres, signs, parts.pairs, dtype)) for centres, signs in rows])

    def ours() -> tuple[Tensor, Tensor]:
        targets = encode(cells, seen, order, known, parts, (SIDE, SIDE), SIGMA)
        return targets.joints, targets.parts

    def errors() -> dict[str, float]:
        exact = loop(np.float64)
        joints, triplets = ours()
        found = {REFERENCE: loop(), OURS: torch.cat([joints, triplets.flatten(1, 2)], 1)}
        return {name: float((maps.double() - exact).abs().max()) for name, maps in found.items()}

    return Bench({REFERENCE: loop, OURS: ours}, errors, {REFERENCE: 1e-5, OURS: 1e-5}, items=batch)


register(Case("triplets/batch-32", make, {"batch": 32}))
