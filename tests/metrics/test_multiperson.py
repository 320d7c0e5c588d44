"""MuPoTS-3D and AP_root: against the golden file, by hand, and gathered over processes."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from posezoo.metrics import multiperson
from posezoo.metrics.multiperson import (
    PELVIS,
    MuPoTSMetric,
    People,
    all_scores,
    ap_root,
    match_all,
    match_people,
    matched_scores,
    mupots_scores,
    recall,
    rescale_bones,
)
from posezoo.skeletons import MUPOTS17

RECALL = 13 / 14


def joints(seed: int, people: int, channels: int, spread: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(people, 17, channels, generator=generator, dtype=torch.float64)


def crowd(images: int = 6, people: int = 3) -> tuple[People, People]:
    """Annotated people 300 px apart, and predictions near all but one person of each second image."""
    count = images * people
    image = torch.arange(count) // people
    ids = {"sequence": 1 + image % 2, "frame": image, "index": torch.arange(count)}
    place = torch.arange(count, dtype=torch.float64)[:, None, None] % people
    joints2d = 300 + 300 * place + joints(0, count, 2, 5)
    joints3d = joints(1, count, 3, 300) + torch.tensor([0.0, 0.0, 4000.0]) + 2000 * place
    annotated = People(joints2d, joints3d, **ids, universal=1.1 * joints3d)
    noisy = joints3d + joints(2, count, 3, 80)
    score = torch.rand(count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    predicted = People(joints2d + joints(4, count, 2, 5), noisy, **ids, score=score)
    missed = (image % 2 == 1) & (torch.arange(count) % people == 1)
    return predicted.take((~missed).nonzero()[:, 0]), annotated


def golden_people(data: dict[str, np.ndarray]) -> tuple[list[People], list[People]]:
    """Predicted and annotated people of each frame."""
    predicted, annotated = [], []
    for sequence, frames in enumerate(data["n_frames_per_seq"]):
        for frame in range(frames):
            names = ("pred2d", "pred3d", "true2d", "true3d", "true3d_univ")
            found = {name: torch.from_numpy(data[f"seq{sequence}.frame{frame}.{name}"]) for name in names}
            predicted.append(People(found["pred2d"], found["pred3d"], *ids(len(found["pred2d"]), sequence, frame)))
            truth = ids(len(found["true2d"]), sequence, frame)
            annotated.append(People(found["true2d"], found["true3d"], *truth, universal=found["true3d_univ"]))
    return predicted, annotated


def ids(count: int, sequence: int = 1, frame: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return torch.full((count,), sequence), torch.full((count,), frame), torch.arange(count)


def concatenated(parts: list[People]) -> People:
    columns = {name: [getattr(part, name) for part in parts] for name in parts[0].__dataclass_fields__}
    return People(**{name: None if values[0] is None else torch.cat(values) for name, values in columns.items()})


@pytest.mark.shared_data
def test_golden(golden: Any) -> None:
    """Every expected value of the file, none left over."""
    data = golden("mupots")
    predicted, annotated = golden_people(data)
    found: dict[str, Tensor] = {}
    for p, a in zip(predicted, annotated, strict=True):
        image = f"seq{int(a.sequence[0])}.frame{int(a.frame[0])}"
        found[f"{image}.exp.matching_true_pred"] = match_people(p.joints2d, a.joints2d)
    matches = match_all(concatenated(predicted), concatenated(annotated))
    found |= {
        "exp.n_annotated_per_seq": matches.annotated,
        "exp.n_matched_per_seq": matches.counts,
        "exp.matched_pred3d": matches.pred,
        "exp.matched_true3d": matches.target,
        "exp.matched_true3d_univ": matches.universal,
        "exp.matched_pred3d_bone_rescaled_to_univ": rescale_bones(matches.pred, matches.universal),
        "exp.recall": recall(matches),
    }
    found |= {f"exp.{name}_perseq_then_mean": value for name, value in mupots_scores(matches).items()}
    further = matched_scores(matches.pred, matches.target)
    found |= {f"exp.wacv23_matched_only.{name}": value for name, value in further.items()}

    assert {name for name in data if "exp." in name} == set(found)
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), data[name], atol=1e-6, rtol=1e-9, err_msg=name)


@pytest.mark.shared_data
def test_golden_through_the_metric_in_float32(golden: Any) -> None:
    data = golden("mupots")
    metric = MuPoTSMetric()
    for predicted, annotated in zip(*golden_people(data), strict=True):
        truth = annotated.universal
        assert truth is not None
        metric.update(
            People(predicted.joints2d.float(), predicted.joints3d.float(), *ids_of(predicted)),
            People(annotated.joints2d.float(), annotated.joints3d.float(), *ids_of(annotated), universal=truth.float()),
        )
    scores = metric.compute()
    assert scores["recall"].item() == pytest.approx(RECALL)
    assert scores["ap_root"].isnan()  # no confidences in the file
    for name, value in scores.items():
        key = f"exp.{name}_perseq_then_mean"
        if key in data:
            np.testing.assert_allclose(value, data[key][-1], atol=0.01, err_msg=name)


def ids_of(people: People) -> tuple[Tensor, Tensor, Tensor]:
    return people.sequence, people.frame, people.index


def test_matching_counts_near_joints_in_max_norm() -> None:
    target = torch.full((1, 17, 2), 500.0)
    pred = target.repeat(3, 1, 1)
    pred[0] += 40.0  # exactly 40 px is too far
    pred[1] += 39.9  # 56 px away, but 39.9 on either axis
    pred[2, 1:13] += 39.9
    pred[2, 13] += 1000.0
    assert match_people(pred, target).tolist() == [[0, 1]]
    pred[1, 13] += 1000.0
    assert match_people(pred, target).tolist() == [[0, 1]]  # the first of equals
    pred[1, 12] += 1000.0
    assert match_people(pred, target).tolist() == [[0, 2]]


def test_matching_uses_joints_1_to_13_only() -> None:
    target = torch.full((1, 17, 2), 500.0)
    pred = target.clone()
    pred[:, 1:14] += 100.0
    assert match_people(pred, target).shape == (0, 2)
    pred[:, 13] = target[:, 13]
    assert match_people(pred, target).tolist() == [[0, 0]]


def test_joints_that_were_not_found_never_match() -> None:
    target = torch.full((1, 17, 2), 5.0)
    assert match_people(torch.zeros(1, 17, 2), target).shape == (0, 2)
    assert match_people(torch.full((1, 17, 2), torch.nan), target).shape == (0, 2)
    on_the_edge = torch.zeros(1, 17, 2)
    on_the_edge[..., 1] = 5.0  # x = 0 alone is a place in the image
    assert match_people(on_the_edge, target).tolist() == [[0, 0]]


def test_matching_is_greedy_in_annotation_order() -> None:
    target = torch.tensor([500.0, 510.0])[:, None, None].expand(2, 17, 2)
    pred = torch.tensor([[510.0], [700.0]])[:, :, None].expand(2, 17, 2)
    assert match_people(pred, target).tolist() == [[0, 0]]  # the second person, though nearer, comes too late
    assert match_people(pred[:0], target).shape == (0, 2)
    assert match_people(pred, target[:0]).shape == (0, 2)


def test_rescaled_bones() -> None:
    """MeTRAbs dossier, T8."""
    truth = joints(0, 4, 3, 300)
    pred = 2 * truth + 1000
    moved = rescale_bones(pred, truth)
    torch.testing.assert_close(moved[:, PELVIS], pred[:, PELVIS])
    torch.testing.assert_close(moved - moved[:, PELVIS, None], truth - truth[:, PELVIS, None])
    placed = [PELVIS]
    for parent, child in multiperson.RESCALED_BONES:
        assert parent in placed
        placed.append(child)
    assert sorted(placed) == list(range(len(MUPOTS17)))


def test_a_bone_without_length_stays_finite() -> None:
    truth = joints(0, 1, 3, 300)
    pred = torch.zeros_like(truth)
    assert (rescale_bones(pred, truth) == 0).all()


def test_a_sequence_without_matches_counts_zero_of_all() -> None:
    predicted, annotated = crowd()
    first = predicted.take((predicted.sequence == 1).nonzero()[:, 0])
    scores = mupots_scores(match_all(first, annotated))
    assert scores["nonuniv_rootrel_norescale.pck_matched"][1].isnan()
    assert scores["nonuniv_rootrel_norescale.pck_all_anno"][1] == 0
    one, _, mean = scores["nonuniv_rootrel_norescale.pck_matched"]
    assert mean == one
    one, _, mean = scores["nonuniv_rootrel_norescale.pck_all_anno"]
    assert mean == one / 2
    nobody = all_scores(first.take(torch.arange(0)), annotated)
    assert nobody["univ_rootrel_rescale.pck_all_anno"].tolist() == [0, 0, 0]
    assert nobody["recall"] == 0
    assert matched_scores(first.joints3d[:0], first.joints3d[:0])["cps100"].isnan()


def test_missed_people_cost_and_false_positives_do_not() -> None:
    _, annotated = crowd()
    perfect = People(annotated.joints2d, annotated.joints3d, *ids_of(annotated))
    key = "nonuniv_nonrootrel_norescale.pck_all_anno"
    assert mupots_scores(match_all(perfect, annotated))[key].tolist() == [100, 100, 100]
    far = People(
        annotated.joints2d + 5000, annotated.joints3d, annotated.sequence, annotated.frame, annotated.index + 99
    )
    both = concatenated([far, perfect])
    assert mupots_scores(match_all(both, annotated))[key].tolist() == [100, 100, 100]
    present = perfect.take(torch.arange(1, 18))  # one of the nine of sequence 1 is missed
    found = mupots_scores(match_all(present, annotated))[key]
    assert found.tolist() == pytest.approx([100 * 8 / 9, 100, 100 * 17 / 18])
    assert recall(match_all(present, annotated)).item() == pytest.approx(17 / 18)


def roots(depths: list[float], frames: list[int], score: list[float] | None = None) -> People:
    count = len(depths)
    joints3d = torch.zeros(count, 17, 3, dtype=torch.float64)
    joints3d[:, PELVIS, 2] = torch.tensor(depths, dtype=torch.float64)
    confidence = None if score is None else torch.tensor(score)
    sequence = torch.ones(count, dtype=torch.int64)
    return People(
        joints3d[..., :2],
        joints3d,
        sequence,
        torch.tensor(frames, dtype=torch.int64),
        torch.arange(count),
        score=confidence,
    )


def test_ap_root_by_hand() -> None:
    truth = roots([1000, 3000, 1000, 3000], [0, 0, 1, 1])
    perfect = roots([1000, 3000, 1000, 3000], [0, 0, 1, 1], [0.9, 0.8, 0.7, 0.6])
    assert ap_root(perfect, truth).item() == pytest.approx(75)  # the released sum skips the first
    # Hits: yes (first, no area), no, yes, yes -> precision 2/3 and 3/4 at two steps of 1/4.
    mixed = roots([1249.9, 3250, 1000, 3000], [0, 0, 1, 1], [0.9, 0.8, 0.7, 0.6])
    assert ap_root(mixed, truth).item() == pytest.approx(100 * (2 / 3 + 3 / 4) / 4)


def test_ap_root_gives_a_taken_root_to_nobody_and_skips_unlabelled_images() -> None:
    truth = roots([1000, 1200], [0, 0])
    double = roots([1000, 1050, 1200], [0, 0, 0], [0.9, 0.8, 0.7])
    # 1050 is nearest to the taken root, so it is false although 1200 is free and within 250 mm.
    assert ap_root(double, truth).item() == pytest.approx(100 * (2 / 3) / 2)
    elsewhere = roots([1000, 1000, 1200], [0, 5, 0], [0.9, 0.8, 0.7])
    assert ap_root(elsewhere, truth).item() == pytest.approx(100 * 1 / 2)
    assert ap_root(roots([], [], []), truth) == 0
    assert ap_root(roots([torch.nan, 1000], [0, 0], [0.9, 0.1]), truth).item() == pytest.approx(100 * (1 / 2) / 2)


def test_rows_may_come_in_any_order_and_twice() -> None:
    predicted, annotated = crowd()
    expected = all_scores(predicted, annotated)
    metric = MuPoTSMetric()
    generator = torch.Generator().manual_seed(0)
    for rows in torch.randperm(len(predicted.index), generator=generator).split(5):
        metric.update(predicted.take(rows), annotated.take(torch.arange(0)))
    for rows in torch.randperm(len(annotated.index), generator=generator).split(7):
        metric.update(predicted.take(torch.arange(3)), annotated.take(rows))  # three predictions over and over
    found = metric.compute()
    assert 0 < expected["recall"] < 1
    assert 0 < expected["ap_root"] < 100
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].view(-1)[-1], msg=name)
    metric.reset()
    metric.update(predicted, annotated.take(torch.arange(3)))
    assert metric.compute()["recall"] == 1


def gather_with(other: MuPoTSMetric) -> Callable[..., list[Tensor]]:
    """torchmetrics' gathering over two processes, the second of which holds `other`."""

    def states() -> Iterator[Tensor]:
        for name in other._reductions:
            yield dim_zero_cat(getattr(other, name))

    remote = states()

    def gather(local: Tensor, group: Any = None) -> list[Tensor]:
        value = next(remote)
        assert (value.dtype, value.ndim) == (local.dtype, local.ndim)  # or the processes hang
        return [local, value]

    return gather


