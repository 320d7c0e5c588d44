"""Running cases and telling about them: rows, a Markdown table, JSON."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.cases import OURS, Bench, Case, Target, checked, prepare_call
from benchmarks.core import Apart, Timing, clock_of, interleave, peak_extra_mb, product_rate

UNMEASURED = {
    "large frames with region decode, >= 4.5x": "no kept library decodes a region faster: libvips (pyvips-binary 8.18) "
    "skips rows, but needs 7.4 ms at 1/4 where simplejpeg decodes all in 6.6; PyTurboJPEG needs a library that "
    "its wheel does not bring; nvImageCodec's decoder for CPUs asks for a GPU's driver",
    "OpenVINO at 9x to 14x": "needs a processor with AMX; `inference/effnetv2s-openvino-*` is without",
    "GPU kernels, images/s, FLOP utilisation": "needs a GPU: `python -m benchmarks.gpu` on a machine with one",
}


@dataclass(frozen=True)
class Row:
    """One measurement: time, memory or error of ours beside one reference."""

    case: str
    measure: str
    versus: str
    reference: float | None
    posezoo: float
    unit: str
    ratio: float | None = None
    ratio_range: tuple[float, float] | None = None
    target: str = ""
    met: bool | None = None
    ceiling: float | None = None  # of the ratio: ours as fast as its products alone
    out_of_reach: bool = False  # the target is above the ceiling


def run_case(case: Case, quick: bool, rounds: int, threads: int = 1) -> list[Row]:
    """Errors first, then time, then memory, which is always that of one thread.

    Raises:
        Wrong: A contender fails its accuracy check; nothing is timed then.
    """
    errors = checked(case, case.build(quick or case.quick_check))
    bench = case.build(quick)
    rows = list(_error_rows(case, errors))
    if case.timed:
        timing = _timing(case, bench, min(rounds, case.most_rounds), threads, quick)
        rows = [*_time_rows(case, bench, timing), *rows]
    if case.memory and threads == 1:
        small, full = True, quick
        peaks = {
            name: peak_extra_mb(prepare_call, (case.name, name, small), (case.name, name, full)) for name in bench.calls
        }
        rows += _memory_rows(case, bench, peaks)
    # Small inputs say nothing about speed and memory.
    return [replace(row, met=None) if quick and row.measure != "error" else row for row in rows]


def _timing(case: Case, bench: Bench, rounds: int, threads: int, quick: bool) -> Timing:
    if not case.apart or quick:
        return interleave(bench.calls, rounds, clock_of(threads))
    apart = {
        name: Apart(prepare_call, (case.name, name, quick, threads), threads, name in case.keep_heap)
        for name in bench.calls
    }
    try:
        return interleave(apart, rounds)
    finally:
        for process in apart.values():
            process.close()


def _time_rows(case: Case, bench: Bench, timing: Timing) -> Iterator[Row]:
    ours = timing.median(OURS)
    least = None if bench.flops is None else bench.flops() / product_rate(bench.dtype) / 1e9
    for other in _others(bench):
        ratio, low, high = timing.ratio(other, OURS)
        targets = [t for t in case.targets if t.what == "speed" and t.against == other]
        told = _verdict(targets, lambda t, r=ratio: r >= t.limit, "≥ {:.3g}x")
        ceiling = None if least is None else timing.median(other) / least
        times = 1e3 * timing.median(other), 1e3 * ours
        beyond = ceiling is not None and any(target.limit > ceiling for target in targets)
        yield Row(case.name, "time", other, *times, "ms", ratio, (low, high), *told, ceiling, beyond)
    for target in case.targets:
        if target.what == "rate":
            rate = bench.items / ours
            yield Row(case.name, "rate", "", None, rate, "/s", target=f"≥ {target.limit:g}/s", met=rate >= target.limit)
        if target.what == "seconds":
            met = ours <= target.limit
            yield Row(case.name, "time", "", None, 1e3 * ours, "ms", target=f"≤ {1e3 * target.limit:g} ms", met=met)
    if not _others(bench) and not any(t.what in ("rate", "seconds") for t in case.targets):
        yield Row(case.name, "rate", "", None, bench.items / ours, "/s")


def _error_rows(case: Case, errors: dict[str, float]) -> Iterator[Row]:
    targets = [t for t in case.targets if t.what == "error"]
    told = _verdict(targets, lambda t: errors[OURS] <= t.limit, f"≤ {{:g}} {case.unit}".strip())
    for other in [name for name in errors if name != OURS] or [""]:
        yield Row(case.name, "error", other, errors.get(other), errors[OURS], case.unit, None, None, *told)
        told = ("", None)  # it does not depend on the other contender: say it once


def _memory_rows(case: Case, bench: Bench, peaks: dict[str, float]) -> Iterator[Row]:
    shares = [t for t in case.targets if t.what == "share"]
    beyond = max(0.0, peaks[OURS] - bench.own_mb) / bench.base_mb if bench.base_mb else 0.0
    for other in _others(bench):
        ratios = [t for t in case.targets if t.what == "memory" and t.against == other]
        told = _verdict(ratios, lambda t, o=other: peaks[OURS] <= t.limit * peaks[o], "≤ {:.3g} of the reference's")
        if shares:
            told = _verdict(shares, lambda t: beyond <= t.limit, "≤ {:.0%} of the volume")
        ratio = peaks[other] / max(peaks[OURS], 1e-3)
        yield Row(case.name, "extra memory", other, peaks[other], peaks[OURS], "MB", ratio, None, *told)


def _others(bench: Bench) -> list[str]:
    return [name for name in bench.calls if name != OURS]


def _verdict(targets: list[Target], met: Callable[[Target], bool], text: str) -> tuple[str, bool | None]:
    if not targets:
        return "", None
    return text.format(targets[0].limit), met(targets[0])


VARYING = ("copy_gb_per_s", "float32_gflops", "bfloat16_gflops", "load")  # from run to run on one machine


def environment_lines(environments: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each machine, with the range of what varied between its runs."""
    machines: dict[str, list[dict[str, Any]]] = {}
    for env in environments:
        machines.setdefault(environment_line(env | dict.fromkeys(VARYING, "")), []).append(env)
    return [
        environment_line(runs[0] | {key: _range([run[key] for run in runs]) for key in VARYING})
        for runs in machines.values()
    ]


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def environment_line(env: dict[str, Any]) -> str:
    """What the numbers belong to, in one line."""
    return (
        f"{env['processor']}, {env['cores']} cores, {env['cpu_capability']}, memory copy {env['copy_gb_per_s']} GB/s, "
        f"products {env['float32_gflops']} GFLOP/s in float32, {env['bfloat16_gflops']} in bfloat16; "
        f"{_threads(env['threads'])}, load {env['load']}; Python {env['python']}, torch {env['torch']}, "
        f"numpy {env['numpy']}, OpenCV {env['cv2']}, posezoo {env['posezoo']}; GPU {env['gpu']}"
    )


