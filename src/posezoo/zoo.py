"""Weights by name: the catalogue (zoo.toml), loading and saving.

Released weights are a folder: `model.safetensors`, `model.json` with the class, its arguments, the checksum of the
other and what a user should know, and beside them `golden.safetensors` (an input with the poses that belong to it) and
a model card. Nothing in it is a pickle, and only classes of posezoo and of installed plug-ins are made from it.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from posezoo import __version__
from posezoo.disk import disk_errors, replace_file
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.fetch import HUB_PREFIX, fetch, fetch_hub, offline, sha256
from posezoo.light import predict_only

if TYPE_CHECKING:
    from torch import nn

    from posezoo.models.base import PoseEstimator

WEIGHTS_FILE, CONFIG_FILE, GOLDEN_FILE, CARD_FILE = "model.safetensors", "model.json", "golden.safetensors", "README.md"
_PACKAGE = Path(__file__).resolve().parent
CATALOGUE_FILE = _PACKAGE / "zoo.toml"
# Needed to train, not to predict; `backbone_weights` would be fetched only to be overwritten by ours.
_TRAINING_ARGUMENTS = frozenset({"optimizer", "lr_scheduler", "arch_optimizer", "backbone_weights"})
_MACHINE_ARGUMENTS = frozenset({"root", "cache", "num_workers"})  # of a dataset: of one machine, not of the weights

StoredType = Literal["float32", "float16"]


@dataclass(frozen=True)
class Measurement:
    """Scores of released weights, as measured by us.

    Attributes:
        on: Dataset, split, number of samples and protocol, in one line.
        command: What was typed to measure them.
        values: Metric with its unit -> value.
    """

    on: str
    command: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Weights:
    """One entry of the catalogue.

    Attributes:
        name: `method_backbone.data_v1`.
        architecture: Method, backbone and input size, in words.
        parameters: Number of them.
        source: Folder of the files: relative to the package, a URL, or `hf-hub:org/name@revision`.
        sha256: Checksum of `model.json`, which in turn holds those of the other files.
        size: Bytes of `model.safetensors`.
        skeleton: What is predicted.
        preprocessing: What goes in, in words.
        recipe: Name of the recipe that they were trained with.
        data: What they were trained on.
        licence: SPDX name of the licence of the weights (not of the code), or the authors' terms.
        command: What was typed to train them.
        note: Size of the claim: "small variant ...".
        metrics: What we measured.
    """

    name: str
    architecture: str
    parameters: int
    source: str
    sha256: str
    size: int
    skeleton: str
    preprocessing: str
    recipe: str
    data: str
    licence: str
    command: str
    note: str = ""
    metrics: tuple[Measurement, ...] = field(default_factory=tuple)

    @property
    def bundled(self) -> bool:
        """Whether the files are part of the package."""
        return not self.source.startswith(HUB_PREFIX) and not urlsplit(self.source).scheme


def catalogue() -> dict[str, Weights]:
    """All released weights, by name."""
    entries = tomllib.loads(CATALOGUE_FILE.read_text(encoding="utf-8")).get("weights", [])
    return {entry["name"]: _entry(entry) for entry in entries}


def _entry(table: Mapping[str, Any]) -> Weights:
    return Weights(**{**table, "metrics": tuple(Measurement(**row) for row in table.get("metrics", ()))})


def list_weights(pattern: str = "*") -> list[str]:
    """Names of the released weights that match a shell pattern, such as `metrabs*`."""
    return sorted(name for name in catalogue() if fnmatchcase(name, pattern))


# ------------------------------------------------------------------------------------------------------- finding


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder or `.ckpt` file that a name, hub id or path stands for; fetched once, and checked.

    Args:
        name_or_path: A name from `list_weights()`, `hf-hub:org/name@revision`, a folder written by `save_model` (or a
            file in it), or a run's `.ckpt` file.

    Raises:
        PoseZooError: There is no such thing, it cannot be fetched, or it is not what the catalogue describes.
    """
    name = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and name in (known := catalogue()):
        return _folder_of(known[name])
    if name.startswith(HUB_PREFIX):
        return fetch_hub(name, (CONFIG_FILE, WEIGHTS_FILE))
    path = Path(name).expanduser()
    if path.name in (WEIGHTS_FILE, CONFIG_FILE) and path.is_file():
        return path.parent
    if path.exists():
        return path
    if path.suffix in (".ckpt", ".pt", ".pth", ".safetensors") or len(path.parts) > 1:
        raise PoseZooError(f"there is no file or folder '{name}': check the path after `--weights` or `load_model`.")
    hint = did_you_mean(name, catalogue())
    raise PoseZooError(
        f"unknown weights '{name}': {hint} A .ckpt file, a folder and {HUB_PREFIX}ORGANISATION/NAME@REVISION work too."
    )


def cache_folder(name: str) -> Path:
    """Where a catalogue entry is kept after its download: below POSEZOO_HOME, by default ~/.cache/posezoo."""
    home = os.environ.get("POSEZOO_HOME") or Path.home() / ".cache" / "posezoo"
    return Path(home).expanduser() / "weights" / name


