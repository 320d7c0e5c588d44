"""Weights by name: the catalogue (zoo.toml), loading, saving, and the only code that touches the network.

Released weights are a folder of two files: `model.safetensors`, and `model.json` with the class, its
arguments and the checksum of the other. The class is imported by name: load folders from people you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from posezoo.errors import PoseZooError, did_you_mean

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule

    from posezoo.models.base import PoseEstimator

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "model.json"
_PACKAGE = Path(__file__).resolve().parent
# Needed to train, not to predict; `backbone_weights` would be fetched only to be overwritten by ours.
_TRAINING_ARGUMENTS = frozenset({"optimizer", "lr_scheduler", "arch_optimizer", "backbone_weights"})


@dataclass(frozen=True)
class Weights:
    """One entry of the catalogue.

    Attributes:
        name: `architecture.run`.
        file: Folder with the two files: relative to the package, or a URL.
        sha256: Checksum of `model.json`, which in turn holds that of `model.safetensors`.
        licence: SPDX name of the licence of the weights (not of the code).
        training_data: What they were trained on.
        command: The exact command that trained them.
        metrics: What we measured, by name with its unit.
    """

    name: str
    file: str
    sha256: str
    licence: str
    training_data: str
    command: str
    metrics: Mapping[str, float] = field(default_factory=dict)


def catalogue() -> dict[str, Weights]:
    """All released weights, by name."""
    entries = tomllib.loads((_PACKAGE / "zoo.toml").read_text(encoding="utf-8")).get("weights", [])
    return {entry["name"]: Weights(**entry) for entry in entries}


def list_weights(pattern: str = "*") -> list[str]:
    """Names of the released weights that match a shell pattern, such as `metrabs*`."""
    return sorted(name for name in catalogue() if fnmatchcase(name, pattern))


def load_model(name_or_path: str | os.PathLike[str]) -> PoseEstimator:
    """Load a trained estimator, on the CPU and in evaluation mode.

    Args:
        name_or_path: A name from `list_weights()`, a run's `.ckpt` file, or a folder written by `save_model`.

    Raises:
        PoseZooError: There is no such name or file, or the files do not belong together.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name in (known := catalogue()):
        return _load_folder(_folder_of(known[name]))
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        from posezoo.models.base import load_estimator

        return _frozen(load_estimator(path))
    if path.suffix == ".ckpt" or len(path.parts) > 1:
        raise PoseZooError(f"there is no file or folder '{name}': check the path after `--weights` or `load_model`.")
    raise PoseZooError(f"unknown weights '{name}': {did_you_mean(name, known)} A .ckpt file works too.")


def save_model(estimator: LightningModule, folder: str | os.PathLike[str]) -> Path:
    """Write an estimator's weights and configuration as a release folder.

    Each file replaces its predecessor in one step, the configuration last. It holds the checksum of the
    weights, so `load_model` notices a write that was interrupted between the two. Other files stay.

    Args:
        estimator: What to save; its hyperparameters must be plain.
        folder: Made when missing.

    Returns:
        The folder.

    Raises:
        TypeError: A hyperparameter is not plain (str, int, float, bool, list, dict or None).
    """
    from safetensors.torch import save_model as save_tensors

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"class_path": f"{type(estimator).__module__}.{type(estimator).__qualname__}"}
    arguments = {
        key: value
        for key, value in estimator.hparams.items()
        if not key.startswith("_") and key not in _TRAINING_ARGUMENTS
    }
    json.dumps(arguments)  # before anything is written
    _replace(folder / WEIGHTS_FILE, lambda path: save_tensors(estimator, str(path)))
    document = config | {"init_args": arguments, "sha256": _sha256(folder / WEIGHTS_FILE)}
    text = json.dumps(document, indent=2) + "\n"
    _replace(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return folder


def _replace(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its target, then move it there in one step."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp's files are private
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _frozen(estimator: PoseEstimator) -> PoseEstimator:
    estimator.eval()
    return estimator


def _load_folder(folder: Path) -> PoseEstimator:
    from safetensors import SafetensorError
    from safetensors.torch import load_model as load_tensors

    weights = folder / WEIGHTS_FILE
    for file in (weights, folder / CONFIG_FILE):
        if not file.is_file():
            raise PoseZooError(
                f"{folder} has no {file.name}: give the folder that `save_model` wrote, or a .ckpt file."
            )
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if "sha256" in config and config["sha256"] != _sha256(weights):
        raise PoseZooError(
            f"{weights} does not belong to its {CONFIG_FILE} (checksums differ): save or copy both again."
        )
    estimator = _find_class(config["class_path"])(**config["init_args"])
    try:
        load_tensors(estimator, weights)
    except (RuntimeError, SafetensorError) as error:
        raise PoseZooError(f"{weights} does not fit {config['class_path']}: {_reason(error)}") from error
    return _frozen(estimator)


def _find_class(class_path: str) -> type[PoseEstimator]:
    from pytorch_lightning import LightningModule

    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PoseZooError(
            f"the weights need the class {class_path}, which this posezoo lacks ({error}): "
            "type `pip install --upgrade posezoo`, or install the plug-in it comes from."
        ) from error
    if not (isinstance(found, type) and issubclass(found, LightningModule)):
        raise PoseZooError(f"{CONFIG_FILE} names {class_path}, which is not a model: check its class_path.")
    return found


def _folder_of(entry: Weights) -> Path:
    """Local folder of a catalogue entry: in the package, or downloaded once to the cache."""
    if not urlsplit(entry.file).scheme:
        folder = _PACKAGE / entry.file
    else:
        folder = _cache() / entry.name
        if not (folder / CONFIG_FILE).is_file():
            _download(entry, folder)
    if _sha256(folder / CONFIG_FILE) != entry.sha256:
        raise PoseZooError(f"{folder} is not what the catalogue describes (checksums differ): delete it and try again.")
    return folder


def _cache() -> Path:
    return Path(os.environ.get("POSEZOO_HOME", Path.home() / ".cache" / "posezoo"))


def _download(entry: Weights, folder: Path) -> None:
    """Fetch an entry's two files; the configuration last: its presence says that both are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        url = f"{entry.file.rstrip('/')}/{file}"
        try:
            with urlopen(url, timeout=60) as response:
                _replace(folder / file, partial(_pour, response))
        except URLError as error:
            raise PoseZooError(
                f"cannot fetch {url} ({error.reason}): download {WEIGHTS_FILE} and {CONFIG_FILE} "
                "on another machine and give their folder."
            ) from error


def _pour(source: Any, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(source, file)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    """The line of an error that says something: PyTorch puts a heading before what does not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[1] if lines[0].startswith("Error(s) in loading") and len(lines) > 1 else lines[0]
