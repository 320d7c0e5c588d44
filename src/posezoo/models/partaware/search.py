"""`PartAwareSearch`: the search for a genotype, as an ordinary `posezoo fit`.

Only this thin class is imported with posezoo. The network with all operations (`supernet.py`) and the bilevel gradient
(`bilevel.py`) are imported when a search is made, and never to train what it found.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from posezoo.data.crop import BoxKind, CropKind
from posezoo.errors import PoseZooError
from posezoo.models.backbones import Backbone
from posezoo.models.base import NOT_SAVED
from posezoo.models.lightning import LRSchedulerCallable, OptimizerCallable
from posezoo.models.optimizers import fuse, lay_out_as_weights
from posezoo.models.partaware.genotype import MAX_SKIPS, Genotype, load_genotype
from posezoo.models.partaware.groups import resolve_groups
from posezoo.models.partaware.network import CellInputs, Encoder, check_image_size
from posezoo.models.partaware.operations import OPERATIONS, SKIP
from posezoo.models.volumetric import VolumetricPose, integral_loss
from posezoo.structures import Batch, Prediction

if TYPE_CHECKING:
    from posezoo.models.partaware.supernet import SuperNetwork

Streams = dict[str, Batch]  # "train" and "arch"
NOISE_ENTROPY = 0.95  # of the maximum; above, operations weigh alike and the derived ones are a matter of chance
_REMEMBERED = 5  # genotypes whose agreement is watched


class PartAwareSearch(VolumetricPose):
    """Search of one decoder architecture for each group of joints (Chen et al., ECCV 2020 and IJCV 2022).

    Weights are trained on the batches "train", the architecture on "arch" (`SearchSplit`). At the end of every epoch
    the run folder gets `genotype.yaml`, and `genotype_best.yaml` where the validation loss is the lowest so far.

    Args:
        groups: Preset (g1, g2_updown, g3_dof, g3_anatomy, g5_limbs), or group -> joint names.
        operations: Candidate operations of an edge.
        nodes: Intermediate nodes of a cell.
        widths: Channels of each cell of a decoder, from low to high resolution.
        partial_k: Mix one in k channels: 1, 2 or 4.
        edge_weights: Weigh the edges into a node against each other (PC-DARTS).
        share_cells: One architecture for all cells of a decoder, instead of one for each resolution.
        relaxation: "softmax" or "gumbel".
        temperature: Of the Gumbel softmax.
        order: 1, or 2 for the exact second-order gradient (about three times the cost).
        lookahead: Step of the weights that the second order looks ahead; None for their learning rate.
        arch_warmup: Epochs before the architecture begins to learn.
        cost_weight: Adds so much of the loss, times the expected MACs over those of equal weights; 0 is off.
        max_skips: Identities that a derived cell may have.
        skip_patience: Stop after so many epochs in a row in which identities would win `max_skips` or more edges of a
            cell, which is how differentiable searches collapse; 0 never stops.
        none_counts: Let `none` take part in the ranking of edges, as in DARTS.
        clip: Largest norm of the gradient of the weights; 0 for no limit.
        encoder_lr_scale: Learning rate of the encoder over that of the decoders, in the default optimiser.
        recompute: Recompute the finest cells in the backward pass (order 1 only): half the memory, slower.
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
        learning_rate: Of the weights in the default schedule.
        bn_momentum: BatchNorm momentum of the encoder; None keeps its own.
        backbone_weights: None, "imagenet" or a file.
        crop: Kind of the crop camera.
        box: What is cropped.
        optimizer: Factory for the weights; None for Adam with a cosine down to 1 % of the learning rate.
        lr_scheduler: Factory for their schedule, stepped once per batch.
        arch_optimizer: Factory for the architecture; None for Adam 6e-4, betas (0.5, 0.999), decay 1e-3.
    """

    network: "SuperNetwork"

    def __init__(
        self,
        groups: str | dict[str, list[str]] = "g3_dof",
        operations: list[str] | tuple[str, ...] = tuple(OPERATIONS),
        nodes: int = 3,
        widths: list[int] | tuple[int, ...] = (64, 64, 64),
        partial_k: int = 4,
        edge_weights: bool = True,
        share_cells: bool = False,
        relaxation: Literal["softmax", "gumbel"] = "softmax",
        temperature: float = 1.0,
        order: int = 1,
        lookahead: float | None = None,
        arch_warmup: int = 10,
        cost_weight: float = 0.0,
        max_skips: int = MAX_SKIPS,
        skip_patience: int = 0,
        none_counts: bool = False,
        clip: float = 5.0,
        encoder_lr_scale: float = 0.1,
        recompute: bool = False,
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
        arch_optimizer: OptimizerCallable | None = None,
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
        from posezoo.models.partaware.supernet import SuperNetwork

        self.save_hyperparameters(ignore=[*NOT_SAVED, "arch_optimizer"])
        if recompute and order == 2:
            raise PoseZooError(
                "--model.recompute runs cells again with the weights as they are, but order 2 looks a step ahead of "
                "them: set --model.recompute false or --model.order 1."
            )
        _check_numbers(order, arch_warmup, cost_weight, max_skips, clip, lookahead)
        if skip_patience < 0:
            raise PoseZooError(f"--model.skip_patience must not be negative, got {skip_patience}.")
        check_image_size(image_size, output_stride, len(widths))
        self.automatic_optimization = False
        encoder = Encoder(Backbone(backbone, stride, None, centered_stride, backbone_weights, bn_momentum))
        self.network = SuperNetwork(
            encoder,
            resolve_groups(groups, self.skeleton),
            self.skeleton,
            widths,
            operations,
            nodes,
            partial_k,
            share_cells,
            {"edge_weights": edge_weights, "relaxation": relaxation, "temperature": temperature},
            recompute,
            output_stride=output_stride,
            depth_bins=depth_bins,
            grid=self.convention.grid,
            inputs=inputs,
        )
        self.network.plain = order == 2  # the fused soft-argmax can be differentiated once
        self.preset = groups if isinstance(groups, str) else None
        self.partial_k, self.order, self.lookahead = partial_k, order, lookahead
        self.arch_warmup, self.cost_weight, self.clip = arch_warmup, cost_weight, clip
        self.max_skips, self.none_counts, self.encoder_lr_scale = max_skips, none_counts, encoder_lr_scale
        self.arch_optimizer_factory = arch_optimizer
        self.skip_patience, self._collapsed = skip_patience, 0  # epochs in a row
        self.best_loss, self.history = math.inf, list[dict[str, Any]]()
        self._sums = torch.zeros(0)  # of the validation losses: one for each group, and the number of samples
        self._published = -1  # epoch of the newest genotype
        self._folder: Path | None = None  # where it is

    # ------------------------------------------------------------------------------------------------- training

    def arch_parameters(self) -> list[nn.Parameter]:
        """Parameters of the architecture."""
        return list(self.network.arch.parameters())

    def weights(self) -> dict[str, nn.Parameter]:
        """All other parameters of the network by name."""
        return {name: p for name, p in self.network.named_parameters() if not name.startswith("arch.")}

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """L1 of x, y (and z where 3D is labelled)."""
        return {"volume": integral_loss(prediction.aux["coords"], *self.volume_targets(batch))}

    def on_fit_start(self) -> None:
        """Refuse runs that could not search.

        Raises:
            PoseZooError: float16, whose loss scaling knows one optimiser only, or no epoch for the architecture.
        """
        if str(self.trainer.precision).startswith("16"):
            raise PoseZooError(
                "A search has two optimisers, which float16 scaling cannot serve: set bf16-mixed or 32-true."
            )
        epochs = self.trainer.max_epochs
        if epochs is not None and 0 < epochs <= self.arch_warmup:
            raise PoseZooError(
                f"--model.arch_warmup {self.arch_warmup} leaves none of the {epochs} epochs to the architecture: lower "
                "it, or raise --trainer.max_epochs."
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep the mean bone lengths of the labels of both streams."""
        if "train" not in batch or "arch" not in batch:
            raise PoseZooError(
                "PartAwareSearch trains on two streams: give --data SearchSplit and the dataset as --data.dataset."
            )
        for stream in ("train", "arch"):
            self.count_bones(batch[stream]["joints3d"], batch[stream]["valid3d"])

    def training_step(self, batch: Streams, batch_idx: int) -> None:  # type: ignore[override]
        """A step of the architecture (after its warm-up), then one of the weights."""
        self.seed_step()
        weight_optimizer, arch_optimizer = self.optimizers()
        size = len(batch["train"]["image"])
        if self.current_epoch >= self.arch_warmup:
            self.log("train/arch_loss", self._arch_step(batch, weight_optimizer, arch_optimizer), batch_size=size)
        loss = self._loss(batch["train"])
        weight_optimizer.zero_grad()
        self.manual_backward(loss)
        if self.clip:
            self.clip_gradients(weight_optimizer, self.clip, "norm")
        weight_optimizer.step()
        arch_optimizer.zero_grad()  # this backward went through the architecture too
        self._step_schedule()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)

    def _loss(self, batch: Batch, weights: Mapping[str, Tensor] | None = None) -> Float[Tensor, ""]:
        """Loss of the network, or of the network with other weights."""
        network: Callable[[Tensor], Any] = self.network
        if weights is not None:
            coords = functional_call(self.network, dict(weights), (batch["image"],)).coords
        else:
            coords = network(batch["image"]).coords
        with torch.autocast(self.device.type, enabled=False):
            coords = coords.to(torch.promote_types(coords.dtype, torch.float32))  # not in bfloat16
            return integral_loss(coords, *self.volume_targets(batch))

    def _arch_step(self, batch: Streams, weight_optimizer: Any, arch_optimizer: Any) -> Tensor:
        """One step of the architecture parameters; the loss on "arch"."""
        from posezoo.models.partaware.bilevel import average_over_ranks, first_order, second_order

        parameters = self.arch_parameters()
        if self.order == 1:
            loss = self._loss(batch["arch"])
            gradients, loss = first_order(loss + self._cost_term(loss), parameters), loss.detach()
        else:
            step = self.lookahead or weight_optimizer.param_groups[-1]["lr"]

            def ahead(weights: Mapping[str, Tensor]) -> Tensor:
                loss = self._loss(batch["arch"], weights)
                return loss + self._cost_term(loss)

            train = batch["train"]
            gradients, loss = second_order(lambda w: self._loss(train, w), ahead, self.weights(), parameters, step)
        average_over_ranks(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        arch_optimizer.step()
        arch_optimizer.zero_grad()
        return loss

    def _cost_term(self, loss: Tensor) -> Tensor:
        if not self.cost_weight:
            return loss.new_zeros(())
        return self.cost_weight * loss.detach() * self.network.expected_macs(self.image_size)

    def _step_schedule(self) -> None:
        schedule = self.lr_schedulers()
        if schedule is not None:
            schedule.step()

    # ----------------------------------------------------------------------------------------------- optimisers

    def configure_optimizers(self) -> Any:
        """Of the weights (with a schedule), and of the architecture."""
        weights: Any = list(self.weights().values())
        schedule: LRScheduler | None = None
        if self.optimizer_factory is None:
            optimizer, schedule = self.default_optimizer(0)
            fuse(optimizer)
        else:
            optimizer = self.optimizer_factory(weights)
        if self.lr_scheduler_factory is not None:
            schedule = self.lr_scheduler_factory(optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            raise PoseZooError(
                "A search steps its schedule every batch, so --model.lr_scheduler cannot wait for a plateau."
            )
        arch = self.arch_parameters()
        if self.arch_optimizer_factory is None:
            arch_optimizer: Optimizer = Adam(arch, lr=6e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        else:
            arch_optimizer = self.arch_optimizer_factory(arch)
        optimizer.register_load_state_dict_post_hook(lay_out_as_weights)
        first: dict[str, Any] = {"optimizer": optimizer}
        if schedule is not None:
            first["lr_scheduler"] = {"scheduler": schedule, "interval": "step"}
        return first, {"optimizer": arch_optimizer}

    def default_optimizer(self, total_steps: int) -> tuple[Optimizer, LRScheduler | None]:
        """Adam with a cosine from the learning rate to 1 % of it over the run; our default, the paper's is unknown.

        Args:
            total_steps: Not used: a search counts batches, each of which may be two optimiser steps.
        """
        named = self.weights()
        encoder = [p for name, p in named.items() if name.startswith("encoder.")]
        others = [p for name, p in named.items() if not name.startswith("encoder.")]
        rates: list[dict[str, Any]] = [{"params": encoder, "lr": self.learning_rate * self.encoder_lr_scale}]
        rates.append({"params": others})
        optimizer = Adam(rates, lr=self.learning_rate)
        if self.lr_scheduler_factory is not None:
            return optimizer, None
        total = self.total_batches()

        def factor(batch: int) -> float:
            return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, batch / total))) / 2

        return optimizer, LambdaLR(optimizer, factor)

    def scheduled_steps(self) -> float:
        """Once per batch, whatever number of optimiser steps that is."""
        endless = self.trainer.estimated_stepping_batches == math.inf
        return math.inf if endless else float(self.total_batches())

    def total_batches(self) -> int:
        """Batches of the run. With --trainer.max_steps it counts optimiser steps: two a batch after the warm-up."""
        trainer, bounds = self.trainer, list[float]()
        steps = trainer.estimated_stepping_batches  # also makes the loaders
        per_epoch = trainer.num_training_batches
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            bounds.append(trainer.max_epochs * per_epoch)
        if trainer.max_steps > 0:
            single = self.arch_warmup * per_epoch
            bounds.append(trainer.max_steps if trainer.max_steps <= single else (trainer.max_steps + single) / 2)
        if not bounds or min(bounds) == math.inf:
            return int(steps) if steps != math.inf else self.total_steps()
        return max(1, math.ceil(min(bounds)))

    # ----------------------------------------------------------------------------------- validation and genotype

    def on_validation_epoch_start(self) -> None:
        """Forget the losses of the last validation."""
        self._sums = torch.zeros(len(self.network.groups) + 1, device=self.device, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """As for every method; also adds up the loss of each group."""
        prediction = self.estimate(batch)
        target, known = self.volume_targets(batch)
        joints = (prediction.aux["coords"].float() - target).abs().where(known, 0.0).sum(-1)
        for number, names in enumerate(self.network.groups.values()):
            ids = [self.skeleton.index(name) for name in names]
            self._sums[number] += joints[:, ids].mean(1).sum()
        self._sums[-1] += len(joints)
        return prediction

    def on_validation_epoch_end(self) -> None:
        """Log how decided the architecture is and the loss of each group; write the genotype."""
        if self.trainer.sanity_checking or self.trainer.state.fn != "fit":
            return
        sums = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        means = (sums[:-1] / sums[-1].clamp(min=1)).tolist()
        groups = self.network.groups
        losses = {f"val/loss_{name}": mean for name, mean in zip(groups, means, strict=True)}
        share = [len(joints) / len(self.skeleton) for joints in groups.values()]
        total = sum(w * mean for w, mean in zip(share, means, strict=True))  # of a joint
        self.log_dict(losses | {"val/loss": total}, rank_zero_only=False)
        self._publish(total)

    def on_train_epoch_end(self) -> None:
        """Write the genotype of epochs without a validation as well."""
        if self._published != self.current_epoch:
            self._publish(None)

    def genotype(self, **origin: Any) -> Genotype:
        """What the architecture parameters stand for now.

        Args:
            origin: Provenance to write down beside the search's own.
        """
        network = self.network
        own = {
            "made_by": "PartAwareSearch",
            "seed": int(os.environ.get("PL_GLOBAL_SEED") or 0),
            "widths": network.widths,
            "partial_k": self.partial_k,
            "operations": network.operations,
            "relaxation": network.arch.relaxation,
            "order": self.order,
            "skeleton": self.skeleton.name,
            "backbone": network.encoder.backbone.name,
            "inputs": self.hparams.get("inputs", "previous"),
            "alpha_sha256": self._fingerprint(),
        }
        return Genotype(
            dict(network.groups),
            network.derive(self.max_skips, self.none_counts),
            self.preset,
            own | origin,
            tuple(self.image_size // stride for stride in network.strides),
        )

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for parameter in self.arch_parameters():
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def verdict(self, entropy: float) -> str:
        """In plain words, whether the genotype means anything."""
        if self.current_epoch < self.arch_warmup:
            return "noise: the architecture has not been trained yet"
        if entropy > NOISE_ENTROPY:
            return (
                f"noise: operations still weigh alike (normalised entropy {entropy:.3f} > {NOISE_ENTROPY}), so this "
                "genotype is no better than a random one; search longer or raise the architecture's learning rate"
            )
        return f"decided (normalised entropy {entropy:.3f})"

    def _publish(self, loss: float | None) -> None:
        from posezoo.callbacks.pose_metrics import run_folder
        from posezoo.models.partaware.supernet import agreement, statistics

        found = statistics(self.network) | {"most_skips": float(self._watch_skips())}
        current = self.genotype()
        before = [load_genotype(content) for content in self.history]
        if before:
            found["agreement"] = sum(agreement(current, old) for old in before) / len(before)
        self.log_dict({f"arch/{name}": value for name, value in found.items()}, rank_zero_only=False)
        best = loss is not None and loss < self.best_loss and self.current_epoch >= self.arch_warmup
        self.best_loss = loss if best and loss is not None else self.best_loss
        self.history = [*self.history, current.as_dict()][-_REMEMBERED:]
        self._published = self.current_epoch
        origin = {
            "epoch": self.current_epoch,
            "data": self._data(),
            "validation_loss": loss,
            "best_so_far": best,
            "verdict": self.verdict(found["entropy"]),
            "statistics": {name: round(value, 4) for name, value in found.items()},
        }
        self._folder = run_folder(self.trainer)  # all ranks ask for it together
        if self.trainer.is_global_zero:
            self._write(self._folder, replace(current, search=current.search | origin), best)

    def _watch_skips(self) -> int:
        """The most identities that a cell would have without the cap; ends a search that has collapsed to them."""
        edges = len(self.network.arch.into) * 2
        cells = [cell for group in self.network.derive(edges, self.none_counts).values() for cell in group]
        most = max(sum(edge.op == SKIP for node in cell for edge in node) for cell in cells)
        collapsed = self.current_epoch >= self.arch_warmup and most >= max(1, self.max_skips)
        self._collapsed = self._collapsed + 1 if collapsed else 0
        if self.skip_patience and self._collapsed >= self.skip_patience:
            self.trainer.should_stop = True
            if self.trainer.is_global_zero:
                print(
                    f"The search stops: identities would win {most} edges of a cell for {self._collapsed} epochs. "
                    "Lower the architecture's learning rate, lengthen its warm-up, or take an earlier epoch of "
                    "genotypes/."
                )
        return most

    def _data(self) -> str:
        data = getattr(self.trainer, "datamodule", None)
        if data is None or not hasattr(data, "arch_share"):
            return "own data loaders"
        split = data.arch_groups or f"last {data.arch_share:g} of the samples or subjects"
        return f"{data.protocol('train')}; architecture on {split}"

    def _write(self, folder: Path, genotype: Genotype, best: bool) -> None:
        """The newest genotype, one for each epoch with its parameters and picture, and the best."""
        from posezoo.models.partaware.drawing import draw_genotype

        every = folder / "genotypes"
        every.mkdir(parents=True, exist_ok=True)
        name = f"epoch{self.current_epoch:03d}"
        picture = draw_genotype(genotype, f"epoch {self.current_epoch}: {genotype.search['verdict']}")
        (every / f"{name}.svg").write_text(picture, encoding="utf-8")
        torch.save({k: p.detach().cpu() for k, p in self.network.arch.state_dict().items()}, every / f"{name}.pt")
        for path in (
            every / f"{name}.yaml",
            folder / "genotype.yaml",
            *([folder / "genotype_best.yaml"] if best else []),
        ):
            genotype.save(path)

    def on_train_end(self) -> None:
        """Say what was found and what to type next."""
        if not self.trainer.is_global_zero or self._folder is None:
            return
        from posezoo.models.partaware.supernet import statistics

        path = next(p for p in (self._folder / "genotype_best.yaml", self._folder / "genotype.yaml") if p.is_file())
        print(f"Genotype: {path}\nIt is {self.verdict(statistics(self.network)['entropy'])}.")
        print(f"To train it: posezoo fit --model PartAware --model.genotype '{path}' ...")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also what is remembered of past genotypes."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["partaware_search"] = {
            "best_loss": self.best_loss,
            "history": self.history,
            "epoch": self._published,
            "collapsed": self._collapsed,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        state = checkpoint.get("partaware_search", {})
        self.best_loss, self.history = state.get("best_loss", math.inf), list(state.get("history", []))
        self._published, self._collapsed = state.get("epoch", -1), state.get("collapsed", 0)


def _check_numbers(
    order: int, arch_warmup: int, cost_weight: float, max_skips: int, clip: float, lookahead: float | None
) -> None:
    if order not in (1, 2):
        raise PoseZooError(f"--model.order must be 1 or 2, got {order}.")
    named = {"arch_warmup": arch_warmup, "cost_weight": cost_weight, "max_skips": max_skips, "clip": clip}
    for name, value in named.items():
        if not value >= 0:
            raise PoseZooError(f"--model.{name} must not be negative, got {value}.")
    if lookahead is not None and not lookahead > 0:
        raise PoseZooError(f"--model.lookahead must be positive, got {lookahead}; None takes the learning rate.")
