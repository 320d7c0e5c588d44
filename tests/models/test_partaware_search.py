"""The search: mixtures, the gradient of the architecture, a run from search to retraining, resuming, memory."""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from tests_cli_helpers import log_to
from torch import Tensor, nn
from torch.func import functional_call

from posezoo.__main__ import main
from posezoo.errors import PoseZooError
from posezoo.models import PartAwareSearch
from posezoo.models.base import load_estimator
from posezoo.models.partaware.bilevel import first_order, second_order
from posezoo.models.partaware.cells import FixedCell
from posezoo.models.partaware.genotype import Genotype, derive_cell, edge_list, load_genotype
from posezoo.models.partaware.operations import NONE, OPERATIONS
from posezoo.models.partaware.supernet import (
    ArchParameters,
    MixedEdge,
    SearchCell,
    SuperNetwork,
    agreement,
    operation_macs,
    statistics,
)
from posezoo.testing import check_estimator, synthetic_batch

NAMES = list(OPERATIONS)
TINY: dict[str, Any] = {
    "backbone": "resnet10_w8", "image_size": 64, "stride": 16, "depth_bins": 16, "widths": [8, 8], "skeleton": "h36m17",
}  # fmt: skip


def tiny(**arguments: Any) -> PartAwareSearch:
    torch.manual_seed(0)
    return PartAwareSearch(**(TINY | arguments))


# ---------------------------------------------------------------- mixtures


def test_an_edge_mixes_the_first_channels_and_lets_the_others_pass() -> None:
    edge, x = MixedEdge(8, 4, NAMES).eval(), torch.randn(2, 8, 5, 5)
    weights = torch.rand(8).softmax(0)
    used = [n for n, name in enumerate(NAMES) if name != NONE]
    mixed = sum(weights[n] * op(x[:, :2]) for n, op in zip(used, edge.operations, strict=True))
    expected = torch.cat([mixed, x[:, 2:]], 1)
    shuffled = expected.view(2, 4, 2, 5, 5).transpose(1, 2).reshape(2, 8, 5, 5)
    assert torch.allclose(edge(x, weights), shuffled, atol=1e-6)


def test_a_decided_search_cell_is_the_derived_cell() -> None:
    """With all weight on one operation of two edges into each node, the mixture computes what the genotype says."""
    torch.manual_seed(0)
    cell = SearchCell((3, 5), 8, 3, 1, NAMES).eval()
    alpha, beta = torch.randn(9, 8), torch.randn(9)
    alpha[:, NAMES.index(NONE)] = -1.0
    derived = derive_cell(alpha, beta, NAMES)
    weights, shares = torch.zeros(9, 8), torch.zeros(9)
    fixed = FixedCell((3, 5), 8, derived).eval()
    fixed.project.load_state_dict(cell.project.state_dict(), strict=False)
    operations: Any = fixed.nodes
    for number, node in enumerate(derived):
        for place, choice in enumerate(node):
            e = edge_list(3).index((choice.source, number + 3))
            column = NAMES.index(choice.op)
            weights[e, column] = shares[e] = 1.0
            source = cell.edges[e].operations[column - 1]  # type: ignore[index, union-attr]  # `none` has no module
            operations[number][place].load_state_dict(source.state_dict(), strict=False)
    first, second = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    with torch.no_grad():
        assert torch.allclose(cell(first, second, (8, 8), weights, shares), fixed(first, second, (8, 8)), atol=1e-4)


def test_weights_are_shares() -> None:
    arch = ArchParameters(["a/0", "a/1"], 3, 8)
    weights, edges = arch.weights("a/1")
    assert torch.allclose(weights.sum(1), torch.ones(9))
    assert torch.allclose(torch.stack([edges[e].sum() for e in arch.into]), torch.ones(3))
    plain, ones = ArchParameters(["a/0"], 3, 8, edge_weights=False).weights("a/0")
    assert torch.equal(ones, torch.ones(9))
    assert plain.sub(1 / 8).abs().max() < 1e-3


