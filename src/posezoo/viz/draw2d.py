"""Poses and boxes drawn on pictures, and contact sheets made of them.

Images are uint8 [H,W,3] RGB; an integer coordinate is a pixel centre. Nothing is drawn in place.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.disk import replace_file
from posezoo.errors import PoseZooError
from posezoo.skeletons import Skeleton

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

LEFT: Colour = (46, 134, 222)
RIGHT: Colour = (240, 128, 24)
MIDDLE: Colour = (214, 214, 214)
OUTLINE: Colour = (24, 24, 28)
PAPER: Colour = (250, 250, 248)
INK: Colour = (50, 50, 56)
BOX: Colour = (255, 221, 87)

_SHIFT = 4  # OpenCV draws at 1/16 pixel


def side_colour(joint: str, middle: Colour = MIDDLE) -> Colour:
    """Colour of a joint by its name, and of the bone that ends in it."""
    return LEFT if joint.startswith("l_") else RIGHT if joint.startswith("r_") else middle


def draw_pose(
    image: Image,
    joints2d: NDArray[Any],
    skeleton: Skeleton,
    scores: NDArray[Any] | None = None,
    depth: NDArray[Any] | None = None,
    valid: NDArray[np.bool_] | None = None,
    zoom: int = 1,
) -> Image:
    """Draw one pose on a copy of a picture.

    Args:
        image: [H,W,3] RGB.
        joints2d: [J,2] px, in the order of `skeleton`; joints that are not finite are left out.
        skeleton: Names and bones of the joints.
        scores: [J] in 0..1: an unsure limb is drawn more transparent.
        depth: [J] any unit, larger is farther: near limbs then cover far ones.
        valid: [J] joints to draw; all of them when None.
        zoom: Enlarge the picture first; crops of 64 px need it to show anything.

    Returns:
        [zoom * H, zoom * W, 3].
    """
    import cv2

    if joints2d.shape != (len(skeleton), 2):
        raise ValueError(f"{skeleton} needs joints of shape ({len(skeleton)}, 2), got {joints2d.shape}.")
    joints = np.asarray(joints2d, np.float64)
    if zoom != 1:
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        joints = (joints + 0.5) * zoom - 0.5
    drawable: NDArray[np.bool_] = np.asarray(np.isfinite(joints).all(axis=1))
    if valid is not None:
        drawable &= valid
    canvas = np.ascontiguousarray(image).copy()
    # Limb width follows the picture, but a person who is small in it keeps limbs that can be told apart.
    width = max(1.0, min(max(canvas.shape[:2]) / 110, _extent(joints[drawable]) / 45))
    opacity = np.ones(len(joints)) if scores is None else np.clip(np.nan_to_num(scores), 0.15, 1)
    for parent, child in _far_to_near(skeleton.bones, depth):
        if drawable[parent] and drawable[child]:
            colour = side_colour(skeleton.joints[child])
            _limb(canvas, joints[parent], joints[child], colour, width, min(opacity[parent], opacity[child]))
    for joint in np.flatnonzero(drawable):
        _dot(canvas, joints[joint], side_colour(skeleton.joints[joint]), 0.75 * width, opacity[joint])
    return canvas


def draw_box(image: Image, box: Sequence[float] | NDArray[Any], label: str = "", colour: Colour = BOX) -> Image:
    """Draw a box (left, top, width, height; px) with an optional label on a copy of a picture."""
    import cv2

    canvas = np.ascontiguousarray(image).copy()
    thickness = max(1, round(max(canvas.shape[:2]) / 500))
    left, top, width, height = (float(v) for v in box)
    start = _fixed(canvas, np.array([left, top]))
    end = _fixed(canvas, np.array([left + width, top + height]))
    cv2.rectangle(canvas, start, end, OUTLINE, thickness + 2, cv2.LINE_AA, _SHIFT)
    cv2.rectangle(canvas, start, end, colour, thickness, cv2.LINE_AA, _SHIFT)
    if label:
        scale = max(0.35, max(canvas.shape[:2]) / 1400)
        at = (max(int(left), 2), max(int(top) - 4 - thickness, int(22 * scale)))
        put_text(canvas, label, at, scale, colour, outline=True)
    return canvas


def put_text(
    canvas: Image,
    text: str,
    at: tuple[int, int],
    scale: float = 0.4,
    colour: Colour = INK,
    outline: bool = False,
) -> None:
    """Write one line in place; `at` is its lower left corner. Characters beyond ASCII become `?`."""
    import cv2

    text = text.encode("ascii", "replace").decode()
    weight = max(1, round(2 * scale))
    if outline:
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, OUTLINE, weight + 2, cv2.LINE_AA)
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA)


def caption(image: Image, text: str, scale: float = 0.4) -> Image:
    """Add a strip of text under a picture; the text shrinks to fit, down to half its size, then is cut."""
    import cv2

    text = text.encode("ascii", "replace").decode()
    room = image.shape[1] - 8
    needed = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
    shrunk = scale * min(1.0, max(0.5, room / max(needed, 1)))
    while len(text) > 1 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, shrunk, 1)[0][0] > room:
        text = text[:-3] + "." if len(text) > 3 else text[:1]
    strip = np.full((round(45 * scale), image.shape[1], 3), PAPER, np.uint8)
    put_text(strip, text, (4, round(31 * scale)), shrunk)
    return np.vstack([image, strip])


def tile(images: Sequence[Image], columns: int, gap: int = 4, background: Colour = PAPER) -> Image:
    """Lay pictures out in rows; every cell has the size of the largest picture.

    Args:
        images: Of any sizes; smaller ones are centred in their cell.
        columns: Pictures per row.
        gap: Pixels between and around the cells.
        background: Colour of the gaps.
    """
    if not images:
        raise ValueError("There are no images to tile.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    shape = rows * (height + gap) + gap, columns * (width + gap) + gap, 3
    sheet = np.full(shape, background, np.uint8)
    for i, image in enumerate(images):
        top = gap + (i // columns) * (height + gap) + (height - image.shape[0]) // 2
        left = gap + (i % columns) * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def write_picture(path: Path, image: Image) -> None:
    """Write RGB pixels in the format that the file's ending names; a file that exists is replaced in one step.

    Raises:
        PoseZooError: OpenCV cannot write that format, or the file cannot be written.
    """
    import cv2

    try:
        _, data = cv2.imencode(path.suffix or ".", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise PoseZooError(f"cannot write a picture to {path}: use the ending .png or .jpg.") from error
    replace_file(path, lambda file: file.write_bytes(data.tobytes()))


def _extent(points: NDArray[np.float64]) -> float:
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0


def _far_to_near(bones: Sequence[tuple[int, int]], depth: NDArray[Any] | None) -> Sequence[tuple[int, int]]:
    if depth is None:
        return bones
    known = np.nan_to_num(np.asarray(depth, np.float64))
    return sorted(bones, key=lambda bone: -(known[bone[0]] + known[bone[1]]))


def _fixed(canvas: Image, point: NDArray[np.float64]) -> tuple[int, int]:
    """OpenCV's fixed-point coordinates; far-off points are clamped, which OpenCV's integers need."""
    limit = 4 * max(canvas.shape[:2])
    x, y = np.round(np.clip(point, -limit, limit) * 2**_SHIFT).astype(int)
    return int(x), int(y)


def _limb(
    canvas: Image,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    colour: Colour,
    width: float,
    opacity: float,
) -> None:
    """One limb with a dark outline, which keeps it visible on any background."""
    import cv2

    view, origin = _window(canvas, np.stack([start, end]), width)
    if not view.size:
        return
    layer = view.copy()
    ends = _fixed(canvas, start - origin), _fixed(canvas, end - origin)
    cv2.line(layer, *ends, OUTLINE, round(width) + 2 * round(max(1, width / 4)), cv2.LINE_AA, _SHIFT)
    cv2.line(layer, *ends, colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)
    view[:] = cv2.addWeighted(layer, opacity, view, 1 - opacity, 0)


def _dot(canvas: Image, centre: NDArray[np.float64], colour: Colour, radius: float, opacity: float) -> None:
    import cv2

    view, origin = _window(canvas, centre[None], 2 * radius)
    if not view.size:
        return
    layer = view.copy()
    at = _fixed(canvas, centre - origin)
    rim = round(max(0.8, radius / 3) * 2**_SHIFT)
    cv2.circle(layer, at, round(radius * 2**_SHIFT) + rim, OUTLINE, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    cv2.circle(layer, at, round(radius * 2**_SHIFT), colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    view[:] = cv2.addWeighted(layer, opacity, view, 1 - opacity, 0)


def _window(canvas: Image, points: NDArray[np.float64], width: float) -> tuple[Image, NDArray[np.float64]]:
    """The part of the canvas that a stroke can touch, as a view, and its upper left corner."""
    margin = 2 * width + 3
    size = np.array([canvas.shape[1], canvas.shape[0]])
    low = np.clip(np.floor(points.min(0) - margin), 0, size).astype(int)
    high = np.clip(np.ceil(points.max(0) + margin), 0, size).astype(int)
    return canvas[low[1] : high[1], low[0] : high[0]], low.astype(np.float64)
