"""The harness with toy contenders; and every registered case computes what its float64 oracle says."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import cases, core, report
from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, Wrong, checked, find_cases, known_cases
from benchmarks.core import Apart, Timing, environment, interleave, peak_extra_mb
from benchmarks.report import Row, as_json, environment_line, environment_lines, markdown, run_case

# Import Lightning and half of everything in a fresh process, or export a network.
METHODS = ("hemlets", "integralpose", "metrabs", "rootnet", "partaware", "partawaresearch")
SLOW = (
    "start_up/fit-help",
    "pipeline/cold",
    *(f"train_step/{method}-batch-8" for method in METHODS),  # as timed
    *(f"inference/effnetv2s-{runtime}-batch-{n}" for runtime in ("onnxruntime", "openvino") for n in (1, 8)),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Clock:
    """Time that passes only in the contenders."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, *seconds: float) -> Callable[[], None]:
        turns = itertools.cycle(seconds)

        def call() -> None:
            self.now += next(turns)

        return call


def test_contenders_take_turns_in_random_order() -> None:
    seen: list[str] = []
    clock = Clock()

    def call(name: str) -> Callable[[], None]:
        spend = clock.spend(2.0)
        return lambda: (seen.append(name), spend())[1]

    interleave({name: call(name) for name in "abc"}, rounds=20, clock=clock)
    timed = seen[3:]
    rounds = [tuple(timed[at : at + 3]) for at in range(0, len(timed), 3)]
    assert len(rounds) == 20
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 1


def test_ratios_are_those_of_each_round() -> None:
    timing = Timing({"slow": [4.0, 40.0, 9.0], "fast": [2.0, 10.0, 3.0]})
    assert timing.ratio("slow", "fast") == (3.0, 2.0, 4.0)  # the ratio of the medians is 3 too, of the means 3.5
    assert timing.median("slow") == 9.0


def test_fast_calls_are_repeated_for_the_clock() -> None:
    clock = Clock()
    calls = []
    spend = clock.spend(1e-3)
    timing = interleave({"a": lambda: (calls.append(1), spend())[1]}, rounds=2, clock=clock)
    assert len(calls) == 2 + 2 * 20
    assert timing.median("a") == pytest.approx(1e-3)


def test_peak_counts_what_a_call_holds_at_once() -> None:
    assert peak_extra_mb(partial, (bytearray, 1), (bytearray, 48 * 2**20)) == pytest.approx(48, abs=2)


def nap(seconds: float) -> Callable[[], None]:
    """For another process: sleeps, where the C library's variables are as they should be."""
    assert not [name for name in os.environ if name.startswith("MALLOC_")]
    print("chatter")
    return lambda: time.sleep(seconds)


def test_a_contender_apart_is_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    call = Apart(nap, (0.05,), threads=2, keep_heap=True)
    assert 0.05 <= call.seconds(2) < 0.5  # not the seconds in which the process started
    timing = interleave({"asleep": call}, rounds=2)
    assert timing.median("asleep") >= 0.05
    call.close()


def test_a_contender_apart_that_fails_is_an_error() -> None:
    call = Apart(partial, (int, "no number"), threads=1, keep_heap=False)
    with pytest.raises(RuntimeError, match="process ended"):
        call.seconds(1)


@pytest.mark.parametrize("rate", [1e-3, 1e9])
def test_targets_above_the_ceiling_are_said_to_be_out_of_reach(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "product_rate", lambda _: rate)

    def make(quick: bool) -> Bench:
        bench = toy(quick)
        return Bench(bench.calls, bench.errors, bench.tolerance, flops=lambda: 1e9)

    row, _ = run_case(Case("toy", make, {}, (Target("speed", 1e3),)), quick=False, rounds=1)
    assert row.ceiling is not None
    assert row.reference is not None
    assert row.ceiling == pytest.approx(row.reference * rate / 1e3)
    assert (row.met, row.out_of_reach) == (False, row.ceiling < 1e3)
    assert f"at most {row.ceiling:.2f}x" in markdown([row])
    assert ("out of this processor's reach" in report.summary([row], [])) == (row.ceiling < 1e3)


def toy(quick: bool, ours: float = 0.1, seconds: float = 0.0) -> Bench:
    calls = {REFERENCE: lambda: sum(range(20_000)), OURS: lambda: sum(range(1000))}
    return Bench(calls, lambda: {REFERENCE: 0.2, OURS: ours}, {REFERENCE: 0.5, OURS: 0.5}, items=1000)


def test_more_threads_are_timed_on_the_wall_and_not_weighed() -> None:
    def sleepy(quick: bool) -> Bench:
        calls = {REFERENCE: lambda: time.sleep(0.06), OURS: lambda: time.sleep(0.03)}
        return Bench(calls, lambda: dict.fromkeys(calls, 0.0), dict.fromkeys(calls, 1.0))

    case = Case("toy", sleepy, {}, (Target("speed", 1.5),), memory=True)
    row, *errors = run_case(case, quick=False, rounds=3, threads=2)
    assert row.posezoo >= 30, "asleep, it has used no CPU time"
    assert row.met
    assert {row.measure for row in errors} == {"error"}


