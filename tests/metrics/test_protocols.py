"""Protocols by name, and the metric functions that only they use: golden values, by hand, and by their words."""

import dataclasses
import re
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from golden_helpers import ALIGNED, load
from scipy import integrate
from torch import Tensor

from posezoo.commands.list import PROTOCOLS as listed
from posezoo.errors import PoseZooError
from posezoo.geometry import axis_angle_to_matrix, procrustes
from posezoo.lifting import hemlets_released
from posezoo.metrics import functional as F
from posezoo.metrics.multiperson import People
from posezoo.metrics.protocols import (
    PROTOCOLS,
    Keypoints2D,
    MultiPerson,
    Protocol,
    ReleasedHEMlets,
    SinglePerson,
    get_protocol,
)
from posezoo.skeletons import H36M17, MPI_INF_3DHP_17, SMPL24, get_skeleton

CASES = [*ALIGNED, "threshold_edge"]
SINGLE = sorted(name for name, protocol in PROTOCOLS.items() if isinstance(protocol, SinglePerson))

# The adaptive quadrature of 3DPW's evaluator leaves this much on a curve of 200 corners.
QUADRATURE = 5e-6


def single(name: str) -> SinglePerson:
    protocol = get_protocol(name)
    assert isinstance(protocol, SinglePerson)
    return protocol


def poses(seed: int, count: int, joints: int, spread: float = 200.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, joints, 3, generator=generator, dtype=torch.float64)


# --- functions ---------------------------------------------------------------------------------------------------


@pytest.mark.shared_data
@pytest.mark.parametrize("case", CASES)
def test_golden_functions(case: str, golden: Any) -> None:
    """Every `<=`, CPS and continuous-AUC value of the case."""
    data = golden("metrics")
    pred, target, valid, root = load(data, case)
    relative = F.root_relative_errors(pred, target, valid, root)
    worst = F.worst_errors(F.procrustes_errors(pred, target, valid))
    found = {
        "auc_continuous150_rootrel.posepile": F.ramp_scores(relative, 150).mean(),
        "metrabs_ncps.metrabs_tf": F.pck_scores(worst, 150, inclusive=True).mean() / 100,
        "metrabs_ncps_auc.metrabs_tf": F.ramp_scores(worst, zero=150, full=50).mean() / 100,
    }
    for t in (50, 100, 150):
        found[f"pck{t}_le_rootrel"] = F.pck(pred, target, valid, root, threshold=t, inclusive=True)
    for t in (100, 150, 200):
        found[f"cps{t}_lt_rootrel.posepile"] = F.cps(pred, target, valid, root, threshold=t)
        found[f"cps_auc{t}_rootrel.posepile"] = F.cps_auc(pred, target, valid, root, threshold=t)
    wanted = [key for key in data if re.match(rf"{case}\.exp\.(pck\d+_le|cps|metrabs_ncps)", key)]
    assert {key.removeprefix(f"{case}.exp.") for key in wanted} <= set(found)
    assert len(wanted) >= 9
    single_precision = pred.dtype == torch.float32
    for name, value in found.items():
        if f"{case}.exp.{name}" not in data:
            continue
        atol = 0.02 if single_precision else 1e-5 if "metrabs" in name else 1e-6
        np.testing.assert_allclose(value, data[f"{case}.exp.{name}"], atol=atol, rtol=1e-6, err_msg=name)


