"""EMA: the average is what is scored, saved and left after a fit; the raw weights are what trains."""

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tests_cli_helpers import log_to, tiny

from posezoo.__main__ import main
from posezoo.callbacks import EMA, BestCheckpoint, LastCheckpoint, PoseMetrics
from posezoo.data import SyntheticPeople
from posezoo.data.crop import Augmentation
from posezoo.errors import PoseZooError
from posezoo.models import MeTRAbs
from posezoo.models.base import load_estimator

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice about workers and loggers

State = dict[str, torch.Tensor]


class Diary(pl.Callback):
    """Raw weights after every step, and the weights that were validated."""

    def __init__(self) -> None:
        self.raw: list[State] = []
        self.scored: list[State] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.raw.append(copy.deepcopy(pl_module.state_dict()))

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.scored.append(copy.deepcopy(pl_module.state_dict()))


def model() -> MeTRAbs:
    pl.seed_everything(0, verbose=False)
    adam = lambda parameters: torch.optim.AdamW(parameters, lr=3e-3)  # noqa: E731  # large steps: raw and average differ
    return MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16, optimizer=adam)


def data() -> SyntheticPeople:
    lengths = {"train_length": 8, "val_length": 4, "test_length": 4}
    return SyntheticPeople(
        preset="easy", frame_size=64, batch_size=4, num_workers=0, image_size=64, augmentation=Augmentation(), **lengths
    )


def trainer(folder: Path, steps: int, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[PoseMetrics(baseline=False, table=False), BestCheckpoint(), LastCheckpoint(), *callbacks],
    )


def expected(initial: State, raw: list[State], decay: float) -> State:
    """The recursion by hand, in float64; whole numbers are those of the last step."""
    average = {name: tensor.double() for name, tensor in initial.items()}
    for number, state in enumerate(raw):
        d = min(decay, (1 + number) / (10 + number))
        average = {name: d * average[name] + (1 - d) * state[name].double() for name in average}
    return {name: average[name].float() if tensor.is_floating_point() else tensor for name, tensor in raw[-1].items()}


def assert_close(ours: State, theirs: State) -> None:
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name].float(), tensor.float(), rtol=1e-4, atol=1e-6), name


def differ(ours: State, theirs: State) -> bool:
    return any(not torch.allclose(ours[k].float(), theirs[k].float(), rtol=1e-3, atol=1e-5) for k in ours)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four steps, validated after two and four."""
    folder, diary, ema = tmp_path_factory.mktemp("ema"), Diary(), EMA(decay=0.5)
    estimator = model()
    initial = copy.deepcopy(estimator.state_dict())
    run = trainer(folder, 4, diary, ema)
    run.fit(estimator, data())
    return {"folder": folder, "diary": diary, "initial": initial, "model": estimator, "trainer": run}


def test_the_average_is_validated_and_raw_weights_train_on(fitted: dict[str, Any]) -> None:
    diary, initial = fitted["diary"], fitted["initial"]
    assert_close(diary.scored[0], expected(initial, diary.raw[:2], 0.5))
    assert_close(diary.scored[1], expected(initial, diary.raw, 0.5))
    assert differ(diary.scored[1], diary.raw[-1])
    plain = Diary()
    trainer(fitted["folder"] / "plain", 4, plain).fit(model(), data())
    for with_ema, without in zip(diary.raw, plain.raw, strict=True):
        assert all(torch.equal(with_ema[name], without[name]) for name in without)


def test_whole_numbers_are_copied(fitted: dict[str, Any]) -> None:
    """An averaged step counter would stand still, and MeTRAbs would never leave weak perspective."""
    assert int(fitted["model"].steps_trained) == 4
    checkpoint = torch.load(fitted["folder"] / "checkpoints" / "last.ckpt", weights_only=True)
    assert int(checkpoint["state_dict"]["steps_trained"]) == 4


def test_a_checkpoint_alone_holds_the_average(fitted: dict[str, Any]) -> None:
    path = fitted["folder"] / "checkpoints" / "last.ckpt"
    assert_close(load_estimator(path).state_dict(), fitted["diary"].scored[-1])
    assert_close(torch.load(path, weights_only=True)["current_model_state"], fitted["diary"].raw[-1])


def test_every_way_of_scoring_scores_the_average(fitted: dict[str, Any]) -> None:
    """In the trainer of the fit and in a new one, with and without a path: Lightning's own fails the third."""
    path = fitted["folder"] / "checkpoints" / "last.ckpt"
    validated = float(fitted["trainer"].callback_metrics["val/mpjpe"])
    old, new = fitted["trainer"], trainer(fitted["folder"], 4, EMA())

    assert_close(fitted["model"].state_dict(), fitted["diary"].scored[-1])
    scores = [old.validate(fitted["model"], data(), verbose=False)]
    assert_close(fitted["model"].state_dict(), fitted["diary"].scored[-1])
    scores += [old.validate(fitted["model"], data(), ckpt_path=path, weights_only=True, verbose=False)]
    scores += [new.validate(model(), data(), ckpt_path=path, weights_only=True, verbose=False)]
    scores += [trainer(fitted["folder"], 4).validate(load_estimator(path), data(), verbose=False)]
    assert [score[0]["val/mpjpe"] for score in scores] == pytest.approx([validated] * 4, abs=1e-4)

    tests = [old.test(fitted["model"], data(), verbose=False)]
    tests += [old.test(fitted["model"], data(), ckpt_path=path, weights_only=True, verbose=False)]
    tests += [new.test(model(), data(), ckpt_path=path, weights_only=True, verbose=False)]
    first = tests[0][0]["test/mpjpe"]
    assert [test[0]["test/mpjpe"] for test in tests] == pytest.approx([first] * 3, abs=1e-4)
    raw = model()
    raw.load_state_dict(fitted["diary"].raw[-1])
    (score,) = trainer(fitted["folder"], 4).test(raw, data(), verbose=False)
    assert score["test/mpjpe"] != pytest.approx(first, abs=0.01)


