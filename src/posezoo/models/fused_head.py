"""The last 1x1 convolution of a volumetric head and its soft-argmax as one operation: the volume is never stored.

At 18 joints of 64^3 cells the volumes of one sample take 19 MB in float32, more than everything else behind the
backbone. Here they exist for a few joints of one sample at a time, and once more in the backward pass. That is for
the memory; what it gains or costs in time is in docs/performance.md.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from posezoo.heatmaps import Grid, block_maps, heatmap_confidence, locate_block, prefers_fused, pull_block
from posezoo.models.precision import as_autocast

# Bytes of the volumes that one product makes, for each thread of a CPU and elsewhere (a guess): as few as keep it
# efficient. In bfloat16 the features' gradient is rounded once for each product, hence no fewer.
_PRODUCT_BYTES_CPU, _PRODUCT_BYTES_ELSEWHERE = 1 << 22, 1 << 26

# Pixels whose gradient is computed before it is added up: what stays in the cache.
_PIXELS = 512


def locate_fused(
    conv: nn.Conv2d, features: Float[Tensor, "batch channels rows columns"], num_joints: int, grid: Grid, scored: bool
) -> tuple[Float[Tensor, "batch joints 3"], Float[Tensor, "batch joints"]]:
    """What `decode_volume(as_volumes(conv(features)))` gives, coordinates in 0..1, without the volumes.

    Can be differentiated once. Under autocast the convolution runs in the lower precision and everything behind it in
    float32.

    Args:
        conv: 1x1 convolution with bias; channel = joint * depth + depth bin.
        features: Its input, packed or channels last.
        num_joints: J.
        grid: Grid of the soft-argmax.
        scored: Also the confidence of every joint; zeros otherwise. It has no gradient.
    """
    assert conv.bias is not None
    operands = as_autocast(features, conv.weight.flatten(1), conv.bias)
    with torch.autocast(features.device.type, enabled=False):
        coords, scores = _FusedHead.apply(*operands, num_joints, grid, scored)
    return coords, scores


def can_fuse(conv: nn.Conv2d, features: Tensor, num_joints: int) -> bool:
    """Whether the fused operation is allowed here and worth it; otherwise convolve and decode one after the other."""
    if features.is_meta:  # shapes and FLOPs only; there is no autocast to ask for there
        return False
    if features.device.type == "cuda":  # a loop over samples there waits for its launches; one convolution does not
        return False
    plain = conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1 and conv.bias is not None
    # A hook or a parametrisation on the convolution would be passed over.
    plain = plain and type(conv) is nn.Conv2d and not (conv._forward_hooks or conv._forward_pre_hooks)
    cells = conv.out_channels // num_joints * features.shape[-2:].numel()
    return plain and prefers_fused(features, cells, num_joints * features.shape[0])  # len() would fix the batch size


class _FusedHead(torch.autograd.Function):
    """features [N, C, H, W], weight [J D, C], bias [J D] -> coordinates [N, J, 3] and scores [N, J]."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, joints: int, grid: Grid, scored: bool
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(features.dtype, torch.float32)
        coords = features.new_empty((len(features), joints, 3), dtype=dtype)
        total = coords.new_empty((len(features), joints))
        scores = features.new_zeros((len(features), joints), dtype=dtype)
        for n, part, volumes, _, _ in _passes(features, weight, bias, joints):
            for inner in _cached(part, volumes):
                block = volumes[inner.start - part.start : inner.stop - part.start]
                coords[n, inner], total[n, inner] = locate_block(block, grid)
                if scored:
                    scores[n, inner] = heatmap_confidence(block, 3)
        ctx.save_for_backward(features, weight, bias, coords, total)
        ctx.grid = grid
        ctx.mark_non_differentiable(scores)
        return coords, scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        features, weight, bias, coords, total = ctx.saved_tensors
        d_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=coords.dtype)
        d_bias = torch.zeros_like(bias, dtype=coords.dtype)
        with torch.autocast(features.device.type, enabled=False):  # a backward call may be inside of it
            for n, part, volumes, pixels, rows in _passes(features, weight, bias, coords.shape[1]):
                for inner in _cached(part, volumes):
                    block = volumes[inner.start - part.start : inner.stop - part.start]
                    # Nothing else holds these logits, so the gradient may take their place.
                    pull_block(block, coords[n, inner], total[n, inner], grads[0][n, inner], ctx.grid, out=block)
                    d_bias[_rows(inner, block)] += block.sum((2, 3), dtype=d_bias.dtype).flatten()  # while it is cached
                pull = volumes.permute(2, 3, 0, 1).flatten(0, 1).flatten(1)  # as it lies in memory: a view
                d_weight[rows] += _pull_weight(pull, pixels)
                if d_features is not None:
                    _pull_features(pull, weight[rows], d_features[n].flatten(1).t(), first=part.start == 0)
        return d_features, d_weight.to(weight.dtype), d_bias.to(bias.dtype), None, None, None


