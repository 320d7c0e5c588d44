"""Changes of pixels that leave the geometry alone: colour, blur, JPEG artefacts and synthetic occlusion.

The only place where albumentations is imported. Every call is seeded by the sample (never by worker state):
albumentations 2.0.8 otherwise gives all DataLoader workers one and the same random stream.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posezoo.data.crop import Augmentation
from posezoo.data.pictures import pictures_below
from posezoo.errors import PoseZooError

Image = NDArray[np.uint8]

# Of the factors of colour jitter, and shares of the circle that the hue is turned by: 0.2 are 72 degrees.
RANGES = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.2, 0.2)}
BLUR_SIGMA = (0.3, 1.5)  # px
_LARGEST_OBJECT = 500  # px, the longer side of PASCAL VOC's photographs


class Photometric:
    """Applies an `Augmentation`'s photometric part to one crop, in MeTRAbs' order (dossier section 4.3).

    Covering objects come before the colour jitter, random erasing after it: half the samples that are occluded get the
    one, half the other.
    """

    def __init__(self, aug: Augmentation) -> None:
        self.aug = aug
        self._cut_outs = find_cut_outs(aug.occluders) if aug.occlusion else ()
        self._colour = _colour_transforms(aug.colour, aug.blur, aug.jpeg)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """Change one uint8 RGB crop [S, S, 3]; equal generators give equal pixels."""
        erase, apply, seed = rng.random(), rng.random(), int(rng.integers(2**31 - 1))
        occluded = apply < self.aug.occlusion
        if occluded and erase >= 0.5:
            image = paste_objects(image, rng, self.aug.occlusion_scale, self._cut_outs)
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
        steps.append(_make(A.ColorJitter, **RANGES, p=1.0))
    if blur:
        steps.append(_make(A.GaussianBlur, sigma_limit=BLUR_SIGMA, blur_limit=0, p=blur))
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


def paste_objects(image: Image, rng: np.random.Generator, scale: float, cut_outs: Sequence[Path] = ()) -> Image:
    """Cover the crop with 1 to 7 objects at uniform places: cut-outs, or procedural ones (textured polygons, ellipses).

    MeTRAbs pastes objects cut from PASCAL VOC photographs; the procedural ones are our stand-in, which needs no
    download. Sizes follow its numbers: U(0.2, 1) * scale of the object in a 256 px crop, a photograph's objects halved.

    Args:
        image: uint8 RGB [S, S, 3].
        rng: Of the sample.
        scale: Factor on the sizes.
        cut_outs: Files from `find_cut_outs`.
    """
    covered = image.copy()
    for _ in range(int(rng.integers(1, 8))):
        if cut_outs:
            _paste_cut_out(covered, rng, scale, cut_outs[int(rng.integers(len(cut_outs)))])
        else:
            _paste_object(covered, rng, scale)
    return covered


def find_cut_outs(folder: str | None) -> tuple[Path, ...]:
    """The pictures with transparency in a folder and its subfolders; none for None.

    Raises:
        PoseZooError: There is no such folder, or none of its pictures has transparency.
    """
    found = pictures_below(folder, "--data.augmentation.occluders")
    chosen = tuple(path for path in found if _has_alpha(path))
    if found and not chosen:
        raise PoseZooError(
            f"{folder} has {len(found)} pictures, but none with transparency: --data.augmentation.occluders wants "
            "objects cut out as RGBA (PNG or WebP)."
        )
    return chosen


def _has_alpha(path: Path) -> bool:
    from PIL import Image as Pictures  # comes with torchvision and matplotlib

    try:
        with Pictures.open(path) as header:
            return header.mode in ("RGBA", "LA", "PA") or "transparency" in header.info
    except Exception:  # Pillow's readers raise nearly anything for a damaged file
        return False


@lru_cache(maxsize=256)
def _cut_out(path: Path) -> NDArray[np.uint8] | None:
    """An object as RGBA, at most as large as those of a PASCAL VOC photograph; None, with a warning, if unreadable."""
    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        pixels = None
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 4 or pixels.dtype != np.uint8:
        warnings.warn(f"{path} is not readable as RGBA with 8 bits, so it covers nothing: remove it.", stacklevel=2)
        return None
    shrink = _LARGEST_OBJECT / max(pixels.shape[:2])
    if shrink < 1:
        size = tuple(max(1, round(side * shrink)) for side in pixels.shape[1::-1])
        pixels = _resized(np.asarray(pixels, np.uint8), (size[0], size[1]))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), np.uint8)


def _paste_cut_out(image: Image, rng: np.random.Generator, scale: float, path: Path) -> None:
    side = image.shape[0]
    factor, centre = 0.5 * rng.uniform(0.2, 1.0) * scale * side / 256, rng.uniform(0, side, 2)
    pixels = _cut_out(path)
    if pixels is None:
        return
    width, height = (max(1, round(length * factor)) for length in pixels.shape[1::-1])
    cover = _resized(pixels, (width, height))
    left, top = round(centre[0] - width / 2), round(centre[1] - height / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, side), min(top + height, side)
    if x0 >= x1 or y0 >= y1:
        return
    part = cover[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
    alpha = part[..., 3:] / 255
    image[y0:y1, x0:x1] = np.rint(part[..., :3] * alpha + image[y0:y1, x0:x1] * (1 - alpha)).astype(np.uint8)


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An RGBA picture of another size; what is transparent does not bleed into the rest."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    thick = np.concatenate([pixels[..., :3] * alpha, alpha], -1)
    small = cv2.resize(thick, size, interpolation=cv2.INTER_AREA)
    colour = small[..., :3] / np.maximum(small[..., 3:], 1e-6)
    return np.concatenate([np.clip(np.rint(colour), 0, 255), np.rint(small[..., 3:] * 255)], -1).astype(np.uint8)


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
    tint, contrast = rng.uniform(0, 255, 3), rng.uniform(0.05, 0.8)
    low = np.clip(np.floor(outline.min(0)).astype(int) - 1, 0, side)  # objects are small: only there is work
    high = np.clip(np.ceil(outline.max(0)).astype(int) + 2, 0, side)
    rows, columns = (slice(low[axis], high[axis]) for axis in (1, 0))
    texture = _stretched(coarse, side, rows, columns) * np.float32(contrast)
    texture = texture + (tint * (1 - contrast)).astype(np.float32)
    behind = image[rows, columns]
    alpha = mask[rows, columns, None] * np.float32(1 / 255)
    image[rows, columns] = (behind + (texture - behind) * alpha).astype(np.uint8)


def _stretched(coarse: Image, side: int, rows: slice, columns: slice) -> NDArray[np.float32]:
    """A part of a few colours [h, w, 3], bicubically enlarged to [side, side, 3]; 0 to 255."""
    down, across = _bicubic(coarse.shape[0], side)[rows], _bicubic(coarse.shape[1], side)[columns]
    bands = (down @ coarse.reshape(len(coarse), -1).astype(np.float32)).reshape(len(down), *coarse.shape[1:])
    return np.asarray(np.clip(across @ bands, 0, 255), np.float32)


@lru_cache(maxsize=64)
def _bicubic(count: int, side: int) -> NDArray[np.float32]:
    """Weights [side, count] that enlarge `count` values to `side`."""
    weights = np.asarray(cv2.resize(np.eye(count, dtype=np.float32), (count, side), interpolation=cv2.INTER_CUBIC))
    weights.setflags(write=False)
    return weights
