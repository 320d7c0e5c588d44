"""The doubling deconvolution equals torch's, gradients of gradients included; products are for where they gain."""

from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from posezoo.models.deconvolution import Doubling, _Doubling
from posezoo.models.heads import DeconvTower


def by_torch(input: Tensor, weight: Tensor) -> Tensor:
    return functional.conv_transpose2d(input, weight, stride=2, padding=1)


def operands(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    input, weight = (torch.randn(size, generator=draw, dtype=dtype) for size in ((2, 6, 3, 5), (6, 2, 4, 4)))
    return input.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_torch(layout: torch.memory_format) -> None:
    input, weight = (tensor.detach().to(memory_format=layout).requires_grad_() for tensor in operands())
    found, wanted = _Doubling.apply(input, weight), by_torch(input, weight)
    assert torch.equal(found, wanted)
    pull = torch.linspace(-1, 2, wanted.numel(), dtype=wanted.dtype).view(wanted.shape)
    for ours, theirs in zip(
        torch.autograd.grad(found, [input, weight], pull),
        torch.autograd.grad(wanted, [input, weight], pull),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_it_can_be_differentiated_twice() -> None:
    assert torch.autograd.gradcheck(_Doubling.apply, operands())
    assert torch.autograd.gradgradcheck(_Doubling.apply, operands())


def test_one_operand_may_do_without_a_gradient() -> None:
    input, weight = operands()
    _Doubling.apply(input.detach(), weight).sum().backward()
    assert input.grad is None
    assert weight.grad is not None


def test_a_layer_in_training_is_the_layer_of_torch() -> None:
    torch.manual_seed(0)
    layer, plain = Doubling(8, 2), nn.ConvTranspose2d(8, 2, 4, 2, 1, bias=False)
    plain.load_state_dict(layer.state_dict())
    image = torch.randn(2, 8, 4, 4)
    for module in (layer, plain):
        module(image).square().sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)


def test_under_autocast_it_multiplies_in_the_lower_precision_and_is_rounded_once() -> None:
    torch.manual_seed(0)
    layer, image = Doubling(64, 16), torch.randn(2, 64, 4, 4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(image)
        found.float().square().sum().backward()  # the backward pass inside of it
    assert found.dtype == torch.bfloat16
    exact_image = image.detach().bfloat16().double().requires_grad_()
    weight = layer.weight.detach().bfloat16().double().requires_grad_()
    exact = by_torch(exact_image, weight)
    torch.testing.assert_close(found.double(), exact, atol=2**-7, rtol=2**-8)
    exact.backward(2 * found.detach().double())
    assert image.grad is not None
    assert layer.weight.grad is not None
    assert exact_image.grad is not None
    for ours, theirs in ((image.grad, exact_image.grad), (layer.weight.grad, weight.grad)):
        assert ours.dtype == torch.float32
        assert float((ours.double() - theirs).norm() / theirs.norm()) < 2**-8


def test_products_are_for_wide_layers_that_are_trained_on_a_cpu() -> None:
    image = torch.randn(1, 8, 2, 2)
    wide, narrow = Doubling(8, 4), Doubling(8, 8)
    assert wide._multiplies(image)
    assert not narrow._multiplies(image)
    assert not wide._multiplies(image.to("meta"))
    with torch.no_grad():
        assert not wide._multiplies(image)
    with patch.object(_Doubling, "apply", side_effect=AssertionError):
        torch.func.vmap(lambda one: wide(one[None]))(image)  # needs plain operations
        wide.weight.requires_grad_(False)
        wide(image)


def test_the_first_layer_of_a_released_tower_takes_them() -> None:
    tower = DeconvTower(2048)
    taken = [layer._multiplies(torch.empty(1)) for layer in tower if isinstance(layer, Doubling)]
    assert taken == [True, False, False]
