"""posezoo: 3D human pose from one camera, as trainable Lightning modules."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posezoo.people import People
    from posezoo.pipeline import PosePipeline, load
    from posezoo.zoo import list_weights, load_model

__version__ = "0.1.0"

__all__ = ["People", "PosePipeline", "__version__", "list_weights", "load", "load_model"]

# Resolved on first use (PEP 562), so that `import posezoo` stays instant and loads no torch.
_EXPORTS = {
    "People": "posezoo.people",
    "PosePipeline": "posezoo.pipeline",
    "list_weights": "posezoo.zoo",
    "load": "posezoo.pipeline",
    "load_model": "posezoo.zoo",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'posezoo' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
