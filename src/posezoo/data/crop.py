"""From one annotated person to one crop: the single geometric augmentation.

One virtual camera moves pixels, intrinsics, 2D and 3D joints together and swaps left and right. Geometry lives here and
not in albumentations, because 3D labels must turn with the image.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.cameras import NO_DISTORTION, Camera, CropCamera
from posezoo.data.images import Pixels, SourceImage, area_shrink, as_source
from posezoo.data.single_crop import crop_to_image, image_plane, look_at, to_image
from posezoo.errors import PoseZooError
from posezoo.skeletons import Skeleton, convert
from posezoo.structures import IDENTITIES, Sample

CropKind = Literal["look_at", "image_plane"]
BoxKind = Literal["annotation", "pelvis_2000mm"]

FOV_PHOTOGRAPH = 55.0  # degrees; MeTRAbs' default for uncalibrated photographs
FOV_2D_TRAINING = 8.0  # degrees; MeTRAbs gives 2D-only training images a long lens
_MAX_SHRINK = 32  # a 48-megapixel photograph in a 256 px crop
RIM = 2 + _MAX_SHRINK  # px around what a crop sees, for interpolation and averaging
_INTERPOLATED = 4  # the same for interpolation alone, of pixels and of a JPEG's colours
_SLACK = 1.02  # a crop may be so much finer than its pixels; 4 source px to a crop px may be computed as 3.9999
_GRID = 4  # crop px between the points where lens distortion is computed


@dataclass(frozen=True)
class CropSpec:
    """What a model wants to be fed; a constructor fact of the model.

    Attributes:
        skeleton: Target skeleton.
        image_size: Side of the square crop, px.
        crop: "look_at" turns a virtual camera to the person; "image_plane" keeps depth order.
        box: "annotation", or a square of 2000 mm around the pelvis at its true depth.
    """

    skeleton: Skeleton
    image_size: int
    crop: CropKind
    box: BoxKind


@dataclass
class Augmentation:
    """Random changes of training crops. The defaults are MeTRAbs' values (dossier sections 3 and 4.3).

    Attributes:
        roll: Largest in-plane rotation, degrees; drawn uniformly from both sides.
        full_roll: Probability of drawing the roll from +-180 degrees instead.
        zoom: Range of the zoom factor.
        shift: Radius of the disc that the box centre is moved in, as a share of the longer box side.
        flip: Probability of mirroring.
        truncation: Probability of cutting the box to a random square part of itself.
        occlusion: Probability of covering part of the crop.
        occlusion_scale: Size of the covers relative to MeTRAbs' values at scale 1 (0.8 in its paper code).
        occluders: Folder of pictures with transparency (RGBA) to cover crops with, its subfolders too: objects cut out
            of PASCAL VOC for instance, as MeTRAbs does. Null draws objects.
        colour: Jitter brightness, contrast, saturation and hue.
        blur: Probability of a slight Gaussian blur (ours).
        jpeg: Probability of JPEG artefacts (ours).
    """

    roll: float = 20.0
    full_roll: float = 0.0
    zoom: tuple[float, float] = (0.75, 1.25)
    shift: float = 0.10
    flip: float = 0.5
    truncation: float = 0.0
    occlusion: float = 0.7
    occlusion_scale: float = 0.8
    colour: bool = True
    blur: float = 0.0
    jpeg: float = 0.0
    occluders: str | None = None

    def __post_init__(self) -> None:
        for name in ("full_roll", "flip", "truncation", "occlusion", "blur", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise PoseZooError(
                    f"--data.augmentation.{name} is a probability, between 0 and 1, got {getattr(self, name)}."
                )
        for name in ("roll", "shift", "occlusion_scale"):
            if getattr(self, name) < 0:
                raise PoseZooError(f"--data.augmentation.{name} must not be negative, got {getattr(self, name)}.")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise PoseZooError(
                f"--data.augmentation.zoom must be [low, high] with 0 < low <= high, got {list(self.zoom)}."
            )


@dataclass(frozen=True)
class CropDraw:
    """One draw of the geometric augmentation; the default leaves the crop alone."""

    roll: float = 0.0
    zoom: float = 1.0
    flip: bool = False
    box: NDArray[np.float32] | None = None


def draw_augmentation(aug: Augmentation, box: NDArray[np.float32], rng: np.random.Generator) -> CropDraw:
    """Draw roll, zoom, flip and the moved box. The number of draws does not depend on their values."""
    truncate, full_roll, flip = rng.random(3)
    limit = 180.0 if full_roll < aug.full_roll else aug.roll
    roll = rng.uniform(-limit, limit)
    zoom = rng.uniform(*aug.zoom)
    angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
    moved = truncated_box(box, rng) if truncate < aug.truncation else box
    reach = aug.shift * radius * max(moved[2], moved[3])
    offset = np.array([reach * np.cos(angle), reach * np.sin(angle), 0, 0])
    return CropDraw(roll, zoom, bool(flip < aug.flip), (moved + offset).astype(np.float32))


def truncated_box(box: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A random square of more than half the side of the (squared) box: MeTRAbs' truncation augmentation.

    Drawn by rejection: x1 ~ U(0, .5), x2, y2 ~ U(.5, 1), kept if .5 < x2 - x1 < y2 (33 % are).
    """
    while True:
        x1, x2, y2 = rng.uniform([0, 0.5, 0.5], [0.5, 1, 1])
        side = x2 - x1
        if 0.5 < side < y2:
            break
    full = max(box[2], box[3])
    left, top = box[:2] + (box[2:] - full) / 2
    return np.array([left + x1 * full, top + (y2 - side) * full, side * full, side * full], np.float32)


