"""Release folders: from a checkpoint to weights that can be found, trusted and loaded anywhere.

A release holds what `save_model` writes, golden outputs (crops with the poses that belong to them, so that every
installation can prove that it computes the same), a model card, and an entry for the catalogue.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, cast

import torch
from torch import Tensor

from posezoo.disk import disk_errors, replace_file
from posezoo.errors import PoseZooError
from posezoo.fetch import sha256
from posezoo.models.base import PoseEstimator, read_checkpoint
from posezoo.structures import Batch
from posezoo.zoo import (
    CARD_FILE,
    CONFIG_FILE,
    GOLDEN_FILE,
    WEIGHTS_FILE,
    StoredType,
    Weights,
    check_file,
    load_model,
    read_config,
    save_model,
    write_config,
)

GOLDEN_MM, GOLDEN_PX = 1.0, 0.05  # how far another machine's arithmetic may be from the golden outputs
_GOLDEN_COUNT, _GOLDEN_FRAME = 2, 256
BUNDLE_LIMIT = 8 * 2**20  # bytes of a folder that goes into the wheel

_CARD = Template("""\
# $name

$note

| | |
|---|---|
| architecture | $architecture |
| parameters | $parameters, stored as $dtype: $megabytes MiB |
| skeleton | $skeleton |
| input | $preprocessing |
| output | joints in the camera frame in mm (x right, y down, z forward), pixels, scores in 0..1; $root_depth |
| licence of the weights | $licence |

## Use

```
posezoo infer photo.jpg --weights $name
posezoo test --weights $name
posezoo fit -c RECIPE --weights $name      # fine-tune, on another skeleton too
posezoo export $name --format onnx --out $name.onnx
```

```python
import posezoo

model = posezoo.load_model("$name")
```

## Training

- Data: $data
- Length: $trained
- Recipe: `$recipe`
- Command: `$command`

## Results

$results

## Where it fails

$limits
""")


@dataclass
class Facts:
    """What a release says about itself; None is taken from the checkpoint, or from the release that is renewed.

    Attributes:
        name: `method_backbone.data_v1`.
        licence: SPDX name of the licence of the weights.
        data: What they were trained on, in words.
        command: What was typed to train them.
        recipe: Name of the recipe.
        trained: How long, in words.
        note: One or two sentences at the top of the card: what these weights are, and are not.
        limits: Where they fail.
        metrics: metrics.json files of `posezoo test` or `validate` with these weights.
        measured_with: Command for those of them whose folder does not tell.
    """

    name: str | None = None
    licence: str | None = None
    data: str | None = None
    command: str | None = None
    recipe: str | None = None
    trained: str | None = None
    note: str | None = None
    limits: str | None = None
    metrics: Sequence[Path] = field(default_factory=tuple)
    measured_with: str | None = None


def release(source: Path, out: Path, facts: Facts, dtype: StoredType = "float16") -> Weights:
    """Write a release folder, or renew the card and the scores of one.

    Args:
        source: A run's `.ckpt`, or a release folder: its weights and golden outputs stay as they are.
        out: Where it goes; the folder itself to renew it.
        facts: What it says about itself.
        dtype: How weights are stored.

    Returns:
        Its catalogue entry; `source` of it is `weights/NAME`, the place of a bundled one.

    Raises:
        PoseZooError: Something needed is not known, or a file cannot be read or written.
    """
    renewed = source.is_dir()
    known = dict(read_config(source).get("card") or {}) if renewed else _facts_of_run(source)
    card = _merged(known, facts)
    card["metrics"] = [row for path in facts.metrics for row in measurements(path, facts.measured_with)] or known.get(
        "metrics", []
    )
    estimator = load_model(source)
    card |= describe_estimator(estimator)
    if renewed and source.resolve() == out.resolve():
        document = read_config(out)
        check_file(out / WEIGHTS_FILE, document)
        write_config(out, document | {"card": card})
    else:
        data = read_config(source).get("data") if renewed else read_checkpoint(source).get("posezoo_data")
        save_model(estimator, out, dtype, data, card)
        write_golden(out)
    replace_file(out / CARD_FILE, lambda path: path.write_text(model_card(out), encoding="utf-8"))
    return entry_of(out, f"weights/{card['name']}")


def _facts_of_run(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint and the run folder around it tell."""
    content = read_checkpoint(checkpoint)
    known: dict[str, Any] = {"trained": f"{content.get('global_step', 0)} steps"}
    command = _command_of(checkpoint.parent.parent)
    return known | ({"command": command} if command else {})


def _command_of(run: Path) -> str | None:
    file = run / "environment.json"
    if not file.is_file():
        return None
    command = json.loads(file.read_text(encoding="utf-8")).get("command")
    return str(command) if command else None


