"""Pose metrics: `functional` (tensors in, a scalar out) and torchmetrics classes, imported on first use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posezoo.metrics.modular import AUC3D as AUC3D
    from posezoo.metrics.modular import MPJPE as MPJPE
    from posezoo.metrics.modular import MPJVE as MPJVE
    from posezoo.metrics.modular import MRPE as MRPE
    from posezoo.metrics.modular import NMPJPE as NMPJPE
    from posezoo.metrics.modular import PAMPJPE as PAMPJPE
    from posezoo.metrics.modular import PCK3D as PCK3D
    from posezoo.metrics.modular import AbsMPJPE as AbsMPJPE

__all__ = ["AUC3D", "MPJPE", "MPJVE", "MRPE", "NMPJPE", "PAMPJPE", "PCK3D", "AbsMPJPE"]


def __getattr__(name: str) -> Any:
    # Late (PEP 562), because torchmetrics costs seconds to import and `metrics.functional` does not need it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from posezoo.metrics import modular

    return getattr(modular, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
