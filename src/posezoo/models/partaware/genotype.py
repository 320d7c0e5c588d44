"""Genotypes: which operation on which edge of every cell. File format, validation, hash, and derivation from a search.

A cell has input nodes 1 and 2, intermediate nodes 3, 4, ... that add up two edges each, and as output the channels of
all intermediate nodes (Fig. 1 of the IJCV paper has three of them). Widths are no part of a genotype.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from posezoo.disk import replace_file
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.models.partaware.groups import Groups, resolve_groups, twins
from posezoo.models.partaware.operations import NONE, OPERATIONS, PARAMETRIC, SKIP
from posezoo.skeletons import Skeleton

SCHEMA = "partaware-genotype/1"
EVERY = "*"  # in `decoders`: every group that is not named
INPUTS, EDGES_PER_NODE = 2, 2
MAX_SKIPS = 2  # per cell; the P-DARTS authors' advice against cells that collapse to identities
_FOLDER = Path(__file__).parent / "genotypes"


class Edge(NamedTuple):
    """An operation and the node that it reads."""

    op: str
    source: int


Cell = tuple[tuple[Edge, ...], ...]  # the edges of nodes 3, 4, ...


def edge_list(nodes: int) -> list[tuple[int, int]]:
    """(source, node) of every edge that a search weighs, in the order of its parameters: 9 with three nodes."""
    return [(source, node) for node in range(INPUTS + 1, INPUTS + nodes + 1) for source in range(1, node)]


@dataclass(frozen=True)
class Genotype:
    """The cells of every group's decoder.

    Attributes:
        groups: A preset's name, or group -> joint names.
        decoders: Group -> its cells from low to high resolution; "*" stands for every group that is not named, and a
            single cell for all resolutions.
        preset: What the groups were called, where they are written out.
        search: Where it comes from: plain values.
        sizes: Side of the maps of each cell at search time; for the reader only.
    """

    groups: str | dict[str, tuple[str, ...]]
    decoders: dict[str, tuple[Cell, ...]]
    preset: str | None = None
    search: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, cells in self.decoders.items():
            if not cells:
                raise PoseZooError(f"decoders.{name} has no cells: list one, or one for each resolution.")
            for number, cell in enumerate(cells):
                check_cell(cell, f"decoders.{name}[{number}]")

    @property
    def nodes(self) -> int:
        """Intermediate nodes of every cell."""
        return len(next(iter(self.decoders.values()))[0])

    def groups_for(self, skeleton: Skeleton) -> Groups:
        """Its groups on a skeleton.

        Raises:
            PoseZooError: They do not fit the skeleton, a group has no decoder, or mirrored groups differ.
        """
        try:
            groups = resolve_groups(self.groups, skeleton)
        except PoseZooError as error:
            if self.preset not in skeleton.groups or isinstance(self.groups, str):
                raise
            hint = f"Delete groups.joints from the genotype to use its preset {self.preset} on {skeleton.name}."
            raise PoseZooError(f"{error} {hint}") from None
        unknown = [name for name in self.decoders if name not in groups and name != EVERY]
        if unknown:
            raise PoseZooError(f"decoders.{unknown[0]} belongs to no group: {did_you_mean(unknown[0], groups)}")
        for name, twin in twins(groups, skeleton).items():
            if self.decoder(name) != self.decoder(twin):
                raise PoseZooError(
                    f"decoders.{name} must equal decoders.{twin}: left and right are averaged by a flip test."
                )
        return groups

    def decoder(self, group: str, cells: int | None = None) -> tuple[Cell, ...]:
        """Cells of a group, one per resolution where `cells` says how many.

        Raises:
            PoseZooError: The group has none, or another number of them.
        """
        found = self.decoders.get(group, self.decoders.get(EVERY))
        if found is None:
            raise PoseZooError(f"decoders has no '{group}': add its cells, or '*' for every group that is not named.")
        if cells is not None and len(found) == 1:
            return found * cells
        if cells is not None and len(found) != cells:
            raise PoseZooError(
                f"decoders.{group} has {len(found)} cells, the model {cells}: set --model.widths to match."
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        named = {} if isinstance(self.groups, str) else {"joints": {k: list(v) for k, v in self.groups.items()}}
        preset = self.groups if isinstance(self.groups, str) else self.preset
        return {
            "schema": SCHEMA,
            "groups": ({"preset": preset} if preset else {}) | named,
            "cell": {"inputs": INPUTS, "nodes": self.nodes, "concat": _concat(self.nodes)},
            "decoders": {name: self._cells_as_dicts(cells) for name, cells in self.decoders.items()},
            "search": self.search,
        }

    def _cells_as_dicts(self, cells: tuple[Cell, ...]) -> list[dict[str, Any]]:
        sizes = self.sizes if len(self.sizes) == len(cells) else (None,) * len(cells)
        return [
            ({} if size is None else {"size": size})
            | {"nodes": [[{"op": edge.op, "from": edge.source} for edge in node] for node in cell]}
            for size, cell in zip(sizes, cells, strict=True)
        ]

    @property
    def hash(self) -> str:
        """SHA-256 of what is built: groups and cells, neither provenance nor the order of an edge pair or of keys."""
        content = self.as_dict()
        decoders = {name: [sorted_cell(cell) for cell in cells] for name, cells in self.decoders.items()}
        groups = content["groups"].get("joints") or content["groups"]["preset"]
        text = json.dumps({"groups": groups, "decoders": decoders}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """The file's text."""
        return _dump(self.as_dict())

    def save(self, path: Path) -> None:
        """Write the file at once, or not at all."""
        replace_file(path, lambda part: part.write_text(self.to_yaml(), encoding="utf-8"))


