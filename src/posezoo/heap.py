"""What training on a CPU asks of the C library's heap."""

import ctypes
import os

_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGE, _ENDLESS = 1 << 30, 2**31 - 1  # bytes


def keep_freed_memory() -> bool:
    """Let memory that a training step has freed stay with the process, for the next step.

    By default glibc hands large blocks back to the system, which clears every page of them before the next step gets
    it again: up to a fifth of a step's time. Variables of the environment with which the user has set this go first.

    Returns:
        Whether it was done; False where they are set, and with other C libraries.
    """
    if any(name in os.environ for name in _VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # macOS, Windows, musl
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _ENDLESS))
