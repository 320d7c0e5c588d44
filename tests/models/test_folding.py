"""Folded batch norms compute the same; what cannot be folded stays."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posezoo.errors import PoseZooError
from posezoo.models.backbones import batch_norms
from posezoo.models.folding import fold_batch_norms
from posezoo.models.hemlets import HEMlets
from posezoo.models.integral import IntegralPose
from posezoo.models.metrabs import MeTRAbs
from posezoo.testing import synthetic_batch, tiny_estimator

SMALL = {"width": 16, "depth_bins": 16, "deconvs": 2, "skeleton": "hemlets18"}


def warmed(module: nn.Module, image: Tensor) -> nn.Module:
    """With statistics, gains and shifts that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    for norm in batch_norms(module):
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.uniform_(norm.bias, -0.3, 0.3, generator=generator)
    with torch.no_grad():
        for _ in range(3):
            module.train()(image)
    return module.eval()


def crops(count: int = 2) -> Tensor:
    return synthetic_batch(count, "h36m17", 64)["image"]


def equal(network: nn.Module, folded: nn.Module, *example: Tensor) -> None:
    with torch.no_grad():
        before, after = network(*example), folded(*example)
    if isinstance(before, Tensor):
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
        return
    for name, value in vars(before).items():
        if value is not None:
            torch.testing.assert_close(getattr(after, name), value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cls", [MeTRAbs, IntegralPose, HEMlets])
def test_methods_lose_every_batch_norm_and_compute_the_same(cls: Any) -> None:
    settings = {} if cls is MeTRAbs else SMALL | ({"feature_width": 16} if cls is HEMlets else {})
    network = warmed(tiny_estimator(cls, **settings).network, crops(4))
    names = list(network.state_dict())
    folded = fold_batch_norms(network, crops(1))
    assert not list(batch_norms(folded))
    assert list(network.state_dict()) == names
    equal(network, folded, crops())


@pytest.mark.parametrize("name", ["mobilenetv2_035", "tf_efficientnetv2_b0"])
def test_activations_inside_batch_norms_stay(name: str) -> None:
    network = warmed(tiny_estimator(MeTRAbs, backbone=name, stride=32).network, crops(4))
    folded = fold_batch_norms(network, crops(1))
    assert not list(batch_norms(folded))
    equal(network, folded, crops())


def test_batch_norms_before_convolutions_stay() -> None:
    network = warmed(tiny_estimator(MeTRAbs, backbone="resnetv2_18", stride=32).network, crops(4))
    folded = fold_batch_norms(network, crops(1))
    assert 0 < len(list(batch_norms(folded))) < len(list(batch_norms(network)))
    equal(network, folded, crops())


class Twice(nn.Module):
    """A convolution whose output is also used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        plain = self.conv(x)
        return plain + self.norm(plain)


class Shared(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.conv(x + 1)


@pytest.mark.parametrize("cls", [Twice, Shared])
def test_convolutions_that_others_read_are_left_alone(cls: Any) -> None:
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    network = warmed(cls(), x)
    folded = fold_batch_norms(network, x)
    assert len(list(batch_norms(folded))) == 1
    equal(network, folded, x)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_are_scaled_along_their_outputs(groups: int) -> None:
    conv = nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=groups, bias=False)
    x = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    network = warmed(nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU()), x)
    folded = fold_batch_norms(network, x)
    assert not list(batch_norms(folded))
    equal(network, folded, x)


class Halved(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.abs().amax(), self.bias)


def test_layers_that_do_more_than_their_class_says_are_refused() -> None:
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    network = warmed(nn.Sequential(Halved(3, 4, 1), nn.BatchNorm2d(4)), x)
    with pytest.raises(PoseZooError, match="changes what it computes"):
        fold_batch_norms(network, x)


def test_training_networks_are_refused() -> None:
    with pytest.raises(PoseZooError, match=r"call \.eval\(\)"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.zeros(1, 3, 4, 4))
