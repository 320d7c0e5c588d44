"""Whether this process only predicts: then `posezoo.models` is imported without Lightning and torchmetrics.

Every method is a LightningModule, and importing Lightning takes several times as long as a prediction. `posezoo infer`
trains nothing, so it says so before it imports the models, and they get the stand-in of `posezoo.models.lightning`. In
a process that has imported models already, or Lightning, nothing changes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_only = False


def predict_only() -> bool:
    """Whether models are imported without Lightning."""
    return _only


def import_models_to_predict() -> bool:
    """Say that this process trains nothing. Returns whether that was in time."""
    global _only
    if "posezoo.models" not in sys.modules and "pytorch_lightning" not in sys.modules:
        _only = True
    return _only


@contextmanager
def import_without(optional: str) -> Iterator[None]:
    """Let imports inside find `optional` missing, unless this process has imported it already.

    For libraries that import a package they can do without, which costs seconds.
    """
    modules: dict[str, Any] = sys.modules
    if optional in modules:
        yield
        return
    modules[optional] = None  # Python's own mark for "not to be found"
    try:
        yield
    finally:
        del modules[optional]
