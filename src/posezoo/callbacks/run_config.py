"""Keeps in every run folder what the run was: the full configuration, versions and the state of the source tree."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import Namespace
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger

from posezoo.callbacks.pose_metrics import run_folder, write_json
from posezoo.data.base import MODEL_OWNED

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
        name = "config" if stage == "fit" else str(getattr(stage, "value", stage))  # Lightning's stages are an enum
        config = self.config.clone()
        if config.get("data") is not None:
            config["data"] = plain(config["data"], Namespace)
        self.parser.save(config, folder / f"{name}.yaml", skip_none=False, overwrite=True, multifile=self.multifile)
        write_json(folder / "environment.json", environment())
        settings = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # its folder has the file itself
                logger.log_hyperparams(settings)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the data's class and arguments into the checkpoint, as plain values."""
        data = self.config.get("data") if "data" in self.config else None
        if data is not None:
            checkpoint["posezoo_data"] = plain(data)


def plain(value: Any, kind: Any = dict, owned: bool = False) -> Any:
    """A configuration as plain dictionaries and lists, which alone load with weights_only=True.

    Datasets inside it (the sources of `Mixed`) lose what the model owns: it reaches them from outside.

    Args:
        value: What jsonargparse has parsed.
        kind: What becomes of its namespaces.
        owned: Whether this is inside a dataset.
    """
    if isinstance(value, list | tuple):
        return [plain(item, kind, owned) for item in value]
    if isinstance(value, Namespace):
        return kind(**plain(vars(value), kind, owned))
    if not isinstance(value, dict):
        return value
    copied = {key: plain(item, kind, owned=True) for key, item in value.items()}
    arguments = copied.get("init_args")
    if owned and "class_path" in copied and arguments:
        for name in MODEL_OWNED:
            arguments.pop(name, None)
    return copied


def environment() -> dict[str, Any]:
    """Command line, versions, platform and git state."""
    return {
        "command": shlex.join(["posezoo", *sys.argv[1:]]),
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
