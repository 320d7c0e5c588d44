"""Trained weights as the start of another training, also with another skeleton: joints are found by their names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from posezoo.errors import PoseZooError
from posezoo.models.base import PoseEstimator

_LEAST_SHARE = 0.5  # of the parameters: with less than this, the two are different networks


@dataclass
class Transfer:
    """What became of every tensor of a model that was given weights.

    Attributes:
        source: Skeleton of the weights.
        target: Skeleton of the model.
        loaded: Tensors taken as they are.
        remapped: Tensors put together by joint.
        known: Joints (and parts and bones) with an entry in every remapped tensor that has them.
        fresh: Those without: they start as in a new model.
        left: Tensors of the model that the weights have not, or in another shape -> why.
        unused: Tensors of the weights without a place in the model.
        parameters: (taken over, in the model).
    """

    source: str
    target: str
    loaded: list[str] = field(default_factory=list)
    remapped: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    parameters: tuple[int, int] = (0, 0)

    def report(self, name: str) -> str:
        """Lines for the terminal.

        Args:
            name: How the user called the weights.
        """
        taken, total = self.parameters
        lines = [f"Starting from {name}: {taken / 1e6:.2f} of {total / 1e6:.2f} M parameters"]
        lines.append(f"  loaded      {len(self.loaded)} tensors as they are")
        if self.remapped:
            what = f"{_listed(self.remapped)}, {self.source} to {self.target} by name"
            lines.append(f"  remapped    {what}: {_listed(_joints(self.known))}")
        if self.fresh:
            lines.append(f"  new         {_listed(_joints(self.fresh))}: as in an untrained model")
        for tensor, why in self.left.items():
            lines.append(f"  not loaded  {tensor}: {why}")
        if self.unused:
            lines.append(f"  not used    {_listed(self.unused)}")
        return "\n".join(lines)


def transfer(source: PoseEstimator, target: PoseEstimator, name: str) -> Transfer:
    """Load the weights of one estimator into another one of the same method, in place.

    Args:
        source: The trained one.
        target: The one to be trained; its skeleton, depth bins or losses may differ.
        name: How the user called the weights; for messages.

    Raises:
        PoseZooError: They are different networks: most parameters would stay random.
    """
    given, state = source.state_dict(), target.state_dict()
    theirs, ours = source.channel_names(), target.channel_names()
    found = Transfer(source.skeleton.name, target.skeleton.name)
    fresh: dict[str, None] = {}
    taken = 0
    parameters = dict(target.named_parameters())
    for tensor, value in state.items():
        count = 0
        if tensor not in given:
            found.left[tensor] = "the weights do not have it"
        elif _same(tensor, given, state, theirs, ours):
            state[tensor] = given[tensor]
            found.loaded.append(tensor)
            count = value.numel()
        elif tensor in theirs and tensor in ours and _others_fit(given[tensor], value, ours[tensor][0]):
            state[tensor], share, missing = _by_name(given[tensor], value, theirs[tensor], ours[tensor])
            found.remapped.append(tensor)
            fresh |= dict.fromkeys(missing)
            count = round(share * value.numel())
        else:
            found.left[tensor] = f"{_shape(given[tensor])} in the weights, {_shape(value)} here"
        taken += count if tensor in parameters else 0
    everything = dict.fromkeys(e.partition(" ")[0] for t in found.remapped for e in ours[t][1])
    found.fresh = list(fresh)
    found.known = [entry for entry in everything if entry not in fresh]
    found.unused = [tensor for tensor in given if tensor not in state]
    found.parameters = taken, sum(p.numel() for p in parameters.values())
    if taken < _LEAST_SHARE * found.parameters[1]:
        first = next(iter(found.left), "")
        raise PoseZooError(
            f"{name} holds another network: only {taken / 1e6:.2f} of {found.parameters[1] / 1e6:.2f} M parameters fit "
            f"(first that does not: {first}, {found.left.get(first, '')}): leave out what changes it under --model or "
            "in the recipe, or choose other weights."
        )
    fixed = [tensor for tensor in found.left if tensor in given and tensor not in parameters]
    if fixed:
        raise PoseZooError(
            f"{name} has a fixed {fixed[0]} for {source.skeleton.name}, which training does not change: leave out "
            f"--model.skeleton, or convert the original weights for {target.skeleton.name}."
        )
    target.load_state_dict(state)
    target.prepare_fine_tuning()
    return found


def _same(
    tensor: str,
    given: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    theirs: Mapping[str, tuple[int, list[str]]],
    ours: Mapping[str, tuple[int, list[str]]],
) -> bool:
    return given[tensor].shape == state[tensor].shape and theirs.get(tensor) == ours.get(tensor)


def _others_fit(given: Tensor, value: Tensor, axis: int) -> bool:
    """Whether two tensors differ along one axis only."""
    return given.ndim == value.ndim and all(
        a == b for i, (a, b) in enumerate(zip(given.shape, value.shape, strict=True)) if i != axis
    )


def _by_name(
    given: Tensor, value: Tensor, theirs: tuple[int, list[str]], ours: tuple[int, list[str]]
) -> tuple[Tensor, float, list[str]]:
    """(the tensor with every entry that has a namesake, their share, joints with an entry that has none)."""
    axis, names = ours
    place = {entry: i for i, entry in enumerate(theirs[1])}
    pairs = [(i, place[entry]) for i, entry in enumerate(names) if entry in place]
    missing = [entry.partition(" ")[0] for entry in names if entry not in place]
    mixed = value.clone()
    if pairs:
        here, there = torch.tensor(pairs, device=value.device).unbind(1)
        mixed.index_copy_(axis, here, given.to(value).index_select(axis, there))
    return mixed, len(pairs) / len(names), missing


def _joints(entries: Iterable[str]) -> list[str]:
    """Joints of a list of joints, parts and bones; the others where there is none."""
    entries = list(entries)
    return [entry for entry in entries if ">" not in entry] or entries


def _listed(names: Iterable[str], most: int = 30) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}" if names else "none"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
