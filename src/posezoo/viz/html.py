"""An interactive page of people in 3D: one file, without a network, that any browser opens.

Drag to turn, wheel to zoom, hover over a joint to read its position; videos play. The page is `page.html` beside this
module with the poses filled in.
"""

import base64
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.disk import replace_file
from posezoo.errors import PoseZooError
from posezoo.people import People
from posezoo.viz.draw2d import LEFT, RIGHT, side_colour
from posezoo.viz.draw3d import MIDDLE, levelling
from posezoo.viz.people import distances

MOST_FRAMES = 6000  # of a video; longer ones are thinned out, which the page says
_LONGEST_SIDE = 1280  # px of the picture inside the page
_FRUSTUM = 350.0  # mm, length of the drawn camera


def write_html(path: str | os.PathLike[str], frames: Sequence[People], title: str = "") -> Path:
    """Write the page of one picture, or of the frames of a video.

    Args:
        path: The file, .html.
        frames: People of one picture (shown beside them where it is known) or of consecutive frames.
        title: Headline; the file's name when empty.

    Raises:
        PoseZooError: No frames, another ending, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise PoseZooError(f"cannot write a page to {target.name}: the name must end in .html.")
    if not frames:
        raise PoseZooError(f"there is no frame to write to {target}.")
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    data = page_data(frames, title or target.stem)
    # "</script>" within a title would end the block of data.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    for name, colour in (("LEFT", LEFT), ("RIGHT", RIGHT), ("MIDDLE", MIDDLE)):
        page = page.replace(f"__{name}__", f"rgb({colour[0]},{colour[1]},{colour[2]})")
    page = page.replace("__TITLE__", html.escape(data["title"])).replace("__DATA__", text)
    return replace_file(target, lambda file: file.write_text(page, encoding="utf-8"))


def page_data(frames: Sequence[People], title: str) -> dict[str, Any]:
    """What the page is told: joints in a level frame (x right, y down along gravity, z forward), rounded to mm."""
    first, step = frames[0], -(-len(frames) // MOST_FRAMES)
    shown = frames[::step]
    level = levelling(first.up)
    points = np.concatenate([people.joints3d.reshape(-1, 3) for people in shown]) @ level.T
    points = points[np.isfinite(points).all(1)]
    low, high = _bounds(points)
    alone = len(frames) == 1
    image = _picture(first) if alone else None
    return {
        "title": title,
        "facts": _facts(frames, step),
        "joints": list(first.skeleton.joints),
        "bones": [list(bone) for bone in first.skeleton.bones],
        "colours": [list(side_colour(joint, MIDDLE)) for joint in first.skeleton.joints],
        "middle": _ints((low + high) / 2),
        "reach": max(600, int(np.linalg.norm(high - low) / 2)),
        "floor": int(high[1]),
        "camera": _frustum(first, level),
        "size": list(first.size),
        "image": image,
        "flat": not alone,
        "frames": [_frame(people, level) for people in shown],
    }


def _bounds(points: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of what is looked at; a few wild poses of a long video must not shrink everybody else."""
    if not len(points):
        return np.array([-900.0, -900.0, 3000.0]), np.array([900.0, 900.0, 5000.0])
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    return low.astype(np.float64), high.astype(np.float64)


def _frame(people: People, level: NDArray[np.float64]) -> dict[str, Any]:
    far = distances(people)
    return {
        "number": people.frame,
        "time": None if people.time is None else round(people.time, 4),
        "people": [
            {
                "id": int(people.ids[row]),
                "far": int(far[row]),
                "xyz": _ints(people.joints3d[row] @ level.T),
                "cam": _ints(people.joints3d[row]),
                "z": [0 if value is None else value for value in _ints(people.joints3d[row, :, 2])],
                "uv": _ints(people.joints2d[row] * 10, 10),
                "s": [round(float(score), 2) for score in people.scores[row]],
            }
            for row in range(len(people))
        ],
    }


def _ints(values: NDArray[Any], divisor: int = 1) -> list[Any]:
    """Flat list of rounded numbers (divided by `divisor`), None for NaN."""
    flat = np.asarray(values, np.float64).reshape(-1)
    numbers = [None if not np.isfinite(value) else round(value) for value in flat]
    return numbers if divisor == 1 else [None if n is None else n / divisor for n in numbers]


def _facts(frames: Sequence[People], step: int) -> str:
    first = frames[0]
    people = f"{len(first)} people" if len(frames) == 1 else f"{len(frames)} frames"
    camera = "calibrated camera" if first.calibrated else "guessed field of view: distances are uncertain"
    thinned = f", every {step}th frame shown" if step > 1 else ""
    return f"{people}, {first.skeleton.name}, mm in the camera's frame, {camera}{thinned}"


def _frustum(people: People, level: NDArray[np.float64]) -> dict[str, Any]:
    """The camera as a small pyramid at its place, the origin."""
    k = people.camera.intrinsics.double().numpy()
    width, height = people.size
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    rays = corners @ np.linalg.inv(k).T * _FRUSTUM
    return {"eye": [0, 0, 0], "corners": [_ints(corner) for corner in rays @ level.T]}


def _picture(people: People) -> str | None:
    """The picture as a data URL of a JPEG; None where it was not kept."""
    import cv2

    if people.image is None:
        return None
    image = people.pixels()
    scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    if scale < 1:
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
