"""The torchmetrics classes: equal to the functions on the pooled samples, however these arrive."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.utilities.data import dim_zero_cat

import posezoo.metrics
from posezoo.geometry import procrustes
from posezoo.metrics import AUC3D, MPJPE, MPJVE, MRPE, NMPJPE, PAMPJPE, PCK3D, AbsMPJPE, modular
from posezoo.metrics import functional as F
from posezoo.metrics.modular import PoseMetric

N, J, GROUPS = 23, 6, 4

PAIRS: dict[str, tuple[Callable[..., PoseMetric], Callable[..., Tensor]]] = {
    "MPJPE": (MPJPE, F.mpjpe),
    "PAMPJPE": (PAMPJPE, F.pa_mpjpe),
    "NMPJPE": (NMPJPE, F.n_mpjpe),
    "AbsMPJPE": (AbsMPJPE, F.abs_mpjpe),
    "MRPE": (MRPE, F.mrpe),
    "PCK3D": (PCK3D, F.pck),
    "AUC3D": (AUC3D, F.auc),
}
WITHOUT_ROOT = torch.arange(N) % 5 == 3


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = 300 * torch.randn(N, J, 3, generator=generator)
    valid = torch.rand(N, J, generator=generator) > 0.2
    valid[WITHOUT_ROOT, 0] = False
    noise = 60 * torch.randn(N, J, 3, generator=generator)
    pred = (target + noise).where(valid[..., None], torch.nan)
    return {"pred": pred, "target": target, "valid": valid, "group": torch.arange(N) % (GROUPS - 1)}


def parts(batch: dict[str, Tensor], *sizes: int) -> list[dict[str, Tensor]]:
    pieces = {key: value.split([*sizes, N - sum(sizes)]) for key, value in batch.items()}
    return [dict(zip(pieces, rows, strict=True)) for rows in zip(*pieces.values(), strict=True)]


def make(name: str) -> PoseMetric:
    return PAIRS[name][0](num_groups=GROUPS, **({} if name == "MRPE" else {"num_joints": J}))


def gather_with(other: PoseMetric) -> Callable[..., list[Tensor]]:
    """torchmetrics' gathering over two processes, the second of which holds `other`."""

    def states() -> Iterator[Tensor]:
        for name in other._reductions:
            state = getattr(other, name)
            yield dim_zero_cat(state) if isinstance(state, list) else state

    remote = states()

    def gather(local: Tensor, group: Any = None) -> list[Tensor]:
        value = next(remote)
        assert (value.dtype, value.ndim) == (local.dtype, local.ndim)  # or the processes hang
        return [local, value]

    return gather


@pytest.mark.parametrize("name", PAIRS)
def test_batches_equal_the_pooled_function(name: str, batch: dict[str, Tensor]) -> None:
    cls, function = PAIRS[name]
    plain, metric = cls(), make(name)
    group = batch.pop("group")
    for rows in (slice(0, 7), slice(7, 8), slice(8, N)):
        piece = {key: value[rows] for key, value in batch.items()}
        plain.update(**piece)
        metric.update(**piece, group=group[rows])

    expected = function(**batch)
    torch.testing.assert_close(plain.compute(), expected, check_dtype=False)
    torch.testing.assert_close(metric.compute(), expected, check_dtype=False)
    assert plain.compute().dtype == torch.float64
    per_group = metric.compute_per_group()
    for g in range(GROUPS - 1):
        rows = group == g
        torch.testing.assert_close(per_group[g], function(**{k: v[rows] for k, v in batch.items()}), check_dtype=False)
    assert per_group[-1].isnan()  # a group that never came


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "MRPE"])
def test_per_joint(name: str, batch: dict[str, Tensor]) -> None:
    metric = make(name)
    for piece in parts(batch, 9):
        metric.update(**piece)
    del batch["group"]
    joints = PAIRS[name][0]().per_joint(**batch)  # type: ignore[attr-defined]
    expected = joints.value.double().where(joints.valid, torch.nan).nanmean(0)
    torch.testing.assert_close(metric.compute_per_joint(), expected)


