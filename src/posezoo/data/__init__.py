"""DataModules, imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posezoo.data.base import PoseDataModule as PoseDataModule
    from posezoo.data.base import PoseDataset as PoseDataset
    from posezoo.data.synthetic.dataset import SyntheticPeople as SyntheticPeople

_HOMES = {
    "PoseDataModule": "posezoo.data.base",
    "PoseDataset": "posezoo.data.base",
    "SyntheticPeople": "posezoo.data.synthetic.dataset",
}
__all__ = ["PoseDataModule", "PoseDataset", "SyntheticPeople"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
