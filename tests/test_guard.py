"""Steps that are not finite change nothing; mixed precision does not reach geometry."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from posezoo.callbacks import NonFiniteGuard
from posezoo.data import SyntheticPeople
from posezoo.errors import PoseZooError
from posezoo.models import MeTRAbs
from posezoo.models.optimizers import fuse
from posezoo.structures import Batch, Prediction
from posezoo.testing import synthetic_batch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice about workers and loggers


class _BadGradient(torch.autograd.Function):
    """Identity with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.nan


class Faulty(MeTRAbs):
    """Goes wrong in chosen batches, in a chosen way, and keeps a diary."""

    def __init__(self, how: str, bad: range, fused: bool = False) -> None:
        adam = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)  # noqa: E731
        super().__init__(backbone="resnet10_w8", image_size=64, stride=16, optimizer=None if fused else adam)
        self.how, self.bad, self.number = how, bad, -1
        self.diary: list[dict[str, Tensor]] = []
        self.seen: list[list[int]] = []
        norm = next(m for m in self.modules() if isinstance(m, torch.nn.BatchNorm2d))
        norm.register_forward_pre_hook(self._poison)

    def _poison(self, module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] * torch.nan,) if self.how == "activations" and self.training and self._bad() else args

    def _bad(self) -> bool:
        return self.number in self.bad

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.number += 1
        self.seen.append(batch["index"].tolist())

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        terms = super().losses(prediction, batch)
        if self._bad() and self.how == "loss":
            terms["relative"] = terms["relative"] * torch.nan
        if self._bad() and self.how == "infinite constant":  # its gradients are finite
            terms["relative"] = terms["relative"] + torch.inf
        if self._bad() and self.how == "gradient":
            terms["relative"] = _BadGradient.apply(terms["relative"])
        return terms

    def on_train_batch_end(self, *_: Any) -> None:
        state = {k: v.clone() for k, v in self.state_dict().items() if k != "steps_trained"}
        moments = self.trainer.optimizers[0].state_dict()["state"]
        state |= {f"{n}.{k}": v.clone() for n, entry in moments.items() for k, v in entry.items()}
        self.diary.append(state)


def fit(
    folder: Path, how: str, bad: range, guard: NonFiniteGuard | None, steps: int = 5, fused: bool = False, **more: Any
) -> Faulty:
    pl.seed_everything(0, verbose=False)
    model = Faulty(how, bad, fused)
    data = SyntheticPeople(
        preset="easy", frame_size=64, batch_size=4, num_workers=0, image_size=64, train_length=20, val_length=1
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[guard] if guard else [],
        **more,
    )
    trainer.fit(model, data)
    return model


def finite(state: dict[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in state.values())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("how", ["loss", "gradient", "activations", "infinite constant"])
def test_a_bad_step_changes_nothing_and_is_counted(how: str, fused: bool, tmp_path: Path) -> None:
    guard = NonFiniteGuard()
    model = fit(tmp_path, how, range(2, 4), guard, fused=fused)
    assert bool(model.trainer.optimizers[0].param_groups[0]["fused"]) == fused
    assert not hasattr(model.trainer.optimizers[0], "found_inf")  # nothing is left behind

    before, bad, worse, after = model.diary[1:5]
    assert before.keys() == worse.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, bad[name]), name
        assert torch.equal(tensor, worse[name]), name
    assert finite(after)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert (guard.skipped, guard.in_a_row) == (2, 0)
    assert float(model.trainer.callback_metrics["train/skipped_steps"]) == 2
    assert model.trainer.global_step == 5  # schedules and counters go on


def test_without_it_one_bad_step_is_the_end(tmp_path: Path) -> None:
    assert not finite(fit(tmp_path, "loss", range(2, 3), None).diary[-1])