@pytest.mark.parametrize("name", PAIRS)
def test_merging_two_processes(name: str, batch: dict[str, Tensor]) -> None:
    """Sums and counts, so unequal shares do not matter; nor does a process without samples."""
    whole, first, second, third = (make(name) for _ in range(4))
    whole.update(**batch)
    for metric, piece in zip((first, second), parts(batch, 4), strict=True):
        metric.update(**piece)
    first.merge_state(second)
    first.merge_state(third)

    torch.testing.assert_close(first.compute(), whole.compute())
    torch.testing.assert_close(first.compute_per_group(), whole.compute_per_group(), equal_nan=True)


@pytest.mark.parametrize("name", [*PAIRS, "MPJVE"])
def test_every_result_is_synchronised(name: str, batch: dict[str, Tensor]) -> None:
    batch |= {} if name != "MPJVE" else {"sequence": torch.arange(N) // 6, "frame": torch.arange(N) % 6}
    cls: Any = MPJVE if name == "MPJVE" else PAIRS[name][0]
    kwargs: dict[str, Any] = {"num_groups": GROUPS} | ({} if name == "MRPE" else {"num_joints": J})
    whole, remote, local = (cls(**kwargs, distributed_available_fn=lambda: True) for _ in range(3))
    pieces = parts(batch, 5)
    local.update(**pieces[0])
    remote.update(**pieces[1])
    whole.distributed_available_fn = lambda: False
    whole.update(**batch)
    results = ["compute", "compute_per_group"] + ["compute_per_joint"] * (name != "MRPE")
    for result in results:
        local.dist_sync_fn = gather_with(remote)
        torch.testing.assert_close(getattr(local, result)(), getattr(whole, result)(), equal_nan=True, msg=result)
        assert not local._is_synced
    local.update(**pieces[1])  # its own share again, not the pooled one
    local.distributed_available_fn = lambda: False
    torch.testing.assert_close(local.compute(), whole.compute())


def test_velocity_with_a_process_without_samples(batch: dict[str, Tensor]) -> None:
    del batch["group"]
    ids = {"sequence": torch.zeros(N, dtype=torch.int64), "frame": torch.arange(N)}
    full, empty = MPJVE(), MPJVE(distributed_available_fn=lambda: True)
    full.update(**batch, **ids)
    empty.dist_sync_fn = gather_with(full)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics: compute before update
        torch.testing.assert_close(empty.compute(), full.compute())


def test_velocity_in_any_order_with_duplicates(batch: dict[str, Tensor]) -> None:
    sequence = torch.tensor([7] * 10 + [3] * 13)
    frame = torch.cat([torch.arange(10), torch.arange(100, 113)])
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    order = torch.cat([order, order[:5]])
    del batch["group"]
    metric = MPJVE(num_groups=2, num_joints=J)
    for rows in order.split(4):
        metric.update(
            **{key: value[rows] for key, value in batch.items()},
            group=(sequence[rows] == 3).long(),
            sequence=sequence[rows],
            frame=frame[rows],
        )

    first, second = (
        F.velocity_errors(
            **{key: value[rows].double() if value.is_floating_point() else value[rows] for key, value in batch.items()}
        )
        for rows in (slice(0, 10), slice(10, N))
    )
    pooled = F.PerJoint(torch.cat([first.value, second.value]), torch.cat([first.valid, second.valid]))
    torch.testing.assert_close(metric.compute(), pooled.mean())
    torch.testing.assert_close(metric.compute_per_group(), torch.stack([first.mean(), second.mean()]))
    torch.testing.assert_close(metric.compute_per_joint(), pooled.value.sum(0) / pooled.valid.sum(0))


def test_velocity_skips_gaps(batch: dict[str, Tensor]) -> None:
    pred, target = batch["target"] + 10, batch["target"].clone()
    pred[3:] += 5.0
    sequence, frame = torch.zeros(N, dtype=torch.int64), torch.arange(N)
    frame[3:] += 1  # a lost frame, just where the error jumps
    metric = MPJVE()
    metric.update(pred, target, sequence=sequence, frame=frame)
    assert metric.compute() < 1e-3
    every_fifth = MPJVE(frame_step=5)
    every_fifth.update(pred, target, sequence=sequence, frame=5 * torch.arange(N))
    assert every_fifth.compute().item() == pytest.approx(5 * 3**0.5 / (N - 1), rel=1e-4)
    every_fifth.reset()
    every_fifth.update(pred, target, sequence=sequence, frame=torch.arange(N))
    assert every_fifth.compute().isnan()


def test_velocity_merges_and_resets(batch: dict[str, Tensor]) -> None:
    del batch["group"]
    batch |= {"sequence": torch.zeros(N, dtype=torch.int64), "frame": torch.arange(N)}
    whole, first, second = MPJVE(), MPJVE(), MPJVE()
    whole.update(**batch)
    for metric, piece in zip((first, second), parts(batch, 11), strict=True):
        metric.update(**piece)
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute())
    whole.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert whole.compute().isnan()
    with pytest.raises(ValueError, match="has seen 6 joints a pose, got 5"):
        first.update(batch["pred"][:, 1:], batch["target"][:, 1:], sequence=batch["sequence"], frame=batch["frame"])


