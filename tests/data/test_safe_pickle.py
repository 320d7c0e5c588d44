"""Pickles of arrays, from any Python and numpy; and those that want more."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input_helpers import mutants
from pickle_helpers import Attack, python2

from posezoo.data.safe_pickle import read_object_npz, read_pickle
from posezoo.errors import PoseZooError

CONTENT: dict[str, Any] = {
    "sequence": "outdoors_00",
    "genders": ["m", "f"],
    "poses": [np.arange(6.0).reshape(2, 3), np.zeros((0, 72), np.float32)],
    "valid": np.array([True, False]),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "number": np.float64(1.5),
    "nested": ({"a": None, 3: [1.5, 2**70]},),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5, "python 2"])
def test_arrays_and_containers_come_back(protocol: Any, tmp_path: Path) -> None:
    content = python2(CONTENT) if protocol == "python 2" else pickle.dumps(CONTENT, protocol=protocol)
    if protocol == "python 2":
        assert b"numpy.core.multiarray" in content
        assert b"_codecs" not in content
    (tmp_path / "a.pkl").write_bytes(content)
    assert same(read_pickle(tmp_path / "a.pkl", ""), CONTENT)


ATTACKS: dict[str, tuple[Any, str]] = {
    "a shell": (Attack(os.system, "touch executed"), "system"),
    "a builtin": (Attack(eval, "open('executed', 'w')"), "eval"),
    "a module": (Attack(__import__, "os"), "__import__"),
    "numpy's own door": (Attack(np.load, "executed"), "load"),
    "an object array": (np.array([Attack(os.system, "touch executed")], dtype=object), "system"),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_in_one_sentence(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attack, word = ATTACKS[name]
    content = {"poses": np.zeros(3), "more": [attack]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(
        PoseZooError, match=rf"a\.pkl asks for .*\.{word}, which arrays do not need, .*: get another\.$"
    ):
        read_pickle(tmp_path / "a.pkl", "get another")
    np.savez(tmp_path / "a.npz", poses=np.array(content, dtype=object))
    with pytest.raises(PoseZooError, match=rf"a\.npz asks for .*\.{word}"):
        read_object_npz(tmp_path / "a.npz", "poses", "get another")
    assert not (tmp_path / "executed").exists()


def test_a_protocol_of_stack_global_and_instances_is_no_way_around(tmp_path: Path) -> None:
    for content in (b"(ios\nsystem\nS'touch executed'\n.", b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"cos\nsystem\n."):
        (tmp_path / "a.pkl").write_bytes(content)
        with pytest.raises(PoseZooError, match=r"asks for os\.system"):
            read_pickle(tmp_path / "a.pkl", "get another")


def test_what_a_pickle_finds_cannot_be_changed(tmp_path: Path) -> None:
    """BUILD gives attributes to what it finds on the stack; the next file must not see them."""
    (tmp_path / "a.pkl").write_bytes(b"cnumpy.core.numeric\n_frombuffer\n}S'mark'\nI1\nsb.")
    (tmp_path / "b.pkl").write_bytes(b"cnumpy.core.numeric\n_frombuffer\n.")
    assert read_pickle(tmp_path / "a.pkl", "").mark == 1
    assert not hasattr(read_pickle(tmp_path / "b.pkl", ""), "mark")


def test_arrays_that_share_and_contain_each_other(tmp_path: Path) -> None:
    shared = np.arange(3.0)
    outer = np.empty(2, dtype=object)
    outer[:] = [shared, [shared, {"again": outer.shape}]]
    loop: list[Any] = [shared]
    loop.append(loop)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": shared, "b": (shared, outer), "loop": loop}))
    found = read_pickle(tmp_path / "a.pkl", "")
    for array in (found["a"], found["b"][0], found["b"][1][0], found["b"][1][1][0], found["loop"][0]):
        assert array is found["a"]
    assert np.array_equal(found["a"], shared)
    assert found["loop"][1] is found["loop"]


@pytest.mark.parametrize("array", [np.zeros(2, [("x", "f4")]), np.array(["2020-01-01"], "M8[D]"), np.zeros(1, complex)])
def test_unusual_arrays_are_an_ordinary_error(array: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(array))
    with pytest.raises(ValueError, match="an array of "):
        read_pickle(tmp_path / "a.pkl", "")


@pytest.mark.parametrize("value", [CONTENT, [1, 2]])
def test_objects_in_npz_files(value: Any, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.array(value, dtype=object), plain=np.arange(3))
    found = read_object_npz(tmp_path / "a.npz", "x", "")
    assert same(found.tolist() if isinstance(found, np.ndarray) else found, value)
    assert np.array_equal(read_object_npz(tmp_path / "a.npz", "plain", ""), np.arange(3))


@pytest.mark.parametrize("protocol", [2, 5])
def test_damaged_files_end_with_an_ordinary_error(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    failed = 0
    for _ in mutants(path, 1000, seed=3):
        try:
            read_pickle(path, "")
        except Exception:
            failed += 1
    assert failed > 300
