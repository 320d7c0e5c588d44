"""Freed memory that stays: fewer page faults, and the user's own settings first."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from posezoo.heap import keep_freed_memory

# Page faults of ten tensors of 64 MB, one after the other, once the heap has grown.
FAULTS = """
import resource, sys, torch
from posezoo.heap import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
for _ in range(20):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[int, int]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS, how]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    kept, count = out.split()
    return int(kept), int(count)


def test_a_step_gets_the_memory_of_the_last_one() -> None:
    kept, few = faults("keep")
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert few < 0.1 * faults("leave")[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072")],
)
def test_the_users_own_settings_go_first(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(ctypes, "CDLL", lambda library: pytest.fail("the heap was changed"))
    assert not keep_freed_memory()


def test_an_older_library_gets_the_largest_threshold_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    taken: dict[int, int] = {}

    def mallopt(option: int, value: int) -> int:
        if option == -3 and value > 32 << 20:  # the limit of mallopt(3)
            return 0
        taken[option] = value
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda library: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory()
    assert taken == {-3: 32 << 20, -1: 2**31 - 1}