@pytest.mark.shared_data
@pytest.mark.parametrize("case", CASES)
def test_golden_3dpw_auc(case: str, golden: Any) -> None:
    """The evaluator's quadrature over our PCK curve gives its value; our exact area is that near."""
    data = golden("metrics")
    pred, target, valid, root = load(data, case)
    expected = data[f"{case}.exp.auc_0_199_integral.3dpw_eval"]
    exact = 1e-9 if pred.dtype == torch.float64 else 1e-5
    thresholds = np.arange(200.0)
    curve = [float(F.pck(pred, target, valid, root, t, inclusive=True)) / 100 for t in thresholds]

    area = float(F.auc_3dpw(pred, target, valid, root))
    assert area == pytest.approx(np.trapezoid(curve, thresholds) / 199, abs=1e-6)
    assert area == pytest.approx(expected, abs=QUADRATURE + exact)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", integrate.IntegrationWarning)
        quadrature = integrate.quad(lambda t: np.interp(t, thresholds, curve), 0, 199)[0] / 199
    assert quadrature == pytest.approx(expected, abs=exact)


@pytest.mark.parametrize(
    ("error", "area"),
    [(0, 1), (0.5, 198.5 / 199), (1, 198.5 / 199), (1.01, 197.5 / 199), (198, 1.5 / 199), (199, 0.5 / 199), (199.1, 0)],
)
def test_3dpw_auc_by_hand(error: float, area: float) -> None:
    pred = torch.tensor([[[error, 0.0, 0.0]]], dtype=torch.float64)
    assert F.auc_3dpw(pred, torch.zeros_like(pred), root=None).item() == pytest.approx(area, abs=1e-12)


@pytest.mark.shared_data
def test_golden_pckh(golden: Any) -> None:
    data = golden("metrics")
    pred, target, valid = (torch.from_numpy(data[f"mpii2d.{key}"]) for key in ("pred", "gt", "mask"))
    head = torch.from_numpy(data["mpii2d.head_size"])
    thirty = torch.full_like(head, 30.0)
    thresholds = [step / 20 for step in range(20)]
    found = {
        "pckh0.1_mean": F.pckh(pred, target, head, valid, 0.1) / 100,
        "pckh0.5_mean": F.pckh(pred, target, head, valid) / 100,
        "nme": F.head_errors(pred, target, head, valid).mean(),
        "epe": F.head_errors(pred, target, torch.ones_like(head), valid).mean(),
        "auc_norm30_20thr": sum(F.pckh(pred, target, thirty, valid, t) for t in thresholds) / 2000,
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, data[f"mpii2d.exp.{name}.mmpose"], atol=1e-6, rtol=1e-6, err_msg=name)
    for t in (0.1, 0.5):
        score = F.pck_scores(F.head_errors(pred, target, head, valid), t)
        per_joint = score.value.sum(0) / score.valid.sum(0) / 100
        np.testing.assert_allclose(per_joint, data[f"mpii2d.exp.pckh{t}_per_joint.mmpose"], atol=1e-6)


def test_pckh_by_hand() -> None:
    target = torch.zeros(3, 2, 2)
    pred = target.clone()
    pred[0, 0, 0] = 49.9
    pred[1, 0, 0] = 50.0  # exactly half a head is a miss
    pred[2] = 1000.0
    head = torch.tensor([100.0, 100.0, 0.0])  # the third has no head size
    valid = torch.tensor([[True, False], [True, False], [True, True]])
    assert F.pckh(pred, target, head, valid) == 50
    assert F.pckh(pred, target, head) == 75
    pred[0, 0] = torch.nan
    assert F.pckh(pred, target, head, valid) == 0
    assert F.pckh(pred, target, head, valid & False).isnan()
    with pytest.raises(ValueError, match=r"head_size must be \[N\] = \[3\], got \[2\]"):
        F.pckh(pred, target, head[:2])
    with pytest.raises(ValueError, match=r"must both be \[N, J, 2\], got \(3, 2, 3\)"):
        F.pckh(torch.zeros(3, 2, 3), torch.zeros(3, 2, 3), head)


