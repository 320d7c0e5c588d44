"""Every command of docs/training_at_scale.md is one that posezoo understands."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from posezoo.__main__ import main

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "training_at_scale.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
# What the shell or an earlier run would fill in; which checkpoint is found is tested elsewhere.
FILLED = {'"$save_dir"': "runs", "$resume": "", "--ckpt_path last": "", "runs/version_3/config.yaml": "trainer/ddp"}


def commands() -> list[str]:
    """Arguments of every `posezoo fit` of the page, also behind torchrun and srun."""
    found = []
    for block in BLOCKS:
        for line in block.replace("\\\n", " ").splitlines():
            text = re.sub(r"\s+#.*", "", line)
            _, fit, rest = text.partition("posezoo fit ")
            if fit:
                for word, value in FILLED.items():
                    rest = rest.replace(word, value)
                found.append(re.sub(r"--ckpt_path \S+", "", rest).strip())
    return found


def test_the_page_has_commands_of_both_launchers() -> None:
    assert len(commands()) >= 7
    assert any("srun posezoo fit" in block for block in BLOCKS)
    assert any("torchrun" in block for block in BLOCKS)


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_page_is_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = [] if line.startswith("-c ") and "trainer/ddp" not in line.split()[1] else ["-c", "metrabs/demo_synthetic"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *base, *shlex.split(line), "--print_config=skip_default"])
    assert stop.value.code in (0, None)
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"].endswith("MeTRAbs")
    for option, value in re.findall(r"--trainer\.(devices|num_nodes)=(\d+)", line):
        assert str(config["trainer"].get(option, 1)) == value


def test_the_batch_script_is_valid_shell() -> None:
    (script,) = (block for block in BLOCKS if block.startswith("#!/bin/bash"))
    result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
