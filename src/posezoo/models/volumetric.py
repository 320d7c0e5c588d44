"""`VolumetricPose`: what the 2.5D methods share: coordinates, loss, flip test, and the way from 2.5D to millimetres.

A volumetric network finds x and y in the crop and z relative to the root. Metres need the distance to the camera, which
an image-plane crop does not tell: `root_depth` says where it is taken from, and every table prints it.
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from posezoo.data.crop import BoxKind, CropKind
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.lifting import back_project, root_depth_from_bones
from posezoo.models.base import PoseEstimator
from posezoo.models.heads import VolumeOutput, get_convention
from posezoo.models.lightning import LRSchedulerCallable, OptimizerCallable
from posezoo.skeletons import Skeleton
from posezoo.structures import Batch, Prediction

ROOT_DEPTHS = ("bone_length", "truth", "rootnet")

# mm, by child joint: limbs of Human3.6M's universal skeleton. What `bone_length` uses until a training step has shown
# real ones; bones that are not here are not used until then.
ADULT_LIMBS = {"hip": 132.95, "knee": 442.89, "ankle": 454.21, "elbow": 278.88, "wrist": 251.73}
_LIMB_PARENT = {"hip": "pelvis", "knee": "hip", "ankle": "knee", "elbow": "shoulder", "wrist": "elbow"}
_MOST_COUNTED = 1e6  # labels after which the mean bone lengths stop slowing down; float32 counts exactly to 1.6e7


class VolumetricPose(PoseEstimator):
    """Base of the estimators whose network maps a crop to one volume per joint.

    A subclass builds `self.network`, which returns a `VolumeOutput`, and implements `losses`.

    Args:
        skeleton: Skeleton that is predicted.
        image_size: Side S of the crop, px.
        convention: "clean", or "official" for weights of the HEMlets release.
        depth_mm: Depth that the volume spans, centred on the root, mm.
        depth_follows_zoom: Span less depth where augmentation (or test-time cropping) magnifies the person.
        root_depth: "bone_length", "truth" (fit, validate and test only), "rootnet", or a number in mm.
        rootnet: Trained RootNet for `root_depth: rootnet`: a checkpoint, a folder, or a name of the zoo.
        flip_test: Average the coordinates of the crop and of its mirror image outside training.
        learning_rate: Of the published schedule.
        crop: Kind of the crop camera.
        box: What is cropped.
        optimizer: Factory; None for Adam.
        lr_scheduler: Factory; None for the published steps.
    """

    bone_lengths: Tensor
    bone_counts: Tensor
    bone_ends: Tensor  # [bones, 2] parent and child; not saved, `skeleton` says it
    official_grid: Tensor

    def __init__(
        self,
        skeleton: str,
        image_size: int,
        convention: str,
        depth_mm: float,
        depth_follows_zoom: bool,
        root_depth: float | str,
        rootnet: str | None,
        flip_test: bool,
        learning_rate: float,
        crop: CropKind,
        box: BoxKind,
        optimizer: OptimizerCallable | None,
        lr_scheduler: LRSchedulerCallable | None,
    ) -> None:
        super().__init__(skeleton, image_size, crop, box, optimizer, lr_scheduler)
        if not depth_mm > 0:
            raise PoseZooError(f"--model.depth_mm, the depth of the volume in mm, must be positive, got {depth_mm}.")
        self.convention = get_convention(convention)
        self.depth_mm, self.depth_follows_zoom = float(depth_mm), depth_follows_zoom
        self.root_depth, self.rootnet_path = parse_root_depth(root_depth, rootnet), rootnet
        self.flip_test, self.learning_rate = flip_test, learning_rate
        self.register_buffer("bone_lengths", default_bone_lengths(self.skeleton))
        self.register_buffer("bone_counts", torch.zeros(len(self.skeleton.bones)))
        self.register_buffer("bone_ends", torch.tensor(self.skeleton.bones), persistent=False)
        # Travels with the weights: they are good for one convention only.
        self.register_buffer("official_grid", torch.tensor(convention == "official"))
        self._trained_lengths = False  # a copy on the CPU of "any bone counted": reading it would wait for the GPU
        self._rootnet: list[PoseEstimator] = []  # in a list, so that its weights are not ours
        self.register_load_state_dict_pre_hook(_check_convention)
        self.register_load_state_dict_post_hook(_recall_lengths)

    # ------------------------------------------------------------------------------------------------ inference

    def estimate(self, batch: Batch) -> Prediction:
        """Volume coordinates to px and mm; `aux["coords"]` (and `aux["maps"]`) carry the gradient."""
        found: VolumeOutput = self.network(batch["image"])
        coords = found.coords
        if self.flip_test and not self.training:
            coords = (coords + self._mirrored_coords(batch["image"])) / 2
        aux = {"coords": found.coords} | ({} if found.maps is None else {"maps": found.maps})
        # No loss reads millimetres: they are made from normalised coordinates and a depth found elsewhere.
        with torch.no_grad():
            joints2d = self.convention.to_pixels(coords[..., :2], self.image_size)
            depth = coords[..., 2] * self.depth_range(batch)[:, None]
            depth = depth - depth[:, self.root, None]
            root_depth, source = self._root_depth(joints2d, depth, batch)
            joints3d = back_project(joints2d, depth + root_depth[:, None], batch["intrinsics"])
        return Prediction(
            joints3d=joints3d,
            joints3d_rel=joints3d - joints3d[:, self.root, None],
            joints2d=joints2d,
            scores=found.scores,
            root_depth_source=source,
            aux=aux,
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """As for every method; the true root depth is not for predictions."""
        if self.root_depth == "truth":
            raise PoseZooError(
                "--model.root_depth truth uses the labels, so it is for fit, validate and test: choose bone_length, "
                "rootnet or a number in mm to predict."
            )
        return super().predict_step(batch, batch_idx)

    def _mirrored_coords(self, image: Tensor) -> Tensor:
        coords: Tensor = self.network(image.flip(-1)).coords
        swapped: Tensor = self.skeleton.flip(coords)
        return self.convention.mirrored(swapped, self.image_size)

    def depth_range(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Depth that the volume of each sample spans, mm."""
        if not self.depth_follows_zoom:
            return batch["intrinsics"].new_full(batch["image"].shape[:1], self.depth_mm)
        return self.depth_mm * box_share(batch, self.image_size, self.box, self.root)

    def _root_depth(self, pixels: Tensor, depth_rel: Tensor, batch: Batch) -> tuple[Tensor, str]:
        """Depth of the root of each sample, mm, and where it comes from."""
        if isinstance(self.root_depth, float):
            return depth_rel.new_full(depth_rel.shape[:1], self.root_depth), f"{self.root_depth:g} mm for everybody"
        if self.root_depth == "bone_length" or self.training:  # no loss reads it, and RootNet costs time
            found = root_depth_from_bones(pixels, depth_rel, batch["intrinsics"], self.bone_ends, self.bone_lengths)
            which = "mean of the training labels" if self._trained_lengths else "built-in adult limbs, untrained"
            return found, f"bone lengths ({which})"
        if self.root_depth == "rootnet":
            rootnet = self._load_rootnet().to(pixels.device)
            return rootnet.estimate(batch).joints3d[:, rootnet.root, 2], "RootNet"
        return _true_root_depth(batch, self.root), "truth"

    def setup(self, stage: str) -> None:
        """Look for RootNet before any work is done."""
        if self.root_depth == "rootnet":
            self._load_rootnet()

    def _load_rootnet(self) -> PoseEstimator:
        if not self._rootnet:
            from posezoo.zoo import load_model

            rootnet = load_model(cast(str, self.rootnet_path))
            if type(rootnet).__name__ != "RootNet":
                raise PoseZooError(f"--model.rootnet {self.rootnet_path} is a {type(rootnet).__name__}, not a RootNet.")
            for name in ("image_size", "crop", "box"):
                if getattr(rootnet, name) != getattr(self, name):
                    raise PoseZooError(
                        f"The RootNet of --model.rootnet wants {name}={getattr(rootnet, name)!r} but this model "
                        f"has {getattr(self, name)!r}: they look at the same crops, so train one to match."
                    )
            self._rootnet.append(rootnet.requires_grad_(False))
        return self._rootnet[0]

    # ------------------------------------------------------------------------------------------------- training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Keep the mean bone lengths of the training labels; they are stored with the weights."""
        self.count_bones(batch["joints3d"], batch["valid3d"])

    def channel_names(self) -> dict[str, tuple[int, list[str]]]:
        """The bones, and what a subclass adds."""
        joints = self.skeleton.joints
        bones = [f"{joints[parent]}>{joints[child]} length" for parent, child in self.skeleton.bones]
        return {"bone_lengths": (0, bones), "bone_counts": (0, bones)}

    def prepare_fine_tuning(self) -> None:
        """The mean bone lengths shall be those of the new data, not of both."""
        self.bone_counts.zero_()

    def count_bones(self, joints3d: Float[Tensor, "batch joints 3"], valid3d: Bool[Tensor, "batch joints"]) -> None:
        """Add labels (mm) to the running mean of each bone's length."""
        parent, child = self.bone_ends.to(joints3d.device).unbind(1)
        used = valid3d[:, parent] & valid3d[:, child]
        length = (joints3d[:, child] - joints3d[:, parent]).norm(dim=-1).where(used, 0.0)
        count = used.sum(0)
        total = (self.bone_counts + count).clamp(max=_MOST_COUNTED)
        mean = length.sum(0) / count.clamp(min=1)
        old = self.bone_lengths.where(self.bone_counts > 0, mean)
        self.bone_lengths.copy_((old + (mean - old) * count / total.clamp(min=1)).where(count > 0, self.bone_lengths))
        self.bone_counts.copy_(total)
        self._trained_lengths = self._trained_lengths or bool((count > 0).any())

    def volume_targets(self, batch: Batch) -> tuple[Float[Tensor, "batch joints 3"], Bool[Tensor, "batch joints 3"]]:
        """Normalised coordinates of the labels, and which of their axes count.

        x and y need a 2D label, z needs 3D labels of the joint and the root. An axis whose target lies outside the
        volume is left out: a soft-argmax cannot reach it.
        """
        xy = self.convention.from_pixels(batch["joints2d"], self.image_size)
        joints3d, valid3d = batch["joints3d"], batch["valid3d"]
        z = (joints3d[..., 2] - joints3d[:, self.root, None, 2]) / self.depth_range(batch)[:, None]
        target = torch.cat([xy, z[..., None]], -1)
        rooted = valid3d & valid3d[:, self.root, None]
        known = torch.stack([batch["valid2d"], batch["valid2d"], rooted], -1)
        return target, known & (target.abs() <= 0.5)

    def default_optimizer(self, total_steps: int) -> tuple[Optimizer, LRScheduler | None]:
        """Adam with steps of 0.1 after 90 % and 96.7 % of the run: the Integral recipe (270, 290 of 300 epochs)."""
        optimizer = Adam(self.parameters(), lr=self.learning_rate)
        steps = [round(0.9 * total_steps), round(0.967 * total_steps)]
        return optimizer, MultiStepLR(optimizer, steps)


