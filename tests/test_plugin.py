"""The example plug-in, installed as a package of its own: found by name, trained, tested from its checkpoint alone."""

import os
import subprocess
import sys
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_cli_helpers import log_to, tiny

from posezoo.__main__ import main
from posezoo.models.base import PoseEstimator
from posezoo.testing import check_estimator, synthetic_batch, tiny_estimator

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "posezoo-plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the plug-in is installed into, without a network."""
    target = tmp_path_factory.mktemp("site")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def plugin(site: Path, monkeypatch: pytest.MonkeyPatch) -> type[PoseEstimator]:
    """The plug-in's class, its package installed."""
    monkeypatch.syspath_prepend(str(site))
    invalidate_caches()
    found: type[PoseEstimator] = import_module("posezoo_laplace").LaplacePose
    return found


def test_list_names_the_plug_in_and_its_package(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "plugins"]) == 0
    out = capsys.readouterr().out
    assert "LaplacePose" in out
    assert "from posezoo-laplace 0.1.0: A plug-in for posezoo" in out


def test_without_plug_ins_the_list_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "plugins"]) == 0
    assert "LaplacePose" not in capsys.readouterr().out


def test_it_keeps_the_contract(plugin: type[PoseEstimator]) -> None:
    check_estimator(plugin)


def test_it_learns_a_batch_and_knows_what_it_has_learned(plugin: type[PoseEstimator]) -> None:
    torch.manual_seed(0)
    estimator, batch = tiny_estimator(plugin), synthetic_batch(4)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=3e-3)

    def error() -> float:
        with torch.no_grad():
            found = estimator.estimate(batch).joints3d_rel
        truth = batch["joints3d"] - batch["joints3d"][:, :1]
        return float((found - truth).norm(dim=-1).mean())

    before, doubted = error(), estimator.estimate(batch).scores.mean()
    for _ in range(150):
        optimizer.zero_grad()
        terms = estimator.losses(estimator.estimate(batch), batch)
        sum(terms.values(), torch.zeros(())).backward()
        optimizer.step()
    assert error() < 0.3 * before
    assert estimator.estimate(batch).scores.mean() > doubted + 0.2


def test_a_joint_off_by_its_scale_costs_what_the_laplace_distribution_says(plugin: type[PoseEstimator]) -> None:
    estimator, batch = tiny_estimator(plugin), synthetic_batch(2)
    prediction = estimator.estimate(batch)
    prediction.joints3d_rel = batch["joints3d"] - batch["joints3d"][:, :1]
    prediction.joints3d_rel[..., 0] += 100.0  # mm, every joint
    prediction.aux["log_scale"] = torch.full((2, 17), 0.1).log()  # metres
    # |e| / b + 3 ln b = 0.1 / 0.1 + 3 ln 0.1
    assert float(estimator.losses(prediction, batch)["pose"]) == pytest.approx(1 - 3 * 2.302585, abs=1e-4)


def test_the_command_line_trains_it_by_name_and_tests_its_checkpoint_alone(plugin: Any, tmp_path: Path) -> None:
    arguments = [word for word in tiny() if word != "--model=MeTRAbs"]
    assert not main(["fit", "--model=LaplacePose", *arguments, "--trainer.max_steps=2", *log_to(tmp_path, "fit")])
    checkpoint = tmp_path / "fit" / "checkpoints" / "last.ckpt"
    assert not main(["test", f"--ckpt_path={checkpoint}", *log_to(tmp_path, "test")])
    assert (tmp_path / "test" / "metrics.json").is_file()


def test_a_mistyped_name_gets_the_plug_in_as_a_suggestion(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model=LaplacePoes", "--data=SyntheticPeople"]) == 2
    assert "LaplacePose" in capsys.readouterr().err


def test_a_broken_plug_in_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "broken-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[posezoo.plugins]\nBroken = there_is_no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["fit", "--model=MeTRAbs", "--data=SyntheticPeople"]) == 2
    message = capsys.readouterr().err
    assert "plug-in 'Broken' (there_is_no_such_module) cannot be imported" in message
    assert main(["list", "plugins"]) == 0
    assert "there_is_no_such_module, from broken 1.0" in capsys.readouterr().out


@pytest.mark.slow
def test_python_finds_it_through_a_checkpoint(site: Path, plugin: type[PoseEstimator], tmp_path: Path) -> None:
    """A fresh process that imports only posezoo: the checkpoint names a class that the entry point leads to."""
    import pytorch_lightning as pl

    estimator = tiny_estimator(plugin)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(estimator)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    code = "import sys, posezoo; print(type(posezoo.load_model(sys.argv[1])).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.ckpt")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert done.stdout.strip() == "LaplacePose", done.stderr
