"""Does a labelled landmark stay on its pixel through the warp?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import CropCamera
from posezoo.data.crop import warp
from posezoo.structures import Sample


def dot_in_crop(sample: Sample, joint: int, crop: CropCamera, radius: int = 2) -> NDArray[Any]:
    """Paint a square dot onto a 2D label, warp the image, and find the dot: its centre of mass, crop px."""
    assert sample.joints2d is not None
    image = np.zeros((sample.size[1], sample.size[0], 3), np.uint8)
    u, v = np.rint(sample.joints2d[joint]).astype(int)
    image[v - radius : v + radius + 1, u - radius : u + radius + 1] = 255
    patch = warp(image, crop)[..., 0].astype(float)
    return np.array([(patch.sum(axis) * np.arange(len(patch))).sum() / patch.sum() for axis in (0, 1)])
