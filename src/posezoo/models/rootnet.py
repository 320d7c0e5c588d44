"""RootNet: where the root of a person is, from the size of the box and what the image says about it.

Moon, Chang, Lee: Camera Distance-aware Top-down Approach for 3D Multi-person Pose Estimation from a Single RGB Image,
ICCV 2019. A person who fills a box of area A px is about k = sqrt(fx fy A_real / A) away; the network corrects k for
people who are bent, small or turned.

From the authors' code, as our notes on it have it: the layers, k with A_real = (2000 mm)^2, L1, Adam 1e-3 with one step
at 17 of 20 epochs, no scale augmentation. Ours: the box is the crop as the data makes it (theirs is the tight box,
extended to a square and by 1.25), the correction starts at 1, both losses are in metres.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from posezoo.data.crop import BoxKind, CropKind
from posezoo.errors import PoseZooError
from posezoo.heatmaps import heatmap_confidence, soft_argmax
from posezoo.lifting import back_project
from posezoo.models.backbones import Backbone
from posezoo.models.base import NOT_SAVED, PoseEstimator
from posezoo.models.heads import CONVENTIONS, DeconvTower, check_head_sizes, init_head
from posezoo.models.lightning import LRSchedulerCallable, OptimizerCallable
from posezoo.structures import Batch, Prediction

_METRE = 1000.0  # mm
_CONVENTION = CONVENTIONS["clean"]


@dataclass
class RootOutput:
    """What RootNet's network says about a batch.

    Attributes:
        coords: [B, 2] x, y of the root, -0.5..0.5 of the crop.
        correction: [B] gamma, by which k is multiplied.
        scores: [B] in 0..1: mass of the heatmap at its mode.
    """

    coords: Float[Tensor, "batch 2"]
    correction: Float[Tensor, " batch"]
    scores: Float[Tensor, " batch"]


class RootNetwork(nn.Module):
    """Backbone with two heads: a heatmap of the root, and the correction from pooled features.

    Args:
        backbone: Feature extractor.
        width: Channels of the deconvolutions.
        deconvs: Layers of the tower.
    """

    def __init__(self, backbone: Backbone, width: int = 256, deconvs: int = 3) -> None:
        super().__init__()
        check_head_sizes(width=width, deconvs=deconvs)
        self.backbone = backbone
        self.tower = DeconvTower(backbone.channels, width, deconvs)
        self.heatmap = nn.Conv2d(width, 1, kernel_size=1)
        self.correction = nn.Conv2d(backbone.channels, 1, kernel_size=1)
        for layer in (self.heatmap, self.correction):
            init_head(layer)
        # Ours: an untrained network answers k itself; from 0, as published, training first has to find it.
        nn.init.ones_(self.correction.bias)  # type: ignore[arg-type]

    def forward(self, image: UInt8[Tensor, "batch 3 side side"]) -> RootOutput:
        """Root and correction of uint8 RGB crops (or float crops in 0..1)."""
        features = self.backbone(image)
        heatmap = self.heatmap(self.tower(features))[:, 0]
        correction = self.correction(features.mean((2, 3), keepdim=True)).flatten().float()
        coords = soft_argmax(heatmap, 2, _CONVENTION.grid) - 0.5
        return RootOutput(coords, correction, heatmap_confidence(heatmap.detach(), 2).float())


class RootNet(PoseEstimator):
    """Absolute position of the root (Moon et al., ICCV 2019), to stand 2.5D poses on.

    It predicts one point. Its `Prediction` puts every joint there, with score 0 for all but the root: read MRPE, the
    root error; the pose metrics are those of a pose without extent.

    Args:
        backbone: timm model name, or one of posezoo's own.
        skeleton: Skeleton of the labels; its root is what is found.
        image_size: Side of the crop, px.
        stride: px per cell of the backbone's features.
        centered_stride: Centre those cells in the crop; the published network does not.
        width: Channels of the deconvolutions.
        deconvs: Number of deconvolutions.
        person_mm: Side of the square that a person is assumed to fill, mm (sqrt of A_real).
        learning_rate: Of Adam in the published schedule.
        bn_momentum: BatchNorm momentum of the backbone; None keeps its own.
        backbone_weights: None, "imagenet" or a file.
        crop: Kind of the crop camera.
        box: What is cropped. "pelvis_2000mm" tells the answer, and is refused.
        optimizer: Factory; None for Adam.
        lr_scheduler: Factory; None for one step of 0.1 after 85 % of the run.
    """

    network: RootNetwork
    predicts_joints = False

    def __init__(
        self,
        backbone: str = "resnet50",
        skeleton: str = "h36m17",
        image_size: int = 256,
        stride: int = 32,
        centered_stride: bool = False,
        width: int = 256,
        deconvs: int = 3,
        person_mm: float = 2000.0,
        learning_rate: float = 1e-3,
        bn_momentum: float | None = None,
        backbone_weights: str | None = None,
        crop: CropKind = "image_plane",
        box: BoxKind = "annotation",
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(skeleton, image_size, crop, box, optimizer, lr_scheduler)
        if not person_mm > 0:
            raise PoseZooError(f"--model.person_mm is a length in mm and must be positive, got {person_mm}.")
        if box == "pelvis_2000mm":
            raise PoseZooError(
                "A box of pelvis_2000mm is made from the true root depth, which RootNet is to find: set --model.box "
                "annotation."
            )
        self.save_hyperparameters(ignore=list(NOT_SAVED))
        self.person_mm, self.learning_rate = float(person_mm), learning_rate
        body = Backbone(backbone, stride, None, centered_stride, backbone_weights, bn_momentum)
        self.network = RootNetwork(body, width, deconvs)

    def estimate(self, batch: Batch) -> Prediction:
        """The root, mm in the crop-camera frame, at the place of every joint."""
        found: RootOutput = self.network(batch["image"])
        depth = found.correction * distance_from_box(batch["intrinsics"], self.image_size, self.person_mm)
        joints = len(self.skeleton)
        with torch.no_grad():
            pixels = _CONVENTION.to_pixels(found.coords, self.image_size)[:, None]
            root = back_project(pixels, depth[:, None], batch["intrinsics"])
            scores = torch.zeros_like(found.scores)[:, None].repeat(1, joints)
            scores[:, self.root] = found.scores
        return Prediction(
            joints3d=root.repeat(1, joints, 1),
            joints3d_rel=torch.zeros_like(root).repeat(1, joints, 1),
            joints2d=pixels.repeat(1, joints, 1),
            scores=scores,
            root_depth_source="RootNet (predicts the root alone: read MRPE)",
            aux={"coords": found.coords, "depth": depth},
        )

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """L1 of x and y in the crop, and of the depth where camera and 3D root are known; both in metres.

        A crop counts `person_mm` mm, so that both terms have one unit (ours).
        """
        target = _CONVENTION.from_pixels(batch["joints2d"][:, self.root], self.image_size)
        seen = batch["valid2d"][:, self.root, None] & (target.abs() <= 0.5)
        known = batch["valid3d"][:, self.root] & batch["has_camera"]
        sideways = (prediction.aux["coords"] - target).abs() * (self.person_mm / _METRE)
        depth = (prediction.aux["depth"] - batch["joints3d"][:, self.root, 2]).abs() / _METRE
        return {
            "root2d": sideways.where(seen, 0.0).sum() / seen.sum().clamp(min=1),
            "depth": depth.where(known, 0.0).sum() / known.sum().clamp(min=1),
        }

    def default_optimizer(self, total_steps: int) -> tuple[Optimizer, LRScheduler]:
        """Adam with one rate step of 0.1 after 85 % of the run (epoch 17 of 20)."""
        optimizer = Adam(self.parameters(), lr=self.learning_rate)
        return optimizer, MultiStepLR(optimizer, [round(0.85 * total_steps)])


def distance_from_box(intrinsics: Float[Tensor, "batch 3 3"], side: int, person_mm: float) -> Float[Tensor, " batch"]:
    """How far away a square of `person_mm` is that fills the crop: k = sqrt(fx fy A_real / A_box), mm.

    Taken with the crop's own intrinsics, so box and zoom are in it.
    """
    focal: Tensor = torch.linalg.det(intrinsics[:, :2, :2].float()).abs().sqrt()
    return focal * (person_mm / side)
