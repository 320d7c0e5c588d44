"""Images per CPU-second of the procedural renderer, beside a memory-copy yardstick of the same machine.

    OMP_NUM_THREADS=1 python benchmarks/bench_renderer.py [--images 60] [--preset easy --preset full] [--size 256]

CPU time of one process, so that a busy machine blurs the numbers only through its caches. Compare machines by the
ratio of images/s to GB/s, not by images/s.
"""

import argparse
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from posezoo.data.synthetic import GENERATOR_VERSION, PRESETS, render_sample

_WARM_UP = 3
_COPY_BYTES = 256 * 2**20


def images_per_second(preset: str, size: int, images: int) -> float:
    """Rendering rate over samples 0..images-1 of the training split, per CPU-second."""
    for index in range(_WARM_UP):
        render_sample(index, size=size, preset=preset)
    start = time.process_time()
    for index in range(images):
        render_sample(index, size=size, preset=preset)
    return images / (time.process_time() - start)


def copy_rate(repeats: int = 5) -> float:
    """GB copied per CPU-second between two buffers too large for any cache (best of `repeats`)."""
    source, target = np.ones(_COPY_BYTES, np.uint8), np.zeros(_COPY_BYTES, np.uint8)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        np.copyto(target, source)
        seconds.append(time.process_time() - start)
    return _COPY_BYTES / min(seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="samples per cell")
    parser.add_argument("--preset", action="append", choices=list(PRESETS), help="all when left out")
    parser.add_argument("--size", action="append", type=int, help="64, 128 and 256 when left out")
    arguments = parser.parse_args()
    sizes = arguments.size or [64, 128, 256]
    table = Table(title=f"Images per CPU-second, generator version {GENERATOR_VERSION}")
    table.add_column("preset")
    for size in sizes:
        table.add_column(f"{size} px", justify="right")
    for preset in arguments.preset or PRESETS:
        rates = [images_per_second(preset, size, arguments.images) for size in sizes]
        table.add_row(preset, *(f"{rate:.0f}" for rate in rates))
    console = Console()
    console.print(table)
    console.print(f"memory copy: {copy_rate():.1f} GB/s")


if __name__ == "__main__":
    main()
