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
