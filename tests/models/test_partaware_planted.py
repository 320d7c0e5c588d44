"""Planted specialisation: a joint that needs a wide view gets wider operations than one that does not (T11)."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posezoo.models.partaware.bilevel import first_order
from posezoo.models.partaware.genotype import Genotype
from posezoo.models.partaware.network import PartAwareNetwork, fixed_cells
from posezoo.models.partaware.operations import RECEPTIVE_FIELDS
from posezoo.models.partaware.supernet import SuperNetwork
from posezoo.skeletons import Skeleton

TOY = Skeleton("toy", ("near", "far"), (-1, 0), 0)
OPERATIONS = ["skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_5x5"]


class Pixels(nn.Module):
    """An encoder that hands the picture on."""

    channels, strides = (2, 2, 2), (1, 1, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image] * 3


def planted(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blobs on 16 x 16 cells, and the joints: one where its blob is, one 8 cells beside it."""
    where = torch.rand(count, 2, 2, generator=g) * torch.tensor([[13.0, 13.0], [5.0, 13.0]]) + 1
    cells = torch.arange(16.0)
    column = (cells - where[..., 0, None]).square()[:, :, None, :]
    row = (cells - where[..., 1, None]).square()[:, :, :, None]
    target = where + torch.tensor([[0.0, 0.0], [8.0, 0.0]])
    return torch.exp(-(column + row) / 2), (target + 0.5) / 16 - 0.5


GROUPS = {"a": ("near",), "b": ("far",)}
HEAD: dict[str, Any] = {"output_stride": 1, "depth_bins": 1}
WIDTH = 16
NODES = 2  # two narrow operations in a row cannot see eight cells away, two wide ones just do


def losses(network: nn.Module, count: int, g: torch.Generator) -> Tensor:
    """L1 of both joints on new pictures, normalised coordinates."""
    image, target = planted(count, g)
    return (network(image).coords[..., :2] - target).abs().sum(-1).mean(0)  # type: ignore[no-any-return]


def search(seed: int, steps: int = 500, warmup: int = 50) -> SuperNetwork:
    """A search from one seed; the architecture begins to learn after the warm-up."""
    torch.manual_seed(seed)
    g, encoder = torch.Generator().manual_seed(seed), Pixels()
    arch_options: dict[str, Any] = {"edge_weights": False}
    network = SuperNetwork(encoder, GROUPS, TOY, [WIDTH], OPERATIONS, NODES, 1, False, arch_options, **HEAD)  # type: ignore[arg-type]
    arch = list(network.arch.parameters())
    weights = [p for name, p in network.named_parameters() if not name.startswith("arch.")]
    optimizer = torch.optim.Adam(weights, lr=5e-3)
    arch_optimizer = torch.optim.Adam(arch, lr=0.03, betas=(0.5, 0.999))
    for step in range(steps):
        if step >= warmup:
            for parameter, gradient in zip(arch, first_order(losses(network, 16, g).sum(), arch), strict=True):
                parameter.grad = gradient
            arch_optimizer.step()
        optimizer.zero_grad()
        losses(network, 16, g).sum().backward()
        optimizer.step()
        arch_optimizer.zero_grad()
    return network


def wide_share(network: SuperNetwork, group: str) -> float:
    """Weight of the operations with a view of nine cells or more."""
    wide = [number for number, name in enumerate(OPERATIONS) if RECEPTIVE_FIELDS[name] >= 9]
    return float(network.arch.alpha[f"{group}/0"].detach().softmax(-1)[:, wide].sum(1).mean())


def retrained(cells: dict[str, Any], seed: int, steps: int = 300) -> float:
    """Error of a derived network on new pictures, cells of 16, summed over both joints."""
    torch.manual_seed(seed)
    g, genotype = torch.Generator().manual_seed(1000 + seed), Genotype(GROUPS, cells, None, {}, ())
    network = PartAwareNetwork(Pixels(), GROUPS, TOY, [WIDTH], fixed_cells(genotype, 1), **HEAD)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        losses(network, 16, g).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return 16 * float(losses(network.eval(), 256, torch.Generator().manual_seed(7)).sum())


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_a_joint_beside_its_cue_gets_wider_operations() -> None:
    """Each group's own cell (A3) beats the other group's (A4), and the far joint's operations see farther."""
    gaps = []
    for seed in range(3):
        network = search(seed)
        shares, cells = [wide_share(network, group) for group in "ab"], network.derive()
        own, permuted = (retrained(c, seed) for c in (cells, {"a": cells["b"], "b": cells["a"]}))
        print(f"seed {seed}: wide a {shares[0]:.3f}, b {shares[1]:.3f}; error A3 {own:.3f}, A4 {permuted:.3f} cells")
        gaps.append(shares[1] - shares[0])
        assert own < permuted / 3
    assert sum(gaps) / 3 > 0.15
