"""Heat-map maths, once: soft-argmax, marginals, Gaussian targets, confidence.

A heat map is logits [..., (depth,) height, width]. Coordinates come in the order x, y(, z), the *reverse* of
the axes. Everything is computed in float32 at least, whatever the dtype of the logits and whether autocast is
on: a soft-argmax in bfloat16 is 0.02 cells off. Nothing here multiplies matrices, so TF32 does not matter.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from posezoo import kernels

Grid = Literal["corners", "cells"]

# Cells in one block of the fused soft-argmax. On a CPU a block and its float32 scratch should stay in the
# second-level cache (2^18 cells are one 64^3 volume, 1 MB); a GPU wants few, large kernels (64 MB; a guess).
_BLOCK_CELLS_CPU, _BLOCK_CELLS_ELSEWHERE = 1 << 18, 1 << 24

# With smaller maps, or fewer of them, the plain formulation's fewer operations win over fewer bytes.
_FUSED_MAP_CELLS, _FUSED_CELLS = 1 << 15, 1 << 20


def soft_argmax(
    logits: Float[Tensor, "*batch"],
    ndim: int,
    grid: Grid = "corners",
    fused: bool | None = None,
) -> Float[Tensor, "*points ndim"]:
    """Expected position under a softmax over the last `ndim` axes, 0..1 along each axis.

    Sun et al., "Integral Human Pose Regression" (ECCV 2018), equation 2.

    Args:
        logits: [..., (depth,) height, width], any float dtype and memory layout. A map that is -inf
            everywhere, or holds NaN or +inf, gives NaN.
        ndim: 1, 2 or 3 trailing axes make one map.
        grid: "corners" puts the first cell at 0 and the last at 1 (the only cell of an axis at 0.5), as
            MeTRAbs; "cells" puts cell i of n at (i + 0.5) / n.
        fused: True keeps no volume but the logits for the backward pass and works in blocks that fit the
            cache; it can be differentiated once, and not under functorch. False is the plain formulation,
            which double backward, functorch and export need. None takes the fused one for large volumes,
            unless functorch, forward-mode differentiation, compilation, tracing or export is going on.

    Returns:
        [..., ndim] in the order x, y(, z); float32, or float64 for float64 logits.

    Raises:
        ValueError: Not a floating-point tensor of at least `ndim` axes, or an unknown grid.
    """
    _check(logits, ndim)
    if grid not in ("corners", "cells"):
        raise ValueError(f"grid must be 'corners' or 'cells', got '{grid}'.")
    cells = logits.shape[-ndim:].numel()
    if prefers_fused(logits, cells, logits.numel() // max(cells, 1)) if fused is None else fused:
        return _fused_soft_argmax(logits, ndim, grid)
    return torch.stack([_centre(marginal, grid) for marginal in marginals(logits, ndim)], -1)


def marginals(logits: Float[Tensor, "*batch"], ndim: int) -> tuple[Float[Tensor, "*points cells"], ...]:
    """Probability along each axis of a softmax over the last `ndim` axes: one [..., n] for x, y(, z).

    Args:
        logits: [..., (depth,) height, width].
        ndim: 1, 2 or 3 trailing axes make one map.

    Raises:
        ValueError: Not a floating-point tensor of at least `ndim` axes.
    """
    _check(logits, ndim)
    cells = logits.flatten(-ndim).softmax(-1, dtype=_accumulator(logits))
    return _marginals(cells.reshape(logits.shape), ndim)


def gaussian_targets(
    coords: Float[Tensor, "*batch 2"],
    size: tuple[int, int],
    sigma: float,
    valid: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch height width"]:
    """Gaussian bumps of height 1 (not normalised) around sub-pixel centres, to regress heat maps to.

    Args:
        coords: (x, y) in heat-map cells; integer = cell centre. Centres outside the map leave their tail.
        size: (height, width) of the map.
        sigma: Standard deviation in cells.
        valid: Which points to draw; the others, NaN included, give zeros. All of them when None.

    Raises:
        ValueError: `coords` is not [..., 2] or sigma is not positive.
    """
    if coords.shape[-1:] != (2,) or sigma <= 0:
        raise ValueError(f"Expected points [..., 2] and a positive sigma, got {tuple(coords.shape)} and {sigma}.")
    if valid is not None:
        coords = coords.where(valid[..., None], 0)
    column, row = (
        torch.exp((torch.arange(n, device=coords.device) - coords[..., axis, None]).square() / (-2 * sigma**2))
        for n, axis in ((size[0], 1), (size[1], 0))
    )
    if valid is not None:
        column = column.where(valid[..., None], 0)
    return column[..., :, None] * row[..., None, :]  # separable: one pass over the map


def heatmap_confidence(logits: Float[Tensor, "*batch"], ndim: int) -> Float[Tensor, "*points"]:
    """How much of a heat map agrees with its mode: the probability within one cell of it, 0..1.

    The softmax mass of the (up to) 3^ndim cells whose index differs from the mode's by at most one along
    every axis; the first of equal modes counts. A point mass gives 1, a uniform map of n cells 3^ndim / n or
    less. This is posezoo's extension; none of the papers defines a confidence.

    Args:
        logits: [..., (depth,) height, width].
        ndim: 1, 2 or 3 trailing axes make one map.

    Raises:
        ValueError: Not a floating-point tensor of at least `ndim` axes.
    """
    _check(logits, ndim)
    flat = logits.flatten(-ndim)
    log_total = flat.to(_accumulator(logits)).logsumexp(-1, keepdim=True)
    index, inside = _neighbourhood(flat.argmax(-1, keepdim=True), logits.shape[-ndim:])
    near = flat.gather(-1, index).to(log_total.dtype) - log_total
    return near.exp().where(inside, 0).sum(-1).clamp(max=1)


def _check(logits: Tensor, ndim: int) -> None:
    if ndim not in (1, 2, 3) or logits.ndim < ndim or not logits.is_floating_point():
        raise ValueError(
            f"Expected floating-point maps over the last ndim = 1, 2 or 3 axes, "
            f"got ndim = {ndim} and {logits.dtype} {tuple(logits.shape)}."
        )


def _accumulator(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _axis(cells: int, grid: Grid, like: Tensor) -> Tensor:
    if grid == "corners" and cells > 1:
        return torch.linspace(0, 1, cells, dtype=like.dtype, device=like.device)
    return (torch.arange(cells, dtype=like.dtype, device=like.device) + 0.5) / cells


def _centre(marginal: Tensor, grid: Grid) -> Tensor:
    """Mean position under an unnormalised marginal [..., n].

    Dividing by the marginal's own sum removes the rounding of the softmax's total, which over 64^3 cells is
    larger than all other errors together.
    """
    return (marginal * _axis(marginal.shape[-1], grid, marginal)).sum(-1) / marginal.sum(-1)


def _marginals(cells: Tensor, ndim: int) -> tuple[Tensor, ...]:
    """Sums over all axes but one, for x, y(, z); only the first axis of a map takes two passes over it."""
    found = []
    for axes in range(ndim, 1, -1):
        found.append(cells.sum(dim=tuple(range(1 - axes, 0))))
        cells = cells.sum(dim=-axes)
    return (cells, *reversed(found))


def _neighbourhood(mode: Tensor, sizes: torch.Size) -> tuple[Tensor, Tensor]:
    """Flat indices [..., 3^ndim] of the cells around flat index `mode` [..., 1], and which of them exist."""
    index = torch.zeros_like(mode)
    inside = torch.ones_like(mode, dtype=torch.bool)
    step = torch.arange(-1, 2, device=mode.device)
    stride = sizes.numel()
    for size in sizes:
        stride //= size
        place = (mode // stride % size + step)[..., None, :]
        index = (index[..., None] + place.clamp(0, size - 1) * stride).flatten(-2)
        inside = (inside[..., None] & (place >= 0) & (place < size)).flatten(-2)
    return index, inside


def _is_traced() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_exported() -> bool:
    """Whether a graph is being written for other tools."""
    return bool(torch.compiler.is_exporting()) or _is_traced() or bool(torch.onnx.is_in_onnx_export())


def is_transformed(tensor: Tensor) -> bool:
    """Whether functorch, forward-mode differentiation, compilation, tracing or export is going on.

    They need plain operations on tensors.
    """
    if torch.compiler.is_compiling() or _is_traced() or torch.onnx.is_in_onnx_export():
        return True
    # The question that torch.autograd.Function itself asks before it refuses to run; there is no public one.
    if torch._C._are_functorch_transforms_active():
        return True
    return torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None


def prefers_fused(logits: Tensor, cells: int, maps: int) -> bool:
    """Whether `maps` maps of so many cells, made from `logits`, are better located in blocks by an autograd function.

    Never while functorch, forward-mode differentiation, compilation, tracing or export is going on.
    """
    if is_transformed(logits):
        return False
    return cells >= _FUSED_MAP_CELLS and cells * maps >= _FUSED_CELLS


def _fused_soft_argmax(logits: Tensor, ndim: int, grid: Grid) -> Tensor:
    maps = logits.shape[:-ndim]
    volumes = logits.reshape(*maps, *(1,) * (3 - ndim), *logits.shape[-ndim:])
    coords: Tensor = _fused_function(volumes).apply(_as_views(volumes), grid)
    return coords[..., :ndim].reshape(*maps, ndim)


def _fused_function(volumes: Tensor) -> type[torch.autograd.Function]:
    if kernels.usable(volumes, "soft-argmax"):
        from posezoo.kernels.soft_argmax import TritonSoftArgmax

        return TritonSoftArgmax
    return _BlockedSoftArgmax


def _as_views(volumes: Tensor) -> Tensor:
    """[..., D, H, W] as [N, K, D, H, W], without a copy where volumes are packed or channels last.

    In a channels-last tensor the volumes of one sample are interleaved: they are K there, and N the samples.
    """
    if not volumes.is_contiguous() and volumes.ndim > 3 and volumes.movedim((-2, -1), (-4, -3)).is_contiguous():
        return volumes.reshape(-1, *volumes.shape[-4:])
    return volumes.reshape(1, -1, *volumes.shape[-3:])  # a copy for any other layout


def block_maps(cells: int, device: torch.device) -> int:
    """How many maps of so many cells to work on at once: as many as stay in the caches of the device.

    On a CPU every thread has its own cache and its own maps: a softmax over one row is never shared out.
    """
    if device.type == "cpu":
        return max(1, _BLOCK_CELLS_CPU // cells) * torch.get_num_threads()
    return max(1, _BLOCK_CELLS_ELSEWHERE // cells)


def locate_block(
    volumes: Float[Tensor, "maps depth rows columns"], grid: Grid
) -> tuple[Float[Tensor, "maps 3"], Float[Tensor, "maps"]]:
    """The soft-argmax of a block of volumes that fits the cache, and the rounded total of each softmax; no gradient."""
    weights = _weights(volumes)
    marginals = _marginals(weights, 3)
    coords = torch.stack([_centre(axis, grid) for axis in marginals], -1)
    return coords, marginals[0].sum(-1)


def pull_block(
    volumes: Float[Tensor, "maps depth rows columns"],
    coords: Float[Tensor, "maps 3"],
    total: Float[Tensor, "maps"],
    grad: Float[Tensor, "maps 3"],
    grid: Grid,
    out: Float[Tensor, "maps depth rows columns"],
) -> None:
    """Puts the gradient of `locate_block` for the logits into `out`, from its results and the gradient of the first.

    `out` may be the volumes themselves, where nothing else holds them.
    """
    weights = _weights(volumes)
    grad = grad / total[:, None]
    x, y, z = (
        grad[:, i, None] * (_axis(size, grid, coords) - coords[:, i, None])
        for i, size in enumerate(reversed(volumes.shape[-3:]))
    )
    # The axis that is fast in memory comes last, and the sum is laid out like the weights.
    first, last = (z[:, :, None, None] + y[:, None, :, None], x[:, None, None, :])
    if not volumes.is_contiguous():
        first, last = (y[:, None, :, None] + x[:, None, None, :], z[:, :, None, None])
    pull = torch.add(first, last, out=torch.empty_like(weights))
    if out.dtype == weights.dtype:
        torch.mul(weights, pull, out=out)
    else:
        out.copy_(weights.mul_(pull))  # rounding while it multiplies is the slower way


def _blocks(volumes: Tensor) -> Iterator[tuple[int, slice]]:
    """(n, slice of K) of consecutive blocks of volumes [N, K, D, H, W]."""
    count = block_maps(volumes.shape[-3:].numel(), volumes.device)
    for n in range(volumes.shape[0]):
        for start in range(0, volumes.shape[1], count):
            yield n, slice(start, start + count)


class _BlockedSoftArgmax(torch.autograd.Function):
    """Soft-argmax of volumes [N, K, D, H, W] -> [N, K, 3], in blocks small enough for the cache.

    Saves only the logits v, the result c and the softmax's total: the gradient softmax(v) * sum_axes dL/dc (x - c)
    needs no volume that was kept. Reading the logits again costs less than storing a softmax.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, grid: Grid) -> Tensor:
        coords = logits.new_empty((*logits.shape[:2], 3), dtype=_accumulator(logits))
        total = coords.new_empty(logits.shape[:2])
        for n, part in _blocks(logits):
            coords[n, part], total[n, part] = locate_block(logits[n, part], grid)
        ctx.save_for_backward(logits, coords, total)
        ctx.grid = grid
        return coords

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, coords, total = ctx.saved_tensors
        gradient = torch.empty_like(logits)  # not into the logits: they belong to the caller
        for n, part in _blocks(logits):
            known = coords[n, part], total[n, part], grads[0][n, part]
            pull_block(logits[n, part], *known, ctx.grid, out=gradient[n, part])
        return gradient, None


def _weights(volumes: Tensor) -> Tensor:
    """Softmax of volumes [K, D, H, W] up to a factor for each, in their memory order."""
    if volumes.is_contiguous():
        return volumes.flatten(1).softmax(1, dtype=_accumulator(volumes)).view(volumes.shape)
    # Interleaved volumes are packed as they lie, depth fast: the kernel itself would turn them round, cell by cell.
    turned = volumes.movedim(-3, -1)
    packed = torch.empty(turned.shape, dtype=_accumulator(volumes), device=volumes.device).copy_(turned)
    return packed.flatten(1).softmax(1).view(packed.shape).movedim(-1, -3)