def test_resuming_goes_on_with_both(fitted: dict[str, Any], tmp_path: Path) -> None:
    diary = Diary()
    trainer(tmp_path / "half", 2, EMA(decay=0.5)).fit(model(), data())
    run = trainer(tmp_path / "rest", 4, diary, EMA(decay=0.5))
    run.fit(model(), data(), ckpt_path=tmp_path / "half" / "checkpoints" / "last.ckpt", weights_only=True)

    for ours, theirs in zip(diary.raw, fitted["diary"].raw[2:], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(diary.scored[-1][k], v) for k, v in fitted["diary"].scored[-1].items())


def test_it_can_be_switched_on_over_a_checkpoint_without_it(tmp_path: Path) -> None:
    trainer(tmp_path / "half", 2).fit(model(), data())
    path = tmp_path / "half" / "checkpoints" / "last.ckpt"
    diary = Diary()
    trainer(tmp_path / "rest", 4, diary, EMA(decay=0.5)).fit(model(), data(), ckpt_path=path, weights_only=True)
    start = torch.load(path, weights_only=True)["state_dict"]
    assert_close(diary.scored[-1], expected(start, diary.raw, 0.5))


def test_a_broken_off_validation_does_not_swap_the_two(tmp_path: Path) -> None:
    class Breaks(MeTRAbs):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("no power")

    pl.seed_everything(0, verbose=False)
    estimator = Breaks(backbone="resnet10_w8", image_size=64, stride=16)
    diary, run = Diary(), trainer(tmp_path, 4, EMA())
    run.callbacks.insert(0, diary)
    run.num_sanity_val_steps = 0
    with pytest.raises(RuntimeError, match="no power"):
        run.fit(estimator, data())
    assert all(torch.equal(estimator.state_dict()[name], tensor) for name, tensor in diary.raw[-1].items())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(PoseZooError, match=r"0\.999 is usual"):
        EMA(decay=decay)


def test_one_line_of_yaml_switches_it_on(tmp_path: Path) -> None:
    recipe = tmp_path / "ema.yaml"
    recipe.write_text("trainer:\n  callbacks: [EMA]\n")
    assert not main(["fit", "-c", str(recipe), *tiny(), "--trainer.max_steps=2", *log_to(tmp_path, "run")])
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert int(checkpoint["averaging_state"]["n_averaged"]) == 2
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert not main(["test", f"--ckpt_path={path}", *log_to(tmp_path, "test")])
