"""Groups, candidate operations, genotype files and derivation."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from posezoo.errors import PoseZooError
from posezoo.models.partaware.drawing import draw_genotype
from posezoo.models.partaware.genotype import (
    Genotype,
    control_genotype,
    derive_cell,
    edge_list,
    load_genotype,
    parse_genotype,
    random_genotype,
)
from posezoo.models.partaware.groups import Scatter, resolve_groups, twins
from posezoo.models.partaware.operations import NONE, OPERATIONS, PARAMETRIC, RECEPTIVE_FIELDS, SKIP
from posezoo.skeletons import H36M17, HEMLETS18, MUCO21, SKELETONS, Skeleton

PRESETS = ("g1", "g2_updown", "g3_dof", "g3_anatomy", "g5_limbs")
NAMES = list(OPERATIONS)
WITH_ROOT = [s for s in SKELETONS.values() if s.root is not None]


def logits(**chosen: float) -> Tensor:
    """Nine edges, all operations; the same logits on every edge."""
    row = [chosen.get(name, 0.0) for name in NAMES]
    return torch.tensor([row] * 9)


# ---------------------------------------------------------------- groups (T3)


@pytest.mark.parametrize("skeleton", WITH_ROOT, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_symmetric_partitions(preset: str, skeleton: Skeleton) -> None:
    groups = resolve_groups(preset, skeleton)
    assert sorted(j for joints in groups.values() for j in joints) == sorted(skeleton.joints)
    owners = twins(groups, skeleton)
    for name, joints in groups.items():
        mirrored = {skeleton.joints[skeleton.partner[skeleton.index(j)]] for j in joints}
        same = [other for other in groups if set(groups[other]) == mirrored]
        assert len(same) == 1
        assert owners[same[0]] == owners[name]
    assert (len(set(owners.values())) < len(groups)) == (preset == "g5_limbs")


def test_groups_of_the_default_preset_follow_the_degrees_of_freedom() -> None:
    groups = resolve_groups("g3_dof", HEMLETS18)
    assert set(groups["mid"]) == {"l_knee", "r_knee", "l_elbow", "r_elbow"}
    assert set(groups["distal"]) == {"l_ankle", "r_ankle", "l_wrist", "r_wrist"}
    assert len(groups["core"]) == 10


@pytest.mark.parametrize("skeleton", [HEMLETS18, MUCO21], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_scatter_undoes_gather_and_goes_by_name(preset: str, skeleton: Skeleton) -> None:
    groups = resolve_groups(preset, skeleton)
    scatter, x = Scatter(groups, skeleton), torch.randn(2, len(skeleton), 3)
    assert torch.equal(scatter.scatter(scatter.gather(x)), x)
    concatenated = [joint for joints in groups.values() for joint in joints]
    numbers = torch.tensor([[float(skeleton.index(joint)) for joint in concatenated]])
    assert scatter.scatter(numbers)[0].tolist() == list(range(len(skeleton)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("g3_dofs", "has no preset 'g3_dofs': did you mean g3_dof"),
        ({"all": H36M17.joints[1:]}, "pelvis is in none"),
        ({"all": H36M17.joints, "again": ("pelvis",)}, "pelvis is in all and again"),
        ({"all": (*H36M17.joints, "l_wirst")}, "'l_wirst', which h36m17 does not have: did you mean l_wrist"),
        ({"all": H36M17.joints, "none": ()}, "groups.none has no joints"),
        ({"a b": H36M17.joints}, "'a b'"),
        ({"one": H36M17.joints[:2], "rest": H36M17.joints[2:]}, "groups.one mixes left and right"),
    ],
)
def test_bad_groups_are_one_sentence(change: Any, sentence: str) -> None:
    with pytest.raises(PoseZooError, match="groups") as error:
        resolve_groups(change, H36M17)
    assert sentence in str(error.value)


# ---------------------------------------------------------------- operations


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sep_conv_3x3", 35_584), ("sep_conv_5x5", 39_680), ("dil_conv_3x3", 17_792), ("dil_conv_5x5", 19_840)],
)
def test_parameters_at_128_channels_are_the_dossiers(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in OPERATIONS[name](128, True).parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("affine", [True, False])
def test_operations_keep_the_shape_and_do_not_touch_their_input(name: str, affine: bool) -> None:
    x = torch.randn(2, 8, 6, 5)
    before = x.clone()
    operation = OPERATIONS[name](8, affine)
    assert operation(x).shape == x.shape
    assert torch.equal(x, before)
    if not affine:
        assert not any(p.ndim == 1 for p in operation.parameters())  # no BatchNorm scales


@pytest.mark.parametrize("name", NAMES)
def test_receptive_fields_are_what_an_impulse_says(name: str) -> None:
    operation = OPERATIONS[name](4, True).double().eval()
    for p in operation.parameters():
        torch.nn.init.constant_(p, 0.1)
    x = torch.zeros(1, 4, 21, 21, dtype=torch.float64)
    impulse = x.clone()
    impulse[..., 10, 10] = 1.0
    changed = (operation(impulse) != operation(x))[0].any(0).any(0).nonzero().flatten().tolist()
    assert (changed[-1] - changed[0] + 1 if changed else 0) == RECEPTIVE_FIELDS[name]


def test_macs_are_those_of_the_flop_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for name, make in OPERATIONS.items():
        operation = make(16, True)
        with FlopCounterMode(display=False) as counter:
            operation(torch.zeros(1, 16, 10, 12))
        assert operation.macs(10, 12) == counter.get_total_flops() // 2, name


# ---------------------------------------------------------------- files (T5, second part)


def test_the_packaged_reference_is_called_ours() -> None:
    genotype = load_genotype("reference")
    assert genotype.search["made_by"] == "hand"
    for skeleton in WITH_ROOT:
        assert set(genotype.groups_for(skeleton)) == {"core", "mid", "distal"}


def random(seed: int, preset: str = "g3_dof", cells: int = 3) -> Genotype:
    groups = resolve_groups(preset, HEMLETS18)
    return random_genotype(groups, twins(groups, HEMLETS18), cells, 3, seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_file_comes_back_equal_with_the_same_hash(seed: int, tmp_path: Path) -> None:
    genotype, path = random(seed), tmp_path / "genotype.yaml"
    genotype.save(path)
    again = load_genotype(str(path))
    assert again == genotype
    assert again.hash == genotype.hash
    assert len(list(tmp_path.iterdir())) == 1
    assert parse_genotype(genotype.as_dict()) == genotype


def test_the_hash_is_of_what_is_built() -> None:
    content = random(0).as_dict()
    changed = copy.deepcopy(content) | {"search": {"note": "another"}}
    for cells in changed["decoders"].values():
        for cell in cells:
            cell["nodes"] = [list(reversed(node)) for node in cell["nodes"]]
    assert parse_genotype(changed).hash == parse_genotype(content).hash
    assert random(1).hash != random(0).hash


def broken(**change: Any) -> dict[str, Any]:
    return random(0).as_dict() | change


def with_edge(edge: Any, node: int = 1) -> dict[str, Any]:
    content = random(0).as_dict()
    content["decoders"]["mid"][2]["nodes"][node][1] = edge
    return content


def parameter_free() -> dict[str, Any]:
    content = random(0).as_dict()
    free = [{"op": SKIP, "from": 1}, {"op": "max_pool_3x3", "from": 2}]
    content["decoders"]["core"][0]["nodes"] = [free, free, free]
    return content


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "schema must be 'partaware-genotype/1'"),
        (broken(schema="partaware-genotype/2"), "schema must be"),
        (broken(groups={}), "groups needs a preset"),
        (broken(groups={"joints": {"core": "pelvis"}}), "groups.joints must map"),
        (broken(decoders={}), "decoders is empty"),
        (broken(decoders={"core": []}), "decoders.core has no cells"),
        (broken(decoders={"core": 3}), "decoders.core must be a list"),
        (broken(cell={"inputs": 2, "nodes": 4, "concat": [3, 4, 5, 6]}), "cell must be"),
        (with_edge({"op": "sep_conv_7x7", "from": 1}), "decoders.mid[2].nodes[1][1].op is the unknown operation"),
        (with_edge({"op": NONE, "from": 1}), "unknown operation 'none'"),
        (with_edge({"op": SKIP, "from": 4}), "decoders.mid[2].nodes[1][1].from is 4"),
        (with_edge({"op": SKIP, "from": 5}), "a cell must not be cyclic"),
        (with_edge({"op": SKIP}), "must be {op: NAME, from: NODE}"),
        (parameter_free(), "decoders.core[0] has no parameters on any path"),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_the_field(content: Any, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(PoseZooError) as error:
        load_genotype(str(path))
    assert sentence in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_double_and_missing_edges_are_refused() -> None:
    content = random(0).as_dict()
    node = content["decoders"]["mid"][0]["nodes"][2]
    node[1]["from"] = node[0]["from"]
    with pytest.raises(PoseZooError, match=r"nodes\[2\] reads node \d twice"):
        parse_genotype(content)
    del node[1]
    with pytest.raises(PoseZooError, match=r"nodes\[2\] has 1 edges"):
        parse_genotype(content)


def test_a_genotype_must_fit_the_skeleton() -> None:
    with pytest.raises(PoseZooError, match=r"'thorax', which h36m17 does not have.*Delete groups\.joints"):
        replace(random(0), preset="g3_dof").groups_for(H36M17)
    with pytest.raises(PoseZooError, match="decoders has no 'mid'"):
        parse_genotype(broken(decoders={"core": random(0).as_dict()["decoders"]["core"]})).groups_for(HEMLETS18)
    extra = random(0).as_dict()
    extra["decoders"]["cores"] = extra["decoders"]["core"]
    with pytest.raises(PoseZooError, match=r"decoders.cores belongs to no group: did you mean core"):
        parse_genotype(extra).groups_for(HEMLETS18)


def test_limbs_of_both_sides_must_share_their_cells() -> None:
    genotype = random(0, "g5_limbs")
    assert genotype.decoders["l_arm"] == genotype.decoders["r_arm"]
    genotype.groups_for(HEMLETS18)
    content = genotype.as_dict()
    content["decoders"]["r_arm"] = content["decoders"]["trunk"]
    with pytest.raises(PoseZooError, match="must equal decoders"):
        parse_genotype(content).groups_for(HEMLETS18)


@pytest.mark.parametrize("text", ["[unclosed", "\x00"])
def test_files_that_are_no_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(PoseZooError, match="not valid YAML"):
        load_genotype(str(tmp_path / "g.yaml"))
    with pytest.raises(PoseZooError, match="There is no genotype"):
        load_genotype(str(tmp_path / "missing.yaml"))


# ---------------------------------------------------------------- derivation (T5, first part)


@pytest.mark.parametrize("seed", range(20))
def test_raising_none_everywhere_changes_nothing(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    alpha, beta = torch.randn(9, len(NAMES), generator=g), torch.randn(9, generator=g)
    cell = derive_cell(alpha, beta, NAMES)
    raised = alpha.clone()
    raised[:, NAMES.index(NONE)] += 5
    assert derive_cell(raised, beta, NAMES) == cell
    for number, node in enumerate(cell):
        assert len({edge.source for edge in node}) == 2
        assert all(edge.op != NONE and edge.source < number + 3 for edge in node)


def test_the_strongest_edges_and_operations_are_kept() -> None:
    alpha = logits()
    edges = edge_list(3)
    for source, node, name, weight in [
        (1, 3, "sep_conv_3x3", 1.0), (2, 3, "max_pool_3x3", 0.5), (1, 4, "dil_conv_5x5", 1.0),
        (3, 4, "sep_conv_5x5", 2.0), (2, 4, "avg_pool_3x3", 0.5), (2, 5, SKIP, 3.0),
        (4, 5, "dil_conv_3x3", 2.0), (3, 5, "sep_conv_3x3", 1.0),
    ]:  # fmt: skip
        alpha[edges.index((source, node)), NAMES.index(name)] = weight
    cell = derive_cell(alpha, None, NAMES)
    assert cell == (
        (("sep_conv_3x3", 1), ("max_pool_3x3", 2)),
        (("dil_conv_5x5", 1), ("sep_conv_5x5", 3)),
        ((SKIP, 2), ("dil_conv_3x3", 4)),
    )


def test_edge_weights_decide_between_equal_operations() -> None:
    beta = torch.zeros(9)
    edges = edge_list(3)
    beta[edges.index((2, 5))] = beta[edges.index((4, 5))] = 1.0
    cell = derive_cell(logits(sep_conv_3x3=1.0), beta, NAMES)
    assert [edge.source for edge in cell[2]] == [2, 4]


def test_none_can_take_part_as_in_darts() -> None:
    alpha = logits(sep_conv_3x3=1.0)
    edges = edge_list(3)
    for source in (1, 2):
        alpha[edges.index((source, 5)), NAMES.index(NONE)] = 4.0
    assert [edge.source for edge in derive_cell(alpha, None, NAMES, none_counts=True)[2]] == [3, 4]
    assert [edge.source for edge in derive_cell(alpha, None, NAMES)[2]] == [1, 2]


def test_the_weakest_skips_give_way() -> None:
    alpha = logits(skip_connect=2.0, dil_conv_5x5=1.0)
    alpha[0, NAMES.index(SKIP)] = alpha[3, NAMES.index(SKIP)] = 3.0
    ops = [edge.op for node in derive_cell(alpha, None, NAMES) for edge in node]
    assert ops.count(SKIP) == 2
    assert ops.count("dil_conv_5x5") == 4
    assert ops[0] == SKIP
    assert [e.op for node in derive_cell(alpha, None, NAMES, max_skips=0) for e in node] == ["dil_conv_5x5"] * 6


def test_a_cell_without_parameters_gets_the_likeliest_convolution() -> None:
    alpha = logits(max_pool_3x3=3.0)
    alpha[4, NAMES.index("dil_conv_3x3")] = 1.0  # (3, 4)
    alpha[4, NAMES.index("max_pool_3x3")] = 3.5
    ops = {
        (edge.source, number + 3): edge.op
        for number, node in enumerate(derive_cell(alpha, None, NAMES))
        for edge in node
    }
    assert ops.pop((3, 4)) == "dil_conv_3x3"
    assert set(ops.values()) == {"max_pool_3x3"}


# ---------------------------------------------------------------- controls


def test_controls_change_what_they_say() -> None:
    genotype = random(3)
    assert control_genotype(genotype, HEMLETS18, "none", 0, 3) is genotype
    shared = control_genotype(genotype, HEMLETS18, "shared", 1, 3)
    assert all(cells == genotype.decoders["mid"] for cells in shared.decoders.values())
    for seed in range(3):
        permuted = control_genotype(genotype, HEMLETS18, "permuted", seed, 3)
        assert sorted(map(str, permuted.decoders.values())) == sorted(map(str, genotype.decoders.values()))
        assert all(permuted.decoders[name] != genotype.decoders[name] for name in genotype.decoders)
    drawn = [control_genotype(genotype, HEMLETS18, "random", seed, 3) for seed in (0, 0, 1)]
    assert drawn[0].hash == drawn[1].hash != drawn[2].hash
    assert drawn[0].search["control_of"] == genotype.hash
    with pytest.raises(PoseZooError, match="changes nothing"):
        control_genotype(load_genotype("reference"), HEMLETS18, "permuted", 0, 3)
    with pytest.raises(PoseZooError, match="did you mean shared"):
        control_genotype(genotype, HEMLETS18, "share", 0, 3)


def test_controls_keep_left_and_right_together() -> None:
    genotype = random(0, "g5_limbs")
    for control in ("shared", "permuted", "random"):
        control_genotype(genotype, HEMLETS18, control, 0, 3).groups_for(HEMLETS18)


def test_random_genotypes_keep_the_guards() -> None:
    for seed in range(20):
        for cells in random(seed).decoders.values():
            for cell in cells:
                ops = [edge.op for node in cell for edge in node]
                assert ops.count(SKIP) <= 2
                assert set(ops) & set(PARAMETRIC)


def test_every_edge_is_drawn() -> None:
    picture = draw_genotype(random(0), "a < b")
    assert picture.count("marker-end") == 3 * 3 * 6
    assert "a &lt; b" in picture
    assert "distal, cell 3" in picture
