"""Every imported method goes through contract, command line, resuming and export: a new one is tested at once."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_cli_helpers import log_to

import posezoo.models as models
from posezoo.__main__ import main
from posezoo.models.base import PoseEstimator
from posezoo.testing import TINY, check_estimator, synthetic_batch, tiny_estimator

# Sizes that keep a method small beyond `posezoo.testing.TINY`; a method that is not here runs at its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "IntegralPose": {"width": 16, "depth_bins": 16},
    "HEMlets": {"width": 16, "feature_width": 32, "depth_bins": 16},
    "RootNet": {"width": 16},
    "PartAware": {"widths": [8, 8], "depth_bins": 16},
    "PartAwareSearch": {"widths": [8], "depth_bins": 16, "groups": "g1", "skeleton": "h36m17"},
}
METHODS = [name for name in models.__all__ if name != "PoseEstimator"]


def arguments(name: str) -> dict[str, Any]:
    return TINY | SMALL.get(name, {})


def method(name: str) -> type[PoseEstimator]:
    return PoseEstimator.known_methods()[name]


def options(name: str, folder: Path, run: str) -> list[str]:
    """Flags of a tiny run; the search takes its data as two streams."""
    model = [f"--model.{key}={json.dumps(value).replace(chr(34), '')}" for key, value in arguments(name).items()]
    people = ["preset=easy", "frame_size=64", "train_length=16", "val_length=3", "test_length=3", "batch_size=4"]
    people += ["num_workers=0"]
    if name == "PartAwareSearch":
        data = ["--data=SearchSplit", "--data.dataset=SyntheticPeople"]
        data += [f"--data.dataset.init_args.{word}" for word in people]
    else:
        data = ["--data=SyntheticPeople", *(f"--data.{word}" for word in people)]
    trainer = ["accelerator=cpu", "devices=1", "enable_progress_bar=false", "enable_model_summary=false"]
    trainer += ["log_every_n_steps=1", "callbacks+=PoseImages", "callbacks.count=0"]
    return [f"--model={name}", *model, *data, *(f"--trainer.{word}" for word in trainer), *log_to(folder, run)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a finished run of two steps of each method, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("methods"), {}
    for name in METHODS:
        assert not main(["fit", *options(name, folder, name), "--trainer.max_steps=2", "--trainer.max_epochs=-1"])
        made[name] = folder / name
    return made


@pytest.mark.parametrize("name", METHODS)
def test_the_contract_is_kept(name: str) -> None:
    if name == "PartAwareSearch":
        pytest.skip("the search trains on two batches at once; tests/models/test_partaware_search.py checks it")
    check_estimator(method(name), **arguments(name))


@pytest.mark.parametrize("name", METHODS)
def test_fit_scores_and_leaves_a_checkpoint(name: str, runs: dict[str, Path]) -> None:
    assert (runs[name] / "checkpoints" / "last.ckpt").is_file()
    with (runs[name] / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    assert len(losses) == 2
    assert all(loss == loss for loss in losses)


@pytest.mark.parametrize("command", ["validate", "test"])
@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_alone_is_scored(name: str, command: str, runs: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = runs[name] / "checkpoints" / "last.ckpt"
    assert not main([command, f"--ckpt_path={checkpoint}", *log_to(tmp_path, "run")])

    result = json.loads((tmp_path / "run" / "metrics.json").read_text())[{"validate": "val", "test": "test"}[command]]
    assert result["samples"] == 3
    assert result["root_depth_source"]
    assert result["metrics"]["mrpe"] > 0


@pytest.mark.parametrize("name", METHODS)
def test_predictions_are_written(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = runs[name] / "checkpoints" / "last.ckpt"
    assert not main(["predict", f"--ckpt_path={checkpoint}", *log_to(tmp_path, "run")])

    people = json.loads((tmp_path / "run" / "predictions.json").read_text())["people"]
    assert len(people) == 3
    assert torch.tensor([person["joints3d"] for person in people]).isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_makes_the_steps_that_are_left(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    resume = [f"--ckpt_path={runs[name] / 'checkpoints' / 'last.ckpt'}", "--trainer.max_steps=3"]
    assert not main(["fit", *options(name, tmp_path, "more"), *resume, "--trainer.max_epochs=-1"])

    state = torch.load(tmp_path / "more" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3


@pytest.mark.parametrize("name", METHODS)
def test_the_network_can_be_exported(name: str) -> None:
    if name == "PartAwareSearch":
        pytest.skip("a supernet is not what anybody deploys: PartAware is")
    torch.manual_seed(0)
    network = Tensors(tiny_estimator(method(name), **arguments(name)).eval().network)
    image = synthetic_batch(2)["image"].float() / 255
    with torch.no_grad():
        exported = torch.export.export(network, (image,)).module()
        for found, expected in zip(exported(image), network(image), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


class Tensors(torch.nn.Module):
    """A network's output as a tuple: torch.export knows nothing of our dataclasses."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(v for v in vars(self.network(image)).values() if isinstance(v, torch.Tensor))