@pytest.mark.shared_data
@pytest.mark.parametrize("case", ["rand", "pck17", "sequence", "mask_random", "nan_absent", "few_valid"])
def test_golden(case: str, golden: Any) -> None:
    data = golden("metrics")
    pred, target = (torch.from_numpy(data[f"{case}.{key}"]) for key in ("pred", "gt"))
    valid = torch.from_numpy(data[f"{case}.mask"]) if f"{case}.mask" in data else None
    root = int(data[f"{case}.root"])
    metrics: dict[str, Any] = {
        "mpjpe_rootrel.mmpose": MPJPE(root),
        "mpjpe_abs.mmpose": AbsMPJPE(),
        "n_mpjpe_rootrel_masked_scale.def": NMPJPE(root),
        "p_mpjpe_masked_align.posepile": PAMPJPE(),
        "p_mpjpe_noscale_masked_align.posepile": PAMPJPE(scale=False),
        "p_mpjpe_reflect_allowed_masked_align.posepile": PAMPJPE(reflection=True),
        "pck150_lt_rootrel.posepile": PCK3D(root),
        "apck100_lt_abs.posepile": PCK3D(root=None, threshold=100),
        "auc31_0_150_rootrel.posepile": AUC3D(root),
        "auc40_0_195_rootrel.ddddwee": AUC3D(root, thresholds=range(0, 200, 5)),
    }
    for key, metric in metrics.items():
        for rows in torch.arange(len(pred)).split(2):
            metric.update(pred[rows], target[rows], None if valid is None else valid[rows])
        np.testing.assert_allclose(metric.compute(), data[f"{case}.exp.{key}"], atol=1e-6, rtol=1e-6, err_msg=key)
    score = PCK3D(root=None)
    score.update(procrustes(pred, target, valid), target, valid)
    np.testing.assert_allclose(score.compute(), data[f"{case}.exp.pck150_lt_pa.posepile"], atol=1e-6)
    if f"{case}.exp.mpjve_abs.videopose3d" in data:
        velocity, frame = MPJVE(), torch.arange(len(pred))
        velocity.update(pred, target, sequence=torch.zeros_like(frame), frame=frame)
        np.testing.assert_allclose(velocity.compute(), data[f"{case}.exp.mpjve_abs.videopose3d"], atol=1e-5)


