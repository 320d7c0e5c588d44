"""Groups of joints: each has a decoder of its own.

The papers search an architecture per group of parts and argue with degrees of freedom; number and members of the groups
are not public. Presets live in `Skeleton.groups`; your own are given by joint names.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.skeletons import Skeleton

Groups = dict[str, tuple[str, ...]]  # name -> joints by name, in the skeleton's order


def resolve_groups(groups: str | Mapping[str, Sequence[str]], skeleton: Skeleton) -> Groups:
    """Groups of a skeleton, by preset or by joint names; checked.

    Args:
        groups: Name of a preset (g1, g2_updown, g3_dof, g3_anatomy, g5_limbs) or group -> joint names.
        skeleton: Whose joints they are.

    Raises:
        PoseZooError: Unknown preset, not a partition, or left and right fall into unlike groups.
    """
    if isinstance(groups, str):
        presets = skeleton.groups
        if groups not in presets:
            raise PoseZooError(f"--model.groups has no preset '{groups}': {did_you_mean(groups, presets)}")
        return {name: tuple(skeleton.joints[i] for i in ids) for name, ids in presets[groups].items()}
    found: Groups = {}
    for name, joints in groups.items():
        _check_name(name)
        for joint in joints:
            if joint not in skeleton.joints:
                hint = did_you_mean(str(joint), skeleton.joints)
                raise PoseZooError(f"groups.{name} names '{joint}', which {skeleton.name} does not have: {hint}")
        found[name] = tuple(joint for joint in skeleton.joints if joint in joints)
    _check_partition(found, skeleton)
    twins(found, skeleton)
    return found


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise PoseZooError(f"Names of groups are letters, digits and underscores, got '{name}' in groups.")


def _check_partition(groups: Groups, skeleton: Skeleton) -> None:
    for joint in skeleton.joints:
        owners = [name for name, joints in groups.items() if joint in joints]
        if len(owners) != 1:
            where = f"is in {' and '.join(owners)}" if owners else "is in none"
            raise PoseZooError(f"groups must hold every joint of {skeleton.name} once, but {joint} {where}.")
    empty = [name for name, joints in groups.items() if not joints]
    if empty:
        raise PoseZooError(f"groups.{empty[0]} has no joints: leave it out.")


def twins(groups: Groups, skeleton: Skeleton) -> dict[str, str]:
    """For every group the one whose genotype it uses: itself, or the twin on the other side that comes first.

    A flip test averages a joint with its mirrored partner, so both must be computed by the same architecture.

    Raises:
        PoseZooError: A group holds one side of a pair, and no other group is its mirror image.
    """
    owner: dict[str, str] = {}
    for name, joints in groups.items():
        mirrored = {skeleton.joints[skeleton.partner[skeleton.index(joint)]] for joint in joints}
        match = [other for other, theirs in groups.items() if set(theirs) == mirrored]
        if not match:
            raise PoseZooError(
                f"groups.{name} mixes left and right: its mirror image ({', '.join(sorted(mirrored))}) is neither "
                "itself nor another group, so put partners into one group or make two groups that mirror each other."
            )
        owner[name] = owner.get(match[0], name)
    return owner


class Scatter:
    """From the order of concatenated groups to the skeleton's order, by joint name, and back.

    Attributes:
        order: Skeleton index of each entry of the concatenation.
        inverse: Place in the concatenation of each joint.
    """

    def __init__(self, groups: Groups, skeleton: Skeleton) -> None:
        self.order = [skeleton.index(joint) for joints in groups.values() for joint in joints]
        self.inverse = sorted(range(len(self.order)), key=self.order.__getitem__)

    def scatter(
        self, grouped: Shaped[Tensor, "batch joints *rest"], inverse: Tensor | None = None
    ) -> Shaped[Tensor, "batch joints *rest"]:
        """Entries in group order, into the skeleton's order; `inverse` as a tensor saves a copy to the device."""
        index = torch.tensor(self.inverse, device=grouped.device) if inverse is None else inverse
        return grouped.index_select(1, index)

    def gather(self, joints: Shaped[Tensor, "batch joints *rest"]) -> Shaped[Tensor, "batch joints *rest"]:
        """The skeleton's order into group order."""
        return joints.index_select(1, torch.tensor(self.order, device=joints.device))
