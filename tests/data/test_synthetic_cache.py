"""Caches: the same samples, whole or not there at all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from posezoo.data.synthetic import build_cache, cache, cache_name, open_cache, render_sample

REQUEST = {"split": "val", "length": 10, "size": 32, "preset": "easy", "progress": False}


def test_cache_holds_the_rendered_samples(tmp_path: Path) -> None:
    images, labels = open_cache(build_cache(tmp_path, **REQUEST))

    assert isinstance(images, np.memmap)
    assert images.shape == (10, 32, 32, 3)
    for index in (0, 9):
        sample = render_sample(index, "val", size=32)
        np.testing.assert_array_equal(images[index], sample.image)
        for name in ("joints3d", "joints2d", "visibility", "boxes", "pose_class", "stature"):
            np.testing.assert_array_equal(labels[name][index], getattr(sample, name)[0])
        for name in ("intrinsics", "rotation", "translation"):
            np.testing.assert_array_equal(labels[name][index], getattr(sample, name))


def test_finished_cache_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_cache(tmp_path, **REQUEST)
    monkeypatch.setattr(cache, "_render_into", None)

    assert build_cache(tmp_path, **REQUEST) == first


def test_name_tells_what_it_depends_on() -> None:
    request = {"split": "train", "length": 5, "size": 64, "preset": "easy"}
    poses = np.zeros((1, 17, 3), np.float32)
    names = [
        cache_name(**request),
        *(cache_name(**{**request, key: value}) for key, value in (
            ("split", "val"), ("length", 6), ("size", 32), ("preset", "full"), ("seed", 1),
            ("mocap", poses), ("mocap", poses + 1),
        )),
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert names[0].startswith("v1-easy-train-64px-5-seed0-")


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache, "_render_chunk", fail)
        with pytest.raises(KeyboardInterrupt):
            build_cache(tmp_path, **REQUEST)
    assert list(tmp_path.iterdir()) == []

    assert len(open_cache(build_cache(tmp_path, **REQUEST))[0]) == 10


def test_old_leftovers_go_and_young_ones_stay(tmp_path: Path) -> None:
    name = cache_name(split="val", length=10, size=32, preset="easy")
    old, young = tmp_path / f".{name}.dead.partial", tmp_path / f".{name}.busy.partial"
    long_ago = time.time() - 2 * 86400
    for folder in (old, young):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"half")
    os.utime(old / "images.npy", (long_ago, long_ago))
    os.utime(old, (long_ago, long_ago))

    build_cache(tmp_path, **REQUEST)

    assert not old.exists()
    assert young.exists()


def test_incomplete_folder_of_the_right_name_is_replaced(tmp_path: Path) -> None:
    final = tmp_path / cache_name(split="val", length=10, size=32, preset="easy")
    final.mkdir()
    (final / "images.npy").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="No finished cache"):
        open_cache(final)

    assert build_cache(tmp_path, **REQUEST) == final
    assert len(open_cache(final)[0]) == 10


def test_two_builds_at_once(tmp_path: Path) -> None:
    """One in this process, one in another that itself uses two workers; both end with the same whole cache."""
    code = (
        "from posezoo.data.synthetic import build_cache\n"
        "if __name__ == '__main__':\n"
        f"    build_cache({str(tmp_path)!r}, split='val', length=70, size=16, preset='easy', workers=2,\n"
        "                progress=False)\n"
    )
    script = tmp_path / "other.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script)]) as other:
        path = build_cache(tmp_path, **{**REQUEST, "length": 70, "size": 16})
    assert other.returncode == 0

    images, labels = open_cache(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "other.py"])
    for index in (0, 33, 69):
        sample = render_sample(index, "val", size=16)
        np.testing.assert_array_equal(images[index], sample.image)
        np.testing.assert_array_equal(labels["joints3d"][index], sample.joints3d[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"preset": "none"}, "Unknown preset"),
        ({"size": 9999}, "size must"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_cache(tmp_path, **{**REQUEST, **change})


def test_full_disk_is_noticed_before_rendering(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Choose another folder"):
        build_cache(tmp_path, **{**REQUEST, "length": 10**12})
    assert list(tmp_path.iterdir()) == []