def crop_camera(sample: Sample, source: Skeleton, spec: CropSpec, draw: CropDraw) -> CropCamera:
    """The virtual camera of a person's crop. Images without a camera are always cropped in the image plane."""
    camera = sample.camera or guessed_camera(sample)
    box = subject_box(sample, source, spec) if draw.box is None else draw.box
    flat = spec.crop == "image_plane" or (sample.camera is None and sample.joints2d is not None)
    return (image_plane if flat else look_at)(camera, box.tolist(), spec.image_size, draw.roll, draw.zoom, draw.flip)


def guessed_camera(sample: Sample) -> Camera:
    """A camera for an uncalibrated image: `sample.fov`, else 8 degrees for 2D-labelled images, 55 for photographs."""
    fov = sample.fov
    if fov is None:
        fov = FOV_PHOTOGRAPH if sample.joints2d is None else FOV_2D_TRAINING
    return Camera.from_field_of_view(fov, *sample.size)


def subject_box(sample: Sample, source: Skeleton, spec: CropSpec) -> NDArray[np.float32]:
    """The box to crop: the annotated one, or 2000 mm around the pelvis.

    Raises:
        PoseZooError: `pelvis_2000mm` without a camera and a 3D label of the root.
    """
    if spec.box == "annotation":
        return sample.box
    at = source.root
    known = sample.joints3d is not None and at is not None and (sample.valid3d is None or sample.valid3d[at])
    if sample.camera is None or sample.joints3d is None or not known or not sample.joints3d[at, 2] > 0:
        raise PoseZooError(
            "box 'pelvis_2000mm' needs the camera and the 3D pelvis of every sample: use --model.box annotation."
        )
    root = sample.joints3d[at]
    centre = sample.camera.project(torch.as_tensor(root, dtype=torch.float32)[None])[0].numpy()
    side = 2000 * float(sample.camera.intrinsics[0, 0]) / float(root[2])
    return np.array([*(centre - side / 2), side, side], np.float32)


def warp(image: Pixels | SourceImage, crop: CropCamera, antialias: bool = True) -> Pixels:
    """Cut the crop out of the source image with one bilinear warp; outside the image it is black.

    With `antialias`, the region is first shrunk to at most twice the crop's resolution, so that no source pixel is
    skipped: by area averaging, or of a JPEG while it is decoded, which is faster and nearer to the truth.

    Args:
        image: uint8 [H, W, 3], or an image file.
        crop: Unbatched crop camera.
        antialias: Average over the source pixels that a crop pixel covers.

    Returns:
        uint8 [S, S, 3].
    """
    source = as_source(image)
    border, scale = footprint(crop)
    (left, top), (step_x, step_y) = source.corner, source.step
    reduction, shrink = 1, 1
    if antialias:
        reduction, shrink = averaging(scale / math.sqrt(step_x * step_y), source.reductions)
    # Pixel centres: shrinking by k sends u to (u + 0.5) / k - 0.5.
    factor_x, factor_y = 1 / (step_x * reduction), 1 / (step_y * reduction)
    to_pixels = np.array(
        [[factor_x, 0, (0.5 - left) * factor_x - 0.5], [0, factor_y, (0.5 - top) * factor_y - 0.5], [0, 0, 1]]
    )
    seen = border @ to_pixels[:2, :2] + to_pixels[:2, 2]
    low, high = seen.min(0), seen.max(0)
    rim = RIM if shrink > 1 else _INTERPOLATED
    pixels, first = source.decode_around(low - rim, high + rim, reduction)
    to_pixels[:2, 2] -= first
    region = _clip_region((low - first).tolist(), (high - first).tolist(), pixels.shape[1], pixels.shape[0])
    if region is None:
        return np.zeros((crop.size, crop.size, 3), np.uint8)
    return warp_region(pixels, region, shrink, to_pixels, crop)


