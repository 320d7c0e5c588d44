"""MATLAB's files: as scipy reads them, in both versions, and damaged."""

import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bad_input_helpers import survive
from numpy.typing import NDArray
from scipy.io import loadmat, savemat

from posezoo.data.mat import decode_mat, read_mat
from posezoo.errors import PoseZooError


def cells(*values: Any) -> NDArray[np.object_]:
    row = np.empty((1, len(values)), object)
    for place, value in enumerate(values):
        row[0, place] = value
    return row


CONTENT: dict[str, Any] = {
    "doubles": np.arange(24.0).reshape(2, 3, 4) - 0.5,
    "whole": np.arange(6.0).reshape(2, 3),  # numbers that MATLAB stores in one byte each
    "small": np.array([[1, -2]], np.int16),
    "flags": np.array([[True, False]]),
    "empty": np.zeros((0, 3)),
    "text": "S1 Seq1",
    "cells": cells(np.ones((2, 2)), np.ones((2, 2)), "name", cells(np.array([[7.0]]))),
    "person": {"joints": np.ones((2, 3)), "name": "x", "inner": {"z": np.array([[3.0]])}},
    "people": np.array([({"a": 1},), ({"a": 2},)], dtype=[("one", object)]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_everything_is_read_as_scipy_reads_it(compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "some.mat"
    savemat(path, CONTENT, do_compression=compressed)
    read, known = read_mat(path), loadmat(path)
    for name in ("doubles", "whole", "small", "flags", "empty"):
        np.testing.assert_array_equal(read[name], known[name])
        assert read[name].dtype == known[name].dtype
    assert read["text"] == "S1 Seq1"
    assert read["cells"].shape == (1, 4)
    np.testing.assert_array_equal(read["cells"][0, 1], np.ones((2, 2)))
    assert read["cells"][0, 2] == "name"
    assert read["cells"][0, 3][0, 0].item() == 7
    assert read["person"]["name"] == "x"
    assert read["person"]["inner"]["z"].item() == 3
    assert [entry["one"]["a"].item() for entry in read["people"].ravel()] == [1, 2]


def test_only_what_is_asked_for_is_decoded(tmp_path: Path) -> None:
    savemat(tmp_path / "some.mat", CONTENT)
    read = read_mat(tmp_path / "some.mat", ["text"])
    assert read["text"] == "S1 Seq1"
    assert read["doubles"] is None
    with pytest.raises(PoseZooError, match=r"some\.mat holds doubles, .*, not 'annot': unpack it again\."):
        read_mat(tmp_path / "some.mat", ["annot"], "unpack it again")


def test_a_file_of_the_other_byte_order() -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    array = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 1, 2)) + element(1, b"x")
    array += element(9, struct.pack(">dd", 1.5, -2))
    content = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, array)
    np.testing.assert_array_equal(decode_mat(content)["x"], [[1.5, -2]])


def test_version_7_3_has_the_same_shapes(tmp_path: Path) -> None:
    """MATLAB counts dimensions from the other end than HDF5, and puts 512 bytes of text in front."""
    path = tmp_path / "new.mat"
    table = np.arange(24.0).reshape(2, 3, 4)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["annot"] = table.T
        file["word"] = np.array([[ord(letter)] for letter in "hip"], np.uint16)
        file["word"].attrs["MATLAB_class"] = np.bytes_("char")
        file["nothing"] = np.array([0, 0], np.uint64)
        file["nothing"].attrs["MATLAB_empty"] = np.uint8(1)
        kept = file.create_group("#refs#")
        kept["a"], kept["b"] = np.ones((2, 1)), np.zeros((1, 1))
        file["cells"] = np.array([[kept["a"].ref], [kept["b"].ref]], h5py.ref_dtype)
        file.create_group("person")["x"] = np.array([[5.0]])
    read = read_mat(path)
    np.testing.assert_array_equal(read["annot"], table)
    assert read["word"] == "hip"
    assert read["nothing"].shape == (0, 0)
    assert [cell.shape for cell in read["cells"].ravel()] == [(1, 2), (1, 1)]
    assert read["cells"].shape == (1, 2)
    assert read["person"]["x"].item() == 5
    assert "#refs#" not in read


def test_sizes_that_a_file_only_claims_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "greedy.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("annot", (2**40,), "f8", chunks=(2**16,), compression="gzip")
    with pytest.raises(PoseZooError, match="states more values than it has"):
        read_mat(path)


@pytest.mark.parametrize("content", [b"", b"nothing", b"MATLAB 5.0" * 20, b"\x89HDF\r\n\x1a\n" + b"\0" * 100])
def test_what_is_no_such_file_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.mat"
    path.write_bytes(content)
    with pytest.raises(PoseZooError, match=r"some\.mat cannot be read \(.*\): get it again\.") as error:
        read_mat(path)
    assert "\n" not in str(error.value)
    with pytest.raises(PoseZooError, match="There is no file"):
        read_mat(tmp_path / "none.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_of_version_5(compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "some.mat"
    savemat(path, CONTENT, do_compression=compressed)
    assert survive(path, 1000, lambda: read_mat(path)) > 300


def test_damaged_files_of_version_7_3(tmp_path: Path) -> None:
    path = tmp_path / "new.mat"
    with h5py.File(path, "w") as file:
        file["annot"] = np.ones((4, 1, 17, 3))
        file.create_dataset("packed", data=np.arange(500.0), compression="gzip")
    assert survive(path, 1000, lambda: read_mat(path)) > 100
