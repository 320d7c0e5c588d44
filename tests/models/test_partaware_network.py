"""The derived network: size and cost, joint order, and the estimator's contract."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_cli_helpers import log_to
from torch import Tensor

from posezoo.__main__ import main
from posezoo.errors import PoseZooError
from posezoo.heatmaps import soft_argmax
from posezoo.models import PartAware, PartAwareSearch, heads
from posezoo.models.backbones import Backbone
from posezoo.models.base import load_estimator
from posezoo.models.integral import IntegralNetwork
from posezoo.models.partaware.cells import FixedCell
from posezoo.models.partaware.cost import Cost, fit_widths, measure
from posezoo.models.partaware.genotype import Edge, load_genotype, random_genotype
from posezoo.models.partaware.groups import resolve_groups, twins
from posezoo.models.partaware.network import Encoder, PartAwareNetwork
from posezoo.skeletons import HEMLETS18
from posezoo.testing import check_estimator, synthetic_batch

TINY: dict[str, Any] = {"backbone": "resnet10_w8", "image_size": 64, "stride": 16, "depth_bins": 16, "widths": [8, 8]}


def tiny(**arguments: Any) -> PartAware:
    torch.manual_seed(0)
    return PartAware(**(TINY | arguments))


def searched(seed: int = 3, cells: int = 2) -> dict[str, Any]:
    groups = resolve_groups("g3_dof", HEMLETS18)
    return random_genotype(groups, twins(groups, HEMLETS18), cells, 3, seed).as_dict()


# ---------------------------------------------------------------- cost (T1, T2)


def test_cost_of_the_baseline_in_both_conventions() -> None:
    """Published tables print 14.1 G for what truly is 8.4 G."""
    cost = measure(
        lambda: IntegralNetwork(Backbone("resnet50", centered_stride=False), 18),
        256,
        lambda network, image: network.head(network.tower(network.backbone(image))),
    )
    assert cost.parameters / 1e6 == pytest.approx(34.29, abs=0.01)
    assert cost.macs / 1e9 == pytest.approx(8.43, abs=0.005)
    assert cost.thop_macs / 1e9 == pytest.approx(14.13, abs=0.005)


@pytest.fixture(scope="module")
def reference() -> PartAware:
    return PartAware()


def test_the_default_has_the_published_size(reference: PartAware) -> None:
    cost = reference.cost()
    assert cost.parameters == sum(p.numel() for p in reference.network.parameters())
    assert cost.parameters / 1e6 == pytest.approx(11.92, rel=0.01)
    assert cost.parameters <= 12.21e6
    assert cost.macs / 1e9 == pytest.approx(12.87, rel=0.01)
    assert str(cost).startswith("11.92 M parameters, 12.87 GMACs")


@pytest.mark.parametrize(
    ("widths", "millions", "gmacs"),
    [([352, 224, 192], 12.99, 10.81), ([480, 352, 192], 20.25, 14.22), ([128, 128, 128], 5.65, 5.18)],
)
def test_other_published_budgets(widths: list[int], millions: float, gmacs: float, reference: PartAware) -> None:
    cost = reference._cost_at(widths)
    assert cost.parameters / 1e6 == pytest.approx(millions, abs=0.01)
    assert cost.macs / 1e9 == pytest.approx(gmacs, abs=0.01)


def test_widths_fill_a_budget_and_no_more() -> None:
    def square(widths: list[int]) -> Cost:
        return Cost(sum(w * w for w in widths), 10 * sum(w * w for w in widths), 0)

    for budget in (0.01, 0.1, 1.0):
        widths = fit_widths([256, 256, 224], square, budget, None)
        assert square(widths).parameters <= budget * 1e6 < square([w + 8 for w in widths]).parameters
        assert all(w % 8 == 0 for w in widths)
    assert fit_widths([256, 128], square, 1.0, 1e-3) == fit_widths([256, 128], square, None, 1e-3)
    assert fit_widths([100, 3], square, None, None) == [100, 3]


def test_a_budget_reaches_the_network_and_its_checkpoint() -> None:
    model = tiny(max_params=0.15, widths=[96, 48], genotype="reference-g1")
    assert 0.12e6 < sum(p.numel() for p in model.network.parameters()) <= 0.15e6
    assert model.hparams["widths"] == model.widths
    assert model.hparams["max_params"] is None
    wide, narrow = model.widths
    assert wide == pytest.approx(2 * narrow, abs=8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_params": 0.01}, "--model.max_params cannot be met"),
        ({"max_gmacs": 1e-4}, "--model.max_gmacs cannot be met"),
        ({"max_gmacs": 0.0}, "--model.max_gmacs must be positive"),
        ({"widths": []}, "--model.widths needs a positive width"),
        ({"widths": [8, 0]}, "--model.widths needs a positive width"),
        ({"widths": [8] * 6}, "--model.image_size must be a multiple of 128"),
        ({"inputs": "latral"}, "--model.inputs must be"),
        ({"depth_bins": 0}, "--model.depth_bins must be at least 1"),
        ({"genotype": "mine.yaml"}, "no genotype 'mine.yaml'"),
        ({"genotype": searched(), "widths": [8, 8, 8]}, "has 2 cells, the model 3: set --model.widths"),
        ({"backbone": "vit_tiny_patch16_224", "stride": 16}, "--model"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError) as error:
        tiny(**arguments)
    assert sentence in str(error.value)


# ---------------------------------------------------------------- cells and joint order


def test_a_cell_is_what_its_genotype_says() -> None:
    """Against the cell written out by hand."""
    nodes = (
        (Edge("sep_conv_3x3", 1), Edge("dil_conv_5x5", 2)),
        (Edge("skip_connect", 2), Edge("max_pool_3x3", 3)),
        (Edge("avg_pool_3x3", 1), Edge("sep_conv_5x5", 4)),
    )
    cell = FixedCell((3, 5), 4, nodes).eval()
    first, second = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    x1, x2 = cell.project[0](first, (8, 8)), cell.project[1](second, (8, 8))
    ops: Any = cell.nodes
    x3 = ops[0][0](x1) + ops[0][1](x2)
    x4 = x2 + ops[1][1](x3)
    x5 = ops[2][0](x1) + ops[2][1](x4)
    assert torch.equal(cell(first, second, (8, 8)), torch.cat([x3, x4, x5], 1))
    assert cell.out_channels == 12


def test_joints_come_out_under_their_names() -> None:
    """Each group's decoder marks its own joints; a silent permutation would train well and score badly."""
    network = tiny(genotype="reference").network.eval()
    groups = resolve_groups("g3_dof", HEMLETS18)
    for number, name in enumerate(groups):
        decoder: Any = network.decoders[name]
        torch.nn.init.zeros_(decoder.head.conv.weight)
        bias = torch.full((len(groups[name]), 16), -20.0)
        for place in range(len(groups[name])):
            bias[place, (number * 5 + place) % 16] = 20.0
        decoder.head.conv.bias.data = bias.flatten()
    coords = network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).coords[0]
    for number, (_, joints) in enumerate(groups.items()):
        for place, joint in enumerate(joints):
            expected = ((number * 5 + place) % 16 + 0.5) / 16 - 0.5
            assert coords[HEMLETS18.index(joint), 2].item() == pytest.approx(expected, abs=1e-5)


