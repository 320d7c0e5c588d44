"""Tiny command line runs of every method, for the suite in test_every_method.py and its two-rank half."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tests_cli_helpers import log_to

from posezoo.cli import load_plugins
from posezoo.models.base import PoseEstimator
from posezoo.testing import TINY

# Sizes that keep a method small beyond `posezoo.testing.TINY`; a method that is not here runs at its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "IntegralPose": {"width": 16, "depth_bins": 16},
    "HEMlets": {"width": 16, "feature_width": 32, "depth_bins": 16},
    "RootNet": {"width": 16},
    "PartAware": {"widths": [8, 8], "depth_bins": 16},
    # Bone lengths would put its first predictions, all in one place, a kilometre away: float32 has no 0.1 mm there.
    "PartAwareSearch": {
        "widths": [8],
        "depth_bins": 16,
        "groups": "g1",
        "skeleton": "h36m17",
        "root_depth": 4000,
    },
}


def methods() -> list[str]:
    """Every method of posezoo and of the installed plug-ins; classes that other tests define are not among them."""
    load_plugins()
    packages = {plugin.value.partition(":")[0].partition(".")[0] for plugin in entry_points(group="posezoo.plugins")}
    known = PoseEstimator.known_methods()
    return sorted(n for n, cls in known.items() if cls.__module__.partition(".")[0] in {"posezoo", *packages})


def arguments(name: str) -> dict[str, Any]:
    """Constructor arguments of a tiny one."""
    return TINY | SMALL.get(name, {})


def method(name: str) -> type[PoseEstimator]:
    return PoseEstimator.known_methods()[name]


def options(name: str, folder: Path, run: str, people: int = 3, devices: int = 1) -> list[str]:
    """Flags of a tiny run.

    Args:
        name: The method.
        folder: Where runs are kept.
        run: Folder of this run in it.
        people: Samples of validation and of test.
        devices: Processes.
    """
    model = [f"--model.{key}={json.dumps(value).replace(chr(34), '')}" for key, value in arguments(name).items()]
    return [f"--model={name}", *model, *data(name, people), *trainer(devices), *log_to(folder, run)]


def data(name: str, people: int = 3, batch: int = 4) -> list[str]:
    """The data's part of the flags; the search takes its data as two streams."""
    words = ["preset=easy", "frame_size=64", "train_length=16", f"batch_size={batch}", "num_workers=0"]
    words += [f"val_length={people}", f"test_length={people}"]
    if name == "PartAwareSearch":
        inner = [f"--data.dataset.init_args.{word}" for word in words]
        return ["--data=SearchSplit", "--data.dataset=SyntheticPeople", *inner]
    return ["--data=SyntheticPeople", *(f"--data.{word}" for word in words)]


def trainer(devices: int = 1) -> list[str]:
    """The trainer's part of the flags."""
    words = ["accelerator=cpu", f"devices={devices}", "enable_progress_bar=false", "enable_model_summary=false"]
    words += ["log_every_n_steps=1", "callbacks+=PoseImages", "callbacks.count=0"]
    return [f"--trainer.{word}" for word in words]
