"""A fit that is killed goes on with the same batches and losses; a checkpoint is never half a file."""

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from run_recorder import records
from tests_cli_helpers import log_to, tiny

from posezoo.__main__ import main
from posezoo.callbacks import AtomicCheckpointIO
from posezoo.data import SyntheticPeople
from posezoo.errors import PoseZooError

STEPS = 15
AGAIN = ["--ckpt_path=last"]


def arguments(folder: Path, name: str, workers: int = 0, devices: int = 1, every: int = 2) -> list[str]:
    """Fifteen steps in epochs of six (three on each of two ranks), a checkpoint every second step, EMA, OneCycle."""
    options = [word for word in tiny(devices=devices) if not word.startswith(("--data.train_length", "--data.num_w"))]
    return [
        "fit",
        *options,
        "--data.train_length=26",
        f"--data.num_workers={workers}",
        "--data.augmentation={}",
        "--model.optimizer=AdamW",
        "--model.lr_scheduler=OneCycleLR",
        "--model.lr_scheduler.max_lr=0.003",
        f"--model.lr_scheduler.total_steps={STEPS}",
        "--trainer.deterministic=true",
        f"--trainer.max_steps={STEPS}",
        "--trainer.callbacks+=EMA",
        "--trainer.callbacks+=LastCheckpoint",
        f"--trainer.callbacks.every_n_steps={every}",
        "--trainer.callbacks+=run_recorder.Recorder",
        f"--trainer.callbacks.path={folder / 'record'}",
        *log_to(folder, name)[:2],
    ]


def start(folder: Path, args: list[str], start_method: str = "fork") -> "subprocess.Popen[bytes]":
    """A run in a process group of its own."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),
        "START_METHOD": start_method,
        "POSEZOO_SHARED": "",
    }
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "posezoo", *args],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def kill_at(
    run: "subprocess.Popen[bytes]", folder: Path, step: int, delay: float = 0.0, how: int = signal.SIGKILL
) -> None:
    """Send a signal to the whole group once `step` has been made."""
    deadline = time.monotonic() + 240
    while not any(line["step"] >= step for line in records(folder / "record")):
        assert run.poll() is None, (folder / "output.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    os.killpg(run.pid, how)
    run.wait()


def curves(folder: Path, rank: int = 0) -> tuple[dict[int, set[str]], dict[int, set[str]]]:
    """Everything ever recorded about each training step, and about each validation."""
    training: dict[int, set[str]] = {}
    validation: dict[int, set[str]] = {}
    for line in records(folder / "record", rank):
        kind = validation if "mpjpe" in line else training
        kind.setdefault(line["step"], set()).add(json.dumps(line))
    return training, validation


def saved_step(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert not main(arguments(folder, "whole"))
    training, validation = curves(folder)
    assert sorted(training) == list(range(1, STEPS + 1))
    assert sorted(validation) == [6, 12]
    return folder


def test_killed_twice_and_resumed_it_is_the_same_run(whole: Path, tmp_path: Path) -> None:
    """SIGKILL in the first epoch and in the third; each life with another number of loader processes."""
    kill_at(start(tmp_path, arguments(tmp_path, "run", workers=1)), tmp_path, 5)
    kill_at(start(tmp_path, arguments(tmp_path, "run", workers=2) + AGAIN), tmp_path, 11, delay=0.01)
    assert not main(arguments(tmp_path, "run") + AGAIN)

    assert curves(tmp_path) == curves(whole)  # a step made twice was the same both times, else its set has two members
    assert len(records(tmp_path / "record")) > STEPS + 2  # some steps were made twice
    ours, theirs = (sorted(f.glob("**/last.ckpt"), key=os.path.getmtime)[-1] for f in (tmp_path, whole))
    assert_same(torch.load(ours, weights_only=True), torch.load(theirs, weights_only=True))
    assert logged(tmp_path)[-3:] == logged(whole)[-3:]
    kept = {row["step"] for path in tmp_path.glob("**/metrics.csv") for row in csv.DictReader(path.open())}
    assert len(kept) >= STEPS - 2  # all but the row that Lightning writes after a save, once a kill


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Weights, average, optimiser and schedule to the last bit."""
    for key in ("state_dict", "current_model_state"):
        for name, tensor in theirs[key].items():
            assert torch.equal(ours[key][name], tensor), name
    assert ours["averaging_state"]["n_averaged"] == STEPS
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    for number, state in theirs["optimizer_states"][0]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(ours["optimizer_states"][0]["state"][number][name], tensor), name