def test_gumbel_noise_is_for_training_only() -> None:
    arch = ArchParameters(["a/0"], 3, 8, relaxation="gumbel", temperature=0.5)
    first, second = arch.weights("a/0")[0], arch.weights("a/0")[0]
    assert not torch.equal(first, second)
    assert torch.allclose(first.sum(1), torch.ones(9))
    arch.eval()
    assert torch.equal(arch.weights("a/0")[0], arch.alpha["a/0"].softmax(-1))


def test_left_and_right_limbs_and_shared_cells_have_one_architecture() -> None:
    network = tiny(groups="g5_limbs").network
    assert len(network.arch.alpha) == 3 * 2
    derived = network.derive()
    assert derived["l_arm"] == derived["r_arm"]
    shared = tiny(share_cells=True).network
    assert len(shared.arch.alpha) == 3
    assert len(set(shared.derive()["core"])) == 1


def test_statistics_of_flat_and_of_decided_architectures() -> None:
    network = tiny().network
    found = statistics(network)
    assert found["entropy"] == pytest.approx(1.0, abs=1e-4)
    assert found["none"] == pytest.approx(1 / 8, abs=1e-3)
    for alpha in network.arch.alpha.values():
        alpha.data[:, NAMES.index("skip_connect")] = 20.0
    found = statistics(network)
    assert found["entropy"] < 1e-3
    assert found["skip"] == found["skip_mid"] == pytest.approx(1.0, abs=1e-4)


def test_expected_macs_by_hand() -> None:
    model = tiny(groups="g1", widths=[8])
    network = model.network
    for p in network.arch.parameters():
        p.data.zero_()
    assert network.expected_macs(64).item() == pytest.approx(1.0)
    table = operation_macs(tuple(NAMES), 8, 16)
    assert table[NAMES.index("sep_conv_3x3")] == 2 * (8 * 9 + 8 * 8) * 256
    for alpha in network.arch.alpha.values():
        alpha.data[:, NAMES.index("sep_conv_5x5")] = 30.0
    expected = max(table) / (sum(table) / 8)
    assert network.expected_macs(64).item() == pytest.approx(expected, rel=1e-5)


def test_agreement_is_the_share_of_equal_edges() -> None:
    model = tiny(groups="g1", widths=[8])
    first = model.genotype()
    assert agreement(first, first) == 1
    content = copy.deepcopy(first.as_dict())
    edge = content["decoders"]["all"][0]["nodes"][0][0]
    edge["op"] = "dil_conv_3x3" if edge["op"] != "dil_conv_3x3" else "sep_conv_3x3"
    assert agreement(first, load_genotype(content)) == pytest.approx(5 / 6)


# ---------------------------------------------------------------- the architecture's gradient (T6)


class Toy(nn.Module):
    """A smooth mixture of two layers, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        share = alpha.softmax(0)
        mixed = share[0] * nn.functional.silu(self.first(x)) + share[1] * self.second(x).tanh()
        return self.last(mixed)  # type: ignore[no-any-return]


def toy() -> tuple[Any, Any, dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net, alpha = Toy().double(), torch.tensor([0.1, -0.2], dtype=torch.float64, requires_grad=True)
    data = [torch.randn(16, n, generator=g, dtype=torch.float64) for n in (4, 2, 4, 2)]

    def loss(x: Tensor, y: Tensor) -> Any:
        return lambda w: (functional_call(net, dict(w), (x, alpha)) - y).square().mean()

    return loss(*data[:2]), loss(*data[2:]), dict(net.named_parameters()), alpha


def differenced(
    train: Any, arch: Any, weights: dict[str, Tensor], alpha: Tensor, xi: float, numerator: float
) -> Tensor:
    """The finite-difference formula of DARTS."""
    step = torch.autograd.grad(train(weights), list(weights.values()))
    ahead = {k: (w - xi * g).detach().requires_grad_() for (k, w), g in zip(weights.items(), step, strict=True)}
    d_alpha, *d_w = torch.autograd.grad(arch(ahead), [alpha, *ahead.values()])
    epsilon = numerator / torch.cat([g.flatten() for g in d_w]).norm()
    moved = [{k: w + s * epsilon * g for (k, w), g in zip(weights.items(), d_w, strict=True)} for s in (1, -1)]
    at = [torch.autograd.grad(train(at_end), alpha)[0] for at_end in moved]
    return d_alpha - xi * (at[0] - at[1]) / (2 * epsilon)


@pytest.mark.parametrize("xi", [0.01, 0.5])
def test_the_second_order_is_exact(xi: float) -> None:
    train, arch, weights, alpha = toy()
    (exact,), loss = second_order(train, arch, weights, [alpha], xi)
    expected = differenced(train, arch, weights, alpha, xi, 1e-5)
    assert ((exact - expected).norm() / expected.norm()).item() < 1e-6
    (first,) = first_order(arch(weights), [alpha])
    assert (first - exact).norm() > 1e-4 * exact.norm()  # there is something to be exact about
    if xi == 0.01:
        assert nn.functional.cosine_similarity(first, exact, dim=0) > 0.95
    step = torch.autograd.grad(train(weights), list(weights.values()))
    ahead = {k: w - xi * g for (k, w), g in zip(weights.items(), step, strict=True)}
    assert loss == arch(ahead)


def test_the_network_can_be_differentiated_twice() -> None:
    """Through the whole search network, against finite differences of the loss one step ahead."""
    model = tiny(order=2, groups="g1", widths=[4], depth_bins=4, backbone="resnet10_w8").double().eval()
    for p in model.network.arch.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    network: SuperNetwork = model.network
    for layer in model.modules():  # no kinks, so that differences mean something
        if hasattr(layer, "inplace"):
            layer.inplace = False
    train, arch = (synthetic_batch(2, "h36m17", 64, seed=seed) for seed in (1, 2))
    streams = [{k: v.double() if v.is_floating_point() else v for k, v in b.items()} for b in (train, arch)]  # type: ignore[attr-defined]
    losses = [lambda w, b=b: model._loss(b, w) for b in streams]
    parameters = model.arch_parameters()
    gradients, _ = second_order(losses[0], losses[1], model.weights(), parameters, 1e-3)
    assert all(g.isfinite().all() for g in gradients)
    assert max(float(g.abs().max()) for g in gradients) > 0
    first = first_order(model._loss(streams[1]), parameters)  # type: ignore[arg-type]
    a, b = (torch.cat([g.flatten() for g in gs]) for gs in (gradients, first))
    assert nn.functional.cosine_similarity(a, b, dim=0) > 0.5
    assert not torch.equal(a, b)
    assert network.plain


# ---------------------------------------------------------------- the estimator


@pytest.mark.parametrize("arguments", [{}, {"inputs": "lateral", "partial_k": 2, "edge_weights": False, "nodes": 2}])
def test_the_estimator_keeps_the_contract(arguments: dict[str, Any]) -> None:
    check_estimator(PartAwareSearch, **(TINY | arguments))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"groups": "g3_doff"}, "--model.groups has no preset"),
        ({"operations": ["none", "sep_conv_7x7"]}, "unknown 'sep_conv_7x7': did you mean sep_conv"),
        ({"operations": ["none", "skip_connect"]}, "a convolution among them"),
        ({"nodes": 0}, "--model.nodes"),
        ({"partial_k": 3}, "--model.partial_k must be 1, 2 or 4"),
        ({"widths": [8, 10]}, "multiples of --model.partial_k 4, got 10"),
        ({"relaxation": "gumble"}, "did you mean gumbel"),
        ({"relaxation": "gumbel", "temperature": 0.0}, "--model.temperature"),
        ({"order": 3}, "--model.order must be 1 or 2"),
        ({"arch_warmup": -1}, "--model.arch_warmup must not be negative"),
        ({"lookahead": 0.0}, "--model.lookahead must be positive"),
        ({"order": 2, "recompute": True}, "set --model.recompute false"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError) as error:
        tiny(**arguments)
    assert sentence in str(error.value)


SMALL = ["--model.groups=g1", "--model.widths=[8]", "--trainer.callbacks+=PoseImages", "--trainer.callbacks.count=0"]


def search(folder: Path, name: str, *more: str, epochs: int = 3) -> list[str]:
    """Two batches of four in each epoch; the architecture learns from the second epoch on."""
    sizes = [f"--model.{key}={value}" for key, value in (TINY | {"arch_warmup": 1}).items()]
    people = ["preset=easy", "frame_size=64", "train_length=16", "val_length=4", "batch_size=4"]
    return [
        "fit", "--model=PartAwareSearch", *sizes, "--data=SearchSplit", "--data.dataset=SyntheticPeople",
        *(f"--data.dataset.{word}" for word in people), "--data.num_workers=0", f"--trainer.max_epochs={epochs}",
        "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *more, *log_to(folder, name),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    options = ["--model.arch_optimizer=Adam", "--model.arch_optimizer.lr=0.3", "--model.cost_weight=0.02"]
    assert not main(search(folder, "search", *options))
    return folder / "search"


def rows(folder: Path) -> list[dict[str, str]]:
    head, *lines = (folder / "metrics.csv").read_text().splitlines()
    return [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]


def test_a_search_writes_its_genotypes(run: Path) -> None:
    genotype = load_genotype(str(run / "genotype.yaml"))
    assert genotype.preset == "g3_dof"
    assert genotype.sizes == (8, 16)
    found = genotype.search
    assert (found["epoch"], found["seed"], found["partial_k"]) == (2, 0, 4)
    assert "SyntheticPeople" in found["data"]
    assert "last 0.5" in found["data"]
    names = {path.name for path in (run / "genotypes").iterdir()}
    assert names == {f"epoch{epoch:03d}.{kind}" for epoch in range(3) for kind in ("yaml", "svg", "pt")}
    best = load_genotype(str(run / "genotype_best.yaml"))
    assert best.search["best_so_far"]
    first = yaml.safe_load((run / "genotypes" / "epoch000.yaml").read_text())["search"]
    assert not first["best_so_far"]  # before the architecture has learnt
    assert first["verdict"].startswith("noise: the architecture has not been trained yet")
    losses = [load_genotype(str(run / "genotypes" / f"epoch00{e}.yaml")).search["validation_loss"] for e in (1, 2)]
    assert best.search["validation_loss"] == min(losses)


def test_the_genotype_is_derived_again_from_the_saved_parameters(run: Path) -> None:
    saved = torch.load(run / "genotypes" / "epoch002.pt", weights_only=True)
    genotype = load_genotype(str(run / "genotypes" / "epoch002.yaml"))
    for group, cells in genotype.decoders.items():
        for number, cell in enumerate(cells):
            assert derive_cell(saved[f"alpha.{group}/{number}"], saved[f"beta.{group}/{number}"], NAMES) == cell


def test_a_search_logs_how_decided_it_is_and_every_group(run: Path) -> None:
    found = [row for row in rows(run) if row.get("arch/entropy")]
    assert len(found) == 3
    for key in (
        "arch/none",
        "arch/skip",
        "arch/skip_distal",
        "val/loss",
        "val/loss_core",
        "val/loss_distal",
        "val/mpjpe",
    ):
        assert all(math.isfinite(float(row[key])) for row in found), key
    entropies = [float(row["arch/entropy"]) for row in found]
    assert entropies[0] > 0.999 > entropies[1] > entropies[2]  # frozen in the first epoch
    assert [bool(row["train/arch_loss"]) for row in rows(run) if row["train/loss"]] == [False] * 2 + [True] * 4
    shares = {"core": 9, "mid": 4, "distal": 4}
    for row in found:
        mean = sum(count * float(row[f"val/loss_{name}"]) for name, count in shares.items()) / 17
        assert float(row["val/loss"]) == pytest.approx(mean, rel=1e-4)


def test_what_was_found_can_be_trained_and_tested(run: Path, tmp_path: Path) -> None:
    sizes = [f"--model.{key}={value}" for key, value in TINY.items()]
    command = [
        "fit",
        "--model=PartAware",
        f"--model.genotype={run / 'genotype.yaml'}",
        *sizes,
        "--data=SyntheticPeople",
    ]
    people = ["preset=easy", "frame_size=64", "train_length=8", "val_length=4", "batch_size=4", "num_workers=0"]
    options = ["--trainer.accelerator=cpu", "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]
    assert not main([*command, *(f"--data.{word}" for word in people), *options, *log_to(tmp_path, "fit")])
    model: Any = load_estimator(tmp_path / "fit" / "checkpoints" / "last.ckpt")
    assert model.genotype.hash == load_genotype(str(run / "genotype.yaml")).hash


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_demo_searches_derives_and_retrains(tmp_path: Path) -> None:
    """The two commands of the README, whole: four minutes on two idle cores, 219 mm against 285."""
    cache = f"{tmp_path}/cache"
    assert not main(
        ["fit", "-c", "partaware/demo_search_synthetic", f"--data.dataset.root={cache}", *log_to(tmp_path, "found")]
    )
    found = f"--model.genotype={tmp_path / 'found' / 'genotype.yaml'}"
    assert not main(
        ["fit", "-c", "partaware/demo_synthetic", found, f"--data.root={cache}", *log_to(tmp_path, "trained")]
    )
    scores = json.loads((tmp_path / "trained" / "metrics.json").read_text())["val"]
    print(f"MPJPE {scores['metrics']['mpjpe']:.0f} mm, mean pose {scores['mean_pose']['mpjpe']:.0f} mm")
    assert scores["metrics"]["mpjpe"] < 0.85 * scores["mean_pose"]["mpjpe"]


def test_a_search_goes_on_exactly_where_it_stopped(tmp_path: Path) -> None:
    """Stopped in the middle of the second epoch, at its fourth optimiser step."""
    options = [*SMALL, "--model.arch_optimizer=Adam", "--model.optimizer=Adam", "--model.lr_scheduler=LinearLR"]
    assert not main(search(tmp_path, "whole", *options, "--trainer.max_steps=8"))
    assert not main(search(tmp_path, "half", *options, "--trainer.max_steps=4"))
    checkpoint = f"--ckpt_path={tmp_path / 'half' / 'checkpoints' / 'last.ckpt'}"
    assert not main(search(tmp_path, "rest", *options, "--trainer.max_steps=8", checkpoint))
    whole, rest = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "rest")
    )
    assert whole["global_step"] == rest["global_step"] == 8
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, rest["state_dict"][key]), key
    genotypes = [load_genotype(str(tmp_path / name / "genotype.yaml")) for name in ("whole", "rest")]
    assert genotypes[0] == genotypes[1]
    assert whole["partaware_search"] == rest["partaware_search"]


@pytest.mark.parametrize("more", [["--model.order=2", "--model.lookahead=0.01"], ["--model.relaxation=gumbel"]])
def test_the_other_ways_to_search_run(more: list[str], tmp_path: Path) -> None:
    assert not main(
        search(tmp_path, "run", *more, "--trainer.max_steps=6", "--model.groups=g1", "--model.arch_warmup=0")
    )
    entropies = [float(row["arch/entropy"]) for row in rows(tmp_path / "run") if row.get("arch/entropy")]
    assert all(0.99 < entropy <= 1.0 for entropy in entropies)


def test_a_search_says_noise_in_plain_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not main(search(tmp_path, "run", *SMALL, epochs=2))
    assert "It is noise: operations still weigh alike (normalised entropy 1.000 > 0.95)" in capsys.readouterr().out
    assert load_genotype(str(tmp_path / "run" / "genotype.yaml")).search["verdict"].startswith("noise")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--model.arch_warmup=3"], "--model.arch_warmup 3 leaves none of the 3 epochs"),
        (
            ["--data=SyntheticPeople", "--data.batch_size=4", "--data.preset=easy", "--data.train_length=8"],
            "two streams",
        ),
    ],
)
def test_runs_that_cannot_search_are_refused(
    more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = search(tmp_path, "run", *SMALL[:2], *more)
    if any(word.startswith("--data=Synth") for word in more):
        arguments = [w for w in arguments if "--data.dataset" not in w and w != "--data=SearchSplit"]
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_schedules_that_wait_for_a_score_are_refused() -> None:
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    with pytest.raises(PoseZooError, match="cannot wait for a plateau"):
        tiny(optimizer=torch.optim.SGD, lr_scheduler=plateau).configure_optimizers()


def test_a_search_that_collapses_to_identities_stops(capsys: pytest.CaptureFixture[str]) -> None:
    """Two epochs in a row; one with fewer identities starts the count again, and warm-up does not count."""
    model = tiny(skip_patience=2, arch_warmup=1)
    trainer = SimpleNamespace(should_stop=False, is_global_zero=True, current_epoch=0)
    model._trainer = trainer  # type: ignore[assignment]
    skip = NAMES.index("skip_connect")

    def prefer(value: float, epoch: int) -> int:
        trainer.current_epoch = epoch
        for alpha in model.network.arch.alpha.values():
            alpha.data[:, skip] = value
        return model._watch_skips()

    assert prefer(9.0, epoch=0) == 5  # of six: one always gets a convolution
    assert prefer(9.0, epoch=1) == 5
    assert prefer(-9.0, epoch=2) == 0
    assert prefer(9.0, epoch=3) == 5
    assert not trainer.should_stop
    prefer(9.0, epoch=4)
    assert trainer.should_stop
    assert "would win 5 edges of a cell for 2 epochs" in capsys.readouterr().out


# ---------------------------------------------------------------- memory (T12)


def saved_bytes(model: PartAwareSearch, batch: Any) -> int:
    """Bytes that the backward pass keeps besides parameters; shared memory counts once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.losses(model.estimate(batch), batch)["volume"]
    total = sum(kept.values())
    del loss  # all that was kept lived until here, so no address was used twice
    return total


