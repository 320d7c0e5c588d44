"""Every imported method goes through contract, command line, DDP, resuming and export: a new one is tested at once."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import arguments, data, method, methods, options, trainer
from tests_cli_helpers import log_to
from torch.utils._python_dispatch import TorchDispatchMode

from posezoo.__main__ import main
from posezoo.testing import check_estimator, synthetic_batch, tiny_estimator

METHODS = methods()
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a finished run of three steps of each method, with a checkpoint after two of them."""
    folder, made = tmp_path_factory.mktemp("methods"), {}
    keep = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2"]
    keep += ["--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.filename=kept{step}"]
    for name in METHODS:
        steps = ["--trainer.max_steps=3", "--trainer.max_epochs=-1"]
        assert not main(["fit", *options(name, folder, name), *steps, *keep])
        made[name] = folder / name
    return made


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of fits and tests of all methods on two ranks: one start for all of them."""
    folder = tmp_path_factory.mktemp("two_ranks")
    script = [str(TESTS / "every_method_ddp.py"), str(folder)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *script]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return folder


def test_all_published_methods_are_among_them() -> None:
    assert {"HEMlets", "IntegralPose", "MeTRAbs", "PartAware", "PartAwareSearch", "RootNet"} <= {*METHODS}


def test_a_method_of_a_plug_in_joins_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed as any package with the entry point `posezoo.plugins`, and small enough for `TINY` alone."""
    source = "from posezoo.models import MeTRAbs\n\n\nclass PlugInPose(MeTRAbs):\n    '''Somebody else's.'''\n"
    (tmp_path / "posezoo_plugin.py").write_text(source)
    info = tmp_path / "posezoo_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: posezoo-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[posezoo.plugins]\nmine = posezoo_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert {*methods()} - {*METHODS} == {"PlugInPose"}
    check_estimator(method("PlugInPose"), **arguments("PlugInPose"))
    run = options("PlugInPose", tmp_path, "run")
    assert not main(["fit", *run, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"])


def losses(folder: Path) -> list[float]:
    """Training losses of a run, step by step."""
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


@pytest.mark.parametrize("name", METHODS)
def test_the_contract_is_kept(name: str) -> None:
    if name == "PartAwareSearch":
        pytest.skip("the search trains on two batches at once; tests/models/test_partaware_search.py checks it")
    check_estimator(method(name), **arguments(name))


class HostWaits(TorchDispatchMode):
    """Notes what makes the host wait for a GPU: tensors made of Python numbers, and numbers read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in ("aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero"):
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def test_waits_are_noticed() -> None:
    values = torch.arange(3.0)
    for wait in (lambda: torch.tensor([0, 1]), lambda: values[[0, 1]], lambda: bool(values.any()), values[0].item):
        with HostWaits() as waits:
            wait()
        assert waits.found, wait


@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_does_not_wait_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "PartAwareSearch":
        pytest.skip("the search trains on two batches at once, and reads its losses")
    monkeypatch.setattr("posezoo.models.hemlets.targets.check_depth_order", lambda *_: None)  # of the CPU only
    estimator = method(name)(**arguments(name)).train()
    batch = synthetic_batch(2, estimator.skeleton.name, estimator.image_size)
    with torch.inference_mode():  # what is made once shall be good for training
        estimator.losses(estimator.estimate(batch), batch)

    def step() -> None:
        estimator.on_train_batch_start(batch, 0)
        torch.stack([*estimator.losses(estimator.estimate(batch), batch).values()]).sum().backward()

    step()  # makes what is kept
    with HostWaits() as waits:
        step()
    assert not waits.found


@pytest.mark.parametrize("name", METHODS)
def test_fit_scores_and_leaves_a_checkpoint(name: str, runs: dict[str, Path]) -> None:
    assert (runs[name] / "checkpoints" / "last.ckpt").is_file()
    found = losses(runs[name])
    assert len(found) == 3
    assert all(loss == loss for loss in found)


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
    """The third step again, from the checkpoint after the second: the same loss."""
    (kept,) = (runs[name] / "checkpoints").glob("kept*.ckpt")
    resume = [f"--ckpt_path={kept}", "--trainer.max_steps=3"]
    assert not main(["fit", *options(name, tmp_path, "more"), *resume, "--trainer.max_epochs=-1"])

    state = torch.load(tmp_path / "more" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert losses(tmp_path / "more") == pytest.approx(losses(runs[name])[2:], rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_give_the_scores_of_one_process(name: str, two_ranks: Path, tmp_path: Path) -> None:
    """Five people on two ranks; the test goes one by one, for kernels round differently with who else is in a batch."""
    checkpoint = two_ranks / f"{name}-fit" / "checkpoints" / "last.ckpt"
    for command, stage, ranks, batch in (("validate", "val", "fit", 4), ("test", "test", "test", 1)):
        words = [*data(name, people=5, batch=batch), *trainer(), *log_to(tmp_path, command)]
        assert not main([command, f"--ckpt_path={checkpoint}", *words])
        together, alone = (
            json.loads((folder / "metrics.json").read_text())[stage]
            for folder in (two_ranks / f"{name}-{ranks}", tmp_path / command)
        )
        assert together["samples"] == alone["samples"] == 5
        rounding = 1e-5 if batch > 1 else 0.0
        for key in ("metrics", "mpjpe_per_joint"):
            assert together[key] == pytest.approx(alone[key], rel=rounding, abs=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_keep_one_set_of_weights(name: str, two_ranks: Path) -> None:
    """Rank 1 has no 3D labels, which must not hang rank 0; BatchNorm statistics are made equal before a validation."""
    gaps = json.loads((two_ranks / f"{name}.json").read_text())
    assert gaps["buffers_before"] > 0
    assert (gaps["validated"], gaps["weights"]) == (0, 0)


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