@pytest.mark.parametrize(("limit", "met"), [(1.5, True), (1e6, False)])
def test_speed_targets_are_judged_honestly(limit: float, met: bool) -> None:
    row, error = run_case(Case("toy", toy, {}, (Target("speed", limit),), "mm"), quick=False, rounds=2)
    assert (row.measure, row.met) == ("time", met)
    assert row.ratio is not None
    assert row.ratio_range is not None
    assert row.ratio_range[0] <= row.ratio <= row.ratio_range[1]
    assert (error.reference, error.posezoo, error.met) == (0.2, 0.1, None)
    assert ("**no**" in markdown([row])) != met


def test_small_inputs_are_not_judged_on_speed() -> None:
    targets = (Target("speed", 1e6), Target("error", 0.05))
    row, error = run_case(Case("toy", toy, {}, targets), quick=True, rounds=1)
    assert row.met is None
    assert error.met is False


@pytest.mark.parametrize("error", [0.6, float("nan")])
def test_a_wrong_contender_is_not_timed(error: float) -> None:
    with pytest.raises(Wrong, match=r"toy: posezoo is off by"):
        run_case(Case("toy", toy, {"ours": error}), quick=False, rounds=1)


@pytest.mark.parametrize(
    ("peak", "target", "met"),
    [
        (104.0, Target("share", 0.05), True),  # 100 of them are the gradient that the caller asked for
        (106.0, Target("share", 0.05), False),
        (60.0, Target("memory", 0.5), True),
        (70.0, Target("memory", 0.5), False),
    ],
)
def test_memory_targets(peak: float, target: Target, met: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {REFERENCE: 120.0, OURS: peak}
    monkeypatch.setattr(report, "peak_extra_mb", lambda _prepare, _small, full: peaks[full[1]])

    def make(quick: bool) -> Bench:
        bench = toy(quick)
        return Bench(bench.calls, bench.errors, bench.tolerance, base_mb=100.0, own_mb=100.0)

    case = Case("toy", make, {}, (target,), memory=True, timed=False)
    assert [row.met for row in run_case(case, quick=False, rounds=1)] == [None, met]


def test_rates_and_seconds_need_no_reference() -> None:
    def make(quick: bool) -> Bench:
        return Bench({OURS: lambda: sum(range(1000))}, lambda: {OURS: 0.0}, {OURS: 0.0}, items=10)

    targets = (Target("rate", 1.0), Target("seconds", 1e-9))
    rows = run_case(Case("toy", make, {}, targets), quick=False, rounds=1)
    assert [(row.measure, row.met) for row in rows] == [("rate", True), ("time", False), ("error", None)]


def test_the_report_names_machine_versions_threads_and_load() -> None:
    env = environment()
    line = environment_line(env)
    for word in (torch.__version__, "load", "1 thread", core.processor(), "GPU"):
        assert word in line
    runs = [env | {"load": 1.5, "copy_gb_per_s": 9.0}, env | {"load": 0.5, "copy_gb_per_s": 9.0}]
    (merged,) = environment_lines(runs)
    assert "load 0.5 to 1.5" in merged
    assert "memory copy 9.0 GB/s" in merged
    assert len(environment_lines([*runs, env | {"torch": "1.0"}])) == 2
    rows = [Row("toy", "time", REFERENCE, 4000.0, 2.0, "ms", 2000.0, (1.0, 3000.0), "≥ 2x", True)]
    assert "| toy | time | 4,000 ms | 2 ms | 2000.00x [1.00..3000.00] | ≥ 2x | yes |" in markdown(rows)
    assert json.loads(json.dumps(as_json(rows, env, 3, False)))["rows"][0]["met"] is True


def test_the_command_prints_writes_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = Case("toy", toy, {}, (Target("speed", 1e6),))
    monkeypatch.setattr(command, "find_cases", lambda _names: [missed])
    out = tmp_path / "out.json"
    assert command.main(["toy", "--rounds", "1", "--json", str(out)]) == 0
    assert command.main(["toy", "--rounds", "1", "--check"]) == 1
    assert "1 of 1 targets missed" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"][0]["met"] is False


def test_earlier_runs_are_shown_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for at, path in enumerate(files):
        rows = [Row(f"toy-{at}", "time", REFERENCE, 4.0, 2.0, "ms", 2.0, (1.0, 3.0), "≥ 3x", False)]
        path.write_text(json.dumps(as_json(rows, environment(), 3, False)))
    assert command.main(["--show", *map(str, files)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("| met? |") == 1
    assert shown.count("| ≥ 3x | **no** |") == 2


def test_a_mistyped_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["soft_argmux"]) == 2
    error = capsys.readouterr().err
    assert "unknown benchmark 'soft_argmux'" in error
    assert "soft_argmax" in error


def test_cases_are_found_by_hot_spot() -> None:
    assert [case.name for case in find_cases(["triplets", "pa_mpjpe/10k"])] == ["triplets/batch-32", "pa_mpjpe/10k"]
    assert {name.partition("/")[0] for name in known_cases()} == set(cases.MODULES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in known_cases()]
)
def test_every_contender_is_right(name: str) -> None:
    case = known_cases()[name]
    bench = case.build(quick=True)
    assert set(checked(case, bench)) == set(bench.calls)
    assert OURS in bench.calls


def test_no_threads_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["triplets", "--threads", "0"]) == 2
    assert "--threads must be at least 1, got 0." in capsys.readouterr().err
