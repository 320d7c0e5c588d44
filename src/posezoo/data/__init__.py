"""DataModules. Importing one makes it known to the command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posezoo.data.base import PoseDataModule, PoseDataset
    from posezoo.data.coco import COCO
    from posezoo.data.folder import ImageFolder
    from posezoo.data.human36m import Human36M
    from posezoo.data.mixed import Mixed, SearchSplit
    from posezoo.data.mpi_inf_3dhp import MPIINF3DHP
    from posezoo.data.mpii import MPII
    from posezoo.data.muco import MuCo3DHP
    from posezoo.data.mupots import MuPoTS3D
    from posezoo.data.ordinal import OrdinalDepth
    from posezoo.data.synthetic.dataset import SyntheticPeople
    from posezoo.data.threedpw import ThreeDPW

__all__ = [
    "COCO",
    "MPII",
    "MPIINF3DHP",
    "Human36M",
    "ImageFolder",
    "Mixed",
    "MuCo3DHP",
    "MuPoTS3D",
    "OrdinalDepth",
    "PoseDataModule",
    "PoseDataset",
    "SearchSplit",
    "SyntheticPeople",
    "ThreeDPW",
]

# Resolved on first use (PEP 562): the renderer and `posezoo.skeletons` need neither torch nor Lightning.
_EXPORTS = {
    "COCO": "posezoo.data.coco",
    "Human36M": "posezoo.data.human36m",
    "ImageFolder": "posezoo.data.folder",
    "MPII": "posezoo.data.mpii",
    "MPIINF3DHP": "posezoo.data.mpi_inf_3dhp",
    "Mixed": "posezoo.data.mixed",
    "MuCo3DHP": "posezoo.data.muco",
    "MuPoTS3D": "posezoo.data.mupots",
    "OrdinalDepth": "posezoo.data.ordinal",
    "PoseDataModule": "posezoo.data.base",
    "PoseDataset": "posezoo.data.base",
    "SearchSplit": "posezoo.data.mixed",
    "SyntheticPeople": "posezoo.data.synthetic.dataset",
    "ThreeDPW": "posezoo.data.threedpw",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'posezoo.data' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
