"""3D skeletons from several sides: a small orthographic painter, fast enough for sheets of dozens of poses.

Frames: millimetres, camera frame (x right, y down, z forward). Every view has equal axes and one common
scale, so lengths can be compared across views. The grid is the ground at the lowest joint (squares: 0.5 m).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.skeletons import Skeleton
from posezoo.viz.draw2d import PAPER, Colour, Image, put_text, side_colour

# (yaw, pitch) in degrees of the viewer: yaw walks around the person (90: the side, farther is right),
# pitch looks down a little, so that the ground is seen as a plane.
VIEWS: dict[str, tuple[float, float]] = {
    "front": (0.0, 10.0),
    "side": (90.0, 10.0),
    "oblique": (40.0, 18.0),
    "back": (180.0, 10.0),
    "top": (0.0, 90.0),
}
MIDDLE: Colour = (132, 132, 138)
REFERENCE: Colour = (16, 16, 16)
_GRID: Colour = (216, 216, 210)
_SHADOW: Colour = (226, 226, 221)
_LABEL: Colour = (120, 120, 124)
_SQUARE = 500.0  # mm
_MOST_SQUARES = 24  # from the middle of the ground to its rim
_HEAD_RADIUS = 95.0  # mm
_SUPERSAMPLING = 3  # thin lines are drawn large and averaged; OpenCV's own antialiasing frays at one pixel
_SHIFT = 4  # OpenCV draws at 1/16 pixel

Points = NDArray[np.float64]


def view_rotation(view: str, up: Sequence[float] = (0.0, -1.0, 0.0)) -> Points:
    """Rotation [3,3] from the camera frame to a view's frame (x right, y down, z away from the viewer).

    Args:
        view: One of `VIEWS`.
        up: The direction against gravity, in the camera frame; a level camera's by default.
    """
    if view not in VIEWS:
        raise ValueError(f"Unknown view '{view}': choose from {', '.join(VIEWS)}.")
    yaw, pitch = np.radians(VIEWS[view])
    cos, sin = np.cos(yaw), np.sin(yaw)
    around = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    cos, sin = np.cos(pitch), np.sin(pitch)
    tilt = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    rotation: Points = tilt @ around @ levelling(up)
    return rotation


def draw_pose3d(
    joints3d: NDArray[Any],
    skeleton: Skeleton,
    size: tuple[int, int] = (480, 240),
    views: Sequence[str] = ("front", "side"),
    valid: NDArray[np.bool_] | None = None,
    reference: NDArray[Any] | None = None,
    reference_valid: NDArray[np.bool_] | None = None,
    span: float | None = None,
    up: Sequence[float] = (0.0, -1.0, 0.0),
    labels: bool = True,
) -> Image:
    """Draw one 3D pose from several sides, next to each other.

    Args:
        joints3d: [J,3] mm, camera frame, absolute or root-relative.
        skeleton: Names and bones of the joints.
        size: (width, height) of the whole picture, px.
        views: Names from `VIEWS`.
        valid: [J] joints to draw; all that are finite when None.
        reference: [J,3] a second pose in the same frame (the truth), drawn over the first in thin black.
        reference_valid: [J] joints of the reference to draw.
        span: Millimetres over the height of a view; fitted to the poses when None. Give it to compare.
        up: The direction against gravity, in the camera frame.
        labels: Write the name of each view in its corner.

    Returns:
        [height, width, 3] RGB.
    """
    poses = [_Pose.of(joints3d, valid, skeleton)]
    references = [] if reference is None else [_Pose.of(reference, reference_valid, skeleton)]
    return _draw(_Scene.of(poses, references, up), size, views, up, span, labels)


def draw_people3d(
    joints3d: NDArray[Any],
    skeleton: Skeleton,
    size: tuple[int, int] = (960, 480),
    views: Sequence[str] = ("front", "side"),
    span: float | None = None,
    up: Sequence[float] = (0.0, -1.0, 0.0),
    labels: bool = True,
    names: Sequence[str] = (),
    around: NDArray[Any] | None = None,
) -> Image:
    """Draw several people in one 3D scene from several sides: near limbs cover far ones, whosoever they are.

    Args:
        joints3d: [N,J,3] mm, camera frame, absolute; joints that are not finite are left out.
        skeleton: Names and bones of the joints.
        size: (width, height) of the whole picture, px.
        views: Names from `VIEWS`.
        span: Millimetres over the height of a view; fitted to the people when None. Give it to compare.
        up: The direction against gravity, in the camera frame.
        labels: Write the name of each view in its corner.
        names: Of the people, written above their heads.
        around: [M,3] mm: show these points instead of fitting the view to the people; for the frames of a video.

    Returns:
        [height, width, 3] RGB.
    """
    poses = [_Pose.of(joints, None, skeleton) for joints in joints3d]
    for pose, name in zip(poses, names, strict=bool(names)):
        pose.name = name
    return _draw(_Scene.of(poses, [], up, around), size, views, up, span, labels)


def _draw(
    scene: "_Scene",
    size: tuple[int, int],
    views: Sequence[str],
    up: Sequence[float],
    span: float | None,
    labels: bool,
) -> Image:
    edges = np.linspace(0, size[0], len(views) + 1).round().astype(int)
    widths = [int(width) for width in np.diff(edges)]
    rotations = [view_rotation(view, up) for view in views]
    scale = size[1] / span if span else scene.scale_to_fit(rotations, min(widths), size[1])
    panels = []
    for view, rotation, width in zip(views, rotations, widths, strict=True):
        panel = _Panel(scene, rotation, width, size[1], scale).draw()
        if labels:
            put_text(panel, view, (5, size[1] - 6), max(0.32, size[1] / 700), _LABEL)
        panels.append(panel)
    return np.hstack(panels)


@dataclass
class _Pose:
    joints: Points
    drawable: NDArray[np.bool_]
    skeleton: Skeleton
    name: str = ""

    @classmethod
    def of(cls, joints: NDArray[Any], valid: NDArray[np.bool_] | None, skeleton: Skeleton) -> "_Pose":
        if joints.shape != (len(skeleton), 3):
            raise ValueError(f"{skeleton} needs joints of shape ({len(skeleton)}, 3), got {joints.shape}.")
        drawable = np.isfinite(joints).all(1)
        if valid is not None:
            drawable &= valid
        return cls(np.where(drawable[:, None], joints, 0).astype(np.float64), drawable, skeleton)

    @property
    def bones(self) -> list[tuple[int, int]]:
        return [(p, c) for p, c in self.skeleton.bones if self.drawable[p] and self.drawable[c]]


@dataclass(frozen=True)
class _Scene:
    """Poses with the middle of their bounding box and the ground under them; `level` has y along gravity."""

    poses: list[_Pose]
    references: list[_Pose]  # drawn over the others, thin
    shown: Points  # that the view is fitted to, camera frame
    level: Points
    centre: Points  # camera frame
    floor: float  # along gravity, from the centre

    @classmethod
    def of(
        cls, poses: list[_Pose], references: list[_Pose], up: Sequence[float], around: NDArray[Any] | None = None
    ) -> "_Scene":
        level = levelling(up)
        shown = _points([*poses, *references]) if around is None else np.asarray(around, np.float64)
        points = shown @ level.T if len(shown) else np.zeros((1, 3))
        middle = (points.min(0) + points.max(0)) / 2
        return cls(poses, references, shown, level, level.T @ middle, float(points[:, 1].max() - middle[1]))

    def scale_to_fit(self, rotations: Sequence[Points], width: int, height: int) -> float:
        """Pixels per mm at which every view shows all of the poses."""
        points = self.shown - self.centre
        if not len(points):
            return height / 2000
        reach = np.abs(np.stack([points @ rotation.T for rotation in rotations])).max((0, 1))
        reach = np.maximum(reach, 150)  # a single joint must not fill the picture
        return float(0.43 * min(width / reach[0], height / reach[1]))

    def ground(self, points: Points) -> Points:
        """Points (from the centre, camera frame) dropped onto the ground along gravity."""
        level = points @ self.level.T
        level[:, 1] = self.floor
        return level @ self.level

    def grid(self) -> Points:
        """Lines [n,2,3] of the ground grid around the poses, from the centre in the camera frame."""
        level = (self.shown - self.centre) @ self.level.T
        reach = float(np.abs(level[:, [0, 2]]).max()) if len(level) else 0.0
        half = max(2, min(_MOST_SQUARES, int(np.ceil(reach / _SQUARE))))
        steps = np.arange(-half, half + 1) * _SQUARE
        low, high = np.full(len(steps), steps[0]), np.full(len(steps), steps[-1])
        along_z = np.stack([np.stack([steps, low], 1), np.stack([steps, high], 1)], 1)
        lines = np.concatenate([along_z, along_z[..., ::-1]])
        floor = np.full((*lines.shape[:2], 1), self.floor)
        return np.concatenate([lines[..., :1], floor, lines[..., 1:]], 2) @ self.level


class _Panel:
    """One view of a scene."""

    def __init__(self, scene: _Scene, rotation: Points, width: int, height: int, scale: float) -> None:
        self.scene, self.rotation, self.size = scene, rotation, (width, height)
        self.scale = scale * _SUPERSAMPLING
        self.canvas = np.full((height * _SUPERSAMPLING, width * _SUPERSAMPLING, 3), PAPER, np.uint8)
        self.limb = max(1.6, min(width, height) / 60) * _SUPERSAMPLING

    def draw(self) -> Image:
        import cv2

        for line in self.scene.grid():
            self._line(self._seen(line), _GRID, 0.7 * _SUPERSAMPLING)
        gutter = 3 * _SUPERSAMPLING  # so that the grids of neighbouring views do not run into each other
        self.canvas[:, :gutter] = self.canvas[:, -gutter:] = PAPER
        for pose in self.scene.poses:
            self._shadow(pose)
        self._bodies()
        for reference in self.scene.references:
            self._outline(reference)
        image: Image = cv2.resize(self.canvas, self.size, interpolation=cv2.INTER_AREA)
        for pose in self.scene.poses:
            self._name(image, pose)
        return image

    def _name(self, image: Image, pose: _Pose) -> None:
        """Above the highest joint."""
        if pose.name and pose.drawable.any():
            seen = self._seen(pose.joints[pose.drawable] - self.scene.centre) / _SUPERSAMPLING
            u, v, _ = seen[seen[:, 1].argmin()]
            put_text(image, pose.name, (round(u) - 6, max(12, round(v) - 12)), max(0.35, self.size[1] / 900), _LABEL)

    def _seen(self, points: Points) -> Points:
        """[n,3] from the centre in the camera frame -> u, v in canvas pixels and depth in mm."""
        turned = points @ self.rotation.T
        middle = np.array([self.canvas.shape[1], self.canvas.shape[0], 0]) / 2
        return turned * [self.scale, self.scale, 1] + middle

    def _shadow(self, pose: _Pose) -> None:
        seen = self._seen(self.scene.ground(pose.joints - self.scene.centre))
        for bone in pose.bones:
            self._line(seen[list(bone)], _SHADOW, 1.3 * self.limb)

    def _bodies(self) -> None:
        """Limbs from far to near, each with a halo that parts it from what it covers; far ones are paler."""
        limbs = []
        for pose in self.scene.poses:
            seen = self._seen(pose.joints - self.scene.centre)
            limbs += [(pose, parent, child, seen[[parent, child]]) for parent, child in pose.bones]
            for joint in np.flatnonzero(pose.drawable):
                if not any(joint in bone for bone in pose.bones):
                    limbs.append((pose, int(joint), int(joint), seen[[joint, joint]]))
        for pose, parent, child, ends in sorted(limbs, key=lambda limb: -limb[3][:, 2].sum()):
            colour = side_colour(pose.skeleton.joints[child], MIDDLE)
            if parent == child:
                self._line(ends, colour, self.limb)
                continue
            colour = _faded(colour, ends[:, 2].mean())
            self._halo(ends)
            self._line(ends, colour, self.limb)
            if pose.skeleton.joints[child] == "head_top":
                self._head(pose.joints[[parent, child]], colour)

    def _halo(self, ends: Points) -> None:
        """Clear a margin along a limb, but not at its ends, where it would cut off its neighbours."""
        along = ends[1] - ends[0]
        length = float(np.hypot(*along[:2]))
        if length > 3 * self.limb:
            inset = along * 1.5 * self.limb / length
            self._line(np.stack([ends[0] + inset, ends[1] - inset]), PAPER, self.limb + 2 * _SUPERSAMPLING)

    def _head(self, bone: Points, colour: Colour) -> None:
        """A ball below the top of the head: it makes a person of the sticks."""
        import cv2

        down = bone[0] - bone[1]
        centre = bone[1] + down * _HEAD_RADIUS / max(float(np.linalg.norm(down)), 1.0)
        u, v = self._pixels(self._seen((centre - self.scene.centre)[None]))[0]
        for radius, tone in ((0.0, colour), (0.55 * self.limb, _mixed(colour, 0.6))):
            pixels = max(1, round((_HEAD_RADIUS * self.scale - radius) * 2**_SHIFT))
            cv2.circle(self.canvas, (u, v), pixels, tone, cv2.FILLED, cv2.LINE_AA, _SHIFT)

    def _outline(self, pose: _Pose) -> None:
        seen = self._seen(pose.joints - self.scene.centre)
        for bone in pose.bones:
            self._line(seen[list(bone)], REFERENCE, max(0.9 * _SUPERSAMPLING, self.limb / 4))

    def _line(self, ends: Points, colour: Colour, width: float) -> None:
        import cv2

        start, end = self._pixels(ends)
        cv2.line(self.canvas, start, end, colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)

    def _pixels(self, seen: Points) -> list[tuple[int, int]]:
        limit = 8 * max(self.canvas.shape[:2])  # beyond it OpenCV's integers overflow
        pixels = np.round(np.clip(seen[:, :2] - 0.5, -limit, limit) * 2**_SHIFT).astype(int)
        return [(int(u), int(v)) for u, v in pixels]


def _points(poses: Sequence[_Pose]) -> Points:
    return np.concatenate([np.zeros((0, 3)), *(pose.joints[pose.drawable] for pose in poses)])


def levelling(up: Sequence[float]) -> Points:
    """Smallest rotation [3,3] that turns `up` to (0, -1, 0): a leaning camera becomes level."""
    start = np.asarray(up, np.float64)
    start = start / np.linalg.norm(start)
    goal = np.array([0.0, -1.0, 0.0])
    axis, cosine = np.cross(start, goal), float(start @ goal)
    if cosine < -1 + 1e-9:
        return np.diag([-1.0, -1.0, 1.0])  # a camera held upside down: half a turn about its axis
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation: Points = np.eye(3) + cross + cross @ cross / (1 + cosine)
    return rotation


def _faded(colour: Colour, depth: float) -> Colour:
    """Paler with depth in mm from the middle of the scene: a cue of what is behind."""
    return _mixed(colour, float(np.clip(0.12 + depth / 1500, 0.0, 0.4)))


def _mixed(colour: Colour, amount: float) -> Colour:
    """Mix with paper."""
    red, green, blue = (round(c + amount * (p - c)) for c, p in zip(colour, PAPER, strict=True))
    return red, green, blue
