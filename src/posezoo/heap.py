"""What training on a CPU asks of the C library's heap."""

import ctypes
import os

_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_TUNABLES = ("glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold")  # the same, in one variable for all
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGE, _ENDLESS = (1 << 30, 1 << 25), 2**31 - 1  # bytes; mallopt(3) promises 32 MiB, newer versions take more


def keep_freed_memory() -> bool:
    """Let memory that a training step has freed stay with the process, for the next step.

    By default glibc hands large blocks back to the system, which clears every page of them before the next step gets
    it again: up to a fifth of a step's time. Variables of the environment with which the user has set this go first.

    Returns:
        Whether it was done; False where they are set, and with other C libraries.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(name in os.environ for name in _VARIABLES) or any(name in tunables for name in _TUNABLES):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # macOS, Windows, musl
        return False
    return any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGE) and bool(mallopt(_TRIM_THRESHOLD, _ENDLESS))
