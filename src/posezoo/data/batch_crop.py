"""Crops of many people at once, for inference: the geometry and pixels of `data.crop`, for N boxes in one go."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from posezoo.cameras import Camera, CropCamera, image_plane_crop, look_at_crop
from posezoo.data.crop import RIM, CropKind, averaging, outline, warp_region
from posezoo.data.images import Pixels


def crop_boxes(
    cameras: Camera,
    boxes: Float[Tensor, "n 4"],
    size: int,
    kind: CropKind,
    up: Sequence[float] = (0.0, -1.0, 0.0),
    roll: Any = 0.0,
    zoom: Any = 1.0,
    flip: Any = False,
) -> CropCamera:
    """The virtual cameras of N boxes.

    Args:
        cameras: Batched [N], one for each box.
        boxes: ltwh, px of the (distorted) images.
        size: Side of the crops, px.
        kind: "look_at" or "image_plane".
        up: Direction against gravity in the cameras' frame. An image-plane crop is turned in its plane to follow it.
        roll: Degrees, a number or [N].
        zoom: Factor on the focal length, a number or [N].
        flip: Mirror, a bool or [N].
    """
    if kind == "look_at":
        return look_at_crop(cameras, boxes, size, up, roll, zoom, flip)
    upright = lean(cameras, boxes, up)
    return image_plane_crop(cameras, boxes, size, torch.as_tensor(roll, dtype=boxes.dtype) + upright, zoom, flip)


def lean(cameras: Camera, boxes: Float[Tensor, "n 4"], up: Sequence[float]) -> Float[Tensor, " n"]:
    """Degrees by which an image-plane crop must roll so that `up` points up in it, at the centre of each box."""
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    x, y = cameras.rays(centre[:, None])[:, 0].unbind(-1)
    # Where the image of a point moves when the point moves along `up`.
    moved = torch.stack([up[0] - x * up[2], up[1] - y * up[2]], -1)
    moved = (cameras.intrinsics[:, :2, :2] @ moved[..., None])[..., 0]
    angle = torch.rad2deg(torch.atan2(moved[:, 0], -moved[:, 1]))
    return angle.where(moved.norm(dim=-1) > 1e-6, 0.0)  # looking straight up or down, there is no upright


def warp_crops(images: Sequence[Pixels], crops: CropCamera, picture: Sequence[int]) -> Pixels:
    """Cut N crops out of any number of images, antialiased and without lens distortion, as `data.crop.warp` does.

    Where each crop lies is computed for all of them together; a single warp by OpenCV then fills each.

    Args:
        images: uint8 [H, W, 3] of any sizes.
        crops: Crop cameras, batched [N].
        picture: Which image each crop is cut out of.

    Returns:
        uint8 [N, S, S, 3]; black outside the image.
    """
    found = np.zeros((len(picture), crops.size, crops.size, 3), np.uint8)
    sizes = np.array([images[at].shape[1::-1] for at in picture], np.int64).reshape(-1, 2)
    low, high, scales = _extents(crops, sizes)
    for row, at in enumerate(picture):
        (x0, y0), (x1, y1) = low[row].tolist(), high[row].tolist()
        if x1 > x0 and y1 > y0:
            _, shrink = averaging(float(scales[row]), (1,))
            found[row] = warp_region(images[at], (x0, y0, x1, y1), shrink, np.eye(3), crops[row])
    return found


def _extents(
    crops: CropCamera, sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Corners [N, 2] of the part of its image that each crop sees, and source px per crop px at its centre [N]."""
    seen = crops.to_image(torch.tensor(outline(crops.size), dtype=torch.float32))
    a, b, c = seen[:, :3].unbind(1)
    scales = torch.linalg.det(torch.stack([b - a, c - a], -2)).abs().sqrt().double().numpy()
    border = seen[:, 3:].numpy()
    first = np.clip(np.floor(border.min(1)).astype(np.int64) - RIM, 0, sizes)
    last = np.clip(np.ceil(border.max(1)).astype(np.int64) + RIM, 0, sizes)
    return first, last, scales