def test_a_search_keeps_less_than_450_mib_an_image() -> None:
    """Measured: 431 MiB at C = 64, k = 4, float32, with the encoder."""
    model = PartAwareSearch().train()
    parameters = sum(p.numel() for p in model.network.parameters())
    assert parameters / 1e6 == pytest.approx(3.3, abs=0.05)
    mib = saved_bytes(model, synthetic_batch(2, "hemlets18", 256)) / 2 / 2**20
    assert 300 < mib <= 450


def test_recomputed_cells_keep_less_than_half_of_it() -> None:
    """Measured: 202 MiB; what the finest cells keep is their input."""
    model = PartAwareSearch(recompute=True).train()
    assert saved_bytes(model, synthetic_batch(2, "hemlets18", 256)) / 2 / 2**20 < 431 / 2


def test_recomputing_changes_neither_gradients_nor_statistics() -> None:
    batch = synthetic_batch(2, "h36m17", 64)
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = tiny(widths=[8, 8], recompute=recompute).train()
        model.losses(model.estimate(batch), batch)["volume"].backward()
        found = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
        results.append(found | dict(model.named_buffers()))
    for name, value in results[0].items():
        assert (value is None) == (results[1][name] is None), name
        assert value is None or torch.equal(value, results[1][name]), name


# ---------------------------------------------------------------- specialisation (T11)


def test_the_genotype_type_is_public() -> None:
    assert isinstance(tiny().genotype(note="x"), Genotype)
    assert tiny().genotype(note="x").search["note"] == "x"
