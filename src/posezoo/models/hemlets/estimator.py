"""The HEMlets estimator: network, triplet targets, losses and schedule."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from posezoo.data.crop import BoxKind, CropKind
from posezoo.errors import PoseZooError
from posezoo.models.backbones import Backbone
from posezoo.models.base import NOT_SAVED
from posezoo.models.heads import volume_names
from posezoo.models.hemlets.network import HEMletsNetwork
from posezoo.models.hemlets.targets import (
    MapTargets,
    encode,
    find_parts,
    map_loss,
    part_order,
    read_polarity,
    wrong_order,
)
from posezoo.models.lightning import LRSchedulerCallable, OptimizerCallable, mean_metric
from posezoo.models.volumetric import VolumetricPose, integral_loss
from posezoo.structures import Batch, Prediction

CHECK_EVERY = 50  # batches between two looks at labels on a GPU
TILE = 192  # px, side of a crop in a picture


class HEMlets(VolumetricPose):
    """Part-centric heatmap triplets and integral regression (Zhou et al., ICCV 2019).

    Learns from any mixture of 3D labels, 2D labels with depth order, and 2D labels alone. README.md beside this file
    says which defaults are the authors' and which are ours.

    Args:
        backbone: timm model name, or one of posezoo's own (`resnet10_w32`, ...).
        skeleton: Skeleton that is predicted.
        image_size: Side of the crop, px.
        stride: px per cell of the backbone's features.
        centered_stride: Centre those cells in the crop; the released network does not.
        width: Channels of the deconvolutions and of the encoder.
        feature_width: Channels of the feature branch and of the volume head's hidden layer.
        deconvs: Layers of each deconvolution tower.
        depth_bins: Cells of the volume along depth.
        depth_mm: Depth that the volume spans, centred on the root, mm.
        depth_follows_zoom: Span less depth where augmentation magnifies the person (as the Integral code does).
        parts: Pairs [parent, child] of joint names; None for the skeleton's list.
        sigma: Of the Gaussians, heatmap cells.
        epsilon: Depth difference, mm, up to which the ends of a part are level.
        alpha: Weight of the map losses.
        triplet_weight: Weight of the triplets within them; 0 leaves the joint maps alone (an ablation).
        polarity_states: 3, or 2 for maps without the zero state (an ablation).
        detach_encoder: Keep the volume's gradient out of the maps (an ablation).
        weak_labels: Use annotated depth order.
        warmup: Share of the steps, at the beginning, that train the maps alone; 0 trains end to end from the start.
        convention: "clean" (cells at (i + 0.5) / n), or "official" (i / (n - 1)) for the released weights.
        root_depth: Distance of the root: "bone_length", "truth" (fit, validate and test only), "rootnet", or mm.
        rootnet: Trained RootNet for `root_depth: rootnet`.
        flip_test: Average the coordinates of the crop and of its mirror image outside training, as the release does.
        learning_rate: Of Adam in the default schedule.
        bn_momentum: BatchNorm momentum of the backbone; None keeps its own.
        backbone_weights: None, "imagenet" or a file.
        crop: Kind of the crop camera: "image_plane", because turning the camera changes which end is nearer.
        box: What is cropped; the published Human3.6M numbers use "pelvis_2000mm", which tells the true root depth.
        optimizer: Factory; None for Adam.
        lr_scheduler: Factory; None for steps of 0.1 at 90 % and 96.7 % of the run.
    """

    network: HEMletsNetwork
    draw_targets = staticmethod(encode)
    compilable = ("draw_targets",)

    def __init__(
        self,
        backbone: str = "resnet50",
        skeleton: str = "hemlets18",
        image_size: int = 256,
        stride: int = 32,
        centered_stride: bool = False,
        width: int = 256,
        feature_width: int = 1024,
        deconvs: int = 3,
        depth_bins: int = 64,
        depth_mm: float = 2000.0,
        depth_follows_zoom: bool = True,
        parts: list[list[str]] | None = None,
        sigma: float = 2.0,
        epsilon: float = 50.0,
        alpha: float = 0.05,
        triplet_weight: float = 1.0,
        polarity_states: int = 3,
        detach_encoder: bool = False,
        weak_labels: bool = True,
        warmup: float = 0.0,
        convention: Literal["clean", "official"] = "clean",
        root_depth: float | str = "bone_length",
        rootnet: str | None = None,
        flip_test: bool = True,
        learning_rate: float = 1e-3,
        bn_momentum: float | None = None,
        backbone_weights: str | None = None,
        crop: CropKind = "image_plane",
        box: BoxKind = "annotation",
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(
            skeleton,
            image_size,
            convention,
            depth_mm,
            depth_follows_zoom,
            root_depth,
            rootnet,
            flip_test,
            learning_rate,
            crop,
            box,
            optimizer,
            lr_scheduler,
        )
        _check(sigma, epsilon, polarity_states, warmup, crop)
        self.parts = find_parts(self.skeleton, parts)
        self.save_hyperparameters(ignore=list(NOT_SAVED))
        self.sigma, self.epsilon, self.states = sigma, epsilon, polarity_states
        self.alpha, self.triplet_weight = alpha, triplet_weight
        self.weak_labels, self.warmup = weak_labels, warmup
        body = Backbone(backbone, stride, None, centered_stride, backbone_weights, bn_momentum)
        joints = len(self.skeleton)
        self.network = HEMletsNetwork(
            body,
            joints,
            joints + polarity_states * len(self.parts),
            width,
            feature_width,
            deconvs,
            depth_bins,
            self.convention.grid,
            detach_encoder,
        )
        self.polarity_accuracy = mean_metric()
        self._wrong_order: Tensor | None = None

    # ------------------------------------------------------------------------------------------------- training

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """L_3D, L_2D and L_HEM (section 4 of the model card): sums over maps and joints, means over the batch."""
        joints, triplets = self.split_maps(prediction.aux["maps"])
        targets = self.map_targets(batch, (joints.shape[-2], joints.shape[-1]))
        volume = integral_loss(prediction.aux["coords"], *self.volume_targets(batch))
        return {
            "volume": volume * 0 if self._warming_up() else volume,
            "joint_maps": map_loss(joints, targets.joints, targets.joints_known),
            "triplets": map_loss(triplets, targets.parts, targets.parts_known),
        }

    def loss_weights(self) -> dict[str, float]:
        """L_tot = L_3D + alpha (L_2D + L_HEM)."""
        return {"joint_maps": self.alpha, "triplets": self.alpha * self.triplet_weight}

    def channel_names(self) -> dict[str, tuple[int, list[str]]]:
        """Bones, maps (made by one layer, read by the next) and volumes."""
        joints, states = self.skeleton.joints, (-1, 0, 1) if self.states == 3 else (-1, 1)
        maps = [f"{joint} map" for joint in joints]
        maps += [f"{joints[p]}>{joints[c]} polarity {state}" for p, c in self.parts.pairs for state in states]
        volumes = volume_names(joints, int(self.hparams["depth_bins"]))
        last = f"network.tail.{len(self.network.tail) - 1}"
        return (
            super().channel_names()
            | {f"network.map_branch.conv.{kind}": (0, maps) for kind in ("weight", "bias")}
            | {"network.encoder.0.weight": (1, maps)}
            | {f"{last}.{kind}": (0, volumes) for kind in ("weight", "bias")}
        )

    def split_maps(
        self, maps: Float[Tensor, "batch channels rows columns"]
    ) -> tuple[Float[Tensor, "batch joints rows columns"], Float[Tensor, "batch parts states rows columns"]]:
        """Joint maps and triplets (states -1, 0, +1) among the network's channels."""
        joints = len(self.skeleton)
        return maps[:, :joints], maps[:, joints:].unflatten(1, (len(self.parts), self.states))

    def map_targets(self, batch: Batch, size: tuple[int, int]) -> MapTargets:
        """What the maps of a batch should show; made here, on the device, because loaders ship joints only."""
        order, known = self._order(batch)
        cells = self._cells(batch, size)
        return self.draw_targets(cells, batch["valid2d"], order, known, self.parts, size, self.sigma, self.states)

    def _cells(self, batch: Batch, size: tuple[int, int]) -> Float[Tensor, "batch joints 2"]:
        coords = self.convention.from_pixels(batch["joints2d"], self.image_size)
        return self.convention.to_cells(coords, size[-1])  # maps are square

    def _order(self, batch: Batch) -> tuple[Int8[Tensor, "batch parts"], Bool[Tensor, "batch parts"]]:
        epsilon = self.epsilon if self.states == 3 else 0.0
        return part_order(batch, self.parts, epsilon, self.weak_labels or not self.training)

    def _warming_up(self) -> bool:
        if not self.warmup or not self.training or self._trainer is None:
            return False
        return bool(self.global_step < self.warmup * self.total_steps())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Also looks for wrong depth orders; asks the GPU for the finding only every `CHECK_EVERY` batches."""
        super().on_train_batch_start(batch, batch_idx)
        wrong = wrong_order(batch["depth_order"], batch["valid_order"]).any()
        self._wrong_order = wrong if self._wrong_order is None else wrong | self._wrong_order
        if batch_idx % CHECK_EVERY == CHECK_EVERY - 1:
            self._refuse_wrong_order()

    def on_train_epoch_end(self) -> None:
        """Look at the last batches too, before a checkpoint is written."""
        self._refuse_wrong_order()

    def _refuse_wrong_order(self) -> None:
        if self._wrong_order is not None and bool(self._wrong_order):
            raise PoseZooError(
                "Depth order is -1 (child farther), 0 (level) or 1 (child nearer), but the training labels hold "
                "something else: check the annotations."
            )
        self._wrong_order = None

    # ----------------------------------------------------------------------------------------------- evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Also logs `val/polarity`: percent of labelled parts whose maps show the right polarity."""
        return self._scored(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """As `validation_step`, `test/polarity`."""
        return self._scored(batch, "test")

    def _scored(self, batch: Batch, stage: str) -> Prediction:
        prediction = self.estimate(batch)
        right, known = self.polarity_hits(prediction, batch)
        self.polarity_accuracy.update(100.0 * right.float(), known.float())
        self.log(f"{stage}/polarity", self.polarity_accuracy, on_step=False, on_epoch=True, batch_size=len(right))
        return prediction

    def polarity_hits(
        self, prediction: Prediction, batch: Batch
    ) -> tuple[Bool[Tensor, "batch parts"], Bool[Tensor, "batch parts"]]:
        """(parts whose maps show the right polarity at the true child, parts whose polarity is known)."""
        _, triplets = self.split_maps(prediction.aux["maps"].detach())
        size = (triplets.shape[-2], triplets.shape[-1])
        order, known = self._order(batch)
        _, child = self.parts.ends(order.device)
        known = known & batch["valid2d"][:, child]
        known = known & (order != 0) if self.states == 2 else known
        return (read_polarity(triplets, self._cells(batch, size), self.parts) == order) & known, known

    # ------------------------------------------------------------------------------------------------- pictures

    def pictures(self, prediction: Prediction, batch: Batch, count: int) -> dict[str, Any]:
        """Sheets for `PoseImages`: the first crops with predicted triplets, beside the target ones; uint8 RGB.

        Args:
            prediction: Of this estimator, with `aux`.
            batch: Its labels, on any device.
            count: How many crops to draw.
        """
        from posezoo.models.hemlets.pictures import LEGEND
        from posezoo.viz.draw2d import caption, tile

        _, found = self.split_maps(prediction.aux["maps"].detach().float())
        targets = self.map_targets(batch, (found.shape[-2], found.shape[-1]))
        right, known = self.polarity_hits(prediction, batch)
        sheets = []
        for row in range(min(count, len(found))):
            pair = [self._drawn(batch, maps, row) for maps in (found, targets.parts)]
            hits = f"{int(right[row].sum())} of {int(known[row].sum())} right"
            sheets.append(caption(np.hstack(pair), f"predicted, target: {hits}; {LEGEND}"))
        return {"triplets": tile(sheets, 2)}

    def label_picture(self, batch: Batch, row: int, side: int) -> Any:
        """A crop with its target triplets over it, for `posezoo show-batch`; uint8 RGB [side, side, 3].

        Args:
            batch: Labels and crops.
            row: Which of them.
            side: Height and width of the picture, px.
        """
        return self._drawn(batch, self.map_targets(batch, (64, 64)).parts, row, side)

    def _drawn(self, batch: Batch, triplets: Tensor, row: int, side: int = TILE) -> Any:
        from posezoo.models.hemlets.pictures import draw_triplets

        image = np.ascontiguousarray(batch["image"][row].permute(1, 2, 0).cpu().numpy())
        return draw_triplets(image, triplets[row].cpu().numpy(), side)


def _check(sigma: float, epsilon: float, states: int, warmup: float, crop: CropKind) -> None:
    if not sigma > 0:
        raise PoseZooError(f"--model.sigma is the width of the Gaussians in heatmap cells, above 0, got {sigma}.")
    if not epsilon >= 0:
        raise PoseZooError(f"--model.epsilon is a depth difference in mm, 0 or more, got {epsilon}.")
    if states not in (2, 3):
        raise PoseZooError(f"--model.polarity_states is 3 (or 2 for the ablation without a zero map), got {states}.")
    if not 0 <= warmup < 1:
        raise PoseZooError(f"--model.warmup is a share of the steps, 0 to below 1, got {warmup}.")
    if crop != "image_plane":
        raise PoseZooError(
            f"HEMlets needs --model.crop image_plane, not {crop}: turning the camera changes which end of a part is "
            "nearer."
        )
