"""Skeletons: joint names, bones, left/right partners, and conversion between them by joint name.

Joint names are canonical across datasets (`r_hip` is the anatomical right hip everywhere), so converting a
pose is a matter of names. Where two datasets use one word for different places, docs/concepts.md decides.
This module needs NumPy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.errors import PoseZooError

# A joint that a skeleton lacks is the mean of these, where all of them are annotated.
DERIVED: Mapping[str, tuple[str, ...]] = {
    "thorax": ("l_shoulder", "r_shoulder"),
    "pelvis": ("l_hip", "r_hip"),
}

_LEG = ("hip", "knee", "ankle", "toe", "heel")
_ARM = ("collar", "shoulder", "elbow", "wrist", "hand")
_MID = ("knee", "elbow")
_DISTAL = ("ankle", "toe", "heel", "wrist", "hand")


class UnknownSkeletonError(PoseZooError, ValueError):
    """A skeleton name that posezoo does not know."""


@dataclass(frozen=True)
class Skeleton:
    """An ordered set of named joints with the bones between them.

    Attributes:
        name: Lower-case name, as used on the command line.
        joints: Canonical joint names.
        parents: Index of each joint's parent; -1 for the top of the tree.
        root: Joint that root-relative poses are centred on; None for skeletons without a pelvis (COCO, LSP).
        part_names: (parent, child) names of the parts whose depth order is labelled; every bone when empty.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    root: int | None
    part_names: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints):
            raise ValueError(f"Skeleton {self.name}: joint names are not unique.")
        if len(self.parents) != len(self.joints):
            raise ValueError(f"Skeleton {self.name}: {len(self.joints)} joints but {len(self.parents)} parents.")

    def __len__(self) -> int:
        return len(self.joints)

    def __str__(self) -> str:
        return self.name

    def index(self, joint: str) -> int:
        """Position of a joint.

        Raises:
            ValueError: The skeleton has no such joint; the message names the nearest ones.
        """
        try:
            return self.joints.index(joint)
        except ValueError:
            near = get_close_matches(joint, self.joints, n=3, cutoff=0.4)
            hint = f" Did you mean {', '.join(near)}?" if near else f" It has {', '.join(self.joints)}."
            raise ValueError(f"Skeleton {self.name} has no joint '{joint}'.{hint}") from None

    @cached_property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(parent, child) index pairs of the whole tree, in joint order."""
        return tuple((p, c) for c, p in enumerate(self.parents) if p >= 0)

    @cached_property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """(parent, child) index pairs of the parts that carry a depth order: the P of `depth_order`."""
        if not self.part_names:
            return self.bones
        return tuple((self.index(p), self.index(c)) for p, c in self.part_names)

    @cached_property
    def partner(self) -> tuple[int, ...]:
        """Index of each joint's left/right twin; a joint of the middle is its own."""
        return tuple(self.joints.index(_mirrored(j)) for j in self.joints)

    @cached_property
    def part_partner(self) -> tuple[int, ...]:
        """Index of each part's left/right twin."""
        mirrored = [(self.partner[p], self.partner[c]) for p, c in self.parts]
        return tuple(self.parts.index(pair) for pair in mirrored)

    def flip(self, values: Any, dim: int = -2) -> Any:
        """Swap left and right joints along `dim`: the only left/right swap in posezoo.

        It permutes; negating x (or mirroring u) is the caller's affair, because that depends on the frame.

        Args:
            values: NumPy array or tensor with J entries along `dim`.
            dim: The joints' dimension; the last but one by default, as in [..., J, 3].
        """
        return _permute(values, self.partner, dim)

    def flip_parts(self, values: Any, dim: int = -1) -> Any:
        """Swap left and right parts along `dim` (for example `depth_order` [..., P])."""
        return _permute(values, self.part_partner, dim)

    @cached_property
    def groups(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Joint groups of the part-aware method: preset -> group -> indices; each preset is a partition."""
        limb = {j: _limb(j) for j in self.joints}
        presets: dict[str, dict[str, list[int]]] = {}
        for i, joint in enumerate(self.joints):
            stem, region = joint.removeprefix("l_").removeprefix("r_"), limb[joint]
            side = joint[:2] if region != "trunk" else ""
            names = {
                "g1": "all",
                "g2_updown": "lower" if region == "legs" or joint == "pelvis" else "upper",
                "g3_dof": "distal" if stem in _DISTAL else "mid" if stem in _MID else "core",
                "g3_anatomy": region,
                "g5_limbs": "trunk" if region == "trunk" else side + region.removesuffix("s"),
            }
            for preset, group in names.items():
                presets.setdefault(preset, {}).setdefault(group, []).append(i)
        return {p: {g: tuple(ids) for g, ids in gs.items()} for p, gs in presets.items()}


def _mirrored(joint: str) -> str:
    if joint.startswith("l_"):
        return "r_" + joint[2:]
    if joint.startswith("r_"):
        return "l_" + joint[2:]
    return joint


def _limb(joint: str) -> str:
    stem = joint.removeprefix("l_").removeprefix("r_")
    return "legs" if stem in _LEG else "arms" if stem in _ARM else "trunk"


def _permute(values: Any, order: tuple[int, ...], dim: int) -> Any:
    if values.shape[dim] != len(order):
        raise ValueError(f"Expected {len(order)} entries along dim {dim}, got shape {tuple(values.shape)}.")
    index: list[Any] = [slice(None)] * len(values.shape)
    index[dim] = list(order)
    return values[tuple(index)]


def _make(
    name: str,
    bones: str,
    root: str | None = "pelvis",
    parts: tuple[tuple[str, str], ...] = (),
) -> Skeleton:
    """Build a skeleton from "child<parent" words in joint order; a word without "<" is a top of the tree."""
    pairs = [word.partition("<")[::2] for word in bones.split()]
    joints = tuple(child for child, _ in pairs)
    parents = tuple(joints.index(parent) if parent else -1 for _, parent in pairs)
    return Skeleton(name, joints, parents, joints.index(root) if root else None, parts)


# The limbs of Human3.6M's 17 joints, shared by the skeletons built on it.
_H36M_BONES = """
    pelvis r_hip<pelvis r_knee<r_hip r_ankle<r_knee l_hip<pelvis l_knee<l_hip l_ankle<l_knee
    spine<pelvis neck<spine nose<neck head_top<nose
    l_shoulder<neck l_elbow<l_shoulder l_wrist<l_elbow r_shoulder<neck r_elbow<r_shoulder r_wrist<r_elbow
"""

H36M17 = _make("h36m17", _H36M_BONES)

# The 14 parts are our default (the paper's list is not public): every part exists in Human3.6M and in MPII.
HEMLETS18 = _make(
    "hemlets18",
    _H36M_BONES.replace("_shoulder<neck", "_shoulder<thorax") + " thorax<neck",
    parts=(
        ("pelvis", "r_hip"),
        ("r_hip", "r_knee"),
        ("r_knee", "r_ankle"),
        ("pelvis", "l_hip"),
        ("l_hip", "l_knee"),
        ("l_knee", "l_ankle"),
        ("pelvis", "thorax"),
        ("thorax", "head_top"),
        ("thorax", "l_shoulder"),
        ("l_shoulder", "l_elbow"),
        ("l_elbow", "l_wrist"),
        ("thorax", "r_shoulder"),
        ("r_shoulder", "r_elbow"),
        ("r_elbow", "r_wrist"),
    ),
)

_3DHP_BONES = """
    head_top<head neck<spine r_shoulder<neck r_elbow<r_shoulder r_wrist<r_elbow
    l_shoulder<neck l_elbow<l_shoulder l_wrist<l_elbow
    r_hip<pelvis r_knee<r_hip r_ankle<r_knee l_hip<pelvis l_knee<l_hip l_ankle<l_knee
    pelvis spine<pelvis head<neck
"""
MPI_INF_3DHP_17 = _make("mpi_inf_3dhp_17", _3DHP_BONES)
MUPOTS17 = MPI_INF_3DHP_17
MUCO21 = _make("muco21", _3DHP_BONES + " r_hand<r_wrist l_hand<l_wrist r_toe<r_ankle l_toe<l_ankle")

MPII16 = _make(
    "mpii16",
    """
    r_ankle<r_knee r_knee<r_hip r_hip<pelvis l_hip<pelvis l_knee<l_hip l_ankle<l_knee
    pelvis thorax<pelvis neck<thorax head_top<neck
    r_wrist<r_elbow r_elbow<r_shoulder r_shoulder<thorax l_shoulder<thorax l_elbow<l_shoulder l_wrist<l_elbow
    """,
)

COCO17 = _make(
    "coco17",
    """
    nose l_eye<nose r_eye<nose l_ear<l_eye r_ear<r_eye l_shoulder<nose r_shoulder<nose
    l_elbow<l_shoulder r_elbow<r_shoulder l_wrist<l_elbow r_wrist<r_elbow
    l_hip<l_shoulder r_hip<r_shoulder l_knee<l_hip r_knee<r_hip l_ankle<l_knee r_ankle<r_knee
    """,
    root=None,
)

LSP14 = _make(
    "lsp14",
    """
    r_ankle<r_knee r_knee<r_hip r_hip<neck l_hip<neck l_knee<l_hip l_ankle<l_knee
    r_wrist<r_elbow r_elbow<r_shoulder r_shoulder<neck l_shoulder<neck l_elbow<l_shoulder l_wrist<l_elbow
    neck head_top<neck
    """,
    root=None,
)

SMPL24 = _make(
    "smpl24",
    """
    pelvis l_hip<pelvis r_hip<pelvis spine1<pelvis l_knee<l_hip r_knee<r_hip spine2<spine1
    l_ankle<l_knee r_ankle<r_knee spine3<spine2 l_toe<l_ankle r_toe<r_ankle
    neck<spine3 l_collar<spine3 r_collar<spine3 head<neck l_shoulder<l_collar r_shoulder<r_collar
    l_elbow<l_shoulder r_elbow<r_shoulder l_wrist<l_elbow r_wrist<r_elbow l_hand<l_wrist r_hand<r_wrist
    """,
)

SYNTHETIC25 = _make(
    "synthetic25",
    _H36M_BONES
    + """
    l_eye<nose r_eye<nose l_ear<l_eye r_ear<r_eye
    l_hand<l_wrist r_hand<r_wrist l_toe<l_ankle r_toe<r_ankle
    """,
)

SKELETONS: dict[str, Skeleton] = {
    s.name: s
    for s in (
        H36M17,
        HEMLETS18,
        MPI_INF_3DHP_17,
        MUCO21,
        MPII16,
        COCO17,
        LSP14,
        SMPL24,
        SYNTHETIC25,
    )
} | {"mupots17": MUPOTS17}


def get_skeleton(name: str | Skeleton) -> Skeleton:
    """Find a skeleton by its lower-case name.

    Raises:
        UnknownSkeletonError: No such skeleton; the message names the nearest and all known ones.
    """
    if isinstance(name, Skeleton):
        return name
    if name.lower() in SKELETONS:
        return SKELETONS[name.lower()]
    near = get_close_matches(name.lower(), SKELETONS, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise UnknownSkeletonError(f"Unknown skeleton '{name}'. {hint}Known: {', '.join(SKELETONS)}.")


@lru_cache
def conversion_weights(source: Skeleton, target: Skeleton) -> NDArray[np.float32]:
    """How each target joint is made from the source's: weights [target joints, source joints].

    A row sums to one, or is all zero where the source has neither the joint nor what it is derived from.
    """
    weights = np.zeros((len(target), len(source)), np.float32)
    for row, joint in enumerate(target.joints):
        parts = (joint,) if joint in source.joints else DERIVED.get(joint, ())
        if parts and all(part in source.joints for part in parts):
            weights[row, [source.joints.index(part) for part in parts]] = 1 / len(parts)
    weights.setflags(write=False)
    return weights


def convert(
    joints: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    source: Skeleton,
    target: Skeleton,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Carry joints from one skeleton to another by name.

    Args:
        joints: [..., source joints, C] positions, any units; values of invalid joints are ignored, NaN too.
        valid: [..., source joints] labelled joints; all of them when None.
        source: The skeleton of `joints`.
        target: The skeleton wanted.

    Returns:
        ([..., target joints, C], [..., target joints]); one that cannot be made is zero with a False mask.
    """
    if joints.shape[-2] != len(source):
        raise ValueError(f"{source.name} has {len(source)} joints, got an array of shape {joints.shape}.")
    if valid is None:
        valid = np.ones(joints.shape[:-1], bool)
    if source is target:
        return np.where(valid[..., None], joints, 0), valid
    weights = conversion_weights(source, target)
    needed = weights > 0
    missing = (~valid).astype(np.float32) @ needed.T.astype(np.float32)
    converted_valid = (missing == 0) & needed.any(1)
    clean = np.where(valid[..., None], joints, 0)
    if not np.issubdtype(clean.dtype, np.floating):
        clean = clean.astype(np.float32)  # integer pixels: their means are not integers
    converted = (weights.astype(clean.dtype) @ clean) * converted_valid[..., None]
    return converted, converted_valid