@pytest.mark.parametrize("fused", [False, True])
def test_good_steps_are_left_alone(fused: bool, tmp_path: Path) -> None:
    guarded, plain = (fit(tmp_path, "loss", range(0), guard, fused=fused) for guard in (NonFiniteGuard(), None))
    for ours, theirs in zip(guarded.diary, plain.diary, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_of_accumulated_batches_one_bad_one_spoils_the_step(tmp_path: Path) -> None:
    guard = NonFiniteGuard(max_in_a_row=1)
    with pytest.raises(PoseZooError, match="1 steps in a row"):
        fit(tmp_path, "activations", range(2, 3), guard, accumulate_grad_batches=2)
    assert len(json.loads((tmp_path / "nonfinite.json").read_text())["samples"]) == 8  # both batches of the step


def test_the_run_stops_and_names_the_last_bad_batch(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"3 steps in a row .* stopped at step 3.*nonfinite\.json") as stop:
        fit(tmp_path, "loss", range(1, 99), NonFiniteGuard(max_in_a_row=3), steps=9)
    assert "\n" not in str(stop.value)
    content = json.loads((tmp_path / "nonfinite.json").read_text())
    assert content["loss"] is None
    assert len(content["samples"]) == 4
    for sample in content["samples"]:
        assert sample["name"] == f"synthetic-v1/easy/train/{sample['index']}"
        assert sample["image_id"] == sample["index"]


def test_a_good_step_between_starts_the_count_again(tmp_path: Path) -> None:
    guard = NonFiniteGuard(max_in_a_row=2)
    fit(tmp_path, "loss", range(0, 9, 2), guard, steps=9)
    assert guard.skipped == 5


def test_the_counts_survive_a_resume() -> None:
    guard, other = NonFiniteGuard(), NonFiniteGuard()
    guard.load_state_dict({"skipped": 7, "in_a_row": 2})
    other.load_state_dict(copy.deepcopy(guard.state_dict()))
    assert (other.skipped, other.in_a_row) == (7, 2)
    with pytest.raises(PoseZooError, match="at least 1"):
        NonFiniteGuard(max_in_a_row=0)


def test_huge_but_finite_gradients_are_no_reason_to_skip(tmp_path: Path) -> None:
    """Their squares overflow float32, they do not."""
    guard = NonFiniteGuard()
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    parameter.grad = torch.tensor([1e25])
    optimizer = torch.optim.SGD([parameter], lr=1e-26)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    guard.on_before_optimizer_step(trainer, None, optimizer)
    assert guard.skipped == 0
    assert parameter.grad is not None


def test_a_fused_step_is_skipped_without_a_look_at_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a look is a wait; stood in for by tensors that say they are on one, at every point that asks."""
    guard = NonFiniteGuard(max_in_a_row=4)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    fuse(optimizer)
    trainer = type("Trainer", (), {"world_size": 1, "global_rank": 0, "global_step": 3})()

    def refuse(*_: Any) -> Any:
        raise AssertionError("the step looked at a number")

    monkeypatch.setattr("posezoo.callbacks.guard._on_cpu", lambda _: False)
    for gradient in (1.0, torch.nan, torch.inf):
        before = weight.detach().clone()
        weight.grad = torch.full_like(weight, gradient)
        with monkeypatch.context() as blind:
            for name in ("__bool__", "__int__", "__float__", "item", "tolist"):
                blind.setattr(Tensor, name, refuse)
            guard.on_before_optimizer_step(trainer, None, optimizer)
        optimizer.step()
        assert torch.equal(weight, before) == (gradient != 1)
    assert (guard.skipped, guard.in_a_row) == (2, 2)


# ------------------------------------------------------------------------------------------ mixed precision


@pytest.mark.parametrize("profile", ["paper", "modern"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_from_the_same_logits_losses_are_those_of_float32(profile: Any, dtype: torch.dtype) -> None:
    """Only convolutions run in half precision: decoding, reconstruction, projection and losses do not."""
    pl.seed_everything(0, verbose=False)
    model = MeTRAbs(
        backbone="resnet10_w8", image_size=64, stride=16, profile=profile, weak_steps=0, absolute_start=-1
    ).train()
    batch = synthetic_batch(4)
    batch["joints3d"][..., 2] += 3000  # further away, where half precision is off by centimetres
    logits = 5 * torch.randn(4, 17 * 9, 4, 4).to(dtype)
    model.network.head = Constant(logits)
    model.network.backbone.forward = lambda image: image  # type: ignore[method-assign]

    def losses() -> dict[str, float]:
        torch.manual_seed(1)
        logged: dict[str, float] = {}
        model.log_dict = lambda values, **_: logged.update({k: float(v) for k, v in values.items()})
        model.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[assignment]
        model.training_step(batch, 0)
        return logged

    full = losses()
    with torch.autocast("cpu", dtype=dtype):
        assert (torch.eye(2) @ torch.eye(2)).dtype == dtype  # the context is at work
        half = losses()
    assert half == pytest.approx(full, rel=1e-6)
    assert all(value > 0 for key, value in full.items() if "weak" not in key)


class Constant(torch.nn.Module):
    """Always the same output."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value.clone().requires_grad_()

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def test_bf16_training_runs_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    model = fit(tmp_path, "loss", range(1, 2), NonFiniteGuard(), precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert finite(model.diary[-1])