def logged(folder: Path) -> list[tuple[str, str]]:
    """(step, loss) of the newest metrics.csv: the logger's steps go on, too."""
    newest = sorted(folder.glob("**/metrics.csv"), key=os.path.getmtime)[-1]
    rows = list(csv.DictReader(newest.open()))
    return [(row["step"], row["train/loss"]) for row in rows if row["train/loss"]]


@pytest.mark.parametrize(
    ("second", "options"),
    [
        ("crash_in_validation=6", ["--trainer.max_steps=-1", "--trainer.max_epochs=2"]),
        ("crash_at=10", ["--trainer.val_check_interval=4", "--trainer.check_val_every_n_epoch=null", "every=0"]),
        ("crash_in_validation=6", ["--trainer.accumulate_grad_batches=2", "--trainer.max_steps=7"]),
        ("crash_at=10", ["--trainer.limit_val_batches=0", "--trainer.precision=bf16-mixed"]),
    ],
    ids=["epochs", "saved with validations only", "accumulated", "no validation, bf16"],
)
def test_broken_down_twice_and_resumed_it_is_the_same_run(second: str, options: list[str], tmp_path: Path) -> None:
    """In one process, so that more kinds of run are covered: crashes within a step and within a validation."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    every = [word for word in options if word == "every=0"]
    options = [word for word in options if word not in every]

    def args(folder: Path, *more: str) -> list[str]:
        words = arguments(folder, "run", every=0 if every else 2)
        return [*words[:-2], *more, *words[-2:], *options]

    assert not main(args(calm))
    for crash, again in (("crash_at=5", []), (second, AGAIN)):
        with pytest.raises(RuntimeError, match="crash"):
            main(args(rough, f"--trainer.callbacks.{crash}") + again)
    assert not main(args(rough) + AGAIN)
    assert curves(rough) == curves(calm)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("workers", "method", "ranks"),
    [(0, "fork", 1), (1, "fork", 1), (2, "spawn", 1), (1, "spawn", 2), (2, "fork", 2)],
)
def test_killed_many_times(workers: int, method: str, ranks: int, tmp_path: Path) -> None:
    """Four kills each, twenty in all, at moments drawn by chance."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    assert start(calm, arguments(calm, "run", 0, ranks), method).wait() == 0, (calm / "output.txt").read_text()[-3000:]
    draw = random.Random(workers * 10 + ranks)
    for step in (2, 5, 8, 12):
        again = AGAIN if list(rough.glob("**/last.ckpt")) else []
        run = start(rough, arguments(rough, "run", workers, ranks) + again, method)
        kill_at(run, rough, step + draw.randrange(2), draw.uniform(0, 0.05))
    assert start(rough, arguments(rough, "run", workers, ranks) + AGAIN, method).wait() == 0
    for rank in range(ranks):
        assert curves(rough, rank) == curves(calm, rank)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_its_step_and_says_how_to_go_on(how: int, tmp_path: Path) -> None:
    run = start(tmp_path, arguments(tmp_path, "run", workers=1, every=0))
    kill_at(run, tmp_path, 3, how=how)

    text = (tmp_path / "output.txt").read_text()
    assert run.returncode == (1 if how == signal.SIGINT else 128 + how)
    assert "Traceback" not in text
    (last,) = tmp_path.glob("**/last.ckpt")
    assert saved_step(last) == records(tmp_path / "record")[-1]["step"]
    config = last.parent.parent / "config.yaml"
    assert f"posezoo fit -c {config} --ckpt_path {last}" in text


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_two_ranks_stop_at_the_same_step(how: int, tmp_path: Path) -> None:
    run = start(tmp_path, arguments(tmp_path, "run", workers=1, devices=2, every=0))
    kill_at(run, tmp_path, 4, how=how)

    (last,) = tmp_path.glob("**/last.ckpt")
    stopped = saved_step(last)
    assert 4 <= stopped < STEPS  # ranks ask each other after every validation and every ten steps
    assert [records(tmp_path / "record", rank)[-1]["step"] for rank in range(2)] == [stopped, stopped]
    assert f"--ckpt_path {last}" in (tmp_path / "output.txt").read_text()


