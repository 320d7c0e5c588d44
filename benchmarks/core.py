"""How things are measured: all contenders in turn in one process, memory in a fresh one.

Time is CPU time of this process and of the children it has waited for, at one thread: on a machine that others use
too, wall-clock ratios swing by a factor of ten, ratios of CPU time within one round by a quarter. With more threads it
is wall-clock time, for an idle machine.
"""

import json
import os
import pickle
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHORTEST = 0.02  # seconds: faster contenders are repeated within a round, for the sake of the clock
_COPY_BYTES = 64 * 2**20


def clock_of(threads: int) -> Callable[[], float]:
    """What is read before and after a call: CPU time for one thread, the time on the wall for more."""
    return cpu_seconds if threads == 1 else time.perf_counter


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, by contender: one entry per round, in the order of the rounds."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """Median, least and largest of the ratios of each round."""
        ratios = [a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


class Apart:
    """A call in a process of its own, which starts when it is first timed and ends with `close`.

    So contenders do not share a heap: what one has freed is no gift to the next.

    Args:
        prepare: Module-level function that makes the call.
        arguments: Of `prepare`; all of it is pickled by name.
        threads: What the clock depends on.
        keep_heap: Keep freed memory with the process, as `posezoo fit` does; otherwise the C library decides.
    """

    def __init__(
        self, prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], threads: int, keep_heap: bool
    ) -> None:
        self._task = pickle.dumps((prepare, arguments, threads, keep_heap))
        self._process: subprocess.Popen[bytes] | None = None

    def seconds(self, repeats: int) -> float:
        """Seconds of one call, by the clock of its process."""
        if self._process is None:
            environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
            command = [sys.executable, "-m", "benchmarks.core", "serve"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment
            )
            self._write(self._task)
        self._write(f"{repeats}\n".encode())
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"A benchmark's process ended with {self._process.wait()}; its error is above.")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _write(self, content: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(content)
        self._process.stdin.flush()


def _serve() -> None:
    """The other end of `Apart`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed is no answer
    prepare, arguments, threads, keep_heap = pickle.load(sys.stdin.buffer)
    if keep_heap:
        from posezoo.heap import keep_freed_memory

        keep_freed_memory()
    call, clock = prepare(*arguments), clock_of(threads)
    for line in sys.stdin.buffer:
        print(_seconds(call, int(line), clock), file=answers, flush=True)


def interleave(
    contenders: Mapping[str, Callable[[], Any] | Apart],
    rounds: int,
    clock: Callable[[], float] = cpu_seconds,
    seed: int = 0,
) -> Timing:
    """Run every contender once per round, in random order, after one round to warm up."""
    repeats = {name: _repeats(call, clock) for name, call in contenders.items()}
    order, draw = list(contenders), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            seconds[name].append(_seconds(contenders[name], repeats[name], clock))
    return Timing(seconds)


def _seconds(call: Callable[[], Any] | Apart, repeats: int, clock: Callable[[], float]) -> float:
    if isinstance(call, Apart):
        return call.seconds(repeats)
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def _repeats(call: Callable[[], Any] | Apart, clock: Callable[[], float]) -> int:
    once = _seconds(call, 1, clock)
    if once < 1:  # the first call of all is not a fair measure of a fast one
        once = _seconds(call, 1, clock)
    return max(1, round(SHORTEST / max(once, 1e-6))) if once < SHORTEST else 1


def peak_extra_mb(prepare: Callable[..., Callable[[], Any]], small: tuple[Any, ...], full: tuple[Any, ...]) -> float:
    """MB that a call adds to what its process holds, at their highest.

    A fresh process calls `prepare(*small)()` first, so that libraries are loaded, then `prepare(*full)`, and measures
    the call of what that returns. All of it is pickled by name.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.core"],
        input=pickle.dumps((prepare, small, full)),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        # Freed memory must go back at once: otherwise the measured call lives in what its preparation left behind.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def _measure_peak(prepare: Callable[..., Callable[[], Any]], small: tuple[Any, ...], full: tuple[Any, ...]) -> float:
    prepare(*small)()
    call = prepare(*full)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return (peak - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def copy_rate(repeats: int = 3) -> float:
    """GB copied per second between two buffers too large for any cache: what to compare machines by."""
    import numpy as np

    source, target = np.ones(_COPY_BYTES, np.uint8), np.zeros(_COPY_BYTES, np.uint8)
    seconds = [_seconds(lambda: np.copyto(target, source), 1, time.process_time) for _ in range(repeats)]
    return _COPY_BYTES / min(seconds) / 1e9


@lru_cache(maxsize=4)
def product_rate(dtype: str, rounds: int = 9) -> float:
    """GFLOP per second of the products in convolutions, at their best: 3x3 of 256 channels, 64 x 64, channels last.

    With as many threads as PyTorch has now. Nothing that is made of products gets past it.
    """
    import torch

    with torch.no_grad():
        conv = torch.nn.Conv2d(256, 256, 3, padding=1).to(getattr(torch, dtype), memory_format=torch.channels_last)
        image = torch.randn(4, 256, 64, 64).to(conv.weight.dtype, memory_format=torch.channels_last)
        clock = clock_of(torch.get_num_threads())
        best = min(_seconds(lambda: conv(image), 1, clock) for _ in range(rounds))
    return 2 * image.numel() * 256 * 9 / best / 1e9


def processor() -> str:
    """The processor's name, and its family and model, since a virtual machine often tells no more than the maker."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in told:
        return platform.processor() or platform.machine()
    numbers = [f"{word} {told[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in told]
    return f"{told['model name']}" + (f" ({' '.join(numbers)})" if numbers else "")


def environment() -> dict[str, Any]:
    """Machine, versions, threads and load, as they are now."""
    import cv2
    import numpy as np
    import torch

    import posezoo

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "copy_gb_per_s": round(copy_rate(), 1),
        "float32_gflops": round(product_rate("float32")),
        "bfloat16_gflops": round(product_rate("bfloat16")),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cv2": cv2.__version__,
        "posezoo": posezoo.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none: GPU paths are unmeasured",
    }


if __name__ == "__main__" and sys.argv[1:] == ["serve"]:
    _serve()
elif __name__ == "__main__":
    print(json.dumps(_measure_peak(*pickle.loads(sys.stdin.buffer.read()))))
