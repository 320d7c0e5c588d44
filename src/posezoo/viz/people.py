"""`People` drawn: over their picture, in a 3D scene, and both side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.people import NOBODY, People
from posezoo.viz.draw2d import Image, caption, draw_box, draw_pose, put_text
from posezoo.viz.draw3d import draw_people3d

_LABEL_COLOUR = (250, 250, 248)


def draw_people(image: Image, people: People, boxes: bool = False, labels: bool = True) -> Image:
    """Everybody over a copy of the picture: far people first, far limbs first; left is blue, right is orange.

    Args:
        image: uint8 [H, W, 3] RGB, of the size that the people were found in, or scaled from it.
        people: Who to draw.
        boxes: Draw their boxes too.
        labels: Write identity (in videos) and distance beside each head.
    """
    scale = np.array([image.shape[1] / people.size[0], image.shape[0] / people.size[1]])
    canvas = image.copy()
    for row in far_to_near(people):
        joints2d = (people.joints2d[row] + 0.5) * scale - 0.5
        if boxes:
            canvas = draw_box(canvas, people.boxes[row] * np.tile(scale, 2))
        canvas = draw_pose(canvas, joints2d, people.skeleton, people.scores[row], people.joints3d[row, :, 2])
        if labels:
            _write_label(canvas, joints2d, person_label(people, row))
    return canvas


def draw_scene(
    people: People,
    size: tuple[int, int] = (960, 480),
    views: Sequence[str] = ("front", "side"),
    around: NDArray[Any] | None = None,
) -> Image:
    """Everybody in one 3D scene with the ground and equal axes, from several sides.

    Args:
        people: Who to draw.
        size: (width, height) of the picture, px.
        views: Names from `posezoo.viz.draw3d.VIEWS`.
        around: [M, 3] mm to fit the view to, the same for all frames of a video; the people themselves when None.
    """
    names = [f"#{number}" for number in people.ids] if (people.ids != NOBODY).all() and len(people) else []
    return draw_people3d(people.joints3d, people.skeleton, size, views, None, people.up, names=names, around=around)


def side_by_side(
    image: Image, people: People, height: int = 540, around: NDArray[Any] | None = None, text: str = ""
) -> Image:
    """The picture with its overlay, and beside it the 3D scene from the front and the side.

    Args:
        image: The picture, uint8 [H, W, 3] RGB.
        people: Who to draw.
        height: Of the result without its caption, px.
        around: See `draw_scene`.
        text: Caption; none when empty.
    """
    import cv2

    scale = height / image.shape[0]
    width = max(2, round(image.shape[1] * scale))
    photo = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    joined = np.hstack([draw_people(photo, people), draw_scene(people, (2 * height, height), around=around)])
    return caption(joined, text, height / 900) if text else joined


def far_to_near(people: People) -> NDArray[np.intp]:
    """Rows by falling distance."""
    return np.argsort(-distances(people), kind="stable")


def distances(people: People) -> NDArray[np.float64]:
    """How far from the camera the middle of each person is, [N] mm; 0 for a pose without known joints."""
    known = np.isfinite(people.joints3d)
    count = np.maximum(known.sum(1), 1)
    middle = np.where(known, people.joints3d, 0).sum(1) / count
    length: NDArray[np.float64] = np.linalg.norm(middle.astype(np.float64), axis=-1)
    return length


def person_label(people: People, row: int) -> str:
    """Identity, and the distance; that of a guessed camera with a question mark."""
    doubt = "" if people.calibrated else "?"
    identity = "" if people.ids[row] == NOBODY else f"#{people.ids[row]} "
    return f"{identity}{distances(people)[row] / 1000:.1f} m{doubt}"


def _write_label(canvas: Image, joints2d: NDArray[Any], text: str) -> None:
    known = joints2d[np.isfinite(joints2d).all(1)]
    if not len(known):
        return
    scale = max(0.5, max(canvas.shape[:2]) / 1600)
    x, y = known[known[:, 1].argmin()]
    if -50 < x < canvas.shape[1] and -50 < y < canvas.shape[0] + 50:
        at = (max(2, round(x) - 20), max(round(24 * scale), round(y) - round(14 * scale)))
        put_text(canvas, text, at, scale, _LABEL_COLOUR, outline=True)


def stage(frames: Sequence[People]) -> NDArray[np.float64]:
    """Corners [8, 3] (mm) of the space that people of a video move in, but for a few wild poses."""
    points = np.concatenate([people.joints3d.reshape(-1, 3) for people in frames])
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return np.array([[-900.0, -900.0, 3000.0], [900.0, 900.0, 5000.0]])
    low, high = np.percentile(points, [1, 99], axis=0)
    picks = np.indices((2, 2, 2)).reshape(3, -1).T.astype(bool)
    return np.asarray(np.where(picks, high, low), np.float64)
