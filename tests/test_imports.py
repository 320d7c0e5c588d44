"""What must answer at once does, without torch; and every mistake of a user is one sentence."""

import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

import posezoo
from posezoo import __main__ as entry
from posezoo.__main__ import LIGHTNING, main
from posezoo.commands import COMMANDS
from posezoo.errors import PoseZooError, did_you_mean

HEAVY = ("torch", "pytorch_lightning", "torchmetrics", "torchvision", "timm", "cv2", "matplotlib", "wandb")

QUICK = {
    "import posezoo": "import posezoo",
    "public names without torch": "import posezoo; posezoo.list_weights('*'); dir(posezoo)",
    "skeletons": "import posezoo.skeletons",
    "viz": "import posezoo.viz.draw2d, posezoo.viz.draw3d",
    **{
        " ".join(args): f"from posezoo.__main__ import main; assert main({args!r}) == 0"
        for args in (["--version"], ["--help"], ["list"], ["list", "methods"], ["recipes"])
    },
}


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Heavy modules that each snippet has loaded, every one in a fresh interpreter, all started together."""
    report = f"import json, sys; print('@' + json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", f"{code}\n{report}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONSAFEPATH": "1"},
        )
        for name, code in QUICK.items()
    }
    outcomes = {name: process.communicate(timeout=60) for name, process in processes.items()}
    for name, process in processes.items():
        assert process.returncode == 0, f"{name}: {outcomes[name][1]}"
    return {name: json.loads(out.rpartition("@")[2]) for name, (out, _) in outcomes.items()}


@pytest.mark.parametrize("name", QUICK)
def test_quick_answers_load_nothing_heavy(loaded: dict[str, list[str]], name: str) -> None:
    assert loaded[name] == []


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"posezoo {posezoo.__version__}\n"


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == [*LIGHTNING, *COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists(name: str) -> None:
    module, summary = COMMANDS[name]
    assert find_spec(module), f"{module} is registered but not written"
    assert summary
    assert len(summary) < 75


def test_every_command_module_is_registered() -> None:
    from posezoo import commands

    modules = {f"posezoo.commands.{module.name}" for module in pkgutil.iter_modules(commands.__path__)}
    assert modules <= {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize("name", [n for n, (module, _) in COMMANDS.items() if find_spec(module)])
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: posezoo {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["lsit"], "unknown command 'lsit': did you mean list"),
        (["trian"], "unknown command 'trian'"),
        (["show_batch"], "did you mean show-batch"),
        (["--config", "x"], "the command comes before options such as '--config'"),
        (["list", "wieghts"], "there is no list of 'wieghts': did you mean weights"),
        (["list", "--foo"], "unrecognized arguments: --foo; type `posezoo list --help`"),
        (["infer", "--wieghts", "x"], "unrecognized arguments: --wieghts (did you mean --weights); type `pos"),
        (["recipes", "no such recipe"], "there is no recipe 'no such recipe'"),
    ],
)
def test_a_mistake_is_one_sentence(args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("posezoo: error: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_a_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSEZOO_TRACEBACK", "1")
    with pytest.raises(PoseZooError, match="unknown command"):
        main(["nothing"])


@pytest.mark.parametrize("name", LIGHTNING)
def test_training_commands_go_to_the_cli_with_all_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    stub = type(sys)("posezoo.cli")
    stub.main = lambda args: seen.append(args)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "posezoo.cli", stub)
    monkeypatch.setattr(posezoo, "cli", stub, raising=False)

    assert not main([name, "-c", "metrabs/demo_synthetic", "--help"])

    assert seen == [[name, "-c", "metrabs/demo_synthetic", "--help"]]


def test_the_process_arguments_are_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["posezoo", "--version"])
    assert entry.main() == 0
    assert "posezoo" in capsys.readouterr().out


def test_list_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for word in ("Methods", "MeTRAbs", "Datasets", "SyntheticPeople", "Skeletons", "hemlets18", "Weights"):
        assert word in out
    assert main(["list", "skeletons"]) == 0
    only = capsys.readouterr().out
    assert "mupots17         17 joints, root pelvis; another name of mpi_inf_3dhp_17" in only
    assert "MeTRAbs" not in only


@pytest.mark.parametrize(
    ("table", "package", "base"),
    [("METHODS", "models", "PoseEstimator"), ("DATASETS", "data", "PoseDataModule")],
)
def test_the_static_tables_name_the_classes_that_exist(table: str, package: str, base: str) -> None:
    """`posezoo list` must not import torch, so its tables are written down; this keeps them true."""
    listed = getattr(import_module("posezoo.commands.list"), table)
    module = import_module(f"posezoo.{package}")
    parent = getattr(module, base, None)
    if parent is None:
        pytest.skip(f"posezoo.{package} does not export {base} yet")
    found = {name for name in dir(module) if _is_concrete(getattr(module, name), parent)}
    assert set(listed) == found


def _is_concrete(candidate: object, parent: type) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, parent) and candidate is not parent


def test_the_environment_report_names_versions_devices_and_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in [v for v in os.environ if v.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(variable)
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert f"posezoo                 {posezoo.__version__} in " in out
    for word in ("torch ", "pytorch-lightning", "cpu", "SLURM                   not detected"):
        assert word in out


def test_the_environment_report_warns_of_a_slurm_job_without_srun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert "srun posezoo fit" in out


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'posezoo' has no attribute 'laod'"):
        posezoo.laod  # noqa: B018
    assert {"load_model", "list_weights", "__version__"} <= set(dir(posezoo))


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("lst", ["list", "env"], "did you mean list?"),
        ("DEMO", ["metrabs/demo", "trainer/x"], "did you mean metrabs/demo?"),
        ("zzz", ["list", "env"], "choose from list, env."),
        ("zzz", [], "there are none yet."),
    ],
)
def test_nearest_names(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected
