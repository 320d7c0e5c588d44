"""Compare runs: mean and spread over seeds of each kind of run, and whether the difference means anything.

Runs are of one kind when their configurations agree in all but seeds and places (folders, loader processes). Kinds are
named by the options in which they differ; the first run given is of the kind that the others are compared with.
"""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.metrics.titles import METRICS

SEEDS = ("seed", "seed_everything", "control_seed")
# What changes no score: where files are, how many processes load them, what is printed.
PLACES = ("ckpt_path", "weights_only", "threads", "root", "num_workers", "save_dir", "version", "name", "verbose")
PLACES_BELOW = ("trainer.logger", "trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.enable_model")
CONFIGS = {"val": ("config.yaml", "validate.yaml"), "test": ("test.yaml",)}
MEANT = 2.0  # pooled standard deviations; below, a difference is called nothing


@dataclass
class Run:
    """One run folder.

    Attributes:
        folder: Its path as given.
        options: Its configuration, flat ("model.init_args.control"), without seeds and places.
        protocol: What its scores mean.
        metrics: Its scores.
    """

    folder: Path
    options: dict[str, Any]
    protocol: str
    metrics: dict[str, float | None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo compare` takes."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of `posezoo fit` or `test`")
    parser.add_argument("--metric", default="mpjpe", help="score to compare, as in metrics.json (default: mpjpe)")
    parser.add_argument("--split", choices=("val", "test"), help="default: test where every run has it, else val")
    parser.add_argument(
        "--by", action="append", metavar="OPTION", help="one kind for each value of this option, such as model.control"
    )


def run(args: argparse.Namespace) -> int:
    """Print a row for each kind of run."""
    split = args.split or ("test" if all("test" in _scores(folder) for folder in args.runs) else "val")
    runs = [read_run(folder, split) for folder in args.runs]
    for other in runs[1:]:
        if other.protocol != runs[0].protocol:
            raise PoseZooError(
                f"{runs[0].folder} and {other.folder} were scored differently ('{runs[0].protocol}' and "
                f"'{other.protocol}'), so their numbers cannot be compared: score both with the same data."
            )
    kinds = by_kind(runs, args.by)
    unit = METRICS[args.metric][1] if args.metric in METRICS else ""  # a plug-in's own score names its unit itself
    values = {name: [_value(r, args.metric) for r in members] for name, members in kinds.items()}
    print(f"{args.metric}, {split}: {runs[0].protocol}\n")
    print(table(values, unit))
    return 0


def read_run(folder: Path, split: str) -> Run:
    """A run folder. Of a test, the configuration is that of the fit it tests, where that is still there.

    Raises:
        PoseZooError: No scores of the split, or no configuration.
    """
    scores = _scores(folder)
    if split not in scores:
        raise PoseZooError(f"{folder / 'metrics.json'} has no scores of '{split}': give another --split.")
    found = next((folder / name for name in CONFIGS[split] if (folder / name).is_file()), None)
    if found is None:
        raise PoseZooError(f"{folder} has no {CONFIGS[split][0]}: give run folders as posezoo wrote them.")
    config = _read_yaml(found)
    checkpoint = config.get("ckpt_path")
    origin = Path(checkpoint).parent.parent / "config.yaml" if checkpoint else None
    if split == "test" and origin is not None and origin.is_file():
        config = _read_yaml(origin)
    return Run(folder, dict(_relevant(_flat(config))), str(scores[split]["protocol"]), scores[split]["metrics"])


def by_kind(runs: Sequence[Run], options: Iterable[str] | None = None) -> dict[str, list[Run]]:
    """The runs of each kind, in the order of their first runs; keys say in what kinds differ.

    Args:
        runs: All runs.
        options: Ends of the options that decide; all when None.

    Raises:
        PoseZooError: An option that no run has.
    """
    names = list(dict.fromkeys(name for r in runs for name in r.options))
    if options:
        wanted = [_find(option, names) for option in options]
    else:
        wanted = [name for name in names if len({repr(r.options.get(name)) for r in runs}) > 1]
    kinds: dict[str, list[Run]] = {}
    for member in runs:
        label = ", ".join(f"{_short(name)} {member.options.get(name)}" for name in wanted) or "all"
        kinds.setdefault(label, []).append(member)
    return kinds


def table(values: dict[str, list[float]], unit: str = "") -> str:
    """Mean, standard deviation and range of each kind, and how far it is from the first."""
    of = f" [{unit}]" if unit else ""
    rows = [("kind", "runs", *(f"{name}{of}" for name in ("mean", "std", "min", "max", "difference")))]
    first: list[float] = []
    for name, numbers in values.items():
        spread = f"{stdev(numbers):.1f}" if len(numbers) > 1 else "-"
        against = verdict(first, numbers) if first else "-"
        ends = f"{min(numbers):.1f}", f"{max(numbers):.1f}"
        rows.append((name, str(len(numbers)), f"{fmean(numbers):.1f}", spread, *ends, against))
        first = first or numbers
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:-1], widths[1:-1], strict=True))]
        lines.append("  ".join([*cells, row[-1]]))
    return "\n".join(lines)


def verdict(first: Sequence[float], other: Sequence[float]) -> str:
    """The difference of two means, and how many pooled standard deviations that is."""
    gap = fmean(other) - fmean(first)
    if min(len(first), len(other)) < 2:
        return f"{gap:+.1f} (one run says nothing: give more seeds)"
    pooled = math.sqrt((stdev(first) ** 2 + stdev(other) ** 2) / 2)
    if abs(gap) <= MEANT * pooled:
        return f"{gap:+.1f} (nothing: within {MEANT:g} std)"
    return f"{gap:+.1f} ({abs(gap) / pooled:.1f} std)" if pooled else f"{gap:+.1f} (no spread)"


def _scores(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not path.is_file():
        raise PoseZooError(f"There is no {path}: give run folders of `posezoo fit` or `posezoo test`.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PoseZooError(f"{path} is not JSON ({error}): leave this run out, or score it again.") from error
    return content if isinstance(content, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PoseZooError(f"{path} is not YAML: leave this run out.") from error
    return content if isinstance(content, dict) else {}


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _relevant(options: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    for name, value in options:
        if name.rpartition(".")[2] not in (*SEEDS, *PLACES) and not name.startswith(PLACES_BELOW):
            yield name, value


def _short(name: str) -> str:
    return name.replace("init_args.", "").replace("class_path", "class")


def _find(option: str, names: Sequence[str]) -> str:
    short = {_short(name): name for name in names}
    if option in short:
        return short[option]
    found = [name for end, name in short.items() if end.endswith(f".{option}")]
    if not found:
        raise PoseZooError(f"No run has the option '{option}': {did_you_mean(option, short)}")
    return found[0]


def _value(member: Run, metric: str) -> float:
    value = member.metrics.get(metric)
    if value is None:
        raise PoseZooError(f"{member.folder} has no score '{metric}': {did_you_mean(metric, member.metrics)}")
    return float(value)
