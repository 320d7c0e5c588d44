"""Keeps in every run folder what the run was: the full configuration, versions and the state of the source tree."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import SaveConfigCallback

from posezoo.callbacks.pose_metrics import run_folder, write_json

PACKAGES = ("posezoo", "torch", "pytorch-lightning", "torchmetrics", "timm", "numpy", "albumentations")


class SaveRunConfig(SaveConfigCallback):
    """Writes `<command>.yaml` (re-runs as it is) and `environment.json` into the run folder.

    Checkpoints of a run also name their data, so that a checkpoint alone is enough to test.
    """

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Write both files, once, on the main process."""
        if trainer.fast_dev_run or not trainer.loggers:
            return  # without a logger there is no run folder
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        name = "config" if stage == "fit" else stage
        self.parser.save(
            self.config, folder / f"{name}.yaml", skip_none=False, overwrite=True, multifile=self.multifile
        )
        write_json(folder / "environment.json", environment())

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the data's class and arguments into the checkpoint, as plain values."""
        data = self.config.get("data") if "data" in self.config else None
        if data is not None:
            checkpoint["posezoo_data"] = data.as_dict() if hasattr(data, "as_dict") else dict(data)


def environment() -> dict[str, Any]:
    """Versions, platform and git state."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the source tree that posezoo runs from, and whether it has changes; None outside a checkout."""
    folder = Path(__file__).parent

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "."))}
    except (OSError, subprocess.SubprocessError):
        return None
