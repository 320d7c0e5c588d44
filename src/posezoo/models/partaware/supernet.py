"""The network of the search: every edge of every cell is a weighted mixture of all operations.

Continuous relaxation as in DARTS (Liu et al., ICLR 2019); partial channels and edge weights as in PC-DARTS (Xu et al.,
ICLR 2020). The part-aware papers' own relaxation is not public. Nothing here is imported to train a derived network.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.models.partaware.cells import Projection
from posezoo.models.partaware.genotype import INPUTS, MAX_SKIPS, Cell, Genotype, derive_cell, edge_list
from posezoo.models.partaware.groups import Groups, twins
from posezoo.models.partaware.network import Encoder, PartAwareNetwork
from posezoo.models.partaware.operations import NONE, OPERATIONS, PARAMETRIC, SKIP
from posezoo.skeletons import Skeleton

Relaxation = Literal["softmax", "gumbel"]
_INIT = 1e-3  # standard deviation of the architecture parameters; DARTS


class MixedEdge(nn.Module):
    """All operations on the first C/k channels, added up by weight; the other channels pass by.

    Args:
        channels: C.
        partial: k; 1 mixes all channels.
        operations: Names of the operations.
    """

    def __init__(self, channels: int, partial: int, operations: Sequence[str]) -> None:
        super().__init__()
        self.mixed, self.partial = channels // partial, partial
        # `none` only takes its share of the weight: adding zeros would cost memory for nothing.
        self.used = [number for number, name in enumerate(operations) if name != NONE]
        self.operations = nn.ModuleList(OPERATIONS[operations[number]](self.mixed, False) for number in self.used)

    def forward(
        self, x: Float[Tensor, "batch channels rows columns"], weights: Float[Tensor, " operations"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """The mixture; channels are shuffled, so that the next edge mixes others."""
        head = x if self.partial == 1 else x[:, : self.mixed]
        terms = [weights[n] * op(head) for n, op in zip(self.used, self.operations, strict=True)]
        mixture: Tensor = sum(terms[1:], terms[0])
        if self.partial == 1:
            return mixture
        return F.channel_shuffle(torch.cat([mixture, x[:, self.mixed :]], 1), self.partial)


class SearchCell(nn.Module):
    """A cell with a mixture on every edge.

    Args:
        in_channels: Channels of the two inputs.
        channels: Width C of the cell; the output has C per node.
        nodes: Intermediate nodes.
        partial: One in so many channels is mixed.
        operations: Names of the operations.

    Attributes:
        recompute: Keep only the inputs for the backward pass, which then runs the cell once more.
    """

    recompute = False

    def __init__(
        self, in_channels: tuple[int, int], channels: int, nodes: int, partial: int, operations: Sequence[str]
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList(Projection(count, channels, affine=False) for count in in_channels)
        self.edges = nn.ModuleList(MixedEdge(channels, partial, operations) for _ in edge_list(nodes))
        self.nodes, self.out_channels = nodes, channels * nodes

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        size: tuple[int, int],
        weights: Float[Tensor, "edges operations"],
        edge_weights: Float[Tensor, " edges"],
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """Features of the given size; the weights come from `ArchParameters`."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self._mix(first, second, size, weights, edge_weights)
        given = (first, second, size, weights, edge_weights)
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": self._contexts}
        mixed: Tensor = checkpoint(self._mix, *given, **options)
        return mixed

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Of the first pass, and of its repetition, in which BatchNorm must not count the batch again."""
        return nullcontext(), self._uncounted()

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        # Momentum 0 leaves the statistics alone. Without statistics at all, other tensors would be kept than before.
        norms = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked -= 1

    def _mix(
        self, first: Tensor, second: Tensor, size: tuple[int, int], weights: Tensor, edge_weights: Tensor
    ) -> Tensor:
        states = [project(x, size) for project, x in zip(self.project, (first, second), strict=True)]
        pairs = edge_list(self.nodes)
        for node in range(INPUTS + 1, INPUTS + self.nodes + 1):
            terms = [
                edge_weights[e] * self.edges[e](states[source - 1], weights[e])
                for e, (source, target) in enumerate(pairs)
                if target == node
            ]
            states.append(sum(terms[1:], terms[0]))
        return torch.cat(states[INPUTS:], 1)


class ArchParameters(nn.Module):
    """The architecture parameters: logits of the operations, and of the edges, of each kind of cell.

    Args:
        keys: Names of the kinds, "group/cell".
        nodes: Intermediate nodes of a cell.
        operations: Number of operations.
        edge_weights: Whether edges into a node are weighed against each other (PC-DARTS).
        relaxation: "softmax", or "gumbel": softmax of logits with Gumbel noise, in training.
        temperature: Of the Gumbel softmax.
    """

    def __init__(
        self,
        keys: Sequence[str],
        nodes: int,
        operations: int,
        edge_weights: bool = True,
        relaxation: Relaxation = "softmax",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        edges = edge_list(nodes)
        self.alpha = nn.ParameterDict({key: nn.Parameter(_INIT * torch.randn(len(edges), operations)) for key in keys})
        self.beta = nn.ParameterDict(
            {key: nn.Parameter(_INIT * torch.randn(len(edges))) for key in keys} if edge_weights else {}
        )
        self.relaxation, self.temperature = relaxation, temperature
        self.into = [
            [e for e, (_, node) in enumerate(edges) if node == n] for n in range(INPUTS + 1, INPUTS + nodes + 1)
        ]

    def weights(self, key: str) -> tuple[Float[Tensor, "edges operations"], Float[Tensor, " edges"]]:
        """Weights of operations (each row sums to 1), and of edges (1 for each node's, or all 1 without them)."""
        alpha = self.alpha[key]
        noisy = self.relaxation == "gumbel" and self.training
        operations = F.gumbel_softmax(alpha, self.temperature, dim=-1) if noisy else alpha.softmax(-1)
        if key not in self.beta:
            return operations, alpha.new_ones(len(alpha))
        beta = self.beta[key]
        return operations, torch.cat([beta[edges].softmax(0) for edges in self.into])


class SuperNetwork(PartAwareNetwork):
    """The part-aware network before the choice; `arch` holds its architecture parameters.

    Args:
        encoder: Shared by all groups.
        groups: Joints of each group.
        skeleton: Gives the order of the output.
        widths: Channels of each cell.
        operations: Names of the candidate operations.
        nodes: Intermediate nodes of a cell.
        partial: One in so many channels is mixed.
        share_cells: One architecture for all cells of a decoder, instead of one for each resolution.
        arch: Options of `ArchParameters`.
        recompute: Recompute the finest cells, which hold most of the memory, in the backward pass.
        head: Options of `PartAwareNetwork`.

    Raises:
        PoseZooError: Options that do not fit together.
    """

    def __init__(
        self,
        encoder: Encoder,
        groups: Groups,
        skeleton: Skeleton,
        widths: Sequence[int],
        operations: Sequence[str],
        nodes: int,
        partial: int,
        share_cells: bool,
        arch: dict[str, Any],
        recompute: bool = False,
        **head: Any,
    ) -> None:
        _check(operations, nodes, partial, widths, arch)

        def build(_group: str, number: int, channels: tuple[int, int], width: int) -> nn.Module:
            cell = SearchCell(channels, width, nodes, partial, operations)
            cell.recompute = recompute and number == len(widths) - 1
            return cell

        super().__init__(encoder, groups, skeleton, widths, build, **head)
        self.operations, self.nodes, self.owners = list(operations), nodes, twins(groups, skeleton)
        self.keys = {
            name: [f"{self.owners[name]}/{'all' if share_cells else number}" for number in range(len(widths))]
            for name in groups
        }
        unique = list(dict.fromkeys(key for keys in self.keys.values() for key in keys))
        self.arch = ArchParameters(unique, nodes, len(operations), **arch)
        self.widths = list(widths)

    def cell_weights(self, group: str) -> list[tuple[Tensor, ...]]:
        """Operation and edge weights of each cell of a group."""
        return [self.arch.weights(key) for key in self.keys[group]]

    def derive(self, max_skips: int = MAX_SKIPS, none_counts: bool = False) -> dict[str, tuple[Cell, ...]]:
        """The cells of each group that its architecture parameters stand for now."""
        return {
            name: tuple(self._derive(key, max_skips, none_counts) for key in keys) for name, keys in self.keys.items()
        }

    def _derive(self, key: str, max_skips: int, none_counts: bool) -> Cell:
        beta = self.arch.beta.get(key)
        return derive_cell(self.arch.alpha[key], beta, self.operations, max_skips, none_counts)

    def expected_macs(self, image_size: int) -> Tensor:
        """Multiply-accumulates of all edges under the current weights, over those under equal weights: 1 at first."""
        expected, equal = [], 0.0
        for keys in self.keys.values():
            for key, width, stride in zip(keys, self.widths, self.strides, strict=True):
                weights, edge_weights = self.arch.weights(key)
                table = operation_macs(tuple(self.operations), width, image_size // stride)
                share = edge_weights if key in self.arch.beta else edge_weights / len(edge_weights) * self.nodes
                expected.append((share[:, None] * weights * weights.new_tensor(table)).sum() / 1e9)
                equal += self.nodes * sum(table) / len(table) / 1e9
        return torch.stack(expected).sum() / equal


@lru_cache
def operation_macs(operations: tuple[str, ...], channels: int, side: int) -> list[int]:
    """Multiply-accumulates of each operation on a square map."""
    with torch.device("meta"):
        return [OPERATIONS[name](channels, True).macs(side, side) for name in operations]


def statistics(network: SuperNetwork) -> dict[str, float]:
    """How decided the architecture is, averaged over the edges of all cells.

    Returns:
        `entropy` of the operation weights over its maximum (1: nothing decided), `none` and `skip` mass; and `skip_*`
        for each group.
    """
    keys = list(network.arch.alpha)
    weights = {key: network.arch.alpha[key].detach().softmax(-1) for key in keys}
    joined = torch.cat(list(weights.values()))
    entropy = torch.special.entr(joined).sum(-1).mean() / torch.tensor(float(joined.shape[-1])).log()
    found = {"entropy": float(entropy)}
    for name, operation in (("none", NONE), ("skip", SKIP)):
        if operation in network.operations:
            found[name] = float(joined[:, network.operations.index(operation)].mean())
    if SKIP in network.operations:
        column = network.operations.index(SKIP)
        for group, own in network.keys.items():
            found[f"skip_{group}"] = float(torch.cat([weights[key] for key in own])[:, column].mean())
    return found


def agreement(first: Genotype, second: Genotype) -> float:
    """Share of the edges (operation, source, node) of one genotype that the other has too."""
    pairs = [
        (edge, node_b)
        for name, cells in first.decoders.items()
        for a, b in zip(cells, second.decoders[name], strict=True)
        for node_a, node_b in zip(a, b, strict=True)
        for edge in node_a
    ]
    return sum(edge in node for edge, node in pairs) / len(pairs)


def _check(operations: Sequence[str], nodes: int, partial: int, widths: Sequence[int], arch: dict[str, Any]) -> None:
    for name in operations:
        if name not in OPERATIONS:
            raise PoseZooError(f"--model.operations names the unknown '{name}': {did_you_mean(name, OPERATIONS)}")
    if len(set(operations)) < max(2, len(operations)) or not any(name in PARAMETRIC for name in operations):
        raise PoseZooError("--model.operations needs two or more different ones, a convolution among them.")
    if nodes < 1:
        raise PoseZooError(f"--model.nodes, the intermediate nodes of a cell, must be at least 1, got {nodes}.")
    if partial not in (1, 2, 4):
        raise PoseZooError(f"--model.partial_k must be 1, 2 or 4 (one in k channels is mixed), got {partial}.")
    for width in widths:
        if width < 1 or width % partial:
            raise PoseZooError(
                f"--model.widths must be positive multiples of --model.partial_k {partial}, got {width}."
            )
    kind = arch.get("relaxation", "softmax")
    if kind not in get_args(Relaxation):
        raise PoseZooError(f"Unknown --model.relaxation '{kind}': {did_you_mean(str(kind), get_args(Relaxation))}")
    if not arch.get("temperature", 1.0) > 0:
        raise PoseZooError(f"--model.temperature must be positive, got {arch['temperature']}.")