def local_folder(entry: Weights) -> Path | None:
    """Where an entry lies on this machine; None before its download (the hub's files are in the hub's cache)."""
    folder = _PACKAGE / entry.source if entry.bundled else cache_folder(entry.name)
    return folder if (folder / WEIGHTS_FILE).is_file() else None


def _folder_of(entry: Weights) -> Path:
    """Local folder of a catalogue entry, checked: in the package, or fetched once."""
    if entry.source.startswith(HUB_PREFIX):
        folder = fetch_hub(entry.source, (CONFIG_FILE, WEIGHTS_FILE))
    elif entry.bundled:
        folder = _PACKAGE / entry.source
    else:
        folder = cache_folder(entry.name)
        _download(entry, folder)
    config = folder / CONFIG_FILE
    if not config.is_file():
        raise PoseZooError(f"{folder} has no {CONFIG_FILE}: type `pip install --force-reinstall --no-deps posezoo`.")
    if sha256(config) != entry.sha256:
        raise PoseZooError(f"{folder} is not what the catalogue describes (checksums differ): delete it and try again.")
    return folder


def _download(entry: Weights, folder: Path) -> None:
    """Fetch an entry's two files where they are missing; the weights last: their presence says that both are there."""
    from filelock import FileLock

    if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        return
    switch = offline()
    if switch is not None:
        raise PoseZooError(
            f"{entry.name} is not in {folder} and {switch} is set: unset it, or type `posezoo download {entry.name}` "
            "where there is a network and copy that folder here."
        )
    print(f"Fetching {entry.name} ({entry.size / 2**20:.1f} MiB) from {entry.source}", file=sys.stderr)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # the ranks of a run, or two commands at once
            base = entry.source.rstrip("/")
            if not (folder / CONFIG_FILE).is_file() or sha256(folder / CONFIG_FILE) != entry.sha256:
                fetch(f"{base}/{CONFIG_FILE}", folder / CONFIG_FILE, entry.sha256)
            if not (folder / WEIGHTS_FILE).is_file():
                checksum = _parse_config(folder / CONFIG_FILE).get("sha256")
                fetch(f"{base}/{WEIGHTS_FILE}", folder / WEIGHTS_FILE, checksum)


# ------------------------------------------------------------------------------------------------------- loading


def load_model(name_or_path: str | os.PathLike[str]) -> PoseEstimator:
    """Load a trained estimator, on the CPU, in float32 and in evaluation mode.

    Args:
        name_or_path: A name from `list_weights()`, `hf-hub:org/name@revision`, a folder written by `save_model`, or a
            run's `.ckpt` file.

    Raises:
        PoseZooError: There is no such name or file, or the files do not belong together.
    """
    path = locate(name_or_path)
    if path.is_dir():
        return _load_folder(path)
    from posezoo.models.base import load_estimator

    estimator = load_estimator(path)
    estimator.eval()
    return estimator


def read_config(folder: Path) -> dict[str, Any]:
    """What `model.json` of a folder of weights says.

    Raises:
        PoseZooError: One of the two files is missing, or this one is damaged.
    """
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise PoseZooError(f"{folder} has no {name}: give the folder that `save_model` wrote, or a .ckpt file.")
    return _parse_config(folder / CONFIG_FILE)


def _parse_config(file: Path) -> dict[str, Any]:
    try:
        with disk_errors(file, "read"):
            config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config["class_path"], str) or not isinstance(config["init_args"], dict):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise PoseZooError(f"{file} is damaged or not of posezoo: copy or download the folder again.") from error
    return dict(config)


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments of a `model.json`, without what only training needs."""
    return {key: value for key, value in config["init_args"].items() if key not in _TRAINING_ARGUMENTS}


def _load_folder(folder: Path) -> PoseEstimator:
    from safetensors import SafetensorError
    from safetensors.torch import load_model as load_tensors

    config, weights = read_config(folder), folder / WEIGHTS_FILE
    check_file(weights, config)
    cls = find_class(config["class_path"])
    try:
        estimator = cls(**arguments_of(config))
    except TypeError as error:
        raise PoseZooError(
            f"{folder / CONFIG_FILE} has arguments that {cls.__name__} does not take ({error}): type `pip install "
            "--upgrade posezoo`."
        ) from error
    try:
        load_tensors(estimator, weights)
    except (RuntimeError, SafetensorError, PoseZooError) as error:
        raise PoseZooError(f"{weights} does not fit {config['class_path']}: {_reason(error)}") from error
    estimator.eval()
    return estimator


def check_file(file: Path, config: Mapping[str, Any], prefix: str = "") -> None:
    """Compare a file of a folder with what its `model.json` says of it.

    Raises:
        PoseZooError: It is a half file, or another one.
    """
    with disk_errors(file, "read"):
        size, wanted = file.stat().st_size, config.get(f"{prefix}size")
        if wanted is not None and size < wanted:
            raise PoseZooError(f"{file} is a half file ({size} of {wanted} bytes): copy or download it again.")
        if f"{prefix}sha256" in config and config[f"{prefix}sha256"] != sha256(file):
            raise PoseZooError(
                f"{file} does not belong to its {CONFIG_FILE} (checksums differ): save or copy both again."
            )


def find_class(class_path: str) -> type[PoseEstimator]:
    """The estimator class of a `model.json`: of posezoo, of an installed plug-in, or of an imported module.

    Raises:
        PoseZooError: It is none of these, or no model.
    """
    from torch import nn

    module, _, name = class_path.rpartition(".")
    if module not in sys.modules and module.partition(".")[0] not in ("posezoo", *_plugin_packages()):
        raise PoseZooError(
            f"the weights need the class {class_path}, which is neither of posezoo nor of an installed plug-in: "
            "install the plug-in that it comes from, or import its module first if you trust it."
        )
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PoseZooError(
            f"the weights need the class {class_path}, which this posezoo lacks ({error}): "
            "type `pip install --upgrade posezoo`, or install the plug-in it comes from."
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise PoseZooError(f"{CONFIG_FILE} names {class_path}, which is not a model: check its class_path.")
    return found  # type: ignore[return-value]


def _plugin_packages() -> set[str]:
    from importlib.metadata import entry_points

    from posezoo.plugins import GROUP

    return {plugin.module.partition(".")[0] for plugin in entry_points(group=GROUP)}


def _reason(error: Exception) -> str:
    """The line of an error that says something: PyTorch puts a heading before what does not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[1] if lines[0].startswith("Error(s) in loading") and len(lines) > 1 else lines[0]


