"""Printed recipes run, wrong names get the nearest right one, and an offline wandb run is complete."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml
from tests_cli_helpers import log_to, tiny

from posezoo.__main__ import main


def test_a_printed_recipe_is_short_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*tiny(), "--trainer.max_steps=1", "--trainer.callbacks+=EMA"]
    with pytest.raises(SystemExit):
        main(["fit", *options, "--print_config=skip_default"])
    text = capsys.readouterr().out
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)

    content = yaml.safe_load(text)
    assert len(text.splitlines()) < 40
    assert "depth_bins" not in text  # what equals its default is left out
    assert content["model"]["init_args"]["backbone"] == "resnet10_w8"
    assert not main(["fit", "-c", str(recipe), *log_to(tmp_path, "run")])
    (again,) = tmp_path.glob("run/checkpoints/last.ckpt")
    assert again.is_file()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model.bakbone=resnet18"], "MeTRAbs has no argument 'bakbone': did you mean backbone"),
        (["--data.presset=easy"], "SyntheticPeople has no argument 'presset': did you mean preset?"),
        (["--trainer.max_stesp=3"], "unknown option '--trainer.max_stesp': did you mean --trainer.max_steps"),
        (["--dat.preset=easy"], "unknown option '--dat.preset': did you mean --data"),
        (["--ckpt_pth=last"], "unknown option '--ckpt_pth': did you mean --ckpt_path"),
        (["--model.optimizer=AdamW", "--model.optimizer.weight_decy=1"], "did you mean weight_decay"),
    ],
)
def test_unknown_options_name_the_nearest(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny(), *options]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1


def test_unknown_keys_of_a_recipe_name_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("trainer:\n  max_stesp: 3\n")
    assert main(["fit", "-c", str(recipe), *tiny()]) == 2
    assert "did you mean --trainer.max_steps" in capsys.readouterr().err


def test_an_offline_wandb_run_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an account or a network: configuration and metrics in wandb's file, our files in the run's folder."""
    wandb = pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    logger = ["--trainer.logger=WandbLogger", f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.project=poses"]
    try:
        assert not main(["fit", *tiny(), "--trainer.max_steps=2", *logger])
    finally:
        wandb.finish()

    (run,) = (tmp_path / "poses").iterdir()
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.json", "checkpoints"} <= names
    assert not (tmp_path / "config.yaml").exists()  # the next run would overwrite it there
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    config, history = read_wandb(file)
    assert config["data"]["init_args"]["preset"] == "easy"
    assert config["model"]["init_args"]["backbone"] == "resnet10_w8"
    logged = {key for row in history for key in row}
    assert {"train/loss", "train/skipped_steps", "val/mpjpe", "trainer/global_step"} <= logged
    (scored,) = (row["val/mpjpe"] for row in history if "val/mpjpe" in row)
    (row,) = (row for row in history if "val/poses/filenames" in row)
    assert row["trainer/global_step"] == 2
    (picture,) = (file.parent / "files" / name for name in row["val/poses/filenames"])
    assert cv2.imread(str(picture)).shape[:2] == (row["val/poses/height"], row["val/poses/width"])
    assert scored == pytest.approx(json.loads((run / "metrics.json").read_text())["val"]["metrics"]["mpjpe"], rel=1e-5)


def read_wandb(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Configuration and history of a .wandb file."""
    config: dict[str, Any] = {}
    history = []
    for record in finished_records(path):
        for update in (*record.config.update, *record.run.config.update):
            config["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if row:
            history.append(row)
    return config, history


def finished_records(path: Path, seconds: float = 30) -> list[Any]:
    """All records. wandb's own process writes the file; on a busy machine it is still at it after `wandb.finish()`."""
    from wandb.proto.wandb_internal_pb2 import Record

    end = time.monotonic() + seconds
    while True:
        records = [Record.FromString(data) for data in leveldb_records(path.read_bytes())]
        if any(record.HasField("exit") for record in records) or time.monotonic() > end:
            return records
        time.sleep(0.2)


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """LevelDB's log format with a file header of 7 bytes: blocks of 32 KiB, records of (crc, length, type, data)."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
