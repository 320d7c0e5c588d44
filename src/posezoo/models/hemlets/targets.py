"""Heatmap triplets: the depth order of each part's two ends, drawn as maps. Computed on the device, for whole batches.

Camera z grows away from the camera. The polarity of a part is +1 where its child is nearer than its parent by more than
epsilon, -1 where it is farther, 0 between: `depth_order` of a `Batch` has the same sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from posezoo.errors import PoseZooError
from posezoo.heatmaps import gaussian_targets
from posezoo.skeletons import Skeleton
from posezoo.structures import Batch

VISIBLE_SIGMAS = 3.0  # a joint farther outside the map than this leaves nothing on it


@dataclass(frozen=True)
class Parts:
    """The parts of a skeleton whose polarity is drawn.

    Attributes:
        pairs: (parent, child) joint indices.
        labels: Where each part stands in `Skeleton.parts`, whose order `depth_order` follows; -1: it is never
            annotated there, and gets labels from 3D only.
    """

    pairs: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def ends(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Indices of parents and of children, int64 [K] each."""
        parent, child = zip(*self.pairs, strict=True)
        return _on_device(parent, torch.device(device)), _on_device(child, torch.device(device))


@lru_cache(maxsize=64)
def _on_device(indices: tuple[int, ...], device: torch.device) -> Tensor:
    """int64, copied once: a copy from the host in every training step would make the host wait for the GPU."""
    with torch.inference_mode(False):  # made while validating, it will be used in training too
        return torch.tensor(indices, device=device)


def find_parts(skeleton: Skeleton, names: Sequence[Sequence[str]] | None = None) -> Parts:
    """The named parts, or those that the skeleton lists.

    Args:
        skeleton: Where the joints are.
        names: (parent, child) joint names; None for the skeleton's own list.

    Raises:
        PoseZooError: The skeleton has no list of its own, or lacks a joint, or an entry is not a pair of two joints.
    """
    if names is None:
        if not skeleton.part_names:
            raise PoseZooError(
                f"{skeleton} has no list of parts for heatmap triplets: set --model.skeleton hemlets18, or name them "
                "with --model.parts '[[pelvis, r_hip], [r_hip, r_knee]]'."
            )
        names = skeleton.part_names
    if not names or any(len(pair) != 2 or pair[0] == pair[1] for pair in names):
        raise PoseZooError("--model.parts is a list of pairs [parent, child] of different joints.")
    try:
        pairs = tuple((skeleton.index(parent), skeleton.index(child)) for parent, child in names)
    except ValueError as error:
        raise PoseZooError(f"--model.parts: {error}") from None
    known = {pair: index for index, pair in enumerate(skeleton.parts)}
    return Parts(pairs, tuple(known.get(pair, -1) for pair in pairs))


def polarity(
    parent_depth: Float[Tensor, "*batch"], child_depth: Float[Tensor, "*batch"], epsilon: float
) -> Int8[Tensor, "*batch"]:
    """+1 where the child is nearer by more than epsilon, -1 where it is farther, else 0; both ends belong to 0.

    Args:
        parent_depth: z of the parent, mm, before any normalisation.
        child_depth: z of the child, mm.
        epsilon: mm.
    """
    nearer = parent_depth - child_depth
    return torch.where(nearer.abs() > epsilon, nearer.sign(), 0.0).to(torch.int8)


def check_depth_order(order: Int8[Tensor, "*batch"], known: Bool[Tensor, "*batch"]) -> None:
    """Refuse annotated labels other than -1, 0 and 1.

    Raises:
        PoseZooError: There is another one.
    """
    wrong = wrong_order(order, known)
    if wrong.any():
        raise PoseZooError(
            f"Depth order is -1 (child farther), 0 (level) or 1 (child nearer), but a label says "
            f"{int(order[wrong][0])}: check the annotations."
        )