def integral_loss(
    coords: Float[Tensor, "batch joints 3"],
    target: Float[Tensor, "batch joints 3"],
    known: Bool[Tensor, "batch joints 3"],
) -> Float[Tensor, ""]:
    """L1 of normalised coordinates, summed over joints and known axes, mean over the batch.

    Sun et al., "Integral Human Pose Regression", as their code reduces it; 0 but connected without labels.
    """
    return (coords - target).abs().where(known, 0.0).sum() / len(coords)


def parse_root_depth(root_depth: float | str, rootnet: str | None) -> float | str:
    """One of ROOT_DEPTHS, or a depth in mm.

    Raises:
        PoseZooError: Something else, a depth that is not positive, or RootNet without its weights.
    """
    if root_depth == "rootnet" and rootnet is None:
        raise PoseZooError("--model.root_depth rootnet needs a trained RootNet: add --model.rootnet PATH.")
    if root_depth in ROOT_DEPTHS:
        return str(root_depth)
    try:
        depth = float(root_depth)
    except ValueError:
        hint = did_you_mean(str(root_depth), ROOT_DEPTHS)
        raise PoseZooError(f"Unknown --model.root_depth '{root_depth}': {hint} A number is a depth in mm.") from None
    if not 0 < depth < float("inf"):
        raise PoseZooError(f"--model.root_depth is a depth in mm and must be positive, got {root_depth}.")
    return depth


