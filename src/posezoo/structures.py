"""The contracts between data, models and metrics: `Sample`, `Batch`, `Prediction`.

Frames: crop camera, x right, y down, z forward; millimetres and pixels. Absolute and root-relative coordinates never
share a name. A missing label is zeros with a False mask.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8, UInt8
from numpy.typing import NDArray
from torch import Tensor

from posezoo.cameras import Camera, CropCamera
from posezoo.data.images import SourceImage
from posezoo.people import People as People

IDENTITIES = ("index", "source", "action", "sequence", "frame", "image_id", "person_id")


@dataclass
class Sample:
    """One annotated person in one source image, as a dataset reads it (NumPy, dataset's own skeleton).

    Attributes:
        image: uint8 [H, W, 3] RGB, or an image file that the crop decodes no finer than it needs (`open_image`); None
            when only labels were asked for.
        box: float32 [4] left, top, width, height, source px.
        camera: The calibrated camera; None when it is unknown (then the field of view is guessed).
        joints3d: float32 [J, 3] mm, camera frame, absolute; None without 3D labels.
        joints2d: float32 [J, 2] source px; None to use the projection of `joints3d`.
        valid3d, valid2d: bool [J]; all joints when None.
        depth_order, valid_order: annotated ordinal labels int8, bool [P] on the *target* skeleton's parts.
        size: (width, height) of the source image, px.
        fov: Field of view to assume while `camera` is None, degrees along the longer image side; None for the
            defaults of `data.crop`. It stays a guess: `has_camera` is False.
        identity: Values of the identity fields of `Batch`.
    """

    image: NDArray[np.uint8] | SourceImage | None
    box: NDArray[np.float32]
    size: tuple[int, int]
    camera: Camera | None = None
    joints3d: NDArray[np.float32] | None = None
    valid3d: NDArray[np.bool_] | None = None
    joints2d: NDArray[np.float32] | None = None
    valid2d: NDArray[np.bool_] | None = None
    depth_order: NDArray[np.int8] | None = None
    valid_order: NDArray[np.bool_] | None = None
    fov: float | None = None
    identity: dict[str, int] = field(default_factory=dict)


class Batch(TypedDict):
    """What every DataModule yields: B crops of side S, J joints and P parts of the model's skeleton."""

    image: UInt8[Tensor, "batch 3 side side"]  # RGB, normalised on the device by the network
    intrinsics: Float[Tensor, "batch 3 3"]  # K of the crop camera, px
    rotation: Float[Tensor, "batch 3 3"]  # X_crop = R X_source
    crop_to_image: Float[Tensor, "batch 3 3"]  # crop px -> undistorted source px
    source_intrinsics: Float[Tensor, "batch 3 3"]
    source_distortion: Float[Tensor, "batch 12"]
    distortion_model: Int[Tensor, " batch"]  # 0 none, 1 OpenCV, 2 Human3.6M
    has_camera: Bool[Tensor, " batch"]  # False: guessed field of view; absolute losses and metrics skip it
    box: Float[Tensor, "batch 4"]  # ltwh, source px
    joints3d: Float[Tensor, "batch joints 3"]  # mm, crop-camera frame, absolute
    joints2d: Float[Tensor, "batch joints 2"]  # px in the crop, also outside it
    valid3d: Bool[Tensor, "batch joints"]
    valid2d: Bool[Tensor, "batch joints"]
    depth_order: Int8[Tensor, "batch parts"]  # +1 child nearer than parent, 0 level, -1 child farther; annotated only
    valid_order: Bool[Tensor, "batch parts"]
    index: Int[Tensor, " batch"]
    source: Int[Tensor, " batch"]
    action: Int[Tensor, " batch"]
    sequence: Int[Tensor, " batch"]
    frame: Int[Tensor, " batch"]
    image_id: Int[Tensor, " batch"]
    person_id: Int[Tensor, " batch"]


@dataclass
class Prediction:
    """What every estimator returns for a batch, in the crop-camera frame.

    Attributes:
        joints3d: [B, J, 3] mm, absolute.
        joints3d_rel: [B, J, 3] mm, root at the origin.
        joints2d: [B, J, 2] crop px.
        scores: [B, J] confidence in 0..1.
        root_depth_source: Where the distance to the camera comes from; printed in every table.
        aux: What the losses need; dropped outside training.
    """

    joints3d: Float[Tensor, "batch joints 3"]
    joints3d_rel: Float[Tensor, "batch joints 3"]
    joints2d: Float[Tensor, "batch joints 2"]
    scores: Float[Tensor, "batch joints"]
    root_depth_source: str
    aux: dict[str, Tensor] = field(default_factory=dict)

    def apply(self, function: Callable[[Tensor], Tensor]) -> "Prediction":
        """The same prediction with `function` applied to every tensor."""
        return Prediction(
            function(self.joints3d),
            function(self.joints3d_rel),
            function(self.joints2d),
            function(self.scores),
            self.root_depth_source,
            {key: function(value) for key, value in self.aux.items()},
        )

    def detached(self) -> "Prediction":
        """Without aux and gradients, on the CPU in float32: what `predict_step` hands out."""
        return replace(self, aux={}).apply(lambda tensor: tensor.detach().float().cpu())


def source_camera(batch: Batch) -> Camera:
    """The cameras that took the images of a batch (extrinsics unknown here: identity)."""
    k = batch["source_intrinsics"]
    return Camera(
        k,
        batch["source_distortion"],
        batch["distortion_model"],
        torch.eye(3, dtype=k.dtype, device=k.device).expand_as(k),
        k.new_zeros(*k.shape[:-2], 3),
    )


def batch_crop(batch: Batch) -> CropCamera:
    """The crop cameras of a batch: their `to_source` and `to_image` lead back to the photographs."""
    return CropCamera(batch["intrinsics"], batch["rotation"], source_camera(batch), batch["image"].shape[-1])


def to_device(batch: Any, device: torch.device | str) -> Any:
    """Move the tensors of a batch."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}
