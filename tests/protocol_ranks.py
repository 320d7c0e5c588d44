"""The runs of `protocol_runs.py` on two ranks, in one go: started with torchrun, because start-up is what costs.

torchrun --nproc_per_node 2 tests/protocol_ranks.py FOLDER
"""

import sys
from pathlib import Path

from protocol_runs import RUNS, words
from tests_cli_helpers import log_to

from posezoo.__main__ import main


def run(folder: Path) -> None:
    """All runs; the checkpoints are there."""
    for name, (skeleton, (data, *options)) in RUNS.items():
        path = folder / f"{skeleton}.ckpt"
        assert not main([*words(path, data, *options, devices=2), *log_to(folder, f"two-{name}")])


if __name__ == "__main__":
    run(Path(sys.argv[1]))
