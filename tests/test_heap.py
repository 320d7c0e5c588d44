"""Freed memory that stays: fewer page faults, and the user's own settings first."""

import os
import subprocess
import sys

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


def test_the_users_own_settings_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()