# -------------------------------------------------------------------------------------------------------- saving


def save_model(
    estimator: nn.Module,
    folder: str | os.PathLike[str],
    dtype: StoredType = "float32",
    data: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write an estimator's weights and configuration as a folder that `load_model` reads.

    Each file replaces its predecessor in one step, the configuration last. It holds the checksum of the
    weights, so `load_model` notices a write that was interrupted between the two. Other files stay.

    Args:
        estimator: What to save; its hyperparameters must be plain.
        folder: Made when missing.
        dtype: "float16" stores the weights of convolutions and linear layers in half precision, which halves the file;
            norms, biases and buffers stay as they are. Loading gives float32 again.
        data: Class path and arguments of the DataModule that `posezoo test` uses by default; paths are left out.
        card: What a user should know: licence, training data, command, metrics. Plain values.

    Returns:
        The folder.

    Raises:
        TypeError: A hyperparameter is not plain (str, int, float, bool, list, dict or None).
        PoseZooError: The disk is full, or the folder may not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_model as save_tensors

    if predict_only():  # then nothing has kept the hyperparameters
        raise PoseZooError("this process imported posezoo to predict: save weights in another one.")
    if dtype not in ("float32", "float16"):
        raise PoseZooError(f"weights are stored as float32 or float16, not '{dtype}'.")
    hparams: Mapping[str, Any] = estimator.hparams  # type: ignore[assignment]
    document: dict[str, Any] = {
        "class_path": f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        "init_args": {k: v for k, v in hparams.items() if not k.startswith("_") and k not in _TRAINING_ARGUMENTS},
        "dtype": dtype,
        "posezoo": __version__,
        "data": portable_data(data) if data else None,
        "card": dict(card or {}),
    }
    json.dumps(document)  # before anything is written
    folder = Path(folder)
    stored = _halved(estimator) if dtype == "float16" else estimator
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / WEIGHTS_FILE, lambda path: save_tensors(stored, str(path)))
    except SafetensorError as error:  # its way of saying "disk full"
        raise PoseZooError(
            f"cannot write {folder / WEIGHTS_FILE} ({_reason(error)}): make room and try again."
        ) from error
    write_config(folder, document)
    return folder


def write_config(folder: Path, document: Mapping[str, Any]) -> None:
    """Write `model.json` of a folder, with size and checksum of the weights beside it."""
    weights = folder / WEIGHTS_FILE
    full = dict(document) | {"size": weights.stat().st_size, "sha256": sha256(weights)}
    golden = folder / GOLDEN_FILE
    if golden.is_file() and "golden_sha256" in full:
        full |= {"golden_size": golden.stat().st_size, "golden_sha256": sha256(golden)}
    text = json.dumps(full, indent=2, ensure_ascii=False) + "\n"
    replace_file(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def portable_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """A DataModule's configuration without what belongs to one machine: folders, caches, worker processes."""
    return {key: _portable(value) for key, value in data.items()}


def _portable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items() if key not in _MACHINE_ARGUMENTS}
    return [_portable(item) for item in value] if isinstance(value, list | tuple) else value


def _halved(estimator: nn.Module) -> nn.Module:
    """A copy with the weights of its layers in float16: what has two axes or more; the rest is small, and sensitive."""
    import copy

    import torch

    halved = copy.deepcopy(estimator)
    for name, parameter in halved.named_parameters():
        if parameter.ndim >= 2 and parameter.dtype == torch.float32:
            rounded = parameter.detach().half()
            if not rounded.isfinite().all():
                raise PoseZooError(f"{name} has values beyond float16: store these weights with dtype float32.")
            parameter.data = rounded
    return halved
