"""The volumetric head as one operation equals convolution, softmax and marginal sums, gradients included."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posezoo.models import fused_head
from posezoo.models.fused_head import can_fuse, locate_fused
from posezoo.models.heads import VolumetricHead, as_volumes, decode_volume, locate

JOINTS = 3


def head(channels: int = 8, depth: int = 6, dtype: torch.dtype = torch.float64) -> nn.Conv2d:
    torch.manual_seed(0)
    conv = VolumetricHead(channels, JOINTS, depth).conv.to(dtype)
    nn.init.normal_(conv.weight)
    nn.init.normal_(conv.bias)  # type: ignore[arg-type]
    return conv


def plain(conv: nn.Conv2d, features: Tensor, grid: Any = "cells") -> Tensor:
    """Softmax over each volume and the mean of the cell centres, written down once more."""
    volumes = as_volumes(conv(features), JOINTS)
    share = volumes.flatten(2).softmax(-1, dtype=torch.promote_types(volumes.dtype, torch.float32)).view(volumes.shape)
    means = []
    for axis, others in ((4, (2, 3)), (3, (2, 4)), (2, (3, 4))):
        n = volumes.shape[axis]
        cells = torch.arange(n, dtype=torch.float64)
        place = cells / (n - 1) if grid == "corners" else (cells + 0.5) / n
        means.append((share.sum(others) * place.to(share)).sum(-1))
    return torch.stack(means, -1)


def derivatives(coords: Tensor, conv: nn.Conv2d, features: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, coords.numel(), dtype=coords.dtype).view(coords.shape)
    return torch.autograd.grad((coords * weights).sum(), [features, conv.weight, conv.bias])  # type: ignore[list-item]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grid", ["cells", "corners"])
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_it_equals_the_plain_formulation(
    layout: torch.memory_format, grid: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posezoo.heatmaps._BLOCK_CELLS_CPU", block)
    monkeypatch.setattr(fused_head, "_PRODUCT_BYTES_CPU", 8 * (2 * 6 * 35 if block == 1 else block))
    conv, features = head(), torch.randn(2, 8, 5, 7, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    coords, scores = locate_fused(conv, features, JOINTS, grid, scored=True)
    expected = plain(conv, features, grid)
    torch.testing.assert_close(coords, expected, atol=1e-12, rtol=0)
    for found, wanted in zip(derivatives(coords, conv, features), derivatives(expected, conv, features), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=1e-11)
    volumes = as_volumes(conv(features), JOINTS)
    torch.testing.assert_close(scores.float(), decode_volume(volumes, grid, scored=True)[1])
    assert not scores.requires_grad


def test_gradcheck() -> None:
    conv = head(4, 3)
    features = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = conv.weight.detach().clone().requires_grad_(), conv.bias.detach().clone().requires_grad_()  # type: ignore[union-attr]

    def function(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        coords: Tensor = fused_head._FusedHead.apply(features, weight.flatten(1), bias, JOINTS, "corners", False)[0]
        return coords

    assert torch.autograd.gradcheck(function, (features, weight, bias))


def test_under_autocast_only_the_convolution_is_rounded() -> None:
    conv, features = head(16, 8, torch.float32), torch.randn(2, 16, 16, 16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        coords, _ = locate_fused(conv, features, JOINTS, "cells", scored=False)
        logits = as_volumes(conv(features), JOINTS)
    assert coords.dtype == torch.float32
    exact = plain_of(logits.double())
    torch.testing.assert_close(coords.double(), exact, atol=2e-6, rtol=0)
    found = derivatives(coords, conv, features)
    wanted = derivatives(plain(conv, features), conv, features)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.03


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_several_products_of_bfloat16_add_up(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_head, "_PRODUCT_BYTES_CPU", 1)  # a product for each joint
    conv, features = head(16, 8, torch.float32), torch.randn(2, 16, 16, 16).to(memory_format=layout).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        coords, _ = locate_fused(conv, features, JOINTS, "cells", scored=False)
    for a, b in zip(
        derivatives(coords, conv, features), derivatives(plain(conv, features), conv, features), strict=True
    ):
        assert float((a - b).norm() / b.norm()) < 0.03


def test_a_backward_pass_inside_autocast_is_as_exact_as_outside() -> None:
    conv, features = head(16, 8, torch.float32), torch.randn(2, 16, 16, 16).requires_grad_()
    outside = derivatives(locate_fused(conv, features, JOINTS, "cells", scored=False)[0], conv, features)
    coords, _ = locate_fused(conv, features, JOINTS, "cells", scored=False)
    with torch.autocast("cpu", torch.bfloat16):
        inside = derivatives(coords, conv, features)
    for a, b in zip(inside, outside, strict=True):
        assert torch.equal(a, b)


def plain_of(volumes: Tensor) -> Tensor:
    return torch.stack([(m * (torch.arange(m.shape[-1]) + 0.5) / m.shape[-1]).sum(-1) for m in _marginals(volumes)], -1)


def _marginals(volumes: Tensor) -> list[Tensor]:
    share = volumes.flatten(2).softmax(-1).view(volumes.shape)
    return [share.sum((2, 3)), share.sum((2, 4)), share.sum((3, 4))]


def test_large_heads_take_it_and_small_or_hooked_ones_do_not() -> None:
    conv = VolumetricHead(2, 18).conv
    features = torch.randn(1, 2, 64, 64)
    assert can_fuse(conv, features, 18)
    assert not can_fuse(conv, features[..., :8, :8], 18)
    handle = conv.register_forward_hook(lambda *_: None)
    assert not can_fuse(conv, features, 18)  # the hook would not be called
    handle.remove()
    torch.func.vmap(lambda x: locate(conv, x[None], 18, "cells", False)[0])(features.expand(2, -1, -1, -1))
    a, _ = locate(conv, features, 18, "cells", scored=False)
    b, _ = decode_volume(as_volumes(conv(features), 18), "cells", scored=False)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_no_volume_is_kept_for_the_backward_pass() -> None:
    conv, features = VolumetricHead(4, 18).conv, torch.randn(2, 4, 64, 64)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        locate(conv, features, 18, "cells", scored=False)
    assert 0 < sum(kept.values()) < 0.05 * 2 * 18 * 64**3 * 4