def _concat(nodes: int) -> list[int]:
    return list(range(INPUTS + 1, INPUTS + nodes + 1))


def sorted_cell(cell: Cell) -> Cell:
    """The same cell with the edges of each node by source."""
    return tuple(tuple(sorted(node, key=lambda edge: edge.source)) for node in cell)


def _dump(content: dict[str, Any]) -> str:
    """Block style, with a line for each node."""

    class Dumper(yaml.SafeDumper):
        pass

    class Line(list[Any]):
        pass

    Dumper.add_representer(Line, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", list(v), flow_style=True))
    decoders = {
        name: [cell | {"nodes": [Line(node) for node in cell["nodes"]]} for cell in cells]
        for name, cells in content["decoders"].items()
    }
    search = {name: Line(value) if isinstance(value, list) else value for name, value in content["search"].items()}
    groups = dict(content["groups"])
    if "joints" in groups:
        groups["joints"] = {name: Line(joints) for name, joints in groups["joints"].items()}
    cell = content["cell"] | {"concat": Line(content["cell"]["concat"])}
    text: str = yaml.dump(
        content | {"decoders": decoders, "groups": groups, "cell": cell, "search": search},
        Dumper=Dumper,
        sort_keys=False,
        width=150,
    )
    return text


# --------------------------------------------------------------------------------------------------------- reading


def load_genotype(source: str | Mapping[str, Any]) -> Genotype:
    """A genotype by the name of a packaged one ("reference"), from a YAML file, or from its content.

    Raises:
        PoseZooError: No such file or name, or it is not valid; the sentence names the field.
    """
    if not isinstance(source, str):
        return parse_genotype(source)
    packaged = {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}
    path = packaged.get(source, Path(source).expanduser())
    if not path.is_file():
        raise PoseZooError(
            f"There is no genotype '{source}': give the path of a genotype.yaml that a search wrote, or one of ours "
            f"({', '.join(packaged)})."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PoseZooError(f"{path} is not valid YAML: give a genotype.yaml that a search wrote.") from error
    try:
        return parse_genotype(content)
    except PoseZooError as error:
        raise PoseZooError(f"{path}: {error}") from None


def parse_genotype(content: Any) -> Genotype:
    """Check the content of a genotype file.

    Raises:
        PoseZooError: The first thing that is wrong.
    """
    if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, Mapping) else content
        raise PoseZooError(f"schema must be '{SCHEMA}', got '{str(found)[:60]}': this is not a genotype file.")
    groups = _field(content, "groups", dict)
    joints, preset = groups.get("joints"), groups.get("preset")
    if joints is None and not isinstance(preset, str):
        raise PoseZooError("groups needs a preset (such as g3_dof) or joints (group: [joint names]).")
    decoders = _field(content, "decoders", dict)
    if not decoders:
        raise PoseZooError("decoders is empty: it needs the cells of every group.")
    cells = {str(name): _cells(rows, f"decoders.{name}") for name, rows in decoders.items()}
    _check_shape(content.get("cell"), {len(cell) for row in cells.values() for cell in row})
    sizes = [row.get("size") for row in next(iter(decoders.values()))]
    return Genotype(
        groups=preset if joints is None else _joints(joints),
        decoders=cells,
        preset=preset,
        search=dict(content.get("search") or {}),
        sizes=tuple(int(size) for size in sizes) if all(isinstance(size, int) for size in sizes) else (),
    )


def _field(content: Mapping[str, Any], name: str, kind: type) -> Any:
    value = content.get(name)
    if not isinstance(value, kind):
        raise PoseZooError(f"{name} must be a {'mapping' if kind is dict else 'list'}, got {str(value)[:60]!r}.")
    return value


def _joints(joints: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(joints, Mapping) or not all(isinstance(row, list) for row in joints.values()):
        raise PoseZooError("groups.joints must map each group to a list of joint names.")
    return {str(name): tuple(str(joint) for joint in row) for name, row in joints.items()}


def _cells(rows: Any, place: str) -> tuple[Cell, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise PoseZooError(f"{place} must be a list of cells, each with its nodes.")
    if not rows:
        raise PoseZooError(f"{place} has no cells: list one, or one for each resolution.")
    return tuple(_cell(row.get("nodes"), f"{place}[{number}].nodes") for number, row in enumerate(rows))


def _cell(nodes: Any, place: str) -> Cell:
    if not isinstance(nodes, list) or not nodes or not all(isinstance(node, list) for node in nodes):
        raise PoseZooError(f"{place} must list, for each intermediate node, its edges.")
    return tuple(
        tuple(_edge(edge, f"{place}[{i}][{k}]") for k, edge in enumerate(node)) for i, node in enumerate(nodes)
    )


def _edge(edge: Any, place: str) -> Edge:
    if not isinstance(edge, Mapping) or set(edge) != {"op", "from"} or not isinstance(edge["from"], int):
        raise PoseZooError(f"{place} must be {{op: NAME, from: NODE}}, got {str(edge)[:60]!r}.")
    return Edge(str(edge["op"]), edge["from"])


def _check_shape(shape: Any, counts: set[int]) -> None:
    if len(counts) != 1:
        raise PoseZooError(f"decoders has cells of {' and '.join(map(str, sorted(counts)))} nodes: make them equal.")
    nodes = counts.pop()
    expected = {"inputs": INPUTS, "nodes": nodes, "concat": _concat(nodes)}
    if shape is not None and dict(shape) != expected:
        raise PoseZooError(f"cell must be {expected} for the cells below, got {dict(shape)}.")


def check_cell(cell: Cell, place: str) -> None:
    """Refuse unknown operations, cycles, double edges and cells that cannot learn.

    Raises:
        PoseZooError: The first mistake, with its place.
    """
    for number, node in enumerate(cell):
        here, name = f"{place}.nodes[{number}]", INPUTS + 1 + number
        if len(node) != EDGES_PER_NODE:
            raise PoseZooError(f"{here} has {len(node)} edges, every node has {EDGES_PER_NODE}.")
        for k, edge in enumerate(node):
            if edge.op == NONE or edge.op not in OPERATIONS:
                known = [op for op in OPERATIONS if op != NONE]
                raise PoseZooError(
                    f"{here}[{k}].op is the unknown operation '{edge.op}': {did_you_mean(edge.op, known)}"
                )
            if not 1 <= edge.source < name:
                raise PoseZooError(
                    f"{here}[{k}].from is {edge.source}, but x{name} may only read nodes 1 to {name - 1}: a cell must "
                    "not be cyclic."
                )
        if len({edge.source for edge in node}) != len(node):
            raise PoseZooError(f"{here} reads node {node[0].source} twice: its edges need two different sources.")
    if not any(edge.op in PARAMETRIC for node in cell for edge in node):
        raise PoseZooError(f"{place} has no parameters on any path from its inputs to its output: add a convolution.")


# ------------------------------------------------------------------------------------------------------ derivation


def derive_cell(
    alpha: Float[Tensor, "edges operations"],
    beta: Float[Tensor, " edges"] | None,
    operations: Sequence[str],
    max_skips: int = MAX_SKIPS,
    none_counts: bool = False,
) -> Cell:
    """The cell that architecture parameters stand for (the rule of DARTS and PC-DARTS; the paper's is not public).

    Every node keeps the two incoming edges whose best operation weighs most, and on each that operation. Guards: at
    most `max_skips` identities, the weakest give way to their edge's next best; at least one convolution.

    Args:
        alpha: Logits of the operations on each edge, in the order of `edge_list`.
        beta: Logits of the edges, compared among those into the same node; None for equal weights.
        operations: Names of the columns of `alpha`.
        max_skips: Identities allowed.
        none_counts: Let `none` take its share of an edge's weight before edges are ranked, as DARTS does. By default
            it is left out: raising it everywhere then changes nothing.
    """
    names = [name for name in operations if name != NONE]
    columns = [operations.index(name) for name in names]
    logits = alpha.detach().double().cpu()
    shares = logits.softmax(-1)[:, columns] if none_counts else logits[:, columns].softmax(-1)
    nodes = next(n for n in range(1, len(alpha) + 1) if len(edge_list(n)) == len(alpha))
    shares = shares * _edge_shares(beta, nodes)[:, None]
    kept = [e for node in _edges_of(nodes) for e in sorted(_strongest(node, shares))]
    chosen = {e: int(shares[e].argmax()) for e in kept}
    _limit_skips(chosen, shares, names, max_skips)
    _ensure_parameters(chosen, shares, names)
    edges = edge_list(nodes)
    return tuple(
        tuple(Edge(names[chosen[e]], edges[e][0]) for e in sorted(chosen) if edges[e][1] == node)
        for node in range(INPUTS + 1, INPUTS + nodes + 1)
    )


def _edges_of(nodes: int) -> list[list[int]]:
    """Numbers of the edges into each node."""
    edges = edge_list(nodes)
    return [[e for e, (_, node) in enumerate(edges) if node == wanted] for wanted in _concat(nodes)]


def _edge_shares(beta: Tensor | None, nodes: int) -> Tensor:
    if beta is None:
        return torch.ones(len(edge_list(nodes)), dtype=torch.float64)
    logits = beta.detach().double().cpu()
    return torch.cat([logits[node].softmax(0) for node in _edges_of(nodes)])


def _strongest(node: list[int], shares: Tensor) -> list[int]:
    return sorted(node, key=lambda e: -float(shares[e].max()))[:EDGES_PER_NODE]


def _limit_skips(chosen: dict[int, int], shares: Tensor, names: list[str], most: int) -> None:
    """Let the weakest identities give way, in place."""
    if SKIP not in names:
        return
    skip = names.index(SKIP)
    skips = sorted((e for e, op in chosen.items() if op == skip), key=lambda e: -float(shares[e, skip]))
    for e in skips[most:]:
        chosen[e] = int(shares[e].index_fill(0, torch.tensor(skip), -1.0).argmax())


def _ensure_parameters(chosen: dict[int, int], shares: Tensor, names: list[str]) -> None:
    """Give a cell without any convolution the likeliest one on its kept edges, in place."""
    learnt = [op for op, name in enumerate(names) if name in PARAMETRIC]
    if learnt and not any(op in learnt for op in chosen.values()):
        e, op = max(((e, op) for e in chosen for op in learnt), key=lambda pair: float(shares[pair]))
        chosen[e] = op


def random_genotype(groups: Groups, owners: dict[str, str], cells: int, nodes: int, seed: int) -> Genotype:
    """A genotype drawn at random under the guards of the derivation: the control for a search.

    Args:
        groups: Joints of each group.
        owners: Group whose cells each group uses (`twins`).
        cells: Cells of a decoder.
        nodes: Intermediate nodes of a cell.
        seed: Of the draw.
    """
    g = torch.Generator().manual_seed(seed)
    shape = (len(edge_list(nodes)), len(OPERATIONS))
    drawn = {
        name: tuple(
            derive_cell(
                torch.randn(shape, generator=g, dtype=torch.float64),
                torch.randn(shape[0], generator=g),
                list(OPERATIONS),
            )
            for _ in range(cells)
        )
        for name in groups
    }
    decoders = {name: drawn[owners[name]] for name in groups}
    return Genotype(dict(groups), decoders, search={"made_by": "random draw", "seed": seed})


def control_genotype(genotype: Genotype, skeleton: Skeleton, control: str, seed: int, cells: int) -> Genotype:
    """A genotype to compare a searched one with, at the same groups (ablations of the dossier's section 10).

    Args:
        genotype: The searched one.
        skeleton: Whose joints its groups hold.
        control: "none" leaves it alone; "shared" gives every group the cells of one; "permuted" hands cells on to
            other groups; "random" draws cells.
        seed: Which group is shared, how far cells are handed on, or the draw.
        cells: Cells of a decoder.

    Raises:
        PoseZooError: Unknown control, or permuting what is equal.
    """
    kinds = ("none", "shared", "permuted", "random")
    if control not in kinds:
        raise PoseZooError(f"Unknown --model.control '{control}': {did_you_mean(control, kinds)}")
    if control == "none":
        return genotype
    groups = genotype.groups_for(skeleton)
    owners = twins(groups, skeleton)
    owning = [name for name in groups if owners[name] == name]
    origin = {"control": control, "control_seed": seed, "control_of": genotype.hash}
    if control == "random":
        drawn = random_genotype(groups, owners, cells, genotype.nodes, seed)
        return replace(drawn, preset=genotype.preset, search=drawn.search | origin)
    shift = 1 + seed % max(1, len(owning) - 1)
    place = {name: owning.index(owners[name]) for name in groups}
    source = {
        name: owning[seed % len(owning)] if control == "shared" else owning[(place[name] + shift) % len(owning)]
        for name in groups
    }
    decoders = {name: genotype.decoder(source[name], cells) for name in groups}
    if control == "permuted" and all(decoders[name] == genotype.decoder(name, cells) for name in groups):
        raise PoseZooError("--model.control permuted changes nothing: all groups of this genotype have the same cells.")
    return Genotype(dict(groups), decoders, genotype.preset, genotype.search | origin, genotype.sizes)