def _merged(known: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    card = {"note": "", "limits": "Not studied.", "recipe": "-"} | dict(known)
    names = ("name", "licence", "data", "command", "recipe", "trained", "note", "limits")
    card |= {key: value for key in names if (value := getattr(facts, key)) is not None}
    for key in ("name", "licence", "data", "command"):
        if not card.get(key):
            raise PoseZooError(f"a release says its {key}: add --{key} TEXT.")
    if not _is_name(card["name"]):
        raise PoseZooError(f"names of weights are method_backbone.data_v1, got '{card['name']}'.")
    return card


def _is_name(name: str) -> bool:
    architecture, dot, run = name.partition(".")
    words = [architecture.replace("_", ""), run.replace("_", "")]
    return bool(dot) and "_" in architecture and all(word.isalnum() and word == word.lower() for word in words)


def describe_estimator(estimator: PoseEstimator) -> dict[str, Any]:
    """What the model itself tells."""
    hparams: Mapping[str, Any] = estimator.hparams
    method, size = type(estimator).__name__, estimator.image_size
    where = {"annotation": "of the person", "pelvis_2000mm": "of 2 m around the true pelvis"}[estimator.box]
    depth = hparams.get("root_depth")
    return {
        "architecture": f"{method}, {hparams.get('backbone', '-')} at {size} px, stride {hparams.get('stride', '-')}",
        "parameters": sum(p.numel() for p in estimator.parameters()),
        "skeleton": estimator.skeleton.name,
        "preprocessing": f"RGB uint8 crop of {size} x {size} px, {estimator.crop} camera, box {where}",
        "root_depth": "absolute" if depth is None else f"distance to the camera from {str(depth).replace('_', ' ')}",
    }


def measurements(path: Path, command: str | None = None) -> list[dict[str, Any]]:
    """The scores in a metrics.json, as rows of a catalogue entry.

    Args:
        path: Written by `posezoo test` or `validate`.
        command: What was typed, where the folder does not tell.

    Raises:
        PoseZooError: It is not such a file, or nobody says how it was measured.
    """
    try:
        with disk_errors(path, "read"):
            content = json.loads(path.read_text(encoding="utf-8"))
        stages = {stage: content[stage] for stage in ("test", "val") if stage in content}
        told = _command_of(path.parent) or command
        rows = [row for result in stages.values() for row in _rows(result, told)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PoseZooError(f"{path} is not a metrics.json of posezoo: give one that `posezoo test` wrote.") from error
    if not rows:
        raise PoseZooError(f"{path} holds no scores of test or validate: type `posezoo test --weights ...` first.")
    if any(row["command"] is None for row in rows):
        raise PoseZooError(f"{path} does not tell how it was measured: add --measured-with COMMAND.")
    return rows


def _rows(result: Mapping[str, Any], command: str | None) -> list[dict[str, Any]]:
    """The scores of one stage: each published protocol, then all joints over frames."""
    common = {"command": command, "distance": result["root_depth_source"]}
    rows = [
        {
            "on": f"{name} ({found['definition']}), n={result['samples']}",
            "values": _known(found["titles"], found["metrics"]),
            "mean_pose": _known(found["titles"], found["mean_pose"] or {}),
        }
        for name, found in result.get("protocols", {}).items()
    ]
    same = ", ".join(result.get("protocols", {}))
    where = f"all joints over the frames of {same}" if same else result["protocol"]
    rows.append(
        {
            "on": where if "n=" in where else f"{where}, n={result['samples']}",
            "values": _titled(result["metrics"]),
            "mean_pose": _titled(result.get("mean_pose") or {}),
        }
    )
    return [common | row for row in rows]


def _titled(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Scores under the names that people know, with their units."""
    from posezoo.metrics.titles import METRICS

    return _known({key: f"{title} ({unit})" for key, (title, unit, _) in METRICS.items()}, metrics)


def _known(titles: Mapping[str, str], metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {titles[key]: round(value, 3) for key, value in metrics.items() if value is not None}


# ------------------------------------------------------------------------------------------------- golden outputs


def probe_batch(estimator: PoseEstimator, count: int = _GOLDEN_COUNT) -> Batch:
    """Rendered people as this model wants them: the first of SyntheticPeople's test split; labels withheld."""
    from posezoo.data import SyntheticPeople

    data = SyntheticPeople(
        preset="full",
        test_length=count,
        frame_size=_GOLDEN_FRAME,
        batch_size=count,
        num_workers=0,
        skeleton=estimator.skeleton.name,
        image_size=estimator.image_size,
        crop=estimator.crop,
        box=estimator.box,
    )
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    if estimator.box != "pelvis_2000mm":  # which takes the depth range from the label
        for key in ("joints3d", "joints2d", "valid3d", "valid2d"):
            batch[key] = torch.zeros_like(batch[key])
    return cast(Batch, batch)


def write_golden(folder: Path) -> None:
    """Add golden outputs to a folder of weights: made by what is stored there, not by what it was made from."""
    from safetensors.torch import save_file

    estimator = load_model(folder)
    batch = probe_batch(estimator)
    tensors = {f"batch.{key}": cast(Tensor, value).contiguous() for key, value in batch.items()}
    tensors |= {key: value.contiguous() for key, value in _outputs(estimator, batch).items()}
    replace_file(folder / GOLDEN_FILE, lambda path: save_file(tensors, path))
    write_config(folder, read_config(folder) | {"golden_sha256": sha256(folder / GOLDEN_FILE)})


def check_golden(folder: Path, estimator: PoseEstimator | None = None) -> tuple[float, float]:
    """Largest difference between golden outputs and what this machine computes: (mm, px).

    Args:
        folder: A release.
        estimator: Loaded from it; None loads it.

    Raises:
        PoseZooError: The folder has none, they are damaged, or the difference is more than rounding.
    """
    from safetensors.torch import load_file

    config, file = read_config(folder), folder / GOLDEN_FILE
    if not file.is_file():
        raise PoseZooError(f"{folder} has no {GOLDEN_FILE}: it was not made by `posezoo release`.")
    check_file(file, config, "golden_")
    golden = load_file(file)
    batch = {key.removeprefix("batch."): value for key, value in golden.items() if key.startswith("batch.")}
    found = _outputs(estimator or load_model(folder), cast(Batch, batch))
    mm = float((found["joints3d"] - golden["joints3d"]).norm(dim=-1).max())
    px = float((found["joints2d"] - golden["joints2d"]).norm(dim=-1).max())
    if not (mm <= GOLDEN_MM and px <= GOLDEN_PX):
        raise PoseZooError(
            f"{folder} does not compute its golden outputs here (off by {mm:.2f} mm and {px:.3f} px): this posezoo or "
            "its PyTorch computes something else than the one that released it."
        )
    return mm, px


def _outputs(estimator: PoseEstimator, batch: Batch) -> dict[str, Tensor]:
    with torch.no_grad():
        found = estimator.predict_step(batch, 0)
    return {"joints3d": found.joints3d, "joints2d": found.joints2d, "scores": found.scores}


# -------------------------------------------------------------------------------------------- card and catalogue


def model_card(folder: Path) -> str:
    """The README.md of a release, from its `model.json`."""
    config = read_config(folder)
    card = config["card"]
    words = {
        **card,
        "note": card["note"] or "Weights of posezoo.",
        "parameters": f"{card['parameters'] / 1e6:.2f} M",
        "dtype": config["dtype"],
        "megabytes": f"{config['size'] / 2**20:.1f}",
        "trained": card.get("trained") or "not recorded",
        "results": _results(card.get("metrics") or []),
    }
    return _CARD.substitute(words)


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Not measured yet."
    from posezoo.callbacks.score_table import format_score

    blocks = []
    for row in rows:
        baseline = row.get("mean_pose") or {}
        table = "\n".join(
            f"| {name} | {format_score(value)} | {format_score(baseline.get(name))} |"
            for name, value in row["values"].items()
        )
        distance = f"\n\nDistance to the camera: {row['distance']}." if row.get("distance") else ""
        blocks.append(
            f"{row['on']}{distance}\n\n| metric | model | mean pose |\n|---|---|---|\n{table}\n\n"
            f"Measured with `{row['command']}`."
        )
    return "\n\n".join(blocks)


def entry_of(folder: Path, source: str) -> Weights:
    """The catalogue entry of a release folder.

    Args:
        folder: Where it lies now.
        source: Where users find it: relative to the package, a URL, or a hub id with revision.
    """
    from posezoo.zoo import Measurement

    config = read_config(folder)
    card = config["card"]
    rows = [Measurement(row["on"], row["command"], row["values"]) for row in card.get("metrics") or []]
    words = ("name", "architecture", "parameters", "skeleton", "preprocessing", "recipe", "data", "licence", "command")
    return Weights(
        **{key: card[key] for key in words},
        source=source,
        sha256=sha256(folder / CONFIG_FILE),
        size=config["size"],
        note=card["note"],
        metrics=tuple(rows),
    )


def entry_toml(entry: Weights) -> str:
    """A catalogue entry as the text of zoo.toml."""
    lines = ["[[weights]]"]
    for key, value in vars(entry).items():
        if key == "metrics":
            continue
        lines.append(f"{key} = {value if isinstance(value, int) else json.dumps(value, ensure_ascii=False)}")
    for row in entry.metrics:
        values = ", ".join(f"{json.dumps(name)} = {float(value)}" for name, value in row.values.items())
        lines += ["", "[[weights.metrics]]", f"on = {json.dumps(row.on, ensure_ascii=False)}"]
        lines += [f"command = {json.dumps(row.command, ensure_ascii=False)}", f"values = {{ {values} }}"]
    return "\n".join(lines) + "\n"


def register(entry: Weights, catalogue: Path) -> None:
    """Put an entry into a zoo.toml, in place of one with the same name; everything else there stays.

    Raises:
        PoseZooError: The file cannot be read or written.
    """
    with disk_errors(catalogue, "read"):
        text = catalogue.read_text(encoding="utf-8") if catalogue.exists() else ""
    head, *tables = ("\n" + text).split("\n[[weights]]\n")
    kept = [table for table in tables if f"name = {json.dumps(entry.name)}\n" not in table.partition("\n\n")[0] + "\n"]
    blocks = [head.strip("\n"), *(f"[[weights]]\n{table.strip()}" for table in kept), entry_toml(entry).strip()]
    content = "\n\n".join(block for block in blocks if block) + "\n"
    replace_file(catalogue, lambda path: path.write_text(content, encoding="utf-8"))
