"""Two processes on the CPU: training runs, and its scores are those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests_cli_helpers import log_to, tiny

from posezoo.__main__ import main


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of two steps on two ranks, 5 validation samples: not divisible by the ranks."""
    folder = tmp_path_factory.mktemp("ddp")
    command = [sys.executable, "-m", "posezoo", "fit", *tiny(val_length=5, devices=2), "--trainer.max_steps=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "0"}
    result = subprocess.run(
        [*command, "--trainer.max_epochs=-1", *log_to(folder, "fit")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return folder / "fit"


def test_strategy_auto_is_ddp_with_two_devices(two_ranks: Path) -> None:
    assert (two_ranks / "checkpoints" / "last.ckpt").is_file()


def test_every_validation_sample_is_scored_once(two_ranks: Path) -> None:
    assert json.loads((two_ranks / "metrics.json").read_text())["val"]["samples"] == 5


def test_scores_equal_those_of_one_process(two_ranks: Path, tmp_path: Path) -> None:
    checkpoint = two_ranks / "checkpoints" / "last.ckpt"
    one = ["--trainer.devices=1", *log_to(tmp_path, "one")]
    assert not main(["validate", f"--ckpt_path={checkpoint}", *tiny(val_length=5)[-4:], *one])

    together = json.loads((two_ranks / "metrics.json").read_text())["val"]["metrics"]
    alone = json.loads((tmp_path / "one" / "metrics.json").read_text())["val"]["metrics"]
    assert alone == pytest.approx(together, abs=1e-3)


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of `ddp_checks.py`, two ranks under torchrun."""
    folder, script = tmp_path_factory.mktemp("torchrun"), Path(__file__).with_name("ddp_checks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "0"}
    result = subprocess.run(
        [*command, str(folder)], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return folder


EQUAL = {"abs": 1e-4, "rel": 3e-7}  # the last bits of float32 are 2e-4 mm at a distance of two metres


def score(folder: Path, stage: str) -> dict[str, float]:
    """Metrics of a run folder, with the number of samples."""
    content = json.loads((folder / "metrics.json").read_text())[stage]
    return {**content["metrics"], "samples": content["samples"]}


@pytest.mark.parametrize("n", [1, 5])
def test_fewer_or_odd_samples_give_the_numbers_of_one_process(n: int, torchrun: Path, tmp_path: Path) -> None:
    """One sample on two ranks does not hang and is not counted twice; EMA weights are scored by all commands."""
    checkpoint = torchrun / f"fit{n}" / "checkpoints" / "last.ckpt"
    alone = ["--trainer.devices=1", f"--data.val_length={n}", f"--data.test_length={n}"]
    for command, stage in (("validate", "val"), ("test", "test")):
        assert not main([command, f"--ckpt_path={checkpoint}", *tiny()[-4:], *alone, *log_to(tmp_path, command)])
        expected = score(tmp_path / command, stage)
        assert score(torchrun / f"{command}{n}", stage) == pytest.approx(expected, **EQUAL)
        assert expected["samples"] == n
    assert score(torchrun / f"fit{n}", "val") == pytest.approx(score(tmp_path / "validate", "val"), **EQUAL)


@pytest.mark.parametrize("n", [1, 5])
def test_all_ranks_validate_the_same_weights_and_buffers(n: int, torchrun: Path) -> None:
    assert json.loads((torchrun / f"buffers{n}.json").read_text())["gap"] == 0


@pytest.mark.parametrize("profile", ["paper", "modern"])
def test_a_rank_without_3d_labels_does_not_hang_the_other(profile: str, torchrun: Path) -> None:
    rows = (torchrun / f"one_sided_{profile}" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/loss")
    losses = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert len(losses) == 2


def test_bad_images_are_counted_over_all_ranks(torchrun: Path) -> None:
    """Four of eight: the two ranks met different ones."""
    first, second = ((torchrun / f"damaged-{rank}.txt").read_text() for rank in range(2))
    assert first.count("Damaged: 4 of 8 training images were bad and skipped.") == 1
    assert "bad and skipped" not in second


def test_ranks_skip_a_bad_step_together(torchrun: Path) -> None:
    for rank in range(2):
        result = json.loads((torchrun / f"guard-{rank}.json").read_text())
        skipped, moved_in_bad_step, moved_after = result["skipped"]
        assert (skipped, moved_in_bad_step) == (1, 0)
        assert moved_after > 0
        assert result["gap"] == 0
