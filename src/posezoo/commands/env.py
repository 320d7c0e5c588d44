"""Print versions, devices and the launcher that Lightning detects: what a bug report needs."""

import argparse
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import posezoo

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "torchvision",
    "timm",
    "jsonargparse",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "safetensors",
    "wandb",
)
# What the two launchers set and what decides the number of processes.
_LAUNCHER_VARIABLES = {
    "SLURM": ("SLURM_JOB_ID", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID"),
    "torchrun": (
        "TORCHELASTIC_RUN_ID",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "RANK",
        "LOCAL_RANK",
        "MASTER_ADDR",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`posezoo env` takes nothing."""


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    del args
    sections = {"Versions": _versions(), "Devices": _devices(), "Launcher": _launcher()}
    for title, rows in sections.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:<24}{value}")
    return 0


def _versions() -> dict[str, str]:
    rows = {
        "posezoo": f"{posezoo.__version__} in {Path(posezoo.__file__).parent}",
        "python": f"{platform.python_version()} at {sys.executable}",
        "platform": platform.platform(),
    }
    return rows | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = {"cpu": f"{cores} cores, {torch.get_num_threads()} torch threads"}
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        rows[f"cuda:{i}"] = f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        rows["mps"] = "available"
    if len(rows) == 1:
        rows["accelerator"] = f"none (torch built for CUDA {torch.version.cuda or '-'})"
    return rows


def _launcher() -> dict[str, str]:
    from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    detected = {"SLURM": SLURMEnvironment.detect(), "torchrun": TorchElasticEnvironment.detect()}
    rows = {name: "detected" if found else "not detected" for name, found in detected.items()}
    for name, found in detected.items():
        if found:
            rows |= {v: os.environ[v] for v in _LAUNCHER_VARIABLES[name] if v in os.environ}
    # The usual way to hang a cluster job, so it is said before the job starts.
    if "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ:
        rows["advice"] = "inside a SLURM job but not started by srun: type `srun posezoo fit ...`"
    if detected["SLURM"]:
        rows["note"] = "--trainer.devices must equal SLURM's ntasks-per-node"
    return rows
