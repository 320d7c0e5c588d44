"""The examples of docs/inference.md run, and its commands are ones that `posezoo infer` takes."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from posezoo import pipeline, zoo
from posezoo.commands import infer
from posezoo.models import MeTRAbs
from posezoo.testing import tiny_estimator

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "inference.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, as a reader types them, with small weights and a photograph of noise."""
    torch.manual_seed(0)
    monkeypatch.setattr(zoo, "load_model", lambda _: tiny_estimator(MeTRAbs))
    monkeypatch.setattr(pipeline, "default_weights", lambda: "any")
    monkeypatch.chdir(tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    cv2.imwrite("photo.jpg", photo)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "docs/inference.md", "exec"), names)
    assert names["overlay"].shape == photo.shape
    assert names["people"][0].suppressed.keys() <= {"implausible", "duplicate"}
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", "people.json", "people.html"}


def test_the_commands_are_ones_that_infer_takes() -> None:
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    commands = re.findall(r"^posezoo infer (.*)$", PAGE, re.M)
    assert len(commands) >= 5
    for command in commands:
        parser.parse_args(shlex.split(command, comments=True))


def test_every_option_of_the_page_exists() -> None:
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings} | {"--count"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= known