@pytest.mark.parametrize("local_rows", [9, 0])
def test_two_processes(local_rows: int) -> None:
    predicted, annotated = crowd()
    whole, remote = MuPoTSMetric(), MuPoTSMetric()
    local = MuPoTSMetric(distributed_available_fn=lambda: True)
    whole.update(predicted, annotated)
    remote.update(predicted, annotated.take(torch.arange(local_rows, 18)))
    if local_rows:
        local.update(predicted.take(torch.arange(4)), annotated.take(torch.arange(local_rows)))
    local.dist_sync_fn = gather_with(remote)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics: compute before update
        torch.testing.assert_close(local.compute(), whole.compute())


def test_mistakes_are_one_sentence() -> None:
    predicted, annotated = crowd()
    bare = People(annotated.joints2d, annotated.joints3d, *ids_of(annotated))
    with pytest.raises(ValueError, match="universal skeleton too"):
        MuPoTSMetric().update(predicted, bare)
    with pytest.raises(ValueError, match="universal skeleton too"):
        match_all(predicted, bare)
    with pytest.raises(ValueError, match="needs a confidence"):
        ap_root(bare, annotated)
    short = People(annotated.joints2d[:, :16], annotated.joints3d, *ids_of(annotated))
    with pytest.raises(ValueError, match=r"joints2d of the predicted people must be \[18, 17, 2\]"):
        match_all(short, annotated)
    floats = People(annotated.joints2d, annotated.joints3d, annotated.sequence.float(), *ids_of(annotated)[1:])
    with pytest.raises(ValueError, match="sequence of the predicted people must be int64"):
        match_all(floats, annotated)
