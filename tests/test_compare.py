"""`posezoo compare`: runs that differ in seeds alone are one kind; numbers made differently are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from posezoo.__main__ import main
from posezoo.commands.compare import table, verdict


def make(folder: Path, mpjpe: float, seed: int, control: str, split: str = "val", **more: Any) -> Path:
    """A run folder as posezoo writes it, in short."""
    folder.mkdir(parents=True)
    model = {"class_path": "posezoo.models.PartAware", "init_args": {"control": control, "control_seed": seed}}
    config = {
        "seed_everything": seed,
        "model": model,
        "data": {"class_path": "posezoo.data.SyntheticPeople", "init_args": {"root": str(folder), "num_workers": seed}},
        "trainer": {"max_steps": 10, "logger": {"init_args": {"version": folder.name}}},
    } | more.get("config", {})
    name = {"val": "config.yaml", "test": "test.yaml"}[split]
    (folder / name).write_text(yaml.safe_dump(config))
    scores = {"protocol": more.get("protocol", "people, n=5"), "metrics": {"mpjpe": mpjpe, "pck": 50.0}}
    (folder / "metrics.json").write_text(json.dumps({split: scores}))
    return folder


def rows_of(text: str) -> dict[str, list[str]]:
    """Cells of each row by its first one; the last cell may hold single spaces."""
    lines = [line.split("  ") for line in text.splitlines() if "  " in line]
    return {cells[0]: [cell.strip() for cell in cells[1:] if cell.strip()] for cells in lines}


def test_runs_are_grouped_over_their_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / f"s{n}", value, n, "none") for n, value in enumerate((100.0, 104.0, 102.0))]
    runs += [make(tmp_path / f"p{n}", value, n, "permuted") for n, value in enumerate((110.0, 114.0))]
    runs += [make(tmp_path / "r0", 103.0, 0, "random")]
    assert main(["compare", *map(str, runs)]) == 0

    text = capsys.readouterr().out
    assert text.startswith("mpjpe, val: people, n=5")
    rows = rows_of(text)
    assert rows["kind"] == ["runs", "mean [mm]", "std [mm]", "min [mm]", "max [mm]", "difference [mm]"]
    assert rows["model.control none"] == ["3", "102.0", "2.0", "100.0", "104.0", "-"]
    # sqrt((2^2 + 2.83^2) / 2) = 2.45, and 10 / 2.45 = 4.1
    assert rows["model.control permuted"] == ["2", "112.0", "2.8", "110.0", "114.0", "+10.0 (4.1 std)"]
    assert rows["model.control random"][1:3] == ["103.0", "-"]
    assert "one run says nothing" in rows["model.control random"][-1]


def test_a_test_counts_for_the_fit_that_it_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = []
    for seed, control in ((0, "none"), (1, "none"), (0, "random"), (1, "random")):
        fit = make(tmp_path / "fits" / f"{control}{seed}", 0.0, seed, control)
        settled = {
            "ckpt_path": str(fit / "checkpoints" / "best.ckpt"),
            "model": {"init_args": {"genotype": {"a": seed}}},
        }
        mpjpe = 100.0 + seed
        tests.append(make(tmp_path / f"{control}{seed}", mpjpe, seed, control, "test", config=settled))
    assert main(["compare", *map(str, tests)]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert {name for name in rows if name != "kind"} == {"model.control none", "model.control random"}
    assert rows["model.control random"][-1] == "+0.0 (nothing: within 2 std)"


def test_one_option_may_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longer = {"trainer": {"max_steps": 20}}
    runs = [make(tmp_path / "a", 100.0, 0, "none"), make(tmp_path / "b", 101.0, 1, "none", config=longer)]
    assert main(["compare", *map(str, runs)]) == 0
    assert {"trainer.max_steps 10", "trainer.max_steps 20"} <= {*rows_of(capsys.readouterr().out)}
    assert main(["compare", *map(str, runs), "--by", "control", "--metric", "pck"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["kind"][1] == "mean [%]"
    assert rows["model.control none"][:2] == ["2", "50.0"]


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make(tmp_path / "good", 100.0, 0, "none")
    other = make(tmp_path / "other", 100.0, 0, "none", protocol="people, n=6")
    broken = make(tmp_path / "broken", 100.0, 0, "none")
    (broken / "metrics.json").write_text("{")
    bare = make(tmp_path / "bare", 100.0, 0, "none")
    (bare / "config.yaml").unlink()
    for words, sentence in (
        ([good, other], "were scored differently"),
        ([tmp_path / "none"], "give run folders"),
        ([broken], "is not JSON"),
        ([bare], "has no config.yaml"),
        ([good, "--metric=mpjp"], "did you mean mpjpe"),
        ([good, "--by=contrl"], "did you mean model.control"),
        ([good, "--split=test"], "has no scores of 'test'"),
    ):
        assert main(["compare", *map(str, words)]) == 2
        message = capsys.readouterr().err
        assert sentence in message
        assert message.count("\n") == 1


def test_equal_runs_have_no_spread() -> None:
    assert verdict([1.0, 1.0], [1.0, 1.0]) == "+0.0 (nothing: within 2 std)"
    assert verdict([1.0, 1.0], [2.0, 2.0]) == "+1.0 (no spread)"
    assert "kind" in table({})