def wrong_order(order: Int8[Tensor, "*batch"], known: Bool[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
    """Labels other than -1, 0 and 1."""
    return known & ((order > 1) | (order < -1))


def part_order(
    batch: Batch, parts: Parts, epsilon: float, weak: bool = True
) -> tuple[Int8[Tensor, "batch parts"], Bool[Tensor, "batch parts"]]:
    """Polarity of every part, and where it is known: from 3D labels of both ends, else as annotated.

    Args:
        batch: Labels, in mm.
        parts: K parts.
        epsilon: Threshold on 3D labels, mm.
        weak: Use annotations (`depth_order`) where 3D is missing.

    Raises:
        PoseZooError: An annotation is not -1, 0 or 1. Not checked on a GPU, where every step would wait for the answer;
            there the estimator asks now and then.
    """
    parent, child = parts.ends(batch["joints3d"].device)
    measured = batch["valid3d"][:, parent] & batch["valid3d"][:, child]
    depth = batch["joints3d"][..., 2]
    order = polarity(depth[:, parent], depth[:, child], epsilon).where(measured, 0)
    if not weak:
        return order, measured
    if batch["depth_order"].device.type == "cpu":
        check_depth_order(batch["depth_order"], batch["valid_order"])
    place = _on_device(parts.labels, depth.device)
    annotated = batch["valid_order"][:, place.clamp(min=0)] & (place >= 0) & ~measured
    return batch["depth_order"][:, place.clamp(min=0)].where(annotated, order), measured | annotated


@dataclass
class MapTargets:
    """What the maps of a batch should show; maps that are not `known` do not count.

    Attributes:
        joints: [B, J, h, w] Gaussians of height 1.
        joints_known: [B, J].
        parts: [B, K, states, h, w]; states -1, 0, +1 (or -1, +1).
        parts_known: [B, K]: the paper's Lambda, one value for all maps of a part.
    """

    joints: Float[Tensor, "batch joints rows columns"]
    joints_known: Bool[Tensor, "batch joints"]
    parts: Float[Tensor, "batch parts states rows columns"]
    parts_known: Bool[Tensor, "batch parts"]


def encode(
    cells: Float[Tensor, "batch joints 2"],
    visible: Bool[Tensor, "batch joints"],
    order: Int8[Tensor, "batch parts"],
    order_known: Bool[Tensor, "batch parts"],
    parts: Parts,
    size: tuple[int, int],
    sigma: float,
    states: int = 3,
) -> MapTargets:
    """Draw joint heatmaps and part triplets.

    The parent is drawn in the zero map, the child in the map of its polarity; where both share the zero map, it holds
    their maximum, so that peaks stay 1. With two states there is no zero map: the parent is not drawn, and a level part
    does not count.

    Args:
        cells: (x, y) in heatmap cells, integer = cell centre.
        visible: Joints with a 2D label. Those more than three sigma outside the map are dropped with their parts.
        order: Polarity of each part.
        order_known: Where it is known.
        parts: K parts.
        size: (height, width) of the maps.
        sigma: Of the Gaussians, cells.
        states: 3, or 2 without the zero map.
    """
    parent, child = parts.ends(cells.device)
    margin = VISIBLE_SIGMAS * sigma
    x, y = cells.unbind(-1)
    near = (x >= -margin) & (x <= size[1] - 1 + margin) & (y >= -margin) & (y <= size[0] - 1 + margin)
    joints_known = visible & near
    joints = gaussian_targets(cells, size, sigma, joints_known)
    known = order_known & joints_known[:, parent] & joints_known[:, child]
    values = torch.arange(-1, 2, 1 if states == 3 else 2, dtype=order.dtype, device=order.device)  # made on the device
    chosen = (order[..., None] == values) & known[..., None]
    triplets = joints[:, child, None] * chosen[..., None, None]
    if states == 3:
        zero = torch.maximum(triplets[:, :, 1], joints[:, parent] * known[..., None, None])
        triplets[:, :, 1] = zero
    else:
        known = known & (order != 0)
    return MapTargets(joints, joints_known, triplets, known)


def map_loss(
    maps: Float[Tensor, "batch channels *rest"],
    target: Float[Tensor, "batch channels *rest"],
    known: Bool[Tensor, "batch channels"],
) -> Float[Tensor, ""]:
    """Squared error in float32, summed over known maps and their pixels, mean over the batch."""
    mask = known.reshape(*known.shape, *(1,) * (maps.ndim - known.ndim))
    return (maps.float() - target).where(mask, 0.0).square().sum() / len(maps)


def read_polarity(
    triplets: Float[Tensor, "batch parts states rows columns"],
    cells: Float[Tensor, "batch joints 2"],
    parts: Parts,
) -> Int8[Tensor, "batch parts"]:
    """The polarity that maps show: the state whose map is highest at the (true) cell of the child."""
    rows, columns = triplets.shape[-2:]
    _, child = parts.ends(cells.device)
    x = cells[:, child, 0].round().long().clamp(0, columns - 1)
    y = cells[:, child, 1].round().long().clamp(0, rows - 1)
    place = (y * columns + x)[..., None, None].expand(-1, -1, triplets.shape[2], 1)
    best = triplets.flatten(-2).gather(-1, place)[..., 0].argmax(-1)
    return (best - 1 if triplets.shape[2] == 3 else 2 * best - 1).to(torch.int8)
