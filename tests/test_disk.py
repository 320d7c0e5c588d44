"""Files that are written whole or not at all, with the permissions that the user gives to new files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from posezoo.disk import replace_file, replaced
from posezoo.errors import PoseZooError


@pytest.fixture(params=[0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_permissions_are_those_of_any_new_file(umask: int, tmp_path: Path) -> None:
    target = replace_file(tmp_path / "new" / "a.json", lambda file: file.write_text("{}"))
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask
    assert target.read_text() == "{}"


def test_private_files_of_a_writer_get_them_too(umask: int, tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2)}
    target = replace_file(tmp_path / "a.safetensors", lambda file: save_file(tensors, file))
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask
    torch.testing.assert_close(load_file(target), tensors)


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replaced(target) as file:
        file.write_text(str(1 // 0))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_the_disk_complains_about_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PoseZooError, match=r"cannot write .*file.*: make room"):
        replace_file(tmp_path / "file" / "a.txt", lambda file: file.write_text("new"))