def default_bone_lengths(skeleton: Skeleton) -> Float[Tensor, " bones"]:
    """mm; 0, which means unknown, for bones other than hips and limbs."""
    lengths = []
    for parent, child in skeleton.bones:
        side, _, stem = skeleton.joints[child].partition("_")
        wanted = _LIMB_PARENT.get(stem)
        found = skeleton.joints[parent]
        lengths.append(ADULT_LIMBS[stem] if wanted and found in (wanted, f"{side}_{wanted}") else 0.0)
    return torch.tensor(lengths)


def box_share(batch: Batch, side: int, box: BoxKind, root: int) -> Float[Tensor, " batch"]:
    """Side of the crop over the side of the unaugmented box: below 1 where the person is magnified.

    For "pelvis_2000mm" the box comes from the true root depth; samples without it count as unaugmented.
    """
    if box == "pelvis_2000mm":
        depth, known = batch["joints3d"][:, root, 2], batch["valid3d"][:, root]
        focal: Tensor = torch.linalg.det(batch["intrinsics"][:, :2, :2]).abs().sqrt()
        return (side * depth / (focal * 2000.0)).where(known, 1.0)
    homography = batch["crop_to_image"]
    at_centre = homography[:, 2, :2].sum(-1) * ((side - 1) / 2) + homography[:, 2, 2]
    scale: Tensor = torch.linalg.det(homography).abs().sqrt() / at_centre.abs().pow(1.5)
    return side * scale / batch["box"][:, 2:].amax(1)


def _true_root_depth(batch: Batch, root: int) -> Float[Tensor, " batch"]:
    """mm; NaN for samples without a 3D root, which no metric counts.

    Raises:
        PoseZooError: No sample of the batch has one.
    """
    known = batch["valid3d"][:, root]
    if not known.any():
        raise PoseZooError(
            "--model.root_depth truth needs the 3D root of the labels, which these samples lack: choose bone_length, "
            "rootnet or a number in mm."
        )
    return batch["joints3d"][:, root, 2].where(known, torch.nan)


def _check_convention(estimator: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    saved = state.get(f"{prefix}official_grid")
    if saved is not None and bool(saved) != (estimator.convention.name == "official"):
        needed = "official" if bool(saved) else "clean"
        raise PoseZooError(
            f"These weights were trained with the {needed} coordinates, and this model reads "
            f"{estimator.convention.name} ones: set --model.convention {needed}."
        )


def _recall_lengths(estimator: Any, incompatible: Any) -> None:
    """After loading weights: know whether their bone lengths are trained."""
    estimator._trained_lengths = bool((estimator.bone_counts > 0).any())