def test_collection_keeps_metrics_apart(batch: dict[str, Tensor]) -> None:
    metrics = MetricCollection(
        {name: make(name) for name in PAIRS} | {"MPJVE": MPJVE(num_groups=GROUPS)}, compute_groups=False
    )
    pose = batch["target"]
    metrics.update(
        pred=pose,
        target=pose,
        group=batch["group"],
        sequence=torch.zeros(N, dtype=torch.int64),
        frame=torch.arange(N),
    )
    assert metrics.compute() == pytest.approx(
        dict.fromkeys(metrics, 0.0) | {"PCK3D": 100, "AUC3D": 100 * 30 / 31}, abs=1e-3
    )


def test_forward_gives_the_batch_value_and_keeps_the_total(batch: dict[str, Tensor]) -> None:
    del batch["group"]
    metric = MPJPE()
    for rows in (slice(0, 5), slice(5, N)):
        piece = {key: value[rows] for key, value in batch.items()}
        torch.testing.assert_close(metric(**piece), F.mpjpe(**piece), check_dtype=False)
    torch.testing.assert_close(metric.compute(), F.mpjpe(**batch), check_dtype=False)


def test_sums_stay_float64_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for metric in (MPJPE().half(), MPJPE().float(), MPJPE().to(torch.bfloat16)):
        metric.update(torch.ones(1, 2, 3), torch.zeros(1, 2, 3))
        assert metric.total.dtype == torch.float64
    monkeypatch.setattr(modular, "_WITHOUT_FLOAT64", {"meta"})  # as for MPS
    moved = MPJPE().to("meta")
    assert (moved.total.dtype, moved.count.dtype) == (torch.float32, torch.int64)
    assert moved._defaults["total"].dtype == torch.float32
    moved.update(torch.ones(1, 2, 3, device="meta"), torch.zeros(1, 2, 3, device="meta"))
    assert moved.total.dtype == torch.float32


def test_a_million_samples_do_not_drift() -> None:
    metric = AbsMPJPE()
    pred, target = torch.full((10_000, 1, 3), 0.1), torch.zeros(10_000, 1, 3)
    for _ in range(100):
        metric.update(pred, target)
    assert metric.compute().item() == pytest.approx(torch.tensor([0.1] * 3).norm().item(), rel=1e-9)


def test_mistakes_are_one_sentence(batch: dict[str, Tensor]) -> None:
    pred, target, group = batch["target"], batch["target"], batch["group"]
    with pytest.raises(ValueError, match="num_groups=None but was updated with group ids"):
        MPJPE().update(pred, target, group=group)
    with pytest.raises(ValueError, match="num_groups=4 but was updated without group ids"):
        MPJPE(num_groups=4).update(pred, target)
    with pytest.raises(ValueError, match=r"group ids must be in 0\.\.1, got \[0, 1, 2\]"):
        MPJPE(num_groups=2).update(pred, target, group=group)
    with pytest.raises(ValueError, match=r"group must be int64 \[N\]"):
        MPJPE(num_groups=4).update(pred, target, group=group[:3])
    with pytest.raises(ValueError, match="was made for 17 joints, got 6"):
        MPJPE(num_joints=17).update(pred, target)
    with pytest.raises(ValueError, match="construct it with num_joints"):
        MPJPE().compute_per_joint()
    with pytest.raises(ValueError, match="construct it with num_groups"):
        MPJPE().compute_per_group()
    with pytest.raises(ValueError, match=r"frame must be int64 \[N\]"):
        MPJVE().update(pred, target, sequence=group, frame=group.float())
    with pytest.raises(AttributeError, match="no attribute 'PCKH'"):
        posezoo.metrics.PCKH  # noqa: B018


def test_exports() -> None:
    assert set(posezoo.metrics.__all__) == {*PAIRS, "MPJVE"}
    assert set(posezoo.metrics.__all__) <= set(dir(posezoo.metrics))
    for name in posezoo.metrics.__all__:
        metric = getattr(posezoo.metrics, name)()
        assert metric.higher_is_better == (name in ("PCK3D", "AUC3D"))
        assert metric.is_differentiable != metric.higher_is_better