def warp_region(
    pixels: Pixels,
    region: tuple[int, int, int, int],
    shrink: int,
    to_pixels: NDArray[np.float64],
    crop: CropCamera,
) -> Pixels:
    """The last part of `warp`, once it is known what the crop sees.

    Args:
        pixels: uint8 [H, W, 3], the stored pixels.
        region: x0, y0, x1, y1 of the part of them to look at.
        shrink: Average over so many pixels along both axes first.
        to_pixels: [3, 3], source px to stored px.
        crop: Unbatched crop camera.

    Returns:
        uint8 [S, S, 3].
    """
    x0, y0, x1, y1 = region
    patch = pixels[y0:y1, x0:x1]
    if shrink > 1:
        patch = area_shrink(patch, shrink)
    to_patch = np.array(
        [[1 / shrink, 0, (0.5 - x0) / shrink - 0.5], [0, 1 / shrink, (0.5 - y0) / shrink - 0.5], [0, 0, 1]]
    )
    if int(crop.source.distortion_model) == NO_DISTORTION:
        matrix = to_patch @ to_pixels @ crop_to_image(crop)
        return _warp_homography(patch, matrix, crop.size)
    return _warp_map(patch, crop, to_patch @ to_pixels)


def averaging(scale: float, reductions: tuple[int, ...]) -> tuple[int, int]:
    """By how much to reduce while decoding, and to shrink by averaging afterwards, `scale` stored px to a crop px."""
    reduction = max((known for known in reductions if known <= _SLACK * scale), default=1)
    return reduction, int(min(max(scale / reduction, 1), _MAX_SHRINK))


def _warp_homography(patch: Pixels, matrix: NDArray[np.float64], size: int) -> Pixels:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if max(abs(matrix[2, 0]), abs(matrix[2, 1])) <= 1e-12:
        affine = matrix[:2] / matrix[2, 2]
        return np.asarray(cv2.warpAffine(patch, affine, (size, size), flags=flags), np.uint8)
    return np.asarray(cv2.warpPerspective(patch, matrix, (size, size), flags=flags), np.uint8)