def test_fused_heads_equal_the_plain_formulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posezoo.heatmaps._FUSED_MAP_CELLS", 1)
    monkeypatch.setattr("posezoo.heatmaps._FUSED_CELLS", 1)
    calls = []
    locate_fused = heads.locate_fused
    monkeypatch.setattr(heads, "locate_fused", lambda *args: calls.append(args) or locate_fused(*args))
    network = tiny().double().network
    for name, weight in network.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(weight)  # volumes with peaks
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    pull = torch.randn(2, 18, 3, dtype=torch.float64)
    scores, derivatives = [], []
    for network.plain in (False, True):
        scores.append(network.eval()(image).scores)
    for network.plain in (False, True):  # moves the batch norms' statistics, which scores depend on
        loss = (network.train()(image).coords * pull).sum()
        derivatives.append([loss, *torch.autograd.grad(loss, [*network.parameters()])])
    assert len(calls) == 2 * len(network.groups)  # none of them with `plain`
    torch.testing.assert_close(*scores, atol=1e-6, rtol=0)
    for of_fused, of_plain in zip(*derivatives, strict=True):
        torch.testing.assert_close(of_fused, of_plain, atol=1e-10, rtol=1e-8)


def test_groups_share_nothing_but_the_encoder() -> None:
    network = tiny().network
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    ids = [HEMLETS18.index(joint) for joint in network.groups["mid"]]
    network(image).coords[:, ids].square().sum().backward()
    touched = {
        name.split(".")[1]
        for name, p in network.named_parameters()
        if "decoders" in name and p.grad is not None and p.grad.any()
    }
    assert touched == {"mid"}
    assert any(p.grad is not None for p in network.encoder.parameters())


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "resnet18", "resnet10_w8"])
def test_encoders_hand_out_features_at_their_strides(backbone: str) -> None:
    encoder = Encoder(Backbone(backbone, centered_stride=False)).eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert [f.shape[1] for f in features] == encoder.channels
    assert [64 // f.shape[2] for f in features] == encoder.strides == [2, 4, 8, 16, 32]
    assert encoder.at_stride(16) == 3
    assert encoder.at_stride(4) == 1


def test_lateral_inputs_are_features_at_the_cells_resolution() -> None:
    network = tiny(inputs="lateral", stride=32, widths=[8, 8, 8]).network
    for decoder in network.decoders.values():
        assert decoder.laterals == [3, 2, 1]  # strides 16, 8, 4
    previous = tiny(stride=32, widths=[8, 8, 8]).network
    shapes = [p.shape for d in (network, previous) for p in d.decoders["mid"].parameters()]  # type: ignore[union-attr]
    assert len(set(shapes)) > 1
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert network(image).coords.shape == (2, 18, 3)
    first: Any = network.decoders["mid"].cells  # type: ignore[union-attr]
    assert [cell.project[0].conv.in_channels for cell in first] == [32, 16, 8]


# ---------------------------------------------------------------- soft-argmax at 64^3 (T4)


@pytest.mark.parametrize("fused", [False, True])
def test_soft_argmax_of_volumes_of_64(fused: bool) -> None:
    cells = 64

    def decode(volume: Tensor) -> Tensor:
        return soft_argmax(volume, 3, "cells", fused=fused) * cells - 0.5

    assert decode(torch.zeros(1, 64, 64, 64))[0].tolist() == pytest.approx([31.5] * 3, abs=1e-3)
    volume = torch.randn(2, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    both = decode(volume)[:, 0] + decode(volume.flip(-1))[:, 0]
    assert both.tolist() == pytest.approx([63.0, 63.0], abs=2e-3)
    peak = torch.zeros(1, 64, 64, 64)
    peak[0, 10, 20, 50] = 20.0
    assert peak.flatten().softmax(0).max().item() == pytest.approx(0.9995, abs=1e-4)
    # The uniform rest of 5e-4 pulls towards the middle: by at most 0.011 cells at 21.5 cells from it.
    assert decode(peak)[0].tolist() == pytest.approx([50, 20, 10], abs=0.0125)


# ---------------------------------------------------------------- the estimator


@pytest.mark.parametrize("arguments", [{}, {"genotype": searched(), "inputs": "lateral"}])
def test_the_estimator_keeps_the_contract(arguments: dict[str, Any]) -> None:
    check_estimator(PartAware, **(TINY | arguments))


def fit(folder: Path, *more: str) -> list[str]:
    sizes = [f"--model.{name}={value}" for name, value in TINY.items()]
    data = ["preset=easy", "frame_size=64", "train_length=8", "val_length=4", "batch_size=4", "num_workers=0"]
    return [
        "fit", "--model=PartAware", *sizes, "--data=SyntheticPeople", *(f"--data.{word}" for word in data),
        "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_steps=1",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *more, *log_to(folder, "fit"),
    ]  # fmt: skip


def test_a_checkpoint_holds_its_genotype(tmp_path: Path) -> None:
    """The genotype file may be gone, and a control is not applied twice."""
    path = tmp_path / "genotype.yaml"
    path.write_text(str(searched()))  # JSON-like dicts are YAML
    assert not main(fit(tmp_path, f"--model.genotype={path}", "--model.control=permuted"))
    path.unlink()
    restored = load_estimator(tmp_path / "fit" / "checkpoints" / "last.ckpt")
    assert isinstance(restored, PartAware)
    before = load_genotype(searched())
    assert restored.genotype.decoders["core"] == before.decoders["mid"]
    assert restored.genotype.search["control"] == "permuted"
    test = ["test", f"--ckpt_path={tmp_path / 'fit' / 'checkpoints' / 'last.ckpt'}", "--data.test_length=4"]
    assert not main([*test, "--trainer.devices=1", "--trainer.accelerator=cpu", *log_to(tmp_path, "test")])


def test_retraining_imports_no_search_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("supernet", "bilevel"):
        monkeypatch.setitem(sys.modules, f"posezoo.models.partaware.{name}", None)
    with pytest.raises(ImportError):
        PartAwareSearch(**TINY)
    assert not main(fit(tmp_path))


# ---------------------------------------------------------------- learning (T10)


@pytest.mark.slow
def test_sixteen_images_are_learnt_by_heart_in_every_group() -> None:
    """500 steps; mean error below one voxel of 16 in each group."""
    torch.manual_seed(0)
    model = tiny(widths=[32, 32], backbone="resnet10_w16", genotype=searched())
    network: PartAwareNetwork = model.network.train()
    batch = synthetic_batch(16, "hemlets18", 64)
    target, known = model.volume_targets(batch)
    target = target.clamp(-0.45, 0.45)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=500)
    for _ in range(500):
        optimizer.zero_grad()
        loss = (network(batch["image"]).coords - target).abs().where(known, 0.0).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    error = (network(batch["image"]).coords.detach() - target).abs().where(known, torch.nan) * 16
    for name, joints in network.groups.items():
        ids = [HEMLETS18.index(joint) for joint in joints]
        assert error[:, ids].nanmean() < 1.0, name
