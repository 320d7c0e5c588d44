"""Speed and memory of posezoo beside the reference formulations, measured in turn in one process."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Before any library makes its pool of threads.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}

from benchmarks.cases import Case, Wrong, find_cases, known_cases
from benchmarks.core import environment
from benchmarks.report import Row, as_json, from_json, run_case, summary


def main(argv: list[str] | None = None) -> int:
    """Run benchmarks; 1 where a contender is wrong (or, with --check, a target is missed), 2 for a mistyped name."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        print("\n".join(known_cases()))
        return 0
    if arguments.show:
        runs = [json.loads(path.read_text()) for path in arguments.show]
        print(summary([row for run in runs for row in from_json(run)], [run["environment"] for run in runs]))
        return 0
    try:
        cases = find_cases(arguments.case)
    except KeyError as error:
        hot_spots = ", ".join(dict.fromkeys(name.partition("/")[0] for name in known_cases()))
        print(f"benchmarks: error: unknown benchmark '{error.args[0]}': choose from {hot_spots}.", file=sys.stderr)
        return 2
    if arguments.threads < 1:
        print(f"benchmarks: error: --threads must be at least 1, got {arguments.threads}.", file=sys.stderr)
        return 2
    _set_threads(arguments.threads)
    rounds = arguments.rounds or (3 if arguments.quick else 9)
    env = environment()
    if arguments.threads > 1:  # memory is that of one thread
        cases = [case for case in cases if case.timed]
    measure = partial(run_case, quick=arguments.quick, rounds=rounds, threads=arguments.threads)
    rows, wrong = _run(cases, measure, lambda found: _write(arguments, found, env, rounds))
    print(summary(rows, [env]))
    missed = any(row.met is False for row in rows)
    return int(wrong or (arguments.check and missed))


def _write(arguments: argparse.Namespace, rows: list[Row], env: dict[str, Any], rounds: int) -> None:
    """After every case: a run that is stopped leaves what it has measured."""
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(rows, env, rounds, arguments.quick), indent=1) + "\n")


def _run(
    cases: list[Case], measure: Callable[[Case], list[Row]], keep: Callable[[list[Row]], None]
) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    wrong = False
    for case in cases:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        try:
            rows += measure(case)
            keep(rows)
        except Wrong as error:
            print(f"benchmarks: error: not timed: {error}", file=sys.stderr)
            wrong = True
    return rows, wrong


def _set_threads(count: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("case", nargs="*", help="hot spots or cases, e.g. soft_argmax; all when left out")
    parser.add_argument("--list", action="store_true", help="print the names of all cases and stop")
    parser.add_argument("--quick", action="store_true", help="small inputs: shows that everything runs, not how fast")
    parser.add_argument("--rounds", type=int, help="9, or 3 with --quick; slow cases take fewer")
    parser.add_argument(
        "--threads", type=int, default=1, help="1, which counts CPU time; with more it is wall-clock time"
    )
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--show", type=Path, nargs="+", help="print the results of such files instead of measuring")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
