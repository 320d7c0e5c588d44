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


# An upright person, mm, relative to the pelvis; joints as in H36M17.
_POSE = """
    0 0 0  120 15 20  140 450 -40  150 880 60  -120 15 -20  -150 440 -120  -170 860 10
    0 -230 20  0 -480 40  10 -560 -20  10 -700 10
    -150 -440 30  -330 -250 -60  -280 -60 -260  150 -440 50  350 -230 90  300 -20 -120
"""


@pytest.fixture
def pose() -> torch.Tensor:
    """An upright person [17, 3] in float64: mm, relative to the pelvis (joint 0), camera axes."""
    return torch.tensor([float(word) for word in _POSE.split()], dtype=torch.float64).view(17, 3)