def test_last_is_found_or_missed_in_one_sentence(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny(), f"--trainer.logger.save_dir={tmp_path / 'none'}", *AGAIN]) == 2
    message = capsys.readouterr().err
    assert "there is no checkpoints/last.ckpt below" in message
    assert message.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["test", f"--trainer.logger.save_dir={whole}", *AGAIN, "--print_config"])
    assert "last.ckpt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("--trainer.max_steps=20", "OneCycleLR ends after 15 steps, but the run makes 20: a resumed run keeps"),
        ("--trainer.max_steps=-1", "OneCycleLR ends after 15 steps, but the run has no end: a resumed run keeps"),
        ("--data.batch_size=2", "4 samples a batch on 1 process, but this run has 2 on 1"),
    ],
)
def test_a_resume_that_would_be_another_run_is_refused(
    change: str, expected: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (last,) = whole.glob("**/last.ckpt")
    before = last.read_bytes()
    words = [word for word in arguments(tmp_path, "more") if not word.startswith(change.partition("=")[0])]
    capsys.readouterr()
    assert main([*words, change, "--trainer.max_epochs=-1", f"--ckpt_path={last}"]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1
    assert last.read_bytes() == before


def test_a_schedule_shorter_than_the_run_is_refused_at_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(tmp_path, "run"), "--trainer.max_steps=16"]) == 2
    assert "but the run makes 16: set --model.lr_scheduler.total_steps" in capsys.readouterr().err
    assert not records(tmp_path / "record")


def test_other_numbers_of_processes_make_other_batches() -> None:
    data = SyntheticPeople(preset="easy", frame_size=64, train_length=8, batch_size=2, num_workers=0, image_size=64)
    loader = data.train_dataloader()
    state = loader.state_dict()  # type: ignore[attr-defined]
    loader.load_state_dict(state)  # type: ignore[attr-defined]
    loader.load_state_dict({"epoch": 0, "start": 2})  # type: ignore[attr-defined]  # of an older checkpoint
    with pytest.raises(PoseZooError, match="2 samples a batch on 4 processes, but this run has 2 on 1"):
        loader.load_state_dict(state | {"processes": 4})  # type: ignore[attr-defined]


def test_the_score_to_beat_survives_a_resume_into_another_folder(tmp_path: Path) -> None:
    assert not main(["fit", *tiny(), "--trainer.max_steps=2", *log_to(tmp_path, "one")])
    last = tmp_path / "one" / "checkpoints" / "last.ckpt"
    assert not main(["fit", *tiny(), "--trainer.max_steps=3", f"--ckpt_path={last}", *log_to(tmp_path, "two")])
    state = torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (found,) = (value for value in state.values() if "best_model_path" in value)
    assert Path(found["best_model_path"]).parent == last.parent
    assert Path(found["best_model_path"]).exists()


def test_the_metrics_of_an_earlier_run_in_the_folder_are_kept(tmp_path: Path) -> None:
    for _ in range(2):
        assert not main(["fit", *tiny(), "--trainer.max_steps=1", *log_to(tmp_path, "same")])
    assert (tmp_path / "same" / "metrics_1.csv").read_text() == (tmp_path / "same" / "metrics.csv").read_text()


# ---------------------------------------------------------------------------------------------- atomic writes


class FullDisk:
    """A file object whose disk fills up after 1000 bytes."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 1000

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_a_full_disk_costs_one_sentence_and_not_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"state": torch.zeros(10_000)}, target)
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: FullDisk(opened(self, *mode)))
    with pytest.raises(PoseZooError, match=r"last.ckpt \(No space left on device\)"):
        io.save_checkpoint({"state": torch.ones(10_000)}, target)
    monkeypatch.undo()
    assert not torch.load(target, weights_only=True)["state"].any()
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_size_limit_of_the_system_is_the_same(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a process of its own: the write itself fails, not our imitation of it."""
    script = """
import resource, signal, sys, torch
from pathlib import Path
from posezoo.callbacks.checkpoints import AtomicCheckpointIO
target = Path(sys.argv[1])
AtomicCheckpointIO().save_checkpoint({"state": torch.zeros(10)}, target)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
AtomicCheckpointIO().save_checkpoint({"state": torch.ones(100_000)}, target)
"""
    target = tmp_path / "last.ckpt"
    run = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=False)
    assert "PoseZooError: cannot write the checkpoint" in run.stderr
    assert not torch.load(target, weights_only=True)["state"].any()
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_kill_while_saving_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves behind is what is on disk at any call before the rename; the next save clears it away."""
    target, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, target)

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(Killed):
        io.save_checkpoint({"step": 2}, target)
    assert torch.load(target, weights_only=True) == {"step": 1}
    monkeypatch.undo()
    io.save_checkpoint({"step": 3}, target)
    assert torch.load(target, weights_only=True) == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