def _warp_map(patch: Pixels, crop: CropCamera, to_patch: NDArray[np.float64]) -> Pixels:
    """Through a lens. Its exact map is made on a coarse grid: between, it bends by less than the warp's 1/32 px."""
    cells = -(-crop.size // _GRID) + 2  # one more on each side, so that nothing is extrapolated
    axis = (np.arange(cells, dtype=np.float32) - 0.5) * _GRID - 0.5
    coarse = np.stack(to_image(crop, axis, axis[:, None], to_patch), -1)
    fine = cv2.resize(coarse, (cells * _GRID,) * 2, interpolation=cv2.INTER_LINEAR)
    grid = fine[_GRID : _GRID + crop.size, _GRID : _GRID + crop.size]
    return np.asarray(cv2.remap(patch, grid, None, cv2.INTER_LINEAR), np.uint8)


@lru_cache
def outline(size: int) -> NDArray[np.float64]:
    """Crop px [39, 2] that tell what a crop sees: its centre, a pixel right of and below it, and its border.

    Enough points that what lens distortion bulges out is inside.
    """
    centre = (size - 1) / 2
    middle = np.array([[centre, centre], [centre + 1, centre], [centre, centre + 1]])
    steps = np.linspace(-1, size, 9)
    low, high = np.full(9, -1.0), np.full(9, float(size))
    edges = [np.stack(edge, -1) for edge in ((steps, low), (steps, high), (low, steps), (high, steps))]
    points = np.concatenate([middle, *edges])
    points.setflags(write=False)
    return points


def footprint(crop: CropCamera) -> tuple[NDArray[np.float64], float]:
    """What a crop sees: source px of points along its border [36, 2], and source px per crop px at its centre."""
    mapped = np.stack(to_image(crop, *outline(crop.size).T), -1)
    (x, y), (right_x, right_y), (below_x, below_y) = mapped[:3].tolist()
    area = (right_x - x) * (below_y - y) - (right_y - y) * (below_x - x)
    return mapped[3:], math.sqrt(abs(area))


def _clip_region(
    low: tuple[float, float], high: tuple[float, float], width: int, height: int
) -> tuple[int, int, int, int] | None:
    x0, y0 = (int(min(max(0, value - RIM), most)) for value, most in zip(low, (width, height), strict=True))
    x1, y1 = (math.ceil(min(max(0, value + RIM), most)) for value, most in zip(high, (width, height), strict=True))
    return None if x1 <= x0 or y1 <= y0 else (x0, y0, x1, y1)


def make_labels(sample: Sample, source: Skeleton, spec: CropSpec, crop: CropCamera) -> dict[str, Any]:
    """Every label of a `Batch` row but the image, in the crop camera's frame and the target skeleton."""
    target, flipped = spec.skeleton, _mirrors(crop)
    joints3d, valid3d = _labels3d(sample, source, target, crop)
    joints2d, valid2d = _labels2d(sample, source, target, crop, joints3d, valid3d)
    parts = len(target.parts)
    order = np.zeros(parts, np.int8) if sample.depth_order is None else sample.depth_order
    valid_order = np.zeros(parts, bool) if sample.valid_order is None else sample.valid_order
    if flipped:
        joints3d, valid3d = target.flip(joints3d), target.flip(valid3d, -1)
        joints2d, valid2d = target.flip(joints2d), target.flip(valid2d, -1)
        order, valid_order = target.flip_parts(order), target.flip_parts(valid_order)
    identity = [sample.identity.get(key, 0) for key in IDENTITIES]
    return {
        "intrinsics": crop.intrinsics.float(),
        "rotation": crop.rotation.float(),
        "crop_to_image": torch.from_numpy(crop_to_image(crop).astype(np.float32)),
        "source_intrinsics": crop.source.intrinsics.float(),
        "source_distortion": crop.source.distortion.float(),
        "distortion_model": crop.source.distortion_model,
        "has_camera": torch.tensor(sample.camera is not None),
        "box": torch.as_tensor(sample.box, dtype=torch.float32),
        "joints3d": torch.from_numpy(joints3d),
        "joints2d": torch.from_numpy(joints2d),
        "valid3d": torch.as_tensor(valid3d),
        "valid2d": torch.as_tensor(valid2d),
        "depth_order": torch.as_tensor(order, dtype=torch.int8),
        "valid_order": torch.as_tensor(valid_order),
        **dict(zip(IDENTITIES, torch.tensor(identity, dtype=torch.int64).unbind(), strict=True)),
    }


def _mirrors(crop: CropCamera) -> bool:
    """Whether a crop's rotation has the determinant -1."""
    (a, b, c), (d, e, f), (g, h, i) = crop.rotation.tolist()
    return bool(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) < 0)


def _labels3d(
    sample: Sample, source: Skeleton, target: Skeleton, crop: CropCamera
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    if sample.joints3d is None:
        return np.zeros((len(target), 3), np.float32), np.zeros(len(target), bool)
    joints, valid = convert(sample.joints3d, sample.valid3d, source, target)
    turned = joints @ crop.rotation.numpy().astype(np.float64).T
    return np.where(valid[:, None], turned, 0).astype(np.float32), valid


def _labels2d(
    sample: Sample,
    source: Skeleton,
    target: Skeleton,
    crop: CropCamera,
    joints3d: NDArray[np.float32],
    valid3d: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """2D labels: projections of the 3D ones where those exist, annotated pixels elsewhere."""
    in_front = valid3d & (joints3d[:, 2] > 1)
    rays = np.where(in_front[:, None], joints3d, (0.0, 0.0, 1.0)) @ crop.intrinsics.numpy().astype(np.float64).T
    joints2d = rays[:, :2] / rays[:, 2:]
    valid2d = in_front
    if sample.joints2d is not None:
        annotated, known = convert(sample.joints2d, sample.valid2d, source, target)
        if not (known & ~valid2d).any():  # lenses are slow to invert
            return np.where(valid2d[:, None], joints2d, 0).astype(np.float32), valid2d
        moved = crop.from_image(torch.as_tensor(annotated, dtype=torch.float32)).numpy()
        joints2d = np.where(valid2d[:, None], joints2d, moved)
        valid2d = valid2d | known
    return np.where(valid2d[:, None], joints2d, 0).astype(np.float32), valid2d
