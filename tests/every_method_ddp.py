"""Every method on two ranks, in one go, because start-up is what costs; started by models/test_every_method.py.

torchrun --nproc_per_node 2 tests/every_method_ddp.py FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from ddp_checks import OneSided as OneSided  # rank 1 trains without 3D labels; found by name on the command line
from ddp_checks import spread
from method_runs import data, methods, options, trainer
from tests_cli_helpers import log_to
from torch import Tensor

from posezoo.__main__ import main

PEOPLE = 5  # not divisible by the ranks


class Ranks(pl.Callback):
    """Writes how far the two ranks are apart: buffers before a validation, everything in it, weights at the end."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.gaps: dict[str, float] = {}

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.gaps["buffers_before"] = spread(joined(pl_module.buffers()))

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.gaps["validated"] = spread(joined(pl_module.state_dict().values()))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.gaps["weights"] = spread(joined(pl_module.parameters()))
        if trainer.is_global_zero:
            Path(self.path).write_text(json.dumps(self.gaps))


def joined(tensors: Any) -> Tensor:
    """All numbers in one vector."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def run(folder: Path) -> None:
    """Each method: two steps and a validation, then a test of the checkpoint."""
    for name in methods():
        words = options(name, folder, f"{name}-fit", PEOPLE, devices=2)
        words = [word.replace("=SyntheticPeople", "=OneSided") for word in words]
        ranks = ["--trainer.callbacks+=Ranks", f"--trainer.callbacks.path={folder / f'{name}.json'}"]
        assert not main(["fit", *words, "--trainer.max_steps=2", "--trainer.max_epochs=-1", *ranks])
        checkpoint = f"--ckpt_path={folder / f'{name}-fit' / 'checkpoints' / 'last.ckpt'}"
        alone = [*data(name, PEOPLE, batch=1), *trainer(devices=2), *log_to(folder, f"{name}-test")]
        assert not main(["test", checkpoint, *alone])
    dist.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]))
