"""Skeletons against tables that were written by hand from the datasets' own documentation."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from posezoo.skeletons import (
    COCO17,
    DERIVED,
    H36M17,
    HEMLETS18,
    LSP14,
    MPI_INF_3DHP_17,
    MPII16,
    MUCO21,
    MUPOTS17,
    SKELETONS,
    SMPL24,
    SYNTHETIC25,
    Skeleton,
    UnknownSkeletonError,
    conversion_weights,
    convert,
    get_skeleton,
)

ALL = list(dict.fromkeys(SKELETONS.values()))
_ = None  # the source has no such place

# (source, target) -> for every target joint: the source's index, a tuple to be averaged, or _.
INDEX_MAPS: dict[tuple[Skeleton, Skeleton], list[int | tuple[int, ...] | None]] = {
    # Human3.6M: pelvis, r hip knee ankle, l hip knee ankle, spine, neck, nose, head top, l arm, r arm
    (H36M17, HEMLETS18): [*range(17), (11, 14)],
    (HEMLETS18, H36M17): [*range(17)],
    # 3DHP: head top, neck, r arm, l arm, r leg, l leg, pelvis, spine, head (which Human3.6M lacks)
    (H36M17, MPI_INF_3DHP_17): [10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, _],
    (MPI_INF_3DHP_17, H36M17): [14, 8, 9, 10, 11, 12, 13, 15, 1, _, 0, 5, 6, 7, 2, 3, 4],
    (MPI_INF_3DHP_17, HEMLETS18): [14, 8, 9, 10, 11, 12, 13, 15, 1, _, 0, 5, 6, 7, 2, 3, 4, (2, 5)],
    # MuCo: 3DHP's 17, then r hand, l hand, r toe, l toe
    (MUCO21, MPI_INF_3DHP_17): [*range(17)],
    (MUCO21, H36M17): [14, 8, 9, 10, 11, 12, 13, 15, 1, _, 0, 5, 6, 7, 2, 3, 4],
    (MPI_INF_3DHP_17, MUCO21): [*range(17), _, _, _, _],
    # MPII: r ankle knee hip, l hip knee ankle, pelvis, thorax, upper neck, head top, r arm, l arm
    (H36M17, MPII16): [3, 2, 1, 4, 5, 6, 0, (11, 14), 8, 10, 16, 15, 14, 11, 12, 13],
    (MPII16, HEMLETS18): [6, 2, 1, 0, 3, 4, 5, _, 8, _, 9, 13, 14, 15, 12, 11, 10, 7],
    (MPII16, H36M17): [6, 2, 1, 0, 3, 4, 5, _, 8, _, 9, 13, 14, 15, 12, 11, 10],
    # COCO: nose, l eye, r eye, l ear, r ear, shoulders, elbows, wrists, hips, knees, ankles; left first
    (H36M17, COCO17): [9, _, _, _, _, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3],
    (COCO17, H36M17): [(11, 12), 12, 14, 16, 11, 13, 15, _, _, 0, _, 5, 7, 9, 6, 8, 10],
    (COCO17, MPII16): [16, 14, 12, 11, 13, 15, (11, 12), (5, 6), _, _, 10, 8, 6, 5, 7, 9],
    # LSP: r ankle knee hip, l hip knee ankle, r wrist elbow shoulder, l shoulder elbow wrist, neck, head top
    (H36M17, LSP14): [3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10],
    (LSP14, HEMLETS18): [(2, 3), 2, 1, 0, 3, 4, 5, _, 12, _, 13, 9, 10, 11, 8, 7, 6, (8, 9)],
    # SMPL: its three spine joints are not the mid torso, its head joint is not the top of the head
    (SMPL24, H36M17): [0, 2, 5, 8, 1, 4, 7, _, 12, _, _, 16, 18, 20, 17, 19, 21],
    (SMPL24, MUCO21): [_, 12, 17, 19, 21, 16, 18, 20, 2, 5, 8, 1, 4, 7, 0, _, 15, 23, 22, 11, 10],
    # Synthetic: Human3.6M's 17, then l eye, r eye, l ear, r ear, l hand, r hand, l toe, r toe
    (SYNTHETIC25, H36M17): [*range(17)],
    (SYNTHETIC25, HEMLETS18): [*range(17), (11, 14)],
    (SYNTHETIC25, COCO17): [9, 17, 18, 19, 20, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3],
    (SYNTHETIC25, MPII16): [3, 2, 1, 4, 5, 6, 0, (11, 14), 8, 10, 16, 15, 14, 11, 12, 13],
    (SYNTHETIC25, LSP14): [3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10],
    (SYNTHETIC25, MUCO21): [10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, _, 22, 21, 24, 23],
}


def pair_name(pair: tuple[Skeleton, Skeleton]) -> str:
    return f"{pair[0]}->{pair[1]}"


def some_joints(skeleton: Skeleton, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, len(skeleton), 3)) * 500


@pytest.mark.parametrize("pair", INDEX_MAPS, ids=pair_name)
def test_conversion_follows_the_hand_written_map(pair: tuple[Skeleton, Skeleton]) -> None:
    source, target = pair
    joints = some_joints(source)

    converted, valid = convert(joints, None, source, target)

    assert len(INDEX_MAPS[pair]) == len(target)
    for row, index in enumerate(INDEX_MAPS[pair]):
        assert valid[:, row].tolist() == [index is not None] * 2, target.joints[row]
        expected = 0 if index is None else joints[:, np.atleast_1d(index)].mean(1)
        np.testing.assert_allclose(converted[:, row], np.broadcast_to(expected, (2, 3)), atol=1e-4)


@pytest.mark.parametrize("pair", list(product(ALL, ALL)), ids=pair_name)
def test_every_pair_converts_by_name_and_derives_from_both_sides_only(
    pair: tuple[Skeleton, Skeleton],
) -> None:
    source, target = pair
    joints = some_joints(source)

    converted, valid = convert(joints, None, source, target)

    for row, name in enumerate(target.joints):
        if name in source.joints:
            np.testing.assert_array_equal(converted[:, row], joints[:, source.joints.index(name)])
        elif all(part in source.joints for part in DERIVED.get(name, ("nowhere",))):
            twins = [source.joints.index(part) for part in DERIVED[name]]
            np.testing.assert_allclose(converted[:, row], joints[:, twins].mean(1), atol=1e-4)
        else:
            assert not converted[:, row].any()
            assert not valid[:, row].any()
            continue
        assert valid[:, row].all()


@given(valid=hnp.arrays(bool, 17), seed=st.integers(0, 99))
def test_a_derived_joint_is_valid_only_where_both_sides_are(valid: np.ndarray, seed: int) -> None:
    joints = some_joints(COCO17, seed)[0]

    converted, converted_valid = convert(joints, valid, COCO17, MPII16)

    assert converted_valid[MPII16.index("thorax")] == (valid[5] and valid[6])
    assert converted_valid[MPII16.index("pelvis")] == (valid[11] and valid[12])
    assert converted_valid[MPII16.index("r_wrist")] == valid[10]
    assert not converted[~converted_valid].any()


@pytest.mark.parametrize("pair", list(product(ALL, ALL)), ids=pair_name)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_stands_at_an_invalid_joint_never_leaks(pair: tuple[Skeleton, Skeleton], poison: float) -> None:
    source, target = pair
    valid = np.random.default_rng(1).random((2, len(source))) < 0.6
    joints = np.where(valid[..., None], some_joints(source), poison)

    converted, converted_valid = convert(joints, valid, source, target)

    assert np.isfinite(converted).all()
    assert not converted[~converted_valid].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conversion_keeps_dtype_dimensions_and_leading_axes(dtype: type) -> None:
    points = np.ones((3, 4, 17, 2), dtype)

    converted, valid = convert(points, None, H36M17, COCO17)

    assert converted.dtype == dtype
    assert converted.shape == (3, 4, 17, 2)
    assert valid.shape == (3, 4, 17)


def test_integer_pixels_are_averaged_as_numbers() -> None:
    pixels = np.zeros((17, 2), int)
    pixels[[11, 12]] = [[100, 40], [121, 40]]

    converted, valid = convert(pixels, None, COCO17, MPII16)

    assert converted[MPII16.index("pelvis")].tolist() == [110.5, 40.0]
    assert valid[MPII16.index("pelvis")]


def test_conversion_of_a_wrong_number_of_joints_is_refused() -> None:
    with pytest.raises(ValueError, match="h36m17 has 17 joints"):
        convert(np.zeros((16, 3)), None, H36M17, COCO17)


def test_conversion_weights_are_shared_and_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        conversion_weights(H36M17, COCO17)[0, 0] = 1


@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_parents_form_one_tree_from_the_top(skeleton: Skeleton) -> None:
    tops = [i for i, parent in enumerate(skeleton.parents) if parent < 0]
    assert len(tops) == 1
    for joint in range(len(skeleton)):
        seen = set()
        while joint not in tops:
            assert joint not in seen, "a loop"
            seen.add(joint)
            joint = skeleton.parents[joint]
    assert len(skeleton.bones) == len(skeleton) - 1


@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_flip_swaps_left_and_right_and_twice_is_nothing(skeleton: Skeleton) -> None:
    mirrored = {"l_": "r_", "r_": "l_"}
    expected = [mirrored.get(j[:2], j[:2]) + j[2:] for j in skeleton.joints]
    assert [skeleton.joints[i] for i in skeleton.partner] == expected

    joints = some_joints(skeleton)
    np.testing.assert_array_equal(skeleton.flip(skeleton.flip(joints)), joints)
    np.testing.assert_array_equal(skeleton.flip(joints), joints[:, list(skeleton.partner)])

    tensor = torch.from_numpy(joints)
    assert torch.equal(skeleton.flip(skeleton.flip(tensor)), tensor)
    assert torch.equal(skeleton.flip(tensor), torch.from_numpy(skeleton.flip(joints)))
    assert torch.equal(skeleton.flip(tensor[..., 0], dim=-1), skeleton.flip(tensor)[..., 0])
    heatmaps = torch.rand(2, len(skeleton), 4, 4)
    assert torch.equal(skeleton.flip(heatmaps, dim=1)[:, 0], heatmaps[:, skeleton.partner[0]])


@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_the_tree_is_symmetric(skeleton: Skeleton) -> None:
    for joint, parent in enumerate(skeleton.parents):
        # COCO's tree starts at the nose, LSP's at the neck: a twin's parent is the parent's twin there too.
        mirrored_parent = skeleton.parents[skeleton.partner[joint]]
        assert mirrored_parent == (skeleton.partner[parent] if parent >= 0 else -1)


@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_flip_parts_swaps_the_twins_of_parts(skeleton: Skeleton) -> None:
    order = np.arange(len(skeleton.parts))
    flipped = skeleton.flip_parts(order)

    for part, twin in zip(skeleton.parts, flipped, strict=True):
        assert tuple(skeleton.partner[j] for j in part) == skeleton.parts[twin]
    np.testing.assert_array_equal(skeleton.flip_parts(flipped), order)
    tensor = torch.stack([torch.from_numpy(order)] * 3)
    assert torch.equal(skeleton.flip_parts(tensor)[1], torch.from_numpy(flipped))


def test_flip_of_a_wrong_number_of_joints_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected 17 entries along dim -2"):
        H36M17.flip(np.zeros((16, 3)))


def test_hemlets_parts_are_the_fourteen_of_the_dossier() -> None:
    table = "0-1 1-2 2-3 0-4 4-5 5-6 0-17 17-10 17-11 11-12 12-13 17-14 14-15 15-16"
    assert HEMLETS18.parts == tuple(tuple(map(int, part.split("-"))) for part in table.split())

    twins = list(range(14))
    for a, b in [(0, 3), (1, 4), (2, 5), (8, 11), (9, 12), (10, 13)]:
        twins[a], twins[b] = b, a
    assert list(HEMLETS18.part_partner) == twins


@pytest.mark.parametrize(
    ("skeleton", "pairs"),
    [
        (H36M17, [(1, 4), (2, 5), (3, 6), (11, 14), (12, 15), (13, 16)]),
        (HEMLETS18, [(1, 4), (2, 5), (3, 6), (11, 14), (12, 15), (13, 16)]),
        (MPI_INF_3DHP_17, [(2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13)]),
        (
            MUCO21,
            [(2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (17, 18), (19, 20)],
        ),
        (MPII16, [(0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)]),
        (COCO17, [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]),
        (LSP14, [(0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)]),
    ],
    ids=str,
)
def test_flip_pairs_are_the_datasets_own(skeleton: Skeleton, pairs: list[tuple[int, int]]) -> None:
    expected = list(range(len(skeleton)))
    for a, b in pairs:
        expected[a], expected[b] = b, a
    assert list(skeleton.partner) == expected


@pytest.mark.parametrize("skeleton", ALL, ids=str)
@pytest.mark.parametrize("preset", ["g1", "g2_updown", "g3_dof", "g3_anatomy", "g5_limbs"])
def test_groups_partition_the_joints_and_mirror(skeleton: Skeleton, preset: str) -> None:
    groups = skeleton.groups[preset]
    assert sorted(i for ids in groups.values() for i in ids) == list(range(len(skeleton)))

    twin = {"l_arm": "r_arm", "r_arm": "l_arm", "l_leg": "r_leg", "r_leg": "l_leg"}
    for name, ids in groups.items():
        mirrored = sorted(skeleton.partner[i] for i in ids)
        assert mirrored == sorted(groups[twin.get(name, name)])


GROUPS = {
    (HEMLETS18, "g2_updown"): {"upper": [*range(7, 18)], "lower": [*range(7)]},
    (HEMLETS18, "g3_dof"): {
        "core": [0, 1, 4, 7, 8, 9, 10, 11, 14, 17],
        "mid": [2, 5, 12, 15],
        "distal": [3, 6, 13, 16],
    },
    (HEMLETS18, "g3_anatomy"): {
        "trunk": [0, 7, 8, 9, 10, 17],
        "arms": [*range(11, 17)],
        "legs": [*range(1, 7)],
    },
    (HEMLETS18, "g5_limbs"): {
        "trunk": [0, 7, 8, 9, 10, 17],
        "l_arm": [11, 12, 13],
        "r_arm": [14, 15, 16],
        "l_leg": [4, 5, 6],
        "r_leg": [1, 2, 3],
    },
    (MUCO21, "g2_updown"): {"upper": [*range(8), 15, 16, 17, 18], "lower": [*range(8, 15), 19, 20]},
    (MUCO21, "g3_dof"): {
        "core": [0, 1, 2, 5, 8, 11, 14, 15, 16],
        "mid": [3, 6, 9, 12],
        "distal": [4, 7, 10, 13, 17, 18, 19, 20],
    },
    (MUCO21, "g3_anatomy"): {
        "trunk": [0, 1, 14, 15, 16],
        "arms": [2, 3, 4, 5, 6, 7, 17, 18],
        "legs": [*range(8, 14), 19, 20],
    },
}


@pytest.mark.parametrize(("skeleton", "preset"), GROUPS, ids=str)
def test_groups_are_the_dossiers(skeleton: Skeleton, preset: str) -> None:
    assert {name: list(ids) for name, ids in skeleton.groups[preset].items()} == GROUPS[skeleton, preset]


def test_roots_and_aliases() -> None:
    assert {str(s): s.root for s in ALL} == {
        "h36m17": 0,
        "hemlets18": 0,
        "mpi_inf_3dhp_17": 14,
        "muco21": 14,
        "mpii16": 6,
        "coco17": None,
        "lsp14": None,
        "smpl24": 0,
        "synthetic25": 0,
    }
    assert MUPOTS17 is MPI_INF_3DHP_17
    assert get_skeleton("mupots17") is MPI_INF_3DHP_17
    assert get_skeleton("COCO17") is COCO17
    assert get_skeleton(LSP14) is LSP14


@pytest.mark.parametrize(
    ("wrong", "near"), [("h36m", "h36m17"), ("coco18", "coco17"), ("mpi-inf-3dhp-17", "mpi_inf_3dhp_17")]
)
def test_an_unknown_skeleton_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnknownSkeletonError, match=f"'{wrong}'. Did you mean '{near}'"):
        get_skeleton(wrong)


def test_an_unknown_joint_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"h36m17 has no joint 'r_hand'. Did you mean .*r_"):
        H36M17.index("r_hand")
    with pytest.raises(ValueError, match="It has pelvis, r_hip"):
        H36M17.index("zzz")


def test_malformed_skeletons_are_refused() -> None:
    with pytest.raises(ValueError, match="not unique"):
        Skeleton("twice", ("a", "a"), (-1, 0), 0)
    with pytest.raises(ValueError, match="2 joints but 1 parents"):
        Skeleton("short", ("a", "b"), (-1,), 0)
