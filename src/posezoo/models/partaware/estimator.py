"""The part-aware estimator: a network built from a genotype, trained like Integral Pose."""

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from posezoo.data.crop import BoxKind, CropKind
from posezoo.errors import PoseZooError
from posezoo.models.backbones import Backbone
from posezoo.models.base import NOT_SAVED
from posezoo.models.lightning import LRSchedulerCallable, OptimizerCallable
from posezoo.models.partaware.cost import Cost, fit_widths, measure
from posezoo.models.partaware.genotype import Genotype, control_genotype, load_genotype
from posezoo.models.partaware.network import (
    CellInputs,
    Encoder,
    PartAwareNetwork,
    PartDecoder,
    check_image_size,
    fixed_cells,
)
from posezoo.models.volumetric import VolumetricPose, integral_loss
from posezoo.structures import Batch, Prediction

WIDTHS = (256, 256, 224)  # with MobileNetV2 and three groups: 11.92 M parameters, 12.87 GMACs


class PartAware(VolumetricPose):
    """Part-aware 2.5D pose (Chen et al., ECCV 2020 and IJCV 2022): one decoder architecture for each group of joints.

    Args:
        genotype: Path of a genotype.yaml that `PartAwareSearch` wrote, its content, or "reference", which posezoo's
            authors made by hand.
        control: Compare with: "shared" (one group's cells for all), "permuted" (cells of other groups) or "random".
        control_seed: Which group is shared, how far cells are handed on, or the draw.
        widths: Channels of each cell of a decoder, from low to high resolution.
        max_params: Scale the widths to at most so many millions of parameters.
        max_gmacs: Scale the widths to at most so many GMACs, truly counted.
        inputs: First input of a cell: "previous" output but one, or the encoder's "lateral" feature.
        backbone: timm model name, or one of posezoo's own (`resnet10_w32`, ...): the encoder.
        skeleton: Skeleton that is predicted.
        image_size: Side of the crop, px.
        stride: px per cell of the encoder's last feature.
        centered_stride: Centre those cells in the crop.
        output_stride: px per cell of the volumes.
        depth_bins: Cells of the volume along depth.
        depth_mm: Depth that the volume spans, centred on the root, mm.
        depth_follows_zoom: Span less depth where augmentation magnifies the person.
        convention: "clean" (cells at (i + 0.5) / n), or "official" (cells at i / (n - 1)).
        root_depth: Distance of the root: "bone_length", "truth" (fit, validate and test only), "rootnet", or mm.
        rootnet: Trained RootNet for `root_depth: rootnet`.
        flip_test: Average the coordinates of the crop and of its mirror image outside training.
        learning_rate: Of Adam in the default schedule.
        bn_momentum: BatchNorm momentum of the encoder; None keeps its own.
        backbone_weights: None, "imagenet" or a file.
        crop: Kind of the crop camera.
        box: What is cropped.
        optimizer: Factory; None for Adam.
        lr_scheduler: Factory; None for steps of 0.1 at 68 % and 84 % of the run.
    """

    network: PartAwareNetwork

    def __init__(
        self,
        genotype: str | dict[str, Any] = "reference",
        control: Literal["none", "shared", "permuted", "random"] = "none",
        control_seed: int = 0,
        widths: list[int] | tuple[int, ...] = WIDTHS,
        max_params: float | None = None,
        max_gmacs: float | None = None,
        inputs: CellInputs = "previous",
        backbone: str = "mobilenetv2_100",
        skeleton: str = "hemlets18",
        image_size: int = 256,
        stride: int = 32,
        centered_stride: bool = False,
        output_stride: int = 4,
        depth_bins: int = 64,
        depth_mm: float = 2000.0,
        depth_follows_zoom: bool = True,
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
        self.save_hyperparameters(ignore=list(NOT_SAVED))
        if not widths or any(width < 1 for width in widths):
            raise PoseZooError(f"--model.widths needs a positive width for each cell of a decoder, got {list(widths)}.")
        check_image_size(image_size, output_stride, len(widths))
        found = control_genotype(load_genotype(genotype), self.skeleton, control, control_seed, len(widths))
        self.genotype: Genotype = found
        self._body = {
            "name": backbone,
            "stride": stride,
            "centered_stride": centered_stride,
            "bn_momentum": bn_momentum,
        }
        self._head = {"output_stride": output_stride, "depth_bins": depth_bins, "inputs": inputs}
        self._counted: list[Encoder] = []  # in a list, so that it is no part of the model
        self.widths = fit_widths(list(widths), self._cost_at, max_params, max_gmacs)
        self.network = self._build(self._encoder(backbone_weights), self.widths)
        # A checkpoint alone is enough: it holds the genotype itself, after the control, and the widths that were found.
        settled = {"genotype": found.as_dict(), "control": "none", "widths": self.widths}
        self.hparams.update(settled | {"max_params": None, "max_gmacs": None})

    def _encoder(self, weights: str | None) -> Encoder:
        return Encoder(Backbone(weights=weights, **self._body))  # type: ignore[arg-type]

    def _build(self, encoder: Encoder, widths: list[int]) -> PartAwareNetwork:
        groups, cells = self.genotype.groups_for(self.skeleton), fixed_cells(self.genotype, len(widths))
        grid, head = self.convention.grid, self._head
        return PartAwareNetwork(encoder, groups, self.skeleton, widths, cells, grid=grid, **head)  # type: ignore[arg-type]

    def _cost_at(self, widths: list[int]) -> Cost:
        if not self._counted:
            with torch.device("meta"):
                self._counted.append(self._encoder(None))
        return measure(lambda: self._build(self._counted[0], widths), self.image_size, PartAwareNetwork.volumes)

    def cost(self) -> Cost:
        """Parameters and multiply-accumulates of one crop."""
        return self._cost_at(self.widths)

    def channel_names(self) -> dict[str, tuple[int, list[str]]]:
        """Bones, and the volumes of each group's joints."""
        found = super().channel_names()
        for group, joints in self.network.groups.items():
            decoder = cast(PartDecoder, self.network.decoders[group])
            volumes = decoder.head.channel_names(joints)
            found |= {f"network.decoders.{group}.head.conv.{kind}": (0, volumes) for kind in ("weight", "bias")}
        return found

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """L1 of x, y (and z where 3D is labelled)."""
        return {"volume": integral_loss(prediction.aux["coords"], *self.volume_targets(batch))}

    def default_optimizer(self, total_steps: int) -> tuple[Optimizer, LRScheduler]:
        """Adam 1e-3 with steps of 0.1 after 17/25 and 21/25 of the run: the 3DMPPE lineage; the paper's is unknown."""
        optimizer = Adam(self.parameters(), lr=self.learning_rate)
        return optimizer, MultiStepLR(optimizer, [round(17 / 25 * total_steps), round(21 / 25 * total_steps)])
