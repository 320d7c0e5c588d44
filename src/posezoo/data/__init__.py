"""DataModules. Importing one makes it known to the command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posezoo.data.base import PoseDataModule, PoseDataset
    from posezoo.data.folder import ImageFolder
    from posezoo.data.human36m import Human36M
    from posezoo.data.mixed import Mixed, SearchSplit
    from posezoo.data.ordinal import OrdinalDepth
    from posezoo.data.synthetic.dataset import SyntheticPeople

__all__ = [
    "Human36M",
    "ImageFolder",
    "Mixed",
    "OrdinalDepth",
    "PoseDataModule",
    "PoseDataset",
    "SearchSplit",
    "SyntheticPeople",
]

# Resolved on first use (PEP 562): the renderer and `posezoo.skeletons` need neither torch nor Lightning.
_EXPORTS = {
    "Human36M": "posezoo.data.human36m",
    "ImageFolder": "posezoo.data.folder",
    "Mixed": "posezoo.data.mixed",
    "OrdinalDepth": "posezoo.data.ordinal",
    "PoseDataModule": "posezoo.data.base",
    "PoseDataset": "posezoo.data.base",
    "SearchSplit": "posezoo.data.mixed",
    "SyntheticPeople": "posezoo.data.synthetic.dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'posezoo.data' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
