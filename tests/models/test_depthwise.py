"""Depthwise convolutions have the gradients of torch, of gradients too, also where torch's own are wrong."""

from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from posezoo.models.backbones import Backbone
from posezoo.models.depthwise import DepthwiseConv2d, _Depthwise, is_depthwise
from posezoo.models.partaware.operations import OPERATIONS

KERNELS = [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2), (3, 3)]


def by_torch(input: Tensor, weight: Tensor, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return functional.conv2d(input, weight, None, 1, padding, dilation, groups=len(weight))


def operands(side: int, size: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    input, weight = torch.randn(2, 3, *size, generator=draw), torch.randn(3, 1, side, side, generator=draw)
    return input.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(6, 8), (7, 9), (3, 2)])
@pytest.mark.parametrize(("side", "dilation"), KERNELS)
def test_gradients_are_those_of_torch(
    side: int, dilation: int, size: tuple[int, int], layout: torch.memory_format
) -> None:
    input, weight = operands(side, size)
    laid = input.detach().to(memory_format=layout).requires_grad_()
    found, wanted = _Depthwise.apply(laid, weight, dilation), by_torch(input, weight, dilation)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    pull = torch.linspace(-1, 2, wanted.numel(), dtype=wanted.dtype).view(wanted.shape)
    ours, theirs = torch.autograd.grad(found, [laid, weight], pull), torch.autograd.grad(wanted, [input, weight], pull)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("side", "dilation"), [(5, 1), (3, 2)])
def test_it_can_be_differentiated_twice(side: int, dilation: int) -> None:
    inputs = operands(side, (4, 5))
    assert torch.autograd.gradgradcheck(lambda input, weight: _Depthwise.apply(input, weight, dilation), inputs)


@pytest.mark.parametrize(("side", "dilation"), KERNELS)
def test_in_bfloat16_gradients_are_right(side: int, dilation: int) -> None:
    """Those of torch 2.14 for dilated kernels, channels last, hold whatever was in memory."""
    torch.manual_seed(0)
    layer = DepthwiseConv2d(96, side, dilation)
    image = torch.randn(2, 96, 33, 34).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(image)
        found.float().square().sum().backward()  # the backward pass inside of it
    exact_image, weight = (
        tensor.detach().bfloat16().double().contiguous().requires_grad_() for tensor in (image, layer.weight)
    )
    by_torch(exact_image, weight, dilation).backward(2 * found.detach().double().contiguous())
    for ours, theirs in ((image.grad, exact_image.grad), (layer.weight.grad, weight.grad)):
        assert ours is not None
        assert theirs is not None
        assert ours.dtype == torch.float32
        assert float((ours.double() - theirs).norm() / theirs.norm()) < 2**-8


def test_it_is_for_training_on_a_cpu_and_kernels_that_are_slow() -> None:
    image = torch.randn(1, 4, 6, 6)
    wide, dilated, plain = DepthwiseConv2d(4, 5), DepthwiseConv2d(4, 3, 2), DepthwiseConv2d(4, 3)
    assert [layer._rewrites(image) for layer in (wide, dilated, plain)] == [True, True, False]
    assert not wide._rewrites(image.to("meta"))
    with torch.no_grad():
        assert not wide._rewrites(image)
    with patch.object(_Depthwise, "apply", side_effect=AssertionError):
        torch.func.vmap(lambda one: wide(one[None]))(image)  # needs plain operations


def test_only_equal_layers_are_replaced() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False)
    assert is_depthwise(conv)
    layer = DepthwiseConv2d.from_conv(conv)
    image = torch.randn(1, 4, 6, 7)
    assert layer.weight is conv.weight
    assert torch.equal(layer(image), conv(image))
    others: list[nn.Module] = [
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),  # has a bias
        nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, 2, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
        nn.ReLU(),
    ]
    assert not any(map(is_depthwise, others))


def test_backbones_and_cells_have_no_other_slow_ones() -> None:
    modules = [*Backbone("mobilenetv2_100", stride=8, centered_stride=False).modules()]
    for make in OPERATIONS.values():
        modules += make(4, True).modules()
    slow = [
        module
        for module in modules
        if isinstance(module, nn.Conv2d) and module.groups > 1 and (max(module.dilation) > 1)
    ]
    assert len(slow) > 3
    assert all(type(module) is DepthwiseConv2d for module in slow)