def _passes(
    features: Tensor, weight: Tensor, bias: Tensor, joints: int
) -> Iterator[tuple[int, slice, Tensor, Tensor, slice]]:
    """Sample, joints, their volumes [K, D, H, W], the pixels [P, C], and the weight's rows, product by product."""
    depth, (height, width) = len(weight) // joints, features.shape[-2:]
    count = _joints_of_product(joints, depth * height * width * features.element_size(), features.device)
    for n in range(len(features)):
        pixels = features[n].flatten(1).t().contiguous()
        for start in range(0, joints, count):
            part = slice(start, min(start + count, joints))
            rows = slice(part.start * depth, part.stop * depth)
            logits = _product(pixels, weight[rows], bias[rows])
            yield n, part, logits.view(height, width, -1, depth).permute(2, 3, 0, 1), pixels, rows


def _rows(joints: slice, volumes: Tensor) -> slice:
    """Rows of the weight that make the volumes [K, D, H, W] of some joints."""
    return slice(joints.start * volumes.shape[1], joints.stop * volumes.shape[1])


def _cached(part: slice, volumes: Tensor) -> list[slice]:
    """`part` cut into pieces whose volumes stay in the cache."""
    count = block_maps(volumes[0].numel(), volumes.device)
    return [slice(at, min(at + count, part.stop)) for at in range(part.start, part.stop, count)]


def _joints_of_product(joints: int, map_bytes: int, device: torch.device) -> int:
    """How many joints one product is for: products as equal as can be."""
    most = _PRODUCT_BYTES_CPU * torch.get_num_threads() if device.type == "cpu" else _PRODUCT_BYTES_ELSEWHERE
    return math.ceil(joints / math.ceil(joints / max(1, most // map_bytes)))


# ------------------------------------------------------------------------------------------------------- products
#
# PyTorch gives products of float32 matrices to MKL, which is slower than oneDNN on processors of AMD (up to twice, at
# one thread), and 1x1 convolutions to oneDNN, with their bias. Others go to oneDNN by themselves.


def _product(pixels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Pixels [P, C] times a weight [K, C], and a bias [K]: [P, K]."""
    return _as_pixels(functional.conv2d(_as_image(pixels), weight[:, :, None, None], bias))


def _pull_weight(pull: Tensor, pixels: Tensor) -> Tensor:
    """The weight's gradient [K, C] from that of the product [P, K]."""
    if pixels.dtype != torch.float32:
        return pull.t() @ pixels
    found: Tensor = conv2d_weight(_as_image(pixels), [pull.shape[1], pixels.shape[1], 1, 1], _as_image(pull))
    return found[:, :, 0, 0]


def _pull_features(pull: Tensor, weight: Tensor, out: Tensor, first: bool) -> None:
    """(Add) the features' gradient to `out` [P, C], which is a transposed view where the features are packed."""
    if pull.dtype != torch.float32:
        out.addmm_(pull, weight, beta=0 if first else 1)  # rounds once, what it adds to included
        return
    turned = weight.t().contiguous()
    count = _PIXELS * torch.get_num_threads()
    for part, into in zip(pull.split(count), out.split(count), strict=True):
        found = _product(part, turned)
        into.copy_(found) if first else into.add_(found)


def _as_image(pixels: Tensor) -> Tensor:
    """Pixels [P, C] as images for a 1x1 convolution, to which their places do not matter: [16, C, 1, P / 16].

    At one thread PyTorch gives float32 convolutions of this kind with fewer than 16 images to MKL.
    """
    images = 16 if len(pixels) % 16 == 0 else 1
    return pixels.view(images, 1, len(pixels) // images, -1).permute(0, 3, 1, 2)


def _as_pixels(images: Tensor) -> Tensor:
    """The way back from `_as_image`."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)
