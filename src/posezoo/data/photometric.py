"""Changes of pixels that leave the geometry alone: colour, blur, JPEG artefacts and synthetic occlusion.

The only place where albumentations is imported. Every call is seeded by the sample (never by worker state):
albumentations 2.0.8 otherwise gives all DataLoader workers one and the same random stream.
"""

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posezoo.data.crop import Augmentation

Image = NDArray[np.uint8]


class Photometric:
    """Applies an `Augmentation`'s photometric part to one crop, in MeTRAbs' order (dossier section 4.3).

    Covering objects come before the colour jitter, random erasing after it: half the samples that are occluded get the
    one, half the other.
    """

    def __init__(self, aug: Augmentation) -> None:
        self.aug = aug
        self._colour = _colour_transforms(aug.colour, aug.blur, aug.jpeg)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """Change one uint8 RGB crop [S, S, 3]; equal generators give equal pixels."""
        erase, apply, seed = rng.random(), rng.random(), int(rng.integers(2**31 - 1))
        occluded = apply < self.aug.occlusion
        if occluded and erase >= 0.5:
            image = paste_objects(image, rng, self.aug.occlusion_scale)
        if self._colour is not None:
            self._colour.set_random_seed(seed)
            image = self._colour(image=image)["image"]
        if occluded and erase < 0.5:
            image = erase_rectangle(image, rng, self.aug.occlusion_scale)
        return image


@lru_cache(maxsize=8)
def _colour_transforms(colour: bool, blur: float, jpeg: float) -> Any:
    """The albumentations pipeline; None when there is nothing to do.

    MeTRAbs adds U(+-0.125) to the brightness; ColorJitter multiplies by U(0.875, 1.125), the nearest that it offers.
    """
    if not (colour or blur or jpeg):
        return None
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks PyPI for news at import otherwise
    import albumentations as A

    steps: list[Any] = []
    if colour:
        jitter = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5)}
        steps.append(_make(A.ColorJitter, **jitter, hue=(-0.2, 0.2), p=1.0))  # 0.2 of the circle = 72 degrees
    if blur:
        steps.append(_make(A.GaussianBlur, sigma_limit=(0.3, 1.5), blur_limit=0, p=blur))
    if jpeg:
        steps.append(_make(A.ImageCompression, quality_range=(30, 90), p=jpeg))
    return A.Compose(steps)


def _make(transform: Callable[..., Any], **arguments: Any) -> Any:
    """Make a transform; albumentations only warns of arguments that it does not know, and ignores them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return transform(**arguments)


def erase_rectangle(image: Image, rng: np.random.Generator, scale: float) -> Image:
    """Random erasing: a rectangle of uniform noise inside the crop.

    Area U(0, 1/3) * scale of the crop, aspect ratio U(0.3, 1 / 0.3) (MeTRAbs).
    """
    side = image.shape[0]
    area = rng.uniform(0, 1 / 3) * scale * side * side
    aspect = rng.uniform(0.3, 1 / 0.3)
    height = int(np.clip(round(np.sqrt(area * aspect)), 1, side))
    width = int(np.clip(round(np.sqrt(area / aspect)), 1, side))
    top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
    erased = image.copy()
    erased[top : top + height, left : left + width] = rng.integers(0, 256, (height, width, 3), np.uint8)
    return erased


def paste_objects(image: Image, rng: np.random.Generator, scale: float) -> Image:
    """Cover the crop with 1 to 7 procedural objects (textured polygons and ellipses) at uniform places.

    MeTRAbs pastes objects cut from PASCAL VOC photographs; these are our stand-in, which needs no download. Their size
    follows its numbers: U(0.2, 1) * scale of a 256 px object in a 256 px crop, halved for the typical cut-out.
    """
    covered = image.copy()
    for _ in range(int(rng.integers(1, 8))):
        _paste_object(covered, rng, scale)
    return covered


def _paste_object(image: Image, rng: np.random.Generator, scale: float) -> None:
    side = image.shape[0]
    radius = 0.5 * rng.uniform(0.2, 1.0) * scale * 0.5 * side
    centre = rng.uniform(0, side, 2)
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 12))))
    radii = radius * rng.uniform(0.6, 1.2, len(angles))
    outline = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    mask = np.zeros((side, side), np.uint8)
    if rng.random() < 0.5:
        outline = cv2.ellipse2Poly((0, 0), (100, int(rng.integers(30, 100))), int(rng.integers(180)), 0, 360, 15)
        outline = centre + outline * radius / 100
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    coarse = rng.integers(0, 256, (int(rng.integers(2, 9)), int(rng.integers(2, 9)), 3), np.uint8)
    texture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    tint, contrast = rng.uniform(0, 255, 3), rng.uniform(0.05, 0.8)
    texture = texture * contrast + tint.astype(np.float32) * (1 - contrast)
    alpha = mask[..., None].astype(np.float32) / 255
    image[:] = (texture * alpha + image * (1 - alpha)).astype(np.uint8)
