"""Print all there is to know about trained weights: what they are, licence, data, commands, scores, where they lie."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.fetch import HUB_PREFIX
from posezoo.zoo import CONFIG_FILE, Weights, catalogue, local_folder, locate, read_config

_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo describe` takes."""
    parser.add_argument("weights", help="a name of `posezoo list weights`, a hub id, a folder or a .ckpt")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    rows = description(args.weights)
    print(json.dumps(rows, indent=2, ensure_ascii=False) if args.json else _format(rows))
    return 0


def description(name: str) -> dict[str, Any]:
    """Facts about weights, by title. Needs torch for checkpoints only, and downloads nothing but from the hub.

    Raises:
        PoseZooError: There is no such thing, or it is damaged.
    """
    known = catalogue()
    if name in known:
        return _of_entry(known[name])
    path = Path(name).expanduser()
    if name.startswith(HUB_PREFIX) or path.exists():
        path = locate(name)
        return _of_folder(path) if path.is_dir() else _of_checkpoint(path)
    raise PoseZooError(f"unknown weights '{name}': {did_you_mean(name, known)} Folders and .ckpt files work too.")


def _of_entry(entry: Weights) -> dict[str, Any]:
    folder = local_folder(entry)
    rows: dict[str, Any] = {
        "name": entry.name,
        "note": entry.note,
        "architecture": entry.architecture,
        "parameters": entry.parameters,
        "skeleton": entry.skeleton,
        "preprocessing": entry.preprocessing,
        "licence": entry.licence,
        "trained on": entry.data,
        "recipe": entry.recipe,
        "trained with": entry.command,
        "file": f"{entry.size / 2**20:.1f} MiB from {entry.source}",
        "on this machine": str(folder) if folder else f"not yet: type `posezoo download {entry.name}`",
        f"SHA-256 of {CONFIG_FILE}": entry.sha256,
    }
    rows["scores"] = [vars(row) | {"values": dict(row.values)} for row in entry.metrics]
    return {key: value for key, value in rows.items() if value not in ("", None)}


def _of_folder(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    card = dict(config.get("card") or {})
    scores = card.pop("metrics", [])
    rows = {"folder": str(folder), "class": config["class_path"], **card, "stored as": config.get("dtype", "float32")}
    rows["arguments"] = config["init_args"]
    return rows | {"scores": [{key: row[key] for key in ("on", "command", "values")} for row in scores]}


def _of_checkpoint(path: Path) -> dict[str, Any]:
    from posezoo.models.base import estimator_class, read_checkpoint

    checkpoint = read_checkpoint(path)
    cls = estimator_class(checkpoint, path)
    hparams = {k: v for k, v in checkpoint.get("hyper_parameters", {}).items() if not k.startswith("_")}
    data = checkpoint.get("posezoo_data") or {}
    return {
        "checkpoint": str(path),
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "steps": checkpoint.get("global_step"),
        "trained on": data.get("class_path"),
        "arguments": hparams,
    }


def _format(rows: dict[str, Any]) -> str:
    lines = []
    for title, value in rows.items():
        if title == "scores":
            lines += [line for row in value for line in _score_lines(row)] or ["scores: not measured"]
        elif isinstance(value, dict):
            words = ", ".join(f"{key}={json.dumps(item, ensure_ascii=False)}" for key, item in value.items())
            lines.append(_wrapped(title, words))
        else:
            shown = f"{value:,}" if title == "parameters" and isinstance(value, int) else str(value)
            lines.append(_wrapped(title, shown))
    return "\n".join(lines)


def _score_lines(row: dict[str, Any]) -> list[str]:
    values = ", ".join(f"{name} {value:g}" for name, value in row["values"].items())
    return [_wrapped("scores on", row["on"]), f"  {values}", f"  measured with: {row['command']}"]


def _wrapped(title: str, text: str) -> str:
    if "`" in text or len(text) < _WIDTH - len(title):
        return f"{title}: {text}"
    return textwrap.fill(f"{title}: {text}", _WIDTH, subsequent_indent="  ", break_long_words=False)