def test_cps_judges_the_worst_valid_joint() -> None:
    target = torch.zeros(4, 3, 3)
    pred = target.clone()
    pred[0, 1, 0], pred[1, 2, 0], pred[2, 1, 0] = 149.9, 150.0, torch.nan
    valid = torch.ones(4, 3, dtype=torch.bool)
    valid[3, 0] = False  # no root: the sample does not count
    assert F.cps(pred, target, valid).item() == pytest.approx(100 / 3)
    assert F.cps_auc(pred, target, valid, threshold=299.8).item() == pytest.approx((50 + 100 * 149.8 / 299.8) / 3)
    valid[1, 2] = valid[2, 1] = False
    assert F.cps(pred, target, valid) == 100


# --- definitions -------------------------------------------------------------------------------------------------

# Words that only the right definition has: subjects, frames, joints, alignment, averaging.
WORDS = {
    "h36m_p1_pavllo": ("S9, S11 (", "every frame at 50 fps", "joints: 17", "pelvis moved", "15 actions", "no S9 corr"),
    "h36m_p2_pavllo": ("S9, S11 (", "without S11 Directions", "joints: 17", "translation and scale", "15 actions"),
    "h36m_p1_semgcn": ("S9, S11 (", "every frame", "joints: 16", "pelvis moved", "15 actions"),
    "h36m_p2_semgcn": ("S9, S11 (", "every frame", "joints: 16", "translation and scale", "15 actions"),
    "h36m_p1_moon": ("subjects: S11 (", "every 64th", "joints: 17", "without scale", "whatever the action"),
    "h36m_p1_moon_similarity": ("subjects: S11 (", "every 64th", "joints: 17", "and scale", "whatever the action"),
    "h36m_p2_moon": ("S9, S11 (", "every 64th", "joints: 17", "pelvis moved", "whatever the action"),
    "h36m_metrabs": (
        "S9, S11 (",
        "every 64th",
        "joints: 17",
        "for pa_mpjpe",
        "whatever",
        "SittingDown 1, S9 Waiting 1 moved",
    ),
    "h36m_p1_spin": ("S9, S11 (", "every 5th frame of all 4", "joints: 14", "pelvis moved", "whatever the action"),
    "h36m_p2_spin": ("S9, S11 (", "frontal camera 60457274", "joints: 14", "and scale", "whatever the action"),
    "hemlets_released": ("subjects: S11 (", "every frame", "joints: 17", "onto the prediction", "15 actions"),
    "mpi_inf_3dhp": ("TS1, TS2", "valid frames", "joints: 14 (neck", "pelvis moved", "over frames", "univ_annot3"),
    "mpi_inf_3dhp_metric": (
        "TS6",
        "valid frames",
        "joints: 14 (neck",
        "pelvis moved",
        "over frames",
        "metric skeleton",
    ),
    "mpi_inf_3dhp_posepile": ("TS1", "valid frames", "14 (head_top", "pelvis moved", "over frames", "for mpjpe"),
    "3dpw": ("train, validation, test", "all frames", "24 (smpl24", "12 (hips", "<= 50 mm", "mean over frames"),
    "3dpw_test14": ("splits: test;", "all frames of the test", "joints: 14", "pelvis moved", "mean over frames"),
    "mupots": ("TS1 .. TS20 (all 20)", "valid frames", "14 (head_top", "rescaled", "20 sequences", "people count 0"),
    "mupots_matched": ("TS1 .. TS20", "valid frames", "14 (head_top", "rescaled", "20 sequences", "of matched people"),
    "mupots_metric": ("TS1 .. TS20", "valid frames", "14 (head_top", "no rescaling", "20 sequences", "metric skeleton"),
    "mpii_pckh": ("splits: val", "single images", "joints: 16", "head sizes", "then over joints"),
    "none": ("subjects: as given", "frames: as given", "all joints", "pelvis moved", "over frames", "not a benchmark"),
}


