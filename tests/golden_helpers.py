"""Cases of the golden file metrics.npz, and how one is read."""

import numpy as np
import torch
from torch import Tensor

# Cases that carry a Procrustes-aligned prediction.
ALIGNED = [
    "batch1",
    "collinear_both",
    "collinear_pred",
    "exact_similarity",
    "few_valid",
    "h36m_real",
    "large_translation_f32",
    "mask_one",
    "mask_random",
    "nan_absent",
    "pck17",
    "planar",
    "rand",
    "reflect",
    "sequence",
]


def load(data: dict[str, np.ndarray], case: str) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Prediction, truth, which joints are valid (None: all) and the root of a case."""
    pred, target = (torch.from_numpy(data[f"{case}.{key}"]) for key in ("pred", "gt"))
    valid = torch.from_numpy(data[f"{case}.mask"]) if f"{case}.mask" in data else None
    return pred, target, valid, int(data[f"{case}.root"])