def _threads(count: int) -> str:
    return "1 thread, CPU time" if count == 1 else f"{count} threads, wall-clock time"


def markdown(rows: Iterable[Row]) -> str:
    """The table: case, reference, posezoo, ratio, target, met?"""
    lines = [
        "| case | measure | reference | posezoo | ratio [min..max] | target | met? |",
        "|---|---|--:|--:|--:|---|---|",
    ]
    return "\n".join([*lines, *map(_line, rows)])


def _line(row: Row) -> str:
    reference = "–" if row.reference is None else _number(row.reference, row.unit)
    if row.versus not in ("", "reference"):
        reference += f" ({row.versus})"
    ratio = "–" if row.ratio is None else f"{row.ratio:.2f}x"
    if row.ratio_range:
        ratio += " [{:.2f}..{:.2f}]".format(*row.ratio_range)
    met = {None: "–", True: "yes", False: "**no**"}[row.met]
    if row.ceiling is not None:
        ratio += f", at most {row.ceiling:.2f}x"
    cells = [row.case, row.measure, reference, _number(row.posezoo, row.unit), ratio, row.target or "–", met]
    return f"| {' | '.join(cells)} |"


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}".strip() if value >= 1000 else f"{value:.3g} {unit}".strip()


def summary(rows: list[Row], environments: Iterable[dict[str, Any]]) -> str:
    """Environment, table and what is missing, in Markdown."""
    judged = [row for row in rows if row.met is not None]
    parts = [
        *environment_lines(environments),
        markdown(rows),
        f"{sum(row.met is False for row in judged)} of {len(judged)} targets missed{_out_of_reach(judged)}.",
        "Not measured:",
        "\n".join(f"- {what}: {why}" for what, why in UNMEASURED.items()),
    ]
    return "\n\n".join(parts)


def _out_of_reach(rows: list[Row]) -> str:
    """How many targets are missed even by an implementation that does nothing but multiply."""
    count = sum(row.met is False and row.out_of_reach for row in rows)
    return f", {count} of them out of this processor's reach" if count else ""


def from_json(found: dict[str, Any]) -> list[Row]:
    """The rows of `as_json`."""
    return [Row(**row | {"ratio_range": row["ratio_range"] and tuple(row["ratio_range"])}) for row in found["rows"]]


def as_json(rows: Iterable[Row], env: dict[str, Any], rounds: int, quick: bool) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "environment": env,
        "rounds": rounds,
        "quick": quick,
        "clock": _threads(env["threads"]),
        "rows": [asdict(row) for row in rows],
        "unmeasured": UNMEASURED,
    }
