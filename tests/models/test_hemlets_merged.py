"""HEMlets' two linear layers as one: the same numbers and gradients, and only where nobody looks between them."""

from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from posezoo.models import HEMlets
from posezoo.models.folding import fold_batch_norms
from posezoo.models.hemlets import network
from posezoo.models.hemlets.network import convolve_merged, merges
from posezoo.testing import synthetic_batch


def layers(dtype: torch.dtype = torch.float64) -> tuple[nn.Conv2d, nn.Conv2d, Tensor, Tensor]:
    """The convolution of the feature branch, the mixing one behind it, and what goes into each."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 5, 3, padding=1).to(dtype), nn.Conv2d(5 + 2, 4, 1).to(dtype)
    raised, code = (torch.randn(2, channels, 6, 7, dtype=dtype).requires_grad_() for channels in (3, 2))
    return first, second, raised, code


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_equals_one_layer_after_the_other(layout: Any) -> None:
    first, second, raised, code = layers()
    for module in (first, second):
        module.to(memory_format=layout)
    found = convolve_merged(first, second, raised, code)
    wanted = second(torch.cat([first(raised), code], 1))
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    into = [raised, code, *first.parameters(), *second.parameters()]
    pull = torch.linspace(-1, 2, wanted.numel(), dtype=wanted.dtype).view(wanted.shape)
    gradients = (torch.autograd.grad(result, into, pull) for result in (found, wanted))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_in_bfloat16_it_is_no_further_from_float64_than_they_are() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64 + 32, 64, 1)
    raised, code = torch.randn(2, 32, 24, 24).relu(), torch.randn(2, 32, 24, 24).relu()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        merged, plain = convolve_merged(first, second, raised, code), second(torch.cat([first(raised), code], 1))
    with torch.no_grad():
        exact = second.double()(torch.cat([first.double()(raised.double()), code.double()], 1))
    errors = [float((found.double() - exact).norm() / exact.norm()) for found in (merged, plain)]
    assert errors[0] < 1.3 * errors[1] < 0.01


def test_it_is_for_large_maps_and_layers_that_nobody_watches() -> None:
    first, second, raised, _ = layers()
    assert merges(first, second, raised)  # 42 cells for 27 weights of an output channel
    assert not merges(first, second, raised[..., :5, :5])
    handle = first.register_forward_hook(lambda *_: None)
    assert not merges(first, second, raised)
    handle.remove()
    nn.utils.parametrizations.weight_norm(second)
    assert not merges(first, second, raised)


@pytest.mark.parametrize("training", [False, True])
def test_the_released_sizes_take_it(training: bool) -> None:
    model = HEMlets(backbone="resnet10_w8", width=16, feature_width=32, depth_bins=8).train(training)
    with patch.object(network, "convolve_merged", wraps=convolve_merged) as taken:
        model.network(synthetic_batch(1, "hemlets18", 256)["image"])
        assert taken.call_count == 1


class Coords(nn.Module):
    """What can be exported: tensors in, tensors out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        coords: Tensor = self.inner(image).coords
        return coords


def test_a_folded_network_takes_it_too_and_an_exported_one_keeps_its_layers() -> None:
    model = HEMlets(backbone="resnet10_w8", width=16, feature_width=32, depth_bins=8).eval()
    image = synthetic_batch(1, "hemlets18", 256)["image"]
    wanted = model.network(image).coords
    with patch.object(network, "convolve_merged", wraps=convolve_merged) as taken:
        folded = fold_batch_norms(model.network, image)
        assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
        taken.reset_mock()
        torch.testing.assert_close(folded(image).coords, wanted, atol=1e-4, rtol=0)
        assert taken.call_count == 1
        graph = torch.export.export(Coords(model.network), (image,))
        assert taken.call_count == 1
    torch.testing.assert_close(graph.module()(image), wanted, atol=1e-4, rtol=0)


def test_the_whole_network_has_the_same_loss_and_gradients() -> None:
    model = HEMlets(backbone="resnet10_w8", width=16, feature_width=32, depth_bins=8).train().double()
    labels = synthetic_batch(2, "hemlets18", 256)
    batch: Any = {key: value.double() if value.is_floating_point() else value for key, value in labels.items()}
    batch["image"] = labels["image"].double() / 255

    def step() -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        losses = model.losses(model.estimate(batch), batch)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        return loss.detach(), [cast(Tensor, weight.grad) for weight in model.parameters() if weight.grad is not None]

    loss, gradients = step()
    with patch.object(network, "merges", lambda *_: False):
        plain_loss, plain_gradients = step()
    torch.testing.assert_close(loss, plain_loss, rtol=1e-11, atol=0)
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-11)
