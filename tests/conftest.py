"""Shared fixtures: one torch thread per process, the place of the real samples, and their skip reason."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
SHARED = Path(os.environ.get("POSEZOO_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared")).resolve()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if (SHARED / "data").is_dir():
        return
    skip = pytest.mark.skip(reason=f"no real samples at {SHARED}: set POSEZOO_SHARED to their folder")
    for item in items:
        if "shared_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def shared() -> Path:
    """Folder with `data/` and `golden/`; use together with the marker `shared_data`."""
    return SHARED


@pytest.fixture
def golden() -> "Golden":
    return Golden()


class Golden:
    """Reads ../shared/golden/<file>.npz; keys are `<case>.<input>` and `<case>.exp.<value>.<reference>`."""

    def __call__(self, file: str) -> dict[str, np.ndarray]:
        with np.load(SHARED / "golden" / f"{file}.npz") as data:
            return {key: data[key] for key in data.files}
