"""Fused Adam on a CPU: the steps of the plain one, however weights and gradients lie in memory."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from posezoo.models import MeTRAbs
from posezoo.models.optimizers import fuse
from posezoo.testing import tiny_estimator

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def trained(kind: Any, weight_layout: Any, gradient_layout: Any, fused: bool) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=draw) for size in ((6, 5, 3, 3), (4, 2, 1, 1), (7,))]
    parameters = [
        nn.Parameter(weight.to(memory_format=weight_layout) if weight.ndim == 4 else weight) for weight in weights
    ]
    optimizer = kind(parameters, lr=0.1, weight_decay=0.1)
    if fused:
        fuse(optimizer)
    for _ in range(4):
        for parameter in parameters:
            pull = torch.randn(parameter.shape, generator=draw)
            parameter.grad = pull.to(memory_format=gradient_layout) if pull.ndim == 4 else pull
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize(("weight", "gradient"), list(itertools.product(LAYOUTS, LAYOUTS)))
def test_steps_do_not_depend_on_the_layout(kind: Any, weight: Any, gradient: Any) -> None:
    plain = trained(kind, torch.contiguous_format, torch.contiguous_format, fused=False)
    torch.testing.assert_close(trained(kind, weight, gradient, fused=True), plain, atol=1e-6, rtol=1e-6)


def test_a_step_copies_no_channels_last_weight() -> None:
    weight = nn.Parameter(torch.randn(8, 8, 3, 3).to(memory_format=torch.channels_last))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.Adam([weight])
    fuse(optimizer)
    optimizer.step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        optimizer.step()
    names = {event.name for event in seen.events()}
    assert "aten::_fused_adam_" in names
    assert "aten::clone" not in names
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_amsgrad_and_groups_are_served_too() -> None:
    ends = []
    for fused in (False, True):
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.Adam([{"params": [conv.weight]}, {"params": [conv.bias], "lr": 0.5}], amsgrad=True)
        if fused:
            fuse(optimizer)
        for scale in (1.0, 3.0, -2.0):
            optimizer.zero_grad()
            (scale * conv(torch.ones(1, 4, 5, 5)).square().sum()).backward()
            optimizer.step()
        ends.append([conv.weight.detach(), conv.bias.detach()])
    torch.testing.assert_close(ends[1], ends[0], atol=1e-6, rtol=1e-6)


def test_a_network_is_channels_last_by_itself_when_it_is_trained() -> None:
    estimator = tiny_estimator(MeTRAbs)
    estimator.configure_model()
    assert all(
        weight.is_contiguous(memory_format=torch.channels_last)
        for weight in estimator.network.parameters()
        if weight.ndim == 4
    )