def test_every_definition_says_what_the_numbers_depend_on() -> None:
    assert set(WORDS) == set(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        line = protocol.definition
        assert line.startswith(f"{name} ({protocol.dataset}): ")
        assert "\n" not in line
        for key in (protocol.subject_word, "frames", "joints", "alignment", "averaging", "measures", "truth"):
            assert len(re.findall(rf"(?:^|[:;] ){key}: \S", line)) == 1, (name, key)
        for words in WORDS[name]:
            assert words in line, (name, words, line)
    assert len({protocol.definition.partition("): ")[2] for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_names() -> None:
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())
    assert get_protocol("mupots") is PROTOCOLS["mupots"]
    with pytest.raises(PoseZooError, match="no protocol 'h36m_p2_mon': did you mean h36m_p2_moon"):
        get_protocol("h36m_p2_mon")
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_protocol("none").name = "other"  # type: ignore[misc]


def test_posezoo_list_knows_them() -> None:
    assert list(listed) == list(PROTOCOLS)


def test_other_subjects_are_refused() -> None:
    get_protocol("h36m_p2_moon").check_subjects(["S11", "S9", "S9"])
    get_protocol("none").check_subjects(["S1"])
    with pytest.raises(PoseZooError) as refused:
        get_protocol("h36m_p1_moon").check_subjects(("S9", "S11"))
    assert str(refused.value).startswith(
        "Protocol h36m_p1_moon is defined on the subjects S11, but these data have S11, S9"
    )
    assert "h36m_p2_moon" in str(refused.value)  # a protocol of exactly these subjects
    assert "h36m_p1_moon_similarity" not in str(refused.value)
    for found in (["S11"], ["S9", "S11", "S1"], []):
        with pytest.raises(PoseZooError, match="defined on the subjects S9, S11"):
            get_protocol("h36m_p1_pavllo").check_subjects(found)
    with pytest.raises(
        PoseZooError,
        match=r"sequences TS1 \.\. TS20 \(all 20\), but these data have TS1: take the protocol none instead",
    ):
        get_protocol("mupots").check_subjects(["TS1"])


def test_frames() -> None:
    moon, spin, pavllo = (get_protocol(f"h36m_{name}") for name in ("p2_moon", "p2_spin", "p1_pavllo"))
    assert [frame for frame in range(130) if moon.keeps(frame)] == [0, 64, 128]
    assert spin.keeps(5, "60457274")
    assert not spin.keeps(5, "54138969")
    assert not spin.keeps(6, "60457274")
    assert pavllo.keeps(1, "54138969", "S11 Directions 1")
    assert not pavllo.keeps(1, "54138969", "S11 Directions")
    assert moon.keeps(64, "54138969", "S11 Directions")


# --- scores ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SINGLE)
def test_perfect_predictions(name: str) -> None:
    protocol = single(name)
    target = poses(0, 6, len(get_skeleton(protocol.skeleton))).round()  # exact in floating point
    best = {"mpjpe": 0, "pa_mpjpe": 0, "pck": 100, "pck50": 100, "auc": 1 if name == "3dpw" else 100 * 30 / 31}
    pred = target + 5000 * torch.arange(6, dtype=torch.float64)[:, None, None]  # the root's place is free
    result = protocol.score(pred, target, action=torch.arange(6) // 2, sequence=torch.arange(6) // 2)
    assert set(result.values) == {measure.name for measure in protocol.measures}
    for measure, value in result.values.items():
        assert value == pytest.approx(best[measure], abs=1e-6), measure
        assert list(result.groups[measure]) == [0, 1, 2]
    assert result.protocol == protocol.definition


@pytest.mark.parametrize("name", SINGLE)
def test_only_the_scored_joints_count(name: str) -> None:
    """Moving one joint changes exactly the measures that are over it."""
    protocol = single(name)
    skeleton = get_skeleton(protocol.skeleton)
    target = poses(0, 2, len(skeleton))
    pred = target + poses(1, 2, len(skeleton), 4)  # every joint is a hit before it is moved
    ids = {"action": torch.tensor([0, 1]), "sequence": torch.tensor([0, 1])}
    before = protocol.per_joint(pred, target)
    for joint in set(skeleton.joints) - {"pelvis"}:
        moved = pred.clone()
        moved[:, skeleton.index(joint)] += 1e4
        for measure in protocol.measures:
            scored = not measure.joints.names or joint in measure.joints.names
            after = protocol.per_joint(moved, target)[measure.name].value
            assert (after != before[measure.name].value).any() == scored, (measure.name, joint)
    counts = {m.name: before[m.name].value.shape[1] for m in protocol.measures}
    assert counts == {m.name: len(m.joints.names or skeleton.joints) for m in protocol.measures}
    assert protocol.score(pred, target, **ids).values == pytest.approx(
        {m.name: before[m.name].mean().item() for m in protocol.measures}
    )  # one frame for each action: both averages agree


def test_frames_or_actions() -> None:
    """Three frames of one action at 10 mm and one of another at 50 mm."""
    target = torch.zeros(4, 17, 3, dtype=torch.float64)
    pred = target.clone()
    pred[:, 1:, 0] = torch.tensor([10.0, 10.0, 10.0, 50.0])[:, None]
    action = torch.tensor([2, 2, 2, 7])
    by_frame = single("h36m_p2_moon").score(pred, target, action=action)
    by_action = single("h36m_p1_pavllo").score(pred, target, action=action)
    share = 16 / 17  # the pelvis is one joint of no error
    assert by_frame.values["mpjpe"] == pytest.approx(20 * share)
    assert by_action.values["mpjpe"] == pytest.approx(30 * share)
    assert by_frame.groups == by_action.groups
    assert by_action.groups["mpjpe"] == pytest.approx({2: 10 * share, 7: 50 * share})
    assert single("h36m_p2_moon").score(pred, target).groups == {}
    with pytest.raises(PoseZooError, match="h36m_p1_pavllo averages over actions: give it the action ids"):
        single("h36m_p1_pavllo").score(pred, target)


def test_sixteen_joints_leave_the_nose_out() -> None:
    target = torch.zeros(1, 17, 3, dtype=torch.float64)
    pred = target.clone()
    pred[0, H36M17.index("nose"), 0] = 170.0
    pred[0, H36M17.index("spine"), 0] = 17.0
    action = torch.zeros(1, dtype=torch.int64)
    assert single("h36m_p1_pavllo").score(pred, target, action=action).values["mpjpe"] == pytest.approx(11)
    assert single("h36m_p1_semgcn").score(pred, target, action=action).values["mpjpe"] == pytest.approx(17 / 16)


def test_alignments_differ_as_their_names_say() -> None:
    target = poses(0, 5, 17)
    turn = axis_angle_to_matrix(torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64))
    grown = 1.1 * target @ turn.mT + 1000
    action = torch.zeros(5, dtype=torch.int64)
    assert single("h36m_p1_moon_similarity").score(grown, target).values["pa_mpjpe"] < 1e-9
    rigid = single("h36m_p1_moon").score(grown, target).values["pa_mpjpe"]
    assert rigid == pytest.approx(F.pa_mpjpe(grown, target, scale=False).item())
    assert rigid > 10
    pred = grown + poses(1, 5, 17, 50)
    released = single("hemlets_released").score(pred, target, action=action).values["pa_mpjpe"]
    assert released == pytest.approx(F.pa_mpjpe(target, pred).item())
    assert released > single("h36m_p2_pavllo").score(pred, target, action=action).values["pa_mpjpe"] + 0.5
    few = single("h36m_p2_spin").score(pred, target).values["pa_mpjpe"]  # fitted on its fourteen joints
    fourteen = [H36M17.index(j) for j in get_skeleton("lsp14").joints]
    assert few == pytest.approx(F.pa_mpjpe(pred[:, fourteen], target[:, fourteen]).item())


def test_masked_joints_do_not_count() -> None:
    target = poses(0, 4, 17)
    pred = target + poses(1, 4, 17, 40)
    valid = torch.rand(4, 17, generator=torch.Generator().manual_seed(2)) > 0.3
    valid[:, 0] = True
    valid[3, 0] = False
    spoiled = pred.where(valid[..., None], torch.nan)
    found = single("h36m_metrabs").score(spoiled, target, valid).values
    assert found["mpjpe"] == pytest.approx(F.mpjpe(pred, target, valid).item())
    assert found["pa_mpjpe"] == pytest.approx(F.pa_mpjpe(pred, target, valid).item())


@pytest.mark.shared_data
def test_golden_3dhp(golden: Any) -> None:
    data = golden("metrics")
    pred, target, _, root = load(data, "pck17")
    assert root == MPI_INF_3DHP_17.root
    found = single("mpi_inf_3dhp_posepile").score(pred, target).values
    assert found["pck"] == pytest.approx(float(data["pck17.exp.pck150_14joint.posepile"]), abs=1e-6)
    assert found["auc"] == pytest.approx(float(data["pck17.exp.auc31_14joint.posepile"]), abs=1e-6)
    assert found["mpjpe"] == pytest.approx(float(data["pck17.exp.mpjpe_rootrel.mmpose"]), abs=1e-5)
    other = single("mpi_inf_3dhp").score(pred, target).values
    assert other["pck"] > found["pck"]  # the pelvis for the head_top


def test_3dhp_pck_is_strict_and_3dpw_is_not() -> None:
    target = torch.zeros(1, 17, 3, dtype=torch.float64)
    pred = target.clone()
    pred[0, :7, 0] = 150.0
    assert single("mpi_inf_3dhp").score(pred, target).values["pck"] == pytest.approx(100 * 8 / 14)
    target = torch.zeros(1, 24, 3, dtype=torch.float64)
    pred = target.clone()
    pred[0, SMPL24.index("l_hip"), 0] = 50.0
    pred[0, SMPL24.index("r_hip"), 0] = 50.01
    found = single("3dpw").score(pred, target).values
    assert found["pck50"] == pytest.approx(100 * 11 / 12)
    assert found["mpjpe"] == pytest.approx(100.01 / 24)


def test_other_skeletons_by_joint_name() -> None:
    target = poses(0, 3, 18)
    pred = target + poses(1, 3, 18, 40)
    found = single("h36m_p2_moon").score(pred, target, skeleton="hemlets18").values["mpjpe"]
    assert found == pytest.approx(F.mpjpe(pred[:, :17], target[:, :17]).item())
    with pytest.raises(PoseZooError, match=r"h36m_p2_moon scores nose, which mpi_inf_3dhp_17 lacks: predict h36m17"):
        single("h36m_p2_moon").score(pred[:, :17], target[:, :17], skeleton="mpi_inf_3dhp_17")
    with pytest.raises(ValueError, match=r"poses must be \[N, 17, 3\] \(h36m17\), got \[3, 18, 3\]"):
        single("h36m_p2_moon").score(pred, target)
    with pytest.raises(ValueError, match=r"ids must be int64 \[N\] = \[3\]"):
        single("h36m_p2_moon").score(pred[:, :17], target[:, :17], action=torch.zeros(2, dtype=torch.int64))


def test_sums_of_parts_give_the_whole() -> None:
    """The seam for a metric over several processes: sums and counts per action add up."""
    protocol = single("h36m_p2_pavllo")
    target = poses(0, 9, 17)
    pred = target + poses(1, 9, 17, 40)
    action = torch.arange(9) % 4
    total, count = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    for rows in torch.arange(9).split(5):
        joint = protocol.per_joint(pred[rows], target[rows])["pa_mpjpe"]
        total.index_add_(0, action[rows], joint.value.sum(1))
        count.index_add_(0, action[rows], joint.valid.sum(1))
    whole = protocol.score(pred, target, action=action).values["pa_mpjpe"]
    assert protocol.averaging.mean(total, count).item() == pytest.approx(whole)


def test_hemlets_released_lifts_first(pose: Tensor) -> None:
    protocol = get_protocol("hemlets_released")
    assert isinstance(protocol, ReleasedHEMlets)
    target = (pose + torch.tensor([100.0, 0.0, 4600.0])).expand(2, 17, 3)
    pixels = 500 + 1150 * target[..., :2] / target[..., 2:]
    depth = pose[:, 2].expand(2, 17)
    action = torch.tensor([0, 1])
    found = protocol.score_pixels(pixels, depth, target, action=action).values
    lifted = hemlets_released(pixels, depth)
    assert found["mpjpe"] == pytest.approx(F.mpjpe(lifted, target).item())
    assert 0 < found["mpjpe"] < 60  # its depth search is coarse and its bones are not this person's
    assert found["pa_mpjpe"] == pytest.approx(F.absolute_errors(procrustes(target, lifted), lifted).mean().item())


@pytest.mark.shared_data
def test_golden_mupots(golden: Any) -> None:
    data = golden("mupots")
    columns: dict[str, list[Tensor]] = {}
    for sequence, frames in enumerate(data["n_frames_per_seq"]):
        for frame in range(frames):
            for kind in ("true2d", "true3d", "true3d_univ", "pred2d", "pred3d"):
                value = torch.from_numpy(data[f"seq{sequence}.frame{frame}.{kind}"])
                columns.setdefault(kind, []).append(value)
                ids = torch.tensor([[1 + sequence, frame, row] for row in range(len(value))])
                columns.setdefault(f"{kind}_ids", []).append(ids)
    full = {kind: torch.cat(values) for kind, values in columns.items()}
    predicted = People(full["pred2d"], full["pred3d"], *full["pred2d_ids"].unbind(1))
    annotated = People(full["true2d"], full["true3d"], *full["true2d_ids"].unbind(1), universal=full["true3d_univ"])
    expected = {
        "mupots": {
            "pck_rel": "univ_rootrel_rescale.pck_all_anno",
            "pck_abs": "univ_nonrootrel_rescale.pck_all_anno",
            "auc_rel": "univ_rootrel_rescale.auc_all_anno",
        },
        "mupots_matched": {"pck_rel": "univ_rootrel_rescale.pck_matched"},
        "mupots_metric": {
            "mpjpe_rel": "nonuniv_rootrel_norescale.mpjpe14",
            "pck_abs": "nonuniv_nonrootrel_norescale.pck_matched",
        },
    }
    for name, keys in expected.items():
        protocol = get_protocol(name)
        assert isinstance(protocol, MultiPerson)
        result = protocol.score(predicted, annotated)
        assert result.values["recall"] == pytest.approx(13 / 14)
        for measure, key in keys.items():
            *per_sequence, mean = data[f"exp.{key}_perseq_then_mean"]
            assert result.values[measure] == pytest.approx(mean, abs=1e-6), (name, measure)
            assert list(result.groups[measure]) == [1, 2]
            assert list(result.groups[measure].values()) == pytest.approx(per_sequence, abs=1e-6)


@pytest.mark.shared_data
def test_golden_mpii(golden: Any) -> None:
    data = golden("metrics")
    protocol: Protocol = get_protocol("mpii_pckh")
    assert isinstance(protocol, Keypoints2D)
    inputs = [torch.from_numpy(data[f"mpii2d.{key}"]) for key in ("pred", "gt", "head_size", "mask")]
    found = protocol.score(*inputs).values
    assert found == pytest.approx(
        {f"pckh@{t}": 100 * float(data[f"mpii2d.exp.pckh{t}_mean.mmpose"]) for t in (0.5, 0.1)}, abs=1e-6
    )


def test_protocols_do_not_import_torchmetrics() -> None:
    code = "import sys, posezoo.metrics.protocols; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
