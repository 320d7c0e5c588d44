"""Boxes around people, ltwh in px."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def joint_boxes(joints2d: NDArray[np.float32], valid2d: NDArray[np.bool_], margin: float) -> NDArray[np.float32]:
    """Boxes [N, 4] ltwh around the valid joints, wider by `margin` times the longer side on each of four sides."""
    known = valid2d[..., None]
    low = np.where(known, joints2d, np.inf).min(1)
    high = np.where(known, joints2d, -np.inf).max(1)
    some = valid2d.sum(1)[:, None] > 0
    low, high = np.where(some, low, 0), np.where(some, high, 0)
    size = np.maximum(high - low, 1)
    rim = margin * size.max(1, keepdims=True)
    return np.hstack([low - rim, size + 2 * rim]).astype(np.float32)


def grow_boxes(boxes: NDArray[Any], scale: float) -> NDArray[np.float32]:
    """Boxes [N, 4] of `scale` times the size about their centres; what is not finite stays so."""
    with np.errstate(over="ignore", invalid="ignore"):
        grown = np.hstack([boxes[:, :2] + boxes[:, 2:] * (1 - scale) / 2, boxes[:, 2:] * scale])
        return grown.astype(np.float32)
